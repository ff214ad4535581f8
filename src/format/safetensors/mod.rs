//! Safetensors: the format of the Hugging Face hub.

use std::sync::Arc;

use crate::base::file;
use crate::base::finding::{Findings, Severity};
use crate::base::mmap::Map;
use crate::base::{Error, Result};
use crate::format::set::{Conflict, Part, PartName, join, read_beside};
use crate::format::{Format, Reader, codes};

mod edit;
mod index;
mod json;
mod read;
pub mod spec;
pub mod write;

/// The format's row in [`crate::format::FORMATS`].
pub(crate) const FORMAT: Format = Format {
    id: "safetensors",
    extensions: &["safetensors", "safetensors.index.json"],
    probe,
    open,
    layout: Some(write::layout),
    edit: Some(edit::edit),
    stores: |dtype| dtype.info().safetensors.is_some(),
};

/// A file starts with the length of its header, and the header with `{`; an index is JSON with a weight_map.
fn probe(start: &[u8], len: u64) -> u8 {
    match start.split_first_chunk::<8>() {
        Some((length, [b'{', ..])) if u64::from_le_bytes(*length) <= len.min(crate::base::limits::SAFETENSORS_HEADER_BYTES) => 90,
        _ if is_json(start) && start.windows(12).any(|window| window == b"\"weight_map\"") => 80,
        _ => 0,
    }
}

/// Whether the text is an object in JSON. A file of weights is not: as the length of a header it would be far too long.
fn is_json(start: &[u8]) -> bool {
    start.trim_ascii_start().starts_with(b"{") && start.get(8..9) != Some(b"{")
}

const CONFLICT: Conflict = Conflict { code: codes::SET_METADATA, severity: Severity::Note, except: |_| false };

fn open(file: Arc<Map>, findings: &mut Findings) -> Result<Reader> {
    join(FORMAT.id, file.path(), read_all(&file, findings)?, CONFLICT, findings)
}

/// Reads one file by itself, whatever lies beside it.
pub(super) fn read_one(path: &std::path::Path, findings: &mut Findings) -> Result<Part> {
    let map = Map::open(path).map_err(|error| findings.fatal(codes::FILE_UNREADABLE, error))?;
    read::read(&Arc::new(map), findings)
}

fn read_all(file: &Arc<Map>, findings: &mut Findings) -> Result<Vec<Part>> {
    let path = file.path();
    if path.to_string_lossy().ends_with(spec::INDEX_ENDING) {
        return index::read_set(path, findings);
    }
    let bytes = file.bytes();
    if is_json(bytes.get(..super::START_BYTES).unwrap_or(bytes)) {
        return index::read_set(path, findings);
    }
    if let Some(index) = index::index_of(path) {
        return index::read_set(&index, findings);
    }
    match PartName::of(path) {
        Some(name) if name.count > 1 => read_numbered(file, &name, findings),
        _ => Ok(vec![read::read(file, findings)?]),
    }
}

/// Reads all files of a numbered set without an index; if one is missing, the one that was named by itself.
fn read_numbered(named: &Arc<Map>, name: &PartName, findings: &mut Findings) -> Result<Vec<Part>> {
    let path = named.path();
    let folder = file::parent(path);
    let files: Vec<_> = (1..=name.count.min(crate::base::limits::SHARDS as u64)).map(|no| folder.join(name.file_of(no))).collect();
    let missing = files.iter().filter(|file| !file.is_file()).count();
    if missing > 0 {
        let message = format!("expected {} files, as the name of this one says, found {missing} of them missing", name.count);
        findings.remark(Severity::Warning, codes::SET_INCOMPLETE, Error::malformed(message).in_file(path));
        return Ok(vec![read::read(named, findings)?]);
    }
    let read = read_beside(&files, findings, |file, findings| {
        let map = Map::open(file).map_err(|error| findings.fatal(codes::FILE_UNREADABLE, error))?;
        read::read(&Arc::new(map), findings)
    });
    let part = |(part, found)| {
        findings.append(found);
        part
    };
    read.into_iter().map(part).collect()
}
