//! Files whose start is being overwritten, or was when that was interrupted: readers know them by a marker.

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use crate::base::{Error, Hint, Result, limits};
use crate::source::file::read_exact_at;
use crate::source::read::Source;

/// How a file starts while its start is overwritten. As the length of a safetensors header it is past every limit.
pub const MARKER: &[u8; 8] = b"weigh-t1";

/// How long to sleep before a file that is being changed is looked at again.
pub(crate) const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// Refuses a file whose start was being overwritten when that was interrupted. One that is being overwritten now is waited for.
///
/// # Errors
/// The file is marked, and nobody is working on it; or somebody is, for longer than [`limits::LOCK_WAIT`].
pub fn refuse_torn(path: &Path, file: &File) -> Result<()> {
    let start = Instant::now();
    while is_marked(file) {
        match file.try_lock_shared() {
            Err(fs::TryLockError::WouldBlock) if start.elapsed() < limits::LOCK_WAIT => std::thread::sleep(PAUSE),
            // Nobody is changing it, or nobody can tell; unless the change has ended just now.
            _ => {
                let marked = is_marked(file);
                let _ = file.unlock();
                return if marked { Err(torn(path)) } else { Ok(()) };
            }
        }
    }
    Ok(())
}

/// Whether nothing was written into a source since it was opened, by weigh or by anything else that leaves the time of the change.
pub fn is_unchanged(source: &dyn Source) -> bool {
    // In this order: a change that began after the first look has written nothing that was read before it.
    !is_marked_source(source) && source.check_unchanged().is_ok()
}

/// Only a file on disk is ever changed in its place.
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
