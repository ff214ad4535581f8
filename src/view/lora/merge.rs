//! Adapters merged into their base, and adapters viewed as a model of their updates.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::base::{Error, Result, num};
use crate::codec;
use crate::family::mapping::{HfTensor, Mapping, Row};
use crate::family::tables::Tables;
use crate::family::{pattern, tables};
use crate::format::{Computed, Reader};
use crate::model::{Array, Class, DType, ElemType, FormatId, TensorInfo, Value, ValueType};
use crate::view::lora::{Adapter, Form, Update, floats};
use crate::view::tensor_expr::TensorExpr;
use crate::view::transform::Shaped;
use crate::view::{to_gguf, to_hf};

/// A change to a matrix of the base.
#[derive(Debug, Clone)]
enum Change {
    /// Adds an update; with a magnitude, then scales each row to that norm (DoRA).
    Add(Update),
    /// Adds updates from a model of updates, converted to the base's layout.
    AddMoved(TensorExpr),
    /// Replaces these rows.
    Rows(Vec<u64>, TensorInfo),
}

/// A matrix of the base with its changes, in order.
#[derive(Debug)]
struct Merged {
    /// The model that contains the matrix: the base, or an adapter that replaces it.
    source: Arc<Reader>,
    tensor: TensorInfo,
    dtype: DType,
    changes: Vec<(Arc<Reader>, Change)>,
}

