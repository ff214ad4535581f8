//! Converts tokenizers between Hugging Face files and the `tokenizer.*` keys of a GGUF.
//!
//! Keys, types and values follow llama.cpp's converter (conversion/*.py and gguf-py/gguf/vocab.py), except for `tokenizer.ggml.pre`, which
//! is determined from the pre-tokenizer steps (see the `pre` module).

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value as Json};

use crate::base::{Error, Hint, Result, limits};
use crate::model::metadata::full_key;
use crate::model::{Array, Metadata, Value};

mod added;
mod bytes;
mod chatglm;
mod files;
mod hf_json;
mod json;
mod keys;
mod kinds;
mod mistral;
mod pieces;
mod plamo;
mod pre;
mod proto;
mod rwkv;
mod size;
mod special;
mod spm;
mod summary;
mod tekken;
mod templates;
mod tiktoken;
mod unigram;
mod vocabulary;
mod write;

use files::Folder;
use hf_json::Parts;
use json::{TokenizerJson, Vocab};
use keys::Role;
use kinds::{Flag, Named, Prescribed, Recipe, Rule, Source};
use pieces::is_sentencepiece_style;
use special::{Sources, Special};
use spm::AddedTokens;
use vocabulary::{Token, TokenType};

pub use kinds::Kind;
pub use size::{added_ids, largest_id};
pub use summary::{Summary, summary};
pub use write::{ids, write};

/// The tokenizers library's file.
const JSON: &str = "tokenizer.json";
/// A tokenizer class whose vocabulary is not in files.
const HYBRID_DNA: &str = "HybridDNATokenizer";
/// The vocabulary of byte-level BPE in older folders.
const VOCAB_JSON: &str = "vocab.json";
/// The vocabulary of WordPiece in older folders.
const VOCAB_TXT: &str = "vocab.txt";

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
    /// Whether every token of SentencePiece-style BPE has the same score (`--equal-scores`), as by llama.cpp's converter, with which llama.cpp
    /// splits many words differently. Otherwise the scores follow the order of the merges.
    pub equal_scores: bool,
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
    let own = kind.config(config);
    let config = own.as_ref().unwrap_or(config);
    let tokenizer_config = folder.object("tokenizer_config.json")?;
    let json: Option<TokenizerJson> = folder.json(JSON)?;
    let build = Build {
        folder,
        config,
        tokenizer_config,
        json,
        options,
        out: Metadata::new(),
        tokens: 0,
        made_up: Vec::new(),
        notes: Vec::new(),
        recipe: Recipe::default(),
        prescribed: Vec::new(),
        dummy_prefix: None,
    };
    build.read(kind)
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
    recipe: Recipe,
    /// The special tokens that the family prescribes, found in the vocabulary.
    prescribed: Vec<(Role, u32, Rule)>,
    /// Whether the SentencePiece model adds a leading space.
    dummy_prefix: Option<bool>,
}

