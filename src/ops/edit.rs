//! `meta set`, `rm` and `rename`: changes to metadata that leave the tensors unchanged.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::base::{Error, Hint, Result, text};
use crate::format::gguf::keys::{self, KeyType};
use crate::format::{self, EditedHeader, Reader};
use crate::model::{Metadata, Value, ValueType, value_text};
use crate::ops::Progress;
use crate::ops::meta::Shown;
use crate::source::file::Input;
use crate::source::torn;
use crate::source::{Prefix, Source, read_chunks};
use crate::write::inode::{self, Inode};
use crate::write::lock::{LockedFile, OnWait};
use crate::write::output::{self, OutFile, Output, Target};
use crate::write::undo;
use crate::write::undo::Recovery;

/// One change to the metadata.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// Sets a key to this value.
    Set(String, Value),
    /// Sets an existing key to the value that this text parses to, keeping its type: arrays are JSON.
    SetText(String, String),
    /// Removes a key.
    Remove(String),
    /// Renames a key in place.
    Rename(String, String),
}

/// Destination of the edited file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Writes nothing, and only reports the changes.
    DryRun,
    /// Overwrites the file itself.
    InPlace,
    /// Writes a new file.
    New {
        /// Its path.
        path: PathBuf,
        /// Whether an existing file is overwritten.
        force: bool,
    },
}

/// The report of an edit, or of a dry run.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct EditReport {
    schema: &'static str,
    /// The keys whose values changed.
    pub changes: Vec<KeyChange>,
    /// The file written; `None` for a dry run, or if nothing changed.
    pub output: Option<PathBuf>,
    /// Whether the new metadata fits in the space of the old, so that the tensors need not be rewritten.
    pub fits: bool,
    /// Number of bytes written, or to be written.
    pub bytes_written: u64,
    /// Caveats: the reason why a new file replaced the old one, and attributes of the old file that were not kept.
    pub notes: Vec<String>,
}

/// A changed key.
#[derive(Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct KeyChange {
    /// The key.
    pub key: String,
    /// Old value, if the key existed.
    #[serde(serialize_with = "shown")]
    pub old: Option<Value>,
    /// New value, if the key still exists.
    #[serde(serialize_with = "shown")]
    pub new: Option<Value>,
}

fn shown<S: serde::Serializer>(value: &Option<Value>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(|value| Shown { value, full: false }).serialize(serializer)
}

/// Options of an edit.
pub struct Editing<'a> {
    /// Whether well-known keys may get any type, and required keys may be removed.
    pub force: bool,
    /// Called if another edit must be waited for.
    pub waiting: OnWait<'a>,
    /// Progress callback, called if the whole file is written.
    pub progress: Option<Progress<'a>>,
}

/// Calls [`edit_with`] with default options.
///
/// # Errors
/// As for [`edit_with`].
pub fn edit(path: &Path, changes: &[Change], destination: &Destination) -> Result<EditReport> {
    edit_with(path, changes, destination, Editing { force: false, waiting: &mut |_| (), progress: None })
}

/// Changes the metadata of the model at `path`, which must be one file.
///
/// In place, only the start of the file is written if the new metadata fits and nothing prevents it (see [`undo`]); otherwise a new file
/// replaces the old one and takes over its name, owner and permissions. Either way a crash leaves the old file, the new one, or one that
/// is rejected until it is [recovered](recover). Concurrent edits in place are serialised, each starting from the result of the previous
/// one.
///
/// # Errors
/// The model has several files, or its format's metadata cannot be edited; a change is invalid; a well-known key would get an invalid
/// type or value; the file cannot be written, or another program changes it meanwhile. Nothing was changed then.
pub fn edit_with(path: &Path, changes: &[Change], destination: &Destination, options: Editing<'_>) -> Result<EditReport> {
    match destination {
        Destination::DryRun => {
            let edited = Edited::plan(path, changes, options.force)?;
            let real = std::fs::canonicalize(&edited.file).map_err(|error| Error::io("cannot find", &edited.file, error))?;
            let obstacle = if edited.fits() { undo::overwrite_obstacle(&real, &edited.open()?)? } else { None };
            let bytes = if edited.fits() && obstacle.is_none() { edited.start.bytes.len() as u64 } else { edited.total() };
            Ok(edited.report(None, bytes, obstacle.map(new_file_because).into_iter().collect()))
        }
        Destination::InPlace => in_place(path, changes, options),
        Destination::New { path: target, force } => {
            let edited = Edited::plan(path, changes, options.force)?;
            output::check_parent(target)?;
            let mut output = Output::begin(vec![edited.target(target)], *force, std::slice::from_ref(&edited.file))?;
            // Like cp: permissions that protected the old file protect the new one too.
            let file = output.create_with_mode(0, Inode::from_metadata(edited.input.metadata()).mode & 0o666)?;
            edited.write(&mut output, file, options.progress)?;
            edited.check_unchanged()?;
            output.commit()?;
            let bytes = edited.total();
            Ok(edited.report(Some(target.clone()), bytes, Vec::new()))
        }
    }
}

