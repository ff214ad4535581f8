//! Mergeable moments: sums over part of a tensor that combine into those of the whole.
//!
//! Values are taken in blocks of [`BLOCK`]; a block is summed in eight fixed lanes of double precision, and blocks are joined in
//! order. The digits depend on that order alone: neither on the number of threads nor on the instruction set.

use crate::codec::Codebook;
use crate::codec::simd::{self, AHEAD, Doubles, EIGHT, Kernel, LINE, Lanes, Widen};

/// Number of values summed as a block.
pub(crate) const BLOCK: usize = 4096;

/// Count, extremes and central moments of some values.
///
/// All but the counts `nan` and `inf` are over the finite values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moments {
    /// Number of finite values.
    pub finite: u64,
    pub nan: u64,
    /// Of either sign.
    pub inf: u64,
    /// Minus infinity only: it counts as negative.
    pub minus_inf: u64,
    pub zeros: u64,
    /// Values below zero, finite ones only.
    pub negatives: u64,
    /// Values whose magnitude is below the sparsity threshold.
    pub below: u64,
    pub min: f64,
    pub max: f64,
    pub sum: f64,
    pub abs_sum: f64,
    pub square_sum: f64,
    /// Sums of the 2nd, 3rd and 4th powers of the distance from the mean.
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
    /// Returns the sums and extremes in a fixed order, for exact storage.
    pub(super) fn sums(&mut self) -> [&mut f64; 8] {
        let Self { min, max, sum, abs_sum, square_sum, m2, m3, m4, .. } = self;
        [min, max, sum, abs_sum, square_sum, m2, m3, m4]
    }

    /// Returns the counts in a fixed order, for exact storage.
    pub(super) fn counts(&mut self) -> [&mut u64; 7] {
        let Self { finite, nan, inf, minus_inf, zeros, negatives, below, .. } = self;
        [finite, nan, inf, minus_inf, zeros, negatives, below]
    }

    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.finite as f64
    }

    /// Returns the largest magnitude.
    pub(crate) fn abs_max(&self) -> f64 {
        if self.finite == 0 { f64::NAN } else { self.max.max(-self.min) }
    }

    /// Merges the moments of `other` into these: Pébay, "Formulas for robust, one-pass parallel computation of covariances and
    /// arbitrary-order statistical moments" (SAND2008-6212), equations 2.1 and 3.1.
    pub(crate) fn merge(&mut self, other: &Self) {
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

    /// Computes the moments of distinct values with their counts, in ascending order: exact but for the rounding of the sums, which is
    /// compensated.
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

/// A compensated sum (Neumaier, "Rundungsfehleranalyse einiger Verfahren zur Summation endlicher Summen", 1974).
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

/// Counts values while they are summed.
pub(crate) trait CountValues {
    /// Counts these values.
    fn count<T: Number>(&mut self, values: &[T]);
    /// Counts the values of a codebook.
    fn count_codebook(&mut self, codebook: &Codebook);
}

/// Counts nothing.
impl CountValues for () {
    #[inline(always)]
    fn count<T: Number>(&mut self, _: &[T]) {}

    #[inline(always)]
    fn count_codebook(&mut self, _: &Codebook) {}
}

/// A number that is summed in double precision.
pub(crate) trait Number: Widen {
    /// Returns the nearest `f32`.
    fn narrow(self) -> f32;
    /// Returns the sketch code: the upper half of the bits of the number as an `f32`, rounded toward zero.
    fn sketch_code(self) -> u16;
    /// A signed integer as wide as the number.
    type Bits: Copy;
    /// Accumulates bit statistics of numbers, lane by lane: a multiple of [`LANES`] of them.
    fn accumulate(values: &[Self], stats: &mut BitStats<Self::Bits>);
    /// Reduces the lanes, and adds the numbers that did not fill them.
    fn summarize(values: &[Self], stats: &BitStats<Self::Bits>, threshold: f64) -> BlockStats;
    /// The statistics of no numbers.
    const EMPTY: BitStats<Self::Bits>;
}

/// Number of lanes that the compiler can vectorise.
const LANES: usize = 16;

/// Statistics taken from the bits of numbers, lane by lane.
pub(crate) struct BitStats<B> {
    negatives: [B; LANES],
    /// The extremes in numeric order, with minus zero (which is -1) before zero.
    min: [B; LANES],
    max: [B; LANES],
    /// The smallest magnitude.
    min_magnitude: [B; LANES],
}

/// Statistics of a block, except for the sums.
pub(crate) struct BlockStats {
    pub(super) zeros: u64,
    pub(super) negatives: u64,
    pub(super) below: u64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) finite: bool,
}

