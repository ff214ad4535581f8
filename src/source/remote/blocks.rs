//! Blocks of remote files that are read ahead, in a bounded amount of memory.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::base::threads::{self, lock};
use crate::base::{Error, Result, limits};
use crate::source::data::Data;
use crate::source::remote::buffers::Buffer;
use crate::source::remote::link::Link;
use crate::source::remote::runtime;

/// Number of blocks that are fetched ahead of a reader.
const AHEAD: u64 = 2;

/// Most ranges that are fetched ahead of a reader, if they are small.
const AHEAD_RANGES: usize = 8;

/// Size of a block: each thread has room for the one it reads, those ahead of it, and one that another thread is still reading.
pub(super) fn block_bytes() -> u64 {
    (limits::READ_AHEAD_BYTES / (threads::count() as u64 * (AHEAD + 2))).clamp(256 << 10, 4 << 20)
}

/// Ranges of a file that will be read, sorted, without overlaps; those close together are joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Announced(Vec<Range<u64>>);

impl Announced {
    /// Adds ranges.
    pub(super) fn add(&mut self, ranges: &[Range<u64>]) {
        let mut all: Vec<Range<u64>> = self.0.drain(..).chain(ranges.iter().filter(|range| !range.is_empty()).cloned()).collect();
        all.sort_by_key(|range| range.start);
        for range in all {
            match self.0.last_mut() {
                Some(last) if range.start <= last.end.saturating_add(limits::GAP_BYTES) => last.end = last.end.max(range.end),
                _ => self.0.push(range),
            }
        }
    }

    /// Whether all bytes of a range have been announced.
    pub(super) fn contains(&self, range: &Range<u64>) -> bool {
        let before = self.0.partition_point(|announced| announced.start <= range.start);
        before.checked_sub(1).and_then(|index| self.0.get(index)).is_some_and(|announced| range.end <= announced.end)
    }

    /// Returns the block that contains the byte `at`, or else the next one after it.
    fn block(&self, at: u64, block_bytes: u64) -> Option<Range<u64>> {
        let announced = self.0.get(self.0.partition_point(|announced| announced.end <= at))?;
        let at = at.max(announced.start);
        let grid = at / block_bytes * block_bytes;
        Some(grid.max(announced.start)..(grid + block_bytes).min(announced.end))
    }
}

/// A block, once it has arrived.
#[derive(Debug, Default)]
struct Block {
    bytes: Mutex<Option<Result<Arc<Buffer>>>>,
    arrived: Condvar,
}

/// A block in memory or on its way.
struct Slot {
    file: u64,
    range: Range<u64>,
    block: Arc<Block>,
}

/// The least recently used first.
static SLOTS: Mutex<VecDeque<Slot>> = Mutex::new(VecDeque::new());

/// Reads an announced range; what lies in one block is not copied.
pub(super) fn read<'a>(file: u64, link: &Arc<Link>, announced: &Announced, range: Range<u64>) -> Result<Data<'a>> {
    let mut out = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let size = block_bytes();
        let Some(wanted) = announced.block(at, size) else { break };
        let block = request(file, link, wanted.clone())?;
        let (mut next, mut ahead) = (wanted.end, 0);
        for _ in 0..AHEAD_RANGES {
            let Some(range) = announced.block(next, size).filter(|_| ahead < AHEAD * size) else { break };
            (next, ahead) = (range.end, ahead + range.end - range.start);
            request(file, link, range)?;
        }
        let bytes = block.wait()?;
        let end = wanted.end.min(range.end);
        let inside = (at - wanted.start) as usize..(end - wanted.start) as usize;
        let part = (*bytes).as_ref().get(inside.clone()).ok_or_else(|| Error::truncated("a block is too short").in_file(link.path()))?;
        if part.len() as u64 == range.end - range.start {
            return Ok(Data::Shared(bytes, inside));
        }
        if out.is_empty() {
            let len = range.end - range.start;
            let memory = || Error::limit(format!("expected memory for {len} bytes")).in_file(link.path());
            out.try_reserve_exact(usize::try_from(len).map_err(|_| memory())?).map_err(|_| memory())?;
        }
        out.extend_from_slice(part);
        at = end;
    }
    Ok(Data::Owned(out))
}

/// Forgets the blocks of a file.
pub(super) fn forget(file: u64) {
    lock(&SLOTS).retain(|slot| slot.file != file);
}

/// Returns a block, and starts to fetch it if it is not there.
fn request(file: u64, link: &Arc<Link>, range: Range<u64>) -> Result<Arc<Block>> {
    let mut slots = lock(&SLOTS);
    if let Some(index) = slots.iter().position(|slot| slot.file == file && slot.range == range)
        && let Some(slot) = slots.remove(index)
    {
        let block = Arc::clone(&slot.block);
        slots.push_back(slot);
        return Ok(block);
    }
    let block = Arc::new(Block::default());
    slots.push_back(Slot { file, range: range.clone(), block: Arc::clone(&block) });
    let mut total: u64 = slots.iter().map(|slot| slot.range.end - slot.range.start).sum();
    while total > limits::READ_AHEAD_BYTES
        && let Some(slot) = slots.pop_front()
    {
        total -= slot.range.end - slot.range.start;
    }
    drop(slots);
    let (link, given) = (Arc::clone(link), Arc::clone(&block));
    runtime::spawn(async move {
        let arrived = Arrival(given);
        let bytes = link.fetch(range).await.map(|bytes| Arc::new(Buffer::new(bytes)));
        *lock(&arrived.0.bytes) = Some(bytes);
    })?;
    Ok(block)
}

/// Wakes those who wait for a block when its task ends, however it ends.
struct Arrival(Arc<Block>);

impl Drop for Arrival {
    fn drop(&mut self) {
        let missing = || Err(Error::new(crate::base::ErrorKind::Io, "a request ended without a result"));
        lock(&self.0.bytes).get_or_insert_with(missing);
        self.0.arrived.notify_all();
    }
}

impl Block {
    fn wait(&self) -> Result<Arc<Buffer>> {
        let mut bytes = lock(&self.bytes);
        loop {
            if let Some(bytes) = &*bytes {
                return bytes.clone();
            }
            bytes = self.arrived.wait(bytes).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_ranges_are_joined_and_cut_into_blocks() {
        let mut announced = Announced::default();
        announced.add(&[500_000..600_000, 0..10, 20..100]);
        announced.add(&[90..150, 7..7]);
        assert_eq!(announced, Announced(vec![0..150, 500_000..600_000]));
        assert!(announced.contains(&(0..150)) && announced.contains(&(500_001..500_002)));
        assert!(!announced.contains(&(149..151)) && !announced.contains(&(499_999..500_001)) && !announced.contains(&(700_000..700_001)));
        let blocks = |at| announced.block(at, 1 << 16);
        assert_eq!((blocks(0), blocks(149), blocks(150)), (Some(0..150), Some(0..150), Some(500_000..524_288)));
        assert_eq!((blocks(524_288), blocks(599_999), blocks(600_000)), (Some(524_288..589_824), Some(589_824..600_000), None));
    }
}
