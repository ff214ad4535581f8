//! Manifests: the lines of an earlier run, compared with a model.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::{Algorithm, HashReport};
use crate::base::{Error, Hint, Result, text};
use crate::source::place;

/// The result of looking up a hash in a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// The same hash.
    Ok,
    /// Another hash.
    Mismatch,
    /// No such line.
    #[serde(rename = "Not Found")]
    NotFound,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "Ok",
            Self::Mismatch => "Mismatch",
            Self::NotFound => "Not Found",
        })
    }
}

/// The outcome of checking a model against a manifest, judged and named as in `llama-gguf-hash`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub enum Outcome {
    Success,
    Failure,
    #[serde(rename = "Manifest Missing Entry")]
    MissingEntry,
}

impl Outcome {
    /// Returns the exit status of `llama-gguf-hash` for it.
    pub fn status(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::MissingEntry => 3,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Success => "Success",
            Self::Failure => "Failure",
            Self::MissingEntry => "Manifest Missing Entry",
        })
    }
}

/// Prefix of the algorithm in lines of [content](super::content) hashes.
const CONTENT: &str = "content-";

/// Returns the first word of a line.
pub fn label(algorithm: Algorithm, content: bool) -> String {
    format!("{}{algorithm}", if content { CONTENT } else { "" })
}

/// Lines of `ALGORITHM HASH NAME`; the name is the model's path, followed for a tensor by `:` and its name.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    hashes: HashMap<(Algorithm, bool, String), String>,
    /// File names of the models with content hashes.
    content_of: HashSet<String>,
}

/// Reads the lines of a manifest of any program.
///
/// # Errors
/// The file cannot be opened, or is too long for a manifest.
pub fn read_lines(path: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&place::read_bytes(path)?).into_owned())
}

