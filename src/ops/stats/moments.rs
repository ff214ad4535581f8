//! Sums that can be joined: what a part of a tensor contributes to the whole.
//!
//! Values are taken in blocks of [`BLOCK`]; a block is summed in [`LANES`] fixed lanes of double precision, and blocks are joined in
//! order. The digits depend on that order alone: not on the number of threads, and not on the instruction set.

/// How many values are summed together before they join the rest.
pub(crate) const BLOCK: usize = 4096;

/// How many running sums a block is spread over: one vector register of AVX-512.
const LANES: usize = 8;

/// Count, extremes and central moments of some values.
///
/// All but the counts `nan` and `inf` are over the finite values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moments {
    /// How many finite values.
    pub finite: u64,
    pub nan: u64,
    /// Of either sign.
    pub inf: u64,
    /// Minus infinity only: it counts as negative.
    pub minus_inf: u64,
    pub zeros: u64,
    /// Values below zero, finite ones only.
    pub negatives: u64,
    /// Values of a magnitude below the threshold of sparsity.
    pub below: u64,
    pub min: f64,
    pub max: f64,
    pub sum: f64,
    pub abs_sum: f64,
    pub square_sum: f64,
    /// Sums of the 2nd, 3rd and 4th power of the distance from the mean.
    pub m2: f64,
    pub m3: f64,
    pub m4: f64,
}

impl Default for Moments {
    fn default() -> Self {
        Self {
            finite: 0,
            nan: 0,
            inf: 0,
            minus_inf: 0,
            zeros: 0,
            negatives: 0,
            below: 0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            sum: 0.0,
            abs_sum: 0.0,
            square_sum: 0.0,
            m2: 0.0,
            m3: 0.0,
            m4: 0.0,
        }
    }
}

impl Moments {
    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.finite as f64
    }

    /// The largest magnitude.
    pub(crate) fn abs_max(&self) -> f64 {
        if self.finite == 0 { f64::NAN } else { self.max.max(-self.min) }
    }

    /// Joins the values of `other` to these: Pébay, "Formulas for robust, one-pass parallel computation of covariances and
    /// arbitrary-order statistical moments" (SAND2008-6212), equations 2.1 and 3.1.
    pub(crate) fn join(&mut self, other: &Self) {
        if other.finite > 0 && self.finite > 0 {
            let (na, nb) = (self.finite as f64, other.finite as f64);
            let n = na + nb;
            let delta = other.mean() - self.mean();
            let (d2, ratio) = (delta * delta, na * nb / n);
            self.m4 += other.m4
                + d2 * d2 * ratio * (na * na - na * nb + nb * nb) / (n * n)
                + 6.0 * d2 * (na * na * other.m2 + nb * nb * self.m2) / (n * n)
                + 4.0 * delta * (na * other.m3 - nb * self.m3) / n;
            self.m3 += other.m3 + d2 * delta * ratio * (na - nb) / n + 3.0 * delta * (na * other.m2 - nb * self.m2) / n;
            self.m2 += other.m2 + d2 * ratio;
        } else if other.finite > 0 {
            (self.m2, self.m3, self.m4) = (other.m2, other.m3, other.m4);
        }
        self.finite += other.finite;
        self.nan += other.nan;
        self.inf += other.inf;
        self.minus_inf += other.minus_inf;
        self.zeros += other.zeros;
        self.negatives += other.negatives;
        self.below += other.below;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        self.abs_sum += other.abs_sum;
        self.square_sum += other.square_sum;
    }

    /// The moments of values that occur several times each, in rising order of the values: exact but for the rounding of the sums,
    /// which is compensated.
    pub(crate) fn of_counted(values: &[(f64, u64)], threshold: f64) -> Self {
        let mut all = Self::default();
        let (mut sum, mut abs_sum, mut square_sum) = (Sum::default(), Sum::default(), Sum::default());
        for &(value, count) in values {
            let times = count as f64;
            all.finite += count;
            all.zeros += if value == 0.0 { count } else { 0 };
            all.negatives += if value < 0.0 { count } else { 0 };
            all.below += if value.abs() < threshold { count } else { 0 };
            sum.add(times * value);
            abs_sum.add(times * value.abs());
            square_sum.add(times * (value * value));
        }
        (all.sum, all.abs_sum, all.square_sum) = (sum.total(), abs_sum.total(), square_sum.total());
        if let (Some(first), Some(last)) = (values.first(), values.last()) {
            (all.min, all.max) = (first.0, last.0);
            let mean = all.mean();
            let (mut m2, mut m3, mut m4) = (Sum::default(), Sum::default(), Sum::default());
            for &(value, count) in values {
                let distance = value - mean;
                let square = distance * distance;
                let times = count as f64;
                m2.add(times * square);
                m3.add(times * (square * distance));
                m4.add(times * (square * square));
            }
            (all.m2, all.m3, all.m4) = (m2.total(), m3.total(), m4.total());
        }
        all
    }
}

