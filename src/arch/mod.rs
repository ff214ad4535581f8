//! What the tensors mean: families, names, hyperparameters, tokenizers, quantisation recipes.

pub mod card;
pub mod components;
pub mod config;
pub mod draft;
pub mod expr;
pub mod facts;
pub mod folder;
pub mod general;
pub mod imatrix;
pub mod keys;
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
pub mod tokenizer;
pub mod transform;

pub use draft::{CompanionFile, Content, Draft, Note, NoteKind, Source, Step};
