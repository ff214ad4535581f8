//! Tensors as views of storages, and where the bytes of those are.

use std::sync::Arc;

use crate::base::{Error, Result, limits, num};
use crate::format::pytorch::callables::{self, Meaning, StorageClass};
use crate::format::pytorch::pickle::{Id, Value, Values};
use crate::format::strided::{self, Kind, Strided};
use crate::format::{Computed, codes};
use crate::model::checkpoint::Shared;
use crate::model::{DType, TensorInfo};
use crate::source::{InMemory, Source};

/// Location of the bytes of a storage.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) source: Arc<dyn Source>,
    /// Of the first byte.
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// Whether `source` is the file itself; otherwise, the offset in the file to show.
    pub(crate) in_file: bool,
    pub(crate) shown: u64,
    pub(crate) big_endian: bool,
}

/// A storage: bytes that tensors are views of.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    /// Equal for equal storages, and parts of them.
    pub(crate) number: u32,
    /// Whether `place` is a part of the storage.
    pub(crate) is_part: bool,
    pub(crate) place: Place,
    /// `None` for bytes.
    pub(crate) kind: Option<Kind>,
}

/// A tensor before it has a name.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) storage: Storage,
    /// Of the first element, in bytes from the start of the storage.
    pub(crate) offset: u64,
    pub(crate) kind: Kind,
    pub(crate) shape: Vec<u64>,
    /// In elements.
    pub(crate) strides: Vec<u64>,
}

/// Returns the place of bytes in a pickle; bytes that it holds as text are decoded to memory.
///
/// # Errors
/// The value is no bytes.
pub(crate) fn bytes(values: &Values, id: Id) -> Result<Place> {
    let source = &values.source;
    let decoded = |text: &str, shown: u64| {
        let bytes: Option<Vec<u8>> = text.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect();
        let bytes = bytes.ok_or_else(|| Error::malformed("expected bytes as text, found other characters").at(shown))?;
        let len = bytes.len() as u64;
        let source: Arc<dyn Source> = Arc::new(InMemory::new(source.path(), bytes));
        Ok(Place { source, offset: 0, len, in_file: false, shown, big_endian: false })
    };
    let wrong = || Error::malformed(format!("expected bytes, found {}", values.show(id)));
    match values.get(id) {
        Value::Bytes { at, len } => Ok(Place { source: Arc::clone(source), offset: at, len, in_file: true, shown: at, big_endian: false }),
        Value::Text { .. } => decoded(values.text(id).unwrap_or_default(), 0),
        Value::LongText { at, len } if len <= limits::PICKLE_TEXT_ARRAY_BYTES => {
            let text = String::from_utf8(source.read(at..at + len)?.into_owned());
            decoded(&text.map_err(|_| Error::malformed("expected text in UTF-8, found other bytes").at(at))?, at)
        }
        Value::LongText { at, len } => {
            let message = format!("expected an array as text of at most {} bytes, found {len}", limits::PICKLE_TEXT_ARRAY_BYTES);
            Err(Error::limit(message).at(at))
        }
        Value::Object(_) => {
            let object = values.object(id).ok_or_else(wrong)?;
            let meaning = values.class(object).and_then(callables::meaning);
            let first = values.sequence(object.args).and_then(|args| args.first().copied());
            match (meaning, first) {
                (Some(Meaning::Bytes), None) => decoded("", object.at),
                // Bytes as text, or a bytearray of bytes.
                (Some(Meaning::Encoded | Meaning::Bytes), Some(inner)) if inner < id => bytes(values, inner),
                _ => Err(wrong()),
            }
        }
        _ => Err(wrong()),
    }
}

/// Returns all of a storage as a tensor.
pub(crate) fn whole(storage: Storage) -> Result<Tensor> {
    let kind = storage.kind.unwrap_or_else(|| Kind::known(DType::U8, 1));
    let len = storage.place.len.checked_div(kind.width).unwrap_or(0);
    view(storage, Some(kind), 0, vec![len], vec![1])
}

/// Returns a view of a storage, which it lies in.
///
/// # Errors
/// It does not, or it has no type.
pub(crate) fn view(storage: Storage, kind: Option<Kind>, offset: u64, shape: Vec<u64>, strides: Vec<u64>) -> Result<Tensor> {
    let kind = kind.or(storage.kind).ok_or_else(|| Error::malformed("expected a storage with a type, found one of bytes"))?;
    if shape.len() != strides.len() {
        let message = format!("expected a stride for each of {} dimensions, found {}", shape.len(), strides.len());
        return Err(Error::malformed(message));
    }
    let elements = num::elements(&shape)?;
    num::mul(num::mul(elements, kind.packed, "the elements of a tensor")?, 256, "the bits of a tensor")?;
    let extent = strided::extent(&shape, &strides)?;
    let (end, have) = (num::add(offset, extent, "the end of a tensor")?, storage.place.len / kind.width);
    if extent > 0 && end > have {
        let message = format!(
            "expected {} from {offset} with strides {} inside a storage of {have} elements, found its end at {end}",
            num::show_shape(&shape),
            num::show_shape(&strides)
        );
        return Err(Error::malformed(message));
    }
    let offset = num::mul(offset, kind.width, "the offset of a tensor")?;
    Ok(Tensor { storage, offset, kind, shape, strides })
}

