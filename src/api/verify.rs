//! Verification.

use std::path::{Path, PathBuf};

use crate::api::Progress;
use crate::base::Result;
use crate::family::tables::Tables;
use crate::ops::verify::{self, Verification};

/// Options of [`verify`].
///
/// By default the structure of the files is checked, and the tensors against the architecture.
#[derive(Clone, Default)]
#[must_use]
pub struct VerifyOptions<'a> {
    data: bool,
    manifest: Option<PathBuf>,
    arch_table: Option<PathBuf>,
    strict: bool,
    root: Option<String>,
    progress: Option<Progress<'a>>,
}

impl<'a> VerifyOptions<'a> {
    /// Returns the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether all values are read and checked, as are the recorded digests of a download.
    pub fn data(mut self, data: bool) -> Self {
        self.data = data;
        self
    }

    /// Sets the manifest to compare with: output of `weigh hash`, `sha256sum` and the like.
    pub fn manifest(mut self, path: impl Into<PathBuf>) -> Self {
        self.manifest = Some(path.into());
        self
    }

    /// Loads an additional architecture table.
    pub fn arch_table(mut self, path: impl Into<PathBuf>) -> Self {
        self.arch_table = Some(path.into());
        self
    }

    /// Sets whether warnings make the model fail too.
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Limits the checks of tensors to what is below this key of a nested checkpoint.
    pub fn root(mut self, key: impl Into<String>) -> Self {
        self.root = Some(key.into());
        self
    }

    /// Sets the callback for progress in reading values.
    pub fn progress(mut self, progress: Progress<'a>) -> Self {
        self.progress = Some(progress);
        self
    }
}

/// Checks the model at `path`.
///
/// Continues past the first error where that is safe: files that [`open`](crate::open) refuses are reported too.
///
/// ```
/// use weigh::VerifyOptions;
///
/// let report = weigh::verify("fixtures/llama-tiny", &VerifyOptions::new().data(true))?;
/// for finding in &report.findings {
///     println!("{}: {}", finding.code, finding.message);
/// }
/// assert!(report.ok);
/// # Ok::<(), weigh::Error>(())
/// ```
///
/// # Errors
/// There is no such file, or the manifest cannot be read or does not mention this model.
pub fn verify(path: impl AsRef<Path>, options: &VerifyOptions<'_>) -> Result<Verification> {
    let checks = verify::Options {
        data: options.data,
        manifest: options.manifest.as_deref(),
        tables: Tables::with_file(options.arch_table.as_deref())?,
        progress: options.progress,
        strict: options.strict,
        root: options.root.as_deref(),
    };
    verify::verify(path.as_ref(), &checks)
}
