//! `tokenizer.model` and what goes with it.

use super::held::Held;
use super::{Config, added_token, is_added};
use crate::tokenizer::keys::Role;
use crate::tokenizer::proto::{Algorithm, Ids, Model};
use crate::tokenizer::vocabulary::{Token, TokenType};

/// The SentencePiece model. Tokens that a folder added at the end of the vocabulary are not in it, nor is padding.
///
/// The table of character replacements is not in a GGUF: those of Llama, Mistral and Gemma have none.
pub(super) fn model(held: &Held) -> Model {
    let len = held.base_len(is_added);
    let unk = unknown(held, len);
    let pieces = held.tokens.iter().take(len).enumerate().map(|(id, token)| {
        let text = piece_text(token);
        if Some(id) == unk {
            return Token { text, score: 0.0, token_type: TokenType::Unknown };
        }
        match token.token_type {
            // The folder's own list says what is special about it.
            _ if is_added(token) => Token { text, score: 0.0, token_type: token.token_type },
            // The reference converter hides the model's own user-defined tokens; only they have a score of plus zero.
            TokenType::Normal if token.score.to_bits() == 0 => Token { text, score: 0.0, token_type: TokenType::UserDefined },
            token_type => Token { text, score: token.score, token_type },
        }
    });
    let pieces: Vec<Token> = pieces.collect();
    let in_model = |role: Role| held.id(role).filter(|id| (*id as usize) < len);
    Model {
        algorithm: Algorithm::Bpe,
        byte_fallback: pieces.iter().any(|token| token.token_type == TokenType::Byte),
        ids: Ids {
            unk: unk.and_then(|id| u32::try_from(id).ok()),
            bos: in_model(Role::Bos),
            eos: in_model(Role::Eos),
            pad: in_model(Role::Pad),
        },
        add_dummy_prefix: held.add_space_prefix.unwrap_or(true),
        remove_extra_whitespaces: false,
        charsmap: Vec::new(),
        pieces,
    }
}

/// SentencePiece opens no model without a token for what is unknown: that of this role, of this type, or of this name.
fn unknown(held: &Held, len: usize) -> Option<usize> {
    let base = || held.tokens.iter().take(len);
    let by_role = held.id(Role::Unk).map(|id| id as usize).filter(|id| *id < len);
    by_role
        .or_else(|| base().position(|token| token.token_type == TokenType::Unknown))
        .or_else(|| base().position(|token| token.text == "<unk>"))
}

/// Runs of spaces that a folder adds are spelt with U+2581 in the model; the reference converter replaces them.
fn piece_text(token: &Token) -> String {
    match token.token_type {
        TokenType::UserDefined if token.text.bytes().all(|byte| byte == b' ') => token.text.replace(' ', "\u{2581}"),
        _ => token.text.clone(),
    }
}

pub(super) fn configure(held: &Held, config: &mut Config) {
    let gemma = held.architecture.starts_with("gemma");
    config.set("tokenizer_class", if gemma { "GemmaTokenizer" } else { "LlamaTokenizer" });
    for role in [Role::Bos, Role::Eos, Role::Sep] {
        if let Some(add) = held.adds(role) {
            config.set(&format!("add_{}_token", role.name()), add);
        }
    }
    if !gemma {
        config.set("legacy", false);
        if let Some(add) = held.add_space_prefix {
            config.set("add_prefix_space", add);
        }
    }
    config.set("clean_up_tokenization_spaces", false);
    let added = held.tokens.iter().zip(0..).filter(|(token, _)| is_added(token));
    let added: Vec<_> = added.map(|(token, id)| added_token(id, piece_text(token), token.token_type == TokenType::Control)).collect();
    config.special_tokens(held, &added);
    if held.token(Role::Unk).is_none()
        && let Some(unk) = held.tokens.iter().find(|token| token.token_type == TokenType::Unknown)
    {
        config.set("unk_token", unk.text.as_str());
    }
    config.added_tokens(&added);
}
