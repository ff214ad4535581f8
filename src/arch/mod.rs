//! What the tensors mean: families, names, hyperparameters, tokenizers, quantisation recipes.

pub mod card;
pub mod check;
pub mod comfy;
pub mod components;
pub mod config;
pub mod draft;
pub mod expr;
pub mod facts;
pub mod folder;
pub mod general;
pub mod imatrix;
pub mod keys;
pub mod lora;
pub mod mapping;
pub mod model_id;
pub mod origin;
pub mod packed;
pub mod pattern;
pub mod pooling;
pub mod recipe;
pub mod rope;
pub mod table;
pub mod to_gguf;
pub mod to_hf;
pub mod tokenizer;
pub mod transform;

use crate::base::Result;
use crate::model::Model;

pub use draft::{CompanionFile, Content, Draft, Note, NoteKind, Source, Step};

/// The tensors of a model under their canonical names and in their canonical layout: those of GGUF, where the architecture is known.
/// `count`, `stats` and `diff` go by them across formats. A model of no known architecture has its tensors as they are.
///
/// # Errors
/// A tensor of a GGUF is not there: never for a model that was opened.
pub fn canonical(model: &Model, tables: &table::Tables) -> Result<Vec<Step>> {
    if model.config.is_some()
        && let Ok(steps) = to_gguf::canonical(model, tables)
    {
        return Ok(steps);
    }
    (0..model.tensors.len()).map(|index| Step::original(model, index)).collect()
}

#[cfg(test)]
mod tests;
