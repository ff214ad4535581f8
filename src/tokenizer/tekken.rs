//! `tekken.json`: Mistral's byte-level BPE, as a list of byte strings in training order.
//!
//! The layout follows mistral-common (tokens/tokenizers/tekken.py). IDs start with the special tokens, with placeholders for those that the
//! file does not name. Merges are derived as in llama.cpp's converter: all pairs of tokens that form a token.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::files::Folder;
use crate::base::{Error, Result, limits};

/// The file name.
pub(super) const FILE: &str = "tekken.json";

/// The fields of `tekken.json` in use.
#[derive(Debug, Deserialize)]
pub(super) struct Tekken {
    pub(super) config: Config,
    vocab: Vec<Entry>,
    #[serde(default)]
    special_tokens: Option<Vec<SpecialToken>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Config {
    /// The regular expression that splits text.
    pub(super) pattern: String,
    /// The total number of tokens; the file may contain more.
    default_vocab_size: u64,
    default_num_special_tokens: u64,
    #[serde(default)]
    pub(super) version: String,
}

#[derive(Debug, Deserialize)]
struct Entry {
    rank: usize,
    token_bytes: String,
}

#[derive(Debug, Deserialize)]
struct SpecialToken {
    token_str: String,
}

/// The special tokens of files that do not list them.
const SPECIAL_TOKENS: [&str; 20] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

impl Tekken {
    /// Reads the file in `folder`; `None` if there is none.
    pub(super) fn read(folder: Folder<'_>) -> Result<Option<Self>> {
        let Some(tekken) = folder.json::<Self>(FILE)? else { return Ok(None) };
        let Config { default_vocab_size: all, default_num_special_tokens: special, .. } = tekken.config;
        if all > limits::VOCABULARY || special > all {
            let most = limits::VOCABULARY;
            return Err(Error::malformed(format!("expected at most {most} tokens, special ones among them, found {all} and {special}"))
                .in_file(&folder.file(FILE)));
        }
        Ok(Some(tekken))
    }

    /// Returns the special tokens in ID order.
    pub(super) fn special_tokens(&self) -> Vec<String> {
        let mut tokens: Vec<String> = match &self.special_tokens {
            Some(named) => named.iter().map(|token| token.token_str.clone()).collect(),
            None => SPECIAL_TOKENS.map(str::to_owned).to_vec(),
        };
        let len = self.config.default_num_special_tokens as usize;
        tokens.truncate(len);
        tokens.extend((tokens.len()..len).map(|id| format!("<SPECIAL_{id}>")));
        tokens
    }

    /// Returns the bytes of the other tokens in rank order.
    pub(super) fn ranked(&self) -> Result<Vec<Vec<u8>>> {
        let len = (self.config.default_vocab_size - self.config.default_num_special_tokens) as usize;
        let mut ranked = vec![None; len];
        for entry in &self.vocab {
            if let Some(place) = ranked.get_mut(entry.rank) {
                let token = STANDARD.decode(&entry.token_bytes);
                *place =
                    Some(token.map_err(|error| {
                        Error::malformed(format!("expected the bytes of token {} in base64, found {error}", entry.rank))
                    })?);
            }
        }
        let missing = |rank: usize| Error::malformed(format!("expected {len} tokens without a gap, found none of rank {rank}"));
        ranked.into_iter().enumerate().map(|(rank, token)| token.ok_or_else(|| missing(rank))).collect()
    }
}

/// Returns the merges in GGUF notation for tokens spelled as `texts`: for each multi-byte token, the pair of tokens that form it.
pub(super) fn merges(ranked: &[Vec<u8>], texts: &[String]) -> Result<Vec<String>> {
    let ranks: HashMap<&[u8], usize> = ranked.iter().enumerate().map(|(rank, token)| (token.as_slice(), rank)).collect();
    let mut lines = Vec::new();
    for (rank, token) in ranked.iter().enumerate().skip(BYTES) {
        let mut pairs: Vec<(usize, usize)> = (1..token.len())
            .filter_map(|at| {
                let (left, right) = token.split_at(at);
                Some((*ranks.get(left)?, *ranks.get(right)?))
            })
            .collect();
        if pairs.is_empty() {
            return Err(Error::malformed(format!("expected the token of rank {rank} to be a concatenation of two others")));
        }
        pairs.sort_unstable();
        lines.extend(pairs.into_iter().map(|(left, right)| format!("{} {}", texts[left], texts[right])));
    }
    Ok(lines)
}

/// The first tokens are the single bytes.
const BYTES: usize = 256;
