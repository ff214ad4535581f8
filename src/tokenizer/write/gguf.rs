//! Reads the `tokenizer.*` keys of a GGUF.

use crate::base::{Error, Result, limits};
use crate::model::{Array, Metadata, ValueType};
use crate::tokenizer::keys;
use crate::tokenizer::keys::Role;
use crate::tokenizer::templates::ChatTemplates;
use crate::tokenizer::vocabulary::{ADDED_SCORE, Token, TokenType};

/// The tokenizer in a GGUF.
#[derive(Debug)]
pub(super) struct GgufTokenizer {
    pub(super) model: String,
    pub(super) pre: Option<String>,
    pub(super) architecture: String,
    pub(super) tokens: Vec<Token>,
    pub(super) merges: Vec<String>,
    pub(super) ids: Vec<(Role, u32)>,
    add: Vec<(Role, bool)>,
    pub(super) add_space_prefix: Option<bool>,
    pub(super) remove_extra_whitespaces: Option<bool>,
    pub(super) charsmap: Vec<u8>,
    pub(super) lowercase: Option<bool>,
    pub(super) strip_accents: Option<bool>,
    pub(super) templates: ChatTemplates,
    pub(super) context_length: Option<u64>,
}

impl GgufTokenizer {
    pub(super) fn read(metadata: &Metadata) -> Result<Self> {
        let model = text(metadata, keys::MODEL)?.ok_or_else(|| missing(keys::MODEL))?;
        let array = array(metadata, keys::TOKENS)?.ok_or_else(|| missing(keys::TOKENS))?;
        let mut tokens = strings(array, keys::TOKENS)?
            .into_iter()
            .map(|text| Token { text, score: 0.0, token_type: TokenType::Normal })
            .collect::<Vec<_>>();
        for (token, score) in tokens.iter_mut().zip(numbers(metadata, keys::SCORES, array.len())?) {
            token.score = score as f32;
        }
        for (token, number) in tokens.iter_mut().zip(numbers(metadata, keys::TOKEN_TYPE, array.len())?) {
            // Unknown token types are treated as normal.
            token.token_type = TokenType::from_number(number as u64).unwrap_or(TokenType::Normal);
        }
        let mut ids = Vec::new();
        let mut add = Vec::new();
        for role in Role::ALL {
            let id = role.id_key().and_then(|key| metadata.get_u64(key)).and_then(|id| u32::try_from(id).ok());
            if let Some(id) = id.filter(|id| (*id as usize) < tokens.len()) {
                ids.push((role, id));
            }
            if let Some(flag) = role.add_key().and_then(|key| flag(metadata, key)) {
                add.push((role, flag));
            }
        }
        let merges = array_of(metadata, keys::MERGES)?;
        let architecture = metadata.get_str("general.architecture").unwrap_or_default().to_owned();
        let context_length = metadata.get_u64(&format!("{architecture}.context_length"));
        Ok(Self {
            model,
            pre: text(metadata, keys::PRE)?,
            architecture,
            tokens,
            merges,
            ids,
            add,
            add_space_prefix: flag(metadata, keys::ADD_SPACE_PREFIX),
            remove_extra_whitespaces: flag(metadata, keys::REMOVE_EXTRA_WHITESPACES),
            charsmap: bytes(metadata)?,
            lowercase: flag(metadata, keys::LOWERCASE),
            strip_accents: flag(metadata, keys::STRIP_ACCENTS),
            templates: ChatTemplates::from_gguf(metadata),
            context_length,
        })
    }

    /// Whether a special token is added to every text, if specified.
    pub(super) fn adds(&self, role: Role) -> Option<bool> {
        self.add.iter().find(|(other, _)| *other == role).map(|(_, add)| *add)
    }

    pub(super) fn id(&self, role: Role) -> Option<u32> {
        self.ids.iter().find(|(other, _)| *other == role).map(|(_, id)| *id)
    }

    /// Returns the token with a role.
    pub(super) fn token(&self, role: Role) -> Option<&Token> {
        self.tokens.get(self.id(role)? as usize)
    }

    /// Whether scores are meaningful: for SentencePiece-style BPE from `tokenizer.json`, all are equal.
    pub(super) fn has_scores(&self) -> bool {
        self.tokens.iter().any(|token| token.token_type == TokenType::Normal && token.score != 0.0 && token.score != ADDED_SCORE)
    }

    /// Returns the vocabulary size without padding and without added tokens at the end.
    pub(super) fn base_len(&self, is_added: impl Fn(&Token) -> bool) -> usize {
        let is_filler = |(id, token): &(usize, &Token)| token.is_padding(*id) || is_added(token);
        self.tokens.len() - self.tokens.iter().enumerate().rev().take_while(is_filler).count()
    }
}

fn missing(key: &str) -> Error {
    Error::malformed(format!("expected a GGUF with a tokenizer, found no {key}"))
}

fn wrong(key: &str, expected: &str, found: ValueType) -> Error {
    Error::malformed(format!("expected {key} to be {expected}, found {found}"))
}

fn text(metadata: &Metadata, key: &str) -> Result<Option<String>> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    value.as_str().map(|text| Some(text.to_owned())).ok_or_else(|| wrong(key, "a string", value.value_type()))
}

fn flag(metadata: &Metadata, key: &str) -> Option<bool> {
    metadata.get(key)?.as_bool()
}

fn array<'a>(metadata: &'a Metadata, key: &str) -> Result<Option<&'a Array>> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    let array = value.as_array().ok_or_else(|| wrong(key, "an array", value.value_type()))?;
    if array.len() > limits::VOCABULARY {
        return Err(Error::limit(format!("expected at most {} values in {key}, found {}", limits::VOCABULARY, array.len())));
    }
    Ok(Some(array))
}

fn strings(array: &Array, key: &str) -> Result<Vec<String>> {
    if array.elem() != ValueType::String {
        return Err(wrong(key, "an array of strings", array.elem()));
    }
    let mut texts = Vec::new();
    array.for_each_str(|_, text| {
        texts.push(text.to_owned());
        Ok(())
    })?;
    Ok(texts)
}

fn array_of(metadata: &Metadata, key: &str) -> Result<Vec<String>> {
    array(metadata, key)?.map_or(Ok(Vec::new()), |array| strings(array, key))
}

/// Reads an array with one number per token; empty if the key is missing.
fn numbers(metadata: &Metadata, key: &str, len: u64) -> Result<Vec<f64>> {
    let Some(array) = array(metadata, key)? else { return Ok(Vec::new()) };
    if array.len() != len {
        return Err(Error::malformed(format!("expected {len} values in {key}, one for each token, found {}", array.len())));
    }
    let number = |value: Result<crate::model::Value>| {
        let value = value?;
        value.as_f64().ok_or_else(|| wrong(key, "an array of numbers", value.value_type()))
    };
    array.iter().map(number).collect()
}

fn bytes(metadata: &Metadata) -> Result<Vec<u8>> {
    let key = keys::PRECOMPILED_CHARSMAP;
    let Some(array) = metadata.get(key).and_then(|value| value.as_array()) else { return Ok(Vec::new()) };
    array
        .iter()
        .map(|value| match value? {
            crate::model::Value::U8(byte) => Ok(byte),
            crate::model::Value::I8(byte) => Ok(byte as u8),
            other => Err(wrong(key, "an array of bytes", other.value_type())),
        })
        .collect()
}
