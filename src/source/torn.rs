//! Files with a partly overwritten header, which readers recognise by a marker.

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use crate::base::{Error, Hint, Result, limits};
use crate::source::file::read_exact_at;
use crate::source::read::Source;

/// The first bytes of a file while its header is overwritten. As a safetensors header length, it exceeds every limit.
pub const MARKER: &[u8; 8] = b"weigh-t1";

/// Delay before a file that is being changed is checked again.
pub(crate) const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// Rejects a file whose header was being overwritten when the change was interrupted. Waits if it is being overwritten now.
///
/// # Errors
/// The file is marked and not locked, or locked for longer than [`limits::LOCK_WAIT`].
pub fn refuse_torn(path: &Path, file: &File) -> Result<()> {
    let start = Instant::now();
    while is_marked(file) {
        match file.try_lock_shared() {
            Err(fs::TryLockError::WouldBlock) if start.elapsed() < limits::LOCK_WAIT => std::thread::sleep(PAUSE),
            // Nobody is changing it, or locks are unsupported; unless the change has just finished.
            _ => {
                let marked = is_marked(file);
                let _ = file.unlock();
                return if marked { Err(torn(path)) } else { Ok(()) };
            }
        }
    }
    Ok(())
}

/// Whether a source has not been modified since it was opened, neither by weigh nor by another program that updates the modification time.
pub fn is_unchanged(source: &dyn Source) -> bool {
    // In this order: a change that began after the first check has written nothing that was read before it.
    !is_marked_source(source) && source.check_unchanged().is_ok()
}

/// Only a file on disk can be changed in place.
fn is_marked_source(source: &dyn Source) -> bool {
    source.file().is_some() && source.read(0..MARKER.len() as u64).is_ok_and(|start| *start == *MARKER)
}

pub(crate) fn is_marked(file: &File) -> bool {
    let mut start = [0; MARKER.len()];
    read_exact_at(file, &mut start, 0).is_ok() && start == *MARKER
}

pub(crate) fn torn(path: &Path) -> Error {
    Error::malformed("a change of its metadata was interrupted: its header is partly the old one and partly the new one")
        .in_file(path)
        .hint(Hint::Recover(path.to_path_buf()))
}
