//! Values of metadata as text: numbers in digits, arrays in JSON.

use std::fmt::{Display, Write};
use std::str::FromStr;

use serde_json::Value as Json;

use crate::base::{Error, Result, text};
use crate::model::{Array, Value, ValueType};

/// Returns the scalar type of this name, in any case; `str` is a string as well.
pub fn scalar_type(name: &str) -> Option<ValueType> {
    let name = if name.eq_ignore_ascii_case("str") { "string" } else { name };
    ValueType::ALL.iter().copied().find(|kind| *kind != ValueType::Array && kind.name().eq_ignore_ascii_case(name))
}

/// Reads a value of the type that `old` has.
///
/// # Errors
/// The text is no value of that type.
pub fn read_like(old: &Value, text: &str) -> Result<Value> {
    match old {
        Value::Array(old) => read_array(old.elem(), text),
        old => read_scalar(old.value_type(), text),
    }
}

/// Reads a value that is no array.
///
/// # Errors
/// The text is no value of that type.
pub fn read_scalar(kind: ValueType, text: &str) -> Result<Value> {
    fn number<T: FromStr<Err: Display>>(kind: ValueType, text: &str) -> Result<T> {
        text.parse().map_err(|error| Error::argument(format!("expected a value of type {kind}, found {}: {error}", text::shorten(text))))
    }
    /// A number in digits is none of infinite size.
    fn float<T: FromStr<Err: Display> + Into<f64> + Copy>(kind: ValueType, text: &str) -> Result<T> {
        let value: T = number(kind, text)?;
        if value.into().is_infinite() && text.contains(|c: char| c.is_ascii_digit()) {
            return Err(Error::argument(format!("expected a number that {kind} can hold, found {}", text::shorten(text))));
        }
        Ok(value)
    }
    Ok(match kind {
        ValueType::U8 => Value::U8(number(kind, text)?),
        ValueType::I8 => Value::I8(number(kind, text)?),
        ValueType::U16 => Value::U16(number(kind, text)?),
        ValueType::I16 => Value::I16(number(kind, text)?),
        ValueType::U32 => Value::U32(number(kind, text)?),
        ValueType::I32 => Value::I32(number(kind, text)?),
        ValueType::U64 => Value::U64(number(kind, text)?),
        ValueType::I64 => Value::I64(number(kind, text)?),
        ValueType::F32 => Value::F32(float(kind, text)?),
        ValueType::F64 => Value::F64(float(kind, text)?),
        ValueType::Bool => Value::Bool(number(kind, text)?),
        ValueType::String | ValueType::Array => Value::String(text.to_owned()),
    })
}

/// Reads an array of scalars from a JSON list.
///
/// # Errors
/// The text is no list, or one of other values.
pub fn read_array(elem: ValueType, text: &str) -> Result<Value> {
    let wrong = |found: &str| Error::argument(format!("expected a JSON list of {elem}, found {}", text::shorten(found)));
    let Ok(Json::Array(items)) = serde_json::from_str(text) else { return Err(wrong(text)) };
    let values = items.iter().map(|item| match (elem, item) {
        (ValueType::String, Json::String(item)) => Ok(Value::String(item.clone())),
        (ValueType::String, _) | (_, Json::String(_)) => Err(wrong(&item.to_string())),
        _ => read_scalar(elem, &item.to_string()),
    });
    Ok(Value::Array(Array::new(elem, values.collect::<Result<_>>()?)))
}

/// Writes a scalar as the shortest text that reads back as the same value; of an array, nothing.
pub fn write_scalar(value: &Value, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = match value {
        Value::U8(v) => write!(out, "{v}"),
        Value::I8(v) => write!(out, "{v}"),
        Value::U16(v) => write!(out, "{v}"),
        Value::I16(v) => write!(out, "{v}"),
        Value::U32(v) => write!(out, "{v}"),
        Value::I32(v) => write!(out, "{v}"),
        Value::U64(v) => write!(out, "{v}"),
        Value::I64(v) => write!(out, "{v}"),
        Value::F32(v) => write!(out, "{v:?}"),
        Value::F64(v) => write!(out, "{v:?}"),
        Value::Bool(v) => write!(out, "{v}"),
        Value::String(v) => out.write_str(v),
        Value::Array(_) => Ok(()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_of_the_type_that_is_named_or_that_they_had() {
        assert_eq!(read_scalar(ValueType::U32, "7").unwrap(), Value::U32(7));
        assert_eq!(read_like(&Value::I64(1), "7").unwrap(), Value::I64(7));
        assert_eq!(read_like(&Value::String(String::new()), "u32:7").unwrap(), Value::String("u32:7".into()));
        assert_eq!(read_scalar(ValueType::F32, "-inf").unwrap(), Value::F32(f32::NEG_INFINITY));
        assert_eq!(read_scalar(ValueType::F32, "3.4028235e38").unwrap(), Value::F32(f32::MAX));
        let list = read_array(ValueType::I32, "[1, -2]").unwrap();
        assert_eq!(list, Value::Array(Array::i32s([1, -2])));
        assert_eq!(read_like(&list, "[]").unwrap(), Value::Array(Array::i32s([])));
        assert_eq!((scalar_type("STR"), scalar_type("array")), (Some(ValueType::String), None));
    }

    #[test]
    fn what_is_no_value_is_an_error() {
        use ValueType::{Bool, F32, F64, String, U8};
        for (kind, text) in [(U8, "256"), (Bool, "yes"), (F32, ""), (F32, "1e39"), (F32, "-1e39"), (F64, "1e400")] {
            assert!(read_scalar(kind, text).is_err(), "{kind} {text}");
        }
        for (elem, text) in [(U8, "[1.5]"), (U8, "[\"1\"]"), (String, "[1]"), (U8, "7"), (F32, "[1e39]"), (F64, "[1e400]")] {
            assert!(read_array(elem, text).is_err(), "{elem} {text}");
        }
    }

    #[test]
    fn scalars_are_written_as_they_are_read() {
        for (value, text) in [(Value::F32(0.1), "0.1"), (Value::F64(1.0), "1.0"), (Value::I8(-1), "-1"), (Value::Bool(true), "true")] {
            let mut out = String::new();
            write_scalar(&value, &mut out);
            assert_eq!((out.as_str(), read_like(&value, text).unwrap()), (text, value));
        }
    }
}
