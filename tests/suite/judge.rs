//! What opening a file and verifying it say of it.

use std::fs;
use std::path::Path;

use weigh::base::finding::{Finding, Findings, Severity};

/// Returns what `verify` finds in a file of these bytes, and the error of opening it.
pub(crate) fn judge(name: &str, bytes: &[u8]) -> (Vec<Finding>, Option<weigh::Error>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    judge_path(&path)
}

/// Judges a file on disk as [`judge`] does. Reading it by ranges must give the same.
pub(crate) fn judge_path(path: &Path) -> (Vec<Finding>, Option<weigh::Error>) {
    let mut findings = Findings::collect();
    let examined = weigh::format::examine(path, &mut findings);
    if let Ok(Some(reader)) = &examined {
        // Whatever verify still lists must be readable.
        for tensor in reader.model().tensors.iter().filter(|tensor| tensor.len_bytes.is_some()) {
            reader.bytes(tensor).unwrap();
        }
    }
    let opened = weigh::format::open(path);
    crate::sources::judge_alike(path, &opened, &findings);
    (findings.into_list(), opened.err().or(examined.err()))
}

/// Expects that these bytes are refused in one line, and that `verify` gives an error of this code.
pub(crate) fn refused(name: &str, case: &str, bytes: &[u8], code: &str) {
    let (findings, error) = judge(name, bytes);
    let error = error.unwrap_or_else(|| panic!("{case}: opened"));
    assert!(!error.to_string().contains('\n'), "{case}: {error}");
    assert!(
        findings.iter().any(|finding| finding.code == code && finding.severity == Severity::Error),
        "{case}: expected {code}, found {error} and {findings:?}"
    );
    assert!(weigh::format::codes::CODES.iter().any(|(known, ..)| *known == code));
}
