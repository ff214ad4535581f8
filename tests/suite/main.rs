//! Tests of the whole: one module a topic, one binary, so that it links once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod bad_gguf;
mod bad_safetensors;
mod build;
mod codecs;
mod command_line;
mod content;
mod convert;
mod convert_golden;
mod diff;
mod edit;
mod fuzz;
mod golden;
mod hostile;
mod json_shapes;
mod kills;
mod lora;
mod names;
mod packed;
mod readme;
mod report;
mod round_trips;
mod sets;
mod stats;
mod tokenizer;
mod verify;
mod writing;
