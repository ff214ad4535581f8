//! Which tensors of a model an operation is about, and in which order.

use std::cmp::Ordering;

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::base::{Error, Result};
use crate::model::{ElemType, Model, TensorInfo};

/// What tensors are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortBy {
    /// As in the files.
    #[default]
    File,
    /// By name; numbers in it by their value.
    Name,
    /// By stored bytes, the largest first; those of unknown size last.
    Size,
    /// By elements, the most first.
    Elements,
    /// By the name of the type.
    DType,
}

/// Which tensors, and in which order. The default is all of them as in the files.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    filter: Option<GlobSet>,
    exclude: Option<GlobSet>,
    sort: SortBy,
    reverse: bool,
    limit: Option<usize>,
}

impl Selection {
    /// Tensors whose name matches a glob of `filter` (if there is any) and none of `exclude`; `*` matches any characters.
    ///
    /// # Errors
    /// A glob is malformed.
    pub fn new(filter: &[String], exclude: &[String], sort: SortBy, reverse: bool, limit: Option<usize>) -> Result<Self> {
        Ok(Self { filter: globs(filter)?, exclude: globs(exclude)?, sort, reverse, limit })
    }

    /// Whether a tensor of this name is meant.
    pub fn matches(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|globs| globs.is_match(name)) && !self.exclude.as_ref().is_some_and(|globs| globs.is_match(name))
    }

    /// The tensors that are meant, in order.
    pub fn pick<'m>(&self, model: &'m Model) -> Vec<&'m TensorInfo> {
        let traits = |tensor: &TensorInfo| (tensor.len_bytes, tensor.elements().unwrap_or(u64::MAX), tensor.elem);
        self.arrange(model.tensors.iter().collect(), |tensor| &tensor.name, |tensor| traits(tensor))
    }

    /// Those of `items` that are meant, in order: each is known by a name, and by its bytes, elements and type.
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
        items.truncate(self.limit.unwrap_or(usize::MAX));
        items
    }
}

fn globs(patterns: &[String]) -> Result<Option<GlobSet>> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let bad = |error: &globset::Error| Error::argument(format!("expected a glob, found {error}"));
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).map_err(|error| bad(&error))?);
    }
    set.build().map(Some).map_err(|error| bad(&error))
}

/// Compares names with the numbers in them by value: `blk.2` is before `blk.10`.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        match (digits(a), digits(b)) {
            (0, _) | (_, 0) => match (a.split_first(), b.split_first()) {
                (Some((x, rest_a)), Some((y, rest_b))) if x == y => (a, b) = (rest_a, rest_b),
                _ => return a.cmp(b),
            },
            (x, y) => {
                let (number_a, number_b) = (&a[..x], &b[..y]);
                let value = |number: &[u8]| number.iter().take_while(|byte| **byte == b'0').count();
                let (significant_a, significant_b) = (&number_a[value(number_a)..], &number_b[value(number_b)..]);
                let order = significant_a.len().cmp(&significant_b.len()).then_with(|| significant_a.cmp(significant_b)).then(x.cmp(&y));
                if order != Ordering::Equal {
                    return order;
                }
                (a, b) = (&a[x..], &b[y..]);
            }
        }
    }
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

    fn picked(filter: &[&str], exclude: &[&str], sort: SortBy, reverse: bool, limit: Option<usize>) -> Vec<String> {
        let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let selection = Selection::new(&strings(filter), &strings(exclude), sort, reverse, limit).unwrap();
        selection.pick(&model()).into_iter().map(|tensor| tensor.name.clone()).collect()
    }

    #[test]
    fn globs_cross_slashes_and_exclusion_wins() {
        assert_eq!(picked(&["blk.*"], &["*.2.*"], SortBy::File, false, None), ["blk.10.a/b"]);
        assert_eq!(picked(&["output", "blk.{2,3}.*"], &[], SortBy::File, false, None), ["blk.2.a", "output"]);
        assert!(Selection::new(&["[".into()], &[], SortBy::File, false, None).is_err());
    }

    #[test]
    fn orders() {
        assert_eq!(picked(&[], &[], SortBy::Name, false, None), ["blk.2.a", "blk.10.a/b", "output"]);
        assert_eq!(picked(&[], &[], SortBy::Size, false, Some(2)), ["blk.2.a", "output"]);
        assert_eq!(picked(&[], &[], SortBy::Size, true, Some(1)), ["blk.10.a/b"]);
    }

    #[test]
    fn natural_order_is_total() {
        assert_eq!(natural("a2", "a10"), Ordering::Less);
        assert_eq!(natural("a02", "a2"), Ordering::Greater);
        assert_eq!(natural("a", "a"), Ordering::Equal);
        assert_eq!(natural("a1b", "a1"), Ordering::Greater);
        assert_eq!(natural("b", "a10"), Ordering::Greater);
    }
}
