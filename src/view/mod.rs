//! Models as another format or a merge presents them: lazy expressions over stored rows, evaluated by row ranges.

pub mod check;
pub mod general;
pub mod lora;
mod lost;
pub mod output_model;
pub mod tensor_expr;
pub mod to_gguf;
pub mod to_hf;
pub mod transform;

use crate::base::Result;
use crate::family::tables::Tables;
use crate::model::Model;

pub use output_model::{OutputModel, OutputTensor, Source};

/// Returns the tensors under canonical names and layouts: those of GGUF, if the architecture is known, so that `count`, `stats` and `diff`
/// work across formats. Tensors of an unknown architecture are unchanged.
///
/// # Errors
/// A tensor of a GGUF does not exist, which cannot happen for an opened model.
pub fn canonical(model: &Model, tables: &Tables) -> Result<Vec<OutputTensor>> {
    if model.config.is_some()
        && let Ok(steps) = to_gguf::canonical(model, tables)
    {
        return Ok(steps);
    }
    (0..model.tensors.len()).map(|index| OutputTensor::original(model, index)).collect()
}

#[cfg(test)]
mod tests;
