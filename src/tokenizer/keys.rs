//! The metadata keys of a tokenizer in GGUF (gguf-py/gguf/constants.py, `Keys.Tokenizer`).

/// The tokenizer model: `llama`, `gpt2`, `bert`, `t5`, `gemma4`.
pub(super) const MODEL: &str = "tokenizer.ggml.model";
/// The pre-tokenizer.
pub(super) const PRE: &str = "tokenizer.ggml.pre";
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
pub(super) const TOKEN_TYPE_COUNT: &str = "tokenizer.ggml.token_type_count";
pub(super) const SCORES: &str = "tokenizer.ggml.scores";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";
pub(super) const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
pub(super) const REMOVE_EXTRA_WHITESPACES: &str = "tokenizer.ggml.remove_extra_whitespaces";
pub(super) const PRECOMPILED_CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
pub(super) const LOWERCASE: &str = "tokenizer.ggml.normalizer.lowercase";
pub(super) const STRIP_ACCENTS: &str = "tokenizer.ggml.normalizer.strip_accents";
pub(super) const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
pub(super) const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
pub(super) const ADD_SEP: &str = "tokenizer.ggml.add_sep_token";
pub(super) const CHAT_TEMPLATE: &str = "tokenizer.chat_template";
pub(super) const CHAT_TEMPLATES: &str = "tokenizer.chat_templates";

/// The role of a special token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Bos,
    Eos,
    Unk,
    Sep,
    Pad,
    Cls,
    Mask,
    Eot,
    Eom,
}

impl Role {
    /// The roles that every tokenizer may have, in the order of the reference converter.
    pub(super) const COMMON: [Self; 7] = [Self::Bos, Self::Eos, Self::Unk, Self::Sep, Self::Pad, Self::Cls, Self::Mask];

    pub(super) const ALL: [Self; 9] = [Self::Bos, Self::Eos, Self::Unk, Self::Sep, Self::Pad, Self::Cls, Self::Mask, Self::Eot, Self::Eom];

    /// Returns the name in `bos_token`, `bos_token_id` and `add_bos_token` of Hugging Face files.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bos => "bos",
            Self::Eos => "eos",
            Self::Unk => "unk",
            Self::Sep => "sep",
            Self::Pad => "pad",
            Self::Cls => "cls",
            Self::Mask => "mask",
            Self::Eot => "eot",
            Self::Eom => "eom",
        }
    }

    /// Returns the key of the token's ID. For `cls`, GGUF uses `bos`; the key of `sep` is misspelled in GGUF.
    pub(super) fn id_key(self) -> Option<&'static str> {
        match self {
            Self::Bos => Some("tokenizer.ggml.bos_token_id"),
            Self::Eos => Some("tokenizer.ggml.eos_token_id"),
            Self::Unk => Some("tokenizer.ggml.unknown_token_id"),
            Self::Sep => Some("tokenizer.ggml.seperator_token_id"),
            Self::Pad => Some("tokenizer.ggml.padding_token_id"),
            Self::Cls => None,
            Self::Mask => Some("tokenizer.ggml.mask_token_id"),
            Self::Eot => Some("tokenizer.ggml.eot_token_id"),
            Self::Eom => Some("tokenizer.ggml.eom_token_id"),
        }
    }

    /// Returns the key for whether the token is added to every text.
    pub(super) fn add_key(self) -> Option<&'static str> {
        match self {
            Self::Bos => Some(ADD_BOS),
            Self::Eos => Some(ADD_EOS),
            Self::Sep => Some(ADD_SEP),
            _ => None,
        }
    }
}
