//! Apple's MLX.

use crate::model::{DType, PackedType};
use crate::quant::packed::Lookup;
use crate::quant::packed::configs::MlxSettings;
use crate::quant::packed::schemes::{Bits, Codes, Grid, Interpretation, Layout, Parts, Rows, ScaleKind, is, named, rows_of, with_columns};

pub(super) fn mlx(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    let (_, words) = rows_of(parts.weight)?;
    let scales = parts.get(lookup, ".scales")?;
    let (&groups, scale_outer) = scales.shape.split_last()?;
    if parts.weight.shape.split_last()?.1 != scale_outer {
        return None;
    }
    let affine = parts.get(lookup, ".biases").is_some();
    let MlxSettings { group, bits, mode } = lookup.configs.mlx(parts.stem);
    let bytes = is(scales, DType::U8);
    // Only the bits per group follow from the shapes; bits and group size come from the config, or from the mode.
    let per_group = words.checked_mul(32)?.checked_div(groups).filter(|_| words * 32 % groups == 0)?;
    let mode = match mode.as_deref() {
        Some(mode) => mode,
        None if affine => "affine",
        None => "mxfp4",
    };
    let (kind, name, default_group, default_bits) = match mode {
        "affine" if affine && !bytes => (ScaleKind::Own, "MLX", 64, 4),
        "mxfp4" if bytes && !affine => (ScaleKind::Own, "MXFP4", 32, 4),
        "mxfp8" if bytes && !affine => (ScaleKind::Own, "MXFP8", 32, 8),
        "nvfp4" if bytes && !affine => (ScaleKind::E4m3, "NVFP4", 16, 4),
        _ => return None,
    };
    let (group, bits) = match (group, bits) {
        (Some(group), Some(bits)) => (group, bits),
        (Some(group), None) => (group, per_group.checked_div(group)?),
        (None, Some(bits)) => (per_group.checked_div(bits)?, bits),
        (None, None) => (default_group, default_bits),
    };
    if group.checked_mul(bits)? != per_group {
        return None;
    }
    let input = groups.checked_mul(group)?;
    let grid = Grid { tall: 1, wide: group, across: groups, kind };
    let bits = u32::try_from(bits).ok()?;
    let (rows, shown) = match (affine, bits) {
        (true, 2 | 3 | 4 | 5 | 6 | 8) => {
            let rows = Rows { bias: Some(".biases"), ..Rows::new(Codes::Words { bits: Bits(bits), center: 0 }, ".scales", grid) };
            (rows, PackedType { name, bits })
        }
        (false, 4 | 8) => (Rows::new(Codes::Floats { bits, high_first: false }, ".scales", grid), named(name)),
        _ => return None,
    };
    Some((Layout::Rows(rows), with_columns(parts.weight, input), shown))
}
