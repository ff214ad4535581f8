//! `verify`: whether the files of a model are well-formed, whether its tensors match its architecture, and, if requested, whether the
//! values are valid weights and the bytes match published digests.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::base::Result;
use crate::base::finding::{Finding, Findings, Severity};
use crate::family::tables::Tables;
use crate::format::{self, Reader};
use crate::model::PackingSummary;
use crate::ops::Progress;
use crate::quant::packed::Packing;
use crate::source::file::Input;
use crate::view::check;

mod data;
mod digests;
mod zeros;

/// Checks beyond the structure and the architecture.
#[derive(Default)]
pub struct Options<'a> {
    /// Checks the values of all tensors, and the digests recorded at download.
    pub data: bool,
    /// A manifest of `weigh hash`, `sha256sum` or similar to compare with.
    pub manifest: Option<&'a Path>,
    /// Architecture tables.
    pub tables: Tables,
    /// Progress callback: bytes of tensors and files read since the last call, and the estimated total.
    pub progress: Option<Progress<'a>>,
    /// Treats warnings as errors.
    pub strict: bool,
    /// The key of a nested checkpoint to which the checks of tensors are confined.
    pub root: Option<&'a str>,
}

/// The result of verifying a model.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Verification {
    schema: &'static str,
    /// Whether there is no error among the findings; if warnings count as errors, no warning either.
    pub ok: bool,
    /// Extent of the checks.
    pub checked: Checked,
    /// The findings, most severe first; otherwise in file order.
    pub findings: Vec<Finding>,
    /// The packing of the weights, if they are packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<PackingSummary>,
    /// Number of files checked.
    #[serde(skip)]
    pub files: usize,
}

/// Extent of the checks; 0 means not checked.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Checked {
    /// Tensors whose position, shape and type were checked.
    pub structure: u64,
    /// Tensors whose values were all read.
    pub values: u64,
    /// Digests and hashes compared.
    pub digests: u64,
    /// Recorded digests that were not compared.
    #[serde(skip)]
    pub recorded: u64,
    /// Bytes of the tensors whose values were read.
    #[serde(skip)]
    pub bytes: u64,
}

/// Checks the model at `path`, continuing after an error if that is safe.
///
/// # Errors
/// There is nothing to check: the file does not exist; the manifest cannot be read, or has nothing about this model.
pub fn verify(path: &Path, options: &Options<'_>) -> Result<Verification> {
    let mut findings = Findings::collect();
    let reader = format::examine(path, &mut findings)?;
    let mut checked = Checked { structure: cut(&findings), ..Checked::default() };
    let (mut files, mut packing) = (0, None);
    if let Some(mut reader) = reader {
        if let Some(root) = options.root {
            reader = match reader.rooted(root) {
                // It may be what is damaged, which is reported.
                Err(_) if findings.errors() > 0 => reader,
                rooted => rooted?,
            };
        }
        files = reader.model().shards.len();
        checked.structure += reader.model().tensors.len() as u64;
        let detected = Packing::detect(&reader);
        packing = detected.summary(reader.model());
        // Problems of an incomplete set were already reported.
        let whole = findings.errors() == 0;
        let total = planned_bytes(&reader, options);
        let step = |bytes| options.progress.iter().for_each(|progress| progress(bytes, total));
        if options.data {
            data::check(&reader, &detected, &step, &mut checked, &mut findings)?;
            checked.digests += digests::check_recorded(&reader, &step, &mut findings)? + reader.check_checksums(&mut findings)?;
        } else {
            checked.recorded = digests::recorded(&reader).len() as u64 + reader.checksums();
        }
        if let Some(manifest) = options.manifest {
            checked.digests += digests::check_manifest(&reader, path, manifest, &step, &mut findings)?;
        }
        let inputs: Vec<_> = reader.inputs().filter(|_| options.data).cloned().collect();
        if whole {
            let reader = detected.unpack(&Arc::new(reader))?;
            let tied = check::check(reader.model(), &options.tables, &mut findings);
            if options.data {
                data::check_unpacked(&reader, &mut findings)?;
                if let Some(tied) = tied {
                    data::check_tied(&reader, tied, &mut findings)?;
                }
            }
        }
        inputs.iter().try_for_each(Input::check_unchanged)?;
    }
    let mut findings = findings.into_list();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let worst = if options.strict { Severity::Note } else { Severity::Warning };
    let ok = findings.iter().all(|finding| finding.severity <= worst);
    Ok(Verification { schema: "weigh.verify.v1", ok, checked, packing, findings, files })
}

/// Returns the number of bytes that the checks of values and digests read: tensors, files with a recorded digest, and files to compare with
/// the manifest.
fn planned_bytes(reader: &Reader, options: &Options<'_>) -> u64 {
    let values = reader.model().tensors.iter().filter(|tensor| options.data && tensor.elem.known().is_some());
    let recorded = digests::recorded(reader).into_iter().filter(|_| options.data).map(|(file, _)| file.len());
    let listed = reader.sources().iter().filter(|_| options.manifest.is_some()).map(|file| file.len());
    values.filter_map(|tensor| tensor.len_bytes).chain(recorded).chain(listed).fold(0, u64::saturating_add)
}

/// Returns the number of tensors in truncated files, which are not part of the model then.
fn cut(findings: &Findings) -> u64 {
    findings.list().iter().map(|finding| finding.tensors.len() as u64).sum()
}
