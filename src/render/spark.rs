//! Bars in a line of text: a histogram the size of a word.

/// Eighths of a block, from none to all.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// One character a count, the tallest a full block. What is there at all is seen: a small count is an eighth, not nothing.
pub fn sparkline(counts: &[u64]) -> String {
    let max = counts.iter().copied().max().unwrap_or(0);
    let bar = |count: u64| (u128::from(count) * 8).div_ceil(u128::from(max.max(1))) as usize;
    counts.iter().map(|&count| BARS[bar(count).min(8)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_eighths_of_the_tallest() {
        assert_eq!(sparkline(&[0, 1, 100, 400, 800]), " ▁▁▄█");
        assert_eq!(sparkline(&[0, 0]), "  ");
        assert_eq!(sparkline(&[u64::MAX]), "█");
    }
}
