//! Small JSON and text files of a model folder.

use std::path::Path;

use serde_json::Value as Json;

use crate::base::{Result, json};
use crate::source::place;

/// Reads a text file without its byte order mark; `None` if it does not exist.
///
/// # Errors
/// It cannot be read, is too large, or is not UTF-8.
pub fn text(path: &Path) -> Result<Option<String>> {
    if !place::is_file(path) {
        return Ok(None);
    }
    place::read_text(path).map(Some)
}

/// Reads a JSON file; `None` if it does not exist.
///
/// # Errors
/// As for [`text`]; or it is not JSON.
pub fn json(path: &Path) -> Result<Option<Json>> {
    let Some(text) = text(path)? else { return Ok(None) };
    json::parse(&text, path).map(Some)
}

/// Formats JSON for a human-readable file: indented, with a final newline.
pub fn to_json(value: &Json) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}
