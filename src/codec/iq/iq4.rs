//! Encoders of IQ4_NL and IQ4_XS (ggml-quants.c: `quantize_row_iq4_nl_impl` with seven tries to each side).

use super::{IQ4_VALUES, half_bytes, nearest, squares, weights};

/// Values in a block that shares one scale.
const BLOCK: usize = 32;
/// How many scales are tried for a block: one that lets the largest value meet the end of the steps, and fifteen about it.
const TRIES: usize = 16;
/// A block whose largest magnitude is below this is zero (`GROUP_MAX_EPS`).
const TINY: f32 = 1e-15;

/// The number of the step that lies nearest to `x`; of two that are as near, the upper one, and the last for a NaN (`best_index_int8`).
///
/// The middle between two steps is exact in single precision, and so are both distances next to it: comparing with the middle is the same
/// as comparing the distances.
fn step(x: f32) -> u8 {
    let below = |i: usize| x < (f32::from(IQ4_VALUES[i]) + f32::from(IQ4_VALUES[i + 1])) / 2.0;
    (0..15).map(|i| u8::from(!below(i))).sum()
}

/// The steps nearest to all of `x * inverse`.
fn steps(x: &[f32; BLOCK], inverse: f32) -> [u8; BLOCK] {
    x.map(|x| step(inverse * x))
}

/// For each try's inverse scale: the sums of weight x step x value, and of weight x step x step.
fn sums(x: &[f32; BLOCK], weights: &[f32; BLOCK], inverses: &[f32; TRIES]) -> [(f32, f32); TRIES] {
    inverses.map(|inverse| {
        x.iter().zip(weights).fold((0.0, 0.0), |(qx, q2), (&x, &w)| {
            let q = f32::from(IQ4_VALUES[usize::from(step(inverse * x))]);
            (qx + w * q * x, q2 + w * q * q)
        })
    })
}

/// The scale that fits a block best, signed.
fn scale(x: &[f32; BLOCK], weights: &[f32; BLOCK]) -> f32 {
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
    let sums = sums(x, weights, &inverses);
    let (qx, q2) = sums[0];
    let mut scale = if q2 > 0.0 { qx / q2 } else { 0.0 };
    let mut best = scale * qx;
    for &(qx, q2) in &sums[1..] {
        if q2 > 0.0 && qx * qx > best * q2 {
            scale = qx / q2;
            best = scale * qx;
        }
    }
    scale
}

/// Two codes a byte: the first half of the block in the low nibbles.
fn pack(steps: &[u8; BLOCK], out: &mut [u8]) {
    let (low, high) = steps.split_at(BLOCK / 2);
    for (out, (low, high)) in out.iter_mut().zip(low.iter().zip(high)) {
        *out = low | high << 4;
    }
}

/// One over a scale, or nothing for no scale.
fn inverse(scale: f32) -> f32 {
    if scale != 0.0 { 1.0 / scale } else { 0.0 }
}

pub(super) fn iq4_nl(values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
    let (blocks, _) = values.as_chunks::<BLOCK>();
    for (i, (x, out)) in blocks.iter().zip(bytes.as_chunks_mut::<18>().0).enumerate() {
        let mean = squares(x) * (2.0 / BLOCK as f32);
        let scale = scale(x, &weights(x, importance, i, |w, x| w * (mean + x * x).sqrt(), |x| x * x));
        let (d, codes) = out.split_at_mut(2);
        d.copy_from_slice(&half_bytes(scale));
        pack(&steps(x, inverse(scale)), codes);
    }
}

pub(super) fn iq4_xs(values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
    let (blocks, _) = values.as_chunks::<256>();
    for (i, (x, out)) in blocks.iter().zip(bytes.as_chunks_mut::<136>().0).enumerate() {
        let mean = squares(x) * (2.0 / 256.0);
        let (parts, _) = x.as_chunks::<BLOCK>();
        let mut scales = [0.0; 8];
        let mut largest = 0f32;
        for (ib, (x, out)) in parts.iter().zip(&mut scales).enumerate() {
            *out = scale(x, &weights(x, importance, 8 * i + ib, |w, x| w * (mean + x * x).sqrt(), |x| x * x));
            if out.abs() > largest.abs() {
                largest = *out;
            }
        }
        let d = -largest / 32.0;
        let id = inverse(d);
        out[..2].copy_from_slice(&half_bytes(d));
        let (mut high, mut low) = (0, [0; 4]);
        for (ib, (x, codes)) in parts.iter().zip(out[8..].as_chunks_mut::<16>().0).enumerate() {
            let l = nearest(id * scales[ib]).clamp(-32, 31);
            pack(&steps(x, inverse(d * l as f32)), codes);
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
    use super::*;

    /// The reference's own rule: between which two steps, then which of them is nearer.
    fn searched(x: f32) -> u8 {
        let value = |i: u8| f32::from(IQ4_VALUES[usize::from(i)]);
        if x <= value(0) {
            return 0;
        }
        let upper = (1..15).find(|&i| x < value(i)).unwrap_or(15);
        if x - value(upper - 1) < value(upper) - x { upper - 1 } else { upper }
    }

    #[test]
    fn comparing_with_the_middle_is_comparing_distances() {
        for pair in IQ4_VALUES.windows(2) {
            let (a, b) = (f32::from(pair[0]), f32::from(pair[1]));
            for start in [a, (a + b) / 2.0, b] {
                let (mut down, mut up) = (start, start);
                for _ in 0..2000 {
                    assert_eq!((step(down), step(up)), (searched(down), searched(up)), "{down} {up}");
                    (down, up) = (down.next_down(), up.next_up());
                }
            }
        }
        for x in [0.0, -0.0, f32::MIN_POSITIVE, -1e-42, 1e9, -1e9, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            assert_eq!(step(x), searched(x), "{x}");
        }
    }
}
