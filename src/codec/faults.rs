//! What in stored bytes no weight can be: NaN, infinities, scales that are neither number, codes that a type does not have.
//!
//! Blocks are not decoded: a value is finite when the scales of its block are, which are few. (The codes of all IQ types and of the
//! floats of four and six bits are whole: each of them stands for something.)

use super::{Codec, codec};
use crate::model::{Class, DType};

/// What can be wrong with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is NaN.
    Nan,
    /// It is infinite.
    Infinite,
    /// The scale of its block is NaN or infinite.
    Scale,
    /// Its code is none of the type's.
    Range,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 4] = [Self::Nan, Self::Infinite, Self::Scale, Self::Range];
}

/// How often something is wrong, and where first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// By [`Fault`], in the order of [`Fault::ALL`].
    counts: [u64; Fault::ALL.len()],
    /// In bytes from the start of what was looked at.
    first: [Option<u64>; Fault::ALL.len()],
}

impl Faults {
    /// How often this is wrong: in values, or in scales and codes of blocks; and where first, in bytes.
    pub fn of(&self, fault: Fault) -> Option<(u64, u64)> {
        Some((self.counts[fault as usize], self.first[fault as usize]?))
    }

    /// Takes over what was found in bytes that start at `offset`, which come after all before.
    pub fn join(&mut self, offset: u64, next: &Self) {
        for i in 0..self.counts.len() {
            self.counts[i] += next.counts[i];
            self.first[i] = self.first[i].or(next.first[i].map(|at| at + offset));
        }
    }

    fn add(&mut self, fault: Fault, at: usize) {
        self.counts[fault as usize] += 1;
        let first = &mut self.first[fault as usize];
        *first = Some(first.map_or(at as u64, |first| first.min(at as u64)));
    }
}

/// A field of a block that other numbers are multiplied by, or added to: where it is in the block, and how it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    Half(usize),
    Single(usize),
    /// The exponent of a power of two; 255 is NaN.
    E8M0(usize),
    /// So many unsigned E4M3; 127 is NaN, and the sign is not there.
    Ue4m3(usize, usize),
    /// A half whose four parts are the high nibbles of four 16-bit numbers.
    HighNibbles(usize),
}

use Scale::{E8M0, Half, HighNibbles, Single, Ue4m3};

/// The scales of every type of blocks, as the structs in ggml-common.h have them.
static SCALES: &[(DType, &[Scale])] = &[
    (DType::Q1_0, &[Half(0)]),
    (DType::Q2_0, &[Half(0)]),
    (DType::Q4_0, &[Half(0)]),
    (DType::Q4_1, &[Half(0), Half(2)]),
    (DType::Q5_0, &[Half(0)]),
    (DType::Q5_1, &[Half(0), Half(2)]),
    (DType::Q8_0, &[Half(0)]),
    (DType::Q8_1, &[Half(0), Half(2)]),
    (DType::Q2_K, &[Half(80), Half(82)]),
    (DType::Q3_K, &[Half(108)]),
    (DType::Q4_K, &[Half(0), Half(2)]),
    (DType::Q5_K, &[Half(0), Half(2)]),
    (DType::Q6_K, &[Half(208)]),
    (DType::Q8_K, &[Single(0)]),
    (DType::IQ1_S, &[Half(0)]),
    (DType::IQ1_M, &[HighNibbles(48)]),
    (DType::IQ2_XXS, &[Half(0)]),
    (DType::IQ2_XS, &[Half(0)]),
    (DType::IQ2_S, &[Half(0)]),
    (DType::IQ3_XXS, &[Half(0)]),
    (DType::IQ3_S, &[Half(0)]),
    (DType::IQ4_NL, &[Half(0)]),
    (DType::IQ4_XS, &[Half(0)]),
    (DType::TQ1_0, &[Half(52)]),
    (DType::TQ2_0, &[Half(64)]),
    (DType::MXFP4, &[E8M0(0)]),
    (DType::NVFP4, &[Ue4m3(0, 4)]),
];

