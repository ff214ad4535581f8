//! bitsandbytes.

use serde_json::Value as Json;

use crate::base::json;
use crate::quant::packed::Lookup;
use crate::quant::packed::schemes::{Interpretation, Layout, Nested, Parts, named};

/// The companion tensors of NF4 and FP4 weights.
pub(super) const NF4: &str = ".weight.quant_state.bitsandbytes__nf4";
pub(super) const FP4: &str = ".weight.quant_state.bitsandbytes__fp4";

pub(super) fn bnb4(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    let (shown, state) = match (parts.get(lookup, NF4), parts.get(lookup, FP4)) {
        (Some(state), _) => ("NF4", Some(state)),
        (None, state) => ("FP4", state),
    };
    let bytes = parts.weight.elements().ok()?;
    let state: Json = match state.filter(|tensor| tensor.elements().is_ok_and(|n| n <= 1 << 16)) {
        Some(tensor) => json::from_bytes(lookup.reader.bytes(tensor).ok()?.into_owned()).ok()?,
        None => Json::Null,
    };
    let declared = state.get("shape").and_then(Json::as_array).and_then(|dims| dims.iter().map(Json::as_u64).collect::<Option<Vec<_>>>());
    let shape = match declared {
        Some(shape) => shape,
        None => vec![bytes.checked_mul(2)?],
    };
    let elements = shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))?;
    let scales = parts.get(lookup, ".weight.absmax")?.elements().ok()?;
    let block = state.get("blocksize").and_then(Json::as_u64).unwrap_or(64).max(1);
    let nested = parts.get(lookup, ".weight.nested_absmax").map(|_| Nested {
        block: state.get("nested_blocksize").and_then(Json::as_u64).unwrap_or(256).max(1),
        offset: state.get("nested_offset").and_then(Json::as_f64).unwrap_or(0.0) as f32,
    });
    let table = parts.get(lookup, ".weight.quant_map")?.elements().ok()? == 16;
    let fits = elements.div_ceil(2) == bytes && elements.div_ceil(block) == scales && table;
    fits.then_some((Layout::Bnb4 { block, nested }, shape, named(shown)))
}
