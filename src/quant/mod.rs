//! Quantisation: recipes of file types, importance matrices, the choice of types for a size, packing schemes of other libraries.

pub mod imatrix;
pub mod knapsack;
pub mod pack;
pub mod packed;
pub mod recipe;
