//! The trait for reading ranges of bytes.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::base::bytes::SharedBytes;
use crate::base::{Error, Result, limits};
use crate::source::data::Data;
use crate::source::file::Input;

/// Bytes that can be read by range: a file on disk, bytes in memory, or a remote file.
pub trait Source: fmt::Debug + Send + Sync {
    /// Returns the path to use in messages: that of a file, or the name given to bytes in memory.
    fn path(&self) -> &Path;

    /// Returns the length in bytes, which does not change.
    fn len(&self) -> u64;

    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads a range, borrowed if possible.
    ///
    /// # Errors
    /// The range is out of bounds, or reading fails.
    fn read(&self, range: Range<u64>) -> Result<Data<'_>>;

    /// Returns the underlying file on disk, if any. Only then may related files exist next to it, and an output be the same file.
    fn file(&self) -> Option<&Input> {
        None
    }

    /// Whether related files (shards, a config) may exist next to it: true on disk and in a remote folder, false for bytes in memory.
    fn has_neighbours(&self) -> bool {
        self.file().is_some()
    }

    /// Announces ranges that will be read, roughly in order: a remote source reads ahead.
    fn announce(&self, _ranges: &[Range<u64>]) {}

    /// Returns the size of the blocks in which announced ranges are received, from the start of each; a block is best read by one thread.
    /// `None` if that makes no difference.
    fn block_bytes(&self) -> Option<u64> {
        None
    }

    /// Called with the first bytes of the source when its header has been parsed: a remote source need not keep them.
    fn header_read(&self, _header: &[u8]) {}

    /// Checks that the bytes have not changed since the source was opened. The default is for sources that check this on every read.
    ///
    /// # Errors
    /// They have changed, or no longer exist.
    fn check_unchanged(&self) -> Result<()> {
        self.file().map_or(Ok(()), Input::check_unchanged)
    }

    /// Returns all bytes, if available without reading. They are kept alive by the result.
    fn shared(self: Arc<Self>) -> Option<Arc<dyn SharedBytes>> {
        None
    }

    /// Returns the minimum number of bytes worth a read; headers are read in steps of at least this size.
    fn least_read(&self) -> u64 {
        64 << 10
    }
}

/// Reads a source from `start` to the end in chunks.
///
/// # Errors
/// Reading fails, or `take` does.
pub fn read_chunks(source: &dyn Source, mut start: u64, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let rest = start..source.len();
    source.announce(std::slice::from_ref(&rest));
    while start < source.len() {
        let end = start.saturating_add(limits::CHUNK_BYTES as u64).min(source.len());
        take(&source.read(start..end)?)?;
        start = end;
    }
    Ok(())
}

/// Checks that a range lies inside the `len` bytes of the source at `path`.
///
/// # Errors
/// It does not.
pub fn check_range(range: &Range<u64>, len: u64, path: &Path) -> Result<()> {
    if range.start <= range.end && range.end <= len {
        return Ok(());
    }
    let message = format!("expected a range inside {len} bytes, found bytes {} to {}", range.start, range.end);
    Err(Error::argument(message).in_file(path))
}

/// Returns a range of available bytes.
pub(super) fn slice<'a>(bytes: &'a [u8], range: &Range<u64>, path: &Path) -> Result<Data<'a>> {
    check_range(range, bytes.len() as u64, path)?;
    // Neither end is above the length, which is a usize.
    Ok(Data::Borrowed(&bytes[range.start as usize..range.end as usize]))
}
