//! Safetensors: the Hugging Face format.

use crate::base::Result;
use crate::base::finding::{Findings, Severity};
use crate::base::json::without_bom;
use crate::format::set::ConflictRule;
use crate::format::{Format, Reader, codes, start_of};
use crate::model::FormatId;
use crate::source::Prefix;

mod edit;
pub(super) mod index;
mod json;
mod read;
pub mod spec;
pub mod write;

pub(super) use read::read as read_file;

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
    let is_index = by_name || is_json(&start_of(&file)?);
    index::open(FORMAT.id, file, is_index, spec::INDEX_ENDING, read::read, CONFLICT, findings)
}
