//! Floats of a few bits with group scales: NVFP4 and the OCP MX formats, from any producer.

use crate::model::DType;
use crate::quant::packed::Lookup;
use crate::quant::packed::schemes::{Codes, Grid, Interpretation, Layout, Parts, Rows, ScaleKind, Whole, is, named, rows_of, with_columns};

pub(super) fn nvfp4(lookup: &Lookup<'_>, parts: &Parts<'_>, whole: Whole) -> Interpretation {
    if !is(parts.get(lookup, ".weight_scale")?, DType::F8_E4M3) {
        return None;
    }
    // Groups of 16, or of 32 with 8-bit activations.
    let (rows, shape) = [16, 32].into_iter().find_map(|group| packed_floats(lookup, parts, ".weight_scale", 4, group))?;
    let (Whole::Multiply(suffix) | Whole::Divide(suffix)) = whole else { return None };
    let planes: u64 = shape.iter().rev().skip(2).product();
    let scales = parts.get(lookup, suffix)?.elements().ok()?;
    (scales == 1 || scales == planes).then_some((Layout::Rows(Rows { whole, ..rows }), shape, named("NVFP4")))
}

/// OCP MX formats: 4 or 6 bits, with a power-of-two scale per 32 numbers.
pub(super) fn mx_packed(lookup: &Lookup<'_>, parts: &Parts<'_>, suffix: &'static str) -> Interpretation {
    let scales = parts.get(lookup, suffix)?;
    if !is(scales, DType::U8) && !is(scales, DType::F8_E8M0) {
        return None;
    }
    [(4, "MXFP4"), (6, "MXFP6")].into_iter().find_map(|(bits, name)| {
        let (rows, shape) = packed_floats(lookup, parts, suffix, bits, 32)?;
        Some((Layout::Rows(rows), shape, named(name)))
    })
}

/// Floats packed several to a byte, with group scales in rows.
pub(super) fn packed_floats(
    lookup: &Lookup<'_>,
    parts: &Parts<'_>,
    suffix: &'static str,
    bits: u32,
    group: u64,
) -> Option<(Rows, Vec<u64>)> {
    let (output, bytes) = rows_of(parts.weight)?;
    let scales = parts.get(lookup, suffix)?;
    let input = bytes.checked_mul(8)?.checked_div(u64::from(bits)).filter(|_| (bytes * 8).is_multiple_of(u64::from(bits)))?;
    let (rows, groups) = rows_of(scales)?;
    let fits = rows == output && input == groups.checked_mul(group)?;
    let grid = Grid { tall: 1, wide: group, across: groups, kind: ScaleKind::Own };
    fits.then(|| (Rows::new(Codes::Floats { bits, high_first: false }, suffix, grid), with_columns(parts.weight, input)))
}
