//! Search shared by the encoders of IQ2 and IQ3: try scales, find the nearest grid point of each group, keep the best.
//!
//! ggml-quants.c: the inner loops of `quantize_row_iq2_{xxs,xs,s}_impl` and `quantize_row_iq3_{xxs,s}_impl`, and
//! `iq{2,3}_find_best_neighbour`.

use super::super::search::{nearest, nearest_clamped, non_negative};
use super::super::simd::{Eight, ROUND};
use super::grid_index::{GridIndex, Lookup, level, level_bits, top_level};
use super::sum_of_squares;

/// Differences between the types.
#[derive(Debug)]
pub(super) struct SearchParams {
    /// Whether seven signs are stored per eight values, so that the number of negative ones must be even.
    pub(super) even_signs: bool,
    /// Factor of the mean square in `sigma2`, which is added to the squares in the weights.
    pub(super) sigma2_factor: f32,
    /// Weight of a value without importance, given `sigma2` and the value.
    pub(super) plain_weight: fn(f32, f32) -> f32,
    /// Blocks whose largest value is below this become zero.
    pub(super) tiny: f32,
    /// Whether the search starts from a least-squares fit instead of the largest value.
    pub(super) fitted: bool,
    /// Number of scales tried to each side of the start.
    pub(super) tries: i8,
    /// Difference between the coordinates to which successive tries map the largest value.
    pub(super) step: f32,
    /// Groups that are searched again with the best scale.
    pub(super) refit: Refit,
}

/// Groups that are searched again with the best scale.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refit {
    /// All groups.
    Always,
    /// All groups, unless all of them are grid points.
    AllIfAnyOffGrid,
    /// Groups that are not grid points.
    OffGrid,
}

/// Values of a block and the weights of their errors.
#[derive(Debug)]
struct Block<const DIM: usize, const GROUPS: usize> {
    /// Magnitudes (if `even_signs`, at most one value of eight keeps a minus sign).
    x: [[f32; DIM]; GROUPS],
    /// Weights.
    weights: [[f32; DIM]; GROUPS],
    /// Square roots of the weights, used in distances to neighbours.
    roots: [[f32; DIM]; GROUPS],
}

/// Encoded block.
#[derive(Debug, Clone, Copy)]
pub(super) struct EncodedBlock<const GROUPS: usize> {
    /// Scale, not negative.
    pub(super) scale: f32,
    /// Grid index of each group.
    pub(super) indices: [u16; GROUPS],
    /// Sign bits, the first value in the lowest; if `even_signs`, the eighth of each eight is unused.
    pub(super) signs: u32,
    /// Whether the block was too small to be searched.
    pub(super) empty: bool,
}

impl<const GROUPS: usize> EncodedBlock<GROUPS> {
    const EMPTY: Self = Self { scale: 0.0, indices: [0; GROUPS], signs: 0, empty: true };
}

/// Packs four times seven signs and a four-bit scale.
#[inline(always)]
pub(super) fn seven_signs(signs: u32, scale: u8) -> u32 {
    (0..4).fold(u32::from(scale) << 28, |packed, i| packed | (signs >> (8 * i) & 127) << (7 * i))
}

/// Iterates over the blocks of 256 values of a row, each with its importance and its output bytes.
#[inline(always)]
pub(super) fn rows<'a, const BYTES: usize>(
    values: &'a [f32],
    importance: Option<&'a [f32]>,
    bytes: &'a mut [u8],
) -> impl Iterator<Item = (&'a [f32; 256], Option<&'a [f32; 256]>, &'a mut [u8; BYTES])> {
    let importance = importance.map_or(&[][..], |importance| importance.as_chunks().0);
    let blocks = values.as_chunks().0.iter().zip(bytes.as_chunks_mut().0);
    blocks.enumerate().map(|(i, (values, bytes))| (values, importance.get(i), bytes))
}

