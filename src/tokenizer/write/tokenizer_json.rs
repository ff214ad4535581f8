//! Builds `tokenizer.json` for byte-level BPE, SentencePiece-style BPE, WordPiece and Unigram.

use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::gguf::GgufTokenizer;
use super::{Config, added_tokens, post};
use crate::base::{Error, Hint, Result};
use crate::tokenizer::json::AddedToken;
use crate::tokenizer::keys::Role;
use crate::tokenizer::kinds::VISIBLE;
use crate::tokenizer::pre;
use crate::tokenizer::vocabulary::{Token, TokenType};

/// Maximum length of a token for which merges are derived, in bytes: the work is quadratic in it.
const MERGED_BYTES: usize = 512;

/// A complete `tokenizer.json`.
#[derive(Debug, Serialize)]
pub(super) struct TokenizerJson {
    version: &'static str,
    truncation: Value,
    padding: Value,
    added_tokens: Vec<AddedToken>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Model,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type")]
enum Model {
    #[serde(rename = "BPE")]
    Bpe {
        dropout: (),
        unk_token: Option<String>,
        continuing_subword_prefix: (),
        end_of_word_suffix: (),
        fuse_unk: bool,
        byte_fallback: bool,
        ignore_merges: bool,
        vocab: Ids,
        merges: Vec<(String, String)>,
    },
    WordPiece {
        unk_token: String,
        continuing_subword_prefix: &'static str,
        max_input_chars_per_word: u32,
        vocab: Ids,
    },
    Unigram {
        unk_id: Option<u32>,
        vocab: Scores,
        byte_fallback: bool,
    },
}

/// Tokens in ID order, serialised as a map to IDs.
#[derive(Debug)]
struct Ids(Vec<(String, u32)>);

impl Serialize for Ids {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (text, id) in &self.0 {
            map.serialize_entry(text, id)?;
        }
        map.end()
    }
}

/// Tokens and scores, serialised as pairs.
#[derive(Debug)]
struct Scores(Vec<Token>);

impl Serialize for Scores {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.0.len()))?;
        for token in &self.0 {
            seq.serialize_element(&(&token.text, token.score))?;
        }
        seq.end()
    }
}

impl TokenizerJson {
    fn new(model: Model) -> Self {
        Self {
            version: "1.0",
            truncation: Value::Null,
            padding: Value::Null,
            added_tokens: Vec::new(),
            normalizer: Value::Null,
            pre_tokenizer: Value::Null,
            post_processor: Value::Null,
            decoder: Value::Null,
            model,
        }
    }
}

/// Returns the model's own tokens, up to the last one that is not added. Added tokens among them keep their positions.
fn base_tokens(tokenizer: &GgufTokenizer, text: impl Fn(&Token) -> String) -> Ids {
    let len = tokenizer.base_len(|token| matches!(token.token_type, TokenType::Control | TokenType::UserDefined));
    Ids(tokenizer.tokens.iter().take(len).zip(0..).map(|(token, id)| (text(token), id)).collect())
}

pub(super) fn byte_level(tokenizer: &GgufTokenizer, config: &mut Config) -> Result<TokenizerJson> {
    let pre = tokenizer.pre.as_deref().unwrap_or(pre::DEFAULT);
    let splits = pre::by_name(pre).ok_or_else(|| {
        Error::unsupported(format!("expected a pre-tokenizer whose steps are known, found {pre}")).hint(Hint::NamePreTokenizer)
    })?;
    if splits.escaped {
        return gemma4(tokenizer, config, "PreTrainedTokenizerFast");
    }
    let vocab = base_tokens(tokenizer, |token| token.text.clone());
    let merges = given_merges(tokenizer, &vocab);
    let model = Model::Bpe {
        dropout: (),
        unk_token: None,
        continuing_subword_prefix: (),
        end_of_word_suffix: (),
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: splits.ignore_merges,
        vocab,
        merges,
    };
    let added_tokens = added_tokens(tokenizer, |token| token.text.clone());
    // llama.cpp's converter distinguishes Phi-4's tokenizer from Phi-3's by this class.
    config.set("tokenizer_class", if tokenizer.architecture == "phi3" { "GPT2Tokenizer" } else { "PreTrainedTokenizerFast" });
    config.set("clean_up_tokenization_spaces", false);
    config.special_tokens(tokenizer, &added_tokens);
    config.added_tokens(&added_tokens);
    Ok(TokenizerJson {
        added_tokens,
        normalizer: splits.normalizer,
        pre_tokenizer: splits.pre_tokenizer,
        post_processor: post::processor(tokenizer, true, config),
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        ..TokenizerJson::new(model)
    })
}

