//! tiktoken's vocabularies: a line per token, with its bytes in base64 and its rank.
//!
//! The special tokens are in the code of each tokenizer; the merges are derived from the ranks, as in llama.cpp's converter.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::spm;
use super::vocabulary::{Token, TokenType, looks_special};
use super::{Build, bytes, keys, setting, vocabulary_size};
use crate::base::{Error, Result, limits};
use crate::model::{Array, Value};

/// Maximum length of a token in bytes: the work of finding its merge is quadratic in it.
const TOKEN_BYTES: usize = 512;

/// A vocabulary file with the special tokens that follow its ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiktoken {
    pub(super) file: &'static str,
    /// llama.cpp's name of the pre-tokenizer.
    pub(super) pre: &'static str,
    pub(super) special: SpecialTokens,
}

/// Source of the special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpecialTokens {
    /// These, from this many IDs after the ranks; then `<|extra_0|>` etc., this many.
    Names { gap: usize, names: &'static [&'static str], extra: usize },
    /// `added_tokens_decoder` in `tokenizer_config.json`; the other IDs after the ranks are `<|reserved_token_ID|>`, up to this many.
    Reserved(usize),
    /// `added_tokens_decoder` in `tokenizer_config.json`.
    Listed,
}

/// Qwen 1.
pub(super) const QWEN: Tiktoken = Tiktoken {
    file: "qwen.tiktoken",
    pre: "qwen2",
    special: SpecialTokens::Names { gap: 0, names: &["<|endoftext|>", "<|im_start|>", "<|im_end|>"], extra: 205 },
};

/// StableLM 2 in its first form.
pub(super) const ARCADE: Tiktoken = Tiktoken {
    file: "arcade100k.tiktoken",
    pre: "stablelm2",
    special: SpecialTokens::Names {
        gap: 1,
        names: &[
            "<|endoftext|>",
            "<|fim_prefix|>",
            "<|fim_middle|>",
            "<|fim_suffix|>",
            "<|fim_pad|>",
            "<gh_stars>",
            "<filename>",
            "<issue_start>",
            "<issue_comment>",
            "<issue_closed>",
            "<jupyter_start>",
            "<jupyter_text>",
            "<jupyter_code>",
            "<jupyter_output>",
            "<empty_output>",
            "<commit_before>",
            "<commit_msg>",
            "<commit_after>",
            "<reponame>",
            "<|endofprompt|>",
            "<|im_start|>",
            "<|im_end|>",
            "<|pause|>",
            "<|reg0|>",
            "<|reg1|>",
            "<|reg2|>",
            "<|reg3|>",
            "<|reg4|>",
            "<|reg5|>",
            "<|reg6|>",
            "<|reg7|>",
            "<|extra0|>",
        ],
        extra: 0,
    },
};

/// HunYuan.
pub(super) const HUNYUAN: Tiktoken = Tiktoken {
    file: "hy.tiktoken",
    pre: "hunyuan",
    special: SpecialTokens::Names { gap: 0, names: &["<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>"], extra: 205 },
};

/// Kimi.
pub(super) const KIMI: Tiktoken = Tiktoken { file: "tiktoken.model", pre: "kimi-k2", special: SpecialTokens::Reserved(258) };

/// GLM-4 with its own code; the file has the name of a SentencePiece model.
pub(super) const CHATGLM: Tiktoken = Tiktoken { file: spm::FILE, pre: "chatglm-bpe", special: SpecialTokens::Listed };

/// Whether this is the start of a tiktoken file, rather than of a SentencePiece model.
pub(super) fn is_tiktoken(content: &[u8]) -> bool {
    let line = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
    std::str::from_utf8(line).is_ok_and(|line| entry(line).is_some())
}

/// Parses a line.
fn entry(line: &str) -> Option<(Vec<u8>, usize)> {
    let mut parts = line.split_whitespace();
    let (token, rank, None) = (parts.next()?, parts.next()?, parts.next()) else { return None };
    Some((STANDARD.decode(token).ok()?, rank.parse().ok()?))
}

/// Parses the tokens and ranks, in the order of the file.
fn ranks(text: &str) -> Result<Vec<(Vec<u8>, usize)>> {
    let mut ranks = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (token, rank) = entry(line)
            .filter(|(token, _)| !token.is_empty())
            .ok_or_else(|| Error::malformed(format!("line {}: expected a token in base64 and its rank", number + 1)))?;
        if token.len() > TOKEN_BYTES || rank as u64 >= limits::VOCABULARY || ranks.len() as u64 >= limits::VOCABULARY {
            return Err(Error::limit(format!(
                "line {}: expected at most {} tokens of at most {TOKEN_BYTES} bytes, found rank {rank} and {} bytes",
                number + 1,
                limits::VOCABULARY,
                token.len()
            )));
        }
        ranks.push((token, rank));
    }
    Ok(ranks)
}

/// Splits a token into the parts from which it is merged last: those that merges of a lower rank lead to.
fn parts<'t>(ranks: &HashMap<&[u8], usize>, token: &'t [u8], rank: usize) -> Vec<&'t [u8]> {
    let mut ends: Vec<usize> = (0..=token.len()).collect();
    let pair = |ends: &[usize], at: usize| ranks.get(&token[ends[at]..ends[at + 2]]).copied().unwrap_or(usize::MAX);
    let mut pairs: Vec<usize> = (0..token.len().saturating_sub(1)).map(|at| pair(&ends, at)).collect();
    while let Some((lowest, at)) = pairs.iter().copied().zip(0..).min()
        && lowest < rank
    {
        ends.remove(at + 1);
        pairs.remove(at);
        // Only the pairs beside the merged one have changed.
        for changed in at.saturating_sub(1)..pairs.len().min(at + 1) {
            pairs[changed] = pair(&ends, changed);
        }
    }
    ends.windows(2).map(|ends| &token[ends[0]..ends[1]]).collect()
}

