//! LoRA adapters: low-rank updates of named matrices, as PEFT, llama.cpp, MLX, kohya and diffusers write them.
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
mod peft;
mod to_gguf;

pub use merge::{merged, updates};
pub use to_gguf::{base_file, draft};

/// Which library's form an adapter has.
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
    /// The form of an open model; none for a model that is no adapter.
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

    /// What people call it.
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

/// One of the two factors of an update, as it is used: a matrix, stored as it is or transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Factor {
    /// The index in the adapter's tensors.
    pub tensor: usize,
    /// Whether it is stored with rows and columns exchanged.
    pub transposed: bool,
}

/// An update of one matrix: `scale * left right`.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// The module, without what PEFT puts before it: `model.layers.0.self_attn.q_proj`; in GGUF `blk.0.attn_q`.
    pub module: String,
    /// The rank.
    pub rank: u64,
    /// What the product is multiplied by.
    pub scale: f32,
    /// `[rows, rank]`.
    pub left: Factor,
    /// `[rank, columns]`.
    pub right: Factor,
    /// The lengths that rows have after the update (DoRA): an index in the adapter's tensors.
    pub magnitude: Option<usize>,
    rows: u64,
    columns: u64,
}

/// An adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// Which library's form it has.
    pub form: Form,
    /// The rank of its config, or that of all updates where it has none.
    pub rank: Option<u64>,
    /// The alpha of its config, or that of all updates where it has none.
    pub alpha: Option<f64>,
    /// The modules that it updates: `target_modules` of its config, where that is a list or a pattern, or the ends of their names.
    pub targets: Vec<String>,
    /// The model that it was made for.
    pub base: Option<String>,
    /// The updates, in the order of the file.
    pub updates: Vec<Update>,
    /// Tensors that take the place of the base's (`modules_to_save`): the base's name, and the index in the adapter's tensors.
    pub replaced: Vec<(String, usize)>,
    /// Rows of an embedding that take the place of the base's (`trainable_token_indices`): the base's name, the rows, and the index in
    /// the adapter's tensors.
    pub tokens: Vec<(String, Vec<u64>, usize)>,
    /// Why it cannot be merged.
    pub unsupported: Option<String>,
}

/// Whether an open model is an adapter.
pub fn is_adapter(reader: &Reader) -> bool {
    Form::of(reader).is_some()
}

impl Adapter {
    /// Reads what an adapter's config, keys and names say.
    ///
    /// # Errors
    /// It is no adapter; a factor has no counterpart or another shape.
    pub fn of(reader: &Reader) -> Result<Self> {
        let model = reader.model();
        let adapter = match Form::of(reader) {
            Some(Form::Peft) => peft::read(model),
            Some(Form::Gguf) => forms::gguf(model),
            Some(Form::Mlx) => forms::mlx(model),
            Some(form @ (Form::Kohya | Form::Diffusers)) => forms::of_images(reader, form),
            None => Err(Error::argument("expected an adapter: PEFT's with adapter_config.json or a GGUF of that type, found neither")),
        };
        adapter.map_err(|error| error.in_file(&model.path))
    }

    /// The adapter, if it can be merged or converted.
    fn supported(reader: &Reader) -> Result<Self> {
        let adapter = Self::of(reader)?;
        match &adapter.unsupported {
            Some(why) => {
                Err(Error::unsupported(format!("expected an adapter that can be merged, found {why}")).in_file(&reader.model().path))
            }
            None => Ok(adapter),
        }
    }

    /// Fills in the rank, alpha and targets that no config says, from the updates.
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
    /// An update of a matrix by two factors.
    ///
    /// # Errors
    /// The factors do not fit each other.
    fn new(model: &crate::model::Model, module: String, scale: impl Fn(u64) -> Result<f32>, left: Factor, right: Factor) -> Result<Self> {
        let tensor = |factor: Factor| model.tensors.get(factor.tensor).ok_or_else(|| Error::argument("expected a factor of this adapter"));
        let (l, r) = (tensor(left)?, tensor(right)?);
        // Kernels of convolutions have more dimensions: the first is that of a matrix, the rest are its other side.
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

    /// The shape of the matrix that is updated.
    pub fn shape(&self) -> [u64; 2] {
        [self.rows, self.columns]
    }

    /// Rows of the update as it is added to the stored matrix.
    ///
    /// # Errors
    /// The factors cannot be read.
    pub fn rows(&self, adapter: &Reader, rows: Range<u64>) -> Result<Vec<f32>> {
        // Per row: the weights of the directions; per direction: a vector as long as a row.
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

    /// The square root of the sum of squares of the update.
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

/// Some rows of a factor, row by row, however it is stored.
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

/// The texts of a list, or a single text.
fn texts(value: Option<&Json>) -> Vec<String> {
    match value {
        Some(Json::Array(names)) => names.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
        Some(Json::String(pattern)) => vec![pattern.clone()],
        _ => Vec::new(),
    }
}
