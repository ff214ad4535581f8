//! The kinds of tokenizers: what each reads and writes, as data.
//!
//! A family's table names its kind. The options follow `set_vocab` of llama.cpp's converter (conversion/*.py).

use serde::{Deserialize, Serialize};

use super::keys::{self, Role};
use super::spm::AddedTokens;

/// The tokenizer files of a family and how they are converted: `tokenizer` in the family's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Llama-like: a SentencePiece model, else SentencePiece-style BPE, else byte-level BPE.
    Llama,
    /// Mistral's own files: tekken.json, else a SentencePiece model with the version in its name.
    Mistral,
    /// A SentencePiece model, else byte-level BPE (Qwen 2 and 3, DeepSeek).
    SentencepieceOrBpe,
    /// Byte-level BPE.
    Bpe,
    /// Gemma 1: a SentencePiece model, no leading space, and CodeGemma's end-of-turn token.
    Gemma,
    /// Gemma 2: a SentencePiece model, no leading space.
    Gemma2,
    /// Gemma 3: like Gemma 2, else byte-level BPE.
    Gemma3,
    /// Gemma 4: SentencePiece-style BPE with its merges.
    Gemma4,
    /// Phi-3: a SentencePiece model with unmodified added tokens; Phi-4: byte-level BPE.
    Phi3,
    /// BERT: WordPiece.
    Bert,
    /// RoBERTa: byte-level BPE, else WordPiece.
    Roberta,
    /// XLM-RoBERTa: Unigram.
    XlmRoberta,
    /// ModernBERT: byte-level BPE with special tokens around every text.
    ModernBert,
    /// EuroBERT: byte-level BPE without a first token.
    EuroBert,
    /// GLM-4.5 and later: byte-level BPE; `[gMASK]` starts a text.
    Glm,
    /// GLM-4 (0414), GLM-4V, GLM-Edge: byte-level BPE; `<|endoftext|>` starts and ends a text.
    Glm4,
    /// Solar Open: byte-level BPE with its own special tokens.
    SolarOpen,
    /// dots3 note: byte-level BPE; `<|endofassistant|>` ends a turn.
    Dots3Note,
    /// Muse Glimmer: byte-level BPE; `<|eot|>` ends a turn.
    MuseGlimmer,
    /// InternLM 3: a SentencePiece model; `<|im_end|>` ends a text.
    Internlm3,
    /// Qwen 3 Omni and ASR: byte-level BPE; `<|im_end|>` starts and ends a text.
    Qwen3Omni,
    /// Intern-S1: byte-level BPE with Qwen's `<|endoftext|>` as the first token.
    InternS1,
    /// Pangu: a SentencePiece model; the config says whether there is a leading space.
    Pangu,
    /// MPT: byte-level BPE, else SEA-LION's SentencePiece model.
    Mpt,
}

/// Files to read, and what is written of them.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    pub(super) source: Source,
    /// Flags before the tokens.
    pub(super) before: Vec<(&'static str, Flag)>,
    /// Special tokens that the family prescribes.
    pub(super) special: Vec<Prescribed>,
    /// Flags at the end.
    pub(super) after: Vec<(&'static str, Flag)>,
    /// Whether the number of token types is written at the end.
    pub(super) token_types: bool,
}

/// A format of tokenizer files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// tekken.json.
    Tekken,
    /// tekken.json in a folder without tokenizer.json.
    LoneTekken,
    /// A SentencePiece model with the version in its name.
    VersionedModel,
    /// A SentencePiece model, or the `tokenizer.json` converted from one.
    SentencePiece(AddedTokens),
    /// SentencePiece-style BPE that keeps its merges.
    Gemma4,
    /// Byte-level BPE.
    ByteLevel,
    /// WordPiece.
    WordPiece,
    /// XLM-RoBERTa's Unigram.
    XlmRoberta,
}

/// The value of a flag.
#[derive(Debug, Clone, Copy)]
pub(super) enum Flag {
    Is(bool),
    /// The value of this key in `tokenizer_config.json`; none if it is absent.
    Config(&'static str),
}

/// A special token that a family prescribes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prescribed {
    pub(super) role: Role,
    pub(super) token: Named,
    pub(super) rule: Rule,
}

/// A token by text or ID.
#[derive(Debug, Clone, Copy)]
pub(super) enum Named {
    Text(&'static str),
    Id(u32),
}

/// The precedence between a prescribed token and that of the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// The folder's takes precedence.
    Default,
    /// The folder's takes precedence, including an ID in its config for this role; written after all other keys.
    Last,
    /// It replaces the folder's; written after all other keys.
    Always,
}

impl Default for Recipe {
    fn default() -> Self {
        bpe()
    }
}

