//! `meta`: the metadata of a model.

use std::collections::BTreeMap;

use serde::ser::{SerializeMap, SerializeSeq, Serializer};
use serde::{Serialize, ser};

use crate::base::{Error, Hint, Result, text, units};
use crate::format::Reader;
use crate::model::value_text::write_scalar;
use crate::model::{Array, Metadata, Value, ValueType};
use crate::ops::enumerations;

/// Number of array values shown by default.
pub const SHOWN_VALUES: u64 = 8;

/// Most characters of a value in [`brief`].
const BRIEF_CHARS: usize = 400;

/// Most values of an array in [`brief`].
const BRIEF_VALUES: usize = 16;

/// Formats the value of a key on one line, shortened, for a screen or a page, with the names that its numbers stand for. The text is not
/// escaped.
pub fn brief(key: &str, value: &Value) -> String {
    let names = match value {
        Value::Array(array) => enumerations::names(key, array.iter().take(BRIEF_VALUES).flatten()),
        _ => BTreeMap::new(),
    };
    enumerations::annotate(shortened(value), enumerations::name(key, value), &names)
}

fn shortened(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Array(array) => {
            let values: Vec<String> = array.iter().take(BRIEF_VALUES).flatten().map(|value| shortened(&value)).collect();
            let more =
                if array.len() > BRIEF_VALUES as u64 { format!(" … {} in all", units::grouped(array.len())) } else { String::new() };
            out = format!("[{}]{more}", values.join(", "));
        }
        Value::String(text) => out.clone_from(text),
        value => write_scalar(value, &mut out),
    }
    text::shorten_to(&out, BRIEF_CHARS).into_owned()
}

/// Metadata, in file order or in that of the requested keys.
#[derive(Debug, Serialize)]
pub struct MetaList<'m> {
    schema: &'static str,
    /// The entries.
    pub metadata: Vec<Entry<'m>>,
}

/// A key with its value.
#[derive(Debug, Serialize)]
pub struct Entry<'m> {
    /// Exact key.
    pub key: &'m str,
    /// The type of the value.
    #[serde(rename = "type", serialize_with = "type_name")]
    pub value_type: ValueType,
    /// The value; an array as `{type, len, values}`.
    pub value: Shown<'m>,
    /// Name that the number stands for, if the key is an enumeration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'static str>,
    /// Names that the shown numbers of an array stand for, if the key is an enumeration.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<i64, &'static str>,
}

fn type_name<S: Serializer>(value_type: &ValueType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value_type.name())
}

/// A value, and whether its arrays are shown in full.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'m> {
    /// The value.
    pub value: &'m Value,
    /// Whether arrays are shown in full.
    pub full: bool,
}

impl Shown<'_> {
    /// Returns the number of array values to show.
    pub fn limit(&self, array: &Array) -> u64 {
        if self.full { array.len() } else { array.len().min(SHOWN_VALUES) }
    }

    /// Iterates over the shown values of an array: an array may be as long as the file.
    ///
    /// # Errors
    /// A string in it is not UTF-8, which readers reject.
    pub fn values(&self, array: &Array) -> impl Iterator<Item = Result<Value>> {
        array.iter().take(usize::try_from(self.limit(array)).unwrap_or(usize::MAX))
    }
}

/// The values of an array, serialised as a list.
struct Values<'m>(Shown<'m>, &'m Array);

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(shown, array) = self;
        let mut list = serializer.serialize_seq(usize::try_from(shown.limit(array)).ok())?;
        for value in shown.values(array) {
            list.serialize_element(&Shown { value: &value.map_err(ser::Error::custom)?, full: shown.full })?;
        }
        list.end()
    }
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            Value::U8(v) => v.serialize(serializer),
            Value::I8(v) => v.serialize(serializer),
            Value::U16(v) => v.serialize(serializer),
            Value::I16(v) => v.serialize(serializer),
            Value::U32(v) => v.serialize(serializer),
            Value::I32(v) => v.serialize(serializer),
            Value::F32(v) => v.serialize(serializer),
            Value::Bool(v) => v.serialize(serializer),
            Value::String(v) => v.serialize(serializer),
            Value::U64(v) => v.serialize(serializer),
            Value::I64(v) => v.serialize(serializer),
            Value::F64(v) => v.serialize(serializer),
            Value::Array(array) => {
                let mut map = serializer.serialize_map(Some(3))?;
                map.serialize_entry("type", array.elem().name())?;
                map.serialize_entry("len", &array.len())?;
                map.serialize_entry("values", &Values(*self, array))?;
                map.end()
            }
        }
    }
}

/// Returns all metadata of the model, or that of `keys` in their order.
///
/// # Errors
/// A key does not exist.
pub fn meta<'m>(reader: &'m Reader, keys: &[String], full: bool) -> Result<MetaList<'m>> {
    let metadata = &reader.model().metadata;
    let entry = |(key, value): (&'m str, &'m Value)| {
        let shown = Shown { value, full };
        let names = match value {
            Value::Array(array) => enumerations::names(key, shown.values(array).flatten()),
            _ => BTreeMap::new(),
        };
        Entry { key, value_type: value.value_type(), value: shown, name: enumerations::name(key, value), names }
    };
    let entries = if keys.is_empty() {
        metadata.iter().map(entry).collect()
    } else {
        let find = |key: &String| metadata.iter().find(|(name, _)| name == key).map(entry).ok_or_else(|| missing(metadata, key));
        keys.iter().map(find).collect::<Result<_>>().map_err(|error| error.in_file(&reader.model().path))?
    };
    Ok(MetaList { schema: "weigh.meta.v1", metadata: entries })
}

fn missing(metadata: &Metadata, key: &str) -> Error {
    Error::argument(format!("no metadata key named {}", text::shorten(key))).hint(Hint::of_name(
        key,
        metadata.iter().map(|(name, _)| name),
        Hint::ListKeys,
    ))
}
