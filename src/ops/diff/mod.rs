//! Comparison of two models: names, shapes, types, metadata, values.
//!
//! Tensors are matched by canonical name. To compare a Hugging Face folder with a GGUF, the folder is viewed as the GGUF that it would be
//! converted to, so that names, layouts and keys match. Adapters are viewed as their updates, or merged into the other model.
//! Both sides are streamed: equal bytes need no decoding; what differs is decoded in fixed chunks, whose sums are merged in
//! order.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::base::{Error, Hint, Result, num, units};
use crate::family::components::{Component, Components};
use crate::family::hyperparameters;
use crate::family::tables::Tables;
use crate::format::Reader;
use crate::model::{ElemType, FormatId, Metadata, PackingSummary, TypeName};
use crate::ops::chunks::{self, Chunk};
use crate::ops::select::Selection;
use crate::ops::tensor_data::TensorData;
use crate::ops::{Progress, weights};
use crate::view;
use crate::view::lora::Form;
use crate::view::output_model::OutputTensor;
use crate::view::{lora, to_gguf};

mod measure;
mod metadata;
mod verdict;

pub use metadata::MetadataRow;
pub use verdict::{ComponentChange, Kind, Verdict};

use measure::PairSums;

/// Number of elements per unit of work.
const SPAN: u64 = 1 << 21;

/// Options of [`diff`].
#[derive(Default)]
pub struct Options<'a> {
    /// Compares names, shapes, types, metadata, and bytes where both sides have the same type; decodes nothing.
    pub quick: bool,
    /// Tolerance: values may differ by this relative root mean square, and types and metadata may differ, without counting as different.
    pub tolerance: Option<f64>,
    /// The tensors to compare, by canonical name, and their order: that of the first model. All if `None`.
    pub selection: Option<&'a Selection>,
    /// Lists only tensors that are not equal.
    pub differing: bool,
    /// Progress callback; the total is at least the bytes of the larger model.
    pub progress: Option<Progress<'a>>,
}

/// The differences of two models.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Diff {
    /// `weigh.diff.v1`.
    pub schema: &'static str,
    /// Path of the second model; the document's own path is that of the first.
    pub path_b: String,
    /// Extent of the comparison.
    pub compared: Compared,
    /// Whether everything that was compared is equal.
    pub identical: bool,
    /// Interpretation of the comparison.
    pub verdict: Verdict,
    /// Result of the tolerance check, if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<Tolerance>,
    /// Names of tensors that only the first model has.
    pub only_a: Vec<String>,
    /// Names of tensors that only the second model has.
    pub only_b: Vec<String>,
    /// Tensors with different shapes: only rows of embeddings that both models have are compared by value.
    pub shapes: Vec<ShapeRow>,
    /// Metadata that differs, if both sides have comparable keys.
    pub metadata: Vec<MetadataRow>,
    /// Tensors in both models, in the order of the first, up to the selection's limit.
    pub tensors: Vec<TensorRow>,
    /// Numbers of common tensors that are not listed.
    #[serde(skip)]
    pub unlisted: Unlisted,
    /// The packing of both, if packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<PackingSummary>,
    /// The packing of each model, if packed.
    #[serde(skip)]
    pub packings: [Option<PackingSummary>; 2],
    /// Notes on how the models were compared.
    pub notes: Vec<String>,
    /// Whether both are adapters, compared by their updates.
    #[serde(skip)]
    pub adapters: bool,
    /// Whether the models count as different: in anything, or beyond the tolerance.
    #[serde(skip)]
    pub differ: bool,
}

/// Numbers of common tensors that are not listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Unlisted {
    /// Equal tensors, if only differing ones are listed.
    pub equal: u64,
    /// Tensors beyond the selection's limit.
    pub beyond: u64,
}

/// Extent of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Compared {
    /// Number of selected tensors that both models have in the same shape.
    pub tensors: u64,
    /// Number of tensors in the first model, selected or not.
    pub tensors_a: u64,
    /// Number of tensors in the second model, selected or not.
    pub tensors_b: u64,
    /// Whether the selection excluded tensors.
    pub filtered: bool,
    /// Whether values were compared; otherwise only bytes of equal types.
    pub values: bool,
    /// Whether metadata was compared.
    pub metadata: bool,
}

