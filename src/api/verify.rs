//! Verification.

use std::path::{Path, PathBuf};

use crate::api::Progress;
use crate::base::Result;
use crate::family::table::Tables;
use crate::ops::verify::{self, Verdict};

/// What [`verify`] looks at. The default is the structure of the files and the tensors of the architecture.
#[derive(Clone, Default)]
#[must_use]
pub struct VerifyOptions<'a> {
    data: bool,
    manifest: Option<PathBuf>,
    arch_table: Option<PathBuf>,
    strict: bool,
    progress: Option<Progress<'a>>,
}

impl<'a> VerifyOptions<'a> {
    /// Returns the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether the values of all tensors are read, and compared with the digests that a download was recorded under.
    pub fn data(mut self, data: bool) -> Self {
        self.data = data;
        self
    }

    /// Sets a file with lines of `weigh hash`, or of `sha256sum` and its like, to compare with.
    pub fn manifest(mut self, path: impl Into<PathBuf>) -> Self {
        self.manifest = Some(path.into());
        self
    }

    /// Sets a table of one more architecture.
    pub fn arch_table(mut self, path: impl Into<PathBuf>) -> Self {
        self.arch_table = Some(path.into());
        self
    }

    /// Sets whether a warning makes the model unsound as well.
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Sets what is called as values are read.
    pub fn progress(mut self, progress: Progress<'a>) -> Self {
        self.progress = Some(progress);
        self
    }
}

/// Checks the model at `path`, past the first fault where that is safe: files that [`crate::open`] refuses are reported on.
///
/// # Errors
/// There is nothing to examine: no such file; a manifest that cannot be read, or has nothing of this model.
pub fn verify(path: impl AsRef<Path>, options: &VerifyOptions<'_>) -> Result<Verdict> {
    let checks = verify::Options {
        data: options.data,
        manifest: options.manifest.as_deref(),
        tables: Tables::with_file(options.arch_table.as_deref())?,
        progress: options.progress,
        strict: options.strict,
    };
    verify::verify(path.as_ref(), &checks)
}