/// The report of a recovery.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct RecoveryReport {
    schema: &'static str,
    /// The file.
    pub file: PathBuf,
    /// `nothing` was interrupted; the edit was `finished`; or it was `undone`.
    pub recovery: &'static str,
}

/// Completes or undoes an interrupted edit in place of the model file at `path`; see [`undo::recover`].
///
/// # Errors
/// As for [`undo::recover`].
pub fn recover(path: &Path, waiting: OnWait<'_>) -> Result<RecoveryReport> {
    let file = format::resolve(path)?;
    let recovery = match undo::recover(&LockedFile::open(&file, waiting)?)? {
        Recovery::Nothing => "nothing",
        Recovery::Finished => "finished",
        Recovery::Undone => "undone",
    };
    Ok(RecoveryReport { schema: "weigh.meta-recover.v1", file, recovery })
}

fn in_place(path: &Path, changes: &[Change], options: Editing<'_>) -> Result<EditReport> {
    let (file, source) = single_file(&format::open(path)?)?;
    on_disk(&*source, &file)?;
    let locked = LockedFile::open(&file, options.waiting)?;
    // Parsed again under the lock: another edit may have been first.
    let edited = Edited::plan(path, changes, options.force)?;
    if !locked.is(edited.input.metadata()) {
        return Err(changed_meanwhile(&file));
    }
    if edited.changes.is_empty() {
        return Ok(edited.report(None, 0, Vec::new()));
    }
    let mut notes = Vec::new();
    if edited.fits() {
        match undo::overwrite_obstacle(locked.real_path(), locked.file())? {
            None => {
                undo::overwrite_header(&locked, &edited.old, &edited.start.bytes)?;
                let bytes = edited.start.bytes.len() as u64;
                return Ok(edited.report(Some(file), bytes, notes));
            }
            Some(obstacle) => notes.push(new_file_because(obstacle)),
        }
    }
    notes.extend(replace(&edited, &locked, options.progress)?);
    let bytes = edited.total();
    Ok(edited.report(Some(file), bytes, notes))
}

/// Replaces a locked file by a new one, and returns the attributes that the new one has not kept.
fn replace(edited: &Edited, locked: &LockedFile, progress: Option<Progress<'_>>) -> Result<Vec<String>> {
    let old = locked.file().metadata().map_err(|error| Error::io("cannot examine", locked.path(), error))?;
    let node = Inode::from_metadata(&old);
    // The target of a symbolic link is replaced, not the link.
    let mut output = Output::begin(vec![edited.target(locked.real_path())], true, &[])?;
    // Nobody else can open the new file before it is complete.
    let file = output.create_with_mode(0, node.mode & 0o600)?;
    let give = || inode::copy_ownership(&old, file.file());
    let mut notes = give().map_err(|error| Error::io("cannot give the old file's permissions to its new copy", locked.path(), error))?;
    edited.write(&mut output, file, progress)?;
    edited.check_unchanged()?;
    if !locked.is_at_its_path() {
        return Err(changed_meanwhile(locked.path()));
    }
    output.commit()?;
    if node.links > 1 {
        notes.push(format!("the old file remains under its other names (hard links: {})", node.links - 1));
    }
    Ok(notes)
}

fn new_file_because(obstacle: String) -> String {
    format!("a new file replaces it, because {obstacle}")
}

fn changed_meanwhile(file: &Path) -> Error {
    Error::malformed("another program changed or replaced the file meanwhile").in_file(file).hint("try again")
}

/// A model file and its edited metadata.
struct Edited {
    file: PathBuf,
    source: Arc<dyn Source>,
    input: Input,
    changes: Vec<KeyChange>,
    /// The start of the file that was parsed.
    old: Vec<u8>,
    start: EditedHeader,
}

impl Edited {
    fn plan(path: &Path, changes: &[Change], force: bool) -> Result<Self> {
        let reader = format::open(path)?;
        let (file, source) = single_file(&reader)?;
        let input = on_disk(&*source, &file)?.clone();
        let edit = format::format(reader.model().format).edit.ok_or_else(|| {
            Error::unsupported(format!("the metadata of a {} file cannot be edited", reader.model().format)).in_file(&file)
        })?;
        let old = &reader.model().metadata;
        let new = apply(old, changes).map_err(|error| error.in_file(&file))?;
        let changes = differences(old, &new);
        let start = edit(&mut Prefix::new(Arc::clone(&source))?, old, &new, force).map_err(|error| error.in_file(&file))?;
        let old = source.read(0..start.old_bytes)?.into_owned();
        let edited = Self { file, source, input, changes, old, start };
        edited.check_unchanged()?;
        Ok(edited)
    }

