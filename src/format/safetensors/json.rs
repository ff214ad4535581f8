//! JSON as headers and indexes hold it: objects of strings, and errors by offset.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};

use crate::base::Error;

/// The pairs of an object of strings, in order, duplicates and all.
pub(crate) struct Pairs<'a>(pub(crate) Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// A text as it stands in the JSON, or a copy where something in it is escaped.
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

/// A JSON error with its place counted from the start of the text.
pub(crate) struct JsonError {
    message: String,
    offset: u64,
}

impl JsonError {
    /// As an error of a file in which the text starts at `base`.
    pub(crate) fn at_base(self, base: u64) -> Error {
        Error::malformed(self.message).at(base + self.offset)
    }
}

/// Says where in `json` it went wrong, as an offset instead of line and column; `what` is what the text should have been.
pub(crate) fn json_error(json: &str, error: &serde_json::Error, what: &str) -> JsonError {
    let line_start: usize = json.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let offset = (line_start + error.column().saturating_sub(1)).min(json.len()) as u64;
    let text = error.to_string();
    let found = text.split(" at line ").next().unwrap_or_default();
    let wanted = if error.is_data() { what } else { "sound JSON" };
    JsonError { message: format!("expected {wanted}, found: {found}"), offset }
}
