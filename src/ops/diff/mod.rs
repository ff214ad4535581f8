//! Two models compared: names, shapes, types, metadata, values.
//!
//! Tensors are matched by canonical name. Where one side is a Hugging Face folder and the other a GGUF, the folder is seen as the GGUF
//! that it would become, so that names, layouts and keys meet. Adapters are seen as their updates, or as what they make of a model.
//! Both sides are streamed: equal bytes are told without decoding; what differs is decoded in fixed chunks, whose sums are joined in
//! order.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::base::{Error, Hint, Result, num, units};
use crate::family::components::{Component, Components};
use crate::family::hyperparameters;
use crate::family::table::Tables;
use crate::format::Reader;
use crate::model::{ElemType, FormatId, Metadata, PackingSummary, TypeName};
use crate::ops::body::Body;
use crate::ops::chunks::{self, Chunk};
use crate::ops::select::Selection;
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

use measure::Found;

/// How many elements one thread takes at a time.
const SPAN: u64 = 1 << 21;

/// What is asked of [`diff`].
#[derive(Default)]
pub struct Options<'a> {
    /// Compares names, shapes, types, metadata, and bytes where both sides have the same type; decodes nothing.
    pub quick: bool,
    /// Values may differ by this relative root mean square, and types and metadata in any way, and the models still count as equal.
    pub tolerance: Option<f64>,
    /// Which tensors are compared, by canonical name, and in which order: that of the first model's. All of them if not given.
    pub selection: Option<&'a Selection>,
    /// Lists only tensors that are not equal.
    pub differing: bool,
    /// Told how far the work is: of bytes in all, at least those of the larger model.
    pub progress: Option<Progress<'a>>,
}

/// What [`diff`] found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Diff {
    /// `weigh.diff.v1`.
    pub schema: &'static str,
    /// The path of the second model; that of the first is the path of the document.
    pub path_b: String,
    /// What was compared.
    pub compared: Compared,
    /// Whether nothing of what was compared differs.
    pub identical: bool,
    /// What the pair looks like.
    pub verdict: Verdict,
    /// What became of the tolerance, if one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<Tolerance>,
    /// Tensors that only the first model has.
    pub only_a: Vec<String>,
    /// Tensors that only the second model has.
    pub only_b: Vec<String>,
    /// Tensors that both have in different shapes: of their values, only rows of embeddings that both have are compared.
    pub shapes: Vec<ShapeRow>,
    /// Metadata that differs, where both sides have the same sort.
    pub metadata: Vec<MetadataRow>,
    /// Tensors that both have, in the order of the first: no more than the selection lists.
    pub tensors: Vec<TensorRow>,
    /// The tensors that both have and that are not listed.
    #[serde(skip)]
    pub unlisted: Unlisted,
    /// The packing of both, if packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<PackingSummary>,
    /// How the weights of each are packed, if they are.
    #[serde(skip)]
    pub packings: [Option<PackingSummary>; 2],
    /// What to know about how they were compared.
    pub notes: Vec<String>,
    /// Whether both are adapters, whose updates were compared.
    #[serde(skip)]
    pub adapters: bool,
    /// Whether the two count as different: by anything, or by more than the tolerance.
    #[serde(skip)]
    pub differ: bool,
}

/// How many tensors both models have that are not listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Unlisted {
    /// Those that are equal, where only others are listed.
    pub equal: u64,
    /// Those beyond the limit of the selection.
    pub beyond: u64,
}

/// What was compared, and so what a verdict is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Compared {
    /// How many tensors both models have, selected and in the same shape.
    pub tensors: u64,
    /// How many tensors the first model has, selected or not.
    pub tensors_a: u64,
    /// How many tensors the second model has, selected or not.
    pub tensors_b: u64,
    /// Whether tensors were left out that the selection does not match.
    pub filtered: bool,
    /// Whether values were compared; otherwise only bytes of the same type were.
    pub values: bool,
    /// Whether metadata was compared.
    pub metadata: bool,
}

impl Diff {
    /// Takes out what is not to be listed.
    fn list(&mut self, options: &Options<'_>) {
        let all = self.tensors.len();
        self.tensors.retain(|row| !options.differing || row.equal != Some(true));
        let wanted = self.tensors.len();
        self.tensors.truncate(options.selection.map_or(usize::MAX, Selection::limit));
        self.unlisted = Unlisted { equal: (all - wanted) as u64, beyond: (wanted - self.tensors.len()) as u64 };
    }
}

