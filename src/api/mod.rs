//! The public API: models, tensors with their values, and operations with their options.

mod convert;
mod edit;
mod fit;
mod measure;
mod model;
mod tensor;
mod verify;

pub use convert::{ConvertOptions, join};
pub use edit::{Edit, edit, recover};
pub use fit::FitOptions;
pub use measure::{DiffOptions, HashOptions, ListOptions, StatsOptions, diff};
pub use model::{Model, open, open_bytes, open_headers};
pub use tensor::Tensor;
pub use verify::{VerifyOptions, verify};

pub use crate::ops::Progress;
pub use crate::ops::stats::GroupBy;
