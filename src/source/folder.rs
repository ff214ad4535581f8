//! The small JSON and text files of a model's folder.

use std::path::Path;

use serde_json::Value as Json;

use crate::base::{Result, json};
use crate::source::file;

/// The text of a file without a byte order mark, or `None` when there is none.
///
/// # Errors
/// It cannot be read, is too long, or is not UTF-8.
pub fn text(path: &Path) -> Result<Option<String>> {
    if !path.is_file() {
        return Ok(None);
    }
    file::read_text(path).map(Some)
}

/// What a JSON file holds, or `None` when there is none.
///
/// # Errors
/// As for [`text`]; it is no JSON.
pub fn json(path: &Path) -> Result<Option<Json>> {
    let Some(text) = text(path)? else { return Ok(None) };
    json::parse(&text, path).map(Some)
}

/// JSON for a file that people read: indented, with a line end.
pub fn to_json(value: &Json) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}
