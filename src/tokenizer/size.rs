//! The number of embedding rows that a tokenizer needs, and the IDs of its added tokens.

use std::path::Path;

use serde_json::Value;

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

/// Returns the added tokens of the folder's tokenizer with their IDs: those of tokenizer_config.json, of tokenizer.json, and of tekken.json.
///
/// # Errors
/// A file of the tokenizer is malformed.
pub fn added_ids(path: &Path) -> Result<Vec<(String, u64)>> {
    let folder = Folder::new(path);
    let mut found = Vec::new();
    for (file, section, text, id) in
        [("tokenizer_config.json", "added_tokens_decoder", "content", ""), ("tekken.json", "special_tokens", "token_str", "rank")]
    {
        let Some(object) = folder.object(file)? else { continue };
        let number = |key: &str, token: &Value| key.parse().ok().or_else(|| token.get(id)?.as_u64());
        let row = |key: &str, token: &Value| Some((token.get(text)?.as_str()?.to_owned(), number(key, token)?));
        match object.get(section) {
            Some(Value::Object(tokens)) => found.extend(tokens.iter().filter_map(|(key, token)| row(key, token))),
            Some(Value::Array(tokens)) => found.extend(tokens.iter().filter_map(|token| row("", token))),
            _ => {}
        }
    }
    let json = folder.json::<TokenizerJson>(JSON)?;
    let own = json.iter().flat_map(|json| &json.added_tokens);
    found.extend(own.map(|token| (token.content.clone(), u64::from(token.id))));
    Ok(found)
}
