//! Names that should come once.

use std::hash::BuildHasher;

use foldhash::{HashMap, HashMapExt};

use crate::base::threads;

/// The places of names that came before, rising, each with the place where its name came first.
///
/// Sorted hashes find them in half the time of a table of all names, which is larger than the processor's cache where a model has many
/// tensors.
pub(crate) fn repeated(names: &[&str]) -> Vec<(usize, usize)> {
    let hasher = foldhash::fast::RandomState::default();
    let mut places: Vec<(u64, usize)> = names.iter().enumerate().map(|(place, name)| (hasher.hash_one(name), place)).collect();
    threads::sort_unstable(&mut places);
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

/// Names that come one after the other, by their hashes: without a copy of each.
#[derive(Default)]
pub(crate) struct Seen {
    hasher: foldhash::fast::RandomState,
    /// The hash of a name, and its place.
    places: HashMap<u64, usize>,
    /// Names with the hash of another. There are none, but for one model in billions.
    alike: Vec<String>,
}

impl Seen {
    /// Whether a name came before; if not, it is at `place` from now on. `name_at` gives the names that came, by their places.
    pub(crate) fn came_before<'a>(&mut self, name: &str, place: usize, name_at: impl Fn(usize) -> Option<&'a str>) -> bool {
        let first = *self.places.entry(self.hasher.hash_one(name)).or_insert(place);
        if first == place || name_at(first) == Some(name) || self.alike.iter().any(|other| other == name) {
            return first != place;
        }
        self.alike.push(name.to_owned());
        false
    }
}

#[cfg(test)]
mod tests {
    use super::{Seen, repeated};

    #[test]
    fn a_name_that_came_before_is_known_even_if_it_has_the_hash_of_another() {
        let mut seen = Seen::default();
        let names = ["a", "b", "c"];
        let at = |place: usize| names.get(place).copied();
        assert!(!seen.came_before("a", 0, at) && !seen.came_before("b", 1, at) && seen.came_before("a", 2, at));
        // As if "c" had the hash of "a".
        let hash = std::hash::BuildHasher::hash_one(&seen.hasher, "c");
        seen.places.insert(hash, 0);
        assert!(!seen.came_before("c", 2, at) && seen.came_before("c", 3, at));
    }

    #[test]
    fn later_ones_are_told_with_the_first() {
        assert_eq!(repeated(&["a", "b", "a", "c", "b", "a", ""]), [(2, 0), (4, 1), (5, 0)]);
        assert_eq!(repeated(&[]), []);
        assert_eq!(repeated(&["", "x", ""]), [(2, 0)]);
    }
}
