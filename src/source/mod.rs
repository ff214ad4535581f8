//! The bytes of files: memory maps and small files read whole.

pub mod file;
pub mod folder;
pub mod mmap;
pub mod torn;
