//! A progress bar on standard error: only on a terminal, and only for work that takes longer than about a second.

use std::io::{self, IsTerminal};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::base::threads::lock;
use crate::base::units;

/// The delay before the bar appears.
const DELAY: Duration = Duration::from_secs(1);

/// The progress of a command over all its models: bytes done, or another unit, of an estimated total.
pub(super) struct Progress {
    shown: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When the work started; `None` before.
    start: Option<Instant>,
    work: Work,
    /// What is counted, if that is not bytes.
    unit: Option<&'static str>,
    bar: Option<ProgressBar>,
}

/// Work on several models, one after the other.
#[derive(Debug, Default)]
struct Work {
    /// Sizes of the present model and of those to come, as far as they are known.
    sizes: Vec<u64>,
    /// Bytes done of the models before the present one.
    before: u64,
    /// Bytes done of the present model.
    done: u64,
    /// Bytes to do of the present model: those of its tensors several times, or of a few of them.
    total: u64,
}

impl Work {
    /// Returns the bytes done and the bytes to do of all models. The models to come are expected to take as much for their size as the present
    /// one.
    fn of_all(&self) -> (u64, u64) {
        let (size, rest) = match self.sizes.split_first() {
            Some((size, rest)) => (*size, rest.iter().fold(0, |sum: u64, size| sum.saturating_add(*size))),
            None => (0, 0),
        };
        let total = self.total.max(self.done);
        let to_come = if size == 0 { rest } else { (rest as f64 * (total as f64 / size as f64)) as u64 };
        (self.before.saturating_add(self.done), self.before.saturating_add(total).saturating_add(to_come))
    }

    /// Goes on to the next model. All of the present one is done, however much was estimated.
    fn next(&mut self) {
        self.before = self.before.saturating_add(self.done);
        (self.done, self.total) = (0, 0);
        if !self.sizes.is_empty() {
            self.sizes.remove(0);
        }
    }
}

impl Progress {
    /// Returns the progress of work that has not started; nothing is ever shown if `quiet`.
    pub(super) fn new(quiet: bool) -> Self {
        Self { shown: !quiet && io::stderr().is_terminal(), state: Mutex::default() }
    }

    /// Starts counting, at the first call. `sizes` returns those of all models, if there are several; it is called only if they are shown.
    pub(super) fn start(&self, sizes: impl FnOnce() -> Vec<u64>) {
        let mut state = lock(&self.state);
        if self.shown && state.start.is_none() {
            state.work.sizes = sizes();
            state.start = Some(Instant::now());
        }
    }

    /// Counts `unit` instead of bytes.
    #[cfg(feature = "catalog")]
    pub(super) fn count(&self, unit: &'static str) {
        lock(&self.state).unit = Some(unit);
    }

    /// Adds `bytes` done of the `total` of the present model.
    pub(super) fn add(&self, bytes: u64, total: u64) {
        if !self.shown {
            return;
        }
        let state = &mut *lock(&self.state);
        state.work.done = state.work.done.saturating_add(bytes);
        state.work.total = total;
        let elapsed = state.start.map_or(Duration::ZERO, |start| start.elapsed());
        if elapsed < DELAY {
            return;
        }
        let (done, total) = state.work.of_all();
        let unit = state.unit;
        let bar = state.bar.get_or_insert_with(|| {
            let counted = unit.map_or_else(|| "{decimal_bytes}/{decimal_total_bytes}".to_owned(), |unit| format!("{{pos}}/{{len}} {unit}"));
            let style = ProgressStyle::with_template(&format!("{{bar:32}} {{percent:>3}}% {counted} {{msg}}"));
            ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        bar.set_length(total);
        bar.set_message(pace(done, total, elapsed, unit));
        bar.set_position(done);
    }

    /// Goes on to the next model.
    pub(super) fn next(&self) {
        lock(&self.state).work.next();
    }

    /// Removes the bar, which the next step shows again; so does dropping this.
    pub(super) fn hide(&self) {
        if let Some(bar) = lock(&self.state).bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Formats the rate since the start, and the time left at that rate: `85.3 MB/s, 4 s left`. It is right from the first bar on, which a moving average
/// of the steps since then is not.
fn pace(done: u64, total: u64, elapsed: Duration, unit: Option<&str>) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-9);
    let left = Duration::from_secs_f64((total.saturating_sub(done) as f64 / rate.max(1.0)).min(1e9));
    let counted = unit.map_or_else(|| units::bytes(rate as u64), |_| units::general(rate, 3));
    format!("{counted}/s, {} left", HumanDuration(left))
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.hide();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_since_the_start() {
        assert_eq!(pace(50_000_000, 250_000_000, Duration::from_secs(2), None), "25.0 MB/s, 8 seconds left");
        assert_eq!(pace(30, 90, Duration::from_secs(4), Some("models")), "7.5/s, 8 seconds left");
        assert_eq!(pace(0, 10, Duration::from_secs(1), None).split(',').next(), Some("0 B/s"));
    }

    #[test]
    fn the_total_is_that_of_all_models() {
        // Three models of 100, 300 and 600 bytes, each of which is read twice, and of the last only a half.
        let mut work = Work { sizes: vec![100, 300, 600], done: 50, total: 200, ..Work::default() };
        assert_eq!(work.of_all(), (50, 2000));
        work.done = 200;
        assert_eq!(work.of_all(), (200, 2000));
        work.next();
        assert_eq!(work.of_all().0, 200);
        (work.done, work.total) = (600, 600);
        assert_eq!(work.of_all(), (800, 2000));
        work.next();
        (work.done, work.total) = (100, 300);
        assert_eq!(work.of_all(), (900, 1100));
        // More was done than was expected; and a single model, whose size nobody asked for.
        work.done = 400;
        assert_eq!(work.of_all(), (1200, 1200));
        assert_eq!(Work { done: 1, total: 5, ..Work::default() }.of_all(), (1, 5));
    }
}
