//! The vocabulary of a folder with `tokenizer.json` (or `vocab.json`, `vocab.txt`).

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::added::Added;
use super::files::Folder;
use super::json::{TokenizerJson, Vocab};
use super::special::token_text;
use super::vocabulary::{ADDED_SCORE, Token, TokenType, is_written_padding, looks_special};
use super::{bytes, setting};
use crate::base::{Error, Result};

/// The inputs of a vocabulary.
pub(super) struct Parts<'a> {
    pub(super) folder: Folder<'a>,
    /// `tokenizer.json`, if present.
    pub(super) json: Option<&'a TokenizerJson>,
    pub(super) vocab: &'a Vocab,
    pub(super) tokenizer_config: Option<&'a Map<String, Value>>,
    pub(super) config: &'a Value,
}

impl<'a> Parts<'a> {
    fn added(&self) -> Result<Added> {
        let ids: HashMap<&str, u32> = self.vocab.ids().collect();
        Added::read(self.folder, self.json, &ids, self.tokenizer_config, self.config)
    }

    fn decoder(&self) -> &Value {
        self.json.map_or(&Value::Null, |json| &json.decoder)
    }

    /// Returns the text of each ID; added tokens take precedence.
    fn by_id(&'a self, added: &'a Added) -> Result<Vec<Option<&'a str>>> {
        let all = || self.vocab.ids().chain(added.tokens.iter().map(|token| (token.content.as_str(), token.id)));
        let len = all().map(|(_, id)| u64::from(id) + 1).max().unwrap_or(0);
        let mut texts = vec![None; super::vocabulary_size(len, self.folder)?];
        for (text, id) in all() {
            texts[id as usize] = Some(text);
        }
        Ok(texts)
    }

    /// Returns the tokens of byte-level BPE or WordPiece, padded to the vocabulary size in the config.
    pub(super) fn plain_tokens(&self) -> Result<Vec<Token>> {
        let added = self.added()?;
        let texts = self.by_id(&added)?;
        let size = match setting(self.config, "vocab_size") {
            Some(size) => super::vocabulary_size(size, self.folder)?,
            None => texts.len(),
        };
        if let Some(Some(text)) = texts.get(size..).and_then(<[_]>::last) {
            let last = texts.len() - 1;
            return Err(Error::malformed(format!(
                "expected token ids below the vocabulary size of {size} that config.json gives, found {last} (\"{text}\")"
            ))
            .in_file(self.folder.path()));
        }
        let token = |id: usize| match texts.get(id).copied().flatten() {
            None => Token::padding(id),
            Some(text) => match added.get(text) {
                None => Token { text: text.to_owned(), score: 0.0, token_type: TokenType::Normal },
                Some(token) => {
                    let text = if token.normalized { text.to_owned() } else { decoded(text, self.decoder()) };
                    if token.special || looks_special(&text) {
                        Token { text, score: 0.0, token_type: TokenType::Control }
                    } else {
                        Token { text: text.replace('\u{2581}', " "), score: 0.0, token_type: TokenType::UserDefined }
                    }
                }
            },
        };
        Ok((0..size).map(token).collect())
    }

    /// Returns the tokens of SentencePiece-style BPE, all with the same score and without merges in GGUF.
    pub(super) fn scoreless_tokens(&self) -> Result<Vec<Token>> {
        let added = self.added()?;
        let base = self.vocab.len();
        let mut tokens = Vec::new();
        for (id, text) in self.by_id(&added)?.into_iter().enumerate() {
            let text = text.ok_or_else(|| {
                Error::malformed(format!("expected a token for every id, found none for {id}")).in_file(&self.folder.file(super::JSON))
            })?;
            let token_type = match text {
                _ if id < base && is_byte(text) => TokenType::Byte,
                _ if added.special.contains(text) => TokenType::Control,
                _ if id < base => TokenType::Normal,
                _ => TokenType::UserDefined,
            };
            tokens.push(Token { text: text.to_owned(), score: ADDED_SCORE, token_type });
        }
        Ok(tokens)
    }

    /// Returns the tokens of Unigram with their scores.
    pub(super) fn unigram_tokens(&self) -> Result<Vec<Token>> {
        let Vocab::Scores(pieces) = self.vocab else {
            return Err(
                Error::malformed("expected a list of tokens with scores in a Unigram model").in_file(&self.folder.file(super::JSON))
            );
        };
        let added = self.added()?;
        let unk_name = self.tokenizer_config.and_then(|config| config.get("unk_token")).and_then(token_text);
        let unk = unk_name.and_then(|name| added.get(name)).map(|token| token.id);
        let unk = unk.or_else(|| self.json.and_then(|json| json.model.unk_id)).unwrap_or(3);
        let byte_fallback = self.json.is_some_and(|json| json.model.byte_fallback == Some(true));
        let size = setting(self.config, "vocab_size").unwrap_or(0).max(pieces.len() as u64);
        let size = super::vocabulary_size(size, self.folder)?;
        let token = |id: usize| match pieces.get(id) {
            None => Token::padding(id),
            Some((text, score)) => {
                let token_type = match text {
                    _ if is_written_padding(text, *score as f32) => TokenType::Unused,
                    _ if id as u64 == u64::from(unk) => TokenType::Unknown,
                    text if added.special.contains(text) => TokenType::Control,
                    text if added.get(text).is_some() => TokenType::UserDefined,
                    text if byte_fallback && is_byte(text) => TokenType::Byte,
                    _ => TokenType::Normal,
                };
                Token { text: text.clone(), score: *score as f32, token_type }
            }
        };
        Ok((0..size).map(token).collect())
    }
}

