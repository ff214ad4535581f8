//! Metadata edits.

use std::path::{Path, PathBuf};

use crate::base::Result;
use crate::model::Value;
use crate::ops::edit::{self, Change, Destination, EditReport, Editing, RecoveryReport};

/// Metadata changes to a model file, applied in order.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Edit {
    changes: Vec<Change>,
    output: Option<PathBuf>,
    overwrite: bool,
    force: bool,
    dry_run: bool,
}

impl Edit {
    /// Returns an edit without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key: in its present position, or at the end if it is new.
    pub fn set(mut self, key: impl Into<String>, value: Value) -> Self {
        self.changes.push(Change::Set(key.into(), value));
        self
    }

    /// Removes a key.
    pub fn remove(mut self, key: impl Into<String>) -> Self {
        self.changes.push(Change::Remove(key.into()));
        self
    }

    /// Renames a key without moving it.
    pub fn rename(mut self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.changes.push(Change::Rename(from.into(), to.into()));
        self
    }

    /// Sets the file to write the changed model to; by default the file is edited in place.
    pub fn output(mut self, path: impl Into<PathBuf>) -> Self {
        self.output = Some(path.into());
        self
    }

    /// Sets whether an existing output is overwritten.
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Sets whether well-known keys may have any type and required keys may be removed.
    pub fn force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }

    /// Sets whether the changes are only reported, without writing anything.
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }
}

/// Edits the metadata of the model at `path`, which must be a single file.
///
/// In place, only the header is rewritten if the new one fits; otherwise a new file is renamed over the old one. A crash leaves the old file,
/// the new one, or one that every reader refuses until [`recover`] has restored it. Concurrent edits of a file wait for each other, up to
/// 10 s.
///
/// ```
/// use weigh::{Edit, Value};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("model.gguf");
/// # std::fs::copy("fixtures/llama-tiny-q8_0.gguf", &path).unwrap();
/// let edit = Edit::new().set("general.name", Value::String("Tiny".to_owned())).remove("general.size_label");
/// let report = weigh::edit(&path, &edit)?;
/// for change in &report.changes {
///     println!("{} changed", change.key);
/// }
/// # assert_eq!(weigh::open(&path)?.metadata().get_str("general.name"), Some("Tiny"));
/// # Ok::<(), weigh::Error>(())
/// ```
///
/// # Errors
/// The model has several files, or metadata that cannot be edited; a change is invalid, or gives a well-known key a wrong type or value;
/// the file cannot be written, or another program changes it meanwhile. The model is then unchanged.
pub fn edit(path: impl AsRef<Path>, edit: &Edit) -> Result<EditReport> {
    let destination = match &edit.output {
        _ if edit.dry_run => Destination::DryRun,
        Some(path) => Destination::New { path: path.clone(), force: edit.overwrite },
        None => Destination::InPlace,
    };
    edit::edit_with(path.as_ref(), &edit.changes, &destination, Editing { force: edit.force, waiting: &mut |_| (), progress: None })
}

/// Undoes or completes an interrupted in-place edit of the model file at `path`.
///
/// # Errors
/// The file cannot be written, or it has no trustworthy undo copy.
pub fn recover(path: impl AsRef<Path>) -> Result<RecoveryReport> {
    edit::recover(path.as_ref(), &mut |_| ())
}
