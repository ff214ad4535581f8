//! Bounded reading of files and folders.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use crate::base::{Error, ErrorKind, Result};

/// Opens a file for reading, without blocking on a FIFO.
///
/// # Errors
/// It is not a regular file, or a system call fails.
pub fn open_regular(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    options.custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).map_err(|error| Error::io("cannot open", path, error))?;
    let kind = file.metadata().map_err(|error| Error::io("cannot examine", path, error))?.file_type();
    if !kind.is_file() {
        let found = if kind.is_dir() { "a folder" } else { "a device, pipe or socket" };
        return Err(Error::argument(format!("expected a regular file, found {found}")).in_file(path));
    }
    Ok(file)
}

/// Opens a regular file, optionally for writing, without following a link at its path.
///
/// # Errors
/// It is not a regular file, or a system call fails.
pub(crate) fn open_itself(path: &Path, write: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(write);
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW);
    let file = options.open(path)?;
    let is_file = file.metadata()?.is_file();
    if is_file { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

/// Syncs a folder, so that renames in it are on disk.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Returns the folder that contains `path`; never an empty path.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Whether a path from a file is relative and has no `..`.
pub(crate) fn is_plain(file: &str) -> bool {
    !file.is_empty()
        && !file.contains(['\0', '\\'])
        && !file.contains("://")
        && Path::new(file).components().all(|component| matches!(component, Component::Normal(_)))
}

/// Returns the entries of a folder, sorted.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = std::fs::read_dir(folder).map_err(|error| Error::io("cannot list", folder, error))?;
    let mut found = Vec::new();
    for entry in read {
        found.push(entry.map_err(|error| Error::io("cannot list", folder, error))?.path());
    }
    found.sort();
    Ok(found)
}

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// It is larger, or cannot be read.
pub fn read_at_most(path: &Path, most: u64) -> Result<Vec<u8>> {
    let file = open_regular(path)?;
    let len = file.metadata().map_err(|error| Error::io("cannot examine", path, error))?.len();
    let mut bytes = Vec::new();
    if len <= most {
        bytes.try_reserve_exact(len as usize).map_err(|_| Error::limit(format!("expected memory for {len} bytes")).in_file(path))?;
        file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| Error::io("cannot read", path, error))?;
    }
    let found = len.max(bytes.len() as u64); // it may have grown
    if found > most {
        return Err(Error::limit(format!("expected a file of at most {most} bytes, found {found}")).in_file(path));
    }
    Ok(bytes)
}

/// Whether two files are the same, also through links and bind mounts.
pub fn same_file(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// An input file, with its metadata when it was opened.
#[derive(Debug, Clone)]
pub struct Input {
    path: PathBuf,
    seen: Metadata,
}

impl Input {
    /// Returns the file at a path.
    ///
    /// # Errors
    /// There is none.
    pub fn of(path: &Path) -> Result<Self> {
        let seen = std::fs::metadata(path).map_err(|error| Error::io("cannot examine", path, error))?;
        Ok(Self::new(path, seen))
    }

    /// Returns a file that was opened at a path.
    pub fn new(path: &Path, seen: Metadata) -> Self {
        Self { path: path.to_path_buf(), seen }
    }

    /// Returns the path at which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the metadata when it was opened.
    pub fn metadata(&self) -> &Metadata {
        &self.seen
    }

    /// Whether this is the same file.
    pub fn is(&self, found: &Metadata) -> bool {
        same_file(&self.seen, found)
    }

    /// Reopens the file, for copying inside the kernel; `None` if its path now refers to another.
    pub fn reopen(&self) -> Option<File> {
        let file = open_regular(&self.path).ok()?;
        file.metadata().is_ok_and(|found| self.is(&found)).then_some(file)
    }

    /// Checks that the file has not changed since it was opened, so that everything read is consistent.
    ///
    /// # Errors
    /// It was modified or replaced (size, times or inode differ), or no longer exists.
    pub fn check_unchanged(&self) -> Result<()> {
        let now = Self::of(&self.path)?;
        if stamp(&now.seen) == stamp(&self.seen) {
            return Ok(());
        }
        let error = Error::new(ErrorKind::Io, "the file changed while it was being read").in_file(&self.path);
        Err(error.hint("run it again when nothing writes to the file"))
    }
}

/// Returns the metadata that changes when a file is modified or replaced.
fn stamp(file: &Metadata) -> impl PartialEq {
    use std::os::unix::fs::MetadataExt;
    (file.dev(), file.ino(), file.len(), (file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()))
}

/// Reads bytes at an offset.
pub(crate) fn read_exact_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

/// Writes bytes at an offset.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read_at_most(&path, 5).unwrap(), b"12345");
        let error = read_at_most(&path, 4).unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Limit, "expected a file of at most 4 bytes, found 5"));
    }

    #[test]
    fn a_change_of_an_input_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let [path, other] = ["a", "b"].map(|name| folder.path().join(name));
        fs::write(&path, b"12345").unwrap();
        let input = Input::of(&path).unwrap();
        fs::read(&path).unwrap();
        input.check_unchanged().unwrap();
        // Same length, with the old time.
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        let written = File::options().write(true).open(&path).unwrap();
        write_all_at(&written, b"2", 1).unwrap();
        // File times have the resolution of the kernel's clock tick.
        std::thread::sleep(std::time::Duration::from_millis(20));
        written.set_modified(time).unwrap();
        assert!(input.check_unchanged().unwrap_err().to_string().contains("changed while it was being read"));
        // A different file of the same name.
        let input = Input::of(&path).unwrap();
        fs::write(&other, b"12345").unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(input.check_unchanged().is_err());
        fs::remove_file(&path).unwrap();
        assert!(input.check_unchanged().is_err());
    }
}
