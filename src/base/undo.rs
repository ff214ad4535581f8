//! Overwriting the start of a file so that a crash at any moment leaves the old bytes or the new ones.
//!
//! The old bytes go into a file beside it first, under a name made from the file's number on its disk, and are synced. Only then are
//! they overwritten; when the new ones are on the disk the copy is removed. Whoever opens the file and finds such a copy puts the old
//! bytes back: the change was interrupted. While a change is under way it holds a lock on the file, so that nobody mistakes it for that.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::base::bytes::{Cursor, Endian};
use crate::base::output::{Output, Target};
use crate::base::{Error, Result, file};

/// The first bytes of a copy; the digit is its version.
const MAGIC: &[u8; 8] = b"weigh-u1";

/// The bytes of a copy before the old bytes: magic, length of the file, digest.
const HEAD_BYTES: u64 = 8 + 8 + 32;

/// Overwrites the first bytes of the file at `path`, which must be as many as `new`, while nobody else changes it.
///
/// # Errors
/// The system refuses; the file then has its old bytes, now or when it is next opened.
pub fn overwrite_start(path: &Path, new: &[u8]) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(|error| Error::io("cannot open for writing", path, error))?;
    lock(path, &file)?;
    let found = file.metadata().map_err(|error| Error::io("cannot examine", path, error))?;
    let mut old = vec![0; new.len()];
    file::read_exact_at(&file, &mut old, 0).map_err(|error| Error::io("cannot read", path, error))?;
    let copy = copy_path(path, &found);
    let bytes = pack(found.len(), &old);
    let mut output = Output::begin(vec![Target { path: copy.clone(), bytes: bytes.len() as u64 }], false, &[])?;
    output.write(0, &bytes)?;
    output.commit()?;
    write_start(&file, new).map_err(|error| Error::io("cannot write", path, error))?;
    remove(&copy)
}

/// Puts the old bytes back if an overwriting of this open file was interrupted.
///
/// # Errors
/// There is a copy of old bytes, and it cannot be put back: it is not of this file, or the system refuses.
pub fn restore(path: &Path, file: &File) -> Result<()> {
    let found = file.metadata().map_err(|error| Error::io("cannot examine", path, error))?;
    let copy = copy_path(path, &found);
    if fs::symlink_metadata(&copy).is_err() {
        return Ok(());
    }
    lock(path, file)?;
    let restored = restore_locked(path, found.len(), &copy);
    let _ = file.unlock(); // else it lasts as long as the file is open
    restored
}

fn restore_locked(path: &Path, file_bytes: u64, copy: &Path) -> Result<()> {
    let packed = match file::open_regular(copy) {
        Ok(file) => read_copy(file, file_bytes).map_err(|error| error.in_file(copy))?,
        // Whoever held the lock has finished the change.
        Err(error) if error.io_source().is_some_and(|source| source.kind() == io::ErrorKind::NotFound) => return Ok(()),
        Err(error) => return Err(error),
    };
    let old = unpack(&packed, file_bytes).map_err(|error| {
        error.in_file(copy).hint(format!("it is a copy of the old start of {}; remove it if that file is as it should be", path.display()))
    })?;
    let writable = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(|error| Error::io("a change to this file was interrupted; cannot open it to put its old start back", path, error))?;
    write_start(&writable, old).map_err(|error| Error::io("cannot write", path, error))?;
    remove(copy)
}

/// Waits for whoever is changing the file. The lock ends when the file is closed.
fn lock(path: &Path, file: &File) -> Result<()> {
    file.lock().map_err(|error| Error::io("cannot lock", path, error))
}

/// A copy is no longer than the file and what stands before the old bytes.
fn read_copy(file: File, file_bytes: u64) -> Result<Vec<u8>> {
    let most = file_bytes.saturating_add(HEAD_BYTES);
    let mut packed = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut packed).map_err(|error| Error::malformed(format!("cannot be read: {error}")))?;
    if packed.len() as u64 > most {
        return Err(Error::malformed(format!("expected a copy of at most {most} bytes, found more")));
    }
    Ok(packed)
}

fn remove(copy: &Path) -> Result<()> {
    fs::remove_file(copy).map_err(|error| Error::io("cannot remove the copy of the old start", copy, error))
}

/// The copy's bytes: magic, length of the file, digest of what follows, old bytes.
fn pack(file_bytes: u64, old: &[u8]) -> Vec<u8> {
    let mut packed = MAGIC.to_vec();
    packed.extend(file_bytes.to_le_bytes());
    packed.extend_from_slice(&Sha256::digest(old));
    packed.extend(old);
    packed
}

fn unpack(packed: &[u8], file_bytes: u64) -> Result<&[u8]> {
    let mut cursor = Cursor::new(packed, Endian::Little);
    let magic = cursor.take(MAGIC.len() as u64, "the magic")?;
    let length = cursor.u64("the length of the file")?;
    let digest = cursor.take(32, "the digest")?;
    let old = cursor.take(cursor.remaining(), "the old bytes")?;
    if magic != MAGIC || digest != Sha256::digest(old).as_slice() {
        return Err(Error::malformed("expected a copy of the old start of a file, found other bytes"));
    }
    if length != file_bytes || old.len() as u64 > length {
        return Err(Error::malformed(format!("expected the old start of a file of {file_bytes} bytes, found that of one of {length}")));
    }
    Ok(old)
}

/// Short, so that a file with the longest possible name can be changed too; and the same through every link to the file.
#[cfg(unix)]
fn copy_path(path: &Path, found: &fs::Metadata) -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    // Links into another folder (a cache's snapshots) lead to the folder of the file itself.
    let real = if path.is_symlink() { fs::canonicalize(path).ok() } else { None };
    real.as_deref().unwrap_or(path).with_file_name(format!(".weigh-undo-{:x}", found.ino()))
}

#[cfg(not(unix))]
fn copy_path(path: &Path, _: &fs::Metadata) -> PathBuf {
    let mut name = std::ffi::OsString::from(".weigh-undo-");
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

fn write_start(file: &File, bytes: &[u8]) -> io::Result<()> {
    file::write_all_at(file, bytes, 0)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::mmap::Map;

    fn names(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn the_start_is_new_and_no_copy_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        fs::write(&path, b"old start, rest").unwrap();
        overwrite_start(&path, b"NEW").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"NEW start, rest");
        assert_eq!(names(folder.path()), 1);
    }

    #[test]
    fn whoever_opens_it_after_a_crash_sees_the_old_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        // As it is after a crash in the middle of the overwriting: the copy is there, and some bytes are new.
        fs::write(&path, b"Nld start, rest").unwrap();
        let copy = copy_path(&path, &fs::metadata(&path).unwrap());
        fs::write(&copy, pack(15, b"old")).unwrap();
        assert_eq!(Map::open(&path).unwrap().bytes(), b"old start, rest");
        assert_eq!(names(folder.path()), 1);
    }

    #[test]
    fn a_copy_of_something_else_is_an_error_that_names_it_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        fs::write(&path, b"rest").unwrap();
        let copy = copy_path(&path, &fs::metadata(&path).unwrap());
        for packed in [pack(5, b"old"), b"weigh-u1".to_vec(), [&pack(4, b"old")[..], b"x"].concat()] {
            fs::write(&copy, packed).unwrap();
            let error = Map::open(&path).unwrap_err();
            assert_eq!(error.path(), Some(copy.as_path()));
            assert!(error.hint_text().unwrap().contains("remove it"));
            assert_eq!(fs::read(&path).unwrap(), b"rest");
        }
    }
}
