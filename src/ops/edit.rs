//! `meta set`, `rm` and `rename`: other metadata for a file whose tensors stay as they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::base::mmap::Map;
use crate::base::output::{Output, Target};
use crate::base::{Error, Result, limits, text, undo};
use crate::format::{self, Reader, Start};
use crate::model::{Metadata, Value, assignment};
use crate::ops::meta::Shown;

/// One change to the metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `KEY=TYPE:VALUE`, `KEY=VALUE` for a key that is there, or `KEY=@FILE` for a text in a file.
    Set(String),
    /// Takes a key out.
    Remove(String),
    /// Gives a key another name, in its old place.
    Rename(String, String),
}

/// Where the changed file goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Nowhere: only says what would change.
    DryRun,
    /// Over the file itself.
    InPlace,
    /// Into a new file.
    New {
        /// Its path.
        path: PathBuf,
        /// Whether a file that is there already is replaced.
        force: bool,
    },
}

/// What was changed, or would be.
#[derive(Debug, Serialize)]
pub struct EditReport {
    schema: &'static str,
    /// The keys whose values changed.
    pub changes: Vec<KeyChange>,
    /// The file that was written; none for a dry run, or when nothing changed.
    pub output: Option<PathBuf>,
    /// Whether the new metadata fits where the old is, so that the tensors need not be written again.
    pub fits: bool,
    /// How many bytes were written, or would be.
    pub bytes_written: u64,
}

/// One key before and after.
#[derive(Debug, PartialEq, Serialize)]
pub struct KeyChange {
    /// The key.
    pub key: String,
    /// Its value before, if it was there.
    #[serde(serialize_with = "shown")]
    pub old: Option<Value>,
    /// Its value after, if it is still there.
    #[serde(serialize_with = "shown")]
    pub new: Option<Value>,
}

fn shown<S: serde::Serializer>(value: &Option<Value>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(|value| Shown { value, full: false }).serialize(serializer)
}

/// Changes the metadata of the model at `path`, which must be one file.
///
/// In place only the start of the file is written when the new metadata fits there (see [`undo`]); else the whole goes into a new file
/// that then takes the old one's name. Either way a crash leaves the old file or the new one.
///
/// # Errors
/// The model is more than one file, or of a format whose metadata cannot be edited; a change makes no sense; a well-known key would get
/// a type or value that it cannot have; the file cannot be written. Nothing was changed then.
pub fn edit(path: &Path, changes: &[Change], destination: &Destination) -> Result<EditReport> {
    let reader = format::open(path)?;
    let (file, map) = single_file(&reader)?;
    let edit =
        format::FORMATS.iter().find(|format| format.id == reader.model().format).and_then(|format| format.edit).ok_or_else(|| {
            Error::unsupported(format!("expected metadata that can be edited, found a {} file", reader.model().format)).in_file(&file)
        })?;
    let old = &reader.model().metadata;
    let new = apply(old, changes).map_err(|error| error.in_file(&file))?;
    let changes = differences(old, &new);
    let start = edit(&map, old, &new).map_err(|error| error.in_file(&file))?;
    let fits = start.bytes.len() as u64 == start.old_bytes;
    let total = start.bytes.len() as u64 + (map.len() - start.old_bytes);
    let in_place = fits && matches!(destination, Destination::InPlace);
    let bytes_written = if in_place { start.bytes.len() as u64 } else { total };
    let output = match destination {
        Destination::DryRun => None,
        Destination::InPlace if changes.is_empty() => None,
        Destination::InPlace if in_place => {
            undo::overwrite_start(&file, &start.bytes)?;
            Some(file)
        }
        Destination::InPlace => {
            // The target of a link is replaced, not the link.
            let real = std::fs::canonicalize(&file).map_err(|error| Error::io("cannot find", &file, error))?;
            let permissions = map.file().metadata().map_err(|error| Error::io("cannot examine", &file, error))?.permissions();
            write(&map, &start, &real, true, &[])?;
            std::fs::set_permissions(&real, permissions).map_err(|error| Error::io("cannot give its old permissions to", &real, error))?;
            Some(file)
        }
        Destination::New { path, force } => {
            write(&map, &start, path, *force, &[file])?;
            Some(path.clone())
        }
    };
    Ok(EditReport { schema: "weigh.meta-edit.v1", changes, output, fits, bytes_written })
}

