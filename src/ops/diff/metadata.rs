//! Key-by-key comparison of metadata.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::model::{Array, Metadata, Value};
use crate::ops::enumerations;

/// Number of array elements shown.
const SHOWN: u64 = 8;

/// A key whose value differs or is missing on one side.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MetadataRow {
    /// The key.
    pub key: String,
    /// Value in the first model; null if missing. Arrays are `{type, len, values}`, from the first differing element.
    pub a: Json,
    /// Value in the second model.
    pub b: Json,
    /// Name that the number in the first model stands for, if the key is an enumeration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_a: Option<&'static str>,
    /// Name that the number in the second model stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_b: Option<&'static str>,
    /// Names that the shown numbers of arrays stand for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<i64, &'static str>,
}

impl MetadataRow {
    fn new(key: &str, a: Option<&Value>, b: Option<&Value>) -> Self {
        let from = a.zip(b).map_or(0, |(a, b)| first_difference(a, b));
        let arrays = [a, b].into_iter().flatten().filter_map(Value::as_array);
        let json = |value: Option<&Value>| value.map_or(Json::Null, |value| json(value, from));
        let name = |value: Option<&Value>| enumerations::name(key, value?);
        Self {
            key: key.to_owned(),
            a: json(a),
            b: json(b),
            name_a: name(a),
            name_b: name(b),
            names: enumerations::names(key, arrays.flat_map(|array| shown(array, from))),
        }
    }
}

/// Returns the keys that differ, in the order of the first model, then of the second.
pub(super) fn compare(a: &Metadata, b: &Metadata) -> Vec<MetadataRow> {
    let mut rows = Vec::new();
    for (key, value) in a.iter() {
        match b.get(key) {
            Some(other) if other == value || both_nan(value, other) => {}
            other => rows.push(MetadataRow::new(key, Some(value), other)),
        }
    }
    let only_b = b.iter().filter(|(key, _)| a.get(key).is_none());
    rows.extend(only_b.map(|(key, value)| MetadataRow::new(key, None, Some(value))));
    rows
}

fn both_nan(a: &Value, b: &Value) -> bool {
    a.value_type() == b.value_type() && a.as_f64().is_some_and(f64::is_nan) && b.as_f64().is_some_and(f64::is_nan)
}

/// Returns the index of the first element in which two arrays differ.
fn first_difference(a: &Value, b: &Value) -> u64 {
    let (Some(a), Some(b)) = (a.as_array(), b.as_array()) else { return 0 };
    let same = a.iter().zip(b.iter()).take_while(|(a, b)| matches!((a, b), (Ok(a), Ok(b)) if a == b)).count() as u64;
    if same < a.len().min(b.len()) { same } else { 0 }
}

fn json(value: &Value, from: u64) -> Json {
    match value {
        Value::String(text) => json!(text),
        Value::Bool(value) => json!(value),
        Value::Array(array) => elements(array, from),
        Value::F32(value) => json!(value),
        Value::F64(value) => json!(value),
        Value::I64(value) => json!(value),
        Value::I8(value) => json!(value),
        Value::I16(value) => json!(value),
        Value::I32(value) => json!(value),
        other => json!(other.as_u64()),
    }
}

fn shown(array: &Array, from: u64) -> impl Iterator<Item = Value> {
    array.iter().skip(from as usize).take(SHOWN as usize).map_while(Result::ok)
}

fn elements(array: &Array, from: u64) -> Json {
    let shown: Vec<Json> = shown(array, from).map(|value| json(&value, 0)).collect();
    let mut found = json!({"type": array.elem().name(), "len": array.len(), "values": shown});
    if from > 0 {
        found["from"] = json!(from);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differences_are_reported() {
        let array =
            |values: &[u32]| Value::Array(Array::new(crate::model::ValueType::U32, values.iter().map(|&v| Value::U32(v)).collect()));
        let (mut a, mut b) = (Metadata::new(), Metadata::new());
        for (key, left, right) in [
            ("same", Some(Value::F32(f32::NAN)), Some(Value::F32(f32::NAN))),
            ("type", Some(Value::U32(1)), Some(Value::I32(1))),
            ("array", Some(array(&[1, 2, 3])), Some(array(&[1, 9, 3]))),
            ("a", Some(Value::Bool(true)), None),
            ("b", None, Some(Value::String("x".into()))),
        ] {
            left.into_iter().for_each(|value| a.insert(key, value).unwrap());
            right.into_iter().for_each(|value| b.insert(key, value).unwrap());
        }
        let rows = compare(&a, &b);
        assert_eq!(rows.iter().map(|row| row.key.as_str()).collect::<Vec<_>>(), ["type", "array", "a", "b"]);
        assert_eq!(rows[1].b, json!({"type": "u32", "len": 3, "values": [9, 3], "from": 1}));
        assert_eq!((&rows[2].b, &rows[3].b), (&Json::Null, &json!("x")));
    }

    #[test]
    fn numbers_of_enumerations_are_named() {
        let types = |values: &[i32]| Value::Array(Array::i32s(values.iter().copied()));
        let (mut a, mut b) = (Metadata::new(), Metadata::new());
        for (key, left, right) in [
            ("general.file_type", Value::U32(0), Value::U32(15)),
            ("tokenizer.ggml.token_type", types(&[2, 1, 3]), types(&[2, 1, 6])),
            ("llama.block_count", Value::U32(0), Value::U32(15)),
        ] {
            a.insert(key, left).unwrap();
            b.insert(key, right).unwrap();
        }
        let rows = compare(&a, &b);
        let named: Vec<_> = rows.iter().map(|row| (row.name_a, row.name_b, row.names.clone())).collect();
        let expected = [
            (Some("F32"), Some("Q4_K_M"), BTreeMap::new()),
            (None, None, BTreeMap::from([(3, "control"), (6, "byte")])),
            (None, None, BTreeMap::new()),
        ];
        assert_eq!(named, expected);
    }

    #[test]
    fn arrays_are_shown_from_where_they_differ() {
        let array =
            |values: &[u32]| Value::Array(Array::new(crate::model::ValueType::U32, values.iter().map(|&v| Value::U32(v)).collect()));
        let first = |a: &[u32], b: &[u32]| first_difference(&array(a), &array(b));
        assert_eq!(first(&[1, 2, 3, 4], &[1, 2, 9, 4]), 2);
        assert_eq!(first(&[1, 2], &[7, 2]), 0);
        // One goes on where the other ends: from the start.
        assert_eq!(first(&[1, 2], &[1, 2, 3]), 0);
        assert_eq!(first_difference(&Value::U32(1), &Value::U32(2)), 0);
    }

    #[test]
    fn numbers_that_are_none_are_alike_in_one_type() {
        assert!(both_nan(&Value::F32(f32::NAN), &Value::F32(-f32::NAN)));
        for (a, b) in [
            (Value::F32(f32::NAN), Value::F64(f64::NAN)),
            (Value::F32(f32::NAN), Value::F32(1.0)),
            (Value::F32(1.0), Value::F32(f32::NAN)),
            (Value::F32(1.0), Value::F32(1.0)),
        ] {
            assert!(!both_nan(&a, &b), "{a:?} {b:?}");
        }
    }
}
