//! Metadata: typed key-value pairs in file order.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::base::bytes::{Cursor, Endian, SharedBytes, copy};
use crate::base::{Error, Result, limits};

/// The type of a metadata value, as in GGUF; safetensors has only strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    /// All types, indexed by their GGUF type number (`enum gguf_type` in gguf.h).
    pub const ALL: &'static [ValueType] = &[
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// Returns the name used in weigh's output and in `meta set KEY=TYPE:VALUE`.
    pub fn name(self) -> &'static str {
        ["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"][self as usize]
    }

    /// Returns the encoded size of a value in bytes, if it is fixed.
    pub fn fixed_bytes(self) -> Option<u64> {
        [Some(1), Some(1), Some(2), Some(2), Some(4), Some(4), Some(4), Some(1), None, None, Some(8), Some(8), Some(8)][self as usize]
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// Returns the type of this value.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// Returns the value as an unsigned integer, if it is a non-negative integer.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::U64(v) => Some(v),
            Self::I8(v) => v.try_into().ok(),
            Self::I16(v) => v.try_into().ok(),
            Self::I32(v) => v.try_into().ok(),
            Self::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// Returns the value as a signed integer, if it is an integer in range.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::I8(v) => Some(v.into()),
            Self::I16(v) => Some(v.into()),
            Self::I32(v) => Some(v.into()),
            Self::I64(v) => Some(v),
            _ => self.as_u64()?.try_into().ok(),
        }
    }

    /// Returns the value as an `f64`, if it is a number.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(v) => Some(v.into()),
            Self::F64(v) => Some(v),
            Self::I8(v) => Some(v.into()),
            Self::I16(v) => Some(v.into()),
            Self::I32(v) => Some(v.into()),
            Self::I64(v) => Some(v as f64),
            _ => self.as_u64().map(|v| v as f64),
        }
    }

    /// Returns the value as text, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the value as a boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// Returns a copy that does not borrow from a file: see [`Array::in_memory`].
    #[must_use]
    pub fn in_memory(&self) -> Self {
        self.as_array().map_or_else(|| self.clone(), |array| Self::Array(array.in_memory()))
    }

    /// Returns the value as an array, if it is one.
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }

    /// Reads one GGUF-encoded value; `wide` is false for the 32-bit lengths of GGUF v1.
    ///
    /// Arrays are decoded in full; use [`Array::in_file`] to leave them in the file.
    #[doc(hidden)]
    pub fn read(cursor: &mut Cursor<'_>, value_type: ValueType, wide: bool) -> Result<Self> {
        Self::read_nested(cursor, value_type, wide, 0)
    }

    fn read_nested(cursor: &mut Cursor<'_>, value_type: ValueType, wide: bool, depth: usize) -> Result<Self> {
        const WHAT: &str = "a metadata value";
        Ok(match value_type {
            ValueType::U8 => Self::U8(cursor.u8(WHAT)?),
            ValueType::I8 => Self::I8(cursor.i8(WHAT)?),
            ValueType::U16 => Self::U16(cursor.u16(WHAT)?),
            ValueType::I16 => Self::I16(cursor.i16(WHAT)?),
            ValueType::U32 => Self::U32(cursor.u32(WHAT)?),
            ValueType::I32 => Self::I32(cursor.i32(WHAT)?),
            ValueType::F32 => Self::F32(cursor.f32(WHAT)?),
            ValueType::Bool => Self::Bool(cursor.u8(WHAT)? != 0),
            ValueType::String => Self::String(read_string(cursor, wide, WHAT)?),
            ValueType::U64 => Self::U64(cursor.u64(WHAT)?),
            ValueType::I64 => Self::I64(cursor.i64(WHAT)?),
            ValueType::F64 => Self::F64(cursor.f64(WHAT)?),
            ValueType::Array => {
                if depth >= limits::GGUF_ARRAY_DEPTH {
                    return Err(
                        Error::limit(format!("expected arrays nested at most {} deep", limits::GGUF_ARRAY_DEPTH)).at(cursor.position())
                    );
                }
                let (elem, len) = read_array_head(cursor, wide)?;
                let mut values = Vec::new();
                for _ in 0..len {
                    values.push(Self::read_nested(cursor, elem, wide, depth + 1)?);
                }
                Self::Array(Array::new(elem, values))
            }
        })
    }
}

