//! Moments computed from codebooks: each value weighted by how often it occurs.

use super::moments::{BLOCK, BlockStats, CountValues, Moments, Powers};
use crate::codec::simd::{self, Doubles, EIGHT, Kernel, Lanes};
use crate::codec::{CODEBOOK_NUMBERS, CODEBOOK_VALUES as VALUES, Codebook};

/// Returns the moments of the numbers that codebooks represent, at most [`BLOCK`]; `None` if a value is not finite, even one that does
/// not occur.
pub(crate) fn of_codebooks(codebooks: &[Codebook], threshold: f64, counter: &mut impl CountValues) -> Option<Moments> {
    debug_assert!(codebooks.len() * CODEBOOK_NUMBERS <= BLOCK);
    simd::run(SummingCodebooks { codebooks, threshold, counter })
}

/// Returns everything but the sums.
#[inline(always)]
fn codebook_stats(codebooks: &[Codebook], threshold: f64) -> BlockStats {
    // As for `f32`: values are below the threshold exactly if they are below the smallest `f32` that is not.
    let bound = threshold as f32;
    let bound = if f64::from(bound) < threshold { bound.next_up() } else { bound };
    // One lane per code, for auto-vectorisation.
    let (mut zeros, mut negatives, mut below) = ([0u32; VALUES], [0u32; VALUES], [0u32; VALUES]);
    let (mut min, mut max, mut largest) = ([f32::INFINITY; VALUES], [f32::NEG_INFINITY; VALUES], [0u32; VALUES]);
    for codebook in codebooks {
        for i in 0..VALUES {
            let (x, count) = (codebook.values[i], u32::from(codebook.counts[i]));
            zeros[i] += if x == 0.0 { count } else { 0 };
            negatives[i] += if x < 0.0 { count } else { 0 };
            below[i] += if x.abs() < bound { count } else { 0 };
            let (low, high) = if count > 0 { (x, x) } else { (f32::INFINITY, f32::NEG_INFINITY) };
            min[i] = if low < min[i] { low } else { min[i] };
            max[i] = if high > max[i] { high } else { max[i] };
            largest[i] = largest[i].max(x.to_bits() & 0x7fff_ffff);
        }
    }
    let sum = |lanes: &[u32; VALUES]| lanes.iter().map(|&lane| u64::from(lane)).sum();
    BlockStats {
        zeros: sum(&zeros),
        negatives: sum(&negatives),
        below: sum(&below),
        min: f64::from(min.iter().fold(f32::INFINITY, |min, &x| min.min(x))) + 0.0,
        max: f64::from(max.iter().fold(f32::NEG_INFINITY, |max, &x| max.max(x))) + 0.0,
        finite: largest.iter().all(|&largest| largest < f32::INFINITY.to_bits()),
    }
}

struct SummingCodebooks<'a, C> {
    codebooks: &'a [Codebook],
    threshold: f64,
    counter: &'a mut C,
}

