//! The operations: a model in, a report out. They never print.

mod body;
pub mod catalog;
mod chunks;
pub mod convert;
pub mod count;
pub mod diff;
pub mod edit;
pub mod hash;
pub mod hist;
pub mod info;
pub mod list;
pub mod meta;
pub mod overview;
pub mod select;
pub mod show;
pub mod stats;
pub mod tree;
pub mod verify;
pub mod weights;

/// Called from any thread while an operation reads or writes: with the number of bytes done since the last call, and the number in all,
/// which is an estimate.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);
