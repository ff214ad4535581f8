//! Blocks of remote files that are asked for ahead of their readers, in a bounded amount of memory.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;

use crate::base::threads::{self, lock};
use crate::base::{Error, Result, limits};
use crate::source::data::Data;
use crate::source::remote::buffers::{self, Buffer};
use crate::source::remote::link::Link;
use crate::source::remote::receive::Stream;
use crate::source::remote::runtime;

/// Number of blocks that are asked for ahead of a reader.
const AHEAD: u64 = 2;

/// Most ranges that are asked for ahead of a reader, if they are small.
const AHEAD_RANGES: usize = 8;

/// Size from which a range is read by several threads.
const SMALL_BYTES: u64 = 1 << 20;

/// Size of a block, a power of two, as is that of the parts into which tensors are divided: each thread has room for the one it reads, those
/// ahead of it, and one that another thread is still reading.
pub(super) fn block_bytes() -> u64 {
    let room = limits::READ_AHEAD_BYTES / (threads::count() as u64 * (AHEAD + 2));
    (1 << room.max(1).ilog2()).clamp(256 << 10, 8 << 20)
}

/// Ranges of a file that will be read, sorted, without overlaps. Small ones are joined to those before them; large ones stay apart, as each is
/// divided among threads from its start, and blocks that are divided likewise are each read by one thread.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Announced(Vec<Range<u64>>);

impl Announced {
    /// Adds ranges.
    pub(super) fn add(&mut self, ranges: &[Range<u64>]) {
        let mut all: Vec<Range<u64>> = self.0.drain(..).chain(ranges.iter().filter(|range| !range.is_empty()).cloned()).collect();
        all.sort_by_key(|range| range.start);
        for range in all {
            let is_small = range.end - range.start < SMALL_BYTES;
            match self.0.last_mut() {
                Some(last) if range.start < last.end || is_small && range.start - last.end <= limits::GAP_BYTES => {
                    last.end = last.end.max(range.end);
                }
                _ => self.0.push(range),
            }
        }
    }

    /// Whether all bytes of a range have been announced.
    pub(super) fn contains(&self, range: &Range<u64>) -> bool {
        let mut at = range.start;
        while at < range.end {
            match self.rest(at) {
                Some(rest) if rest.start == at => at = rest.end,
                _ => return false,
            }
        }
        true
    }

    /// Returns the announced bytes from `at` on, or else the next ones after it.
    fn rest(&self, at: u64) -> Option<Range<u64>> {
        let announced = self.0.get(self.0.partition_point(|announced| announced.end <= at))?;
        Some(at.max(announced.start)..announced.end)
    }
}

/// A block of which the bytes are received when they are needed.
struct Block {
    range: Range<u64>,
    state: Mutex<State>,
}

/// What of a block is in memory.
struct State {
    origin: Origin,
    /// Received, but not read: sorted, without overlaps.
    pieces: VecDeque<Piece>,
    /// The end of what was received.
    end: u64,
}

/// Where the bytes of a block come from.
enum Origin {
    Unasked,
    /// Piece by piece, received by the thread that reads them: each such block has a connection, so it is not a small one.
    Stream(Box<Stream>),
    /// As a whole, received in the background.
    Whole(Receiver<Result<Vec<u8>>>),
    Failed(Error),
}

/// Bytes that were received together.
struct Piece {
    start: u64,
    bytes: Bytes,
    /// Number of bytes that nobody has read.
    unread: usize,
}

/// A block that was asked for.
struct Slot {
    file: u64,
    block: Arc<Block>,
}

/// The least recently used first.
static SLOTS: Mutex<VecDeque<Slot>> = Mutex::new(VecDeque::new());

