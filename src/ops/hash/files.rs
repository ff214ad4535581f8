//! Digests of whole files, as shown by model hubs and `sha256sum`.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::{Algorithm, Hasher};
use crate::base::threads::{par, prelude::*};
use crate::base::{Error, Result};
use crate::format;
use crate::ops::Progress;
use crate::source::{self, Source, place, read_chunks};

/// The digests of a model's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileHashes {
    schema: &'static str,
    /// Hash algorithm.
    pub algorithm: Algorithm,
    /// One per file, in model order.
    pub files: Vec<FileHash>,
}

/// The digest of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileHash {
    /// Path of the file.
    pub file: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Lower-case hexadecimal digits.
    pub hash: String,
}

/// Hashes the complete files of the model at `path`, with SHA-256 by default. If it cannot be opened as a model (an incomplete download,
/// say), the file itself is hashed, and the second result is the error.
///
/// # Errors
/// The algorithm applies to tensors only; or the file does not exist or cannot be read.
pub fn hash_files(path: &Path, algorithms: &[Algorithm], progress: Progress<'_>) -> Result<(Vec<FileHashes>, Option<Error>)> {
    let (files, error) = match format::open(path) {
        Ok(reader) => (reader.sources().to_vec(), None),
        Err(error) if place::is_file(path) => (vec![source::open(path)?], Some(error)),
        Err(error) => return Err(error),
    };
    let algorithms = if algorithms.is_empty() { &[Algorithm::Sha256] } else { algorithms };
    let total = files.iter().map(|file| file.len()).fold(0, u64::saturating_add).saturating_mul(algorithms.len() as u64);
    let step = |bytes| progress(bytes, total);
    let reports = algorithms.iter().map(|&algorithm| hash_each(&files, algorithm, &step)).collect::<Result<_>>()?;
    Ok((reports, error))
}

/// Hashes complete sources, several at a time.
///
/// # Errors
/// The algorithm applies to tensors only, or a source cannot be read.
pub fn hash_sources(sources: &[Arc<dyn Source>], algorithm: Algorithm) -> Result<FileHashes> {
    hash_each(sources, algorithm, &|_| ())
}

/// Hashes sources. Calls `step` with the number of bytes of each chunk.
fn hash_each(sources: &[Arc<dyn Source>], algorithm: Algorithm, step: &(dyn Fn(u64) + Sync)) -> Result<FileHashes> {
    if !matches!(algorithm, Algorithm::Sha256 | Algorithm::Sha1 | Algorithm::Blake3) {
        return Err(Error::argument(format!("{algorithm} does not apply to whole files: use sha256, sha1 or blake3")));
    }
    let hash = |source: &Arc<dyn Source>| {
        let mut hasher = Hasher::new(algorithm);
        read_chunks(&**source, 0, |chunk| {
            hasher.update(chunk);
            step(chunk.len() as u64);
            Ok(())
        })?;
        Ok(FileHash { file: source.path().to_string_lossy().into_owned(), bytes: source.len(), hash: hasher.finish() })
    };
    let files = par(sources).with_max_len(1).map(hash).collect::<Result<_>>()?;
    Ok(FileHashes { schema: "weigh.hash.v1", algorithm, files })
}
