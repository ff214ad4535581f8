//! One file being written under its temporary name.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::base::{Error, ErrorKind, Result};
use crate::source::Source;
use crate::source::file::{Input, write_all_at};
use crate::write::readback::Written;

/// Bytes that are collected before they go to the system. Larger writes go there directly.
const BUFFER_BYTES: usize = 1 << 18;

/// A file being written, front to back.
#[derive(Debug)]
pub struct OutFile {
    file: BufWriter<File>,
    target: PathBuf,
    position: u64,
    bytes: u64,
    /// What was written, where it is to be read back.
    written: Option<Written>,
    /// Its number among the targets.
    pub(super) index: usize,
}

impl OutFile {
    /// Starts a file that will have so many bytes; `target` is what errors call it.
    pub(super) fn new(file: File, index: usize, target: &Path, bytes: u64, read_back: bool) -> Self {
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        Self { file, target: target.to_path_buf(), position: 0, bytes, written: read_back.then(Written::default), index }
    }

    /// Ends the file: it is as long as was announced, and on the disk, and where that is wanted it is what was written.
    pub(super) fn finish(self) -> Result<()> {
        let Self { file, target, position, bytes, written, .. } = self;
        if position != bytes {
            return Err(Error::argument(format!("expected {bytes} bytes to be written, found {position}")).in_file(&target));
        }
        let file = file.into_inner().map_err(|error| write_error(&target, error.into_error()))?;
        file.sync_all().map_err(|error| Error::io("cannot sync", &target, error))?;
        written.map_or(Ok(()), |written| written.compare(&file, bytes, &target))
    }

    /// The open file, for its owner and permissions.
    pub fn file(&self) -> &File {
        self.file.get_ref()
    }

    /// How many bytes were written so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Writes bytes at the end.
    ///
    /// # Errors
    /// More than the length that was announced; or the system could not write them.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.position.saturating_add(bytes.len() as u64);
        if end > self.bytes {
            return Err(Error::argument(format!("expected {} bytes in all, found {end} or more", self.bytes)).in_file(&self.target));
        }
        self.note(self.position, bytes);
        self.file.write_all(bytes).map_err(|error| write_error(&self.target, error))?;
        self.position = end;
        Ok(())
    }

    /// Makes the file as long as was announced, the rest of it zeros: from here on bytes go to their places, in any order and from
    /// several threads ([`OutFile::write_at`]), and whoever writes them sees to it that none are forgotten.
    ///
    /// # Errors
    /// The system could not write what was put before, or refuses the length.
    pub fn reserve(&mut self) -> Result<()> {
        self.file.flush().map_err(|error| write_error(&self.target, error))?;
        self.file.get_ref().set_len(self.bytes).map_err(|error| write_error(&self.target, error))?;
        self.position = self.bytes;
        Ok(())
    }

    /// Writes bytes at a place of a file that is [`reserved`](OutFile::reserve).
    ///
    /// # Errors
    /// The place is not inside the reserved file; or the system could not write them.
    pub fn write_at(&self, at: u64, bytes: &[u8]) -> Result<()> {
        if at.checked_add(bytes.len() as u64).is_none_or(|end| end > self.position) {
            let message = format!("expected a place in the {} bytes of the file, found {} bytes at {at}", self.position, bytes.len());
            return Err(Error::argument(message).in_file(&self.target));
        }
        self.note(at, bytes);
        write_all_at(self.file.get_ref(), bytes, at).map_err(|error| write_error(&self.target, error))
    }

    /// Copies the `bytes` of another file, which are at `from` in it, to a place of a file that is
    /// [`reserved`](OutFile::reserve): inside the kernel where that can be done.
    ///
    /// # Errors
    /// As for [`OutFile::write_at`]; or the other file has become shorter.
    pub fn copy_at(&self, at: u64, source: &dyn Source, from: u64, bytes: &[u8]) -> Result<()> {
        let inside = at.checked_add(bytes.len() as u64).is_some_and(|end| end <= self.position);
        let copied = match source.file().and_then(Input::reopen).filter(|_| inside) {
            Some(source) => copy_in_kernel(&source, from, self.file.get_ref(), at, bytes.len()),
            None => 0,
        };
        self.note(at, bytes.get(..copied).unwrap_or_default());
        let rest = self.write_at(at.saturating_add(copied as u64), bytes.get(copied..).unwrap_or_default());
        rest.map_err(|error| error.in_file(source.path()))
    }

    fn note(&self, at: u64, bytes: &[u8]) {
        if let Some(written) = &self.written {
            written.add(at, bytes);
        }
    }

    /// Brings what was written so far onto the disk. While other threads go on writing, this keeps the disk busy, so that little is left
    /// to wait for at the end.
    ///
    /// # Errors
    /// The system could not write it; it says so only once, so the file must be given up then.
    pub fn sync_so_far(&self) -> Result<()> {
        self.file.get_ref().sync_data().map_err(|error| Error::io("cannot sync", &self.target, error))
    }

    /// Writes zeros up to `position`.
    ///
    /// # Errors
    /// The position is passed already; or as for [`OutFile::put`].
    pub fn pad_to(&mut self, position: u64) -> Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let Some(mut left) = position.checked_sub(self.position) else {
            let message = format!("expected to be at byte {position} or before it, found to be at byte {}", self.position);
            return Err(Error::argument(message).in_file(&self.target));
        };
        while left > 0 {
            let step = left.min(ZEROS.len() as u64);
            self.put(&ZEROS[..step as usize])?;
            left -= step;
        }
        Ok(())
    }
}

/// How many of `len` bytes the kernel copied. What it refuses (another disk, an old kernel) is for the caller to write.
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
        // The bytes to be written are not there any more: they are of another file, which the caller names.
        return Error::new(ErrorKind::Io, "the file became shorter or unreadable while it was being read");
    }
    Error::io("cannot write", target, error)
}