/// Splits eight values into magnitudes and signs. If `even_signs`, the value with the smallest weighted square may keep a minus sign.
#[inline(always)]
fn split_signs(x: &[f32; 8], weights: &[f32; 8], even_signs: bool) -> ([f32; 8], u8) {
    let positive = x.map(|x| x >= 0.0);
    let mut magnitudes = std::array::from_fn(|i| if positive[i] { x[i] } else { -x[i] });
    let mut signs = (0..8).fold(0, |signs, i| signs | u8::from(!positive[i]) << i);
    if even_signs && signs.count_ones() % 2 == 1 {
        let cost = |i: usize| weights[i] * x[i] * x[i];
        let cheapest = (1..8).fold(0, |cheapest, i| if cost(i) < cost(cheapest) { i } else { cheapest });
        magnitudes[cheapest] = -magnitudes[cheapest];
        signs ^= 1 << cheapest;
    }
    (magnitudes, signs)
}

/// Returns `a > b ? a : b`, as the reference's macro does: `b` if either is NaN.
#[inline(always)]
fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Returns the largest scale.
#[inline(always)]
pub(super) fn largest_scale(scales: impl Iterator<Item = f32>) -> f32 {
    scales.fold(0.0, max)
}

/// Returns the code of a block's scale, which is an odd multiple of the row's scale, `1 / inverse`.
#[inline(always)]
pub(super) fn scale_code(scale: f32, inverse: f32, top: i32) -> u8 {
    nearest(0.5 * (inverse * scale - 1.0)).clamp(0, top) as u8
}

/// Returns the code of the levels nearest to `x * inverse`.
#[inline(always)]
fn code<const DIM: usize>(x: &[f32; DIM], inverse: f32) -> u16 {
    x.iter().enumerate().fold(0, |code, (j, x)| {
        let level = nearest(0.5 * (inverse * x - 1.0)).clamp(0, top_level(DIM));
        code | (level as u16) << (level_bits(DIM) * j)
    })
}

/// Returns the point at the smallest weighted distance from a vector; the first of several, and the first of all if no distance is a
/// number. `steps` holds the values of the levels, repeated from the fifth on if there are only three.
///
/// The reference sums a term per coordinate of each point. Terms depend on the level only, so they are computed once and looked up for
/// eight points at a time.
#[inline(always)]
pub(super) fn best_neighbour<E: Eight, const DIM: usize>(points: &[[u16; 8]], x: &[f32; DIM], weights: &[f32; DIM], steps: E) -> u16 {
    let token = steps.token();
    let mut terms = [E::splat(token, 0.0); DIM];
    for ((term, &x), &weight) in terms.iter_mut().zip(x).zip(weights) {
        let difference = steps - E::splat(token, x);
        *term = E::splat(token, weight) * difference * difference;
    }
    let mut best = distances(&points[0], &terms);
    if points.len() == 1 {
        return points[0][E::first(best.eq(E::splat(token, best.reduce_min())))];
    }
    let mut index = E::splat(token, 0.0);
    for (i, points) in points.iter().enumerate().skip(1) {
        let these = distances(points, &terms);
        let better = these.lt(best);
        best = E::select(better, these, best);
        index = E::select(better, E::splat(token, 8.0 * i as f32), index);
    }
    let nearest_lanes = best.eq(E::splat(token, best.reduce_min()));
    let index =
        E::select(nearest_lanes, index + E::load(token, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), E::splat(token, f32::MAX)).reduce_min();
    points.as_flattened()[usize::from((index + ROUND).to_bits() as u16)]
}

/// Returns the distance of each point, the sum of its coordinates' terms; NaN and infinity become `f32::MAX`.
#[inline(always)]
fn distances<E: Eight, const DIM: usize>(points: &[u16; 8], terms: &[E; DIM]) -> E {
    let token = terms[0].token();
    let codes = E::codes(token, points);
    let mut sum = E::splat(token, 0.0);
    for (j, term) in terms.iter().enumerate() {
        sum = sum + term.lookup(codes, level_bits(DIM) * j);
    }
    sum.min(E::splat(token, f32::MAX))
}