/// How large the differences are beside what is tolerated.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Tolerance {
    /// The largest relative root mean square of the differences of a tensor that is tolerated.
    pub limit: f64,
    /// Whether both have the same tensors in the same shapes, each within the limit.
    pub within: bool,
    /// The largest relative error that was found.
    pub largest: Option<f64>,
    /// The tensor that has it; null where no value differs.
    pub tensor: Option<String>,
    /// How many tensors are beyond the limit, or have no relative error: NaN, or nothing but zeros in the first.
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

/// A tensor of two shapes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ShapeRow {
    /// Its canonical name.
    pub name: String,
    /// Its dimensions in the first model, outermost first.
    pub shape_a: Vec<u64>,
    /// Its dimensions in the second model, outermost first.
    pub shape_b: Vec<u64>,
    /// The rows that both have, of embeddings and output matrices of vocabularies of different sizes.
    pub shared: Option<SharedRows>,
}

/// The first rows of two matrices, as many as both have.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SharedRows {
    /// How many they are.
    pub rows: u64,
    /// Whether every value in them is the same; null where that was not looked at.
    pub equal: Option<bool>,
    /// The largest difference, as an absolute value.
    pub max_abs: Option<f64>,
    /// The root mean square of the differences over that of the first model's values.
    pub relative_rmse: Option<f64>,
}

/// A tensor that both have. A figure that is no number, or was not asked for, is null.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TensorRow {
    /// Its canonical name.
    pub name: String,
    /// Its type in the first model, or its packing.
    pub dtype_a: TypeName,
    /// The same in the second model.
    pub dtype_b: TypeName,
    /// Whether every value is the same; null where that was not looked at.
    pub equal: Option<bool>,
    /// The largest difference, as an absolute value.
    pub max_abs: Option<f64>,
    /// The root of the mean square of the differences.
    pub rmse: Option<f64>,
    /// The same over the root of the mean square of the first model's values.
    pub relative_rmse: Option<f64>,
    /// The cosine of the angle between both, as vectors.
    pub cosine: Option<f64>,
    /// `10 log10(sum of squares of the first / sum of squared differences)`, in decibels.
    pub snr_db: Option<f64>,
    /// The share of the elements that differ.
    pub changed: Option<f64>,
    /// The square root of the sum of squares of the first model's values; null where they were not looked at.
    pub l2_a: Option<f64>,
    /// The same of the second model's values.
    pub l2_b: Option<f64>,
    /// Where it belongs, told from its name.
    #[serde(skip)]
    pub component: Component,
    /// The number of its layer.
    #[serde(skip)]
    pub layer: Option<u64>,
    /// How many elements it has.
    #[serde(skip)]
    pub elements: u64,
    /// How many dimensions it has.
    #[serde(skip)]
    pub dimensions: usize,
}

/// One model, as it is compared.
struct Side<'r> {
    reader: &'r Reader,
    steps: Vec<OutputTensor>,
    metadata: Metadata,
}

impl<'r> Side<'r> {
    /// Tensors under their own names.
    fn plain(reader: &'r Reader) -> Result<Self> {
        let model = reader.model();
        let steps = (0..model.tensors.len()).map(|index| OutputTensor::original(model, index)).collect::<Result<_>>()?;
        Ok(Self { reader, steps, metadata: model.metadata.clone() })
    }

    /// Tensors under their canonical names, as far as the architecture is known.
    fn canonical(reader: &'r Reader) -> Result<Self> {
        let model = reader.model();
        Ok(Self { reader, steps: view::canonical(model, &Tables::default())?, metadata: model.metadata.clone() })
    }

    /// A Hugging Face folder as the GGUF that it would become.
    fn as_gguf(reader: &'r Reader) -> Result<Self> {
        let draft = to_gguf::draft(reader.model(), &Default::default(), &Default::default())?;
        Ok(Self { reader, steps: draft.steps, metadata: draft.metadata })
    }

