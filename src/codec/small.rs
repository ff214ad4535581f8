//! Floats of four to eight bits, as defined by torch and the OCP specifications (OFP8; Microscaling Formats MX 1.0).
//!
//! Four- and six-bit floats are packed from the low bits up: the first of two F4 is the low nibble of its byte (torch's
//! `float4_e2m1fn_x2`), and four F6 form a 24-bit little-endian integer with the first in the lowest six bits.

use super::Codec;
use crate::model::DType;

/// Layout of a small float and its special values.
struct SmallFloat {
    exponent_bits: u32,
    mantissa_bits: u32,
    bias: i32,
    /// Meaning of the codes beyond the finite ones.
    special: Special,
}

#[derive(Clone, Copy, PartialEq)]
enum Special {
    /// As in IEEE: the largest exponent is infinity and NaN; overflow becomes infinite.
    Ieee,
    /// The largest code is NaN and there is no infinity; overflow saturates, as in torch 2.15.
    Fn,
    /// The code of negative zero is NaN, and there is neither infinity nor negative zero; overflow becomes NaN.
    Fnuz,
    /// Every code is finite; overflow and NaN saturate, keeping the sign.
    Finite,
}

const E4M3: SmallFloat = SmallFloat { exponent_bits: 4, mantissa_bits: 3, bias: 7, special: Special::Fn };
const E5M2: SmallFloat = SmallFloat { exponent_bits: 5, mantissa_bits: 2, bias: 15, special: Special::Ieee };
const E4M3FNUZ: SmallFloat = SmallFloat { exponent_bits: 4, mantissa_bits: 3, bias: 8, special: Special::Fnuz };
const E5M2FNUZ: SmallFloat = SmallFloat { exponent_bits: 5, mantissa_bits: 2, bias: 16, special: Special::Fnuz };
const E2M3: SmallFloat = SmallFloat { exponent_bits: 2, mantissa_bits: 3, bias: 1, special: Special::Finite };
const E3M2: SmallFloat = SmallFloat { exponent_bits: 3, mantissa_bits: 2, bias: 3, special: Special::Finite };
const E2M1: SmallFloat = SmallFloat { exponent_bits: 2, mantissa_bits: 1, bias: 1, special: Special::Finite };

impl SmallFloat {
    const fn sign_bit(&self) -> u8 {
        1 << (self.exponent_bits + self.mantissa_bits)
    }

    /// Returns the largest finite code without the sign bit.
    const fn largest(&self) -> u8 {
        match self.special {
            Special::Ieee => self.sign_bit() - (1 << self.mantissa_bits) - 1,
            Special::Fn => self.sign_bit() - 2,
            Special::Fnuz | Special::Finite => self.sign_bit() - 1,
        }
    }

    /// Returns the value of a code.
    const fn value(&self, code: u8) -> f32 {
        let magnitude = code & (self.sign_bit() - 1);
        let negative = code & self.sign_bit() != 0;
        if matches!(self.special, Special::Fnuz) && negative && magnitude == 0 {
            return f32::NAN;
        }
        let mantissa = magnitude & ((1 << self.mantissa_bits) - 1);
        let value = if magnitude > self.largest() {
            if matches!(self.special, Special::Ieee) && mantissa == 0 { f32::INFINITY } else { f32::NAN }
        } else {
            let exponent = (magnitude >> self.mantissa_bits) as i32;
            let (whole, step) = if exponent == 0 { (mantissa, 1) } else { (mantissa + (1 << self.mantissa_bits), exponent) };
            whole as f32 * power_of_two(step - self.bias - self.mantissa_bits as i32)
        };
        if negative { -value } else { value }
    }

    /// Returns the values of all codes.
    const fn table<const N: usize>(&self) -> [f32; N] {
        let mut table = [0.0; N];
        let mut code = 0;
        while code < N {
            table[code] = self.value(code as u8);
            code += 1;
        }
        table
    }

