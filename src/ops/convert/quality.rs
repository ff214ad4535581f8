//! Quantisation error: new values compared with the old ones during the conversion.
//!
//! Sums are in double precision, over fixed chunks merged in order, so that the figures do not depend on the number of threads.

use serde::Serialize;

use crate::codec::simd::{self, Doubles, EIGHT, Kernel, Lanes, Widen};

/// Sums over pairs of old and new values.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sums {
    count: u64,
    /// Sums of squares of the old values, of squares of the new ones, of products, and of squared differences.
    old: f64,
    new: f64,
    both: f64,
    error: f64,
    /// The largest difference.
    largest: f64,
}

impl Sums {
    /// Computes the sums of one chunk.
    pub(in crate::ops) fn of<T: Widen>(old: &[T], new: &[T]) -> Self {
        simd::run(Summing { old, new })
    }

    /// Computes the sums of integers that doubles may not represent; their differences are exact.
    pub(in crate::ops) fn of_whole(old: &[i128], new: &[i128]) -> Self {
        let mut all = Self { count: old.len() as u64, ..Self::default() };
        for (&x, &y) in old.iter().zip(new) {
            all.add(x as f64, y as f64, (y - x) as f64);
        }
        all
    }

    /// Adds one pair of values and their difference.
    #[inline(always)]
    fn add(&mut self, old: f64, new: f64, error: f64) {
        self.old += old * old;
        self.new += new * new;
        self.both += old * new;
        self.error += error * error;
        self.largest = self.largest.max(error.abs());
    }

    /// Whether every difference is finite.
    pub(in crate::ops) fn is_finite(&self) -> bool {
        self.error.is_finite()
    }

    /// Number of pairs.
    pub(in crate::ops) fn count(&self) -> u64 {
        self.count
    }

    /// Returns the Euclidean norms of the old values and of the new ones.
    pub(in crate::ops) fn norms(&self) -> [f64; 2] {
        [self.old.sqrt(), self.new.sqrt()]
    }

    /// Adds the sums of the next chunk.
    pub fn merge(&mut self, next: &Self) {
        self.count += next.count;
        self.old += next.old;
        self.new += next.new;
        self.both += next.both;
        self.error += next.error;
        self.largest = self.largest.max(next.largest);
    }

    /// Returns the sums of squares of the differences and of the old values.
    pub(in crate::ops) fn squares(&self) -> [f64; 2] {
        [self.error, self.old]
    }

    /// Returns the error metrics; `None` without values.
    pub fn quality(&self) -> Option<Quality> {
        if self.count == 0 {
            return None;
        }
        let rmse = (self.error / self.count as f64).sqrt();
        let finite = |value: f64| value.is_finite().then_some(value);
        Some(Quality {
            rmse: finite(rmse),
            relative_rmse: finite((self.error / self.old).sqrt()),
            snr_db: finite(10.0 * (self.old / self.error).log10()),
            cosine: finite(self.both / (self.old.sqrt() * self.new.sqrt())),
            max_abs: finite(self.largest).filter(|_| rmse.is_finite()),
        })
    }
}

/// Returns the sums of squares of the differences and of the old values of a row, weighted by the importance of its columns.
pub(super) fn weighted_squares(old: &[f32], new: &[f32], weights: &[f32]) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for ((&x, &y), &weight) in old.iter().zip(new).zip(weights) {
        let (x, error, weight) = (f64::from(x), f64::from(y) - f64::from(x), f64::from(weight));
        sums = [sums[0] + weight * error * error, sums[1] + weight * x * x];
    }
    sums
}

/// Returns the error of a tensor's output relative to the output, squared: the ratio of such sums. `None` if it is not finite.
pub(super) fn output_error([error, all]: [f64; 2]) -> Option<f64> {
    let ratio = if error == 0.0 { 0.0 } else { error / all };
    ratio.is_finite().then_some(ratio)
}

struct Summing<'a, T> {
    old: &'a [T],
    new: &'a [T],
}