/// Reads an announced range; what was received in one piece is not copied.
pub(super) fn read<'a>(file: u64, link: &Arc<Link>, announced: &Announced, range: Range<u64>) -> Result<Data<'a>> {
    let mut out = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let Some(block) = current(file, link, announced, at)? else { break };
        let part = at..block.range.end.min(range.end);
        let Some(data) = block.read(link, part).map_err(|error| error.in_file(link.path()))? else {
            // What was read before and forgotten is asked for again.
            lock(&SLOTS).retain(|slot| !Arc::ptr_eq(&slot.block, &block));
            continue;
        };
        if data.len() as u64 == range.end - range.start {
            return Ok(data);
        }
        if out.is_empty() {
            out = buffers::room(range.end - range.start).map_err(|error| error.in_file(link.path()))?;
        }
        out.extend_from_slice(&data);
        at = block.range.end;
    }
    Ok(Data::Owned(out))
}

/// Returns the block with the announced byte `at`, and asks for those after it.
fn current(file: u64, link: &Arc<Link>, announced: &Announced, at: u64) -> Result<Option<Arc<Block>>> {
    thread_local! {
        /// The block that this thread read last, and its file.
        static LAST: RefCell<(u64, Weak<Block>)> = const { RefCell::new((0, Weak::new())) };
    }
    let last = LAST.with_borrow(|(number, block)| block.upgrade().filter(|block| *number == file && block.range.contains(&at)));
    if last.is_some() {
        return Ok(last);
    }
    let Some(block) = request(file, link, announced, at)? else { return Ok(None) };
    LAST.set((file, Arc::downgrade(&block)));
    let (mut next, mut ahead) = (block.range.end, 0);
    for _ in 0..AHEAD_RANGES {
        if ahead >= AHEAD * block_bytes() {
            break;
        }
        let Some(block) = request(file, link, announced, next)? else { break };
        (next, ahead) = (block.range.end, ahead + block.range.end - block.range.start);
    }
    Ok(Some(block))
}

/// Forgets the blocks of a file.
pub(super) fn forget(file: u64) {
    lock(&SLOTS).retain(|slot| slot.file != file);
}

/// Returns the block with the announced byte `at`, or else with the next one after it; one that is not there is asked for.
fn request(file: u64, link: &Arc<Link>, announced: &Announced, at: u64) -> Result<Option<Arc<Block>>> {
    let Some(Range { start, end }) = announced.rest(at) else { return Ok(None) };
    let mut slots = lock(&SLOTS);
    if let Some(index) = slots.iter().position(|slot| slot.file == file && slot.block.range.contains(&start))
        && let Some(slot) = slots.remove(index)
    {
        let block = Arc::clone(&slot.block);
        slots.push_back(slot);
        return Ok(Some(block));
    }
    let next = slots.iter().filter(|slot| slot.file == file && slot.block.range.start > start).map(|slot| slot.block.range.start).min();
    let end = end.min(start + block_bytes()).min(next.unwrap_or(end));
    let block = Arc::new(Block::new(start..end));
    slots.push_back(Slot { file, block: Arc::clone(&block) });
    let mut total: u64 = slots.iter().map(|slot| slot.block.range.end - slot.block.range.start).sum();
    while total > limits::READ_AHEAD_BYTES
        && let Some(slot) = slots.pop_front()
    {
        total -= slot.block.range.end - slot.block.range.start;
    }
    drop(slots);
    lock(&block.state).ask(link, &block.range)?;
    Ok(Some(block))
}

impl Block {
    fn new(range: Range<u64>) -> Self {
        Self { state: Mutex::new(State { origin: Origin::Unasked, pieces: VecDeque::new(), end: range.start }), range }
    }

    /// Reads part of the block; `None` if it was read before and forgotten.
    fn read<'a>(&self, link: &Arc<Link>, part: Range<u64>) -> Result<Option<Data<'a>>> {
        let mut state = lock(&self.state);
        state.ask(link, &self.range)?;
        // To its end, for the connection to be used again.
        let until = if part.end == self.range.end { u64::MAX } else { part.end };
        while state.end < until && state.receive(&self.range)? {}
        state.take(&part)
    }
}

