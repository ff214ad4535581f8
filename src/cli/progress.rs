//! A progress bar on standard error: only on a terminal, and only for work that takes longer than about a second.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::base::units;

/// The delay before the bar appears.
const DELAY: Duration = Duration::from_secs(1);

/// Bytes done, of a total given with each step.
pub(super) struct Progress {
    quiet: bool,
    start: Instant,
    done: AtomicU64,
    bar: OnceLock<ProgressBar>,
}

impl Progress {
    /// Starts counting; nothing is shown if `quiet`.
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet, start: Instant::now(), done: AtomicU64::new(0), bar: OnceLock::new() }
    }

    /// Adds `bytes` done of `total`.
    pub(super) fn add(&self, bytes: u64, total: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.quiet || self.start.elapsed() < DELAY {
            return;
        }
        let bar = self.bar.get_or_init(|| {
            // Draws to standard error, and to a terminal only.
            let style = ProgressStyle::with_template("{bar:32} {percent:>3}% {decimal_bytes}/{decimal_total_bytes} {msg}");
            ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        bar.set_length(total);
        bar.set_message(pace(done, total, self.start.elapsed()));
        bar.set_position(done);
    }

    /// Removes the bar; so does dropping this.
    pub(super) fn finish(&self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}

/// Formats the rate since the start, and the time left at that rate: `85.3 MB/s, 4 s left`. It is right from the first bar on, which a moving average
/// of the steps since then is not.
fn pace(done: u64, total: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-9);
    let left = Duration::from_secs_f64((total.saturating_sub(done) as f64 / rate.max(1.0)).min(1e9));
    format!("{}/s, {} left", units::bytes(rate as u64), HumanDuration(left))
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_since_the_start() {
        assert_eq!(pace(50_000_000, 250_000_000, Duration::from_secs(2)), "25.0 MB/s, 8 seconds left");
        assert_eq!(pace(0, 10, Duration::from_secs(1)).split(',').next(), Some("0 B/s"));
    }
}
