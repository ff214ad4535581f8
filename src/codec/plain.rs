//! Unquantised types: IEEE floats, BF16, integers, booleans, complex numbers.

use super::Codec;
use super::block::BlockCodec;
use super::half::{f16_to_f32, f32_to_f16};
use super::simd::{self, AHEAD, Lanes};
use crate::model::DType;

/// Defines a decoder of little-endian `$type`s, converted to `$out` by `$convert`.
macro_rules! reader {
    ($type:ty => $out:ty, $convert:expr) => {{
        fn decode(bytes: &[u8], values: &mut [$out]) {
            let (numbers, _) = bytes.as_chunks::<{ size_of::<$type>() }>();
            for (value, number) in values.iter_mut().zip(numbers) {
                *value = $convert(<$type>::from_le_bytes(*number));
            }
        }
        decode
    }};
}

/// Defines an encoder to the little-endian bytes that `$convert` returns.
macro_rules! writer {
    ($size:literal, $convert:expr) => {{
        fn encode(values: &[f32], _importance: Option<&[f32]>, bytes: &mut [u8]) {
            let (numbers, _) = bytes.as_chunks_mut::<$size>();
            for (number, value) in numbers.iter_mut().zip(values) {
                *number = $convert(*value);
            }
        }
        encode
    }};
}

pub(super) const F32: Codec = Codec::reads(DType::F32, reader!(f32 => f32, |x| x)).writes(writer!(4, f32::to_le_bytes));
pub(super) const F16: Codec = Codec::blocks::<F16Blocks>(DType::F16);
pub(super) const BF16: Codec = Codec::blocks::<Bf16Blocks>(DType::BF16);
pub(super) const F64: Codec = Codec::reads(DType::F64, reader!(f64 => f32, |x| x as f32))
    .wide(reader!(f64 => f64, |x| x))
    .writes(writer!(8, |x: f32| f64::from(x).to_le_bytes()));
pub(super) const C64: Codec = Codec::reads(DType::C64, reader!(f32 => f32, |x| x)).writes(writer!(4, f32::to_le_bytes));
pub(super) const BOOL: Codec = Codec::reads(DType::BOOL, reader!(u8 => f32, |x| f32::from(u8::from(x != 0))));
pub(super) const I8: Codec = Codec::reads(DType::I8, reader!(i8 => f32, f32::from));
pub(super) const I16: Codec = Codec::reads(DType::I16, reader!(i16 => f32, f32::from));
pub(super) const U8: Codec = Codec::reads(DType::U8, reader!(u8 => f32, f32::from));
pub(super) const U16: Codec = Codec::reads(DType::U16, reader!(u16 => f32, f32::from));

/// Defines the codec of an integer type that single precision cannot hold.
macro_rules! wide_integer {
    ($type:ty, $dtype:ident) => {
        pub(super) const $dtype: Codec =
    Codec::reads(DType::$dtype, reader!($type => f32, |x| x as f32)).wide(reader!($type => f64, |x| x as f64));
    };
}

wide_integer!(i32, I32);
wide_integer!(i64, I64);
wide_integer!(u32, U32);
wide_integer!(u64, U64);

/// Converts a BF16, the upper half of a single-precision number.
#[inline(always)]
pub(super) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Rounds to the nearest BF16, ties to even; a NaN keeps its sign and the upper bits of its payload and becomes quiet
/// (`ggml_compute_fp32_to_bf16`).
#[inline(always)]
pub(super) fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    (if value.is_nan() { bits >> 16 | 0x40 } else { rounded }) as u16
}

/// F16: rounded to nearest, ties to even; values beyond the largest finite half become infinite.
struct F16Blocks;

impl BlockCodec for F16Blocks {
    const KEEPS_NAN: bool = true;

    #[inline(always)]
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (bytes, values) in bytes.chunks(2 * V::COUNT).zip(values.chunks_mut(V::COUNT)) {
            simd::prefetch(bytes, AHEAD); // usually rows of a file that are read next
            if bytes.len() == 2 * V::COUNT && values.len() == V::COUNT {
                V::from_f16s(token, bytes).store(values);
            } else {
                for (bytes, value) in bytes.as_chunks().0.iter().zip(values) {
                    *value = f16_to_f32(*bytes);
                }
            }
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(token: V::Token, values: &[f32], _importance: Option<&[f32]>, bytes: &mut [u8]) {
        for (values, bytes) in values.chunks(V::COUNT).zip(bytes.chunks_mut(2 * V::COUNT)) {
            if values.len() == V::COUNT && bytes.len() == 2 * V::COUNT {
                V::load(token, values).store_f16s(bytes);
            } else {
                for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
                    *bytes = f32_to_f16(*value);
                }
            }
        }
    }
}

