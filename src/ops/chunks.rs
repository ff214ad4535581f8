//! The scheduler of the operations: work on tensors in chunks, on all threads, reduced in order.
//!
//! Chunks are fixed by the data alone, threads take them in order, and results are reduced in order: the outcome is the same for any
//! number of threads. Results that arrive early are buffered; a thread blocks while too many are, which bounds memory.
//!
//! A thread takes one chunk at a time, or a run of chunks that are best read by one thread, as those in one block of a remote file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::base::threads::{self, lock};
use crate::base::{Error, Result};

/// Most results of an item that are buffered until earlier ones arrive, besides those of the runs that threads are at.
const MAX_PENDING: usize = 64;

/// A chunk of an item (a tensor, a pair of tensors): both by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::ops) struct Chunk {
    pub(in crate::ops) item: usize,
    pub(in crate::ops) number: u64,
}

/// Processes all chunks of all items (`counts` has the number of chunks of each), and returns the reduced result of each item.
///
/// `process` gets the scratch space of its thread; `reduce` adds its results to the item, in chunk order.
///
/// # Errors
/// That of the first chunk, in order, that fails. Later chunks may or may not have been processed.
pub(in crate::ops) fn in_order<S: Default, P: Send, W: Default + Send>(
    counts: &[u64],
    process: impl Fn(&mut S, Chunk) -> Result<P> + Sync,
    reduce: impl Fn(&mut W, Chunk, P) -> Result<()> + Sync,
) -> Result<Vec<W>> {
    let items: Vec<Chunks> = counts.iter().map(|count| Chunks { count: *count, bytes: 0 }).collect();
    in_runs(Runs::new(&items, 0), process, reduce)
}

/// The chunks of an item.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Chunks {
    pub(in crate::ops) count: u64,
    /// The size of each.
    pub(in crate::ops) bytes: u64,
}

/// Divides all chunks of all items, in order, into runs: the parts of items that a thread takes at a time.
#[derive(Debug, Clone)]
pub(in crate::ops) struct Runs<'c> {
    items: &'c [Chunks],
    /// Size that a run of several chunks does not exceed.
    most: u64,
    next: Chunk,
}

impl<'c> Runs<'c> {
    /// Divides the chunks into runs of at most this size, or one chunk.
    pub(in crate::ops) fn new(items: &'c [Chunks], most: u64) -> Self {
        Self { items, most, next: Chunk { item: 0, number: 0 } }
    }
}

impl Iterator for Runs<'_> {
    type Item = Vec<(usize, Range<u64>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut run = Vec::new();
        let mut room = self.most;
        while let Some(Chunks { count, bytes }) = self.items.get(self.next.item) {
            let Chunk { item, number: start } = self.next;
            let fitting = room.checked_div(*bytes).unwrap_or(0).max(u64::from(run.is_empty()));
            let end = start.saturating_add(fitting).min(*count);
            if start < end {
                run.push((item, start..end));
                room = room.saturating_sub((end - start).saturating_mul(*bytes));
            }
            if end < *count {
                self.next.number = end;
                break;
            }
            self.next = Chunk { item: item + 1, number: 0 };
        }
        (!run.is_empty()).then_some(run)
    }
}

/// Does what [`in_order`] does, in the given runs.
///
/// # Errors
/// As for [`in_order`].
pub(in crate::ops) fn in_runs<S: Default, P: Send, W: Default + Send>(
    runs: Runs<'_>,
    process: impl Fn(&mut S, Chunk) -> Result<P> + Sync,
    reduce: impl Fn(&mut W, Chunk, P) -> Result<()> + Sync,
) -> Result<Vec<W>> {
    let execution =
        Execution { items: runs.items.iter().map(|_| Item::default()).collect(), queue: Mutex::new(runs), failure: Failure::default() };
    threads::broadcast(|| {
        let _on_panic = StopOnPanic(&execution);
        let mut scratch = S::default();
        while let Some(parts) = execution.take() {
            let last = parts.last().map_or(0, |(item, _)| *item);
            for chunk in parts.into_iter().flat_map(|(item, numbers)| numbers.map(move |number| Chunk { item, number })) {
                if execution.failure.is_before(chunk) {
                    break;
                }
                if let Err(error) = process(&mut scratch, chunk).and_then(|part| execution.add(chunk, part, &reduce)) {
                    execution.failure.add(chunk, error);
                    execution.wake();
                }
            }
            execution.wait(last);
        }
    });
    match execution.failure.first.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => {
            Ok(execution.items.into_iter().map(|item| item.state.into_inner().unwrap_or_else(PoisonError::into_inner).result).collect())
        }
    }
}

