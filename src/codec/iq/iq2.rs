//! Encoders of IQ2_XXS, IQ2_XS and IQ2_S (ggml-quants.c: `quantize_row_iq2_{xxs,xs,s}_impl`).

use super::super::half::f32_to_f16;
use super::super::simd::Eight;
use super::grid_index;
use super::search::{Refit, SearchParams, scale_code, seven_signs};

const IQ2_XS: SearchParams = SearchParams {
    even_signs: true,
    sigma2_factor: 1.0,
    // The reference requires importance weights. These are its weights for uniform importance.
    plain_weight: |mean, x| (mean + x * x).sqrt(),
    tiny: 1e-15,
    fitted: false,
    tries: 9,
    step: 0.1,
    refit: Refit::OffGrid,
};

const IQ2_XXS: SearchParams = SearchParams { fitted: true, tries: 6, refit: Refit::Always, ..IQ2_XS };

const IQ2_S: SearchParams =
    SearchParams { even_signs: false, sigma2_factor: 2.0, plain_weight: |mean, x| 0.25 * mean + x * x, tiny: 1e-8, ..IQ2_XS };

#[inline(always)]
pub(super) fn iq2_xxs<E: Eight>(token: E::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
    let grid = grid_index::iq2_xxs();
    IQ2_XXS.encode_row::<E, 8, 4, 8, 2, 66>(token, grid, (values, importance, bytes), |blocks, unit, out| {
        let Some(d) = unit else { return };
        let (head, rest) = out.split_at_mut(2);
        head.copy_from_slice(&f32_to_f16(d));
        for (block, out) in blocks.iter().zip(rest.chunks_exact_mut(8)) {
            let (points, signs) = out.split_at_mut(4);
            for (out, index) in points.iter_mut().zip(block.indices) {
                *out = index as u8;
            }
            signs.copy_from_slice(&seven_signs(block.signs, scale_code(block.scale, 1.0 / d, 15)).to_le_bytes());
        }
    });
}

#[inline(always)]
pub(super) fn iq2_xs<E: Eight>(token: E::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
    let grid = grid_index::iq2_xs();
    IQ2_XS.encode_row::<E, 8, 2, 16, 3, 74>(token, grid, (values, importance, bytes), |blocks, unit, out| {
        let Some(d) = unit else { return };
        let (head, rest) = out.split_at_mut(2);
        let (points, scales) = rest.split_at_mut(64);
        head.copy_from_slice(&f32_to_f16(d));
        for (ib, (block, out)) in blocks.iter().zip(points.chunks_exact_mut(4)).enumerate() {
            for (k, (index, out)) in block.indices.into_iter().zip(out.chunks_exact_mut(2)).enumerate() {
                let signs = (block.signs >> (8 * k) & 127) as u16;
                out.copy_from_slice(&(index | signs << 9).to_le_bytes());
            }
            scales[ib / 2] |= scale_code(block.scale, 1.0 / d, 15) << (4 * (ib % 2));
        }
    });
}

#[inline(always)]
pub(super) fn iq2_s<E: Eight>(token: E::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
    let grid = grid_index::iq2_s();
    IQ2_S.encode_row::<E, 8, 2, 16, 3, 82>(token, grid, (values, importance, bytes), |blocks, unit, out| {
        let (head, rest) = out.split_at_mut(2);
        let (low, rest) = rest.split_at_mut(32);
        let (signs, rest) = rest.split_at_mut(32);
        let (high, scales) = rest.split_at_mut(8);
        for (ib, block) in blocks.iter().enumerate() {
            for (k, index) in block.indices.into_iter().enumerate() {
                low[2 * ib + k] = index as u8;
                high[ib / 2] |= ((index >> 8) as u8) << (4 * (ib % 2) + 2 * k);
                signs[2 * ib + k] = (block.signs >> (8 * k)) as u8;
            }
        }
        let Some(d) = unit else { return };
        head.copy_from_slice(&f32_to_f16(d * 0.9875));
        for (ib, block) in blocks.iter().enumerate() {
            scales[ib / 2] |= scale_code(block.scale, 1.0 / d, 15) << (4 * (ib % 2));
        }
    });
}
