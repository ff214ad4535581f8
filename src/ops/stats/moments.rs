//! Sums that can be joined: what a part of a tensor contributes to the whole.
//!
//! Values are taken in blocks of [`BLOCK`]; a block is summed in eight fixed lanes of double precision, and blocks are joined in
//! order. The digits depend on that order alone: not on the number of threads, and not on the instruction set.

use crate::codec::Codebook;
use crate::codec::simd::{self, AHEAD, Doubles, EIGHT, Kernel, LINE, Lanes, Widen};

/// How many values are summed together before they join the rest.
pub(crate) const BLOCK: usize = 4096;

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

/// What counts values while they are summed.
pub(crate) trait Tally {
    /// Counts these values.
    fn take<T: Sample>(&mut self, values: &[T]);
    /// Counts the values of a codebook.
    fn take_codebook(&mut self, codebook: &Codebook);
}

/// Nothing is counted.
impl Tally for () {
    #[inline(always)]
    fn take<T: Sample>(&mut self, _: &[T]) {}

    #[inline(always)]
    fn take_codebook(&mut self, _: &Codebook) {}
}

/// A number that is summed in double precision.
pub(crate) trait Sample: Widen {
    /// The nearest single.
    fn narrow(self) -> f32;
    /// The upper half of the bits of the number in single precision, rounded toward zero: its place in the sketch.
    fn sketch_code(self) -> u16;
    /// The bits, as a whole number of the same size with a sign.
    type Bits: Copy;
    /// Takes what the bits of some numbers tell into account, lane by lane: a multiple of [`LANES`] of them.
    fn see(values: &[Self], seen: &mut Seen<Self::Bits>);
    /// What was seen of all lanes, of these numbers.
    fn look(values: &[Self], seen: &Seen<Self::Bits>, threshold: f64) -> Look;
    /// Nothing seen.
    const UNSEEN: Seen<Self::Bits>;
}

/// How many numbers are looked at side by side, for the compiler to put into vectors.
const LANES: usize = 16;

/// What the bits of numbers tell, lane by lane.
pub(crate) struct Seen<B> {
    negatives: [B; LANES],
    /// The extremes in the order of the numbers, with minus zero (which is -1) before zero.
    min: [B; LANES],
    max: [B; LANES],
    /// The least magnitude.
    least: [B; LANES],
}

/// What the bits of some numbers tell: of all but their sums.
pub(crate) struct Look {
    pub(super) zeros: u64,
    pub(super) negatives: u64,
    pub(super) below: u64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) finite: bool,
}

