//! Summary statistics of values: moments, percentiles, histograms.

use serde::Serialize;

use super::counts::{Distribution, SKETCH_ERROR};
use super::moments::Moments;

/// The percentiles that are reported.
pub const PERCENTILES: [f64; 9] = [0.1, 1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0, 99.9];

/// Number of equal-width bins of a histogram.
pub const LINEAR_BINS: usize = 32;

/// Number of bins of a sparkline.
pub const SHAPE_BINS: usize = 16;

/// Statistics of the values of a tensor, a group of tensors or a model.
///
/// Extremes, means, percentiles and histograms cover the finite values; without any they are NaN, which is null in JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Number of elements; an element of a complex type counts once, but its parts are separate values.
    pub elements: u64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Mean.
    pub mean: f64,
    /// Standard deviation (divided by n, as NumPy does).
    pub std: f64,
    /// Mean magnitude.
    pub abs_mean: f64,
    /// Largest magnitude.
    pub abs_max: f64,
    /// Euclidean norm.
    pub l2: f64,
    /// Number of zeros, of either sign.
    pub zeros: Option<u64>,
    /// Number of values below zero, minus infinity included.
    pub negatives: Option<u64>,
    /// Number of NaN.
    pub nan: Option<u64>,
    /// Number of infinite values, of either sign.
    pub inf: Option<u64>,
    /// Excess kurtosis: 0 for a normal distribution, larger for heavier tails.
    pub kurtosis: f64,
    /// Fraction of the finite values whose magnitude is below the threshold.
    pub sparsity: f64,
    /// Percentiles.
    pub percentiles: Percentiles,
    /// Histograms.
    pub histogram: Histogram,
    /// Equal-width bins between the outer percentiles, for a sparkline that outliers do not flatten.
    #[serde(skip)]
    pub shape: Bins,
}

/// Percentiles with linear interpolation, as in NumPy.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Percentiles {
    /// The values of percentiles 0.1, 1, 5, 25, 50, 75, 95, 99 and 99.9.
    pub values: [f64; PERCENTILES.len()],
    /// The largest relative error of the values that percentiles are interpolated from, for magnitudes of at least 2^-126:
    /// 0 for types of at most 16 bits, and for few values.
    pub relative_error: f64,
}

impl Serialize for Percentiles {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rows = PERCENTILES.iter().map(f64::to_string).zip(self.values);
        serializer.collect_map(rows.chain([("relative_error".to_owned(), self.relative_error)]))
    }
}

/// Two histograms of the same values.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Histogram {
    /// Equal-width bins.
    pub linear: Linear,
    /// Bins between powers of two, per sign.
    pub log: Log,
}

/// Equal-width bins from the smallest to the largest value. If percentiles have an error, a value may fall into a neighbouring bin.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Linear {
    /// Lower edge of the first bin.
    pub low: f64,
    /// Upper edge of the last bin, inclusive.
    pub high: f64,
    /// Number of values per bin.
    pub counts: Bins,
}

/// Counts per bin. Stored sparsely if most are empty: a model may have a million tensors of one value each.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Bins {
    len: usize,
    /// The non-empty bins in ascending order with their counts, or the counts of all bins.
    storage: BinStorage,
}

#[derive(Debug, Clone, PartialEq)]
enum BinStorage {
    Sparse(Box<[(usize, u64)]>),
    Dense(Box<[u64]>),
}

impl Bins {
    fn new(counts: &[u64]) -> Self {
        let filled = counts.iter().filter(|count| **count > 0).count();
        let storage = if filled * 4 < counts.len() {
            BinStorage::Sparse(counts.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect())
        } else {
            BinStorage::Dense(counts.into())
        };
        Self { len: counts.len(), storage }
    }

    /// Returns the count of every bin.
    pub fn to_vec(&self) -> Vec<u64> {
        match &self.storage {
            BinStorage::Dense(counts) => counts.to_vec(),
            BinStorage::Sparse(filled) => {
                let mut counts = vec![0; self.len];
                filled.iter().for_each(|&(bin, count)| counts[bin] = count);
                counts
            }
        }
    }
}

