//! GGUF: the format of ggml and llama.cpp.

pub mod swap;
