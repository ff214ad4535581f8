//! torchao.

use serde_json::Value as Json;

use crate::model::{DType, PackedType};
use crate::quant::packed::Lookup;
use crate::quant::packed::configs::torchao;
use crate::quant::packed::schemes::{Codes, F8_AND_I8, Interpretation, Layout, Parts, Rows, Zero, grid, named};

/// torchao's tensors, by type and attributes in the file's metadata (torchao/prototype/safetensors).
pub(super) fn torchao_data(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    let said = torchao(lookup.model, &format!("{}.weight", parts.stem))?;
    let attributes = said.get("_data");
    let declared = attributes.and_then(|data| data.get("shape")?.as_array()?.iter().map(Json::as_u64).collect::<Option<Vec<u64>>>());
    let shape = parts.weight.shape.clone();
    match said.get("_type")?.as_str()? {
        kind @ ("Float8Tensor" | "Int8Tensor") if parts.matrix().is_some() => {
            let grid = grid(parts.get(lookup, "._weight_scale")?, &shape, None)?;
            let zero = parts.get(lookup, "._weight_zero_point").map_or(Zero::None, |_| Zero::Plain("._weight_zero_point"));
            let shown = named(if kind == "Float8Tensor" { "FP8" } else { "INT8" });
            let fits = F8_AND_I8.iter().any(|dtype| parts.is(*dtype));
            fits.then_some((Layout::Rows(Rows { zero, ..Rows::new(Codes::Plain, "._weight_scale", grid) }), shape, shown))
        }
        kind if kind.contains("Int4") => {
            // Two numbers per byte, eight per 32-bit word.
            let numbers = if parts.is(DType::I32) { 8 } else { 2 };
            let all = || Some(vec![parts.weight.elements().ok()?.checked_mul(numbers)?]);
            Some((Layout::Counted, declared.or_else(all)?, PackedType { name: "INT", bits: 4 }))
        }
        _ => Some((Layout::Counted, declared?, named("torchao"))),
    }
}
