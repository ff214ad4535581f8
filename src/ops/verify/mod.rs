//! `verify`: whether the files of a model keep the rules of their format, whether its tensors are those of its architecture, and,
//! when all of it is to be read, whether the values can be weights and the bytes are those that were published.

use std::path::Path;

use serde::Serialize;

use crate::arch::check;
use crate::arch::table::Tables;
use crate::base::Result;
use crate::base::finding::{Finding, Findings, Severity};
use crate::format::{self, codes};
use crate::model::PackingSummary;
use crate::ops::weights;

mod data;
mod digests;

/// What is looked at beside the structure and the architecture.
#[derive(Default)]
pub struct Options<'a> {
    /// The values of all tensors, and the digests that a download was recorded under.
    pub data: bool,
    /// Lines of `weigh hash`, or of `sha256sum` and its like, to compare with.
    pub manifest: Option<&'a Path>,
    /// What is known of architectures.
    pub tables: Tables,
    /// Told how many bytes of tensors have been read since it was last called, and how many there are in all.
    pub progress: Option<Progress<'a>>,
}

/// Told how far the work is: bytes more, and bytes in all.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// What was found.
#[derive(Debug, Serialize)]
pub struct Verdict {
    schema: &'static str,
    /// Whether no finding is an error.
    pub ok: bool,
    /// Everything that was found, the worst first; otherwise in the order of the files.
    pub findings: Vec<Finding>,
    /// How the weights are packed, if they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<PackingSummary>,
    /// How many tensors were looked at.
    #[serde(skip)]
    pub tensors: usize,
    /// How many files were looked at.
    #[serde(skip)]
    pub files: usize,
}

/// Checks the model at `path`, past the first fault where that is safe.
///
/// # Errors
/// There is nothing to examine: no such file, or none of a format that this build reads; a manifest that cannot be read, or has
/// nothing of this model.
pub fn verify(path: &Path, options: &Options<'_>) -> Result<Verdict> {
    let mut findings = Findings::collect();
    let reader = format::examine(path, &mut findings)?;
    let (mut tensors, mut files) = (0, 0);
    let mut packing = None;
    if let Some(reader) = reader {
        (tensors, files) = (reader.model().tensors.len(), reader.model().shards.len());
        packing = weights::packing(&reader);
        // What a broken set lacks was said already.
        let whole = findings.errors() == 0 && findings.list().iter().all(|finding| finding.code != codes::SET_INCOMPLETE);
        if options.data {
            data::check(&reader, options.progress, &mut findings)?;
            digests::check_recorded(&reader, &mut findings);
        }
        if let Some(manifest) = options.manifest {
            digests::check_manifest(&reader, path, manifest, &mut findings)?;
        }
        if whole {
            let reader = weights::weights(reader)?;
            if options.data {
                data::check_packed(&reader, &mut findings)?;
            }
            let tied = check::check(reader.model(), &options.tables, &mut findings);
            if let Some(tied) = tied.filter(|_| options.data) {
                data::check_tied(&reader, tied, &mut findings)?;
            }
        }
    }
    let mut findings = findings.into_list();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let ok = findings.iter().all(|finding| finding.severity != Severity::Error);
    Ok(Verdict { schema: "weigh.verify.v1", ok, findings, packing, tensors, files })
}
