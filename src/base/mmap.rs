//! Files mapped into memory, read-only. The only unsafe code outside `codec/simd/`.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::base::file::open_regular;
use crate::base::{Error, Result};

/// A regular file, mapped whole and read-only. Opening costs no read: pages come in when they are touched.
#[derive(Debug)]
pub struct Map {
    path: PathBuf,
    file: File,
    modified: Option<SystemTime>,
    mmap: Option<memmap2::Mmap>,
}

impl Map {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// The path is not a regular file (a FIFO, a device, a folder: said at once, never waited for), or the system refuses.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open_regular(path)?;
        let found = file.metadata().map_err(|error| Error::io("cannot examine", path, error))?;
        let len = found.len();
        let mmap = if len == 0 {
            None // an empty mapping is an error on Linux
        } else {
            // SAFETY: the mapping is private and read-only, and lives as long as the slices taken from it. Bytes of a file can
            // change under a mapping; nothing here relies on two reads of a byte giving the same value, and all that is parsed
            // is checked on the copy that is used. A file that shrinks raises SIGBUS, which `exit_on_truncation` handles.
            Some(unsafe { memmap2::Mmap::map(&file) }.map_err(|error| Error::io("cannot map", path, error))?)
        };
        Ok(Self { path: path.to_path_buf(), file, modified: found.modified().ok(), mmap })
    }

    /// The path that the file was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, for calls that copy between files inside the kernel.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The length of the file, in bytes.
    pub fn len(&self) -> u64 {
        self.bytes().len() as u64
    }

    /// Whether the file has the length and the time of its last change that it had when it was mapped.
    pub fn is_unchanged(&self) -> bool {
        self.file.metadata().is_ok_and(|found| found.len() == self.len() && found.modified().ok() == self.modified)
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.mmap.is_none()
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        self.mmap.as_deref().unwrap_or_default()
    }

    /// Tells the kernel that the file will be read from front to back. Advice only: a refusal changes nothing.
    #[cfg(unix)]
    pub fn will_read_in_order(&self) {
        if let Some(mmap) = &self.mmap {
            let _ = mmap.advise(memmap2::Advice::Sequential);
        }
    }
}

/// From here on, a file that shrinks while it is mapped ends the process with one line on standard error and status 2,
/// instead of a crash by SIGBUS. For the command line: a library must not change its host's signals.
#[cfg(unix)]
pub fn exit_on_truncation() {
    extern "C" fn on_sigbus(_: libc::c_int) {
        const MESSAGE: &[u8] = b"weigh: a file became shorter or unreadable while it was being read\n";
        // SAFETY: write and _exit are async-signal-safe, and the message is a constant of the length given.
        unsafe {
            libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
            libc::_exit(2);
        }
    }
    // SAFETY: the handler calls only async-signal-safe functions and does not return.
    unsafe {
        libc::signal(libc::SIGBUS, on_sigbus as extern "C" fn(libc::c_int) as libc::sighandler_t);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_devices_are_refused_at_once() {
        for path in ["/", "/dev/zero"] {
            assert!(Map::open(Path::new(path)).unwrap_err().to_string().contains("expected a regular file"), "{path}");
        }
    }

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Map::open(file.path()).unwrap().bytes().is_empty());
    }
}