    /// Opens the file again.
    fn open(&self) -> Result<File> {
        self.input.reopen().ok_or_else(|| changed_meanwhile(&self.file))
    }

    /// Whether the new start is as long as the old one.
    fn fits(&self) -> bool {
        self.start.bytes.len() == self.old.len()
    }

    /// Returns the length of the new file.
    fn total(&self) -> u64 {
        self.start.bytes.len() as u64 + (self.source.len() - self.start.old_bytes)
    }

    fn target(&self, path: &Path) -> Target {
        Target { path: path.to_path_buf(), bytes: self.total() }
    }

    /// Writes the new start and the unchanged rest.
    fn write(&self, output: &mut Output, mut file: OutFile, progress: Option<Progress<'_>>) -> Result<()> {
        let step = |bytes: &[u8]| progress.iter().for_each(|progress| progress(bytes.len() as u64, self.total()));
        file.append(&self.start.bytes)?;
        step(&self.start.bytes);
        read_chunks(&*self.source, self.old.len() as u64, |chunk| {
            file.append(chunk)?;
            step(chunk);
            Ok(())
        })?;
        output.seal(file)
    }

    /// Checks that the parts read so far are of the same file version.
    fn check_unchanged(&self) -> Result<()> {
        if torn::is_unchanged(&*self.source) { Ok(()) } else { Err(changed_meanwhile(&self.file)) }
    }

    fn report(self, output: Option<PathBuf>, bytes_written: u64, notes: Vec<String>) -> EditReport {
        let fits = self.fits();
        EditReport { schema: "weigh.meta-edit.v1", changes: self.changes, output, fits, bytes_written, notes }
    }
}

fn single_file(reader: &Reader) -> Result<(PathBuf, Arc<dyn Source>)> {
    // Module files have their own metadata.
    let modules = reader.model().modules.iter().filter(|module| module.shard.is_some()).count();
    let own = reader.model().shards.len().saturating_sub(modules);
    match (reader.model().shards.get(..own).unwrap_or_default(), reader.sources()) {
        ([shard], [source, ..]) => Ok((shard.path.clone(), Arc::clone(source))),
        (shards, _) => {
            let error = Error::argument(format!("only a model of one file can be edited, this one has {}", shards.len()))
                .in_file(&reader.model().path);
            Err(error.hint(Hint::ConvertWithMetadata))
        }
    }
}

fn on_disk<'s>(source: &'s dyn Source, file: &Path) -> Result<&'s Input> {
    source.file().ok_or_else(|| Error::argument("only a file on disk can be edited").in_file(file))
}

/// Returns the error for a new key without a type.
pub fn no_type(key: &str) -> Error {
    Error::argument(format!("no type given for the new key {}", text::shorten(key))).hint(Hint::NameValueType)
}

/// Returns the type of a well-known key whose value is no array: `general.license` is a string.
fn known_type(key: &str, metadata: &Metadata) -> Option<ValueType> {
    match keys::type_of(key, metadata.get_str("general.architecture").unwrap_or_default()) {
        Some((KeyType::One(kind), _)) => Some(kind),
        _ => None,
    }
}

fn apply(old: &Metadata, changes: &[Change]) -> Result<Metadata> {
    let absent = |key: &str| {
        Error::argument(format!("no key named {}", text::shorten(key))).hint(Hint::of_name(
            key,
            old.iter().map(|(name, _)| name),
            Hint::ListKeys,
        ))
    };
    let mut new = old.clone();
    for change in changes {
        match change {
            Change::Set(key, value) => drop(new.set(key, value.clone())),
            Change::SetText(key, text) => {
                let value = match new.get(key) {
                    Some(old) => value_text::read_like(old, text),
                    None => value_text::read_scalar(known_type(key, &new).ok_or_else(|| no_type(key))?, text),
                };
                let value = value.map_err(|error| error.context(&text::shorten(key)))?;
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
                    return Err(Error::argument(format!("the key {} already exists", text::shorten(to))));
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

/// Lists the changes, with values that stay valid when the file is overwritten.
fn differences(old: &Metadata, new: &Metadata) -> Vec<KeyChange> {
    let changed = old.iter().filter(|(key, value)| new.get(key) != Some(value));
    let added = new.iter().filter(|(key, _)| old.get(key).is_none());
    let keys = changed.map(|(key, _)| key).chain(added.map(|(key, _)| key));
    keys.map(|key| KeyChange { key: key.to_owned(), old: old.get(key).map(Value::in_memory), new: new.get(key).map(Value::in_memory) })
        .collect()
}
