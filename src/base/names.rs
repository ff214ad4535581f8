//! Names that should come once.

use std::hash::BuildHasher;

use foldhash::{HashMap, HashMapExt};
use rayon::prelude::*;

use crate::base::threads::ready;

/// The places of names that came before, rising, each with the place where its name came first.
///
/// Sorted hashes find them in half the time of a table of all names, which is larger than the processor's cache where a model has many
/// tensors.
pub(crate) fn repeated(names: &[&str]) -> Vec<(usize, usize)> {
    let hasher = foldhash::fast::RandomState::default();
    let mut places: Vec<(u64, usize)> = names.iter().enumerate().map(|(place, name)| (hasher.hash_one(name), place)).collect();
    ready();
    places.par_sort_unstable();
    let mut repeated = Vec::new();
    for alike in places.chunk_by(|a, b| a.0 == b.0).filter(|alike| alike.len() > 1) {
        // Other names may have the same hash.
        let mut first = HashMap::new();
        for &(_, place) in alike {
            let before = *first.entry(names[place]).or_insert(place);
            if before < place {
                repeated.push((place, before));
            }
        }
    }
    repeated.sort_unstable();
    repeated
}

#[cfg(test)]
mod tests {
    use super::repeated;

    #[test]
    fn later_ones_are_told_with_the_first() {
        assert_eq!(repeated(&["a", "b", "a", "c", "b", "a", ""]), [(2, 0), (4, 1), (5, 0)]);
        assert_eq!(repeated(&[]), []);
        assert_eq!(repeated(&["", "x", ""]), [(2, 0)]);
    }
}
