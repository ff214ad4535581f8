//! Metadata assignments on the command line: `KEY=TYPE:VALUE`.

use std::path::Path;

use crate::base::{Error, Result, text};
use crate::model::Value;
use crate::model::value_text::{read_array, read_scalar, scalar_type};
use crate::ops::edit::{self, Change};
use crate::source::place::read_text;

/// Splits `KEY=VALUE`.
pub(super) fn split(assignment: &str) -> Result<(&str, &str)> {
    match assignment.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key, value)),
        _ => Err(Error::argument(format!("expected KEY=TYPE:VALUE, found {}", text::shorten(assignment)))),
    }
}

/// Parses `KEY=TYPE:VALUE`, `KEY=VALUE` for an existing key, or `KEY=@FILE` for a string in a file.
pub(super) fn change(assignment: &str) -> Result<Change> {
    let (key, given) = split(assignment)?;
    if let Some(path) = given.strip_prefix("string:").unwrap_or(given).strip_prefix('@') {
        return Ok(Change::Set(key.to_owned(), Value::String(read_text(Path::new(path))?)));
    }
    Ok(match typed(key, given)? {
        Some(value) => Change::Set(key.to_owned(), value),
        None => Change::SetText(key.to_owned(), given.to_owned()),
    })
}

/// Parses `KEY=TYPE:VALUE`; the type is required.
pub(super) fn parse(assignment: &str) -> Result<(String, Value)> {
    let (key, given) = split(assignment)?;
    let value = typed(key, given)?.ok_or_else(|| edit::no_type(key))?;
    Ok((key.to_owned(), value))
}

/// Maximum length in bytes of a string that llama-quantize sets.
const OVERRIDE_BYTES: usize = 127;

/// Parses `KEY=TYPE:VALUE` as llama-quantize does: `int` becomes a u32 without its sign, `float` an f32, `str` a string.
pub(super) fn parse_override(assignment: &str) -> Result<(String, Value)> {
    let (key, given) = split(assignment)?;
    let as_type = |name: &str, text: &str| parse(&format!("{key}={name}:{text}"));
    match given.split_once(':') {
        Some(("int", text)) => as_type("u32", text.strip_prefix('-').unwrap_or(text)),
        Some(("float", text)) => as_type("f32", text),
        Some(("str", text)) if text.len() > OVERRIDE_BYTES => {
            let message =
                format!("expected at most {OVERRIDE_BYTES} bytes for {}, as in llama-quantize, found {}", text::shorten(key), text.len());
            Err(Error::argument(message).hint("--metadata sets longer strings"))
        }
        _ => parse(assignment),
    }
}

/// Returns the value of `TYPE:VALUE`, or of `TYPE[]:JSON` for an array; `None` without a type.
fn typed(key: &str, given: &str) -> Result<Option<Value>> {
    let Some((name, text)) = given.split_once(':') else { return Ok(None) };
    let read = match (scalar_type(name), name.strip_suffix("[]").and_then(scalar_type)) {
        (Some(kind), _) => read_scalar(kind, text),
        (None, Some(elem)) => read_array(elem, text),
        (None, None) => return Ok(None),
    };
    read.map(Some).map_err(|error| error.context(&text::shorten(key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Array;

    #[test]
    fn types_are_given_or_those_of_the_key() {
        assert_eq!(split("a=b=c").unwrap(), ("a", "b=c"));
        assert!(split("=x").is_err() && split("x").is_err());
        let set = |value| Change::Set("a".to_owned(), value);
        assert_eq!(change("a=u32:7").unwrap(), set(Value::U32(7)));
        assert_eq!(change("a=string:u32:7").unwrap(), set(Value::String("u32:7".into())));
        assert_eq!(change("a=STR[]:[\"b\"]").unwrap(), set(Value::Array(Array::strings(["b"]))));
        for text in ["7", "My: model", "array:[]"] {
            assert_eq!(change(&format!("a={text}")).unwrap(), Change::SetText("a".into(), text.into()));
        }
        assert!(change("a=u8:256").unwrap_err().to_string().starts_with("a: "));
        // As string_parse_kv_override and gguf_set_val_u32 of std::abs.
        let value = |text: &str| parse_override(text).map(|(_, value)| value);
        assert_eq!(value("a=int:-7").unwrap(), Value::U32(7));
        assert_eq!(value("a=float:0.5").unwrap(), Value::F32(0.5));
        assert_eq!(value("a=str:int:7").unwrap(), Value::String("int:7".into()));
        assert_eq!(value("a=bool:true").unwrap(), Value::Bool(true));
        assert!(value(&format!("a=str:{}", "x".repeat(128))).is_err() && value("a=int:4294967296").is_err());
        assert!(change("a=@/nowhere/to/be/found").is_err());
        assert!(!parse("a=7").unwrap_err().hints().is_empty());
    }
}