impl Merged {
    fn apply(&self, adapter: &Reader, change: &Change, rows: Range<u64>, values: &mut [f32]) -> Result<()> {
        let width = num::to_usize(self.tensor.row_elements().max(1), "a row")?;
        match change {
            Change::Add(update) => {
                let added = update.rows(adapter, rows.clone())?;
                values.iter_mut().zip(added).for_each(|(value, change)| *value += change);
                if let Some(magnitude) = update.magnitude.and_then(|index| adapter.model().tensors.get(index)) {
                    let lengths = floats(adapter, magnitude, rows)?;
                    values.chunks_exact_mut(width).zip(lengths).for_each(|(row, length)| scale_to(row, length));
                }
            }
            Change::AddMoved(origin) => {
                let bytes = origin.eval_rows(adapter, rows)?;
                let added = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
                values.iter_mut().zip(added).for_each(|(value, change)| *value += change);
            }
            Change::Rows(places, tensor) => {
                for (number, place) in (0u64..).zip(places).filter(|(_, place)| rows.contains(place)) {
                    let row = floats(adapter, tensor, number * width as u64..(number + 1) * width as u64)?;
                    let at = num::to_usize(place - rows.start, "a row")?;
                    if let Some(values) = values.chunks_exact_mut(width).nth(at) {
                        values.copy_from_slice(&row);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Scales a row to this norm.
fn scale_to(row: &mut [f32], length: f32) {
    let norm = row.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt() as f32;
    row.iter_mut().for_each(|value| *value *= length / norm);
}

impl Computed for Merged {
    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let size = self.dtype.info().block_bytes;
        let width = self.tensor.row_elements().max(1);
        let rows = range.start / size / width..range.end.div_ceil(size).div_ceil(width);
        let named = |error: Error| error.in_tensor(&self.tensor.name);
        let mut values = floats(&self.source, &self.tensor, rows.start * width..rows.end * width)?;
        for (adapter, change) in &self.changes {
            self.apply(adapter, change, rows.clone(), &mut values).map_err(named)?;
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

/// A tensor that an adapter replaces.
#[derive(Debug)]
struct Replaced {
    adapter: Arc<Reader>,
    tensor: TensorInfo,
}

impl Computed for Replaced {
    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>> {
        self.adapter.bytes_at(&self.tensor, range).map(crate::source::Data::into_owned)
    }
}

/// An update viewed as a single-precision matrix.
#[derive(Debug)]
struct Product {
    adapter: Arc<Reader>,
    update: Update,
}

impl Computed for Product {
    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let row = self.update.columns.max(1) * 4;
        let rows = range.start / row..range.end.div_ceil(row);
        let skip = num::to_usize(range.start - rows.start * row, "bytes of a row")?;
        let bytes = self.update.rows(&self.adapter, rows)?.into_iter().flat_map(f32::to_le_bytes);
        Ok(bytes.skip(skip).take(num::to_usize(range.end - range.start, "bytes of rows")?).collect())
    }
}

/// Returns the model of an adapter's updates: each product under the name of the matrix that it updates, with the adapter's config as
/// metadata.
///
/// # Errors
/// It is not an adapter, or its factors do not fit each other.
pub fn updates(reader: Reader) -> Result<Reader> {
    let adapter = Adapter::of(&reader)?;
    let reader = Arc::new(reader);
    let mut model = reader.model().clone();
    let mut computed: HashMap<String, Arc<dyn Computed>> = HashMap::new();
    model.tensors.clear();
    let whole =
        adapter.replaced.iter().map(|(name, index)| (name, index)).chain(adapter.tokens.iter().map(|(name, _, index)| (name, index)));
    for (name, &index) in whole {
        model.tensors.extend(reader.model().tensors.get(index).map(|tensor| TensorInfo { name: name.clone(), ..tensor.clone() }));
    }
    for update in adapter.updates {
        let Some(first) = reader.model().tensors.get(update.right.tensor).cloned() else { continue };
        let name = format!("{}.weight", update.module);
        let shape = update.shape().to_vec();
        let len_bytes = num::mul(num::elements(&shape)?, 4, "bytes of an update")?;
        model.tensors.push(TensorInfo {
            name: name.clone(),
            elem: ElemType::Known(DType::F32),
            shape,
            len_bytes: Some(len_bytes),
            ..first
        });
        computed.insert(name, Arc::new(Product { adapter: Arc::clone(&reader), update }));
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

/// Returns the base with its adapters merged: updates are added in single precision and rounded once to the base's type.
///
/// # Errors
/// An adapter is invalid, cannot be merged, does not fit the base, or updates a matrix whose type is not plain.
pub fn merged(base: Reader, adapters: Vec<Reader>) -> Result<Reader> {
    let base = Arc::new(base);
    let inputs = adapters.clone();
    let mut merge = Merge {
        prefixes: tables::common()?.prefixes.clone(),
        model: base.model().clone(),
        base,
        changes: HashMap::new(),
        replaced: HashMap::new(),
    };
    for reader in adapters {
        let adapter = Adapter::supported(&reader)?;
        let is_gguf = merge.base.model().format == FormatId::Gguf;
        if is_gguf == (adapter.form == Form::Gguf) {
            merge.add(adapter, reader)?;
        } else {
            merge.add_moved(adapter, reader)?;
        }
    }
    Ok(merge.done()?.with_inputs_of(&inputs))
}

/// A merge in progress.
struct Merge {
    /// Names of modules that may contain the model.
    prefixes: Vec<String>,
    base: Arc<Reader>,
    model: crate::model::Model,
    /// Changes by index of the base's tensor.
    changes: HashMap<usize, Vec<(Arc<Reader>, Change)>>,
    replaced: HashMap<usize, (Arc<Reader>, TensorInfo)>,
}

impl Merge {
    /// Adds an adapter with the names and layouts of the base.
    fn add(&mut self, adapter: Adapter, reader: Reader) -> Result<()> {
        let reader = Arc::new(reader);
        for (name, index) in adapter.replaced {
            let place = self.find(&name)?;
            let Some(tensor) = reader.model().tensors.get(index).cloned() else { continue };
            self.fits(place, &tensor.shape)?;
            let Some(old) = self.model.tensors.get_mut(place) else { continue };
            (old.elem, old.len_bytes) = (tensor.elem, tensor.len_bytes);
            self.replaced.insert(place, (Arc::clone(&reader), tensor));
        }
        for update in adapter.updates {
            let place = self.find(&format!("{}.weight", update.module))?;
            self.fits(place, &update.shape())?;
            if let Some(magnitude) = update.magnitude.and_then(|index| reader.model().tensors.get(index))
                && magnitude.elements()? != update.rows
            {
                let message = format!("expected a magnitude for each of {} rows, found the shape {:?}", update.rows, magnitude.shape);
                return Err(Error::malformed(message).in_tensor(&magnitude.name));
            }
            self.changes.entry(place).or_default().push((Arc::clone(&reader), Change::Add(update)));
        }
        for (name, rows, index) in adapter.tokens {
            let place = self.find(&name)?;
            let Some(tensor) = reader.model().tensors.get(index).cloned() else { continue };
            let old = self.model.tensors.get(place).map(|tensor| tensor.shape.clone()).unwrap_or_default();
            let fits =
                matches!(old[..], [height, width] if tensor.shape == [rows.len() as u64, width] && rows.iter().all(|row| *row < height));
            if !fits {
                let message = format!("expected rows of the base's shape {old:?}, found {:?} for the rows {rows:?}", tensor.shape);
                return Err(Error::malformed(message).in_tensor(&tensor.name));
            }
            self.changes.entry(place).or_default().push((Arc::clone(&reader), Change::Rows(rows, tensor)));
        }
        Ok(())
    }

    /// Adds a GGUF adapter to a Hugging Face base or vice versa, converting its updates.
    fn add_moved(&mut self, adapter: Adapter, reader: Reader) -> Result<()> {
        let path = reader.model().path.clone();
        let only_updates = adapter.replaced.is_empty() && adapter.tokens.is_empty();
        if !only_updates || adapter.updates.iter().any(|update| update.magnitude.is_some()) {
            let message = "expected an adapter of factors alone for a base in another format, found DoRA or whole tensors";
            return Err(Error::unsupported(message).in_file(&path).hint("merge it into the Hugging Face folder of the base"));
        }
        let updates = Arc::new(updates(reader)?);
        for (name, origin, shape) in moved(self.base.model(), &updates).map_err(|error| error.in_file(&path))? {
            let place = self.find(&name)?;
            self.fits(place, &shape)?;
            self.changes.entry(place).or_default().push((Arc::clone(&updates), Change::AddMoved(origin)));
        }
        Ok(())
    }

    /// Checks the shape of a change against the base's tensor.
    fn fits(&self, place: usize, shape: &[u64]) -> Result<()> {
        let Some(tensor) = self.model.tensors.get(place) else { return Ok(()) };
        if tensor.shape == shape {
            return Ok(());
        }
        let error = Error::malformed(format!("expected the base's shape {:?} in the adapter, found {shape:?}", tensor.shape));
        let rows = tensor.shape.get(1..) == shape.get(1..);
        let hint = if rows {
            "the adapter has other rows of the vocabulary: resize the base's embeddings first"
        } else {
            "the adapter was made for another model"
        };
        Err(error.in_tensor(&tensor.name).hint(hint))
    }

    /// Returns the base's tensor with this name, or the only one whose name ends with it or is nested in other modules, for adapters of a
    /// model with or without head.
    fn find(&self, name: &str) -> Result<usize> {
        let tensors = &self.base.model().tensors;
        let wanted = pattern::strip_prefixes(name, &self.prefixes);
        let ends = |long: &str, short: &str| long.strip_suffix(short).is_some_and(|rest| rest.ends_with('.'));
        let fits: [&dyn Fn(&str) -> bool; 3] =
            [&|other| other == name, &|other| pattern::strip_prefixes(other, &self.prefixes) == wanted, &|other| {
                ends(other, name) || ends(name, other)
            }];
        for fits in fits {
            let mut alike = tensors.iter().enumerate().filter(|(_, tensor)| fits(&tensor.name));
            if let (Some((place, _)), None) = (alike.next(), alike.next()) {
                return Ok(place);
            }
        }
        Err(Error::malformed(format!("the base has no tensor {name}"))
            .in_file(&self.base.model().path)
            .hint("the adapter was made for another model"))
    }

    fn done(mut self) -> Result<Reader> {
        let mut computed: HashMap<String, Arc<dyn Computed>> = HashMap::new();
        for (place, changes) in self.changes {
            let Some(own) = self.base.model().tensors.get(place) else { continue };
            let (source, tensor) = self.replaced.remove(&place).unwrap_or_else(|| (Arc::clone(&self.base), own.clone()));
            let dtype = tensor.elem.known().filter(|dtype| dtype.info().class == Class::Float && dtype.info().block_elems == 1);
            let dtype = dtype.ok_or_else(|| {
                let message = format!("expected a base of plain floats to merge into, found {}", tensor.elem);
                Error::unsupported(message).in_tensor(&tensor.name).hint("convert the base to F16, BF16 or F32 first")
            })?;
            computed.insert(own.name.clone(), Arc::new(Merged { source, tensor, dtype, changes }));
        }
        for (place, (adapter, tensor)) in self.replaced {
            if let Some(own) = self.base.model().tensors.get(place) {
                computed.insert(own.name.clone(), Arc::new(Replaced { adapter, tensor }));
            }
        }
        Ok(Reader::computed(&self.base, self.model, computed))
    }
}

/// Converts the updates of an adapter to the base's format: names, expressions and shapes.
fn moved(base: &crate::model::Model, updates: &Reader) -> Result<Vec<(String, TensorExpr, Vec<u64>)>> {
    let tables = Tables::default();
    let to_gguf = base.format == FormatId::Gguf;
    let (table, config) = if to_gguf {
        to_hf::read_keys(base, &tables)?
    } else {
        let (_, table, config) = to_gguf::read_config(base, &tables)?;
        (table, config)
    };
    let mapping = Mapping::new(&table, &config)?;
    let model = updates.model();
    let unfit = |name: &str, what: &str| {
        Error::unsupported(format!("expected an update that {what} in the base's format, found another")).in_tensor(name)
    };
    let mut found = Vec::new();
    for (index, tensor) in model.tensors.iter().enumerate() {
        let name = &tensor.name;
        let source = vec![Shaped { origin: TensorExpr::stored(model, index)?, shape: tensor.shape.clone() }];
        if to_gguf {
            let HfTensor::Row(number, _, places) = mapping.lookup_hf(name) else { return Err(unfit(name, "has a name")) };
            let row =
                mapping.rows.get(number).filter(|row| row.hf.len() == 1 && applies(row)).ok_or_else(|| unfit(name, "is of one matrix"))?;
            for (made, name) in row.transform.forward(source)?.into_iter().zip(row.gguf_names(places)) {
                found.push((name, made.origin, made.shape));
            }
        } else {
            let (number, _, places) = mapping.lookup_gguf(name).ok_or_else(|| unfit(name, "has a name"))?;
            let row = mapping.rows.get(number).filter(|row| row.gguf.len() == 1 && row.hf.len() == 1 && applies(row));
            let row = row.ok_or_else(|| unfit(name, "is of one matrix"))?;
            for made in row.transform.backward(source)? {
                found.push((row.hf_name(places, 0), made.origin, made.shape));
            }
        }
    }
    Ok(found)
}

/// Whether a row's transform applies to an update of a single matrix.
fn applies(row: &Row) -> bool {
    !row.is_stacked() && row.transform.keeps_values()
}