macro_rules! bit_stats {
    ($float:ident, $bits:ident, $value:ident => $to_bits:expr) => {
        type Bits = $bits;
        const EMPTY: BitStats<$bits> =
            BitStats { negatives: [0; LANES], min: [$bits::MAX; LANES], max: [$bits::MIN; LANES], min_magnitude: [$bits::MAX; LANES] };

        #[inline(always)]
        fn accumulate(values: &[Self], stats: &mut BitStats<$bits>) {
            for values in values.as_chunks::<LANES>().0 {
                for (i, &$value) in values.iter().enumerate() {
                    let bits = $to_bits as $bits;
                    let sign = bits >> ($bits::BITS - 1);
                    let magnitude = bits & $bits::MAX;
                    let key = bits ^ (sign & $bits::MAX);
                    stats.negatives[i] -= sign;
                    stats.min[i] = if key < stats.min[i] { key } else { stats.min[i] };
                    stats.max[i] = if key > stats.max[i] { key } else { stats.max[i] };
                    stats.min_magnitude[i] = if magnitude < stats.min_magnitude[i] { magnitude } else { stats.min_magnitude[i] };
                }
            }
        }

        #[inline(always)]
        fn summarize(values: &[Self], stats: &BitStats<$bits>, threshold: f64) -> BlockStats {
            const INFINITE: $bits = $float::INFINITY.to_bits() as $bits;
            let fold = |lanes: &[$bits; LANES], function: fn($bits, $bits) -> $bits| lanes.iter().copied().reduce(function).unwrap_or(0);
            let (mut min, mut max, mut min_magnitude) =
                (fold(&stats.min, $bits::min), fold(&stats.max, $bits::max), fold(&stats.min_magnitude, $bits::min));
            let mut negatives = fold(&stats.negatives, |a, b| a + b);
            for &$value in values.as_chunks::<LANES>().1 {
                let bits = $to_bits as $bits;
                let key = bits ^ ((bits >> ($bits::BITS - 1)) & $bits::MAX);
                negatives -= bits >> ($bits::BITS - 1);
                (min, max, min_magnitude) = (min.min(key), max.max(key), min_magnitude.min(bits & $bits::MAX));
            }
            // A number is below the threshold exactly if it is below the smallest number of its type that is not.
            let bound = threshold as $float;
            let bound = if f64::from(bound) < threshold { bound.next_up() } else { bound };
            let bound = if bound > 0.0 { bound.to_bits() as $bits } else { 0 };
            // Small numbers are counted only if there are any.
            let (mut zeros, mut minus_zeros, mut below) = (0, 0, 0);
            if min_magnitude < bound || min_magnitude == 0 {
                for &$value in values {
                    let bits = $to_bits as $bits;
                    let magnitude = bits & $bits::MAX;
                    zeros += $bits::from(magnitude == 0);
                    minus_zeros += $bits::from(bits == $bits::MIN);
                    below += $bits::from(magnitude < bound);
                }
            }
            let number = |key: $bits| f64::from($float::from_bits((key ^ ((key >> ($bits::BITS - 1)) & $bits::MAX)) as _)) + 0.0;
            BlockStats {
                zeros: zeros as u64,
                negatives: (negatives - minus_zeros) as u64,
                below: below as u64,
                min: number(min),
                max: number(max),
                finite: !INFINITE < min && max < INFINITE,
            }
        }
    };
}

impl Number for f32 {
    #[inline(always)]
    fn narrow(self) -> f32 {
        self
    }

    #[inline(always)]
    fn sketch_code(self) -> u16 {
        (self.to_bits() >> 16) as u16
    }

    bit_stats!(f32, i32, value => value.to_bits());
}

impl Number for [u8; 4] {
    #[inline(always)]
    fn narrow(self) -> f32 {
        f32::from_le_bytes(self)
    }

    #[inline(always)]
    fn sketch_code(self) -> u16 {
        u16::from_le_bytes([self[2], self[3]])
    }

    bit_stats!(f32, i32, value => u32::from_le_bytes(value));
}

impl Number for f64 {
    #[inline(always)]
    fn narrow(self) -> f32 {
        self as f32
    }

    #[inline(always)]
    fn sketch_code(self) -> u16 {
        let rounded = self as f32;
        let bits = if rounded.is_infinite() && self.is_finite() {
            f32::MAX.to_bits() | (rounded.to_bits() & 0x8000_0000)
        } else if f64::from(rounded).abs() > self.abs() {
            rounded.to_bits() - 1 // one step toward zero; `rounded` is not zero, its magnitude is larger than another
        } else {
            rounded.to_bits()
        };
        (bits >> 16) as u16
    }

