//! A vocabulary: the tokens in ID order, with types and scores.

use super::keys;
use crate::model::{Array, Metadata, Value};

/// The type of a token. The numbers are those of GGUF (`TokenType` in gguf-py/gguf/constants.py) and of SentencePiece
/// (`ModelProto.SentencePiece.Type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl TokenType {
    pub(super) fn from_number(number: u64) -> Option<Self> {
        [Self::Normal, Self::Unknown, Self::Control, Self::UserDefined, Self::Unused, Self::Byte]
            .into_iter()
            .find(|token_type| *token_type as u64 == number)
    }
}

/// A token. The score is 0 if the algorithm has none.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) token_type: TokenType,
}

/// The score of tokens that are not in a SentencePiece model: the same as llama.cpp's converter gives added tokens.
pub(super) const ADDED_SCORE: f32 = -1000.0;
/// The score of a padding token.
const PADDING_SCORE: f32 = -10000.0;

impl Token {
    /// Returns the placeholder for an ID without a token.
    pub(super) fn padding(id: usize) -> Self {
        Self { text: format!("[PAD{id}]"), score: PADDING_SCORE, token_type: TokenType::Unused }
    }

    /// Whether this is the placeholder for this ID.
    pub(super) fn is_padding(&self, id: usize) -> bool {
        self.token_type == TokenType::Unused && padding_number(&self.text) == Some(id)
    }

    /// Whether this is a placeholder. The reference shifts the numbers of some.
    pub(super) fn is_placeholder(&self) -> bool {
        self.token_type == TokenType::Unused && padding_number(&self.text).is_some()
    }
}

/// Whether a token of a Unigram model is a placeholder that was written into it.
pub(super) fn is_written_padding(text: &str, score: f32) -> bool {
    score == PADDING_SCORE && padding_number(text).is_some()
}

/// Returns the number in the text of a placeholder.
fn padding_number(text: &str) -> Option<usize> {
    text.strip_prefix("[PAD")?.strip_suffix(']')?.parse().ok()
}

/// Whether the text of a token suggests that it is a control token even if it is not marked as special, as in some models.
pub(super) fn looks_special(text: &str) -> bool {
    let between = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || between("<|", "|>")
        || between("<\u{ff5c}", "\u{ff5c}>")
        || between("<unused", ">")
}

/// Writes the tokens, their scores if `scored`, and their types.
pub(super) fn write(tokens: &[Token], scored: bool, out: &mut Metadata) {
    out.set(keys::TOKENS, Value::Array(Array::packed_strings(tokens.iter().map(|token| &token.text))));
    if scored {
        out.set(keys::SCORES, Value::Array(Array::f32s(tokens.iter().map(|token| token.score))));
    }
    out.set(keys::TOKEN_TYPE, Value::Array(Array::i32s(tokens.iter().map(|token| token.token_type as i32))));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmarked_control_tokens_are_recognised_by_their_text() {
        for special in ["<|im_start|>", "<\u{ff5c}end\u{ff5c}>", "<unused12>", "<pad>"] {
            assert!(looks_special(special), "{special}");
        }
        for plain in ["<s>", "<|open", "pad", "<start_of_turn>"] {
            assert!(!looks_special(plain), "{plain}");
        }
    }

    #[test]
    fn padding_is_distinguished_from_similar_tokens() {
        assert!(Token::padding(12).is_padding(12));
        assert!(!Token::padding(12).is_padding(13));
        assert!(!Token { token_type: TokenType::Control, ..Token::padding(0) }.is_padding(0));
    }
}