    /// Returns the nearest code, ties to even.
    #[inline(always)]
    const fn code(&self, value: f32) -> u8 {
        let dropped = 23 - self.mantissa_bits;
        // The smallest normal number, and a number whose last place is that of the subnormals: adding it to one of them leaves the rounded
        // mantissa in the low bits.
        let normal = ((128 - self.bias) as u32) << 23;
        let shift = ((128 - self.bias + dropped as i32) as u32) << 23;
        let bits = value.to_bits();
        let size = bits & 0x7fff_ffff;
        let odd = size >> dropped & 1;
        let magnitude = if size < normal {
            (f32::from_bits(size) + f32::from_bits(shift)).to_bits() - shift
        } else {
            // A mantissa that rounds up carries into the exponent.
            (size - (normal - (1 << 23)) + (1 << (dropped - 1)) - 1 + odd) >> dropped
        };
        let sign = (bits >> 31) as u8 * self.sign_bit();
        let nan = size > 0x7f80_0000;
        let (largest, ends) = (self.largest(), magnitude > self.largest() as u32);
        match self.special {
            Special::Ieee if nan => sign | (self.sign_bit() - 1),
            Special::Ieee if ends => sign | (largest + 1),
            Special::Fn if nan => sign | (self.sign_bit() - 1),
            Special::Fn if ends => sign | largest,
            Special::Fnuz if ends => self.sign_bit(),
            Special::Fnuz if magnitude == 0 => 0,
            Special::Finite if ends => sign | largest,
            _ => sign | magnitude as u8,
        }
    }
}

/// Returns `2^exponent`, for exponents of normal numbers.
const fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// Returns `2^(code - 127)` for every code; the last is NaN, the first a subnormal number of single precision.
const fn e8m0_table() -> [f32; 256] {
    let mut table = [f32::NAN; 256];
    table[0] = f32::from_bits(1 << 22);
    let mut code = 1;
    while code < 255 {
        table[code] = f32::from_bits((code as u32) << 23);
        code += 1;
    }
    table
}

/// Defines the codec of an eight-bit float.
macro_rules! byte_codec {
    ($dtype:ident, $shape:ident) => {
        pub(super) const $dtype: Codec = {
            static VALUES: [f32; 256] = $shape.table();
            fn decode(bytes: &[u8], values: &mut [f32]) {
                decode_table(&VALUES, bytes, values);
            }
            fn encode(values: &[f32], _importance: Option<&[f32]>, bytes: &mut [u8]) {
                for (byte, value) in bytes.iter_mut().zip(values) {
                    *byte = $shape.code(*value);
                }
            }
            Codec::reads(DType::$dtype, decode).writes(encode)
        };
    };
}

byte_codec!(F8_E4M3, E4M3);
byte_codec!(F8_E5M2, E5M2);
byte_codec!(F8_E4M3FNUZ, E4M3FNUZ);
byte_codec!(F8_E5M2FNUZ, E5M2FNUZ);

pub(super) const F8_E8M0: Codec = {
    static VALUES: [f32; 256] = e8m0_table();
    fn decode(bytes: &[u8], values: &mut [f32]) {
        decode_table(&VALUES, bytes, values);
    }
    Codec::reads(DType::F8_E8M0, decode)
};

fn decode_table(table: &[f32; 256], bytes: &[u8], values: &mut [f32]) {
    for (value, byte) in values.iter_mut().zip(bytes) {
        *value = table[usize::from(*byte)];
    }
}

/// Defines the codec of a six-bit float, four in three bytes.
macro_rules! six_bit_codec {
    ($dtype:ident, $shape:ident) => {
        pub(super) const $dtype: Codec = {
            static VALUES: [f32; 64] = $shape.table();
            fn decode(bytes: &[u8], values: &mut [f32]) {
                for (values, bytes) in values.chunks_exact_mut(4).zip(bytes.as_chunks::<3>().0) {
                    let packed = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
                    for (i, value) in values.iter_mut().enumerate() {
                        *value = VALUES[(packed >> (6 * i)) as usize & 63];
                    }
                }
            }
            fn encode(values: &[f32], _importance: Option<&[f32]>, bytes: &mut [u8]) {
                for (bytes, values) in bytes.as_chunks_mut::<3>().0.iter_mut().zip(values.chunks_exact(4)) {
                    let packed = values.iter().rev().fold(0, |packed, value| packed << 6 | u32::from($shape.code(*value)));
                    bytes.copy_from_slice(&packed.to_le_bytes()[..3]);
                }
            }
            Codec::reads(DType::$dtype, decode).writes(encode)
        };
    };
}

six_bit_codec!(F6_E2M3, E2M3);
six_bit_codec!(F6_E3M2, E3M2);