impl Recipe {
    fn before<const N: usize>(self, before: [(&'static str, Flag); N]) -> Self {
        Self { before: before.to_vec(), ..self }
    }

    fn special<const N: usize>(self, special: [Prescribed; N]) -> Self {
        Self { special: special.to_vec(), ..self }
    }

    fn after<const N: usize>(self, after: [(&'static str, Flag); N]) -> Self {
        Self { after: after.to_vec(), ..self }
    }

    fn with_token_types(self) -> Self {
        Self { token_types: true, ..self }
    }
}

fn from(source: Source) -> Recipe {
    Recipe { source, before: Vec::new(), special: Vec::new(), after: Vec::new(), token_types: false }
}

fn bpe() -> Recipe {
    from(Source::ByteLevel)
}

fn sentencepiece() -> Recipe {
    from(Source::SentencePiece(AddedTokens::Interpreted))
}

fn default(role: Role, text: &'static str) -> Prescribed {
    Prescribed { role, token: Named::Text(text), rule: Rule::Default }
}

fn always(role: Role, text: &'static str) -> Prescribed {
    Prescribed { role, token: Named::Text(text), rule: Rule::Always }
}

fn id(role: Role, id: u32, rule: Rule) -> Prescribed {
    Prescribed { role, token: Named::Id(id), rule }
}

const NO_PREFIX: (&str, Flag) = (keys::ADD_SPACE_PREFIX, Flag::Is(false));
const PREFIX_OF_CONFIG: (&str, Flag) = (keys::ADD_SPACE_PREFIX, Flag::Config("add_prefix_space"));

impl Kind {
    /// Returns the recipes; the first whose source the folder has is used, the last if there is none.
    pub(super) fn recipes(self) -> Vec<Recipe> {
        let on = |key: &'static str| (key, Flag::Is(true));
        let off = |key: &'static str| (key, Flag::Is(false));
        match self {
            Self::Llama => {
                vec![from(Source::LoneTekken), sentencepiece().before([PREFIX_OF_CONFIG]), bpe().before([PREFIX_OF_CONFIG])]
            }
            Self::Mistral => vec![from(Source::Tekken), from(Source::VersionedModel)],
            Self::SentencepieceOrBpe => vec![sentencepiece(), bpe()],
            Self::Bpe => vec![bpe()],
            // The reference adds CodeGemma's end-of-turn token to every Gemma 1; its other three have no GGUF key.
            Self::Gemma => vec![sentencepiece().special([id(Role::Eot, 107, Rule::Last)]).after([NO_PREFIX])],
            Self::Gemma2 => vec![sentencepiece().after([NO_PREFIX])],
            Self::Gemma3 => vec![sentencepiece().after([NO_PREFIX]), bpe()],
            Self::Gemma4 => vec![from(Source::Gemma4).after([NO_PREFIX, on(keys::ADD_BOS)])],
            Self::Phi3 => vec![from(Source::SentencePiece(AddedTokens::Literal)), bpe()],
            Self::Bert => vec![from(Source::WordPiece)],
            Self::Roberta => vec![bpe().with_token_types(), from(Source::WordPiece)],
            Self::XlmRoberta => vec![from(Source::XlmRoberta)],
            Self::ModernBert => vec![bpe().before([on(keys::ADD_BOS), on(keys::ADD_EOS), on(keys::ADD_SEP)])],
            Self::EuroBert => vec![bpe().before([off(keys::ADD_BOS)])],
            Self::Glm => vec![bpe().special([
                default(Role::Bos, "[gMASK]"),
                default(Role::Eot, "<|user|>"),
                default(Role::Unk, "<|endoftext|>"),
                default(Role::Eom, "<|observation|>"),
            ])],
            Self::Glm4 => vec![bpe().special([
                default(Role::Eos, "<|endoftext|>"),
                default(Role::Eot, "<|user|>"),
                default(Role::Unk, "<|endoftext|>"),
                default(Role::Bos, "<|endoftext|>"),
            ])],
            Self::SolarOpen => vec![bpe().special([
                default(Role::Eos, "<|endoftext|>"),
                default(Role::Eot, "<|endoftext|>"),
                default(Role::Unk, "<unk>"),
                default(Role::Bos, "<|startoftext|>"),
            ])],
            Self::Dots3Note => vec![bpe().special([default(Role::Eot, "<|endofassistant|>")])],
            Self::MuseGlimmer => vec![bpe().special([always(Role::Eot, "<|eot|>")])],
            Self::Internlm3 => vec![sentencepiece().special([always(Role::Eos, "<|im_end|>")]).after([PREFIX_OF_CONFIG])],
            Self::Qwen3Omni => vec![bpe().special([always(Role::Bos, "<|im_end|>"), always(Role::Eos, "<|im_end|>")])],
            Self::InternS1 => vec![bpe().special([id(Role::Bos, 151_643, Rule::Default)])],
            Self::Pangu => vec![sentencepiece().after([PREFIX_OF_CONFIG])],
            Self::Mpt => vec![
                bpe(),
                sentencepiece().special([id(Role::Pad, 3, Rule::Always), id(Role::Eos, 1, Rule::Always)]).after([off(keys::ADD_BOS)]),
            ],
        }
    }
}
