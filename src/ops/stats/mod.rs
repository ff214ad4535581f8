//! The values of tensors: moments, extremes, percentiles and histograms, in one streaming pass on all threads.
//!
//! Counts are whole numbers, which add up the same in any order; sums are joined in the order of the file. So the digits do not
//! depend on the number of threads.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::base::finding::Finding;
use crate::base::threads::lock;
use crate::base::{Error, Result};
use crate::family::components::Components;
use crate::family::hyperparameters;
use crate::format::Reader;
use crate::model::{DType, PackingSummary, TensorInfo, TypeName};
use crate::ops::chunks::{self, Chunk};
use crate::ops::select::Selection;
use crate::ops::{Progress, weights};

mod codebooks;
mod counts;
mod findings;
mod moments;
mod rows;
mod scan;
mod summary;

pub use findings::OUTLIER_ROWS;
pub use rows::{RowStats, Rows, rows};
pub use summary::{Bins, Histogram, LINEAR_BINS, Linear, Log, PERCENTILES, Percentiles, SHAPE_BINS, Summary};

use counts::{Counts, Distribution};
use moments::Moments;
use scan::{CHUNK, Lens, Part, SPAN};

/// How many elements of a tensor are enough for a quick look.
pub const SAMPLE: u64 = 1 << 20;

/// Up to this many elements, percentiles are told from the values themselves, whatever their type: where values are few, neighbours
/// on both sides of zero lie far apart, and what is interpolated between them would be off by more than they are.
const FEW: u64 = 8192;

/// What values are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum GroupBy {
    /// Each tensor by itself.
    #[default]
    Tensor,
    /// The tensors of each layer; those of none together.
    Layer,
    /// The tensors of each component: embedding, attention, norms ...
    Component,
    /// The tensors of each type or packing.
    DType,
    /// All tensors.
    Model,
}

impl GroupBy {
    /// Returns its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tensor => "tensor",
            Self::Layer => "layer",
            Self::Component => "component",
            Self::DType => "dtype",
            Self::Model => "model",
        }
    }

    /// Returns the name of a tensor's group. Tensors that are told of by themselves are in one.
    fn group(self, reader: &Reader, components: &Components, tensor: &TensorInfo) -> String {
        let place = components.classify(&tensor.name);
        match self {
            Self::Tensor | Self::Model => Self::Model.name().to_owned(),
            Self::Layer => place.layer.map_or_else(|| "-".to_owned(), |layer| layer.to_string()),
            Self::Component => place.component.name().to_owned(),
            Self::DType => reader.type_name(tensor).to_string(),
        }
    }
}

/// What is asked of [`stats`].
pub struct Options<'a> {
    /// Which tensors are measured, in which order, and how many of them or of their groups are listed; all of them if not given.
    pub selection: Option<&'a Selection>,
    /// What values are told of.
    pub by: GroupBy,
    /// Measures packed weights as they are stored: integers and their scales.
    pub stored: bool,
    /// Magnitudes below this count as sparse.
    pub threshold: f64,
    /// A row is an outlier when its largest magnitude is this many times the median row's.
    pub outlier: f64,
    /// Looks at this many elements of each tensor, evenly spread in pieces, instead of all.
    pub sample: Option<u64>,
    /// Told how far the work is.
    pub progress: Option<Progress<'a>>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        let by = GroupBy::default();
        Self { selection: None, by, stored: false, threshold: 1e-6, outlier: OUTLIER_ROWS, sample: None, progress: None }
    }
}

/// What [`stats`] found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// `weigh.stats.v1`.
    pub schema: &'static str,
    /// How many elements of each tensor were looked at, at the most, if not all: everything below is of those alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<u64>,
    /// How the weights are packed, if they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<PackingSummary>,
    /// Magnitudes below this count as sparse.
    pub threshold: f64,
    /// Tensor by tensor, in the order given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensors: Option<Vec<TensorStats>>,
    /// What the groups are, if tensors were grouped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<&'static str>,
    /// Group by group, in the order of their first tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<GroupStats>>,
    /// All tensors together.
    pub total: Summary,
    /// What is worth a look.
    pub findings: Vec<Finding>,
    /// How many tensors were measured.
    #[serde(skip)]
    pub measured: u64,
}

