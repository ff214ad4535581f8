//! What a conversion cost: the new values against the old ones, summed up while they are at hand.
//!
//! Sums are in double precision, over fixed chunks joined in their order, so that the figures do not depend on the threads.

use serde::Serialize;

/// Sums over pairs of old and new values.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sums {
    count: u64,
    /// Of the squares of the old values, of the new ones, of the products, of the squares of the differences.
    old: f64,
    new: f64,
    both: f64,
    error: f64,
    /// The largest difference.
    largest: f64,
}

/// Independent sums side by side, so that the processor need not wait for each addition. Joined in order, so the figures are fixed.
const LANES: usize = 8;

impl Sums {
    /// Sums of one chunk.
    pub fn of(old: &[f32], new: &[f32]) -> Self {
        let mut lanes = [[0f64; LANES]; 4];
        let mut largest = [0f64; LANES];
        let mut pair = |lane: usize, x: f32, y: f32| {
            let (x, y) = (f64::from(x), f64::from(y));
            let error = y - x;
            lanes[0][lane] += x * x;
            lanes[1][lane] += y * y;
            lanes[2][lane] += x * y;
            lanes[3][lane] += error * error;
            largest[lane] = if error.abs() > largest[lane] { error.abs() } else { largest[lane] };
        };
        let (old_chunks, old_rest) = old.as_chunks::<LANES>();
        let (new_chunks, new_rest) = new.as_chunks::<LANES>();
        for (old, new) in old_chunks.iter().zip(new_chunks) {
            for lane in 0..LANES {
                pair(lane, old[lane], new[lane]);
            }
        }
        for (lane, (x, y)) in old_rest.iter().zip(new_rest).enumerate() {
            pair(lane, *x, *y);
        }
        let sum = |lanes: &[f64; LANES]| lanes.iter().sum::<f64>();
        Self {
            count: old.len() as u64,
            old: sum(&lanes[0]),
            new: sum(&lanes[1]),
            both: sum(&lanes[2]),
            error: sum(&lanes[3]),
            largest: largest.into_iter().fold(0.0, f64::max),
        }
    }

    /// Adds the sums of what follows.
    pub fn join(&mut self, next: &Self) {
        self.count += next.count;
        self.old += next.old;
        self.new += next.new;
        self.both += next.both;
        self.error += next.error;
        self.largest = self.largest.max(next.largest);
    }

    /// The figures; `None` without values.
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

/// How far the new values are from the old ones. A figure that is no number (nothing but zeros, no error at all, NaN in the
/// values) is `null`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quality {
    /// The root of the mean square of the errors.
    pub rmse: Option<f64>,
    /// The same over the root of the mean square of the old values.
    pub relative_rmse: Option<f64>,
    /// The signal over the noise, in decibels: `10 log10(sum of squares / sum of squared errors)`.
    pub snr_db: Option<f64>,
    /// The cosine of the angle between old and new, as vectors.
    pub cosine: Option<f64>,
    /// The largest error, as an absolute value.
    pub max_abs: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_small_case() {
        let quality = Sums::of(&[3.0, 4.0, 0.0], &[3.0, 5.0, 0.0]).quality().unwrap();
        assert_eq!(quality.rmse, Some((1f64 / 3.0).sqrt()));
        assert_eq!(quality.relative_rmse, Some(0.2));
        assert!((quality.snr_db.unwrap() - 10.0 * 25f64.log10()).abs() < 1e-12);
        assert!((quality.cosine.unwrap() - 29.0 / (5.0 * 34f64.sqrt())).abs() < 1e-12);
        assert_eq!(quality.max_abs, Some(1.0));
    }

    #[test]
    fn what_is_no_number_is_none() {
        assert_eq!(Sums::default().quality(), None);
        let exact = Sums::of(&[1.0], &[1.0]).quality().unwrap();
        assert_eq!((exact.rmse, exact.snr_db, exact.max_abs), (Some(0.0), None, Some(0.0)));
        let nan = Sums::of(&[f32::NAN, 1.0], &[0.0, 1.0]).quality().unwrap();
        assert_eq!((nan.rmse, nan.cosine, nan.max_abs), (None, None, None));
    }
}
