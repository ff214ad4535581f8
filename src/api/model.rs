//! An open model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;

use crate::api::{ConvertOptions, FitOptions, HashOptions, ListOptions, StatsOptions, Tensor, convert, fit, measure};
use crate::base::Result;
use crate::base::finding::Finding;
use crate::format::{self, Reader};
use crate::model::{FormatId, Metadata, PackingSummary, Shard};
use crate::ops;
use crate::ops::convert::ConvertReport;
use crate::ops::count::Count;
use crate::ops::fit::Fit;
use crate::ops::hash::HashReport;
use crate::ops::info::Info;
use crate::ops::list::TensorList;
use crate::ops::stats::Stats;
use crate::quant::packed::Packing;
use crate::source::InMemory;

/// An open model: its tensors, its metadata, and the operations on it.
///
/// Opening reads headers only; values are read from the mapped files on demand. Clones share the files. Files must not be truncated while
/// the model is open: reading a missing page ends the process with SIGBUS.
#[derive(Debug, Clone)]
pub struct Model {
    /// The stored tensors.
    stored: Arc<Reader>,
    /// The logical weights; the same as `stored` if nothing is packed.
    weights: Arc<Reader>,
}

/// Opens the model at `path`.
///
/// It may be a file, any file of a set, an index, a folder, a Hugging Face cache folder or an Ollama manifest; with the feature `remote` also
/// an address (`https://`, `hf://ORG/NAME`, `s3://`, `gs://`, `az://`) or the name of a model on the Hub, `ORG/NAME`. The format is recognised
/// by content.
///
/// # Errors
/// There is no model in a known format, or a file is malformed, truncated, or missing from its set.
pub fn open(path: impl AsRef<Path>) -> Result<Model> {
    Model::of(format::open(path.as_ref())?)
}

/// Opens the model at `path` by its headers only.
///
/// The data may be truncated, and files of the set may be missing. [`Model::missing`] lists what is missing; reading missing values is an
/// error.
///
/// # Errors
/// As for [`open`], except for what is missing.
pub fn open_headers(path: impl AsRef<Path>) -> Result<Model> {
    Model::of(format::open_headers(path.as_ref())?)
}

