//! Runs of zero bytes: parts of a file that never arrived.

use std::ops::Range;

use crate::codec::is_zero;

/// Shorter runs are ignored, unless they reach the start or the end of a chunk.
const MIN_BYTES: usize = 4096;

/// Number of bytes compared with zero at a time.
const STEP: usize = 512;

/// Returns the runs of zero bytes in `bytes`, which start at `start` in the file: those of at least [`MIN_BYTES`], and those at the ends.
pub(super) fn runs(bytes: &[u8], start: u64) -> Vec<Range<u64>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    for chunk in bytes.chunks(STEP) {
        let range = at..at + chunk.len();
        at = range.end;
        if !is_zero(chunk) {
            continue;
        }
        match found.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => found.push(range),
        }
    }
    // The exact ends of a run lie in the adjacent chunks.
    for run in &mut found {
        run.start -= bytes.get(..run.start).unwrap_or_default().iter().rev().take_while(|byte| **byte == 0).count();
        run.end += bytes.get(run.end..).unwrap_or_default().iter().take_while(|byte| **byte == 0).count();
    }
    let lead = bytes.iter().take_while(|byte| **byte == 0).count();
    let tail = bytes.iter().rev().take_while(|byte| **byte == 0).count();
    if lead > 0 && found.first().is_none_or(|run| run.start > 0) {
        found.insert(0, 0..lead);
    }
    if tail > 0 && found.last().is_none_or(|run| run.end < bytes.len()) {
        found.push(bytes.len() - tail..bytes.len());
    }
    found.retain(|run| run.len() >= MIN_BYTES || run.start == 0 || run.end == bytes.len());
    found.into_iter().map(|run| start + run.start as u64..start + run.end as u64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_have_exact_ends_and_short_ones_count_at_the_ends_alone() {
        let mut bytes = vec![1u8; 20_000];
        assert_eq!(runs(&bytes, 0), []);
        bytes[..3].fill(0);
        bytes[1_000..1_000 + MIN_BYTES].fill(0);
        bytes[9_001..9_001 + MIN_BYTES - 1].fill(0);
        bytes[19_999] = 0;
        assert_eq!(runs(&bytes, 7), [7..10, 1_007..1_007 + MIN_BYTES as u64, 20_006..20_007]);
        assert_eq!(runs(&[0; 10_000], 5), vec![5..10_005; 1]);
        assert_eq!(runs(&[0; 10], 5), vec![5..15; 1]);
        assert_eq!(runs(&[], 5), []);
    }
}