impl Diff {
    /// Removes tensors that should not be listed.
    fn list(&mut self, options: &Options<'_>) {
        let all = self.tensors.len();
        self.tensors.retain(|row| !options.differing || row.equal != Some(true));
        let wanted = self.tensors.len();
        self.tensors.truncate(options.selection.map_or(usize::MAX, Selection::limit));
        self.unlisted = Unlisted { equal: (all - wanted) as u64, beyond: (wanted - self.tensors.len()) as u64 };
    }
}

/// The largest differences relative to the tolerance.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Tolerance {
    /// The tolerated relative root mean square of a tensor's differences.
    pub limit: f64,
    /// Whether both models have the same tensors in the same shapes, all within the tolerance.
    pub within: bool,
    /// The largest relative error.
    pub largest: Option<f64>,
    /// The tensor with the largest relative error; null if all values are equal.
    pub tensor: Option<String>,
    /// Number of tensors beyond the tolerance, or without a relative error: NaN, or all zeros in the first model.
    pub beyond: u64,
}

impl Tolerance {
    fn check(limit: f64, tensors: &[TensorRow], same_tensors: bool) -> Self {
        let errors = tensors.iter().filter(|row| row.equal != Some(true)).filter_map(|row| Some((row, row.relative_rmse?)));
        let largest = errors.max_by(|(_, a), (_, b)| a.total_cmp(b));
        let beyond = tensors.iter().filter(|row| !within(row, limit)).count() as u64;
        Self {
            limit,
            within: same_tensors && beyond == 0,
            largest: largest.map(|(_, error)| error).or_else(|| (beyond == 0).then_some(0.0)),
            tensor: largest.map(|(row, _)| row.name.clone()),
            beyond,
        }
    }
}

/// A tensor with different shapes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ShapeRow {
    /// Canonical name.
    pub name: String,
    /// Dimensions in the first model, outermost first.
    pub shape_a: Vec<u64>,
    /// Dimensions in the second model, outermost first.
    pub shape_b: Vec<u64>,
    /// Rows that both models have, for embeddings and output matrices of different vocabulary sizes.
    pub shared: Option<SharedRows>,
}

/// The leading rows that two matrices have in common.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SharedRows {
    /// Number of rows.
    pub rows: u64,
    /// Whether all their values are equal; null if not compared.
    pub equal: Option<bool>,
    /// Largest absolute difference.
    pub max_abs: Option<f64>,
    /// Root mean square of the differences relative to that of the first model's values.
    pub relative_rmse: Option<f64>,
}

/// A tensor in both models. Metrics that are undefined or not requested are null.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TensorRow {
    /// Canonical name.
    pub name: String,
    /// Type or packing in the first model.
    pub dtype_a: TypeName,
    /// Type or packing in the second model.
    pub dtype_b: TypeName,
    /// Whether all values are equal; null if not compared.
    pub equal: Option<bool>,
    /// Largest absolute difference.
    pub max_abs: Option<f64>,
    /// Root mean square of the differences.
    pub rmse: Option<f64>,
    /// Root mean square of the differences relative to that of the first model's values.
    pub relative_rmse: Option<f64>,
    /// Cosine similarity.
    pub cosine: Option<f64>,
    /// `10 log10(sum of squares of the first / sum of squared differences)`, in decibels.
    pub snr_db: Option<f64>,
    /// Fraction of the elements that differ.
    pub changed: Option<f64>,
    /// Euclidean norm of the first model's values; null if not decoded.
    pub l2_a: Option<f64>,
    /// Euclidean norm of the second model's values; null if not decoded.
    pub l2_b: Option<f64>,
    /// Component, from the name.
    #[serde(skip)]
    pub component: Component,
    /// Layer number.
    #[serde(skip)]
    pub layer: Option<u64>,
    /// Number of elements.
    #[serde(skip)]
    pub elements: u64,
    /// Number of dimensions.
    #[serde(skip)]
    pub dimensions: usize,
}

