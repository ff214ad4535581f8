//! The first block types of ggml: 32 (Q1_0: 128, Q2_0: 64) codes with a half-precision scale, and for the `_1` types a minimum. Layouts:
//! `block_q4_0` and its neighbours in ggml-common.h; searches for weighted rows: [`super::search`].

use super::Codec;
use super::block::{BlockCodec, low_byte, map_array, nibbles, scale_offset, scale_signed, transpose_blocks};
use super::codebook::{Codebook, CodebookCodec};
use super::half::{f16_to_f32, f32_to_f16};
use super::search::{self, ScaleSteps};
use super::simd::Lanes;
use crate::model::DType;

pub(super) const Q1_0: Codec = Codec::blocks::<OneBit>(DType::Q1_0);
pub(super) const Q2_0: Codec = Codec::blocks::<TwoBits>(DType::Q2_0);
pub(super) const Q4_0: Codec = Codec::coded::<Symmetric4>(DType::Q4_0);
pub(super) const Q4_1: Codec = Codec::coded::<Offset4>(DType::Q4_1);
pub(super) const Q5_0: Codec = Codec::blocks::<Symmetric5>(DType::Q5_0);
pub(super) const Q5_1: Codec = Codec::blocks::<Offset5>(DType::Q5_1);
pub(super) const Q8_0: Codec = Codec::blocks::<Bytes>(DType::Q8_0);
pub(super) const Q8_1: Codec = Codec::blocks::<BytesAndSum>(DType::Q8_1);

/// Returns the largest magnitude of a block; NaN counts as the largest.
#[inline(always)]
fn largest_size(block: &[f32]) -> f32 {
    // Magnitudes compare like their bits, and integer maxima can be taken in any order.
    f32::from_bits(block.iter().fold(0, |largest, x| (x.to_bits() & 0x7fff_ffff).max(largest)))
}

/// Returns the first value of the largest magnitude; zero for a block of zeros.
#[inline(always)]
fn largest<V: Lanes>(token: V::Token, block: &[f32; 32]) -> f32 {
    let size = largest_size(block);
    if size == 0.0 {
        return 0.0;
    }
    let (mut above, mut below) = (false, false);
    for x in block.chunks_exact(V::COUNT) {
        let x = V::load(token, x);
        above |= V::any(x.eq(V::splat(token, size)));
        below |= V::any(x.eq(V::splat(token, -size)));
    }
    match (above, below) {
        (true, false) => size,
        (false, true) => -size,
        _ => block.iter().copied().find(|x| x.abs() == size).unwrap_or(0.0),
    }
}

/// Returns the smallest and the largest value. Among zeros of both signs the first counts.
#[inline(always)]
fn min_max<V: Lanes>(token: V::Token, block: &[f32; 32]) -> (f32, f32) {
    let (mut min, mut max) = (V::splat(token, f32::MAX), V::splat(token, -f32::MAX));
    for x in block.chunks_exact(V::COUNT) {
        let x = V::load(token, x);
        min = x.min(min);
        max = x.max(max);
    }
    let (mut lows, mut highs) = ([f32::MAX; 16], [-f32::MAX; 16]);
    min.store(&mut lows);
    max.store(&mut highs);
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lows[i] = if lows[i + half] < lows[i] { lows[i + half] } else { lows[i] };
            highs[i] = if highs[i + half] > highs[i] { highs[i + half] } else { highs[i] };
        }
    }
    let signed = |end: f32| if end == 0.0 { block.iter().copied().find(|x| *x == 0.0).unwrap_or(end) } else { end };
    (signed(lows[0]), signed(highs[0]))
}

/// Returns the codes of a block: `(x - min) * inverse + half` rounded toward zero, as a signed byte of at most `nmax`.
#[inline(always)]
fn truncated_codes<V: Lanes>(token: V::Token, block: &[f32; 32], min: f32, inverse: f32, half: f32, nmax: i8) -> [u8; 32] {
    let (min, inverse, half) = (V::splat(token, min), V::splat(token, inverse), V::splat(token, half));
    let mut codes = [0; 32];
    for (x, codes) in block.chunks_exact(V::COUNT).zip(codes.chunks_exact_mut(V::COUNT)) {
        ((V::load(token, x) - min) * inverse + half).trunc().store_bytes(codes);
    }
    map_array(&codes, |code| (code as i8).min(nmax) as u8)
}