/// Returns the lanes as arrays.
#[inline(always)]
pub(super) fn unpack<E: Eight, const EIGHTS: usize>(lanes: [E; EIGHTS]) -> [[f32; 8]; EIGHTS] {
    let mut indices = [[0.0; 8]; EIGHTS];
    for (lanes, indices) in lanes.into_iter().zip(&mut indices) {
        lanes.store(indices);
    }
    indices
}

/// Returns the values of the levels of IQ2 and IQ3 during the search, in units of the scale.
#[inline(always)]
fn steps<E: Eight, const DIM: usize>(token: E::Token) -> E {
    E::load(token, if DIM == 8 { &[1.0, 3.0, 5.0, 7.0, 1.0, 3.0, 5.0, 7.0] } else { &[1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0] })
}

impl<const DIM: usize, const GROUPS: usize> Block<DIM, GROUPS> {
    /// Returns the code of a group's grid point or best neighbour, and whether the given code was a grid point itself.
    #[inline(always)]
    fn point<E: Eight>(&self, token: E::Token, grid: &GridIndex<DIM>, group: usize, code: u16, scale: f32) -> (u16, bool) {
        match grid.lookup(code) {
            Lookup::OnGrid(_) => (code, true),
            Lookup::Neighbours(neighbours) => {
                let steps = E::splat(token, scale) * steps::<E, DIM>(token);
                (best_neighbour(neighbours, &self.x[group], &self.roots[group], steps), false)
            }
        }
    }

    /// Returns the sums of weight x value x step and of weight x step x step.
    #[inline(always)]
    fn sums(&self, codes: &[u16; GROUPS]) -> (f32, f32) {
        let (mut qx, mut q2) = (0.0, 0.0);
        for ((x, weights), &code) in self.x.iter().zip(&self.weights).zip(codes) {
            for (j, (x, w)) in x.iter().zip(weights).enumerate() {
                let q = (2 * level::<DIM>(code, j) + 1) as f32;
                qx += w * x * q;
                q2 += w * q * q;
            }
        }
        (qx, q2)
    }

    /// Returns the codes of the groups under each of `EIGHTS` x 8 scales, given their inverses and the largest of these.
    #[inline(always)]
    fn codes<E: Eight, const EIGHTS: usize>(&self, inverses: &[E; EIGHTS], largest: f32) -> [[[u16; 8]; EIGHTS]; GROUPS] {
        let token = inverses[0].token();
        // Large quotients need slower rounding; they are rare.
        let in_range = self.x.as_flattened().iter().fold(true, |in_range, x| in_range & (x.abs() * largest < 4e6));
        let (zero, half, one, top) =
            (E::splat(token, 0.0), E::splat(token, 0.5), E::splat(token, 1.0), E::splat(token, top_level(DIM) as f32));
        let mut codes = [[[0; 8]; EIGHTS]; GROUPS];
        for (x, codes) in self.x.iter().zip(&mut codes) {
            for (inverse, codes) in inverses.iter().zip(codes) {
                // Sums of levels times powers of two: integers below 2^16.
                let mut sum = zero;
                for (j, &x) in x.iter().enumerate() {
                    let level = half * (*inverse * E::splat(token, x) - one);
                    let level = if in_range { level.round_clamped(zero, top) } else { nearest_clamped(level, zero, top) };
                    sum = sum + level * E::splat(token, (1u32 << (level_bits(DIM) * j)) as f32);
                }
                let mut sums = [0.0; 8];
                sum.store(&mut sums);
                *codes = sums.map(|sum| (sum + ROUND).to_bits() as u16);
            }
        }
        codes
    }

