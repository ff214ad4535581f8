//! Families of models: tables of names, hyperparameters and layouts, and what the files beside the weights say.

pub mod card;
pub mod comfy;
pub mod components;
pub mod config;
pub mod expr;
pub mod facts;
pub mod keys;
pub mod mapping;
pub mod model_id;
pub mod naming;
pub mod pattern;
pub mod pooling;
pub mod rope;
pub mod table;
pub mod ties;
pub mod transform;
