//! Options of a conversion.

use std::path::PathBuf;

use crate::family::mapping::ModelPart;
use crate::model::{DType, FormatId, Value};
use crate::quant::pack::Packing;
use crate::quant::recipe::{Target, TensorType};

/// The size of an output whose types are to be chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SizeTarget {
    /// Maximum size of all output files in bytes.
    Bytes(u64),
    /// Maximum size of all output files, in bits per parameter.
    BitsPerWeight(f64),
}

/// Options of a conversion. The default keeps all types and names.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Output format; by default it follows from the name of the output.
    pub to: Option<FormatId>,
    /// Target file type or type; by default stored types are kept if the format supports them.
    pub target: Option<Target>,
    /// Packing of the weights for engines that serve safetensors, instead of a target type.
    pub packing: Option<Packing>,
    /// One type for all quantised tensors, without a mix.
    pub pure: bool,
    /// Importance matrix file.
    pub imatrix: Option<PathBuf>,
    /// Substrings of the names of tensors whose importance is used; all if empty.
    pub include_weights: Vec<String>,
    /// Substrings of the names of tensors whose importance is not used.
    pub exclude_weights: Vec<String>,
    /// Layers to leave out of a GGUF; the others are renumbered.
    pub prune_layers: Vec<u64>,
    /// Splits the output as the input is.
    pub keep_split: bool,
    /// Types by tensor name; the first match wins.
    pub tensor_types: Vec<TensorType>,
    /// Chooses the types with the least error for a size.
    pub size: Option<SizeTarget>,
    /// The types to choose from; empty for the default ones.
    pub candidate_types: Vec<DType>,
    /// A model that gives tensors of the same name their types.
    pub like: Option<PathBuf>,
    /// Type of the output matrix.
    pub output_tensor_type: Option<DType>,
    /// Type of the token embeddings.
    pub token_embedding_type: Option<DType>,
    /// Leaves the output matrix unchanged.
    pub leave_output_tensor: bool,
    /// Allows quantised tensors to be quantised again.
    pub allow_requantize: bool,
    /// Maximum bytes of tensor data per file.
    pub shard_bytes: Option<u64>,
    /// Overwrites existing output.
    pub force: bool,
    /// Name of the pre-tokenizer, if it cannot be detected.
    pub pre: Option<String>,
    /// Gives every token of a SentencePiece-style tokenizer.json the same score, as llama.cpp's converter does.
    pub equal_scores: bool,
    /// An additional architecture table.
    pub arch_table: Option<PathBuf>,
    /// Base model of an adapter that is converted to GGUF: a folder with config.json, or a GGUF.
    pub base: Option<PathBuf>,
    /// Metadata to set in the output.
    pub metadata: Vec<(String, Value)>,
    /// Makes any loss beyond the requested type an error.
    pub strict: bool,
    /// Keeps tensor names as they are.
    pub keep_names: bool,
    /// Converts the vision or audio encoder of the model instead of its text model.
    pub projector: bool,
    /// The part of the model to convert to GGUF, if it has multi-token prediction layers.
    pub model_part: ModelPart,
    /// Copies packed weights as stored, under their own names.
    pub stored: bool,
    /// Reads the output back and compares it before it is renamed into place.
    pub verify: bool,
    /// Does not measure quantisation error.
    pub no_quality: bool,
}

impl Options {
    /// Returns the options for the vision or audio encoder of the same model: the same type, or F16 where that is a mix or quantised more
    /// than Q8_0, as encoders are published.
    pub fn for_projector(&self) -> Self {
        let kept = |target: &Target| !target.base().is_quantised() || target.base() == DType::Q8_0;
        let target = self.target.map(|target| if kept(&target) { target } else { Target::Uniform(DType::F16) });
        Self {
            target,
            projector: true,
            model_part: ModelPart::Whole,
            imatrix: None,
            size: None,
            like: None,
            output_tensor_type: None,
            token_embedding_type: None,
            ..self.clone()
        }
    }

    /// Whether the types are those of a mix without a file type.
    pub(super) fn mixes(&self) -> bool {
        self.size.is_some() || self.like.is_some()
    }

    /// Whether tensors keep their names: packed weights that are copied as stored always do.
    pub(super) fn keeps_names(&self) -> bool {
        self.keep_names || self.stored
    }
}
