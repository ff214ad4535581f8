//! Selection and order of the tensors of an operation.

use std::cmp::Ordering;

use crate::base::glob::NamePattern;
use crate::base::{Error, Hint, Result, text, units};
use crate::model::{ElemType, Model, TensorInfo};

/// Sort key of tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SortBy {
    /// File order.
    #[default]
    File,
    /// By name, with numbers compared by value.
    Name,
    /// By stored size, largest first; unknown sizes last.
    Size,
    /// By number of elements, largest first.
    Elements,
    /// By type name.
    DType,
}

/// Selection, order and number of listed tensors. The default is all tensors in file order.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    filter: Vec<NamePattern>,
    exclude: Vec<NamePattern>,
    sort: SortBy,
    reverse: bool,
    limit: Option<usize>,
}

impl Selection {
    /// Selects tensors whose name matches any pattern in `filter` (if there are any) and none in `exclude`, and lists at most `limit`.
    ///
    /// # Errors
    /// A pattern is invalid.
    pub fn new(filter: &[String], exclude: &[String], sort: SortBy, reverse: bool, limit: Option<usize>) -> Result<Self> {
        let parse = |patterns: &[String]| patterns.iter().map(|pattern| NamePattern::parse(pattern)).collect::<Result<Vec<_>>>();
        Ok(Self { filter: parse(filter)?, exclude: parse(exclude)?, sort, reverse, limit })
    }

    /// Selects the tensor of this name alone.
    pub fn only(name: &str) -> Self {
        Self { filter: vec![NamePattern::exactly(name)], ..Self::default() }
    }

    /// Whether a tensor of this name is selected.
    pub fn matches(&self, name: &str) -> bool {
        let any = |patterns: &[NamePattern]| patterns.iter().any(|pattern| pattern.matches(name));
        (self.filter.is_empty() || any(&self.filter)) && !any(&self.exclude)
    }

    /// Returns the maximum number of tensors to list. It truncates lists only: totals, verdicts and exit statuses cover the selection.
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(usize::MAX)
    }

    /// Returns the selected tensors, in order.
    pub fn pick<'m>(&self, model: &'m Model) -> Vec<&'m TensorInfo> {
        let traits = |tensor: &TensorInfo| (tensor.len_bytes, tensor.elements().unwrap_or(u64::MAX), tensor.elem);
        self.arrange(model.tensors.iter().collect(), |tensor| &tensor.name, |tensor| traits(tensor))
    }

    /// Returns the selected `items` in order, given their names and sort keys (bytes, elements, type).
    pub fn arrange<T>(&self, mut items: Vec<T>, name: impl Fn(&T) -> &str, traits: impl Fn(&T) -> (Option<u64>, u64, ElemType)) -> Vec<T> {
        items.retain(|item| self.matches(name(item)));
        match self.sort {
            SortBy::File => {}
            SortBy::Name => items.sort_by(|a, b| natural(name(a), name(b))),
            SortBy::Size => items.sort_by_key(|item| std::cmp::Reverse(traits(item).0)),
            SortBy::Elements => items.sort_by_key(|item| std::cmp::Reverse(traits(item).1)),
            SortBy::DType => items.sort_by_key(|item| traits(item).2.to_string()),
        }
        if self.reverse {
            items.reverse();
        }
        items
    }

    /// Returns the error for a selection that matches none of `names`.
    pub fn nothing_selected<'n>(&self, names: impl Iterator<Item = &'n str>) -> Error {
        let names: Vec<&str> = names.collect();
        let quoted =
            |patterns: &[NamePattern]| patterns.iter().map(|pattern| format!("'{}'", pattern.text())).collect::<Vec<_>>().join(" or ");
        let tensors = units::counted(names.len() as u64, "tensor");
        let matched = names.iter().any(|name| self.filter.is_empty() || self.filter.iter().any(|pattern| pattern.matches(name)));
        let message = match matched {
            false => format!("no tensor matches {} ({tensors})", quoted(&self.filter)),
            true => format!("{} excludes every selected tensor ({tensors})", quoted(&self.exclude)),
        };
        match names.first() {
            Some(name) => Error::argument(message)
                .hint(format!("names look like {}; a pattern with * ? [ or {{ must match the whole name", text::shorten(name))),
            None => Error::argument(message),
        }
    }
}

/// Returns the tensor of this name.
///
/// # Errors
/// There is no such tensor.
pub fn tensor_named<'m>(model: &'m Model, name: &str) -> Result<&'m TensorInfo> {
    model.tensor(name).ok_or_else(|| {
        let names = model.tensors.iter().map(|tensor| tensor.name.as_str());
        Error::argument(format!("no tensor named {}", text::shorten(name))).in_file(&model.path).hint(Hint::of_name(
            name,
            names,
            Hint::ListTensors,
        ))
    })
}

