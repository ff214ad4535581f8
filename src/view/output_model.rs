//! The plan of a converted model, before tensor types are chosen.

use std::path::PathBuf;

use crate::base::{Error, Result, num};
use crate::family::comfy;
use crate::model::companion::{CompanionFile, Note};
use crate::model::{ElemType, Metadata, Model};
use crate::quant::pack::{Packing, Part, Precision};
use crate::view::tensor_expr::TensorExpr;

/// Names, layouts, metadata and companion files of a converted model, made by an architecture table or by `--keep-names`.
/// [`crate::ops::convert`] chooses the types and writes it.
#[derive(Debug, Clone, Default)]
pub struct OutputModel {
    /// The metadata in order: GGUF keys, or strings for safetensors.
    pub metadata: Metadata,
    /// The tensors in order.
    pub tensors: Vec<OutputTensor>,
    /// Companion files for a Hugging Face folder.
    pub files: Vec<CompanionFile>,
    /// Folders of sentence-transformers modules that tensors go to.
    pub modules: Vec<String>,
    /// Files read in addition to those of the model.
    pub inputs: Vec<PathBuf>,
    /// Tensors of the input, by index, that are dropped and must be zero.
    pub zeros: Vec<usize>,
    /// Notes on what is dropped, zero-padded or synthesized.
    pub notes: Vec<Note>,
}

/// One tensor of the output and its source.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputTensor {
    /// The source of its values.
    pub source: Source,
    /// The name in the output.
    pub name: String,
    /// The shape in the output, outermost dimension first. The elements are those of the source, in order.
    pub shape: Vec<u64>,
    /// The type in the output: initially the default type, usually the stored one.
    pub elem: ElemType,
    /// Whether `elem` is fixed by the kind of tensor (norms and routers are F32 in GGUF), so that `--type` does not apply.
    pub fixed: bool,
}

/// The source of an output tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A stored tensor, copied: its index in [`Model::tensors`].
    Stored(usize),
    /// An expression over stored or computed rows.
    Made(TensorExpr),
    /// One of the tensors of a packed weight.
    Packed(Box<PackedPart>),
}

/// One of the tensors of a packed weight, and where its values come from.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedPart {
    /// The weight: a matrix.
    pub weight: OutputTensor,
    /// How it is packed.
    pub packing: Packing,
    /// The type in which scales are computed.
    pub precision: Precision,
    /// Which of its tensors this is.
    pub part: Part,
    /// The set of weights that determine the scale of the whole, if the packing needs it: by index in the plan.
    pub whole: Option<usize>,
}

impl OutputTensor {
    /// Returns a stored tensor, copied under its own name.
    ///
    /// # Errors
    /// There is no such tensor.
    pub fn keep(model: &Model, index: usize) -> Result<Self> {
        let tensor = model.tensors.get(index).ok_or_else(|| Error::argument(format!("the model has no tensor {index}")))?;
        Ok(Self { source: Source::Stored(index), name: tensor.name.clone(), shape: tensor.shape.clone(), elem: tensor.elem, fixed: false })
    }

    /// Like [`Self::keep`], with the original shape if the metadata records that it was reshaped for quantisation.
    ///
    /// # Errors
    /// There is no such tensor.
    pub fn original(model: &Model, index: usize) -> Result<Self> {
        let step = Self::keep(model, index)?;
        let shape = model.tensors.get(index).and_then(|tensor| comfy::original_shape(model, tensor));
        Ok(Self { shape: shape.unwrap_or_else(|| step.shape.clone()), ..step })
    }

    /// Returns the result of an expression, as a tensor with this name, shape and type.
    pub fn made(origin: TensorExpr, name: impl Into<String>, shape: Vec<u64>, elem: impl Into<ElemType>) -> Self {
        let source = match origin.whole() {
            Some(index) => Source::Stored(index),
            None => Source::Made(origin),
        };
        Self { source, name: name.into(), shape, elem: elem.into(), fixed: false }
    }

    /// Fixes the type, so that `--type` does not apply.
    #[must_use]
    pub fn fixed(self) -> Self {
        Self { fixed: true, ..self }
    }

    /// Returns the stored tensors that it depends on, by index in [`Model::tensors`].
    pub fn tensors(&self) -> Vec<usize> {
        match &self.source {
            Source::Stored(index) => vec![*index],
            Source::Made(origin) => origin.tensors(),
            Source::Packed(packed) => packed.weight.tensors(),
        }
    }

    /// Returns descriptions of the operations.
    pub fn transforms(&self) -> Vec<String> {
        match &self.source {
            Source::Stored(_) => Vec::new(),
            Source::Made(origin) => origin.steps(),
            Source::Packed(packed) => packed.weight.transforms(),
        }
    }

    /// Returns the packed weight that it is a part of.
    pub fn packed(&self) -> Option<&PackedPart> {
        match &self.source {
            Source::Packed(packed) => Some(packed),
            _ => None,
        }
    }

    /// Returns the number of elements.
    ///
    /// # Errors
    /// The number of elements overflows.
    pub fn elements(&self) -> Result<u64> {
        num::elements(&self.shape).map_err(|error| error.in_tensor(&self.name))
    }

    /// Returns the row length, the unit of encoding: the innermost dimension.
    pub fn row_elements(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1)
    }
}
