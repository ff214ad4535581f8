//! Encoders of IQ4_NL and IQ4_XS (ggml-quants.c: `quantize_row_iq4_nl_impl` with `ntry = 7`).

use super::super::half::f32_to_f16;
use super::super::search::nearest;
use super::super::simd::{Eight, ROUND, StepFunction};
use super::{IQ4_VALUES, sum_of_squares, weights};

/// Number of values that share a scale.
const BLOCK: usize = 32;
/// Number of scales tried per block: one that maps the value of largest magnitude to the first table entry, and fifteen around it.
const TRIES: usize = 16;
/// A block whose largest magnitude is below this is zero (`GROUP_MAX_EPS`).
const TINY: f32 = 1e-15;

/// Nearest table entry of a number: the upper one of two equally near, and the last for NaN (`best_index_int8`).
///
/// The midpoint of two entries is exact in single precision, and so are the distances to both next to it: comparing with the midpoint is
/// the same as comparing the distances.
static STEPS: StepFunction = {
    let mut steps = StepFunction { starts: [0.0; 15], values: [0.0; 16] };
    let mut i = 0;
    while i < 16 {
        steps.values[i] = IQ4_VALUES[i] as f32;
        if i > 0 {
            steps.starts[i - 1] = (steps.values[i - 1] + steps.values[i]) / 2.0;
        }
        i += 1;
    }
    steps
};

/// Index of the nearest table entry.
static CODES: StepFunction =
    StepFunction { starts: STEPS.starts, values: [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0] };

/// Returns the codes nearest to `x * inverse`.
#[inline(always)]
fn codes<E: Eight>(token: E::Token, x: &[f32; BLOCK], inverse: f32) -> [u8; BLOCK] {
    let mut codes = [0.0; BLOCK];
    for (x, out) in x.as_chunks::<8>().0.iter().zip(codes.as_chunks_mut::<8>().0) {
        (E::load(token, x) * E::splat(token, inverse)).on_step(&CODES).store(out);
    }
    // Avoids a saturating conversion, which is slow.
    codes.map(|number| (number + ROUND).to_bits() as u8)
}

/// Returns the sums of weight x entry x value and of weight x entry x entry for each inverse scale, one per lane.
#[inline(always)]
fn sums<E: Eight>(token: E::Token, x: &[f32; BLOCK], weights: &[f32; BLOCK], inverses: &[f32; TRIES]) -> ([f32; TRIES], [f32; TRIES]) {
    let inverses = [E::load(token, &inverses[..8]), E::load(token, &inverses[8..])];
    let (mut qx, mut q2) = ([E::splat(token, 0.0); 2], [E::splat(token, 0.0); 2]);
    for (&x, &w) in x.iter().zip(weights) {
        let (x, w) = (E::splat(token, x), E::splat(token, w));
        for half in 0..2 {
            let q = (inverses[half] * x).on_step(&STEPS);
            let wq = w * q;
            qx[half] = qx[half] + wq * x;
            q2[half] = q2[half] + wq * q;
        }
    }
    let (mut sums_qx, mut sums_q2) = ([0.0; TRIES], [0.0; TRIES]);
    for half in 0..2 {
        qx[half].store(&mut sums_qx[8 * half..]);
        q2[half].store(&mut sums_q2[8 * half..]);
    }
    (sums_qx, sums_q2)
}

/// Returns the best scale of a block, with its sign.
#[inline(always)]
fn scale<E: Eight>(token: E::Token, x: &[f32; BLOCK], weights: &[f32; BLOCK]) -> f32 {
    let (largest, max) = x.iter().fold((0f32, 0f32), |(largest, max), &x| if x.abs() > largest { (x.abs(), x) } else { (largest, max) });
    if largest < TINY {
        return 0.0;
    }
    let end = f32::from(IQ4_VALUES[0]);
    let mut inverses = [0.0; TRIES];
    inverses[0] = 1.0 / (-max / end);
    for (inverse, offset) in inverses[1..].iter_mut().zip(-7i8..) {
        *inverse = (f32::from(offset) + end) / max;
    }
    let (qx, q2) = sums::<E>(token, x, weights, &inverses);
    let mut scale = if q2[0] > 0.0 { qx[0] / q2[0] } else { 0.0 };
    let mut best = scale * qx[0];
    for (qx, q2) in qx.into_iter().zip(q2).skip(1) {
        if q2 > 0.0 && qx * qx > best * q2 {
            scale = qx / q2;
            best = scale * qx;
        }
    }
    scale
}

