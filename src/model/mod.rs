//! The format-independent model: tensors, types and metadata of a weight file.

pub mod checkpoint;
pub mod companion;
pub mod dtype;
pub mod format_id;
pub mod metadata;
#[allow(clippy::module_inception)]
pub mod model;
pub mod packed;
pub mod tensor;
pub mod value_text;

pub use checkpoint::Checkpoint;
pub use dtype::{Class, DType, ElemType, Field, Role, ScaleType, Tag};
pub use format_id::FormatId;
pub use metadata::{Array, Metadata, Value, ValueType};
pub use model::{Model, Module, Shard};
pub use packed::{PackedType, PackingSummary, TypeName};
pub use tensor::TensorInfo;
