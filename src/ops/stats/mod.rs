//! Statistics of tensor values: moments, extremes, percentiles and histograms, in one streaming pass on all threads.
//!
//! Counts are integers, which add up in any order; sums are merged in file order. So the digits do not depend on the number of
//! threads.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
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
mod parts;
mod rows;
mod scan;
mod summary;

pub use findings::OUTLIER_ROWS;
pub use parts::{Joined, PartOfStats, join, part};
pub use rows::{RowStats, RowsReport, rows};
pub use summary::{Bins, Histogram, LINEAR_BINS, Linear, Log, PERCENTILES, Percentiles, SHAPE_BINS, Summary};

use counts::{Counts, Distribution};
use moments::Moments;
use scan::{CHUNK, DtypeScanner, Part, SPAN};

/// Number of elements of a tensor that a sample has by default.
pub const SAMPLE_ELEMENTS: u64 = 1 << 20;

/// Up to this many elements, percentiles are computed from the values themselves, whatever their type: with few values, neighbours
/// on both sides of zero are far apart, and interpolating between sketched values would be off by more than their error.
const EXACT_ELEMENTS: u64 = 8192;

/// Grouping of statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum GroupBy {
    /// Each tensor by itself.
    #[default]
    Tensor,
    /// The tensors of each layer; those outside layers together.
    Layer,
    /// The tensors of each component: embedding, attention, norms ...
    Component,
    /// The tensors of each type or packing.
    DType,
    /// All tensors.
    Model,
}

impl GroupBy {
    /// Returns the name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tensor => "tensor",
            Self::Layer => "layer",
            Self::Component => "component",
            Self::DType => "dtype",
            Self::Model => "model",
        }
    }

    /// Returns the name of a tensor's group; without grouping, all tensors are in one.
    fn group(self, reader: &Reader, components: &Components, tensor: &TensorInfo) -> String {
        let classification = components.classify(&tensor.name);
        match self {
            Self::Tensor | Self::Model => Self::Model.name().to_owned(),
            Self::Layer => classification.layer.map_or_else(|| "-".to_owned(), |layer| layer.to_string()),
            Self::Component => classification.component.name().to_owned(),
            Self::DType => reader.type_name(tensor).to_string(),
        }
    }
}

/// Options of [`stats`].
pub struct Options<'a> {
    /// The tensors to measure, their order, and the most of them (or of their groups) to list; all if `None`.
    pub selection: Option<&'a Selection>,
    /// Grouping of the statistics.
    pub by: GroupBy,
    /// Measures packed weights as stored: integers and their scales.
    pub stored: bool,
    /// Magnitudes below this count as sparse.
    pub threshold: f64,
    /// A row is an outlier if its largest magnitude exceeds this many times the median row's.
    pub outlier: f64,
    /// Measures this many elements of each tensor, in evenly spread chunks, instead of all.
    pub sample: Option<u64>,
    /// Progress callback.
    pub progress: Option<Progress<'a>>,
    /// Ends the work with an error once it is set.
    pub cancel: Option<&'a AtomicBool>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        let by = GroupBy::default();
        Self { selection: None, by, stored: false, threshold: 1e-6, outlier: OUTLIER_ROWS, sample: None, progress: None, cancel: None }
    }
}

/// Statistics of a model's values.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// `weigh.stats.v1`.
    pub schema: &'static str,
    /// The most elements measured per tensor, if not all: all figures below are estimates from these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<u64>,
    /// The packing of the weights, if they are packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<PackingSummary>,
    /// Magnitudes below this count as sparse.
    pub threshold: f64,
    /// Statistics per tensor, in selection order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensors: Option<Vec<TensorStats>>,
    /// The grouping, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<&'static str>,
    /// Statistics per group, in the order of their first tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<GroupStats>>,
    /// All tensors together.
    pub total: Summary,
    /// Findings about the values.
    pub findings: Vec<Finding>,
    /// Number of tensors measured.
    #[serde(skip)]
    pub measured: u64,
}

