//! The prefix of a source, extended until a parser has enough.

use std::path::Path;
use std::sync::Arc;

use crate::base::bytes::{Parsed, SharedBytes};
use crate::base::{Error, Result, limits};
use crate::source::memory::InMemory;
use crate::source::read::Source;

/// A source and its first bytes, or all of them if no reading is needed.
#[derive(Debug)]
pub struct Prefix {
    source: Arc<dyn Source>,
    start: Start,
}

#[derive(Debug)]
enum Start {
    Whole(Arc<dyn SharedBytes>),
    Read(Arc<InMemory<Vec<u8>>>),
}

impl Prefix {
    /// Reads the first bytes of a source.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn new(source: Arc<dyn Source>) -> Result<Self> {
        if let Some(bytes) = Arc::clone(&source).shared() {
            return Ok(Self { source, start: Start::Whole(bytes) });
        }
        let start = Start::Read(Arc::new(InMemory::new(source.path(), Vec::new())));
        let mut prefix = Self { source, start };
        prefix.read_to(prefix.source.least_read().min(prefix.len()))?;
        Ok(prefix)
    }

    /// Returns the source.
    pub fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// Returns the source, discarding the prefix.
    pub fn into_source(self) -> Arc<dyn Source> {
        self.source
    }

    /// Returns the path to use in messages.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Returns the length of the source in bytes.
    pub fn len(&self) -> u64 {
        self.source.len()
    }

    /// Whether the source has no bytes.
    pub fn is_empty(&self) -> bool {
        self.source.is_empty()
    }

    /// Returns the bytes read so far.
    pub fn bytes(&self) -> &[u8] {
        match &self.start {
            Start::Whole(bytes) => bytes.bytes(),
            Start::Read(bytes) => bytes.bytes(),
        }
    }

    /// Returns the bytes read so far, with shared ownership.
    pub fn shared(&self) -> Arc<dyn SharedBytes> {
        match &self.start {
            Start::Whole(bytes) => Arc::clone(bytes),
            Start::Read(bytes) => Arc::clone(bytes) as Arc<dyn SharedBytes>,
        }
    }

    /// Parses the prefix, extending it until it is long enough. `parse` starts over each time.
    ///
    /// # Errors
    /// The bytes cannot be read, or are too many for a header.
    pub fn parse<T>(&mut self, mut parse: impl FnMut(&Self) -> Parsed<T>) -> Result<T> {
        loop {
            match parse(self) {
                Parsed::Done(value) => {
                    if let Start::Read(bytes) = &self.start {
                        self.source.header_read(bytes.bytes());
                    }
                    return Ok(value);
                }
                Parsed::Need(end) => self.grow(end)?,
            }
        }
    }

    /// Extends the prefix to byte `end` plus a tenth: geometric growth keeps the cost of repeated parsing low, without reading far beyond
    /// the header.
    fn grow(&mut self, end: u64) -> Result<()> {
        let have = self.bytes().len() as u64;
        let ahead = self.source.least_read().max(end / 10);
        let end = end.saturating_add(ahead).min(self.len());
        if end <= have {
            return Err(Error::truncated("expected more bytes, found the end").at(have).in_file(self.path()));
        }
        self.read_to(end)
    }

    fn read_to(&mut self, end: u64) -> Result<()> {
        let Start::Read(start) = &mut self.start else { return Ok(()) };
        let bytes = &mut Arc::make_mut(start).bytes;
        let (path, from) = (self.source.path(), bytes.len() as u64);
        if end > limits::HEADER_BYTES {
            let message = format!("expected a header of at most {} bytes, found one of {end} or more", limits::HEADER_BYTES);
            return Err(Error::limit(message).in_file(path));
        }
        let read = self.source.read(from..end)?;
        if read.len() as u64 != end.saturating_sub(from) {
            let message = format!("expected {} bytes, found {}", end.saturating_sub(from), read.len());
            return Err(Error::truncated(message).at(from + read.len() as u64).in_file(path));
        }
        bytes.try_reserve_exact(read.len()).map_err(|_| Error::limit(format!("expected memory for {end} bytes")).in_file(path))?;
        bytes.extend_from_slice(&read);
        Ok(())
    }
}
