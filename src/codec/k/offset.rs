//! Q2_K, Q4_K and Q5_K: `scale * code - min`, with scale and minimum of each sub-block quantised under `d` and `dmin`.

use super::super::block::{BlockCodec, map_array, scale_offset, transpose_blocks};
use super::super::codebook::{Codebook, CodebookCodec};
use super::super::half::{f16_to_f32, f32_to_f16};
use super::super::search::{self, ScaleSteps, nearest};
use super::super::simd::Lanes;
use super::{CHUNK, PerSubBlock, SIZE, pack_pairs, requantise, sums_of_squares};

/// Differences between the three types in encoding.
struct Params {
    /// Largest code.
    nmax: i32,
    /// Largest code of a sub-block's scale and minimum.
    nmax_scale: i32,
    /// Scales tried without importance weights.
    steps: ScaleSteps,
    /// Factor of the mean square of the block that is added to the squares in the weights.
    mean_square: f32,
}

/// Scales tried with importance weights.
const WEIGHTED_STEPS: ScaleSteps = ScaleSteps { rmin: -0.9, rdelta: 0.05, nstep: 36 };

/// Search results for the sub-blocks of a chunk.
struct SubBlocks {
    scale: PerSubBlock,
    /// Minimum, negated.
    min: PerSubBlock,
    inverse: PerSubBlock,
    base: PerSubBlock,
    weight: PerSubBlock,
}

/// Searches every sub-block of up to sixteen blocks, one per lane. `N` is the number of values per sub-block; without weights the error of
/// Q2_K is absolute.
#[inline(always)]
fn search<V: Lanes, const N: usize>(token: V::Token, params: &Params, values: &[f32], importance: Option<&[f32]>) -> SubBlocks {
    let mut found = SubBlocks { scale: [0.0; 256], min: [0.0; 256], inverse: [0.0; 256], base: [0.0; 256], weight: [0.0; 256] };
    let mut mean_squares = [0.0; 256];
    if importance.is_some() {
        for (means, sum) in mean_squares.chunks_exact_mut(SIZE / N).zip(sums_of_squares(values)) {
            means.fill(params.mean_square * sum / SIZE as f32);
        }
    }
    for (group, values) in values.chunks(V::COUNT * N).enumerate() {
        let first = group * V::COUNT;
        let x = transpose_blocks::<V, N>(token, values);
        let result = if let Some(importance) = importance {
            let mean_square = V::load(token, &mean_squares[first..]);
            let mut weights = transpose_blocks::<V, N>(token, &importance[first * N..][..values.len()]);
            let mut sum = V::splat(token, 0.0);
            for (weight, x) in weights.iter_mut().zip(&x) {
                *weight = *weight * (mean_square + *x * *x).sqrt();
                sum = sum + *weight;
            }
            sum.store(&mut found.weight[first..]);
            search::offset::<V, N, false>(&x, &weights, params.nmax, WEIGHTED_STEPS)
        } else if N == 16 {
            let mut weights = x;
            for weight in &mut weights {
                *weight = weight.abs();
            }
            search::offset::<V, N, true>(&x, &weights, params.nmax, params.steps)
        } else {
            let mean = (x.iter().fold(V::splat(token, 0.0), |sum, x| sum + *x * *x) / V::splat(token, N as f32)).sqrt();
            let mut weights = x;
            for weight in &mut weights {
                *weight = mean + weight.abs();
            }
            search::offset::<V, N, false>(&x, &weights, params.nmax, params.steps)
        };
        result.scale.store(&mut found.scale[first..]);
        result.min.store(&mut found.min[first..]);
        result.inverse.store(&mut found.inverse[first..]);
        result.base.store(&mut found.base[first..]);
    }
    for min in &mut found.min {
        *min = -*min;
    }
    found
}

/// Quantises scales or minima and returns the number that scales their codes: by a search with weights, or from the largest.
#[inline(always)]
fn scales(found: &[f32], weights: Option<&[f32]>, nmax: i32, codes: &mut [u8]) -> f32 {
    if let Some(weights) = weights {
        return search::non_negative(found, weights, nmax, codes);
    }
    let largest = found.iter().fold(0.0, |largest, x| if *x > largest { *x } else { largest });
    let inverse = if largest > 0.0 { nmax as f32 / largest } else { 0.0 };
    for (code, x) in codes.iter_mut().zip(found) {
        *code = nearest(inverse * x) as u8;
    }
    largest / nmax as f32
}

