//! The verdict on a pair of models, in words.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Compared, ShapeRow, TensorRow};
use crate::base::{text, units};
use crate::family::components::Component;
use crate::model::{Class, DType, FormatId, TypeName};
use crate::ops::convert::quality::Sums;

/// At this cosine, vectors are the same weights with errors; two-bit types reach down to about 0.9.
const SAME: f64 = 0.8;

/// Below this cosine, weights are unrelated: they are nearly orthogonal.
const RELATED: f64 = 0.3;

/// Relative error of rounding to a type with at least 8 bits of mantissa.
const ROUNDING: f64 = 1.0 / 256.0;

/// Relative error that fine-tuning stays below; damage, merging and pruning may exceed it.
const TUNED: f64 = 0.5;

/// Relative error of the products of adapter factors when summed in another order.
const SUMS: f64 = 1e-5;

/// The relation of two models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// Everything is equal.
    Identical,
    /// All values are equal; the format, types or metadata differ.
    SameWeights,
    /// The same weights, rounded to another type.
    Rounded,
    /// One is a quantisation of the other, or both are quantisations of the same weights.
    Quantised,
    /// Related weights of the same shapes, each with own changes.
    FineTuned,
    /// Values of some tensors differ by too much to tell whether the models are related.
    Changed,
    /// Unrelated weights.
    Unrelated,
    /// Different sets of tensors.
    DifferentTensors,
    /// Values were not compared.
    NotCompared,
}

/// The verdict on a pair of models.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Verdict {
    /// The relation in one word.
    pub kind: Kind,
    /// The relation in a sentence.
    pub text: String,
    /// Changes by component.
    pub components: Vec<ComponentChange>,
}

/// The changes of one component.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ComponentChange {
    /// The component.
    pub component: Component,
    /// Number of its tensors that both models have.
    pub tensors: u64,
    /// Number of those that differ.
    pub changed: u64,
    /// Relative root mean square of the differences, over the tensors that differ.
    pub relative_rmse: Option<f64>,
}

/// The evidence that a verdict is based on.
pub(super) struct Evidence<'a> {
    pub compared: Compared,
    /// The common tensors, then the common rows of tensors with different shapes.
    pub tensors: &'a [TensorRow],
    /// The sums of each tensor, if it was measured.
    pub sums: &'a [Option<Sums>],
    pub only: (&'a [String], &'a [String]),
    pub shapes: &'a [ShapeRow],
    pub metadata: usize,
    /// Whether the tensors are updates of two adapters.
    pub adapters: bool,
    pub formats: [FormatId; 2],
    pub bytes: [u64; 2],
}

pub(super) fn verdict(evidence: &Evidence<'_>) -> Verdict {
    let components = by_component(evidence);
    let (kind, text) = judge(evidence, &components);
    Verdict { kind, text, components }
}

fn by_component(evidence: &Evidence<'_>) -> Vec<ComponentChange> {
    let mut all: BTreeMap<Component, (u64, u64, Sums)> = BTreeMap::new();
    for (row, sums) in evidence.tensors.iter().zip(evidence.sums) {
        let (tensors, changed, total) = all.entry(row.component).or_default();
        *tensors += 1;
        if row.equal == Some(false) {
            *changed += 1;
            sums.iter().for_each(|sums| total.merge(sums));
        }
    }
    let change = |(component, (tensors, changed, sums)): (Component, (u64, u64, Sums))| ComponentChange {
        component,
        tensors,
        changed,
        relative_rmse: sums.quality().and_then(|quality| quality.relative_rmse),
    };
    all.into_iter().map(change).collect()
}

