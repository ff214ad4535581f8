//! A progress bar of bytes, for work that takes longer than about a second.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How long work goes on before a bar is shown.
const PATIENCE: Duration = Duration::from_secs(1);

/// Counts bytes of work on any number of threads; on a terminal, shows how many are done of how many, and how fast.
pub(super) struct Progress {
    total: u64,
    done: AtomicU64,
    started: Instant,
    wanted: bool,
    bar: OnceLock<ProgressBar>,
}

impl Progress {
    /// For `total` bytes of work; nothing is shown if `quiet`, or if standard error is no terminal.
    pub(super) fn new(total: u64, quiet: bool) -> Self {
        let wanted = !quiet && io::stderr().is_terminal();
        Self { total, done: AtomicU64::new(0), started: Instant::now(), wanted, bar: OnceLock::new() }
    }

    /// So many bytes more are done.
    pub(super) fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.wanted && (self.bar.get().is_some() || self.started.elapsed() > PATIENCE) {
            self.bar.get_or_init(|| self.show()).set_position(done);
        }
    }

    fn show(&self) -> ProgressBar {
        let style = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left");
        let bar =
            ProgressBar::with_draw_target(Some(self.total), ProgressDrawTarget::stderr_with_hz(10)).with_elapsed(self.started.elapsed());
        match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar, // the template above is sound; indicatif's own style would do as well
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}
