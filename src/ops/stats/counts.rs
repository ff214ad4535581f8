//! Counting codes: how often each 16-bit pattern occurs.
//!
//! For types of 16 bits and fewer the pattern is the value, and everything follows exactly from the counts. For other types it is
//! the upper half of the value in single precision: a sketch with 128 steps between powers of two.

use std::collections::BTreeMap;

use super::moments::{Sample, Tally};
use crate::codec::simd::{self, AHEAD, LINE};
use crate::codec::{self, Codebook};
use crate::model::{Class, DType};

/// The largest relative error of a value that is told from the sketch: half a step of 2^-7.
pub(crate) const SKETCH_ERROR: f64 = 1.0 / 256.0;

/// How many patterns there are.
const CODES: usize = 1 << 16;

/// How many of them have the same upper byte.
const PAGE: usize = 1 << 8;

/// How a type's values are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counting {
    /// By its own bit pattern, of one byte.
    Byte,
    /// By its own bit pattern, of two bytes.
    Pair,
    /// By the upper half of its value in single precision, which holds the whole value: types with a mantissa of at most 7 bits.
    Upper,
    /// By the upper half of its value in single precision, which holds the first 7 bits of the mantissa.
    Sketch,
}

impl Counting {
    /// How values of `dtype` are counted.
    pub(crate) fn of(dtype: DType) -> Self {
        let info = dtype.info();
        match (info.class, info.block_elems, info.block_bytes) {
            (Class::Block, ..) => Self::Sketch,
            (_, 1, 1) => Self::Byte,
            (_, 1, 2) => Self::Pair,
            (_, 1, _) => Self::Sketch,
            _ => Self::Upper, // F4 and F6
        }
    }

    pub(crate) fn is_exact(self) -> bool {
        self != Self::Sketch
    }
}

/// Counts of patterns while they are being counted.
///
/// One table, and one pattern after the other: so the processor counts one a cycle, and the patterns of weights (a few exponents)
/// stay in its nearest cache.
pub(crate) struct Counter(Box<[u32; CODES]>);

impl Counter {
    pub(crate) fn new() -> Self {
        Self(Box::new([0; CODES]))
    }

    /// Counts little-endian pairs of bytes.
    pub(crate) fn pairs(&mut self, bytes: &[u8]) {
        for block in bytes.chunks(8 * LINE) {
            for line in (0..block.len()).step_by(LINE) {
                simd::prefetch(block, AHEAD + line);
            }
            // A short loop: unrolled further, runs of the same pattern take seven times as long.
            let (words, rest) = block.as_chunks::<8>();
            for word in words {
                let word = u64::from_le_bytes(*word);
                for shift in [0, 16, 32, 48] {
                    self.0[usize::from((word >> shift) as u16)] += 1;
                }
            }
            for pair in rest.as_chunks::<2>().0 {
                self.0[usize::from(u16::from_le_bytes(*pair))] += 1;
            }
        }
    }

    /// Counts bytes: in four tables in turn, for there are so few patterns that each would wait for the one before.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let mut tables = [[0u32; 256]; 4];
        let (fours, rest) = bytes.as_chunks::<4>();
        for four in fours {
            for (table, byte) in tables.iter_mut().zip(four) {
                table[usize::from(*byte)] += 1;
            }
        }
        for byte in rest {
            tables[0][usize::from(*byte)] += 1;
        }
        for table in &tables {
            for (sum, count) in self.0.iter_mut().zip(table) {
                *sum += count;
            }
        }
    }

    /// Hands out what was counted and starts anew.
    pub(crate) fn drain(&mut self, into: &mut Counts) {
        for (high, page) in (0..=u8::MAX).zip(self.0.as_chunks_mut::<PAGE>().0) {
            if page.iter().fold(0, |any, count| any | count) != 0 {
                for (sum, count) in into.page(high).iter_mut().zip(page) {
                    *sum += u64::from(std::mem::take(count));
                }
            }
        }
    }
}

impl Tally for Counter {
    /// Counts the places of values in the sketch.
    #[inline(always)]
    fn take<T: Sample>(&mut self, values: &[T]) {
        for value in values {
            self.0[usize::from(value.sketch_code())] += 1;
        }
    }

    #[inline(always)]
    fn take_codebook(&mut self, codebook: &Codebook) {
        for (value, count) in codebook.values.iter().zip(codebook.counts) {
            self.0[usize::from(value.sketch_code())] += u32::from(count);
        }
    }
}

/// How often each pattern occurs: by its upper byte, of those that occur, and then by its lower.
#[derive(Debug, Default)]
pub(crate) struct Counts(BTreeMap<u8, Box<[u64; PAGE]>>);

impl Counts {
    fn page(&mut self, high: u8) -> &mut [u64; PAGE] {
        self.0.entry(high).or_insert_with(|| Box::new([0; PAGE]))
    }

    /// Counts a pattern so often.
    fn raise(&mut self, code: u16, count: u64) {
        let [high, low] = code.to_be_bytes();
        self.page(high)[usize::from(low)] += count;
    }

    /// Adds the counts of `other`.
    pub(crate) fn add(&mut self, other: &Self) {
        for (&high, counts) in &other.0 {
            for (sum, count) in self.page(high).iter_mut().zip(counts.iter()) {
                *sum += count;
            }
        }
    }

    /// The patterns that occur, rising, and how often.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        let all = self.0.iter().flat_map(|(&high, page)| (0..=u8::MAX).map(move |low| u16::from_be_bytes([high, low])).zip(page.iter()));
        all.map(|(code, &count)| (code, count)).filter(|&(_, count)| count > 0)
    }
}

