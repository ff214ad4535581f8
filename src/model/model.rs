//! A model: named tensors and metadata, however many files they came in.

use std::path::PathBuf;

use crate::base::Error;
use crate::model::{FormatId, Metadata, TensorInfo};

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shard {
    /// Where it is.
    pub path: PathBuf,
    /// How long it is, in bytes.
    pub bytes: u64,
}

/// A model as its files describe it. Values are not in it: they are read through a [`crate::format::Reader`].
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// The format of the files.
    pub format: FormatId,
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
    /// The modules of sentence-transformers that come after the transformer, in their order.
    pub modules: Vec<Module>,
}

/// A module of sentence-transformers: a folder with a config, and weights if it has any.
#[derive(Debug, Clone, PartialEq)]
pub struct Module {
    /// Its folder, inside that of the model: `2_Dense`. The names of its tensors start with it.
    pub path: String,
    /// Its class: `sentence_transformers.models.Dense`.
    pub kind: String,
    /// Its config.json; null where there is none.
    pub config: serde_json::Value,
    /// The index in [`Model::shards`] of its weights.
    pub shard: Option<usize>,
    /// A file with its weights that is not read: they are missing among the tensors.
    pub unread: Option<PathBuf>,
}

impl Module {
    /// Whether its class has this name, whatever package it is in.
    pub fn is(&self, class: &str) -> bool {
        self.kind.rsplit('.').next() == Some(class)
    }

    /// Whether a tensor of this name belongs to it.
    pub fn has(&self, tensor: &str) -> bool {
        tensor.strip_prefix(self.path.as_str()).is_some_and(|rest| rest.starts_with('.'))
    }
}

impl Model {
    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The module of sentence-transformers that a tensor of this name belongs to; none for those of the transformer.
    pub fn module_of(&self, tensor: &str) -> Option<&Module> {
        self.modules.iter().find(|module| module.has(tensor))
    }
}
