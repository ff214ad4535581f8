//! Numeric comparison of pairs of tensors.

use super::{Pair, SPAN, spans};
use crate::base::Result;
use crate::codec::simd::{self, Kernel, Lanes, Widen};
use crate::codec::{self, Codec, Decoded, Number, codec};
use crate::model::{Class, DType};
use crate::ops::chunks::{self, Chunk};
use crate::ops::convert::quality::Sums;

/// Number of elements decoded at a time: a multiple of every block.
const CHUNK: u64 = 1 << 14;

/// Number of values whose sums are accumulated as a block: small enough for the L1 cache.
const BLOCK: usize = 2048;

/// The sums of one pair.
#[derive(Clone, Default)]
pub(super) struct PairSums {
    pub sums: Sums,
    /// Number of values that differ.
    pub changed: u64,
}

impl PairSums {
    fn merge(&mut self, next: &Self) {
        self.sums.merge(&next.sums);
        self.changed += next.changed;
    }
}

/// Measures the pairs whose bytes differ and whose values can be decoded.
pub(super) fn measure(pairs: &[Pair<'_>], same: &[Option<bool>], report_progress: &(dyn Fn(u64) + Sync)) -> Result<Vec<Option<PairSums>>> {
    let counts = spans(pairs, |pair| same[pair] != Some(true) && codecs(&pairs[pair]).is_some());
    let process = |(): &mut (), chunk: Chunk| {
        let pair = &pairs[chunk.item];
        let Some([a, b]) = codecs(pair) else { return Ok(PairSums::default()) };
        let start = chunk.number * SPAN;
        let range = start..pair.elements.min(start + SPAN);
        let len = range.end - range.start;
        let found = if [a, b].iter().all(|codec| codec.dtype.info().class == Class::Integer) {
            whole_numbers(pair, [a, b], range)
        } else if a.decode_wide.or(b.decode_wide).is_some() {
            numbers::<f64>(pair, a, range)
        } else {
            numbers::<f32>(pair, a, range)
        };
        report_progress((len as f64 * a.dtype.bits_per_weight() / 8.0) as u64);
        found.map_err(|error| error.in_tensor(pair.name))
    };
    chunks::in_order(&counts, process, |all: &mut Option<PairSums>, _, part| {
        all.get_or_insert_default().merge(&part);
        Ok(())
    })
}

/// Returns the codecs of both sides, if both can be decoded into equally many numbers per element.
fn codecs(pair: &Pair<'_>) -> Option<[&'static Codec; 2]> {
    let (a, b): (DType, DType) = (pair.a.elem().known()?, pair.b.elem().known()?);
    (codec::values_per_element(a) == codec::values_per_element(b)).then_some([codec(a)?, codec(b)?])
}

/// Splits a range into chunks to decode.
fn parts(range: std::ops::Range<u64>) -> impl Iterator<Item = (u64, u64)> {
    range.clone().step_by(CHUNK as usize).map(move |first| (first, CHUNK.min(range.end - first)))
}

/// Compares floats.
fn numbers<T: Decoded + Widen>(pair: &Pair<'_>, codec: &Codec, range: std::ops::Range<u64>) -> Result<PairSums> {
    let per_element = codec::values_per_element(codec.dtype);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let mut found = PairSums::default();
    for (first, elements) in parts(range) {
        let len = elements as usize * per_element;
        a.resize(len, T::default());
        b.resize(len, T::default());
        pair.a.values(first, &mut a)?;
        pair.b.values(first, &mut b)?;
        for (a, b) in a.chunks_mut(BLOCK).zip(b.chunks_mut(BLOCK)) {
            found.merge(&compare(a, b));
        }
    }
    Ok(found)
}

/// Compares numbers. Values that are equal and not finite are set to zero, so that they do not spoil the sums.
fn compare<T: Decoded + Widen>(a: &mut [T], b: &mut [T]) -> PairSums {
    let mut changed = simd::run(Differing(a, b));
    let mut sums = Sums::of(a, b);
    if !sums.is_finite() {
        for (a, b) in a.iter_mut().zip(b.iter_mut()) {
            let (x, y) = (a.wide(), b.wide());
            let both_nan = x.is_nan() && y.is_nan();
            changed -= u64::from(both_nan);
            if both_nan || (x.is_infinite() && x == y) {
                (*a, *b) = (T::default(), T::default());
            }
        }
        sums = Sums::of(a, b);
    }
    PairSums { sums, changed }
}

/// Counts differing numbers; at most [`BLOCK`].
struct Differing<'a, T>(&'a [T], &'a [T]);

impl<T: Widen> Kernel for Differing<'_, T> {
    type Output = u64;

    #[inline(always)]
    fn run<V: Lanes>(self, _token: V::Token) -> u64 {
        u64::from(self.0.iter().zip(self.1).map(|(a, b)| u32::from(a != b)).sum::<u32>())
    }
}

/// Compares integers, which doubles may not represent.
fn whole_numbers(pair: &Pair<'_>, codecs: [&Codec; 2], range: std::ops::Range<u64>) -> Result<PairSums> {
    let whole = |number: Number| match number {
        Number::Signed(value) => i128::from(value),
        Number::Unsigned(value) => i128::from(value),
        other => other.as_f64() as i128,
    };
    let mut found = PairSums::default();
    for (first, elements) in parts(range) {
        let [a, b] = [(&pair.a, codecs[0]), (&pair.b, codecs[1])].map(|(body, codec)| {
            body.bytes(first, elements).map(|bytes| codec.numbers(&bytes).into_iter().map(whole).collect::<Vec<i128>>())
        });
        let (a, b) = (a?, b?);
        let changed = a.iter().zip(&b).filter(|(a, b)| a != b).count() as u64;
        found.merge(&PairSums { sums: Sums::of_whole(&a, &b), changed });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_same_and_no_number_does_not_count() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let found = compare(&mut [1.0, nan, inf, -inf, 2.0], &mut [1.0, nan, inf, -inf, 3.0]);
        assert_eq!((found.changed, found.sums.quality().unwrap().max_abs), (1, Some(1.0)));
        let found = compare(&mut [1.0f64, nan.into()], &mut [1.0, 2.0]);
        assert_eq!((found.changed, found.sums.quality().unwrap().max_abs), (1, None));
    }
}
