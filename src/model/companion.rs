//! Companion files of the weights, and notes on what a conversion drops, pads or synthesizes.

use std::path::PathBuf;

use serde::Serialize;

/// A file written next to the weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompanionFile {
    /// Its file name.
    pub name: String,
    /// Its contents.
    pub content: Content,
}

/// The contents of a companion file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A copy of this file.
    Copy(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// The kind of a note on a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NoteKind {
    /// Something in the input that is not in the output.
    Dropped,
    /// Something that was zero-padded.
    Padded,
    /// Something in the output that was synthesized.
    #[serde(rename = "made_up")]
    Synthesized,
    /// Another remark.
    Remark,
}

/// A note on a conversion, in addition to its tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The kind.
    pub kind: NoteKind,
    /// The tensor, key or file concerned.
    pub name: String,
    /// The reason and its effect.
    pub message: String,
}

impl Note {
    /// Returns a note on something that is not in the output.
    pub fn dropped(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: NoteKind::Dropped, name: name.into(), message: message.into() }
    }

    /// Returns a note on something that was zero-padded.
    pub fn padded(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: NoteKind::Padded, name: name.into(), message: message.into() }
    }

    /// Returns a remark.
    pub fn remark(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: NoteKind::Remark, name: name.into(), message: message.into() }
    }

    /// Returns a note on something that was synthesized.
    pub fn synthesized(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: NoteKind::Synthesized, name: name.into(), message: message.into() }
    }
}