/// Returns the merges of the GGUF whose tokens are all in the vocabulary: the tokenizers library rejects others.
fn given_merges(tokenizer: &GgufTokenizer, vocab: &Ids) -> Vec<(String, String)> {
    let known: HashSet<&str> = vocab.0.iter().map(|(text, _)| text.as_str()).collect();
    let merges = tokenizer.merges.iter().filter_map(|line| {
        let space = line.char_indices().skip(1).find(|(_, c)| *c == ' ')?.0;
        let (left, right) = (&line[..space], &line[space + 1..]);
        let whole = known.contains(left) && known.contains(right) && known.contains(format!("{left}{right}").as_str());
        whole.then(|| (left.to_owned(), right.to_owned()))
    });
    merges.collect()
}

/// Builds a tokenizer like Gemma 4's: SentencePiece-style BPE that keeps its merges, and splits text only at spaces.
pub(super) fn gemma4(tokenizer: &GgufTokenizer, config: &mut Config, class: &str) -> Result<TokenizerJson> {
    let vocab = base_tokens(tokenizer, |token| token.text.clone());
    let merges = given_merges(tokenizer, &vocab);
    let model = byte_fallback_bpe(tokenizer, vocab, merges);
    let mut added_tokens = added_tokens(tokenizer, |token| token.text.clone());
    for token in &mut added_tokens {
        token.special |= tokenizer.model == "gemma4" && VISIBLE.contains(&token.content.as_str());
    }
    config.set("tokenizer_class", class);
    config.set("clean_up_tokenization_spaces", false);
    config.special_tokens(tokenizer, &added_tokens);
    config.added_tokens(&added_tokens);
    Ok(TokenizerJson {
        added_tokens,
        normalizer: replace(" ", "\u{2581}"),
        pre_tokenizer: json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false}),
        post_processor: post::processor(tokenizer, false, config),
        decoder: json!({"type": "Sequence", "decoders": [replace("\u{2581}", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})]}),
        ..TokenizerJson::new(model)
    })
}

/// Builds a BPE model that splits characters outside its vocabulary into bytes.
fn byte_fallback_bpe(tokenizer: &GgufTokenizer, vocab: Ids, merges: Vec<(String, String)>) -> Model {
    Model::Bpe {
        dropout: (),
        unk_token: tokenizer.token(Role::Unk).map(|token| token.text.clone()),
        continuing_subword_prefix: (),
        end_of_word_suffix: (),
        fuse_unk: true,
        byte_fallback: true,
        ignore_merges: false,
        vocab,
        merges,
    }
}

/// A normalizer or decoder step.
fn replace(from: &str, to: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": from}, "content": to})
}

