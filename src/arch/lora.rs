//! LoRA adapters as PEFT writes them: low-rank updates of named matrices.
//!
//! `W + s * B A`, where s is alpha / r (or alpha / sqrt(r) with `use_rslora`): Hu et al., "LoRA: Low-Rank Adaptation of Large Language
//! Models", and PEFT's tuners/lora/layer.py, `get_delta_weight`.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::base::{Error, Result, num};
use crate::codec;
use crate::format::{Computed, Reader};
use crate::model::{Array, Class, DType, ElemType, TensorInfo, Value, ValueType};

/// What names in an adapter start with.
const PREFIX: &str = "base_model.model.";

/// The ends of the names of the two factors: of linear layers, and of embeddings.
const FACTORS: [(&str, &str, bool); 2] = [(".lora_A.weight", ".lora_B.weight", false), (".lora_embedding_A", ".lora_embedding_B", true)];

/// An update of one matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// The module, without what PEFT puts before it: `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// The rank.
    pub rank: u64,
    /// What the product is multiplied by.
    pub scale: f32,
    /// The first factor, `[rank, in]`: its index in the adapter's tensors.
    pub a: usize,
    /// The second factor, `[out, rank]`.
    pub b: usize,
    /// Whether the matrix is stored as `[in, out]`: embeddings, and layers with `fan_in_fan_out`.
    pub transposed: bool,
}

/// An adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// `r` of its config.
    pub rank: Option<u64>,
    /// `lora_alpha` of its config.
    pub alpha: Option<f64>,
    /// `target_modules` of its config, where that is a list or a pattern.
    pub targets: Vec<String>,
    /// `base_model_name_or_path` of its config.
    pub base: Option<String>,
    /// The updates, in the order of the file.
    pub updates: Vec<Update>,
    /// Tensors that take the place of the base's (`modules_to_save`): the base's name, and the index in the adapter's tensors.
    pub replaced: Vec<(String, usize)>,
}

/// Whether an open model is an adapter: by its config.
pub fn is_adapter(reader: &Reader) -> bool {
    reader.model().config.as_ref().is_some_and(|config| config.get("peft_type").is_some())
}

impl Adapter {
    /// Reads what an adapter's config and names say.
    ///
    /// # Errors
    /// It is no LoRA adapter; a factor has no counterpart or another shape; it has parts that this build does not know.
    pub fn of(reader: &Reader) -> Result<Self> {
        let model = reader.model();
        let not = || Error::argument("expected a PEFT adapter with adapter_config.json, found none").in_file(&model.path);
        let config = model.config.as_ref().ok_or_else(not)?;
        let kind = config.get("peft_type").and_then(Json::as_str).ok_or_else(not)?;
        if kind != "LORA" || config.get("use_dora").and_then(Json::as_bool) == Some(true) {
            let found = if kind == "LORA" { "DoRA" } else { kind };
            return Err(Error::unsupported(format!("expected a LoRA adapter, found {found}")).in_file(&model.path));
        }
        let places: HashMap<&str, usize> = model.tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.as_str(), i)).collect();
        let fan_in_fan_out = config.get("fan_in_fan_out").and_then(Json::as_bool).unwrap_or(false);
        let mut adapter = Self {
            rank: config.get("r").and_then(Json::as_u64),
            alpha: config.get("lora_alpha").and_then(Json::as_f64),
            targets: match config.get("target_modules") {
                Some(Json::Array(names)) => names.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
                Some(Json::String(pattern)) => vec![pattern.clone()],
                _ => Vec::new(),
            },
            base: config.get("base_model_name_or_path").and_then(Json::as_str).map(str::to_owned),
            updates: Vec::new(),
            replaced: Vec::new(),
        };
        for (a, tensor) in model.tensors.iter().enumerate() {
            let first = FACTORS.iter().find_map(|(first, second, embedding)| Some((tensor.name.strip_suffix(first)?, *second, *embedding)));
            let Some((stem, second, embedding)) = first else {
                if !FACTORS.iter().any(|(_, second, _)| tensor.name.ends_with(second)) {
                    adapter.replaced.push((replaced_name(tensor)?, a));
                }
                continue;
            };
            let b = places.get(format!("{stem}{second}").as_str()).copied();
            let b = b.ok_or_else(|| Error::malformed(format!("expected {second} beside it, found none")).in_tensor(&tensor.name))?;
            let rank = match (&tensor.shape[..], model.tensors.get(b).map(|other| &other.shape[..])) {
                (&[rank, _], Some(&[_, other])) if rank == other && rank > 0 => rank,
                (found, other) => {
                    let message = format!("expected factors [r, in] and [out, r], found {found:?} and {:?}", other.unwrap_or_default());
                    return Err(Error::unsupported(message).in_tensor(&tensor.name));
                }
            };
            let module = stem.strip_prefix(PREFIX).unwrap_or(stem).to_owned();
            let scale = scale(config, &module, rank)?;
            adapter.updates.push(Update { module, rank, scale, a, b, transposed: embedding || fan_in_fan_out });
        }
        Ok(adapter)
    }
}

