//! How an embedding model of sentence-transformers sums up its tokens: modules.json and the pooling module's config.

use std::path::Path;

use serde_json::{Value as Json, json};

use crate::arch::draft::{CompanionFile, Content};
use crate::arch::folder;
use crate::base::{Error, Result};
use crate::model::{Metadata, Value};

/// Name, key of the pooling module's config, and number in GGUF (`enum llama_pooling_type`).
const KINDS: [(&str, &str, u32); 3] =
    [("mean", "pooling_mode_mean_tokens", 1), ("cls", "pooling_mode_cls_token", 2), ("lasttoken", "pooling_mode_lasttoken", 3)];

/// Adds `pooling_type`, if the folder has a pooling module.
///
/// # Errors
/// The module's config cannot be read, or says a sort of pooling that GGUF has no number for.
pub fn to_gguf(architecture: &str, folder: Option<&Path>, metadata: &mut Metadata) -> Result<()> {
    let Some(folder) = folder else { return Ok(()) };
    let Some(Json::Array(modules)) = folder::json(&folder.join("modules.json"))? else { return Ok(()) };
    let pooling = modules.iter().find(|module| module.get("type").and_then(Json::as_str).is_some_and(|kind| kind.ends_with("Pooling")));
    let Some(path) = pooling.and_then(|module| module.get("path")).and_then(Json::as_str) else { return Ok(()) };
    let path = Path::new(path);
    if path.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        return Err(Error::malformed(format!("expected a path inside the folder, found {}", path.display())));
    }
    let file = folder.join(path).join("config.json");
    let Some(config) = folder::json(&file)? else {
        return Err(Error::malformed("expected the pooling module to have a config, found none").in_file(&file));
    };
    let is = |key: &str| config.get(key).and_then(Json::as_bool) == Some(true);
    let mode = config.get("pooling_mode").and_then(Json::as_str);
    let number = KINDS.iter().find(|(_, key, _)| is(key)).or_else(|| KINDS.iter().find(|(name, ..)| Some(*name) == mode));
    let Some((_, _, number)) = number else {
        return Err(Error::unsupported("expected mean, cls or last-token pooling, found another sort").in_file(&file));
    };
    metadata.set(format!("{architecture}.pooling_type"), Value::U32(*number));
    Ok(())
}

/// The files that make a folder one of sentence-transformers, if the GGUF says how it pools.
pub fn to_files(architecture: &str, metadata: &Metadata, embedding: Option<&Json>) -> Vec<CompanionFile> {
    let number = metadata.get_u64(&format!("{architecture}.pooling_type"));
    let Some((_, chosen, _)) = KINDS.iter().find(|(.., kind)| Some(u64::from(*kind)) == number) else { return Vec::new() };
    let mut config = json!({ "word_embedding_dimension": embedding });
    for (_, key, _) in KINDS {
        config[key] = json!(key == *chosen);
    }
    let modules = json!([
        { "idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer" },
        { "idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling" },
    ]);
    [("modules.json", modules), ("1_Pooling/config.json", config)]
        .into_iter()
        .map(|(name, value)| CompanionFile { name: name.to_owned(), content: Content::Bytes(folder::to_json(&value)) })
        .collect()
}
