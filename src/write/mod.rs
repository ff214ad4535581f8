//! Output files that appear whole or not at all, and changes in place that can be undone.

pub mod lock;
pub(crate) mod node;
pub mod output;
mod readback;
pub mod signals;
mod stale;
pub mod undo;
