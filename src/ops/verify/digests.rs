//! Digests of whole files: recorded at download, or listed in a manifest.

use std::path::{Component, Path};

use crate::base::finding::{Findings, Severity};
use crate::base::threads::{par, prelude::*};
use crate::base::{Error, Result, limits, text};
use crate::format::{Reader, codes};
use crate::ops::hash::{self, Algorithm, Hasher, Manifest};
use crate::source::{self, Source, file, place, read_chunks};

/// A callback for the number of bytes read since the last call.
type Step<'a> = &'a (dyn Fn(u64) + Sync);

/// The expected digest of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    algorithm: Algorithm,
    /// Whether it is the digest of a git object: `blob LENGTH`, a zero byte, and the content.
    git: bool,
    /// Lower-case hexadecimal digits.
    hex: String,
}

impl Wanted {
    fn new(algorithm: Algorithm, hex: String) -> Self {
        Self { algorithm, git: false, hex }
    }

    /// Parses the hexadecimal name of a blob in a content-addressed store.
    fn by_length(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        match (name.bytes().all(|byte| byte.is_ascii_hexdigit()), name.len()) {
            (true, 64) => Some(Self::new(Algorithm::Sha256, name)),
            (true, 40) => Some(Self { git: true, ..Self::new(Algorithm::Sha1, name) }),
            _ => None,
        }
    }

    /// Computes the digest of a file. Calls `step` with the number of bytes of each chunk.
    fn of(&self, file: &dyn Source, step: Step<'_>) -> Result<String> {
        let mut hasher = Hasher::new(self.algorithm);
        if self.git {
            hasher.update(format!("blob {}\0", file.len()).as_bytes());
        }
        read_chunks(file, 0, |chunk| {
            hasher.update(chunk);
            step(chunk.len() as u64);
            Ok(())
        })?;
        Ok(hasher.finish())
    }
}

/// Compares files in parallel; mismatches are reported under `code`. Returns the number of files compared.
fn compare(files: &[(&dyn Source, Wanted)], code: &'static str, step: Step<'_>, findings: &mut Findings) -> Result<u64> {
    let found: Vec<String> = par(files).with_max_len(1).map(|(file, wanted)| wanted.of(*file, step)).collect::<Result<_>>()?;
    for ((file, wanted), found) in files.iter().zip(found).filter(|((_, wanted), found)| wanted.hex != *found) {
        let error = Error::malformed(format!("expected the digest {}, found {found}", wanted.hex));
        // With findings that are collected, this never fails.
        let _ = findings.error(code, error.in_file(file.path()));
    }
    Ok(files.len() as u64)
}

/// Compares the files of a model with their blob names, or with the digests that a download into a folder recorded. Returns the number of
/// digests.
///
/// # Errors
/// A file cannot be read.
pub(super) fn check_recorded(reader: &Reader, step: Step<'_>, findings: &mut Findings) -> Result<u64> {
    compare(&recorded(reader), codes::BLOB_DIGEST, step, findings)
}

/// Returns the files with a known digest.
pub(super) fn recorded(reader: &Reader) -> Vec<(&dyn Source, Wanted)> {
    let recorded = |file: &'_ dyn Source| recorded_of(file.file()?.path());
    reader.sources().iter().filter_map(|file| Some((&**file, recorded(&**file)?))).collect()
}

/// Looks up where a file came from: a blob of a Hugging Face cache (a SHA-256, or git's hash for small files) or of an Ollama store
/// is named by its digest; huggingface_hub records the digest of a download into a folder in `.cache/huggingface/download`.
fn recorded_of(path: &Path) -> Option<Wanted> {
    let real = path.canonicalize().ok()?;
    if real.parent()?.file_name()? == "blobs" {
        let name = real.file_name()?.to_str()?;
        return Wanted::by_length(name.strip_prefix("sha256").and_then(|rest| rest.strip_prefix(['-', ':'])).unwrap_or(name));
    }
    /// Maximum depth of the file in the repository.
    const DEPTH: usize = 3;
    real.ancestors().skip(1).take(DEPTH).find_map(|root| {
        let mut record = root.join(".cache/huggingface/download").join(real.strip_prefix(root).ok()?).into_os_string();
        record.push(".metadata");
        // The revision, the digest, and the time of the download.
        let record = file::read_at_most(Path::new(&record), limits::CHUNK_BYTES as u64).ok()?;
        Wanted::by_length(std::str::from_utf8(&record).ok()?.lines().nth(1)?.trim().trim_matches('"'))
    })
}

/// Compares a model with a manifest. Returns the number of lines that apply to the model.
pub(super) fn check_manifest(reader: &Reader, path: &Path, manifest: &Path, step: Step<'_>, findings: &mut Findings) -> Result<u64> {
    let lines = hash::read_lines(manifest)?;
    let of_file = |line| hash::file_line(line).map(|(algorithm, hex, name)| (Wanted::new(algorithm, hex), name));
    let of_files: Vec<(Wanted, &str)> = lines.lines().filter_map(of_file).collect();
    if !of_files.is_empty() {
        return check_files(reader, &of_files, step, findings).map_err(|error| error.in_file(manifest));
    }
    let known = check_hashes(reader, path, &Manifest::parse(&lines).map_err(|error| error.in_file(manifest))?, step, findings)?;
    if known > 0 {
        return Ok(known);
    }
    Err(Error::argument("the manifest has no lines for this model").in_file(manifest))
}

