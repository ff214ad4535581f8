//! The threads that compute, and the one way to them: rayon's pool, or without the feature `rayon` the calling thread alone. Results are
//! the same either way.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;

#[cfg(feature = "rayon")]
mod pool;
#[cfg(feature = "rayon")]
pub use pool::start;
#[cfg(feature = "rayon")]
pub(crate) use pool::{broadcast, par, sort_unstable};
#[cfg(feature = "rayon")]
pub(crate) use rayon::prelude;

#[cfg(not(feature = "rayon"))]
mod single;
#[cfg(not(feature = "rayon"))]
pub use single::start;
#[cfg(not(feature = "rayon"))]
pub(crate) use single::{broadcast, par, prelude, sort_unstable};

/// Takes a lock inside the handler of a signal, where waiting is not allowed: tries for about a second. The thread that has it may be the
/// one that was interrupted.
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

/// Locks, whatever became of the thread that held it: a panic is passed on to whoever waits for the whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
