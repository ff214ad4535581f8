//! The memory that a model needs.

use std::path::PathBuf;

use crate::base::Result;
use crate::format::{self, Reader};
use crate::model::DType;
use crate::ops::fit::{self, Fit, Options, devices, vllm};
use crate::quant::recipe::{FILE_TYPES, Target};

/// Options of [`crate::Model::fit`].
///
/// The defaults are those of llama.cpp, for the longest context that the model is trained for.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct FitOptions {
    options: Options,
    file_types: Vec<String>,
    all_file_types: bool,
    devices: Vec<String>,
    projector: Option<PathBuf>,
}

impl FitOptions {
    /// Returns the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the context size in tokens, which all sequences share.
    pub fn context(mut self, tokens: u64) -> Self {
        self.options.context = Some(tokens);
        self
    }

    /// Sets the number of sequences.
    pub fn parallel(mut self, sequences: u64) -> Self {
        self.options.parallel = sequences;
        self
    }

    /// Sets the types of cached keys and values.
    pub fn kv_types(mut self, keys: DType, values: DType) -> Self {
        self.options.kv_types = [keys, values];
        self
    }

    /// Sets whether attention is computed without storing its scores.
    pub fn flash_attention(mut self, on: bool) -> Self {
        self.options.flash_attention = on;
        self
    }

    /// Sets whether layers with a sliding window cache the whole context.
    pub fn swa_full(mut self, full: bool) -> Self {
        self.options.swa_full = full;
        self
    }

    /// Sets the maximum number of tokens in a batch and in a micro-batch.
    pub fn batch(mut self, tokens: u64, at_a_time: u64) -> Self {
        (self.options.batch, self.options.ubatch) = (tokens, at_a_time);
        self
    }

    /// Adds a file type of llama-quantize, such as `Q4_K_M`: the report then has the memory that the model would need in that type.
    pub fn file_type(mut self, name: impl Into<String>) -> Self {
        self.file_types.push(name.into());
        self
    }

    /// Adds all file types of llama-quantize.
    pub fn all_file_types(mut self) -> Self {
        self.all_file_types = true;
        self
    }

    /// Sets the memory to fit in, in bytes.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.options.memory = Some(bytes);
        self
    }

    /// Adds the memory of a device, by name: `RTX 4090`.
    pub fn device(mut self, name: impl Into<String>) -> Self {
        self.devices.push(name.into());
        self
    }

    /// Sets the number of layers on the device: the output counts as the first, then come the layers from the last one.
    pub fn layers_on_device(mut self, layers: u64) -> Self {
        self.options.layers_on_device = Some(layers);
        self
    }

    /// Sets the number of first layers whose experts stay on the host.
    pub fn experts_on_host(mut self, layers: u64) -> Self {
        self.options.experts_on_host = layers;
        self
    }

    /// Sets the GGUF of a separate vision or audio encoder.
    pub fn mmproj(mut self, path: impl Into<PathBuf>) -> Self {
        self.projector = Some(path.into());
        self
    }

    /// Adds the figures for vLLM, which uses this share of the memory of every device and splits layers over this number of devices.
    pub fn vllm(mut self, utilization: f64, devices: u64) -> Self {
        self.options.vllm = Some(vllm::Engine { utilization, devices });
        self
    }

    fn resolved(&self) -> Result<Options> {
        let mut options = self.options.clone();
        options.types = self.file_types.iter().map(|name| name.parse()).collect::<Result<_>>()?;
        if self.all_file_types {
            options.types = FILE_TYPES.iter().map(Target::Mix).collect();
        }
        options.memory = devices::memory(&self.devices)?.or(options.memory);
        Ok(options)
    }
}

/// Implements [`crate::Model::fit`].
pub(super) fn fit(stored: &Reader, options: &FitOptions) -> Result<Fit> {
    let projector = options.projector.as_deref().map(format::open_headers).transpose()?;
    fit::fit(stored, projector.as_ref(), &options.resolved()?)
}
