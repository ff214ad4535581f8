//! One file of a checkpoint, of any kind.

use crate::base::finding::{Findings, Severity};
use crate::base::{Error, Result};
use crate::format::pytorch::{archive, legacy, tar};
use crate::format::set::Part;
use crate::format::{codes, start_of};
use crate::source::Prefix;

/// Reads a single file, ignoring other files in the folder.
pub(crate) fn read(file: Prefix, findings: &mut Findings) -> Result<Part> {
    let start = start_of(&file)?.into_owned();
    let source = file.into_source();
    let mut part = if start.starts_with(b"PK") {
        archive::read(&source, findings)?
    } else if tar::is_tar(&start) {
        tar::read(&source, findings)?
    } else {
        legacy::read(&source, findings)?
    };
    part.tensors.sort_by_key(|tensor| tensor.offset_bytes);
    part.check_truncated(codes::PT_TRUNCATED, findings)?;
    if findings.collects() {
        for unread in part.checkpoint.iter().flat_map(|checkpoint| &checkpoint.unread) {
            let error = Error::unsupported(format!("its values are not read: {}", unread.reason));
            findings.remark(Severity::Note, codes::PT_UNREAD, error.in_tensor(&unread.name).in_file(source.path()));
        }
    }
    Ok(part)
}
