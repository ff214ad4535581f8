//! Files and folders, opened and read within bounds.

use std::fs::{File, OpenOptions};
use std::io::Read;
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
