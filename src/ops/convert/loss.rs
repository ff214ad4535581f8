//! What a conversion loses beyond the asked-for type; values that a narrower type cannot hold are counted while they are written.

use serde::Serialize;

use crate::codec::codec;
use crate::model::{Class, DType};

/// A loss that was not asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Lossy {
    /// The tensor.
    pub tensor: String,
    /// What sort of loss.
    pub kind: LossKind,
    /// The type that it would have: the stored one, or the one that the recipe gives it.
    pub from: String,
    /// The type that it gets.
    pub to: String,
    /// Whether the values stay the same all the same.
    pub exact: bool,
    /// How many values are concerned, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<u64>,
    /// How many bits a weight more (or less) that takes, for a fallback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits_per_weight: Option<f64>,
    /// What and why.
    pub message: String,
}

/// What sort of loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LossKind {
    /// The rows are no whole number of the wanted type's blocks.
    Fallback,
    /// The format does not hold the stored type.
    Unheld,
    /// Finite values became infinite.
    Overflow,
    /// Values other than zero became zero.
    Flush,
}

/// How many values were lost on the way into a narrower type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// Finite values that became infinite or NaN.
    pub(super) overflowed: u64,
    /// Values other than zero that became zero.
    pub(super) flushed: u64,
}

impl Lost {
    /// Whether nothing was lost.
    pub(super) fn is_none(self) -> bool {
        self == Self::default()
    }

    /// Adds the counts of another part.
    pub(super) fn join(&mut self, other: Self) {
        self.overflowed += other.overflowed;
        self.flushed += other.flushed;
    }
}

/// The least magnitude that rounds to infinity in F16, as the bits of a single: 65520.
const F16_OVERFLOW: u32 = 0x477f_f000;
/// The largest magnitude that rounds to zero in F16, as the bits of a single: 2^-25.
const F16_FLUSH: u32 = 0x3300_0000;
const INFINITE: u32 = 0x7f80_0000;

/// Whether `to` holds every value of `from` exactly.
pub(super) fn holds(to: DType, from: DType) -> bool {
    use DType::*;
    let info = from.info();
    // Types of one byte and less: their few bits fit 16-bit floats, but for the range of a bare exponent.
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

/// Counts what is lost of `values` in F16.
fn in_f16(values: &[f32]) -> Lost {
    let (mut overflowed, mut flushed) = (0u64, 0u64);
    // In pieces whose counts fit 32 bits, which the compiler turns into vector code.
    for piece in values.chunks(1 << 20) {
        let (mut over, mut under) = (0u32, 0u32);
        for value in piece {
            let magnitude = value.to_bits() & 0x7fff_ffff;
            over += u32::from(magnitude.wrapping_sub(F16_OVERFLOW) < INFINITE - F16_OVERFLOW);
            under += u32::from(magnitude.wrapping_sub(1) < F16_FLUSH);
        }
        overflowed += u64::from(over);
        flushed += u64::from(under);
    }
    Lost { overflowed, flushed }
}

/// Counts what is lost of `values` in `encoded`, which holds them as `to`; `scratch` takes what they read back as.
pub(super) fn count(values: &[f32], to: DType, encoded: &[u8], scratch: &mut Vec<f32>) -> Lost {
    if to == DType::F16 {
        return in_f16(values);
    }
    let Some(codec) = codec(to) else { return Lost::default() };
    scratch.resize(values.len(), 0.0);
    (codec.decode)(encoded, scratch);
    let mut lost = Lost::default();
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
        let mut expected = Lost::default();
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
