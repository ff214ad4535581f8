//! Stands in for the module `remote` in builds without that feature: addresses are refused.

use std::convert::Infallible;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{Error, Result};
use crate::source::read::Source;

/// A place that no build without the feature has.
pub(super) struct Place(Infallible);

/// Refuses addresses.
///
/// # Errors
/// The path is an address.
pub fn locate(path: &Path) -> Result<Option<PathBuf>> {
    Place::of(path).map_or(Ok(None), |place| match place?.0 {})
}

/// Returns `None`: no address is used.
pub fn conceal(_: &str) -> Option<String> {
    None
}

/// Does nothing.
pub fn use_cache(_: bool) {}

/// Returns `None`.
pub fn cached(_: &Path) -> Option<PathBuf> {
    None
}

/// An upload, of which there are none.
#[derive(Debug)]
pub struct Upload(Infallible);

impl Upload {
    /// Refuses to upload.
    ///
    /// # Errors
    /// Always.
    pub fn start(path: &Path, _: File, _: u64) -> Result<Self> {
        Err(refused(path))
    }

    /// Does nothing.
    ///
    /// # Errors
    /// None.
    pub fn wait(&mut self) -> Result<()> {
        match self.0 {}
    }

    /// Does nothing.
    ///
    /// # Errors
    /// None.
    pub fn complete(self) -> Result<()> {
        match self.0 {}
    }
}

/// Keeps nothing.
#[derive(Debug)]
pub struct Keeper(());

impl Keeper {
    /// Does nothing.
    pub fn start() -> Self {
        Self(())
    }
}

/// Does nothing.
pub fn abort_uploads() {}

/// Does nothing.
pub(super) fn forget(_: &Path) {}

/// Does nothing.
pub(super) fn prefetch(_: &[PathBuf]) {}

impl Place {
    /// Returns an error for an address.
    pub(super) fn of(path: &Path) -> Option<Result<Self>> {
        let schemes = ["https://", "http://", "hf://", "s3://", "gs://", "az://"];
        let is_address = path.to_str().is_some_and(|text| schemes.iter().any(|scheme| text.starts_with(scheme)));
        is_address.then(|| Err(refused(path)))
    }

    pub(super) fn open(&self) -> Result<Arc<dyn Source>> {
        match self.0 {}
    }

    pub(super) fn is_file(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn is_dir(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn is_listable(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn entries(&self) -> Result<Vec<PathBuf>> {
        match self.0 {}
    }

    pub(super) fn read_at_most(&self, _: u64) -> Result<Vec<u8>> {
        match self.0 {}
    }

    pub(super) fn check_scheme(&self) -> Result<()> {
        match self.0 {}
    }

    #[cfg(feature = "catalog")]
    pub(super) fn version(&self) -> Option<String> {
        match self.0 {}
    }

    pub(super) fn has_file(&self) -> Result<bool> {
        match self.0 {}
    }

    pub(super) fn has_folder(&self) -> Result<bool> {
        match self.0 {}
    }

    pub(super) fn remove(&self) -> Result<()> {
        match self.0 {}
    }
}

fn refused(path: &Path) -> Error {
    Error::unsupported("this build reads files on disk only: it lacks the feature `remote`").in_file(path)
}
