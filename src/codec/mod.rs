//! Decoding and encoding of stored values: one file per family of types, one row per type in [`CODECS`].
//!
//! The reference is IEEE single precision in the order of ggml's C source, without fused multiply-add, on every CPU.

use crate::model::{Class, DType};

mod block;
mod codebook;
mod fp4;
mod half;
mod invalid;
mod iq;
mod k;
mod legacy;
mod number;
mod plain;
pub mod scaled;
mod search;
pub(crate) mod simd;
mod small;
mod ternary;

pub use codebook::Codebook;
pub(crate) use codebook::{NUMBERS as CODEBOOK_NUMBERS, VALUES as CODEBOOK_VALUES};
pub use invalid::{InvalidValue, InvalidValues, is_zero, scan_invalid};
pub use number::Number;

/// Functions that read and write the values of a type: whole blocks when decoding, whole rows when encoding.
///
/// Mismatched lengths are no error: surplus blocks or values are ignored.
#[derive(Debug)]
pub struct Codec {
    /// The type.
    pub dtype: DType,
    /// Decodes blocks: `bytes.len() / block_bytes * block_elems * values_per_element == values.len()`.
    pub decode: Decode<f32>,
    /// Decodes to double precision, for types whose values single precision cannot hold.
    pub decode_wide: Option<Decode<f64>>,
    /// Reads blocks as codebooks, one per 32 values, for types where this is faster than decoding.
    pub codebooks: Option<Codebooks>,
    /// Encodes one row, with optional importance weights, one per column.
    pub encode: Option<Encode>,
}

/// Decodes whole blocks.
pub type Decode<T> = fn(bytes: &[u8], values: &mut [T]);

/// Reads whole blocks as codebooks.
pub type Codebooks = fn(bytes: &[u8], codebooks: &mut [Codebook]);

/// Number type that blocks decode to.
pub trait Decoded: Copy + Default {
    /// Decodes whole blocks.
    fn decode(codec: &Codec, bytes: &[u8], values: &mut [Self]);
}

impl Decoded for f32 {
    fn decode(codec: &Codec, bytes: &[u8], values: &mut [Self]) {
        (codec.decode)(bytes, values);
    }
}

impl Decoded for f64 {
    fn decode(codec: &Codec, bytes: &[u8], values: &mut [Self]) {
        codec.decode_f64(bytes, values);
    }
}

/// Encodes one row of values into whole blocks, with optional importance weights, one per value.
pub type Encode = fn(values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]);

/// Codec of every type whose values can be read.
pub static CODECS: &[Codec] = &[
    plain::F32,
    plain::F16,
    plain::BF16,
    plain::F64,
    small::F8_E4M3,
    small::F8_E5M2,
    small::F8_E4M3FNUZ,
    small::F8_E5M2FNUZ,
    small::F8_E8M0,
    small::F6_E2M3,
    small::F6_E3M2,
    small::F4,
    plain::C64,
    plain::BOOL,
    plain::I8,
    plain::I16,
    plain::I32,
    plain::I64,
    plain::U8,
    plain::U16,
    plain::U32,
    plain::U64,
    legacy::Q1_0,
    legacy::Q2_0,
    legacy::Q4_0,
    legacy::Q4_1,
    legacy::Q5_0,
    legacy::Q5_1,
    legacy::Q8_0,
    legacy::Q8_1,
    k::Q2_K,
    k::Q3_K,
    k::Q4_K,
    k::Q5_K,
    k::Q6_K,
    k::Q8_K,
    iq::IQ1_S,
    iq::IQ1_M,
    iq::IQ2_XXS,
    iq::IQ2_XS,
    iq::IQ2_S,
    iq::IQ3_XXS,
    iq::IQ3_S,
    iq::IQ4_NL,
    iq::IQ4_XS,
    ternary::TQ1_0,
    ternary::TQ2_0,
    fp4::MXFP4,
    fp4::NVFP4,
];

/// Returns the codec of a type.
pub fn codec(dtype: DType) -> Option<&'static Codec> {
    CODECS.iter().find(|codec| codec.dtype == dtype)
}

/// Returns the number of values per element: two for complex types (real, then imaginary part), one for the rest.
pub fn values_per_element(dtype: DType) -> usize {
    if dtype.info().class == Class::Complex { 2 } else { 1 }
}

/// Runs a function once on each instruction set of this machine, for fuzzers to compare. Not part of the product.
#[cfg(fuzzing)]
pub fn on_each_level(mut work: impl FnMut()) {
    simd::on_each_level(|_| work());
}

impl Codec {
    /// Returns a codec that decodes to single precision and does not encode.
    const fn reads(dtype: DType, decode: Decode<f32>) -> Self {
        Self { dtype, decode, decode_wide: None, codebooks: None, encode: None }
    }

