//! XLM-RoBERTa's tokenizer: Unigram with its own normaliser.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;

use super::vocabulary::{Token, TokenType};
use super::{Build, JSON, keys, pre, setting, vocabulary_size};
use crate::base::{Error, Result};
use crate::model::{Array, Value};

/// The file name of XLM-RoBERTa's SentencePiece model.
const FILE: &str = "sentencepiece.bpe.model";

impl Build<'_> {
    pub(super) fn unigram(&mut self) -> Result<()> {
        let (tokens, add_prefix, remove_whitespaces, charsmap) = match self.folder.pieces(FILE)? {
            Some(model) => (self.realigned(model.pieces)?, model.add_dummy_prefix, model.remove_extra_whitespaces, model.charsmap),
            None => {
                let charsmap = self.charsmap()?;
                let vocab = self.vocab(&[JSON])?;
                let flag = |key: &str, default| self.tokenizer_setting(key).and_then(Json::as_bool).unwrap_or(default);
                let (prefix, remove) = (flag("add_prefix_space", true), flag("clean_up_tokenization_spaces", false));
                (self.parts(&vocab).unigram_tokens()?, prefix, remove, charsmap)
            }
        };
        self.head("t5", self.options.pre.as_deref().unwrap_or(pre::DEFAULT));
        self.vocabulary(&tokens, true);
        self.out.set(keys::ADD_SPACE_PREFIX, Value::Bool(add_prefix));
        self.token_type_count();
        self.out.set(keys::REMOVE_EXTRA_WHITESPACES, Value::Bool(remove_whitespaces));
        if !charsmap.is_empty() {
            self.out.set(keys::PRECOMPILED_CHARSMAP, Value::Array(Array::u8s(charsmap)));
        }
        self.special(Some(self.tokens))
    }

    /// Moves the pieces to fairseq's IDs: four special tokens first, and the last vocabulary entry dropped.
    fn realigned(&self, mut pieces: Vec<Token>) -> Result<Vec<Token>> {
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
        let text = all.find_map(|one| one.get("precompiled_charsmap")).and_then(Json::as_str);
        STANDARD.decode(text.ok_or_else(|| wrong("none".to_owned()))?).map_err(|error| wrong(error.to_string()))
    }
}