fn scales(dtype: DType) -> &'static [Scale] {
    SCALES.iter().find(|(row, _)| *row == dtype).map_or(&[], |(_, scales)| scales)
}

/// What is wrong with values of a type; bytes past the last whole block are not looked at.
pub fn faults(dtype: DType, bytes: &[u8]) -> Faults {
    let mut found = Faults::default();
    match dtype {
        DType::F16 => floats(bytes, 0x7c00, 0x03ff, &mut found),
        DType::BF16 => floats(bytes, 0x7f80, 0x007f, &mut found),
        DType::F32 | DType::C64 => singles(bytes, &mut found),
        DType::F64 => doubles(bytes, &mut found),
        DType::BOOL => codes(bytes, &mut found, |byte| byte > 1),
        // The third of the values of two bits is the last.
        DType::TQ2_0 => {
            for (i, block) in bytes.as_chunks::<66>().0.iter().enumerate() {
                let mut inside = Faults::default();
                codes(&block[..64], &mut inside, |byte| byte & byte >> 1 & 0x55 != 0);
                found.join(i as u64 * 66, &inside);
            }
        }
        _ => {}
    }
    if dtype.is_quantised() {
        let size = dtype.info().block_bytes as usize;
        scales(dtype).iter().for_each(|scale| scale.look(bytes, size, &mut found));
    }
    // Small floats; and types whose scales are so wide that a finite one can still make an infinite value.
    let decoded = dtype.info().class == Class::Float && dtype.info().block_bytes == 1 || matches!(dtype, DType::Q8_K | DType::MXFP4);
    if decoded && let Some(codec) = codec(dtype) {
        values(codec, bytes, &mut found);
    }
    found
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

/// How many bytes are looked at with one question before it is asked of each number.
const CHUNK: usize = 4096;

macro_rules! plain_floats {
    ($name:ident, $bits:ty, $exponent:expr, $mantissa:expr $(, $argument:ident)*) => {
        fn $name(bytes: &[u8], $($argument: $bits,)* found: &mut Faults) {
            const SIZE: usize = size_of::<$bits>();
            let odd = |number: &[u8; SIZE]| <$bits>::from_le_bytes(*number) & $exponent == $exponent;
            for (i, chunk) in bytes.as_chunks::<SIZE>().0.chunks(CHUNK / SIZE).enumerate() {
                // Without a way out in the middle, so that many are looked at at a time.
                if !chunk.iter().fold(false, |any, number| any | odd(number)) {
                    continue;
                }
                for (j, number) in chunk.iter().enumerate().filter(|(_, number)| odd(number)) {
                    let nan = <$bits>::from_le_bytes(*number) & $mantissa != 0;
                    found.add(if nan { Fault::Nan } else { Fault::Infinite }, i * CHUNK + j * SIZE);
                }
            }
        }
    };
}

plain_floats!(floats, u16, exponent, mantissa, exponent, mantissa);
plain_floats!(singles, u32, 0x7f80_0000, 0x007f_ffff);
plain_floats!(doubles, u64, 0x7ff0_0000_0000_0000, 0x000f_ffff_ffff_ffff);

/// Bytes that are none of a type's.
fn codes(bytes: &[u8], found: &mut Faults, bad: impl Fn(u8) -> bool) {
    for (i, chunk) in bytes.chunks(CHUNK).enumerate() {
        if chunk.iter().fold(false, |any, byte| any | bad(*byte)) {
            let at = chunk.iter().enumerate().filter(|(_, byte)| bad(**byte));
            at.for_each(|(j, _)| found.add(Fault::Range, i * CHUNK + j));
        }
    }
}

/// Values, where only decoding tells.
fn values(codec: &Codec, bytes: &[u8], found: &mut Faults) {
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
            // A scale that is no number is told as such.
            if scales(codec.dtype).iter().all(|scale| scale.is_sound(bytes.get(at..at + size).unwrap_or_default())) {
                found.add(if value.is_nan() { Fault::Nan } else { Fault::Infinite }, at);
            }
        }
    }
}

