//! The kinds of tokenizers: what each reads and writes, as data.
//!
//! A family's table names its kind. The options follow `set_vocab` of llama.cpp's converter (conversion/*.py).

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::keys::{self, Role};
use super::spm::AddedTokens;
use super::tiktoken::{self, Tiktoken};
use super::vocabulary::TokenType;

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
    /// Gemma 3n: like Gemma 3, with the vocabulary size of the whole model.
    Gemma3n,
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
    /// Nomic BERT: XLM-RoBERTa's Unigram, else WordPiece.
    NomicBert,
    /// Nomic BERT with experts: XLM-RoBERTa's Unigram with a mask token, else WordPiece.
    NomicBertMoe,
    /// Jina BERT 2: WordPiece, else BPE.
    JinaBertV2,
    /// T5: Unigram.
    T5,
    /// ModernBERT: byte-level BPE with special tokens around every text.
    ModernBert,
    /// EuroBERT: byte-level BPE without a first token.
    EuroBert,
    /// LLaDA: byte-level BPE with a first token.
    Llada,
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
    /// Pangu, ERNIE 4.5: a SentencePiece model; the config says whether there is a leading space.
    Pangu,
    /// MPT: byte-level BPE, else SEA-LION's SentencePiece model.
    Mpt,
    /// Jamba: a SentencePiece model, else SentencePiece-style BPE without a leading space.
    Jamba,
    /// InternLM 2: a SentencePiece model with unmodified added tokens; `<|im_end|>` ends a text.
    Internlm2,
    /// Laguna: byte-level BPE; `</assistant>` is a control token.
    Laguna,
    /// MiniMax-Text-01, MiniMax-M1: byte-level BPE; the template in its own file takes precedence.
    Minimax01,
    /// Qwen 1: qwen.tiktoken.
    Qwen,
    /// StableLM: byte-level BPE, else arcade100k.tiktoken.
    Stablelm,
    /// DeepSeek 2 and 3, Kimi K2: byte-level BPE, else Kimi's tiktoken.model.
    BpeOrKimi,
    /// Kimi Linear: like the former; the tokenizer's last token takes precedence over the config's.
    KimiLinear,
    /// Kimi K3: like the former, but for the last token, which is the config's.
    KimiK3,
    /// HunYuan with experts: byte-level BPE, else hy.tiktoken; `<|bos|>` starts a text.
    HunyuanMoe,
    /// HunYuan: byte-level BPE, else hy.tiktoken; `eod_token_id` ends a text.
    HunyuanDense,
    /// ChatGLM 3 and 4: byte-level BPE, else a tiktoken file, else ChatGLM 3's SentencePiece model.
    Chatglm,
    /// Mamba: byte-level BPE, else a SentencePiece model; the vocabulary is padded to a multiple of 8.
    Mamba,
    /// Mamba 2: a SentencePiece model, else byte-level BPE; the vocabulary is padded to a multiple of 16.
    Mamba2,
    /// Nemotron: a SentencePiece model, else byte-level BPE; token 0 pads, token 1 is the unknown one.
    Nemotron,
    /// Nemotron-H: byte-level BPE; the vocabulary is padded to a multiple of 8.
    NemotronH,
    /// Granite 4 hybrid, Bamba: like Mamba 2; padded to a multiple of 8 if there are Mamba layers.
    GraniteHybrid,
    /// OpenELM: a SentencePiece model.
    Openelm,
    /// RWKV's World vocabulary.
    Rwkv,
    /// PLaMo 2 and 3: tokenizer.jsonl.
    Plamo2,
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
    /// Types of tokens by text.
    pub(super) types: Vec<(&'static str, TokenType)>,
    /// Whether the number of token types is written at the end.
    pub(super) token_types: bool,
    /// Whether `chat_template.jinja` takes precedence over the template in `tokenizer_config.json`.
    pub(super) template_file: bool,
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
    /// A SentencePiece model.
    Model(AddedTokens),
    /// InternLM 2's SentencePiece model.
    Internlm2,
    /// ChatGLM 3's SentencePiece model.
    Chatglm3,
    /// SentencePiece-style BPE that keeps its merges.
    Gemma4,
    /// Byte-level BPE.
    ByteLevel,
    /// Byte-level BPE as a tiktoken file.
    Tiktoken(Tiktoken),
    /// RWKV's World vocabulary.
    Rwkv,
    /// PLaMo 2's vocabulary.
    Plamo,
    /// The vocabulary of another model, by the name of its repository, which llama.cpp's converter has built in.
    BuiltIn(&'static str),
    /// WordPiece.
    WordPiece,
    /// BPE over words that whitespace separates.
    Whitespace,
    /// T5's Unigram.
    T5,
    /// XLM-RoBERTa's Unigram.
    XlmRoberta,
    /// XLM-RoBERTa's Unigram for a model that has a mask token.
    XlmRobertaMask,
}

/// The value of a flag.
#[derive(Debug, Clone, Copy)]
pub(super) enum Flag {
    Is(bool),
    /// The value of this key in `tokenizer_config.json`; none if it is absent.
    Config(&'static str),
    /// Whether the SentencePiece model adds a leading space.
    Model,
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
    /// The ID under this key in `config.json`.
    Config(&'static str),
    /// The token under this key in `tokenizer_config.json`.
    Setting(&'static str),
    /// The first of several `eos_token_id` in `config.json` that is not `bos_token_id`.
    OtherEos,
}

/// The precedence between a prescribed token and that of the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// The folder's takes precedence.
    Default,
    /// It applies if the folder names no special token at all.
    Alone,
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

    fn types<const N: usize>(self, types: [(&'static str, TokenType); N]) -> Self {
        Self { types: types.to_vec(), ..self }
    }

    fn with_token_types(self) -> Self {
        Self { token_types: true, ..self }
    }
}

fn from(source: Source) -> Recipe {
    Recipe {
        source,
        before: Vec::new(),
        special: Vec::new(),
        after: Vec::new(),
        types: Vec::new(),
        token_types: false,
        template_file: false,
    }
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

fn tiktoken(file: Tiktoken) -> Recipe {
    from(Source::Tiktoken(file))
}

/// Returns a recipe for `tokenizer.json`, and one for the vocabulary file of older folders.
fn bpe_or(file: Tiktoken, special: &[Prescribed]) -> Vec<Recipe> {
    [bpe(), tiktoken(file)].map(|recipe| Recipe { special: special.to_vec(), ..recipe }).to_vec()
}

/// Qwen's special tokens.
fn endoftext() -> [Prescribed; 3] {
    let text = "<|endoftext|>";
    let alone = |role: Role| Prescribed { role, token: Named::Text(text), rule: Rule::Alone };
    [alone(Role::Bos), alone(Role::Eos), default(Role::Unk, text)]
}

/// The tokens of Gemma 4 that llama.cpp shows in its output, so that its chat parser can read them.
pub(super) const VISIBLE: [&str; 7] =
    ["<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", "<|\"|>"];

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
            Self::Gemma3 | Self::Gemma3n => vec![sentencepiece().after([NO_PREFIX]), bpe()],
            Self::Gemma4 => {
                vec![from(Source::Gemma4).types(VISIBLE.map(|text| (text, TokenType::UserDefined))).after([NO_PREFIX, on(keys::ADD_BOS)])]
            }
            Self::Phi3 => vec![from(Source::SentencePiece(AddedTokens::Literal)), bpe()],
            Self::Bert => vec![from(Source::WordPiece)],
            Self::Roberta => vec![bpe().with_token_types(), from(Source::WordPiece)],
            Self::XlmRoberta => vec![from(Source::XlmRoberta)],
            Self::NomicBert => vec![from(Source::XlmRoberta), from(Source::WordPiece)],
            Self::NomicBertMoe => vec![from(Source::XlmRobertaMask), from(Source::WordPiece)],
            Self::JinaBertV2 => {
                vec![from(Source::WordPiece), from(Source::Whitespace).with_token_types(), bpe().with_token_types()]
            }
            Self::T5 => vec![from(Source::T5)],
            Self::ModernBert => vec![bpe().before([on(keys::ADD_BOS), on(keys::ADD_EOS), on(keys::ADD_SEP)])],
            Self::EuroBert => vec![bpe().before([off(keys::ADD_BOS)])],
            Self::Llada => vec![bpe().after([on(keys::ADD_BOS)])],
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
            Self::Jamba => vec![from(Source::Model(AddedTokens::Interpreted)), sentencepiece().after([NO_PREFIX])],
            Self::Internlm2 => {
                vec![from(Source::Internlm2).special([always(Role::Eos, "<|im_end|>")]).after([(keys::ADD_SPACE_PREFIX, Flag::Model)])]
            }
            Self::Laguna => {
                let eot = Prescribed { role: Role::Eot, token: Named::OtherEos, rule: Rule::Always };
                let recipe = bpe().types([("</assistant>", TokenType::Control)]).special([eot]);
                vec![Recipe { template_file: true, ..recipe }]
            }
            Self::Minimax01 => vec![Recipe { template_file: true, ..bpe() }],
            Self::Qwen => bpe_or(tiktoken::QWEN, &endoftext()),
            Self::Stablelm => {
                vec![bpe(), tiktoken(tiktoken::ARCADE).special(endoftext())]
            }
            Self::BpeOrKimi => bpe_or(tiktoken::KIMI, &[]),
            Self::KimiLinear => {
                let eos = Prescribed { role: Role::Eos, token: Named::Setting("eos_token"), rule: Rule::Always };
                vec![bpe(), tiktoken(tiktoken::KIMI).special([eos])]
            }
            Self::KimiK3 => {
                let eos = || Prescribed { role: Role::Eos, token: Named::Config("eos_token_id"), rule: Rule::Always };
                vec![bpe().special([eos()]), tiktoken(tiktoken::KIMI).special([eos()])]
            }
            Self::HunyuanMoe => bpe_or(tiktoken::HUNYUAN, &[always(Role::Bos, "<|bos|>")]),
            Self::HunyuanDense => {
                let eos = Prescribed { role: Role::Eos, token: Named::Config("eod_token_id"), rule: Rule::Always };
                bpe_or(tiktoken::HUNYUAN, &[eos])
            }
            Self::Chatglm => {
                let special = [default(Role::Eos, "<|endoftext|>"), default(Role::Eot, "<|user|>"), default(Role::Unk, "<|endoftext|>")];
                let mut recipes = bpe_or(tiktoken::CHATGLM, &special);
                recipes.push(from(Source::Chatglm3));
                recipes
            }
            Self::Mamba => vec![bpe(), sentencepiece(), from(Source::BuiltIn("EleutherAI/gpt-neox-20b"))],
            Self::Mamba2 | Self::GraniteHybrid => {
                vec![sentencepiece(), bpe(), from(Source::BuiltIn("EleutherAI/gpt-neox-20b"))]
            }
            Self::Nemotron => {
                vec![sentencepiece().special([id(Role::Pad, 0, Rule::Always), id(Role::Unk, 1, Rule::Always)]), bpe()]
            }
            Self::NemotronH => vec![bpe()],
            Self::Openelm => vec![sentencepiece(), from(Source::BuiltIn("meta-llama/Llama-2-7b-hf"))],
            Self::Rwkv => vec![from(Source::Rwkv).special([
                id(Role::Eot, 261, Rule::Default),
                id(Role::Bos, 0, Rule::Default),
                id(Role::Eos, 0, Rule::Default),
                id(Role::Bos, 0, Rule::Always),
                id(Role::Eos, 0, Rule::Always),
            ])],
            Self::Plamo2 => vec![from(Source::Plamo).special([id(Role::Eot, 4, Rule::Always)]).after([NO_PREFIX])],
        }
    }

    /// Returns the config as the family reads it, if that differs: the vocabulary size that its tokenizer is padded to, and its padding token.
    pub(super) fn config(self, config: &Json) -> Option<Json> {
        let number = |key: &str| config.get(key).and_then(Json::as_u64);
        let multiple = match self {
            Self::Mamba => number("pad_vocab_size_multiple").unwrap_or(8),
            Self::Mamba2 => number("pad_vocab_size_multiple").unwrap_or(16),
            Self::NemotronH => 8,
            Self::GraniteHybrid => {
                let layers = config.get("layer_types").and_then(Json::as_array);
                if layers.is_some_and(|layers| !layers.iter().any(|layer| layer == "mamba" || layer == "linear_attention")) { 1 } else { 8 }
            }
            _ => 1,
        };
        let size = match self {
            Self::Chatglm => number("padded_vocab_size")?,
            Self::Gemma3n => {
                let mut config = config.clone();
                config.as_object_mut()?.remove("vocab_size_per_layer_input");
                if let Some(text) = config.get_mut("text_config").and_then(Json::as_object_mut) {
                    text.remove("vocab_size_per_layer_input");
                }
                return Some(config);
            }
            // Some vision models have no padding token, written as -1.
            Self::HunyuanDense if config.get("pad_token_id").and_then(Json::as_i64).is_some_and(|id| id < 0) => {
                let mut config = config.clone();
                config.as_object_mut()?.remove("pad_token_id");
                return Some(config);
            }
            _ if multiple > 1 => super::setting(config, "vocab_size")?.checked_next_multiple_of(multiple)?,
            _ => return None,
        };
        let mut config = config.clone();
        if let Some(text) = config.get_mut("text_config").and_then(Json::as_object_mut) {
            text.remove("vocab_size");
        }
        config.as_object_mut()?.insert("vocab_size".to_owned(), size.into());
        Some(config)
    }
}
