//! The file formats by name.

use std::fmt;

use serde::{Serialize, Serializer};

/// A file format that this build opens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FormatId {
    /// The format of the Hugging Face hub.
    #[default]
    Safetensors,
    /// The format of ggml and llama.cpp.
    Gguf,
    /// llama.cpp's older form of importance matrices.
    Imatrix,
}

impl FormatId {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Safetensors, Self::Gguf, Self::Imatrix];

    /// Returns the name of the format in weigh's output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Gguf => "gguf",
            Self::Imatrix => "imatrix",
        }
    }

    /// Returns the format of this name, in upper or lower case.
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
