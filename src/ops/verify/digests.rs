//! Digests of whole files: those that a download was recorded under, and those of a manifest.

use std::path::{Component, Path, PathBuf};

use rayon::prelude::*;

use crate::base::finding::{Findings, Severity};
use crate::base::mmap::Map;
use crate::base::threads::par;
use crate::base::{Error, Result, limits};
use crate::format::{Reader, codes};
use crate::ops::hash::{self, Algorithm, Hasher, Manifest};

/// The digest that a file should have.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    algorithm: Algorithm,
    /// Whether it is of what git hashes for an object: `blob LENGTH`, a zero byte, and the content.
    git: bool,
    /// In lower-case hexadecimal digits.
    hex: String,
}

impl Wanted {
    fn new(algorithm: Algorithm, hex: String) -> Self {
        Self { algorithm, git: false, hex }
    }

    /// What a name in hexadecimal digits stands for, in a store that names files by content.
    fn by_length(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        match (name.bytes().all(|byte| byte.is_ascii_hexdigit()), name.len()) {
            (true, 64) => Some(Self::new(Algorithm::Sha256, name)),
            (true, 40) => Some(Self { git: true, ..Self::new(Algorithm::Sha1, name) }),
            _ => None,
        }
    }

    /// The digest that bytes have.
    fn of(&self, bytes: &[u8]) -> String {
        let mut hasher = Hasher::new(self.algorithm);
        if self.git {
            hasher.update(format!("blob {}\0", bytes.len()).as_bytes());
        }
        bytes.chunks(limits::CHUNK_BYTES).for_each(|chunk| hasher.update(chunk));
        hasher.finish()
    }
}

/// Compares files side by side; what differs is told under `code`.
fn compare(files: &[(&Path, &[u8], Wanted)], code: &'static str, findings: &mut Findings) {
    let found: Vec<String> = par(files).with_max_len(1).map(|(_, bytes, wanted)| wanted.of(bytes)).collect();
    for ((path, _, wanted), found) in files.iter().zip(found).filter(|((.., wanted), found)| wanted.hex != *found) {
        let error = Error::malformed(format!("expected the digest {}, found {found}", wanted.hex));
        // Collected, it does not end the walk.
        let _ = findings.error(code, error.in_file(path));
    }
}

/// Compares the files of a model with the names of their blobs, or with what a download into a folder wrote down.
pub(super) fn check_recorded(reader: &Reader, findings: &mut Findings) {
    let files: Vec<_> = reader.maps().iter().filter_map(|map| Some((map.path(), map.bytes(), recorded(map.path())?))).collect();
    compare(&files, codes::BLOB_DIGEST, findings);
}

/// What is known of where a file came from: a blob of a Hugging Face cache (a SHA-256, or git's name for small files) or of an Ollama
/// store is named by its digest; a download of huggingface_hub into a folder leaves it in `.cache/huggingface/download`.
fn recorded(path: &Path) -> Option<Wanted> {
    let real = path.canonicalize().ok()?;
    if real.parent()?.file_name()? == "blobs" {
        let name = real.file_name()?.to_str()?;
        return Wanted::by_length(name.strip_prefix("sha256").and_then(|rest| rest.strip_prefix(['-', ':'])).unwrap_or(name));
    }
    /// How deep in the repository the file may lie.
    const DEPTH: usize = 3;
    real.ancestors().skip(1).take(DEPTH).find_map(|root| {
        let mut record = root.join(".cache/huggingface/download").join(real.strip_prefix(root).ok()?).into_os_string();
        record.push(".metadata");
        // The revision, the digest, and when it came.
        let record = Map::open(&PathBuf::from(record)).ok().filter(|map| map.len() <= limits::CHUNK_BYTES as u64)?;
        Wanted::by_length(std::str::from_utf8(record.bytes()).ok()?.lines().nth(1)?.trim().trim_matches('"'))
    })
}

/// Compares a model with a manifest.
pub(super) fn check_manifest(reader: &Reader, path: &Path, manifest: &Path, findings: &mut Findings) -> Result<()> {
    let lines = hash::read_lines(manifest)?;
    let of_files: Vec<(Wanted, &str)> = lines.lines().filter_map(file_line).collect();
    let known = if of_files.is_empty() {
        check_hashes(reader, path, &Manifest::parse(&lines).map_err(|error| error.in_file(manifest))?, findings)?
    } else {
        check_files(reader, &of_files, findings)
    };
    if known {
        return Ok(());
    }
    Err(Error::argument("expected lines of this model in the manifest, found none").in_file(manifest))
}

/// A line of `sha256sum`, `sha1sum` or `b3sum`: digest, space, `*` or space, name; or with `--tag`: `SHA256 (NAME) = DIGEST`.
fn file_line(line: &str) -> Option<(Wanted, &str)> {
    let hex = |text: &str, len: usize| {
        (text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| text.to_ascii_lowercase())
    };
    let line = line.trim_end_matches('\r');
    if let Some((start, digest)) = line.rsplit_once(") = ") {
        let (kind, name) = start.split_once(" (")?;
        let wanted = match kind {
            "SHA256" => Wanted::new(Algorithm::Sha256, hex(digest, 64)?),
            "SHA1" => Wanted::new(Algorithm::Sha1, hex(digest, 40)?),
            "BLAKE3" => Wanted::new(Algorithm::Blake3, hex(digest, 64)?),
            _ => return None,
        };
        return Some((wanted, name));
    }
    let (digest, name) = line.split_once(' ')?;
    let sized = |algorithm, len| Some(Wanted::new(algorithm, hex(digest, len)?));
    let wanted = sized(Algorithm::Sha256, 64).or_else(|| sized(Algorithm::Sha1, 40))?;
    Some((wanted, name.strip_prefix([' ', '*']).unwrap_or(name)))
}

