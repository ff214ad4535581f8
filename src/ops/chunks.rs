//! The scheduler of the operations: work on tensors in chunks, on all threads, reduced in order.
//!
//! Chunks are fixed by the data alone, threads take them in order, and results are reduced in order: the outcome is the same for any
//! number of threads. Results that arrive early are buffered; a thread blocks while too many are, which bounds memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::base::threads::{self, lock};
use crate::base::{Error, Result};

/// Most results of an item that are buffered until earlier ones arrive.
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
    let run = Run { items: counts.iter().map(|_| Item::default()).collect(), queue: Queue::new(counts), failure: Failure::default() };
    threads::broadcast(|| {
        let _on_panic = StopOnPanic(&run);
        let mut scratch = S::default();
        while !run.failure.happened.load(Ordering::Relaxed)
            && let Some(chunk) = run.queue.take()
        {
            if let Err(error) = process(&mut scratch, chunk).and_then(|part| run.add(chunk, part, &reduce)) {
                run.failure.add(chunk, error);
                run.wake();
            }
        }
    });
    match run.failure.first.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok(run.items.into_iter().map(|item| item.state.into_inner().unwrap_or_else(PoisonError::into_inner).result).collect()),
    }
}

struct Run<'c, P, W> {
    items: Vec<Item<P, W>>,
    queue: Queue<'c>,
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

impl<P, W> Run<'_, P, W> {
    /// Reduces the result of a chunk and the buffered ones that follow it. If too many results are buffered, the thread blocks: the thread
    /// with the missing chunk is still running.
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
        while state.pending.len() > MAX_PENDING && !self.failure.happened.load(Ordering::Relaxed) {
            state = item.reduced.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
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
struct StopOnPanic<'r, 'c, P, W>(&'r Run<'c, P, W>);

impl<P, W> Drop for StopOnPanic<'_, '_, P, W> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failure.happened.store(true, Ordering::Relaxed);
            self.0.wake();
        }
    }
}

/// Hands out chunks in order.
struct Queue<'c> {
    counts: &'c [u64],
    next: Mutex<Chunk>,
}

impl<'c> Queue<'c> {
    fn new(counts: &'c [u64]) -> Self {
        Self { counts, next: Mutex::new(Chunk { item: 0, number: 0 }) }
    }

    fn take(&self) -> Option<Chunk> {
        let mut next = lock(&self.next);
        while next.number >= *self.counts.get(next.item)? {
            *next = Chunk { item: next.item + 1, number: 0 };
        }
        let chunk = *next;
        next.number += 1;
        Some(chunk)
    }
}

/// The error of the first chunk in order, whichever thread was faster.
#[derive(Default)]
struct Failure {
    happened: AtomicBool,
    first: Mutex<Option<(Chunk, Error)>>,
}

impl Failure {
    fn add(&self, at: Chunk, error: Error) {
        self.happened.store(true, Ordering::Relaxed);
        let mut first = lock(&self.first);
        if first.as_ref().is_none_or(|(other, _)| at < *other) {
            *first = Some((at, error));
        }
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
