//! The search that encoders of IQ2 and IQ3 share: try scales, take the nearest grid point of each group under each, keep the best.
//!
//! ggml-quants.c: the inner loops of `quantize_row_iq2_{xxs,xs,s}_impl`, `quantize_row_iq3_{xxs,s}_impl`, and `iq{2,3}_find_best_neighbour`.

use super::fit::positive_scale;
use super::lattice::{Lattice, Place, level, level_bits, top_level};
use super::{nearest, squares};

/// What tells the types apart.
#[derive(Debug)]
pub(super) struct Rule {
    /// Whether seven signs are stored for eight values, so that the number of negative ones must be even.
    pub(super) even: bool,
    /// What the mean of the squares is multiplied by before it widens the weights.
    pub(super) spread: f32,
    /// The weight of a value where there is no importance, from the mean of the squares and the value.
    pub(super) plain_weight: fn(f32, f32) -> f32,
    /// A block whose largest value is below this is zero.
    pub(super) tiny: f32,
    /// Whether the search is about a scale that least squares find, and not about the largest value.
    pub(super) fitted: bool,
    /// How many scales are tried to each side of the middle one.
    pub(super) tries: i8,
    /// How far they lie apart, in units of the largest value that a coordinate has.
    pub(super) step: f32,
    /// Which groups are searched again under the scale that was found.
    pub(super) again: Again,
}

/// What the levels of IQ2 and IQ3 stand for while they are searched, in units of the scale.
const STEPS: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];

/// Which groups are searched again under the best scale.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// All of them.
    Always,
    /// All of them, unless all are on the grid as they are.
    IfOneIsOff,
    /// Those that are not on the grid as they are.
    ThoseOff,
}

/// Values of a block, with the weights that errors in them have.
#[derive(Debug)]
struct Block<const DIM: usize, const GROUPS: usize> {
    /// The values, made positive (but for at most one of eight, where signs are even).
    x: [[f32; DIM]; GROUPS],
    /// The weights.
    weights: [[f32; DIM]; GROUPS],
    /// Their square roots, which weigh the distances to neighbours.
    roots: [[f32; DIM]; GROUPS],
}

/// What a block is encoded to: nothing but zeros if it is too small.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<const GROUPS: usize> {
    /// The scale, not negative.
    pub(super) scale: f32,
    /// The number of each group's grid point.
    pub(super) numbers: [u16; GROUPS],
    /// A bit for each negative value, the first in the lowest; of each eight the last means nothing where signs are even.
    pub(super) signs: u32,
    /// Whether the block was too small to be searched.
    pub(super) empty: bool,
}

impl<const GROUPS: usize> Found<GROUPS> {
    const EMPTY: Self = Self { scale: 0.0, numbers: [0; GROUPS], signs: 0, empty: true };
}

/// Four times seven signs, and a scale of four bits.
pub(super) fn seven_signs(signs: u32, scale: u8) -> u32 {
    (0..4).fold(u32::from(scale) << 28, |packed, i| packed | (signs >> (8 * i) & 127) << (7 * i))
}

/// The blocks of a row of 256-element blocks, each with its importance and its place in the output.
pub(super) fn rows<'a, const BYTES: usize>(
    values: &'a [f32],
    importance: Option<&'a [f32]>,
    bytes: &'a mut [u8],
) -> impl Iterator<Item = (&'a [f32; 256], Option<&'a [f32; 256]>, &'a mut [u8; BYTES])> {
    let importance = importance.map_or(&[][..], |importance| importance.as_chunks().0);
    let blocks = values.as_chunks().0.iter().zip(bytes.as_chunks_mut().0);
    blocks.enumerate().map(|(i, (values, bytes))| (values, importance.get(i), bytes))
}

