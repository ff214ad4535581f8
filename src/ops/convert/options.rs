//! What a conversion is asked for.

use std::path::PathBuf;

use crate::model::{DType, FormatId, Value};
use crate::quant::recipe::{Target, TensorType};

/// What a conversion is asked for. The default keeps all types and names.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The format of the output; otherwise it is told from its name.
    pub to: Option<FormatId>,
    /// The file type or type; otherwise stored types are kept where the format has them.
    pub target: Option<Target>,
    /// No mix: one type for all tensors that are quantised.
    pub pure: bool,
    /// A file with an importance matrix.
    pub imatrix: Option<PathBuf>,
    /// Types by name; the first that fits counts.
    pub tensor_types: Vec<TensorType>,
    /// The type of the output matrix.
    pub output_tensor_type: Option<DType>,
    /// The type of the token embeddings.
    pub token_embedding_type: Option<DType>,
    /// The output matrix stays as it is.
    pub leave_output_tensor: bool,
    /// Quantised tensors may be quantised again.
    pub allow_requantize: bool,
    /// The most bytes of tensors in one file.
    pub shard_bytes: Option<u64>,
    /// What is there may be replaced.
    pub force: bool,
    /// The name of the pre-tokenizer, where it cannot be told.
    pub pre: Option<String>,
    /// Tokens get the scores that their merges stand for, where llama.cpp's converter gives all the same.
    pub merge_scores: bool,
    /// A table of one more architecture.
    pub arch_table: Option<PathBuf>,
    /// The base of an adapter that becomes a GGUF: a folder with config.json, or a GGUF.
    pub base: Option<PathBuf>,
    /// Metadata to set in the output.
    pub metadata: Vec<(String, Value)>,
    /// Anything lossy beyond the asked-for type is an error.
    pub strict: bool,
    /// Tensors are moved under their names as they are.
    pub keep_names: bool,
    /// Packed weights are moved as they are stored, under their own names.
    pub stored: bool,
    /// What was written is read back and compared before it gets its name.
    pub verify: bool,
    /// No figures on what quantising costs.
    pub no_quality: bool,
}

impl Options {
    /// Whether tensors keep their names: packed weights that are moved as they are stored do in any case.
    pub(super) fn keeps_names(&self) -> bool {
        self.keep_names || self.stored
    }
}
