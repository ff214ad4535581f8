//! File locks that serialise in-place changes.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::base::{Error, Result, limits};
use crate::source::file::{open_itself, same_file};

/// Delay between attempts to take a lock.
const PAUSE: Duration = Duration::from_millis(10);

/// Callback, called once with the path of a file if its lock is held by another program.
pub type OnWait<'a> = &'a mut dyn FnMut(&Path);

/// A regular file open for reading and writing, locked against other runs of weigh until dropped.
#[derive(Debug)]
pub struct LockedFile {
    /// The path as given, for messages.
    path: PathBuf,
    /// The canonical path.
    real: PathBuf,
    file: File,
}

impl LockedFile {
    /// Opens and locks the file at `path`, checking that the path still refers to it once the lock is held.
    ///
    /// # Errors
    /// It is not a regular file, a system call fails, or another program holds the lock for longer than [`limits::LOCK_WAIT`].
    pub fn open(path: &Path, waiting: OnWait<'_>) -> Result<Self> {
        Self::open_within(path, limits::LOCK_WAIT, waiting)
    }

    fn open_within(path: &Path, limit: Duration, waiting: OnWait<'_>) -> Result<Self> {
        let start = Instant::now();
        let mut said = false;
        loop {
            let real = fs::canonicalize(path).map_err(|error| Error::io("cannot find", path, error))?;
            let file = open_itself(&real, true).map_err(|error| Error::io("cannot open for writing", path, error))?;
            while !try_lock(path, &file)? {
                if start.elapsed() >= limit {
                    return Err(held(path, limit));
                }
                if !std::mem::replace(&mut said, true) {
                    waiting(path);
                }
                std::thread::sleep(PAUSE);
            }
            let locked = Self { path: path.to_path_buf(), real, file };
            // The previous holder may have replaced the file.
            if locked.is_at_its_path() {
                return Ok(locked);
            }
            if start.elapsed() >= limit {
                return Err(held(path, limit));
            }
        }
    }

    /// Returns the path as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the canonical path.
    pub fn real_path(&self) -> &Path {
        &self.real
    }

    /// Returns the open file, which is the one to write to even if the path now refers to another.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether `found` is the metadata of this file.
    pub fn is(&self, found: &fs::Metadata) -> bool {
        self.file.metadata().is_ok_and(|own| same_file(&own, found))
    }

    /// Whether the path still refers to this file.
    pub fn is_at_its_path(&self) -> bool {
        open_itself(&self.real, false).and_then(|file| file.metadata()).is_ok_and(|found| self.is(&found))
    }
}

fn try_lock(path: &Path, file: &File) -> Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(Error::io("cannot lock", path, error)),
    }
}

fn held(path: &Path, limit: Duration) -> Error {
    let message = format!("the file is locked by another program (waited {} s)", limit.as_secs());
    Error::new(crate::base::ErrorKind::Io, message).in_file(path).hint("try again when no other program uses the file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_a_lock_is_announced_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        fs::write(&path, "x").unwrap();
        let other = File::open(&path).unwrap();
        for shared in [true, false] {
            if shared {
                other.lock_shared().unwrap()
            } else {
                other.lock().unwrap()
            }
            let mut said = 0;
            let error = LockedFile::open_within(&path, PAUSE * 3, &mut |_| said += 1).unwrap_err().to_string();
            assert!(error.contains("locked by another program"), "{error}");
            assert_eq!(said, 1);
            other.unlock().unwrap();
        }
        let mut said = 0;
        assert!(LockedFile::open_within(&path, PAUSE, &mut |_| said += 1).is_ok());
        assert_eq!(said, 0);
    }

    #[test]
    fn a_file_replaced_during_the_wait_is_reopened() {
        let folder = tempfile::tempdir().unwrap();
        let [path, other] = ["m", "new"].map(|name| folder.path().join(name));
        fs::write(&path, "old").unwrap();
        fs::write(&other, "new").unwrap();
        let mut first = Some(LockedFile::open(&path, &mut |_| ()).unwrap());
        let second = LockedFile::open(&path, &mut |_| {
            fs::rename(&other, &path).unwrap();
            first = None;
        });
        let second = second.unwrap();
        assert!(second.is(&fs::metadata(&path).unwrap()));
        assert_eq!(std::io::read_to_string(second.file()).unwrap(), "new");
    }

    #[test]
    fn the_target_of_a_link_is_locked_and_a_link_replacing_it_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let [path, link, other] = ["m", "link", "other"].map(|name| folder.path().join(name));
        fs::write(&path, "x").unwrap();
        fs::write(&other, "mine").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let locked = LockedFile::open(&link, &mut |_| ()).unwrap();
        assert!(locked.is(&fs::metadata(&path).unwrap()));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(!locked.is_at_its_path());
    }
}