/// Splits eight values into magnitudes and signs. Where signs are even, the value that matters least may keep a minus.
fn split_signs(x: &[f32; 8], weights: &[f32; 8], even: bool) -> ([f32; 8], u8) {
    let positive = x.map(|x| x >= 0.0);
    let mut magnitudes = std::array::from_fn(|i| if positive[i] { x[i] } else { -x[i] });
    let mut signs = (0..8).fold(0, |signs, i| signs | u8::from(!positive[i]) << i);
    if even && signs.count_ones() % 2 == 1 {
        let cost = |i: usize| weights[i] * x[i] * x[i];
        let least = (1..8).fold(0, |least, i| if cost(i) < cost(least) { i } else { least });
        magnitudes[least] = -magnitudes[least];
        signs ^= 1 << least;
    }
    (magnitudes, signs)
}

/// The larger one, as the reference's macro has it: the second if they do not compare.
fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The largest of the scales.
pub(super) fn largest_scale(scales: impl Iterator<Item = f32>) -> f32 {
    scales.fold(0.0, max)
}

/// The number that stands for a block's scale: an odd multiple of the row's, which is `1 / inverse`.
pub(super) fn scale_number(scale: f32, inverse: f32, top: i32) -> u8 {
    nearest(0.5 * (inverse * scale - 1.0)).clamp(0, top) as u8
}

/// The code of the levels that lie nearest to `x` over the scale.
fn code<const DIM: usize>(x: &[f32; DIM], inverse: f32) -> u16 {
    x.iter().enumerate().fold(0, |code, (j, x)| {
        let level = nearest(0.5 * (inverse * x - 1.0)).clamp(0, top_level(DIM));
        code | (level as u16) << (level_bits(DIM) * j)
    })
}

/// The weighted squared distance of each coordinate of a vector to each level. The reference sums one of them for each coordinate of each
/// neighbour; they depend on nothing but the level, and so they are few.
pub(super) struct Terms<const DIM: usize>([[f32; 8]; DIM]);

impl<const DIM: usize> Terms<DIM> {
    /// `steps` are what the levels stand for, in units of the scale.
    pub(super) fn new(x: &[f32; DIM], weights: &[f32; DIM], scale: f32, steps: &[f32]) -> Self {
        let mut terms = [[0.0; 8]; DIM];
        for (j, terms) in terms.iter_mut().enumerate() {
            for (step, term) in steps.iter().zip(terms) {
                let difference = scale * step - x[j];
                *term = weights[j] * difference * difference;
            }
        }
        Self(terms)
    }
}

/// Of these points the one at the least distance: the first of them if there are more, and the first of all if no distance is a number.
pub(super) fn best_neighbour<const DIM: usize>(neighbours: &[u16], terms: &Terms<DIM>) -> u16 {
    let mut best = (f32::MAX, neighbours[0]);
    for &neighbour in neighbours {
        let distance = (0..DIM).fold(0.0, |sum, j| sum + terms.0[j][level::<DIM>(neighbour, j)]);
        if distance < best.0 {
            best = (distance, neighbour);
        }
    }
    best.1
}

impl<const DIM: usize, const GROUPS: usize> Block<DIM, GROUPS> {
    /// The code of the grid point for a group under a scale, and whether it was on the grid at once.
    fn point(&self, lattice: &Lattice<DIM>, group: usize, inverse: f32, scale: f32) -> (u16, bool) {
        let x = &self.x[group];
        let code = code(x, inverse);
        match lattice.place(code) {
            Place::On(_) => (code, true),
            Place::Near(neighbours) => {
                let steps = &STEPS[..=top_level(DIM) as usize];
                (best_neighbour(neighbours, &Terms::new(x, &self.roots[group], scale, steps)), false)
            }
        }
    }

    /// The sums of weight x value x step, and of weight x step x step.
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