/// Opens the model in `bytes`, a whole file.
///
/// The model keeps the bytes and reads from them without copying. `name` replaces the path in messages and reports. No companion files are
/// read, so that a safetensors file has no config. The format is recognised by content.
///
/// # Errors
/// As for [`open`].
pub fn open_bytes(name: impl Into<PathBuf>, bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<Model> {
    Model::of(format::open_source(Arc::new(InMemory::new(name, bytes)))?)
}

impl Model {
    fn of(stored: Reader) -> Result<Self> {
        let (packing, stored) = (Packing::detect(&stored), Arc::new(stored));
        let weights = packing.unpack(&stored)?;
        Ok(Self { stored, weights })
    }

    /// Returns the same model without unpacking: packed weights as the integers, scales and zero points they are stored in.
    #[must_use]
    pub fn as_stored(&self) -> Self {
        Self { stored: Arc::clone(&self.stored), weights: Arc::clone(&self.stored) }
    }

    /// Returns the tensors below a key of a nested checkpoint (`state_dict`, `model`), with names relative to it.
    ///
    /// # Errors
    /// There are no tensors below it.
    pub fn under(&self, key: &str) -> Result<Self> {
        Self::of(self.stored.rooted(key)?)
    }

    /// Returns the path that was opened.
    pub fn path(&self) -> &Path {
        &self.stored.model().path
    }

    /// Returns the format of the files.
    pub fn format(&self) -> FormatId {
        self.stored.model().format
    }

    /// Returns the files that hold the tensors, with their sizes in bytes.
    pub fn files(&self) -> &[Shard] {
        &self.stored.model().shards
    }

    /// Iterates over the tensors in file order. A packed weight (GPTQ, AWQ, MLX ...) is one F32 tensor under its unquantised name, without its
    /// scales and other companion tensors. Weights in an unknown packing appear as stored: see [`Model::packing`].
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> {
        self.weights.model().tensors.iter().map(|info| Tensor::new(&self.weights, info))
    }

    /// Returns the tensor named `name`.
    ///
    /// # Errors
    /// There is no such tensor.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>> {
        Ok(Tensor::new(&self.weights, ops::select::tensor_named(self.weights.model(), name)?))
    }

    /// Returns the metadata: the keys of a GGUF, or the `__metadata__` of safetensors files.
    pub fn metadata(&self) -> &Metadata {
        &self.stored.model().metadata
    }

    /// Returns the contents of `config.json` (or `params.json`, `adapter_config.json`) beside the weights.
    pub fn config(&self) -> Option<&Json> {
        self.stored.model().config.as_ref()
    }

    /// Returns how the weights are packed and how many can be unpacked; `None` if none are packed.
    pub fn packing(&self) -> Option<PackingSummary> {
        ops::weights::packing(&self.weights)
    }

    /// Returns the missing parts of the model: absent files and truncated data. Only [`open_headers`] opens such a model.
    pub fn missing(&self) -> &[Finding] {
        self.stored.lacks()
    }

    /// Checks that no file has changed since it was opened, so that all values read so far belong to one version of the files.
    ///
    /// # Errors
    /// A file was modified, replaced or removed.
    pub fn check_unchanged(&self) -> Result<()> {
        self.stored.check_unchanged()
    }

    /// Summarises the model: architecture, hyperparameters, size, types, tokenizer, licence.
    ///
    /// # Errors
    /// The model has more than 2^64 elements.
    pub fn info(&self) -> Result<Info> {
        ops::info::info(&self.stored)
    }

    /// Counts the parameters: quantised and packed tensors as the weights they represent, tied ones once.
    ///
    /// # Errors
    /// The model has more than 2^64 elements.
    pub fn count(&self) -> Result<Count> {
        ops::count::count(&self.stored)
    }

    /// Returns the memory that the model needs in llama.cpp: weights and caches to the byte, and an estimate of the compute buffer. Reads headers only.
    ///
    /// ```
    /// use weigh::FitOptions;
    ///
    /// let model = weigh::open_headers("fixtures/llama-tiny-q8_0.gguf")?;
    /// let fit = model.fit(&FitOptions::new().context(4096).device("RTX 4070"))?;
    /// println!("{} of weights, {} of KV cache", fit.weights.total(), fit.kv_bytes);
    /// // 2 layers with keys and values of 2 heads of 16, 2 bytes each.
    /// assert_eq!(fit.kv_bytes, 4096 * (2 * 2 * 2 * 16 * 2));
    /// assert_eq!(fit.fits, Some(true));
    /// # Ok::<(), weigh::Error>(())
    /// ```
    ///
    /// # Errors
    /// It is not known what the architecture caches, a hyperparameter is missing, or the model cannot be converted to GGUF; a file type or
    /// device is not known.
    pub fn fit(&self, options: &FitOptions) -> Result<Fit> {
        fit::fit(&self.stored, options)
    }

    /// Lists the stored tensors with their files, offsets and sizes.
    ///
    /// # Errors
    /// A pattern is malformed.
    pub fn list(&self, options: &ListOptions) -> Result<TensorList<'_>> {
        ops::list::list(&self.stored, &options.selection()?)
    }

    /// Computes statistics of the values: extremes, moments, percentiles, histograms and anomalies.
    ///
    /// ```
    /// use weigh::{GroupBy, StatsOptions};
    ///
    /// let model = weigh::open("fixtures/llama-tiny-q8_0.gguf")?;
    /// let stats = model.stats(&StatsOptions::new().filter("blk.*.weight").by(GroupBy::Layer))?;
    /// for layer in stats.groups.iter().flatten() {
    ///     println!("{}: {} to {}", layer.name, layer.summary.min, layer.summary.max);
    /// }
    /// # Ok::<(), weigh::Error>(())
    /// ```
    ///
    /// # Errors
    /// A pattern is malformed or matches no tensor; values cannot be read. A tensor of an unknown type is a finding, not an error.
    pub fn stats(&self, options: &StatsOptions<'_>) -> Result<Stats> {
        measure::stats(&self.weights, options)
    }

    /// Hashes the tensors: one report for each algorithm, in the order of the options.
    ///
    /// # Errors
    /// Values cannot be read, or the size of a tensor's type is unknown.
    pub fn hash(&self, options: &HashOptions) -> Result<Vec<HashReport>> {
        measure::hash(&self.stored, options)
    }

    /// Converts the model to the file or folder `out` in another format, another type, or both. Output appears complete or not at all.
    ///
    /// # Errors
    /// The conversion is impossible or not allowed by the options; the input cannot be read or the output cannot be written. No partial
    /// output remains.
    pub fn convert(&self, out: impl AsRef<Path>, options: &ConvertOptions<'_>) -> Result<ConvertReport> {
        convert::convert(&self.stored, out.as_ref(), options)
    }

    pub(super) fn reader(&self) -> &Reader {
        &self.stored
    }
}
