//! LoRA adapters: low-rank updates of named matrices, as written by PEFT, llama.cpp, MLX, kohya and diffusers.
//!
//! `W + s * B A`, where s is alpha / r (or alpha / sqrt(r) with `use_rslora`): Hu et al., "LoRA: Low-Rank Adaptation of Large Language
//! Models", and PEFT's tuners/lora/layer.py, `get_delta_weight`.

use std::ops::Range;

use serde::Serialize;
use serde_json::Value as Json;

use crate::base::{Error, Result, num};
use crate::codec;
use crate::format::Reader;
use crate::model::TensorInfo;

mod forms;
mod merge;
mod pair;
mod peft;
mod to_gguf;
mod to_peft;

pub use merge::{merged, updates};
pub use to_gguf::{base_file, output_model};
pub use to_peft::output_model as to_peft;

/// The library format of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Form {
    /// adapter_config.json with `peft_type`.
    Peft,
    /// A GGUF of the type `adapter`.
    Gguf,
    /// adapter_config.json with `fine_tune_type` or `lora_parameters`: mlx-lm.
    Mlx,
    /// `lora_down`, `lora_up` and `alpha` under flattened names: kohya's scripts.
    Kohya,
    /// `lora_A` and `lora_B`, or `lora.down` and `lora.up`, without a config: diffusers.
    Diffusers,
}

impl Form {
    /// Returns the format of an open model; `None` if it is not an adapter.
    pub fn of(reader: &Reader) -> Option<Self> {
        let model = reader.model();
        let has = |key: &str| model.config.as_ref().is_some_and(|config| config.get(key).is_some());
        if model.metadata.get_str("general.type") == Some("adapter") {
            Some(Self::Gguf)
        } else if has("peft_type") {
            Some(Self::Peft)
        } else if has("lora_parameters") || has("fine_tune_type") {
            Some(Self::Mlx)
        } else if has("architectures") || has("model_type") {
            None
        } else {
            forms::by_names(model)
        }
    }

    /// Returns the display name.
    pub fn title(self) -> &'static str {
        match self {
            Self::Peft => "PEFT",
            Self::Gguf => "GGUF",
            Self::Mlx => "MLX",
            Self::Kohya => "kohya",
            Self::Diffusers => "diffusers",
        }
    }
}

/// A factor of an update: a matrix, possibly stored transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Factor {
    /// Index in the adapter's tensors.
    pub tensor: usize,
    /// Whether it is stored transposed.
    pub transposed: bool,
}

/// A low-rank update of a matrix: `scale * left right`.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// The module without PEFT's prefix: `model.layers.0.self_attn.q_proj`; in GGUF `blk.0.attn_q`.
    pub module: String,
    /// The rank.
    pub rank: u64,
    /// The factor of the product.
    pub scale: f32,
    /// `[rows, rank]`.
    pub left: Factor,
    /// `[rank, columns]`.
    pub right: Factor,
    /// The row norms after the update (DoRA): index in the adapter's tensors.
    pub magnitude: Option<usize>,
    rows: u64,
    columns: u64,
}

/// An adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// The library format.
    pub form: Form,
    /// The rank in its config, or that of all updates.
    pub rank: Option<u64>,
    /// The alpha in its config, or that of all updates.
    pub alpha: Option<f64>,
    /// The modules that it updates: `target_modules` in its config, if a list or pattern, or their name suffixes.
    pub targets: Vec<String>,
    /// The base model.
    pub base: Option<String>,
    /// The updates in file order.
    pub updates: Vec<Update>,
    /// Tensors that replace the base's (`modules_to_save`): the base's name, and the index in the adapter's tensors.
    pub replaced: Vec<(String, usize)>,
    /// Embedding rows that replace the base's (`trainable_token_indices`): the base's name, the rows, and the index in the adapter's
    /// tensors.
    pub tokens: Vec<(String, Vec<u64>, usize)>,
    /// The reason why it cannot be merged.
    pub unsupported: Option<String>,
}

/// Whether an open model is an adapter.
pub fn is_adapter(reader: &Reader) -> bool {
    Form::of(reader).is_some()
}

impl Adapter {
    /// Reads an adapter's config, keys and names.
    ///
    /// # Errors
    /// It is not an adapter, or a factor has no counterpart or the wrong shape.
    pub fn of(reader: &Reader) -> Result<Self> {
        let model = reader.model();
        let adapter = match Form::of(reader) {
            Some(Form::Peft) => peft::read(model),
            Some(Form::Gguf) => forms::gguf(model),
            Some(Form::Mlx) => forms::mlx(model),
            Some(form @ (Form::Kohya | Form::Diffusers)) => forms::of_images(reader, form),
            None => Err(Error::argument("not an adapter: no adapter_config.json (PEFT), nor a GGUF of type adapter")),
        };
        adapter.map_err(|error| error.in_file(&model.path))
    }

    /// Returns the adapter, if it can be merged or converted.
    fn supported(reader: &Reader) -> Result<Self> {
        let adapter = Self::of(reader)?;
        match &adapter.unsupported {
            Some(why) => Err(Error::unsupported(format!("the adapter cannot be merged: it is {why}")).in_file(&reader.model().path)),
            None => Ok(adapter),
        }
    }