    /// Returns [`Self::sums`] for the codes of all scales.
    #[inline(always)]
    fn all_sums<E: Eight, const EIGHTS: usize>(
        &self,
        token: E::Token,
        codes: &[[[u16; 8]; EIGHTS]; GROUPS],
    ) -> ([[f32; 8]; EIGHTS], [[f32; 8]; EIGHTS]) {
        let steps = steps::<E, DIM>(token);
        let (mut qx, mut q2) = ([E::splat(token, 0.0); EIGHTS], [E::splat(token, 0.0); EIGHTS]);
        for ((x, weights), codes) in self.x.iter().zip(&self.weights).zip(codes) {
            let mut lanes = [E::codes(token, &codes[0]); EIGHTS];
            for (lanes, codes) in lanes.iter_mut().zip(codes) {
                *lanes = E::codes(token, codes);
            }
            for (j, (x, w)) in x.iter().zip(weights).enumerate() {
                let (wx, w) = (E::splat(token, w * x), E::splat(token, *w));
                for i in 0..EIGHTS {
                    let q = steps.lookup(lanes[i], level_bits(DIM) * j);
                    qx[i] = qx[i] + wx * q;
                    q2[i] = q2[i] + w * q * q;
                }
            }
        }
        (unpack(qx), unpack(q2))
    }

    /// Tries scales around the one that maps `max` to the highest level; the result is `scale` if none is any good, and may be negative.
    /// Each lane tries one scale; `EIGHTS` x 8 is at least the number of tries.
    #[inline(always)]
    fn search<E: Eight, const EIGHTS: usize>(
        &self,
        token: E::Token,
        grid: &GridIndex<DIM>,
        params: &SearchParams,
        max: f32,
        mut scale: f32,
    ) -> (f32, [u16; GROUPS]) {
        let top = (2 * top_level(DIM) + 1) as f32;
        let tries = 2 * params.tries as usize + 1;
        let mut inverses = [E::splat(token, 0.0); EIGHTS];
        let mut scales = [[0.0; 8]; EIGHTS];
        for (i, (inverse, scales)) in inverses.iter_mut().zip(&mut scales).enumerate() {
            let offsets: [f32; 8] = std::array::from_fn(|lane| f32::from((8 * i + lane) as i8 - params.tries) * params.step);
            *inverse = (E::splat(token, top) + E::load(token, &offsets)) / E::splat(token, max);
            (E::splat(token, 1.0) / *inverse).store(scales);
        }
        let mut codes = self.codes(&inverses, (top + f32::from(params.tries + 8) * params.step) / max);
        let mut on_grid = [0u32; GROUPS];
        for (group, (codes, on_grid)) in codes.iter_mut().zip(&mut on_grid).enumerate() {
            for (i, (code, &scale)) in codes.as_flattened_mut().iter_mut().zip(scales.as_flattened()).take(tries).enumerate() {
                let (point, on) = self.point::<E>(token, grid, group, *code, scale);
                *code = point;
                *on_grid |= u32::from(on) << i;
            }
        }
        let (qx, q2) = self.all_sums::<E, EIGHTS>(token, &codes);
        let (mut best, mut best_try) = (0.0, None);
        for (i, (&qx, &q2)) in qx.as_flattened().iter().zip(q2.as_flattened()).take(tries).enumerate() {
            if q2 > 0.0 && qx * qx > best * q2 {
                scale = qx / q2;
                best = scale * qx;
                best_try = Some(i);
            }
        }
        let (mut found, on_grid) = match best_try {
            Some(i) => (codes.map(|codes| codes.as_flattened()[i]), on_grid.map(|on_grid| on_grid >> i & 1 == 1)),
            None => ([0; GROUPS], [params.refit == Refit::OffGrid; GROUPS]),
        };
        if scale > 0.0 && (params.refit == Refit::Always || on_grid.contains(&false)) {
            let inverse = 1.0 / scale;
            for (group, on_grid) in on_grid.into_iter().enumerate() {
                if !(on_grid && params.refit == Refit::OffGrid) {
                    found[group] = self.point::<E>(token, grid, group, code(&self.x[group], inverse), scale).0;
                }
            }
            let (qx, q2) = self.sums(&found);
            if q2 > 0.0 {
                scale = qx / q2;
            }
        }
        (scale, found)
    }
}

