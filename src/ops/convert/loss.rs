//! Losses beyond the requested type; values that a narrower type cannot represent are counted during the conversion.

use serde::Serialize;

use crate::codec::codec;
use crate::model::{Class, DType};

/// A loss that was not requested.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Loss {
    /// The tensor.
    pub tensor: String,
    /// Kind of loss.
    pub kind: LossKind,
    /// The type it would have otherwise: the stored one, or the recipe's choice.
    pub from: String,
    /// The type in the output.
    pub to: String,
    /// Whether all values are preserved nevertheless.
    pub exact: bool,
    /// Number of values affected, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<u64>,
    /// Change in bits per weight, for a fallback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits_per_weight: Option<f64>,
    /// Description and reason.
    pub message: String,
}

/// Kind of loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LossKind {
    /// The row length is not a multiple of the requested type's block size.
    Fallback,
    /// The format does not support the stored type.
    #[serde(rename = "unheld")]
    UnsupportedDtype,
    /// Finite values became infinite.
    Overflow,
    /// Non-zero values became zero.
    Flush,
}

/// Counts of values lost in a narrower type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LossCounts {
    /// Finite values that became infinite or NaN.
    pub(super) overflowed: u64,
    /// Non-zero values that became zero.
    pub(super) flushed: u64,
}

impl LossCounts {
    /// Whether nothing was lost.
    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Adds the counts of another chunk.
    pub(super) fn merge(&mut self, other: Self) {
        self.overflowed += other.overflowed;
        self.flushed += other.flushed;
    }
}

/// The smallest magnitude that rounds to infinity in F16, as `f32` bits: 65520.
const F16_OVERFLOW: u32 = 0x477f_f000;
/// The largest magnitude that rounds to zero in F16, as `f32` bits: 2^-25.
const F16_FLUSH: u32 = 0x3300_0000;
const INFINITE: u32 = 0x7f80_0000;

/// Whether `to` represents every value of `from` exactly.
pub(super) fn holds(to: DType, from: DType) -> bool {
    use DType::*;
    let info = from.info();
    // Types of at most one byte: their few bits fit 16-bit floats, except for the range of a bare exponent.
    let tiny = info.class != Class::Block && info.block_bytes <= info.block_elems;
    match to {
        _ if from == to => true,
        F64 => !matches!(from, I64 | U64 | C64),
        F32 => !matches!(from, F64 | I64 | U64 | I32 | U32 | C64),
        BF16 => tiny,
        F16 => tiny && from != F8_E8M0,
        _ => false,
    }
}

/// Counts the values lost in F16.
fn in_f16(values: &[f32]) -> LossCounts {
    let (mut overflowed, mut flushed) = (0u64, 0u64);
    // In chunks whose counts fit 32 bits, so that the compiler can vectorise.
    for chunk in values.chunks(1 << 20) {
        let (mut over, mut under) = (0u32, 0u32);
        for value in chunk {
            let magnitude = value.to_bits() & 0x7fff_ffff;
            over += u32::from(magnitude.wrapping_sub(F16_OVERFLOW) < INFINITE - F16_OVERFLOW);
            under += u32::from(magnitude.wrapping_sub(1) < F16_FLUSH);
        }
        overflowed += u64::from(over);
        flushed += u64::from(under);
    }
    LossCounts { overflowed, flushed }
}

/// Counts the values lost in `encoded`, which stores them as `to`; `scratch` receives the decoded values.
pub(super) fn count(values: &[f32], to: DType, encoded: &[u8], scratch: &mut Vec<f32>) -> LossCounts {
    if to == DType::F16 {
        return in_f16(values);
    }
    let Some(codec) = codec(to) else { return LossCounts::default() };
    scratch.resize(values.len(), 0.0);
    (codec.decode)(encoded, scratch);
    let mut lost = LossCounts::default();
    for (old, new) in values.iter().zip(scratch.iter()) {
        lost.overflowed += u64::from(old.is_finite() && !new.is_finite());
        lost.flushed += u64::from(*old != 0.0 && *new == 0.0);
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_borders_of_f16_are_where_rounding_has_them() {
        let next = |value: f32, by: i32| f32::from_bits(value.to_bits().wrapping_add_signed(by));
        let border = [65519.0, next(65520.0, -1), 65520.0, next(65520.0, 1), 2f32.powi(-25), next(2f32.powi(-25), 1), f32::MIN_POSITIVE];
        let mut values: Vec<f32> = border.iter().flat_map(|value| [*value, -*value]).collect();
        values.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, 1.0, next(0.0, 1)]);
        let mut expected = LossCounts::default();
        for value in &values {
            let half = half::f16::from_f32(*value);
            expected.overflowed += u64::from(value.is_finite() && !half.is_finite());
            expected.flushed += u64::from(*value != 0.0 && half == half::f16::ZERO);
        }
        assert_eq!(in_f16(&values), expected);
        assert!(expected.overflowed >= 5 && expected.flushed >= 5);
    }

    #[test]
    fn wider_types_hold_what_narrower_ones_have() {
        use DType::*;
        for (to, from) in [(F32, BF16), (F64, F32), (F32, Q4_K), (F16, U8), (F16, F8_E5M2), (BF16, F8_E8M0), (F16, F4)] {
            assert!(holds(to, from), "{to} {from}");
        }
        for (to, from) in [(F16, BF16), (BF16, F32), (F32, F64), (F16, U16), (F16, F8_E8M0), (F16, Q8_0), (Q4_K, F32)] {
            assert!(!holds(to, from), "{to} {from}");
        }
    }
}