/// One of the two models, prepared for comparison.
struct Side<'r> {
    reader: &'r Reader,
    tensors: Vec<OutputTensor>,
    metadata: Metadata,
}

impl<'r> Side<'r> {
    /// Keeps tensor names.
    fn plain(reader: &'r Reader) -> Result<Self> {
        let model = reader.model();
        let tensors = (0..model.tensors.len()).map(|index| OutputTensor::original(model, index)).collect::<Result<_>>()?;
        Ok(Self { reader, tensors, metadata: model.metadata.clone() })
    }

    /// Uses canonical tensor names, if the architecture is known.
    fn canonical(reader: &'r Reader) -> Result<Self> {
        let model = reader.model();
        Ok(Self { reader, tensors: view::canonical(model, &Tables::default())?, metadata: model.metadata.clone() })
    }

    /// Views a Hugging Face folder as the GGUF that it would be converted to.
    fn as_gguf(reader: &'r Reader) -> Result<Self> {
        let model = to_gguf::output_model(reader, &Default::default(), &Default::default())?;
        Ok(Self { reader, tensors: model.tensors, metadata: model.metadata })
    }

    /// Whether at least half of the tensors of the smaller side have a counterpart of the same name.
    fn shares_names(&self, other: &Self) -> bool {
        let names: HashSet<&str> = self.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let common = other.tensors.iter().filter(|tensor| names.contains(tensor.name.as_str())).count();
        2 * common >= self.tensors.len().min(other.tensors.len())
    }
}

/// Replaces LoRA adapters by their updates if both models are adapters, or by the merged model if one is, so that both sides are
/// comparable. Also returns a note about it.
///
/// # Errors
/// The adapter is not a LoRA adapter, or does not fit the model.
fn resolve_adapters<'r>(a: &'r Reader, b: &'r Reader) -> Result<(Cow<'r, Reader>, Cow<'r, Reader>, Option<&'static str>)> {
    if let (Some(form), Some(other)) = (Form::of(a), Form::of(b))
        && (form == Form::Gguf) != (other == Form::Gguf)
    {
        return Err(Error::unsupported("a GGUF adapter cannot be compared with a PEFT adapter: their modules have different names")
            .in_file(&b.model().path)
            .hint(Hint::ConvertAdapter));
    }
    let (a, b) = (weights::of(a)?, weights::of(b)?);
    let updates = |adapter: Cow<'r, Reader>| lora::updates(adapter.into_owned()).map(Cow::Owned);
    let merged = |base: &Reader, adapter: Cow<'r, Reader>| lora::merged(base.clone(), vec![adapter.into_owned()]).map(Cow::Owned);
    Ok(match (lora::is_adapter(&a), lora::is_adapter(&b)) {
        (false, false) => (a, b, None),
        (true, true) => (updates(a)?, updates(b)?, Some("the adapters are compared by their updates: B A alpha / r")),
        (false, true) => {
            let merged = merged(&a, b)?;
            (a, merged, Some("the second is an adapter, compared after merging it into the first"))
        }
        (true, false) => {
            let merged = merged(&b, a)?;
            (merged, b, Some("the first is an adapter, compared after merging it into the second"))
        }
    })
}

/// Maps both models to a common naming scheme. Also returns whether their metadata can be compared.
fn align_names<'r>(a: &'r Reader, b: &'r Reader, notes: &mut Vec<String>) -> Result<(Side<'r>, Side<'r>, bool)> {
    let (mut left, mut right) = (Side::plain(a)?, Side::plain(b)?);
    let is_gguf = |reader: &Reader| reader.model().format == FormatId::Gguf;
    let comparable_formats = is_gguf(a) == is_gguf(b);
    if left.shares_names(&right) {
        return Ok((left, right, comparable_formats)); // of one sort, or moved under their own names
    }
    let (left_canonical, right_canonical) = (Side::canonical(a)?, Side::canonical(b)?);
    if !left_canonical.shares_names(&right_canonical) {
        return Ok((left, right, comparable_formats));
    }
    if comparable_formats {
        notes.push("tensors are matched by their GGUF names".to_owned());
        return Ok((left_canonical, right_canonical, true));
    }
    let (folder, side, canonical) = if is_gguf(a) { (b, &mut right, right_canonical) } else { (a, &mut left, left_canonical) };
    match Side::as_gguf(folder) {
        Ok(whole) => {
            *side = whole;
            notes.push("the Hugging Face folder is compared as the GGUF that it would be converted to".to_owned());
            Ok((left, right, true))
        }
        Err(error) => {
            *side = canonical;
            notes.push(format!("metadata is not compared: {error}"));
            Ok((left, right, false))
        }
    }
}

