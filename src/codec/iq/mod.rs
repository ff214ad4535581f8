//! The IQ types: vectors of 8 or 4 values taken from a grid (IQ1, IQ2, IQ3), and 16 uneven steps (IQ4).
//!
//! Layouts and numbers are those of ggml's `ggml-common.h` (the `block_iq*` structs) and `ggml-quants.c` (`dequantize_row_iq*`,
//! `quantize_row_iq*_impl`) in llama.cpp 0c1e570. All blocks hold 256 elements but those of IQ4_NL, which hold 32.
//!
//! Encoders give the bytes of a build of the reference without fused multiply-add: sums run over the elements in order, each product
//! and sum rounded by itself.

mod decode;
mod fit;
mod grid;
mod iq1;
mod iq2;
mod iq3;
mod iq4;
mod lattice;
mod search;

use half::f16;

use super::Codec;
use crate::model::DType;

pub(super) const IQ1_S: Codec = Codec::reads(DType::IQ1_S, decode::iq1_s).writes(iq1::iq1_s);
pub(super) const IQ1_M: Codec = Codec::reads(DType::IQ1_M, decode::iq1_m).writes(iq1::iq1_m);
pub(super) const IQ2_XXS: Codec = Codec::reads(DType::IQ2_XXS, decode::iq2_xxs).writes(iq2::iq2_xxs);
pub(super) const IQ2_XS: Codec = Codec::reads(DType::IQ2_XS, decode::iq2_xs).writes(iq2::iq2_xs);
pub(super) const IQ2_S: Codec = Codec::reads(DType::IQ2_S, decode::iq2_s).writes(iq2::iq2_s);
pub(super) const IQ3_XXS: Codec = Codec::reads(DType::IQ3_XXS, decode::iq3_xxs).writes(iq3::iq3_xxs);
pub(super) const IQ3_S: Codec = Codec::reads(DType::IQ3_S, decode::iq3_s).writes(iq3::iq3_s);
pub(super) const IQ4_NL: Codec = Codec::reads(DType::IQ4_NL, decode::iq4_nl).writes(iq4::iq4_nl);
pub(super) const IQ4_XS: Codec = Codec::reads(DType::IQ4_XS, decode::iq4_xs).writes(iq4::iq4_xs);

/// The values of IQ4 codes, in units of the scale (ggml-common.h: `kvalues_iq4nl`).
const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// How far IQ1 values lie off -1, 0 and 1 (`IQ1S_DELTA`).
const IQ1_DELTA: f32 = 0.125;

/// The signs of eight values, of which seven are stored: the number of negative ones is even.
const fn even_signs(seven: u8) -> u8 {
    let seven = seven & 127;
    seven | ((seven.count_ones() as u8 & 1) << 7)
}

/// The sum of the squares, in order.
fn squares(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, x| sum + x * x)
}

/// The weights of the `i`-th group of `N` values in a row: from the importance where there is one, and from the values alone where not.
fn weights<const N: usize>(
    x: &[f32; N],
    importance: Option<&[f32]>,
    i: usize,
    weighted: impl Fn(f32, f32) -> f32,
    plain: impl Fn(f32) -> f32,
) -> [f32; N] {
    match importance.and_then(|importance| importance.as_chunks::<N>().0.get(i)) {
        Some(importance) => std::array::from_fn(|j| weighted(importance[j], x[j])),
        None => x.map(plain),
    }
}

/// Rounds to the nearest whole number, ties to even, for magnitudes below 2^22; wraps beyond, as the reference does (`nearest_int`).
fn nearest(x: f32) -> i32 {
    ((x + 12_582_912.0).to_bits() & 0x7f_ffff) as i32 - 0x40_0000
}

/// An F16 as blocks store it, rounded to nearest, ties to even; NaN becomes the plain one (`ggml_compute_fp32_to_fp16`).
fn half_bytes(x: f32) -> [u8; 2] {
    let half = if x.is_nan() { f16::from_bits(0x7e00 | u16::from(x.is_sign_negative()) << 15) } else { f16::from_f32(x) };
    half.to_le_bytes()
}
