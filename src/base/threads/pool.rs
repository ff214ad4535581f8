//! Rayon's thread pool: one thread per core, or fewer if the system refuses to start them.

use std::io;
use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use rayon::iter::IntoParallelIterator;
use rayon::slice::ParallelSliceMut;
use rayon::{ThreadBuilder, ThreadPoolBuilder};

use crate::base::limits;

static STARTED: OnceLock<usize> = OnceLock::new();

/// Iterates over items on all threads. The pool is started here, because rayon itself panics if the system refuses a thread (process or
/// address space limit).
pub(crate) fn par<I: IntoParallelIterator>(items: I) -> I::Iter {
    ensure_started();
    items.into_par_iter()
}

/// Runs a function once on every thread.
pub(crate) fn broadcast(work: impl Fn() + Sync) {
    ensure_started();
    rayon::broadcast(|_| work());
}

/// Sorts a slice on all threads; equal items may change places.
pub(crate) fn sort_unstable<T: Ord + Send>(items: &mut [T]) {
    ensure_started();
    items.par_sort_unstable();
}

/// Returns the number of threads.
#[cfg(feature = "remote")]
pub(crate) fn count() -> usize {
    ensure_started();
    rayon::current_num_threads()
}

/// Runs `work`, and all that it shares out, on a single thread.
#[cfg(test)]
pub(crate) fn on_one_thread(work: impl FnOnce() + Send) {
    ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(work);
}

/// Starts the threads, unless they are already running.
fn ensure_started() {
    // Asking for the number of cores reads files of the system.
    if STARTED.get().is_none() {
        start(thread::available_parallelism().map_or(1, NonZeroUsize::get));
    }
}

/// Starts this many threads, at most [`limits::THREADS`], and returns their number. If they are already running, the number does not
/// change.
pub fn start(wanted: usize) -> usize {
    *STARTED.get_or_init(|| {
        let threads = start_waiting(wanted.min(limits::THREADS), |work| thread::Builder::new().spawn(work));
        let pool = ThreadPoolBuilder::new();
        // A host program may have its own rayon pool, which is then used.
        let _ = match threads.len() {
            0 => pool.num_threads(1).use_current_thread().build_global(),
            many => {
                let mut threads = threads.into_iter();
                let hand_over = move |thread: ThreadBuilder| match threads.next() {
                    Some(waiting) => waiting.work.send(thread).map_err(|_| io::ErrorKind::WouldBlock.into()),
                    None => Err(io::ErrorKind::WouldBlock.into()),
                };
                pool.num_threads(many).spawn_handler(hand_over).build_global()
            }
        };
        rayon::current_num_threads()
    })
}

/// A running thread that waits for its work, and ends if the sender is dropped.
struct WaitingThread {
    work: Sender<ThreadBuilder>,
    handle: JoinHandle<()>,
}

/// Starts threads that wait, before the pool is built: rayon cannot recover a pool if some of its threads fail to start.
///
/// If some cannot be started, keeps half of the others: the work needs memory too.
fn start_waiting(wanted: usize, mut spawn: impl FnMut(Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>) -> Vec<WaitingThread> {
    let mut threads = Vec::with_capacity(wanted);
    while threads.len() < wanted {
        let (work, receiver) = channel::<ThreadBuilder>();
        let (started, has_started) = channel();
        let wait = move || {
            let _ = started.send(());
            if let Ok(thread) = receiver.recv() {
                thread.run();
            }
        };
        let spawned = if has_room() { spawn(Box::new(wait)) } else { Err(io::ErrorKind::OutOfMemory.into()) };
        let Ok(handle) = spawned else {
            for WaitingThread { work, handle } in threads.drain(threads.len() / 2..) {
                drop(work);
                let _ = handle.join(); // its memory is free from here on
            }
            break;
        };
        let _ = has_started.recv(); // it has taken the memory that it starts with
        threads.push(WaitingThread { work, handle });
    }
    threads
}

/// Whether address space is left for one more thread and for the work: a thread takes a 2 MB stack, and glibc reserves a 64 MB arena. A
/// failed allocation later would abort the process.
fn has_room() -> bool {
    const ROOM: usize = 256 << 20;
    let mut room = Vec::<u8>::new();
    let reserved = room.try_reserve_exact(ROOM);
    std::hint::black_box(&room); // else the compiler leaves the allocation out
    reserved.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_threads_that_could_be_started_are_kept() {
        for (most, kept) in [(0, 0), (1, 0), (2, 1), (7, 3), (8, 8), (9, 8)] {
            let mut left = most;
            let threads = start_waiting(8, |work| {
                left = usize::checked_sub(left, 1).ok_or(io::ErrorKind::WouldBlock)?;
                thread::Builder::new().spawn(work)
            });
            assert_eq!(threads.len(), kept, "{most}");
        }
    }
}