/// The base's name of a tensor that an adapter holds whole.
fn replaced_name(tensor: &TensorInfo) -> Result<String> {
    let name = tensor.name.strip_prefix(PREFIX).unwrap_or(&tensor.name);
    if name.contains("lora_") {
        return Err(
            Error::unsupported("expected factors A and B of linear layers or embeddings, found another part").in_tensor(&tensor.name)
        );
    }
    Ok(name.replace(".modules_to_save.default", "").replace(".modules_to_save", "").replace(".base_layer", ""))
}

/// alpha / r, with the exceptions that a config may make for some modules.
fn scale(config: &Json, module: &str, rank: u64) -> Result<f32> {
    let exception = |key: &str| {
        let patterns = config.get(key)?.as_object()?;
        // Keys are ends of names; PEFT takes them as regular expressions after a dot, which plain names are as well.
        patterns
            .iter()
            .find(|(end, _)| module == end.as_str() || module.ends_with(&format!(".{end}")))
            .and_then(|(_, value)| value.as_f64())
    };
    let alpha = exception("alpha_pattern").or_else(|| config.get("lora_alpha").and_then(Json::as_f64));
    let alpha = alpha.ok_or_else(|| Error::malformed("expected lora_alpha in adapter_config.json, found none"))?;
    let rank = rank as f64;
    let by_root = config.get("use_rslora").and_then(Json::as_bool) == Some(true);
    Ok((alpha / if by_root { rank.sqrt() } else { rank }) as f32)
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

impl Update {
    fn factors<'a>(&self, adapter: &'a Reader) -> Result<(&'a TensorInfo, &'a TensorInfo)> {
        let tensor = |index: usize| adapter.model().tensors.get(index);
        tensor(self.a).zip(tensor(self.b)).ok_or_else(|| Error::argument("expected factors of this adapter"))
    }

    /// The shape of the matrix that is updated.
    pub fn shape(&self, adapter: &Reader) -> Result<[u64; 2]> {
        let (a, b) = self.factors(adapter)?;
        let (input, output) = (a.row_elements(), b.shape.first().copied().unwrap_or(0));
        Ok(if self.transposed { [input, output] } else { [output, input] })
    }

    /// Rows of the update as it is added to the stored matrix.
    ///
    /// # Errors
    /// The factors cannot be read.
    pub fn rows(&self, adapter: &Reader, rows: Range<u64>) -> Result<Vec<f32>> {
        let (a, b) = self.factors(adapter)?;
        let width = self.shape(adapter)?[1];
        let (columns, rank) = (num::to_usize(width, "a row")?, self.rank);
        let count = rows.end - rows.start;
        // Per row: the weights of the directions; per direction: a vector as long as a row.
        let (weights, directions) = if self.transposed {
            let mut weights = vec![0.0; num::to_usize(count * rank, "values")?];
            for k in 0..rank {
                let piece = floats(adapter, a, k * a.row_elements() + rows.start..k * a.row_elements() + rows.end)?;
                for (row, value) in piece.into_iter().enumerate() {
                    weights[row * rank as usize + k as usize] = value;
                }
            }
            let stored = floats(adapter, b, 0..width * rank)?;
            let mut directions = vec![0.0; stored.len()];
            for (i, value) in stored.into_iter().enumerate() {
                directions[i % rank as usize * columns + i / rank as usize] = value;
            }
            (weights, directions)
        } else {
            (floats(adapter, b, rows.start * rank..rows.end * rank)?, floats(adapter, a, 0..rank * width)?)
        };
        let mut values = vec![0.0f32; num::to_usize(count * width, "values")?];
        for (row, weights) in values.chunks_exact_mut(columns.max(1)).zip(weights.chunks_exact(rank as usize)) {
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
        let height = self.shape(adapter)?[0];
        let mut sum = 0.0;
        for first in (0..height).step_by(ROWS as usize) {
            let values = self.rows(adapter, first..height.min(first + ROWS))?;
            sum += values.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>();
        }
        Ok(sum.sqrt())
    }
}

/// A matrix of the base with its updates.
#[derive(Debug)]
struct Merged {
    /// The model that the matrix is in: the base, or an adapter that has it whole.
    source: Arc<Reader>,
    tensor: TensorInfo,
    dtype: DType,
    updates: Vec<(Arc<Reader>, Update)>,
}

impl Computed for Merged {
    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let size = self.dtype.info().block_bytes;
        let width = self.tensor.row_elements().max(1);
        let rows = range.start / size / width..range.end.div_ceil(size).div_ceil(width);
        let named = |error: Error| error.in_tensor(&self.tensor.name);
        let mut values = floats(&self.source, &self.tensor, rows.start * width..rows.end * width)?;
        for (adapter, update) in &self.updates {
            let update = update.rows(adapter, rows.clone()).map_err(named)?;
            values.iter_mut().zip(update).for_each(|(value, change)| *value += change);
        }
        let encode = codec::codec(self.dtype).and_then(|codec| codec.encode);
        let encode = encode.ok_or_else(|| named(Error::unsupported(format!("expected a type that is written, found {}", self.dtype))))?;
        let mut bytes = vec![0; values.len() * size as usize];
        encode(&values, None, &mut bytes);
        let skip = (range.start - rows.start * width * size) as usize;
        bytes.truncate(skip + (range.end - range.start) as usize);
        bytes.drain(..skip);
        Ok(bytes)
    }
}