/// BF16.
struct Bf16Blocks;

impl BlockCodec for Bf16Blocks {
    const KEEPS_NAN: bool = true;

    #[inline(always)]
    fn decode<V: Lanes>(_token: V::Token, bytes: &[u8], values: &mut [f32]) {
        for (bytes, value) in bytes.as_chunks().0.iter().zip(values) {
            *value = bf16_to_f32(u16::from_le_bytes(*bytes));
        }
    }

    #[inline(always)]
    fn encode<V: Lanes>(_token: V::Token, values: &[f32], _importance: Option<&[f32]>, bytes: &mut [u8]) {
        for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
            *bytes = f32_to_bf16(*value).to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::codec;
    use half::f16;

    fn encode(dtype: DType, values: &[f32]) -> Vec<u8> {
        let mut bytes = vec![0; dtype.bytes_for(values.len() as u64).unwrap() as usize];
        codec(dtype).unwrap().encode.unwrap()(values, None, &mut bytes);
        bytes
    }

    #[test]
    fn halves_and_bf16_round_trip() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for dtype in [DType::F16, DType::BF16] {
            let mut values = vec![0f32; 1 << 16];
            (codec(dtype).unwrap().decode)(&all, &mut values);
            let back = encode(dtype, &values);
            for (i, value) in values.iter().enumerate() {
                let code = u16::from_le_bytes([back[2 * i], back[2 * i + 1]]);
                let quiet = if dtype == DType::F16 { 0x200 } else { 0x40 };
                assert_eq!(code, if value.is_nan() { i as u16 | quiet } else { i as u16 }, "{dtype} {i:#06x}");
                if dtype == DType::F16 {
                    let bits = f16::from_bits(i as u16).to_f32_const().to_bits();
                    assert!(value.to_bits() == bits || value.is_nan(), "{i:#06x}");
                }
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_and_ties_go_to_even() {
        let halves = |values: &[f32]| encode(DType::F16, values).chunks(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect::<Vec<_>>();
        assert_eq!(
            halves(&[65519.0, 65520.0, -1e30, f32::INFINITY, 2f32.powi(-25), 2f32.powi(-25) * 1.0001]),
            [0x7bff, 0x7c00, 0xfc00, 0x7c00, 0, 1]
        );
        assert_eq!(halves(&[1.0 + 2f32.powi(-11), 1.0 + 3.0 * 2f32.powi(-11), f32::from_bits(0x7f80_0001)]), [0x3c00, 0x3c02, 0x7e00]);
        assert_eq!(f32_to_bf16(f32::from_bits(0x3f80_8000)), 0x3f80);
        assert_eq!(f32_to_bf16(f32::from_bits(0x3f81_8000)), 0x3f82);
        assert_eq!(f32_to_bf16(f32::MAX), 0x7f80);
        assert_eq!(f32_to_bf16(f32::from_bits(0xff80_0001)), 0xffc0);
        assert_eq!(f32_to_bf16(f32::from_bits(1)), 0);
    }

    #[test]
    fn wide_types_are_exact_in_double_precision() {
        let mut value = [0f64];
        codec(DType::I64).unwrap().decode_f64(&((1i64 << 53) - 1).to_le_bytes(), &mut value);
        assert_eq!(value, [9_007_199_254_740_991.0]);
        codec(DType::U32).unwrap().decode_f64(&u32::MAX.to_le_bytes(), &mut value);
        assert_eq!(value, [4_294_967_295.0]);
        codec(DType::F64).unwrap().decode_f64(&0.1f64.to_le_bytes(), &mut value);
        assert_eq!(value, [0.1]);
        let mut pair = [0f64; 2];
        let bytes: Vec<u8> = [1.5f32, -2.0].into_iter().flat_map(f32::to_le_bytes).collect();
        codec(DType::C64).unwrap().decode_f64(&bytes, &mut pair);
        assert_eq!(pair, [1.5, -2.0]);
    }
}
