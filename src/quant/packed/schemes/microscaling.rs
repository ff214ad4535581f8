//! Floats of a few bits with a scale for each group: NVFP4, and the formats of OCP MX, whoever writes them.

use crate::model::DType;
use crate::quant::packed::Lookup;
use crate::quant::packed::schemes::{Codes, Found, Grid, Layout, Parts, Rows, ScaleKind, Whole, is, named, rows_of, with_columns};

pub(super) fn nvfp4(lookup: &Lookup<'_>, parts: &Parts<'_>, whole: Whole) -> Found {
    if !is(parts.get(lookup, ".weight_scale")?, DType::F8_E4M3) {
        return None;
    }
    // Groups of 16; of 32 where activations have 8 bits.
    let (rows, shape) = [16, 32].into_iter().find_map(|group| packed_floats(lookup, parts, 4, group))?;
    let (Whole::Multiply(suffix) | Whole::Divide(suffix)) = whole else { return None };
    let planes: u64 = shape.iter().rev().skip(2).product();
    let scales = parts.get(lookup, suffix)?.elements().ok()?;
    (scales == 1 || scales == planes).then_some((Layout::Rows(Rows { whole, ..rows }), shape, named("NVFP4")))
}

/// The formats of OCP MX: powers of two for 32 numbers each, of 4 or 6 bits.
pub(super) fn mx_packed(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let scales = parts.get(lookup, ".weight_scale")?;
    if !is(scales, DType::U8) && !is(scales, DType::F8_E8M0) {
        return None;
    }
    [(4, "MXFP4"), (6, "MXFP6")].into_iter().find_map(|(bits, name)| {
        let (rows, shape) = packed_floats(lookup, parts, bits, 32)?;
        Some((Layout::Rows(rows), shape, named(name)))
    })
}

/// A float of so few bits that bytes hold several, and scales of groups in rows.
pub(super) fn packed_floats(lookup: &Lookup<'_>, parts: &Parts<'_>, bits: u32, group: u64) -> Option<(Rows, Vec<u64>)> {
    let (output, bytes) = rows_of(parts.weight)?;
    let scales = parts.get(lookup, ".weight_scale")?;
    let input = bytes.checked_mul(8)?.checked_div(u64::from(bits)).filter(|_| (bytes * 8).is_multiple_of(u64::from(bits)))?;
    let (rows, groups) = rows_of(scales)?;
    let fits = rows == output && input == groups.checked_mul(group)?;
    let grid = Grid { tall: 1, wide: group, across: groups, kind: ScaleKind::Own };
    fits.then(|| (Rows::new(Codes::Floats { bits, high_first: false }, ".weight_scale", grid), with_columns(parts.weight, input)))
}
