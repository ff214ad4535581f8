//! Other metadata for a file whose tensors stay as they are.

use std::path::{Path, PathBuf};

use crate::base::Result;
use crate::model::Value;
use crate::ops::edit::{self, Change, Destination, EditReport, Editing, RecoveryReport};

/// Changes to the metadata of a model file, in the order in which they are made.
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
    /// Returns an edit that changes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a key a value, in its old place or at the end.
    pub fn set(mut self, key: impl Into<String>, value: Value) -> Self {
        self.changes.push(Change::Set(key.into(), value));
        self
    }

    /// Takes a key out.
    pub fn remove(mut self, key: impl Into<String>) -> Self {
        self.changes.push(Change::Remove(key.into()));
        self
    }

    /// Gives a key another name, in its old place.
    pub fn rename(mut self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.changes.push(Change::Rename(from.into(), to.into()));
        self
    }

    /// Sets the file that the changed model goes into; without it, the file itself is changed.
    pub fn output(mut self, path: impl Into<PathBuf>) -> Self {
        self.output = Some(path.into());
        self
    }

    /// Sets whether an output that is there already is replaced.
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Sets whether well-known keys may get any type, and keys that a model needs may go.
    pub fn force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }

    /// Sets whether nothing is written, and the report says what would change.
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }
}

/// Changes the metadata of the model at `path`, which must be one file. In place only the start of the file is written where the new
/// metadata fits; else the whole goes into a new file, which then takes the old one's name. A crash leaves the old file, the new one, or one
/// that every reader refuses until [`recover`] has restored it. Edits of one file wait for each other, for 10 s at most.
///
/// # Errors
/// The model is more than one file, or its metadata cannot be edited; a change makes no sense; a well-known key would get a type or value
/// that it cannot have; the file cannot be written, or another program changes it meanwhile. Nothing was changed then.
pub fn edit(path: impl AsRef<Path>, edit: &Edit) -> Result<EditReport> {
    let destination = match &edit.output {
        _ if edit.dry_run => Destination::DryRun,
        Some(path) => Destination::New { path: path.clone(), force: edit.overwrite },
        None => Destination::InPlace,
    };
    edit::edit_with(path.as_ref(), &edit.changes, &destination, Editing { force: edit.force, waiting: &mut |_| () })
}

/// Ends an edit in place of the model file at `path` that was interrupted.
///
/// # Errors
/// The file cannot be written; or there is no undo copy of it that can be trusted.
pub fn recover(path: impl AsRef<Path>) -> Result<RecoveryReport> {
    edit::recover(path.as_ref(), &mut |_| ())
}
