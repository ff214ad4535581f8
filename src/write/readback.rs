//! Verifies that a file on disk has the bytes that were written: chunks are hashed when written, in any order, and again when read back.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use xxhash_rust::xxh64::{Xxh64, xxh64};

use crate::base::threads::{lock, par, prelude::*};
use crate::base::{Error, Result, limits};
use crate::source::file::read_exact_at;

/// The chunks written so far.
#[derive(Debug, Default)]
pub(super) struct WrittenChunks(Mutex<Vec<Chunk>>);

/// Offset, length and hash of a chunk.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    at: u64,
    len: u64,
    hash: u64,
}

impl WrittenChunks {
    /// Records bytes written at an offset where none were written before.
    pub(super) fn add(&self, at: u64, bytes: &[u8]) {
        // Nothing has a place beside something else: which of the two at one offset ends the gap before the next chunk is not said.
        if !bytes.is_empty() {
            let chunk = Chunk { at, len: bytes.len() as u64, hash: xxh64(bytes, 0) };
            lock(&self.0).push(chunk);
        }
    }

    /// Reads a synced file back in parallel and compares it. Gaps between the chunks must be zero.
    ///
    /// # Errors
    /// Some bytes differ from those written, or cannot be read.
    pub(super) fn compare(self, file: &File, file_bytes: u64, path: &Path) -> Result<()> {
        let mut chunks = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        chunks.sort_unstable_by_key(|chunk| chunk.at);
        let ends = chunks.iter().map(|chunk| chunk.at + chunk.len);
        let starts = chunks.iter().map(|chunk| chunk.at).chain([file_bytes]);
        let gaps: Vec<(u64, u64)> = std::iter::once(0).chain(ends).zip(starts).filter(|(end, start)| end < start).collect();
        forget_cache(file);
        let unreadable = |error| Error::io("cannot read back", path, error);
        let wrong = |at: u64, len: u64| {
            Error::malformed(format!("the {len} bytes read back differ from those written"))
                .at(at)
                .in_file(path)
                .hint("the output was discarded; check this machine's disk and memory")
        };
        par(&chunks).try_for_each(|chunk| {
            let mut hasher = Xxh64::new(0);
            read(file, chunk.at, chunk.len, |bytes| hasher.update(bytes)).map_err(unreadable)?;
            if hasher.digest() == chunk.hash { Ok(()) } else { Err(wrong(chunk.at, chunk.len)) }
        })?;
        for (start, end) in gaps {
            let mut zero = true;
            read(file, start, end - start, |bytes| zero &= bytes.iter().all(|&byte| byte == 0)).map_err(unreadable)?;
            if !zero {
                return Err(wrong(start, end - start));
            }
        }
        Ok(())
    }
}

/// Asks the kernel to drop the file from the page cache.
fn forget_cache(file: &File) {
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    #[cfg(not(target_os = "linux"))]
    let _ = file;
}

fn read(file: &File, mut at: u64, mut len: u64, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; len.min(limits::CHUNK_BYTES as u64) as usize];
    while len > 0 {
        let step = len.min(buffer.len() as u64) as usize;
        read_exact_at(file, &mut buffer[..step], at)?;
        each(&buffer[..step]);
        (at, len) = (at + step as u64, len - step as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares a file of these bytes, of which `abc` was written at 1 and `de` at 6, 9 bytes in all.
    fn compare(bytes: &[u8]) -> Result<()> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let written = WrittenChunks::default();
        written.add(6, b"de");
        written.add(1, b"abc");
        written.add(6, b"");
        written.add(1, b"");
        written.compare(file.as_file(), 9, file.path())
    }

    #[test]
    fn changed_bytes_are_found_and_located() {
        compare(b"\0abc\0\0de\0").unwrap();
        for (bytes, at) in
            [(b"\0abC\0\0de\0", 1), (b"\0abc\0\0df\0", 6), (b"\0abc\0x\0de", 6), (b"\0abc\x01\0de\0", 4), (b"xabc\0\0de\0", 0)]
        {
            assert_eq!(compare(bytes).unwrap_err().offset(), Some(at), "{bytes:?}");
        }
        assert!(compare(b"\0abc\0\0de\x01").is_err(), "the end");
        assert!(compare(b"\0abc\0\0d").unwrap_err().to_string().contains("cannot read back"));
    }
}
