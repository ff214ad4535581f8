//! Converts the `tokenizer.*` keys of a GGUF to the files of a Hugging Face folder.
//!
//! Settings that a GGUF does not contain are chosen according to pre-tokenizer and architecture; the tokens' `lstrip` and `rstrip` flags
//! are lost.

use serde_json::{Map, Value, json};

use super::json::AddedToken;
use super::keys::Role;
use super::templates::ChatTemplates;
use super::vocabulary::{ADDED_SCORE, Token, TokenType};
use super::{JSON, bytes, plamo, rwkv, spm, unigram};
use crate::base::{Error, Hint, Result};
use crate::model::Metadata;
use crate::model::companion::{CompanionFile, Content};

mod gguf;
mod post;
mod sentencepiece;
mod tokenizer_json;

use gguf::GgufTokenizer;

/// Returns the tokenizer files for transformers from the `tokenizer.*` keys in `metadata`.
///
/// `pre`: the pre-tokenizer name (`--pre`), overriding the GGUF's.
///
/// # Errors
/// There is no tokenizer, its keys are inconsistent, or its model or pre-tokenizer is unknown.
pub fn write(metadata: &Metadata, pre: Option<&str>) -> Result<Vec<CompanionFile>> {
    let mut tokenizer = GgufTokenizer::read(metadata)?;
    if let Some(pre) = pre {
        tokenizer.pre = Some(pre.to_owned());
    }
    let mut files = Vec::new();
    let mut config = Config::default();
    match tokenizer.model.as_str() {
        "llama" if tokenizer.has_scores() => {
            files.push(file(spm::FILE, sentencepiece::model(&tokenizer).write()));
            sentencepiece::configure(&tokenizer, &mut config);
        }
        "llama" => files.push(json_file(JSON, &tokenizer_json::sentencepiece_style(&tokenizer, &mut config)?)?),
        "gemma4" => files.push(json_file(JSON, &tokenizer_json::gemma4(&tokenizer, &mut config, "GemmaTokenizer")?)?),
        "gpt2" | "whitespace" => files.push(json_file(JSON, &tokenizer_json::byte_level(&tokenizer, &mut config)?)?),
        "bert" => {
            let (json, vocab) = tokenizer_json::wordpiece(&tokenizer, &mut config)?;
            files.push(json_file(JSON, &json)?);
            files.push(file("vocab.txt", vocab));
        }
        "t5" => {
            if tokenizer.architecture.starts_with("t5") {
                // llama.cpp's converter reads only the model, and no other list of added tokens.
                files.push(file(unigram::T5, sentencepiece::model(&tokenizer).write()));
                let added = tokenizer.tokens.iter().zip(0u32..).filter(|(token, _)| is_added(token));
                let added: Map<String, Value> = added.map(|(token, id)| (token.text.clone(), Value::from(id))).collect();
                if !added.is_empty() {
                    files.push(json_file("added_tokens.json", &added)?);
                }
            }
            files.push(json_file(JSON, &tokenizer_json::unigram(&tokenizer, &mut config)?)?);
        }
        "rwkv" => {
            let text = rwkv::file(&tokenizer.tokens)
                .ok_or_else(|| Error::malformed("expected the tokens of a rwkv tokenizer as Python shows their bytes"))?;
            files.push(file(rwkv::FILE, text));
        }
        "plamo2" => {
            files.push(file(plamo::FILE, plamo::file(&tokenizer.tokens)));
            config.special_tokens(&tokenizer, &[]);
        }
        other => {
            return Err(Error::unsupported(format!(
                "expected a tokenizer of llama, gemma4, gpt2, whitespace, bert, t5, rwkv or plamo2, found {other}"
            ))
            .hint(Hint::KeepNames));
        }
    }
    config.templates(&tokenizer.templates);
    files.push(json_file("tokenizer_config.json", &config.0)?);
    files.push(json_file("special_tokens_map.json", &config.special_tokens_map())?);
    Ok(files)
}

