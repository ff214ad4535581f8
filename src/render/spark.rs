//! Bars in text: sparklines and horizontal bars.

/// Blocks from zero to eight eighths.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Returns one character per count, the largest as a full block. Small counts are at least an eighth, so that they stay visible.
pub fn sparkline(counts: &[u64]) -> String {
    let max = counts.iter().copied().max().unwrap_or(0);
    let bar = |count: u64| (u128::from(count) * 8).div_ceil(u128::from(max.max(1))) as usize;
    counts.iter().map(|&count| BARS[bar(count).min(8)]).collect()
}

/// Returns a horizontal bar, measured in eighths of a character.
pub fn bar(eighths: usize) -> String {
    let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    "█".repeat(eighths / 8) + rest
}

/// Scales a bar to `to / from` of its length; it stays visible.
pub(super) fn scale(text: &str, to: usize, from: usize) -> String {
    // The blocks stand in Unicode from a whole one to an eighth.
    let eighths: usize =
        text.chars().filter_map(|c| u32::from(c).checked_sub(0x2588).filter(|&less| less < 8)).map(|less| 8 - less as usize).sum();
    bar((eighths * to).div_ceil(from.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lying_bars_keep_their_proportions() {
        assert_eq!((bar(0), bar(7), bar(20)), (String::new(), "▉".to_owned(), "██▌".to_owned()));
        assert_eq!(scale("████", 2, 4), "██");
        assert_eq!(scale("█▌", 2, 4), "▊");
        assert_eq!((scale("▏", 1, 9), scale("", 1, 9)), ("▏".to_owned(), String::new()));
    }

    #[test]
    fn bars_are_eighths_of_the_tallest() {
        assert_eq!(sparkline(&[0, 1, 100, 400, 800]), " ▁▁▄█");
        assert_eq!(sparkline(&[0, 0]), "  ");
        assert_eq!(sparkline(&[u64::MAX]), "█");
    }
}