fn judge(evidence: &Evidence<'_>, components: &[ComponentChange]) -> (Kind, String) {
    let tensors = evidence.tensors;
    let all = tensors.len() as u64;
    let changed: Vec<(&TensorRow, Sums)> = tensors
        .iter()
        .zip(evidence.sums)
        .filter(|(row, _)| row.equal == Some(false))
        .filter_map(|(row, sums)| Some((row, (*sums)?)))
        .collect();
    let (apart, missing) = missing(evidence);
    if apart > tensors.len() {
        return (Kind::DifferentTensors, format!("different tensors: {} in common, {}", units::grouped(all), missing.join(", ")));
    }
    let besides = if missing.is_empty() { String::new() } else { format!("; {}", missing.join(", ")) };
    let unknown = tensors.iter().filter(|row| row.equal.is_none()).count() as u64;
    let differ = tensors.iter().filter(|row| row.equal == Some(false)).count() as u64;
    if unknown > 0 || differ > 0 && changed.is_empty() {
        let mut why = Vec::new();
        why.extend((differ > 0).then(|| format!("{} differ in their bytes", units::grouped(differ))));
        why.extend((unknown > 0).then(|| format!("{} differ in their types", units::grouped(unknown))));
        return (Kind::NotCompared, format!("values not compared: of {}, {}{besides}", units::counted(all, "tensor"), why.join(", ")));
    }
    if changed.is_empty() {
        return equal(evidence, &besides);
    }
    let mut total = Sums::default();
    changed.iter().for_each(|(_, sums)| total.merge(sums));
    let quality = total.quality();
    let relative = quality.and_then(|quality| quality.relative_rmse);
    let error = match relative {
        Some(relative) => format!("relative error {}", units::percent(relative, 3)),
        None => "relative error undefined: NaN, infinities, or all zeros in the first".to_owned(),
    };
    let relative = relative.unwrap_or(f64::NAN);
    let alike = likeness(&changed);
    let (kind, mut text) = if evidence.adapters {
        let cosine = quality.and_then(|quality| quality.cosine).map(|cosine| format!(", cosine {cosine:.4}")).unwrap_or_default();
        if relative <= SUMS {
            (Kind::Rounded, format!("adapters with the same updates, except for rounding: {error}"))
        } else if alike < RELATED {
            (Kind::Unrelated, format!("adapters whose updates have little in common: {error}{cosine}"))
        } else {
            (Kind::FineTuned, format!("adapters of related updates: {error}{cosine}; {}", changes(components)))
        }
    } else if alike < RELATED {
        (Kind::Unrelated, format!("unrelated weights in the same shapes: cosine {alike:.2}"))
    } else if let Some(quantised) = packed(&changed).or_else(|| quantisation(&changed, tensors, alike, evidence.bytes)) {
        let snr = quality.and_then(|quality| quality.snr_db).map(|snr| format!(", signal to noise {snr:.1} dB")).unwrap_or_default();
        (Kind::Quantised, format!("{quantised}: {error}{snr}"))
    } else if relative <= ROUNDING && changed.iter().all(|(row, _)| row.dtype_a != row.dtype_b) {
        (
            Kind::Rounded,
            format!(
                "the same weights, rounded from {} to {}: {error}",
                types(&changed, |row| row.dtype_a),
                types(&changed, |row| row.dtype_b)
            ),
        )
    } else if alike >= RELATED && relative <= TUNED {
        (Kind::FineTuned, format!("one looks fine-tuned from the other: {error}; {}", changes(components)))
    } else {
        let verb = if differ == 1 { "differs" } else { "differ" };
        let some = format!("{} of {} {verb}", units::grouped(differ), units::counted(all, "tensor"));
        (Kind::Changed, format!("{some}: {error}; {}", changes(components)))
    };
    text.push_str(&besides);
    (kind, text)
}

/// Returns the number of tensors that cannot be compared, and describes those that only one model has.
fn missing(evidence: &Evidence<'_>) -> (usize, Vec<String>) {
    let (only_a, only_b) = evidence.only;
    let shapes = evidence.shapes.iter().filter(|row| row.shared.is_none()).count();
    let counts = [(only_a.len(), "only in the first"), (only_b.len(), "only in the second"), (shapes, "with a different shape")];
    let parts = counts.into_iter().filter(|(count, _)| *count > 0);
    let parts = parts.map(|(count, what)| format!("{} {what}", units::counted(count as u64, "tensor")));
    let rows = evidence.shapes.iter().filter_map(|shape| Some(format!("{}: {}", text::escape(&shape.name), shape.rows_in_words()?)));
    (only_a.len() + only_b.len() + shapes, parts.chain(rows).collect())
}

impl ShapeRow {
    /// Describes the common rows of two shapes: `128,256 rows equal, 8 added`.
    pub fn rows_in_words(&self) -> Option<String> {
        let shared = self.shared.as_ref()?;
        let (a, b) = (self.shape_a.first()?, self.shape_b.first()?);
        let values = match (shared.equal, shared.relative_rmse) {
            (Some(true), _) => "equal".to_owned(),
            (Some(false), Some(error)) => format!("differ by {}", units::percent(error, 3)),
            (Some(false), None) => "differ".to_owned(),
            (None, _) => "not compared".to_owned(),
        };
        let change = if b > a { "added" } else { "removed" };
        Some(format!("{} {values}, {} {change}", units::counted(shared.rows, "row"), units::grouped(a.abs_diff(*b))))
    }
}