    bit_stats!(f64, i64, value => value.to_bits());
}

/// Returns the moments of at most [`BLOCK`] values, each of which is counted.
pub(crate) fn of_block<T: Number>(values: &[T], threshold: f64, counter: &mut impl CountValues) -> Moments {
    debug_assert!(values.len() <= BLOCK);
    if let Some(moments) = simd::run(Summing { values, threshold, counter }) {
        return moments;
    }
    let (mut nan, mut inf, mut minus_inf) = (0, 0, 0);
    let mut finite = Vec::new();
    for &value in values {
        let wide = value.wide();
        if wide.is_nan() {
            nan += 1;
        } else if wide.is_infinite() {
            inf += 1;
            minus_inf += u64::from(wide < 0.0);
        } else {
            finite.push(value);
        }
    }
    let finite = simd::run(Summing { values: &finite, threshold, counter: &mut () }).unwrap_or_default();
    Moments { nan, inf, minus_inf, ..finite }
}

/// Sums and counts values; `None` if not all are finite.
struct Summing<'a, T, C> {
    values: &'a [T],
    threshold: f64,
    counter: &'a mut C,
}

/// Number of values summed before they are counted: few enough that the CPU overlaps both.
const GROUP: usize = 64;

impl<T: Number, C: CountValues> Kernel for Summing<'_, T, C> {
    type Output = Option<Moments>;

    /// Powers are summed around a value near the mean, so that little is lost when they are shifted to the mean itself.
    #[inline(always)]
    fn run<V: Lanes>(self, token: V::Token) -> Option<Moments> {
        let shift = near_mean::<T, V>(token, self.values)?;
        let center = V::Doubles::splat(token, shift);
        let zero = V::Doubles::splat(token, 0.0);
        let (mut abs, mut one, mut two, mut three, mut four) = (zero, zero, zero, zero, zero);
        let mut stats = T::EMPTY;
        let (groups, rest) = self.values.as_chunks::<GROUP>();
        for group in groups {
            for line in (0..size_of_val(group)).step_by(LINE) {
                simd::prefetch(group, AHEAD + line);
            }
            T::accumulate(group, &mut stats);
            for i in (0..GROUP).step_by(EIGHT) {
                let x = T::eight::<V::Doubles>(token, &group[i..]);
                let distance = x - center;
                let square = distance * distance;
                abs = abs + x.abs();
                one = one + distance;
                two = distance.mul_add(distance, two);
                three = square.mul_add(distance, three);
                four = square.mul_add(square, four);
            }
            self.counter.count(group);
        }
        T::accumulate(rest, &mut stats);
        let stats = T::summarize(self.values, &stats, self.threshold);
        let (mut abs, mut one, mut two, mut three, mut four) = (abs.total(), one.total(), two.total(), three.total(), four.total());
        for value in rest {
            let distance = value.wide() - shift;
            let square = distance * distance;
            abs += value.wide().abs();
            one += distance;
            two = distance.mul_add(distance, two);
            three = square.mul_add(distance, three);
            four = square.mul_add(square, four);
        }
        self.counter.count(rest);

        let n = self.values.len() as f64;
        stats.finite.then(|| Powers { n, shift, abs, one, two, three, four }.moments(&stats))
    }
}

/// Sums of powers of the distance of `n` values from a value near their mean.
pub(super) struct Powers {
    pub(super) n: f64,
    pub(super) shift: f64,
    /// Sum of the magnitudes.
    pub(super) abs: f64,
    pub(super) one: f64,
    pub(super) two: f64,
    pub(super) three: f64,
    pub(super) four: f64,
}

impl Powers {
    /// Shifts the sums to the mean itself.
    #[inline(always)]
    pub(super) fn moments(self, stats: &BlockStats) -> Moments {
        let Self { n, shift, abs, one, two, three, four } = self;
        let off = one / n;
        let square_sum = two + shift * (2.0 * one + n * shift);
        Moments {
            finite: n as u64,
            nan: 0,
            inf: 0,
            minus_inf: 0,
            zeros: stats.zeros,
            negatives: stats.negatives,
            below: stats.below,
            min: stats.min,
            max: stats.max,
            sum: one + n * shift,
            abs_sum: abs,
            // Squares of doubles may overflow, on both sides of zero.
            square_sum: if square_sum.is_nan() { f64::INFINITY } else { square_sum },
            m2: two - off * one,
            m3: three - off * (3.0 * two - 2.0 * off * one),
            m4: four - off * (4.0 * three - off * (6.0 * two - 3.0 * off * one)),
        }
    }
}