/// Digests of files. Those that are not of this model are passed over: a list is often of several.
fn check_files(reader: &Reader, lines: &[(Wanted, &str)], findings: &mut Findings) -> bool {
    let folder = reader.maps().first().and_then(|map| map.path().parent()).unwrap_or(Path::new(""));
    let mut beside = Vec::new();
    let mut of_model: Vec<Option<Wanted>> = vec![None; reader.maps().len()];
    for (wanted, name) in lines {
        let name = Path::new(name);
        let shard = reader.maps().iter().position(|map| map.path().file_name() == name.file_name());
        let inside = name.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        match shard.and_then(|shard| of_model.get_mut(shard)) {
            Some(slot) => *slot = Some(wanted.clone()),
            // Configs and tokenizers, which lie where the weights do.
            None if inside && folder.join(name).is_file() => {
                if let Ok(map) = Map::open(&folder.join(name)) {
                    beside.push((map, wanted.clone()));
                }
            }
            None => {}
        }
    }
    if of_model.iter().all(Option::is_none) {
        return false;
    }
    for (map, _) in reader.maps().iter().zip(&of_model).filter(|(_, wanted)| wanted.is_none()) {
        let error = Error::malformed("expected a line for this file in the manifest, found none").in_file(map.path());
        findings.remark(Severity::Warning, codes::MANIFEST_ENTRY, error);
    }
    let shards = reader.maps().iter().zip(of_model).filter_map(|(map, wanted)| Some((map.path(), map.bytes(), wanted?)));
    let files: Vec<_> = shards.chain(beside.iter().map(|(map, wanted)| (map.path(), map.bytes(), wanted.clone()))).collect();
    compare(&files, codes::MANIFEST_DIGEST, findings);
    true
}

/// Hashes of tensors, as `weigh hash` and llama-gguf-hash write them.
fn check_hashes(reader: &Reader, path: &Path, manifest: &Manifest, findings: &mut Findings) -> Result<bool> {
    let content = manifest.is_of_content();
    let Some(&algorithm) = manifest.algorithms(content).first() else { return Ok(false) };
    let tensors = manifest.has_tensors();
    let reports = if content {
        hash::hash_content(reader, &Default::default(), &[algorithm], tensors)?
    } else {
        hash::hash(reader, &[algorithm], tensors)?
    };
    let mut known = false;
    for mut report in reports {
        manifest.judge(path, &mut report);
        let of_tensors = report.tensors.iter().map(|tensor| (Some(tensor.name.as_str()), tensor.verdict));
        for (tensor, verdict) in of_tensors.chain([(None, report.model_verdict)]) {
            let place = |message: &str| match tensor {
                Some(tensor) => Error::malformed(message).in_file(path).in_tensor(tensor),
                None => Error::malformed(message).in_file(path),
            };
            match verdict {
                Some(hash::Verdict::Mismatch) => {
                    known = true;
                    let _ = findings.error(codes::MANIFEST_DIGEST, place("expected the hash of the manifest, found another"));
                }
                Some(hash::Verdict::NotFound) => {
                    let error = place("expected a line for it in the manifest, found none");
                    findings.remark(Severity::Warning, codes::MANIFEST_ENTRY, error);
                }
                _ => known = true,
            }
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_usual_programs_are_read() {
        let (long, short) = ("aB".repeat(32), "12".repeat(20));
        let sha256 = Wanted::new(Algorithm::Sha256, "ab".repeat(32));
        assert_eq!(file_line(&format!("{long}  a b.gguf")), Some((sha256.clone(), "a b.gguf")));
        assert_eq!(file_line(&format!("{long} *x.gguf\r")), Some((sha256.clone(), "x.gguf")));
        assert_eq!(file_line(&format!("SHA256 (x (1).gguf) = {long}")), Some((sha256, "x (1).gguf")));
        assert_eq!(file_line(&format!("{short}  x")), Some((Wanted::new(Algorithm::Sha1, short.clone()), "x")));
        for other in [format!("sha256  {long}  m.gguf"), "".to_owned(), long.clone(), format!("MD5 (x) = {short}"), "zz  x".to_owned()] {
            assert_eq!(file_line(&other), None, "{other}");
        }
    }

    #[test]
    fn digests_are_those_of_the_tools() {
        let of = |algorithm, bytes: &[u8]| Wanted::new(algorithm, String::new()).of(bytes);
        let git = Wanted { git: true, ..Wanted::new(Algorithm::Sha1, String::new()) };
        assert_eq!(git.of(b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a"); // git hash-object
        assert_eq!(of(Algorithm::Sha1, b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(of(Algorithm::Sha256, b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(of(Algorithm::Blake3, b""), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
    }
}