/// The values of one tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TensorStats {
    /// Its name.
    pub name: String,
    /// The type of its elements, or its packing.
    pub dtype: TypeName,
    /// Its dimensions, outermost first.
    pub shape: Vec<u64>,
    /// How many bytes it takes in the files, scales and all; 0 where the size of its type is not known.
    #[serde(skip)]
    pub bytes: u64,
    /// Its values.
    #[serde(flatten)]
    pub summary: Box<Summary>,
}

/// The values of some tensors together.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct GroupStats {
    /// The name of the group.
    pub name: String,
    /// How many tensors it has.
    pub tensors: u64,
    /// Their values.
    #[serde(flatten)]
    pub summary: Summary,
}

/// A tensor while its spans are being looked at, and then.
enum Slot {
    Open(Option<Box<Whole>>),
    Done(Box<Done>),
}

impl Default for Slot {
    fn default() -> Self {
        Self::Open(None)
    }
}

/// What is known of one tensor while its spans are being looked at. It takes memory from its first span on.
#[derive(Default)]
struct Whole {
    counts: Counts,
    moments: Moments,
    row_max: Vec<f32>,
}

impl Whole {
    /// Adds the next part.
    fn add(&mut self, part: Part) {
        self.counts.add(&part.counts);
        self.moments.join(&part.moments);
        let first = part.first_row as usize;
        let rows = first + part.row_max.len();
        if self.row_max.len() < rows {
            self.row_max.resize(rows, 0.0);
        }
        for (all, part) in self.row_max[first..].iter_mut().zip(part.row_max) {
            *all = all.max(part);
        }
    }
}

/// A tensor that is done.
struct Done {
    stats: TensorStats,
    moments: Moments,
    findings: Vec<Finding>,
}

/// Counts of several tensors, by type.
#[derive(Default)]
struct Merged {
    left: usize,
    tensors: u64,
    elements: u64,
    counts: BTreeMap<DType, Counts>,
    min: f64,
    max: f64,
    distribution: Option<(Distribution, bool)>,
}

/// The elements of a tensor to look at: all of them in pieces of [`SPAN`], or `sample` in pieces of [`CHUNK`], spread evenly.
#[derive(Clone, Copy)]
struct Pieces {
    elements: u64,
    /// How many chunks are looked at, where not all are.
    wanted: Option<u64>,
}

impl Pieces {
    fn new(elements: u64, sample: Option<u64>) -> Self {
        let chunks = elements.div_ceil(CHUNK);
        let wanted = sample.map(|sample| sample.div_ceil(CHUNK).clamp(1, chunks.max(1)));
        Self { elements, wanted: wanted.filter(|wanted| *wanted < chunks) }
    }

    fn len(self) -> u64 {
        self.wanted.unwrap_or(self.elements.div_ceil(SPAN))
    }

    fn get(self, number: u64) -> Range<u64> {
        let (first, len) = match self.wanted {
            None => (number * SPAN, SPAN),
            Some(wanted) => {
                let chunks = self.elements.div_ceil(CHUNK);
                ((u128::from(number) * u128::from(chunks) / u128::from(wanted)) as u64 * CHUNK, CHUNK)
            }
        };
        first..self.elements.min(first + len)
    }

    /// How many threads may share the work, with `together` pieces each: one at the least.
    fn spans(self, together: u64) -> u64 {
        self.len().div_ceil(together).max(1)
    }

    /// The pieces of the span of this number; none where there are none.
    fn of_span(self, number: u64, together: u64) -> Vec<Range<u64>> {
        let first = number * together;
        (first..self.len().min(first + together)).map(|piece| self.get(piece)).collect()
    }
}

/// Measures the values of a model's weights.
///
/// # Errors
/// The selection matches no tensor, or values cannot be read. Tensors of a type that this build does not decode are no error, but a
/// finding.
pub fn stats(reader: &Reader, options: &Options<'_>) -> Result<Stats> {
    let reader = measured_as(reader, options)?;
    let tensors = selected(&reader, options)?;
    let mut stats = measure(&reader, &tensors, options)?;
    let limit = options.selection.map_or(usize::MAX, Selection::limit);
    stats.tensors.iter_mut().for_each(|tensors| tensors.truncate(limit));
    stats.groups.iter_mut().for_each(|groups| groups.truncate(limit));
    Ok(stats)
}

