//! Sources of bytes: files on disk, bytes in memory, anything readable by range.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::base::Result;

pub mod file;
pub mod folder;
mod memory;
mod mmap;
mod prefix;
mod read;
pub mod torn;

pub use memory::InMemory;
pub use mmap::exit_on_truncation;
pub use prefix::Prefix;
pub use read::{Source, read_chunks};

/// Opens a regular file on disk.
///
/// # Errors
/// The path is not a regular file (a FIFO, device or folder is rejected without blocking), or a system call fails.
pub fn open(path: &Path) -> Result<Arc<dyn Source>> {
    from_file(&file::open_regular(path)?, path)
}

/// Returns a source for an open regular file; `path` is the path at which it was opened.
///
/// # Errors
/// A system call fails.
pub fn from_file(file: &File, path: &Path) -> Result<Arc<dyn Source>> {
    Ok(Arc::new(mmap::Mapping::of(file, path)?))
}
