//! Encoders of IQ3_XXS and IQ3_S (ggml-quants.c: `quantize_row_iq3_xxs_impl`, `quantize_row_iq3_s_impl`).

use super::super::half::f32_to_f16;
use super::super::simd::Eight;
use super::grid_index;
use super::search::{Refit, SearchParams, scale_code, seven_signs};

const IQ3_XXS: SearchParams = SearchParams {
    even_signs: true,
    sigma2_factor: 2.0,
    plain_weight: |_, x| x * x,
    tiny: 1e-8,
    fitted: false,
    tries: 15,
    step: 0.2,
    refit: Refit::OffGrid,
};

const IQ3_S: SearchParams = SearchParams { even_signs: false, tiny: f32::from_bits(1), tries: 9, refit: Refit::AllIfAnyOffGrid, ..IQ3_XXS };

#[inline(always)]
pub(super) fn iq3_xxs<E: Eight>(token: E::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
    let grid = grid_index::iq3_xxs();
    IQ3_XXS.encode_row::<E, 4, 8, 8, 4, 98>(token, grid, (values, importance, bytes), |blocks, unit, out| {
        let Some(d) = unit else { return };
        let (head, rest) = out.split_at_mut(2);
        let (points, scales) = rest.split_at_mut(64);
        // Factor of the reference, which was found to reduce the error.
        head.copy_from_slice(&f32_to_f16(d * 1.0125));
        for ((block, points), out) in blocks.iter().zip(points.chunks_exact_mut(8)).zip(scales.chunks_exact_mut(4)) {
            for (out, index) in points.iter_mut().zip(block.indices) {
                *out = index as u8;
            }
            let scale = scale_code(block.scale, 1.0 / d, 15);
            out.copy_from_slice(&seven_signs(block.signs, scale).to_le_bytes());
        }
    });
}

#[inline(always)]
pub(super) fn iq3_s<E: Eight>(token: E::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
    let grid = grid_index::iq3_s();
    IQ3_S.encode_row::<E, 4, 8, 8, 3, 110>(token, grid, (values, importance, bytes), |blocks, unit, out| {
        let (head, rest) = out.split_at_mut(2);
        let (low, rest) = rest.split_at_mut(64);
        let (high, rest) = rest.split_at_mut(8);
        let (signs, scales) = rest.split_at_mut(32);
        // The reference skips all-zero blocks in these two lists, so that later blocks move up (and decode wrongly, since the other lists
        // do not skip them). Its bytes are reproduced here.
        let mut slots = low.chunks_exact_mut(8).zip(signs.chunks_exact_mut(4));
        for (block, high) in blocks.iter().zip(high) {
            let Some((low, signs)) = (if block.empty { None } else { slots.next() }) else { continue };
            for (k, (index, low)) in block.indices.into_iter().zip(low).enumerate() {
                *low = index as u8;
                *high |= ((index >> 8) as u8) << k;
            }
            signs.copy_from_slice(&block.signs.to_le_bytes());
        }
        let Some(d) = unit else { return };
        head.copy_from_slice(&f32_to_f16(d * 1.033));
        for (ib, block) in blocks.iter().enumerate() {
            scales[ib / 2] |= scale_code(block.scale, 1.0 / d, 15) << (4 * (ib % 2));
        }
    });
}