pub(super) const F4: Codec = {
    static VALUES: [f32; 16] = E2M1.table();
    fn decode(bytes: &[u8], values: &mut [f32]) {
        for (pair, byte) in values.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
            *pair = [VALUES[usize::from(byte & 15)], VALUES[usize::from(byte >> 4)]];
        }
    }
    fn encode(values: &[f32], _importance: Option<&[f32]>, bytes: &mut [u8]) {
        for (byte, pair) in bytes.iter_mut().zip(values.as_chunks::<2>().0) {
            *byte = E2M1.code(pair[0]) | E2M1.code(pair[1]) << 4;
        }
    }
    Codec::reads(DType::F4, decode).writes(encode)
};

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(&str, SmallFloat); 7] =
        [("E4M3", E4M3), ("E5M2", E5M2), ("E4M3FNUZ", E4M3FNUZ), ("E5M2FNUZ", E5M2FNUZ), ("E2M3", E2M3), ("E3M2", E3M2), ("E2M1", E2M1)];

    #[test]
    fn extremes_match_the_specifications() {
        let ends = ALL.map(|(_, small)| (small.value(small.largest()), small.value(1)));
        let power = |exponent: i32| 2f32.powi(exponent);
        assert_eq!(
            ends,
            [
                (448.0, power(-9)),
                (57344.0, power(-16)),
                (240.0, power(-10)),
                (57344.0, power(-17)),
                (7.5, 0.125),
                (28.0, 0.0625),
                (6.0, 0.5),
            ]
        );
        assert!(E4M3.value(0x7f).is_nan() && E4M3.value(0xff).is_nan() && E4M3.value(0x7e) == 448.0);
        assert!(E5M2.value(0x7c) == f32::INFINITY && E5M2.value(0xfc) == f32::NEG_INFINITY && E5M2.value(0x7d).is_nan());
        assert!(E4M3FNUZ.value(0x80).is_nan() && E5M2FNUZ.value(0x80).is_nan());
        let scales = e8m0_table();
        assert!(scales[0] == 2f32.powi(-127) && scales[127] == 1.0 && scales[254] == 2f32.powi(127) && scales[255].is_nan());
    }

    #[test]
    fn codes_round_trip_and_other_values_round_to_nearest() {
        for (name, small) in ALL {
            let codes = 0..2 * u16::from(small.sign_bit());
            for code in codes.map(|code| code as u8) {
                let value = small.value(code);
                if value.is_nan() {
                    assert!(small.value(small.code(value)).is_nan(), "{name} {code:#04x}");
                    continue;
                }
                assert_eq!(small.code(value), code, "{name} {code:#04x} {value}");
                let magnitude = code & (small.sign_bit() - 1);
                if magnitude < small.largest() {
                    let next = small.value(code + 1);
                    let middle = (value + next) / 2.0;
                    let even = if code & 1 == 0 { code } else { code + 1 };
                    let even = if small.special == Special::Fnuz && even == small.sign_bit() { 0 } else { even };
                    assert_eq!(small.code(middle), even, "{name} {middle}");
                    assert_eq!(small.code(f32::from_bits(middle.to_bits() + 1)), code + 1, "{name} {middle}");
                }
            }
        }
    }

    #[test]
    fn overflow_follows_the_type() {
        assert_eq!((E4M3.code(463.9), E4M3.code(465.0), E4M3.code(f32::INFINITY), E4M3.code(-1e9)), (0x7e, 0x7e, 0x7e, 0xfe));
        assert_eq!((E5M2.code(61439.0), E5M2.code(61440.0), E5M2.code(f32::NEG_INFINITY), E5M2.code(f32::NAN)), (0x7b, 0x7c, 0xfc, 0x7f));
        assert_eq!((E4M3FNUZ.code(1e9), E4M3FNUZ.code(-1e9), E4M3FNUZ.code(-0.0), E4M3FNUZ.code(-1e-30)), (0x80, 0x80, 0, 0));
        assert_eq!((E2M1.code(1e30), E2M1.code(f32::NEG_INFINITY), E2M1.code(-0.0), E2M1.code(5.0)), (7, 15, 8, 6));
        assert_eq!((E4M3.code(f32::from_bits(1)), E4M3.code(f32::MIN_POSITIVE)), (0, 0));
    }

    #[test]
    fn packing_starts_at_the_low_bits() {
        let mut values = [0f32; 4];
        (F4.decode)(&[0x21, 0xf7], &mut values);
        assert_eq!(values, [0.5, 1.0, 6.0, -6.0]);
        // codes 1, 2, 3, 63 from the low bits up
        let packed = (1u32 | 2 << 6 | 3 << 12 | 63 << 18).to_le_bytes();
        (F6_E2M3.decode)(&packed[..3], &mut values);
        assert_eq!(values, [0.125, 0.25, 0.375, -7.5]);
        let mut back = [0u8; 3];
        F6_E2M3.encode.unwrap()(&values, None, &mut back);
        assert_eq!(back, packed[..3]);
    }
}
