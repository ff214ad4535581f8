//! weigh opens model weight files (safetensors, GGUF), shows what is in them, measures the weights, and converts them.

pub mod base;
#[cfg(feature = "cli")]
pub mod cli;
pub mod codec;
pub mod family;
pub mod format;
pub mod model;
pub mod ops;
pub mod quant;
#[cfg(feature = "cli")]
pub mod render;
pub mod source;
pub mod tokenizer;
pub mod view;
pub mod write;

pub use base::{Error, ErrorKind, Result};
pub use format::{Reader, open, open_headers};
pub use model::{DType, ElemType, Model, TensorInfo};