/// Parses a line of `sha256sum`, `sha1sum` or `b3sum`, of the digest of a whole file: digest, space, `*` or space, name; or with `--tag`:
/// `SHA256 (NAME) = DIGEST`. Returns the algorithm, the digest in lower case, and the name.
pub fn file_line(line: &str) -> Option<(Algorithm, String, &str)> {
    let hex = |text: &str, len: usize| {
        (text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| text.to_ascii_lowercase())
    };
    let line = line.trim_end_matches('\r');
    if let Some((start, digest)) = line.rsplit_once(") = ") {
        let (kind, name) = start.split_once(" (")?;
        let (algorithm, len) = match kind {
            "SHA256" => (Algorithm::Sha256, 64),
            "SHA1" => (Algorithm::Sha1, 40),
            "BLAKE3" => (Algorithm::Blake3, 64),
            _ => return None,
        };
        return Some((algorithm, hex(digest, len)?, name));
    }
    let (digest, name) = line.split_once(' ')?;
    let sized = |algorithm, len| Some((algorithm, hex(digest, len)?));
    let (algorithm, digest) = sized(Algorithm::Sha256, 64).or_else(|| sized(Algorithm::Sha1, 40))?;
    Some((algorithm, digest, name.strip_prefix([' ', '*']).unwrap_or(name)))
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// The file cannot be read; or, as [`ErrorKind::Malformed`](crate::ErrorKind), no line is of a known algorithm.
    pub fn read(path: &Path) -> Result<Self> {
        let lines = read_lines(path)?;
        Self::parse(&lines).map_err(|error| {
            let of_files = lines.lines().any(|line| file_line(line).is_some());
            let error = if of_files { error.hint(Hint::VerifyManifest) } else { error };
            error.in_file(path)
        })
    }

    /// Parses the lines of known algorithms and ignores all others. The first line for a name wins.
    ///
    /// # Errors
    /// There is no line of a known algorithm.
    pub fn parse(lines: &str) -> Result<Self> {
        let mut manifest = Self::default();
        for line in lines.lines() {
            let mut words = line.trim_end().splitn(2, char::is_whitespace);
            let Some(label) = words.next() else { continue };
            let (content, name) = label.strip_prefix(CONTENT).map_or((false, label), |name| (true, name));
            let Some(algorithm) = Algorithm::from_name(name) else { continue };
            let Some((hash, name)) = words.next().and_then(|rest| rest.trim_start().split_once(char::is_whitespace)) else { continue };
            let name = file_name_only(name.trim_start());
            if content {
                manifest.content_of.insert(split_name(&name).0.to_owned());
            }
            manifest.hashes.entry((algorithm, content, name)).or_insert_with(|| hash.to_ascii_lowercase());
        }
        if manifest.hashes.is_empty() {
            let names: Vec<_> = Algorithm::ALL.iter().map(|algorithm| algorithm.name()).collect();
            return Err(Error::malformed(format!("expected lines that start with one of {}, found none", names.join(", "))));
        }
        Ok(manifest)
    }

    /// Whether all its lines are content hashes.
    pub fn is_of_content(&self) -> bool {
        self.hashes.keys().all(|(_, content, _)| *content)
    }

    /// Whether it has lines for individual tensors.
    pub fn has_tensors(&self) -> bool {
        self.hashes.keys().any(|(.., name)| name.contains(':'))
    }

    /// Returns the algorithms in the manifest, for content hashes or others, strongest first.
    pub fn algorithms(&self, content: bool) -> Vec<Algorithm> {
        let has = |algorithm| self.hashes.keys().any(|(other, of_content, _)| *other == algorithm && *of_content == content);
        Algorithm::ALL.iter().copied().filter(|&algorithm| has(algorithm)).collect()
    }

    /// Looks up the hash of `name`, in the form of [`line_name`]. Folders are ignored: a model may have moved. For content hashes of a
    /// single model even the file name is, since the model may have been converted.
    pub fn verdict(&self, algorithm: Algorithm, content: bool, name: &str, hash: &str) -> Verdict {
        let mut name = file_name_only(name);
        if let (true, Some(only), 1) = (content, self.content_of.iter().next(), self.content_of.len()) {
            name = format!("{only}{}", split_name(&name).1);
        }
        match self.hashes.get(&(algorithm, content, name)) {
            None => Verdict::NotFound,
            Some(expected) if expected == hash => Verdict::Ok,
            Some(_) => Verdict::Mismatch,
        }
    }

    /// Compares every hash in a report of the model at `path` with the manifest, and sets the outcome.
    pub fn judge(&self, path: &Path, report: &mut HashReport) -> Outcome {
        for tensor in &mut report.tensors {
            tensor.verdict = Some(self.verdict(report.algorithm, report.content, &line_name(path, Some(&tensor.name)), &tensor.hash));
        }
        let model = self.verdict(report.algorithm, report.content, &line_name(path, None), &report.model);
        report.model_verdict = Some(model);
        let any = |verdict| model == verdict || report.tensors.iter().any(|tensor| tensor.verdict == Some(verdict));
        let outcome = match (any(Verdict::Mismatch), any(Verdict::Ok)) {
            (true, _) => Outcome::Failure,
            (false, true) => Outcome::Success,
            (false, false) => Outcome::MissingEntry,
        };
        report.outcome = Some(outcome);
        outcome
    }
}

/// Returns the name in a line: the model's path, and the tensor's name after a colon. Untrusted text and backslashes are escaped, so
/// that names stay distinct; all other names are unchanged.
pub fn line_name(path: &Path, tensor: Option<&str>) -> String {
    let path = path.to_string_lossy();
    let name = tensor.map_or_else(|| path.to_string(), |tensor| format!("{path}:{tensor}"));
    text::escape(&name.replace('\\', "\\\\")).into_owned()
}

/// Splits a line's name into the file name, and the colon with what follows it.
fn split_name(name: &str) -> (&str, &str) {
    name.split_at(name.find(':').unwrap_or(name.len()))
}

