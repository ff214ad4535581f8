//! Files that go beside the weights, and notes on what a conversion leaves out, fills up or adds.

use std::path::PathBuf;

use serde::Serialize;

/// A file that goes beside the weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompanionFile {
    /// Its name in the folder.
    pub name: String,
    /// What is in it.
    pub content: Content,
}

/// What is in a companion file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The bytes of this file.
    Copy(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// What sort of thing a [`Note`] tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NoteKind {
    /// Something of the input is not in the output.
    Dropped,
    /// Something was filled up with zeros.
    Padded,
    /// Something of the output is not in the input.
    MadeUp,
    /// Something else that is worth knowing.
    Remark,
}

/// One thing that the plan tells beside the tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What sort.
    pub kind: NoteKind,
    /// The tensor, key or file.
    pub name: String,
    /// Why, and what it means.
    pub message: String,
}

impl Note {
    /// A note of something that is not in the output.
    pub fn dropped(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: NoteKind::Dropped, name: name.into(), message: message.into() }
    }

    /// A note of something that was filled up.
    pub fn padded(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: NoteKind::Padded, name: name.into(), message: message.into() }
    }

    /// A note of something else.
    pub fn remark(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: NoteKind::Remark, name: name.into(), message: message.into() }
    }

    /// A note of something that is not in the input.
    pub fn made_up(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: NoteKind::MadeUp, name: name.into(), message: message.into() }
    }
}