    /// Derives rank, alpha and targets from the updates if no config has them.
    fn complete(mut self) -> Self {
        let same = |values: Vec<f64>| values.first().copied().filter(|first| values.iter().all(|value| value == first));
        let updates = &self.updates;
        if self.rank.is_none() {
            self.rank = same(updates.iter().map(|update| update.rank as f64).collect()).map(|rank| rank as u64);
        }
        if self.alpha.is_none() {
            self.alpha = same(updates.iter().map(|update| f64::from(update.scale) * update.rank as f64).collect());
        }
        if self.targets.is_empty() {
            let ends = self.updates.iter().filter_map(|update| Some(update.module.rsplit_once('.')?.1.to_owned()));
            self.targets = ends.collect::<std::collections::BTreeSet<_>>().into_iter().collect();
        }
        self
    }
}

impl Update {
    /// Returns the update of a matrix by two factors.
    ///
    /// # Errors
    /// The factors do not fit each other.
    fn new(model: &crate::model::Model, module: String, scale: impl Fn(u64) -> Result<f32>, left: Factor, right: Factor) -> Result<Self> {
        let tensor = |factor: Factor| model.tensors.get(factor.tensor).ok_or_else(|| Error::argument("expected a factor of this adapter"));
        let (l, r) = (tensor(left)?, tensor(right)?);
        // Convolution kernels have more dimensions: the first is the output, the others form the input.
        let sides = |tensor: &TensorInfo, transposed: bool| -> Option<(u64, u64)> {
            let (&first, rest) = tensor.shape.split_first()?;
            let rest = num::elements(rest).ok()?;
            Some(if transposed { (rest, first) } else { (first, rest) })
        };
        match (sides(l, left.transposed), sides(r, right.transposed)) {
            (Some((rows, rank)), Some((other, columns))) if rank == other && rank > 0 && l.shape.len() > 1 && r.shape.len() > 1 => {
                Ok(Self { scale: scale(rank)?, module, rank, left, right, magnitude: None, rows, columns })
            }
            _ => {
                let message = format!("expected factors of one rank, found the shapes {:?} and {:?}", r.shape, l.shape);
                Err(Error::unsupported(message).in_tensor(&r.name))
            }
        }
    }

    /// Returns the shape of the updated matrix.
    pub fn shape(&self) -> [u64; 2] {
        [self.rows, self.columns]
    }

    /// Computes rows of the update.
    ///
    /// # Errors
    /// The factors cannot be read.
    pub fn rows(&self, adapter: &Reader, rows: Range<u64>) -> Result<Vec<f32>> {
        // Per row: the weights of the directions; per direction: a vector of the row length.
        let weights = matrix(adapter, self.left, self.rows, self.rank, rows.clone())?;
        let directions = matrix(adapter, self.right, self.rank, self.columns, 0..self.rank)?;
        let (columns, rank) = (num::to_usize(self.columns, "a row")?, num::to_usize(self.rank, "a rank")?);
        let mut values = vec![0.0f32; num::to_usize(num::mul(rows.end - rows.start, self.columns, "values")?, "values")?];
        for (row, weights) in values.chunks_exact_mut(columns.max(1)).zip(weights.chunks_exact(rank)) {
            for (weight, direction) in weights.iter().zip(directions.chunks_exact(columns.max(1))) {
                for (value, part) in row.iter_mut().zip(direction) {
                    *value += weight * part;
                }
            }
            row.iter_mut().for_each(|value| *value *= self.scale);
        }
        Ok(values)
    }

    /// Computes the Frobenius norm of the update.
    ///
    /// # Errors
    /// The factors cannot be read.
    pub fn norm(&self, adapter: &Reader) -> Result<f64> {
        const ROWS: u64 = 64;
        let mut sum = 0.0;
        for first in (0..self.rows).step_by(ROWS as usize) {
            let values = self.rows(adapter, first..self.rows.min(first + ROWS))?;
            sum += values.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>();
        }
        Ok(sum.sqrt())
    }
}

/// Reads rows of a factor, whether or not it is stored transposed.
fn matrix(adapter: &Reader, factor: Factor, height: u64, width: u64, rows: Range<u64>) -> Result<Vec<f32>> {
    let tensor = adapter.model().tensors.get(factor.tensor).ok_or_else(|| Error::argument("expected factors of this adapter"))?;
    if !factor.transposed {
        return floats(adapter, tensor, rows.start * width..rows.end * width);
    }
    let count = num::to_usize(rows.end - rows.start, "rows")?;
    let width = num::to_usize(width, "a row")?;
    let mut values = vec![0.0; count * width];
    for column in 0..width {
        let start = column as u64 * height;
        let piece = floats(adapter, tensor, start + rows.start..start + rows.end)?;
        values.iter_mut().skip(column).step_by(width).zip(piece).for_each(|(value, stored)| *value = stored);
    }
    Ok(values)
}

/// Decodes a range of elements of a stored tensor.
fn floats(reader: &Reader, tensor: &TensorInfo, range: Range<u64>) -> Result<Vec<f32>> {
    let unread = || Error::unsupported(format!("expected plain numbers, found {}", tensor.elem)).in_tensor(&tensor.name);
    let dtype = tensor.elem.known().filter(|dtype| dtype.info().block_elems == 1).ok_or_else(unread)?;
    let size = dtype.info().block_bytes;
    let mut values = vec![0.0; num::to_usize(range.end - range.start, "values")?];
    (codec::codec(dtype).ok_or_else(unread)?.decode)(&reader.bytes_at(tensor, range.start * size..range.end * size)?, &mut values);
    Ok(values)
}

/// Returns the strings of a list, or a single string.
fn texts(value: Option<&Json>) -> Vec<String> {
    match value {
        Some(Json::Array(names)) => names.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
        Some(Json::String(pattern)) => vec![pattern.clone()],
        _ => Vec::new(),
    }
}
