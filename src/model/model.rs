//! A model: named tensors and metadata, however many files they came in.

use std::path::PathBuf;

use crate::base::Error;
use crate::model::{Metadata, TensorInfo};

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Where it is.
    pub path: PathBuf,
    /// How long it is, in bytes.
    pub bytes: u64,
}

/// A model as its files describe it. Values are not in it: they are read through a [`crate::format::Reader`].
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// The id of the format: `safetensors` or `gguf`.
    pub format: &'static str,
    /// The path that was asked for.
    pub path: PathBuf,
    /// The files that hold tensors, in the order of their numbers.
    pub shards: Vec<Shard>,
    /// The tensors, in the order of the files and of their data in them.
    pub tensors: Vec<TensorInfo>,
    /// The metadata of the files: a GGUF's keys, a safetensors file's `__metadata__`.
    pub metadata: Metadata,
    /// The folder of the model, when it came in one that has a config (Hugging Face, sentence-transformers, PEFT, Mistral).
    pub folder: Option<PathBuf>,
    /// What is in `config.json` (or `params.json`, `adapter_config.json`) of that folder.
    pub config: Option<serde_json::Value>,
    /// Why that file could not be read, where it is there but holds no JSON object.
    pub config_error: Option<Error>,
}

impl Model {
    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}
