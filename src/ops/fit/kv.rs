//! Sizes of the caches, as llama.cpp allocates them.

use crate::base::{Error, Result, num};
use crate::family::memory::{Attention, Caches, LayerCache};
use crate::model::DType;
use crate::ops::fit::options::Options;

/// Cells are allocated in multiples of this, by llama_context and llama_kv_cache_iswa.
const CELLS: u64 = 256;

/// Buffers align tensors to this: `TENSOR_ALIGNMENT` in ggml-impl.h.
pub(super) const ALIGNMENT: u64 = 32;

/// The numbers of tokens that a context of llama.cpp has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cells {
    /// Cells of one sequence.
    pub sequence: u64,
    /// Number of sequences.
    pub parallel: u64,
    /// Tokens per micro-batch.
    pub batch: u64,
    /// Whether layers with a sliding window have as many cells as others.
    pub full: bool,
}

impl Cells {
    /// Returns the number of cells for a context of this many tokens, which all sequences share.
    pub(super) fn new(context: u64, causal: bool, options: &Options) -> Result<Self> {
        let parallel = options.parallel.max(1);
        let sequence = num::align(num::align(context, CELLS, "the context")? / parallel, CELLS, "the context")?.max(CELLS);
        let batch = if causal { options.batch.min(context) } else { options.batch };
        Ok(Self { sequence, parallel, batch: options.ubatch.min(batch).max(1), full: options.swa_full })
    }

    /// Returns the cells of one sequence in a layer.
    pub(super) fn of_layer(&self, window: Option<u64>) -> u64 {
        match window {
            Some(window) if !self.full => {
                self.sequence.min(window.saturating_add(self.batch)).checked_next_multiple_of(CELLS).unwrap_or(self.sequence)
            }
            _ => self.sequence,
        }
    }

    /// Returns the number of tokens that all sequences have room for together.
    pub(super) fn tokens(&self) -> u64 {
        self.sequence.saturating_mul(self.parallel)
    }
}

/// How keys and values are cached.
#[derive(Debug, Clone, Copy)]
pub(super) struct CacheFormat {
    types: [DType; 2],
    /// Elements that the values of every layer have at least: without flash attention, those of the largest layer.
    values: u64,
}

impl CacheFormat {
    pub(super) fn new(caches: &Caches, options: &Options) -> Self {
        let values = caches
            .layers
            .iter()
            .filter_map(|layer| layer.attention.as_ref())
            .map(|attention| attention.heads.saturating_mul(attention.value));
        Self {
            types: options.kv_types,
            values: if options.flash_attention && caches.flash_attention { 0 } else { values.max().unwrap_or(0) },
        }
    }

    /// Returns the bytes of the keys and values of a layer.
    pub(super) fn layer_bytes(self, cache: &LayerCache, cells: Cells) -> Result<u64> {
        self.tokens(cache).into_iter().try_fold(0, |sum, (attention, token)| {
            let cells = num::mul(cells.of_layer(attention.window), cells.parallel, "the number of cells")?;
            num::add(sum, num::mul(token?, cells, SIZE)?, SIZE)
        })
    }

    /// Returns what a layer caches, with the bytes of one token.
    fn tokens(self, cache: &LayerCache) -> Vec<(&Attention, Result<u64>)> {
        let attention = cache.attention.as_ref().map(|attention| (attention, self.token_bytes(attention, self.values)));
        let indexer = cache.indexer.as_ref().map(|indexer| (indexer, self.token_bytes(indexer, 0)));
        attention.into_iter().chain(indexer).collect()
    }

    fn token_bytes(self, attention: &Attention, at_least: u64) -> Result<u64> {
        let check = |length: u64, dtype: DType, what: &str| {
            let block = dtype.info().block_elems;
            if length.is_multiple_of(block) {
                return Ok(());
            }
            Err(Error::argument(format!("{what} of {length} elements per head cannot be cached as {dtype}: it has blocks of {block}")))
        };
        check(attention.key, self.types[0], "keys")?;
        check(attention.value, self.types[1], "values")?;
        let keys = self.types[0].bytes_for(num::mul(attention.key, attention.heads, SIZE)?)?;
        let values = num::mul(attention.value, attention.heads, SIZE)?;
        let values = if attention.value == 0 { 0 } else { self.types[1].bytes_for(values.max(at_least))? };
        num::add(keys, values, SIZE)
    }

    /// Returns the bytes that one more token takes in all layers: within the sliding windows, and beyond them.
    pub(super) fn growth(self, caches: &Caches) -> Result<[u64; 2]> {
        caches.layers.iter().flat_map(|layer| self.tokens(layer)).try_fold([0, 0], |[within, beyond], (attention, token)| {
            let bytes = token?;
            let more = if attention.window.is_none() { bytes } else { 0 };
            Ok([num::add(within, bytes, SIZE)?, num::add(beyond, more, SIZE)?])
        })
    }
}

/// The overflowing quantity, for messages.
const SIZE: &str = "the size of the cache";

/// Returns the bytes of the state of a layer, in F32.
pub(super) fn state_bytes(cache: &LayerCache, parallel: u64) -> Result<u64> {
    let Some(lengths) = cache.state else { return Ok(0) };
    lengths.into_iter().try_fold(0, |sum, length| {
        let bytes = num::mul(num::mul(length, 4, "the state")?, parallel, "the state")?;
        num::add(sum, num::align(bytes, ALIGNMENT, "the state")?, "the state")
    })
}
