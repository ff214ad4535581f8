//! Conversion.

use std::path::{Path, PathBuf};

use crate::api::Progress;
use crate::base::Result;
use crate::family::mapping::ModelPart;
use crate::format::{self, Reader};
use crate::model::{DType, FormatId, Value};
use crate::ops::convert::{self, ConvertReport, JoinReport, Options, SizeTarget};
use crate::ops::part::Part;
use crate::quant::pack::{Form, PackOptions, Scales};
use crate::quant::recipe::TensorType;

/// Options of [`Model::convert`](crate::Model::convert).
///
/// By default the stored types are kept, and the format follows the output's name.
#[derive(Clone, Default)]
#[must_use]
pub struct ConvertOptions<'a> {
    options: Options,
    file_type: Option<String>,
    pack: PackOptions,
    tensor_types: Vec<(String, DType)>,
    adapters: Vec<PathBuf>,
    part: Option<(usize, usize)>,
    dry_run: bool,
    progress: Option<Progress<'a>>,
}

impl<'a> ConvertOptions<'a> {
    /// Returns the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the output format; by default it follows the output's name.
    pub fn format(mut self, format: FormatId) -> Self {
        self.options.to = Some(format);
        self
    }

    /// Sets the type of the weights: a llama.cpp file type, which is a mix (`Q4_K_M`), or one type for all weights (`F16`); to a folder, also a
    /// packing for engines that serve safetensors (`FP8`, `INT4`, `NVFP4`).
    pub fn file_type(mut self, name: impl Into<String>) -> Self {
        self.file_type = Some(name.into());
        self
    }

    /// Sets the granularity of the scales of packed weights.
    pub fn scale(mut self, scale: Scales) -> Self {
        self.pack.scale = Some(scale);
        self
    }

    /// Sets the number of values per scale of packed integers.
    pub fn group_size(mut self, size: u64) -> Self {
        self.pack.group = Some(size);
        self
    }

    /// Sets whether packed integers have a zero point for each scale.
    pub fn asymmetric(mut self, asymmetric: bool) -> Self {
        self.pack.asymmetric = asymmetric;
        self
    }

    /// Packs weights in MLX's format instead of that of compressed-tensors.
    pub fn for_mlx(mut self) -> Self {
        self.pack.form = Form::Mlx;
        self
    }

    /// Sets whether one type is used for all quantised tensors instead of the file type's mix.
    pub fn pure(mut self, pure: bool) -> Self {
        self.options.pure = pure;
        self
    }

    /// Sets the importance matrix file, as written by llama-imatrix.
    pub fn imatrix(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.imatrix = Some(path.into());
        self
    }

    /// Sets the type of tensors whose name matches a pattern; the first match wins.
    pub fn tensor_type(mut self, pattern: impl Into<String>, dtype: DType) -> Self {
        self.tensor_types.push((pattern.into(), dtype));
        self
    }

    /// Chooses the types that minimise the error for files of at most `bytes` bytes in total.
    pub fn target_size(mut self, bytes: u64) -> Self {
        self.options.size = Some(SizeTarget::Bytes(bytes));
        self
    }

    /// Chooses the types that minimise the error for files of at most `bits` bits per element.
    pub fn target_bits_per_weight(mut self, bits: f64) -> Self {
        self.options.size = Some(SizeTarget::BitsPerWeight(bits));
        self
    }

    /// Sets the candidate types for a target size.
    pub fn candidate_types(mut self, types: impl Into<Vec<DType>>) -> Self {
        self.options.candidate_types = types.into();
        self
    }

    /// Gives each tensor the type of the tensor of the same name in another model.
    pub fn like(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.like = Some(path.into());
        self
    }

    /// Sets the type of the output matrix.
    pub fn output_tensor_type(mut self, dtype: DType) -> Self {
        self.options.output_tensor_type = Some(dtype);
        self
    }

    /// Sets the type of the token embeddings.
    pub fn token_embedding_type(mut self, dtype: DType) -> Self {
        self.options.token_embedding_type = Some(dtype);
        self
    }

    /// Sets whether the output matrix keeps its type.
    pub fn leave_output_tensor(mut self, leave: bool) -> Self {
        self.options.leave_output_tensor = leave;
        self
    }

    /// Sets whether already quantised tensors may be quantised again.
    pub fn allow_requantize(mut self, allow: bool) -> Self {
        self.options.allow_requantize = allow;
        self
    }

    /// Splits the output into files of at most `bytes` bytes of tensors.
    pub fn shard_bytes(mut self, bytes: u64) -> Self {
        self.options.shard_bytes = Some(bytes);
        self
    }

