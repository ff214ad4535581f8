//! Lossless conversion of metadata between the strings of safetensors and the typed values of GGUF.
//!
//! A GGUF string is copied as it is. Any other value becomes JSON text that names its type, `{"type":"u32","value":7}`
//! or `{"type":"array","of":"f32","values":[0.5]}`; numbers that JSON cannot represent (NaN, infinities) become bits: `"0x7fc00000"`.
//! Text in this form becomes that value on the way back. A string that looks like this form is written as
//! `{"type":"string","value":"..."}`, so that a round trip is the identity from either side.

use std::fmt::Write;

use serde_json::Value as Json;

use crate::base::Result;
use crate::model::{Array, Metadata, Value, ValueType, value_text};

/// Converts the metadata of a GGUF to strings.
///
/// # Errors
/// An array cannot be read from its file.
pub fn to_strings(metadata: &Metadata) -> Result<Metadata> {
    let mut strings = Metadata::new();
    for (key, value) in metadata.iter() {
        strings.insert(key, Value::String(to_text(value)?))?;
    }
    Ok(strings)
}

/// Converts the metadata of a safetensors file to the types that it names.
pub fn from_strings(metadata: &Metadata) -> Result<Metadata> {
    let mut typed = Metadata::new();
    for (key, value) in metadata.iter() {
        let value = value.as_str().and_then(from_text).unwrap_or_else(|| value.clone());
        typed.insert(key, value)?;
    }
    Ok(typed)
}

/// Converts one value to text.
pub fn to_text(value: &Value) -> Result<String> {
    match value {
        Value::String(text) if from_text(text).is_none() => Ok(text.clone()),
        value => typed_text(value),
    }
}

fn typed_text(value: &Value) -> Result<String> {
    let mut text = String::new();
    write_typed(value, &mut text)?;
    Ok(text)
}

fn write_typed(value: &Value, out: &mut String) -> Result<()> {
    match value {
        Value::Array(array) => {
            let _ = write!(out, "{{\"type\":\"array\",\"of\":\"{}\",\"values\":[", array.elem());
            for (i, item) in array.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                let item = item?;
                if array.elem() == ValueType::Array { write_typed(&item, out)? } else { write_bare(&item, out) }
            }
            out.push_str("]}");
        }
        value => {
            let _ = write!(out, "{{\"type\":\"{}\",\"value\":", value.value_type());
            write_bare(value, out);
            out.push('}');
        }
    }
    Ok(())
}

/// Converts a scalar to JSON, without its type.
fn write_bare(value: &Value, out: &mut String) {
    // Writing to a string cannot fail.
    let _ = match value {
        Value::F32(v) if !v.is_finite() => write!(out, "\"0x{:08x}\"", v.to_bits()),
        Value::F64(v) if !v.is_finite() => write!(out, "\"0x{:016x}\"", v.to_bits()),
        Value::String(text) => write!(out, "{}", Json::from(text.as_str())),
        value => return value_text::write_scalar(value, out),
    };
}

/// Parses text as a typed value, if it is exactly how that value is written.
pub fn from_text(text: &str) -> Option<Value> {
    if !text.starts_with("{\"type\":\"") {
        return None;
    }
    let value = read_typed(&serde_json::from_str(text).ok()?)?;
    (typed_text(&value).ok()? == text).then_some(value)
}

fn read_typed(json: &Json) -> Option<Value> {
    let kind = value_type(json.get("type")?)?;
    if kind != ValueType::Array {
        return read_bare(kind, json.get("value")?);
    }
    let elem = value_type(json.get("of")?)?;
    let items = json.get("values")?.as_array()?.iter();
    let values: Option<Vec<Value>> = if elem == ValueType::Array {
        items.map(|item| read_typed(item).filter(|value| matches!(value, Value::Array(_)))).collect()
    } else {
        items.map(|item| read_bare(elem, item)).collect()
    };
    Some(Value::Array(Array::new(elem, values?)))
}

fn value_type(json: &Json) -> Option<ValueType> {
    let name = json.as_str()?;
    ValueType::ALL.iter().copied().find(|kind| kind.name() == name)
}