macro_rules! look {
    ($float:ident, $bits:ident, $value:ident => $to_bits:expr) => {
        type Bits = $bits;
        const UNSEEN: Seen<$bits> =
            Seen { negatives: [0; LANES], min: [$bits::MAX; LANES], max: [$bits::MIN; LANES], least: [$bits::MAX; LANES] };

        #[inline(always)]
        fn see(values: &[Self], seen: &mut Seen<$bits>) {
            for values in values.as_chunks::<LANES>().0 {
                for (i, &$value) in values.iter().enumerate() {
                    let bits = $to_bits as $bits;
                    let sign = bits >> ($bits::BITS - 1);
                    let magnitude = bits & $bits::MAX;
                    let place = bits ^ (sign & $bits::MAX);
                    seen.negatives[i] -= sign;
                    seen.min[i] = if place < seen.min[i] { place } else { seen.min[i] };
                    seen.max[i] = if place > seen.max[i] { place } else { seen.max[i] };
                    seen.least[i] = if magnitude < seen.least[i] { magnitude } else { seen.least[i] };
                }
            }
        }

        #[inline(always)]
        fn look(values: &[Self], seen: &Seen<$bits>, threshold: f64) -> Look {
            const INFINITE: $bits = $float::INFINITY.to_bits() as $bits;
            let fold = |lanes: &[$bits; LANES], function: fn($bits, $bits) -> $bits| lanes.iter().copied().reduce(function).unwrap_or(0);
            let (mut min, mut max, mut least) = (fold(&seen.min, $bits::min), fold(&seen.max, $bits::max), fold(&seen.least, $bits::min));
            let mut negatives = fold(&seen.negatives, |a, b| a + b);
            for &$value in values.as_chunks::<LANES>().1 {
                let bits = $to_bits as $bits;
                let place = bits ^ ((bits >> ($bits::BITS - 1)) & $bits::MAX);
                negatives -= bits >> ($bits::BITS - 1);
                (min, max, least) = (min.min(place), max.max(place), least.min(bits & $bits::MAX));
            }
            // Numbers are below the threshold just when they are below the least number of this type that is not.
            let near = threshold as $float;
            let near = if f64::from(near) < threshold { near.next_up() } else { near };
            let near = if near > 0.0 { near.to_bits() as $bits } else { 0 };
            // What few numbers are is looked for where there are any.
            let (mut zeros, mut minus_zeros, mut below) = (0, 0, 0);
            if least < near || least == 0 {
                for &$value in values {
                    let bits = $to_bits as $bits;
                    let magnitude = bits & $bits::MAX;
                    zeros += $bits::from(magnitude == 0);
                    minus_zeros += $bits::from(bits == $bits::MIN);
                    below += $bits::from(magnitude < near);
                }
            }
            let number = |place: $bits| f64::from($float::from_bits((place ^ ((place >> ($bits::BITS - 1)) & $bits::MAX)) as _)) + 0.0;
            Look {
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

impl Sample for f32 {
    #[inline(always)]
    fn narrow(self) -> f32 {
        self
    }

    #[inline(always)]
    fn sketch_code(self) -> u16 {
        (self.to_bits() >> 16) as u16
    }

    look!(f32, i32, value => value.to_bits());
}

impl Sample for [u8; 4] {
    #[inline(always)]
    fn narrow(self) -> f32 {
        f32::from_le_bytes(self)
    }

    #[inline(always)]
    fn sketch_code(self) -> u16 {
        u16::from_le_bytes([self[2], self[3]])
    }

    look!(f32, i32, value => u32::from_le_bytes(value));
}

impl Sample for f64 {
    #[inline(always)]
    fn narrow(self) -> f32 {
        self as f32
    }

    #[inline(always)]
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

    look!(f64, i64, value => value.to_bits());
}

/// The moments of at most [`BLOCK`] values, each of which is counted.
pub(crate) fn of_block<T: Sample>(values: &[T], threshold: f64, tally: &mut impl Tally) -> Moments {
    debug_assert!(values.len() <= BLOCK);
    if let Some(moments) = simd::run(Summing { values, threshold, tally }) {
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
    let finite = simd::run(Summing { values: &finite, threshold, tally: &mut () }).unwrap_or_default();
    Moments { nan, inf, minus_inf, ..finite }
}

/// Sums values and counts them. There are no sums if not all are finite.
struct Summing<'a, T, C> {
    values: &'a [T],
    threshold: f64,
    tally: &'a mut C,
}

/// How many values are summed before they are counted: so few that the processor does both at once.
const GROUP: usize = 64;

impl<T: Sample, C: Tally> Kernel for Summing<'_, T, C> {
    type Output = Option<Moments>;

    /// Powers are summed of the distance from a value near the mean, so that little is lost when they are moved to the mean itself.
    #[inline(always)]
    fn run<V: Lanes>(self, token: V::Token) -> Option<Moments> {
        let near = near_mean::<T, V>(token, self.values)?;
        let center = V::Doubles::splat(token, near);
        let zero = V::Doubles::splat(token, 0.0);
        let (mut abs, mut one, mut two, mut three, mut four) = (zero, zero, zero, zero, zero);
        let mut seen = T::UNSEEN;
        let (groups, rest) = self.values.as_chunks::<GROUP>();
        for group in groups {
            for line in (0..size_of_val(group)).step_by(LINE) {
                simd::prefetch(group, AHEAD + line);
            }
            T::see(group, &mut seen);
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
            self.tally.take(group);
        }
        T::see(rest, &mut seen);
        let look = T::look(self.values, &seen, self.threshold);
        let (mut abs, mut one, mut two, mut three, mut four) = (abs.total(), one.total(), two.total(), three.total(), four.total());
        for value in rest {
            let distance = value.wide() - near;
            let square = distance * distance;
            abs += value.wide().abs();
            one += distance;
            two = distance.mul_add(distance, two);
            three = square.mul_add(distance, three);
            four = square.mul_add(square, four);
        }
        self.tally.take(rest);

        let n = self.values.len() as f64;
        look.finite.then(|| Powers { n, near, abs, one, two, three, four }.moments(&look))
    }
}

/// Sums of powers of the distance of `n` values from one near their mean.
pub(super) struct Powers {
    pub(super) n: f64,
    pub(super) near: f64,
    /// Of the values' magnitudes.
    pub(super) abs: f64,
    pub(super) one: f64,
    pub(super) two: f64,
    pub(super) three: f64,
    pub(super) four: f64,
}

impl Powers {
    /// Moved to the mean itself.
    #[inline(always)]
    pub(super) fn moments(self, look: &Look) -> Moments {
        let Self { n, near, abs, one, two, three, four } = self;
        let off = one / n;
        let square_sum = two + near * (2.0 * one + n * near);
        Moments {
            finite: n as u64,
            nan: 0,
            inf: 0,
            minus_inf: 0,
            zeros: look.zeros,
            negatives: look.negatives,
            below: look.below,
            min: look.min,
            max: look.max,
            sum: one + n * near,
            abs_sum: abs,
            // Squares of doubles may go beyond doubles, on both sides of zero.
            square_sum: if square_sum.is_nan() { f64::INFINITY } else { square_sum },
            m2: two - off * one,
            m3: three - off * (3.0 * two - 2.0 * off * one),
            m4: four - off * (4.0 * three - off * (6.0 * two - 3.0 * off * one)),
        }
    }
}

/// The mean of the first group, or the first value if there are fewer; `None` without values.
#[inline(always)]
fn near_mean<T: Sample, V: Lanes>(token: V::Token, values: &[T]) -> Option<f64> {
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
            all.join(&of_block(block, 1.0, &mut ()));
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