/// Statistics of one tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TensorStats {
    /// Its name.
    pub name: String,
    /// The type of its elements, or its packing.
    pub dtype: TypeName,
    /// Its dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Size in the files in bytes, scales included; 0 if the size of its type is unknown.
    #[serde(skip)]
    pub bytes: u64,
    /// Statistics of its values.
    #[serde(flatten)]
    pub summary: Box<Summary>,
}

/// Statistics of a group of tensors.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct GroupStats {
    /// Name of the group.
    pub name: String,
    /// Number of tensors.
    pub tensors: u64,
    /// Statistics of their values.
    #[serde(flatten)]
    pub summary: Summary,
}

/// The state of a tensor: in progress, or measured.
enum Slot {
    Open(Option<Box<Accumulator>>),
    Measured(Box<Measured>),
}

impl Default for Slot {
    fn default() -> Self {
        Self::Open(None)
    }
}

/// Accumulates the parts of one tensor. Allocated with the first part.
#[derive(Default)]
struct Accumulator {
    counts: Counts,
    moments: Moments,
    row_max: Vec<f32>,
}

impl Accumulator {
    /// Adds the next part.
    fn add(&mut self, part: Part) {
        self.counts.add(&part.counts);
        self.moments.merge(&part.moments);
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

/// A measured tensor.
struct Measured {
    stats: TensorStats,
    moments: Moments,
    findings: Vec<Finding>,
}

/// Accumulates the counts of several tensors, by type.
#[derive(Default)]
struct GroupCounts {
    remaining: usize,
    tensors: u64,
    elements: u64,
    counts: BTreeMap<DType, Counts>,
    min: f64,
    max: f64,
    distribution: Option<(Distribution, bool)>,
}

/// The ranges of a tensor to scan: all of it in spans of [`SPAN`], or a sample in chunks of [`CHUNK`], spread evenly.
#[derive(Clone, Copy)]
struct Ranges {
    elements: u64,
    /// Number of chunks in the sample; `None` to scan everything.
    sampled: Option<u64>,
}

impl Ranges {
    fn new(elements: u64, sample: Option<u64>) -> Self {
        let chunks = elements.div_ceil(CHUNK);
        let sampled = sample.map(|sample| sample.div_ceil(CHUNK).clamp(1, chunks.max(1)));
        Self { elements, sampled: sampled.filter(|sampled| *sampled < chunks) }
    }

    fn len(self) -> u64 {
        self.sampled.unwrap_or(self.elements.div_ceil(SPAN))
    }

    fn get(self, number: u64) -> Range<u64> {
        let (first, len) = match self.sampled {
            None => (number * SPAN, SPAN),
            Some(sampled) => {
                let chunks = self.elements.div_ceil(CHUNK);
                ((u128::from(number) * u128::from(chunks) / u128::from(sampled)) as u64 * CHUNK, CHUNK)
            }
        };
        first..self.elements.min(first + len)
    }

    /// Returns the number of spans that threads share, with `together` ranges each: at least one.
    fn spans(self, together: u64) -> u64 {
        self.len().div_ceil(together).max(1)
    }

    /// Returns the ranges of a span; empty if the tensor has no elements.
    fn of_span(self, number: u64, together: u64) -> Vec<Range<u64>> {
        let first = number * together;
        (first..self.len().min(first + together)).map(|index| self.get(index)).collect()
    }
}

/// Measures the values of a model's weights.
///
/// # Errors
/// The selection matches no tensor, or values cannot be read. A tensor of a type that this build cannot decode is a finding, not an
/// error.
pub fn stats(reader: &Reader, options: &Options<'_>) -> Result<Stats> {
    let reader = measured_as(reader, options)?;
    let tensors = selected(&reader, options)?;
    let mut stats = measure(&reader, &tensors, options)?;
    let limit = options.selection.map_or(usize::MAX, Selection::limit);
    stats.tensors.iter_mut().for_each(|tensors| tensors.truncate(limit));
    stats.groups.iter_mut().for_each(|groups| groups.truncate(limit));
    Ok(stats)
}

/// Measures one tensor of a model whose packed weights are already decoded.
pub(in crate::ops) fn measure_one(reader: &Reader, tensor: &TensorInfo) -> Result<TensorStats> {
    let found = measure(reader, &[tensor], &Options::default())?.tensors.and_then(|mut tensors| tensors.pop());
    found.ok_or_else(|| Error::limit("a tensor was not measured"))
}

/// Returns the model with packed weights decoded, or as stored.
fn measured_as<'r>(reader: &'r Reader, options: &Options<'_>) -> Result<Cow<'r, Reader>> {
    if options.stored { Ok(Cow::Borrowed(reader)) } else { weights::of(reader) }
}

/// Returns the selected tensors. A selection that matches nothing is an error, unless the model is empty.
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
    let stats = report(scan_all(reader, tensors, options)?, options)?;
    Ok(Stats { packing: weights::packing(reader), ..stats })
}

/// The measured tensors, and the counts of their values.
struct Scanned {
    /// By index in the selection.
    slots: Vec<(usize, Slot)>,
    groups: Vec<(String, Mutex<GroupCounts>)>,
    /// The group of each tensor.
    group_of: Vec<usize>,
    total: GroupCounts,
    scanners: BTreeMap<DType, Option<DtypeScanner>>,
}

/// Measures each tensor, on all threads.
fn scan_all(reader: &Reader, tensors: &[&TensorInfo], options: &Options<'_>) -> Result<Scanned> {
    let all_bytes = tensors.iter().filter_map(|tensor| tensor.len_bytes).fold(0, u64::saturating_add);
    let mut scanners: BTreeMap<DType, Option<DtypeScanner>> = BTreeMap::new();
    for dtype in tensors.iter().filter_map(|tensor| tensor.elem.known()) {
        scanners.entry(dtype).or_insert_with(|| DtypeScanner::new(dtype));
    }
    let scanner = |tensor: &TensorInfo| scanners.get(&tensor.elem.known()?)?.as_ref();

    let components = hyperparameters::components(reader.model());
    let mut groups: Vec<(String, Mutex<GroupCounts>)> = Vec::new();
    let mut group_of = Vec::new();
    let mut group_indices = BTreeMap::new();
    for tensor in tensors {
        let name = options.by.group(reader, &components, tensor);
        let index = *group_indices.entry(name.clone()).or_insert_with(|| {
            groups.push((name, Mutex::new(GroupCounts { min: f64::INFINITY, max: f64::NEG_INFINITY, ..GroupCounts::default() })));
            groups.len() - 1
        });
        let group = groups[index].1.get_mut().unwrap_or_else(PoisonError::into_inner);
        group.remaining += 1;
        group.tensors += 1;
        group.elements = group.elements.saturating_add(tensor.elements()?);
        group_of.push(index);
    }

    // Group after group, so that the count tables of few groups are in memory at a time.
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| group_of[i]);
    let together = if options.sample.is_some() { SPAN / CHUNK } else { 1 };
    let ranges_of = |tensor: &TensorInfo| -> Result<Ranges> {
        let elements = if scanner(tensor).is_some() { tensor.elements()? } else { 0 };
        Ok(Ranges::new(elements, options.sample))
    };
    let counts = order.iter().map(|&i| Ok(ranges_of(tensors[i])?.spans(together))).collect::<Result<Vec<_>>>()?;
    let total = Mutex::new(GroupCounts::default());
    if options.sample.is_none() {
        reader.announce(order.iter().map(|&index| tensors[index]));
    }
    let process = |(): &mut (), chunk: Chunk| -> Result<Option<Part>> {
        let tensor = tensors[order[chunk.item]];
        if options.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
            return Err(Error::limit("ended before its end"));
        }
        let Some(scanner) = scanner(tensor) else { return Ok(None) };
        let ranges = ranges_of(tensor)?.of_span(chunk.number, together);
        let part = scan::scan(reader, tensor, scanner, &ranges, options.threshold)?;
        if let Some(progress) = options.progress {
            let examined: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            progress((examined as f64 * scanner.codec.dtype.bits_per_weight() / 8.0) as u64, all_bytes);
        }
        Ok(Some(part))
    };
    let reduce = |slot: &mut Slot, chunk: Chunk, part: Option<Part>| -> Result<()> {
        let Slot::Open(accumulator) = slot else { return Ok(()) };
        part.into_iter().for_each(|part| accumulator.get_or_insert_default().add(part));
        if chunk.number + 1 < counts[chunk.item] {
            return Ok(());
        }
        let (accumulator, index) = (accumulator.take().unwrap_or_default(), order[chunk.item]);
        let measured = match scanner(tensors[index]) {
            Some(scanner) => summarize_tensor(reader, tensors[index], scanner, &accumulator, options)?,
            None => undecoded(reader, tensors[index])?,
        };
        merge_group(tensors[index], &accumulator.counts, &measured.moments, &scanners, &groups[group_of[index]].1, &total);
        *slot = Slot::Measured(Box::new(measured));
        Ok(())
    };
    let mut slots: Vec<(usize, Slot)> = order.iter().copied().zip(chunks::in_order(&counts, process, reduce)?).collect();
    slots.sort_by_key(|(index, _)| *index);
    reader.check_unchanged()?;
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Scanned { slots, groups, group_of, total, scanners })
}