impl Build<'_> {
    fn read(mut self, kind: Kind) -> Result<Tokenizer> {
        if self.tokenizer_setting("tokenizer_class").and_then(Json::as_str) == Some(HYBRID_DNA) {
            return Err(Error::unsupported(format!("the tokens of a {HYBRID_DNA} are in its code")).in_file(self.folder.path()));
        }
        let mut recipes = kind.recipes();
        let found = recipes.iter().position(|recipe| self.has(recipe.source)).unwrap_or(recipes.len() - 1);
        self.recipe = recipes.swap_remove(found);
        self.flags(&self.recipe.before.clone());
        match self.recipe.source {
            Source::Tekken | Source::LoneTekken => self.tekken()?,
            Source::VersionedModel => self.versioned()?,
            Source::SentencePiece(added) | Source::Model(added) => self.sentencepiece(added)?,
            Source::Internlm2 => self.sentencepiece(AddedTokens::Literal)?,
            Source::Chatglm3 => self.chatglm3()?,
            Source::Gemma4 => self.gemma4()?,
            Source::ByteLevel => self.bpe()?,
            Source::Tiktoken(file) => self.tiktoken(file)?,
            Source::Rwkv => self.rwkv()?,
            Source::Plamo => self.plamo()?,
            Source::BuiltIn(name) => return Err(self.built_in(name)),
            Source::WordPiece => self.wordpiece()?,
            Source::Whitespace => self.whitespace()?,
            Source::T5 => self.t5()?,
            Source::XlmRoberta => self.xlm_roberta(false)?,
            Source::XlmRobertaMask => self.xlm_roberta(true)?,
        }
        if kind == Kind::Llama {
            self.llama()?;
        }
        self.flags(&self.recipe.after.clone());
        if self.recipe.template_file
            && let Some(template) = self.folder.text(templates::FILE)?
        {
            self.out.set(keys::CHAT_TEMPLATE, Value::String(template));
        }
        if self.recipe.token_types {
            self.token_type_count();
        }
        Ok(Tokenizer { keys: self.out, tokens: self.tokens, made_up: self.made_up, notes: self.notes })
    }

    /// Whether the folder has files of this format.
    fn has(&self, source: Source) -> bool {
        match source {
            Source::Tekken => self.folder.has(tekken::FILE),
            Source::LoneTekken => self.folder.has(tekken::FILE) && self.json.is_none(),
            Source::SentencePiece(_) => self.folder.has(spm::FILE) || self.json.as_ref().is_some_and(is_sentencepiece_style),
            Source::ByteLevel => self.json.is_some() || self.folder.has(VOCAB_JSON),
            Source::XlmRoberta | Source::XlmRobertaMask => self.folder.has(unigram::XLM_ROBERTA) || self.is_model("Unigram"),
            Source::WordPiece => self.is_model("WordPiece") || (self.json.is_none() && self.folder.has(VOCAB_TXT)),
            Source::Whitespace => {
                let pre_tokenizer = self.json.as_ref().and_then(|json| json.pre_tokenizer.get("type")?.as_str());
                pre_tokenizer == Some("Whitespace")
            }
            Source::Model(_) => self.folder.has(spm::FILE),
            Source::Tiktoken(kind) if kind == tiktoken::CHATGLM => {
                let start = self.folder.bytes(kind.file).ok().flatten().unwrap_or_default();
                tiktoken::is_tiktoken(&start)
            }
            Source::Tiktoken(kind) => self.folder.has(kind.file),
            Source::BuiltIn(_) | Source::Chatglm3 | Source::Gemma4 | Source::Internlm2 => true,
            Source::Plamo | Source::Rwkv | Source::T5 | Source::VersionedModel => true,
        }
    }

    fn is_model(&self, kind: &str) -> bool {
        self.json.as_ref().is_some_and(|json| json.model.kind() == kind)
    }

    fn flags(&mut self, flags: &[(&'static str, Flag)]) {
        for (key, flag) in flags {
            let value = match flag {
                Flag::Is(value) => Some(*value),
                Flag::Config(name) => self.tokenizer_setting(name).and_then(Json::as_bool),
                Flag::Model => self.dummy_prefix,
            };
            if let Some(value) = value {
                self.out.set(*key, Value::Bool(value));
            }
        }
    }

    fn tokenizer_setting(&self, key: &str) -> Option<&Json> {
        self.tokenizer_config.as_ref()?.get(key)
    }

    fn pre(&self) -> Option<&str> {
        self.options.pre.as_deref()
    }

    /// Sets what the reference tells from the vocabulary size of a Llama.
    fn llama(&mut self) -> Result<()> {
        match setting(self.config, "vocab_size") {
            // Code Llama
            Some(32016) => self.more_special(Role::Eot, 32010)?,
            // Granite's small code models and SmolLM
            Some(49152) => {
                self.out.set(keys::ADD_BOS, Value::Bool(false));
            }
            _ => {}
        }
        Ok(())
    }

    fn head(&mut self, model: &str, pre: &str) {
        self.out.set(keys::MODEL, Value::String(model.to_owned()));
        self.out.set(keys::PRE, Value::String(pre.to_owned()));
    }

    fn vocabulary(&mut self, mut tokens: Vec<Token>, scored: bool) {
        for token in &mut tokens {
            if let Some((_, token_type)) = self.recipe.types.iter().find(|(text, _)| *text == token.text) {
                token.token_type = *token_type;
            }
        }
        self.tokens = tokens.len() as u64;
        self.made_up = (0..tokens.len()).filter(|&id| tokens[id].is_placeholder()).collect();
        vocabulary::write(&tokens, scored, &mut self.out);
        for Prescribed { role, token, rule } in std::mem::take(&mut self.recipe.special) {
            let by_text = |text: &str| tokens.iter().position(|token| token.text == text);
            let id = match token {
                Named::Id(id) => Some(id),
                Named::Text(text) => by_text(text).and_then(|id| u32::try_from(id).ok()),
                Named::Config(key) => setting(self.config, key).and_then(|id| u32::try_from(id).ok()),
                Named::Setting(key) => {
                    let text = self.tokenizer_setting(key).and_then(special::token_text);
                    text.and_then(by_text).and_then(|id| u32::try_from(id).ok())
                }
                Named::OtherEos => self.other_eos(),
            };
            match (id, token) {
                (Some(id), _) => self.prescribed.push((role, id, rule)),
                (None, Named::Text(text)) if rule == Rule::Default => self
                    .notes
                    .push(format!("the vocabulary has no token {text}, which this architecture uses as its {}_token", role.name())),
                _ => {}
            }
        }
    }

    /// Returns the first of several `eos_token_id` that is not `bos_token_id`.
    fn other_eos(&self) -> Option<u32> {
        let ids = self.config.get("eos_token_id").and_then(Json::as_array)?;
        let other = ids.iter().find(|id| Some(*id) != self.config.get("bos_token_id"));
        other.and_then(Json::as_u64).and_then(|id| u32::try_from(id).ok())
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

    /// Reads and writes the special tokens. IDs from `below` on are ignored.
    fn special(&mut self, below: Option<u64>) -> Result<()> {
        let mut special = Special::read(&self.sources(below), &Role::COMMON)?;
        self.prescribed(&mut special)
    }

    /// Writes the special tokens that were read and those that the family prescribes.
    fn prescribed(&mut self, special: &mut Special) -> Result<()> {
        let prescribed = std::mem::take(&mut self.prescribed);
        let named = special.is_named();
        for (role, id, rule) in &prescribed {
            if *rule == Rule::Default || (*rule == Rule::Alone && !named) {
                special.default_id(*role, *id);
            }
        }
        special.write(&mut self.out);
        for (role, id, rule) in prescribed {
            match (rule, role.id_key()) {
                (Rule::Last, _) => self.more_special(role, id)?,
                (Rule::Always, Some(key)) => {
                    self.out.set(key, Value::U32(id));
                }
                _ => {}
            }
        }
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
        if let Some(json) = self.json.as_ref().filter(|json| !self.folder.has(spm::FILE) && is_sentencepiece_style(json)) {
            if self.options.equal_scores {
                return self.scoreless();
            }
            if self.out.get(keys::ADD_SPACE_PREFIX).is_none() && !pieces::adds_space_prefix(json) {
                self.out.set(keys::ADD_SPACE_PREFIX, Value::Bool(false));
            }
        }
        let mut decoder = spm::decoder_tokens(self.folder, self.tokenizer_config.as_ref())?;
        let pieces = match (spm::read_model(self.folder)?, &mut self.json) {
            (Some(mut model), _) => {
                self.dummy_prefix = Some(model.add_dummy_prefix);
                if self.recipe.source == Source::Internlm2 {
                    spm::internlm2(&mut model.pieces);
                }
                model.pieces
            }
            (None, Some(json)) if is_sentencepiece_style(json) => {
                let vocab = std::mem::replace(&mut json.model.vocab, Vocab::Ids(Vec::new()));
                if decoder.is_empty() {
                    // Control tokens of the vocabulary are already marked.
                    let known: HashSet<&str> = vocab.ids().map(|(text, _)| text).collect();
                    let further = json.added_tokens.iter().filter(|token| !token.special || !known.contains(token.content.as_str()));
                    decoder = further.cloned().collect();
                }
                vocabulary_size(vocab.ids().map(|(_, id)| u64::from(id) + 1).max().unwrap_or(0), self.folder)?;
                let mut pieces = pieces::from_json(json, &vocab);
                if setting(self.config, "vocab_size").is_none() {
                    let len = decoder.iter().map(|token| u64::from(token.id) + 1).max().unwrap_or(0);
                    let len = vocabulary_size(len, self.folder)?;
                    pieces.extend((pieces.len()..len).map(Token::padding));
                }
                pieces
            }
            (None, _) => return Err(self.missing(&[spm::FILE, JSON])),
        };
        let json_added = self.json.as_ref().map(|json| json.added_tokens.as_slice()).unwrap_or_default();
        let tokens = spm::tokens(self.folder, pieces, self.config, decoder, json_added, added, &mut self.notes)?;
        self.head("llama", self.options.pre.as_deref().unwrap_or(pre::DEFAULT));
        self.vocabulary(tokens, true);
        self.special(Some(self.tokens))
    }

    /// Writes SentencePiece-style BPE as in the reference converter, without the order of the merges.
    fn scoreless(&mut self) -> Result<()> {
        let vocab = self.vocab(&[JSON])?;
        let tokens = self.parts(&vocab).scoreless_tokens()?;
        self.notes.push(
            "all tokens have the same score and the merges are left out, as by llama.cpp's converter: llama.cpp will split many words \
             differently from this tokenizer"
                .to_owned(),
        );
        self.head("llama", self.options.pre.as_deref().unwrap_or(pre::DEFAULT));
        self.vocabulary(tokens, true);
        self.special(Some(self.tokens))
    }

    fn bpe(&mut self) -> Result<()> {
        let vocab = self.vocab(&[JSON, VOCAB_JSON])?;
        let tokens = self.parts(&vocab).plain_tokens()?;
        let pre = self.pre_name()?;
        self.head("gpt2", &pre);
        self.vocabulary(tokens, false);
        self.merges()?;
        self.special(None)
    }

    /// Writes the merges.
    fn merges(&mut self) -> Result<()> {
        let merges = match self.json.as_mut().map(|json| std::mem::take(&mut json.model.merges.0)) {
            Some(merges) if !merges.is_empty() => merges,
            _ => self.merges_txt()?,
        };
        if !merges.is_empty() {
            self.out.set(keys::MERGES, Value::Array(Array::packed_strings(merges)));
        }
        Ok(())
    }

    /// Reads SentencePiece-style BPE whose merges are kept. All tokens have the same score.
    fn gemma4(&mut self) -> Result<()> {
        let vocab = self.vocab(&[JSON])?;
        let tokens = self.parts(&vocab).scoreless_tokens()?;
        self.out.set(keys::MODEL, Value::String("gemma4".to_owned()));
        self.vocabulary(tokens, true);
        self.merges()?;
        self.special(None)
    }

    /// Reads BPE whose words are separated by whitespace.
    fn whitespace(&mut self) -> Result<()> {
        let vocab = self.vocab(&[JSON])?;
        let tokens = self.parts(&vocab).plain_tokens()?;
        self.head("whitespace", self.options.pre.as_deref().unwrap_or("whitespace"));
        self.vocabulary(tokens, false);
        self.merges()?;
        self.special(None)
    }

    fn wordpiece(&mut self) -> Result<()> {
        let vocab = self.vocab(&[JSON, VOCAB_TXT])?;
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
        self.vocabulary(tokens, false);
        self.special(Some(self.tokens))
    }

    /// Returns the pre-tokenizer name: as given, or as detected in `tokenizer.json`; without that file, by tokenizer class.
    fn pre_name(&self) -> Result<String> {
        if let Some(pre) = self.pre() {
            return Ok(pre.to_owned());
        }
        match &self.json {
            Some(json) => pre::name(&json.normalizer, &json.pre_tokenizer, json.model.ignore_merges == Some(true), &self.models())
                .map(str::to_owned)
                .map_err(|error| error.in_file(&self.folder.file(JSON))),
            None if self.folder.has(VOCAB_TXT) => Ok(pre::WORDPIECE.to_owned()),
            None => match self.tokenizer_setting("tokenizer_class").and_then(Json::as_str) {
                Some("Qwen2Tokenizer" | "Qwen2TokenizerFast") => Ok("qwen2".to_owned()),
                Some("GPT2Tokenizer" | "GPT2TokenizerFast") | None => Ok("gpt-2".to_owned()),
                Some(other) => Err(Error::unsupported(format!("there is no {JSON} with the pre-tokenizer of {other}"))
                    .in_file(self.folder.path())
                    .hint(Hint::NamePreTokenizer)),
            },
        }
    }

    /// Returns the model's type, that of its text model, and its classes.
    fn models(&self) -> Vec<&str> {
        let text = self.config.get("text_config");
        let types = [Some(self.config), text].into_iter().flatten().filter_map(|config| config.get("model_type")?.as_str());
        let classes = self.config.get("architectures").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
        types.chain(classes).collect()
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
            if *file == VOCAB_TXT
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

    fn built_in(&self, name: &str) -> Error {
        Error::unsupported(format!(
            "there is no tokenizer; llama.cpp's converter has one built in for such folders: copy the tokenizer files of {name} into it"
        ))
        .in_file(self.folder.path())
    }

    fn missing(&self, files: &[&str]) -> Error {
        Error::malformed(format!("expected a tokenizer in {}, found none", files.join(" or "))).in_file(self.folder.path())
    }
}
