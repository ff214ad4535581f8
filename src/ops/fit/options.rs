//! Options of `fit`.

use crate::base::{Error, Result};
use crate::family::memory::Caches;
use crate::model::DType;
use crate::quant::recipe::Target;

/// Options of [`fit`](super::fit()). The defaults are those of llama.cpp.
#[derive(Debug, Clone)]
pub struct Options {
    /// Context in tokens, which all sequences share; `None` for the longest that the model is trained for.
    pub context: Option<u64>,
    /// Number of sequences.
    pub parallel: u64,
    /// Types of cached keys and values.
    pub kv_types: [DType; 2],
    /// Whether attention is computed without storing its scores.
    pub flash_attention: bool,
    /// Whether layers with a sliding window cache the whole context.
    pub swa_full: bool,
    /// Maximum number of tokens in a batch.
    pub batch: u64,
    /// Maximum number of tokens per micro-batch.
    pub ubatch: u64,
    /// File types to list.
    pub types: Vec<Target>,
    /// Memory to fit in, in bytes.
    pub memory: Option<u64>,
    /// Number of layers on the device: the output counts as the first, then come the layers from the last one. `None`: everything is in the
    /// same memory.
    pub layers_on_device: Option<u64>,
    /// Number of layers, the first ones, whose experts stay on the host; the other weights are on the device, unless `layers_on_device` says
    /// otherwise.
    pub experts_on_host: u64,
    /// vLLM, if its figures are wanted as well.
    pub vllm: Option<Engine>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            context: None,
            parallel: 1,
            kv_types: [DType::F16; 2],
            flash_attention: true,
            swa_full: false,
            batch: 2048,
            ubatch: 512,
            types: Vec::new(),
            memory: None,
            layers_on_device: None,
            experts_on_host: 0,
            vllm: None,
        }
    }
}

impl Options {
    /// Checks that the options make sense together.
    pub(super) fn check(&self) -> Result<()> {
        let positive =
            [("context", self.context.unwrap_or(1)), ("parallel", self.parallel), ("batch", self.batch), ("ubatch", self.ubatch)];
        if let Some((name, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(Error::argument(format!("expected {name} to be at least 1, found 0")));
        }
        Ok(())
    }

    /// Checks that the options make sense for a model with these caches.
    pub(super) fn check_with(&self, caches: &Caches) -> Result<()> {
        let flash_attention = self.flash_attention && caches.flash_attention;
        if self.kv_types[1].is_quantised() && !flash_attention && caches.layers.iter().any(|layer| layer.attention.is_some()) {
            return Err(Error::argument(format!("values cannot be cached as {} without flash attention", self.kv_types[1])));
        }
        Ok(())
    }
}

/// Options for vLLM.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Share of the memory that it uses: `--gpu-memory-utilization`.
    pub utilization: f64,
    /// Devices that layers are split over, each of the given memory: `--tensor-parallel-size`.
    pub devices: u64,
}

impl Default for Engine {
    fn default() -> Self {
        Self { utilization: 0.9, devices: 1 }
    }
}