/// The entry of a tensor, how its bytes are computed if they are not a range of the file, and the memory that it takes of its storage.
pub(crate) type Entry = (TensorInfo, Option<Arc<dyn Computed>>, Shared);

impl Tensor {
    /// Returns the entry of the tensor under a name, how its bytes are computed if they are not a range of the file, and the memory that it
    /// takes of its storage.
    pub(crate) fn place(&self, name: &str) -> Result<Entry> {
        let Self { storage: Storage { place, number, is_part, .. }, kind, shape, strides, offset } = self;
        let elements = num::elements(shape)?;
        let mut shown = shape.clone();
        if kind.packed > 1 {
            match shown.last_mut() {
                Some(last) => *last = num::mul(*last, kind.packed, "the elements of a row")?,
                None => shown.push(kind.packed),
            }
        }
        let len_bytes = num::mul(elements, kind.width, "the bytes of a tensor")?;
        let contiguous = strided::is_contiguous(shape, strides);
        let swap = (place.big_endian && kind.number > 1).then_some(kind.number);
        let computed: Option<Arc<dyn Computed>> =
            if place.in_file && contiguous && swap.is_none() { None } else { Some(Arc::new(self.strided()?)) };
        let offset_bytes = if elements == 0 { place.shown } else { num::add(place.shown, *offset, "the offset of a tensor")? };
        let bytes = num::mul(strided::extent(shape, strides)?, kind.width, "the extent of a tensor")?;
        let whole = contiguous && *offset == 0 && len_bytes == place.len && !is_part;
        let shared = Shared::new(name, u64::from(*number), offset_bytes..offset_bytes.saturating_add(bytes), whole);
        let info = TensorInfo { name: name.to_owned(), elem: kind.elem, shape: shown, shard: 0, offset_bytes, len_bytes: Some(len_bytes) };
        Ok((info, computed, shared))
    }

    /// Returns access to the elements in order.
    pub(crate) fn strided(&self) -> Result<Strided> {
        let Self { storage: Storage { place, .. }, kind, shape, strides, offset } = self;
        let swap = (place.big_endian && kind.number > 1).then_some(kind.number);
        let start = if shape.contains(&0) { place.offset } else { num::add(place.offset, *offset, "the offset of a tensor")? };
        Strided::new(Arc::clone(&place.source), start, kind.width, shape, strides, swap)
    }

    /// Returns the values of a tensor of at most a million numbers, of the types that scales and indices have.
    pub(crate) fn small_numbers(&self) -> Result<Option<Vec<f64>>> {
        const MOST: u64 = 1 << 20;
        let elements = num::elements(&self.shape)?;
        let Some(dtype) = self.kind.elem.known().filter(|_| elements <= MOST) else { return Ok(None) };
        let bytes = self.strided()?.bytes(0..elements * self.kind.width)?;
        Ok(match dtype {
            DType::F64 => Some(bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()),
            DType::F32 => Some(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes).into()).collect()),
            DType::I64 => Some(bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes) as f64).collect()),
            DType::I32 => Some(bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect()),
            _ => None,
        })
    }
}

/// Returns the class and the length of a storage that a persistent ID of PyTorch names: ("storage", class, key, location, length, ...).
///
/// # Errors
/// It is none.
pub(crate) fn persistent(values: &Values, id: Id) -> Result<(StorageClass, Id, u64, &[Id])> {
    let wrong = |what: &str, found: Id| {
        Err(Error::malformed(format!("expected {what} in a persistent ID, found {}", values.show(found))).with_code(codes::PT_STORAGE))
    };
    let Value::Persistent(inner) = values.get(id) else {
        return wrong("a storage", id);
    };
    let Some(&[tag, class, key, _, len, ref rest @ ..]) = values.tuple(inner) else { return wrong("a tuple of five", inner) };
    if values.text(tag) != Some("storage") {
        return wrong("\"storage\"", tag);
    }
    let Some(storage) = values.global(class).and_then(callables::storage) else { return wrong("a storage class", class) };
    let Some(len) = values.int(len).and_then(|len| u64::try_from(len).ok()) else { return wrong("a length", len) };
    Ok((storage, key, len, rest))
}
