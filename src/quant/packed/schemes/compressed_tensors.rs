//! compressed-tensors, of vLLM.

use crate::model::{DType, PackedType};
use crate::quant::packed::Lookup;
use crate::quant::packed::schemes::microscaling::nvfp4;
use crate::quant::packed::schemes::{
    Bits, Codes, Interpretation, Layout, Parts, Rows, Whole, Zero, grid, is, matrix, named, rows_of, unpacked, whole_numbers, with_columns,
};

pub(super) fn pack_quantized(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    let (output, words) = rows_of(parts.weight)?;
    let scales = parts.get(lookup, ".weight_scale")?;
    let declared = parts.get(lookup, ".weight_shape").and_then(|tensor| whole_numbers(lookup, tensor));
    let declared = declared.as_ref().and_then(|shape| shape.last().copied());
    let needed = |input: u64, bits: u64| input.checked_mul(bits).map(|all| all.div_ceil(32));
    let configured = lookup.configs.group_bits(parts.stem);
    let (input, bits) = match declared {
        Some(input) => {
            let fits = |bits: &u64| needed(input, *bits) == Some(words);
            (input, configured.iter().copied().find(fits).or_else(|| (1..=8).find(fits))?)
        }
        None => {
            // Of several layer groups, use the one whose column groups match the scales.
            let sizes: Vec<u64> = lookup.configs.groups().iter().filter_map(|weights| weights.get("group_size")?.as_u64()).collect();
            let groups = scales.shape.last().copied()?;
            let fits = |bits: &&u64| {
                unpacked(words, **bits).is_some_and(|input| {
                    sizes.is_empty() || groups == 1 || sizes.iter().any(|size| *size > 0 && input.div_ceil(*size) == groups)
                })
            };
            let mut fitting = configured.iter().filter(fits);
            let bits = *fitting.next()?;
            if fitting.next().is_some() {
                return None; // ambiguous
            }
            (unpacked(words, bits)?, bits)
        }
    };
    let shape = with_columns(parts.weight, input);
    let bits = u32::try_from(bits).ok().filter(|bits| (1..=8).contains(bits))?;
    let center = 1u32 << (bits - 1);
    let grid = grid(scales, &shape, None)?;
    let zero = match parts.get(lookup, ".weight_zero_point") {
        None => Zero::None,
        Some(zeros) if zeros.shape == scales.shape => Zero::Plain(".weight_zero_point"),
        Some(zeros) => {
            let packed =
                parts.matrix().is_some() && is(zeros, DType::I32) && matrix(zeros)? == (needed(output, u64::from(bits))?, grid.across);
            packed.then_some(Zero::Down { suffix: ".weight_zero_point", bits: Bits(bits), center })?
        }
    };
    let indices = parts.get(lookup, ".weight_g_idx").filter(|indices| indices.shape == [input] && is(indices, DType::I32));
    let rows = Rows {
        zero,
        indices: indices.map(|_| ".weight_g_idx"),
        ..Rows::new(Codes::Words { bits: Bits(bits), center }, ".weight_scale", grid)
    };
    Some((Layout::Rows(rows), shape, PackedType { name: "INT", bits }))
}

pub(super) fn nvfp4_packed(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    nvfp4(lookup, parts, Whole::Divide(".weight_global_scale"))
}

/// Sparse weights: the nonzero values, and a mask of their positions.
pub(super) fn bitmask(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    Some((Layout::Counted, whole_numbers(lookup, parts.get(lookup, ".shape")?)?, named("sparse")))
}
