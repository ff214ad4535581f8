//! `verify`: whether the files of a model keep the rules of their format.

use std::path::Path;

use serde::Serialize;

use crate::base::Result;
use crate::base::finding::{Finding, Findings, Severity};
use crate::format;

/// What was found.
#[derive(Debug, Serialize)]
pub struct Verdict {
    schema: &'static str,
    /// Whether no finding is an error.
    pub ok: bool,
    /// Everything that was found, the worst first; otherwise in the order of the files.
    pub findings: Vec<Finding>,
    /// How many tensors were looked at.
    #[serde(skip)]
    pub tensors: usize,
    /// How many files were looked at.
    #[serde(skip)]
    pub files: usize,
}

/// Checks the structure of the model at `path`, past the first fault where that is safe.
///
/// # Errors
/// There is nothing to examine: no such file, or none of a format that this build reads.
pub fn verify(path: &Path) -> Result<Verdict> {
    let mut findings = Findings::collect();
    let reader = format::examine(path, &mut findings)?;
    let mut findings = findings.into_list();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let ok = findings.iter().all(|finding| finding.severity != Severity::Error);
    let model = reader.as_ref().map(crate::Reader::model);
    let (tensors, files) = model.map_or((0, 0), |model| (model.tensors.len(), model.shards.len()));
    Ok(Verdict { schema: "weigh.verify.v1", ok, findings, tensors, files })
}
