//! Files that are changed in their place, locked: one change comes after the other.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::base::{Error, Result, limits};
use crate::source::file::{open_itself, same_file};

/// How long to sleep between two tries to get a lock.
const PAUSE: Duration = Duration::from_millis(10);

/// Called once with the file's path when its lock is held by somebody else and has to be waited for.
pub type Waiting<'a> = &'a mut dyn FnMut(&Path);

/// A regular file, open for reading and writing, that no other run of weigh changes for as long as this lives.
#[derive(Debug)]
pub struct Locked {
    /// The path that it was asked for by, for messages.
    path: PathBuf,
    /// The path without links.
    real: PathBuf,
    file: File,
}

impl Locked {
    /// Opens the file at `path` and locks it. Once the lock is held the path still leads to this very file.
    ///
    /// # Errors
    /// It is not a regular file, or the system refuses; or somebody else holds the lock for longer than [`limits::LOCK_WAIT`].
    pub fn open(path: &Path, waiting: Waiting<'_>) -> Result<Self> {
        Self::open_within(path, limits::LOCK_WAIT, waiting)
    }

    fn open_within(path: &Path, limit: Duration, waiting: Waiting<'_>) -> Result<Self> {
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
            // Whoever held the lock may have put another file in this one's place.
            if locked.is_at_its_path() {
                return Ok(locked);
            }
            if start.elapsed() >= limit {
                return Err(held(path, limit));
            }
        }
    }

    /// The path that the file was asked for by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the file itself, without links.
    pub fn real_path(&self) -> &Path {
        &self.real
    }

    /// The open file: the one to write to, whatever its path leads to by now.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether this is the file that `found` tells of.
    pub fn is(&self, found: &fs::Metadata) -> bool {
        self.file.metadata().is_ok_and(|own| same_file(&own, found))
    }

    /// Whether the path still leads to this file.
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
    let message = format!("expected the lock on the file within {} s, found it held by another program", limit.as_secs());
    Error::new(crate::base::ErrorKind::Io, message).in_file(path).hint("try again when nothing else is working on the file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_somebody_else_keeps_is_waited_for_aloud_and_not_for_ever() {
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
            let error = Locked::open_within(&path, PAUSE * 3, &mut |_| said += 1).unwrap_err().to_string();
            assert!(error.contains("held by another program"), "{error}");
            assert_eq!(said, 1);
            other.unlock().unwrap();
        }
        let mut said = 0;
        assert!(Locked::open_within(&path, PAUSE, &mut |_| said += 1).is_ok());
        assert_eq!(said, 0);
    }

    #[test]
    fn a_file_replaced_while_its_lock_was_waited_for_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let [path, other] = ["m", "new"].map(|name| folder.path().join(name));
        fs::write(&path, "old").unwrap();
        fs::write(&other, "new").unwrap();
        let mut first = Some(Locked::open(&path, &mut |_| ()).unwrap());
        let second = Locked::open(&path, &mut |_| {
            fs::rename(&other, &path).unwrap();
            first = None;
        });
        let second = second.unwrap();
        assert!(second.is(&fs::metadata(&path).unwrap()));
        assert_eq!(std::io::read_to_string(second.file()).unwrap(), "new");
    }

    #[test]
    fn the_file_behind_a_link_is_locked_and_a_link_put_in_its_place_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let [path, link, other] = ["m", "link", "other"].map(|name| folder.path().join(name));
        fs::write(&path, "x").unwrap();
        fs::write(&other, "mine").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let locked = Locked::open(&link, &mut |_| ()).unwrap();
        assert!(locked.is(&fs::metadata(&path).unwrap()));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(!locked.is_at_its_path());
    }
}