impl Serialize for Bins {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_vec().serialize(serializer)
    }
}

/// Bins of magnitudes: bin i holds 2^(lowest + i) <= |x| < 2^(lowest + i + 1).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Log {
    /// Exponent of the first bin.
    pub lowest_exponent: i32,
    /// Counts of values below zero.
    pub negative: Vec<u64>,
    /// Number of zeros.
    pub zeros: u64,
    /// Counts of values above zero.
    pub positive: Vec<u64>,
}

impl Summary {
    /// Returns the summary of a tensor whose values cannot be decoded.
    pub(crate) fn unread(elements: u64) -> Self {
        let mut summary = Self::new(elements, &Moments::default(), &Distribution::default(), true);
        (summary.zeros, summary.negatives, summary.nan, summary.inf) = (None, None, None, None);
        summary
    }

    pub(crate) fn new(elements: u64, moments: &Moments, distribution: &Distribution, exact: bool) -> Self {
        let n = moments.finite as f64;
        let variance = moments.m2 / n;
        let percentiles = percentiles(&distribution.values);
        let or_nan = |value: f64| if moments.finite == 0 { f64::NAN } else { value };
        Self {
            elements,
            min: or_nan(moments.min),
            max: or_nan(moments.max),
            mean: moments.mean(),
            std: variance.sqrt(),
            abs_mean: moments.abs_sum / n,
            abs_max: moments.abs_max(),
            l2: or_nan(moments.square_sum.sqrt()),
            zeros: Some(moments.zeros),
            negatives: Some(moments.negatives + moments.minus_inf),
            nan: Some(moments.nan),
            inf: Some(moments.inf),
            kurtosis: moments.m4 / n / (variance * variance) - 3.0,
            sparsity: moments.below as f64 / n,
            percentiles: Percentiles { values: percentiles, relative_error: if exact { 0.0 } else { SKETCH_ERROR } },
            histogram: Histogram { linear: linear(&distribution.values, moments.min, moments.max), log: log(&distribution.values) },
            shape: shape(&distribution.values, percentiles[0], percentiles[PERCENTILES.len() - 1]),
        }
    }
}

/// Computes the percentiles of distinct values in ascending order with their counts.
fn percentiles(values: &[(f64, u64)]) -> [f64; PERCENTILES.len()] {
    let total: u64 = values.iter().map(|&(_, count)| count).sum();
    if total == 0 {
        return [f64::NAN; PERCENTILES.len()];
    }
    let mut runs = values.iter();
    let (mut value, mut end) = (f64::NAN, 0); // the current run, and the first rank after it
    let mut at = |rank: u64| {
        while rank >= end
            && let Some(&(next, count)) = runs.next()
        {
            (value, end) = (next, end + count);
        }
        value
    };
    // Ranks ascend, but the upper neighbour of one percentile may lie beyond the lower one of the next: look up each rank once, in order.
    let positions = PERCENTILES.map(|percent| percent / 100.0 * (total - 1) as f64);
    let mut ranks: Vec<u64> = positions.iter().flat_map(|position| [position.floor() as u64, position.ceil() as u64]).collect();
    ranks.sort_unstable();
    let found: Vec<(u64, f64)> = ranks.into_iter().map(|rank| (rank, at(rank))).collect();
    let value_at = |rank: u64| found.binary_search_by_key(&rank, |&(rank, _)| rank).map_or(f64::NAN, |i| found[i].1);
    positions.map(|position| {
        let (low, high) = (value_at(position.floor() as u64), value_at(position.ceil() as u64));
        low + (high - low) * position.fract()
    })
}

fn linear(values: &[(f64, u64)], min: f64, max: f64) -> Linear {
    let mut counts = [0; LINEAR_BINS];
    fill(&mut counts, values, min, max);
    let (low, high) = if values.is_empty() { (f64::NAN, f64::NAN) } else { (min, max) };
    Linear { low, high, counts: Bins::new(&counts) }
}

