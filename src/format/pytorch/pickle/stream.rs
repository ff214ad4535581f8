//! The bytes of a pickle, read in order.

use std::sync::Arc;

use crate::base::bytes::copy;
use crate::base::{Error, Result};
use crate::source::{Data, Source};

/// Bytes read at a time from a source that is not in memory.
const STEP: u64 = 64 << 10;

/// The longest line of a text opcode, in bytes.
const LINE: usize = 1 << 20;

/// A range of a source that is read in order.
#[derive(Debug)]
pub(crate) struct Stream<'s> {
    source: &'s Arc<dyn Source>,
    /// Absolute position of the next byte.
    at: u64,
    end: u64,
    window: Data<'s>,
    window_start: u64,
}

impl<'s> Stream<'s> {
    /// Returns a stream from byte `at` to byte `end` of the source.
    pub(crate) fn new(source: &'s Arc<dyn Source>, at: u64, end: u64) -> Self {
        Self { source, at, end: end.min(source.len()), window: Data::Borrowed(&[]), window_start: at }
    }

    /// Returns the absolute position.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// Returns the number of bytes left.
    pub(crate) fn remaining(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }

    /// Whether all bytes are read.
    pub(crate) fn is_at_end(&self) -> bool {
        self.at >= self.end
    }

    /// Reads the window so that it holds the next `len` bytes, if there are that many.
    fn fill(&mut self, len: u64) -> Result<&[u8]> {
        let window_end = self.window_start + self.window.len() as u64;
        let end = self.at.saturating_add(len).min(self.end);
        if self.at < self.window_start || end > window_end {
            let to = end.max(self.at.saturating_add(STEP.max(self.source.least_read()))).min(self.end);
            self.window = self.source.read(self.at..to)?;
            self.window_start = self.at;
        }
        Ok(self.window.get((self.at - self.window_start) as usize..).unwrap_or_default())
    }

    fn too_short(&self, len: u64) -> Error {
        Error::truncated(format!("expected {len} bytes of a pickle, found {} before the end", self.remaining())).at(self.at)
    }

    /// Returns the next bytes, copied.
    pub(crate) fn take(&mut self, len: u64) -> Result<Vec<u8>> {
        if len > self.remaining() {
            return Err(self.too_short(len));
        }
        let bytes = copy(self.fill(len)?.get(..len as usize).unwrap_or_default())?;
        self.at += len;
        Ok(bytes)
    }

    /// Returns the next bytes as an array.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        // The window ends where the stream does.
        let bytes = self.fill(N as u64)?.first_chunk().copied().ok_or_else(|| self.too_short(N as u64))?;
        self.at += N as u64;
        Ok(bytes)
    }

    /// Skips bytes; returns where they start.
    pub(crate) fn skip(&mut self, len: u64) -> Result<u64> {
        if len > self.remaining() {
            return Err(self.too_short(len));
        }
        let start = self.at;
        self.at += len;
        Ok(start)
    }

    /// Returns the next line without its end.
    pub(crate) fn line(&mut self) -> Result<Vec<u8>> {
        let mut len = 256;
        loop {
            let left = self.remaining();
            let bytes = self.fill(len)?;
            let within = bytes.get(..bytes.len().min(LINE)).unwrap_or_default();
            if let Some(end) = within.iter().position(|&byte| byte == b'\n') {
                let line = copy(within.get(..end).unwrap_or_default())?;
                self.at += end as u64 + 1;
                return Ok(line);
            }
            if bytes.len() as u64 >= left || bytes.len() >= LINE {
                return Err(Error::truncated("expected the end of a line in a pickle, found none").at(self.at));
            }
            len = bytes.len() as u64 * 2;
        }
    }
}
