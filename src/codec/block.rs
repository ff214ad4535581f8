//! What codecs of blocks share: compiling them for each instruction set, half-precision scales, blocks side by side in lanes.

use half::f16;

use super::Codec;
use super::simd::{self, Kernel, Lanes};
use crate::model::DType;

/// How whole blocks of a type are read and written. Everything here and below it is inlined, so that it is compiled for the
/// instruction set of the lanes.
pub(super) trait Coding {
    /// Decodes whole blocks.
    fn decode<V: Lanes>(bytes: &[u8], values: &mut [f32]);
    /// Encodes one row. Importance weights, if any, are as many as the values.
    fn encode<V: Lanes>(values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]);
}

impl Codec {
    /// The codec of a type of blocks.
    pub(super) const fn blocks<C: Coding>(dtype: DType) -> Self {
        Self::reads(dtype, decode::<C>).writes(encode::<C>)
    }
}

fn decode<C: Coding>(bytes: &[u8], values: &mut [f32]) {
    struct Decoding<'a, C>(&'a [u8], &'a mut [f32], std::marker::PhantomData<C>);
    impl<C: Coding> Kernel for Decoding<'_, C> {
        type Output = ();

        #[inline(always)]
        fn run<V: Lanes>(self) {
            C::decode::<V>(self.0, self.1);
        }
    }
    simd::run(Decoding(bytes, values, std::marker::PhantomData::<C>));
}

fn encode<C: Coding>(values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
    struct Encoding<'a, C>(&'a [f32], Option<&'a [f32]>, &'a mut [u8], std::marker::PhantomData<C>);
    impl<C: Coding> Kernel for Encoding<'_, C> {
        type Output = ();

        #[inline(always)]
        fn run<V: Lanes>(self) {
            C::encode::<V>(self.0, self.1, self.2);
        }
    }
    debug_assert!(importance.is_none_or(|importance| importance.len() == values.len()));
    simd::run(Encoding(values, importance, bytes, std::marker::PhantomData::<C>));
}

/// The value of a little-endian half-precision number. Exact; a NaN keeps its payload.
#[inline(always)]
pub(super) fn half(bytes: [u8; 2]) -> f32 {
    const EXPONENT: u32 = 0x7c00 << 13;
    const REBIAS: u32 = (127 - 15) << 23;
    let bits = u32::from(u16::from_le_bytes(bytes));
    let size = (bits & 0x7fff) << 13;
    let value = match size & EXPONENT {
        // Subnormal: the mantissa becomes that of a number in the lowest normal range, of which that range's start is taken away.
        0 => (f32::from_bits(size + REBIAS + (1 << 23)) - f32::from_bits(REBIAS + (1 << 23))).to_bits(),
        EXPONENT => size + 2 * REBIAS,
        _ => size + REBIAS,
    };
    f32::from_bits(value | (bits & 0x8000) << 16)
}

/// The nearest half-precision number, ties to even, as little-endian bytes.
#[inline(always)]
pub(super) fn to_half(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

/// The low byte of a whole number of a size under 2^22. Infinity gives zero, as the conversion of the reference does on x86.
#[inline(always)]
pub(super) fn low_byte(whole: f32) -> u8 {
    (whole + simd::ROUND).to_bits() as u8
}

/// How many numbers [`across`] takes at most: sixteen lanes of blocks of 32.
const ACROSS: usize = 16 * 32;

/// Puts blocks of `N` numbers side by side: lane `b` of `[i]` is number `i` of block `b`. Lanes without a block are zero.
#[inline(always)]
pub(super) fn across<V: Lanes, const N: usize>(values: &[f32]) -> [V; N] {
    let mut lanes = [V::splat(0.0); N];
    if values.len() >= V::COUNT * N {
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = V::gather(&values[i..], N);
        }
    } else {
        let mut padded = [0.0; ACROSS];
        padded[..values.len()].copy_from_slice(values);
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = V::gather(&padded[i..], N);
        }
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_exact() {
        for bits in 0..=u16::MAX {
            let (value, expected) = (half(bits.to_le_bytes()), f16::from_bits(bits).to_f32_const());
            assert!(value.to_bits() == expected.to_bits() || (value.is_nan() && expected.is_nan()), "{bits:#06x}");
        }
    }
}