/// Returns the full GGUF key for a key of an architecture table.
pub fn full_key(architecture: &str, key: &str) -> String {
    let is_whole = ["general.", "tokenizer.", "diffusion."].iter().any(|prefix| key.starts_with(prefix));
    if is_whole { key.to_owned() } else { format!("{architecture}.{key}") }
}

/// Reads a length: 64 bits, or 32 bits in GGUF v1.
#[inline(always)] // called hundreds of thousands of times per vocabulary
pub fn read_len(cursor: &mut Cursor<'_>, wide: bool, what: &str) -> Result<u64> {
    if wide { cursor.u64(what) } else { cursor.u32(what).map(u64::from) }
}

/// Reads a length-prefixed UTF-8 string, copying it because the file can change.
pub fn read_string(cursor: &mut Cursor<'_>, wide: bool, what: &str) -> Result<String> {
    let len = read_len(cursor, wide, what)?;
    cursor.text(len, what)
}

/// Borrows a string from bytes that cannot change.
fn borrow_str<'a>(cursor: &mut Cursor<'a>, wide: bool, what: &str) -> Result<&'a str> {
    let len = read_len(cursor, wide, what)?;
    let at = cursor.position();
    let bytes = cursor.take(len, what)?;
    std::str::from_utf8(bytes).map_err(|error| {
        Error::malformed(format!("expected {what} in UTF-8, found other bytes")).at(at + error.valid_up_to() as u64).caused_by(error)
    })
}

/// Reads the element type and length of an array, and checks the length against the remaining bytes.
pub fn read_array_head(cursor: &mut Cursor<'_>, wide: bool) -> Result<(ValueType, u64)> {
    let at = cursor.position();
    let tag = cursor.u32("an array's element type")?;
    let elem = usize::try_from(tag)
        .ok()
        .and_then(|tag| ValueType::ALL.get(tag).copied())
        .ok_or_else(|| Error::malformed(format!("expected an element type of 0 to 12, found {tag}")).at(at))?;
    let at = cursor.position();
    let len = read_len(cursor, wide, "an array's length")?;
    let least = elem.fixed_bytes().unwrap_or(if wide { 8 } else { 4 });
    let left = cursor.remaining();
    match len.checked_mul(least) {
        Some(bytes) if bytes <= left => Ok((elem, len)),
        _ => Err(Error::malformed(format!("expected an array that fits the {left} bytes left, found {len} values of {elem}")).at(at)),
    }
}

/// An array of values of one type. An array of a file is decoded lazily.
#[derive(Debug, Clone)]
pub struct Array {
    elem: ValueType,
    len: u64,
    data: ArrayData,
}

#[derive(Debug, Clone)]
enum ArrayData {
    Values(Arc<[Value]>),
    /// GGUF-encoded elements in memory.
    Encoded {
        bytes: Arc<[u8]>,
        endian: Endian,
        wide: bool,
    },
    /// GGUF-encoded elements in the file, already validated.
    File {
        file: Arc<dyn SharedBytes>,
        range: Range<usize>,
        endian: Endian,
        wide: bool,
    },
}

impl ArrayData {
    /// Wraps elements encoded as in a current little-endian GGUF.
    fn encoded(bytes: Vec<u8>) -> Self {
        Self::Encoded { bytes: bytes.into(), endian: Endian::Little, wide: true }
    }
}

impl Array {
    /// Returns an array of values in memory. All must be of type `elem`, which is kept even if there are none.
    pub fn new(elem: ValueType, values: Vec<Value>) -> Self {
        debug_assert!(values.iter().all(|value| value.value_type() == elem));
        Self { elem, len: values.len() as u64, data: ArrayData::Values(values.into()) }
    }

    /// Returns a copy that does not borrow from the file, so that the file can be changed.
    #[must_use]
    pub fn in_memory(&self) -> Self {
        let data = match &self.data {
            ArrayData::File { file, range, endian, wide } => {
                let bytes = file.bytes().get(range.clone()).unwrap_or_default();
                ArrayData::Encoded { bytes: bytes.into(), endian: *endian, wide: *wide }
            }
            in_memory => in_memory.clone(),
        };
        Self { data, ..*self }
    }

    /// Returns an array of strings in memory.
    pub fn strings<S: Into<String>>(values: impl IntoIterator<Item = S>) -> Self {
        Self::new(ValueType::String, values.into_iter().map(|text| Value::String(text.into())).collect())
    }

