//! `KEY=TYPE:VALUE`: metadata as it is typed on a command line.

use serde_json::Value as Json;

use crate::base::{Error, Result};
use crate::model::{Array, Value, ValueType};

/// Parses `KEY=TYPE:VALUE`: `general.name=string:My model`, `llama.block_count=u32:16`. The type of an array is that of its elements and
/// `[]`, its value a JSON list: `tags=string[]:["a","b"]`.
///
/// # Errors
/// The text has another form, the type is none, or the value is not of the type.
pub fn parse(text: &str) -> Result<(String, Value)> {
    let parts = text.split_once('=').and_then(|(key, rest)| Some((key, rest.split_once(':')?)));
    let (key, (kind, value)) =
        parts.filter(|(key, _)| !key.is_empty()).ok_or_else(|| Error::argument(format!("expected KEY=TYPE:VALUE, found {text}")))?;
    let array_of = kind.strip_suffix("[]");
    let elem = value_type(array_of.unwrap_or(kind))?;
    let wrong = |found: &str| Error::argument(format!("expected a value of {elem} for {key}, found {found}"));
    if array_of.is_none() {
        return Ok((key.to_owned(), scalar(elem, value).ok_or_else(|| wrong(value))?));
    }
    let list: Vec<Json> =
        serde_json::from_str(value).map_err(|_| Error::argument(format!("expected a JSON list for {key}, found {value}")))?;
    let values = list.iter().map(|item| {
        let text = item.as_str().map_or_else(|| item.to_string(), str::to_owned);
        scalar(elem, &text).ok_or_else(|| wrong(&text))
    });
    Ok((key.to_owned(), Value::Array(Array::new(elem, values.collect::<Result<_>>()?))))
}

fn value_type(name: &str) -> Result<ValueType> {
    let scalars = || ValueType::ALL.iter().copied().filter(|kind| *kind != ValueType::Array);
    let name = if name == "str" { "string" } else { name };
    scalars().find(|kind| kind.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
        let names: Vec<&str> = scalars().map(ValueType::name).collect();
        Error::argument(format!("expected a type of {}, found {name}", names.join(" "))).hint("an array's type ends in []: string[]")
    })
}

fn scalar(kind: ValueType, text: &str) -> Option<Value> {
    Some(match kind {
        ValueType::U8 => Value::U8(text.parse().ok()?),
        ValueType::I8 => Value::I8(text.parse().ok()?),
        ValueType::U16 => Value::U16(text.parse().ok()?),
        ValueType::I16 => Value::I16(text.parse().ok()?),
        ValueType::U32 => Value::U32(text.parse().ok()?),
        ValueType::I32 => Value::I32(text.parse().ok()?),
        ValueType::U64 => Value::U64(text.parse().ok()?),
        ValueType::I64 => Value::I64(text.parse().ok()?),
        ValueType::F32 => Value::F32(text.parse().ok()?),
        ValueType::F64 => Value::F64(text.parse().ok()?),
        ValueType::Bool => Value::Bool(text.parse().ok()?),
        ValueType::String => Value::String(text.to_owned()),
        ValueType::Array => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_types_and_values_are_told_apart() {
        assert_eq!(parse("general.name=string:a=b:c").unwrap(), ("general.name".into(), Value::String("a=b:c".into())));
        assert_eq!(parse("n=u32:7").unwrap().1, Value::U32(7));
        assert_eq!(parse("f=F32:nan").unwrap().1.value_type(), ValueType::F32);
        let tags = parse(r#"tags=str[]:["a","b"]"#).unwrap().1;
        assert_eq!(tags, Value::Array(Array::strings(["a", "b"])));
        assert_eq!(parse("e=i16[]:[]").unwrap().1, Value::Array(Array::new(ValueType::I16, Vec::new())));
        for wrong in ["", "a", "a=1", "=u32:1", "a=u32:-1", "a=u8:256", "a=what:1", "a=array:[]", "a=u32[]:1", "a=bool:yes"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
