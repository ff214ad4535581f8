//! Counting codes: how often each 16-bit pattern occurs.
//!
//! For types of 16 bits and fewer the pattern is the value, and everything follows exactly from the counts. For other types it is
//! the upper half of the value in single precision: a sketch with 128 steps between powers of two.

use crate::codec;
use crate::model::{Class, DType};

/// The largest relative error of a value that is told from the sketch: half a step of 2^-7.
pub(crate) const SKETCH_ERROR: f64 = 1.0 / 256.0;

/// How many patterns there are.
const CODES: usize = 1 << 16;

/// Below this many values, sorting them costs less than clearing and reading a table.
const FEW: usize = 8192;

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

/// Counts of patterns while they are being counted: two tables in turn, so that a run of one pattern does not wait for itself.
pub(crate) struct Counter {
    even: Box<[u32]>,
    odd: Box<[u32]>,
}

impl Counter {
    pub(crate) fn new() -> Self {
        Self { even: vec![0; CODES].into_boxed_slice(), odd: vec![0; CODES].into_boxed_slice() }
    }

    /// Both tables, of a length that the compiler knows: indexing by a pattern then needs no check.
    fn tables(&mut self) -> Option<(&mut [u32; CODES], &mut [u32; CODES])> {
        Some(((&mut *self.even).try_into().ok()?, (&mut *self.odd).try_into().ok()?))
    }

    /// Counts little-endian pairs of bytes.
    pub(crate) fn pairs(&mut self, bytes: &[u8]) {
        let Some((even, odd)) = self.tables() else { return };
        let (whole, rest) = bytes.as_chunks::<8>();
        for chunk in whole {
            let word = u64::from_le_bytes(*chunk);
            even[(word & 0xffff) as usize] += 1;
            odd[(word >> 16 & 0xffff) as usize] += 1;
            even[(word >> 32 & 0xffff) as usize] += 1;
            odd[(word >> 48) as usize] += 1;
        }
        for pair in rest.as_chunks::<2>().0 {
            even[u16::from_le_bytes(*pair) as usize] += 1;
        }
    }

    /// Counts patterns that are given one by one.
    pub(crate) fn codes(&mut self, codes: impl Iterator<Item = u16>) {
        let Some((even, odd)) = self.tables() else { return };
        for (i, code) in codes.enumerate() {
            let table = if i % 2 == 0 { &mut *even } else { &mut *odd };
            table[code as usize] += 1;
        }
    }

    /// Hands out what was counted and starts anew.
    pub(crate) fn drain(&mut self, into: &mut Counts) {
        let dense = into.dense();
        for ((sum, even), odd) in dense.iter_mut().zip(&mut self.even).zip(&mut self.odd) {
            *sum += u64::from(*even) + u64::from(*odd);
            (*even, *odd) = (0, 0);
        }
    }
}

/// How often each pattern occurs.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// All patterns, once there are many values.
    dense: Option<Box<[u64]>>,
    /// Patterns and how often, rising, while there are few.
    runs: Vec<(u16, u64)>,
}

impl Counts {
    /// Whether so few values are better sorted than counted in a table.
    pub(crate) fn few(values: u64) -> bool {
        values <= FEW as u64
    }

    /// Counts of few values.
    pub(crate) fn sorted(mut codes: Vec<u16>) -> Self {
        codes.sort_unstable();
        let runs = codes.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as u64)).collect();
        Self { dense: None, runs }
    }

    fn dense(&mut self) -> &mut [u64] {
        let runs = std::mem::take(&mut self.runs);
        let dense = self.dense.get_or_insert_with(|| vec![0; CODES].into_boxed_slice());
        for (code, count) in runs {
            dense[code as usize] += count;
        }
        dense
    }

    /// Adds the counts of `other`; as they are, if there are none yet.
    pub(crate) fn join(&mut self, other: Self) {
        if self.dense.is_none() && self.runs.is_empty() {
            *self = other;
        } else {
            self.add(&other);
        }
    }

    /// Adds the counts of `other`.
    pub(crate) fn add(&mut self, other: &Self) {
        let dense = self.dense();
        for (code, count) in other.iter() {
            dense[code as usize] += count;
        }
    }

    /// The patterns that occur, rising, and how often.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        let dense = self.dense.iter().flat_map(|dense| dense.iter().enumerate().map(|(code, &count)| (code as u16, count)));
        dense.filter(|&(_, count)| count > 0).chain(self.runs.iter().copied())
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
        let dense = sketch.dense();
        for (code, count) in counts.iter() {
            dense[(self.0[code as usize].to_bits() >> 16) as usize] += count;
        }
        sketch
    }
}

impl Distribution {
    fn from_values(values: impl Iterator<Item = (f64, u64)>) -> Self {
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
        all.values.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
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
    fn both_ways_of_counting_agree() {
        let codes: Vec<u16> = (0..10_001u32).map(|i| (i * i % 4096) as u16).collect();
        let bytes: Vec<u8> = codes.iter().flat_map(|code| code.to_le_bytes()).collect();
        let mut counter = Counter::new();
        let (mut a, mut b) = (Counts::default(), Counts::default());
        counter.pairs(&bytes);
        counter.drain(&mut a);
        counter.codes(codes.iter().copied());
        counter.drain(&mut b);
        let sorted = Counts::sorted(codes.clone());
        assert!(a.iter().eq(sorted.iter()) && b.iter().eq(sorted.iter()));
        assert_eq!(a.iter().map(|(_, count)| count).sum::<u64>(), 10_001);
        a.add(&sorted);
        assert!(a.iter().zip(sorted.iter()).all(|(two, one)| two.0 == one.0 && two.1 == 2 * one.1));
    }

    #[test]
    fn steps_of_the_sketch_are_within_the_stated_error() {
        for value in [1.0f32, -1.999, 3.0e-30, 6.5e4, 1.0078124, -f32::MAX] {
            let counts = Counts::sorted(vec![(value.to_bits() >> 16) as u16]);
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