/// A tensor in both models.
struct Pair<'s> {
    name: &'s str,
    a: TensorData<'s>,
    b: TensorData<'s>,
    elements: u64,
    dimensions: usize,
}

/// Compares two open models by their weights; two adapters by their updates; an adapter and a model after merging the adapter.
///
/// # Errors
/// Values cannot be read; the selection matches no tensor of either; an adapter is not a LoRA adapter, or does not fit the model.
pub fn diff(a: &Reader, b: &Reader, options: &Options<'_>) -> Result<Diff> {
    // A tensor that shares its memory with another counts as that one, unless the other model has both.
    let untied = |own: &Reader, other: &Reader| own.clone().untied_unless(|name| other.model().tensor(name).is_some());
    let (a, b) = (&untied(a, b), &untied(b, a));
    let (left, right, note) = resolve_adapters(a, b)?;
    let mut diff = compare(&left, &right, options)?;
    diff.notes.extend(note.map(str::to_owned));
    diff.path_b = b.model().path.to_string_lossy().into_owned();
    diff.list(options);
    Ok(diff)
}

fn compare(a: &Reader, b: &Reader, options: &Options<'_>) -> Result<Diff> {
    let mut notes = Vec::new();
    let components = hyperparameters::components(a.model());
    let (left, right, comparable) = align_names(a, b, &mut notes)?;
    let all = Selection::default();
    let selection = options.selection.unwrap_or(&all);
    let in_b: HashMap<&str, &OutputTensor> = right.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let in_a: HashSet<&str> = left.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let (mut only_a, mut shapes, mut pairs, mut shared) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for tensor in selection.arrange(left.tensors.iter().collect(), |tensor| &tensor.name, |tensor| sort_keys(tensor)) {
        let Some(other) = in_b.get(tensor.name.as_str()) else {
            only_a.push(tensor.name.clone());
            continue;
        };
        let pair = |elements| -> Result<Pair<'_>> {
            let (a, b) = (TensorData::new(left.reader, tensor)?, TensorData::new(right.reader, other)?);
            Ok(Pair { name: &tensor.name, a, b, elements, dimensions: tensor.shape.len() })
        };
        if num::squeezed(&tensor.shape) == num::squeezed(&other.shape) {
            pairs.push(pair(tensor.elements()?)?);
            continue;
        }
        if let Some((rows, elements)) = shared_rows(&components, tensor, other) {
            shared.push(((shapes.len(), rows), pair(elements)?));
        }
        shapes.push(ShapeRow { name: tensor.name.clone(), shape_a: tensor.shape.clone(), shape_b: other.shape.clone(), shared: None });
    }
    let only_b = right.tensors.iter().map(|tensor| &tensor.name).filter(|name| selection.matches(name) && !in_a.contains(name.as_str()));
    let only_b: Vec<String> = only_b.cloned().collect();

    let names = || left.tensors.iter().chain(&right.tensors).map(|tensor| tensor.name.as_str());
    let filtered = names().any(|name| !selection.matches(name));
    if filtered && !names().any(|name| selection.matches(name)) {
        return Err(selection.nothing_selected(left.tensors.iter().map(|tensor| tensor.name.as_str())));
    }

    let whole = pairs.len();
    let (shape_indices, shared_pairs): (Vec<(usize, u64)>, Vec<Pair<'_>>) = shared.into_iter().unzip();
    pairs.extend(shared_pairs);
    let all_bytes = bytes(a).max(bytes(b));
    let report_progress = |bytes: u64| {
        if let Some(progress) = options.progress {
            progress(bytes, all_bytes);
        }
    };
    left.reader.announce(pairs.iter().flat_map(|pair| pair.a.inputs()));
    right.reader.announce(pairs.iter().flat_map(|pair| pair.b.inputs()));
    let same = same_bytes(&pairs, &report_progress)?;
    let adapters = lora::is_adapter(a) && lora::is_adapter(b);
    let measured = if options.quick { vec![None; pairs.len()] } else { measure::measure(&pairs, &same, &report_progress)? };
    a.check_unchanged().and_then(|()| b.check_unchanged())?;
    let mut tensors: Vec<TensorRow> =
        pairs.iter().zip(same.iter().zip(&measured)).map(|(pair, (same, found))| row(&components, pair, *same, found)).collect();
    for ((index, rows), row) in shape_indices.into_iter().zip(tensors.iter().skip(whole)) {
        let shared = SharedRows { rows, equal: row.equal, max_abs: row.max_abs, relative_rmse: row.relative_rmse };
        shapes.get_mut(index).into_iter().for_each(|shape: &mut ShapeRow| shape.shared = Some(shared.clone()));
    }

    let metadata = if comparable { metadata::compare(&left.metadata, &right.metadata) } else { Vec::new() };
    let compared = Compared {
        tensors: whole as u64,
        tensors_a: left.tensors.len() as u64,
        tensors_b: right.tensors.len() as u64,
        filtered,
        values: !options.quick,
        metadata: comparable,
    };
    if filtered {
        let all = units::counted(compared.tensors_a.max(compared.tensors_b), "tensor");
        notes.push(format!("only selected tensors are compared: {} of {all}", units::grouped(compared.tensors)));
    }
    let verdict = verdict::verdict(&verdict::Evidence {
        compared,
        tensors: &tensors,
        sums: &measured.iter().map(|found| found.as_ref().map(|found| found.sums)).collect::<Vec<_>>(),
        only: (&only_a, &only_b),
        shapes: &shapes,
        metadata: metadata.len(),
        adapters,
        formats: [a.model().format, b.model().format],
        bytes: [bytes(a), bytes(b)],
    });
    tensors.truncate(whole);
    let alike = only_a.is_empty() && only_b.is_empty() && shapes.is_empty();
    let identical = verdict.kind == Kind::Identical;
    let tolerance = options.tolerance.map(|limit| Tolerance::check(limit, &tensors, alike));
    let differ = tolerance.as_ref().map_or(!identical, |tolerance| !tolerance.within);
    let packings = [weights::packing(a), weights::packing(b)];
    Ok(Diff {
        schema: "weigh.diff.v1",
        path_b: b.model().path.to_string_lossy().into_owned(),
        compared,
        identical,
        verdict,
        tolerance,
        only_a,
        only_b,
        shapes,
        metadata,
        tensors,
        unlisted: Unlisted::default(),
        packing: weights::packing_of_both(&packings),
        packings,
        notes,
        adapters,
        differ,
    })
}

