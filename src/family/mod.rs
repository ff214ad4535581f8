//! Model families: tables of names, hyperparameters and layouts, and the files next to the weights.

pub mod card;
pub mod comfy;
pub mod components;
pub mod config;
pub mod expr;
pub mod hyperparameters;
pub mod index;
pub mod keys;
pub mod mapping;
pub mod memory;
pub mod model_id;
pub mod naming;
pub mod pattern;
pub mod pooling;
pub mod rope;
pub mod sections;
pub mod table;
pub mod tables;
pub mod ties;
pub mod transform;
