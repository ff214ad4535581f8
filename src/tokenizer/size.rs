//! The number of embedding rows that a tokenizer needs.

use std::path::Path;

use super::files::Folder;
use super::json::TokenizerJson;
use super::{JSON, spm};
use crate::base::Result;

/// Returns the largest token ID of the folder's tokenizer; `None` if it has none of a known format.
///
/// # Errors
/// A file of the tokenizer is malformed.
pub fn largest_id(path: &Path) -> Result<Option<u64>> {
    let folder = Folder::new(path);
    if let Some(json) = folder.json::<TokenizerJson>(JSON)? {
        let added = json.added_tokens.iter().map(|token| token.id);
        return Ok(json.model.vocab.ids().map(|(_, id)| id).chain(added).max().map(u64::from));
    }
    let Some(model) = spm::read_model(folder)? else { return Ok(None) };
    let added = folder.object("added_tokens.json")?.unwrap_or_default();
    let added = added.values().filter_map(serde_json::Value::as_u64);
    Ok((0..model.pieces.len() as u64).chain(added).max())
}