/// Returns the number of rows that two vocabulary matrices have in common, and their number of elements.
fn shared_rows(components: &Components, a: &OutputTensor, b: &OutputTensor) -> Option<(u64, u64)> {
    let vocabulary = matches!(components.classify(&a.name).component, Component::Embedding | Component::Output);
    let (&[rows_a, ref row_a @ ..], &[rows_b, ref row_b @ ..]) = (&a.shape[..], &b.shape[..]) else { return None };
    let decoded = a.elem.known().is_some() && b.elem.known().is_some();
    let rows = rows_a.min(rows_b);
    let elements = num::elements(row_a).ok()?.checked_mul(rows)?;
    (vocabulary && decoded && row_a == row_b).then_some((rows, elements))
}

/// Returns the sort keys of a tensor: stored bytes, elements, type.
fn sort_keys(tensor: &OutputTensor) -> (Option<u64>, u64, ElemType) {
    let elements = tensor.elements().unwrap_or(u64::MAX);
    (tensor.elem.known().and_then(|dtype| dtype.bytes_for(elements).ok()), elements, tensor.elem)
}

fn within(row: &TensorRow, tolerance: f64) -> bool {
    row.equal == Some(true) || row.relative_rmse.is_some_and(|error| error <= tolerance)
}

/// Returns the number of spans of each pair: at least one, or none if the pair is not wanted.
fn spans(pairs: &[Pair<'_>], wanted: impl Fn(usize) -> bool) -> Vec<u64> {
    let count = |(number, pair): (usize, &Pair<'_>)| if wanted(number) { pair.elements.div_ceil(SPAN).max(1) } else { 0 };
    pairs.iter().enumerate().map(count).collect()
}

/// Compares the bytes of each pair; `None` if the types differ.
fn same_bytes(pairs: &[Pair<'_>], report_progress: &(dyn Fn(u64) + Sync)) -> Result<Vec<Option<bool>>> {
    let differ: Vec<AtomicBool> = pairs.iter().map(|_| AtomicBool::new(false)).collect();
    let alike = |pair: usize| pairs[pair].a.elem() == pairs[pair].b.elem();
    let compare_chunk = |(): &mut (), chunk: Chunk| -> Result<()> {
        let (pair, differs) = (&pairs[chunk.item], &differ[chunk.item]);
        if differs.load(Ordering::Relaxed) {
            return Ok(()); // one difference is enough
        }
        let start = chunk.number * SPAN;
        let elements = SPAN.min(pair.elements - start);
        let same = match (pair.a.elem(), pair.a.stored_tensor(), pair.b.stored_tensor()) {
            (ElemType::Unknown { .. }, Some(_), Some(_)) => pair.a.stored_bytes()? == pair.b.stored_bytes()?,
            _ => {
                let (a, b) = (pair.a.bytes(start, elements)?, pair.b.bytes(start, elements)?);
                report_progress(a.len() as u64);
                a == b
            }
        };
        if !same {
            differs.store(true, Ordering::Relaxed);
        }
        Ok(())
    };
    chunks::in_order(&spans(pairs, alike), compare_chunk, |(), _, ()| Ok(()))?;
    Ok((0..pairs.len()).map(|pair| alike(pair).then(|| !differ[pair].load(Ordering::Relaxed))).collect())
}

fn row(components: &Components, pair: &Pair<'_>, same: Option<bool>, found: &Option<PairSums>) -> TensorRow {
    let classification = components.classify(pair.name);
    let mut row = TensorRow {
        name: pair.name.to_owned(),
        dtype_a: pair.a.type_name(),
        dtype_b: pair.b.type_name(),
        equal: same,
        max_abs: None,
        rmse: None,
        relative_rmse: None,
        cosine: None,
        snr_db: None,
        changed: None,
        l2_a: None,
        l2_b: None,
        component: classification.component,
        layer: classification.layer,
        elements: pair.elements,
        dimensions: pair.dimensions,
    };
    if let Some([a, b]) = found.as_ref().map(|found| found.sums.norms()) {
        (row.l2_a, row.l2_b) = (Some(a).filter(|norm| norm.is_finite()), Some(b).filter(|norm| norm.is_finite()));
    }
    if same == Some(true) {
        (row.max_abs, row.rmse, row.relative_rmse, row.cosine, row.changed) = (Some(0.0), Some(0.0), Some(0.0), Some(1.0), Some(0.0));
    } else if let Some(found) = found {
        // Equal values with different bytes (another type, a zero of the other sign) are equal.
        row.equal = Some(found.changed == 0);
        row.changed = Some(found.changed as f64 / found.sums.count().max(1) as f64);
        if let Some(quality) = found.sums.quality() {
            (row.max_abs, row.rmse, row.relative_rmse) = (quality.max_abs, quality.rmse, quality.relative_rmse);
            (row.cosine, row.snr_db) = (quality.cosine, quality.snr_db);
        }
    }
    row
}

/// Returns the total size of a model's tensors in bytes.
fn bytes(reader: &Reader) -> u64 {
    reader.model().tensors.iter().filter_map(|tensor| tensor.len_bytes).fold(0, u64::saturating_add)
}
