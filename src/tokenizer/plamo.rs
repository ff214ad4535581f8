//! PLaMo 2's vocabulary: `tokenizer.jsonl`, with a list per token: its text, score and type.

use serde_json::{Value as Json, json};

use super::vocabulary::{Token, TokenType};
use super::{Build, pre, setting, special, vocabulary_size};
use crate::base::{Error, Result, limits};
use crate::model::Value;
use crate::tokenizer::keys::Role;
use crate::tokenizer::special::token_text;

/// The file name.
pub(super) const FILE: &str = "tokenizer.jsonl";

/// The score of padding.
const PADDING: f32 = -1000.0;

const ROLES: [Role; 5] = [Role::Bos, Role::Eos, Role::Pad, Role::Sep, Role::Unk];

impl Build<'_> {
    pub(super) fn plamo(&mut self) -> Result<()> {
        let text = self.folder.text(FILE)?.ok_or_else(|| self.missing(&[FILE]))?;
        let mut tokens = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = || Error::malformed(format!("line {}: expected a list of a token, its score and its type", number + 1));
            let token = serde_json::from_str(line).ok().and_then(|entry| token_of(&entry)).ok_or_else(wrong);
            tokens.push(token.map_err(|error| error.in_file(&self.folder.file(FILE)))?);
            if tokens.len() as u64 > limits::VOCABULARY {
                return Err(vocabulary_size(tokens.len() as u64, self.folder).err().unwrap_or_else(wrong));
            }
        }
        let size = vocabulary_size(setting(self.config, "vocab_size").unwrap_or(0), self.folder)?;
        // The reference numbers the padding from 1, whatever its IDs.
        let padding = (1..=size.saturating_sub(tokens.len())).map(|number| Token {
            text: format!("[PAD{number}]"),
            score: PADDING,
            token_type: TokenType::Unused,
        });
        tokens.extend(padding);
        let roles: Vec<(Role, u32)> = ROLES.iter().filter_map(|role| Some((*role, self.id_of(*role, &tokens)?))).collect();
        self.head("plamo2", self.options.pre.as_deref().unwrap_or(pre::DEFAULT));
        self.vocabulary(tokens, true);
        for (role, id) in roles {
            if let Some(key) = role.id_key() {
                self.out.set(key, Value::U32(id));
            }
        }
        self.prescribed(&mut special::Special::default())
    }

    /// Returns the ID of the token that `tokenizer_config.json` names.
    fn id_of(&self, role: Role, tokens: &[Token]) -> Option<u32> {
        let text = self.tokenizer_setting(&format!("{}_token", role.name())).and_then(token_text)?;
        tokens.iter().position(|token| token.text == text).and_then(|id| u32::try_from(id).ok())
    }
}

/// Reads a token.
fn token_of(entry: &Json) -> Option<Token> {
    let text = entry.get(0)?.as_str()?.to_owned();
    let score = entry.get(1)?.as_f64()? as f32;
    let token_type = match entry.get(2).and_then(Json::as_str) {
        Some("UNKNOWN") => TokenType::Unknown,
        Some("CONTROL") => TokenType::Control,
        Some("BYTE") => TokenType::Byte,
        _ if text.starts_with("<|plamo:") && text.ends_with("|>") => TokenType::Control,
        _ => TokenType::Normal,
    };
    Some(Token { text, score, token_type })
}

/// Returns the lines of the file for the tokens of a GGUF.
pub(super) fn file(tokens: &[Token]) -> String {
    let line = |token: &Token| {
        let token_type = match token.token_type {
            TokenType::Unknown => "UNKNOWN",
            TokenType::Control => "CONTROL",
            TokenType::Byte => "BYTE",
            _ => "NORMAL",
        };
        format!("{}\n", json!([token.text, token.score, token_type]))
    };
    let padded = tokens.iter().rev().take_while(|token| token.token_type == TokenType::Unused).count();
    tokens.iter().take(tokens.len() - padded).map(line).collect()
}
