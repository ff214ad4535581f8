//! GGUF: the ggml and llama.cpp format.

use crate::base::finding::Findings;
use crate::base::{Error, Result};
use crate::format::set::join;
use crate::format::{Format, Reader, codes};
use crate::model::FormatId;
use crate::source::Prefix;

pub(crate) mod check;
mod edit;
pub(crate) mod keys;
mod read;
pub mod spec;
mod split;
pub mod swap;
mod values;
pub mod write;

/// The format's row in [`crate::format::FORMATS`].
pub(crate) const FORMAT: Format = Format {
    id: FormatId::Gguf,
    extensions: &["gguf"],
    probe,
    open,
    layout: Some(write::layout),
    edit: Some(edit::edit),
    stores: |dtype| dtype.info().ggml_id.is_some(),
};

fn probe(start: &[u8], _len: u64) -> u8 {
    if start.starts_with(spec::MAGIC) { 100 } else { 0 }
}

fn open(file: Prefix, findings: &mut Findings) -> Result<Reader> {
    let path = file.path().to_path_buf();
    let parts = split::read_all(file, findings)?;
    if let [first, rest @ ..] = &parts[..]
        && let Some(other) = rest.iter().find(|part| part.endian != first.endian)
    {
        let error = Error::malformed("expected the byte order of the first part, found the opposite").in_file(other.source.path());
        return Err(findings.fatal(codes::SPLIT_CONFLICT, error));
    }
    join(FORMAT.id, &path, parts, split::CONFLICT, findings)
}