/// Returns the inverse of a scale, or zero.
#[inline(always)]
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Returns the mean square of a row, summed in order.
#[inline(always)]
fn mean_square(row: &[f32]) -> f32 {
    row.iter().fold(0.0, |sum, x| sum + x * x) / row.len() as f32
}

/// Packs 32 four-bit codes, the first sixteen into the low nibbles.
#[inline(always)]
fn pack_nibbles(codes: &[u8; 32], bytes: &mut [u8]) {
    for (i, byte) in bytes.iter_mut().enumerate().take(16) {
        *byte = (codes[i] & 15) | codes[i + 16] << 4;
    }
}

/// Packs the fifth bits of 32 codes, the first into the lowest bit.
#[inline(always)]
fn pack_fifth_bits(codes: &[u8; 32]) -> [u8; 4] {
    codes.iter().enumerate().fold(0, |bits, (i, code)| bits | u32::from(code >> 4 & 1) << i).to_le_bytes()
}

/// Unpacks five-bit codes from nibbles and four bytes of fifth bits.
#[inline(always)]
fn unpack_five_bits(packed: &[u8], fifth: [u8; 4]) -> [u8; 32] {
    let mut codes = nibbles::<32>(packed);
    let fifth = u32::from_le_bytes(fifth);
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= (fifth >> i & 1) as u8 * 16;
    }
    codes
}

/// Subtracts `zero` from each code, wrapping to signed bytes.
#[inline(always)]
fn subtract_zero_point(mut codes: [u8; 32], zero: u8) -> [u8; 32] {
    for code in &mut codes {
        *code = code.wrapping_sub(zero);
    }
    codes
}

/// Encodes weighted blocks of 32 as `scale * code`; `write` takes each block's index, scale and codes.
#[inline(always)]
fn weighted_symmetric<V: Lanes>(token: V::Token, row: &[f32], importance: &[f32], nmax: i32, mut write: impl FnMut(usize, f32, &[u8; 32])) {
    let mean_square = V::splat(token, mean_square(row));
    let size = V::COUNT * 32;
    for (group, (values, importance)) in row.chunks(size).zip(importance.chunks(size)).enumerate() {
        let (x, mut weights) = (transpose_blocks::<V, 32>(token, values), transpose_blocks::<V, 32>(token, importance));
        for (weight, x) in weights.iter_mut().zip(&x) {
            *weight = *weight * (mean_square + *x * *x).sqrt();
        }
        let found = search::symmetric(&x, &weights, nmax);
        let (mut scales, mut inverses) = ([0.0; 16], [0.0; 16]);
        found.scale.store(&mut scales);
        found.inverse.store(&mut inverses);
        for (i, block) in values.as_chunks::<32>().0.iter().enumerate() {
            let codes = map_array(block, |x| search::symmetric_code(x, inverses[i], nmax));
            write(group * V::COUNT + i, scales[i], &codes);
        }
    }
}

/// Encodes weighted blocks of 32 as `scale * code + min`; `write` takes each block's index, scale, minimum and codes.
#[inline(always)]
fn weighted_offset<V: Lanes>(
    token: V::Token,
    row: &[f32],
    importance: &[f32],
    nmax: i32,
    mut write: impl FnMut(usize, f32, f32, &[u8; 32]),
) {
    const STEPS: ScaleSteps = ScaleSteps { rmin: -0.9, rdelta: 0.05, nstep: 36 };
    let mean_square = V::splat(token, mean_square(row));
    let size = V::COUNT * 32;
    for (group, (values, importance)) in row.chunks(size).zip(importance.chunks(size)).enumerate() {
        let (x, mut weights) = (transpose_blocks::<V, 32>(token, values), transpose_blocks::<V, 32>(token, importance));
        for (weight, x) in weights.iter_mut().zip(&x) {
            *weight = *weight * (mean_square + *x * *x).sqrt();
        }
        let found = search::offset::<V, 32, false>(&x, &weights, nmax, STEPS).unpack();
        for (i, block) in values.as_chunks::<32>().0.iter().enumerate() {
            let codes = map_array(block, |x| search::offset_code(x, found.inverse[i], found.base[i], nmax));
            write(group * V::COUNT + i, found.scale[i], found.min[i], &codes);
        }
    }
}

