//! weigh opens model weight files (safetensors, GGUF), shows what is in them, measures the weights, and converts them.

pub mod arch;
pub mod base;
pub mod cli;
pub mod codec;
pub mod format;
pub mod model;
pub mod ops;
pub mod render;

pub use base::{Error, ErrorKind, Result};
pub use format::{Reader, open, open_headers};
pub use model::{DType, ElemType, Model, TensorInfo};