/// Measures one tensor of a model that is seen as its weights.
pub(in crate::ops) fn measure_one(reader: &Reader, tensor: &TensorInfo) -> Result<TensorStats> {
    let found = measure(reader, &[tensor], &Options::default())?.tensors.and_then(|mut tensors| tensors.pop());
    found.ok_or_else(|| Error::limit("expected the tensor to be measured, found it left out"))
}

/// Returns the model as its weights, or as it is stored.
fn measured_as<'r>(reader: &'r Reader, options: &Options<'_>) -> Result<Cow<'r, Reader>> {
    if options.stored { Ok(Cow::Borrowed(reader)) } else { weights::of(reader) }
}

/// Returns the selected tensors. None in a model that has some is a mistake.
fn selected<'r>(reader: &'r Reader, options: &Options<'_>) -> Result<Vec<&'r TensorInfo>> {
    let model = reader.model();
    let all = Selection::default();
    let selection = options.selection.unwrap_or(&all);
    let tensors = selection.pick(model);
    if tensors.is_empty() && !model.tensors.is_empty() {
        return Err(selection.nothing_selected(model.tensors.iter().map(|tensor| tensor.name.as_str())).in_file(&model.path));
    }
    Ok(tensors)
}

fn measure(reader: &Reader, tensors: &[&TensorInfo], options: &Options<'_>) -> Result<Stats> {
    let all_bytes = tensors.iter().filter_map(|tensor| tensor.len_bytes).fold(0, u64::saturating_add);
    let mut lenses: BTreeMap<DType, Option<Lens>> = BTreeMap::new();
    for dtype in tensors.iter().filter_map(|tensor| tensor.elem.known()) {
        lenses.entry(dtype).or_insert_with(|| Lens::new(dtype));
    }
    let lens = |tensor: &TensorInfo| lenses.get(&tensor.elem.known()?)?.as_ref();

    let components = hyperparameters::components(reader.model());
    let mut groups: Vec<(String, Mutex<Merged>)> = Vec::new();
    let mut group_of = Vec::new();
    let mut places = BTreeMap::new();
    for tensor in tensors {
        let name = options.by.group(reader, &components, tensor);
        let place = *places.entry(name.clone()).or_insert_with(|| {
            groups.push((name, Mutex::new(Merged { min: f64::INFINITY, max: f64::NEG_INFINITY, ..Merged::default() })));
            groups.len() - 1
        });
        let group = groups[place].1.get_mut().unwrap_or_else(PoisonError::into_inner);
        group.left += 1;
        group.tensors += 1;
        group.elements = group.elements.saturating_add(tensor.elements()?);
        group_of.push(place);
    }

    // Groups one after the other, so that the tables of few are in memory at a time.
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| group_of[i]);
    let together = if options.sample.is_some() { SPAN / CHUNK } else { 1 };
    let pieces = |tensor: &TensorInfo| -> Result<Pieces> {
        let elements = if lens(tensor).is_some() { tensor.elements()? } else { 0 };
        Ok(Pieces::new(elements, options.sample))
    };
    let counts = order.iter().map(|&i| Ok(pieces(tensors[i])?.spans(together))).collect::<Result<Vec<_>>>()?;
    let mut total = Mutex::new(Merged::default());
    let look = |(): &mut (), chunk: Chunk| -> Result<Option<Part>> {
        let tensor = tensors[order[chunk.item]];
        let Some(lens) = lens(tensor) else { return Ok(None) };
        let ranges = pieces(tensor)?.of_span(chunk.number, together);
        let part = scan::scan(reader, tensor, lens, &ranges, options.threshold)?;
        if let Some(progress) = options.progress {
            let examined: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            progress((examined as f64 * lens.codec.dtype.bits_per_weight() / 8.0) as u64, all_bytes);
        }
        Ok(Some(part))
    };
    let join = |slot: &mut Slot, chunk: Chunk, part: Option<Part>| -> Result<()> {
        let Slot::Open(whole) = slot else { return Ok(()) };
        part.into_iter().for_each(|part| whole.get_or_insert_default().add(part));
        if chunk.number + 1 < counts[chunk.item] {
            return Ok(());
        }
        let (whole, place) = (whole.take().unwrap_or_default(), order[chunk.item]);
        let done = match lens(tensors[place]) {
            Some(lens) => finish(reader, tensors[place], lens, &whole, options)?,
            None => unread(reader, tensors[place])?,
        };
        settle(tensors[place], &whole.counts, &done.moments, &lenses, &groups[group_of[place]].1, &total);
        *slot = Slot::Done(Box::new(done));
        Ok(())
    };
    let mut slots: Vec<(usize, Slot)> = order.iter().copied().zip(chunks::in_order(&counts, look, join)?).collect();
    slots.sort_by_key(|(place, _)| *place);
    reader.check_unchanged()?;
    let stats = report(slots, groups, &group_of, total.get_mut().unwrap_or_else(PoisonError::into_inner), &lenses, options)?;
    Ok(Stats { packing: weights::packing(reader), ..stats })
}

