//! Finds stored values that cannot be weights: NaN, infinities, bad scales, codes that the type does not define.
//!
//! Most blocks are not decoded: their values are finite if their few scales are. (The IQ types and the floats of four and six bits define
//! every code.)

use std::ops::Range;

use super::{Codec, codec};
use crate::model::{Class, DType, Role, ScaleType};

/// Kind of invalid value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidValue {
    /// NaN.
    Nan,
    /// Infinity.
    Infinite,
    /// Scale of a block that is NaN or infinite.
    Scale,
    /// Code that the type does not define.
    Range,
}

impl InvalidValue {
    /// All kinds.
    pub const ALL: [InvalidValue; 4] = [Self::Nan, Self::Infinite, Self::Scale, Self::Range];
}

/// Count and first position of each kind of invalid value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InvalidValues {
    /// By [`InvalidValue`], in the order of [`InvalidValue::ALL`].
    counts: [u64; InvalidValue::ALL.len()],
    /// In bytes from the start of the scanned bytes.
    first: [Option<u64>; InvalidValue::ALL.len()],
}

impl InvalidValues {
    /// Returns the number of invalid values (or block scales and codes) of a kind and the byte offset of the first one.
    pub fn of(&self, kind: InvalidValue) -> Option<(u64, u64)> {
        Some((self.counts[kind as usize], self.first[kind as usize]?))
    }

    /// Adds the results for later bytes, which start at `offset`.
    pub fn merge(&mut self, offset: u64, next: &Self) {
        for i in 0..self.counts.len() {
            self.counts[i] += next.counts[i];
            self.first[i] = self.first[i].or(next.first[i].map(|at| at + offset));
        }
    }

    fn add(&mut self, kind: InvalidValue, at: usize) {
        self.counts[kind as usize] += 1;
        let first = &mut self.first[kind as usize];
        *first = Some(first.map_or(at as u64, |first| first.min(at as u64)));
    }
}

