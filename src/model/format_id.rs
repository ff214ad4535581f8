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
    /// Checkpoints of PyTorch: zip archives, pickles and tar archives.
    PyTorch,
    /// NumPy arrays: `.npy` and `.npz`.
    NumPy,
}

impl FormatId {
    /// All formats.
    pub const ALL: [Self; 5] = [Self::Safetensors, Self::Gguf, Self::Imatrix, Self::PyTorch, Self::NumPy];

    /// Returns the name used in weigh's output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Gguf => "gguf",
            Self::Imatrix => "imatrix",
            Self::PyTorch => "pytorch",
            Self::NumPy => "numpy",
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
