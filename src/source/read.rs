//! What can be read by ranges.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::base::bytes::SharedBytes;
use crate::base::{Error, Result, limits};
use crate::source::file::Input;

/// Bytes that are read by ranges: a file on disk, bytes in memory, ranges fetched over a network.
pub trait Source: fmt::Debug + Send + Sync {
    /// Returns what messages call it: the path of a file, the name given to bytes in memory.
    fn path(&self) -> &Path;

    /// Returns how many bytes there are. The number stays the same.
    fn len(&self) -> u64;

    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the bytes of a range: borrowed where they are at hand.
    ///
    /// # Errors
    /// The range lies outside; or the bytes cannot be had.
    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>>;

    /// Returns the file on disk that this is, if it is one. Only then are there other files beside it, and only then can an output be
    /// the same file.
    fn file(&self) -> Option<&Input> {
        None
    }

    /// Checks that the bytes are still what they were when the source was opened. A source that checks this in every read has nothing
    /// to do here.
    ///
    /// # Errors
    /// They are others, or gone.
    fn check_unchanged(&self) -> Result<()> {
        self.file().map_or(Ok(()), Input::check_unchanged)
    }

    /// Returns all of the bytes, if they are at hand and need no reading. They stay for as long as the result does.
    fn shared(self: Arc<Self>) -> Option<Arc<dyn SharedBytes>> {
        None
    }

    /// Returns the least number of bytes that is worth a read: headers are read in steps of at least so many.
    fn least_read(&self) -> u64 {
        64 << 10
    }
}

/// Reads a source from `start` to its end, a chunk at a time.
///
/// # Errors
/// The bytes cannot be had; or `take` fails.
pub fn read_chunks(source: &dyn Source, mut start: u64, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    while start < source.len() {
        let end = start.saturating_add(limits::CHUNK_BYTES as u64).min(source.len());
        take(&source.read(start..end)?)?;
        start = end;
    }
    Ok(())
}

/// Takes a range out of bytes that are all at hand.
pub(super) fn slice<'a>(bytes: &'a [u8], range: &Range<u64>, path: &Path) -> Result<Cow<'a, [u8]>> {
    let (start, end) = (usize::try_from(range.start), usize::try_from(range.end));
    let found = start.ok().zip(end.ok()).and_then(|(start, end)| bytes.get(start..end));
    found.map(Cow::Borrowed).ok_or_else(|| {
        let message = format!("expected a range inside {} bytes, found bytes {} to {}", bytes.len(), range.start, range.end);
        Error::argument(message).in_file(path)
    })
}
