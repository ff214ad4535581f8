//! Runs that write into one folder give their files names one after the other: of two that write the same set at once, what is there in
//! the end is the set of one of them.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use crate::base::{Error, Result};
use crate::source::file::same_file;
use crate::write::signals::Guard;

/// The file that is locked. It is named as temporary files are, so that the next run removes one that a killed run left.
const NAME: &str = ".weigh-namelock";

/// How often, and after how long, a lock is tried again that another run holds: to rename files and to sync a folder.
const TRIES: u32 = 6_000;
const PAUSE: Duration = Duration::from_millis(10);

/// The lock on the names in a folder. Dropping it removes the file, then gives the lock back: in this order, or the file could be one that
/// another run has locked by then.
#[derive(Debug)]
pub(super) struct NameLock {
    _guard: Guard,
    _file: File,
}

impl NameLock {
    /// Waits for the lock; none where the system has no locks.
    pub(super) fn take(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(NAME);
        for _ in 0..TRIES {
            match Guard::create(|| Ok((lock(&path)?, path.clone()))) {
                Ok((file, guard)) => return Ok(Some(Self { _guard: guard.removing(path), _file: file })),
                Err(Refusal::Busy) => std::thread::sleep(PAUSE),
                Err(Refusal::NoLocks) => return Ok(None),
                Err(Refusal::Failed(error)) => return Err(error),
            }
        }
        let error = Error::argument("expected to give the new files their names, found another run that does so and does not end");
        Err(error.in_file(&path).hint("end the other run, or remove this file when there is none"))
    }
}

/// Why the lock was not taken.
enum Refusal {
    /// Another run holds it.
    Busy,
    /// The system has no locks.
    NoLocks,
    /// The file cannot be created.
    Failed(Error),
}

/// Opens and locks the file, which is created if there is none. One that another run holds is that run's to remove.
fn lock(path: &Path) -> std::result::Result<File, Refusal> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path).map_err(|error| Refusal::Failed(Error::io("cannot create", path, error)))?;
    match file.try_lock() {
        // Whoever had it before removed it: only the file that has the name counts.
        Ok(()) if is_at(&file, path) => Ok(file),
        Ok(()) | Err(TryLockError::WouldBlock) => Err(Refusal::Busy),
        Err(TryLockError::Error(_)) => {
            let _ = fs::remove_file(path);
            Err(Refusal::NoLocks)
        }
    }
}

/// Whether an open file is the one of this name.
fn is_at(file: &File, path: &Path) -> bool {
    let found = file.metadata().and_then(|own| Ok((own, fs::symlink_metadata(path)?)));
    found.is_ok_and(|(own, found)| same_file(&own, &found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_has_it_at_a_time_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let inside = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..25 {
                        let lock = NameLock::take(folder.path()).unwrap();
                        assert!(lock.is_some());
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        assert_eq!(inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst), 1);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