/// A sum that carries what rounding loses (Neumaier, "Rundungsfehleranalyse einiger Verfahren zur Summation endlicher Summen", 1974).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sum {
    sum: f64,
    lost: f64,
}

impl Sum {
    pub(crate) fn add(&mut self, value: f64) {
        let next = self.sum + value;
        self.lost += if self.sum.abs() >= value.abs() { (self.sum - next) + value } else { (value - next) + self.sum };
        self.sum = next;
    }

    pub(crate) fn total(self) -> f64 {
        self.sum + self.lost
    }
}

/// A number that is summed in double precision.
pub(crate) trait Sample: Copy {
    fn wide(self) -> f64;
    /// The upper half of the bits of the number in single precision, rounded toward zero: its place in the sketch.
    fn sketch_code(self) -> u16;
}

impl Sample for f32 {
    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn sketch_code(self) -> u16 {
        (self.to_bits() >> 16) as u16
    }
}

impl Sample for f64 {
    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }

    fn sketch_code(self) -> u16 {
        let near = self as f32;
        let bits = if near.is_infinite() && self.is_finite() {
            f32::MAX.to_bits() | (near.to_bits() & 0x8000_0000)
        } else if f64::from(near).abs() > self.abs() {
            near.to_bits() - 1 // one step toward zero; `near` is not zero, for its magnitude is above another
        } else {
            near.to_bits()
        };
        (bits >> 16) as u16
    }
}

/// The moments of at most [`BLOCK`] values. `scratch` is used when some of them are not finite.
pub(crate) fn of_block<T: Sample>(values: &[T], threshold: f64, scratch: &mut Vec<T>) -> Moments {
    debug_assert!(values.len() <= BLOCK);
    // A sum of magnitudes is finite exactly when every value is: at most 4096 singles cannot overflow a double; doubles
    // that do take the slow path, which looks at each.
    let first = sums(values, threshold);
    if first.abs_sum.is_finite() {
        return with_central(first, values);
    }
    scratch.clear();
    let (mut nan, mut inf, mut minus_inf) = (0, 0, 0);
    for &value in values {
        let wide = value.wide();
        if wide.is_nan() {
            nan += 1;
        } else if wide.is_infinite() {
            inf += 1;
            minus_inf += u64::from(wide < 0.0);
        } else {
            scratch.push(value);
        }
    }
    let mut all = with_central(sums(scratch, threshold), scratch);
    (all.nan, all.inf, all.minus_inf) = (nan, inf, minus_inf);
    all
}