    /// Returns the codec with an encoder.
    const fn writes(mut self, encode: Encode) -> Self {
        self.encode = Some(encode);
        self
    }

    /// Returns the codec with a decoder to double precision.
    const fn wide(mut self, decode: Decode<f64>) -> Self {
        self.decode_wide = Some(decode);
        self
    }

    /// Decodes blocks to double precision: exact, except for 64-bit integers beyond 2^53, which are rounded to nearest. [`Codec::numbers`]
    /// keeps those exact as well.
    pub fn decode_f64(&self, bytes: &[u8], values: &mut [f64]) {
        if let Some(decode) = self.decode_wide {
            return decode(bytes, values);
        }
        /// Multiple of every block size.
        const CHUNK: usize = 1024;
        let mut narrow = [0f32; CHUNK];
        let info = self.dtype.info();
        let elements = CHUNK / values_per_element(self.dtype);
        let chunk_bytes = elements / info.block_elems as usize * info.block_bytes as usize;
        for (bytes, values) in bytes.chunks(chunk_bytes).zip(values.chunks_mut(CHUNK)) {
            let narrow = &mut narrow[..values.len()];
            (self.decode)(bytes, narrow);
            for (value, narrow) in values.iter_mut().zip(narrow) {
                *value = f64::from(*narrow);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codecs_are_unique_and_decode_any_bytes() {
        let noise: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for (i, codec) in CODECS.iter().enumerate() {
            assert!(CODECS[..i].iter().all(|other| other.dtype != codec.dtype), "{} twice", codec.dtype);
            let info = codec.dtype.info();
            let count = noise.len() / info.block_bytes as usize * info.block_elems as usize * values_per_element(codec.dtype);
            let mut values = vec![0f32; count];
            let mut wide = vec![0f64; count];
            (codec.decode)(&noise, &mut values);
            codec.decode_f64(&noise, &mut wide);
            for (value, wide) in values.iter().zip(&wide) {
                assert!(*value == *wide as f32 || (value.is_nan() && wide.is_nan()), "{}: {value} and {wide}", codec.dtype);
            }
            // Input or output too short: no panic.
            (codec.decode)(&noise[..noise.len() - 1], &mut values);
            (codec.decode)(&noise, &mut values[..count - 1]);
            codec.decode_f64(&noise[..1], &mut wide);
        }
    }

    /// Returns typical rows and edge cases.
    fn rows() -> Vec<Vec<f32>> {
        let mut state = 1u64;
        let mut uniform = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 8_388_608.0 - 1.0
        };
        let mut rows = vec![
            vec![0.0; 256],
            vec![-0.0; 512],
            vec![0.7; 256],
            (0..2816).map(|_| uniform() * uniform() * uniform()).collect(),
            (0..256).map(|i| if i % 37 == 0 { uniform() } else { 0.0 }).collect(),
            (0..768).map(|i| uniform() * 10f32.powi(i / 16 % 9 * 5 - 38)).collect(),
            (0..256).map(|i| -(i as f32)).collect(),
            (0..512).map(|i| 3.0 + (i % 5) as f32 / 1000.0).collect(),
        ];
        rows.push((0..256).map(|_| uniform() * 1e-39).collect());
        // NaN payloads: which operand's NaN propagates is CPU-specific, so encoders must not depend on it.
        let specials = [f32::NAN, f32::INFINITY, 1e-40, 7.0, f32::from_bits(0xffff_fffd), f32::NEG_INFINITY, -2.0];
        rows.extend((1..=specials.len()).map(|count| specials.iter().copied().cycle().step_by(count).take(512).collect()));
        rows
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for codec in CODECS {
            let info = codec.dtype.info();
            let noise: Vec<u8> = (0..info.block_bytes as u32 * 40).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            let mut first: Option<Vec<u32>> = None;
            simd::on_each_level(|level| {
                let mut found = Vec::new();
                let mut values = vec![0f32; info.block_elems as usize * 40 * values_per_element(codec.dtype)];
                (codec.decode)(&noise, &mut values);
                found.extend(values.iter().map(|value| if value.is_nan() { 0x7fc0_0000 } else { value.to_bits() }));
                for row in rows() {
                    let Some(encode) = codec.encode else { continue };
                    let importance: Vec<f32> = (0..row.len()).map(|i| (i * i % 17) as f32 / 4.0).collect();
                    for importance in [None, Some(&importance[..])] {
                        let mut bytes = vec![0; codec.dtype.bytes_for(row.len() as u64).unwrap() as usize];
                        encode(&row, importance, &mut bytes);
                        found.extend(bytes.iter().map(|byte| u32::from(*byte)));
                    }
                }
                match &first {
                    None => first = Some(found),
                    Some(first) => assert!(*first == found, "{} on {level:?}", codec.dtype),
                }
            });
        }
    }
}
