//! Searches for the scale (and minimum) of a block whose codes give the smallest weighted error. After `make_qx_quants`, `make_q3_quants`,
//! `make_qkx2_quants`, `make_qkx3_quants` and `make_qp_quants` of ggml-quants.c.
//!
//! Each lane searches one block: `x[i]` holds element `i` of every block, and the sums of each block are added in the reference's order.
//! Codes are computed from the result on demand, since most types do not need them.

use super::simd::Lanes;

/// Limit below which [`super::simd::ROUND`] rounds to the nearest integer.
const IN_RANGE: f32 = 4_194_303.0;

/// Blocks whose magnitudes are all below this count as zero.
const ZERO: f32 = 1e-15;

/// Rounds to the nearest integer, ties to even, as the reference's bit manipulation does: exact for magnitudes under 2^22, the reference's
/// result for larger ones.
#[inline(always)]
pub(super) fn nearest(value: f32) -> i32 {
    ((value + super::simd::ROUND).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// Block as `scale * code`, with codes from `-nmax` to `nmax - 1`.
#[derive(Clone, Copy)]
pub(super) struct Symmetric<V: Lanes> {
    /// The scale; zero for a block of zeros.
    pub(super) scale: V,
    /// Inverse scale whose products with `x` round to the codes; NaN for a block of zeros.
    pub(super) inverse: V,
}

/// Rounds as [`nearest`] does and clamps, for values of any magnitude.
#[inline(always)]
pub(super) fn nearest_clamped<V: Lanes>(value: V, min: V, max: V) -> V {
    let token = value.token();
    let rounded = value.round_clamped(min, max);
    let in_range = value.abs().lt(V::splat(token, IN_RANGE));
    if V::all(in_range) {
        return rounded;
    }
    V::select(in_range, rounded, value.map(|value| nearest(value) as f32).max(min).min(max))
}

/// Returns the code of `x`, counted from zero, after a search by [`symmetric`]. Zero for a block of zeros.
#[inline(always)]
pub(super) fn symmetric_code(x: f32, inverse: f32, nmax: i32) -> u8 {
    if inverse.is_nan() { 0 } else { (nmax + nearest(inverse * x).min(nmax - 1).max(-nmax)) as u8 }
}

/// Returns the largest magnitude and the first value that has it.
#[inline(always)]
fn largest<V: Lanes, const N: usize>(x: &[V; N]) -> (V, V) {
    let token = x[0].token();
    let (mut size, mut value) = (V::splat(token, 0.0), V::splat(token, 0.0));
    for &x in x {
        let larger = size.lt(x.abs());
        size = V::select(larger, x.abs(), size);
        value = V::select(larger, x, value);
    }
    (size, value)
}

/// Bounds to which codes are clamped.
const BOTH: u8 = 2;
const UPPER: u8 = 1;
const NONE: u8 = 0;

/// Returns the weighted sums of `x * code` and of `code * code` for each of several scales. (A closure would not be compiled for the
/// instruction set.)
#[inline(always)]
fn symmetric_sums<V: Lanes, const N: usize, const SCALES: usize, const LIMITS: u8>(
    x: &[V; N],
    weights: &[V; N],
    weighted: &[V; N],
    inverses: [V; SCALES],
    nmax: i32,
) -> [(V, V); SCALES] {
    let token = x[0].token();
    let (low, high) = (V::splat(token, -nmax as f32), V::splat(token, (nmax - 1) as f32));
    let mut sums = [(V::splat(token, 0.0), V::splat(token, 0.0)); SCALES];
    for i in 0..N {
        for (inverse, (sum_lx, sum_l2)) in inverses.iter().zip(&mut sums) {
            let product = *inverse * x[i];
            let code = match LIMITS {
                NONE => product.nearest(),
                UPPER => product.nearest().min(high),
                _ => product.round_clamped(low, high),
            };
            *sum_lx = *sum_lx + weighted[i] * code;
            *sum_l2 = *sum_l2 + weights[i] * code * code;
        }
    }
    sums
}

/// Steps that [`symmetric`] tries beside the first scale, in tenths of a code. Two at a time, to hide the latency of dependent sums.
const PAIRS: [[i8; 2]; 9] = [[-9, -8], [-7, -6], [-5, -4], [-3, -2], [-1, 1], [2, 3], [4, 5], [6, 7], [8, 9]];

/// Tries nineteen scales around the one that maps the value of largest magnitude to `-nmax`.
#[inline(always)]
pub(super) fn symmetric<V: Lanes, const N: usize>(x: &[V; N], weights: &[V; N], nmax: i32) -> Symmetric<V> {
    let token = x[0].token();
    let zero = V::splat(token, 0.0);
    let (size, value) = largest(x);
    let mut weighted = [zero; N];
    let mut finite = zero.eq(zero);
    for i in 0..N {
        weighted[i] = weights[i] * x[i];
        finite = V::and(finite, x[i].abs().lt(V::splat(token, f32::INFINITY)));
    }
    let finite = V::all(finite);
    let mut inverse = V::splat(token, -nmax as f32) / value;
    let [(sum_lx, sum_l2)] = symmetric_sums::<V, N, 1, BOTH>(x, weights, &weighted, [inverse], nmax);
    let mut scale = V::select(sum_l2.eq(zero), zero, sum_lx / sum_l2);
    let mut best = scale * sum_lx;
    for pair in PAIRS {
        let mut tried = [zero; 2];
        for (tried, step) in tried.iter_mut().zip(pair) {
            *tried = V::splat(token, -(nmax as f32 + 0.1 * f32::from(step))) / value;
        }
        // The largest magnitude before clamping is `nmax + 0.1 * step`, so that most steps cannot reach one bound or both. (The codes of
        // a block of zeros are NaN and are not used.)
        let sums = match pair[1] {
            ..=-6 if finite => symmetric_sums::<V, N, 2, NONE>(x, weights, &weighted, tried, nmax),
            -5..=4 if finite => symmetric_sums::<V, N, 2, UPPER>(x, weights, &weighted, tried, nmax),
            _ => symmetric_sums::<V, N, 2, BOTH>(x, weights, &weighted, tried, nmax),
        };
        for (tried, (sum_lx, sum_l2)) in tried.into_iter().zip(sums) {
            // No branch on whether any lane is better: it would be unpredictable.
            let better = V::and(zero.lt(sum_l2), (best * sum_l2).lt(sum_lx * sum_lx));
            inverse = V::select(better, tried, inverse);
            scale = V::select(better, sum_lx / sum_l2, scale);
            best = V::select(better, scale * sum_lx, best);
        }
    }
    let empty = size.lt(V::splat(token, ZERO));
    Symmetric { scale: V::select(empty, zero, scale), inverse: V::select(empty, V::splat(token, f32::NAN), inverse) }
}

/// Starts from the scale that maps the value of largest magnitude to `-nmax`, and changes single codes while that reduces the error,
/// weighted by the squares of `x`. Returns the scale, and the codes counted from zero.
#[inline(always)]
pub(super) fn symmetric_by_codes<V: Lanes, const N: usize>(x: &[V; N], nmax: i32) -> (V, [V; N]) {
    let token = x[0].token();
    let zero = V::splat(token, 0.0);
    let (low, high) = (V::splat(token, -nmax as f32), V::splat(token, (nmax - 1) as f32));
    let (size, value) = largest(x);
    let inverse = V::splat(token, -nmax as f32) / value;
    let mut codes = [zero; N];
    let (mut sum_lx, mut sum_l2) = (zero, zero);
    for i in 0..N {
        codes[i] = (inverse * x[i]).round_clamped(low, high);
        let weight = x[i] * x[i];
        sum_lx = sum_lx + weight * x[i] * codes[i];
        sum_l2 = sum_l2 + weight * codes[i] * codes[i];
    }
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..N {
            let weight = x[i] * x[i];
            let rest_lx = sum_lx - weight * x[i] * codes[i];
            let rest_l2 = sum_l2 - weight * codes[i] * codes[i];
            let positive = zero.lt(rest_lx);
            let code = nearest_clamped(V::select(positive, x[i] * rest_l2 / rest_lx, zero), low, high);
            let moved = V::and(positive, zero.lt((code - codes[i]).abs()));
            if V::any(moved) {
                let lx = rest_lx + weight * x[i] * code;
                let l2 = rest_l2 + weight * code * code;
                let better = V::and(moved, V::and(zero.lt(l2), (sum_lx * sum_lx * l2).lt(lx * lx * sum_l2)));
                changed |= V::any(better);
                codes[i] = V::select(better, code, codes[i]);
                sum_lx = V::select(better, lx, sum_lx);
                sum_l2 = V::select(better, l2, sum_l2);
            }
        }
        if !changed {
            break;
        }
    }
    let empty = size.lt(V::splat(token, ZERO));
    for code in &mut codes {
        *code = V::select(empty, zero, *code + V::splat(token, nmax as f32));
    }
    let scale = V::select(zero.lt(sum_l2), sum_lx / sum_l2, zero);
    (V::select(empty, zero, scale), codes)
}

/// Scales that [`offset`] tries: `(rmin + step * rdelta + nmax) / (max - min)` for steps from zero to `nstep`.
#[derive(Clone, Copy)]
pub(super) struct ScaleSteps {
    pub(super) rmin: f32,
    pub(super) rdelta: f32,
    pub(super) nstep: i32,
}

/// Block as `scale * code + min`, with codes from zero to `nmax`.
#[derive(Clone, Copy)]
pub(super) struct Offset<V: Lanes> {
    pub(super) scale: V,
    /// Minimum; never above zero.
    pub(super) min: V,
    /// Inverse scale and offset of the codes: `(x - base) * inverse`, rounded to nearest.
    pub(super) inverse: V,
    pub(super) base: V,
}

/// Lanes of an [`Offset`] as arrays, padded with zeros.
pub(super) struct Unpacked {
    pub(super) scale: [f32; 16],
    pub(super) min: [f32; 16],
    pub(super) inverse: [f32; 16],
    pub(super) base: [f32; 16],
}

impl<V: Lanes> Offset<V> {
    #[inline(always)]
    pub(super) fn unpack(self) -> Unpacked {
        let lanes = |lanes: V| {
            let mut numbers = [0.0; 16];
            lanes.store(&mut numbers);
            numbers
        };
        Unpacked { scale: lanes(self.scale), min: lanes(self.min), inverse: lanes(self.inverse), base: lanes(self.base) }
    }
}

/// Returns the code of `x` after a search by [`offset`].
#[inline(always)]
pub(super) fn offset_code(x: f32, inverse: f32, base: f32, nmax: i32) -> u8 {
    nearest(inverse * (x - base)).min(nmax).max(0) as u8
}

/// Tries scales, and fits scale and minimum to the codes of each by least squares. The error is the weighted sum of squares, or of
/// magnitudes if `ABSOLUTE`.
#[inline(always)]
pub(super) fn offset<V: Lanes, const N: usize, const ABSOLUTE: bool>(
    x: &[V; N],
    weights: &[V; N],
    nmax: i32,
    steps: ScaleSteps,
) -> Offset<V> {
    let token = x[0].token();
    let (zero, one, levels) = (V::splat(token, 0.0), V::splat(token, 1.0), V::splat(token, nmax as f32));
    let (mut min, mut max) = (x[0], x[0]);
    let mut sum_w = weights[0];
    let mut sum_x = sum_w * x[0];
    for i in 1..N {
        min = x[i].min(min);
        max = x[i].max(max);
        sum_w = sum_w + weights[i];
        sum_x = sum_x + weights[i] * x[i];
    }
    min = V::select(zero.lt(min), zero, min);
    let flat = max.eq(min);
    let first_min = min;

    let mut codes = [zero; N];
    let error = |scale: V, min: V, codes: &[V; N]| {
        let mut error = zero;
        for i in 0..N {
            let difference = scale * codes[i] + min - x[i];
            error = error + weights[i] * if ABSOLUTE { difference.abs() } else { difference * difference };
        }
        error
    };

    let mut inverse = levels / (max - min);
    let mut base = min;
    let mut scale = one / inverse;
    for i in 0..N {
        codes[i] = (inverse * (x[i] - min)).round_clamped(zero, levels);
    }
    let mut best = error(scale, min, &codes);
    for step in 0..=steps.nstep {
        let range = V::select(flat, one, max - min);
        let tried = V::splat(token, steps.rmin + steps.rdelta * step as f32 + nmax as f32) / range;
        let (mut sum_l, mut sum_l2, mut sum_xl) = (zero, zero, zero);
        let mut sum = |i: usize, code: V| {
            codes[i] = code;
            let weighted = weights[i] * code;
            sum_l = sum_l + weighted;
            sum_l2 = sum_l2 + weighted * code;
            sum_xl = sum_xl + weighted * x[i];
        };
        // The minimum moves during the search, and products may leave the range in which rounding is simple.
        let reach = tried.abs() * (max - min).abs().max((first_min - min).abs());
        if V::all(reach.lt(V::splat(token, IN_RANGE))) {
            for (i, x) in x.iter().enumerate() {
                sum(i, (tried * (*x - min)).round_clamped(zero, levels));
            }
        } else {
            for (i, x) in x.iter().enumerate() {
                sum(i, nearest_clamped(tried * (*x - min), zero, levels));
            }
        }
        let det = sum_w * sum_l2 - sum_l * sum_l;
        let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / det;
        let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / det;
        let positive = zero.lt(this_min);
        // Rare, and needs a division.
        if V::any(positive) {
            this_min = V::select(positive, zero, this_min);
            this_scale = V::select(positive, sum_xl / sum_l2, this_scale);
        }
        let tried_error = error(this_scale, this_min, &codes);
        let better = V::and(zero.lt(det), tried_error.lt(best));
        if V::any(better) {
            best = V::select(better, tried_error, best);
            inverse = V::select(better, tried, inverse);
            base = V::select(better, min, base);
            scale = V::select(better, this_scale, scale);
            min = V::select(better, this_min, min);
        }
    }
    Offset {
        scale: V::select(flat, zero, scale),
        min: V::select(flat, first_min, min),
        inverse: V::select(flat, zero, inverse),
        base: V::select(flat, zero, base),
    }
}

/// Encodes non-negative numbers as `scale * code`, with codes from zero to `nmax`: tries nine scales, then changes single codes while that
/// reduces the error. Returns the scale. As in the reference, codes are bytes, to which negative numbers wrap.
pub(super) fn non_negative(x: &[f32], weights: &[f32], nmax: i32, codes: &mut [u8]) -> f32 {
    let largest = x.iter().fold(0.0, |largest, x| if largest > *x { largest } else { *x });
    if largest < ZERO {
        codes.fill(0);
        return 0.0;
    }
    let mut inverse = nmax as f32 / largest;
    let scale = 1.0 / inverse;
    let mut best = 0.0;
    for (x, weight) in x.iter().zip(weights) {
        let difference = x - scale * f32::from(nearest(inverse * x) as u8);
        best += weight * difference * difference;
    }
    for step in (-4..=4).filter(|step| *step != 0) {
        let tried = (0.1 * step as f32 + nmax as f32) / largest;
        let scale = 1.0 / tried;
        let mut error = 0.0;
        for (x, weight) in x.iter().zip(weights) {
            let difference = x - scale * nearest(tried * x).min(nmax) as f32;
            error += weight * difference * difference;
        }
        if error < best {
            best = error;
            inverse = tried;
        }
    }
    let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
    for ((x, weight), kept) in x.iter().zip(weights).zip(codes.iter_mut()) {
        let code = nearest(inverse * x).min(nmax);
        *kept = code as u8;
        sum_lx += weight * x * code as f32;
        sum_l2 += weight * code as f32 * code as f32;
    }
    for _ in 0..5 {
        let mut changed = false;
        for ((x, weight), kept) in x.iter().zip(weights).zip(codes.iter_mut()) {
            let old = f32::from(*kept);
            let mut lx = sum_lx - weight * x * old;
            let mut l2 = sum_l2 - weight * old * old;
            if lx > 0.0 && l2 > 0.0 {
                let code = nearest(x * l2 / lx).min(nmax);
                if code != i32::from(*kept) {
                    lx += weight * x * code as f32;
                    l2 += weight * code as f32 * code as f32;
                    if lx * lx * sum_l2 > sum_lx * sum_lx * l2 {
                        *kept = code as u8;
                        (sum_lx, sum_l2) = (lx, l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }
}
