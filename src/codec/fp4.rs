//! MXFP4 and NVFP4: four-bit floats (E2M1) with an eight-bit scale (`block_mxfp4`, `block_nvfp4` in ggml-common.h).
//!
//! As in the reference, the tables hold twice the values of the floats, which makes them integers, and scales are halved.

use super::Codec;
use super::block::{BlockCodec, map_array, nibbles, scale_entries};
use super::codebook::{Codebook, CodebookCodec};
use super::simd::Lanes;
use crate::model::DType;

pub(super) const MXFP4: Codec = Codec::coded::<Mx>(DType::MXFP4);
pub(super) const NVFP4: Codec = Codec::blocks::<Nv>(DType::NVFP4);

/// Twice the magnitudes, by the low three bits of a code. The fourth bit is the sign; there is no negative zero.
const TWICE: [f32; 8] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0];

/// Twice the value of each code.
const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Finds the code nearest to each value; the first of two equally near ones.
#[inline(always)]
fn encode<const N: usize>(values: &[f32; N], scale: f32, packed: &mut [u8]) {
    let steps = map_array(&TWICE, |value| value * scale);
    let mut codes = [0u32; N];
    // The nearest negative code is that of the magnitude with the sign bit set, except for zero, which has one code only.
    for (code, x) in codes.iter_mut().zip(values) {
        let mut min = x.abs();
        for (i, step) in steps.iter().enumerate().skip(1) {
            let difference = (step - x.abs()).abs();
            let nearer = difference < min;
            *code = if nearer { i as u32 } else { *code };
            min = if nearer { difference } else { min };
        }
        *code |= if *code != 0 { x.to_bits() >> 31 << 3 } else { 0 };
    }
    for (i, byte) in packed.iter_mut().enumerate() {
        *byte = codes[i] as u8 | (codes[i + N / 2] as u8) << 4;
    }
}

/// Returns the largest magnitude, ignoring NaN.
#[inline(always)]
fn largest_size(values: &[f32]) -> f32 {
    f32::from_bits(values.iter().fold(0, |largest, x| {
        let size = x.to_bits() & 0x7fff_ffff;
        if size <= 0x7f80_0000 { size.max(largest) } else { largest }
    }))
}

/// Returns `floor(log2f(x))` of a positive number: its exponent, or the next one where the logarithm rounds up to it in single precision.
fn floor_log2(x: f32) -> i32 {
    let bits = x.to_bits();
    let exponent = if bits >> 23 == 0 { bits.ilog2() as i32 - 149 } else { (bits >> 23) as i32 - 127 };
    // Relative distance to the next power of two.
    let under = 1.0 - f64::from(x) / 2f64.powi(exponent + 1);
    let logarithm = f64::from(exponent + 1) - under * std::f64::consts::LOG2_E;
    if under < 1e-4 && logarithm as f32 == (exponent + 1) as f32 { exponent + 1 } else { exponent }
}

/// MXFP4: 32 floats with a power-of-two scale.
struct Mx;

/// Returns half of `2^(exponent - 127)`.
#[inline(always)]
fn half_power(exponent: u8) -> f32 {
    let exponent = u32::from(exponent);
    f32::from_bits(if exponent < 2 { 0x0020_0000 << exponent } else { (exponent - 1) << 23 })
}

impl BlockCodec for Mx {
    #[inline(always)]
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<17>().0.iter().zip(values.as_chunks_mut::<32>().0) {
            scale_entries::<V>(token, &VALUES, &nibbles::<32>(&block[1..]), half_power(block[0]), values);
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(_token: V::Token, values: &[f32], _importance: Option<&[f32]>, bytes: &mut [u8]) {
        for (block, values) in bytes.as_chunks_mut::<17>().0.iter_mut().zip(values.as_chunks::<32>().0) {
            let size = largest_size(values);
            block[0] = if size > 0.0 { (floor_log2(size) - 2 + 127) as u8 } else { 0 };
            let scale = half_power(block[0]);
            encode(values, scale, &mut block[1..]);
        }
    }
}

impl CodebookCodec for Mx {
    #[inline(always)]
    fn codebooks<V: Lanes>(token: V::Token, bytes: &[u8], codebooks: &mut [Codebook]) {
        for (block, codebook) in bytes.as_chunks::<17>().0.iter().zip(codebooks) {
            *codebook = Codebook::entries::<V>(token, &nibbles(&block[1..]), &VALUES, half_power(block[0]));
        }
    }
}

/// NVFP4: four groups of sixteen floats, each with an unsigned E4M3 scale.
struct Nv;

/// Returns half the value of an unsigned E4M3; NaN counts as zero.
const fn half_e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (code >> 3 & 15, code & 7);
    if code == 0x7f {
        0.0
    } else if exponent == 0 {
        mantissa as f32 / 1024.0
    } else {
        f32::from_bits((exponent as u32 + 127 - 8) << 23 | (mantissa as u32) << 20)
    }
}

/// Half the value of every scale.
static SCALES: [f32; 256] = {
    let mut scales = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        scales[code] = half_e4m3(code as u8);
        code += 1;
    }
    scales
};

/// Converts to an unsigned E4M3, rounding half up and saturating at 448 (`ggml_fp32_to_ue4m3`).
#[inline(always)]
fn to_e4m3(x: f32) -> u8 {
    if x.is_nan() || x <= 0.0 {
        return 0;
    }
    let bits = x.min(448.0).to_bits();
    let exponent = (bits >> 23) as i32 - 127 + 7;
    if exponent <= 0 {
        return ((x * 512.0 + 0.5) as i32).min(7) as u8;
    }
    // A mantissa that rounds up carries into the exponent.
    let code = (exponent << 3) + ((bits >> 20 & 7) + (bits >> 19 & 1)) as i32;
    if code >> 3 >= 15 { 0x7e } else { code as u8 }
}

impl BlockCodec for Nv {
    #[inline(always)]
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (block, values) in bytes.as_chunks::<36>().0.iter().zip(values.as_chunks_mut::<64>().0) {
            let (scales, packed) = block.split_at(4);
            for ((scale, packed), values) in scales.iter().zip(packed.as_chunks::<8>().0).zip(values.as_chunks_mut::<16>().0) {
                scale_entries::<V>(token, &VALUES, &nibbles::<16>(packed), SCALES[usize::from(*scale)], values);
            }
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(_token: V::Token, values: &[f32], _importance: Option<&[f32]>, bytes: &mut [u8]) {
        for (block, values) in bytes.as_chunks_mut::<36>().0.iter_mut().zip(values.as_chunks::<64>().0) {
            let (scales, packed) = block.split_at_mut(4);
            for ((scale, packed), values) in scales.iter_mut().zip(packed.as_chunks_mut::<8>().0).zip(values.as_chunks::<16>().0) {
                *scale = to_e4m3(largest_size(values) / 6.0);
                encode(values, SCALES[usize::from(*scale)], packed);
            }
        }
    }
}
