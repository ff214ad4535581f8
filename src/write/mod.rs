//! Atomic output files, and crash-safe in-place changes.

pub(crate) mod inode;
pub mod lock;
pub mod output;
mod readback;
pub mod signals;
mod stale;
pub mod undo;
