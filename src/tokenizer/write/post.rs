//! The post-processor of `tokenizer.json`: special tokens around texts, from the GGUF flags.

use serde_json::{Map, Value, json};

use super::Config;
use super::gguf::GgufTokenizer;
use crate::tokenizer::keys::Role;

/// Text and ID of a token around a text.
type Part<'a> = (&'a str, u32);

/// Returns the post-processor for the flags of a GGUF. Flags that it cannot express go to the config.
pub(super) fn processor(tokenizer: &GgufTokenizer, byte_level: bool, config: &mut Config) -> Value {
    let part = |role: Role| tokenizer.token(role).zip(tokenizer.id(role)).map(|(token, id)| (token.text.as_str(), id));
    let adds = |role: Role| tokenizer.adds(role) == Some(true);
    let first = part(Role::Bos).filter(|_| adds(Role::Bos));
    let last = part(Role::Eos).filter(|_| adds(Role::Eos));
    let separator = part(Role::Sep).or_else(|| part(Role::Eos));

    // The tokens between two texts show whether a separator is added.
    let between: Option<Vec<Part<'_>>> = match tokenizer.adds(Role::Sep) {
        None => Some(Vec::new()),
        Some(false) => last.and(separator).or(first).map(|token| vec![token]),
        Some(true) => separator.map(|token| if last.is_some() { vec![token, token] } else { vec![token] }),
    };
    let byte_level = byte_level && tokenizer.adds(Role::Bos).is_some() && tokenizer.adds(Role::Eos).is_some();
    let template = (first.is_some() || last.is_some()).then(|| template(first, last, between.as_deref().unwrap_or_default()));

    // The flags that the post-processor implies, and the remaining ones.
    let told = |role: Role| match role {
        Role::Bos => byte_level || first.is_some(),
        Role::Eos => byte_level || last.is_some(),
        _ => template.is_some() && between.as_ref().is_some_and(|between| !between.is_empty()),
    };
    let flags = [Role::Bos, Role::Eos].map(|role| (role, tokenizer.adds(role)));
    if flags.iter().any(|(role, add)| add.is_some() && !told(*role)) {
        // If the config contains one of the two flags, transformers applies both.
        for (role, add) in flags {
            config.set(&format!("add_{}_token", role.name()), add.unwrap_or(false));
        }
    }
    if let Some(add) = tokenizer.adds(Role::Sep).filter(|_| !told(Role::Sep)) {
        config.set("add_sep_token", add);
    }

    let bytes = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
    match (byte_level, template) {
        (true, Some(template)) => json!({"type": "Sequence", "processors": [bytes, template]}),
        (true, None) => bytes,
        (false, template) => template.unwrap_or(Value::Null),
    }
}

fn template(first: Option<Part<'_>>, last: Option<Part<'_>>, between: &[Part<'_>]) -> Value {
    let special = |(text, _): Part<'_>, text_id: u32| json!({"SpecialToken": {"id": text, "type_id": text_id}});
    let sequence = |name: &str, text_id: u32| json!({"Sequence": {"id": name, "type_id": text_id}});
    let mut single: Vec<Value> = first.iter().map(|part| special(*part, 0)).collect();
    single.push(sequence("A", 0));
    let mut pair = single.clone();
    pair.extend(between.iter().map(|part| special(*part, 0)));
    pair.push(sequence("B", 1));
    single.extend(last.map(|part| special(part, 0)));
    pair.extend(last.map(|part| special(part, 1)));
    let all = first.iter().chain(&last).chain(between);
    let tokens: Map<String, Value> =
        all.map(|(text, id)| ((*text).to_owned(), json!({"id": text, "ids": [id], "tokens": [text]}))).collect();
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
}