/// Strips the folders from a line's name. Slashes in a tensor's name, after the first colon, are kept.
fn file_name_only(name: &str) -> String {
    let start = split_name(name).0.trim_end_matches('/').rfind('/').map_or(0, |slash| slash + 1);
    name[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_usual_programs_are_read() {
        let (long, short) = ("aB".repeat(32), "12".repeat(20));
        let sha256 = |name| Some((Algorithm::Sha256, "ab".repeat(32), name));
        assert_eq!(file_line(&format!("{long}  a b.gguf")), sha256("a b.gguf"));
        assert_eq!(file_line(&format!("{long} *x.gguf\r")), sha256("x.gguf"));
        assert_eq!(file_line(&format!("SHA256 (x (1).gguf) = {long}")), sha256("x (1).gguf"));
        assert_eq!(file_line(&format!("{short}  x")), Some((Algorithm::Sha1, short.clone(), "x")));
        assert_eq!(file_line(&format!("SHA1 (x) = {short}")), Some((Algorithm::Sha1, short.clone(), "x")));
        assert_eq!(file_line(&format!("BLAKE3 (x) = {long}")), Some((Algorithm::Blake3, "ab".repeat(32), "x")));
        assert_eq!(file_line(&format!("SHA1 (x) = {long}")), None);
        for other in [format!("sha256  {long}  m.gguf"), "".to_owned(), long.clone(), format!("MD5 (x) = {short}"), "zz  x".to_owned()] {
            assert_eq!(file_line(&other), None, "{other}");
        }
    }

    #[test]
    fn a_manifest_is_found_by_file_name_and_the_first_line_counts() {
        let manifest =
            Manifest::parse("# made by hand\nxxh64     00ff  models/a.gguf:blk/0 x\nxxh64  11 a.gguf:blk/0 x\nsha1  ABCD  a.gguf\n")
                .unwrap();
        assert_eq!(manifest.algorithms(false), [Algorithm::Sha1, Algorithm::Xxh64]);
        assert_eq!(manifest.verdict(Algorithm::Xxh64, false, "/elsewhere/a.gguf:blk/0 x", "00ff"), Verdict::Ok);
        assert_eq!(manifest.verdict(Algorithm::Xxh64, false, "b.gguf:blk/0 x", "00ff"), Verdict::NotFound);
        assert_eq!(manifest.verdict(Algorithm::Sha1, false, "a.gguf", "abce"), Verdict::Mismatch);
        assert!(Manifest::parse("md5 00 a.gguf").is_err());
    }

    #[test]
    fn every_name_has_a_line_of_its_own() {
        let line = |tensor| line_name(Path::new("m"), Some(tensor));
        assert_eq!([line("a\nb"), line("a\\nb"), line("blk.0 x")], ["m:a\\nb", "m:a\\\\nb", "m:blk.0 x"]);
    }

    #[test]
    fn content_hashes_of_one_model_are_those_of_any_file_that_holds_it() {
        let lines = "content-sha256  aa  a/model:x\ncontent-sha256  bb  a/model\n";
        let manifest = Manifest::parse(lines).unwrap();
        assert!(manifest.is_of_content() && manifest.has_tensors());
        assert_eq!(manifest.verdict(Algorithm::Sha256, true, "m.gguf:x", "aa"), Verdict::Ok);
        assert_eq!(manifest.verdict(Algorithm::Sha256, true, "m.gguf", "bc"), Verdict::Mismatch);
        assert_eq!(manifest.verdict(Algorithm::Sha256, false, "model:x", "aa"), Verdict::NotFound);
        let two = Manifest::parse(&format!("{lines}content-sha256  cc  b\nsha256 dd b")).unwrap();
        assert!(!two.is_of_content());
        assert_eq!(two.verdict(Algorithm::Sha256, true, "m.gguf", "bb"), Verdict::NotFound);
        assert_eq!(two.verdict(Algorithm::Sha256, true, "x/b", "cc"), Verdict::Ok);
    }

    #[test]
    fn outcomes_have_the_words_and_statuses_of_llama_gguf_hash() {
        // hash_exit_code_t and the prints in gguf-hash.cpp.
        let outcomes =
            [(Outcome::Success, 0, "Success"), (Outcome::Failure, 1, "Failure"), (Outcome::MissingEntry, 3, "Manifest Missing Entry")];
        for (outcome, status, words) in outcomes {
            assert_eq!((outcome.status(), outcome.to_string().as_str()), (status, words));
        }
        let verdicts = [Verdict::Ok, Verdict::Mismatch, Verdict::NotFound].map(|verdict| verdict.to_string());
        assert_eq!(verdicts, ["Ok", "Mismatch", "Not Found"]);
    }
}
