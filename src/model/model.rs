//! A model: named tensors and metadata, in one or several files.

use std::path::PathBuf;

use crate::base::Error;
use crate::model::checkpoint::Checkpoint;
use crate::model::{FormatId, Metadata, TensorInfo};

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shard {
    /// The path of the file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A model as described by its headers. Values are read through a [`crate::format::Reader`].
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// The format of the files.
    pub format: FormatId,
    /// The path that was opened.
    pub path: PathBuf,
    /// The files with tensors, in shard order.
    pub shards: Vec<Shard>,
    /// The tensors, ordered by file and by the offset of their data.
    pub tensors: Vec<TensorInfo>,
    /// The metadata of the files: GGUF keys, or safetensors `__metadata__`.
    pub metadata: Metadata,
    /// The model folder, if it contains a config (Hugging Face, sentence-transformers, PEFT, Mistral).
    pub folder: Option<PathBuf>,
    /// The contents of `config.json` (or `params.json`, `adapter_config.json`) in that folder.
    pub config: Option<serde_json::Value>,
    /// The error if that file exists but is not a JSON object.
    pub config_error: Option<Error>,
    /// The sentence-transformers modules that follow the transformer, in order.
    pub modules: Vec<Module>,
    /// The kind of a PyTorch checkpoint, and its contents besides tensors.
    pub checkpoint: Option<Checkpoint>,
    /// Weights in the folder that were not read, because others in it are the same model.
    pub passed_over: Option<PathBuf>,
}

/// A sentence-transformers module: a folder with a config and possibly weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Module {
    /// Its folder relative to the model's: `2_Dense`. The names of its tensors start with it.
    pub path: String,
    /// Its Python class: `sentence_transformers.models.Dense`.
    pub kind: String,
    /// Its config.json; null if there is none.
    pub config: serde_json::Value,
    /// Index in [`Model::shards`] of its weights.
    pub shard: Option<usize>,
}

impl Module {
    /// Whether its class has this name, in any package.
    pub fn is(&self, class: &str) -> bool {
        self.kind.rsplit('.').next() == Some(class)
    }

    /// Whether the tensor belongs to it.
    pub fn has(&self, tensor: &str) -> bool {
        tensor.strip_prefix(self.path.as_str()).is_some_and(|rest| rest.starts_with('.'))
    }
}

impl Model {
    /// Returns the tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Returns the sentence-transformers module that a tensor belongs to; `None` for tensors of the transformer.
    pub fn module_of(&self, tensor: &str) -> Option<&Module> {
        self.modules.iter().find(|module| module.has(tensor))
    }
}