/// Counts values in equal-width bins between `low` and `high`; the last bin includes `high`.
fn fill(bins: &mut [u64], values: &[(f64, u64)], low: f64, high: f64) {
    let last = bins.len().saturating_sub(1);
    // In halves: the width of the full range of doubles overflows.
    let half_width = high / 2.0 - low / 2.0;
    for &(value, count) in values.iter().filter(|(value, _)| (low..=high).contains(value)) {
        let share = if half_width > 0.0 { (value / 2.0 - low / 2.0) / half_width } else { 0.0 };
        bins[((share * bins.len() as f64) as usize).min(last)] += count;
    }
}

fn shape(values: &[(f64, u64)], low: f64, high: f64) -> Bins {
    let mut bins = [0; SHAPE_BINS];
    fill(&mut bins, values, low, high);
    Bins::new(&bins)
}

/// Returns the exponent of the largest power of two not above a magnitude.
fn exponent(magnitude: f64) -> i32 {
    let bits = magnitude.to_bits() >> 52;
    if bits == 0 { -1022 - (magnitude.to_bits().leading_zeros() as i32 - 11) } else { bits as i32 - 1023 }
}

fn log(values: &[(f64, u64)]) -> Log {
    let exponents = || values.iter().filter(|value| value.0 != 0.0).map(|value| exponent(value.0.abs()));
    let (Some(low), Some(high)) = (exponents().min(), exponents().max()) else {
        return Log { lowest_exponent: 0, negative: Vec::new(), zeros: values.iter().map(|&(_, count)| count).sum(), positive: Vec::new() };
    };
    let bins = (high - low + 1) as usize;
    let mut log = Log { lowest_exponent: low, negative: vec![0; bins], zeros: 0, positive: vec![0; bins] };
    for &(value, count) in values {
        let bin = if value == 0.0 { 0 } else { (exponent(value.abs()) - low) as usize };
        *match value {
            0.0 => &mut log.zeros,
            ..0.0 => &mut log.negative[bin],
            _ => &mut log.positive[bin],
        } += count;
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_between_neighbours() {
        // numpy.percentile(range(11), [...]) and of a run of equal values.
        let rising: Vec<(f64, u64)> = (0..11).map(|i| (f64::from(i), 1)).collect();
        let found = percentiles(&rising);
        for (found, expected) in found.iter().zip([0.01, 0.1, 0.5, 2.5, 5.0, 7.5, 9.5, 9.9, 9.99]) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        assert_eq!(percentiles(&[(-1.0, 999), (7.0, 1)])[..8], [-1.0; 8]);
        assert_eq!(percentiles(&[(4.0, 1)]), [4.0; 9]);
        assert!(percentiles(&[])[0].is_nan());
    }

    #[test]
    fn bins_hold_every_value_once() {
        let values = [(-8.0, 2), (-0.75, 3), (0.0, 5), (1.0, 7), (8.0, 1)];
        let bins = linear(&values, -8.0, 8.0);
        let counts = bins.counts.to_vec();
        assert_eq!((counts[0], counts[16], counts[18], counts[31], counts.len()), (2, 5, 7, 1, LINEAR_BINS));
        assert!(matches!(bins.counts.storage, BinStorage::Sparse(filled) if filled.len() == 5), "few are filled");
        assert_eq!(Bins::new(&[1, 0, 2, 3]).to_vec(), [1, 0, 2, 3]);
        let log = log(&values);
        assert_eq!((log.lowest_exponent, log.zeros), (-1, 5));
        assert_eq!((log.negative, log.positive), (vec![3, 0, 0, 0, 2], vec![0, 7, 0, 0, 1]));
        assert_eq!(exponent(f64::from_bits(1)), -1074);
        assert_eq!(linear(&[(f64::MIN, 1), (f64::MAX, 1)], f64::MIN, f64::MAX).counts.to_vec()[31], 1);
    }
}
