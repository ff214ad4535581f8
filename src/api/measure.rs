//! Operations that read: lists, figures, hashes, comparisons.

use crate::api::{Model, Progress};
use crate::base::Result;
use crate::family::components;
use crate::family::table::Tables;
use crate::format::Reader;
use crate::model::TensorInfo;
use crate::ops::diff::{self, Diff};
use crate::ops::hash::{self, Algorithm, HashReport};
use crate::ops::select::{Selection, SortBy};
use crate::ops::stats::{self, Stats};

/// The builders of options that select tensors by `filter` and `exclude`.
macro_rules! selects_tensors {
    () => {
        /// Adds a pattern of names: only tensors that match one are taken. A pattern is a glob of the whole name (`*.mlp.*`) or a piece
        /// of it.
        pub fn filter(mut self, pattern: impl Into<String>) -> Self {
            self.filter.push(pattern.into());
            self
        }

        /// Adds a pattern of names: tensors that match it are left out.
        pub fn exclude(mut self, pattern: impl Into<String>) -> Self {
            self.exclude.push(pattern.into());
            self
        }
    };
}

/// What [`Model::list`] lists. The default is every tensor in the order of the files.
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

    /// Sets the order.
    pub fn sort(mut self, by: SortBy) -> Self {
        self.sort = by;
        self
    }

    /// Sets whether the order is turned round.
    pub fn reverse(mut self, reverse: bool) -> Self {
        self.reverse = reverse;
        self
    }

    /// Sets how many tensors are listed at most; totals stay those of all that are selected.
    pub fn limit(mut self, tensors: usize) -> Self {
        self.limit = Some(tensors);
        self
    }

    pub(super) fn selection(&self) -> Result<Selection> {
        Selection::new(&self.filter, &self.exclude, self.sort, self.reverse, self.limit)
    }
}

/// What [`Model::stats`] tells figures of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum GroupBy {
    /// Each tensor.
    #[default]
    Tensor,
    /// The tensors of each layer.
    Layer,
    /// The tensors of each component: embedding, attention, norms ...
    Component,
    /// The tensors of each type.
    DType,
    /// All tensors.
    Model,
}

impl GroupBy {
    fn name(self) -> &'static str {
        match self {
            Self::Tensor => "tensor",
            Self::Layer => "layer",
            Self::Component => "component",
            Self::DType => "dtype",
            Self::Model => "model",
        }
    }

    fn group(self, reader: &Reader, tensor: &TensorInfo) -> String {
        let place = components::classify(&tensor.name);
        match self {
            Self::Tensor => tensor.name.clone(),
            Self::Layer => place.layer.map_or_else(|| "-".to_owned(), |layer| layer.to_string()),
            Self::Component => place.component.name().to_owned(),
            Self::DType => reader.type_name(tensor).to_string(),
            Self::Model => "model".to_owned(),
        }
    }
}

/// What [`Model::stats`] measures. The default is every value of every tensor.
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

    /// Sets what figures are told of.
    pub fn by(mut self, group: GroupBy) -> Self {
        self.by = group;
        self
    }

    /// Sets the magnitude below which a value counts as sparse; 1e-6 by default.
    pub fn threshold(mut self, magnitude: f64) -> Self {
        self.threshold = Some(magnitude);
        self
    }

    /// Sets how many times the median row's largest magnitude a row's must be for the row to be an outlier.
    pub fn outlier(mut self, times: f64) -> Self {
        self.outlier = Some(times);
        self
    }

    /// Sets how many elements of each tensor are looked at, evenly spread in chunks, instead of all.
    pub fn sample(mut self, elements: u64) -> Self {
        self.sample = Some(elements);
        self
    }

    /// Sets what is called as values are read.
    pub fn progress(mut self, progress: Progress<'a>) -> Self {
        self.progress = Some(progress);
        self
    }
}

