//! Safetensors: the Hugging Face format.

use std::path::Path;

use crate::base::finding::{Findings, Severity};
use crate::base::json::without_bom;
use crate::base::{Error, Result};
use crate::format::set::{ConflictRule, Part, PartName, file_names, join, missing_files_error, read_parallel};
use crate::format::{Format, Reader, codes, open_file, start_of};
use crate::model::FormatId;
use crate::source::Prefix;
use crate::source::file::{self, Input};
use crate::source::place;

mod edit;
pub(super) mod index;
mod json;
mod read;
pub mod spec;
pub mod write;

/// The format's row in [`crate::format::FORMATS`].
pub(crate) const FORMAT: Format = Format {
    id: FormatId::Safetensors,
    extensions: &["safetensors", "safetensors.index.json"],
    probe,
    open,
    layout: Some(write::layout),
    edit: Some(edit::edit),
    stores: |dtype| dtype.info().safetensors.is_some(),
};

/// Recognises a header (its length, then `{`) or an index (JSON with a weight_map).
fn probe(start: &[u8], len: u64) -> u8 {
    match start.split_first_chunk::<8>() {
        // A header longer than the file: truncated.
        Some((length, [b'{', ..])) if u64::from_le_bytes(*length) <= crate::base::limits::SAFETENSORS_HEADER_BYTES => {
            if u64::from_le_bytes(*length) <= len { 90 } else { 60 }
        }
        _ if is_json(start) && start.windows(12).any(|window| window == b"\"weight_map\"") => 80,
        _ => 0,
    }
}

/// Whether the file is a JSON object rather than weights: read as a header length, the text would be far too large.
fn is_json(start: &[u8]) -> bool {
    without_bom(start).trim_ascii_start().starts_with(b"{") && start.get(8..9) != Some(b"{")
}

const CONFLICT: ConflictRule = ConflictRule { code: codes::SET_METADATA, severity: Severity::Note, except: |_| false };

fn open(file: Prefix, findings: &mut Findings) -> Result<Reader> {
    let path = file.path().to_path_buf();
    let by_name = path.to_string_lossy().ends_with(spec::INDEX_ENDING);
    let has_neighbours = file.source().has_neighbours();
    let index = if by_name || is_json(&start_of(&file)?) {
        let alone = || Error::unsupported("the index has no weight files next to it").in_file(&path);
        Some(has_neighbours.then(|| path.clone()).ok_or_else(alone)?)
    } else {
        has_neighbours.then(|| index::index_of(&path)).flatten()
    };
    let on_disk = index.as_deref().filter(|index| !place::is_remote(index)).map(Input::of).transpose()?;
    let parts = match &index {
        Some(index) => index::read_set(index, findings)?,
        None => read_all(file, findings)?,
    };
    let mut reader = join(FORMAT.id, &path, parts, CONFLICT, findings)?;
    match (on_disk, index) {
        (Some(input), _) => reader.beside.push(input),
        (None, Some(index)) => reader.add_beside(&index),
        (None, None) => {}
    }
    Ok(reader)
}

/// Reads a single file, ignoring other files in the folder.
pub(super) fn read_one(path: &Path, findings: &mut Findings) -> Result<Part> {
    let file = open_file(path).map_err(|error| findings.fatal(codes::FILE_UNREADABLE, error))?;
    read::read(file, findings)
}

/// Reads a file that is not in an index, and the rest of its numbered set, if it belongs to one.
fn read_all(file: Prefix, findings: &mut Findings) -> Result<Vec<Part>> {
    match PartName::parse(file.path()) {
        Some(name) if name.count > 1 => read_numbered(file, &name, findings),
        _ => Ok(vec![read::read(file, findings)?]),
    }
}

/// Reads all files of a numbered set without an index. If some are missing: the existing ones if only headers are needed, otherwise only
/// the given file.
fn read_numbered(named: Prefix, name: &PartName, findings: &mut Findings) -> Result<Vec<Part>> {
    let path = named.path().to_path_buf();
    let has_neighbours = named.source().has_neighbours();
    let folder = file::parent(&path);
    let files: Vec<_> = (1..=name.count.min(crate::base::limits::SHARDS as u64)).map(|no| folder.join(name.file_name(no))).collect();
    if has_neighbours {
        place::prefetch(&files);
    }
    let (files, missing): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| *file == path || has_neighbours && place::is_file(file));
    if !missing.is_empty() {
        let error = missing_files_error(files.len() + missing.len(), &file_names(&missing)).in_file(&path);
        findings.incomplete(Severity::Error, codes::SET_INCOMPLETE, &error);
        if !findings.allows_missing() || !has_neighbours {
            return Ok(vec![read::read(named, findings)?]);
        }
    }
    let read = read_parallel(&files, findings, |file, findings| {
        let file = open_file(file).map_err(|error| findings.fatal(codes::FILE_UNREADABLE, error))?;
        read::read(file, findings)
    });
    let part = |(part, found)| {
        findings.append(found);
        part
    };
    read.into_iter().map(part).collect()
}