    /// Whether half of the tensors of either have a name of the other.
    fn meets(&self, other: &Self) -> bool {
        let names: HashSet<&str> = self.steps.iter().map(|step| step.name.as_str()).collect();
        let common = other.steps.iter().filter(|step| names.contains(step.name.as_str())).count();
        2 * common >= self.steps.len().min(other.steps.len())
    }
}

/// Two models, ready to be compared as their weights, and what to know about it: of adapters, two are seen as their updates, and one as what it makes of
/// the other model.
///
/// # Errors
/// An adapter is not one of LoRA, or does not fit the model.
fn sides<'r>(a: &'r Reader, b: &'r Reader) -> Result<(Cow<'r, Reader>, Cow<'r, Reader>, Option<&'static str>)> {
    if let (Some(form), Some(other)) = (Form::of(a), Form::of(b))
        && (form == Form::Gguf) != (other == Form::Gguf)
    {
        return Err(Error::unsupported("expected two adapters whose modules have the same names, found one in GGUF and one that is not")
            .in_file(&b.model().path)
            .hint(Hint::ConvertAdapter));
    }
    let (a, b) = (weights::of(a)?, weights::of(b)?);
    let updates = |adapter: Cow<'r, Reader>| lora::updates(adapter.into_owned()).map(Cow::Owned);
    let merged = |base: &Reader, adapter: Cow<'r, Reader>| lora::merged(base.clone(), vec![adapter.into_owned()]).map(Cow::Owned);
    Ok(match (lora::is_adapter(&a), lora::is_adapter(&b)) {
        (false, false) => (a, b, None),
        (true, true) => (updates(a)?, updates(b)?, Some("of the adapters the updates are compared: B A alpha / r")),
        (false, true) => {
            let merged = merged(&a, b)?;
            (a, merged, Some("the second is compared as what the adapter makes of the first"))
        }
        (true, false) => {
            let merged = merged(&b, a)?;
            (merged, b, Some("the first is compared as what the adapter makes of the second"))
        }
    })
}

/// Both models under names that meet, and whether their metadata can be compared.
fn meet<'r>(a: &'r Reader, b: &'r Reader, notes: &mut Vec<String>) -> Result<(Side<'r>, Side<'r>, bool)> {
    let (mut left, mut right) = (Side::plain(a)?, Side::plain(b)?);
    let is_gguf = |reader: &Reader| reader.model().format == FormatId::Gguf;
    let same_sort = is_gguf(a) == is_gguf(b);
    if left.meets(&right) {
        return Ok((left, right, same_sort)); // of one sort, or moved under their own names
    }
    let (left_canonical, right_canonical) = (Side::canonical(a)?, Side::canonical(b)?);
    if !left_canonical.meets(&right_canonical) {
        return Ok((left, right, same_sort));
    }
    if same_sort {
        notes.push("tensors are compared by their names in GGUF".to_owned());
        return Ok((left_canonical, right_canonical, true));
    }
    let (folder, side, canonical) = if is_gguf(a) { (b, &mut right, right_canonical) } else { (a, &mut left, left_canonical) };
    match Side::as_gguf(folder) {
        Ok(whole) => {
            *side = whole;
            notes.push("the Hugging Face folder is compared as the GGUF that it would become".to_owned());
            Ok((left, right, true))
        }
        Err(error) => {
            *side = canonical;
            notes.push(format!("metadata is not compared: {error}"));
            Ok((left, right, false))
        }
    }
}

/// A tensor that both have.
struct Pair<'s> {
    name: &'s str,
    a: Body<'s>,
    b: Body<'s>,
    elements: u64,
    dimensions: usize,
}

/// Compares two open models by their weights; of adapters, two by their updates, and one by what it makes of the other model.
///
/// # Errors
/// Values of either cannot be read; the selection matches no tensor of either; an adapter is not one of LoRA, or does not fit the model.
pub fn diff(a: &Reader, b: &Reader, options: &Options<'_>) -> Result<Diff> {
    let (left, right, note) = sides(a, b)?;
    let mut diff = compare(&left, &right, options)?;
    diff.notes.extend(note.map(str::to_owned));
    diff.path_b = b.model().path.to_string_lossy().into_owned();
    diff.list(options);
    Ok(diff)
}