fn half_is_odd(bits: u16) -> bool {
    bits & 0x7c00 == 0x7c00
}

fn bytes_at<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    block.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

impl Scale {
    /// Looks at this scale of every block.
    fn look(self, bytes: &[u8], size: usize, found: &mut Faults) {
        for (i, block) in bytes.chunks_exact(size).enumerate() {
            if !self.is_sound(block) {
                self.tell(block, i * size, found);
            }
        }
    }

    #[inline(always)]
    fn is_sound(self, block: &[u8]) -> bool {
        match self {
            Self::Half(at) => !half_is_odd(u16::from_le_bytes(bytes_at(block, at))),
            Self::Single(at) => f32::from_le_bytes(bytes_at(block, at)).is_finite(),
            Self::E8M0(at) => bytes_at::<1>(block, at) != [0xff],
            Self::Ue4m3(at, count) => block.iter().skip(at).take(count).all(|byte| *byte < 0x7f),
            Self::HighNibbles(at) => {
                let parts: [u8; 8] = bytes_at(block, at);
                let half = [parts[1] >> 4 | parts[3] & 0xf0, parts[5] >> 4 | parts[7] & 0xf0];
                !half_is_odd(u16::from_le_bytes(half))
            }
        }
    }

    /// Says what is wrong with a scale that is not sound.
    fn tell(self, block: &[u8], start: usize, found: &mut Faults) {
        match self {
            Self::Ue4m3(at, count) => {
                for (i, byte) in block.iter().enumerate().skip(at).take(count).filter(|(_, byte)| **byte >= 0x7f) {
                    found.add(if byte & 0x7f == 0x7f { Fault::Scale } else { Fault::Range }, start + i);
                }
            }
            Self::Half(at) | Self::Single(at) | Self::E8M0(at) | Self::HighNibbles(at) => found.add(Fault::Scale, start + at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::CODECS;
    use super::*;

    /// Blocks of all sorts of codes, with scales that are small numbers.
    fn sound(dtype: DType) -> Vec<u8> {
        let size = dtype.info().block_bytes as usize;
        let mut bytes: Vec<u8> = (0..size * 5).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] & 0x5f).collect();
        for block in bytes.chunks_exact_mut(size) {
            for scale in scales(dtype) {
                match *scale {
                    Scale::Half(at) => block[at..at + 2].copy_from_slice(&0x2e66u16.to_le_bytes()),
                    Scale::Single(at) => block[at..at + 4].copy_from_slice(&0.1f32.to_le_bytes()),
                    Scale::E8M0(at) => block[at] = 120,
                    Scale::Ue4m3(at, count) => block[at..at + count].fill(0x30),
                    Scale::HighNibbles(at) => (0..4).for_each(|i| block[at + 2 * i + 1] = block[at + 2 * i + 1] & 0x0f | 0x20),
                }
            }
            if dtype == DType::TQ2_0 {
                block[..64].iter_mut().for_each(|byte| *byte &= 0x55);
            }
        }
        bytes
    }

    #[test]
    fn a_scale_that_is_no_number_is_found_where_decoding_feels_it() {
        for codec in CODECS.iter().filter(|codec| codec.dtype.is_quantised()) {
            let (dtype, size) = (codec.dtype, codec.dtype.info().block_bytes as usize);
            let good = sound(dtype);
            assert_eq!(faults(dtype, &good), Faults::default(), "{dtype}");
            assert!(!scales(dtype).is_empty(), "{dtype}");
            let mut values = vec![0.0f32; 5 * dtype.info().block_elems as usize];
            for scale in scales(dtype) {
                let mut bad = good.clone();
                let block = &mut bad[3 * size..4 * size];
                let at = match *scale {
                    Scale::Half(at) => {
                        block[at + 1] = 0x7c;
                        at
                    }
                    Scale::Single(at) => {
                        block[at..at + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
                        at
                    }
                    Scale::E8M0(at) => {
                        block[at] = 0xff;
                        at
                    }
                    Scale::Ue4m3(at, _) => {
                        block[at] = 0x7f;
                        at
                    }
                    Scale::HighNibbles(at) => {
                        block[at + 5] |= 0xf0;
                        block[at + 7] |= 0x70;
                        at
                    }
                };
                let found = faults(dtype, &bad);
                assert_eq!(found.of(Fault::Scale), Some((1, (3 * size + at) as u64)), "{dtype} {scale:?}");
                (codec.decode)(&bad, &mut values);
                let felt = values.iter().any(|value| !value.is_finite());
                // The NaN of an unsigned E4M3 decodes to zero, as in ggml; Q8_1 has a sum that nothing is decoded by.
                let deaf = matches!(scale, Scale::Ue4m3(..)) || dtype == DType::Q8_1 && *scale == Scale::Half(2);
                assert_eq!(felt, !deaf, "{dtype} {scale:?}");
            }
        }
    }

    #[test]
    fn numbers_that_are_none_are_counted_and_placed() {
        fn check<const N: usize>(dtype: DType, nan: [u8; N], infinity: [u8; N], one: [u8; N]) {
            let mut bytes = one.repeat(5000);
            bytes[7 * N..8 * N].copy_from_slice(&infinity);
            bytes[4999 * N..].copy_from_slice(&nan);
            bytes[9 * N..10 * N].copy_from_slice(&nan);
            let found = faults(dtype, &bytes);
            assert_eq!((found.of(Fault::Nan), found.of(Fault::Infinite)), (Some((2, 9 * N as u64)), Some((1, 7 * N as u64))), "{dtype}");
            assert_eq!(faults(dtype, &one.repeat(5000)), Faults::default());
        }
        check(DType::F32, f32::NAN.to_le_bytes(), f32::NEG_INFINITY.to_le_bytes(), f32::MAX.to_le_bytes());
        check(DType::F64, f64::NAN.to_le_bytes(), f64::INFINITY.to_le_bytes(), f64::MIN.to_le_bytes());
        check(DType::F16, [1, 0xfc], [0, 0x7c], [0xff, 0x7b]);
        check(DType::BF16, [0xc0, 0x7f], [0x80, 0xff], [0x7f, 0x7f]);
        check(DType::F8_E5M2, [0x7d], [0x7c], [0x7b]);
        assert_eq!(faults(DType::F8_E4M3, &[0x7f, 0, 0xff]).of(Fault::Nan), Some((2, 0)));
        assert_eq!(faults(DType::F8_E8M0, &[0, 0xff, 0xfe]).of(Fault::Nan), Some((1, 1)));
        assert_eq!(faults(DType::F6_E2M3, &[0xff; 6]), Faults::default());
    }

    #[test]
    fn codes_that_a_type_does_not_have_are_found() {
        assert_eq!(faults(DType::BOOL, &[0, 1, 2, 0xff]).of(Fault::Range), Some((2, 2)));
        let mut bytes = sound(DType::TQ2_0);
        bytes[66 + 5] = 0b0100_1100; // the second of four codes is 3
        assert_eq!(faults(DType::TQ2_0, &bytes).of(Fault::Range), Some((1, 71)));
        let mut bytes = sound(DType::NVFP4);
        bytes[36 + 2] = 0x81;
        assert_eq!(faults(DType::NVFP4, &bytes).of(Fault::Range), Some((1, 38)));
        // A power of two that is a number, of which six is none.
        let mut bytes = sound(DType::MXFP4);
        (bytes[17], bytes[18]) = (0xfe, 7);
        assert_eq!(faults(DType::MXFP4, &bytes).of(Fault::Infinite).map(|(_, at)| at), Some(17));
    }

    #[test]
    fn zeros_are_zeros() {
        let mut bytes = vec![0; 10_000];
        assert!(is_zero(&bytes));
        bytes[9_999] = 1;
        assert!(!is_zero(&bytes));
    }
}
