//! A remote file as a source.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::base::threads::lock;
use crate::base::{Result, limits};
use crate::source::data::Data;
use crate::source::read::{Source, check_range};
use crate::source::remote::blocks::{self, Announced};
use crate::source::remote::cache;
use crate::source::remote::http::changed;
use crate::source::remote::link::Link;
use crate::source::remote::runtime::wait;

/// Number of small ranges kept, for readers that read on from where they stopped.
const KEPT: usize = 4;

/// Largest range that is kept.
const KEPT_BYTES: usize = 256 << 10;

/// A remote file. Its first bytes are there once it is open.
#[derive(Debug)]
pub(super) struct RemoteFile {
    number: u64,
    link: Arc<Link>,
    len: u64,
    head: Mutex<Vec<u8>>,
    /// The name under which the cache keeps the header, and the tag that it has there.
    cache_name: String,
    cached_tag: Option<String>,
    announced: Mutex<Arc<Announced>>,
    kept: Mutex<VecDeque<(u64, Vec<u8>)>>,
}

impl RemoteFile {
    /// Opens a file: fetches its first bytes, unless the cache has those of the same version.
    pub(super) async fn open(link: Link, cache_name: String) -> Result<Self> {
        let known = link.identity();
        let cached = cache::get(&cache_name);
        let (current, other) = match (cached, known.strong_tag()) {
            (Some(entry), Some(tag)) if entry.tag == tag && known.len == Some(entry.len) => (Some(entry), None),
            (Some(entry), None) => (None, Some(entry)),
            _ => (None, None),
        };
        let (len, head, cached_tag) = match current {
            None if known.len == Some(0) => (0, Vec::new(), None),
            Some(entry) => (entry.len, entry.bytes, Some(entry.tag)),
            None => {
                let tag = other.as_ref().map(|entry| entry.tag.clone());
                let fetched = link.fetch_unless(0..limits::FIRST_BYTES, tag).await?;
                match (fetched, other) {
                    (Some(bytes), _) => {
                        let len = link.identity().len.unwrap_or(bytes.len() as u64);
                        (len, bytes, None)
                    }
                    (None, Some(entry)) => (entry.len, entry.bytes, Some(entry.tag)),
                    (None, None) => return Err(changed(link.path())),
                }
            }
        };
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        Ok(Self {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            link: Arc::new(link),
            len,
            head: Mutex::new(head),
            cache_name,
            cached_tag,
            announced: Mutex::default(),
            kept: Mutex::default(),
        })
    }

    /// Returns what is known of the file.
    #[cfg(feature = "catalog")]
    pub(super) fn identity(&self) -> crate::source::remote::http::Identity {
        self.link.identity()
    }

    /// Returns a range that is in memory.
    fn in_memory(&self, range: &Range<u64>) -> Option<Vec<u8>> {
        let slice = |start: u64, bytes: &[u8]| {
            let (from, to) = (range.start.checked_sub(start)?, range.end.checked_sub(start)?);
            bytes.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?).map(<[u8]>::to_vec)
        };
        slice(0, &lock(&self.head)).or_else(|| lock(&self.kept).iter().find_map(|(start, bytes)| slice(*start, bytes)))
    }

    fn fetch(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let link = Arc::clone(&self.link);
        wait(async move { link.fetch(range).await })
    }
}

impl Source for RemoteFile {
    fn path(&self) -> &Path {
        self.link.path()
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, range: Range<u64>) -> Result<Data<'_>> {
        check_range(&range, self.len, self.path())?;
        if range.is_empty() {
            return Ok(Data::Borrowed(&[]));
        }
        if let Some(bytes) = self.in_memory(&range) {
            return Ok(Data::Owned(bytes));
        }
        let announced = Arc::clone(&lock(&self.announced));
        if announced.contains(&range) {
            return blocks::read(self.number, &self.link, &announced, range);
        }
        let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let end = range.end.max(range.start.saturating_add(limits::GAP_BYTES)).min(self.len);
        let mut bytes = self.fetch(range.start..end)?;
        if wanted < bytes.len() && bytes.len() <= KEPT_BYTES {
            let mut kept = lock(&self.kept);
            kept.truncate(KEPT - 1);
            kept.push_front((range.start, bytes.clone()));
        }
        bytes.truncate(wanted);
        Ok(Data::Owned(bytes))
    }

    fn has_neighbours(&self) -> bool {
        true
    }

    fn announce(&self, ranges: &[Range<u64>]) {
        let mut announced = lock(&self.announced);
        let mut all = Announced::clone(&announced);
        all.add(ranges);
        *announced = Arc::new(all);
    }

    fn block_bytes(&self) -> Option<u64> {
        Some(blocks::block_bytes())
    }

    fn header_read(&self, header: &[u8]) {
        lock(&self.head).clear();
        lock(&self.head).shrink_to_fit();
        let identity = self.link.identity();
        if let Some(tag) = identity.strong_tag().filter(|tag| self.cached_tag.as_deref() != Some(tag)) {
            cache::put(&self.cache_name, tag, self.len, header);
        }
    }
}

impl Drop for RemoteFile {
    fn drop(&mut self) {
        blocks::forget(self.number);
    }
}
