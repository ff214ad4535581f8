//! What a pair of models looks like, in words.

use std::collections::BTreeMap;

use serde::Serialize;

use super::TensorRow;
use crate::arch::components::Component;
use crate::base::units;
use crate::model::{Class, DType, TypeName};
use crate::ops::convert::quality::Sums;

/// Vectors that are this much alike are the same weights with errors; two-bit types reach down to about 0.9.
const SAME: f64 = 0.8;

/// Vectors of weights that have nothing to do with each other are nearly orthogonal.
const RELATED: f64 = 0.3;

/// Rounding to a type of 8 bits of mantissa or more is within this relative error.
const ROUNDING: f64 = 1.0 / 256.0;

/// Sums of products of the factors of an adapter, in another order, are within this relative error.
const SUMS: f64 = 1e-5;

/// What a pair of models is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nothing differs.
    Identical,
    /// Every value is the same; the format, types or metadata differ.
    SameWeights,
    /// The same weights, rounded to another type.
    Rounded,
    /// One is the other quantised, or both are quantised from the same weights.
    Quantised,
    /// Related weights of the same shapes, with changes of their own.
    FineTuned,
    /// Weights that have nothing to do with each other.
    Unrelated,
    /// Not the same tensors.
    DifferentTensors,
    /// Values were not compared.
    NotCompared,
}

/// What a pair of models looks like.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// In one word.
    pub kind: Kind,
    /// In a sentence.
    pub text: String,
    /// What changed, by component.
    pub components: Vec<ComponentChange>,
}

/// What changed in one component.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComponentChange {
    /// The component.
    pub component: Component,
    /// How many tensors both models have of it.
    pub tensors: u64,
    /// How many of them differ.
    pub changed: u64,
    /// The relative root mean square of the difference over those that differ.
    pub relative_rmse: Option<f64>,
}

/// What a verdict is told from.
pub(super) struct Evidence<'a> {
    pub tensors: &'a [TensorRow],
    /// For each tensor, its sums if it was measured.
    pub sums: &'a [Option<Sums>],
    pub only: (&'a [String], &'a [String]),
    pub shapes: usize,
    pub metadata: usize,
    /// Whether the tensors are the updates of two adapters.
    pub adapters: bool,
    pub formats: [&'static str; 2],
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
            sums.iter().for_each(|sums| total.join(sums));
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
    let (tensors, (only_a, only_b)) = (evidence.tensors, evidence.only);
    let missing = only_a.len() + only_b.len() + evidence.shapes;
    let changed: Vec<(&TensorRow, Sums)> = tensors
        .iter()
        .zip(evidence.sums)
        .filter(|(row, _)| row.equal == Some(false))
        .filter_map(|(row, sums)| Some((row, (*sums)?)))
        .collect();
    let unknown = tensors.iter().filter(|row| row.equal.is_none()).count();
    let besides = match missing {
        0 => String::new(),
        _ => format!(
            "; beside that, {} only in the first, {} only in the second, {} of other shapes",
            only_a.len(),
            only_b.len(),
            evidence.shapes
        ),
    };
    if missing > tensors.len() {
        let text = format!(
            "different tensors: {} in common, {} only in the first, {} only in the second, {} of other shapes",
            tensors.len(),
            only_a.len(),
            only_b.len(),
            evidence.shapes
        );
        return (Kind::DifferentTensors, text);
    }
    if unknown > 0 || tensors.iter().any(|row| row.equal == Some(false)) && changed.is_empty() {
        let differ = tensors.iter().filter(|row| row.equal == Some(false)).count();
        let text = format!(
            "values not compared: of {} tensors, {differ} differ in their bytes and {unknown} in their type{besides}",
            tensors.len()
        );
        return (Kind::NotCompared, text);
    }
    if changed.is_empty() {
        let types = tensors.iter().filter(|row| row.dtype_a != row.dtype_b).count();
        let [a, b] = evidence.formats;
        let mut but = Vec::new();
        but.extend((a != b).then(|| format!("format ({a}, {b})")));
        but.extend((types > 0).then(|| format!("the type of {types} of {} tensors", tensors.len())));
        but.extend((evidence.metadata > 0).then(|| format!("{} metadata keys", evidence.metadata)));
        return match (missing, but.is_empty()) {
            (0, true) => (Kind::Identical, "identical".to_owned()),
            (0, false) => (Kind::SameWeights, format!("the same weights, to the last bit; they differ in {}", but.join(", "))),
            _ => (Kind::DifferentTensors, format!("the same weights where both have them{besides}")),
        };
    }
    let mut total = Sums::default();
    changed.iter().for_each(|(_, sums)| total.join(sums));
    let quality = total.quality();
    let relative = quality.and_then(|quality| quality.relative_rmse).unwrap_or(f64::NAN);
    let error = format!("relative error {}%", units::general(relative * 100.0, 3));
    let alike = likeness(&changed);
    let (kind, mut text) = if evidence.adapters {
        let cosine = quality.and_then(|quality| quality.cosine).map(|cosine| format!(", cosine {cosine:.4}")).unwrap_or_default();
        if relative <= SUMS {
            (Kind::Rounded, format!("adapters of the same updates, but for rounding: {error}"))
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
    } else if alike >= RELATED {
        (Kind::FineTuned, format!("one looks fine-tuned from the other: {error}; {}", changes(components)))
    } else {
        (Kind::Unrelated, format!("values that cannot be compared as numbers; {}", changes(components)))
    };
    text.push_str(&besides);
    (kind, text)
}

/// The mean cosine of the matrices that differ, by their elements: vectors (norms, biases) are alike in any two models.
fn likeness(changed: &[(&TensorRow, Sums)]) -> f64 {
    let mean = |least: usize| {
        let rows =
            changed.iter().filter(|(row, _)| row.dimensions >= least).filter_map(|(row, _)| Some((row.cosine?, row.elements as f64)));
        let (sum, weight) = rows.fold((0.0, 0.0), |(sum, weight), (cosine, elements)| (sum + cosine * elements, weight + elements));
        if weight > 0.0 { Some(sum / weight) } else { None }
    };
    mean(2).or_else(|| mean(0)).unwrap_or(f64::NAN)
}

/// Which side a library packed, if it packed all matrices that differ on one of them and not on the other; or both, in other ways.
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

/// Which side is quantised from which, if that is what it looks like: what differs differs in its type, and is alike.
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

/// The types of the tensors that differ, the most elements first.
fn types(changed: &[(&TensorRow, Sums)], of: fn(&TensorRow) -> TypeName) -> String {
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    for (row, _) in changed {
        *all.entry(of(row).to_string()).or_default() += row.elements;
    }
    let mut all: Vec<(String, u64)> = all.into_iter().collect();
    all.sort_by_key(|(_, elements)| std::cmp::Reverse(*elements));
    all.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
}

/// What changed and what did not, by component.
fn changes(components: &[ComponentChange]) -> String {
    let changed = components.iter().filter(|change| change.changed > 0).map(|change| {
        let error = change.relative_rmse.map(|error| format!(" by {}%", units::general(error * 100.0, 2))).unwrap_or_default();
        let some =
            if change.changed == change.tensors { String::new() } else { format!(" ({} of {} tensors)", change.changed, change.tensors) };
        format!("{}{error}{some}", change.component.name())
    });
    let kept = components.iter().filter(|change| change.changed == 0).map(|change| change.component.name()).collect::<Vec<_>>();
    let kept = if kept.is_empty() { String::new() } else { format!("; unchanged: {}", kept.join(", ")) };
    format!("changed: {}{kept}", changed.collect::<Vec<_>>().join(", "))
}
