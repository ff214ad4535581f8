//! Figures for vLLM, which allocates its cache by blocks of tokens, from all memory that weights and computation leave.

use serde::Serialize;

use crate::base::{Error, Result, num};
use crate::family::memory::{Attention, Caches};
use crate::format::Reader;
use crate::model::DType;
pub use crate::ops::fit::options::Engine;
use crate::ops::fit::options::Options;

/// Tokens of a block: the default of vLLM's `--block-size` on graphics cards.
const BLOCK: u64 = 16;

/// A paged cache. After vLLM's `FullAttentionSpec.page_size_bytes`: block size x KV heads x (key + value) x bytes; `MLAAttentionSpec` has one
/// compressed vector; and its profile of memory:
/// utilization x memory - weights - activations.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Paged {
    /// Bytes of one token on one device, in all layers.
    pub per_token_bytes: u64,
    /// Bytes of the weights on one device.
    pub weight_bytes: u64,
    /// Tokens of a block.
    pub block_tokens: u64,
    /// Number of devices.
    pub devices: u64,
    /// Tokens that fit, if activations took nothing; `None` if no memory was given.
    pub most_tokens: Option<u64>,
}

/// Returns the figures of a model.
///
/// # Errors
/// Layers have a state; or KV heads cannot be split over the devices.
pub(super) fn paged(reader: &Reader, caches: &Caches, engine: &Engine, options: &Options) -> Result<Paged> {
    let devices = engine.devices;
    let element_bytes = element_bytes(options.kv_types)?;
    if devices == 0 || !(0.0..=1.0).contains(&engine.utilization) {
        return Err(Error::argument("expected one device or more, and a utilization from 0 to 1"));
    }
    if caches.layers.iter().any(|layer| layer.state.is_some() || layer.indexer.is_some()) {
        return Err(Error::unsupported("how vLLM caches the states of recurrent layers, or the keys of indexers, is not modelled")
            .in_file(&reader.model().path));
    }
    let of = |attention: &Attention| -> Result<u64> {
        // A head that cannot be split is on every device; a compressed vector always is.
        let heads = if attention.value == 0 { attention.heads } else { (attention.heads / devices).max(1) };
        let splits = attention.heads.is_multiple_of(devices) || devices.is_multiple_of(attention.heads.max(1));
        if attention.value > 0 && !splits {
            return Err(Error::argument(format!("{} KV heads cannot be split over {} devices", attention.heads, devices)));
        }
        num::mul(num::mul(heads, num::add(attention.key, attention.value, "a head")?, "a token")?, element_bytes, "a token")
    };
    let attentions = caches.layers.iter().filter_map(|layer| layer.attention.as_ref());
    let per_token_bytes = attentions.into_iter().try_fold(0, |sum, attention| num::add(sum, of(attention)?, "a token"))?;
    let stored = reader.model().tensors.iter().map(|tensor| tensor.len_bytes).sum::<Option<u64>>();
    let weight_bytes = stored.ok_or_else(|| Error::unsupported("the size of a type is unknown"))?.div_ceil(devices);
    let room = |memory: u64| ((memory as f64 * engine.utilization) as u64).saturating_sub(weight_bytes);
    let blocks = |memory: u64| room(memory).checked_div(per_token_bytes.saturating_mul(BLOCK));
    Ok(Paged {
        per_token_bytes,
        weight_bytes,
        block_tokens: BLOCK,
        devices,
        most_tokens: options.memory.and_then(blocks).map(|blocks| blocks.saturating_mul(BLOCK)),
    })
}

/// Returns the bytes of a cached number: 2, or 1 for `--kv-cache-dtype fp8`.
fn element_bytes([keys, values]: [DType; 2]) -> Result<u64> {
    match keys {
        _ if keys != values => Err(Error::argument(format!("vLLM caches keys and values in the same type, found {keys} and {values}"))),
        DType::F16 | DType::BF16 => Ok(2),
        DType::F8_E4M3 | DType::F8_E5M2 => Ok(1),
        other => Err(Error::argument(format!("expected F16, BF16 or F8_E4M3 as the type of vLLM's cache, found {other}"))),
    }
}
