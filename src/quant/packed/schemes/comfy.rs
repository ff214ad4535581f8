//! ComfyUI.

use serde_json::Value as Json;

use crate::model::TensorInfo;
use crate::quant::packed::Lookup;
use crate::quant::packed::schemes::{Codes, Grid, Interpretation, Layout, Parts, Rows, ScaleKind, Whole, named};

/// Whether ComfyUI's settings of a layer include more than scales: a rotation, or its own format.
pub(super) fn comfy_other(lookup: &Lookup<'_>, layer: &str) -> bool {
    let Some(said) = lookup.configs.comfy(layer) else { return false };
    let format = said.get("format").and_then(Json::as_str).unwrap_or_default();
    let rotated = said.get("convrot").is_some_and(|value| *value != Json::Bool(false) && !value.is_null());
    rotated || !["float8_e4m3fn", "float8_e5m2", "int8_tensorwise", "int8_rowwise", ""].contains(&format)
}

fn comfy_format<'a>(lookup: &'a Lookup<'_>, layer: &str) -> Option<&'a str> {
    lookup.configs.comfy(layer)?.get("format")?.as_str()
}

/// Scales in cuBLAS tiles: rows padded to 128, columns to 4.
fn tiled(scales: &TensorInfo, output: u64, input: u64, group: u64) -> Option<Grid> {
    let across = input.div_ceil(group);
    let stored = output.div_ceil(128).checked_mul(128)?.checked_mul(across.div_ceil(4).checked_mul(4)?)?;
    (scales.elements().ok()? == stored).then_some(Grid { tall: 1, wide: group, across, kind: ScaleKind::Tiled })
}

/// ComfyUI's NVFP4: the first number of a byte is in the high nibble (comfy-kitchen, `dequantize_nvfp4`).
pub(super) fn comfy_nvfp4(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    let (output, bytes) = parts.matrix()?;
    let said = comfy_format(lookup, parts.stem)? == "nvfp4" && lookup.configs.comfy(parts.stem)?.get("convrot").is_none();
    let grid = tiled(parts.get(lookup, ".weight_scale")?, output, bytes.checked_mul(2)?, 16)?;
    let rows =
        Rows { whole: Whole::Multiply(".weight_scale_2"), ..Rows::new(Codes::Floats { bits: 4, high_first: true }, ".weight_scale", grid) };
    said.then_some((Layout::Rows(rows), vec![output, bytes.checked_mul(2)?], named("NVFP4")))
}

pub(super) fn comfy_mxfp8(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    let (output, input) = parts.matrix()?;
    let said = comfy_format(lookup, parts.stem)? == "mxfp8";
    let grid = tiled(parts.get(lookup, ".weight_scale")?, output, input, 32)?;
    said.then_some((Layout::Rows(Rows::new(Codes::Plain, ".weight_scale", grid)), vec![output, input], named("MXFP8")))
}
