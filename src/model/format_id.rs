//! The file formats by name.

use std::fmt;

use serde::{Serialize, Serializer};

/// A file format supported by this build.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FormatId {
    /// The Hugging Face format.
    #[default]
    Safetensors,
    /// The ggml and llama.cpp format.
    Gguf,
    /// llama.cpp's legacy importance matrix format.
    Imatrix,
}

impl FormatId {
    /// All formats.
    pub const ALL: [Self; 3] = [Self::Safetensors, Self::Gguf, Self::Imatrix];

    /// Returns the name used in weigh's output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Gguf => "gguf",
            Self::Imatrix => "imatrix",
        }
    }

    /// Returns the format with this name, ignoring case.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for FormatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for FormatId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
