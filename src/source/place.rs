//! Files and folders by path, on disk or at an address.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{Error, Result, limits};
use crate::source::read::Source;
use crate::source::remote::{self, Place};
use crate::source::{file, mmap};

/// Opens a regular file for reading.
///
/// # Errors
/// The path is not a regular file (a FIFO, device or folder is rejected without blocking), a system call fails, or a server refuses.
pub fn open(path: &Path) -> Result<Arc<dyn Source>> {
    match Place::of(path) {
        Some(place) => place?.open(),
        None => Ok(Arc::new(mmap::Mapping::of(&file::open_regular(path)?, path)?)),
    }
}

/// Whether the path is an address rather than a path on disk.
pub fn is_remote(path: &Path) -> bool {
    Place::of(path).is_some()
}

/// Whether there is a file at the path.
pub fn is_file(path: &Path) -> bool {
    match Place::of(path) {
        Some(place) => place.is_ok_and(|place| place.is_file()),
        None => path.is_file(),
    }
}

/// Whether there is a folder at the path.
pub fn is_dir(path: &Path) -> bool {
    match Place::of(path) {
        Some(place) => place.is_ok_and(|place| place.is_dir()),
        None => path.is_dir(),
    }
}

/// Whether the files of a folder can be listed: a web server only answers whether it has one.
pub(crate) fn is_listable(folder: &Path) -> bool {
    Place::of(folder).is_none_or(|place| place.is_ok_and(|place| place.is_listable()))
}

/// Returns the entries of a folder, sorted.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    match Place::of(folder) {
        Some(place) => place?.entries(),
        None => file::entries(folder),
    }
}

/// Announces files that will be opened: those at an address are requested at the same time.
pub(crate) fn prefetch(paths: &[PathBuf]) {
    if paths.first().is_some_and(|path| is_remote(path)) {
        remote::prefetch(paths);
    }
}

/// Checks that the path can be written, as far as its scheme tells: an address must be in a bucket.
///
/// # Errors
/// Nothing can be written at the address.
pub(crate) fn check_scheme(path: &Path) -> Result<()> {
    Place::of(path).map_or(Ok(()), |place| place?.check_scheme())
}

/// Forgets what was known of the store of an address, so that changes since then are seen.
pub(crate) fn refresh(path: &Path) {
    remote::forget(path);
}

/// Whether there is a file, or on disk anything else but a folder, at the path. A bucket that does not tell is an error.
pub(crate) fn has_file(path: &Path) -> Result<bool> {
    match Place::of(path) {
        Some(place) => place?.has_file(),
        None => Ok(std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_dir())),
    }
}

/// Whether there is a folder at the path; in a bucket, one with files. A bucket that does not tell is an error.
pub(crate) fn has_folder(path: &Path) -> Result<bool> {
    match Place::of(path) {
        Some(place) => place?.has_folder(),
        None => Ok(path.is_dir()),
    }
}

/// Returns what changes when the file at a path does: size, time and inode, or what its store tells; `None` if there is no such file.
#[cfg(feature = "catalog")]
pub(crate) fn version(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    match Place::of(path) {
        Some(place) => place.ok()?.version(),
        None => {
            let found = std::fs::metadata(path).ok()?;
            Some(format!("{:?}", (found.len(), found.mtime(), found.mtime_nsec(), found.ino())))
        }
    }
}

/// Removes a file.
///
/// # Errors
/// A system call fails, or a bucket refuses.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match Place::of(path) {
        Some(place) => place?.remove(),
        None => std::fs::remove_file(path).map_err(|error| Error::io("cannot remove", path, error)),
    }
}

/// Syncs a folder on disk, so that what was renamed or removed in it stays so.
///
/// # Errors
/// A system call fails.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    if is_remote(folder) { Ok(()) } else { file::sync_folder(folder).map_err(|error| Error::io("cannot sync", folder, error)) }
}

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// It is larger, or cannot be read.
pub fn read_at_most(path: &Path, most: u64) -> Result<Vec<u8>> {
    match Place::of(path) {
        Some(place) => place?.read_at_most(most),
        None => file::read_at_most(path, most),
    }
}

/// Reads a small file, such as a config, into memory.
///
/// # Errors
/// It exceeds [`limits::JSON_FILE_BYTES`], or cannot be read.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    read_at_most(path, limits::JSON_FILE_BYTES)
}

/// Reads a small text file without its byte order mark.
///
/// # Errors
/// As for [`read_bytes`]; or it is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let mut text = String::from_utf8(read_bytes(path)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to() as u64;
        Error::malformed("expected text in UTF-8, found other bytes").at(at).in_file(path)
    })?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_utf_8() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"ok\xff").unwrap();
        assert_eq!(read_text(file.path()).unwrap_err().offset(), Some(2));
        std::fs::write(file.path(), "\u{feff}ok").unwrap();
        assert_eq!(read_text(file.path()).unwrap(), "ok");
    }
}
