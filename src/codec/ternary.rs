//! TQ1_0 and TQ2_0: blocks of 256 values -1, 0 or 1 times a half-precision scale (`block_tq1_0`, `block_tq2_0` in ggml-common.h).

use super::Codec;
use super::block::{BlockCodec, scale_signed};
use super::half::{f16_to_f32, f32_to_f16};
use super::simd::Lanes;
use crate::model::DType;

pub(super) const TQ1_0: Codec = Codec::blocks::<Tq1>(DType::TQ1_0);
pub(super) const TQ2_0: Codec = Codec::blocks::<Tq2>(DType::TQ2_0);

/// Returns the scale of a block, its largest magnitude, and its codes from 0 to 2.
#[inline(always)]
fn quantise<V: Lanes>(token: V::Token, block: &[f32; 256]) -> (f32, [u8; 256]) {
    let scale = f32::from_bits(block.iter().fold(0, |largest, x| (x.to_bits() & 0x7fff_ffff).max(largest)));
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let inverse = V::splat(token, inverse);
    let mut codes = [0; 256];
    // The inverse of a subnormal scale is infinite, and so are the products: their low byte is zero, as in the reference.
    for (x, codes) in block.chunks_exact(V::COUNT).zip(codes.chunks_exact_mut(V::COUNT)) {
        (V::load(token, x) * inverse).round().store_bytes(codes);
    }
    for code in &mut codes {
        *code = code.wrapping_add(1);
    }
    (scale, codes)
}

/// TQ1_0: five codes per byte, the base-3 digits of a fraction of 256; the last sixteen codes are four per byte.
struct Tq1;

/// Runs of packed bytes: first byte, number of bytes (codes at this distance share a byte), codes per byte, first code.
const RUNS: [(usize, usize, usize, usize); 3] = [(0, 32, 5, 0), (32, 16, 5, 160), (48, 4, 4, 240)];

impl BlockCodec for Tq1 {
    #[inline(always)]
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<54>().0.iter().zip(values.as_chunks_mut::<256>().0) {
            let scale = f16_to_f32([block[52], block[53]]);
            let mut codes = [0; 256];
            let mut rest = [0u8; 64];
            rest[..52].copy_from_slice(&block[..52]);
            for digit in 0..5 {
                // A digit is the integer part of three times the fraction; the rest holds the next digits.
                let mut digits = [0; 64];
                for i in 0..64 {
                    digits[i] = (u8::from(rest[i] > 85) + u8::from(rest[i] > 170)).wrapping_sub(1);
                    rest[i] = rest[i].wrapping_mul(3);
                }
                // The runs of [`RUNS`], as copies of constant length.
                codes[32 * digit..][..32].copy_from_slice(&digits[..32]);
                codes[160 + 16 * digit..][..16].copy_from_slice(&digits[32..48]);
                if digit < 4 {
                    codes[240 + 4 * digit..][..4].copy_from_slice(&digits[48..52]);
                }
            }
            scale_signed::<V>(token, &codes, scale, values);
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(token: V::Token, values: &[f32], _importance: Option<&[f32]>, bytes: &mut [u8]) {
        for (block, values) in bytes.as_chunks_mut::<54>().0.iter_mut().zip(values.as_chunks::<256>().0) {
            let (scale, codes) = quantise::<V>(token, values);
            for (byte, count, digits, first) in RUNS {
                for i in 0..count {
                    let number = |digit| if digit < digits { codes[first + digit * count + i] } else { 0 };
                    let number = (0..5).fold(0u8, |all, digit| all.wrapping_mul(3).wrapping_add(number(digit)));
                    // Rounded up, so that decoding recovers the digits.
                    block[byte + i] = ((u16::from(number) * 256).wrapping_add(242) / 243) as u8;
                }
            }
            block[52..].copy_from_slice(&f32_to_f16(scale));
        }
    }
}

/// TQ2_0: four two-bit codes per byte, 32 apart.
struct Tq2;

impl BlockCodec for Tq2 {
    #[inline(always)]
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<66>().0.iter().zip(values.as_chunks_mut::<256>().0) {
            let scale = f16_to_f32([block[64], block[65]]);
            for (packed, values) in block.as_chunks::<32>().0.iter().zip(values.as_chunks_mut::<128>().0) {
                for (i, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                    let mut codes = *packed;
                    for code in &mut codes {
                        *code = (*code >> (2 * i) & 3).wrapping_sub(1);
                    }
                    scale_signed::<V>(token, &codes, scale, values);
                }
            }
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(token: V::Token, values: &[f32], _importance: Option<&[f32]>, bytes: &mut [u8]) {
        for (block, values) in bytes.as_chunks_mut::<66>().0.iter_mut().zip(values.as_chunks::<256>().0) {
            let (scale, codes) = quantise::<V>(token, values);
            for (packed, codes) in block.as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<128>().0) {
                for i in 0..32 {
                    packed[i] = (codes[i] & 3) | (codes[i + 32] & 3) << 2 | (codes[i + 64] & 3) << 4 | (codes[i + 96] & 3) << 6;
                }
            }
            block[64..].copy_from_slice(&f32_to_f16(scale));
        }
    }
}