/// Everything but the central moments, of values taken to be finite.
#[inline(always)]
fn sums<T: Sample>(values: &[T], threshold: f64) -> Moments {
    let mut sum = [0.0; LANES];
    let mut abs_sum = [0.0; LANES];
    let mut square_sum = [0.0; LANES];
    let mut min = [f64::INFINITY; LANES];
    let mut max = [f64::NEG_INFINITY; LANES];
    let mut zeros = [0u64; LANES];
    let mut negatives = [0u64; LANES];
    let mut below = [0u64; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    let mut take = |lane: usize, value: T| {
        let x = value.wide();
        sum[lane] += x;
        abs_sum[lane] += x.abs();
        square_sum[lane] += x * x;
        min[lane] = if x < min[lane] { x } else { min[lane] };
        max[lane] = if x > max[lane] { x } else { max[lane] };
        zeros[lane] += u64::from(x == 0.0);
        negatives[lane] += u64::from(x < 0.0);
        below[lane] += u64::from(x.abs() < threshold);
    };
    for chunk in whole {
        for (lane, &value) in chunk.iter().enumerate() {
            take(lane, value);
        }
    }
    for (lane, &value) in rest.iter().enumerate() {
        take(lane, value);
    }
    Moments {
        finite: values.len() as u64,
        zeros: zeros.iter().sum(),
        negatives: negatives.iter().sum(),
        below: below.iter().sum(),
        min: min.into_iter().fold(f64::INFINITY, f64::min),
        max: max.into_iter().fold(f64::NEG_INFINITY, f64::max),
        sum: fold(sum),
        abs_sum: fold(abs_sum),
        square_sum: fold(square_sum),
        ..Moments::default()
    }
}

#[inline(always)]
fn with_central<T: Sample>(mut all: Moments, values: &[T]) -> Moments {
    if values.is_empty() {
        return all;
    }
    let mean = all.mean();
    let (mut m2, mut m3, mut m4) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    let (whole, rest) = values.as_chunks::<LANES>();
    let mut take = |lane: usize, value: T| {
        let distance = value.wide() - mean;
        let square = distance * distance;
        m2[lane] += square;
        m3[lane] += square * distance;
        m4[lane] += square * square;
    };
    for chunk in whole {
        for (lane, &value) in chunk.iter().enumerate() {
            take(lane, value);
        }
    }
    for (lane, &value) in rest.iter().enumerate() {
        take(lane, value);
    }
    (all.m2, all.m3, all.m4) = (fold(m2), fold(m3), fold(m4));
    all
}

/// The sum of the lanes, in halves.
fn fold(lanes: [f64; LANES]) -> f64 {
    ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(values: &[f64]) -> (f64, f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let power = |p: i32| values.iter().map(|v| (v - mean).powi(p)).sum::<f64>();
        (power(2), power(3), power(4))
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
    }

    #[test]
    fn joined_blocks_are_the_moments_of_all() {
        // A large mean beside a small spread: sums of plain squares would lose half the digits.
        let values: Vec<f64> = (0..10_000).map(|i| 1e4 + f64::from((i * 7919) % 1000) / 1000.0 + f64::from(i) / 3e4).collect();
        let mut all = Moments::default();
        for block in values.chunks(BLOCK) {
            all.join(&of_block(block, 1.0, &mut Vec::new()));
        }
        let (m2, m3, m4) = naive(&values);
        // The means that blocks are joined by are doubles near 10,000 themselves: that much is lost, and no more.
        assert!((all.m2 / m2 - 1.0).abs() < 1e-11 && (all.m4 / m4 - 1.0).abs() < 1e-11, "{all:?} {m2} {m4}");
        assert!((all.m3 - m3).abs() < 1e-9 * m2, "{} {m3}", all.m3);
        assert_eq!((all.finite, all.min, all.max), (10_000, values.iter().copied().fold(f64::INFINITY, f64::min), all.max));
    }

    #[test]
    fn counted_values_give_what_the_values_give() {
        let counted = [(-2.0, 3), (0.0, 5), (0.5, 2)];
        let values: Vec<f64> = counted.iter().flat_map(|&(v, n)| std::iter::repeat_n(v, n as usize)).collect();
        let (a, b) = (Moments::of_counted(&counted, 1.0), of_block(&values, 1.0, &mut Vec::new()));
        assert!(close(a.m2, b.m2) && close(a.m4, b.m4) && close(a.sum, b.sum) && close(a.square_sum, b.square_sum));
        assert_eq!((a.zeros, a.negatives, a.below, a.min, a.max), (5, 3, 7, -2.0, 0.5));
        assert_eq!((a.zeros, a.negatives, a.below, a.min, a.max), (b.zeros, b.negatives, b.below, b.min, b.max));
    }

    #[test]
    fn what_is_not_finite_is_counted_and_left_out() {
        let block = of_block(&[1.0f32, f32::NAN, f32::INFINITY, -0.0, f32::NEG_INFINITY, -3.0], 0.0, &mut Vec::new());
        assert_eq!((block.finite, block.nan, block.inf, block.minus_inf), (3, 1, 2, 1));
        assert_eq!((block.min, block.max, block.sum, block.zeros, block.negatives), (-3.0, 1.0, -2.0, 1, 1));
        // Doubles whose sum of magnitudes overflows are finite all the same.
        let large = of_block(&[f64::MAX, f64::MAX, -f64::MAX], 0.0, &mut Vec::new());
        assert_eq!((large.finite, large.inf, large.max), (3, 0, f64::MAX));
    }

    #[test]
    fn a_double_keeps_its_place_in_the_sketch() {
        for (value, code) in [(1.0, 0x3f80), (-1.0, 0xbf80), (0.999_999_999_999, 0x3f7f), (1e300, 0x7f7f), (-1e300, 0xff7f), (0.0, 0)] {
            assert_eq!(f64::sketch_code(value), code, "{value}");
        }
        assert_eq!(f64::sketch_code(f64::INFINITY), 0x7f80);
    }
}
