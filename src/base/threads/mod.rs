//! The only access to compute threads: rayon's pool, or without the feature `rayon` the calling thread. Results are the same either way.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;

#[cfg(feature = "rayon")]
mod pool;
#[cfg(all(feature = "rayon", feature = "remote"))]
pub(crate) use pool::count;
#[cfg(all(test, feature = "rayon"))]
pub(crate) use pool::on_one_thread;
#[cfg(feature = "rayon")]
pub use pool::start;
#[cfg(feature = "rayon")]
pub(crate) use pool::{broadcast, par, sort_unstable};
#[cfg(feature = "rayon")]
pub(crate) use rayon::prelude;

#[cfg(not(feature = "rayon"))]
mod single;
#[cfg(all(not(feature = "rayon"), feature = "remote"))]
pub(crate) use single::count;
#[cfg(all(test, not(feature = "rayon")))]
pub(crate) use single::on_one_thread;
#[cfg(not(feature = "rayon"))]
pub use single::start;
#[cfg(not(feature = "rayon"))]
pub(crate) use single::{broadcast, par, prelude, sort_unstable};

/// Takes a lock in a signal handler, which must not block: tries for about a second, since the interrupted thread may hold it.
pub(crate) fn try_lock<T>(lock: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    for _ in 0..1_000 {
        match lock.try_lock() {
            Ok(held) => return Some(held),
            Err(TryLockError::Poisoned(held)) => return Some(held.into_inner()),
            Err(TryLockError::WouldBlock) => thread::sleep(std::time::Duration::from_millis(1)),
        }
    }
    None
}

/// Locks, ignoring poisoning: a panic propagates where the threads are joined.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
