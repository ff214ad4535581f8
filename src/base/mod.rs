//! The lowest layer: errors, limits, checked arithmetic, bounded reading.

pub mod bytes;
pub mod error;
pub mod finding;
pub mod glob;
pub mod hint;
pub mod json;
pub mod limits;
pub(crate) mod names;
pub mod num;
pub mod text;
pub mod threads;
pub mod units;

pub use error::{Error, ErrorKind, Result};
pub use hint::Hint;