fn file(name: &str, content: impl Into<Vec<u8>>) -> CompanionFile {
    CompanionFile { name: name.to_owned(), content: Content::Bytes(content.into()) }
}

fn json_file(name: &str, value: &impl serde::Serialize) -> Result<CompanionFile> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| Error::malformed(format!("cannot write {name}: {error}")))?;
    bytes.push(b'\n');
    Ok(file(name, bytes))
}

/// Returns the IDs of the special tokens, named as in `config.json`: `bos_token_id` etc.
pub fn ids(metadata: &Metadata) -> Map<String, Value> {
    let id = |role: &Role| Some((format!("{}_token_id", role.name()), Value::from(metadata.get_u64(role.id_key()?)?)));
    Role::ALL.iter().filter_map(id).collect()
}

/// A `tokenizer_config.json` being built.
#[derive(Debug, Default)]
struct Config(Map<String, Value>);

impl Config {
    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    /// Sets the tokens with a role, and lists the special tokens without one.
    fn special_tokens(&mut self, tokenizer: &GgufTokenizer, added: &[AddedToken]) {
        for role in Role::COMMON {
            if let Some(token) = tokenizer.token(role) {
                self.set(&format!("{}_token", role.name()), token.text.as_str());
            }
        }
        let named: Vec<String> = self.0.values().filter_map(Value::as_str).map(str::to_owned).collect();
        let others = added.iter().filter(|token| token.special && !named.contains(&token.content));
        let others: Vec<Value> = others.map(|token| Value::from(token.content.as_str())).collect();
        if !others.is_empty() {
            self.set("additional_special_tokens", others);
        }
    }

    fn added_tokens(&mut self, added: &[AddedToken]) {
        if added.is_empty() {
            return;
        }
        let entry = |token: &AddedToken| {
            let flags = json!({
                "content": token.content,
                "lstrip": token.lstrip,
                "normalized": token.normalized,
                "rstrip": token.rstrip,
                "single_word": token.single_word,
                "special": token.special,
            });
            (token.id.to_string(), flags)
        };
        self.set("added_tokens_decoder", added.iter().map(entry).collect::<Map<_, _>>());
    }

    fn templates(&mut self, templates: &ChatTemplates) {
        match templates.0.as_slice() {
            [] => {}
            [(name, template)] if name == ChatTemplates::DEFAULT => self.set("chat_template", template.as_str()),
            several => {
                let several: Vec<Value> = several.iter().map(|(name, template)| json!({"name": name, "template": template})).collect();
                self.set("chat_template", several);
            }
        }
    }

    fn special_tokens_map(&self) -> Map<String, Value> {
        let of = |key: &str| self.0.get(key).map(|value| (key.to_owned(), value.clone()));
        let named = Role::COMMON.iter().filter_map(|role| of(&format!("{}_token", role.name())));
        named.chain(of("additional_special_tokens")).collect()
    }
}

/// Returns the control and user-defined tokens as added tokens.
fn added_tokens(tokenizer: &GgufTokenizer, text: impl Fn(&Token) -> String) -> Vec<AddedToken> {
    let tokens = tokenizer.tokens.iter().zip(0..);
    let added = tokens.filter(|(token, _)| matches!(token.token_type, TokenType::Control | TokenType::UserDefined));
    added.map(|(token, id)| added_token(id, text(token), token.token_type == TokenType::Control)).collect()
}

fn added_token(id: u32, content: String, special: bool) -> AddedToken {
    // transformers spells a token that is not normalized as it decodes it.
    let normalized = !special && bytes::decode(&content).is_some_and(|bytes| bytes != content.as_bytes());
    AddedToken { id, content, single_word: false, lstrip: false, rstrip: false, normalized, special }
}

/// Whether this token was added to a SentencePiece model.
fn is_added(token: &Token) -> bool {
    token.score == ADDED_SCORE && matches!(token.token_type, TokenType::Control | TokenType::UserDefined)
}
