//! Q2_K, Q4_K and Q5_K: `scale * code - least`, both from the codes of a sub-block under the two numbers of the block.

use super::super::block::{Coding, across, each, scale_offset};
use super::super::codebook::{Codebook, Coded};
use super::super::half::{f16_to_f32, f32_to_f16};
use super::super::search::{self, Steps, nearest};
use super::super::simd::Lanes;
use super::{CHUNK, PerSub, SIZE, pack_pairs, requantise, sums_of_squares};

/// What sets the three types apart when they are encoded.
struct Shape {
    /// The largest code.
    most: i32,
    /// The largest code of a sub-block's scale, and of its least value.
    most_scale: i32,
    /// The scales that are tried without importance weights.
    steps: Steps,
    /// What the weights add to the mean square of the block, as a multiple of it.
    mean_square: f32,
}

/// The scales that are tried with importance weights.
const WEIGHTED_STEPS: Steps = Steps { first: -0.9, delta: 0.05, last: 36 };

/// What the search found for the sub-blocks of a chunk.
struct Found {
    scale: PerSub,
    /// What is taken away.
    least: PerSub,
    inverse: PerSub,
    base: PerSub,
    weight: PerSub,
}

/// Searches every sub-block of up to sixteen blocks, one a lane. `N` numbers a sub-block; the error is absolute for Q2_K without weights.
#[inline(always)]
fn search<V: Lanes, const N: usize>(token: V::Token, shape: &Shape, values: &[f32], importance: Option<&[f32]>) -> Found {
    let mut found = Found { scale: [0.0; 256], least: [0.0; 256], inverse: [0.0; 256], base: [0.0; 256], weight: [0.0; 256] };
    let mut mean_squares = [0.0; 256];
    if importance.is_some() {
        for (means, sum) in mean_squares.chunks_exact_mut(SIZE / N).zip(sums_of_squares(values)) {
            means.fill(shape.mean_square * sum / SIZE as f32);
        }
    }
    for (group, values) in values.chunks(V::COUNT * N).enumerate() {
        let first = group * V::COUNT;
        let x = across::<V, N>(token, values);
        let result = if let Some(importance) = importance {
            let mean_square = V::load(token, &mean_squares[first..]);
            let mut weights = across::<V, N>(token, &importance[first * N..][..values.len()]);
            let mut sum = V::splat(token, 0.0);
            for (weight, x) in weights.iter_mut().zip(&x) {
                *weight = *weight * (mean_square + *x * *x).sqrt();
                sum = sum + *weight;
            }
            sum.store(&mut found.weight[first..]);
            search::offset::<V, N, false>(&x, &weights, shape.most, WEIGHTED_STEPS)
        } else if N == 16 {
            let mut weights = x;
            for weight in &mut weights {
                *weight = weight.abs();
            }
            search::offset::<V, N, true>(&x, &weights, shape.most, shape.steps)
        } else {
            let mean = (x.iter().fold(V::splat(token, 0.0), |sum, x| sum + *x * *x) / V::splat(token, N as f32)).sqrt();
            let mut weights = x;
            for weight in &mut weights {
                *weight = mean + weight.abs();
            }
            search::offset::<V, N, false>(&x, &weights, shape.most, shape.steps)
        };
        result.scale.store(&mut found.scale[first..]);
        result.least.store(&mut found.least[first..]);
        result.inverse.store(&mut found.inverse[first..]);
        result.base.store(&mut found.base[first..]);
    }
    for least in &mut found.least {
        *least = -*least;
    }
    found
}

/// The number of a block under which `found` become codes, and the codes: by a search with weights, or from the largest.
#[inline(always)]
fn scales(found: &[f32], weights: Option<&[f32]>, most: i32, codes: &mut [u8]) -> f32 {
    if let Some(weights) = weights {
        return search::positive(found, weights, most, codes);
    }
    let largest = found.iter().fold(0.0, |largest, x| if *x > largest { *x } else { largest });
    let inverse = if largest > 0.0 { most as f32 / largest } else { 0.0 };
    for (code, x) in codes.iter_mut().zip(found) {
        *code = nearest(inverse * x) as u8;
    }
    largest / most as f32
}

