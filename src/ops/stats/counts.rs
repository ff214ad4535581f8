//! Histograms of codes: how often each 16-bit pattern occurs.
//!
//! In types of 16 bits and fewer the pattern is the value, and everything follows exactly from the counts. For other types it is
//! the upper half of the value as an `f32`: a sketch with 128 steps per power of two.

use std::collections::BTreeMap;

use super::moments::{CountValues, Number};
use crate::codec::simd::{self, AHEAD, LINE};
use crate::codec::{self, Codebook};
use crate::model::{Class, DType};

/// The largest relative error of a value read from the sketch: half a step of 2^-7.
pub(crate) const SKETCH_ERROR: f64 = 1.0 / 256.0;

/// Number of patterns.
const CODES: usize = 1 << 16;

/// Number of patterns that share an upper byte.
const PAGE: usize = 1 << 8;

/// The pattern under which the values of a type are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counting {
    /// The value's own bits, one byte.
    Byte,
    /// The value's own bits, two bytes.
    Pair,
    /// The upper half of the value as an `f32`, which is exact: types with a mantissa of at most 7 bits.
    Upper,
    /// The upper half of the value as an `f32`, which keeps the first 7 bits of the mantissa.
    Sketch,
}

impl Counting {
    /// Returns how values of `dtype` are counted.
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

/// Accumulates counts of patterns.
///
/// One table, one pattern after the other: the CPU counts one per cycle, and the patterns of weights (a few exponents) stay in its
/// L1 cache.
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
            // A short loop: unrolled further, runs of the same pattern are seven times slower.
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

    /// Counts bytes, in four tables in turn: with so few patterns, each increment would otherwise wait for the one before.
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

    /// Moves the counts into `into` and resets them.
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

impl CountValues for Counter {
    /// Counts values by their sketch codes.
    #[inline(always)]
    fn count<T: Number>(&mut self, values: &[T]) {
        for value in values {
            self.0[usize::from(value.sketch_code())] += 1;
        }
    }

    #[inline(always)]
    fn count_codebook(&mut self, codebook: &Codebook) {
        for (value, count) in codebook.values.iter().zip(codebook.counts) {
            self.0[usize::from(value.sketch_code())] += u32::from(count);
        }
    }
}

/// How often each pattern occurs, in pages by upper byte; pages without counts are absent.
#[derive(Debug, Default)]
pub(crate) struct Counts(BTreeMap<u8, Box<[u64; PAGE]>>);

impl Counts {
    fn page(&mut self, high: u8) -> &mut [u64; PAGE] {
        self.0.entry(high).or_insert_with(|| Box::new([0; PAGE]))
    }

    /// Adds `count` occurrences of a pattern.
    pub(crate) fn increment(&mut self, code: u16, count: u64) {
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

    /// Returns the patterns that occur, in ascending order, with their counts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        let all = self.0.iter().flat_map(|(&high, page)| (0..=u8::MAX).map(move |low| u16::from_be_bytes([high, low])).zip(page.iter()));
        all.map(|(code, &count)| (code, count)).filter(|&(_, count)| count > 0)
    }
}

/// The distinct finite values in ascending order with their counts, and the counts of NaN and infinities.
#[derive(Debug, Default)]
pub(crate) struct Distribution {
    pub values: Vec<(f64, u64)>,
    pub nan: u64,
    pub plus_inf: u64,
    pub minus_inf: u64,
}

/// The value of every pattern of a type.
pub(crate) struct ValueTable(Vec<f32>);

impl ValueTable {
    /// Returns the values of `dtype`, if this build can decode it.
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

    /// Returns the values of the upper halves of `f32`.
    fn upper() -> Self {
        Self((0..=u16::MAX).map(|code| f32::from_bits(u32::from(code) << 16)).collect())
    }

    pub(crate) fn values(&self) -> &[f32] {
        &self.0
    }

    /// Converts counts of patterns into counts of values. Zeros of both signs are one value.
    pub(crate) fn distribution(&self, counts: &Counts) -> Distribution {
        Distribution::from_values(counts.iter().map(|(code, count)| (f64::from(self.0[code as usize]), count)))
    }

    /// Converts the counts to sketch codes.
    pub(crate) fn to_sketch(&self, counts: &Counts) -> Counts {
        let mut sketch = Counts::default();
        for (code, count) in counts.iter() {
            sketch.increment(self.0[usize::from(code)].sketch_code(), count);
        }
        sketch
    }
}

impl Distribution {
    /// Sorts and merges values with their counts.
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
        // Patterns of floats are two runs, one of them descending: a run-adaptive sort has little to do.
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

    /// Takes the midpoints of the sketch's steps, each within [`SKETCH_ERROR`] of the values counted there, clamped to `min..=max`.
    pub(crate) fn of_sketch(counts: &Counts, min: f64, max: f64) -> Self {
        Self::from_values(counts.iter().map(|(code, count)| {
            let low = f32::from_bits(u32::from(code) << 16);
            // The step of zero includes subnormals, which count as zero.
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
        codes.iter().for_each(|&code| expected.increment(code, 1));
        let mut counter = Counter::new();
        let (mut pairs, mut sketch) = (Counts::default(), Counts::default());
        counter.pairs(&bytes);
        counter.drain(&mut pairs);
        counter.count(&codes.iter().map(|&code| f32::from_bits(u32::from(code) << 16 | 77)).collect::<Vec<_>>());
        counter.drain(&mut sketch);
        assert!(pairs.iter().eq(expected.iter()) && sketch.iter().eq(expected.iter()));
        pairs.add(&expected);
        assert!(pairs.iter().eq(expected.iter().map(|(code, count)| (code, 2 * count))));

        let (mut bytewise, mut expected) = (Counts::default(), Counts::default());
        counter.bytes(&bytes);
        counter.drain(&mut bytewise);
        bytes.iter().for_each(|&byte| expected.increment(u16::from(byte), 1));
        assert!(bytewise.iter().eq(expected.iter()));
        assert_eq!(bytewise.iter().map(|(_, count)| count).sum::<u64>(), 20_006);
    }

    #[test]
    fn steps_of_the_sketch_are_within_the_stated_error() {
        for value in [1.0f32, -1.999, 3.0e-30, 6.5e4, 1.0078124, -f32::MAX] {
            let mut counts = Counts::default();
            counts.increment(value.sketch_code(), 1);
            let estimate = Distribution::of_sketch(&counts, f64::from(f32::MIN), f64::from(f32::MAX)).values[0].0;
            let error = (estimate / f64::from(value) - 1.0).abs();
            assert!(error <= SKETCH_ERROR, "{value}: {estimate}, off by {error}");
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