impl SearchParams {
    /// Encodes a block, given the weights of its values.
    #[inline(always)]
    fn encode<E: Eight, const DIM: usize, const GROUPS: usize, const EIGHTS: usize>(
        &self,
        token: E::Token,
        grid: &GridIndex<DIM>,
        values: &[[f32; DIM]; GROUPS],
        weights: &[[f32; DIM]; GROUPS],
    ) -> EncodedBlock<GROUPS> {
        let mut block = Block { x: *values, weights: *weights, roots: weights.map(|weights| weights.map(f32::sqrt)) };
        let mut signs = 0;
        let eights = block.x.as_flattened_mut().as_chunks_mut::<8>().0.iter_mut().zip(weights.as_flattened().as_chunks::<8>().0);
        for (i, (x, weights)) in eights.enumerate() {
            let (magnitudes, negative) = split_signs(x, weights, self.even_signs);
            *x = magnitudes;
            signs |= u32::from(negative) << (8 * i);
        }
        let flat = block.x.as_flattened();
        let mut largest = flat[1..].iter().fold(flat[0], |largest, &x| max(largest, x));
        if largest < self.tiny {
            return EncodedBlock::EMPTY;
        }
        let top = (2 * top_level(DIM) + 1) as f32;
        let mut start = largest / top;
        if self.fitted {
            start = non_negative(flat, weights.as_flattened(), top_level(DIM) + 2, &mut [0; 32][..flat.len()]);
            largest = start * (top_level(DIM) + 1) as f32;
            if largest <= 0.0 {
                return EncodedBlock::EMPTY;
            }
        }
        let (scale, codes) = block.search::<E, EIGHTS>(token, grid, self, largest, start);
        // Stored scales are unsigned: flip the signs of the values instead.
        let (scale, signs) = if scale < 0.0 { (-scale, !signs) } else { (scale, signs) };
        EncodedBlock { scale, indices: codes.map(|code| grid.index(code)), signs, empty: false }
    }

    /// Encodes a row. `store` writes the blocks of each 256 values into zeroed bytes; it also takes the unit of their scales, 1/31 of the
    /// largest, or `None` if all are zero.
    #[inline(always)]
    pub(super) fn encode_row<
        E: Eight,
        const DIM: usize,
        const GROUPS: usize,
        const BLOCKS: usize,
        const EIGHTS: usize,
        const BYTES: usize,
    >(
        &self,
        token: E::Token,
        grid: &GridIndex<DIM>,
        (values, importance, bytes): (&[f32], Option<&[f32]>, &mut [u8]),
        store: impl Fn(&[EncodedBlock<GROUPS>; BLOCKS], Option<f32>, &mut [u8; BYTES]),
    ) {
        for (values, importance, out) in rows::<BYTES>(values, importance, bytes) {
            out.fill(0);
            let blocks = self.encode_all::<E, DIM, GROUPS, BLOCKS, EIGHTS>(token, grid, values, importance);
            let largest = largest_scale(blocks.iter().map(|block| block.scale));
            store(&blocks, (largest != 0.0).then_some(largest / 31.0), out);
        }
    }

    /// Encodes the blocks of 256 values.
    #[inline(always)]
    fn encode_all<E: Eight, const DIM: usize, const GROUPS: usize, const BLOCKS: usize, const EIGHTS: usize>(
        &self,
        token: E::Token,
        grid: &GridIndex<DIM>,
        values: &[f32; 256],
        importance: Option<&[f32; 256]>,
    ) -> [EncodedBlock<GROUPS>; BLOCKS] {
        let mean = self.sigma2_factor * sum_of_squares(values) / 256.0;
        let weights: [f32; 256] = match importance {
            Some(importance) => std::array::from_fn(|i| importance[i] * (mean + values[i] * values[i]).sqrt()),
            None => values.map(|x| (self.plain_weight)(mean, x)),
        };
        let mut found = [EncodedBlock::EMPTY; BLOCKS];
        let values = values.as_chunks::<DIM>().0.as_chunks::<GROUPS>().0;
        let weights = weights.as_chunks::<DIM>().0.as_chunks::<GROUPS>().0;
        for ((values, weights), found) in values.iter().zip(weights).zip(&mut found) {
            *found = self.encode::<E, DIM, GROUPS, EIGHTS>(token, grid, values, weights);
        }
        found
    }
}