/// Encodes a row: `write` packs a block's two numbers, the codes of its scales and least values, and its codes.
#[inline(always)]
fn encode<V: Lanes, const N: usize, const BYTES: usize>(
    token: V::Token,
    shape: &Shape,
    values: &[f32],
    importance: Option<&[f32]>,
    bytes: &mut [u8],
    write: impl Fn(&mut [u8; BYTES], [[u8; 2]; 2], &[u8], &[u8], &[u8; SIZE]),
) {
    let subs = SIZE / N;
    for (chunk, (values, blocks)) in values.chunks(CHUNK * SIZE).zip(bytes.as_chunks_mut::<BYTES>().0.chunks_mut(CHUNK)).enumerate() {
        let importance = importance.map(|importance| &importance[chunk * CHUNK * SIZE..][..values.len()]);
        let found = search::<V, N>(token, shape, values, importance);
        for (i, (x, block)) in values.as_chunks::<SIZE>().0.iter().zip(blocks).enumerate() {
            let own = i * subs..(i + 1) * subs;
            let weights = importance.map(|_| &found.weight[own.clone()]);
            let (mut sub_scales, mut sub_leasts) = ([0; 16], [0; 16]);
            let (sub_scales, sub_leasts) = (&mut sub_scales[..subs], &mut sub_leasts[..subs]);
            let scale = f32_to_f16(scales(&found.scale[own.clone()], weights, shape.most_scale, sub_scales));
            let least = f32_to_f16(scales(&found.least[own.clone()], weights, shape.most_scale, sub_leasts));
            for code in sub_scales.iter_mut().chain(&mut *sub_leasts) {
                *code = (*code).min(if N == 32 { shape.most_scale as u8 } else { u8::MAX });
            }
            let mut codes = [0; SIZE];
            for (j, at) in own.enumerate() {
                let (x, codes) = (&x[j * N..], &mut codes[j * N..]);
                // For two bits a wrapped scale reaches into its neighbour's bits, in the reference too.
                let packed =
                    if N == 32 { (sub_scales[j], sub_leasts[j]) } else { (sub_scales[j] & 15, (sub_leasts[j] & 15) | sub_scales[j] >> 4) };
                let sub_scale = f16_to_f32(scale) * f32::from(packed.0);
                if sub_scale == 0.0 {
                    for (code, x) in codes.iter_mut().zip(&x[..N]) {
                        *code = search::offset_code(*x, found.inverse[at], found.base[at], shape.most);
                    }
                } else {
                    requantise::<N>(x, sub_scale, f16_to_f32(least) * f32::from(packed.1), (0, shape.most), codes);
                }
            }
            write(block, [scale, least], sub_scales, sub_leasts, &codes);
        }
    }
}

/// The codes of eight scales and eight least values, six bits each, in twelve bytes.
#[inline(always)]
fn pack_six_bits(scales: &[u8], leasts: &[u8]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for i in 0..4 {
        bytes[i] = scales[i] | scales[i + 4] >> 4 << 6;
        bytes[i + 4] = leasts[i] | leasts[i + 4] >> 4 << 6;
        bytes[i + 8] = (scales[i + 4] & 15) | leasts[i + 4] << 4;
    }
    bytes
}

/// The other way: scales and least values.
#[inline(always)]
fn six_bits(bytes: &[u8]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut leasts) = ([0; 8], [0; 8]);
    for i in 0..4 {
        scales[i] = bytes[i] & 63;
        leasts[i] = bytes[i + 4] & 63;
        scales[i + 4] = (bytes[i + 8] & 15) | bytes[i] >> 6 << 4;
        leasts[i + 4] = bytes[i + 8] >> 4 | bytes[i + 4] >> 6 << 4;
    }
    (scales, leasts)
}

/// The scales of the sub-blocks of Q4_K or Q5_K, and what is added to their codes.
#[inline(always)]
fn scaled(block: &[u8]) -> ([f32; 8], [f32; 8]) {
    let (scale, least) = (f16_to_f32([block[0], block[1]]), f16_to_f32([block[2], block[3]]));
    let (scales, leasts) = six_bits(&block[4..16]);
    (each(&scales, |code| scale * f32::from(code)), each(&leasts, |code| -(least * f32::from(code))))
}

/// The codes in the low and in the high halves of bytes.
#[inline(always)]
fn nibbles(packed: &[u8; 32]) -> ([u8; 32], [u8; 32]) {
    let (mut low, mut high) = ([0; 32], [0; 32]);
    for i in 0..32 {
        low[i] = packed[i] & 15;
        high[i] = packed[i] >> 4;
    }
    (low, high)
}

/// Q2_K: two bits, sub-blocks of 16, four bits for their scales and least values.
pub(super) struct Two;

const TWO: Shape = Shape { most: 3, most_scale: 15, steps: Steps { first: -0.5, delta: 0.1, last: 15 }, mean_square: 1.0 };

