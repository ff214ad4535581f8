//! What is known of one tensor without reading its values.

use crate::base::{Result, num};
use crate::model::ElemType;

/// One tensor of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, exactly as in the file.
    pub name: String,
    /// The type of the elements.
    pub elem: ElemType,
    /// The dimensions, outermost first, in every format. Empty for a scalar.
    pub shape: Vec<u64>,
    /// The index in [`crate::model::Model::shards`] of the file that holds it.
    pub shard: usize,
    /// Where its bytes start, counted from the start of that file.
    pub offset_bytes: u64,
    /// How many bytes it takes; unknown for an unknown type.
    pub len_bytes: Option<u64>,
}

impl TensorInfo {
    /// How many elements it stores: the product of the shape.
    ///
    /// # Errors
    /// The product is past 2^64. Readers check this when they open a file.
    pub fn elements(&self) -> Result<u64> {
        num::elements(&self.shape).map_err(|error| error.in_tensor(&self.name))
    }

    /// The length of a row: the innermost dimension; 1 for a scalar.
    pub fn row_elements(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1)
    }
}
