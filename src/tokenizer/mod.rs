//! Converts tokenizers between Hugging Face files and the `tokenizer.*` keys of a GGUF.
//!
//! Keys, types and values follow llama.cpp's converter (conversion/*.py and gguf-py/gguf/vocab.py), except for `tokenizer.ggml.pre`, which
//! is determined from the pre-tokenizer steps (see the `pre` module).

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value as Json};

use crate::base::{Error, Hint, Result, limits};
use crate::model::metadata::full_key;
use crate::model::{Array, Metadata, Value};

mod added;
mod bytes;
mod files;
mod hf_json;
mod json;
mod keys;
mod mistral;
mod pieces;
mod pre;
mod proto;
mod size;
mod special;
mod spm;
mod summary;
mod tekken;
mod templates;
mod unigram;
mod vocabulary;
mod write;

use files::Folder;
use hf_json::Parts;
use json::{TokenizerJson, Vocab};
use keys::Role;
use pieces::is_sentencepiece_style;
use special::{Sources, Special};
use spm::AddedTokens;
use vocabulary::{Token, TokenType};

pub use size::largest_id;
pub use summary::{Summary, summary};
pub use write::{ids, write};

/// The tokenizers library's file.
const JSON: &str = "tokenizer.json";

/// The tokenizer files of a family and how they are converted: `tokenizer` in the family's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Llama-like: a SentencePiece model, else SentencePiece-style BPE, else byte-level BPE.
    Llama,
    /// Mistral's own files: tekken.json, else a SentencePiece model with the version in its name.
    Mistral,
    /// A SentencePiece model, else byte-level BPE (Qwen 2 and 3, DeepSeek).
    SentencepieceOrBpe,
    /// Byte-level BPE.
    Bpe,
    /// Gemma 1: a SentencePiece model, no leading space, and CodeGemma's end-of-turn token.
    Gemma,
    /// Gemma 2: a SentencePiece model, no leading space.
    Gemma2,
    /// Gemma 3: like Gemma 2, else byte-level BPE.
    Gemma3,
    /// Phi-3: a SentencePiece model with unmodified added tokens; Phi-4: byte-level BPE.
    Phi3,
    /// BERT: WordPiece.
    Bert,
    /// RoBERTa: byte-level BPE, else WordPiece.
    Roberta,
    /// XLM-RoBERTa: Unigram.
    XlmRoberta,
}

/// A tokenizer in GGUF form.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    keys: Metadata,
    tokens: u64,
    made_up: Vec<usize>,
    notes: Vec<String>,
}

impl Tokenizer {
    /// Returns the keys in the order of llama.cpp's converter. Those without the prefix `tokenizer.` belong below the architecture's name.
    pub fn keys(&self) -> &Metadata {
        &self.keys
    }

    /// Returns the number of tokens, including padding.
    pub fn len(&self) -> u64 {
        self.tokens
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// Returns the IDs without a token in the folder, which get a placeholder.
    pub fn made_up(&self) -> &[usize] {
        &self.made_up
    }

    /// Returns notes on what was dropped, one per line.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Writes the keys into the metadata of a GGUF of this architecture.
    pub fn to_gguf(&self, architecture: &str, metadata: &mut Metadata) {
        for (key, value) in self.keys.iter() {
            metadata.set(full_key(architecture, key), value.clone());
        }
    }
}

/// Conversion options.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The pre-tokenizer name (`--pre`), overriding detection.
    pub pre: Option<String>,
    /// Whether to derive token scores from the merges (`--merge-scores`), where llama.cpp's converter gives every token the same score.
    pub merge_scores: bool,
}

/// Reads the tokenizer of the Hugging Face folder at `path`.
///
/// `config`: the contents of its `config.json`.
///
/// # Errors
/// The folder has no tokenizer of this kind; a file is too large or malformed; a token ID exceeds the vocabulary size in the config; or the
/// pre-tokenizer has no known equivalent in llama.cpp.
pub fn read(path: &Path, config: &Json, kind: Kind, options: &Options) -> Result<Tokenizer> {
    let folder = Folder::new(path);
    let tokenizer_config = folder.object("tokenizer_config.json")?;
    let json: Option<TokenizerJson> = folder.json(JSON)?;
    Build { folder, config, tokenizer_config, json, options, out: Metadata::new(), tokens: 0, made_up: Vec::new(), notes: Vec::new() }
        .read(kind)
}

