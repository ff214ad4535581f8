//! Decoders of the IQ types.
//!
//! Decoders take whole blocks and ignore a partial block at the end. Every bit pattern decodes to something: all indices are masked to the
//! size of their grid.

use super::super::block::{nibbles, scale_entries};
use super::super::half::f16_to_f32;
use super::super::simd::Lanes;
use super::{IQ1_DELTA, IQ4_VALUES, even_signs, grid};

/// Writes eight values: grid coordinates times the scale, with the signs applied; the first sign is the lowest bit.
#[inline(always)]
fn signed(out: &mut [f32; 8], scale: f32, point: [i8; 8], signs: u8) {
    for (j, (out, coordinate)) in out.iter_mut().zip(point).enumerate() {
        let sign = (u32::from(signs) << (31 - j)) & (1 << 31);
        *out = f32::from_bits((scale * f32::from(coordinate)).to_bits() ^ sign);
    }
}

/// Concatenates two points of four coordinates.
#[inline(always)]
fn pair(a: [i8; 4], b: [i8; 4]) -> [i8; 8] {
    let mut both = [0; 8];
    both[..4].copy_from_slice(&a);
    both[4..].copy_from_slice(&b);
    both
}

/// Writes eight values of an IQ1 block: grid coordinates, shifted by `delta`, times the scale.
#[inline(always)]
fn shifted(out: &mut [f32; 8], scale: f32, point: [i8; 8], delta: f32) {
    for (out, coordinate) in out.iter_mut().zip(point) {
        *out = scale * (f32::from(coordinate) + delta);
    }
}

/// Writes 32 values from sixteen bytes of IQ4 codes; the low nibbles come first.
#[inline(always)]
fn iq4_group<V: Lanes>(token: V::Token, out: &mut [f32; 32], scale: f32, packed: &[u8; 16]) {
    scale_entries::<V>(token, &IQ4_VALUES, &nibbles::<32>(packed), scale, out);
}

/// Iterates over the blocks and the 32 groups of eight values that each decodes to.
#[inline(always)]
fn blocks<'a, const BYTES: usize>(
    bytes: &'a [u8],
    values: &'a mut [f32],
) -> impl Iterator<Item = (&'a [u8; BYTES], &'a mut [[f32; 8]; 32])> {
    bytes.as_chunks().0.iter().zip(values.as_chunks_mut().0.as_chunks_mut().0)
}

/// Returns the F16 at the start of a block, its scale in most types.
#[inline(always)]
fn block_scale(block: &[u8]) -> f32 {
    f16_to_f32([block[0], block[1]])
}

#[inline(always)]
fn u16_at(bytes: &[u8], index: usize) -> u16 {
    u16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]])
}