/// Encodes a row; `write` packs a block's `d` and `dmin`, the codes of its scales and minima, and its codes.
#[inline(always)]
fn encode<V: Lanes, const N: usize, const BYTES: usize>(
    token: V::Token,
    params: &Params,
    values: &[f32],
    importance: Option<&[f32]>,
    bytes: &mut [u8],
    write: impl Fn(&mut [u8; BYTES], [[u8; 2]; 2], &[u8], &[u8], &[u8; SIZE]),
) {
    let sub_blocks = SIZE / N;
    for (chunk, (values, blocks)) in values.chunks(CHUNK * SIZE).zip(bytes.as_chunks_mut::<BYTES>().0.chunks_mut(CHUNK)).enumerate() {
        let importance = importance.map(|importance| &importance[chunk * CHUNK * SIZE..][..values.len()]);
        let found = search::<V, N>(token, params, values, importance);
        for (i, (x, block)) in values.as_chunks::<SIZE>().0.iter().zip(blocks).enumerate() {
            let own = i * sub_blocks..(i + 1) * sub_blocks;
            let weights = importance.map(|_| &found.weight[own.clone()]);
            let (mut sub_scales, mut sub_mins) = ([0; 16], [0; 16]);
            let (sub_scales, sub_mins) = (&mut sub_scales[..sub_blocks], &mut sub_mins[..sub_blocks]);
            let scale = f32_to_f16(scales(&found.scale[own.clone()], weights, params.nmax_scale, sub_scales));
            let min = f32_to_f16(scales(&found.min[own.clone()], weights, params.nmax_scale, sub_mins));
            for code in sub_scales.iter_mut().chain(&mut *sub_mins) {
                *code = (*code).min(if N == 32 { params.nmax_scale as u8 } else { u8::MAX });
            }
            let mut codes = [0; SIZE];
            for (j, at) in own.enumerate() {
                let (x, codes) = (&x[j * N..], &mut codes[j * N..]);
                // In Q2_K a wrapped scale overflows into the bits of the minimum, as in the reference.
                let packed =
                    if N == 32 { (sub_scales[j], sub_mins[j]) } else { (sub_scales[j] & 15, (sub_mins[j] & 15) | sub_scales[j] >> 4) };
                let sub_scale = f16_to_f32(scale) * f32::from(packed.0);
                if sub_scale == 0.0 {
                    for (code, x) in codes.iter_mut().zip(&x[..N]) {
                        *code = search::offset_code(*x, found.inverse[at], found.base[at], params.nmax);
                    }
                } else {
                    requantise::<N>(x, sub_scale, f16_to_f32(min) * f32::from(packed.1), (0, params.nmax), codes);
                }
            }
            write(block, [scale, min], sub_scales, sub_mins, &codes);
        }
    }
}

/// Packs the six-bit codes of eight scales and eight minima into twelve bytes.
#[inline(always)]
fn pack_scales(scales: &[u8], mins: &[u8]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for i in 0..4 {
        bytes[i] = scales[i] | scales[i + 4] >> 4 << 6;
        bytes[i + 4] = mins[i] | mins[i + 4] >> 4 << 6;
        bytes[i + 8] = (scales[i + 4] & 15) | mins[i + 4] << 4;
    }
    bytes
}

/// Unpacks the codes of scales and minima.
#[inline(always)]
fn unpack_scales(bytes: &[u8]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for i in 0..4 {
        scales[i] = bytes[i] & 63;
        mins[i] = bytes[i + 4] & 63;
        scales[i + 4] = (bytes[i + 8] & 15) | bytes[i] >> 6 << 4;
        mins[i + 4] = bytes[i + 8] >> 4 | bytes[i + 4] >> 6 << 4;
    }
    (scales, mins)
}

/// Returns the scales and the negated minima of the sub-blocks of Q4_K or Q5_K.
#[inline(always)]
fn scaled(block: &[u8]) -> ([f32; 8], [f32; 8]) {
    let (scale, min) = (f16_to_f32([block[0], block[1]]), f16_to_f32([block[2], block[3]]));
    let (scales, mins) = unpack_scales(&block[4..16]);
    (map_array(&scales, |code| scale * f32::from(code)), map_array(&mins, |code| -(min * f32::from(code))))
}

/// Returns the low and the high nibbles.
#[inline(always)]
fn nibbles(packed: &[u8; 32]) -> ([u8; 32], [u8; 32]) {
    let (mut low, mut high) = ([0; 32], [0; 32]);
    for i in 0..32 {
        low[i] = packed[i] & 15;
        high[i] = packed[i] >> 4;
    }
    (low, high)
}

/// Q2_K: two-bit codes, sub-blocks of 16, four-bit scales and minima.
pub(super) struct Q2K;

const Q2K_PARAMS: Params = Params { nmax: 3, nmax_scale: 15, steps: ScaleSteps { rmin: -0.5, rdelta: 0.1, nstep: 15 }, mean_square: 1.0 };