/// Computes the statistics and findings of a tensor from its accumulated parts.
fn summarize_tensor(
    reader: &Reader,
    tensor: &TensorInfo,
    scanner: &DtypeScanner,
    accumulator: &Accumulator,
    options: &Options<'_>,
) -> Result<Measured> {
    let elements = tensor.elements()?;
    let mut exact = scanner.counting.is_exact();
    let (moments, distribution) = match &scanner.table {
        Some(table) => {
            let distribution = table.distribution(&accumulator.counts);
            let mut moments = Moments::of_counted(&distribution.values, options.threshold);
            moments.nan = distribution.nan;
            moments.inf = distribution.plus_inf + distribution.minus_inf;
            moments.minus_inf = distribution.minus_inf;
            (moments, distribution)
        }
        None => {
            let moments = accumulator.moments;
            exact = elements <= EXACT_ELEMENTS;
            let distribution = if exact {
                Distribution::from_values(scan::values(reader, tensor, scanner)?.into_iter().map(|value| (value, 1)))
            } else {
                Distribution::of_sketch(&accumulator.counts, moments.min, moments.max)
            };
            (moments, distribution)
        }
    };
    let summary = Box::new(Summary::new(elements, &moments, &distribution, exact));
    let stats = tensor_stats(reader, tensor, summary);
    let at_limit = scanner.limit.map(|limit| {
        let ends = [distribution.values.first(), distribution.values.last()];
        let count = |end: Option<&(f64, u64)>, sign: f64| end.filter(|end| end.0 == sign * limit).map_or(0, |end| end.1);
        (limit, count(ends[0], -1.0) + count(ends[1], 1.0))
    });
    // A sample cannot show that a row is dead.
    let rows = match options.sample {
        None => findings::RowOutliers::of(&accumulator.row_max, options.outlier),
        Some(_) => findings::RowOutliers::default(),
    };
    let findings = findings::of_tensor(&stats, &rows, at_limit);
    Ok(Measured { stats, moments, findings })
}

