//! Buffers that are used again: the system clears every page of a new one.

use std::sync::Mutex;

use crate::base::threads::lock;
use crate::base::{Error, Result, limits};

/// Smallest buffer worth keeping, in bytes.
const LEAST: usize = 256 << 10;

static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Bytes in a buffer that goes back when it is no longer needed.
#[derive(Debug)]
pub(super) struct Buffer(Vec<u8>);

impl Buffer {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut spare = lock(&SPARE);
        let kept: usize = spare.iter().map(Vec::capacity).sum();
        if self.0.capacity() >= LEAST && kept + self.0.capacity() <= limits::SPARE_BYTES {
            spare.push(std::mem::take(&mut self.0));
        }
    }
}

/// Returns an empty buffer with room for so many bytes.
///
/// # Errors
/// There is not enough memory.
pub(super) fn take(bytes: usize) -> Result<Vec<u8>> {
    let mut spare = lock(&SPARE);
    if bytes >= LEAST
        && let Some(index) = spare.iter().position(|buffer| buffer.capacity() >= bytes)
    {
        let mut buffer = spare.swap_remove(index);
        buffer.clear();
        return Ok(buffer);
    }
    drop(spare);
    room(bytes as u64)
}

/// Returns a new, empty vector with room for so many bytes.
///
/// # Errors
/// There is not enough memory.
pub(super) fn room(bytes: u64) -> Result<Vec<u8>> {
    let limit = || Error::limit(format!("expected memory for {bytes} bytes"));
    let mut room = Vec::new();
    room.try_reserve_exact(usize::try_from(bytes).map_err(|_| limit())?).map_err(|_| limit())?;
    Ok(room)
}