/// Whether a token represents a single byte: `<0x0A>`.
pub(super) fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|text| text.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// Decodes a single token. Decoder steps that do not affect added tokens in practice are not implemented.
fn decoded(text: &str, decoder: &Value) -> String {
    let field = |key: &str| decoder.get(key).and_then(Value::as_str);
    match field("type").unwrap_or_default() {
        "Sequence" => {
            let steps = decoder.get("decoders").and_then(Value::as_array);
            steps.into_iter().flatten().fold(text.to_owned(), |text, step| decoded(&text, step))
        }
        "ByteLevel" => bytes::decode(text).map_or_else(|| text.to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned()),
        "Replace" => {
            let pattern = decoder.get("pattern").and_then(|pattern| pattern.get("String")).and_then(Value::as_str);
            match (pattern, field("content")) {
                (Some(pattern), Some(content)) if !pattern.is_empty() => text.replace(pattern, content),
                _ => text.to_owned(),
            }
        }
        "Strip" => {
            let content = field("content").and_then(|content| content.chars().next());
            let most = |key: &str| decoder.get(key).and_then(Value::as_u64).unwrap_or(0);
            let mut text = text;
            if let Some(content) = content {
                for _ in 0..most("start") {
                    let Some(rest) = text.strip_prefix(content) else { break };
                    text = rest;
                }
                for _ in 0..most("stop") {
                    let Some(rest) = text.strip_suffix(content) else { break };
                    text = rest;
                }
            }
            text.to_owned()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn byte_tokens_are_recognised() {
        assert!(is_byte("<0x0A>") && is_byte("<0xfF>"));
        assert!(!is_byte("<0x0>") && !is_byte("<0xGG>") && !is_byte("0x0A"));
    }

    #[test]
    fn a_single_token_decodes_as_in_a_text() {
        assert_eq!(decoded("<|im_end|>", &json!({"type": "ByteLevel"})), "<|im_end|>");
        assert_eq!(decoded("Ġa", &json!({"type": "ByteLevel"})), " a");
        assert_eq!(decoded("ab", &json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"})), "ab");
        assert_eq!(decoded("<｜end▁x｜>", &json!({"type": "ByteLevel"})), "<｜end▁x｜>");
        let spm = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        assert_eq!(decoded("▁▁x", &spm), " x");
    }
}
