//! The library as its users see it: models and tensors with their values, and the operations with their options.

mod convert;
mod edit;
mod measure;
mod model;
mod tensor;
mod verify;

pub use convert::ConvertOptions;
pub use edit::{Edit, edit, recover};
pub use measure::{DiffOptions, GroupBy, HashOptions, ListOptions, StatsOptions, diff};
pub use model::{Model, open, open_headers};
pub use tensor::Tensor;
pub use verify::{VerifyOptions, verify};

/// Called from any thread while an operation reads or writes: with the number of bytes done since the last call, and the number in all,
/// which is an estimate.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);
