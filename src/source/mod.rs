//! Where bytes come from: files on disk, bytes in memory, whatever else can be read by ranges.

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
/// The path is not a regular file (a FIFO, a device, a folder: said at once, never waited for), or the system refuses.
pub fn open(path: &Path) -> Result<Arc<dyn Source>> {
    from_file(&file::open_regular(path)?, path)
}

/// The bytes of an open regular file; `path` is what it was opened by.
///
/// # Errors
/// The system refuses.
pub fn from_file(file: &File, path: &Path) -> Result<Arc<dyn Source>> {
    Ok(Arc::new(mmap::Mapping::of(file, path)?))
}