/// A tensor that an adapter holds whole.
#[derive(Debug)]
struct Replaced {
    adapter: Arc<Reader>,
    tensor: TensorInfo,
}

impl Computed for Replaced {
    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>> {
        self.adapter.bytes_at(&self.tensor, range).map(std::borrow::Cow::into_owned)
    }
}

/// An update as a matrix by itself, in single precision.
#[derive(Debug)]
struct Product {
    adapter: Arc<Reader>,
    update: Update,
    width: u64,
}

impl Computed for Product {
    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let row = self.width.max(1) * 4;
        let rows = range.start / row..range.end.div_ceil(row);
        let skip = num::to_usize(range.start - rows.start * row, "bytes of a row")?;
        let bytes = self.update.rows(&self.adapter, rows)?.into_iter().flat_map(f32::to_le_bytes);
        Ok(bytes.skip(skip).take(num::to_usize(range.end - range.start, "bytes of rows")?).collect())
    }
}

/// An adapter as the model of its updates: each product under the name of the matrix that it is added to, and what its config says
/// of it as metadata.
///
/// # Errors
/// It is no LoRA adapter, or its factors do not fit each other.
pub fn updates(reader: Reader) -> Result<Reader> {
    let adapter = Adapter::of(&reader)?;
    let reader = Arc::new(reader);
    let mut model = reader.model().clone();
    let mut computed: HashMap<String, Arc<dyn Computed>> = HashMap::new();
    model.tensors.clear();
    for (name, place) in adapter.replaced {
        model.tensors.push(TensorInfo { name, ..reader.model().tensors[place].clone() });
    }
    for update in adapter.updates {
        let shape = update.shape(&reader)?;
        let name = format!("{}.weight", update.module);
        let len_bytes = num::mul(num::mul(shape[0], shape[1], "elements of an update")?, 4, "bytes of an update")?;
        let first = reader.model().tensors[update.a].clone();
        let elem = ElemType::Known(DType::F32);
        model.tensors.push(TensorInfo { name: name.clone(), elem, shape: shape.to_vec(), len_bytes: Some(len_bytes), ..first });
        computed.insert(name, Arc::new(Product { adapter: Arc::clone(&reader), update, width: shape[1] }));
    }
    let mut targets = adapter.targets;
    targets.sort();
    let targets = Value::Array(Array::new(ValueType::String, targets.into_iter().map(Value::String).collect()));
    let facts = [
        ("adapter.rank", adapter.rank.map(Value::U64)),
        ("adapter.alpha", adapter.alpha.map(Value::F64)),
        ("adapter.target_modules", Some(targets)),
        ("adapter.base_model", adapter.base.map(Value::String)),
    ];
    for (key, value) in facts {
        value.map_or(Ok(()), |value| model.metadata.insert(key, value))?;
    }
    Ok(Reader::computed(&reader, model, computed))
}

