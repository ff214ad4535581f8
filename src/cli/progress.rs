//! A progress bar on standard error: only on a terminal, and only for work that takes longer than about a second.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

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
            let template = "{bar:32} {percent:>3}% {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
            // Draws to standard error, and to a terminal only.
            ProgressBar::new(total)
                .with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_elapsed(self.start.elapsed())
        });
        bar.set_position(done);
    }

    /// Removes the bar; so does dropping this.
    pub(super) fn finish(&self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