pub(super) fn sentencepiece_style(tokenizer: &GgufTokenizer, config: &mut Config) -> Result<TokenizerJson> {
    let vocab = base_tokens(tokenizer, |token| token.text.clone());
    let merges = merges_of(tokenizer, &vocab);
    let model = byte_fallback_bpe(tokenizer, vocab, merges);
    let prefix = tokenizer.add_space_prefix.unwrap_or(true);
    let mut normalizers = vec![replace(" ", "\u{2581}")];
    let mut decoders = vec![replace("\u{2581}", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "\u{2581}"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let added_tokens = added_tokens(tokenizer, |token| token.text.clone());
    config.set("tokenizer_class", if tokenizer.architecture.starts_with("gemma") { "GemmaTokenizer" } else { "LlamaTokenizer" });
    config.set("clean_up_tokenization_spaces", false);
    config.set("legacy", false);
    if let Some(add) = tokenizer.add_space_prefix {
        config.set("add_prefix_space", add);
    }
    config.special_tokens(tokenizer, &added_tokens);
    config.added_tokens(&added_tokens);
    Ok(TokenizerJson {
        added_tokens,
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        post_processor: post::processor(tokenizer, false, config),
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        ..TokenizerJson::new(model)
    })
}

/// Derives the merges in the order of transformers' SentencePiece converter: by token, and for each token all pairs that form it, by ID.
///
/// Runs of spaces have the lowest scores, so that they come last; a first token with score 0 counts as having no score.
fn merges_of(tokenizer: &GgufTokenizer, vocab: &Ids) -> Vec<(String, String)> {
    let normal = |id: u32| tokenizer.tokens.get(id as usize).is_some_and(|token| token.token_type == TokenType::Normal);
    let known: HashMap<&str, u32> = vocab.0.iter().filter(|(_, id)| normal(*id)).map(|(text, id)| (text.as_str(), *id)).collect();
    let made = vocab.0.iter().filter(|(text, id)| normal(*id) && text.chars().nth(1).is_some()).map(|(text, _)| text.as_str());
    let (spaces, others): (Vec<&str>, Vec<&str>) = made.partition(|text| text.chars().all(|c| c == '\u{2581}'));
    let first_is_scoreless = match (others.first(), spaces.first()) {
        (Some(other), Some(space)) => known.get(other) < known.get(space),
        _ => true,
    };
    let mut merges = Vec::new();
    for text in others.into_iter().skip(first_is_scoreless.into()).chain(spaces) {
        if text.len() > MERGED_BYTES {
            continue;
        }
        let ways = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let mut ways: Vec<_> = ways.filter_map(|(left, right)| Some((known.get(left)?, known.get(right)?, left, right))).collect();
        ways.sort_unstable();
        merges.extend(ways.into_iter().map(|(_, _, left, right)| (left.to_owned(), right.to_owned())));
    }
    merges
}

/// Builds `tokenizer.json` and the equivalent `vocab.txt`.
pub(super) fn wordpiece(tokenizer: &GgufTokenizer, config: &mut Config) -> Result<(TokenizerJson, String)> {
    // GGUF marks the start of words, WordPiece the continuations.
    let text = |token: &Token| match (token.token_type, token.text.strip_prefix('\u{2581}')) {
        (TokenType::Control, _) => token.text.clone(),
        (_, Some(start)) => start.to_owned(),
        (_, None) => format!("##{}", token.text),
    };
    let plain = |token: &Token| match token.token_type {
        TokenType::Unused => Token { text: text(token), ..token.clone() },
        _ => token.clone(),
    };
    let padded = tokenizer.tokens.iter().enumerate().rev().take_while(|(id, token)| plain(token).is_padding(*id)).count();
    let len = tokenizer.tokens.len() - padded;
    let vocab = Ids(tokenizer.tokens.iter().take(len).zip(0..).map(|(token, id)| (text(token), id)).collect());
    let lines = vocab.0.iter().flat_map(|(text, _)| [text.as_str(), "\n"]).collect();
    let unk = tokenizer.token(Role::Unk).map_or("[UNK]", |token| &token.text).to_owned();
    let model = Model::WordPiece { unk_token: unk.clone(), continuing_subword_prefix: "##", max_input_chars_per_word: 100, vocab };

    // llama.cpp lowercases by default.
    let lowercase = tokenizer.lowercase.unwrap_or(true);
    config.set("tokenizer_class", "BertTokenizer");
    config.set("do_lower_case", lowercase);
    config.set("strip_accents", tokenizer.strip_accents);
    config.set("tokenize_chinese_chars", true);
    config.set("clean_up_tokenization_spaces", true);
    if let Some(length) = tokenizer.context_length {
        config.set("model_max_length", length);
    }
    config.set("unk_token", unk);
    let first = tokenizer.token(Role::Bos);
    let last = tokenizer.token(Role::Sep).or_else(|| tokenizer.token(Role::Eos));
    for (key, token) in
        [("cls_token", first), ("sep_token", last), ("pad_token", tokenizer.token(Role::Pad)), ("mask_token", tokenizer.token(Role::Mask))]
    {
        if let Some(token) = token {
            config.set(key, token.text.as_str());
        }
    }
    let added_tokens = added_tokens(tokenizer, text);
    config.added_tokens(&added_tokens);
    let json = TokenizerJson {
        added_tokens,
        normalizer: json!({
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": true,
            "strip_accents": tokenizer.strip_accents,
            "lowercase": lowercase,
        }),
        pre_tokenizer: json!({"type": "BertPreTokenizer"}),
        post_processor: post::processor(tokenizer, false, config),
        decoder: json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        ..TokenizerJson::new(model)
    };
    Ok((json, lines))
}

pub(super) fn unigram(tokenizer: &GgufTokenizer, config: &mut Config) -> Result<TokenizerJson> {
    let len = tokenizer.base_len(|_| false);
    let unk = tokenizer.id(Role::Unk).or_else(|| {
        let unk = tokenizer.tokens.iter().position(|token| token.token_type == TokenType::Unknown);
        unk.and_then(|id| u32::try_from(id).ok())
    });
    let vocab = Scores(tokenizer.tokens.iter().take(len).cloned().collect());
    let model =
        Model::Unigram { unk_id: unk, vocab, byte_fallback: tokenizer.tokens.iter().any(|token| token.token_type == TokenType::Byte) };
    let scheme = if tokenizer.add_space_prefix.unwrap_or(true) { "always" } else { "never" };
    let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": true});
    let pre_tokenizer = match tokenizer.remove_extra_whitespaces {
        Some(true) => json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]}),
        _ => metaspace.clone(),
    };
    let added_tokens = added_tokens(tokenizer, |token| token.text.clone());
    config.set("tokenizer_class", if tokenizer.architecture.starts_with("t5") { "T5Tokenizer" } else { "XLMRobertaTokenizer" });
    if let Some(add) = tokenizer.add_space_prefix {
        config.set("add_prefix_space", add);
    }
    config.set("clean_up_tokenization_spaces", tokenizer.remove_extra_whitespaces.unwrap_or(false));
    config.special_tokens(tokenizer, &added_tokens);
    config.added_tokens(&added_tokens);
    let normalizer = match tokenizer.charsmap.as_slice() {
        [] => Value::Null,
        charsmap => json!({"type": "Precompiled", "precompiled_charsmap": STANDARD.encode(charsmap)}),
    };
    Ok(TokenizerJson {
        added_tokens,
        normalizer,
        pre_tokenizer,
        post_processor: post::processor(tokenizer, false, config),
        decoder: metaspace,
        ..TokenizerJson::new(model)
    })
}