/// Returns the verdict if all compared values are equal.
fn equal(evidence: &Evidence<'_>, besides: &str) -> (Kind, String) {
    let compared = evidence.compared;
    let all = units::counted(compared.tensors, "tensor");
    if !besides.is_empty() {
        return (Kind::DifferentTensors, format!("the same values in the {all} that both have in the same shape{besides}"));
    }
    let changed_types = evidence.tensors.iter().filter(|row| row.dtype_a != row.dtype_b).count() as u64;
    let [a, b] = evidence.formats;
    let mut but = Vec::new();
    but.extend((a != b).then(|| format!("different formats ({a}, {b})")));
    but.extend((changed_types > 0).then(|| format!("different types ({} of {all})", units::grouped(changed_types))));
    but.extend((evidence.metadata > 0).then(|| format!("different metadata ({})", units::counted(evidence.metadata as u64, "key"))));
    let metadata = if compared.metadata { "" } else { "; metadata not compared" };
    if but.is_empty() {
        let of = if compared.filtered {
            format!("{} of {}", units::grouped(compared.tensors), units::counted(compared.tensors_a, "tensor"))
        } else {
            all
        };
        let and = if compared.metadata { " and the metadata" } else { "" };
        return (Kind::Identical, format!("identical: {of}{and}{metadata}"));
    }
    (Kind::SameWeights, format!("the same values in {all}; {}{metadata}", but.join(", ")))
}

/// Returns the mean cosine of the matrices that differ, weighted by elements: vectors (norms, biases) are alike in any two models.
fn likeness(changed: &[(&TensorRow, Sums)]) -> f64 {
    let mean = |least: usize| {
        let rows =
            changed.iter().filter(|(row, _)| row.dimensions >= least).filter_map(|(row, _)| Some((row.cosine?, row.elements as f64)));
        let (sum, weight) = rows.fold((0.0, 0.0), |(sum, weight), (cosine, elements)| (sum + cosine * elements, weight + elements));
        if weight > 0.0 { Some(sum / weight) } else { None }
    };
    mean(2).or_else(|| mean(0)).unwrap_or(f64::NAN)
}

/// Describes which side a library packed, if all differing matrices are packed on that side only, or on both sides in different ways.
fn packed(changed: &[(&TensorRow, Sums)]) -> Option<String> {
    let matrices: Vec<_> = changed.iter().filter(|(row, _)| row.dimensions > 1 && row.dtype_a != row.dtype_b).collect();
    let explained = changed.iter().all(|(row, _)| row.dtype_a != row.dtype_b);
    let [of_a, of_b] = [|row: &TensorRow| row.dtype_a.packed, |row: &TensorRow| row.dtype_b.packed]
        .map(|of| matrices.iter().any(|(row, _)| of(row).is_some()));
    if matrices.is_empty() || !explained {
        return None;
    }
    match (of_a, of_b) {
        (false, false) => None,
        (false, true) => Some(format!("the second is a quantisation of the same weights ({})", types(changed, |row| row.dtype_b))),
        (true, false) => Some(format!("the first is a quantisation of the same weights ({})", types(changed, |row| row.dtype_a))),
        (true, true) => Some(format!(
            "two quantisations of the same weights ({} and {})",
            types(changed, |row| row.dtype_a),
            types(changed, |row| row.dtype_b)
        )),
    }
}

/// Describes which side is quantised from which, if the tensors that differ have different types and similar values.
fn quantisation(changed: &[(&TensorRow, Sums)], tensors: &[TensorRow], alike: f64, bytes: [u64; 2]) -> Option<String> {
    let is_quantised =
        |dtype: DType| dtype.info().class == Class::Block || (dtype.info().class == Class::Float && dtype.bits_per_weight() <= 8.0);
    let known = |row: &TensorRow| Some((row.dtype_a.elem.known()?, row.dtype_b.elem.known()?));
    let explained = changed.iter().all(|(row, _)| known(row).is_some_and(|(a, b)| a != b));
    let (mut of_a, mut of_b) = (false, false);
    for (a, b) in tensors.iter().filter_map(known).filter(|(a, b)| a != b) {
        of_a |= is_quantised(a);
        of_b |= is_quantised(b);
    }
    if !explained || alike < SAME {
        return None;
    }
    match (of_a, of_b) {
        (false, false) => None,
        (false, true) => Some(format!("the second looks quantised from the first ({})", types(changed, |row| row.dtype_b))),
        (true, false) => Some(format!("the first looks quantised from the second ({})", types(changed, |row| row.dtype_a))),
        (true, true) if bytes[0] == bytes[1] => Some("two quantisations of the same weights".to_owned()),
        (true, true) => {
            let less = if bytes[1] < bytes[0] { "second" } else { "first" };
            Some(format!("two quantisations of the same weights, the {less} in fewer bits"))
        }
    }
}