fn tensor_stats(reader: &Reader, tensor: &TensorInfo, summary: Box<Summary>) -> TensorStats {
    let (dtype, bytes) = (reader.type_name(tensor), reader.stored_size(tensor));
    TensorStats { name: tensor.name.clone(), dtype, shape: tensor.shape.clone(), bytes, summary }
}

fn undecoded(reader: &Reader, tensor: &TensorInfo) -> Result<Measured> {
    let summary = Box::new(Summary::unread(tensor.elements()?));
    let stats = tensor_stats(reader, tensor, summary);
    Ok(Measured { stats, moments: Moments::default(), findings: vec![findings::undecoded(&tensor.name, tensor.elem)] })
}

/// Adds a tensor's counts to its group and to the total; the last tensor of a group completes the group's distribution.
fn merge_group(
    tensor: &TensorInfo,
    counts: &Counts,
    moments: &Moments,
    scanners: &BTreeMap<DType, Option<DtypeScanner>>,
    group: &Mutex<GroupCounts>,
    total: &Mutex<GroupCounts>,
) {
    let mut group = lock(group);
    group.remaining -= 1;
    group.min = group.min.min(moments.min);
    group.max = group.max.max(moments.max);
    if let Some(dtype) = tensor.elem.known().filter(|_| moments.finite + moments.nan + moments.inf > 0) {
        group.counts.entry(dtype).or_default().add(counts);
    }
    if group.remaining == 0 {
        let counts = std::mem::take(&mut group.counts);
        let mut total = lock(total);
        for (&dtype, counts) in &counts {
            total.counts.entry(dtype).or_default().add(counts);
        }
        drop(total);
        group.distribution = Some(merge_distributions(&counts, scanners, group.min, group.max));
    }
}

