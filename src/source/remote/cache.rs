//! The cache of headers: one file a remote file, with the entity tag for which it holds.
//!
//! A file is written under a temporary name and renamed, so that runs at the same time see whole files only. What is damaged, or was made
//! for another tag, is ignored.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::limits;
use crate::source::remote::runtime::variable;

/// First bytes of each file of the cache.
const MAGIC: &[u8; 16] = b"remote header 1\n";

/// A library writes nothing unasked: the command line turns the cache on.
static USED: AtomicBool = AtomicBool::new(false);

/// Turns the cache of remote headers on or off. It is off by default.
pub fn use_cache(used: bool) {
    USED.store(used, Ordering::Relaxed);
}

/// The first bytes of a remote file, as they were when it had this tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) tag: String,
    pub(super) len: u64,
    pub(super) bytes: Vec<u8>,
}

/// Returns what is kept of the file at an address.
pub(super) fn get(address: &str) -> Option<Entry> {
    let path = path_of(address)?;
    let file = File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(usize::try_from(size.min(most())).ok()?).ok()?;
    file.take(most()).read_to_end(&mut bytes).ok()?;
    decode(&bytes)
}

/// Keeps the first bytes of the file at an address, of `len` bytes in all. A failure only means that they will be fetched again.
pub(super) fn put(address: &str, tag: &str, len: u64, bytes: &[u8]) {
    if bytes.len() as u64 > limits::CACHED_HEADER_BYTES || tag.len() > usize::from(u8::MAX) {
        return;
    }
    let Some(path) = path_of(address) else { return };
    let Some(folder) = path.parent() else { return };
    let write = || -> std::io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut file = tempfile::Builder::new().prefix(".header-").tempfile_in(folder)?; // readable by its owner only
        encode(tag, len, bytes, &mut file)?;
        file.persist(&path)?;
        trim(folder)
    };
    let _ = write();
}

/// Deletes the oldest files until the cache has its size again, with room for more.
fn trim(folder: &std::path::Path) -> std::io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = entry.metadata()?;
        files.push((found.modified()?, found.len(), entry.path()));
    }
    let mut total: u64 = files.iter().map(|(_, len, _)| len).sum();
    if total <= limits::HEADER_CACHE_BYTES {
        return Ok(());
    }
    files.sort();
    for (_, len, path) in files {
        if total <= limits::HEADER_CACHE_BYTES / 4 * 3 {
            break;
        }
        if fs::remove_file(path).is_ok() {
            total -= len;
        }
    }
    Ok(())
}

/// The largest size of a file of the cache.
fn most() -> u64 {
    limits::CACHED_HEADER_BYTES + 1024
}

fn path_of(address: &str) -> Option<PathBuf> {
    if !USED.load(Ordering::Relaxed) {
        return None;
    }
    let base = variable("XDG_CACHE_HOME").map_or_else(|| Some(variable("HOME")? + "/.cache"), Some)?;
    let folder = PathBuf::from(base).join("weigh");
    folder.is_absolute().then(|| folder.join(blake3::hash(address.as_bytes()).to_hex().as_str()))
}

fn encode(tag: &str, len: u64, bytes: &[u8], out: &mut impl Write) -> std::io::Result<()> {
    let tag_len = [tag.len() as u8]; // checked by the caller
    let parts = [&len.to_le_bytes(), &tag_len[..], tag.as_bytes(), bytes];
    let mut hasher = blake3::Hasher::new();
    parts.iter().for_each(|part| {
        hasher.update(part);
    });
    out.write_all(MAGIC)?;
    out.write_all(hasher.finalize().as_bytes())?;
    parts.iter().try_for_each(|part| out.write_all(part))
}

fn decode(bytes: &[u8]) -> Option<Entry> {
    let (digest, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<{ blake3::OUT_LEN }>()?;
    if blake3::hash(rest) != *digest {
        return None;
    }
    let (len, rest) = rest.split_first_chunk()?;
    let (&tag_len, rest) = rest.split_first()?;
    let (tag, bytes) = rest.split_at_checked(usize::from(tag_len))?;
    let len = u64::from_le_bytes(*len);
    let tag = String::from_utf8(tag.to_vec()).ok()?;
    (bytes.len() as u64 <= len).then(|| Entry { tag, len, bytes: bytes.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written_or_not_at_all() {
        let encoded = |tag: &str, len, bytes: &[u8]| {
            let mut out = Vec::new();
            encode(tag, len, bytes, &mut out).unwrap();
            out
        };
        let bytes = encoded("\"a\"", 9, b"12345");
        assert_eq!(decode(&bytes), Some(Entry { tag: "\"a\"".to_owned(), len: 9, bytes: b"12345".to_vec() }));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!((decode(&damaged), decode(&bytes[..at])), (None, None), "{at}");
        }
        assert_eq!(decode(&encoded("", 1, b"12")), None, "more than the file has");
    }
}
