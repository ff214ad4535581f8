//! Tests of the whole: one module a topic, one binary, so that it links once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod packed;
