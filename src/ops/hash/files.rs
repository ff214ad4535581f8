//! Digests of whole files: those that model hubs show, and that `sha256sum` gives.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::{Algorithm, Hasher};
use crate::base::threads::{par, prelude::*};
use crate::base::{Error, Result};
use crate::format;
use crate::source::{self, Source, read_chunks};

/// The digests of the files of one model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileHashes {
    schema: &'static str,
    /// How they were made.
    pub algorithm: Algorithm,
    /// One a file, in the order of the model.
    pub files: Vec<FileHash>,
}

/// The digest of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileHash {
    /// Its path.
    pub file: String,
    /// How large it is.
    pub bytes: u64,
    /// In lower-case hexadecimal digits.
    pub hash: String,
}

/// Hashes the files of the model at `path` from their first byte to their last, by SHA-256 if no algorithm is named. Of a file that cannot
/// be opened as a model (half a download, say), the file itself is hashed, and the second result says why.
///
/// # Errors
/// An algorithm is one for tensors only; there is no file, or it cannot be read.
pub fn hash_files(path: &Path, algorithms: &[Algorithm]) -> Result<(Vec<FileHashes>, Option<Error>)> {
    let (files, error) = match format::open(path) {
        Ok(reader) => (reader.sources().to_vec(), None),
        Err(error) if path.is_file() => (vec![source::open(path)?], Some(error)),
        Err(error) => return Err(error),
    };
    let algorithms = if algorithms.is_empty() { &[Algorithm::Sha256] } else { algorithms };
    let reports = algorithms.iter().map(|&algorithm| hash_sources(&files, algorithm)).collect::<Result<_>>()?;
    Ok((reports, error))
}

/// Hashes sources from their first byte to their last, several at a time.
///
/// # Errors
/// The algorithm is one for tensors only; or a source cannot be read.
pub fn hash_sources(sources: &[Arc<dyn Source>], algorithm: Algorithm) -> Result<FileHashes> {
    if !matches!(algorithm, Algorithm::Sha256 | Algorithm::Sha1 | Algorithm::Blake3) {
        return Err(Error::argument(format!("expected sha256, sha1 or blake3 for whole files, found {algorithm}")));
    }
    let hash = |source: &Arc<dyn Source>| {
        let mut hasher = Hasher::new(algorithm);
        read_chunks(&**source, 0, |chunk| {
            hasher.update(chunk);
            Ok(())
        })?;
        Ok(FileHash { file: source.path().to_string_lossy().into_owned(), bytes: source.len(), hash: hasher.finish() })
    };
    let files = par(sources).with_max_len(1).map(hash).collect::<Result<_>>()?;
    Ok(FileHashes { schema: "weigh.hash.v1", algorithm, files })
}