/// The base with its adapters merged into it: updates are added in single precision and rounded once to the base's type.
///
/// # Errors
/// An adapter is none, does not fit the base, or updates a matrix whose type is not plain.
pub fn merged(base: Reader, adapters: Vec<Reader>) -> Result<Reader> {
    let base = Arc::new(base);
    let mut model = base.model().clone();
    let mut updates: HashMap<usize, Vec<(Arc<Reader>, Update)>> = HashMap::new();
    let mut replaced: HashMap<usize, (Arc<Reader>, TensorInfo)> = HashMap::new();
    let mut inputs = Vec::new();
    for reader in adapters {
        let adapter = Adapter::of(&reader)?;
        inputs.extend(reader.inputs().cloned());
        let reader = Arc::new(reader);
        for update in adapter.updates {
            let place = find(&base, &format!("{}.weight", update.module))?;
            let tensor = &base.model().tensors[place];
            let shape = update.shape(&reader)?;
            if tensor.shape != shape {
                let message = format!("expected the base's shape {:?} in the adapter, found {shape:?}", tensor.shape);
                return Err(Error::malformed(message).in_tensor(&tensor.name));
            }
            updates.entry(place).or_default().push((Arc::clone(&reader), update));
        }
        for (name, index) in adapter.replaced {
            let place = find(&base, &name)?;
            let tensor = reader.model().tensors[index].clone();
            let old = &mut model.tensors[place];
            if old.shape != tensor.shape {
                let message = format!("expected the base's shape {:?} in the adapter, found {:?}", old.shape, tensor.shape);
                return Err(Error::malformed(message).in_tensor(&name));
            }
            (old.elem, old.len_bytes) = (tensor.elem, tensor.len_bytes);
            replaced.insert(place, (Arc::clone(&reader), tensor));
        }
    }
    let mut computed: HashMap<String, Arc<dyn Computed>> = HashMap::new();
    for (place, updates) in updates {
        let (source, tensor) = replaced.remove(&place).unwrap_or_else(|| (Arc::clone(&base), base.model().tensors[place].clone()));
        let dtype = tensor.elem.known().filter(|dtype| dtype.info().class == Class::Float && dtype.info().block_elems == 1);
        let dtype = dtype.ok_or_else(|| {
            let message = format!("expected a base of plain floats to merge into, found {}", tensor.elem);
            Error::unsupported(message).in_tensor(&tensor.name).hint("convert the base to F16, BF16 or F32 first")
        })?;
        computed.insert(model.tensors[place].name.clone(), Arc::new(Merged { source, tensor, dtype, updates }));
    }
    for (place, (adapter, tensor)) in replaced {
        computed.insert(model.tensors[place].name.clone(), Arc::new(Replaced { adapter, tensor }));
    }
    Ok(Reader::computed(&base, model, computed).with_inputs(inputs))
}

/// The base's tensor of this name; or the only one that ends so, for adapters of a model without its head, or with one.
fn find(base: &Reader, name: &str) -> Result<usize> {
    let tensors = &base.model().tensors;
    if let Some(place) = tensors.iter().position(|tensor| tensor.name == name) {
        return Ok(place);
    }
    let ends = |long: &str, short: &str| long.strip_suffix(short).is_some_and(|rest| rest.ends_with('.'));
    let mut alike = tensors.iter().enumerate().filter(|(_, tensor)| ends(&tensor.name, name) || ends(name, &tensor.name));
    match (alike.next(), alike.next()) {
        (Some((place, _)), None) => Ok(place),
        _ => Err(Error::malformed(format!("expected {name} in the base, found no such tensor"))
            .in_file(&base.model().path)
            .hint("the adapter was made for another model")),
    }
}