/// Returns a number in the config; that of the text model takes precedence.
fn setting(config: &Json, key: &str) -> Option<u64> {
    let text = config.get("text_config").and_then(|config| config.get(key)).and_then(Json::as_u64);
    text.or_else(|| config.get(key).and_then(Json::as_u64))
}

/// Checks a vocabulary size against the limit.
fn vocabulary_size(size: u64, folder: Folder<'_>) -> Result<usize> {
    match usize::try_from(size) {
        Ok(len) if size <= limits::VOCABULARY => Ok(len),
        _ => Err(Error::limit(format!("expected at most {} tokens, found {size}", limits::VOCABULARY)).in_file(folder.path())),
    }
}

/// A tokenizer being built.
struct Build<'a> {
    folder: Folder<'a>,
    config: &'a Json,
    tokenizer_config: Option<Map<String, Json>>,
    json: Option<TokenizerJson>,
    options: &'a Options,
    out: Metadata,
    tokens: u64,
    made_up: Vec<usize>,
    notes: Vec<String>,
}

impl Build<'_> {
    fn read(mut self, kind: Kind) -> Result<Tokenizer> {
        let class = |this: &Self| this.tokenizer_setting("tokenizer_class").and_then(Json::as_str).map(str::to_owned);
        match kind {
            Kind::Llama => self.llama()?,
            Kind::Mistral => self.mistral()?,
            Kind::SentencepieceOrBpe if self.folder.has(spm::FILE) => self.sentencepiece(AddedTokens::Interpreted)?,
            Kind::SentencepieceOrBpe | Kind::Bpe => self.bpe()?,
            Kind::Gemma => {
                self.sentencepiece(AddedTokens::Interpreted)?;
                // The reference adds CodeGemma's end-of-turn token to every Gemma 1; its other three have no GGUF key.
                self.more_special(Role::Eot, 107)?;
                self.out.set(keys::ADD_SPACE_PREFIX, Value::Bool(false));
            }
            Kind::Gemma3 if !self.folder.has(spm::FILE) && !self.json.as_ref().is_some_and(is_sentencepiece_style) => self.bpe()?,
            Kind::Gemma2 | Kind::Gemma3 => {
                self.sentencepiece(AddedTokens::Interpreted)?;
                self.out.set(keys::ADD_SPACE_PREFIX, Value::Bool(false));
            }
            // Phi-4, or another folder without the SentencePiece model that all Phi-3 models have, regardless of the tokenizer class.
            Kind::Phi3 if class(&self).as_deref() == Some("GPT2Tokenizer") || self.is_byte_level() => self.bpe()?,
            Kind::Phi3 => self.sentencepiece(AddedTokens::Literal)?,
            Kind::Roberta if self.json.is_some() => {
                self.bpe()?;
                self.token_type_count();
            }
            Kind::Bert | Kind::Roberta => self.wordpiece()?,
            Kind::XlmRoberta => self.unigram()?,
        }
        Ok(Tokenizer { keys: self.out, tokens: self.tokens, made_up: self.made_up, notes: self.notes })
    }

    /// Whether the tokenizer is only a byte-level BPE `tokenizer.json`.
    fn is_byte_level(&self) -> bool {
        !self.folder.has(spm::FILE) && self.json.as_ref().is_some_and(|json| !is_sentencepiece_style(json))
    }

    fn tokenizer_setting(&self, key: &str) -> Option<&Json> {
        self.tokenizer_config.as_ref()?.get(key)
    }

    fn pre(&self) -> Option<&str> {
        self.options.pre.as_deref()
    }

    fn llama(&mut self) -> Result<()> {
        if self.folder.has(tekken::FILE) && self.json.is_none() {
            return self.tekken();
        }
        if let Some(add) = self.tokenizer_setting("add_prefix_space").and_then(Json::as_bool) {
            self.out.set(keys::ADD_SPACE_PREFIX, Value::Bool(add));
        }
        if self.folder.has(spm::FILE) {
            self.sentencepiece(AddedTokens::Interpreted)?;
        } else if let Some(json) = self.json.as_ref().filter(|json| is_sentencepiece_style(json)) {
            if self.options.merge_scores {
                if self.out.get(keys::ADD_SPACE_PREFIX).is_none() && !pieces::adds_space_prefix(json) {
                    self.out.set(keys::ADD_SPACE_PREFIX, Value::Bool(false));
                }
                self.sentencepiece(AddedTokens::Interpreted)?;
            } else {
                self.scoreless()?;
            }
        } else {
            self.bpe()?;
        }
        match setting(self.config, "vocab_size") {
            // Code Llama
            Some(32016) => self.more_special(Role::Eot, 32010)?,
            // Granite's small code models and SmolLM
            Some(49152) => {
                self.out.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
            }
            _ => {}
        }
        Ok(())
    }

    fn head(&mut self, model: &str, pre: &str) {
        self.out.set(keys::MODEL, Value::String(model.to_owned()));
        self.out.set(keys::PRE, Value::String(pre.to_owned()));
    }

    fn vocabulary(&mut self, tokens: &[Token], scored: bool) {
        self.tokens = tokens.len() as u64;
        self.made_up = (0..tokens.len()).filter(|&id| tokens[id].is_padding(id)).collect();
        vocabulary::write(tokens, scored, &mut self.out);
    }

    fn sources(&self, below: Option<u64>) -> Sources<'_> {
        Sources {
            folder: self.folder,
            json: self.json.as_ref(),
            tokenizer_config: self.tokenizer_config.as_ref(),
            config: self.config,
            below: below.and_then(|below| u32::try_from(below).ok()),
        }
    }

    fn special(&mut self) -> Result<()> {
        let special = Special::read(&self.sources(Some(self.tokens)), &Role::COMMON)?;
        special.write(&mut self.out);
        Ok(())
    }

    /// Reads one more role, with the ID that the family prescribes.
    fn more_special(&mut self, role: Role, id: u32) -> Result<()> {
        let mut special = Special::read(&self.sources(None), &[role])?;
        special.default_id(role, id);
        special.write(&mut self.out);
        Ok(())
    }

    fn token_type_count(&mut self) {
        let count = setting(self.config, "type_vocab_size").and_then(|count| u32::try_from(count).ok()).unwrap_or(1);
        self.out.set(keys::TOKEN_TYPE_COUNT, Value::U32(count));
    }

    /// Reads the tokens of a SentencePiece model, or of the `tokenizer.json` converted from one.
    fn sentencepiece(&mut self, added: AddedTokens) -> Result<()> {
        let mut decoder = spm::decoder_tokens(self.folder, self.tokenizer_config.as_ref())?;
        let pieces = match (spm::read_model(self.folder)?, &mut self.json) {
            (Some(model), _) => model.pieces,
            (None, Some(json)) if is_sentencepiece_style(json) => {
                let vocab = std::mem::replace(&mut json.model.vocab, Vocab::Ids(Vec::new()));
                if decoder.is_empty() {
                    // Control tokens of the vocabulary are already marked.
                    let known: HashSet<&str> = vocab.ids().map(|(text, _)| text).collect();
                    let further = json.added_tokens.iter().filter(|token| !token.special || !known.contains(token.content.as_str()));
                    decoder = further.cloned().collect();
                }
                vocabulary_size(vocab.ids().map(|(_, id)| u64::from(id) + 1).max().unwrap_or(0), self.folder)?;
                pieces::from_json(json, &vocab)
            }
            (None, _) => return Err(self.missing(&[spm::FILE, JSON])),
        };
        let json_added = self.json.as_ref().map(|json| json.added_tokens.as_slice()).unwrap_or_default();
        let tokens = spm::tokens(self.folder, pieces, self.config, decoder, json_added, added, &mut self.notes)?;
        self.head("llama", self.options.pre.as_deref().unwrap_or(pre::DEFAULT));
        self.vocabulary(&tokens, true);
        self.special()
    }

    /// Writes SentencePiece-style BPE as in the reference converter, without the order of the merges.
    fn scoreless(&mut self) -> Result<()> {
        let vocab = self.vocab(&[JSON])?;
        let tokens = self.parts(&vocab).scoreless_tokens()?;
        self.notes.push(
            "the order of merges is left out and all tokens have one score, as by llama.cpp's converter: llama.cpp will split many words \
             otherwise than this tokenizer does; the option merge-scores keeps the order"
                .to_owned(),
        );
        self.head("llama", self.options.pre.as_deref().unwrap_or(pre::DEFAULT));
        self.vocabulary(&tokens, true);
        self.special()
    }

    fn bpe(&mut self) -> Result<()> {
        let vocab = self.vocab(&[JSON, "vocab.json"])?;
        let tokens = self.parts(&vocab).plain_tokens()?;
        let pre = self.pre_name()?;
        self.head("gpt2", &pre);
        self.vocabulary(&tokens, false);
        let merges = match self.json.as_mut().map(|json| std::mem::take(&mut json.model.merges.0)) {
            Some(merges) if !merges.is_empty() => merges,
            _ => self.merges_txt()?,
        };
        if !merges.is_empty() {
            self.out.set(keys::MERGES, Value::Array(Array::packed_strings(merges)));
        }
        let special = Special::read(&self.sources(None), &Role::COMMON)?;
        special.write(&mut self.out);
        Ok(())
    }

    fn wordpiece(&mut self) -> Result<()> {
        let vocab = self.vocab(&[JSON, "vocab.txt"])?;
        let mut tokens = self.parts(&vocab).plain_tokens()?;
        for token in &mut tokens {
            // GGUF marks the start of words instead of the continuations.
            if token.token_type != TokenType::Control {
                token.text = match token.text.strip_prefix("##") {
                    Some(rest) => rest.to_owned(),
                    None => format!("\u{2581}{}", token.text),
                };
            }
        }
        self.token_type_count();
        let pre = self.pre_name()?;
        self.head("bert", &pre);
        self.vocabulary(&tokens, false);
        self.special()
    }

    /// Returns the pre-tokenizer name: as given, or as detected in `tokenizer.json`; without that file, by tokenizer class.
    fn pre_name(&self) -> Result<String> {
        if let Some(pre) = self.pre() {
            return Ok(pre.to_owned());
        }
        let model_type = self.config.get("model_type").and_then(Json::as_str);
        match &self.json {
            Some(json) => pre::name(&json.pre_tokenizer, json.model.ignore_merges == Some(true), model_type)
                .map(str::to_owned)
                .map_err(|error| error.in_file(&self.folder.file(JSON))),
            None if self.folder.has("vocab.txt") => Ok(pre::WORDPIECE.to_owned()),
            None => match self.tokenizer_setting("tokenizer_class").and_then(Json::as_str) {
                Some("Qwen2Tokenizer" | "Qwen2TokenizerFast") => Ok("qwen2".to_owned()),
                Some("GPT2Tokenizer" | "GPT2TokenizerFast") | None => Ok("gpt-2".to_owned()),
                Some(other) => Err(Error::unsupported(format!("there is no {JSON} with the pre-tokenizer of {other}"))
                    .in_file(self.folder.path())
                    .hint(Hint::NamePreTokenizer)),
            },
        }
    }

    fn parts<'a>(&'a self, vocab: &'a Vocab) -> Parts<'a> {
        Parts {
            folder: self.folder,
            json: self.json.as_ref(),
            vocab,
            tokenizer_config: self.tokenizer_config.as_ref(),
            config: self.config,
        }
    }

    /// Reads token IDs from the first existing file of `files`.
    fn vocab(&mut self, files: &[&str]) -> Result<Vocab> {
        if let Some(json) = &mut self.json {
            return Ok(std::mem::replace(&mut json.model.vocab, Vocab::Ids(Vec::new())));
        }
        for file in files {
            if *file == "vocab.txt"
                && let Some(text) = self.folder.text(file)?
            {
                return Ok(Vocab::Ids(text.lines().map(str::to_owned).zip(0..).collect()));
            } else if let Some(vocab) = self.folder.json(file)? {
                return Ok(vocab);
            }
        }
        Err(self.missing(files))
    }

    fn merges_txt(&self) -> Result<Vec<String>> {
        let Some(text) = self.folder.text("merges.txt")? else { return Ok(Vec::new()) };
        let lines = text.lines().enumerate().filter(|(i, line)| !(*i == 0 && line.starts_with('#')));
        Ok(lines
            .filter_map(|(_, line)| {
                let mut parts = line.split_whitespace();
                match (parts.next(), parts.next(), parts.next()) {
                    (Some(left), Some(right), None) => Some(format!("{left} {right}")),
                    _ => None,
                }
            })
            .collect())
    }

    fn missing(&self, files: &[&str]) -> Error {
        Error::malformed(format!("expected a tokenizer in {}, found none", files.join(" or "))).in_file(self.folder.path())
    }
}
