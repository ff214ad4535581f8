//! Encoders of IQ1_S and IQ1_M (ggml-quants.c: `quantize_row_iq1_{s,m}_impl`, `iq1_find_best_neighbour2`).
//!
//! A value is -1, 0 or 1, shifted by an eighth up or down, times the scale. The values of a block are sorted, so that any scale splits them
//! at two positions; all splits are tried with both shifts, and the best one is moved to the grid.
//!
//! Builds of the reference disagree about IQ1_M where two splits differ by rounding only: in rows with many equal or zero values, or with
//! very uneven importance, and rarely elsewhere. Older ones (libgguf 0.2.2 among them) sum the elements of each split; llama.cpp 0c1e570
//! subtracts running sums, as this does.
//!
//! Two cases are undefined in the reference. Where all distances to neighbours are NaN or infinite (values beyond about 1e18), it reads out
//! of bounds; here the first neighbour is used. `qsort` may reorder equal values; here they keep their order, as in glibc.

use super::super::half::f32_to_f16;
use super::super::simd::Eight;
use super::grid_index::{self, GridIndex, Lookup, level};
use super::search::{best_neighbour, largest_scale, rows, scale_code, unpack};
use super::{IQ1_DELTA, sum_of_squares, weights};

/// Values of the levels when shifted up.
const UP: [f32; 3] = [-1.0 + IQ1_DELTA, IQ1_DELTA, 1.0 + IQ1_DELTA];
/// Values of the levels when shifted down.
const DOWN: [f32; 3] = [-1.0 - IQ1_DELTA, -IQ1_DELTA, 1.0 - IQ1_DELTA];

/// Encoded block with `SHIFTS` independently shifted parts.
#[derive(Debug, Clone, Copy)]
struct EncodedBlock<const GROUPS: usize, const SHIFTS: usize> {
    scale: f32,
    /// Grid index of each group.
    indices: [u16; GROUPS],
    /// Whether each part of the block is shifted down.
    down: [bool; SHIFTS],
}

impl<const GROUPS: usize, const SHIFTS: usize> EncodedBlock<GROUPS, SHIFTS> {
    const EMPTY: Self = Self { scale: 0.0, indices: [0; GROUPS], down: [false; SHIFTS] };

    /// Returns the values of the levels in a group.
    #[inline(always)]
    fn steps(&self, group: usize) -> &'static [f32; 3] {
        if self.down[group * SHIFTS / GROUPS] { &DOWN } else { &UP }
    }
}

/// Split of the sorted values into three, before the search for grid points: those before `first` are -1, those from `second` on are 1.
struct Split<const SHIFTS: usize> {
    first: usize,
    second: usize,
    scale: f32,
    down: [bool; SHIFTS],
}

/// Best of the splits considered so far.
struct Best<const SHIFTS: usize> {
    score: f32,
    split: Option<Split<SHIFTS>>,
}

impl<const SHIFTS: usize> Best<SHIFTS> {
    const NONE: Self = Self { score: -f32::MAX, split: None };

    /// Considers a split, given its sums of weight x step x value and of weight x step x step.
    #[inline(always)]
    fn consider(&mut self, first: usize, second: usize, down: [bool; SHIFTS], qx: f32, q2: f32) {
        if q2 > 0.0 && qx * qx > self.score * q2 {
            let scale = qx / q2;
            self.score = scale * qx;
            self.split = Some(Split { first, second, scale, down });
        }
    }

    /// Considers eight splits, `second` and the next seven, with each choice of shifts; one split per lane.
    #[inline(always)]
    fn consider_eight<E: Eight, const CHOICES: usize>(
        &mut self,
        first: usize,
        second: usize,
        downs: &[[bool; SHIFTS]; CHOICES],
        qx: [E; CHOICES],
        q2: [E; CHOICES],
    ) {
        let token = qx[0].token();
        let score = E::splat(token, self.score);
        let mut better = false;
        for i in 0..CHOICES {
            better |= E::any(E::and(E::splat(token, 0.0).lt(q2[i]), (score * q2[i]).lt(qx[i] * qx[i])));
        }
        // The score only grows: splits that do not reach it now never will.
        if better {
            let (qx, q2) = (unpack(qx), unpack(q2));
            for lane in 0..8 {
                for (i, &down) in downs.iter().enumerate() {
                    self.consider(first, second + lane, down, qx[i][lane], q2[i][lane]);
                }
            }
        }
    }
}

