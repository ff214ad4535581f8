//! What the tensors mean: families, names, hyperparameters, tokenizers, quantisation recipes.

pub mod origin;