/// Scans the values of a type; bytes past the last whole block are ignored.
pub fn scan_invalid(dtype: DType, bytes: &[u8]) -> InvalidValues {
    let mut found = InvalidValues::default();
    match dtype {
        DType::F16 => scan_16_bit(bytes, 0x7c00, 0x03ff, &mut found),
        DType::BF16 => scan_16_bit(bytes, 0x7f80, 0x007f, &mut found),
        DType::F32 | DType::C64 => scan_f32(bytes, &mut found),
        DType::F64 => scan_f64(bytes, &mut found),
        DType::BOOL => scan_codes(bytes, &mut found, |byte| byte > 1),
        _ => {}
    }
    let size = dtype.info().block_bytes as usize;
    let mut at = 0;
    for field in dtype.info().fields {
        match field.role {
            Role::Scale(scale) => scan_scales(scale, bytes, size, at..at + field.bytes(), &mut found),
            Role::Ternary => scan_ternary(bytes, size, at..at + field.bytes(), &mut found),
            Role::Values => {}
        }
        at += field.bytes();
    }
    // Small floats, and types whose scales are so large that a finite one can still give an infinite value.
    let decoded = dtype.info().class == Class::Float && dtype.info().block_bytes == 1 || matches!(dtype, DType::Q8_K | DType::MXFP4);
    if decoded && let Some(codec) = codec(dtype) {
        scan_decoded(codec, bytes, &mut found);
    }
    found
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Number of bytes that are tested together before each value is tested on its own.
const CHUNK: usize = 4096;

macro_rules! plain_floats {
    ($name:ident, $bits:ty, $exponent:expr, $mantissa:expr $(, $argument:ident)*) => {
        fn $name(bytes: &[u8], $($argument: $bits,)* found: &mut InvalidValues) {
            const SIZE: usize = size_of::<$bits>();
            let special = |number: &[u8; SIZE]| <$bits>::from_le_bytes(*number) & $exponent == $exponent;
            for (i, chunk) in bytes.as_chunks::<SIZE>().0.chunks(CHUNK / SIZE).enumerate() {
                // No early exit, so that the loop is vectorised.
                if !chunk.iter().fold(false, |any, number| any | special(number)) {
                    continue;
                }
                for (j, number) in chunk.iter().enumerate().filter(|(_, number)| special(number)) {
                    let nan = <$bits>::from_le_bytes(*number) & $mantissa != 0;
                    found.add(if nan { InvalidValue::Nan } else { InvalidValue::Infinite }, i * CHUNK + j * SIZE);
                }
            }
        }
    };
}

plain_floats!(scan_16_bit, u16, exponent, mantissa, exponent, mantissa);
plain_floats!(scan_f32, u32, 0x7f80_0000, 0x007f_ffff);
plain_floats!(scan_f64, u64, 0x7ff0_0000_0000_0000, 0x000f_ffff_ffff_ffff);

/// Scans for bytes that the type does not define.
fn scan_codes(bytes: &[u8], found: &mut InvalidValues, bad: impl Fn(u8) -> bool) {
    for (i, chunk) in bytes.chunks(CHUNK).enumerate() {
        if chunk.iter().fold(false, |any, byte| any | bad(*byte)) {
            let at = chunk.iter().enumerate().filter(|(_, byte)| bad(**byte));
            at.for_each(|(j, _)| found.add(InvalidValue::Range, i * CHUNK + j));
        }
    }
}

/// Scans decoded values, for types whose validity the bytes alone do not show.
fn scan_decoded(codec: &Codec, bytes: &[u8], found: &mut InvalidValues) {
    const BLOCKS: usize = 64;
    let (size, elements) = (codec.dtype.info().block_bytes as usize, codec.dtype.info().block_elems as usize);
    let mut decoded = vec![0.0; BLOCKS * elements];
    for (i, chunk) in bytes.chunks(BLOCKS * size).enumerate() {
        let values = &mut decoded[..chunk.len() / size * elements];
        (codec.decode)(chunk, values);
        if values.iter().fold(true, |all, value| all & value.is_finite()) {
            continue;
        }
        for (j, value) in values.iter().enumerate().filter(|(_, value)| !value.is_finite()) {
            let at = (i * BLOCKS + j / elements) * size;
            // An invalid scale has been reported already.
            if has_valid_scales(codec.dtype, bytes.get(at..at + size).unwrap_or_default()) {
                found.add(if value.is_nan() { InvalidValue::Nan } else { InvalidValue::Infinite }, at);
            }
        }
    }
}

fn is_special_f16(bits: u16) -> bool {
    bits & 0x7c00 == 0x7c00
}

fn bytes_at<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    block.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

/// Whether every scale of a block is finite.
fn has_valid_scales(dtype: DType, block: &[u8]) -> bool {
    let mut at = 0;
    dtype.info().fields.iter().all(|field| {
        let range = at..at + field.bytes();
        at = range.end;
        match field.role {
            Role::Scale(scale) => range.step_by(scale_bytes(scale)).all(|at| is_valid_scale(scale, block, at)),
            Role::Values | Role::Ternary => true,
        }
    })
}

/// Scans the scales in `range` of every block of `size` bytes.
fn scan_scales(scale: ScaleType, bytes: &[u8], size: usize, range: Range<usize>, found: &mut InvalidValues) {
    for (i, block) in bytes.chunks_exact(size).enumerate() {
        for at in range.clone().step_by(scale_bytes(scale)).filter(|at| !is_valid_scale(scale, block, *at)) {
            // UE4M3 has no negative numbers.
            let negative = scale == ScaleType::UE4M3 && bytes_at::<1>(block, at) != [0x7f] && bytes_at::<1>(block, at) != [0xff];
            found.add(if negative { InvalidValue::Range } else { InvalidValue::Scale }, i * size + at);
        }
    }
}

/// Returns the size of a scale in bytes.
const fn scale_bytes(scale: ScaleType) -> usize {
    match scale {
        ScaleType::F16 => 2,
        ScaleType::F32 => 4,
        ScaleType::E8M0 | ScaleType::UE4M3 => 1,
        ScaleType::SplitF16 => 8,
    }
}

#[inline(always)]
fn is_valid_scale(scale: ScaleType, block: &[u8], at: usize) -> bool {
    match scale {
        ScaleType::F16 => !is_special_f16(u16::from_le_bytes(bytes_at(block, at))),
        ScaleType::F32 => f32::from_le_bytes(bytes_at(block, at)).is_finite(),
        ScaleType::E8M0 => bytes_at::<1>(block, at) != [0xff],
        ScaleType::UE4M3 => bytes_at::<1>(block, at)[0] < 0x7f,
        ScaleType::SplitF16 => {
            let parts: [u8; 8] = bytes_at(block, at);
            let half = [parts[1] >> 4 | parts[3] & 0xf0, parts[5] >> 4 | parts[7] & 0xf0];
            !is_special_f16(u16::from_le_bytes(half))
        }
    }
}

/// Scans the two-bit codes in `range` of every block of `size` bytes: 3 is not defined.
fn scan_ternary(bytes: &[u8], size: usize, range: Range<usize>, found: &mut InvalidValues) {
    for (i, block) in bytes.chunks_exact(size).enumerate() {
        let mut inside = InvalidValues::default();
        scan_codes(block.get(range.clone()).unwrap_or_default(), &mut inside, |byte| byte & byte >> 1 & 0x55 != 0);
        found.merge((i * size + range.start) as u64, &inside);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type, block size in bytes, and offset and type of each scale and minimum.
    type Layout = (DType, usize, &'static [(usize, ScaleType)]);

    /// Layouts of the structs in ggml-common.h.
    const SCALES: &[Layout] = {
        use ScaleType::{E8M0, F16, F32, SplitF16, UE4M3};
        &[
            (DType::Q1_0, 18, &[(0, F16)]),
            (DType::Q2_0, 18, &[(0, F16)]),
            (DType::Q4_0, 18, &[(0, F16)]),
            (DType::Q4_1, 20, &[(0, F16), (2, F16)]),
            (DType::Q5_0, 22, &[(0, F16)]),
            (DType::Q5_1, 24, &[(0, F16), (2, F16)]),
            (DType::Q8_0, 34, &[(0, F16)]),
            (DType::Q8_1, 36, &[(0, F16), (2, F16)]),
            (DType::Q2_K, 84, &[(80, F16), (82, F16)]),
            (DType::Q3_K, 110, &[(108, F16)]),
            (DType::Q4_K, 144, &[(0, F16), (2, F16)]),
            (DType::Q5_K, 176, &[(0, F16), (2, F16)]),
            (DType::Q6_K, 210, &[(208, F16)]),
            (DType::Q8_K, 292, &[(0, F32)]),
            (DType::IQ1_S, 50, &[(0, F16)]),
            (DType::IQ1_M, 56, &[(48, SplitF16)]),
            (DType::IQ2_XXS, 66, &[(0, F16)]),
            (DType::IQ2_XS, 74, &[(0, F16)]),
            (DType::IQ2_S, 82, &[(0, F16)]),
            (DType::IQ3_XXS, 98, &[(0, F16)]),
            (DType::IQ3_S, 110, &[(0, F16)]),
            (DType::IQ4_NL, 18, &[(0, F16)]),
            (DType::IQ4_XS, 136, &[(0, F16)]),
            (DType::TQ1_0, 54, &[(52, F16)]),
            (DType::TQ2_0, 66, &[(64, F16)]),
            (DType::MXFP4, 17, &[(0, E8M0)]),
            (DType::NVFP4, 36, &[(0, UE4M3), (1, UE4M3), (2, UE4M3), (3, UE4M3)]),
        ]
    };

    /// Returns the block size and the scales from the table above.
    fn layout(dtype: DType) -> (usize, &'static [(usize, ScaleType)]) {
        let (_, size, scales) = SCALES.iter().find(|(row, ..)| *row == dtype).unwrap();
        (*size, scales)
    }

    /// Returns five blocks of assorted codes with small scales.
    fn valid(dtype: DType) -> Vec<u8> {
        let (size, scales) = layout(dtype);
        let mut bytes: Vec<u8> = (0..size * 5).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] & 0x5f).collect();
        for block in bytes.chunks_exact_mut(size) {
            for &(at, scale) in scales {
                match scale {
                    ScaleType::F16 => block[at..at + 2].copy_from_slice(&0x2e66u16.to_le_bytes()),
                    ScaleType::F32 => block[at..at + 4].copy_from_slice(&0.1f32.to_le_bytes()),
                    ScaleType::E8M0 => block[at] = 120,
                    ScaleType::UE4M3 => block[at] = 0x30,
                    ScaleType::SplitF16 => (0..4).for_each(|i| block[at + 2 * i + 1] = block[at + 2 * i + 1] & 0x0f | 0x20),
                }
            }
            if dtype == DType::TQ2_0 {
                block[..64].iter_mut().for_each(|byte| *byte &= 0x55);
            }
        }
        bytes
    }

    #[test]
    fn invalid_scales_are_found_and_affect_decoding() {
        for &dtype in DType::ALL.iter().filter(|dtype| dtype.is_quantised()) {
            let (size, scales) = layout(dtype);
            assert_eq!(size as u64, dtype.info().block_bytes, "{dtype}");
            let good = valid(dtype);
            assert_eq!(scan_invalid(dtype, &good), InvalidValues::default(), "{dtype}");
            let mut values = vec![0.0f32; 5 * dtype.info().block_elems as usize];
            for &(at, scale) in scales {
                let mut bad = good.clone();
                let block = &mut bad[3 * size..4 * size];
                match scale {
                    ScaleType::F16 => block[at + 1] = 0x7c,
                    ScaleType::F32 => block[at..at + 4].copy_from_slice(&f32::INFINITY.to_le_bytes()),
                    ScaleType::E8M0 => block[at] = 0xff,
                    ScaleType::UE4M3 => block[at] = 0x7f,
                    ScaleType::SplitF16 => {
                        block[at + 5] |= 0xf0;
                        block[at + 7] |= 0x70;
                    }
                }
                let found = scan_invalid(dtype, &bad);
                assert_eq!(found.of(InvalidValue::Scale), Some((1, (3 * size + at) as u64)), "{dtype} byte {at}");
                (codec(dtype).unwrap().decode)(&bad, &mut values);
                let visible = values.iter().any(|value| !value.is_finite());
                // The NaN of an unsigned E4M3 decodes to zero, as in ggml; the sum of Q8_1 is not used in decoding.
                let hidden = scale == ScaleType::UE4M3 || dtype == DType::Q8_1 && at == 2;
                assert_eq!(visible, !hidden, "{dtype} byte {at}");
            }
        }
    }

    #[test]
    fn nan_and_infinity_are_counted_and_located() {
        fn check<const N: usize>(dtype: DType, nan: [u8; N], infinity: [u8; N], one: [u8; N]) {
            let mut bytes = one.repeat(5000);
            bytes[7 * N..8 * N].copy_from_slice(&infinity);
            bytes[4999 * N..].copy_from_slice(&nan);
            bytes[9 * N..10 * N].copy_from_slice(&nan);
            let found = scan_invalid(dtype, &bytes);
            assert_eq!(
                (found.of(InvalidValue::Nan), found.of(InvalidValue::Infinite)),
                (Some((2, 9 * N as u64)), Some((1, 7 * N as u64))),
                "{dtype}"
            );
            assert_eq!(scan_invalid(dtype, &one.repeat(5000)), InvalidValues::default());
        }
        check(DType::F32, f32::NAN.to_le_bytes(), f32::NEG_INFINITY.to_le_bytes(), f32::MAX.to_le_bytes());
        check(DType::F64, f64::NAN.to_le_bytes(), f64::INFINITY.to_le_bytes(), f64::MIN.to_le_bytes());
        check(DType::F16, [1, 0xfc], [0, 0x7c], [0xff, 0x7b]);
        check(DType::BF16, [0xc0, 0x7f], [0x80, 0xff], [0x7f, 0x7f]);
        check(DType::F8_E5M2, [0x7d], [0x7c], [0x7b]);
        assert_eq!(scan_invalid(DType::F8_E4M3, &[0x7f, 0, 0xff]).of(InvalidValue::Nan), Some((2, 0)));
        assert_eq!(scan_invalid(DType::F8_E8M0, &[0, 0xff, 0xfe]).of(InvalidValue::Nan), Some((1, 1)));
        assert_eq!(scan_invalid(DType::F6_E2M3, &[0xff; 6]), InvalidValues::default());
    }

    #[test]
    fn undefined_codes_are_found() {
        assert_eq!(scan_invalid(DType::BOOL, &[0, 1, 2, 0xff]).of(InvalidValue::Range), Some((2, 2)));
        let mut bytes = valid(DType::TQ2_0);
        bytes[66 + 5] = 0b0100_1100; // the second of four codes is 3
        assert_eq!(scan_invalid(DType::TQ2_0, &bytes).of(InvalidValue::Range), Some((1, 71)));
        let mut bytes = valid(DType::NVFP4);
        bytes[36 + 2] = 0x81;
        assert_eq!(scan_invalid(DType::NVFP4, &bytes).of(InvalidValue::Range), Some((1, 38)));
        // A finite power of two that overflows when multiplied by six.
        let mut bytes = valid(DType::MXFP4);
        (bytes[17], bytes[18]) = (0xfe, 7);
        assert_eq!(scan_invalid(DType::MXFP4, &bytes).of(InvalidValue::Infinite).map(|(_, at)| at), Some(17));
    }

    #[test]
    fn is_zero_tests_every_byte() {
        let mut bytes = vec![0; 10_000];
        assert!(is_zero(&bytes));
        bytes[9_999] = 1;
        assert!(!is_zero(&bytes));
    }

    #[test]
    fn faults_are_located_past_the_first_chunk() {
        let mut bytes = vec![1; 3 * CHUNK];
        bytes[2 * CHUNK + 5] = 2;
        assert_eq!(scan_invalid(DType::BOOL, &bytes).of(InvalidValue::Range), Some((1, 2 * CHUNK as u64 + 5)));
        // 65 blocks and more of MXFP4 are decoded in two chunks.
        let mut bytes = valid(DType::MXFP4).repeat(20);
        (bytes[70 * 17], bytes[70 * 17 + 1]) = (0xfe, 7);
        assert_eq!(scan_invalid(DType::MXFP4, &bytes).of(InvalidValue::Infinite).map(|(_, at)| at), Some(70 * 17));
        // An invalid code, after the first byte of its block.
        let mut bytes = valid(DType::TQ2_0);
        bytes[2 * 66 + 63] = 0b0000_0011;
        assert_eq!(scan_invalid(DType::TQ2_0, &bytes).of(InvalidValue::Range), Some((1, 2 * 66 + 63)));
    }

    #[test]
    fn a_block_with_an_invalid_scale_has_no_fault_beside_it() {
        let mut bytes = valid(DType::MXFP4);
        bytes[17] = 0xff;
        let found = scan_invalid(DType::MXFP4, &bytes);
        assert_eq!(
            (found.of(InvalidValue::Scale), found.of(InvalidValue::Nan), found.of(InvalidValue::Infinite)),
            (Some((1, 17)), None, None)
        );
    }

    /// `iq1m_scale_t` in ggml-quants.c: the upper four bits of four 16-bit numbers are those of one F16, the lowest first.
    #[test]
    fn a_scale_in_four_parts_is_invalid_by_its_exponent() {
        let (size, scales) = layout(DType::IQ1_M);
        let at = scales[0].0;
        let cases = [0x7c00u16, 0xfc01, 0x7fff].map(|half| (half, false)).into_iter();
        let cases = cases.chain([0x7bff, 0x03ff, 0x83ff, 0x7800, 0x4c00, 0x3c00, 0x6c00, 0x7400].map(|half| (half, true)));
        for (half, is_valid) in cases {
            for beside in [0u16, 0x0fff] {
                let mut bytes = valid(DType::IQ1_M);
                let block = &mut bytes[size..2 * size];
                for part in 0..4 {
                    let number = (half >> (4 * part) & 0xf) << 12 | beside;
                    block[at + 2 * part..][..2].copy_from_slice(&number.to_le_bytes());
                }
                let found = scan_invalid(DType::IQ1_M, &bytes).of(InvalidValue::Scale);
                assert_eq!(found, (!is_valid).then_some((1, (size + at) as u64)), "{half:#x}");
            }
        }
    }
}