/// Returns the ascending order of the values; stable, and both zeros are equal.
#[inline(always)]
fn ascending_order<const N: usize>(x: &[f32; N]) -> [usize; N] {
    let mut order = std::array::from_fn(|i| i);
    order.sort_by(|&a, &b| (x[a] + 0.0).total_cmp(&(x[b] + 0.0)));
    order
}

/// Finds the best split of 32 values for IQ1_S, which shifts all of them alike.
#[inline(always)]
fn best_split_iq1_s<E: Eight>(token: E::Token, x: &[f32; 32], w: &[f32; 32], order: &[usize; 32]) -> Option<Split<1>> {
    // NaN beyond the last sum excludes splits beyond the last.
    let (mut sx, mut sw) = ([f32::NAN; 40], [f32::NAN; 40]);
    (sx[0], sw[0]) = (0.0, 0.0);
    for (j, &i) in order.iter().enumerate() {
        sx[j + 1] = sx[j] + w[i] * x[i];
        sw[j + 1] = sw[j] + w[i];
    }
    let mut best = Best::NONE;
    for first in 0..=32 {
        for second in (first..=32).step_by(8) {
            let (to_x, to_w) = (E::load(token, &sx[second..]), E::load(token, &sw[second..]));
            let px = [E::splat(token, sx[first] - sx[0]), to_x - E::splat(token, sx[first]), E::splat(token, sx[32]) - to_x];
            let pw = [E::splat(token, sw[first] - sw[0]), to_w - E::splat(token, sw[first]), E::splat(token, sw[32]) - to_w];
            let (mut qx, mut q2) = ([E::splat(token, 0.0); 2], [E::splat(token, 0.0); 2]);
            for (shift, [a, b, c]) in [UP, DOWN].into_iter().enumerate() {
                let (a, b, c) = (E::splat(token, a), E::splat(token, b), E::splat(token, c));
                qx[shift] = px[0] * a + px[1] * b + px[2] * c;
                q2[shift] = pw[0] * a * a + pw[1] * b * b + pw[2] * c * c;
            }
            best.consider_eight(first, second, &[[false], [true]], qx, q2);
        }
    }
    best.split
}

/// Finds the best split of 16 values for IQ1_M, which shifts each half on its own.
///
/// Levels are 1 apart under both shifts, so the sum of a half is its total times the highest level less the running sums at the two split
/// positions.
#[inline(always)]
fn best_split_iq1_m<E: Eight>(token: E::Token, x: &[f32; 16], w: &[f32; 16], order: &[usize; 16]) -> Option<Split<2>> {
    let (mut sx, mut sw) = ([[f32::NAN; 24]; 2], [[f32::NAN; 24]; 2]);
    for half in 0..2 {
        (sx[half][0], sw[half][0]) = (0.0, 0.0);
    }
    for (j, &i) in order.iter().enumerate() {
        let (this, other) = (i / 8, 1 - i / 8);
        sx[this][j + 1] = sx[this][j] + w[i] * x[i];
        sw[this][j + 1] = sw[this][j] + w[i];
        sx[other][j + 1] = sx[other][j];
        sw[other][j + 1] = sw[other][j];
    }
    const DOWNS: [[bool; 2]; 4] = [[false, false], [false, true], [true, false], [true, true]];
    let zero = E::splat(token, 0.0);
    let mut best = Best::NONE;
    for first in 0..=16 {
        for second in (first..=16).step_by(8) {
            // Sums of each half under each shift.
            let (mut px, mut p2) = ([[zero; 2]; 2], [[zero; 2]; 2]);
            for half in 0..2 {
                let (sx, sw) = (&sx[half], &sw[half]);
                let before = E::splat(token, sx[first]) + E::load(token, &sx[second..]);
                for (shift, steps) in [UP, DOWN].into_iter().enumerate() {
                    let last = steps[2];
                    let a = steps[0] * steps[0] - steps[1] * steps[1];
                    let b = steps[1] * steps[1] - last * last;
                    px[half][shift] = E::splat(token, sx[16] * last) - before;
                    p2[half][shift] =
                        E::splat(token, sw[16] * last * last + sw[first] * a) + E::load(token, &sw[second..]) * E::splat(token, b);
                }
            }
            let (mut qx, mut q2) = ([zero; 4], [zero; 4]);
            for (i, down) in DOWNS.iter().enumerate() {
                let (a, b) = (usize::from(down[0]), usize::from(down[1]));
                qx[i] = px[0][a] + px[1][b];
                q2[i] = p2[0][a] + p2[1][b];
            }
            best.consider_eight(first, second, &DOWNS, qx, q2);
        }
    }
    best.split
}

