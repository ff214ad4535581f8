//! The small files of a Hugging Face folder, read within limits.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::base::json::without_bom;
use crate::base::{Error, Result};
use crate::source::{file, folder};
use crate::tokenizer::proto;

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

    /// The bytes of a file, or `None` when there is none.
    pub(super) fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.has(name).then(|| file::read_bytes(&self.file(name))).transpose()
    }

    /// The text of a file, or `None` when there is none.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>> {
        self.has(name).then(|| file::read_text(&self.file(name))).transpose()
    }

    /// The SentencePiece model in a file, or `None` when there is none.
    pub(super) fn pieces(&self, name: &str) -> Result<Option<proto::Model>> {
        let Some(bytes) = self.bytes(name)? else { return Ok(None) };
        proto::Model::read(&bytes).map(Some).map_err(|error| error.in_file(&self.file(name)))
    }

    /// What a JSON file holds, or `None` when there is none.
    pub(super) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(bytes) = self.bytes(name)? else { return Ok(None) };
        serde_json::from_slice(without_bom(&bytes)).map(Some).map_err(|error| {
            Error::malformed(format!("expected JSON of a {name}, found: {error}")).caused_by(error).in_file(&self.file(name))
        })
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
