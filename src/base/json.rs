//! JSON as found in model folders: possibly with a byte order mark, and with the constants NaN, Infinity and -Infinity, which Python's
//! `json` reads and writes although they are not valid JSON.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use crate::base::{Error, Result};

/// The constants, longest first.
const CONSTANTS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Key of the object that represents a constant: `{"__float__": "Infinity"}`, as written by transformers 5.
const FLOAT: &str = "__float__";

/// Strips the byte order mark, if there is one.
pub fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes)
}

/// Parses bytes that nothing else can change: serde_json validates a string where it lies, and copies it then.
///
/// # Errors
/// The bytes are not JSON of a `T`.
pub fn from_bytes<T: DeserializeOwned>(bytes: Vec<u8>) -> serde_json::Result<T> {
    serde_json::from_slice(without_bom(&bytes))
}

/// Parses the text of the file at `path`. A constant becomes an object: `{"__float__": "Infinity"}`.
///
/// # Errors
/// The text is not JSON; the message gives the line and column.
pub fn parse(text: &str, path: &Path) -> Result<Json> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let strict = match serde_json::from_str(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let parsed = match replace_constants(text, |name| json!({ FLOAT: name }).to_string()) {
        Some(replaced) => serde_json::from_str(&replaced),
        None => Err(strict),
    };
    parsed.map_err(|error| {
        // Numbers of the same length instead of the constants keep line and column right.
        let same_length = replace_constants(text, |name| name.chars().map(|c| if c == '-' { c } else { '1' }).collect());
        let error = same_length.and_then(|text| serde_json::from_str::<Json>(&text).err()).unwrap_or(error);
        Error::malformed(format!("expected JSON, found: {error}")).caused_by(error).in_file(path)
    })
}

/// Serialises a value as indented text for Python's `json`, with constants restored.
///
/// # Errors
/// Never for a value that was parsed.
pub fn to_text(value: &Json) -> Result<String> {
    let marked = |name: &str| format!("\0{name}");
    let text =
        serde_json::to_string_pretty(&mark(value, &marked)).map_err(|error| Error::argument(format!("cannot write JSON: {error}")))?;
    Ok(CONSTANTS.iter().fold(text, |text, name| text.replace(&Json::from(marked(name)).to_string(), name)))
}

/// Replaces the objects that represent constants by marked strings.
fn mark(value: &Json, marked: &dyn Fn(&str) -> String) -> Json {
    match value {
        Json::Object(object) => match object.get(FLOAT).and_then(Json::as_str) {
            Some(name) if object.len() == 1 && CONSTANTS.contains(&name) => Json::from(marked(name)),
            _ => Json::Object(object.iter().map(|(key, value)| (key.clone(), mark(value, marked))).collect()),
        },
        Json::Array(values) => Json::Array(values.iter().map(|value| mark(value, marked)).collect()),
        other => other.clone(),
    }
}

/// Replaces the constants outside strings; `None` if there are none.
fn replace_constants(text: &str, with: impl Fn(&str) -> String) -> Option<String> {
    let mut out = String::new();
    let (mut copied, mut at, mut in_string) = (0, 0, false);
    let bytes = text.as_bytes();
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'-' | b'I' | b'N' if !in_string => {
                if let Some(name) = CONSTANTS.iter().find(|name| text.get(at..).is_some_and(|rest| rest.starts_with(**name))) {
                    out.push_str(text.get(copied..at)?);
                    out.push_str(&with(name));
                    at += name.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    out.push_str(text.get(copied..)?);
    (copied > 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Json> {
        parse(text, Path::new("config.json"))
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text() {
        assert_eq!(parsed("\u{feff}{\"a\": 1}").unwrap(), json!({"a": 1}));
        assert_eq!(without_bom(b"\xef\xbb\xbf{}"), b"{}");
        assert_eq!(without_bom(b"\xef\xbb"), b"\xef\xbb");
        assert_eq!(from_bytes::<u8>(b"\xef\xbb\xbf7".to_vec()).unwrap(), 7);
    }

    #[test]
    fn the_constants_of_python_are_read_and_written_again() {
        let text = r#"{"limit": [0.0, Infinity], "low": -Infinity, "nan": NaN, "text": "NaN \" Infinity", "minus": -1}"#;
        let value = parsed(text).unwrap();
        assert_eq!(value["limit"], json!([0.0, {"__float__": "Infinity"}]));
        assert_eq!(value["low"], json!({"__float__": "-Infinity"}));
        assert_eq!(value["text"], json!("NaN \" Infinity"));
        let again = to_text(&value).unwrap();
        assert_eq!(parsed(&again).unwrap(), value);
        let bare: String = again.split_whitespace().collect();
        assert_eq!(bare, r#"{"limit":[0.0,Infinity],"low":-Infinity,"nan":NaN,"text":"NaN\"Infinity","minus":-1}"#);
    }

    #[test]
    fn an_error_says_where_it_is_in_the_file() {
        for (text, place) in [
            ("{\n \"a\": 1,\n}", "trailing comma at line 3 column 1"),
            ("{\"a\": [Infinity, NaN],\n \"b\": 1,}", "trailing comma at line 2 column 9"),
            ("\u{feff}{", "EOF while parsing an object at line 1 column 1"),
            ("{\"a\": Infinit}", "expected value at line 1 column 7"),
            ("", "EOF while parsing a value at line 1 column 0"),
            ("'a'", "expected value at line 1 column 1"),
        ] {
            let error = parsed(text).unwrap_err();
            assert_eq!(error.to_string(), format!("config.json: expected JSON, found: {place}"), "{text:?}");
        }
    }
}