/// Moves a split to the grid: each group of eight to its own grid point or to the best neighbour.
#[inline(always)]
fn to_grid<E: Eight, const N: usize, const GROUPS: usize, const SHIFTS: usize>(
    token: E::Token,
    grid: &GridIndex<8>,
    x: &[f32; N],
    w: &[f32; N],
    order: &[usize; N],
    split: &Split<SHIFTS>,
) -> EncodedBlock<GROUPS, SHIFTS> {
    let mut levels = [1u16; N];
    for (j, &i) in order.iter().enumerate() {
        levels[i] = u16::from(j >= split.first) + u16::from(j >= split.second);
    }
    let mut found = EncodedBlock { scale: split.scale, indices: [0; GROUPS], down: split.down };
    if found.scale < 0.0 {
        levels = levels.map(|level| 2 - level);
        found.scale = -found.scale;
        found.down = found.down.map(|down| !down);
    }
    let (x, w, levels) = (x.as_chunks::<8>().0, w.as_chunks::<8>().0, levels.as_chunks::<8>().0);
    let mut codes = [0; GROUPS];
    let mut all_on_grid = true;
    for (k, code) in codes.iter_mut().enumerate() {
        *code = (0..8).fold(0, |code, j| code | levels[k][j] << (2 * j));
        if let Lookup::Neighbours(neighbours) = grid.lookup(*code) {
            all_on_grid = false;
            let &[a, b, c] = found.steps(k);
            let steps = E::splat(token, found.scale) * E::load(token, &[a, b, c, 0.0, a, b, c, 0.0]);
            *code = best_neighbour(neighbours, &x[k], &w[k], steps);
        }
        found.indices[k] = grid.index(*code);
    }
    if !all_on_grid {
        let mut sums = (0.0, 0.0);
        for (k, &code) in codes.iter().enumerate() {
            add_sums(&mut sums, &x[k], &w[k], |j| found.steps(k)[level::<8>(code, j)]);
        }
        if sums.0 > 0.0 && sums.1 > 0.0 {
            found.scale = sums.0 / sums.1;
        }
    }
    found
}

/// Adds the sums of weight x step x value and of weight x step x step of eight values.
#[inline(always)]
fn add_sums((qx, q2): &mut (f32, f32), x: &[f32; 8], w: &[f32; 8], step: impl Fn(usize) -> f32) {
    for j in 0..8 {
        let q = step(j);
        *qx += w[j] * q * x[j];
        *q2 += w[j] * q * q;
    }
}

/// Whether all magnitudes are below `tiny`.
#[inline(always)]
fn all_below(x: &[f32], tiny: f32) -> bool {
    x[1..].iter().fold(x[0].abs(), |max, x| if max > x.abs() { max } else { x.abs() }) < tiny
}

