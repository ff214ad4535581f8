//! IQ types: vectors of 8 or 4 values taken from a grid (IQ1, IQ2, IQ3), and non-linear four-bit codes (IQ4).
//!
//! Layouts and constants are those of ggml's `ggml-common.h` (the `block_iq*` structs) and `ggml-quants.c` (`dequantize_row_iq*`,
//! `quantize_row_iq*_impl`) in llama.cpp 0c1e570. Blocks hold 256 elements, those of IQ4_NL 32.
//!
//! Encoders reproduce the bytes of a build of the reference without fused multiply-add: sums run over the elements in order, and each
//! product and sum is rounded.

mod decode;
mod grid;
mod grid_index;
mod iq1;
mod iq2;
mod iq3;
mod iq4;
mod search;

use super::Codec;
use super::block::BlockCodec;
use super::simd::Lanes;
use crate::model::DType;

macro_rules! types {
    (|$token:ident, $bytes:ident, $values:ident| $($name:ident: $decode:expr, $module:ident::$function:ident;)*) => {$(
        pub(super) const $name: Codec = {
            struct Blocks;

            impl BlockCodec for Blocks {
                #[inline(always)]
                fn decode<V: Lanes>($token: V::Token, $bytes: &[u8], $values: &mut [f32]) {
                    let _ = $token; // the grid types decode without vectors
                    $decode;
                }

                #[inline(always)]
                fn encode<V: Lanes>(token: V::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
                    $module::$function::<V::Eight>(token.into(), values, importance, bytes);
                }
            }

            Codec::blocks::<Blocks>(DType::$name)
        };
    )*};
}

types! {
    |token, bytes, values|
    IQ1_S: decode::iq1_s(bytes, values), iq1::iq1_s;
    IQ1_M: decode::iq1_m(bytes, values), iq1::iq1_m;
    IQ2_XXS: decode::iq2_xxs(bytes, values), iq2::iq2_xxs;
    IQ2_XS: decode::iq2_xs(bytes, values), iq2::iq2_xs;
    IQ2_S: decode::iq2_s(bytes, values), iq2::iq2_s;
    IQ3_XXS: decode::iq3_xxs(bytes, values), iq3::iq3_xxs;
    IQ3_S: decode::iq3_s(bytes, values), iq3::iq3_s;
    IQ4_NL: decode::iq4_nl::<V>(token, bytes, values), iq4::iq4_nl;
    IQ4_XS: decode::iq4_xs::<V>(token, bytes, values), iq4::iq4_xs;
}

/// Values of IQ4 codes, in units of the scale (ggml-common.h: `kvalues_iq4nl`).
const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Shift of IQ1 values from -1, 0 and 1 (`IQ1S_DELTA`).
const IQ1_DELTA: f32 = 0.125;

/// Returns eight signs, given the seven that are stored: the number of negative ones is even.
#[inline(always)]
const fn even_signs(seven: u8) -> u8 {
    let seven = seven & 127;
    seven | ((seven.count_ones() as u8 & 1) << 7)
}

/// Returns the sum of squares, added in order.
#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, x| sum + x * x)
}

/// Returns the weights of the `i`-th group of `N` values in a row: by `weighted` if there is importance, by `plain` if not.
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

#[cfg(test)]
mod tests {
    use super::super::simd::on_each_level;
    use super::*;

    /// The reference aborts on such values or reads out of bounds.
    #[test]
    fn nan_infinite_and_huge_values_do_not_panic() {
        let extremes =
            [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -3e38, 1e20, -1e19, f32::from_bits(1), -1e-40, 0.0, -0.0, 1.0, -1e-8];
        let all = [IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ4_NL, IQ4_XS];
        on_each_level(|_| {
            for every in [1, 3, 50] {
                let row: Vec<f32> =
                    (0..512).map(|i| if i % every == 0 { extremes[i * i / every % extremes.len()] } else { (i as f32).sin() }).collect();
                let importance: Vec<f32> = row.iter().rev().copied().collect();
                for codec in &all {
                    let mut bytes = vec![0; codec.dtype.bytes_for(512).unwrap() as usize];
                    let encode = codec.encode.unwrap();
                    for importance in [None, Some(&importance[..]), Some(&[0.0; 512])] {
                        encode(&row, importance, &mut bytes);
                    }
                    (codec.decode)(&bytes, &mut [0.0; 512]);
                }
            }
        });
    }
}