impl State {
    /// Asks for the block, if nobody has.
    fn ask(&mut self, link: &Arc<Link>, range: &Range<u64>) -> Result<()> {
        if !matches!(self.origin, Origin::Unasked) {
            return Ok(());
        }
        self.origin = if link.streams() && range.end - range.start >= SMALL_BYTES {
            Origin::Stream(Box::new(Stream::ask(link, range.clone())?))
        } else {
            let (done, whole) = sync_channel(1);
            let (link, range) = (Arc::clone(link), range.clone());
            runtime::spawn(async move {
                let _ = done.send(link.fetch(range).await);
            })?;
            Origin::Whole(whole)
        };
        Ok(())
    }

    /// Receives more bytes; false if there are none.
    fn receive(&mut self, range: &Range<u64>) -> Result<bool> {
        let received = match &mut self.origin {
            Origin::Stream(stream) => stream.receive(),
            Origin::Unasked => Ok(None),
            Origin::Whole(_) if self.end > range.start => Ok(None),
            Origin::Whole(whole) => {
                whole.recv().unwrap_or_else(|_| Err(runtime::no_result())).map(|bytes| Some(Bytes::from_owner(Buffer::new(bytes))))
            }
            Origin::Failed(error) => Err(error.clone()),
        };
        match received {
            Ok(Some(bytes)) => {
                let start = self.end;
                self.end += bytes.len() as u64;
                self.pieces.push_back(Piece { start, unread: bytes.len(), bytes });
                Ok(true)
            }
            Ok(None) if self.end < range.end => Err(Error::truncated("a block is too short")),
            Ok(None) => Ok(false),
            Err(error) => {
                self.origin = Origin::Failed(error.clone());
                Err(error)
            }
        }
    }

    /// Returns bytes that were received, `None` if some were forgotten. Forgets pieces that have been read as a whole, except for the last one:
    /// small tensors are read more than once.
    fn take<'a>(&mut self, part: &Range<u64>) -> Result<Option<Data<'a>>> {
        let first = self.pieces.partition_point(|piece| piece.start + piece.bytes.len() as u64 <= part.start);
        let mut out = Vec::new();
        let mut at = part.start;
        let mut whole = None;
        for piece in self.pieces.iter_mut().skip(first) {
            if at >= part.end || piece.start > at {
                break;
            }
            let end = (piece.start + piece.bytes.len() as u64).min(part.end);
            let inside = (at - piece.start) as usize..(end - piece.start) as usize;
            piece.unread = piece.unread.saturating_sub(inside.len());
            if end - at == part.end - part.start {
                whole = Some(Data::Shared(Arc::new(piece.bytes.clone()), inside));
            } else {
                if out.is_empty() {
                    out = buffers::room(part.end - part.start)?;
                }
                out.extend_from_slice(piece.bytes.get(inside).unwrap_or_default());
            }
            at = end;
        }
        let end = self.end;
        self.pieces.retain(|piece| piece.unread > 0 || piece.start + piece.bytes.len() as u64 == end);
        Ok((at == part.end).then(|| whole.unwrap_or(Data::Owned(out))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_ranges_are_joined() {
        let mut announced = Announced::default();
        announced.add(&[500_000..600_000, 0..10, 20..100]);
        announced.add(&[90..150, 7..7]);
        assert_eq!(announced, Announced(vec![0..150, 500_000..600_000]));
        assert!(announced.contains(&(0..150)) && announced.contains(&(500_001..500_002)));
        assert!(!announced.contains(&(149..151)) && !announced.contains(&(499_999..500_001)) && !announced.contains(&(700_000..700_001)));
        assert_eq!((announced.rest(0), announced.rest(149)), (Some(0..150), Some(149..150)));
        assert_eq!((announced.rest(150), announced.rest(524_288)), (Some(500_000..600_000), Some(524_288..600_000)));
        assert_eq!(announced.rest(600_000), None);
        // A large one that follows on another.
        announced.add(&[600_000..9_000_000, 9_000_032..9_000_064]);
        assert_eq!(announced, Announced(vec![0..150, 500_000..600_000, 600_000..9_000_064]));
        assert!(announced.contains(&(550_000..700_000)));
    }
}
