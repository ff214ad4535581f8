//! The IQ types: vectors of 8 or 4 values taken from a grid (IQ1, IQ2, IQ3), and 16 uneven steps (IQ4).
//!
//! Layouts and numbers are those of ggml's `ggml-common.h` (the `block_iq*` structs) and `ggml-quants.c` (`dequantize_row_iq*`,
//! `quantize_row_iq*_impl`) in llama.cpp 0c1e570. All blocks hold 256 elements but those of IQ4_NL, which hold 32.
//!
//! Encoders give the bytes of a build of the reference without fused multiply-add: sums run over the elements in order, each product
//! and sum rounded by itself.

mod decode;
mod grid;
mod iq1;
mod iq2;
mod iq3;
mod iq4;
mod lattice;
mod search;

use super::Codec;
use super::block::Coding;
use super::simd::Lanes;
use crate::model::DType;

macro_rules! types {
    ($($name:ident: $module:ident::$function:ident;)*) => {$(
        pub(super) const $name: Codec = {
            struct Blocks;

            impl Coding for Blocks {
                #[inline(always)]
                fn decode<V: Lanes>(bytes: &[u8], values: &mut [f32]) {
                    decode::$function(bytes, values);
                }

                #[inline(always)]
                fn encode<V: Lanes>(values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
                    $module::$function::<V::Eight>(values, importance, bytes);
                }
            }

            Codec::blocks::<Blocks>(DType::$name)
        };
    )*};
}

types! {
    IQ1_S: iq1::iq1_s;
    IQ1_M: iq1::iq1_m;
    IQ2_XXS: iq2::iq2_xxs;
    IQ2_XS: iq2::iq2_xs;
    IQ2_S: iq2::iq2_s;
    IQ3_XXS: iq3::iq3_xxs;
    IQ3_S: iq3::iq3_s;
    IQ4_NL: iq4::iq4_nl;
    IQ4_XS: iq4::iq4_xs;
}

/// The values of IQ4 codes, in units of the scale (ggml-common.h: `kvalues_iq4nl`).
const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// How far IQ1 values lie off -1, 0 and 1 (`IQ1S_DELTA`).
const IQ1_DELTA: f32 = 0.125;

/// The signs of eight values, of which seven are stored: the number of negative ones is even.
#[inline(always)]
const fn even_signs(seven: u8) -> u8 {
    let seven = seven & 127;
    seven | ((seven.count_ones() as u8 & 1) << 7)
}

/// The sum of the squares, in order.
#[inline(always)]
fn squares(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, x| sum + x * x)
}

/// The weights of the `i`-th group of `N` values in a row: from the importance where there is one, and from the values alone where not.
#[inline(always)]
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