fn single_file(reader: &Reader) -> Result<(PathBuf, Arc<Map>)> {
    // The files of modules have metadata of their own.
    let modules = reader.model().modules.iter().filter(|module| module.shard.is_some()).count();
    let own = reader.model().shards.len().saturating_sub(modules);
    match (reader.model().shards.get(..own).unwrap_or_default(), reader.maps()) {
        ([shard], [map, ..]) => Ok((shard.path.clone(), map.clone())),
        (shards, _) => {
            let error =
                Error::argument(format!("expected a model of one file, found one of {}", shards.len())).in_file(&reader.model().path);
            Err(error.hint("`weigh convert` with --metadata writes the whole set anew"))
        }
    }
}

fn apply(old: &Metadata, changes: &[Change]) -> Result<Metadata> {
    let absent = |key: &str| {
        let error = Error::argument(format!("expected a key that is there, found {}", text::shorten(key)));
        match text::closest(key, old.iter().map(|(name, _)| name)) {
            Some(close) => error.hint(format!("did you mean {close}?")),
            None => error,
        }
    };
    let mut new = old.clone();
    for change in changes {
        match change {
            Change::Set(given) => {
                let (key, given) = assignment::split(given)?;
                let value = match given.strip_prefix("string:").unwrap_or(given).strip_prefix('@') {
                    Some(path) => Value::String(read_text(Path::new(path))?),
                    None => assignment::value(given, new.get(key)).map_err(|error| error.hint(format!("for the key {key}")))?,
                };
                new.set(key, value);
            }
            Change::Remove(key) => {
                new.remove(key).ok_or_else(|| absent(key))?;
            }
            Change::Rename(from, to) => {
                if new.get(from).is_none() {
                    return Err(absent(from));
                }
                if new.get(to).is_some() {
                    return Err(Error::argument(format!("expected a key that is not there yet, found {}", text::shorten(to))));
                }
                let mut renamed = Metadata::new();
                for (key, value) in new.iter() {
                    renamed.insert(if key == from { to } else { key }, value.clone())?;
                }
                new = renamed;
            }
        }
    }
    Ok(new)
}

/// A text to become a value: a chat template.
fn read_text(path: &Path) -> Result<String> {
    let map = Map::open(path)?;
    if map.len() > limits::JSON_FILE_BYTES {
        return Err(
            Error::limit(format!("expected a text of at most {} bytes, found {}", limits::JSON_FILE_BYTES, map.len())).in_file(path)
        );
    }
    String::from_utf8(map.bytes().to_vec()).map_err(|_| Error::argument("expected text in UTF-8, found other bytes").in_file(path))
}

/// What changed, in values that stay as they are when the file is overwritten.
fn differences(old: &Metadata, new: &Metadata) -> Vec<KeyChange> {
    let changed = old.iter().filter(|(key, value)| new.get(key) != Some(value));
    let added = new.iter().filter(|(key, _)| old.get(key).is_none());
    let keys = changed.map(|(key, _)| key).chain(added.map(|(key, _)| key));
    keys.map(|key| KeyChange { key: key.to_owned(), old: old.get(key).map(Value::in_memory), new: new.get(key).map(Value::in_memory) })
        .collect()
}

fn write(map: &Map, start: &Start, target: &Path, force: bool, inputs: &[PathBuf]) -> Result<()> {
    let rest = map.bytes().get(start.old_bytes as usize..).unwrap_or_default();
    let bytes = start.bytes.len() as u64 + rest.len() as u64;
    let mut output = Output::begin(vec![Target { path: target.to_path_buf(), bytes }], force, inputs)?;
    let mut file = output.create(0)?;
    file.put(&start.bytes)?;
    for chunk in rest.chunks(limits::CHUNK_BYTES) {
        file.put(chunk)?;
    }
    output.seal(file)?;
    output.commit()
}
