//! A lock that serialises the renaming step of runs writing to the same folder, so that concurrent writes of the same set leave the set of
//! one of them.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use crate::base::{Error, Result};
use crate::source::file::same_file;
use crate::write::signals::Guard;

/// The lock file. It is named like a temporary file, so that the next run removes it if a run is killed.
const NAME: &str = ".weigh-namelock";

/// Number of attempts to take a lock held by another run, which renames files and syncs a folder, and the delay between them.
const TRIES: u32 = 6_000;
const PAUSE: Duration = Duration::from_millis(10);

/// The rename lock of a folder. Dropping it first removes the file, then releases the lock: the other way round, it might remove a file
/// that another run has locked.
#[derive(Debug)]
pub(crate) struct NameLock {
    _guard: Guard,
    _file: File,
}

impl NameLock {
    /// Waits for the lock; `None` on systems without locks.
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
        let error = Error::argument("another run is renaming its files in this folder and does not finish");
        Err(error.in_file(&path).hint("end the other run, or remove this file if there is none"))
    }

    /// Takes the lock of this name for longer work, without waiting; `None` on systems without locks.
    #[cfg(feature = "catalog")]
    pub(crate) fn exclusive(folder: &Path, name: &str) -> Result<Option<Self>> {
        let path = folder.join(name);
        match Guard::create(|| Ok((lock(&path)?, path.clone()))) {
            Ok((file, guard)) => Ok(Some(Self { _guard: guard.removing(path), _file: file })),
            Err(Refusal::NoLocks) => Ok(None),
            Err(Refusal::Failed(error)) => Err(error),
            Err(Refusal::Busy) => Err(Error::argument("another run is writing here").in_file(folder).hint("try again when it is done")),
        }
    }
}

/// The reason why the lock was not taken.
enum Refusal {
    /// Another run holds it.
    Busy,
    /// The system does not support locks.
    NoLocks,
    /// The file cannot be created.
    Failed(Error),
}

/// Opens and locks the file, creating it if necessary. A file locked by another run is removed by that run.
fn lock(path: &Path) -> std::result::Result<File, Refusal> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path).map_err(|error| Refusal::Failed(Error::io("cannot create", path, error)))?;
    match file.try_lock() {
        // The previous holder has removed it: only the file at the path counts.
        Ok(()) if is_at(&file, path) => Ok(file),
        Ok(()) | Err(TryLockError::WouldBlock) => Err(Refusal::Busy),
        Err(TryLockError::Error(_)) => {
            let _ = fs::remove_file(path);
            Err(Refusal::NoLocks)
        }
    }
}

/// Whether the open file is the one at the path.
fn is_at(file: &File, path: &Path) -> bool {
    let found = file.metadata().and_then(|own| Ok((own, fs::symlink_metadata(path)?)));
    found.is_ok_and(|(own, found)| same_file(&own, &found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_exclusive_and_leaves_nothing_behind() {
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