    /// Searches about the scale that takes `max` to the highest level; `scale` is the answer if no try is any good.
    /// The scale may come out negative.
    fn search(&self, lattice: &Lattice<DIM>, rule: &Rule, max: f32, mut scale: f32) -> (f32, [u16; GROUPS]) {
        let top = (2 * top_level(DIM) + 1) as f32;
        let mut codes = [0; GROUPS];
        let mut on_grid = [rule.again == Again::ThoseOff; GROUPS];
        let mut best = 0.0;
        for offset in -rule.tries..=rule.tries {
            let inverse = (top + f32::from(offset) * rule.step) / max;
            let points: [_; GROUPS] = std::array::from_fn(|group| self.point(lattice, group, inverse, 1.0 / inverse));
            let these = points.map(|point| point.0);
            let (qx, q2) = self.sums(&these);
            if q2 > 0.0 && qx * qx > best * q2 {
                scale = qx / q2;
                best = scale * qx;
                codes = these;
                on_grid = points.map(|point| point.1);
            }
        }
        if scale > 0.0 && (rule.again == Again::Always || on_grid.contains(&false)) {
            let inverse = 1.0 / scale;
            for (group, on_grid) in on_grid.into_iter().enumerate() {
                if !(on_grid && rule.again == Again::ThoseOff) {
                    codes[group] = self.point(lattice, group, inverse, scale).0;
                }
            }
            let (qx, q2) = self.sums(&codes);
            if q2 > 0.0 {
                scale = qx / q2;
            }
        }
        (scale, codes)
    }
}

impl Rule {
    /// Encodes a block. `weights` are those of its values.
    fn encode<const DIM: usize, const GROUPS: usize>(
        &self,
        lattice: &Lattice<DIM>,
        values: &[[f32; DIM]; GROUPS],
        weights: &[[f32; DIM]; GROUPS],
    ) -> Found<GROUPS> {
        let mut block = Block { x: *values, weights: *weights, roots: weights.map(|weights| weights.map(f32::sqrt)) };
        let mut signs = 0;
        let eights = block.x.as_flattened_mut().as_chunks_mut::<8>().0.iter_mut().zip(weights.as_flattened().as_chunks::<8>().0);
        for (i, (x, weights)) in eights.enumerate() {
            let (magnitudes, negative) = split_signs(x, weights, self.even);
            *x = magnitudes;
            signs |= u32::from(negative) << (8 * i);
        }
        let flat = block.x.as_flattened();
        let mut largest = flat[1..].iter().fold(flat[0], |largest, &x| max(largest, x));
        if largest < self.tiny {
            return Found::EMPTY;
        }
        let top = (2 * top_level(DIM) + 1) as f32;
        let mut start = largest / top;
        if self.fitted {
            start = positive_scale(flat, weights.as_flattened(), top_level(DIM) + 2);
            largest = start * (top_level(DIM) + 1) as f32;
            if largest <= 0.0 {
                return Found::EMPTY;
            }
        }
        let (scale, codes) = block.search(lattice, self, largest, start);
        // Scales are stored without a sign; the values' signs turn instead.
        let (scale, signs) = if scale < 0.0 { (-scale, !signs) } else { (scale, signs) };
        Found { scale, numbers: codes.map(|code| lattice.number(code)), signs, empty: false }
    }

    /// Encodes the blocks of 256 values.
    pub(super) fn encode_all<const DIM: usize, const GROUPS: usize, const BLOCKS: usize>(
        &self,
        lattice: &Lattice<DIM>,
        values: &[f32; 256],
        importance: Option<&[f32; 256]>,
    ) -> [Found<GROUPS>; BLOCKS] {
        let mean = self.spread * squares(values) / 256.0;
        let weights: [f32; 256] = match importance {
            Some(importance) => std::array::from_fn(|i| importance[i] * (mean + values[i] * values[i]).sqrt()),
            None => values.map(|x| (self.plain_weight)(mean, x)),
        };
        let mut found = [Found::EMPTY; BLOCKS];
        let values = values.as_chunks::<DIM>().0.as_chunks::<GROUPS>().0;
        let weights = weights.as_chunks::<DIM>().0.as_chunks::<GROUPS>().0;
        for ((values, weights), found) in values.iter().zip(weights).zip(&mut found) {
            *found = self.encode(lattice, values, weights);
        }
        found
    }
}
