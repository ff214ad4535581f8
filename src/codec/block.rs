//! Shared parts of the block codecs: dispatch to the instruction sets, unpacking of codes, transposing of blocks.

use super::Codec;
use super::simd::{self, Kernel, Lanes};
use crate::model::DType;

/// Reads and writes whole blocks of a type. Implementations and all that they call are inlined, so that they are compiled for the
/// instruction set of `V`.
pub(super) trait BlockCodec {
    /// Whether each value is stored on its own, so that NaN payloads may be kept.
    const KEEPS_NAN: bool = false;
    /// Decodes whole blocks.
    fn decode<V: Lanes>(token: V::Token, bytes: &[u8], values: &mut [f32]);
    /// Encodes one row. Importance weights, if any, are one per value.
    fn encode<V: Lanes>(token: V::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]);
}

impl Codec {
    /// Returns the codec of a block type.
    pub(super) const fn blocks<C: BlockCodec>(dtype: DType) -> Self {
        Self::reads(dtype, decode::<C>).writes(encode::<C>)
    }
}

fn decode<C: BlockCodec>(bytes: &[u8], values: &mut [f32]) {
    struct Decoding<'a, C>(&'a [u8], &'a mut [f32], std::marker::PhantomData<C>);
    impl<C: BlockCodec> Kernel for Decoding<'_, C> {
        type Output = ();

        #[inline(always)]
        fn run<V: Lanes>(self, token: V::Token) {
            C::decode::<V>(token, self.0, self.1);
        }
    }
    simd::run(Decoding(bytes, values, std::marker::PhantomData::<C>));
}

fn encode<C: BlockCodec>(values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
    struct Encoding<'a, C>(&'a [f32], Option<&'a [f32]>, &'a mut [u8], std::marker::PhantomData<C>);
    impl<C: BlockCodec> Kernel for Encoding<'_, C> {
        type Output = ();

        #[inline(always)]
        fn run<V: Lanes>(self, token: V::Token) {
            C::encode::<V>(token, self.0, self.1, self.2);
        }
    }
    debug_assert!(importance.is_none_or(|importance| importance.len() == values.len()));
    // Which operand's NaN payload propagates is CPU-specific, and its low bits would become codes: use a single NaN.
    let plain: Vec<f32>;
    let values = if !C::KEEPS_NAN && values.iter().fold(false, |any, value| any | value.is_nan()) {
        plain = values.iter().map(|value| if value.is_nan() { f32::NAN } else { *value }).collect();
        &plain
    } else {
        values
    };
    simd::run(Encoding(values, importance, bytes, std::marker::PhantomData::<C>));
}

/// Applies a function to each element. (Unlike the `map` of arrays, this is compiled for the instruction set.)
#[inline(always)]
pub(super) fn map_array<T: Copy, U: Copy + Default, const N: usize>(numbers: &[T; N], function: impl Fn(T) -> U) -> [U; N] {
    let mut results = [U::default(); N];
    for (result, number) in results.iter_mut().zip(numbers) {
        *result = function(*number);
    }
    results
}

/// Unpacks `N` four-bit codes from `N / 2` bytes: the low nibbles first, then the high ones.
#[inline(always)]
pub(super) fn nibbles<const N: usize>(packed: &[u8]) -> [u8; N] {
    let mut codes = [0; N];
    for i in 0..N / 2 {
        codes[i] = packed[i] & 15;
        codes[i + N / 2] = packed[i] >> 4;
    }
    codes
}

/// Returns the low byte of an integer of magnitude under 2^22. Infinity gives zero, as the reference's conversion does on x86.
#[inline(always)]
pub(super) fn low_byte(whole: f32) -> u8 {
    (whole + simd::ROUND).to_bits() as u8
}

/// Writes `code * scale` for signed codes, whose number is a multiple of sixteen.
#[inline(always)]
pub(super) fn scale_signed<V: Lanes>(token: V::Token, codes: &[u8], scale: f32, values: &mut [f32]) {
    debug_assert!(codes.len().is_multiple_of(V::COUNT));
    let scale = V::splat(token, scale);
    for (codes, values) in codes.chunks_exact(V::COUNT).zip(values.chunks_exact_mut(V::COUNT)) {
        (V::from_signed_bytes(token, codes) * scale).store(values);
    }
}

/// Writes `table[code] * scale` for four-bit codes, whose number is a multiple of sixteen.
#[inline(always)]
pub(super) fn scale_entries<V: Lanes>(token: V::Token, table: &[i8; 16], codes: &[u8], scale: f32, values: &mut [f32]) {
    for (codes, values) in codes.as_chunks::<16>().0.iter().zip(values.as_chunks_mut::<16>().0) {
        scale_signed::<V>(token, &V::entries(token, table, codes), scale, values);
    }
}

/// Writes `code * scale + min` for codes whose number is a multiple of sixteen.
#[inline(always)]
pub(super) fn scale_offset<V: Lanes>(token: V::Token, codes: &[u8], scale: f32, min: f32, values: &mut [f32]) {
    debug_assert!(codes.len().is_multiple_of(V::COUNT));
    let (scale, min) = (V::splat(token, scale), V::splat(token, min));
    for (codes, values) in codes.chunks_exact(V::COUNT).zip(values.chunks_exact_mut(V::COUNT)) {
        (V::from_bytes(token, codes) * scale + min).store(values);
    }
}

/// Maximum number of values for [`transpose_blocks`]: sixteen lanes of blocks of 32.
const TRANSPOSE_MAX: usize = 16 * 32;

/// Transposes blocks of `N` values: lane `b` of element `i` is value `i` of block `b`. Lanes without a block are zero.
#[inline(always)]
pub(super) fn transpose_blocks<V: Lanes, const N: usize>(token: V::Token, values: &[f32]) -> [V; N] {
    let mut lanes = [V::splat(token, 0.0); N];
    if values.len() >= V::COUNT * N {
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = V::gather(token, &values[i..], N);
        }
    } else {
        let mut padded = [0.0; TRANSPOSE_MAX];
        padded[..values.len()].copy_from_slice(values);
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = V::gather(token, &padded[i..], N);
        }
    }
    lanes
}