/// What a tensor's parts amount to.
fn finish(reader: &Reader, tensor: &TensorInfo, lens: &Lens, whole: &Whole, options: &Options<'_>) -> Result<Done> {
    let elements = tensor.elements()?;
    let mut exact = lens.counting.is_exact();
    let (moments, distribution) = match &lens.table {
        Some(table) => {
            let distribution = table.distribution(&whole.counts);
            let mut moments = Moments::of_counted(&distribution.values, options.threshold);
            moments.nan = distribution.nan;
            moments.inf = distribution.plus_inf + distribution.minus_inf;
            moments.minus_inf = distribution.minus_inf;
            (moments, distribution)
        }
        None => {
            let moments = whole.moments;
            exact = elements <= FEW;
            let distribution = if exact {
                Distribution::from_values(scan::values(reader, tensor, lens)?.into_iter().map(|value| (value, 1)))
            } else {
                Distribution::of_sketch(&whole.counts, moments.min, moments.max)
            };
            (moments, distribution)
        }
    };
    let summary = Box::new(Summary::new(elements, &moments, &distribution, exact));
    let stats = tensor_stats(reader, tensor, summary);
    let at_limit = lens.limit.map(|limit| {
        let ends = [distribution.values.first(), distribution.values.last()];
        let count = |end: Option<&(f64, u64)>, sign: f64| end.filter(|end| end.0 == sign * limit).map_or(0, |end| end.1);
        (limit, count(ends[0], -1.0) + count(ends[1], 1.0))
    });
    // Rows that were only sampled are not known to be dead.
    let rows = match options.sample {
        None => findings::Rows::of(&whole.row_max, options.outlier),
        Some(_) => findings::Rows::default(),
    };
    let findings = findings::of_tensor(&stats, &rows, at_limit);
    Ok(Done { stats, moments, findings })
}

fn tensor_stats(reader: &Reader, tensor: &TensorInfo, summary: Box<Summary>) -> TensorStats {
    let (dtype, bytes) = (reader.type_name(tensor), reader.stored_size(tensor));
    TensorStats { name: tensor.name.clone(), dtype, shape: tensor.shape.clone(), bytes, summary }
}

fn unread(reader: &Reader, tensor: &TensorInfo) -> Result<Done> {
    let summary = Box::new(Summary::unread(tensor.elements()?));
    let stats = tensor_stats(reader, tensor, summary);
    Ok(Done { stats, moments: Moments::default(), findings: vec![findings::unread(&tensor.name, tensor.elem)] })
}

/// Adds a tensor's counts to its group and to the total; the last one of a group tells what the group's counts amount to.
fn settle(
    tensor: &TensorInfo,
    counts: &Counts,
    moments: &Moments,
    lenses: &BTreeMap<DType, Option<Lens>>,
    group: &Mutex<Merged>,
    total: &Mutex<Merged>,
) {
    let mut group = lock(group);
    group.left -= 1;
    group.min = group.min.min(moments.min);
    group.max = group.max.max(moments.max);
    if let Some(dtype) = tensor.elem.known().filter(|_| moments.finite + moments.nan + moments.inf > 0) {
        group.counts.entry(dtype).or_default().add(counts);
    }
    if group.left == 0 {
        let counts = std::mem::take(&mut group.counts);
        let mut total = lock(total);
        for (&dtype, counts) in &counts {
            total.counts.entry(dtype).or_default().add(counts);
        }
        drop(total);
        group.distribution = Some(merged(&counts, lenses, group.min, group.max));
    }
}