fn read_bare(kind: ValueType, json: &Json) -> Option<Value> {
    let bits = || u64::from_str_radix(json.as_str()?.strip_prefix("0x")?, 16).ok();
    Some(match kind {
        ValueType::U8 => Value::U8(json.as_u64()?.try_into().ok()?),
        ValueType::I8 => Value::I8(json.as_i64()?.try_into().ok()?),
        ValueType::U16 => Value::U16(json.as_u64()?.try_into().ok()?),
        ValueType::I16 => Value::I16(json.as_i64()?.try_into().ok()?),
        ValueType::U32 => Value::U32(json.as_u64()?.try_into().ok()?),
        ValueType::I32 => Value::I32(json.as_i64()?.try_into().ok()?),
        ValueType::U64 => Value::U64(json.as_u64()?),
        ValueType::I64 => Value::I64(json.as_i64()?),
        ValueType::Bool => Value::Bool(json.as_bool()?),
        ValueType::F32 => Value::F32(match json.as_f64() {
            // Parsed from the digits: rounding to double and then to single could be off by one.
            Some(_) => json.to_string().parse().ok()?,
            None => f32::from_bits(bits()?.try_into().ok()?),
        }),
        ValueType::F64 => Value::F64(match json.as_f64() {
            Some(number) => number,
            None => f64::from_bits(bits()?),
        }),
        ValueType::String => Value::String(json.as_str()?.to_owned()),
        ValueType::Array => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether both are equal bit for bit, including NaN.
    fn same(a: &Value, b: &Value) -> bool {
        match (a, b) {
            (Value::F32(a), Value::F32(b)) => a.to_bits() == b.to_bits(),
            (Value::F64(a), Value::F64(b)) => a.to_bits() == b.to_bits(),
            (Value::Array(a), Value::Array(b)) => {
                let (a, b) = (a.clone(), b.clone());
                a.elem() == b.elem() && a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| same(&a.unwrap(), &b.unwrap()))
            }
            (a, b) => a == b,
        }
    }

    fn scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<u8>().prop_map(Value::U8),
            any::<i8>().prop_map(Value::I8),
            any::<u16>().prop_map(Value::U16),
            any::<i16>().prop_map(Value::I16),
            any::<u32>().prop_map(Value::U32),
            any::<i32>().prop_map(Value::I32),
            any::<u64>().prop_map(Value::U64),
            any::<i64>().prop_map(Value::I64),
            any::<bool>().prop_map(Value::Bool),
            any::<u32>().prop_map(|bits| Value::F32(f32::from_bits(bits))),
            any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))),
            any::<String>().prop_map(Value::String),
        ]
    }

    fn value() -> impl Strategy<Value = Value> {
        let array = |elem: ValueType, item: BoxedStrategy<Value>| {
            prop::collection::vec(item, 0..4).prop_map(move |values| Value::Array(Array::new(elem, values)))
        };
        prop_oneof![
            scalar(),
            array(ValueType::F32, any::<u32>().prop_map(|bits| Value::F32(f32::from_bits(bits))).boxed()),
            array(ValueType::String, any::<String>().prop_map(Value::String).boxed()),
            array(ValueType::Array, array(ValueType::I16, any::<i16>().prop_map(Value::I16).boxed()).boxed()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn any_value_comes_back_exactly(value in value()) {
            let text = to_text(&value).unwrap();
            let back = from_text(&text).unwrap_or(Value::String(text));
            prop_assert!(same(&back, &value), "{back:?}");
            // And a string that looks like it, from the other side.
            let text = typed_text(&value).unwrap();
            let carried = to_text(&Value::String(text.clone())).unwrap();
            prop_assert!(same(&from_text(&carried).unwrap(), &Value::String(text)));
        }

        #[test]
        fn any_text_comes_back_exactly(text in "(\\{\"type\":\"[a-z0-9]{2,6}\",\"value\": ?[0-9.e-]{1,6}\\}|.*)") {
            let value = from_text(&text).unwrap_or(Value::String(text.clone()));
            prop_assert_eq!(to_text(&value).unwrap(), text);
        }
    }

    #[test]
    fn numbers_that_json_cannot_hold_and_empty_arrays_keep_what_they_are() {
        for (value, text) in [
            (Value::F32(f32::NAN), r#"{"type":"f32","value":"0x7fc00000"}"#),
            (Value::F64(f64::NEG_INFINITY), r#"{"type":"f64","value":"0xfff0000000000000"}"#),
            (Value::U64(u64::MAX), r#"{"type":"u64","value":18446744073709551615}"#),
            (Value::F32(-0.0), r#"{"type":"f32","value":-0.0}"#),
            (Value::Array(Array::new(ValueType::I8, Vec::new())), r#"{"type":"array","of":"i8","values":[]}"#),
            (Value::String("llama".into()), "llama"),
        ] {
            assert_eq!(to_text(&value).unwrap(), text);
            assert!(same(&from_text(text).unwrap_or(Value::String(text.into())), &value));
        }
    }
}