fn compare(a: &Reader, b: &Reader, options: &Options<'_>) -> Result<Diff> {
    let mut notes = Vec::new();
    let components = hyperparameters::components(a.model());
    let (left, right, comparable) = meet(a, b, &mut notes)?;
    let all = Selection::default();
    let selection = options.selection.unwrap_or(&all);
    let in_b: HashMap<&str, &OutputTensor> = right.steps.iter().map(|step| (step.name.as_str(), step)).collect();
    let in_a: HashSet<&str> = left.steps.iter().map(|step| step.name.as_str()).collect();
    let (mut only_a, mut shapes, mut pairs, mut shared) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for step in selection.arrange(left.steps.iter().collect(), |step| &step.name, |step| traits(step)) {
        let Some(other) = in_b.get(step.name.as_str()) else {
            only_a.push(step.name.clone());
            continue;
        };
        let pair = |elements| -> Result<Pair<'_>> {
            let (a, b) = (Body::new(left.reader, step)?, Body::new(right.reader, other)?);
            Ok(Pair { name: &step.name, a, b, elements, dimensions: step.shape.len() })
        };
        if num::squeezed(&step.shape) == num::squeezed(&other.shape) {
            pairs.push(pair(step.elements()?)?);
            continue;
        }
        if let Some((rows, elements)) = shared_rows(&components, step, other) {
            shared.push(((shapes.len(), rows), pair(elements)?));
        }
        shapes.push(ShapeRow { name: step.name.clone(), shape_a: step.shape.clone(), shape_b: other.shape.clone(), shared: None });
    }
    let only_b = right.steps.iter().map(|step| &step.name).filter(|name| selection.matches(name) && !in_a.contains(name.as_str()));
    let only_b: Vec<String> = only_b.cloned().collect();

    let names = || left.steps.iter().chain(&right.steps).map(|step| step.name.as_str());
    let filtered = names().any(|name| !selection.matches(name));
    if filtered && !names().any(|name| selection.matches(name)) {
        return Err(selection.nothing_selected(left.steps.iter().map(|step| step.name.as_str())));
    }

    let whole = pairs.len();
    let (places, rows_of_both): (Vec<(usize, u64)>, Vec<Pair<'_>>) = shared.into_iter().unzip();
    pairs.extend(rows_of_both);
    let all_bytes = bytes(a).max(bytes(b));
    let told = |bytes: u64| {
        if let Some(progress) = options.progress {
            progress(bytes, all_bytes);
        }
    };
    let same = same_bytes(&pairs, &told)?;
    let adapters = lora::is_adapter(a) && lora::is_adapter(b);
    let measured = if options.quick { vec![None; pairs.len()] } else { measure::measure(&pairs, &same, &told)? };
    a.check_unchanged().and_then(|()| b.check_unchanged())?;
    let mut tensors: Vec<TensorRow> =
        pairs.iter().zip(same.iter().zip(&measured)).map(|(pair, (same, found))| row(&components, pair, *same, found)).collect();
    for ((place, rows), row) in places.into_iter().zip(tensors.iter().skip(whole)) {
        let shared = SharedRows { rows, equal: row.equal, max_abs: row.max_abs, relative_rmse: row.relative_rmse };
        shapes.get_mut(place).into_iter().for_each(|shape: &mut ShapeRow| shape.shared = Some(shared.clone()));
    }

    let metadata = if comparable { metadata::compare(&left.metadata, &right.metadata) } else { Vec::new() };
    let compared = Compared {
        tensors: whole as u64,
        tensors_a: left.steps.len() as u64,
        tensors_b: right.steps.len() as u64,
        filtered,
        values: !options.quick,
        metadata: comparable,
    };
    if filtered {
        let all = units::counted(compared.tensors_a.max(compared.tensors_b), "tensor");
        notes.push(format!("only what was selected is compared: {} of {all}", units::grouped(compared.tensors)));
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
        packing: weights::packing_of_both(a, b),
        packings: [weights::packing(a), weights::packing(b)],
        notes,
        adapters,
        differ,
    })
}

/// How many rows two matrices of vocabularies share, and how many elements those have.
fn shared_rows(components: &Components, a: &OutputTensor, b: &OutputTensor) -> Option<(u64, u64)> {
    let vocabulary = matches!(components.classify(&a.name).component, Component::Embedding | Component::Output);
    let (&[rows_a, ref row_a @ ..], &[rows_b, ref row_b @ ..]) = (&a.shape[..], &b.shape[..]) else { return None };
    let decoded = a.elem.known().is_some() && b.elem.known().is_some();
    let rows = rows_a.min(rows_b);
    let elements = num::elements(row_a).ok()?.checked_mul(rows)?;
    (vocabulary && decoded && row_a == row_b).then_some((rows, elements))
}