/// The distribution of counts of several types: exact if they are of one type that is counted exactly.
fn merged(counts: &BTreeMap<DType, Counts>, lenses: &BTreeMap<DType, Option<Lens>>, min: f64, max: f64) -> (Distribution, bool) {
    let table = |dtype: &DType| lenses.get(dtype)?.as_ref()?.table.as_ref();
    if let (1, Some((dtype, counts))) = (counts.len(), counts.first_key_value())
        && let Some(table) = table(dtype)
    {
        return (table.distribution(counts), true);
    }
    let mut sketch = Counts::default();
    for (dtype, counts) in counts {
        match table(dtype) {
            Some(table) => sketch.add(&table.to_sketch(counts)),
            None => sketch.add(counts),
        }
    }
    (Distribution::of_sketch(&sketch, min, max), counts.is_empty())
}

fn report(
    slots: Vec<(usize, Slot)>,
    groups: Vec<(String, Mutex<Merged>)>,
    group_of: &[usize],
    total: &Merged,
    lenses: &BTreeMap<DType, Option<Lens>>,
    options: &Options<'_>,
) -> Result<Stats> {
    let mut all = Moments::default();
    let mut group_moments = vec![Moments::default(); groups.len()];
    let mut elements = 0u64;
    let mut tensors = Vec::with_capacity(slots.len());
    let mut findings = Vec::new();
    for ((_, slot), &group) in slots.into_iter().zip(group_of) {
        let Slot::Done(done) = slot else {
            return Err(Error::limit("expected every tensor to be looked at, found one left out"));
        };
        all.join(&done.moments);
        group_moments[group].join(&done.moments);
        elements = elements.saturating_add(done.stats.summary.elements);
        findings.extend(done.findings);
        tensors.push(done.stats);
    }
    findings.extend(findings::of_scales(&tensors));
    let (distribution, exact) = merged(&total.counts, lenses, all.min, all.max);
    let grouped = options.by != GroupBy::Tensor;
    let groups = groups.into_iter().zip(group_moments).map(|((name, merged), moments)| {
        let merged = merged.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (distribution, exact) = merged.distribution.unwrap_or((Distribution::default(), true));
        let summary = Summary::new(merged.elements, &moments, &distribution, exact);
        GroupStats { name, tensors: merged.tensors, summary }
    });
    Ok(Stats {
        schema: "weigh.stats.v1",
        measured: tensors.len() as u64,
        sample: options.sample,
        packing: None,
        threshold: options.threshold,
        by: grouped.then(|| options.by.name()),
        groups: grouped.then(|| groups.collect()),
        tensors: (!grouped).then_some(tensors),
        total: Summary::new(elements, &all, &distribution, exact),
        findings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_spread_and_never_more_than_there_is() {
        let pieces = |elements, sample| {
            let pieces = Pieces::new(elements, sample);
            (0..pieces.len()).map(|number| pieces.get(number)).collect::<Vec<_>>()
        };
        assert_eq!(pieces(10, None), vec![0..10; 1]);
        assert_eq!(pieces(10, Some(1)), vec![0..10; 1]);
        assert!(pieces(0, Some(5)).is_empty());
        let some = pieces(CHUNK * 10 + 3, Some(CHUNK * 2));
        assert_eq!(some, [0..CHUNK, CHUNK * 5..CHUNK * 6]);
        assert_eq!(pieces(SPAN + 1, None), [0..SPAN, SPAN..SPAN + 1]);
        let five = Pieces::new(CHUNK * 10, Some(CHUNK * 5));
        assert_eq!((five.spans(2), five.of_span(1, 2)), (3, vec![CHUNK * 4..CHUNK * 5, CHUNK * 6..CHUNK * 7]));
        assert_eq!(five.of_span(2, 2).len(), 1);
        assert_eq!((Pieces::new(0, None).spans(1), Pieces::new(0, None).of_span(0, 1)), (1, vec![]));
    }
}
