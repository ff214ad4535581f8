//! Q3_K and Q6_K: `scale * code`, with the scale of each sub-block of 16 quantised under `d`.

use super::super::block::{BlockCodec, map_array, scale_signed, transpose_blocks};
use super::super::half::{f16_to_f32, f32_to_f16};
use super::super::search::{self, nearest};
use super::super::simd::{Lanes, Plain};
use super::{CHUNK, PerSubBlock, SIZE, pack_pairs, requantise, sums_of_squares};

/// Number of sub-blocks per block, and of values per sub-block.
const SUB_BLOCKS: usize = 16;

/// Searches every sub-block of up to sixteen blocks, one per lane. Returns scales and inverse scales.
#[inline(always)]
fn search<V: Lanes>(
    token: V::Token,
    values: &[f32],
    nmax: i32,
    mut weigh: impl FnMut(usize, &[V; 16]) -> [V; 16],
) -> (PerSubBlock, PerSubBlock) {
    let (mut scales, mut inverses) = ([0.0; 256], [0.0; 256]);
    for (group, values) in values.chunks(V::COUNT * 16).enumerate() {
        let first = group * V::COUNT;
        let x = transpose_blocks::<V, 16>(token, values);
        let found = search::symmetric(&x, &weigh(first, &x), nmax);
        found.scale.store(&mut scales[first..]);
        found.inverse.store(&mut inverses[first..]);
    }
    (scales, inverses)
}

/// Returns the first value of the largest magnitude.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |largest: f32, x| if x.abs() > largest.abs() { *x } else { largest })
}

/// Q3_K: three-bit codes, the third bits of eight codes, 32 apart, in a byte; six-bit scales.
pub(super) struct Q3K;

/// Packs sixteen six-bit scales into twelve bytes.
#[inline(always)]
fn pack_scales(codes: &[u8; 16]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for i in 0..8 {
        bytes[i] = (codes[i] & 15) | codes[i + 8] << 4;
    }
    for (i, code) in codes.iter().enumerate() {
        bytes[8 + i % 4] |= code >> 4 << (2 * (i / 4));
    }
    bytes
}

/// Unpacks sixteen six-bit scales.
#[inline(always)]
fn unpack_scales(bytes: &[u8]) -> [u8; 16] {
    let mut codes = [0; 16];
    for (i, code) in codes.iter_mut().enumerate() {
        let low = if i < 8 { bytes[i] & 15 } else { bytes[i - 8] >> 4 };
        *code = low | (bytes[8 + i % 4] >> (2 * (i / 4)) & 3) << 4;
    }
    codes
}

impl Q3K {
    /// Returns `d` of each block and the codes of its scales, counted from zero, by a weighted search.
    #[inline(always)]
    fn weighted_scales<V: Lanes>(
        token: V::Token,
        scales: &PerSubBlock,
        weights: &PerSubBlock,
    ) -> ([f32; CHUNK], [[u8; SUB_BLOCKS]; CHUNK]) {
        let (mut numbers, mut codes) = ([0.0; CHUNK], [[0; SUB_BLOCKS]; CHUNK]);
        for first in (0..CHUNK).step_by(V::COUNT) {
            let own = first * SUB_BLOCKS..(first + V::COUNT) * SUB_BLOCKS;
            let found = search::symmetric(
                &transpose_blocks::<V, SUB_BLOCKS>(token, &scales[own.clone()]),
                &transpose_blocks::<V, SUB_BLOCKS>(token, &weights[own.clone()]),
                32,
            );
            let mut inverses = [0.0; CHUNK];
            found.scale.store(&mut numbers[first..]);
            found.inverse.store(&mut inverses);
            for (i, scales) in scales[own].as_chunks::<SUB_BLOCKS>().0.iter().enumerate() {
                codes[first + i] = map_array(scales, |scale| search::symmetric_code(scale, inverses[i], 32));
            }
        }
        (numbers, codes)
    }

    /// Returns `d` of one block and the codes of its scales, from the largest scale.
    #[inline(always)]
    fn scales(scales: &[f32; SUB_BLOCKS]) -> (f32, [u8; SUB_BLOCKS]) {
        let largest = largest(scales);
        if largest == 0.0 {
            return (0.0, [0; SUB_BLOCKS]);
        }
        let inverse = -32.0 / largest;
        (1.0 / inverse, map_array(scales, |scale| ((nearest(inverse * scale) as i8).clamp(-32, 31) + 32) as u8))
    }
}

