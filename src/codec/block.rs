//! What codecs of blocks share: compiling them for each instruction set, half-precision scales, blocks side by side in lanes.

use super::Codec;
use super::simd::{self, Kernel, Lanes};
use crate::model::DType;

/// How whole blocks of a type are read and written. Everything here and below it is inlined, so that it is compiled for the
/// instruction set of the lanes.
pub(super) trait Coding {
    /// Whether each value is stored by itself, so that a NaN of it may be any.
    const KEEPS_NAN: bool = false;
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
    // Which of two NaN comes of an operation is up to the processor, and low bits of it become codes: there may be but one.
    let plain: Vec<f32>;
    let values = if !C::KEEPS_NAN && values.iter().fold(false, |any, value| any | value.is_nan()) {
        plain = values.iter().map(|value| if value.is_nan() { f32::NAN } else { *value }).collect();
        &plain
    } else {
        values
    };
    simd::run(Encoding(values, importance, bytes, std::marker::PhantomData::<C>));
}

/// The value of a little-endian half-precision number. Exact; a NaN keeps its payload and becomes quiet.
#[inline(always)]
pub(super) fn half(bytes: [u8; 2]) -> f32 {
    const EXPONENT: u32 = 0x7c00 << 13;
    const REBIAS: u32 = (127 - 15) << 23;
    let bits = u32::from(u16::from_le_bytes(bytes));
    let size = (bits & 0x7fff) << 13;
    let value = match size & EXPONENT {
        // Subnormal: the mantissa becomes that of a number in the lowest normal range, of which that range's start is taken away.
        0 => (f32::from_bits(size + REBIAS + (1 << 23)) - f32::from_bits(REBIAS + (1 << 23))).to_bits(),
        EXPONENT => (size + 2 * REBIAS) | if size > EXPONENT { 1 << 22 } else { 0 },
        _ => size + REBIAS,
    };
    f32::from_bits(value | (bits & 0x8000) << 16)
}

/// The nearest half-precision number, ties to even, as little-endian bytes; infinite beyond the largest. A NaN keeps its sign and upper
/// payload and becomes quiet.
#[inline(always)]
pub(super) fn to_half(value: f32) -> [u8; 2] {
    /// Numbers from here on are infinite, or NaN: 2^16. What lies between the largest half and this rounds up to infinity.
    const LARGE: u32 = (127 + 16) << 23;
    /// The least normal half: 2^-14.
    const NORMAL: u32 = (127 - 14) << 23;
    /// Adding this to a subnormal half leaves its mantissa, rounded, in the low bits: its last place is that of a half.
    const SHIFT: u32 = (127 - 14 + 13) << 23;
    let bits = value.to_bits();
    let size = bits & 0x7fff_ffff;
    let rounded = if size >= LARGE {
        if value.is_nan() { 0x7e00 | (size >> 13 & 0x3ff) } else { 0x7c00 }
    } else if size < NORMAL {
        (f32::from_bits(size) + f32::from_bits(SHIFT)).to_bits() - SHIFT
    } else {
        (size - ((127 - 15) << 23) + 0xfff + (size >> 13 & 1)) >> 13
    };
    (rounded as u16 | (bits >> 16) as u16 & 0x8000).to_le_bytes()
}

/// What a function gives for each number. (The `map` of arrays would not be compiled for the instruction set.)
#[inline(always)]
pub(super) fn each<T: Copy, U: Copy + Default, const N: usize>(numbers: &[T; N], function: impl Fn(T) -> U) -> [U; N] {
    let mut results = [U::default(); N];
    for (result, number) in results.iter_mut().zip(numbers) {
        *result = function(*number);
    }
    results
}

/// `N` codes of four bits, two a byte: the first half of them in the low bits.
#[inline(always)]
pub(super) fn nibbles<const N: usize>(packed: &[u8]) -> [u8; N] {
    let mut codes = [0; N];
    for i in 0..N / 2 {
        codes[i] = packed[i] & 15;
        codes[i + N / 2] = packed[i] >> 4;
    }
    codes
}

/// The low byte of a whole number of a size under 2^22. Infinity gives zero, as the conversion of the reference does on x86.
#[inline(always)]
pub(super) fn low_byte(whole: f32) -> u8 {
    (whole + simd::ROUND).to_bits() as u8
}

/// Writes `code * scale` for signed codes, a multiple of sixteen of them.
#[inline(always)]
pub(super) fn scale_signed<V: Lanes>(codes: &[u8], scale: f32, values: &mut [f32]) {
    debug_assert!(codes.len().is_multiple_of(V::COUNT));
    let scale = V::splat(scale);
    for (codes, values) in codes.chunks_exact(V::COUNT).zip(values.chunks_exact_mut(V::COUNT)) {
        (V::from_signed_bytes(codes) * scale).store(values);
    }
}

/// Writes `table[code] * scale` for codes under sixteen, a multiple of sixteen of them.
#[inline(always)]
pub(super) fn scale_entries<V: Lanes>(table: &[i8; 16], codes: &[u8], scale: f32, values: &mut [f32]) {
    for (codes, values) in codes.as_chunks::<16>().0.iter().zip(values.as_chunks_mut::<16>().0) {
        scale_signed::<V>(&V::entries(table, codes), scale, values);
    }
}

/// Writes `code * scale + least`, for a multiple of sixteen codes.
#[inline(always)]
pub(super) fn scale_offset<V: Lanes>(codes: &[u8], scale: f32, least: f32, values: &mut [f32]) {
    debug_assert!(codes.len().is_multiple_of(V::COUNT));
    let (scale, least) = (V::splat(scale), V::splat(least));
    for (codes, values) in codes.chunks_exact(V::COUNT).zip(values.chunks_exact_mut(V::COUNT)) {
        (V::from_bytes(codes) * scale + least).store(values);
    }
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
    use half::f16;

    #[test]
    fn halves_are_rounded_to_nearest() {
        // Every half, what lies between two, and either side of that; and bits of all kinds.
        let halves = (0..=0x7c00u16).flat_map(|bits| {
            let value = f16::from_bits(bits).to_f32_const();
            let middle = if bits < 0x7bff { (value + f16::from_bits(bits + 1).to_f32_const()) / 2.0 } else { 65520.0 };
            [value, middle, f32::from_bits(middle.to_bits() + 1), f32::from_bits(middle.to_bits() - 1)]
        });
        let others = (0..100_000u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761)));
        for value in halves.chain(others).flat_map(|value| [value, -value]) {
            assert_eq!(u16::from_le_bytes(to_half(value)), f16::from_f32_const(value).to_bits(), "{value:e}");
        }
    }

    #[test]
    fn halves_are_exact() {
        for bits in 0..=u16::MAX {
            let (value, expected) = (half(bits.to_le_bytes()), f16::from_bits(bits).to_f32_const());
            assert!(value.to_bits() == expected.to_bits() || (value.is_nan() && expected.is_nan()), "{bits:#06x}");
        }
    }
}