#[inline(always)]
fn u32_at(bytes: &[u8], index: usize) -> u32 {
    let at = 4 * index;
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// IQ2_XXS: per 32 elements four 8-bit grid indices, then 4 x 7 sign bits and a 4-bit scale.
#[inline(always)]
pub(super) fn iq2_xxs(bytes: &[u8], values: &mut [f32]) {
    for (block, out) in blocks::<66>(bytes, values) {
        let (d, qs) = (block_scale(block), &block[2..]);
        for (ib, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let aux = u32_at(qs, 2 * ib + 1);
            let scale = d * (0.5 + (aux >> 28) as f32) * 0.25;
            for (l, out) in out.iter_mut().enumerate() {
                let point = grid::IQ2_XXS[usize::from(qs[8 * ib + l])];
                signed(out, scale, point, even_signs((aux >> (7 * l)) as u8));
            }
        }
    }
}

/// IQ2_XS: per 8 elements a 9-bit grid index and 7 sign bits; per 16 a 4-bit scale.
#[inline(always)]
pub(super) fn iq2_xs(bytes: &[u8], values: &mut [f32]) {
    for (block, out) in blocks::<74>(bytes, values) {
        let (d, qs, scales) = (block_scale(block), &block[2..66], &block[66..]);
        for (k, out) in out.iter_mut().enumerate() {
            let scale = d * (0.5 + f32::from(nibble(scales, k / 2))) * 0.25;
            let q = u16_at(qs, k);
            signed(out, scale, grid::IQ2_XS[usize::from(q & 511)], even_signs((q >> 9) as u8));
        }
    }
}

/// Returns the nibble at an index, low nibbles first.
#[inline(always)]
fn nibble(bytes: &[u8], index: usize) -> u8 {
    bytes[index / 2] >> (4 * (index % 2)) & 15
}

/// IQ2_S: per 8 elements a grid index of 8 + 2 bits and 8 sign bits; per 16 a 4-bit scale.
#[inline(always)]
pub(super) fn iq2_s(bytes: &[u8], values: &mut [f32]) {
    for (block, out) in blocks::<82>(bytes, values) {
        let (d, qs, signs, qh, scales) = (block_scale(block), &block[2..34], &block[34..66], &block[66..74], &block[74..]);
        for (k, out) in out.iter_mut().enumerate() {
            let scale = d * (0.5 + f32::from(nibble(scales, k / 2))) * 0.25;
            let high = usize::from(qh[k / 4] >> (2 * (k % 4)) & 3);
            signed(out, scale, grid::IQ2_S[usize::from(qs[k]) | high << 8], signs[k]);
        }
    }
}

/// IQ3_XXS: per 4 elements an 8-bit grid index; per 32 elements 4 x 7 sign bits and a 4-bit scale.
#[inline(always)]
pub(super) fn iq3_xxs(bytes: &[u8], values: &mut [f32]) {
    for (block, out) in blocks::<98>(bytes, values) {
        let (d, qs, rest) = (block_scale(block), &block[2..66], &block[66..]);
        for (ib, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let aux = u32_at(rest, ib);
            let scale = d * (0.5 + (aux >> 28) as f32) * 0.5;
            for (l, out) in out.iter_mut().enumerate() {
                let k = 4 * ib + l;
                let point = pair(grid::IQ3_XXS[usize::from(qs[2 * k])], grid::IQ3_XXS[usize::from(qs[2 * k + 1])]);
                signed(out, scale, point, even_signs((aux >> (7 * l)) as u8));
            }
        }
    }
}

/// IQ3_S: per 4 elements a grid index of 8 + 1 bits, per 8 elements 8 sign bits; per 32 a 4-bit scale.
#[inline(always)]
pub(super) fn iq3_s(bytes: &[u8], values: &mut [f32]) {
    for (block, out) in blocks::<110>(bytes, values) {
        let (d, qs, qh, signs, scales) = (block_scale(block), &block[2..66], &block[66..74], &block[74..106], &block[106..]);
        for (k, out) in out.iter_mut().enumerate() {
            let scale = d * f32::from(1 + 2 * nibble(scales, k / 4));
            let index = |i: usize| usize::from(qs[i]) | usize::from(qh[i / 8] >> (i % 8) & 1) << 8;
            signed(out, scale, pair(grid::IQ3_S[index(2 * k)], grid::IQ3_S[index(2 * k + 1)]), signs[k]);
        }
    }
}

/// IQ1_S: per 8 elements a grid index of 8 + 3 bits; per 32 elements a 3-bit scale and the sign of the shift.
#[inline(always)]
pub(super) fn iq1_s(bytes: &[u8], values: &mut [f32]) {
    for (block, out) in blocks::<50>(bytes, values) {
        let (d, qs, qh) = (block_scale(block), &block[2..34], &block[34..]);
        for (k, out) in out.iter_mut().enumerate() {
            let high = u16_at(qh, k / 4);
            let scale = d * f32::from(2 * (high >> 12 & 7) + 1);
            let delta = if high & 0x8000 != 0 { -IQ1_DELTA } else { IQ1_DELTA };
            let index = usize::from(qs[k]) | usize::from(high >> (3 * (k % 4)) & 7) << 8;
            shifted(out, scale, grid::IQ1[index], delta);
        }
    }
}

/// IQ1_M: per 8 elements a grid index of 8 + 3 bits and the sign of the shift; per 16 elements a 3-bit scale.
///
/// The block's scale is an F16, spread over the top four bits of the four 16-bit words of scales.
#[inline(always)]
pub(super) fn iq1_m(bytes: &[u8], values: &mut [f32]) {
    for (block, out) in blocks::<56>(bytes, values) {
        let (qs, qh, scales) = (&block[..32], &block[32..48], &block[48..]);
        let bits = (0..4).fold(0, |bits, i| bits | (u16_at(scales, i) >> 12) << (4 * i));
        let d = f16_to_f32(bits.to_le_bytes());
        for (k, out) in out.iter_mut().enumerate() {
            let scale = d * f32::from(2 * (u16_at(scales, k / 8) >> (3 * (k / 2 % 4)) & 7) + 1);
            let high = nibble(qh, k);
            let delta = if high & 8 != 0 { -IQ1_DELTA } else { IQ1_DELTA };
            shifted(out, scale, grid::IQ1[usize::from(qs[k]) | usize::from(high & 7) << 8], delta);
        }
    }
}

/// IQ4_NL: 32 four-bit codes with one scale.
#[inline(always)]
pub(super) fn iq4_nl<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<18>();
    let (outs, _) = values.as_chunks_mut::<32>();
    for ([d0, d1, codes @ ..], out) in blocks.iter().zip(outs) {
        iq4_group::<V>(token, out, f16_to_f32([*d0, *d1]), codes);
    }
}

/// IQ4_XS: 256 four-bit codes; per 32 a 6-bit scale, split into four low and two high bits.
#[inline(always)]
pub(super) fn iq4_xs<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<136>();
    let (groups, _) = values.as_chunks_mut::<32>();
    let (outs, _) = groups.as_chunks_mut::<8>();
    for (block, out) in blocks.iter().zip(outs) {
        let (d, high, low, codes) = (block_scale(block), u16_at(block, 1), &block[4..8], &block[8..]);
        for (ib, (out, codes)) in out.iter_mut().zip(codes.as_chunks::<16>().0).enumerate() {
            let scale = i16::from(nibble(low, ib)) | ((high >> (2 * ib) & 3) << 4) as i16;
            iq4_group::<V>(token, out, d * f32::from(scale - 32), codes);
        }
    }
}
