//! Digests of whole files: those that model hubs show, and that `sha256sum` gives.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde::Serialize;

use super::{Algorithm, Hasher};
use crate::base::threads::par;
use crate::base::{Error, Result, limits};
use crate::format;
use crate::source::mmap::Map;

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

/// Hashes the files of the model at `path` from their first byte to their last, by SHA-256 if no algorithm is named. Of a file that cannot be opened as a
/// model (half a download, say), the file itself is hashed, and the second result says why.
///
/// # Errors
/// An algorithm is one for tensors only; there is no file, or it cannot be read.
pub fn hash_files(path: &Path, algorithms: &[Algorithm]) -> Result<(Vec<FileHashes>, Option<Error>)> {
    let (files, error) = match format::open(path) {
        Ok(reader) => (reader.maps().to_vec(), None),
        Err(error) if path.is_file() => (vec![Arc::new(Map::open(path)?)], Some(error)),
        Err(error) => return Err(error),
    };
    let algorithms = if algorithms.is_empty() { &[Algorithm::Sha256] } else { algorithms };
    let reports = algorithms.iter().map(|&algorithm| hash_maps(&files, algorithm)).collect::<Result<_>>()?;
    Ok((reports, error))
}

fn hash_maps(files: &[Arc<Map>], algorithm: Algorithm) -> Result<FileHashes> {
    if !matches!(algorithm, Algorithm::Sha256 | Algorithm::Sha1 | Algorithm::Blake3) {
        return Err(Error::argument(format!("expected sha256, sha1 or blake3 for whole files, found {algorithm}")));
    }
    let hash = |map: &Arc<Map>| {
        let mut hasher = Hasher::new(algorithm);
        map.bytes().chunks(limits::CHUNK_BYTES).for_each(|chunk| hasher.update(chunk));
        FileHash { file: map.path().to_string_lossy().into_owned(), bytes: map.len(), hash: hasher.finish() }
    };
    let files = par(files).with_max_len(1).map(hash).collect();
    Ok(FileHashes { schema: "weigh.hash.v1", algorithm, files })
}