    /// Writes only part `number` (from 1) of `count` parts of a split output, with a manifest. Each part can be written on another machine;
    /// [`join`](crate::join) completes the output.
    pub fn part(mut self, number: usize, count: usize) -> Self {
        self.part = Some((number, count));
        self
    }

    /// Adds a LoRA adapter to merge into the model.
    pub fn adapter(mut self, path: impl Into<PathBuf>) -> Self {
        self.adapters.push(path.into());
        self
    }

    /// Sets the base model of an adapter to convert to GGUF: a folder with config.json, or a GGUF.
    pub fn base(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.base = Some(path.into());
        self
    }

    /// Sets a metadata key of the output.
    pub fn metadata(mut self, key: impl Into<String>, value: Value) -> Self {
        self.options.metadata.push((key.into(), value));
        self
    }

    /// Sets the name of the pre-tokenizer, needed if it is not recognised.
    pub fn pre_tokenizer(mut self, name: impl Into<String>) -> Self {
        self.options.pre = Some(name.into());
        self
    }

    /// Sets whether every token of a SentencePiece-style tokenizer.json has the same score, as by llama.cpp's converter. Otherwise the scores
    /// follow the order of the merges.
    pub fn equal_scores(mut self, equal: bool) -> Self {
        self.options.equal_scores = equal;
        self
    }

    /// Loads an additional architecture table.
    pub fn arch_table(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.arch_table = Some(path.into());
        self
    }

    /// Sets whether tensors keep their names and layouts.
    pub fn keep_names(mut self, keep: bool) -> Self {
        self.options.keep_names = keep;
        self
    }

    /// Leaves out the multi-token prediction layers (MTP, NextN) in a conversion to GGUF.
    pub fn without_mtp(mut self) -> Self {
        self.options.model_part = ModelPart::WithoutMtp;
        self
    }

    /// Converts only the multi-token prediction layers (MTP, NextN) to GGUF, with the embeddings, the final norm and the output matrix.
    pub fn mtp_alone(mut self) -> Self {
        self.options.model_part = ModelPart::MtpAlone;
        self
    }

    /// Sets whether packed weights are copied as stored, without unpacking.
    pub fn stored(mut self, stored: bool) -> Self {
        self.options.stored = stored;
        self
    }

    /// Sets whether any loss beyond that of the requested type is an error.
    pub fn strict(mut self, strict: bool) -> Self {
        self.options.strict = strict;
        self
    }

    /// Sets whether existing output is overwritten.
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.options.force = overwrite;
        self
    }

    /// Sets whether the output is read back and compared before it is renamed into place.
    pub fn verify(mut self, verify: bool) -> Self {
        self.options.verify = verify;
        self
    }

    /// Sets whether the quantisation error is measured; by default it is.
    pub fn quality(mut self, quality: bool) -> Self {
        self.options.no_quality = !quality;
        self
    }

    /// Sets whether the conversion is only planned and reported, without writing anything.
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Sets the callback for progress in writing tensors.
    pub fn progress(mut self, progress: Progress<'a>) -> Self {
        self.progress = Some(progress);
        self
    }

    fn resolve(&self, out: &Path) -> Result<Options> {
        let (target, packing) = convert::request(self.file_type.as_deref(), out, self.options.to, &self.pack)?;
        let tensor_types = self.tensor_types.iter().map(|(pattern, dtype)| TensorType::new(pattern, *dtype)).collect::<Result<_>>()?;
        Ok(Options { target, packing, tensor_types, ..self.options.clone() })
    }
}

/// Completes a model whose [parts](ConvertOptions::part) are all written: checks by size and digest that they are complete and belong to one plan,
/// writes the index of the shards, and removes the manifests of the parts. `out` is the output of the parts.
///
/// # Errors
/// A part is missing, changed, or belongs to another plan. Nothing was written or removed then.
pub fn join(out: impl AsRef<Path>) -> Result<JoinReport> {
    convert::join(out.as_ref(), false, &|_, _| {})
}

pub(super) fn convert(reader: &Reader, out: &Path, options: &ConvertOptions<'_>) -> Result<ConvertReport> {
    let resolved = options.resolve(out)?;
    let part = options.part.map(|(number, count)| Part::new(number, count)).transpose()?;
    let adapters = options.adapters.iter().map(|path| format::open(path)).collect::<Result<_>>()?;
    let (reader, plan) = convert::prepare(reader.clone(), adapters, out, &resolved, part)?;
    if options.dry_run {
        return ConvertReport::planned(&reader, &plan);
    }
    let total = plan.bytes_out();
    convert::run(&reader, &plan, &|bytes| {
        if let Some(progress) = options.progress {
            progress(bytes, total);
        }
    })
}
