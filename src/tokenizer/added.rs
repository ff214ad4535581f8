//! The tokens added to the vocabulary of a `tokenizer.json`, as determined by transformers' `AutoTokenizer`.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::files::Folder;
use super::json::{AddedToken, TokenizerJson};
use super::keys::Role;
use super::special::token_text;
use super::spm;
use crate::base::Result;

/// The default special tokens of a transformers tokenizer class.
struct ClassDefaults {
    class: &'static str,
    /// The model types that use this class by default (transformers' `TOKENIZER_MAPPING_NAMES`).
    models: &'static [&'static str],
    tokens: &'static [(Role, &'static str)],
}

static CLASSES: &[ClassDefaults] = &[
    ClassDefaults {
        class: "BertTokenizer",
        models: &["bert", "distilbert", "nomic_bert"],
        tokens: &[(Role::Unk, "[UNK]"), (Role::Sep, "[SEP]"), (Role::Pad, "[PAD]"), (Role::Cls, "[CLS]"), (Role::Mask, "[MASK]")],
    },
    ClassDefaults {
        class: "GPT2Tokenizer",
        models: &["gpt2", "phi", "starcoder2"],
        tokens: &[(Role::Unk, "<|endoftext|>"), (Role::Bos, "<|endoftext|>"), (Role::Eos, "<|endoftext|>")],
    },
    ClassDefaults { class: "LlamaTokenizer", models: &[], tokens: &[(Role::Unk, "<unk>"), (Role::Bos, "<s>"), (Role::Eos, "</s>")] },
    ClassDefaults {
        class: "GemmaTokenizer",
        models: &["gemma", "gemma2", "gemma3", "gemma3_text"],
        tokens: &[(Role::Unk, "<unk>"), (Role::Bos, "<bos>"), (Role::Eos, "<eos>"), (Role::Pad, "<pad>"), (Role::Mask, "<mask>")],
    },
    ClassDefaults {
        class: "Qwen2Tokenizer",
        models: &["qwen2", "qwen2_moe", "qwen3", "qwen3_moe"],
        tokens: &[(Role::Unk, "<|endoftext|>"), (Role::Eos, "<|endoftext|>"), (Role::Pad, "<|endoftext|>")],
    },
    ClassDefaults {
        class: "CohereTokenizer",
        models: &["cohere", "cohere2"],
        tokens: &[
            (Role::Unk, "<UNK>"),
            (Role::Bos, "<BOS_TOKEN>"),
            (Role::Eos, "<|END_OF_TURN_TOKEN|>"),
            (Role::Pad, "<PAD>"),
            (Role::Cls, "<CLS>"),
            (Role::Sep, "<SEP>"),
            (Role::Mask, "<MASK_TOKEN>"),
        ],
    },
    ClassDefaults {
        class: "RobertaTokenizer",
        models: &["roberta"],
        tokens: &[(Role::Bos, "<s>"), (Role::Eos, "</s>"), (Role::Unk, "<unk>"), (Role::Pad, "<pad>"), (Role::Mask, "<mask>")],
    },
    ClassDefaults {
        class: "XLMRobertaTokenizer",
        models: &["xlm-roberta"],
        tokens: &[(Role::Bos, "<s>"), (Role::Eos, "</s>"), (Role::Unk, "<unk>"), (Role::Pad, "<pad>"), (Role::Mask, "<mask>")],
    },
];

fn defaults(class: Option<&str>, model_type: Option<&str>) -> &'static [(Role, &'static str)] {
    let row = match (class, model_type) {
        (Some(class), _) => CLASSES.iter().find(|row| row.class == class.strip_suffix("Fast").unwrap_or(class)),
        (None, Some(model)) => CLASSES.iter().find(|row| row.models.contains(&model)),
        (None, None) => None,
    };
    row.map_or(&[], |row| row.tokens)
}

/// Added tokens by text.
pub(super) struct Added {
    pub(super) tokens: Vec<AddedToken>,
    by_text: HashMap<String, usize>,
    /// The first ID after the vocabulary.
    next: u32,
    /// The texts of tokens with a role, or listed as special without one.
    pub(super) special: HashSet<String>,
}

impl Added {
    pub(super) fn get(&self, text: &str) -> Option<&AddedToken> {
        self.by_text.get(text).map(|&i| &self.tokens[i])
    }

