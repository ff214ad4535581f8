//! The ground floor: errors, limits, checked arithmetic, bounded reading, memory maps.

pub mod bytes;
pub mod error;
pub mod file;
pub mod finding;
pub mod glob;
pub mod json;
pub mod limits;
pub mod lock;
pub mod mmap;
pub(crate) mod names;
pub(crate) mod node;
pub mod num;
pub mod output;
mod readback;
pub mod signals;
mod stale;
pub mod text;
pub mod threads;
pub mod undo;
pub mod units;

pub use error::{Error, ErrorKind, Result};
