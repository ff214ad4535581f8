//! Single values, exactly as stored.

use std::fmt;

use super::{Codec, values_per_element};
use crate::model::{Class, DType};

/// Value in a type that holds it exactly. Displayed and serialised as the shortest text that parses back to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// Single precision: every float of at most 32 bits, and every quantised value.
    F32(f32),
    /// Double precision.
    F64(f64),
    /// Signed integer.
    Signed(i64),
    /// Unsigned integer.
    Unsigned(u64),
    /// Boolean.
    Bool(bool),
}

impl Codec {
    /// Decodes blocks to exact numbers; a complex element gives two (real, then imaginary part).
    pub fn numbers(&self, bytes: &[u8]) -> Vec<Number> {
        let info = self.dtype.info();
        let whole = |size: usize, number: fn([u8; 8]) -> Number| {
            let signed = matches!(self.dtype, DType::I8 | DType::I16 | DType::I32 | DType::I64);
            let widened = bytes.chunks_exact(size).map(|chunk| {
                let negative = signed && chunk[size - 1] & 0x80 != 0;
                let mut wide = [if negative { 0xff } else { 0 }; 8];
                wide[..size].copy_from_slice(chunk);
                number(wide)
            });
            widened.collect()
        };
        match (info.class, self.dtype) {
            (Class::Integer, DType::I8 | DType::I16 | DType::I32 | DType::I64) => {
                whole(info.block_bytes as usize, |wide| Number::Signed(i64::from_le_bytes(wide)))
            }
            (Class::Integer, _) => whole(info.block_bytes as usize, |wide| Number::Unsigned(u64::from_le_bytes(wide))),
            (Class::Bool, _) => bytes.iter().map(|byte| Number::Bool(*byte != 0)).collect(),
            (_, DType::F64) => whole(8, |wide| Number::F64(f64::from_le_bytes(wide))),
            _ => {
                let blocks = bytes.len() / info.block_bytes as usize;
                let mut values = vec![0f32; blocks * info.block_elems as usize * values_per_element(self.dtype)];
                (self.decode)(bytes, &mut values);
                values.into_iter().map(Number::F32).collect()
            }
        }
    }
}

impl Number {
    /// Returns the value in double precision; integers beyond 2^53 are rounded to nearest.
    pub fn as_f64(self) -> f64 {
        match self {
            Self::F32(value) => f64::from(value),
            Self::F64(value) => value,
            Self::Signed(value) => value as f64,
            Self::Unsigned(value) => value as f64,
            Self::Bool(value) => f64::from(u8::from(value)),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32(value) => value.fmt(f),
            Self::F64(value) => value.fmt(f),
            Self::Signed(value) => value.fmt(f),
            Self::Unsigned(value) => value.fmt(f),
            Self::Bool(value) => value.fmt(f),
        }
    }
}

impl serde::Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::F32(value) => serializer.serialize_f32(*value),
            Self::F64(value) => serializer.serialize_f64(*value),
            Self::Signed(value) => serializer.serialize_i64(*value),
            Self::Unsigned(value) => serializer.serialize_u64(*value),
            Self::Bool(value) => serializer.serialize_bool(*value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::codec;

    fn text(dtype: DType, bytes: &[u8]) -> Vec<String> {
        codec(dtype).unwrap().numbers(bytes).iter().map(Number::to_string).collect()
    }

    #[test]
    fn values_are_exact() {
        assert_eq!(text(DType::I64, &i64::MIN.to_le_bytes()), ["-9223372036854775808"]);
        assert_eq!(text(DType::U64, &u64::MAX.to_le_bytes()), ["18446744073709551615"]);
        assert_eq!(text(DType::I8, &[0xff, 0x7f, 0x80]), ["-1", "127", "-128"]);
        assert_eq!(text(DType::U16, &[0xff, 0xff, 1]), ["65535"]);
        assert_eq!(text(DType::F32, &0.1f32.to_le_bytes()), ["0.1"]);
        assert_eq!(text(DType::F64, &0.1f64.to_le_bytes()), ["0.1"]);
        assert_eq!(text(DType::BOOL, &[0, 1, 2]), ["false", "true", "true"]);
        assert_eq!(text(DType::F4, &[0x1f]), ["-6", "0.5"]);
        assert_eq!(text(DType::C64, &[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]), ["1", "-2"]);
        let json = serde_json::to_string(&codec(DType::F32).unwrap().numbers(&f32::NAN.to_le_bytes())).unwrap();
        assert_eq!(json, "[null]");
    }
}
