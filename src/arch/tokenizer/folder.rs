//! The small files of a Hugging Face folder, read within limits.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::arch::folder;
use crate::base::json::without_bom;
use crate::base::mmap::Map;
use crate::base::{Error, Result, limits};

/// A folder in which tokenizer files are looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Folder<'a> {
    path: &'a Path,
}

impl<'a> Folder<'a> {
    pub(super) fn new(path: &'a Path) -> Self {
        Self { path }
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.file(name).is_file()
    }

    /// The file of this name, mapped, or `None` when there is none.
    pub(super) fn open(&self, name: &str) -> Result<Option<Map>> {
        if !self.has(name) {
            return Ok(None);
        }
        let map = Map::open(&self.file(name))?;
        if map.len() > limits::JSON_FILE_BYTES {
            let most = limits::JSON_FILE_BYTES;
            return Err(Error::limit(format!("expected a file of at most {most} bytes, found {}", map.len())).in_file(map.path()));
        }
        Ok(Some(map))
    }

    /// The text of a file, or `None` when there is none.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(map) = self.open(name)? else { return Ok(None) };
        match std::str::from_utf8(map.bytes()) {
            Ok(text) => Ok(Some(text.strip_prefix('\u{feff}').unwrap_or(text).to_owned())),
            Err(error) => {
                Err(Error::malformed("expected text in UTF-8, found other bytes").at(error.valid_up_to() as u64).in_file(map.path()))
            }
        }
    }

    /// What a JSON file holds, or `None` when there is none.
    pub(super) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(map) = self.open(name)? else { return Ok(None) };
        serde_json::from_slice(without_bom(map.bytes()))
            .map(Some)
            .map_err(|error| Error::malformed(format!("expected JSON of a {name}, found: {error}")).in_file(map.path()))
    }

    /// The object in a JSON file, or `None` when there is no such file.
    pub(super) fn object(&self, name: &str) -> Result<Option<serde_json::Map<String, Value>>> {
        match folder::json(&self.file(name))? {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(Error::malformed("expected one JSON object").in_file(&self.file(name))),
        }
    }
}
