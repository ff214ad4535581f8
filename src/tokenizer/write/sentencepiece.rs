//! Builds `tokenizer.model` and the related settings.

use super::gguf::GgufTokenizer;
use super::{Config, added_token, is_added};
use crate::tokenizer::chatglm;
use crate::tokenizer::keys::Role;
use crate::tokenizer::proto::{Algorithm, Ids, Model};
use crate::tokenizer::vocabulary::{Token, TokenType};

/// Builds the SentencePiece model, without padding and without tokens added at the end of the vocabulary.
///
pub(super) fn model(tokenizer: &GgufTokenizer) -> Model {
    // The code of ChatGLM 3 adds its special tokens.
    let is_chatglm = tokenizer.pre.as_deref() == Some(chatglm::PRE);
    let len = tokenizer.base_len(|token| is_added(token) || (is_chatglm && chatglm::SPECIAL.contains(&token.text.as_str())));
    let unk = unknown(tokenizer, len);
    let pieces = tokenizer.tokens.iter().take(len).enumerate().map(|(id, token)| {
        let text = piece_text(token);
        if Some(id) == unk {
            return Token { text, score: 0.0, token_type: TokenType::Unknown };
        }
        match token.token_type {
            // The folder's own list marks them as special.
            // SentencePiece refuses a second unknown piece; older GGUF files mark the padding of Phi-3 as such.
            TokenType::Unknown => Token { text, score: token.score, token_type: TokenType::Unused },
            _ if is_added(token) => Token { text, score: 0.0, token_type: token.token_type },
            // The reference converter loses the model's own user-defined tokens; only they have a score of +0.
            TokenType::Normal if token.score.to_bits() == 0 => Token { text, score: 0.0, token_type: TokenType::UserDefined },
            token_type => Token { text, score: token.score, token_type },
        }
    });
    let pieces: Vec<Token> = pieces.collect();
    let in_model = |role: Role| tokenizer.id(role).filter(|id| (*id as usize) < len);
    Model {
        algorithm: if tokenizer.model == "t5" { Algorithm::Unigram } else { Algorithm::Bpe },
        byte_fallback: pieces.iter().any(|token| token.token_type == TokenType::Byte),
        ids: Ids {
            unk: unk.and_then(|id| u32::try_from(id).ok()),
            bos: in_model(Role::Bos),
            eos: in_model(Role::Eos),
            pad: in_model(Role::Pad),
        },
        add_dummy_prefix: tokenizer.add_space_prefix.unwrap_or(true),
        remove_extra_whitespaces: tokenizer.remove_extra_whitespaces.unwrap_or(false),
        charsmap: tokenizer.charsmap.clone(),
        pieces,
    }
}

/// Returns the unknown token, which SentencePiece requires: by role, by type, or by name.
fn unknown(tokenizer: &GgufTokenizer, len: usize) -> Option<usize> {
    let base = || tokenizer.tokens.iter().take(len);
    let by_role = tokenizer.id(Role::Unk).map(|id| id as usize).filter(|id| *id < len);
    by_role
        .or_else(|| base().position(|token| token.token_type == TokenType::Unknown))
        .or_else(|| base().position(|token| token.text == "<unk>"))
}

/// Returns the text of a piece: added runs of spaces are spelled with U+2581 in the model, which the reference converter replaces.
fn piece_text(token: &Token) -> String {
    match token.token_type {
        TokenType::UserDefined if token.text.bytes().all(|byte| byte == b' ') => token.text.replace(' ', "\u{2581}"),
        _ => token.text.clone(),
    }
}

pub(super) fn configure(tokenizer: &GgufTokenizer, config: &mut Config) {
    let gemma = tokenizer.architecture.starts_with("gemma");
    config.set("tokenizer_class", if gemma { "GemmaTokenizer" } else { "LlamaTokenizer" });
    for role in [Role::Bos, Role::Eos, Role::Sep] {
        if let Some(add) = tokenizer.adds(role) {
            config.set(&format!("add_{}_token", role.name()), add);
        }
    }
    if !gemma {
        config.set("legacy", false);
        if let Some(add) = tokenizer.add_space_prefix {
            config.set("add_prefix_space", add);
        }
    }
    config.set("clean_up_tokenization_spaces", false);
    let added = tokenizer.tokens.iter().zip(0..).filter(|(token, _)| is_added(token));
    let added: Vec<_> = added.map(|(token, id)| added_token(id, piece_text(token), token.token_type == TokenType::Control)).collect();
    config.special_tokens(tokenizer, &added);
    if tokenizer.token(Role::Unk).is_none()
        && let Some(unk) = tokenizer.tokens.iter().find(|token| token.token_type == TokenType::Unknown)
    {
        config.set("unk_token", unk.text.as_str());
    }
    config.added_tokens(&added);
}
