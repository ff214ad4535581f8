//! The tensors of a model as another format or a merge has them: expressions over stored rows, evaluated by ranges of rows.

pub mod check;
pub mod draft;
pub mod general;
pub mod lora;
pub mod origin;
pub mod to_gguf;
pub mod to_hf;
pub mod transform;

use crate::base::Result;
use crate::family::table::Tables;
use crate::model::Model;

pub use draft::{Draft, Source, Step};

/// The tensors of a model under their canonical names and in their canonical layout: those of GGUF, where the architecture is known.
/// `count`, `stats` and `diff` go by them across formats. A model of no known architecture has its tensors as they are.
///
/// # Errors
/// A tensor of a GGUF is not there: never for a model that was opened.
pub fn canonical(model: &Model, tables: &Tables) -> Result<Vec<Step>> {
    if model.config.is_some()
        && let Ok(steps) = to_gguf::canonical(model, tables)
    {
        return Ok(steps);
    }
    (0..model.tensors.len()).map(|index| Step::original(model, index)).collect()
}

#[cfg(test)]
mod tests;