struct Execution<'c, P, W> {
    items: Vec<Item<P, W>>,
    queue: Mutex<Runs<'c>>,
    failure: Failure,
}

/// An item while its chunks are being processed.
struct Item<P, W> {
    state: Mutex<State<P, W>>,
    reduced: Condvar,
}

struct State<P, W> {
    /// Index of the next chunk to reduce.
    next: u64,
    pending: BTreeMap<u64, P>,
    result: W,
}

impl<P, W: Default> Default for Item<P, W> {
    fn default() -> Self {
        Self { state: Mutex::new(State { next: 0, pending: BTreeMap::new(), result: W::default() }), reduced: Condvar::new() }
    }
}

impl<P, W> Execution<'_, P, W> {
    /// Returns the next run, unless a chunk has failed.
    fn take(&self) -> Option<Vec<(usize, Range<u64>)>> {
        if self.failure.happened.load(Ordering::Relaxed) { None } else { lock(&self.queue).next() }
    }

    /// Reduces the result of a chunk and the buffered ones that follow it.
    fn add(&self, chunk: Chunk, part: P, reduce: &impl Fn(&mut W, Chunk, P) -> Result<()>) -> Result<()> {
        let Some(item) = self.items.get(chunk.item) else { return Ok(()) };
        let mut state = lock(&item.state);
        let State { next, pending, result } = &mut *state;
        if chunk.number == *next {
            let mut part = Some(part);
            while let Some(found) = part {
                reduce(result, Chunk { number: *next, ..chunk }, found)?;
                *next += 1;
                part = pending.remove(next);
            }
        } else {
            pending.insert(chunk.number, part);
        }
        if pending.is_empty() {
            *pending = BTreeMap::new(); // an empty map keeps the memory of its last node
        }
        item.reduced.notify_all();
        Ok(())
    }

    /// Blocks the thread, which has finished its run, while too many results of an item are buffered: the thread with the missing chunk is still
    /// running.
    fn wait(&self, item: usize) {
        let Some(item) = self.items.get(item) else { return };
        let mut state = lock(&item.state);
        while state.pending.len() > MAX_PENDING && !self.failure.happened.load(Ordering::Relaxed) {
            state = item.reduced.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wakes all blocked threads.
    fn wake(&self) {
        for item in &self.items {
            drop(lock(&item.state)); // no thread is between checking for a failure and going to sleep
            item.reduced.notify_all();
        }
    }
}

/// Stops all threads when one panics; the panic is propagated.
struct StopOnPanic<'e, 'c, P, W>(&'e Execution<'c, P, W>);

impl<P, W> Drop for StopOnPanic<'_, '_, P, W> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failure.happened.store(true, Ordering::Relaxed);
            self.0.wake();
        }
    }
}

/// The error of the first chunk in order, whichever thread was faster.
#[derive(Default)]
struct Failure {
    happened: AtomicBool,
    first: Mutex<Option<(Chunk, Error)>>,
}

impl Failure {
    /// Whether an earlier chunk has failed, or a thread has panicked.
    fn is_before(&self, chunk: Chunk) -> bool {
        self.happened.load(Ordering::Relaxed) && lock(&self.first).as_ref().is_none_or(|(first, _)| *first < chunk)
    }