/// Compares files with digests found by name or, if a file was renamed, by the digest itself. Lines about other models are ignored.
///
/// # Errors
/// No line applies to this model.
fn check_files(reader: &Reader, lines: &[(Wanted, &str)], step: Step<'_>, findings: &mut Findings) -> Result<u64> {
    let folder =
        reader.sources().first().filter(|file| file.has_neighbours()).and_then(|file| file.path().parent()).unwrap_or(Path::new(""));
    let (mut beside, mut others) = (Vec::new(), Vec::new());
    let mut of_model: Vec<Option<Wanted>> = vec![None; reader.sources().len()];
    for (wanted, line_name) in lines {
        let name = Path::new(line_name);
        let shard = reader.sources().iter().position(|file| file.path().file_name() == name.file_name());
        let inside = name.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        match shard.and_then(|shard| of_model.get_mut(shard)) {
            Some(slot) => *slot = Some(wanted.clone()),
            // Configs and tokenizers next to the weights.
            None if inside && place::is_file(&folder.join(name)) => {
                if let Ok(file) = source::open(&folder.join(name)) {
                    beside.push((file, wanted.clone()));
                }
            }
            None => others.push((wanted, *line_name)),
        }
    }
    let mut known = of_model.iter().any(Option::is_some);
    let unnamed: Vec<_> = reader.sources().iter().zip(&of_model).filter(|(_, wanted)| wanted.is_none()).map(|(file, _)| &**file).collect();
    let listed_as = |file: &&dyn Source| {
        for line in &others {
            if line.0.of(*file, step)? == line.0.hex {
                return Ok(Some(line));
            }
        }
        Ok(None)
    };
    let found: Vec<Option<&(&Wanted, &str)>> = par(&unnamed).with_max_len(1).map(listed_as).collect::<Result<_>>()?;
    let renamed = found.iter().flatten().count() as u64;
    known |= renamed > 0;
    if !known {
        return Err(not_listed(&others));
    }
    for (file, found) in unnamed.into_iter().zip(found) {
        let (severity, code, message) = match found {
            Some((_, name)) => {
                (Severity::Note, codes::MANIFEST_NAME, format!("the manifest lists this file's digest as {}", text::shorten(name)))
            }
            None => (Severity::Warning, codes::MANIFEST_ENTRY, "the manifest has no line for this file".to_owned()),
        };
        findings.remark(severity, code, Error::malformed(message).in_file(file.path()));
    }
    let shards = reader.sources().iter().zip(of_model).filter_map(|(file, wanted)| Some((&**file, wanted?)));
    let files: Vec<_> = shards.chain(beside.iter().map(|(file, wanted)| (&**file, wanted.clone()))).collect();
    Ok(compare(&files, codes::MANIFEST_DIGEST, step, findings)? + renamed)
}

/// Returns the error for a manifest without any file of the model.
fn not_listed(others: &[(&Wanted, &str)]) -> Error {
    /// Number of names shown.
    const SHOWN: usize = 3;
    let names: Vec<_> = others.iter().take(SHOWN).map(|(_, name)| text::shorten(name)).collect();
    let more = if others.len() > SHOWN { ", ..." } else { "" };
    Error::argument(format!("no line matches this model by name or by digest: the manifest lists {}{more}", names.join(", ")))
}

/// Compares hashes of tensors, as `weigh hash` and llama-gguf-hash write them.
fn check_hashes(reader: &Reader, path: &Path, manifest: &Manifest, step: Step<'_>, findings: &mut Findings) -> Result<u64> {
    let progress = |bytes, _| step(bytes);
    let options =
        hash::Options { tensors: manifest.has_tensors(), manifest: Some(manifest), progress: Some(&progress), ..hash::Options::default() };
    let mut known = 0;
    for report in hash::hashes(reader, path, &options)? {
        let of_tensors = report.tensors.iter().map(|tensor| (Some(tensor.name.as_str()), tensor.verdict));
        for (tensor, verdict) in of_tensors.chain([(None, report.model_verdict)]) {
            let locate = |message: &str| match tensor {
                Some(tensor) => Error::malformed(message).in_file(path).in_tensor(tensor),
                None => Error::malformed(message).in_file(path),
            };
            match verdict {
                Some(hash::Verdict::Mismatch) => {
                    known += 1;
                    let _ = findings.error(codes::MANIFEST_DIGEST, locate("the hash differs from the manifest"));
                }
                Some(hash::Verdict::NotFound) => {
                    let error = locate("the manifest has no line for it");
                    findings.remark(Severity::Warning, codes::MANIFEST_ENTRY, error);
                }
                _ => known += 1,
            }
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::InMemory;

    #[test]
    fn digests_are_those_of_the_tools() {
        let digest = |wanted: &Wanted, bytes: &'static [u8]| wanted.of(&InMemory::new("a", bytes), &|_| ()).unwrap();
        let of = |algorithm, bytes| digest(&Wanted::new(algorithm, String::new()), bytes);
        let git = Wanted { git: true, ..Wanted::new(Algorithm::Sha1, String::new()) };
        assert_eq!(digest(&git, b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a"); // git hash-object
        assert_eq!(of(Algorithm::Sha1, b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(of(Algorithm::Sha256, b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(of(Algorithm::Blake3, b""), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
    }
}