impl Coding for Two {
    #[inline(always)]
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<84>().0.iter().zip(values.as_chunks_mut::<SIZE>().0) {
            let (scale, least) = (f16_to_f32([block[80], block[81]]), f16_to_f32([block[82], block[83]]));
            for (half, values) in values.as_chunks_mut::<128>().0.iter_mut().enumerate() {
                let packed = &block[16 + 32 * half..][..32];
                for (i, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                    let mut codes = [0; 32];
                    for (code, packed) in codes.iter_mut().zip(packed) {
                        *code = packed >> (2 * i) & 3;
                    }
                    for (j, (codes, values)) in codes.as_chunks::<16>().0.iter().zip(values.as_chunks_mut::<16>().0).enumerate() {
                        let code = block[8 * half + 2 * i + j];
                        scale_offset::<V>(token, codes, scale * f32::from(code & 15), -(least * f32::from(code >> 4)), values);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(token: V::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
        encode::<V, 16, 84>(token, &TWO, values, importance, bytes, |block, [scale, least], scales, leasts, codes| {
            for i in 0..16 {
                block[i] = scales[i] | leasts[i] << 4;
            }
            pack_pairs(codes, &mut block[16..80]);
            block[80..82].copy_from_slice(&scale);
            block[82..].copy_from_slice(&least);
        });
    }
}

/// Q4_K: four bits, sub-blocks of 32, six bits for their scales and least values.
pub(super) struct Four;

const FOUR: Shape = Shape { most: 15, most_scale: 63, steps: Steps { first: -1.0, delta: 0.1, last: 20 }, mean_square: 2.0 };

impl Coding for Four {
    #[inline(always)]
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<144>().0.iter().zip(values.as_chunks_mut::<SIZE>().0) {
            let (scales, leasts) = scaled(block);
            for (i, (values, packed)) in values.as_chunks_mut::<64>().0.iter_mut().zip(block[16..].as_chunks::<32>().0).enumerate() {
                let (low, high) = nibbles(packed);
                let (first, second) = values.split_at_mut(32);
                scale_offset::<V>(token, &low, scales[2 * i], leasts[2 * i], first);
                scale_offset::<V>(token, &high, scales[2 * i + 1], leasts[2 * i + 1], second);
            }
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(token: V::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
        encode::<V, 32, 144>(token, &FOUR, values, importance, bytes, |block, [scale, least], scales, leasts, codes| {
            block[..2].copy_from_slice(&scale);
            block[2..4].copy_from_slice(&least);
            block[4..16].copy_from_slice(&pack_six_bits(scales, leasts));
            for (codes, bytes) in codes.as_chunks::<64>().0.iter().zip(block[16..].as_chunks_mut::<32>().0) {
                for i in 0..32 {
                    bytes[i] = codes[i] | codes[i + 32] << 4;
                }
            }
        });
    }
}

impl Coded for Four {
    #[inline(always)]
    fn codebooks<V: Lanes>(token: V::Token, bytes: &[u8], codebooks: &mut [Codebook]) {
        for (block, codebooks) in bytes.as_chunks::<144>().0.iter().zip(codebooks.as_chunks_mut::<8>().0) {
            let (scales, leasts) = scaled(block);
            for (i, (codebooks, packed)) in codebooks.as_chunks_mut::<2>().0.iter_mut().zip(block[16..].as_chunks::<32>().0).enumerate() {
                let (low, high) = nibbles(packed);
                codebooks[0] = Codebook::offset::<V>(token, &low, scales[2 * i], leasts[2 * i]);
                codebooks[1] = Codebook::offset::<V>(token, &high, scales[2 * i + 1], leasts[2 * i + 1]);
            }
        }
    }
}

/// Q5_K: as Q4_K, and the fifth bits of eight codes 32 apart in a byte.
pub(super) struct Five;

const FIVE: Shape = Shape { most: 31, most_scale: 63, steps: Steps { first: -0.5, delta: 0.1, last: 15 }, mean_square: 2.0 };

impl Coding for Five {
    #[inline(always)]
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<176>().0.iter().zip(values.as_chunks_mut::<SIZE>().0) {
            let (scales, leasts) = scaled(block);
            let (fifth, packed) = block[16..].split_at(32);
            for (i, (values, packed)) in values.as_chunks_mut::<64>().0.iter_mut().zip(packed.as_chunks::<32>().0).enumerate() {
                let (mut low, mut high) = ([0; 32], [0; 32]);
                for j in 0..32 {
                    low[j] = (packed[j] & 15) | (fifth[j] >> (2 * i) & 1) << 4;
                    high[j] = packed[j] >> 4 | (fifth[j] >> (2 * i + 1) & 1) << 4;
                }
                let (first, second) = values.split_at_mut(32);
                scale_offset::<V>(token, &low, scales[2 * i], leasts[2 * i], first);
                scale_offset::<V>(token, &high, scales[2 * i + 1], leasts[2 * i + 1], second);
            }
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(token: V::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
        encode::<V, 32, 176>(token, &FIVE, values, importance, bytes, |block, [scale, least], scales, leasts, codes| {
            block[..2].copy_from_slice(&scale);
            block[2..4].copy_from_slice(&least);
            block[4..16].copy_from_slice(&pack_six_bits(scales, leasts));
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
