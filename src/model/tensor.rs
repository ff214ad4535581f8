//! Tensor metadata: name, dtype, shape, location.

use crate::base::{Result, num};
use crate::model::ElemType;

/// One tensor of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name as in the file.
    pub name: String,
    /// The element type.
    pub elem: ElemType,
    /// The shape, outermost dimension first in every format. Empty for a scalar.
    pub shape: Vec<u64>,
    /// The index in [`crate::model::Model::shards`] of the file that holds it.
    pub shard: usize,
    /// Offset of its data from the start of that file.
    pub offset_bytes: u64,
    /// Size in bytes; `None` for an unknown type.
    pub len_bytes: Option<u64>,
}

impl TensorInfo {
    /// Returns the number of stored elements, the product of the shape.
    ///
    /// # Errors
    /// The product overflows. Readers check this when they open a file.
    pub fn elements(&self) -> Result<u64> {
        num::elements(&self.shape).map_err(|error| error.in_tensor(&self.name))
    }

    /// Returns the row length: the innermost dimension, or 1 for a scalar.
    pub fn row_elements(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1)
    }
}