impl BlockCodec for Q3K {
    #[inline(always)]
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<110>().0.iter().zip(values.as_chunks_mut::<SIZE>().0) {
            let (third, rest) = block.split_at(32);
            let (packed, rest) = rest.split_at(64);
            let scale = f16_to_f32([rest[12], rest[13]]);
            let scales = map_array(&unpack_scales(rest), |code| scale * (i32::from(code) - 32) as f32);
            for (i, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let packed = &packed[32 * (i / 4)..][..32];
                let mut codes = [0; 32];
                for (j, code) in codes.iter_mut().enumerate() {
                    *code = ((packed[j] >> (2 * (i % 4)) & 3) | (third[j] >> i & 1) << 2).wrapping_sub(4);
                }
                scale_signed::<V>(token, &codes[..16], scales[2 * i], &mut values[..16]);
                scale_signed::<V>(token, &codes[16..], scales[2 * i + 1], &mut values[16..]);
            }
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(token: V::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
        let (blocks, _) = bytes.as_chunks_mut::<110>();
        for (chunk, (values, blocks)) in values.chunks(CHUNK * SIZE).zip(blocks.chunks_mut(CHUNK)).enumerate() {
            let (scales, inverses);
            let mut sums = [0.0; 256];
            let weighted = if let Some(importance) = importance {
                let importance = &importance[chunk * CHUNK * SIZE..][..values.len()];
                let mut mean_squares = [0.0; 256];
                for (means, sum) in mean_squares.as_chunks_mut::<SUB_BLOCKS>().0.iter_mut().zip(sums_of_squares(values)) {
                    means.fill(2.0 * sum / SIZE as f32);
                }
                (scales, inverses) = search::<V>(token, values, 4, |first, x| {
                    let mean_square = V::load(token, &mean_squares[first..]);
                    let rest = &importance[first * 16..];
                    let mut weights = transpose_blocks::<V, 16>(token, &rest[..rest.len().min(V::COUNT * 16)]);
                    let mut sum = V::splat(token, 0.0);
                    for (weight, x) in weights.iter_mut().zip(x) {
                        *weight = *weight * (mean_square + *x * *x).sqrt();
                        sum = sum + *weight;
                    }
                    sum.store(&mut sums[first..]);
                    weights
                });
                Some(Self::weighted_scales::<V>(token, &scales, &sums))
            } else {
                let mut found = [0.0; 256];
                for (group, values) in values.chunks(V::COUNT * 16).enumerate() {
                    search::symmetric_by_codes(&transpose_blocks::<V, 16>(token, values), 4).0.store(&mut found[group * V::COUNT..]);
                }
                (scales, inverses) = (found, [0.0; 256]);
                None
            };
            for (i, (x, block)) in values.as_chunks::<SIZE>().0.iter().zip(blocks).enumerate() {
                let own: &[f32; SUB_BLOCKS] = &scales.as_chunks::<SUB_BLOCKS>().0[i];
                let (number, sub_codes) = match &weighted {
                    Some((numbers, codes)) => (numbers[i], codes[i]),
                    None => Self::scales(own),
                };
                let number = f32_to_f16(number);
                // Without weights, the scales of a block of zeros have code 0, which stands for -32.
                let packed = pack_scales(&sub_codes);
                let mut codes = [0; SIZE];
                for (j, (x, codes)) in x.as_chunks::<16>().0.iter().zip(codes.as_chunks_mut::<16>().0).enumerate() {
                    let scale = f16_to_f32(number) * (i32::from(sub_codes[j]) - 32) as f32;
                    if scale != 0.0 {
                        requantise::<16>(x, scale, 0.0, (-4, 3), codes);
                    } else if weighted.is_some() {
                        *codes = map_array(x, |x| search::symmetric_code(x, inverses[i * SUB_BLOCKS + j], 4));
                    } else {
                        let alone = transpose_blocks::<Plain<1>, 16>((), x);
                        for (code, found) in codes.iter_mut().zip(search::symmetric_by_codes(&alone, 4).1) {
                            let mut number = [0.0];
                            found.store(&mut number);
                            *code = number[0] as u8;
                        }
                    }
                }
                let (third, rest) = block.split_at_mut(32);
                for (i, third) in third.iter_mut().enumerate() {
                    *third = (0..8).fold(0, |bits, j| bits | (codes[32 * j + i] >> 2) << j);
                }
                pack_pairs(&codes, &mut rest[..64]);
                rest[64..76].copy_from_slice(&packed);
                rest[76..].copy_from_slice(&number);
            }
        }
    }
}

/// Q6_K: six-bit codes, split into four low and two high bits; signed eight-bit scales.
pub(super) struct Q6K;

impl BlockCodec for Q6K {
    #[inline(always)]
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<210>().0.iter().zip(values.as_chunks_mut::<SIZE>().0) {
            let scale = f16_to_f32([block[208], block[209]]);
            for (i, values) in values.as_chunks_mut::<128>().0.iter_mut().enumerate() {
                let (low, high) = (&block[64 * i..][..64], &block[128 + 32 * i..][..32]);
                for (j, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                    let low = &low[32 * (j % 2)..][..32];
                    let mut codes = [0; 32];
                    for (k, code) in codes.iter_mut().enumerate() {
                        *code = ((low[k] >> (4 * (j / 2)) & 15) | (high[k] >> (2 * j) & 3) << 4).wrapping_sub(32);
                    }
                    for (k, (codes, values)) in codes.as_chunks::<16>().0.iter().zip(values.as_chunks_mut::<16>().0).enumerate() {
                        scale_signed::<V>(token, codes, scale * f32::from(block[192 + 8 * i + 2 * j + k] as i8), values);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(token: V::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
        let (blocks, _) = bytes.as_chunks_mut::<210>();
        for (chunk, (values, blocks)) in values.chunks(CHUNK * SIZE).zip(blocks.chunks_mut(CHUNK)).enumerate() {
            let (scales, inverses) = search::<V>(token, values, 32, |first, x| match importance {
                Some(importance) => {
                    let rest = &importance[chunk * CHUNK * SIZE + first * 16..];
                    transpose_blocks::<V, 16>(token, &rest[..rest.len().min(V::COUNT * 16)])
                }
                None => {
                    let mut weights = *x;
                    for weight in &mut weights {
                        *weight = *weight * *weight;
                    }
                    weights
                }
            });
            for (i, (x, block)) in values.as_chunks::<SIZE>().0.iter().zip(blocks).enumerate() {
                let own = &scales.as_chunks::<SUB_BLOCKS>().0[i];
                let largest = largest(own);
                if largest.abs() < 1e-15 {
                    block.fill(0);
                    continue;
                }
                let inverse = -128.0 / largest;
                let number = f32_to_f16(1.0 / inverse);
                let sub_codes = map_array(own, |scale| nearest(inverse * scale).min(127) as i8);
                let mut codes = [0; SIZE];
                for (j, (x, codes)) in x.as_chunks::<16>().0.iter().zip(codes.as_chunks_mut::<16>().0).enumerate() {
                    let scale = f16_to_f32(number) * f32::from(sub_codes[j]);
                    if scale != 0.0 {
                        requantise::<16>(x, scale, 0.0, (-32, 31), codes);
                    } else {
                        *codes = map_array(x, |x| search::symmetric_code(x, inverses[i * SUB_BLOCKS + j], 32));
                    }
                }
                for (i, codes) in codes.as_chunks::<128>().0.iter().enumerate() {
                    for j in 0..32 {
                        let four = [codes[j], codes[j + 32], codes[j + 64], codes[j + 96]];
                        block[64 * i + j] = (four[0] & 15) | four[2] << 4;
                        block[64 * i + j + 32] = (four[1] & 15) | four[3] << 4;
                        block[128 + 32 * i + j] = four[0] >> 4 | four[1] >> 4 << 2 | four[2] >> 4 << 4 | four[3] >> 4 << 6;
                    }
                }
                for (byte, code) in block[192..208].iter_mut().zip(sub_codes) {
                    *byte = code as u8;
                }
                block[208..].copy_from_slice(&number);
            }
        }
    }
}
