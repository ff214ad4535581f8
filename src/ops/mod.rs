//! The operations: a model in, a report out. They print nothing.

#[cfg(feature = "catalog")]
pub mod catalog;
mod chunks;
pub mod compare;
pub mod convert;
pub mod count;
pub mod diff;
pub mod edit;
pub mod enumerations;
pub mod fit;
pub mod hash;
pub mod hist;
mod identity;
pub mod info;
pub mod known;
pub mod list;
pub mod meta;
pub mod origin;
pub mod overview;
pub mod part;
pub mod select;
pub mod show;
pub mod stats;
mod tensor_data;
pub mod tree;
pub mod verify;
pub mod weights;

/// Progress callback.
///
/// It is called from any thread while an operation reads or writes, with the number of bytes done since the last call and the estimated
/// total.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);
