//! What becomes of a model in another format, before the types of its tensors are decided.

use std::path::PathBuf;

use crate::base::{Error, Result, num};
use crate::family::comfy;
use crate::model::companion::{CompanionFile, Note};
use crate::model::{ElemType, Metadata, Model};
use crate::view::origin::Origin;

/// Names, layouts, metadata and companion files of the output. An architecture's table makes one, or `--keep-names`;
/// [`crate::ops::convert`] decides the types and executes it.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    /// The metadata of the output, in order: GGUF's keys, or strings for a safetensors file.
    pub metadata: Metadata,
    /// The tensors of the output, in order.
    pub steps: Vec<Step>,
    /// Files that go beside the weights into a Hugging Face folder.
    pub files: Vec<CompanionFile>,
    /// Modules of sentence-transformers among the tensors: the folders that theirs go to.
    pub modules: Vec<String>,
    /// Files that were read for it besides those of the model.
    pub inputs: Vec<PathBuf>,
    /// What is dropped, padded or made up on the way, for the plan.
    pub notes: Vec<Note>,
}

/// How one tensor of the output comes about.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What it is made of, and how.
    pub source: Source,
    /// Its name in the output.
    pub name: String,
    /// Its dimensions in the output, outermost first. The elements are those of the source, in their order.
    pub shape: Vec<u64>,
    /// Its type in the output. In a draft: the type that it has if nothing is asked for (most often the stored one).
    pub elem: ElemType,
    /// Whether `elem` is settled by what the tensor is (a norm, a router: F32 in GGUF), so that `--type` leaves it alone.
    pub fixed: bool,
}

/// What a tensor of the output is made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A stored tensor as it is, of whatever type: its index in [`Model::tensors`].
    Stored(usize),
    /// Rows gathered from stored tensors, or computed.
    Made(Origin),
}

impl Step {
    /// A stored tensor moved as it is, under its own name.
    ///
    /// # Errors
    /// There is no such tensor.
    pub fn keep(model: &Model, index: usize) -> Result<Self> {
        let tensor =
            model.tensors.get(index).ok_or_else(|| Error::argument(format!("expected a tensor of the model, found number {index}")))?;
        Ok(Self { source: Source::Stored(index), name: tensor.name.clone(), shape: tensor.shape.clone(), elem: tensor.elem, fixed: false })
    }

    /// The same in the shape that it had before it was reshaped to be quantised, where the metadata says that.
    ///
    /// # Errors
    /// There is no such tensor.
    pub fn original(model: &Model, index: usize) -> Result<Self> {
        let step = Self::keep(model, index)?;
        let shape = model.tensors.get(index).and_then(|tensor| comfy::original_shape(model, tensor));
        Ok(Self { shape: shape.unwrap_or_else(|| step.shape.clone()), ..step })
    }

    /// What `origin` makes, as a tensor of this name, shape and type.
    pub fn made(origin: Origin, name: impl Into<String>, shape: Vec<u64>, elem: impl Into<ElemType>) -> Self {
        let source = match origin.whole() {
            Some(index) => Source::Stored(index),
            None => Source::Made(origin),
        };
        Self { source, name: name.into(), shape, elem: elem.into(), fixed: false }
    }

    /// The same, with a type that `--type` leaves alone.
    #[must_use]
    pub fn fixed(self) -> Self {
        Self { fixed: true, ..self }
    }

    /// The stored tensors that it is made of, by index in [`Model::tensors`].
    pub fn tensors(&self) -> Vec<usize> {
        match &self.source {
            Source::Stored(index) => vec![*index],
            Source::Made(origin) => origin.tensors(),
        }
    }

    /// What is done to them, in words.
    pub fn transforms(&self) -> Vec<String> {
        match &self.source {
            Source::Stored(_) => Vec::new(),
            Source::Made(origin) => origin.steps(),
        }
    }

    /// How many elements it has.
    ///
    /// # Errors
    /// The product of the shape is past 2^64.
    pub fn elements(&self) -> Result<u64> {
        num::elements(&self.shape).map_err(|error| error.in_tensor(&self.name))
    }

    /// The length of a row, which encoders take whole: the innermost dimension.
    pub fn row_elements(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1)
    }
}