    /// Returns an array of bytes in memory.
    pub fn u8s(values: Vec<u8>) -> Self {
        Self { elem: ValueType::U8, len: values.len() as u64, data: ArrayData::encoded(values) }
    }

    /// Returns a densely encoded array of signed 32-bit integers (token types).
    pub fn i32s(values: impl IntoIterator<Item = i32>) -> Self {
        Self::encoded(ValueType::I32, values.into_iter().map(i32::to_le_bytes))
    }

    /// Returns a densely encoded array of single-precision numbers (token scores).
    pub fn f32s(values: impl IntoIterator<Item = f32>) -> Self {
        Self::encoded(ValueType::F32, values.into_iter().map(f32::to_le_bytes))
    }

    /// Returns a densely encoded array of strings: hundreds of thousands cost little more than their text.
    pub fn packed_strings<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> Self {
        let (mut bytes, mut len) = (Vec::new(), 0);
        for value in values {
            let text = value.as_ref();
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
            len += 1;
        }
        Self { elem: ValueType::String, len, data: ArrayData::encoded(bytes) }
    }

    fn encoded<const N: usize>(elem: ValueType, values: impl Iterator<Item = [u8; N]>) -> Self {
        let bytes: Vec<u8> = values.flatten().collect();
        Self { elem, len: (bytes.len() / N) as u64, data: ArrayData::encoded(bytes) }
    }

    /// Returns an array whose GGUF-encoded elements are at `range` of a file. The caller has validated them.
    #[doc(hidden)]
    pub fn in_file(elem: ValueType, len: u64, file: Arc<dyn SharedBytes>, range: Range<usize>, endian: Endian, wide: bool) -> Self {
        Self { elem, len, data: ArrayData::File { file, range, endian, wide } }
    }

    /// Returns the element type.
    pub fn elem(&self) -> ValueType {
        self.elem
    }

    /// Returns the number of elements.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns an iterator that decodes the elements, ending after the first error.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value>> {
        ArrayIter { array: self, next: 0, pos: 0, failed: false }
    }

    /// Decodes all elements.
    pub fn values(&self) -> Result<Vec<Value>> {
        self.iter().collect()
    }

    /// Returns the encoded elements if they are encoded as in a little-endian GGUF of version 2 or 3, so that a writer can copy them
    /// without decoding.
    #[doc(hidden)]
    pub fn encoded_le(&self) -> Option<&[u8]> {
        match &self.data {
            ArrayData::Encoded { bytes, endian: Endian::Little, wide: true } => Some(bytes),
            ArrayData::File { file, range, endian: Endian::Little, wide: true } => file.bytes().get(range.clone()),
            _ => None,
        }
    }

    /// Calls `f` for each string of an array of strings without allocating each. Strings in a file are copied first, all at once.
    pub fn for_each_str(&self, mut f: impl FnMut(u64, &str) -> Result<()>) -> Result<()> {
        if self.elem != ValueType::String {
            return Err(Error::malformed(format!("expected an array of strings, found one of {}", self.elem)));
        }
        match &self.data {
            ArrayData::Values(values) => {
                for (i, value) in values.iter().enumerate() {
                    f(i as u64, value.as_str().unwrap_or_default())?;
                }
            }
            ArrayData::Encoded { bytes, endian, wide } => self.for_each_str_in(Cursor::new(bytes, *endian), *wide, f)?,
            ArrayData::File { file, range, endian, wide } => {
                let copied = copy(file.bytes().get(range.clone()).unwrap_or_default());
                let each = copied.and_then(|bytes| self.for_each_str_in(Cursor::new(&bytes, *endian), *wide, f));
                each.map_err(|error| error.in_file(file.path()))?;
            }
        }
        Ok(())
    }

    fn for_each_str_in(&self, mut cursor: Cursor<'_>, wide: bool, mut f: impl FnMut(u64, &str) -> Result<()>) -> Result<()> {
        for i in 0..self.len {
            f(i, borrow_str(&mut cursor, wide, "a string of an array")?)?;
        }
        Ok(())
    }
}

impl PartialEq for Array {
    /// Compares type and elements, regardless of how they are stored.
    fn eq(&self, other: &Self) -> bool {
        self.elem == other.elem
            && self.len == other.len
            && self.iter().zip(other.iter()).all(|pair| matches!(pair, (Ok(a), Ok(b)) if a == b))
    }
}

