//! K types: blocks of 256 values in sub-blocks of 16 or 32, whose scales are themselves quantised, with one or two half-precision numbers
//! per block. Layouts: `block_q2_K` and its neighbours in ggml-common.h.
//!
//! Up to sixteen blocks are encoded at a time: sub-blocks are searched in parallel, one per lane, and so are the scales of the blocks where
//! those are searched too.

mod offset;
mod symmetric;

use super::Codec;
use super::block::{BlockCodec, map_array, scale_signed};
use super::search::nearest;
use super::simd::Lanes;
use crate::model::DType;

pub(super) const Q2_K: Codec = Codec::blocks::<offset::Q2K>(DType::Q2_K);
pub(super) const Q3_K: Codec = Codec::blocks::<symmetric::Q3K>(DType::Q3_K);
pub(super) const Q4_K: Codec = Codec::coded::<offset::Q4K>(DType::Q4_K);
pub(super) const Q5_K: Codec = Codec::blocks::<offset::Q5K>(DType::Q5_K);
pub(super) const Q6_K: Codec = Codec::blocks::<symmetric::Q6K>(DType::Q6_K);
pub(super) const Q8_K: Codec = Codec::blocks::<Bytes>(DType::Q8_K);

/// Number of values in a block (`QK_K`).
const SIZE: usize = 256;

/// Number of blocks encoded at a time.
const CHUNK: usize = 16;

/// One number for each sub-block of a chunk, at most sixteen per block.
type PerSubBlock = [f32; CHUNK * 16];

/// Returns the sum of squares of each block of a chunk, added in order.
#[inline(always)]
fn sums_of_squares(values: &[f32]) -> [f32; CHUNK] {
    let mut sums = [0.0; CHUNK];
    // Several blocks in parallel hide the latency of dependent additions.
    for (sums, blocks) in sums.as_chunks_mut::<8>().0.iter_mut().zip(values.chunks(8 * SIZE)) {
        let (blocks, _) = blocks.as_chunks::<SIZE>();
        for i in 0..SIZE {
            for (sum, block) in sums.iter_mut().zip(blocks) {
                *sum += block[i] * block[i];
            }
        }
    }
    sums
}

/// Packs two bits of each of 256 codes as Q2_K and Q3_K do: four codes per byte, 32 apart.
#[inline(always)]
fn pack_pairs(codes: &[u8; SIZE], bytes: &mut [u8]) {
    for (codes, bytes) in codes.as_chunks::<128>().0.iter().zip(bytes.as_chunks_mut::<32>().0) {
        for i in 0..32 {
            bytes[i] = (codes[i] & 3) | (codes[i + 32] & 3) << 2 | (codes[i + 64] & 3) << 4 | (codes[i + 96] & 3) << 6;
        }
    }
}

/// Recomputes the codes of a sub-block for its quantised scale: the integer nearest to `(x + min) / scale`.
#[inline(always)]
fn requantise<const N: usize>(x: &[f32], scale: f32, min: f32, (low, high): (i32, i32), codes: &mut [u8]) {
    if let (Some(x), Some(codes)) = (x.first_chunk::<N>(), codes.first_chunk_mut::<N>()) {
        for i in 0..N {
            codes[i] = (nearest((x[i] + min) / scale).min(high).max(low) - low) as u8;
        }
    }
}

/// Q8_K: signed bytes with a single-precision scale, and the sums of sixteen codes each, which decoding does not use.
struct Bytes;

impl BlockCodec for Bytes {
    #[inline(always)]
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<292>().0.iter().zip(values.as_chunks_mut::<SIZE>().0) {
            let scale = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
            scale_signed::<V>(token, &block[4..], scale, values);
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(_token: V::Token, values: &[f32], _importance: Option<&[f32]>, bytes: &mut [u8]) {
        for (block, values) in bytes.as_chunks_mut::<292>().0.iter_mut().zip(values.as_chunks::<SIZE>().0) {
            let (mut size, mut largest) = (0.0, 0.0);
            for x in values {
                if x.abs() > size {
                    (size, largest) = (x.abs(), *x);
                }
            }
            if size == 0.0 {
                block.fill(0);
                continue;
            }
            let inverse = -127.0 / largest;
            let codes = map_array(values, |x| nearest(inverse * x).min(127) as i8);
            block[..4].copy_from_slice(&(1.0 / inverse).to_le_bytes());
            for (byte, code) in block[4..].iter_mut().zip(codes) {
                *byte = code as u8;
            }
            for (bytes, codes) in block[4 + SIZE..].as_chunks_mut::<2>().0.iter_mut().zip(codes.as_chunks::<16>().0) {
                *bytes = codes.iter().fold(0i16, |sum, code| sum + i16::from(*code)).to_le_bytes();
            }
        }
    }
}