/// Q1_0: the signs of the values, scaled by their mean magnitude.
struct OneBit;

impl BlockCodec for OneBit {
    #[inline(always)]
    fn decode<V: Lanes>(_token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<18>().0.iter().zip(values.as_chunks_mut::<128>().0) {
            let scale = f16_to_f32([block[0], block[1]]).to_bits();
            for (values, bits) in values.as_chunks_mut::<8>().0.iter_mut().zip(&block[2..]) {
                for (i, value) in values.iter_mut().enumerate() {
                    *value = f32::from_bits(scale ^ (u32::from(!bits) >> i & 1) << 31);
                }
            }
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(_token: V::Token, values: &[f32], _importance: Option<&[f32]>, bytes: &mut [u8]) {
        for (block, values) in bytes.as_chunks_mut::<18>().0.iter_mut().zip(values.as_chunks::<128>().0) {
            let sum = values.iter().fold(0.0, |sum, x| sum + x.abs());
            let (scale, signs) = block.split_at_mut(2);
            scale.copy_from_slice(&f32_to_f16(sum / 128.0));
            for (byte, values) in signs.iter_mut().zip(values.as_chunks::<8>().0) {
                *byte = values.iter().enumerate().fold(0, |bits, (i, x)| bits | u8::from(*x >= 0.0) << i);
            }
        }
    }
}

/// Q2_0: codes for -1, 0, 1, 2 times the scale; encoding does not use the 2.
struct TwoBits;

impl BlockCodec for TwoBits {
    #[inline(always)]
    fn decode<V: Lanes>(_token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<18>().0.iter().zip(values.as_chunks_mut::<64>().0) {
            let scale = f16_to_f32([block[0], block[1]]);
            for (values, packed) in values.as_chunks_mut::<4>().0.iter_mut().zip(&block[2..]) {
                for (i, value) in values.iter_mut().enumerate() {
                    *value = (i32::from(packed >> (2 * i) & 3) - 1) as f32 * scale;
                }
            }
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(_token: V::Token, values: &[f32], _importance: Option<&[f32]>, bytes: &mut [u8]) {
        for (block, values) in bytes.as_chunks_mut::<18>().0.iter_mut().zip(values.as_chunks::<64>().0) {
            let size = largest_size(values);
            let inverse = inverse(size);
            let (scale, packed) = block.split_at_mut(2);
            scale.copy_from_slice(&f32_to_f16(size));
            for (byte, values) in packed.iter_mut().zip(values.as_chunks::<4>().0) {
                let code = |x: f32| {
                    let whole = (x * inverse).round();
                    // The inverse of a subnormal scale is infinite; the reference's codes are then zero.
                    if whole.is_finite() { low_byte(whole).wrapping_add(1) & 3 } else { 0 }
                };
                *byte = code(values[0]) | code(values[1]) << 2 | code(values[2]) << 4 | code(values[3]) << 6;
            }
        }
    }
}

/// Q4_0: codes from -8 to 7 times the scale.
struct Symmetric4;

impl BlockCodec for Symmetric4 {
    #[inline(always)]
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<18>().0.iter().zip(values.as_chunks_mut::<32>().0) {
            let scale = f16_to_f32([block[0], block[1]]);
            scale_signed::<V>(token, &subtract_zero_point(nibbles(&block[2..]), 8), scale, values);
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(token: V::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
        let (blocks, _) = bytes.as_chunks_mut::<18>();
        if let Some(importance) = importance {
            return weighted_symmetric::<V>(token, values, importance, 8, |i, scale, codes| {
                if let Some(block) = blocks.get_mut(i) {
                    block[..2].copy_from_slice(&f32_to_f16(scale));
                    pack_nibbles(codes, &mut block[2..]);
                }
            });
        }
        for (block, values) in blocks.iter_mut().zip(values.as_chunks::<32>().0) {
            let scale = largest::<V>(token, values) / -8.0;
            let inverse = inverse(scale);
            block[..2].copy_from_slice(&f32_to_f16(scale));
            let codes = truncated_codes::<V>(token, values, 0.0, inverse, 8.5, 15);
            pack_nibbles(&codes, &mut block[2..]);
        }
    }
}

impl CodebookCodec for Symmetric4 {
    #[inline(always)]
    fn codebooks<V: Lanes>(token: V::Token, bytes: &[u8], codebooks: &mut [Codebook]) {
        for (block, codebook) in bytes.as_chunks::<18>().0.iter().zip(codebooks) {
            *codebook = Codebook::symmetric::<V>(token, &nibbles(&block[2..]), 8, f16_to_f32([block[0], block[1]]));
        }
    }
}

/// Q4_1: codes from 0 to 15 times the scale, plus a minimum.
struct Offset4;

impl BlockCodec for Offset4 {
    #[inline(always)]
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<20>().0.iter().zip(values.as_chunks_mut::<32>().0) {
            let (scale, min) = (f16_to_f32([block[0], block[1]]), f16_to_f32([block[2], block[3]]));
            scale_offset::<V>(token, &nibbles::<32>(&block[4..]), scale, min, values);
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(token: V::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
        let (blocks, _) = bytes.as_chunks_mut::<20>();
        if let Some(importance) = importance {
            return weighted_offset::<V>(token, values, importance, 15, |i, scale, min, codes| {
                if let Some(block) = blocks.get_mut(i) {
                    block[..2].copy_from_slice(&f32_to_f16(scale));
                    block[2..4].copy_from_slice(&f32_to_f16(min));
                    pack_nibbles(codes, &mut block[4..]);
                }
            });
        }
        for (block, values) in blocks.iter_mut().zip(values.as_chunks::<32>().0) {
            let (min, max) = min_max::<V>(token, values);
            let scale = (max - min) / 15.0;
            let inverse = inverse(scale);
            block[..2].copy_from_slice(&f32_to_f16(scale));
            block[2..4].copy_from_slice(&f32_to_f16(min));
            let codes = truncated_codes::<V>(token, values, min, inverse, 0.5, 15);
            pack_nibbles(&codes, &mut block[4..]);
        }
    }
}

impl CodebookCodec for Offset4 {
    #[inline(always)]
    fn codebooks<V: Lanes>(token: V::Token, bytes: &[u8], codebooks: &mut [Codebook]) {
        for (block, codebook) in bytes.as_chunks::<20>().0.iter().zip(codebooks) {
            *codebook =
                Codebook::offset::<V>(token, &nibbles(&block[4..]), f16_to_f32([block[0], block[1]]), f16_to_f32([block[2], block[3]]));
        }
    }
}

/// Q5_0: codes from -16 to 15 times the scale.
struct Symmetric5;

impl BlockCodec for Symmetric5 {
    #[inline(always)]
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<22>().0.iter().zip(values.as_chunks_mut::<32>().0) {
            let scale = f16_to_f32([block[0], block[1]]);
            let codes = unpack_five_bits(&block[6..], [block[2], block[3], block[4], block[5]]);
            scale_signed::<V>(token, &subtract_zero_point(codes, 16), scale, values);
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(token: V::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
        let (blocks, _) = bytes.as_chunks_mut::<22>();
        let write = |block: &mut [u8; 22], scale: f32, codes: &[u8; 32]| {
            block[..2].copy_from_slice(&f32_to_f16(scale));
            block[2..6].copy_from_slice(&pack_fifth_bits(codes));
            pack_nibbles(codes, &mut block[6..]);
        };
        if let Some(importance) = importance {
            return weighted_symmetric::<V>(token, values, importance, 16, |i, scale, codes| {
                if let Some(block) = blocks.get_mut(i) {
                    write(block, scale, codes);
                }
            });
        }
        for (block, values) in blocks.iter_mut().zip(values.as_chunks::<32>().0) {
            let scale = largest::<V>(token, values) / -16.0;
            let inverse = inverse(scale);
            let codes = truncated_codes::<V>(token, values, 0.0, inverse, 16.5, 31);
            write(block, scale, &codes);
        }
    }
}

/// Q5_1: codes from 0 to 31 times the scale, plus a minimum.
struct Offset5;

impl BlockCodec for Offset5 {
    #[inline(always)]
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<24>().0.iter().zip(values.as_chunks_mut::<32>().0) {
            let (scale, min) = (f16_to_f32([block[0], block[1]]), f16_to_f32([block[2], block[3]]));
            let codes = unpack_five_bits(&block[8..], [block[4], block[5], block[6], block[7]]);
            scale_offset::<V>(token, &codes, scale, min, values);
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(token: V::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
        let (blocks, _) = bytes.as_chunks_mut::<24>();
        let write = |block: &mut [u8; 24], scale: f32, min: f32, codes: &[u8; 32]| {
            block[..2].copy_from_slice(&f32_to_f16(scale));
            block[2..4].copy_from_slice(&f32_to_f16(min));
            block[4..8].copy_from_slice(&pack_fifth_bits(codes));
            pack_nibbles(codes, &mut block[8..]);
        };
        if let Some(importance) = importance {
            return weighted_offset::<V>(token, values, importance, 31, |i, scale, min, codes| {
                if let Some(block) = blocks.get_mut(i) {
                    write(block, scale, min, codes);
                }
            });
        }
        for (block, values) in blocks.iter_mut().zip(values.as_chunks::<32>().0) {
            let (min, max) = min_max::<V>(token, values);
            let scale = (max - min) / 31.0;
            let inverse = inverse(scale);
            let codes = truncated_codes::<V>(token, values, min, inverse, 0.5, i8::MAX);
            write(block, scale, min, &codes);
        }
    }
}

/// Returns the scale of a block and its eight-bit codes.
#[inline(always)]
fn quantise_to_bytes<V: Lanes>(token: V::Token, block: &[f32; 32]) -> (f32, [u8; 32]) {
    let scale = largest_size(block) / 127.0;
    let inverse = V::splat(token, inverse(scale));
    let mut codes = [0; 32];
    for (x, codes) in block.chunks_exact(V::COUNT).zip(codes.chunks_exact_mut(V::COUNT)) {
        (V::load(token, x) * inverse).round().store_bytes(codes);
    }
    (scale, codes)
}

/// Q8_0: signed bytes times the scale.
struct Bytes;

impl BlockCodec for Bytes {
    #[inline(always)]
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<34>().0.iter().zip(values.as_chunks_mut::<32>().0) {
            let scale = f16_to_f32([block[0], block[1]]);
            scale_signed::<V>(token, &block[2..], scale, values);
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(token: V::Token, values: &[f32], _importance: Option<&[f32]>, bytes: &mut [u8]) {
        for (block, values) in bytes.as_chunks_mut::<34>().0.iter_mut().zip(values.as_chunks::<32>().0) {
            let (scale, codes) = quantise_to_bytes::<V>(token, values);
            block[..2].copy_from_slice(&f32_to_f16(scale));
            block[2..].copy_from_slice(&codes);
        }
    }
}

/// Q8_1: as Q8_0, with the sum of the codes times the scale after it, which decoding does not use.
struct BytesAndSum;

impl BlockCodec for BytesAndSum {
    #[inline(always)]
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<36>().0.iter().zip(values.as_chunks_mut::<32>().0) {
            let scale = f16_to_f32([block[0], block[1]]);
            scale_signed::<V>(token, &block[4..], scale, values);
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(token: V::Token, values: &[f32], _importance: Option<&[f32]>, bytes: &mut [u8]) {
        for (block, values) in bytes.as_chunks_mut::<36>().0.iter_mut().zip(values.as_chunks::<32>().0) {
            let (scale, codes) = quantise_to_bytes::<V>(token, values);
            let sum: i32 = codes.iter().map(|code| i32::from(*code as i8)).sum();
            block[..2].copy_from_slice(&f32_to_f16(scale));
            block[2..4].copy_from_slice(&f32_to_f16(sum as f32 * scale));
            block[4..].copy_from_slice(&codes);
        }
    }
}
