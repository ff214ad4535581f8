//! Mistral's own tokenizer files: `tekken.json`, or a SentencePiece model with the version in its name.

use serde_json::{Value as Json, json};

use super::tekken::{self, Tekken};
use super::vocabulary::{Token, TokenType};
use super::{Build, bytes, keys, pre, spm};
use crate::base::{Error, Result};
use crate::model::{Array, Value};
use crate::source::place;
use crate::tokenizer::keys::Role;

/// llama.cpp's built-in chat templates by name, for SentencePiece and tekken versions.
const TEMPLATES: [(&str, bool, &str); 5] = [
    ("v1", false, "mistral-v1"),
    ("v3", false, "mistral-v3"),
    ("v7", false, "mistral-v7"),
    ("v3", true, "mistral-v3-tekken"),
    ("v7", true, "mistral-v7-tekken"),
];

impl Build<'_> {
    pub(super) fn versioned(&mut self) -> Result<()> {
        let (file, version) = self.versioned_model()?.ok_or_else(|| self.missing(&[tekken::FILE, spm::FILE, "tokenizer.model.v3"]))?;
        let model = self.folder.pieces(&file)?.ok_or_else(|| self.missing(&[&file]))?;
        let mut tokens = model.pieces;
        for token in &mut tokens {
            if token.token_type == TokenType::UserDefined {
                token.token_type = TokenType::Normal;
            }
        }
        self.out.set(keys::MODEL, Value::String("llama".to_owned()));
        let ids = model.ids;
        self.own_ids([(Role::Bos, ids.bos), (Role::Eos, ids.eos), (Role::Unk, ids.unk), (Role::Pad, ids.pad.or(ids.eos))]);
        self.vocabulary(tokens, true);
        self.own_end(&version, false)
    }

    /// Returns the name and version of the latest SentencePiece model: `tokenizer.model`, `tokenizer.model.v3`, `x.model.v7m1`.
    fn versioned_model(&self) -> Result<Option<(String, String)>> {
        let entries = place::entries(self.folder.path())?;
        let versioned = entries.iter().filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            Some((name.to_owned(), model_version(name)?.to_owned()))
        });
        Ok(versioned.max())
    }

    pub(super) fn tekken(&mut self) -> Result<()> {
        let in_file = |error: Error| error.in_file(&self.folder.file(tekken::FILE));
        let tekken = Tekken::read(self.folder)?.ok_or_else(|| self.missing(&[tekken::FILE]))?;
        let ranked = tekken.ranked().map_err(in_file)?;
        let texts: Vec<String> = ranked.iter().map(|token| bytes::encode(token)).collect();
        let merges = tekken::merges(&ranked, &texts).map_err(in_file)?;
        let steps = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": tekken.config.pattern}, "behavior": "Isolated"},
            {"type": "ByteLevel", "use_regex": false}]});
        let pre = match &self.options.pre {
            Some(pre) => pre,
            None => pre::name(&Json::Null, &steps, true, &[]).map_err(in_file)?,
        };
        let pre = pre.to_owned();
        let special = tekken.special_tokens();
        let id = |text: &str| special.iter().position(|token| token == text).and_then(|id| u32::try_from(id).ok());
        let roles = [(Role::Bos, id("<s>")), (Role::Eos, id("</s>")), (Role::Unk, id("<unk>")), (Role::Pad, id("<pad>").or(id("</s>")))];
        self.head("gpt2", &pre);
        self.out.set(keys::MERGES, Value::Array(Array::packed_strings(merges)));
        self.own_ids(roles);
        let mut tokens: Vec<Token> = special.into_iter().map(|text| Token { text, score: 0.0, token_type: TokenType::Control }).collect();
        tokens.extend(texts.into_iter().map(|text| Token { text, score: 0.0, token_type: TokenType::Normal }));
        let len = tokens.len();
        self.vocabulary(tokens, false);
        // The reference converter writes integers here, before the types.
        let types = self.out.remove(keys::TOKEN_TYPE);
        self.out.set(keys::SCORES, Value::Array(Array::i32s((0..len).map(|_| 0))));
        if let Some(types) = types {
            self.out.set(keys::TOKEN_TYPE, types);
        }
        self.own_end(&tekken.config.version, true)
    }

    fn own_ids(&mut self, ids: [(Role, Option<u32>); 4]) {
        for (role, id) in ids {
            if let (Some(key), Some(id)) = (role.id_key(), id) {
                self.out.set(key, Value::U32(id));
            }
        }
    }

    /// Writes the keys after the tokens.
    fn own_end(&mut self, version: &str, tekken: bool) -> Result<()> {
        self.out.set("vocab_size", Value::U32(u32::try_from(self.tokens).unwrap_or(u32::MAX)));
        for (role, add) in [(Role::Bos, true), (Role::Eos, false)] {
            if let Some(key) = role.add_key() {
                self.out.set(key, Value::Bool(add));
            }
        }
        let built_in = TEMPLATES.iter().find(|row| (row.0, row.1) == (version, tekken)).map(|row| row.2.to_owned());
        match self.folder.text("chat_template.jinja")?.or(built_in) {
            Some(template) => {
                self.out.set(keys::CHAT_TEMPLATE, Value::String(template));
            }
            None => {
                self.notes.push(format!("there is no chat_template.jinja, and llama.cpp has no built-in template for version {version}"))
            }
        }
        Ok(())
    }
}

/// Returns the version in the name of a SentencePiece model, `v1` by default.
fn model_version(name: &str) -> Option<&str> {
    let (_, suffix) = name.split_once('.')?;
    let version = match suffix.strip_prefix("model")? {
        "" => return Some("v1"),
        rest => rest.strip_prefix('.')?,
    };
    let (text, modes) = version.split_once('m').unwrap_or((version, "1"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    (text.strip_prefix('v').is_some_and(is_number) && is_number(modes)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_parsed_from_the_model_name() {
        assert_eq!(model_version("tokenizer.model"), Some("v1"));
        assert_eq!(model_version("tokenizer.model.v3"), Some("v3"));
        assert_eq!(model_version("mistral_instruct_tokenizer_241114.model.v7m1"), Some("v7"));
        for other in ["tokenizer.json", "model", "tokenizer.model.3", "tokenizer.model.v3m", "tokenizer.modelv3", "a.model.old"] {
            assert_eq!(model_version(other), None, "{other}");
        }
    }
}
