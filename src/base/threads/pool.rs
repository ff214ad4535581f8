//! The threads of rayon's pool: as many as there are cores, and fewer where the system refuses some.

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

/// Iterates over items on all threads. By itself rayon panics where the system refuses it a thread (a limit on processes or on the address
/// space).
pub(crate) fn par<I: IntoParallelIterator>(items: I) -> I::Iter {
    ready();
    items.into_par_iter()
}

/// Runs a function once on every thread.
pub(crate) fn broadcast(work: impl Fn() + Sync) {
    ready();
    rayon::broadcast(|_| work());
}

/// Sorts a slice on all threads; equal items may change places.
pub(crate) fn sort_unstable<T: Ord + Send>(items: &mut [T]) {
    ready();
    items.par_sort_unstable();
}

/// Starts the threads, if they are not running yet.
fn ready() {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    start(cores);
}

/// Starts so many threads, [`limits::THREADS`] at the most, and returns how many there are. Where they run already, their number stays.
pub fn start(wanted: usize) -> usize {
    *STARTED.get_or_init(|| {
        let threads = waiting(wanted.min(limits::THREADS), |work| thread::Builder::new().spawn(work));
        let pool = ThreadPoolBuilder::new();
        // A program that this library is part of may have threads of its own, which then serve.
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

/// A thread that runs and waits for its work, or ends where none is sent.
struct Waiting {
    work: Sender<ThreadBuilder>,
    handle: JoinHandle<()>,
}

/// Starts threads that wait. They start before the pool that they are for: a pool whose threads cannot all be started is lost.
///
/// Where not all can be started, half of those that could be: the work needs memory as well.
fn waiting(wanted: usize, mut spawn: impl FnMut(Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>) -> Vec<Waiting> {
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
            for Waiting { work, handle } in threads.drain(threads.len() / 2..) {
                drop(work);
                let _ = handle.join(); // its memory is free from here on
            }
            break;
        };
        let _ = has_started.recv(); // it has taken the memory that it starts with
        threads.push(Waiting { work, handle });
    }
    threads
}

/// Whether there are addresses for one more thread and for the work: a thread takes a stack of 2 MB, and glibc sets 64 MB aside for
/// what it allocates. What cannot be allocated later ends the process.
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
            let threads = waiting(8, |work| {
                left = usize::checked_sub(left, 1).ok_or(io::ErrorKind::WouldBlock)?;
                thread::Builder::new().spawn(work)
            });
            assert_eq!(threads.len(), kept, "{most}");
        }
    }
}
