//! One of several parts of the work, for several machines.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::base::{Error, Result, limits};

/// One of several parts of the work: `2/7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Part {
    /// Its number, from 1.
    #[serde(rename = "part")]
    pub number: usize,
    /// The number of parts.
    #[serde(rename = "parts")]
    pub count: usize,
}

impl Part {
    /// Returns part `number` of `count`.
    ///
    /// # Errors
    /// There is no such part, or there are more than [`limits::SHARDS`].
    pub fn new(number: usize, count: usize) -> Result<Self> {
        if number == 0 || number > count || count > limits::SHARDS {
            let message = format!("expected a part from 1/N to N/N, with N at most {}, found {number}/{count}", limits::SHARDS);
            return Err(Error::argument(message));
        }
        Ok(Self { number, count })
    }
}

impl FromStr for Part {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = text.split_once('/').and_then(|(number, count)| Some((number.parse().ok()?, count.parse().ok()?)));
        let (number, count) = numbers.ok_or_else(|| Error::argument(format!("expected a part such as 2/7, found {text}")))?;
        Self::new(number, count)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.count)
    }
}

/// Assigns work items to parts: the largest first, each to the part with the least work so far. Returns the part index of each item.
pub(in crate::ops) fn owners(work: &[u64], parts: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..work.len()).collect();
    order.sort_by_key(|&piece| Reverse(work[piece]));
    let mut loads: BinaryHeap<Reverse<(u64, usize)>> = (0..parts).map(|part| Reverse((0, part))).collect();
    let mut owners = vec![0; work.len()];
    for piece in order {
        if let Some(mut least) = loads.peek_mut() {
            owners[piece] = least.0.1;
            least.0.0 = least.0.0.saturating_add(work[piece]);
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_one_of_as_many_as_there_are() {
        assert_eq!("2/7".parse::<Part>().unwrap(), Part { number: 2, count: 7 });
        for wrong in ["0/7", "8/7", "1/0", "1", "a/b", "1/10001", "-1/2", "1/2/3", ""] {
            assert!(wrong.parse::<Part>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_largest_pieces_go_first_to_the_part_with_the_least_work() {
        // By hand: 9 -> part 0, 7 -> part 1, 5 -> part 1 (12), 4 -> part 0 (13), 3 -> part 1 (15).
        assert_eq!(owners(&[3, 9, 5, 7, 4], 2), [1, 0, 1, 1, 0]);
        assert_eq!(owners(&[1, 1, 1], 1), [0; 3]);
        assert_eq!(owners(&[5, 5, 5], 7), [0, 1, 2]);
        assert!(owners(&[], 7).is_empty());
    }
}