/// Values of a type that occur, finite ones in rising order, and what is not finite.
#[derive(Debug, Default)]
pub(crate) struct Distribution {
    pub values: Vec<(f64, u64)>,
    pub nan: u64,
    pub plus_inf: u64,
    pub minus_inf: u64,
}

/// The value of every pattern of a type that is counted by its own bits.
pub(crate) struct ValueTable(Vec<f32>);

impl ValueTable {
    /// The values of `dtype`, if this build can decode it.
    pub(crate) fn new(dtype: DType) -> Option<Self> {
        let bytes: Vec<u8> = match Counting::of(dtype) {
            Counting::Byte => (0..=u8::MAX).collect(),
            Counting::Pair => (0..=u16::MAX).flat_map(u16::to_le_bytes).collect(),
            Counting::Upper => return Some(Self::upper()),
            Counting::Sketch => return None,
        };
        let mut values = vec![0.0; bytes.len() / dtype.info().block_bytes as usize];
        (codec::codec(dtype)?.decode)(&bytes, &mut values);
        Some(Self(values))
    }

    /// The value of a pattern that is the upper half of a single.
    fn upper() -> Self {
        Self((0..=u16::MAX).map(|code| f32::from_bits(u32::from(code) << 16)).collect())
    }

    pub(crate) fn values(&self) -> &[f32] {
        &self.0
    }

    /// Counts by value. Zeros of both signs are one value.
    pub(crate) fn distribution(&self, counts: &Counts) -> Distribution {
        Distribution::from_values(counts.iter().map(|(code, count)| (f64::from(self.0[code as usize]), count)))
    }

    /// The same counts by the places of the values in the sketch.
    pub(crate) fn to_sketch(&self, counts: &Counts) -> Counts {
        let mut sketch = Counts::default();
        for (code, count) in counts.iter() {
            sketch.raise(self.0[usize::from(code)].sketch_code(), count);
        }
        sketch
    }
}

impl Distribution {
    /// Values in any order, and how often each occurs.
    pub(crate) fn from_values(values: impl Iterator<Item = (f64, u64)>) -> Self {
        let mut all = Self::default();
        for (value, count) in values {
            if value.is_nan() {
                all.nan += count;
            } else if value == f64::INFINITY {
                all.plus_inf += count;
            } else if value == f64::NEG_INFINITY {
                all.minus_inf += count;
            } else {
                all.values.push((value + 0.0, count));
            }
        }
        // Patterns of floats are two runs, one of them falling: a sort that keeps runs has little to do.
        all.values.sort_by(|a, b| a.0.total_cmp(&b.0));
        all.values.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 += next.1;
            }
            same
        });
        all
    }

    /// The middles of the steps of the sketch, each within [`SKETCH_ERROR`] of the values counted there, and never beyond `min` and `max`.
    pub(crate) fn of_sketch(counts: &Counts, min: f64, max: f64) -> Self {
        Self::from_values(counts.iter().map(|(code, count)| {
            let low = f32::from_bits(u32::from(code) << 16);
            // The step of zero holds subnormals as well: they are told as zero.
            let middle = if code & 0x7fff == 0 || !low.is_finite() {
                f64::from(low)
            } else {
                f64::from(f32::from_bits(u32::from(code) << 16 | 0x8000)).clamp(min, max)
            };
            (middle, count)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_counting_agrees() {
        let codes: Vec<u16> = (0..10_003u32).map(|i| (i * i % 4096) as u16).collect();
        let bytes: Vec<u8> = codes.iter().flat_map(|code| code.to_le_bytes()).collect();
        let mut expected = Counts::default();
        codes.iter().for_each(|&code| expected.raise(code, 1));
        let mut counter = Counter::new();
        let (mut pairs, mut sketch) = (Counts::default(), Counts::default());
        counter.pairs(&bytes);
        counter.drain(&mut pairs);
        counter.take(&codes.iter().map(|&code| f32::from_bits(u32::from(code) << 16 | 77)).collect::<Vec<_>>());
        counter.drain(&mut sketch);
        assert!(pairs.iter().eq(expected.iter()) && sketch.iter().eq(expected.iter()));
        pairs.add(&expected);
        assert!(pairs.iter().eq(expected.iter().map(|(code, count)| (code, 2 * count))));

        let (mut bytewise, mut expected) = (Counts::default(), Counts::default());
        counter.bytes(&bytes);
        counter.drain(&mut bytewise);
        bytes.iter().for_each(|&byte| expected.raise(u16::from(byte), 1));
        assert!(bytewise.iter().eq(expected.iter()));
        assert_eq!(bytewise.iter().map(|(_, count)| count).sum::<u64>(), 20_006);
    }

    #[test]
    fn steps_of_the_sketch_are_within_the_stated_error() {
        for value in [1.0f32, -1.999, 3.0e-30, 6.5e4, 1.0078124, -f32::MAX] {
            let mut counts = Counts::default();
            counts.raise(value.sketch_code(), 1);
            let told = Distribution::of_sketch(&counts, f64::from(f32::MIN), f64::from(f32::MAX)).values[0].0;
            let error = (told / f64::from(value) - 1.0).abs();
            assert!(error <= SKETCH_ERROR, "{value}: {told}, off by {error}");
        }
    }

    #[test]
    fn every_type_of_few_bits_is_counted_exactly() {
        for (dtype, counting) in [
            (DType::F16, Counting::Pair),
            (DType::I8, Counting::Byte),
            (DType::F6_E2M3, Counting::Upper),
            (DType::F4, Counting::Upper),
            (DType::F32, Counting::Sketch),
            (DType::Q4_K, Counting::Sketch),
        ] {
            assert_eq!(Counting::of(dtype), counting, "{dtype}");
        }
    }
}
