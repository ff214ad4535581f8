//! Sources of bytes: files on disk, bytes in memory, anything readable by range.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::base::Result;

mod data;
pub mod file;
pub mod folder;
mod memory;
mod mmap;
pub mod place;
mod prefix;
mod read;
#[cfg_attr(not(feature = "remote"), path = "no_remote.rs")]
pub mod remote;
pub mod torn;

pub use data::Data;
pub use memory::InMemory;
pub use mmap::exit_on_truncation;
pub use place::open;
pub use prefix::Prefix;
pub use read::{Source, check_range, read_chunks};

/// Returns a source for an open regular file; `path` is the path at which it was opened.
///
/// # Errors
/// A system call fails.
pub fn from_file(file: &File, path: &Path) -> Result<Arc<dyn Source>> {
    Ok(Arc::new(mmap::Mapping::of(file, path)?))
}