/// Packs two codes per byte: the first half of the block into the low nibbles.
#[inline(always)]
fn pack(codes: &[u8; BLOCK], out: &mut [u8]) {
    let (low, high) = codes.split_at(BLOCK / 2);
    for (out, (low, high)) in out.iter_mut().zip(low.iter().zip(high)) {
        *out = low | high << 4;
    }
}

/// Returns the inverse of a scale, or zero.
#[inline(always)]
fn inverse(scale: f32) -> f32 {
    if scale != 0.0 { 1.0 / scale } else { 0.0 }
}

#[inline(always)]
pub(super) fn iq4_nl<E: Eight>(token: E::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
    let (blocks, _) = values.as_chunks::<BLOCK>();
    for (i, (x, out)) in blocks.iter().zip(bytes.as_chunks_mut::<18>().0).enumerate() {
        let mean = sum_of_squares(x) * (2.0 / BLOCK as f32);
        let scale = scale::<E>(token, x, &weights(x, importance, i, |w, x| w * (mean + x * x).sqrt(), |x| x * x));
        let (d, qs) = out.split_at_mut(2);
        d.copy_from_slice(&f32_to_f16(scale));
        pack(&codes::<E>(token, x, inverse(scale)), qs);
    }
}

#[inline(always)]
pub(super) fn iq4_xs<E: Eight>(token: E::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
    let (blocks, _) = values.as_chunks::<256>();
    for (i, (x, out)) in blocks.iter().zip(bytes.as_chunks_mut::<136>().0).enumerate() {
        let mean = sum_of_squares(x) * (2.0 / 256.0);
        let (parts, _) = x.as_chunks::<BLOCK>();
        let mut scales = [0.0; 8];
        let mut largest = 0f32;
        for (ib, (x, out)) in parts.iter().zip(&mut scales).enumerate() {
            *out = scale::<E>(token, x, &weights(x, importance, 8 * i + ib, |w, x| w * (mean + x * x).sqrt(), |x| x * x));
            if out.abs() > largest.abs() {
                largest = *out;
            }
        }
        let d = -largest / 32.0;
        let id = inverse(d);
        out[..2].copy_from_slice(&f32_to_f16(d));
        let (mut high, mut low) = (0, [0; 4]);
        for (ib, (x, qs)) in parts.iter().zip(out[8..].as_chunks_mut::<16>().0).enumerate() {
            let l = nearest(id * scales[ib]).clamp(-32, 31);
            pack(&codes::<E>(token, x, inverse(d * l as f32)), qs);
            let l = (l + 32) as u16;
            high |= (l >> 4) << (2 * ib);
            low[ib / 2] |= (l as u8 & 15) << (4 * (ib % 2));
        }
        out[2..4].copy_from_slice(&high.to_le_bytes());
        out[4..8].copy_from_slice(&low);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::simd::{Kernel, Lanes, on_each_level, run};
    use super::*;

    /// Returns the code as the reference finds it: the interval first, then the nearer end.
    fn searched(x: f32) -> u8 {
        let value = |i: u8| f32::from(IQ4_VALUES[usize::from(i)]);
        if x <= value(0) {
            return 0;
        }
        let upper = (1..15).find(|&i| x < value(i)).unwrap_or(15);
        if x - value(upper - 1) < value(upper) - x { upper - 1 } else { upper }
    }

    struct Numbers([f32; BLOCK]);

    impl Kernel for Numbers {
        type Output = [u8; BLOCK];

        #[inline(always)]
        fn run<V: Lanes>(self, token: V::Token) -> Self::Output {
            codes::<V::Eight>(token.into(), &self.0, 1.0)
        }
    }

    #[test]
    fn comparing_with_midpoints_finds_the_nearest_entry() {
        let mut all = vec![0.0, -0.0, f32::MIN_POSITIVE, -1e-42, 1e9, -1e9, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        for pair in IQ4_VALUES.windows(2) {
            let (a, b) = (f32::from(pair[0]), f32::from(pair[1]));
            for start in [a, (a + b) / 2.0, b] {
                let (mut down, mut up) = (start, start);
                for _ in 0..500 {
                    all.extend([down, up]);
                    (down, up) = (down.next_down(), up.next_up());
                }
            }
        }
        all.resize(all.len().next_multiple_of(BLOCK), 0.0);
        on_each_level(|level| {
            for x in all.as_chunks().0 {
                assert_eq!(run(Numbers(*x)), x.map(searched), "{x:?} on {level:?}");
            }
        });
    }
}