    /// Collects the added tokens. `vocab`: the IDs of the model's own tokens.
    pub(super) fn read(
        folder: Folder<'_>,
        json: Option<&TokenizerJson>,
        vocab: &HashMap<&str, u32>,
        tokenizer_config: Option<&Map<String, Value>>,
        config: &Value,
    ) -> Result<Self> {
        let next = vocab.values().max().map_or(0, |id| id.saturating_add(1));
        let mut added = Self { tokens: Vec::new(), by_text: HashMap::new(), next, special: HashSet::new() };
        for token in json.iter().flat_map(|json| &json.added_tokens) {
            added.put(token.clone(), vocab, true);
        }
        let decoder = spm::decoder_tokens(folder, tokenizer_config)?;
        let mut in_order = decoder;
        in_order.sort_by_key(|token| token.id);
        let legacy = in_order.is_empty();
        for token in in_order {
            added.put(token, vocab, false);
        }
        // Older folders, without `added_tokens_decoder`, have separate files.
        let map = if legacy { folder.object("special_tokens_map.json")? } else { None };
        let listed = if legacy { folder.object("added_tokens.json")? } else { None };
        let mut listed: Vec<_> = listed.into_iter().flatten().filter_map(|(text, id)| Some((id.as_u64()?, text))).collect();
        listed.sort();
        for (id, text) in listed {
            if let Ok(id) = u32::try_from(id) {
                added.put(plain(id, text, false), vocab, json.is_none());
            }
        }

        let named = |key: &str| {
            let of = |source: Option<&Map<String, Value>>| source.and_then(|source| source.get(key)).cloned();
            of(tokenizer_config).or_else(|| of(map.as_ref()))
        };
        let class = tokenizer_config.and_then(|config| config.get("tokenizer_class")).and_then(Value::as_str);
        let defaults = defaults(class, config.get("model_type").and_then(Value::as_str));
        for role in Role::COMMON {
            match named(&format!("{}_token", role.name())) {
                Some(token) => added.mark(&token, vocab),
                None => {
                    // A default token that is not in the vocabulary is ignored.
                    let default = defaults.iter().find(|(other, text)| *other == role && vocab.contains_key(text));
                    if let Some((_, text)) = default {
                        added.mark(&Value::from(*text), vocab);
                    }
                }
            }
        }
        for key in ["additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens"] {
            match named(key) {
                Some(Value::Array(tokens)) => tokens.iter().for_each(|token| added.mark(token, vocab)),
                Some(Value::Object(tokens)) => tokens.values().for_each(|token| added.mark(token, vocab)),
                _ => {}
            }
        }
        // transformers 5 has further roles by name: `image_token`, `eot_token`.
        for (_, token) in tokenizer_config.into_iter().flatten().filter(|(key, _)| key.ends_with("_token")) {
            added.mark(token, vocab);
        }
        Ok(added)
    }

    /// Adds a token, or updates the flags of an existing one. The ID is its own if `keep_id`, otherwise that of the equal token in the
    /// vocabulary, otherwise the next free one.
    fn put(&mut self, token: AddedToken, vocab: &HashMap<&str, u32>, keep_id: bool) {
        if token.content.is_empty() {
            return;
        }
        if let Some(&i) = self.by_text.get(&token.content) {
            let id = self.tokens[i].id;
            self.tokens[i] = AddedToken { id, ..token };
            return;
        }
        let id = if keep_id { token.id } else { vocab.get(token.content.as_str()).copied().unwrap_or(self.next) };
        self.next = self.next.max(id.saturating_add(1));
        self.by_text.insert(token.content.clone(), self.tokens.len());
        self.tokens.push(AddedToken { id, ..token });
    }

    /// Marks a token as special, adding it if necessary.
    fn mark(&mut self, token: &Value, vocab: &HashMap<&str, u32>) {
        let Some(text) = token_text(token) else { return };
        self.special.insert(text.to_owned());
        let normalized = token.get("normalized").and_then(Value::as_bool).unwrap_or(false);
        let flags = self.get(text).cloned().unwrap_or_else(|| plain(0, text.to_owned(), true));
        self.put(AddedToken { special: true, normalized, ..flags }, vocab, false);
    }
}

fn plain(id: u32, content: String, special: bool) -> AddedToken {
    AddedToken { id, content, single_word: false, lstrip: false, rstrip: false, normalized: !special, special }
}