/// Decodes the elements of an [`Array`].
struct ArrayIter<'a> {
    array: &'a Array,
    next: u64,
    pos: usize,
    failed: bool,
}

impl ArrayIter<'_> {
    fn decode_next(&mut self, bytes: &[u8], endian: Endian, wide: bool) -> Result<Value> {
        let mut cursor = Cursor::new(bytes.get(self.pos..).unwrap_or_default(), endian);
        let value = Value::read(&mut cursor, self.array.elem, wide);
        self.pos += cursor.position() as usize;
        value
    }
}

impl Iterator for ArrayIter<'_> {
    type Item = Result<Value>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.next >= self.array.len {
            return None;
        }
        let item = match &self.array.data {
            ArrayData::Values(values) => Ok(values.get(self.next as usize)?.clone()),
            ArrayData::Encoded { bytes, endian, wide } => self.decode_next(bytes, *endian, *wide),
            ArrayData::File { file, range, endian, wide } => {
                let bytes = file.bytes().get(range.clone()).unwrap_or_default();
                self.decode_next(bytes, *endian, *wide).map_err(|error| error.in_file(file.path()))
            }
        };
        self.next += 1;
        self.failed = item.is_err();
        Some(item)
    }
}

/// Key-value pairs in order, with unique keys.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    /// Returns empty metadata.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the entries in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Returns the value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&i| &self.entries[i].1)
    }

    /// Returns the value of a key, if it is a string.
    pub fn get_str(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// Returns the value of a key, if it is a non-negative integer.
    pub fn get_u64(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// Appends an entry.
    ///
    /// # Errors
    /// The key already exists.
    pub fn insert(&mut self, key: impl Into<String>, value: Value) -> Result<()> {
        let key = key.into();
        if self.index.contains_key(&key) {
            return Err(Error::malformed(format!("expected each metadata key once, found {key} twice")));
        }
        self.index.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
        Ok(())
    }

    /// Sets the value of a key, in place or at the end. Returns the old value.
    pub fn set(&mut self, key: impl Into<String>, value: Value) -> Option<Value> {
        let key = key.into();
        match self.index.get(&key) {
            Some(&i) => Some(std::mem::replace(&mut self.entries[i].1, value)),
            None => {
                self.index.insert(key.clone(), self.entries.len());
                self.entries.push((key, value));
                None
            }
        }
    }

    /// Removes a key. Returns its value.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.index.remove(key)?;
        for place in self.index.values_mut().filter(|place| **place > at) {
            *place -= 1;
        }
        Some(self.entries.remove(at).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_order_through_changes() {
        let mut metadata = Metadata::new();
        for (i, key) in ["a", "b", "c"].into_iter().enumerate() {
            metadata.insert(key, Value::U32(i as u32)).unwrap();
        }
        assert!(metadata.insert("b", Value::U32(9)).is_err());
        assert_eq!(metadata.set("a", Value::Bool(true)), Some(Value::U32(0)));
        assert_eq!(metadata.remove("b"), Some(Value::U32(1)));
        assert_eq!(metadata.get_u64("c"), Some(2));
        assert_eq!(metadata.iter().map(|(key, _)| key).collect::<Vec<_>>(), ["a", "c"]);
    }

    #[test]
    fn packed_arrays_equal_those_of_single_values() {
        let strings = Array::packed_strings(["a", "", "ü模"]);
        assert_eq!(strings, Array::strings(["a", "", "ü模"]));
        let mut seen = Vec::new();
        let each = |i, text: &str| {
            seen.push((i, text.to_owned()));
            Ok(())
        };
        strings.for_each_str(each).unwrap();
        assert_eq!(seen, [(0, "a".to_owned()), (1, String::new()), (2, "ü模".to_owned())]);
        assert_eq!(Array::i32s([1, -2]), Array::new(ValueType::I32, vec![Value::I32(1), Value::I32(-2)]));
        assert_eq!(Array::f32s([0.5]).encoded_le(), Some(&0.5f32.to_le_bytes()[..]));
    }

    #[test]
    fn an_array_that_claims_more_than_is_left_is_an_error_before_any_loop() {
        let mut bytes = 8u32.to_le_bytes().to_vec(); // strings
        bytes.extend(u64::MAX.to_le_bytes());
        let mut cursor = Cursor::new(&bytes, Endian::Little);
        assert!(Value::read(&mut cursor, ValueType::Array, true).is_err());
    }
}
