//! An open model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;

use crate::api::{ConvertOptions, HashOptions, ListOptions, StatsOptions, Tensor, convert, measure};
use crate::base::Result;
use crate::base::finding::Finding;
use crate::format::{self, Reader};
use crate::model::{FormatId, Metadata, PackingSummary, Shard};
use crate::ops;
use crate::ops::convert::ConvertReport;
use crate::ops::count::Count;
use crate::ops::hash::HashReport;
use crate::ops::info::Info;
use crate::ops::list::TensorList;
use crate::ops::stats::Stats;
use crate::quant::packed::Packing;
use crate::source::InMemory;

/// An open model: its tensors, its metadata, and the operations on it.
///
/// Opening reads headers only; values are read from the mapped files when they are asked for. A clone shares the files. Files on disk must
/// not be cut short while the model is open: the system then ends the process with SIGBUS where a missing page is read.
#[derive(Debug, Clone)]
pub struct Model {
    /// The tensors as they are stored.
    stored: Arc<Reader>,
    /// The tensors as what they stand for. The same as `stored` where nothing is packed.
    weights: Arc<Reader>,
}

/// Opens the model at `path`: a file, any one file of a set, an index, a folder, a Hugging Face cache folder, an Ollama manifest. The format
/// is recognised by content.
///
/// # Errors
/// There is no model of a known format; or a file breaks a rule of its format, is cut short, or is missing from its set.
pub fn open(path: impl AsRef<Path>) -> Result<Model> {
    Model::of(format::open(path.as_ref())?)
}

/// Opens the model at `path` for what its headers say: also when a file is cut short behind its header, or files of the set are missing.
/// [`Model::missing`] tells what is missing; values that are missing are errors once they are asked for.
///
/// # Errors
/// As for [`open`], except for what is missing.
pub fn open_headers(path: impl AsRef<Path>) -> Result<Model> {
    Model::of(format::open_headers(path.as_ref())?)
}

/// Opens the model in `bytes`: a whole file, which the model keeps and reads its values from without a copy. `name` stands for its path in
/// messages and reports; nothing is looked for beside it, so that a safetensors file has no config. The format is recognised by content.
///
/// # Errors
/// As for [`open`].
pub fn open_bytes(name: impl Into<PathBuf>, bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<Model> {
    Model::of(format::open_source(Arc::new(InMemory::new(name, bytes)))?)
}

impl Model {
    fn of(stored: Reader) -> Result<Self> {
        let packed = !Packing::detect(&stored).is_empty();
        let stored = Arc::new(stored);
        let weights = if packed { Arc::new(ops::weights::weights(Reader::clone(&stored))?) } else { Arc::clone(&stored) };
        Ok(Self { stored, weights })
    }

    /// Returns the same model with its packed weights as they are stored: integers, scales and zero points, each a tensor.
    #[must_use]
    pub fn as_stored(&self) -> Self {
        Self { stored: Arc::clone(&self.stored), weights: Arc::clone(&self.stored) }
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

    /// Iterates over the tensors, in the order of the files. Weights that a library packed (GPTQ, AWQ, MLX ...) are each one tensor of F32
    /// under the name that they have unquantised; their scales and the like are left out. What is packed in an unknown way stays as it is
    /// stored: see [`Model::packing`].
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> {
        self.weights.model().tensors.iter().map(|info| Tensor::new(&self.weights, info))
    }

    /// Returns the tensor of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>> {
        Ok(Tensor::new(&self.weights, ops::select::tensor_named(self.weights.model(), name)?))
    }

    /// Returns the metadata of the files: the keys of a GGUF, the `__metadata__` of safetensors files.
    pub fn metadata(&self) -> &Metadata {
        &self.stored.model().metadata
    }

    /// Returns what is in `config.json` (or `params.json`, `adapter_config.json`) beside the weights.
    pub fn config(&self) -> Option<&Json> {
        self.stored.model().config.as_ref()
    }

    /// Returns how the weights are packed, and how much of that is understood; nothing where none are.
    pub fn packing(&self) -> Option<PackingSummary> {
        ops::weights::packing(&self.weights)
    }

    /// Returns what of the model is not here: files of its set, ends of files. Only [`open_headers`] opens such a model.
    pub fn missing(&self) -> &[Finding] {
        self.stored.lacks()
    }

    /// Looks at the files again. Values that were read before are of one state of the files if none of them changed since they were opened.
    ///
    /// # Errors
    /// A file was written to or replaced, or is gone.
    pub fn check_unchanged(&self) -> Result<()> {
        self.stored.check_unchanged()
    }

    /// Tells what model this is: architecture, hyperparameters, size, types, tokenizer, licence.
    ///
    /// # Errors
    /// The model has more than 2^64 elements.
    pub fn info(&self) -> Result<Info> {
        ops::info::info(&self.stored)
    }

    /// Counts the parameters: packed and quantised tensors as the weights that they stand for, tied ones once.
    ///
    /// # Errors
    /// The model has more than 2^64 elements.
    pub fn count(&self) -> Result<Count> {
        ops::count::count(&self.stored)
    }

    /// Lists the tensors as they are stored: with their files, offsets and sizes.
    ///
    /// # Errors
    /// A pattern is malformed.
    pub fn list(&self, options: &ListOptions) -> Result<TensorList<'_>> {
        ops::list::list(&self.stored, &options.selection()?)
    }

    /// Measures the values: extremes, moments, percentiles, histograms, and what looks wrong.
    ///
    /// # Errors
    /// A pattern is malformed or matches no tensor; values cannot be read. Tensors of an unknown type are no error, but a finding.
    pub fn stats(&self, options: &StatsOptions<'_>) -> Result<Stats> {
        measure::stats(&self.weights, options)
    }

    /// Hashes the tensors: one report for each algorithm, in the order of the options.
    ///
    /// # Errors
    /// Values cannot be read; a tensor is of a type of unknown size.
    pub fn hash(&self, options: &HashOptions) -> Result<Vec<HashReport>> {
        measure::hash(&self.stored, options)
    }

    /// Converts the model into the file or folder `out`: another format, another type, or both. An output appears whole or not at all.
    ///
    /// # Errors
    /// What is asked for cannot be done or is not allowed by the options; the input cannot be read or the output not written. Then nothing
    /// is left behind.
    pub fn convert(&self, out: impl AsRef<Path>, options: &ConvertOptions<'_>) -> Result<ConvertReport> {
        convert::convert(&self.stored, out.as_ref(), options)
    }

    pub(super) fn reader(&self) -> &Reader {
        &self.stored
    }
}
