//! Quantisation: recipes of file types, importance matrices, packing schemes of other libraries.

pub mod imatrix;
pub mod pack;
pub mod packed;
pub mod recipe;
