//! Unigram with its own normaliser: T5, XLM-RoBERTa.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;

use super::proto::{Algorithm, Model};
use super::spm::{self, AddedTokens};
use super::vocabulary::{Token, TokenType};
use super::{Build, JSON, keys, pre, setting, vocabulary_size};
use crate::base::{Error, Result};
use crate::model::{Array, Value};

/// The file name of XLM-RoBERTa's SentencePiece model.
pub(super) const XLM_ROBERTA: &str = "sentencepiece.bpe.model";
/// The file name of T5's SentencePiece model.
pub(super) const T5: &str = "spiece.model";

/// The settings of a normaliser.
struct Normalizer {
    add_prefix: bool,
    remove_whitespaces: bool,
    charsmap: Vec<u8>,
}

impl From<Model> for Normalizer {
    fn from(model: Model) -> Self {
        Self { add_prefix: model.add_dummy_prefix, remove_whitespaces: model.remove_extra_whitespaces, charsmap: model.charsmap }
    }
}

impl Build<'_> {
    /// Reads T5's tokenizer: the SentencePiece model, else `tokenizer.json`.
    pub(super) fn t5(&mut self) -> Result<()> {
        let model = match self.folder.pieces(spm::FILE)? {
            // Pile-T5
            Some(model) if model.algorithm == Algorithm::Bpe => return self.sentencepiece(AddedTokens::Interpreted),
            Some(model) => Some(model),
            None => self.folder.pieces(T5)?,
        };
        let (tokens, normalizer) = match model {
            Some(mut model) => {
                let pieces = std::mem::take(&mut model.pieces);
                let added = AddedTokens::Interpreted;
                let tokens = spm::tokens(self.folder, pieces, self.config, Vec::new(), &[], added, &mut self.notes)?;
                (tokens, model.into())
            }
            None => {
                let json = self.json.as_ref().ok_or_else(|| self.missing(&[spm::FILE, T5, JSON]))?;
                let steps = [&json.normalizer, &json.pre_tokenizer].map(Json::to_string).concat();
                let normalizer = Normalizer {
                    add_prefix: !steps.contains(r#""prepend_scheme":"never""#) && !steps.contains(r#""add_prefix_space":false"#),
                    remove_whitespaces: steps.contains("WhitespaceSplit") || steps.contains(r#""Regex":" {2,}""#),
                    charsmap: self.charsmap()?,
                };
                let vocab = self.vocab(&[JSON])?;
                (self.parts(&vocab).unigram_tokens()?, normalizer)
            }
        };
        self.unigram(tokens, normalizer, false)
    }

    /// Reads XLM-RoBERTa's tokenizer. `mask`: whether the model has a mask token after the pieces, which the SentencePiece model lacks.
    pub(super) fn xlm_roberta(&mut self, mask: bool) -> Result<()> {
        let (tokens, normalizer) = match self.folder.pieces(XLM_ROBERTA)? {
            Some(mut model) => (self.realigned(std::mem::take(&mut model.pieces), mask)?, model.into()),
            None => {
                let charsmap = self.charsmap()?;
                let vocab = self.vocab(&[JSON])?;
                let flag = |key: &str, default| self.tokenizer_setting(key).and_then(Json::as_bool).unwrap_or(default);
                let (add_prefix, remove_whitespaces) = (flag("add_prefix_space", true), flag("clean_up_tokenization_spaces", false));
                (self.parts(&vocab).unigram_tokens()?, Normalizer { add_prefix, remove_whitespaces, charsmap })
            }
        };
        self.unigram(tokens, normalizer, true)
    }

    fn unigram(&mut self, tokens: Vec<Token>, normalizer: Normalizer, token_types: bool) -> Result<()> {
        self.head("t5", self.options.pre.as_deref().unwrap_or(pre::DEFAULT));
        self.vocabulary(tokens, true);
        self.out.set(keys::ADD_SPACE_PREFIX, Value::Bool(normalizer.add_prefix));
        if token_types {
            self.token_type_count();
        }
        self.out.set(keys::REMOVE_EXTRA_WHITESPACES, Value::Bool(normalizer.remove_whitespaces));
        if !normalizer.charsmap.is_empty() {
            self.out.set(keys::PRECOMPILED_CHARSMAP, Value::Array(Array::u8s(normalizer.charsmap)));
        }
        self.special(Some(self.tokens))
    }

    /// Moves the pieces to fairseq's IDs: four special tokens first, and the last vocabulary entry dropped.
    fn realigned(&self, mut pieces: Vec<Token>, mask: bool) -> Result<Vec<Token>> {
        let own = pieces.len();
        let size = setting(self.config, "vocab_size").unwrap_or(0).max(pieces.len() as u64);
        let size = vocabulary_size(size, self.folder)?;
        pieces.extend((pieces.len()..size).map(Token::padding));
        pieces.pop();
        let special = |text: &str, token_type| Token { text: text.to_owned(), score: 0.0, token_type };
        let mut tokens = vec![
            special("<s>", TokenType::Control),
            special("<pad>", TokenType::Control),
            special("</s>", TokenType::Control),
            special("<unk>", TokenType::Unknown),
        ];
        tokens.extend(pieces.into_iter().skip(3).map(|token| match token.token_type {
            TokenType::UserDefined => Token { token_type: TokenType::Normal, ..token },
            _ => token,
        }));
        if let Some(token) = tokens.get_mut(own + 1).filter(|_| mask) {
            *token = special("<mask>", TokenType::Control);
        }
        Ok(tokens)
    }

    fn charsmap(&self) -> Result<Vec<u8>> {
        let wrong = |found: String| {
            Error::malformed(format!("expected a normalizer with a precompiled_charsmap in base64, found {found}"))
                .in_file(&self.folder.file(JSON))
        };
        let normalizer = self.json.as_ref().map(|json| &json.normalizer).unwrap_or(&Json::Null);
        let in_sequence = normalizer.get("normalizers").and_then(Json::as_array).into_iter().flatten();
        let mut all = std::iter::once(normalizer).chain(in_sequence);
        let text = all.find_map(|one| one.get("precompiled_charsmap"));
        let text = text.map(|text| text.as_str().ok_or_else(|| wrong(text.to_string())));
        STANDARD.decode(text.transpose()?.unwrap_or_default()).map_err(|error| wrong(error.to_string()))
    }
}
