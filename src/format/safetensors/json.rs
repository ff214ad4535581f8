//! JSON in headers and indexes: objects of strings, and errors with byte offsets.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};

use crate::base::Error;

/// The pairs of an object of strings, in order, including duplicates.
pub(crate) struct Pairs<'a>(pub(crate) Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// A string borrowed from the JSON, or a copy if it contains escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some((Text(key), Text(value))) = map.next_entry()? {
                    pairs.push((key, value));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor)
    }
}

/// A JSON error with a byte offset in the text.
pub(crate) struct JsonError {
    message: String,
    offset: u64,
}

impl JsonError {
    /// Converts to an [`Error`], with the text starting at offset `base` of the file.
    pub(crate) fn at_base(self, base: u64) -> Error {
        Error::malformed(self.message).at(base + self.offset)
    }
}

/// Converts the line and column of a JSON error to a byte offset; `what` describes the expected text.
pub(crate) fn json_error(json: &str, error: &serde_json::Error, what: &str) -> JsonError {
    let line_start: usize = json.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let offset = (line_start + error.column().saturating_sub(1)).min(json.len()) as u64;
    let text = error.to_string();
    let found = text.split(" at line ").next().unwrap_or_default();
    let wanted = if error.is_data() { what } else { "sound JSON" };
    JsonError { message: format!("expected {wanted}, found: {found}"), offset }
}
