//! The vocabulary of a folder with a SentencePiece `tokenizer.model`.

use serde_json::{Map, Value};

use super::files::Folder;
use super::json::AddedToken;
use super::vocabulary::{ADDED_SCORE, Token, TokenType, looks_special};
use super::{proto, setting};
use crate::base::{Error, Result};

/// The file name of the SentencePiece model.
pub(super) const FILE: &str = "tokenizer.model";

/// The two ways in which the reference converter reads added tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddedTokens {
    /// Tokens that look special become control tokens; U+2581 in others becomes a space.
    Interpreted,
    /// Phi-3: unmodified, including those of `tokenizer.json`.
    Literal,
}

/// Reads the model in `folder`; `None` if it does not exist.
pub(super) fn read_model(folder: Folder<'_>) -> Result<Option<proto::Model>> {
    folder.pieces(FILE)
}

/// Adjusts the pieces of InternLM 2 as the reference does: a GGUF cannot hold the text of the NUL piece, and some pieces are not used.
pub(super) fn internlm2(pieces: &mut [Token]) {
    for piece in pieces {
        if piece.text == "\0" {
            piece.text = "\u{1f409}".to_owned();
        }
        if piece.text.starts_with("[UNUSED") {
            piece.token_type = TokenType::Unused;
        }
    }
}

/// Returns the pieces of a model and the added tokens, padded or truncated to the vocabulary size in `config`.
///
/// `decoder`: the added tokens in `tokenizer_config.json`; `json_added`: those in `tokenizer.json`.
pub(super) fn tokens(
    folder: Folder<'_>,
    pieces: Vec<Token>,
    config: &Value,
    decoder: Vec<AddedToken>,
    json_added: &[AddedToken],
    added: AddedTokens,
    notes: &mut Vec<String>,
) -> Result<Vec<Token>> {
    let mut tokens = pieces;
    let size = ["vocab_size_per_layer_input", "vocab_size"].into_iter().find_map(|key| setting(config, key)).filter(|size| *size > 0);
    if let Some(size) = size {
        let size = super::vocabulary_size(size, folder)?;
        if size < tokens.len() {
            notes.push(format!("{} tokens beyond the vocabulary size of {size} are dropped", tokens.len() - size));
        }
        tokens.truncate(size);
        tokens.extend((tokens.len()..size).map(Token::padding));
    }
    for token in &mut tokens {
        // GGUF marks only tokens added to the model as user-defined.
        if token.token_type == TokenType::UserDefined {
            token.token_type = TokenType::Normal;
        }
    }
    let mut put = |id: u64, text: String, token_type: TokenType| match usize::try_from(id).ok().and_then(|id| tokens.get_mut(id)) {
        Some(token) => *token = Token { text, score: ADDED_SCORE, token_type },
        None => notes.push(format!("the added token {id} is beyond the end of the vocabulary and is dropped")),
    };

    if let Some(file) = folder.object("added_tokens.json")? {
        for (text, id) in file {
            let id = id.as_u64().ok_or_else(|| {
                Error::malformed(format!("expected ids of added tokens, found {id}")).in_file(&folder.file("added_tokens.json"))
            })?;
            put(id, text, TokenType::UserDefined);
        }
    }
    for token in decoder {
        let special = token.special || (added == AddedTokens::Interpreted && looks_special(&token.content));
        if special {
            put(token.id.into(), token.content, TokenType::Control);
        } else if added == AddedTokens::Interpreted {
            put(token.id.into(), token.content.replace('\u{2581}', " "), TokenType::UserDefined);
        } else {
            put(token.id.into(), token.content, TokenType::UserDefined);
        }
    }
    if added == AddedTokens::Literal {
        for token in json_added {
            let token_type = if token.special { TokenType::Control } else { TokenType::UserDefined };
            put(token.id.into(), token.content.clone(), token_type);
        }
    }
    Ok(tokens)
}

/// Reads `added_tokens_decoder` of `tokenizer_config.json` in order.
pub(super) fn decoder_tokens(folder: Folder<'_>, tokenizer_config: Option<&Map<String, Value>>) -> Result<Vec<AddedToken>> {
    let Some(decoder) = tokenizer_config.and_then(|config| config.get("added_tokens_decoder")) else { return Ok(Vec::new()) };
    let wrong = |found: &str| {
        Error::malformed(format!("expected added_tokens_decoder to map ids to tokens, found {found}"))
            .in_file(&folder.file("tokenizer_config.json"))
    };
    let Value::Object(decoder) = decoder else { return Err(wrong("another value")) };
    decoder
        .iter()
        .map(|(id, token)| {
            let id = id.parse::<u32>().map_err(|_| wrong(id))?;
            let content = token.get("content").and_then(Value::as_str).ok_or_else(|| wrong("a token without content"))?;
            let flag = |name: &str| token.get(name).and_then(Value::as_bool);
            let special = flag("special").unwrap_or(false);
            Ok(AddedToken {
                id,
                content: content.to_owned(),
                single_word: flag("single_word").unwrap_or(false),
                lstrip: flag("lstrip").unwrap_or(false),
                rstrip: flag("rstrip").unwrap_or(false),
                normalized: flag("normalized").unwrap_or(!special),
                special,
            })
        })
        .collect()
}
