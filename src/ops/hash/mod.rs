//! Content hashes of each tensor's bytes, and of all of them in file order; and digests of whole files.
//!
//! Lines and algorithms match llama.cpp's `llama-gguf-hash`, so that manifests can be exchanged with it.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use sha2::Digest;

use crate::base::threads::{par, prelude::*};
use crate::base::{Result, limits};
use crate::family::tables::Tables;
use crate::format::Reader;
use crate::model::TensorInfo;
use crate::ops::Progress;

mod content;
mod files;
mod manifest;

pub use content::hash_content;
pub use files::{FileHash, FileHashes, hash_files, hash_sources};
pub use manifest::{Manifest, Outcome, Verdict, file_line, label, line_name, read_lines};

/// A hash algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum Algorithm {
    Sha256,
    Sha1,
    Xxh64,
    Blake3,
    /// The identifier that llama.cpp derives from a model's tensors: UUID version 5 (RFC 9562), of the whole model only.
    Uuid,
}

impl Algorithm {
    /// All algorithms, strongest first.
    pub const ALL: &'static [Algorithm] = &[Self::Sha256, Self::Blake3, Self::Sha1, Self::Xxh64, Self::Uuid];

    /// Returns the name in lines, in JSON and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha1 => "sha1",
            Self::Xxh64 => "xxh64",
            Self::Blake3 => "blake3",
            Self::Uuid => "uuid",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|algorithm| algorithm.name() == name)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The namespace of llama.cpp's identifiers: version 5 of the URL `en.wikipedia.org/wiki/Llama.cpp`.
const UUID_NAMESPACE: [u8; 16] = [0xef, 0x00, 0x12, 0x06, 0xda, 0xdc, 0x5f, 0x6d, 0xa1, 0x5f, 0x33, 0x59, 0xe5, 0x77, 0xd4, 0xe5];

/// A hash in progress.
pub(in crate::ops) enum Hasher {
    Sha256(sha2::Sha256),
    Sha1(sha1::Sha1),
    Xxh64(Box<xxhash_rust::xxh64::Xxh64>),
    Blake3(Box<blake3::Hasher>),
    Uuid(sha1::Sha1),
}