impl<C: CountValues> Kernel for SummingCodebooks<'_, C> {
    type Output = Option<Moments>;

    /// Like summing value by value, each weighted by its count.
    #[inline(always)]
    fn run<V: Lanes>(self, token: V::Token) -> Option<Moments> {
        let stats = codebook_stats(self.codebooks, self.threshold);
        if !stats.finite {
            return None;
        }
        let first = self.codebooks.first()?;
        let shift = {
            let n = first.counts_as_singles();
            let sum = V::Doubles::widen(token, &n) * V::Doubles::widen(token, &first.values)
                + V::Doubles::widen(token, &n[EIGHT..]) * V::Doubles::widen(token, &first.values[EIGHT..]);
            sum.total() / CODEBOOK_NUMBERS as f64
        };
        let center = V::Doubles::splat(token, shift);
        let zero = V::Doubles::splat(token, 0.0);
        let (mut abs, mut one, mut two, mut three, mut four) = (zero, zero, zero, zero, zero);
        for codebook in self.codebooks {
            let n = codebook.counts_as_singles();
            for i in (0..n.len()).step_by(EIGHT) {
                let n = V::Doubles::widen(token, &n[i..]);
                let x = V::Doubles::widen(token, &codebook.values[i..]);
                let distance = x - center;
                let square = distance * distance;
                let often = n * distance;
                abs = n.mul_add(x.abs(), abs);
                one = one + often;
                two = often.mul_add(distance, two);
                three = often.mul_add(square, three);
                four = (often * distance).mul_add(square, four);
            }
            self.counter.count_codebook(codebook);
        }
        let n = (self.codebooks.len() * CODEBOOK_NUMBERS) as f64;
        let (abs, one, two, three, four) = (abs.total(), one.total(), two.total(), three.total(), four.total());
        Some(Powers { n, shift, abs, one, two, three, four }.moments(&stats))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::stats::counts::{Counter, Counts};
    use crate::ops::stats::moments::of_block;

    #[test]
    fn codebooks_give_what_their_numbers_give() {
        let codebooks: Vec<Codebook> = (0..BLOCK / CODEBOOK_NUMBERS)
            .map(|i| {
                let mut codebook = Codebook::default();
                for (code, value) in codebook.values.iter_mut().enumerate() {
                    *value = ((i * 31) % 17) as f32 * (code as f32 - 7.0) / 64.0;
                }
                for number in 0..CODEBOOK_NUMBERS {
                    // The last code never occurs: its value is no extreme.
                    codebook.counts[(number * number + i) % 15] += 1;
                }
                codebook
            })
            .collect();
        let numbers: Vec<f32> = codebooks
            .iter()
            .flat_map(|codebook| codebook.values.iter().zip(codebook.counts).flat_map(|(&value, n)| std::iter::repeat_n(value, n as usize)))
            .collect();
        let (mut expected_counts, mut first) = (Counts::default(), None);
        let mut counter = Counter::new();
        let expected = of_block(&numbers, 0.05, &mut counter);
        counter.drain(&mut expected_counts);
        simd::on_each_level(|level| {
            let mut counts = Counts::default();
            let found = of_codebooks(&codebooks, 0.05, &mut counter).unwrap();
            counter.drain(&mut counts);
            assert!(counts.iter().eq(expected_counts.iter()));
            assert_eq!(*first.get_or_insert_with(|| format!("{found:?}")), format!("{found:?}"), "{level:?}");
            let exact = |m: &Moments| (m.finite, m.zeros, m.negatives, m.below, m.min, m.max);
            assert_eq!(exact(&found), exact(&expected));
            let sums = |m: &Moments| [m.sum, m.abs_sum, m.square_sum, m.m2, m.m3, m.m4];
            assert!(
                sums(&found).iter().zip(sums(&expected)).all(|(&a, b)| (a - b).abs() <= 1e-12 * a.abs().max(b.abs())),
                "{found:?} {expected:?}"
            );
        });
        // A value of exactly the threshold is not below it, whichever way the threshold is rounded to a single.
        for threshold in [1.0 / 64.0, 1.0 / 64.0 + 1e-12, 1.0 / 64.0 - 1e-12] {
            let below = numbers.iter().filter(|number| f64::from(number.abs()) < threshold).count() as u64;
            assert_eq!(of_codebooks(&codebooks, threshold, &mut ()).unwrap().below, below, "{threshold}");
        }
        let mut zeros = Codebook { values: [-0.0; VALUES], ..Codebook::default() };
        zeros.counts[3] = CODEBOOK_NUMBERS as u8;
        let zeros = of_codebooks(&[zeros], 0.0, &mut ()).unwrap();
        assert!(zeros.min.is_sign_positive() && zeros.max.is_sign_positive());
        let mut odd = codebooks;
        odd[3].values[15] = f32::INFINITY;
        assert!(of_codebooks(&odd, 0.05, &mut counter).is_none());
        let mut counts = Counts::default();
        counter.drain(&mut counts);
        assert_eq!(counts.iter().count(), 0);
    }
}