/// Lists the types of the tensors that differ, by descending elements.
fn types(changed: &[(&TensorRow, Sums)], of: fn(&TensorRow) -> TypeName) -> String {
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    for (row, _) in changed {
        *all.entry(of(row).to_string()).or_default() += row.elements;
    }
    let mut all: Vec<(String, u64)> = all.into_iter().collect();
    all.sort_by_key(|(_, elements)| std::cmp::Reverse(*elements));
    all.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
}

/// Describes changed and unchanged components.
fn changes(components: &[ComponentChange]) -> String {
    let changed = components.iter().filter(|change| change.changed > 0).map(|change| {
        let error = change.relative_rmse.map(|error| format!(" by {}", units::percent(error, 2))).unwrap_or_default();
        let some = if change.changed == change.tensors {
            String::new()
        } else {
            format!(" ({} of {})", change.changed, units::counted(change.tensors, "tensor"))
        };
        format!("{}{error}{some}", change.component.name())
    });
    let kept = components.iter().filter(|change| change.changed == 0).map(|change| change.component.name()).collect::<Vec<_>>();
    let kept = if kept.is_empty() { String::new() } else { format!("; unchanged: {}", kept.join(", ")) };
    format!("changed: {}{kept}", changed.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::SharedRows;
    use super::*;
    use crate::model::ElemType;

    /// A matrix of four elements in these types, and its old and new values.
    fn matrix(name: &str, a: DType, b: DType, old: [f64; 4], new: [f64; 4]) -> (TensorRow, Option<Sums>) {
        let sums = Sums::of(&old, &new);
        let quality = sums.quality().unwrap();
        let row = TensorRow {
            name: name.to_owned(),
            dtype_a: ElemType::Known(a).into(),
            dtype_b: ElemType::Known(b).into(),
            equal: Some(old == new),
            max_abs: None,
            rmse: None,
            relative_rmse: quality.relative_rmse,
            cosine: quality.cosine,
            snr_db: None,
            changed: None,
            l2_a: None,
            l2_b: None,
            component: Component::Attention,
            layer: None,
            elements: 4,
            dimensions: 2,
        };
        (row, Some(sums))
    }

    fn with<T>(tensors: Vec<(TensorRow, Option<Sums>)>, change: impl FnOnce(&mut Evidence<'_>) -> T) -> (Kind, String) {
        beside(tensors, (&[], &[]), &[], change)
    }

    /// As [`with`], for models that have other tensors as well.
    fn beside<T>(
        tensors: Vec<(TensorRow, Option<Sums>)>,
        only: (&[String], &[String]),
        shapes: &[ShapeRow],
        change: impl FnOnce(&mut Evidence<'_>) -> T,
    ) -> (Kind, String) {
        let (rows, sums): (Vec<_>, Vec<_>) = tensors.into_iter().unzip();
        let count = rows.len() as u64;
        let compared = Compared { tensors: count, tensors_a: count, tensors_b: count, filtered: false, values: true, metadata: true };
        let mut evidence = Evidence {
            compared,
            tensors: &rows,
            sums: &sums,
            only,
            shapes,
            metadata: 0,
            adapters: false,
            formats: [FormatId::Safetensors; 2],
            bytes: [8, 8],
        };
        change(&mut evidence);
        let found = verdict(&evidence);
        (found.kind, found.text)
    }

    /// Vectors of length 5 whose cosine is c / 25: (3, 4) and another.
    const OLD: [f64; 4] = [5.0, 0.0, 0.0, 0.0];

    #[test]
    fn the_kind_follows_from_the_cosine_and_the_error() {
        let kind = |a, b, new| with(vec![matrix("m", a, b, OLD, new)], |_| ()).0;
        let same = |new| kind(DType::F32, DType::F32, new);
        // Cosine 0.6 and a relative error of sqrt(4 + 16) / 5 = 0.89: related, and too far for a fine-tuning.
        assert_eq!(same([3.0, 4.0, 0.0, 0.0]), Kind::Changed);
        // Cosine 0.8 and an error of sqrt(1 + 9) / 5 = 0.63; cosine 1 and an error of exactly one half.
        assert_eq!(same([4.0, 3.0, 0.0, 0.0]), Kind::Changed);
        assert_eq!(same([2.5, 0.0, 0.0, 0.0]), Kind::FineTuned);
        assert_eq!(same([2.4, 0.0, 0.0, 0.0]), Kind::Changed);
        // Cosine 0.28, and 0.3 itself: at the limit they are related.
        assert_eq!(same([1.4, 4.8, 0.0, 0.0]), Kind::Unrelated);
        assert_eq!(same([0.3 * 5.0, 5.0 * (1.0f64 - 0.09).sqrt(), 0.0, 0.0]), Kind::Changed);
        // In other types: quantised where the cosine is 0.8 at the least.
        let quantised = |new| kind(DType::F32, DType::Q4_0, new);
        assert_eq!(quantised([4.0, 3.0, 0.0, 0.0]), Kind::Quantised);
        assert_eq!(quantised([3.9, 3.2, 0.0, 0.0]), Kind::Changed);
        assert_eq!(kind(DType::F32, DType::F8_E4M3, [4.9, 0.0, 0.0, 0.0]), Kind::Quantised);
        assert_eq!(kind(DType::F32, DType::I8, [4.9, 0.0, 0.0, 0.0]), Kind::FineTuned);
        // Rounding is within 1/256, and changes the type.
        let rounded = 5.0 + 5.0 / 256.0;
        assert_eq!(kind(DType::F32, DType::BF16, [rounded, 0.0, 0.0, 0.0]), Kind::Rounded);
        assert_eq!(kind(DType::F32, DType::F32, [rounded, 0.0, 0.0, 0.0]), Kind::FineTuned);
        assert_eq!(kind(DType::F32, DType::BF16, [5.03, 0.0, 0.0, 0.0]), Kind::FineTuned);
    }

    #[test]
    fn adapters_have_words_of_their_own() {
        let found = |new| with(vec![matrix("m", DType::F32, DType::F32, OLD, new)], |evidence| evidence.adapters = true).0;
        assert_eq!(found([5.0 + 4e-5, 0.0, 0.0, 0.0]), Kind::Rounded);
        assert_eq!(found([5.0 + 6e-5, 0.0, 0.0, 0.0]), Kind::FineTuned);
        assert_eq!(found([0.3 * 5.0, 5.0 * (1.0f64 - 0.09).sqrt(), 0.0, 0.0]), Kind::FineTuned);
        assert_eq!(found([1.4, 4.8, 0.0, 0.0]), Kind::Unrelated);
    }

    #[test]
    fn of_two_quantisations_the_smaller_is_named() {
        let similar = [4.5, 0.5, 0.0, 0.0];
        let said = |bytes| with(vec![matrix("m", DType::Q8_0, DType::Q4_0, OLD, similar)], |evidence| evidence.bytes = bytes).1;
        assert!(said([8, 4]).starts_with("two quantisations of the same weights, the second in fewer bits: "), "{}", said([8, 4]));
        assert!(said([4, 8]).starts_with("two quantisations of the same weights, the first in fewer bits: "));
        assert!(said([8, 8]).starts_with("two quantisations of the same weights: "));
        // What differs in the same types is not explained by a quantisation.
        let mixed = vec![matrix("m", DType::F32, DType::Q4_0, OLD, similar), matrix("n", DType::F32, DType::F32, OLD, similar)];
        assert_eq!(with(mixed, |_| ()).0, Kind::FineTuned);
        // The types with the most elements come first.
        let three = [("a", DType::Q4_0), ("b", DType::Q8_0), ("c", DType::Q8_0)]
            .map(|(name, b)| matrix(name, DType::F32, b, OLD, similar))
            .to_vec();
        let said = with(three, |_| ()).1;
        assert!(said.starts_with("the second looks quantised from the first (Q8_0, Q4_0): "), "{said}");
        let first = with(vec![matrix("m", DType::Q4_0, DType::F32, OLD, similar)], |_| ()).1;
        assert!(first.starts_with("the first looks quantised from the second (Q4_0): "), "{first}");
    }

    #[test]
    fn vectors_count_where_there_are_no_matrices() {
        let vector = |new| {
            let (row, sums) = matrix("v", DType::F32, DType::F32, OLD, new);
            (TensorRow { dimensions: 1, ..row }, sums)
        };
        assert_eq!(with(vec![vector([1.4, 4.8, 0.0, 0.0])], |_| ()).0, Kind::Unrelated);
        // The matrix is alike, and so is the model.
        let both = vec![vector([1.4, 4.8, 0.0, 0.0]), matrix("m", DType::F32, DType::F32, [50.0, 0.0, 0.0, 0.0], [49.0, 0.0, 0.0, 0.0])];
        assert_eq!(with(both, |_| ()).0, Kind::FineTuned);
        // The mean of the matrices goes by their elements: (0.28 + 3 * 1) / 4.
        let (row, sums) = matrix("big", DType::F32, DType::F32, OLD, [4.9, 0.0, 0.0, 0.0]);
        let two = [matrix("m", DType::F32, DType::F32, OLD, [1.4, 4.8, 0.0, 0.0]), (TensorRow { elements: 12, ..row }, sums)];
        let changed: Vec<_> = two.iter().map(|(row, sums)| (row, sums.unwrap())).collect();
        assert!((likeness(&changed) - 0.82).abs() < 1e-12);
        assert!(likeness(&[]).is_nan());
    }

    #[test]
    fn equal_parts_are_reported_with_the_differences() {
        let same = || matrix("m", DType::F32, DType::F32, OLD, OLD);
        assert_eq!(with(vec![same()], |_| ()), (Kind::Identical, "identical: 1 tensor and the metadata".to_owned()));
        let typed = with(vec![same(), matrix("n", DType::F32, DType::BF16, OLD, OLD)], |_| ());
        assert_eq!(typed, (Kind::SameWeights, "the same values in 2 tensors; different types (1 of 2 tensors)".to_owned()));
        let keys = with(vec![same()], |evidence| evidence.metadata = 3);
        assert_eq!(keys, (Kind::SameWeights, "the same values in 1 tensor; different metadata (3 keys)".to_owned()));
        let format = with(vec![same()], |evidence| evidence.formats = [FormatId::Gguf, FormatId::Safetensors]);
        assert_eq!(format, (Kind::SameWeights, "the same values in 1 tensor; different formats (gguf, safetensors)".to_owned()));
    }

    #[test]
    fn models_with_more_apart_than_in_common_are_different() {
        let same = |count: usize| (0..count).map(|i| matrix(&format!("m{i}"), DType::F32, DType::F32, OLD, OLD)).collect::<Vec<_>>();
        let names = ["a".to_owned(), "b".to_owned()];
        let shape = ShapeRow { name: "s".to_owned(), shape_a: vec![2], shape_b: vec![3], shared: None };
        let shapes = [shape.clone(), shape];
        // Two, one and two apart.
        let found = |count| beside(same(count), (&names, &names[..1]), &shapes, |_| ()).1;
        let apart = "2 tensors only in the first, 1 tensor only in the second, 2 tensors with a different shape";
        assert_eq!(found(4), format!("different tensors: 4 in common, {apart}"));
        assert_eq!(found(5), format!("the same values in the 5 tensors that both have in the same shape; {apart}"));
    }

    #[test]
    fn what_was_not_compared_is_counted() {
        let unlike = |equal| {
            let (row, _) = matrix("m", DType::F32, DType::BF16, OLD, [1.0; 4]);
            (TensorRow { equal, ..row }, None)
        };
        let found = with(vec![unlike(None), unlike(Some(false))], |_| ());
        assert_eq!(
            found,
            (Kind::NotCompared, "values not compared: of 2 tensors, 1 differ in their bytes, 1 differ in their types".to_owned())
        );
        let bytes = with(vec![unlike(Some(false))], |_| ()).1;
        assert_eq!(bytes, "values not compared: of 1 tensor, 1 differ in their bytes");
    }

    #[test]
    fn surplus_rows_of_one_model_are_reported() {
        let words = |a, b| {
            let shared = Some(SharedRows { rows: 4, equal: Some(true), max_abs: None, relative_rmse: None });
            ShapeRow { name: "e".to_owned(), shape_a: vec![a, 2], shape_b: vec![b, 2], shared }.rows_in_words().unwrap()
        };
        assert_eq!(words(4, 6), "4 rows equal, 2 added");
        assert_eq!(words(7, 4), "4 rows equal, 3 removed");
    }
}