/// What tensors are ordered by: stored bytes, elements, type.
fn traits(step: &OutputTensor) -> (Option<u64>, u64, ElemType) {
    let elements = step.elements().unwrap_or(u64::MAX);
    (step.elem.known().and_then(|dtype| dtype.bytes_for(elements).ok()), elements, step.elem)
}

fn within(row: &TensorRow, tolerance: f64) -> bool {
    row.equal == Some(true) || row.relative_rmse.is_some_and(|error| error <= tolerance)
}

/// Returns how many spans each pair has: one at the least, and none where it is not wanted.
fn spans(pairs: &[Pair<'_>], wanted: impl Fn(usize) -> bool) -> Vec<u64> {
    let count = |(number, pair): (usize, &Pair<'_>)| if wanted(number) { pair.elements.div_ceil(SPAN).max(1) } else { 0 };
    pairs.iter().enumerate().map(count).collect()
}

/// Whether the bytes of each pair are the same; `None` where the types differ.
fn same_bytes(pairs: &[Pair<'_>], told: &(dyn Fn(u64) + Sync)) -> Result<Vec<Option<bool>>> {
    let differ: Vec<AtomicBool> = pairs.iter().map(|_| AtomicBool::new(false)).collect();
    let alike = |pair: usize| pairs[pair].a.elem() == pairs[pair].b.elem();
    let look = |(): &mut (), chunk: Chunk| -> Result<()> {
        let (pair, differs) = (&pairs[chunk.item], &differ[chunk.item]);
        if differs.load(Ordering::Relaxed) {
            return Ok(()); // one difference is enough
        }
        let start = chunk.number * SPAN;
        let elements = SPAN.min(pair.elements - start);
        let same = match (pair.a.elem(), pair.a.whole(), pair.b.whole()) {
            (ElemType::Unknown { .. }, Some(_), Some(_)) => pair.a.stored()? == pair.b.stored()?,
            _ => {
                let (a, b) = (pair.a.bytes(start, elements)?, pair.b.bytes(start, elements)?);
                told(a.len() as u64);
                a == b
            }
        };
        if !same {
            differs.store(true, Ordering::Relaxed);
        }
        Ok(())
    };
    chunks::in_order(&spans(pairs, alike), look, |(), _, ()| Ok(()))?;
    Ok((0..pairs.len()).map(|pair| alike(pair).then(|| !differ[pair].load(Ordering::Relaxed))).collect())
}

fn row(components: &Components, pair: &Pair<'_>, same: Option<bool>, found: &Option<Found>) -> TensorRow {
    let place = components.classify(pair.name);
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
        component: place.component,
        layer: place.layer,
        elements: pair.elements,
        dimensions: pair.dimensions,
    };
    if let Some([a, b]) = found.as_ref().map(|found| found.sums.norms()) {
        (row.l2_a, row.l2_b) = (Some(a).filter(|norm| norm.is_finite()), Some(b).filter(|norm| norm.is_finite()));
    }
    if same == Some(true) {
        (row.max_abs, row.rmse, row.relative_rmse, row.cosine, row.changed) = (Some(0.0), Some(0.0), Some(0.0), Some(1.0), Some(0.0));
    } else if let Some(found) = found {
        // Same values in other bytes (another type, a zero of the other sign) are equal.
        row.equal = Some(found.changed == 0);
        row.changed = Some(found.changed as f64 / found.sums.count().max(1) as f64);
        if let Some(quality) = found.sums.quality() {
            (row.max_abs, row.rmse, row.relative_rmse) = (quality.max_abs, quality.rmse, quality.relative_rmse);
            (row.cosine, row.snr_db) = (quality.cosine, quality.snr_db);
        }
    }
    row
}

/// How many bytes the tensors of a model take.
fn bytes(reader: &Reader) -> u64 {
    reader.model().tensors.iter().filter_map(|tensor| tensor.len_bytes).fold(0, u64::saturating_add)
}