/// Returns the merges in GGUF notation. A token that merges of lower ranks do not form from two parts has none.
fn merges(ranks: &[(Vec<u8>, usize)]) -> Vec<String> {
    let by_bytes: HashMap<&[u8], usize> = ranks.iter().map(|(token, rank)| (token.as_slice(), *rank)).collect();
    let merge = |(token, rank): &(Vec<u8>, usize)| match parts(&by_bytes, token, *rank)[..] {
        [left, right] => Some(format!("{} {}", bytes::encode(left), bytes::encode(right))),
        _ => None,
    };
    ranks.iter().filter(|(token, _)| token.len() > 1).filter_map(merge).collect()
}

impl Build<'_> {
    pub(super) fn tiktoken(&mut self, kind: Tiktoken) -> Result<()> {
        let text = self.folder.text(kind.file)?.ok_or_else(|| self.missing(&[super::JSON, kind.file]))?;
        let ranks = ranks(&text).map_err(|error| error.in_file(&self.folder.file(kind.file)))?;
        let after = ranks.iter().map(|(_, rank)| rank + 1).max().unwrap_or(0);
        let special = self.special_of(kind.special, after)?;
        let len = special.iter().map(|(id, ..)| id + 1).max().unwrap_or(0).max(after);
        let size = match setting(self.config, "vocab_size") {
            Some(size) => vocabulary_size(size, self.folder)?,
            None => len,
        };
        if after > size {
            return Err(Error::malformed(format!(
                "expected token ids below the vocabulary size of {size} that config.json gives, found {}",
                after - 1
            ))
            .in_file(&self.folder.file(kind.file)));
        }
        let mut tokens: Vec<Token> = (0..size).map(Token::padding).collect();
        for (token, rank) in &ranks {
            tokens[*rank] = Token { text: bytes::encode(token), score: 0.0, token_type: TokenType::Normal };
        }
        for (id, text, token_type) in special {
            if let Some(token) = tokens.get_mut(id) {
                *token = Token { text, score: 0.0, token_type };
            }
        }
        let pre = self.options.pre.as_deref().unwrap_or(kind.pre).to_owned();
        self.head("gpt2", &pre);
        self.vocabulary(tokens, false);
        self.out.set(keys::MERGES, Value::Array(Array::packed_strings(merges(&ranks))));
        self.special(None)
    }

    /// Returns IDs, texts and types of the special tokens. `after`: the first ID after the ranks.
    fn special_of(&self, special: SpecialTokens, after: usize) -> Result<Vec<(usize, String, TokenType)>> {
        let listed = || -> Result<Vec<(usize, String, TokenType)>> {
            let listed = spm::decoder_tokens(self.folder, self.tokenizer_config.as_ref())?;
            let typed = listed.into_iter().map(|token| {
                let special = token.special || looks_special(&token.content);
                (token.id as usize, token.content, if special { TokenType::Control } else { TokenType::UserDefined })
            });
            Ok(typed.collect())
        };
        Ok(match special {
            SpecialTokens::Names { gap, names, extra } => {
                let extra = (0..extra).map(|number| format!("<|extra_{number}|>"));
                let names = names.iter().map(|name| (*name).to_owned()).chain(extra);
                names.zip(after + gap..).map(|(text, id)| (id, text, TokenType::Control)).collect()
            }
            SpecialTokens::Reserved(len) => {
                let mut named: HashMap<usize, String> = listed()?.into_iter().map(|(id, text, _)| (id, text)).collect();
                let text = |id| named.remove(&id).unwrap_or_else(|| format!("<|reserved_token_{id}|>"));
                let ids = after..after + len;
                ids.clone().map(text).zip(ids).map(|(text, id)| (id, text, TokenType::Control)).collect()
            }
            SpecialTokens::Listed => listed()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_follow_from_the_ranks() {
        // tiktoken would merge "b c" before "a b" in abc: the parts are a and bc.
        let ranks: Vec<(Vec<u8>, usize)> = ["a", "b", "c", "bc", "ab", "abc", "aab", "zz"]
            .iter()
            .zip(0..)
            .map(|(token, rank)| (token.as_bytes().to_vec(), rank))
            .collect();
        assert_eq!(merges(&ranks), ["b c", "a b", "a bc", "a ab", "z z"]);
    }

    #[test]
    fn a_file_is_told_from_a_sentencepiece_model() {
        assert!(is_tiktoken(b"IQ== 0\nIg== 1\n"));
        assert!(!is_tiktoken(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02") && !is_tiktoken(b"") && !is_tiktoken(b"IQ== 0 1"));
    }

    #[test]
    fn lines_that_are_no_tokens_are_errors() {
        for (text, expected) in [("IQ==", "line 1"), ("IQ== 0\n\n? 1", "line 3"), ("IQ== 99999999", "rank 99999999"), (" 7", "line 1")] {
            assert!(ranks(text).unwrap_err().to_string().contains(expected), "{text}");
        }
    }
}
