//! `verify`: whether the files of a model keep the rules of their format, whether its tensors are those of its architecture, and,
//! when all of it is to be read, whether the values can be weights and the bytes are those that were published.

use std::path::Path;

use serde::Serialize;

use crate::base::Result;
use crate::base::finding::{Finding, Findings, Severity};
use crate::family::table::Tables;
use crate::format;
use crate::model::PackingSummary;
use crate::ops::{Progress, weights};
use crate::source::file::Input;
use crate::view::check;

mod data;
mod digests;
mod zeros;

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
    /// Whether a warning makes the model unsound as well.
    pub strict: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Verdict {
    schema: &'static str,
    /// Whether no finding is an error; with [`Options::strict`], whether none is a warning either.
    pub ok: bool,
    /// What was looked at.
    pub checked: Checked,
    /// Everything that was found, the worst first; otherwise in the order of the files.
    pub findings: Vec<Finding>,
    /// The packing of the weights, if they are packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<PackingSummary>,
    /// How many files were looked at.
    #[serde(skip)]
    pub files: usize,
}

/// How much was looked at; 0: not looked at.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Checked {
    /// The tensors whose place, shape and type were checked.
    pub structure: u64,
    /// The tensors of which every value was read.
    pub values: u64,
    /// The digests and hashes that were compared.
    pub digests: u64,
    /// The digests that the files were recorded under, and that were not compared.
    #[serde(skip)]
    pub recorded: u64,
    /// The bytes of the tensors whose values were read.
    #[serde(skip)]
    pub bytes: u64,
}

/// Checks the model at `path`, past the first fault where that is safe.
///
/// # Errors
/// There is nothing to examine: no such file; a manifest that cannot be read, or has nothing of this model.
pub fn verify(path: &Path, options: &Options<'_>) -> Result<Verdict> {
    let mut findings = Findings::collect();
    let reader = format::examine(path, &mut findings)?;
    let mut checked = Checked { structure: cut(&findings), ..Checked::default() };
    let (mut files, mut packing) = (0, None);
    if let Some(reader) = reader {
        files = reader.model().shards.len();
        checked.structure += reader.model().tensors.len() as u64;
        packing = weights::packing(&reader);
        // What a broken set lacks was said already.
        let whole = findings.errors() == 0;
        if options.data {
            data::check(&reader, options.progress, &mut checked, &mut findings)?;
            checked.digests += digests::check_recorded(&reader, &mut findings)?;
        } else {
            checked.recorded = digests::recorded(&reader).len() as u64;
        }
        if let Some(manifest) = options.manifest {
            checked.digests += digests::check_manifest(&reader, path, manifest, &mut findings)?;
        }
        let inputs: Vec<_> = reader.inputs().filter(|_| options.data).cloned().collect();
        if whole {
            let reader = weights::weights(reader)?;
            let tied = check::check(reader.model(), &options.tables, &mut findings);
            if options.data {
                data::check_unpacked(&reader, &mut findings);
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
    Ok(Verdict { schema: "weigh.verify.v1", ok, checked, packing, findings, files })
}

/// The tensors of files that are cut short, which are no part of the model then.
fn cut(findings: &Findings) -> u64 {
    findings.list().iter().map(|finding| finding.tensors.len() as u64).sum()
}