impl BlockCodec for Q2K {
    #[inline(always)]
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<84>().0.iter().zip(values.as_chunks_mut::<SIZE>().0) {
            let (scale, min) = (f16_to_f32([block[80], block[81]]), f16_to_f32([block[82], block[83]]));
            for (half, values) in values.as_chunks_mut::<128>().0.iter_mut().enumerate() {
                let packed = &block[16 + 32 * half..][..32];
                for (i, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                    let mut codes = [0; 32];
                    for (code, packed) in codes.iter_mut().zip(packed) {
                        *code = packed >> (2 * i) & 3;
                    }
                    for (j, (codes, values)) in codes.as_chunks::<16>().0.iter().zip(values.as_chunks_mut::<16>().0).enumerate() {
                        let code = block[8 * half + 2 * i + j];
                        scale_offset::<V>(token, codes, scale * f32::from(code & 15), -(min * f32::from(code >> 4)), values);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(token: V::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
        encode::<V, 16, 84>(token, &Q2K_PARAMS, values, importance, bytes, |block, [scale, min], scales, mins, codes| {
            for i in 0..16 {
                block[i] = scales[i] | mins[i] << 4;
            }
            pack_pairs(codes, &mut block[16..80]);
            block[80..82].copy_from_slice(&scale);
            block[82..].copy_from_slice(&min);
        });
    }
}

/// Q4_K: four-bit codes, sub-blocks of 32, six-bit scales and minima.
pub(super) struct Q4K;

const Q4K_PARAMS: Params = Params { nmax: 15, nmax_scale: 63, steps: ScaleSteps { rmin: -1.0, rdelta: 0.1, nstep: 20 }, mean_square: 2.0 };

impl BlockCodec for Q4K {
    #[inline(always)]
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<144>().0.iter().zip(values.as_chunks_mut::<SIZE>().0) {
            let (scales, mins) = scaled(block);
            for (i, (values, packed)) in values.as_chunks_mut::<64>().0.iter_mut().zip(block[16..].as_chunks::<32>().0).enumerate() {
                let (low, high) = nibbles(packed);
                let (first, second) = values.split_at_mut(32);
                scale_offset::<V>(token, &low, scales[2 * i], mins[2 * i], first);
                scale_offset::<V>(token, &high, scales[2 * i + 1], mins[2 * i + 1], second);
            }
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(token: V::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
        encode::<V, 32, 144>(token, &Q4K_PARAMS, values, importance, bytes, |block, [scale, min], scales, mins, codes| {
            block[..2].copy_from_slice(&scale);
            block[2..4].copy_from_slice(&min);
            block[4..16].copy_from_slice(&pack_scales(scales, mins));
            for (codes, bytes) in codes.as_chunks::<64>().0.iter().zip(block[16..].as_chunks_mut::<32>().0) {
                for i in 0..32 {
                    bytes[i] = codes[i] | codes[i + 32] << 4;
                }
            }
        });
    }
}

impl CodebookCodec for Q4K {
    #[inline(always)]
    fn codebooks<V: Lanes>(token: V::Token, bytes: &[u8], codebooks: &mut [Codebook]) {
        for (block, codebooks) in bytes.as_chunks::<144>().0.iter().zip(codebooks.as_chunks_mut::<8>().0) {
            let (scales, mins) = scaled(block);
            for (i, (codebooks, packed)) in codebooks.as_chunks_mut::<2>().0.iter_mut().zip(block[16..].as_chunks::<32>().0).enumerate() {
                let (low, high) = nibbles(packed);
                codebooks[0] = Codebook::offset::<V>(token, &low, scales[2 * i], mins[2 * i]);
                codebooks[1] = Codebook::offset::<V>(token, &high, scales[2 * i + 1], mins[2 * i + 1]);
            }
        }
    }
}

/// Q5_K: as Q4_K, with the fifth bits of eight codes, 32 apart, in a byte.
pub(super) struct Q5K;

const Q5K_PARAMS: Params = Params { nmax: 31, nmax_scale: 63, steps: ScaleSteps { rmin: -0.5, rdelta: 0.1, nstep: 15 }, mean_square: 2.0 };

impl BlockCodec for Q5K {
    #[inline(always)]
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<176>().0.iter().zip(values.as_chunks_mut::<SIZE>().0) {
            let (scales, mins) = scaled(block);
            let (fifth, packed) = block[16..].split_at(32);
            for (i, (values, packed)) in values.as_chunks_mut::<64>().0.iter_mut().zip(packed.as_chunks::<32>().0).enumerate() {
                let (mut low, mut high) = ([0; 32], [0; 32]);
                for j in 0..32 {
                    low[j] = (packed[j] & 15) | (fifth[j] >> (2 * i) & 1) << 4;
                    high[j] = packed[j] >> 4 | (fifth[j] >> (2 * i + 1) & 1) << 4;
                }
                let (first, second) = values.split_at_mut(32);
                scale_offset::<V>(token, &low, scales[2 * i], mins[2 * i], first);
                scale_offset::<V>(token, &high, scales[2 * i + 1], mins[2 * i + 1], second);
            }
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(token: V::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
        encode::<V, 32, 176>(token, &Q5K_PARAMS, values, importance, bytes, |block, [scale, min], scales, mins, codes| {
            block[..2].copy_from_slice(&scale);
            block[2..4].copy_from_slice(&min);
            block[4..16].copy_from_slice(&pack_scales(scales, mins));
            let (fifth, packed) = block[16..].split_at_mut(32);
            for (i, fifth) in fifth.iter_mut().enumerate() {
                *fifth = (0..8).fold(0, |bits, j| bits | (codes[32 * j + i] >> 4) << j);
            }
            for (codes, bytes) in codes.as_chunks::<64>().0.iter().zip(packed.as_chunks_mut::<32>().0) {
                for i in 0..32 {
                    bytes[i] = (codes[i] & 15) | codes[i + 32] << 4;
                }
            }
        });
    }
}