    fn add(&self, at: Chunk, error: Error) {
        let mut first = lock(&self.first);
        if first.as_ref().is_none_or(|(other, _)| at < *other) {
            *first = Some((at, error));
        }
        self.happened.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_reduced_in_order_whichever_thread_is_first() {
        let counts = [3, 0, 500, 1];
        let wait = |chunk: Chunk| {
            // Every seventh chunk is late.
            if chunk.number.is_multiple_of(7) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        };
        let process = |seen: &mut u64, chunk: Chunk| {
            wait(chunk);
            *seen += 1;
            Ok(chunk.number * 10)
        };
        let reduce = |all: &mut Vec<u64>, chunk: Chunk, part: u64| {
            assert_eq!(part, chunk.number * 10);
            all.push(part);
            Ok(())
        };
        let results: Vec<Vec<u64>> = in_order(&counts, process, reduce).unwrap();
        for (result, count) in results.iter().zip(counts) {
            assert_eq!(*result, (0..count).map(|number| number * 10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn runs_have_all_chunks_in_order_and_are_as_large_as_fits() {
        let items = [(3, 10), (0, 1), (2, 40), (1, 5), (1, 200), (1, 0)].map(|(count, bytes)| Chunks { count, bytes });
        let all = |most| Runs::new(&items, most).collect::<Vec<_>>();
        assert_eq!(
            all(75),
            [vec![(0, 0..3), (2, 0..1)], vec![(2, 1..2), (3, 0..1)], vec![(4, 0..1)], vec![(5, 0..1)]],
            "the last is empty, and there is no room"
        );
        assert_eq!(all(0).len(), 8);
        for most in [0, 1, 9, 10, 39, 80, 1000] {
            let chunks: Vec<(usize, u64)> =
                all(most).into_iter().flatten().flat_map(|(item, numbers)| numbers.map(move |number| (item, number))).collect();
            assert_eq!(chunks, [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1), (3, 0), (4, 0), (5, 0)], "{most}");
        }
    }

    #[test]
    fn long_runs_do_not_wait_for_each_other_and_their_first_error_is_returned() {
        let items = [500, 1, 700].map(|count| Chunks { count, bytes: 1 });
        for most in [0, 3, 200, 2000] {
            let process = |(): &mut (), chunk: Chunk| Ok(chunk.number);
            let sums = in_runs(Runs::new(&items, most), process, |all: &mut u64, _, part| {
                *all = *all * 3 % 1_000_007 + part;
                Ok(())
            });
            let expected = [500, 1, 700].map(|count| (0..count).fold(0, |all, part| all * 3 % 1_000_007 + part));
            assert_eq!(sums.unwrap(), expected, "{most}");
            let fails = |(): &mut (), chunk: Chunk| if chunk.number < 40 { Ok(()) } else { Err(Error::argument(chunk.number.to_string())) };
            let error = in_runs(Runs::new(&items, most), fails, |(): &mut (), _, ()| Ok(())).unwrap_err();
            assert_eq!(error.message(), "40", "{most}");
        }
    }

    #[test]
    fn of_several_errors_the_first_in_order_is_returned() {
        let failure = Failure::default();
        for (item, number, message) in [(2, 0, "later"), (1, 3, "first"), (1, 7, "in between")] {
            failure.add(Chunk { item, number }, Error::argument(message));
        }
        assert_eq!(failure.first.into_inner().unwrap().unwrap().1.message(), "first");
        let fails = |_: &mut (), chunk: Chunk| if chunk.number < 40 { Ok(()) } else { Err(Error::argument(chunk.number.to_string())) };
        let error = in_order(&[100, 100], fails, |_: &mut (), _, ()| Ok(())).unwrap_err();
        assert_eq!(error.message(), "40");
    }

    #[test]
    fn a_late_chunk_makes_the_others_wait() {
        // The first chunk is done when no other thread can go on: with one thread it is simply the first.
        let most = Mutex::new(0);
        let started = std::sync::atomic::AtomicU64::new(0);
        let process = |_: &mut (), chunk: Chunk| {
            let number = started.fetch_add(1, Ordering::Relaxed);
            if chunk.number == 0 {
                std::thread::sleep(std::time::Duration::from_millis(50));
                *lock(&most) = started.load(Ordering::Relaxed);
            }
            Ok(number)
        };
        in_order(&[10_000], process, |_: &mut (), _, _| Ok(())).unwrap();
        let all_threads = std::sync::atomic::AtomicU64::new(0);
        threads::broadcast(|| {
            all_threads.fetch_add(1, Ordering::Relaxed);
        });
        assert!(*lock(&most) <= MAX_PENDING as u64 + 2 * all_threads.into_inner(), "{}", lock(&most));
    }
}