/// Returns the mean of the first group, or the first value if there are fewer; `None` without values.
#[inline(always)]
fn near_mean<T: Number, V: Lanes>(token: V::Token, values: &[T]) -> Option<f64> {
    let Some(group) = values.first_chunk::<GROUP>() else { return Some(values.first()?.wide()) };
    let mut sum = T::eight::<V::Doubles>(token, group);
    for i in (EIGHT..GROUP).step_by(EIGHT) {
        sum = sum + T::eight(token, &group[i..]);
    }
    Some(sum.total() / GROUP as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::stats::counts::{Counter, Counts};

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
            all.merge(&of_block(block, 1.0, &mut ()));
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
        let (a, b) = (Moments::of_counted(&counted, 1.0), of_block(&values, 1.0, &mut ()));
        assert!(close(a.m2, b.m2) && close(a.m4, b.m4) && close(a.sum, b.sum) && close(a.square_sum, b.square_sum));
        assert_eq!((a.zeros, a.negatives, a.below, a.min, a.max), (5, 3, 7, -2.0, 0.5));
        assert_eq!((a.zeros, a.negatives, a.below, a.min, a.max), (b.zeros, b.negatives, b.below, b.min, b.max));
    }

    #[test]
    fn every_instruction_set_gives_the_same_moments_and_counts() {
        let values: Vec<f32> =
            (0..BLOCK as u32 - 5).map(|i| f32::from_bits((i.wrapping_mul(2_654_435_761) % 0x7f80_0000) | (i << 31))).collect();
        let mut first = None;
        simd::on_each_level(|level| {
            let mut counter = Counter::new();
            let mut found = Vec::new();
            for len in [0, 1, 7, 8, 63, 64, 65, 511, 512, 513, values.len()] {
                let bytes: Vec<[u8; 4]> = values[..len].iter().map(|value| value.to_le_bytes()).collect();
                let wide: Vec<f64> = values[..len].iter().map(|&value| value.into()).collect();
                let single = of_block(&values[..len], 1e-6, &mut counter);
                assert_eq!(format!("{single:?}"), format!("{:?}", of_block(&bytes, 1e-6, &mut counter)));
                assert_eq!(format!("{single:?}"), format!("{:?}", of_block(&wide, 1e-6, &mut counter)));
                found.push(format!("{single:?}"));
            }
            let mut counts = Counts::default();
            counter.drain(&mut counts);
            found.push(format!("{counts:?}"));
            assert_eq!(*first.get_or_insert_with(|| found.clone()), found, "{level:?}");
        });
    }

    #[test]
    fn what_is_not_finite_is_counted_and_left_out() {
        let block = of_block(&[1.0f32, f32::NAN, f32::INFINITY, -0.0, f32::NEG_INFINITY, -3.0], 0.0, &mut ());
        assert_eq!((block.finite, block.nan, block.inf, block.minus_inf), (3, 1, 2, 1));
        assert_eq!((block.min, block.max, block.sum, block.zeros, block.negatives), (-3.0, 1.0, -2.0, 1, 1));
        // Doubles whose sum of magnitudes overflows are finite all the same.
        let large = of_block(&[f64::MAX, f64::MAX, -f64::MAX], 0.0, &mut ());
        assert_eq!((large.finite, large.inf, large.max), (3, 0, f64::MAX));
    }

    #[test]
    fn a_double_keeps_its_place_in_the_sketch() {
        for (value, code) in [(1.0, 0x3f80), (-1.0, 0xbf80), (0.999_999_999_999, 0x3f7f), (1e300, 0x7f7f), (-1e300, 0xff7f), (0.0, 0)] {
            assert_eq!(f64::sketch_code(value), code, "{value}");
        }
        assert_eq!(f64::sketch_code(f64::INFINITY), 0x7f80);
    }

    #[test]
    fn a_sum_keeps_what_rounding_loses() {
        // Spacing of doubles at 1e16 is 2: plain sums lose every one.
        for (values, expected) in
            [(&[1e16, 1.0, 1.0, -1e16][..], 2.0), (&[1.0, 1e16, -1e16][..], 1.0), (&[1e16, 3.0, 1e16, -2e16][..], 3.0)]
        {
            let mut sum = Sum::default();
            values.iter().for_each(|&value| sum.add(value));
            assert_eq!(sum.total(), expected, "{values:?}");
        }
    }
}
