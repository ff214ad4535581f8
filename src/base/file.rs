//! Files and folders, opened and read within bounds.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::base::{Error, Result, limits};

/// Opens a file for reading, without waiting for a writer at the other end of a FIFO.
///
/// # Errors
/// It is not a regular file, or the system refuses.
pub fn open_regular(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NONBLOCK);
    }
    let file = options.open(path).map_err(|error| Error::io("cannot open", path, error))?;
    let kind = file.metadata().map_err(|error| Error::io("cannot examine", path, error))?.file_type();
    if !kind.is_file() {
        let found = if kind.is_dir() { "a folder" } else { "a device, pipe or socket" };
        return Err(Error::argument(format!("expected a regular file, found {found}")).in_file(path));
    }
    Ok(file)
}

/// Lets this process open as many files as the system allows it at all: a model may have thousands, each open for as long as it is read.
/// For the command line: a library must not change its host's limits.
#[cfg(unix)]
pub fn open_as_many_as_allowed() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit });
}

/// The folder that holds `path`; never the empty path.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// The entries of a folder, sorted.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = std::fs::read_dir(folder).map_err(|error| Error::io("cannot list", folder, error))?;
    let mut found = Vec::new();
    for entry in read {
        found.push(entry.map_err(|error| Error::io("cannot list", folder, error))?.path());
    }
    found.sort();
    Ok(found)
}

/// The text of a small file beside the weights.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let file = open_regular(path)?;
    let len = file.metadata().map_err(|error| Error::io("cannot examine", path, error))?.len();
    if len > limits::JSON_FILE_BYTES {
        let message = format!("expected at most {} bytes of text, found {len}", limits::JSON_FILE_BYTES);
        return Err(Error::limit(message).in_file(path));
    }
    let mut bytes = Vec::new();
    file.take(limits::JSON_FILE_BYTES).read_to_end(&mut bytes).map_err(|error| Error::io("cannot read", path, error))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to() as u64;
        Error::malformed("expected text in UTF-8, found other bytes").at(at).in_file(path)
    })
}

/// Reads the bytes at a place of a file.
#[cfg(unix)]
pub(super) fn read_exact_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

/// Writes bytes at a place of a file.
#[cfg(unix)]
pub(super) fn write_all_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(not(unix))]
pub(super) fn read_exact_at(mut file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    let _held = seek(file, at)?;
    file.read_exact(bytes)
}

#[cfg(not(unix))]
pub(super) fn write_all_at(mut file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    use std::io::Write;
    let _held = seek(file, at)?;
    file.write_all(bytes)
}

/// Where the position belongs to the file, only one thread may use it at a time.
#[cfg(not(unix))]
fn seek(mut file: &File, at: u64) -> io::Result<std::sync::MutexGuard<'static, ()>> {
    use std::io::Seek;
    static POSITION: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let held = POSITION.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    file.seek(io::SeekFrom::Start(at))?;
    Ok(held)
}