impl<T: Widen> Kernel for Summing<'_, T> {
    type Output = Sums;

    #[inline(always)]
    fn run<V: Lanes>(self, token: V::Token) -> Sums {
        let zero = V::Doubles::splat(token, 0.0);
        let (mut squares, mut new_squares, mut products, mut errors, mut largest) = (zero, zero, zero, zero, zero);
        let (old, old_rest) = self.old.as_chunks::<EIGHT>();
        let (new, new_rest) = self.new.as_chunks::<EIGHT>();
        for (x, y) in old.iter().zip(new) {
            let (x, y) = (T::eight::<V::Doubles>(token, x), T::eight::<V::Doubles>(token, y));
            let error = y - x;
            squares = squares + x * x;
            new_squares = new_squares + y * y;
            products = products + x * y;
            errors = errors + error * error;
            largest = error.abs().max(largest);
        }
        let mut all = Sums {
            count: self.old.len() as u64,
            old: squares.total(),
            new: new_squares.total(),
            both: products.total(),
            error: errors.total(),
            largest: largest.lanes().into_iter().fold(0.0, f64::max),
        };
        for (x, y) in old_rest.iter().zip(new_rest) {
            let (x, y) = (x.wide(), y.wide());
            all.add(x, y, y - x);
        }
        all
    }
}

/// Error metrics of new values against old ones. A metric that is undefined (all values zero, no error at all, NaN) is `null`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Quality {
    /// Root mean square error.
    pub rmse: Option<f64>,
    /// Root mean square error relative to the root mean square of the old values.
    pub relative_rmse: Option<f64>,
    /// Signal-to-noise ratio in decibels: `10 log10(sum of squares / sum of squared errors)`.
    pub snr_db: Option<f64>,
    /// Cosine similarity of old and new values.
    pub cosine: Option<f64>,
    /// Largest absolute error.
    pub max_abs: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_small_case() {
        let quality = Sums::of(&[3.0f32, 4.0, 0.0], &[3.0, 5.0, 0.0]).quality().unwrap();
        assert_eq!(quality.rmse, Some((1f64 / 3.0).sqrt()));
        assert_eq!(quality.relative_rmse, Some(0.2));
        assert!((quality.snr_db.unwrap() - 10.0 * 25f64.log10()).abs() < 1e-12);
        assert!((quality.cosine.unwrap() - 29.0 / (5.0 * 34f64.sqrt())).abs() < 1e-12);
        assert_eq!(quality.max_abs, Some(1.0));
    }

    #[test]
    fn large_whole_numbers_are_exact() {
        let large = 1i128 << 62;
        let quality = Sums::of_whole(&[large, -large], &[large + 1, -large]).quality().unwrap();
        assert_eq!((quality.max_abs, quality.rmse), (Some(1.0), Some(0.5f64.sqrt())));
    }

    #[test]
    fn every_instruction_set_gives_the_same_sums() {
        let old: Vec<f32> = (0..1001).map(|i| ((i * 7919) % 1000) as f32 / 7.0 - 60.0).collect();
        let new: Vec<f32> = old.iter().map(|x| x * 1.01 + 1e-3).collect();
        let mut first = None;
        simd::on_each_level(|level| {
            let sums = Sums::of(&old, &new);
            assert_eq!(*first.get_or_insert(sums), sums, "{level:?}");
        });
    }

    #[test]
    fn what_is_no_number_is_none() {
        assert_eq!(Sums::default().quality(), None);
        let exact = Sums::of(&[1.0f64], &[1.0]).quality().unwrap();
        assert_eq!((exact.rmse, exact.snr_db, exact.max_abs), (Some(0.0), None, Some(0.0)));
        let nan = Sums::of(&[f32::NAN, 1.0], &[0.0, 1.0]).quality().unwrap();
        assert_eq!((nan.rmse, nan.cosine, nan.max_abs), (None, None, None));
    }
}