impl Hasher {
    pub(in crate::ops) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Algorithm::Sha1 => Self::Sha1(sha1::Sha1::new()),
            Algorithm::Xxh64 => Self::Xxh64(Box::default()),
            Algorithm::Blake3 => Self::Blake3(Box::default()),
            Algorithm::Uuid => Self::Uuid(sha1::Sha1::new_with_prefix(UUID_NAMESPACE)),
        }
    }

    pub(in crate::ops) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha1(hasher) | Self::Uuid(hasher) => hasher.update(bytes),
            Self::Xxh64(hasher) => hasher.update(bytes),
            Self::Blake3(hasher) => Digest::update(&mut **hasher, bytes),
        }
    }

    pub(in crate::ops) fn finish(self) -> String {
        match self {
            Self::Sha256(hasher) => hex(&hasher.finalize()),
            Self::Sha1(hasher) => hex(&hasher.finalize()),
            Self::Xxh64(hasher) => format!("{:016x}", hasher.digest()),
            Self::Blake3(hasher) => hex(&Digest::finalize(*hasher)),
            Self::Uuid(hasher) => {
                let mut id: Vec<u8> = hasher.finalize()[..16].to_vec();
                id[6] = id[6] & 0x0f | 0x50; // the version: 5
                id[8] = id[8] & 0x3f | 0x80; // the variant: RFC 9562
                let id = hex(&id);
                format!("{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..])
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash of a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TensorHash {
    /// Name of the tensor.
    pub name: String,
    /// Lower-case hexadecimal digits.
    pub hash: String,
    /// Result of the comparison with a manifest, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
}

/// The hashes of one model by one algorithm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HashReport {
    schema: &'static str,
    /// Hash algorithm.
    pub algorithm: Algorithm,
    /// Whether the hashes are of the content, independent of how the model is stored.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub content: bool,
    /// One per tensor, in file order; empty for [`Algorithm::Uuid`].
    pub tensors: Vec<TensorHash>,
    /// Hash of the bytes of all tensors, one after the other.
    pub model: String,
    /// Result of comparing the overall hash with a manifest, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_verdict: Option<Verdict>,
    /// Overall outcome of the comparison with a manifest, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// Options of [`hashes`].
#[derive(Default)]
pub struct Options<'a> {
    /// Hash algorithms. If empty: the strongest one in the manifest, or SHA-256 without a manifest.
    pub algorithms: Vec<Algorithm>,
    /// Whether to hash individual tensors too.
    pub tensors: bool,
    /// Hashes content independent of storage, as is always done for a manifest of content hashes: see [`hash_content`].
    pub content: bool,
    /// Architecture tables, for content hashes.
    pub tables: Tables,
    /// A manifest to compare with.
    pub manifest: Option<&'a Manifest>,
    /// Progress callback: every byte counts as often as it is hashed.
    pub progress: Option<Progress<'a>>,
}

/// Hashes the model at `path`, and compares the hashes with those in a manifest.
///
/// # Errors
/// As for [`hash`] and [`hash_content`].
pub fn hashes(reader: &Reader, path: &Path, options: &Options<'_>) -> Result<Vec<HashReport>> {
    let content = options.content || options.manifest.is_some_and(Manifest::is_of_content);
    let strongest = || options.manifest.and_then(|manifest| manifest.algorithms(content).first().copied()).unwrap_or(Algorithm::Sha256);
    let algorithms = if options.algorithms.is_empty() { vec![strongest()] } else { options.algorithms.clone() };
    let progress = options.progress.unwrap_or(&|_, _| ());
    let mut reports = match content {
        true => content::hash_content_with(reader, &options.tables, &algorithms, options.tensors, progress)?,
        false => hash_with(reader, &algorithms, options.tensors, progress)?,
    };
    if let Some(manifest) = options.manifest {
        for report in &mut reports {
            manifest.judge(path, report);
        }
    }
    Ok(reports)
}

/// Hashes a model; `tensors` includes the hashes of individual tensors. Reports are in the order of `algorithms`.
///
/// Tensors are hashed on all threads. The overall hash is sequential, and takes one thread throughout.
///
/// # Errors
/// The size of a tensor's type is unknown.
pub fn hash(reader: &Reader, algorithms: &[Algorithm], tensors: bool) -> Result<Vec<HashReport>> {
    hash_with(reader, algorithms, tensors, &|_, _| ())
}

fn hash_with(reader: &Reader, algorithms: &[Algorithm], tensors: bool, progress: Progress<'_>) -> Result<Vec<HashReport>> {
    let all = &reader.model().tensors;
    let single: &[TensorInfo] = if tensors { all } else { &[] };
    // The sequential hashes first: they take longest. Remote files are read once, so the same pass hashes each tensor too.
    let mut work: Vec<(Algorithm, &[TensorInfo])> = algorithms.iter().map(|&algorithm| (algorithm, all.as_slice())).collect();
    let once = tensors && reader.is_remote();
    let of_tensors = |algorithm: Algorithm| if algorithm == Algorithm::Uuid { &[] } else { single };
    for &algorithm in algorithms.iter().filter(|_| !once) {
        work.extend(of_tensors(algorithm).chunks(1).map(|tensor| (algorithm, tensor)));
    }
    reader.announce(all);
    let hashed = work.iter().flat_map(|(_, tensors)| *tensors);
    let total = hashed.filter_map(|tensor| reader.len_bytes(tensor)).fold(0, u64::saturating_add);
    let step = |bytes| progress(bytes, total);
    let hashes = par(work)
        .with_max_len(1)
        .map(|(algorithm, tensors)| hash_in_order(reader, algorithm, tensors, once && algorithm != Algorithm::Uuid, &step))
        .collect::<Result<Vec<_>>>()?;
    let (models, each): (Vec<String>, Vec<Vec<String>>) = hashes.into_iter().unzip();
    // With one pass, each model's tensors; otherwise each tensor by itself.
    let tensors_alone = models.get(algorithms.len()..).unwrap_or_default().to_vec();
    let mut hashes = each.into_iter().flatten().chain(tensors_alone);
    reader.check_unchanged()?;
    Ok(algorithms
        .iter()
        .zip(models)
        .map(|(&algorithm, model)| HashReport {
            schema: "weigh.hash.v1",
            algorithm,
            content: false,
            tensors: of_tensors(algorithm)
                .iter()
                .zip(&mut hashes)
                .map(|(tensor, hash)| TensorHash { name: tensor.name.clone(), hash, verdict: None })
                .collect(),
            model,
            model_verdict: None,
            outcome: None,
        })
        .collect())
}

/// Hashes tensors one after the other; with `each`, every one of them by itself too. Calls `done` with the number of bytes of each chunk.
fn hash_in_order(
    reader: &Reader,
    algorithm: Algorithm,
    tensors: &[TensorInfo],
    each: bool,
    done: &(dyn Fn(u64) + Sync),
) -> Result<(String, Vec<String>)> {
    let mut hasher = Hasher::new(algorithm);
    let mut hashes = Vec::new();
    for tensor in tensors {
        let mut own = each.then(|| Hasher::new(algorithm));
        if reader.len_bytes(tensor).is_none() {
            reader.bytes(tensor)?; // says why not
        }
        let len = reader.len_bytes(tensor).unwrap_or(0);
        // Whole blocks at a time, for the sake of big-endian files.
        let block = tensor.elem.known().map_or(1, |dtype| dtype.info().block_bytes);
        let step = (limits::CHUNK_BYTES as u64 / block).max(1) * block;
        let mut at = 0;
        while at < len {
            let end = len.min(at + step);
            let bytes = reader.bytes_at(tensor, at..end)?;
            hasher.update(&bytes);
            if let Some(own) = &mut own {
                own.update(&bytes);
            }
            done(end - at);
            at = end;
        }
        hashes.extend(own.map(Hasher::finish));
    }
    Ok((hasher.finish(), hashes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_nothing_and_of_abc_are_the_published_ones() {
        let digest = |algorithm, bytes: &[u8]| {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(bytes);
            hasher.finish()
        };
        assert_eq!(digest(Algorithm::Sha256, b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest(Algorithm::Sha1, b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(digest(Algorithm::Xxh64, b""), "ef46db3751d8e999");
        assert_eq!(digest(Algorithm::Blake3, b""), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
    }

    #[test]
    fn the_identifier_is_a_version_5_uuid_of_the_namespace() {
        // uuid.uuid5(uuid.UUID("ef001206-dadc-5f6d-a15f-3359e577d4e5"), "abc") in Python
        let mut hasher = Hasher::new(Algorithm::Uuid);
        hasher.update(b"abc");
        assert_eq!(hasher.finish(), "9f2200fc-45e8-5a39-9535-c3ea5c0e0cef");
    }
}
