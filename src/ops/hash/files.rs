//! Digests of whole files: those that model hubs show, and that `sha256sum` gives.

use serde::Serialize;

use super::{Algorithm, Hasher};
use crate::base::threads::{par, prelude::*};
use crate::base::{Error, Result};
use crate::source::{Source, read_chunks};

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

/// Hashes files from their first byte to their last, several at a time.
///
/// # Errors
/// The algorithm is one for tensors only; or a file cannot be read.
pub fn hash_files<'m>(files: impl Iterator<Item = &'m dyn Source>, algorithm: Algorithm) -> Result<FileHashes> {
    if !matches!(algorithm, Algorithm::Sha256 | Algorithm::Sha1 | Algorithm::Blake3) {
        return Err(Error::argument(format!("expected sha256, sha1 or blake3 for whole files, found {algorithm}")));
    }
    let hash = |source: &dyn Source| {
        let mut hasher = Hasher::new(algorithm);
        read_chunks(source, 0, |chunk| {
            hasher.update(chunk);
            Ok(())
        })?;
        Ok(FileHash { file: source.path().to_string_lossy().into_owned(), bytes: source.len(), hash: hasher.finish() })
    };
    let files: Vec<&dyn Source> = files.collect();
    let files = par(files).with_max_len(1).map(hash).collect::<Result<_>>()?;
    Ok(FileHashes { schema: "weigh.hash.v1", algorithm, files })
}
