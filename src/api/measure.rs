//! Read-only operations: lists, statistics, hashes, comparisons.

use crate::api::{Model, Progress};
use crate::base::Result;
use crate::format::Reader;
use crate::ops::diff::{self, Diff};
use crate::ops::hash::{self, Algorithm, HashReport};
use crate::ops::select::{Selection, SortBy};
use crate::ops::stats::{self, GroupBy, Stats};

/// Builder methods of options that select tensors by `filter` and `exclude`.
macro_rules! selects_tensors {
    () => {
        /// Adds a name pattern: only tensors that match one are selected. A pattern is a glob for the whole name (`*.mlp.*`); without
        /// wildcards it matches anywhere in the name.
        pub fn filter(mut self, pattern: impl Into<String>) -> Self {
            self.filter.push(pattern.into());
            self
        }

        /// Adds a name pattern: tensors that match it are excluded.
        pub fn exclude(mut self, pattern: impl Into<String>) -> Self {
            self.exclude.push(pattern.into());
            self
        }
    };
}

/// Options of [`Model::list`].
///
/// By default every tensor is listed, in file order.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ListOptions {
    filter: Vec<String>,
    exclude: Vec<String>,
    sort: SortBy,
    reverse: bool,
    limit: Option<usize>,
}

impl ListOptions {
    /// Returns the default options.
    pub fn new() -> Self {
        Self::default()
    }

    selects_tensors!();

    /// Sets the sort order.
    pub fn sort(mut self, by: SortBy) -> Self {
        self.sort = by;
        self
    }

    /// Sets whether the order is reversed.
    pub fn reverse(mut self, reverse: bool) -> Self {
        self.reverse = reverse;
        self
    }

    /// Limits the number of listed tensors; totals still cover all selected ones.
    pub fn limit(mut self, tensors: usize) -> Self {
        self.limit = Some(tensors);
        self
    }

    pub(super) fn selection(&self) -> Result<Selection> {
        Selection::new(&self.filter, &self.exclude, self.sort, self.reverse, self.limit)
    }
}

/// Options of [`Model::stats`].
///
/// By default every value of every tensor is read.
#[derive(Clone, Default)]
#[must_use]
pub struct StatsOptions<'a> {
    filter: Vec<String>,
    exclude: Vec<String>,
    by: GroupBy,
    threshold: Option<f64>,
    outlier: Option<f64>,
    sample: Option<u64>,
    progress: Option<Progress<'a>>,
}

impl<'a> StatsOptions<'a> {
    /// Returns the default options.
    pub fn new() -> Self {
        Self::default()
    }

    selects_tensors!();

    /// Sets how statistics are grouped.
    pub fn by(mut self, group: GroupBy) -> Self {
        self.by = group;
        self
    }

    /// Sets the magnitude below which a value counts as sparse (default 1e-6).
    pub fn threshold(mut self, magnitude: f64) -> Self {
        self.threshold = Some(magnitude);
        self
    }

    /// Sets the outlier threshold: rows are reported if their largest magnitude is more than this many times the median row's.
    pub fn outlier(mut self, times: f64) -> Self {
        self.outlier = Some(times);
        self
    }

    /// Reads only a sample: at most `elements` elements of each tensor, in evenly spread chunks.
    pub fn sample(mut self, elements: u64) -> Self {
        self.sample = Some(elements);
        self
    }

    /// Sets the callback for progress in reading values.
    pub fn progress(mut self, progress: Progress<'a>) -> Self {
        self.progress = Some(progress);
        self
    }
}

/// Computes statistics of the reader's tensors: logical weights or stored tensors.
pub(super) fn stats(reader: &Reader, options: &StatsOptions<'_>) -> Result<Stats> {
    let selection = Selection::new(&options.filter, &options.exclude, SortBy::File, false, None)?;
    let default = stats::Options::default();
    let options = stats::Options {
        selection: Some(&selection),
        by: options.by,
        stored: true,
        threshold: options.threshold.unwrap_or(default.threshold),
        outlier: options.outlier.unwrap_or(default.outlier),
        sample: options.sample,
        progress: options.progress,
        cancel: None,
    };
    stats::stats(reader, &options)
}

/// Options of [`Model::hash`].
///
/// By default the stored bytes of each tensor and of the model are hashed with SHA-256.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct HashOptions {
    algorithms: Vec<Algorithm>,
    content: bool,
    model_only: bool,
}

impl HashOptions {
    /// Returns the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an algorithm (default SHA-256).
    pub fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.algorithms.push(algorithm);
        self
    }

    /// Sets whether values under canonical names are hashed instead of stored bytes, so that a Hugging Face folder and its GGUF have equal
    /// hashes.
    pub fn content(mut self, content: bool) -> Self {
        self.content = content;
        self
    }

    /// Sets whether only the hash of the model is reported, not those of its tensors.
    pub fn model_only(mut self, model_only: bool) -> Self {
        self.model_only = model_only;
        self
    }
}

pub(super) fn hash(reader: &Reader, options: &HashOptions) -> Result<Vec<HashReport>> {
    let HashOptions { algorithms, content, model_only } = options.clone();
    let options = hash::Options { algorithms, tensors: !model_only, content, ..hash::Options::default() };
    hash::hashes(reader, &reader.model().path, &options)
}

/// Options of [`diff`].
///
/// By default names, shapes, types, metadata and values are compared.
#[derive(Clone, Default)]
#[must_use]
pub struct DiffOptions<'a> {
    filter: Vec<String>,
    exclude: Vec<String>,
    quick: bool,
    tolerance: Option<f64>,
    progress: Option<Progress<'a>>,
}

impl<'a> DiffOptions<'a> {
    /// Returns the default options.
    pub fn new() -> Self {
        Self::default()
    }

    selects_tensors!();

    /// Sets whether values are not decoded: only the bytes of tensors of equal type are compared.
    pub fn quick(mut self, quick: bool) -> Self {
        self.quick = quick;
        self
    }

    /// Sets the accepted relative RMSE of each tensor; types and metadata may then differ.
    pub fn tolerance(mut self, relative_rmse: f64) -> Self {
        self.tolerance = Some(relative_rmse);
        self
    }

    /// Sets the callback for progress in reading values.
    pub fn progress(mut self, progress: Progress<'a>) -> Self {
        self.progress = Some(progress);
        self
    }
}

/// Compares two models.
///
/// Tensors are matched by canonical name, across formats, types and shards. Two adapters are compared by their updates; an adapter and a
/// model are compared after merging.
///
/// ```
/// use weigh::{DiffOptions, report::diff::Kind};
///
/// let folder = weigh::open("fixtures/llama-tiny")?;
/// let quantised = weigh::open("fixtures/llama-tiny-q8_0.gguf")?;
/// let diff = weigh::diff(&folder, &quantised, &DiffOptions::new())?;
/// for tensor in &diff.tensors {
///     println!("{}: {:?}", tensor.name, tensor.relative_rmse);
/// }
/// assert_eq!(diff.verdict.kind, Kind::Quantised);
/// # Ok::<(), weigh::Error>(())
/// ```
///
/// # Errors
/// Values of either model cannot be read; a pattern is malformed or matches no tensor; an adapter does not fit its base.
pub fn diff(a: &Model, b: &Model, options: &DiffOptions<'_>) -> Result<Diff> {
    let selection = Selection::new(&options.filter, &options.exclude, SortBy::File, false, None)?;
    let options = diff::Options {
        quick: options.quick,
        tolerance: options.tolerance,
        selection: Some(&selection),
        progress: options.progress,
        ..diff::Options::default()
    };
    diff::diff(a.reader(), b.reader(), &options)
}
