//! What the tensors mean: families, names, hyperparameters, tokenizers, quantisation recipes.

pub mod components;
pub mod draft;
pub mod imatrix;
pub mod origin;
pub mod packed;
pub mod recipe;
pub mod tokenizer;

pub use draft::{CompanionFile, Content, Draft, Note, NoteKind, Source, Step};
