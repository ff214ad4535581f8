//! Bounded reading of the small files of a Hugging Face folder.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::base::{Error, Result, json};
use crate::source::{folder, place};
use crate::tokenizer::proto;

/// A folder with tokenizer files.
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
        place::is_file(&self.file(name))
    }

    /// Reads a file; `None` if it does not exist.
    pub(super) fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.has(name).then(|| place::read_bytes(&self.file(name))).transpose()
    }

    /// Reads a text file; `None` if it does not exist.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>> {
        self.has(name).then(|| place::read_text(&self.file(name))).transpose()
    }

    /// Reads a SentencePiece model; `None` if it does not exist.
    pub(super) fn pieces(&self, name: &str) -> Result<Option<proto::Model>> {
        let Some(bytes) = self.bytes(name)? else { return Ok(None) };
        proto::Model::read(&bytes).map(Some).map_err(|error| error.in_file(&self.file(name)))
    }

    /// Reads a JSON file; `None` if it does not exist.
    pub(super) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(bytes) = self.bytes(name)? else { return Ok(None) };
        json::from_bytes(bytes).map(Some).map_err(|error| {
            Error::malformed(format!("expected JSON of a {name}, found: {error}")).caused_by(error).in_file(&self.file(name))
        })
    }

    /// Reads a JSON file with an object; `None` if it does not exist.
    pub(super) fn object(&self, name: &str) -> Result<Option<serde_json::Map<String, Value>>> {
        match folder::json(&self.file(name))? {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(Error::malformed("expected a JSON object").in_file(&self.file(name))),
        }
    }
}
