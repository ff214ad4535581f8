//! Checkpoints of PyTorch: zip archives of today, files from before 1.6, tar archives from before 0.1.10, and bare pickles. They are parsed
//! and never executed: a checkpoint that would run something opens as any other, and `verify` says what it would run.

use crate::base::Result;
use crate::base::finding::{Findings, Severity};
use crate::base::json::without_bom;
use crate::format::safetensors::index;
use crate::format::set::{ConflictRule, join};
use crate::format::{Format, Reader, codes, start_of};
use crate::model::FormatId;
use crate::source::Prefix;

mod archive;
mod callables;
mod dcp;
mod deepspeed;
pub(crate) mod file;
mod legacy;
mod part;
mod pickle;
mod quantised;
pub(crate) mod scan;
mod sparse;
pub(crate) mod spec;
mod tar;
mod tensors;
mod view;

/// The format's row in [`crate::format::FORMATS`].
pub(crate) const FORMAT: Format = Format {
    id: FormatId::PyTorch,
    extensions: &["pt", "pth", "bin", "ckpt", "pkl", "bin.index.json"],
    probe,
    open,
    layout: None,
    edit: None,
    stores: |dtype| dtype.info().safetensors.is_some_and(|name| !name.starts_with("F6")),
};

/// Recognises a zip archive, a pickle with a protocol, a tar archive, or an index of such.
fn probe(start: &[u8], _: u64) -> u8 {
    match start {
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => 90,
        [0x80, 2..=5, ..] => 85,
        _ if tar::is_tar(start) => 80,
        _ if is_index(start) => 85,
        _ => 0,
    }
}

/// Whether the file is an index whose files are checkpoints.
fn is_index(start: &[u8]) -> bool {
    let has = |text: &[u8]| start.windows(text.len()).any(|window| window == text);
    without_bom(start).trim_ascii_start().starts_with(b"{")
        && has(b"\"weight_map\"")
        && (has(b".bin\"") || has(b".pt\""))
        && !has(b".safetensors\"")
}

const CONFLICT: ConflictRule = ConflictRule { code: codes::SET_METADATA, severity: Severity::Note, except: |_| false };

fn open(file: Prefix, findings: &mut Findings) -> Result<Reader> {
    let path = file.path().to_path_buf();
    let file = dcp::metadata_of(&file)?.unwrap_or(file);
    if file.path().file_name().is_some_and(|name| name == spec::DCP_METADATA) {
        let source = file.source();
        let whence = scan::Whence { path: source.path(), entry: None, in_file: true };
        let parsed = pickle::parse(source, 0, source.len());
        let metadata = parsed.map_err(|error| scan::damaged(error, source, 0..source.len(), &whence, findings))?;
        if dcp::is_metadata(&metadata) {
            let parts = dcp::read(source, &metadata, findings)?;
            let mut reader = join(FORMAT.id, &path, parts, CONFLICT, findings)?;
            reader.beside.extend(source.file().cloned());
            return Ok(reader);
        }
    }
    if file.source().file().is_some() && deepspeed::is_of_set(&path) {
        let parts = deepspeed::read(&path, findings)?;
        return join(FORMAT.id, &path, parts, CONFLICT, findings);
    }
    let is_index = is_index(&start_of(&file)?);
    index::open(FORMAT.id, file, is_index, spec::INDEX_ENDING, file::read, CONFLICT, findings)
}