#[inline(always)]
pub(super) fn iq1_s<E: Eight>(token: E::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
    let grid = grid_index::iq1();
    for (values, importance, out) in rows::<50>(values, importance, bytes) {
        out.fill(0);
        let mean = 2.0 * sum_of_squares(values) / 256.0;
        let mut found = [EncodedBlock::<4, 1>::EMPTY; 8];
        for (ib, (x, found)) in values.as_chunks::<32>().0.iter().zip(&mut found).enumerate() {
            if all_below(x, 1e-12) {
                continue;
            }
            // The reference requires importance weights. These are its weights for uniform importance.
            let w = weights(x, importance.map(|all| &all[..]), ib, |w, x| w * (mean + x * x).sqrt(), |x| (mean + x * x).sqrt());
            let order = ascending_order(x);
            if let Some(split) = best_split_iq1_s::<E>(token, x, &w, &order) {
                *found = to_grid::<E, _, _, _>(token, grid, x, &w, &order, &split);
            }
        }
        let (head, rest) = out.split_at_mut(2);
        let (low, high) = rest.split_at_mut(32);
        let largest = largest_scale(found.iter().map(|found| found.scale));
        let d = largest / 15.0;
        if largest != 0.0 {
            head.copy_from_slice(&f32_to_f16(d * 1.125));
        }
        for ((found, low), high) in found.iter().zip(low.chunks_exact_mut(4)).zip(high.chunks_exact_mut(2)) {
            let mut word = 0;
            for (k, (index, low)) in found.indices.into_iter().zip(low).enumerate() {
                *low = index as u8;
                word |= (index >> 8) << (3 * k);
            }
            if largest != 0.0 {
                word |= u16::from(scale_code(found.scale, 1.0 / d, 7)) << 12 | u16::from(found.down[0]) << 15;
            }
            high.copy_from_slice(&word.to_le_bytes());
        }
    }
}

#[inline(always)]
pub(super) fn iq1_m<E: Eight>(token: E::Token, values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
    let grid = grid_index::iq1();
    for (values, importance, out) in rows::<56>(values, importance, bytes) {
        out.fill(0);
        let mean = 2.0 * sum_of_squares(values) / 256.0;
        let mut found = [EncodedBlock::<2, 2>::EMPTY; 16];
        let mut block_weights = [[0.0; 16]; 16];
        let blocks = values.as_chunks::<16>().0;
        for (ib, ((x, w), found)) in blocks.iter().zip(&mut block_weights).zip(&mut found).enumerate() {
            *w = weights(x, importance.map(|all| &all[..]), ib, |w, x| w * (mean + x * x).sqrt(), |x| x * x);
            if all_below(x, 1e-7) {
                continue;
            }
            let order = ascending_order(x);
            if let Some(split) = best_split_iq1_m::<E>(token, x, w, &order) {
                *found = to_grid::<E, _, _, _>(token, grid, x, w, &order, &split);
            }
        }
        let (low, rest) = out.split_at_mut(32);
        let (high, scales) = rest.split_at_mut(16);
        for (found, (low, high)) in found.iter().zip(low.chunks_exact_mut(2).zip(high.iter_mut())) {
            for (k, (index, low)) in found.indices.into_iter().zip(low).enumerate() {
                *low = index as u8;
                *high |= ((index >> 8) as u8) << (4 * k);
            }
        }
        let largest = largest_scale(found.iter().map(|found| found.scale));
        if largest == 0.0 {
            continue;
        }
        let mut d = largest / 15.0;
        let mut words = [0u16; 4];
        let mut sums = (0.0, 0.0);
        for (ib, found) in found.iter().enumerate() {
            let index = scale_code(found.scale, 1.0 / d, 7);
            words[ib / 4] |= u16::from(index) << (3 * (ib % 4));
            high[ib] |= u8::from(found.down[0]) << 3 | u8::from(found.down[1]) << 7;
            let multiple = f32::from(2 * index + 1);
            for k in 0..2 {
                let code = super::grid::IQ1_CODES[usize::from(found.indices[k])];
                let (x, w) = (&blocks[ib].as_chunks().0[k], &block_weights[ib].as_chunks().0[k]);
                add_sums(&mut sums, x, w, |j| found.steps(k)[level::<8>(code, j)] * multiple);
            }
        }
        if sums.1 > 0.0 {
            d = sums.0 / sums.1;
        }
        let d = u16::from_le_bytes(f32_to_f16(d * 1.1125));
        for (i, (word, out)) in words.into_iter().zip(scales.chunks_exact_mut(2)).enumerate() {
            out.copy_from_slice(&(word | (d >> (4 * i) & 15) << 12).to_le_bytes());
        }
    }
}
