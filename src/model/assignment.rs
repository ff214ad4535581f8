//! Parser for `KEY=TYPE:VALUE` metadata assignments.

use std::fmt::Display;
use std::str::FromStr;

use serde_json::Value as Json;

use crate::base::{Error, Result, text};
use crate::model::{Array, Value, ValueType};

/// Splits an assignment into the key and the unparsed rest: `TYPE:VALUE`, `VALUE` or `@FILE`.
///
/// # Errors
/// There is no `=`, or the key is empty.
pub fn split(assignment: &str) -> Result<(&str, &str)> {
    match assignment.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key, value)),
        _ => Err(Error::argument(format!("expected KEY=TYPE:VALUE, found {}", text::shorten(assignment)))),
    }
}

/// Parses `KEY=TYPE:VALUE` for a new key.
///
/// # Errors
/// As for [`split`] and [`value`].
pub fn parse(assignment: &str) -> Result<(String, Value)> {
    let (key, given) = split(assignment)?;
    Ok((key.to_owned(), value(given, None)?))
}

/// Parses `TYPE:VALUE`; if the type is omitted, `old` (the current value of the key) determines it.
///
/// Arrays are JSON, prefixed by their element type and `[]`: `i32[]:[1, 2]`, `string[]:["a"]`.
///
/// # Errors
/// The type is omitted and there is no old value, or the text is not a value of the type.
pub fn value(given: &str, old: Option<&Value>) -> Result<Value> {
    if let Some((name, text)) = given.split_once(':') {
        if let Some(kind) = scalar_type(name) {
            return scalar(kind, text);
        }
        if let Some(elem) = name.strip_suffix("[]").and_then(scalar_type) {
            return array(elem, text);
        }
    }
    match old {
        Some(Value::Array(old)) => array(old.elem(), given),
        Some(old) => scalar(old.value_type(), given),
        None => {
            let names: Vec<_> = ValueType::ALL.iter().filter(|kind| **kind != ValueType::Array).map(|kind| kind.name()).collect();
            Err(Error::argument(format!("expected TYPE:VALUE for a new key, found {}", text::shorten(given)))
                .hint(format!("types are {}, and TYPE[] for an array of them in JSON", names.join(" "))))
        }
    }
}

fn scalar_type(name: &str) -> Option<ValueType> {
    let name = if name.eq_ignore_ascii_case("str") { "string" } else { name };
    ValueType::ALL.iter().copied().find(|kind| *kind != ValueType::Array && kind.name().eq_ignore_ascii_case(name))
}

fn scalar(kind: ValueType, text: &str) -> Result<Value> {
    fn number<T: FromStr<Err: Display>>(kind: ValueType, text: &str) -> Result<T> {
        text.parse().map_err(|error| Error::argument(format!("expected a value of type {kind}, found {}: {error}", text::shorten(text))))
    }
    /// Rejects finite literals that overflow to infinity.
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

fn array(elem: ValueType, text: &str) -> Result<Value> {
    let wrong = |found: &str| Error::argument(format!("expected a JSON list of {elem}, found {}", text::shorten(found)));
    let Ok(Json::Array(items)) = serde_json::from_str(text) else { return Err(wrong(text)) };
    let values = items.iter().map(|item| match (elem, item) {
        (ValueType::String, Json::String(item)) => Ok(Value::String(item.clone())),
        (ValueType::String, _) | (_, Json::String(_)) => Err(wrong(&item.to_string())),
        _ => scalar(elem, &item.to_string()),
    });
    Ok(Value::Array(Array::new(elem, values.collect::<Result<_>>()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_named_or_kept() {
        assert_eq!(split("a=b=c").unwrap(), ("a", "b=c"));
        assert_eq!(value("u32:7", None).unwrap(), Value::U32(7));
        assert_eq!(value("7", Some(&Value::I64(1))).unwrap(), Value::I64(7));
        assert_eq!(value("string:u32:7", None).unwrap(), Value::String("u32:7".into()));
        assert_eq!(value("My: model", Some(&Value::String(String::new()))).unwrap(), Value::String("My: model".into()));
        assert_eq!(value("f32:-inf", None).unwrap(), Value::F32(f32::NEG_INFINITY));
        assert_eq!(value("f32:3.4028235e38", None).unwrap(), Value::F32(f32::MAX));
        let list = value("i32[]:[1, -2]", None).unwrap();
        assert_eq!(list, Value::Array(Array::i32s([1, -2])));
        assert_eq!(value("[]", Some(&list)).unwrap(), Value::Array(Array::i32s([])));
        assert_eq!(value("STR[]:[\"a\"]", None).unwrap(), Value::Array(Array::strings(["a"])));
    }

    #[test]
    fn invalid_values_are_errors() {
        for given in [
            "u8:256",
            "bool:yes",
            "f32:",
            "u8[]:[1.5]",
            "u8[]:[\"1\"]",
            "string[]:[1]",
            "u8[]:7",
            "array:[]",
            "f32:1e39",
            "f32:-1e39",
            "f64:1e400",
            "f32[]:[1e39]",
            "f64[]:[1e400]",
        ] {
            assert!(value(given, None).is_err(), "{given}");
        }
        assert!(value("7", None).unwrap_err().hint_text().is_some());
        assert!(split("=x").is_err() && split("x").is_err());
    }
}