pub(super) fn stats(reader: &Reader, options: &StatsOptions<'_>) -> Result<Stats> {
    let selection = Selection::new(&options.filter, &options.exclude, SortBy::File, false, None)?;
    let model = reader.model();
    let tensors = selection.pick(model);
    if tensors.is_empty() && !model.tensors.is_empty() {
        return Err(selection.nothing_selected(model.tensors.iter().map(|tensor| tensor.name.as_str())).in_file(&model.path));
    }
    let total = tensors.iter().filter_map(|tensor| tensor.len_bytes).fold(0, u64::saturating_add);
    let progress = options.progress.map(|progress| move |bytes| progress(bytes, total));
    let group = |tensor: &TensorInfo| options.by.group(reader, tensor);
    let default = stats::Options::default();
    let options = stats::Options {
        group: (options.by != GroupBy::Tensor).then_some(&group),
        by: options.by.name(),
        threshold: options.threshold.unwrap_or(default.threshold),
        outlier: options.outlier.unwrap_or(default.outlier),
        sample: options.sample,
        progress: progress.as_ref().map(|progress| progress as _),
    };
    stats::stats(reader, &tensors, &options)
}

/// What [`Model::hash`] hashes. The default is SHA-256 of the stored bytes of each tensor and of all.
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

    /// Adds an algorithm; without any, it is SHA-256.
    pub fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.algorithms.push(algorithm);
        self
    }

    /// Sets whether the values are hashed, under canonical names, instead of the stored bytes: a Hugging Face folder and its GGUF then have
    /// the same hashes.
    pub fn content(mut self, content: bool) -> Self {
        self.content = content;
        self
    }

    /// Sets whether only the whole model is reported, and no single tensor.
    pub fn model_only(mut self, model_only: bool) -> Self {
        self.model_only = model_only;
        self
    }
}

pub(super) fn hash(reader: &Reader, options: &HashOptions) -> Result<Vec<HashReport>> {
    let algorithms = if options.algorithms.is_empty() { &[Algorithm::Sha256][..] } else { &options.algorithms };
    if options.content {
        return hash::hash_content(reader, &Tables::default(), algorithms, !options.model_only);
    }
    hash::hash(reader, algorithms, !options.model_only)
}

/// What [`diff`] compares. The default is names, shapes, types, metadata and values.
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

    /// Sets whether nothing is decoded: of values, only bytes of the same type are compared.
    pub fn quick(mut self, quick: bool) -> Self {
        self.quick = quick;
        self
    }

    /// Sets the relative root mean square by which the values of each tensor may differ, and types and metadata in any way.
    pub fn tolerance(mut self, relative_rmse: f64) -> Self {
        self.tolerance = Some(relative_rmse);
        self
    }

    /// Sets what is called as values are read.
    pub fn progress(mut self, progress: Progress<'a>) -> Self {
        self.progress = Some(progress);
        self
    }
}

/// Compares two models. Tensors are matched by canonical name, across formats, types and shards. Of two adapters the updates are compared;
/// of one adapter, what it makes of the other model.
///
/// # Errors
/// Values of either cannot be read; a pattern is malformed or matches no tensor of either; an adapter does not fit.
pub fn diff(a: &Model, b: &Model, options: &DiffOptions<'_>) -> Result<Diff> {
    let selection = Selection::new(&options.filter, &options.exclude, SortBy::File, false, None)?;
    let path_b = b.path().to_string_lossy().into_owned();
    let (a, b, note) = diff::sides(a.reader().clone(), b.reader().clone())?;
    let total = diff::work(&a, &b);
    let progress = options.progress.map(|progress| move |bytes| progress(bytes, total));
    let options = diff::Options {
        quick: options.quick,
        tolerance: options.tolerance,
        selection: Some(&selection),
        progress: progress.as_ref().map(|progress| progress as _),
    };
    let mut diff = diff::diff(&a, &b, &options)?;
    diff.notes.extend(note.map(str::to_owned));
    diff.path_b = path_b;
    Ok(diff)
}
