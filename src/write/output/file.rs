//! An output file being written under its temporary name.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::base::{Error, ErrorKind, Result};
use crate::source::Source;
use crate::source::file::{Input, write_all_at};
use crate::write::readback::WrittenChunks;

/// Buffer size in bytes. Larger writes bypass the buffer.
const BUFFER_BYTES: usize = 1 << 18;

/// An output file, written sequentially, then optionally at random offsets.
#[derive(Debug)]
pub struct OutFile {
    file: BufWriter<File>,
    target: PathBuf,
    position: u64,
    bytes: u64,
    /// The chunks written, if they are to be read back.
    written: Option<WrittenChunks>,
    /// Its index among the targets.
    pub(super) index: usize,
}

impl OutFile {
    /// Starts a file of `bytes` bytes; `target` is its name in errors.
    pub(super) fn new(file: File, index: usize, target: &Path, bytes: u64, read_back: bool) -> Self {
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        Self { file, target: target.to_path_buf(), position: 0, bytes, written: read_back.then(WrittenChunks::default), index }
    }

    /// Finishes the file: checks the length, syncs, and if requested reads it back.
    pub(super) fn finish(self) -> Result<()> {
        let Self { file, target, position, bytes, written, .. } = self;
        if position != bytes {
            return Err(Error::argument(format!("expected {bytes} bytes to be written, found {position}")).in_file(&target));
        }
        let file = file.into_inner().map_err(|error| write_error(&target, error.into_error()))?;
        file.sync_all().map_err(|error| Error::io("cannot sync", &target, error))?;
        written.map_or(Ok(()), |written| written.compare(&file, bytes, &target))
    }

    /// Returns the open file, to set owner and permissions.
    pub fn file(&self) -> &File {
        self.file.get_ref()
    }

    /// Returns the number of bytes written so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// The file would exceed the announced length, or the write fails.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.position.saturating_add(bytes.len() as u64);
        if end > self.bytes {
            return Err(Error::argument(format!("expected {} bytes in all, found {end} or more", self.bytes)).in_file(&self.target));
        }
        self.record(self.position, bytes);
        self.file.write_all(bytes).map_err(|error| write_error(&self.target, error))?;
        self.position = end;
        Ok(())
    }

    /// Extends the file to the announced length with zeros. From here on, bytes can be written at any offset, in any order and from several
    /// threads ([`OutFile::write_at`]); the caller must not leave any out.
    ///
    /// # Errors
    /// Flushing buffered bytes or setting the length fails.
    pub fn reserve(&mut self) -> Result<()> {
        self.file.flush().map_err(|error| write_error(&self.target, error))?;
        self.file.get_ref().set_len(self.bytes).map_err(|error| write_error(&self.target, error))?;
        self.position = self.bytes;
        Ok(())
    }

    /// Writes bytes at an offset of a [`reserved`](OutFile::reserve) file.
    ///
    /// # Errors
    /// The range is not inside the reserved file, or the write fails.
    pub fn write_at(&self, at: u64, bytes: &[u8]) -> Result<()> {
        if at.checked_add(bytes.len() as u64).is_none_or(|end| end > self.position) {
            let message = format!("expected a position in the {} bytes of the file, found {} bytes at {at}", self.position, bytes.len());
            return Err(Error::argument(message).in_file(&self.target));
        }
        self.record(at, bytes);
        write_all_at(self.file.get_ref(), bytes, at).map_err(|error| write_error(&self.target, error))
    }

    /// Copies `bytes`, which are at `from` in another file, to an offset of a [`reserved`](OutFile::reserve) file, inside the kernel if
    /// possible.
    ///
    /// # Errors
    /// As for [`OutFile::write_at`]; also if the other file became shorter.
    pub fn copy_at(&self, at: u64, source: &dyn Source, from: u64, bytes: &[u8]) -> Result<()> {
        let inside = at.checked_add(bytes.len() as u64).is_some_and(|end| end <= self.position);
        let copied = match source.file().and_then(Input::reopen).filter(|_| inside) {
            Some(source) => copy_in_kernel(&source, from, self.file.get_ref(), at, bytes.len()),
            None => 0,
        };
        self.record(at, bytes.get(..copied).unwrap_or_default());
        let rest = self.write_at(at.saturating_add(copied as u64), bytes.get(copied..).unwrap_or_default());
        rest.map_err(|error| error.in_file(source.path()))
    }

    fn record(&self, at: u64, bytes: &[u8]) {
        if let Some(written) = &self.written {
            written.add(at, bytes);
        }
    }

    /// Syncs what has been written so far. Done while other threads keep writing, this leaves little to sync at the end.
    ///
    /// # Errors
    /// Syncing fails; the kernel reports this only once, so the file must then be abandoned.
    pub fn sync_so_far(&self) -> Result<()> {
        self.file.get_ref().sync_data().map_err(|error| Error::io("cannot sync", &self.target, error))
    }

    /// Writes zeros up to `position`.
    ///
    /// # Errors
    /// The position has already been passed, or as for [`OutFile::append`].
    pub fn pad_to(&mut self, position: u64) -> Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let Some(mut left) = position.checked_sub(self.position) else {
            let message = format!("expected to be at byte {position} or before it, found to be at byte {}", self.position);
            return Err(Error::argument(message).in_file(&self.target));
        };
        while left > 0 {
            let step = left.min(ZEROS.len() as u64);
            self.append(&ZEROS[..step as usize])?;
            left -= step;
        }
        Ok(())
    }
}

/// Copies up to `len` bytes in the kernel and returns the number copied. What the kernel refuses (another disk, an old kernel), the caller
/// must write.
#[cfg(target_os = "linux")]
fn copy_in_kernel(source: &File, mut from: u64, target: &File, mut at: u64, len: usize) -> usize {
    let mut copied = 0;
    while copied < len {
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut at), len - copied) {
            Ok(0) | Err(_) => break,
            Ok(more) => copied += more,
        }
    }
    copied
}

#[cfg(not(target_os = "linux"))]
fn copy_in_kernel(_: &File, _: u64, _: &File, _: u64, _: usize) -> usize {
    0
}

fn write_error(target: &Path, error: io::Error) -> Error {
    if error.raw_os_error() == Some(libc::EFAULT) {
        // The source bytes are no longer there; the caller names that file.
        return Error::new(ErrorKind::Io, "the file became shorter or unreadable while it was being read");
    }
    Error::io("cannot write", target, error)
}
