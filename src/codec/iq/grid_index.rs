//! Lookup of vectors of levels in a grid: the index of a grid point, or the neighbours of any other vector.
//!
//! A vector is given by its code: levels packed from the lowest bits up, 2 bits each for 8 coordinates, 3 bits each for 4. The tables are
//! those that ggml-quants.c builds in `iq2xs_init_impl` and `iq3xs_init_impl` (`kmap_q2xs`, `kneighbors_q2xs`).

use std::sync::OnceLock;

use super::grid;

/// Grid points by code, and the neighbours of every code that is not a grid point.
#[derive(Debug)]
pub(super) struct GridIndex<const DIM: usize> {
    /// For every code: a grid index with [`ON_GRID`] set, or the start and the number ([`COUNT_BITS`] bits) of its neighbours, in groups of
    /// eight.
    map: Vec<u32>,
    /// Codes of the neighbours, by ascending distance, then by grid index. Each list is padded to a multiple of eight by repeating its last
    /// code.
    neighbours: Vec<[u16; 8]>,
}

const ON_GRID: u32 = 1 << 31;
const COUNT_BITS: u32 = 8;

/// Result of looking up a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lookup<'a> {
    /// Grid point, by its grid index.
    OnGrid(u16),
    /// Codes of the nearest grid points; at least one.
    Neighbours(&'a [[u16; 8]]),
}

/// Returns the number of bits of a level.
pub(super) const fn level_bits(dim: usize) -> usize {
    if dim == 8 { 2 } else { 3 }
}

/// Returns the highest level; two-bit levels do not use 3.
pub(super) const fn top_level(dim: usize) -> i32 {
    if dim == 8 { 2 } else { 7 }
}

/// Returns the level of coordinate `j` in a code.
pub(super) const fn level<const DIM: usize>(code: u16, j: usize) -> usize {
    code as usize >> (level_bits(DIM) * j) & ((1 << level_bits(DIM)) - 1)
}

impl<const DIM: usize> GridIndex<DIM> {
    /// Builds the tables for a grid given by the codes of its points; neighbours are the points at the `shells` smallest distances.
    fn new(points: &[u16], shells: usize) -> Self {
        let half_bits = level_bits(DIM) * DIM / 2;
        let half = 1usize << half_bits;
        // Squared distances between halves of codes: the distance of two codes is the sum of two entries.
        let part = |a: usize, b: usize| -> u8 {
            (0..DIM / 2).map(|j| level::<DIM>(a as u16, j).abs_diff(level::<DIM>(b as u16, j)).pow(2) as u8).sum()
        };
        let parts: Vec<u8> = (0..half * half).map(|i| part(i / half, i % half)).collect();
        let mut grid = Self { map: vec![0; half * half], neighbours: Vec::new() };
        let mut distances = vec![0u8; points.len()];
        let mut nearest = Vec::new();
        for code in 0..half * half {
            if (0..DIM).any(|j| level::<DIM>(code as u16, j) > top_level(DIM) as usize) {
                continue;
            }
            if let Ok(number) = points.binary_search(&(code as u16)) {
                grid.map[code] = ON_GRID | number as u32;
                continue;
            }
            let low = &parts[code % half * half..][..half];
            let high = &parts[code / half * half..][..half];
            let mut counts = [0usize; 256];
            for (distance, &point) in distances.iter_mut().zip(points) {
                *distance = low[usize::from(point) % half] + high[usize::from(point) / half];
                counts[usize::from(*distance)] += 1;
            }
            nearest.clear();
            for shell in (0..256).filter(|&distance| counts[distance] > 0).take(shells) {
                let members = distances.iter().zip(points).filter(|(distance, _)| usize::from(**distance) == shell);
                nearest.extend(members.map(|(_, &point)| point));
            }
            nearest.resize(nearest.len().next_multiple_of(8), nearest.last().copied().unwrap_or(0));
            let (start, eights) = (grid.neighbours.len(), nearest.as_chunks().0);
            grid.map[code] = (start as u32) << COUNT_BITS | eights.len() as u32;
            grid.neighbours.extend_from_slice(eights);
        }
        grid
    }