/// Merges counts of several types into a distribution, and returns whether it is exact: it is for a single, exactly counted type.
fn merge_distributions(
    counts: &BTreeMap<DType, Counts>,
    scanners: &BTreeMap<DType, Option<DtypeScanner>>,
    min: f64,
    max: f64,
) -> (Distribution, bool) {
    let table = |dtype: &DType| scanners.get(dtype)?.as_ref()?.table.as_ref();
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

fn report(scanned: Scanned, options: &Options<'_>) -> Result<Stats> {
    let Scanned { slots, groups, group_of, total, scanners } = scanned;
    let mut all = Moments::default();
    let mut group_moments = vec![Moments::default(); groups.len()];
    let mut elements = 0u64;
    let mut tensors = Vec::with_capacity(slots.len());
    let mut findings = Vec::new();
    for ((_, slot), group) in slots.into_iter().zip(group_of) {
        let Slot::Measured(measured) = slot else {
            return Err(Error::limit("a tensor was not measured"));
        };
        all.merge(&measured.moments);
        group_moments[group].merge(&measured.moments);
        elements = elements.saturating_add(measured.stats.summary.elements);
        findings.extend(measured.findings);
        tensors.push(measured.stats);
    }
    findings.extend(findings::of_scales(tensors.iter().map(|stats| (stats.name.as_str(), stats.summary.l2, stats.summary.elements))));
    let (distribution, exact) = merge_distributions(&total.counts, &scanners, all.min, all.max);
    let grouped = options.by != GroupBy::Tensor;
    let groups = groups.into_iter().zip(group_moments).map(|((name, group), moments)| {
        let group = group.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (distribution, exact) = group.distribution.unwrap_or((Distribution::default(), true));
        let summary = Summary::new(group.elements, &moments, &distribution, exact);
        GroupStats { name, tensors: group.tensors, summary }
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
        let ranges = |elements, sample| {
            let ranges = Ranges::new(elements, sample);
            (0..ranges.len()).map(|number| ranges.get(number)).collect::<Vec<_>>()
        };
        assert_eq!(ranges(10, None), vec![0..10; 1]);
        assert_eq!(ranges(10, Some(1)), vec![0..10; 1]);
        assert!(ranges(0, Some(5)).is_empty());
        let some = ranges(CHUNK * 10 + 3, Some(CHUNK * 2));
        assert_eq!(some, [0..CHUNK, CHUNK * 5..CHUNK * 6]);
        assert_eq!(ranges(SPAN + 1, None), [0..SPAN, SPAN..SPAN + 1]);
        let five = Ranges::new(CHUNK * 10, Some(CHUNK * 5));
        assert_eq!((five.spans(2), five.of_span(1, 2)), (3, vec![CHUNK * 4..CHUNK * 5, CHUNK * 6..CHUNK * 7]));
        assert_eq!(five.of_span(2, 2).len(), 1);
        assert_eq!((Ranges::new(0, None).spans(1), Ranges::new(0, None).of_span(0, 1)), (1, vec![]));
    }
}