/// Compares names with numbers by value: `blk.2` is before `blk.10`.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    // What decides is the first byte that differs, with the digits before it. Long names differ late, so what they share is skipped first.
    let shared = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let start = shared - a[..shared].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (a, b) = (&a[start..], &b[start..]);
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (x, y) = (digits(a), digits(b));
    if x == 0 || y == 0 {
        return a.cmp(b);
    }
    let significant = |number: &[u8]| number.iter().position(|&byte| byte != b'0').unwrap_or(number.len());
    let (number_a, number_b) = (&a[significant(&a[..x])..x], &b[significant(&b[..y])..y]);
    number_a.len().cmp(&number_b.len()).then_with(|| number_a.cmp(number_b)).then(x.cmp(&y)).then_with(|| a[x..].cmp(&b[y..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DType;

    fn model() -> Model {
        let tensor = |name: &str, rows: u64| TensorInfo {
            name: name.into(),
            elem: ElemType::Known(DType::F32),
            shape: vec![rows],
            shard: 0,
            offset_bytes: 0,
            len_bytes: Some(rows * 4),
        };
        Model { tensors: vec![tensor("blk.10.a/b", 1), tensor("blk.2.a", 3), tensor("output", 2)], ..Model::default() }
    }

    fn selection(filter: &[&str], exclude: &[&str], sort: SortBy, reverse: bool) -> Selection {
        let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Selection::new(&strings(filter), &strings(exclude), sort, reverse, Some(1)).unwrap()
    }

    fn picked(filter: &[&str], exclude: &[&str], sort: SortBy, reverse: bool) -> Vec<String> {
        selection(filter, exclude, sort, reverse).pick(&model()).into_iter().map(|tensor| tensor.name.clone()).collect()
    }

    #[test]
    fn exclusion_wins_and_a_limit_selects_nothing_less() {
        assert_eq!(picked(&["blk.*"], &["*.2.*"], SortBy::File, false), ["blk.10.a/b"]);
        assert_eq!(picked(&["output", "blk.{2,3}.*"], &[], SortBy::File, false), ["blk.2.a", "output"]);
        assert_eq!(picked(&["blk"], &["/"], SortBy::File, false), ["blk.2.a"]);
        assert!(Selection::new(&["[".into()], &[], SortBy::File, false, None).is_err());
    }

    #[test]
    fn an_empty_selection_says_which_pattern_did_it() {
        let message = |filter: &[&str], exclude: &[&str]| {
            let model = model();
            let names = model.tensors.iter().map(|tensor| tensor.name.as_str());
            selection(filter, exclude, SortBy::File, false).nothing_selected(names).to_string()
        };
        assert_eq!(message(&["attn_q", "x*"], &[]), "no tensor matches 'attn_q' or 'x*' (3 tensors)");
        assert_eq!(message(&["blk"], &["."]), "'.' excludes every selected tensor (3 tensors)");
    }

    #[test]
    fn orders() {
        assert_eq!(picked(&[], &[], SortBy::Name, false), ["blk.2.a", "blk.10.a/b", "output"]);
        assert_eq!(picked(&[], &[], SortBy::Size, false), ["blk.2.a", "output", "blk.10.a/b"]);
        assert_eq!(picked(&[], &[], SortBy::Size, true), ["blk.10.a/b", "output", "blk.2.a"]);
    }

    #[test]
    fn natural_order_is_total() {
        assert_eq!(natural("a2", "a10"), Ordering::Less);
        assert_eq!(natural("a02", "a2"), Ordering::Greater);
        assert_eq!(natural("a002", "a10"), Ordering::Less, "2 is below 10, whatever zeros stand before it");
        assert_eq!(natural("a0010.b", "a9.c"), Ordering::Greater);
        assert_eq!(natural("a", "a"), Ordering::Equal);
        assert_eq!(natural("a1b", "a1"), Ordering::Greater);
        assert_eq!(natural("b", "a10"), Ordering::Greater);
        assert_eq!(natural("a1.b2.c", "a1.b10.c"), Ordering::Less);
        assert_eq!(natural("a10", "a1x"), Ordering::Greater);
        assert_eq!(natural("a123", "a124"), Ordering::Less);
        assert_eq!(natural("a0", "a00"), Ordering::Less);
        assert_eq!(natural("", "0"), Ordering::Less);
    }
}
