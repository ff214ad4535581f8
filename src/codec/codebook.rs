//! Blocks as codebooks: the few values that their codes stand for, with counts. Statistics need no more, and this is faster than decoding
//! each value.

use super::Codec;
use super::block::{BlockCodec, map_array, scale_entries, scale_offset, scale_signed};
use super::simd::{self, Kernel, Lanes};
use crate::model::DType;

/// Number of values that a codebook summarises.
pub(crate) const NUMBERS: usize = 32;

/// Number of values of a four-bit code.
pub(crate) const VALUES: usize = 16;

/// Values and counts of 32 numbers with four-bit codes; their order is not kept.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Codebook {
    /// The value of each code.
    pub values: [f32; VALUES],
    /// Number of occurrences of each code.
    pub counts: [u8; VALUES],
}

/// All four-bit codes.
const CODES: [u8; VALUES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

impl Codebook {
    /// Returns the codebook of `scale * (code - zero)`.
    #[inline(always)]
    pub(super) fn symmetric<V: Lanes>(token: V::Token, codes: &[u8; NUMBERS], zero: u8, scale: f32) -> Self {
        let mut values = [0.0; VALUES];
        let mut signed = CODES;
        for code in &mut signed {
            *code = code.wrapping_sub(zero);
        }
        scale_signed::<V>(token, &signed, scale, &mut values);
        Self { values, counts: counts::<V>(token, codes) }
    }

    /// Returns the codebook of `scale * code + min`.
    #[inline(always)]
    pub(super) fn offset<V: Lanes>(token: V::Token, codes: &[u8; NUMBERS], scale: f32, min: f32) -> Self {
        let mut values = [0.0; VALUES];
        scale_offset::<V>(token, &CODES, scale, min, &mut values);
        Self { values, counts: counts::<V>(token, codes) }
    }

    /// Returns the codebook of `table[code] * scale`.
    #[inline(always)]
    pub(super) fn entries<V: Lanes>(token: V::Token, codes: &[u8; NUMBERS], table: &[i8; VALUES], scale: f32) -> Self {
        let mut values = [0.0; VALUES];
        scale_entries::<V>(token, table, &CODES, scale, &mut values);
        Self { values, counts: counts::<V>(token, codes) }
    }

    /// Returns the counts in single precision.
    #[inline(always)]
    pub(crate) fn counts_as_singles(&self) -> [f32; VALUES] {
        map_array(&self.counts, f32::from)
    }
}

/// Counts each four-bit code: a code occurs where all four bit planes match its bits.
#[inline(always)]
fn counts<V: Lanes>(token: V::Token, codes: &[u8; NUMBERS]) -> [u8; VALUES] {
    let planes = V::bit_planes(token, codes);
    let mut counts = [0; VALUES];
    for (code, count) in (0u32..).zip(&mut counts) {
        let plane = |bit: usize| planes[bit] ^ (code >> bit & 1).wrapping_sub(1);
        *count = (plane(0) & plane(1) & plane(2) & plane(3)).count_ones() as u8;
    }
    counts
}

/// Block type that can be read as codebooks.
pub(super) trait CodebookCodec: BlockCodec {
    /// Reads whole blocks.
    fn codebooks<V: Lanes>(token: V::Token, bytes: &[u8], codebooks: &mut [Codebook]);
}

impl Codec {
    /// Returns the codec of a block type with four-bit codes.
    pub(super) const fn coded<C: CodebookCodec>(dtype: DType) -> Self {
        Self { codebooks: Some(codebooks::<C>), ..Self::blocks::<C>(dtype) }
    }
}

fn codebooks<C: CodebookCodec>(bytes: &[u8], codebooks: &mut [Codebook]) {
    struct Reading<'a, C>(&'a [u8], &'a mut [Codebook], std::marker::PhantomData<C>);
    impl<C: CodebookCodec> Kernel for Reading<'_, C> {
        type Output = ();

        #[inline(always)]
        fn run<V: Lanes>(self, token: V::Token) {
            C::codebooks::<V>(token, self.0, self.1);
        }
    }
    simd::run(Reading(bytes, codebooks, std::marker::PhantomData::<C>));
}

#[cfg(test)]
mod tests {
    use super::super::CODECS;
    use super::*;

    #[test]
    fn codebooks_match_decoded_values() {
        let mut types = 0;
        for codec in CODECS {
            let Some(read) = codec.codebooks else { continue };
            types += 1;
            let info = codec.dtype.info();
            let bytes: Vec<u8> = (0..info.block_bytes as u32 * 40).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            let mut values = vec![0f32; 40 * info.block_elems as usize];
            (codec.decode)(&bytes, &mut values);
            simd::on_each_level(|level| {
                let mut found = vec![Codebook::default(); values.len() / NUMBERS];
                read(&bytes, &mut found);
                for (values, found) in values.as_chunks::<NUMBERS>().0.iter().zip(&found) {
                    assert_eq!(found.counts.iter().sum::<u8>(), NUMBERS as u8);
                    let bits = |value: &f32| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() };
                    let mut expected: Vec<u32> = values.iter().map(bits).collect();
                    let one_by_one =
                        found.values.iter().zip(found.counts).flat_map(|(value, n)| std::iter::repeat_n(bits(value), n as usize));
                    let mut found: Vec<u32> = one_by_one.collect();
                    expected.sort_unstable();
                    found.sort_unstable();
                    assert_eq!(found, expected, "{} on {level:?}", codec.dtype);
                }
            });
        }
        assert!(types > 0);
    }
}
