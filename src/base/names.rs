//! Duplicate detection for large name lists.

use std::hash::BuildHasher;

use foldhash::{HashMap, HashMapExt};

use crate::base::threads;

/// Returns the indices of duplicates in ascending order, each with the index of the first occurrence.
///
/// Sorting hashes takes half the time of a hash table of all names, which exceeds the CPU cache for models with many tensors.
pub(crate) fn duplicates(names: &[&str]) -> Vec<(usize, usize)> {
    let hasher = foldhash::fast::RandomState::default();
    let mut indices: Vec<(u64, usize)> = names.iter().enumerate().map(|(index, name)| (hasher.hash_one(name), index)).collect();
    threads::sort_unstable(&mut indices);
    let mut duplicates = Vec::new();
    for alike in indices.chunk_by(|a, b| a.0 == b.0).filter(|alike| alike.len() > 1) {
        // Different names may have the same hash.
        let mut first = HashMap::new();
        for &(_, index) in alike {
            let before = *first.entry(names[index]).or_insert(index);
            if before < index {
                duplicates.push((index, before));
            }
        }
    }
    duplicates.sort_unstable();
    duplicates
}

/// A streaming duplicate check that stores hashes instead of copies of the names.
#[derive(Default)]
pub(crate) struct DuplicateCheck {
    hasher: foldhash::fast::RandomState,
    /// Hash of a name to its index.
    indices: HashMap<u64, usize>,
    /// Names whose hash collides with another's; practically always empty.
    alike: Vec<String>,
}

impl DuplicateCheck {
    /// Whether the name occurred before; if not, records it at `index`. `name_at` returns earlier names by index.
    pub(crate) fn is_duplicate<'a>(&mut self, name: &str, index: usize, name_at: impl Fn(usize) -> Option<&'a str>) -> bool {
        let first = *self.indices.entry(self.hasher.hash_one(name)).or_insert(index);
        if first == index || name_at(first) == Some(name) || self.alike.iter().any(|other| other == name) {
            return first != index;
        }
        self.alike.push(name.to_owned());
        false
    }
}

#[cfg(test)]
mod tests {
    use super::{DuplicateCheck, duplicates};

    #[test]
    fn a_name_that_came_before_is_known_even_if_it_has_the_hash_of_another() {
        let mut check = DuplicateCheck::default();
        let names = ["a", "b", "c"];
        let at = |index: usize| names.get(index).copied();
        assert!(!check.is_duplicate("a", 0, at) && !check.is_duplicate("b", 1, at) && check.is_duplicate("a", 2, at));
        // As if "c" had the hash of "a".
        let hash = std::hash::BuildHasher::hash_one(&check.hasher, "c");
        check.indices.insert(hash, 0);
        assert!(!check.is_duplicate("c", 2, at) && check.is_duplicate("c", 3, at));
    }

    #[test]
    fn later_duplicates_are_listed_with_the_first_occurrence() {
        assert_eq!(duplicates(&["a", "b", "a", "c", "b", "a", ""]), [(2, 0), (4, 1), (5, 0)]);
        assert_eq!(duplicates(&[]), []);
        assert_eq!(duplicates(&["", "x", ""]), [(2, 0)]);
    }
}