    /// Looks up a code. Its levels must not exceed [`top_level`].
    #[inline(always)]
    pub(super) fn lookup(&self, code: u16) -> Lookup<'_> {
        let entry = self.map[usize::from(code)];
        if entry & ON_GRID != 0 {
            return Lookup::OnGrid(entry as u16);
        }
        let (start, count) = (entry >> COUNT_BITS, entry & ((1 << COUNT_BITS) - 1));
        Lookup::Neighbours(&self.neighbours[start as usize..][..count as usize])
    }

    /// Returns the grid index of a code; 0 if the code is not a grid point.
    #[inline(always)]
    pub(super) fn index(&self, code: u16) -> u16 {
        match self.lookup(code) {
            Lookup::OnGrid(number) => number,
            Lookup::Neighbours(_) => 0,
        }
    }
}

macro_rules! grid_indexes {
    ($($name:ident: $dim:literal, $codes:ident, $shells:literal;)*) => {$(
        /// Returns the tables of the grid, which are built on first use.
        pub(super) fn $name() -> &'static GridIndex<$dim> {
            static INDEX: OnceLock<GridIndex<$dim>> = OnceLock::new();
            INDEX.get_or_init(|| GridIndex::new(&grid::$codes, $shells))
        }
    )*};
}

grid_indexes! {
    iq1: 8, IQ1_CODES, 3;
    iq2_xxs: 8, IQ2_XXS_CODES, 2;
    iq2_xs: 8, IQ2_XS_CODES, 2;
    iq2_s: 8, IQ2_S_CODES, 1;
    iq3_xxs: 4, IQ3_XXS_CODES, 2;
    iq3_s: 4, IQ3_S_CODES, 3;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distance<const DIM: usize>(a: u16, b: u16) -> usize {
        (0..DIM).map(|j| level::<DIM>(a, j).abs_diff(level::<DIM>(b, j)).pow(2)).sum()
    }

    /// Checks every `stride`-th code and returns the total number of their neighbours.
    fn check<const DIM: usize>(grid: &GridIndex<DIM>, points: &[u16], shells: usize, stride: usize) -> usize {
        for (number, &point) in points.iter().enumerate() {
            assert_eq!(grid.lookup(point), Lookup::OnGrid(number as u16));
        }
        let legal = |code: u16| (0..DIM).all(|j| level::<DIM>(code, j) <= top_level(DIM) as usize);
        let mut count = 0;
        for code in (0..grid.map.len()).step_by(stride).map(|code| code as u16).filter(|&code| legal(code)) {
            let Lookup::Neighbours(nearest) = grid.lookup(code) else { continue };
            let mut all: Vec<(usize, usize)> = points.iter().enumerate().map(|(i, &point)| (distance::<DIM>(code, point), i)).collect();
            all.sort_unstable();
            let mut distances: Vec<usize> = all.iter().map(|entry| entry.0).collect();
            distances.dedup();
            let last = distances[..distances.len().min(shells)].iter().copied().max().unwrap();
            let expected: Vec<u16> = all.iter().filter(|entry| entry.0 <= last).map(|entry| points[entry.1]).collect();
            let (nearest, padding) = nearest.as_flattened().split_at(expected.len());
            assert!(nearest == expected && padding.len() < 8 && padding.iter().all(|code| nearest.last() == Some(code)), "code {code:#x}");
            count += nearest.len();
        }
        count
    }

    #[test]
    fn neighbours_are_the_nearest_points_in_order() {
        check(iq1(), &grid::IQ1_CODES, 3, 61);
        check(iq2_xxs(), &grid::IQ2_XXS_CODES, 2, 17);
        check(iq2_xs(), &grid::IQ2_XS_CODES, 2, 31);
        check(iq2_s(), &grid::IQ2_S_CODES, 1, 61);
        assert_eq!(check(iq3_xxs(), &grid::IQ3_XXS_CODES, 2, 1), 18_985);
        assert_eq!(check(iq3_s(), &grid::IQ3_S_CODES, 3, 1), 24_733);
    }
}
