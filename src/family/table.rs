//! Architecture tables: tensor and hyperparameter names of a model family in Hugging Face and GGUF.
//!
//! The language is described, with an example, in CONTRIBUTING.md. Tables are embedded, and parsed on demand.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::Path;
use std::sync::{LazyLock, OnceLock};

use serde::Deserialize;

use crate::base::{Error, Hint, Result, text};
use crate::family::components::ComponentRow;
use crate::family::expr;
use crate::family::sections::{text_section, text_value};
use crate::source::place;
use crate::tokenizer;

/// The embedded tables: name and text. Names starting with `_` are base tables.
static EMBEDDED: &[(&str, &str)] = &[
    ("_names", include_str!("tables/_names.toml")),
    ("_text", include_str!("tables/_text.toml")),
    ("_mmproj", include_str!("tables/_mmproj.toml")),
    ("_mmproj-siglip", include_str!("tables/_mmproj-siglip.toml")),
    ("_mmproj-audio", include_str!("tables/_mmproj-audio.toml")),
    ("llama", include_str!("tables/llama.toml")),
    ("mistral", include_str!("tables/mistral.toml")),
    ("mixtral", include_str!("tables/mixtral.toml")),
    ("mistral-native", include_str!("tables/mistral-native.toml")),
    ("mistral-native-yarn", include_str!("tables/mistral-native-yarn.toml")),
    ("ministral3-native", include_str!("tables/ministral3-native.toml")),
    ("ministral3", include_str!("tables/ministral3.toml")),
    ("llama-native", include_str!("tables/llama-native.toml")),
    ("qwen2", include_str!("tables/qwen2.toml")),
    ("qwen2moe", include_str!("tables/qwen2moe.toml")),
    ("qwen3", include_str!("tables/qwen3.toml")),
    ("qwen3moe", include_str!("tables/qwen3moe.toml")),
    ("gemma", include_str!("tables/gemma.toml")),
    ("gemma2", include_str!("tables/gemma2.toml")),
    ("gemma3", include_str!("tables/gemma3.toml")),
    ("gemma-embedding", include_str!("tables/gemma-embedding.toml")),
    ("phi3", include_str!("tables/phi3.toml")),
    ("bert", include_str!("tables/bert.toml")),
    ("starcoder2", include_str!("tables/starcoder2.toml")),
    ("falcon", include_str!("tables/falcon.toml")),
    ("falcon-new", include_str!("tables/falcon-new.toml")),
    ("olmo2", include_str!("tables/olmo2.toml")),
    ("granite", include_str!("tables/granite.toml")),
    ("smollm3", include_str!("tables/smollm3.toml")),
    ("command-r", include_str!("tables/command-r.toml")),
    ("gpt-oss", include_str!("tables/gpt-oss.toml")),
    ("glm4moelite", include_str!("tables/glm4moelite.toml")),
    ("deepseek3", include_str!("tables/deepseek3.toml")),
    ("deepseek2", include_str!("tables/deepseek2.toml")),
    ("arcee", include_str!("tables/arcee.toml")),
    ("ernie4_5", include_str!("tables/ernie4_5.toml")),
    ("ernie4_5_moe", include_str!("tables/ernie4_5_moe.toml")),
    ("granitemoe", include_str!("tables/granitemoe.toml")),
    // Before the one that has some of its keys.
    ("granitehybrid-granitemoe", include_str!("tables/granitehybrid-granitemoe.toml")),
    ("granitemoeshared", include_str!("tables/granitemoeshared.toml")),
    ("minimax_m2", include_str!("tables/minimax_m2.toml")),
    ("nemotron", include_str!("tables/nemotron.toml")),
    ("olmoe", include_str!("tables/olmoe.toml")),
    ("phi", include_str!("tables/phi.toml")),
    ("seed_oss", include_str!("tables/seed_oss.toml")),
    ("stablelm", include_str!("tables/stablelm.toml")),
    ("olmo", include_str!("tables/olmo.toml")),
    ("bloom", include_str!("tables/bloom.toml")),
    ("gpt2", include_str!("tables/gpt2.toml")),
    ("starcoder", include_str!("tables/starcoder.toml")),
    ("gptneox", include_str!("tables/gptneox.toml")),
    ("dots1", include_str!("tables/dots1.toml")),
    ("afmoe", include_str!("tables/afmoe.toml")),
    ("jais2", include_str!("tables/jais2.toml")),
    ("phimoe", include_str!("tables/phimoe.toml")),
    ("deepseek", include_str!("tables/deepseek.toml")),
    ("exaone", include_str!("tables/exaone.toml")),
    ("orion", include_str!("tables/orion.toml")),
    ("nanbeige", include_str!("tables/nanbeige.toml")),
    ("rnd1", include_str!("tables/rnd1.toml")),
    ("mistral-small3", include_str!("tables/mistral-small3.toml")),
    ("mmproj-gemma3", include_str!("tables/mmproj-gemma3.toml")),
    ("mmproj-qwen2vl", include_str!("tables/mmproj-qwen2vl.toml")),
    ("mmproj-qwen2_5vl", include_str!("tables/mmproj-qwen2_5vl.toml")),
    ("mmproj-qwen3vl", include_str!("tables/mmproj-qwen3vl.toml")),
    ("mmproj-pixtral", include_str!("tables/mmproj-pixtral.toml")),
    ("mmproj-mistral3", include_str!("tables/mmproj-mistral3.toml")),
    ("mmproj-lighton", include_str!("tables/mmproj-lighton.toml")),
    ("mmproj-smolvlm", include_str!("tables/mmproj-smolvlm.toml")),
    ("mmproj-idefics3", include_str!("tables/mmproj-idefics3.toml")),
    ("mmproj-gemma4", include_str!("tables/mmproj-gemma4.toml")),
    ("mmproj-internvl-hf", include_str!("tables/mmproj-internvl-hf.toml")),
    ("mmproj-internvl", include_str!("tables/mmproj-internvl.toml")),
    ("mmproj-glm4v", include_str!("tables/mmproj-glm4v.toml")),
    ("mmproj-llama4", include_str!("tables/mmproj-llama4.toml")),
    ("mmproj-kimi-vl", include_str!("tables/mmproj-kimi-vl.toml")),
    ("mmproj-qwen2-audio", include_str!("tables/mmproj-qwen2-audio.toml")),
    ("mmproj-ultravox", include_str!("tables/mmproj-ultravox.toml")),
    ("mmproj-voxtral", include_str!("tables/mmproj-voxtral.toml")),
    ("mmproj-audio-flamingo3", include_str!("tables/mmproj-audio-flamingo3.toml")),
    ("mmproj-janus", include_str!("tables/mmproj-janus.toml")),
    ("mmproj-lfm2-vl", include_str!("tables/mmproj-lfm2-vl.toml")),
    ("mmproj-minicpmv4_6", include_str!("tables/mmproj-minicpmv4_6.toml")),
    ("mmproj-dots-ocr", include_str!("tables/mmproj-dots-ocr.toml")),
    ("mmproj-exaone4_5", include_str!("tables/mmproj-exaone4_5.toml")),
    ("mmproj-sarashina2", include_str!("tables/mmproj-sarashina2.toml")),
    ("mmproj-kimi-k25", include_str!("tables/mmproj-kimi-k25.toml")),
    ("arctic", include_str!("tables/arctic.toml")),
    ("bailingmoe2", include_str!("tables/bailingmoe2.toml")),
    ("chatglm", include_str!("tables/chatglm.toml")),
    ("codeshell", include_str!("tables/codeshell.toml")),
    ("deepseek-ocr", include_str!("tables/deepseek-ocr.toml")),
    ("distilbert", include_str!("tables/distilbert.toml")),
    ("dream", include_str!("tables/dream.toml")),
    ("eurobert", include_str!("tables/eurobert.toml")),
    ("glm", include_str!("tables/glm.toml")),
    ("internlm3", include_str!("tables/internlm3.toml")),
    ("jina-bert-v2", include_str!("tables/jina-bert-v2.toml")),
    ("kormo", include_str!("tables/kormo.toml")),
    ("llada", include_str!("tables/llada.toml")),
    ("llada-moe", include_str!("tables/llada-moe.toml")),
    ("llama-embed", include_str!("tables/llama-embed.toml")),
    ("maincoder", include_str!("tables/maincoder.toml")),
    ("neo-bert", include_str!("tables/neo-bert.toml")),
    ("nomic-bert", include_str!("tables/nomic-bert.toml")),
    ("pangu-embedded", include_str!("tables/pangu-embedded.toml")),
    ("plm", include_str!("tables/plm.toml")),
    ("qwen", include_str!("tables/qwen.toml")),
    ("refact", include_str!("tables/refact.toml")),
    ("xverse", include_str!("tables/xverse.toml")),
    ("youtu", include_str!("tables/youtu.toml")),
    ("cohere2", include_str!("tables/cohere2.toml")),
    ("gemma3n", include_str!("tables/gemma3n.toml")),
    ("gemma4", include_str!("tables/gemma4.toml")),
    ("glm4", include_str!("tables/glm4.toml")),
    ("glm4moe", include_str!("tables/glm4moe.toml")),
    ("solar-open", include_str!("tables/solar-open.toml")),
    ("glm_ocr", include_str!("tables/glm_ocr.toml")),
    ("glm4v", include_str!("tables/glm4v.toml")),
    ("glm4v_moe", include_str!("tables/glm4v_moe.toml")),
    ("laguna", include_str!("tables/laguna.toml")),
    ("lfm2", include_str!("tables/lfm2.toml")),
    ("lfm2moe", include_str!("tables/lfm2moe.toml")),
    ("llama4", include_str!("tables/llama4.toml")),
    ("olmo3", include_str!("tables/olmo3.toml")),
    ("qwen2vl", include_str!("tables/qwen2vl.toml")),
    ("qwen35", include_str!("tables/qwen35.toml")),
    ("qwen35moe", include_str!("tables/qwen35moe.toml")),
    ("qwen3next", include_str!("tables/qwen3next.toml")),
    ("qwen3vl", include_str!("tables/qwen3vl.toml")),
    ("qwen3asr", include_str!("tables/qwen3asr.toml")),
    ("qwen3vlmoe", include_str!("tables/qwen3vlmoe.toml")),
    ("qwen3omni", include_str!("tables/qwen3omni.toml")),
    ("bamba", include_str!("tables/bamba.toml")),
    ("falcon-h1", include_str!("tables/falcon-h1.toml")),
    ("granitehybrid", include_str!("tables/granitehybrid.toml")),
    ("granitehybrid-granite", include_str!("tables/granitehybrid-granite.toml")),
    ("jamba", include_str!("tables/jamba.toml")),
    ("mamba", include_str!("tables/mamba.toml")),
    ("mamba2", include_str!("tables/mamba2.toml")),
    ("nemotron_h", include_str!("tables/nemotron_h.toml")),
    ("nemotron_h_moe", include_str!("tables/nemotron_h_moe.toml")),
    ("xlm-roberta", include_str!("tables/xlm-roberta.toml")),
    ("roberta", include_str!("tables/roberta.toml")),
    ("modern-bert", include_str!("tables/modern-bert.toml")),
    ("t5", include_str!("tables/t5.toml")),
    ("t5encoder", include_str!("tables/t5encoder.toml")),
    ("deepseek32", include_str!("tables/deepseek32.toml")),
    ("glm-dsa", include_str!("tables/glm-dsa.toml")),
    ("hunyuan-dense", include_str!("tables/hunyuan-dense.toml")),
    ("hunyuan-moe", include_str!("tables/hunyuan-moe.toml")),
    ("apertus", include_str!("tables/apertus.toml")),
    ("exaone4", include_str!("tables/exaone4.toml")),
    ("exaone-moe", include_str!("tables/exaone-moe.toml")),
    ("internlm2", include_str!("tables/internlm2.toml")),
    ("minicpm", include_str!("tables/minicpm.toml")),
    ("nomic-bert-moe", include_str!("tables/nomic-bert-moe.toml")),
    ("openelm", include_str!("tables/openelm.toml")),
    ("hunyuan-vl", include_str!("tables/hunyuan-vl.toml")),
    ("mpt", include_str!("tables/mpt.toml")),
    ("minicpm3", include_str!("tables/minicpm3.toml")),
    ("grovemoe", include_str!("tables/grovemoe.toml")),
    ("smallthinker", include_str!("tables/smallthinker.toml")),
    ("mellum", include_str!("tables/mellum.toml")),
    ("paddleocr", include_str!("tables/paddleocr.toml")),
    ("baichuan", include_str!("tables/baichuan.toml")),
    ("dbrx", include_str!("tables/dbrx.toml")),
    ("bailingmoe", include_str!("tables/bailingmoe.toml")),
    ("maple", include_str!("tables/maple.toml")),
    ("spark2_5", include_str!("tables/spark2_5.toml")),
    ("hy_v3", include_str!("tables/hy_v3.toml")),
    ("granite_swa", include_str!("tables/granite_swa.toml")),
    ("hrm_text", include_str!("tables/hrm_text.toml")),
    ("jais", include_str!("tables/jais.toml")),
    ("granitemoe_swa", include_str!("tables/granitemoe_swa.toml")),
    ("minimax-m3", include_str!("tables/minimax-m3.toml")),
    ("cohere2moe", include_str!("tables/cohere2moe.toml")),
    ("kimi-linear", include_str!("tables/kimi-linear.toml")),
    ("lfm2-embedding", include_str!("tables/lfm2-embedding.toml")),
];

/// What the names of the tables of vision and audio encoders begin with, so that only these are parsed where one is looked for.
const PROJECTOR: &str = "mmproj-";

/// The parsed tables, in the order of [`EMBEDDED`].
static PARSED: LazyLock<Vec<OnceLock<Table>>> = LazyLock::new(|| EMBEDDED.iter().map(|_| OnceLock::new()).collect());

/// The table of a model family.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Table {
    /// The name of the family.
    pub name: String,
    /// The embedded base table; rows here replace its rows with the same name.
    pub extends: Option<String>,
    /// `general.architecture` in GGUF.
    pub gguf: String,
    /// `architectures` in config.json; the first is written for GGUF -> Hugging Face.
    pub classes: Vec<String>,
    /// `model_type` in config.json; the first is written.
    pub model_types: Vec<String>,
    /// Keys present in the config (params.json) instead of `architectures`, in vendor formats.
    pub params: Vec<String>,
    /// A GGUF key or tensor that distinguishes this family from others of the same architecture; `KEY = VALUE`: a key with this text.
    pub gguf_has: Option<String>,
    /// Whether the class is a model without a head, so that tensor names are written without prefixes.
    pub without_head: bool,
    /// Whether this is the table of the vision or audio encoder of its classes, which has a GGUF of its own (mmproj).
    pub projector: bool,
    /// The beginnings of the Hugging Face names of an encoder's tensors, without prefixes.
    pub parts: Vec<String>,
    /// The beginnings of the text model's Hugging Face names, and what they are beside this encoder.
    pub text_names: Vec<(String, String)>,
    /// Whether the classes of an encoder take a text model of any family, whose `model_type` is in `text_config`.
    pub any_text: bool,
    /// Keys of config.json whose value is the ID of a token, by its text: what stands for a picture or a sound in a prompt.
    pub tokens: toml::Table,
    /// A condition on config.json for families that share a class.
    pub when: Option<String>,
    /// The kind of tokenizer.
    pub tokenizer: Option<tokenizer::Kind>,
    /// Class defaults for keys absent or null in config.json: a value, or an expression in a string; `false` removes the base table's
    /// default.
    pub defaults: toml::Table,
    /// The hyperparameters that `weigh info` shows, in order. Those of `_names.toml` apply to every table.
    pub hyperparameters: Vec<Hyperparameter>,
    /// Short names in expressions.
    #[serde(rename = "let")]
    pub lets: toml::Table,
    /// Hyperparameter keys, in the order in which they are written.
    pub keys: Vec<KeyRow>,
    /// Leading parts of Hugging Face names that only name the containing module (`model`, `language_model`, `transformer`). They are
    /// stripped for lookup, so that one table serves a model with a head, without one, and inside another model.
    pub prefixes: Vec<String>,
    /// Replacements in Hugging Face names, at the start of the name or of a part, applied before lookup.
    pub replace: Vec<(String, String)>,
    /// Component patterns for tensors whose names the general patterns misclassify.
    pub components: Vec<ComponentRow>,
    /// Tensors, in any order.
    pub tensors: Vec<TensorRow>,
    /// The layers of each stack: `from..to` by the beginning of the Hugging Face names. Others have those of the hyperparameter `layers`.
    pub layers: toml::Table,
    /// Names for expressions: how many numbered layers have tensors whose name begins so, such as `mtp.layers.`.
    pub counts: toml::Table,
    /// Names for expressions: the shape of the first tensor whose name, in Hugging Face or GGUF, ends so.
    pub shapes: toml::Table,
    /// The module that the tensors of `model` are in, written for GGUF -> Hugging Face.
    pub module: Option<String>,
    /// The section of config.json with the hyperparameters, written for GGUF -> Hugging Face.
    pub section: Option<String>,
    /// Globs of tensors without GGUF equivalent, which are dropped.
    pub drop: Vec<String>,
    /// Globs of tensors that are dropped if all their values are zero; otherwise GGUF cannot hold the model.
    pub drop_zeros: Vec<String>,
    /// Whether layers beyond the config's count are dropped (multi-token prediction).
    pub drops_further_layers: bool,
    /// Computed tensors: `rope_freqs` (Llama 3 scaling), `rope_proportional` (partial rotation), `rope_factors` (longrope),
    /// `rope_factors_alone` (without the attention factor).
    pub computed: Vec<String>,
    /// Keys always written to config.json.
    pub config: toml::Table,
    /// Keys of config.json computed from `gguf.KEY` and previous keys.
    pub derived: toml::Table,
    /// Keys of config.json that tell whether a tensor exists; `!` before the name inverts this. Those that
    /// begin with `_` are for expressions alone; with `{bid}` in the name, they list the layers that have it.
    pub flags: toml::Table,
}

/// A hyperparameter with all its names.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hyperparameter {
    /// Its name in weigh's output and in expressions.
    pub name: String,
    /// Its GGUF key without the architecture prefix.
    pub gguf: String,
    /// Its keys in config.json and params.json: the first one set is read, and the first one is written.
    pub hf: Vec<String>,
}

/// A row for a GGUF key.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyRow {
    /// The hyperparameter, which determines `gguf` and the first spellings in `hf`.
    pub is: Option<String>,
    /// The GGUF key without the architecture prefix; full if it starts with `general.` or `tokenizer.`.
    pub gguf: String,
    /// The key in config.json, and other spellings.
    pub hf: OneOrMore,
    /// The GGUF type.
    #[serde(rename = "type")]
    pub value_type: KeyType,
    /// A constant string value.
    pub text: Option<String>,
    /// An expression for the value, or for the default if `hf` is given.
    pub value: Option<String>,
    /// An expression for the value of each layer, which gives an array.
    pub each: Option<String>,
    /// The number of values of `each`, by default that of the layers.
    pub count: Option<String>,
    /// Whether a single number is written for an array whose elements are equal.
    pub uniform: bool,
    /// A condition for the key.
    pub when: Option<String>,
    /// Whether a missing value is an error.
    pub required: bool,
    /// Whether it is omitted if zero.
    pub nonzero: bool,
    /// Whether zero in GGUF corresponds to null in config.json.
    pub zero_is_null: bool,
    /// Whether an object with the keys 0, 1 ... in config.json is an array.
    pub numbered: bool,
    /// Whether a key that GGUF lacks is null in config.json, so that null is neither replaced by the default nor lost.
    pub absent_is_null: bool,
    /// The numbers that names map to.
    pub map: toml::Table,
    /// A rule that writes several keys: see [`crate::family::keys`].
    pub rule: Option<String>,
}

/// One name or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum OneOrMore {
    /// A single name.
    One(String),
    /// Several names, the most common first.
    More(Vec<String>),
}

impl Default for OneOrMore {
    fn default() -> Self {
        Self::More(Vec::new())
    }
}

impl OneOrMore {
    /// Returns all names.
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::More(names) => names,
        }
    }

    /// Returns the first name.
    pub fn first(&self) -> Option<&str> {
        self.all().first().map(String::as_str)
    }
}

/// The type of a hyperparameter in GGUF; of its elements, for an array.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyType {
    /// An unsigned integer; in arrays, as llama.cpp's converter writes them, a signed one.
    #[default]
    U32,
    /// A signed integer.
    I32,
    /// A single-precision number.
    F32,
    /// A boolean.
    Bool,
    /// A string.
    String,
}

/// A tensor, or one per layer, or one per layer and expert.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TensorRow {
    /// Its Hugging Face name without suffix; several if they are joined.
    pub hf: OneOrMore,
    /// Its GGUF name without suffix; several if it is split.
    pub gguf: OneOrMore,
    /// The suffix of both names, `weight` by default; a trailing `?` makes it optional. Empty: the names are complete.
    pub suffix: Option<OneOrMore>,
    /// The suffix of the Hugging Face name if different: one per suffix.
    pub hf_suffix: Option<OneOrMore>,
    /// The transform between the two: see [`crate::family::transform`].
    pub transform: Option<String>,
    /// The Hugging Face dimensions, outermost first, as expressions.
    pub shape: Vec<String>,
    /// Whether it is optional: true, or a key of config.json.
    pub optional: Optional,
    /// The layers that have it: `from..to`, both expressions and optional.
    pub layers: Option<String>,
    /// The type in GGUF, where llama.cpp's converter fixes it; `model`: that of the model, also where others of the name stay in F32.
    #[serde(rename = "type")]
    pub dtype: Option<String>,
    /// A condition for each layer that has it, or for a tensor outside the layers.
    pub when: Option<String>,
    /// The number in GGUF of Hugging Face's layer `bid`, if it is another; or of a tensor outside the layers.
    pub number: Option<String>,
    /// The array of numbers in GGUF that holds these tensors of a single element, one for each layer, instead of tensors.
    pub key: Option<String>,
    /// Whether it is a copy of a tensor of a row above with the same GGUF name, and is dropped if that is there.
    pub copy: bool,
}

/// Whether a tensor is optional.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Optional {
    /// Always or never.
    Plain(bool),
    /// If this key of config.json is true.
    When(String),
}

impl Default for Optional {
    fn default() -> Self {
        Self::Plain(false)
    }
}

impl TensorRow {
    /// Returns the suffixes, and whether each is optional. A single empty suffix: the names are complete.
    pub fn suffixes(&self) -> Vec<(&str, bool)> {
        match &self.suffix {
            None => vec![("weight", false)],
            Some(suffixes) if suffixes.all().is_empty() => vec![("", false)],
            Some(suffixes) => suffixes
                .all()
                .iter()
                .map(|suffix| match suffix.strip_suffix('?') {
                    Some(suffix) => (suffix, true),
                    None => (suffix.as_str(), false),
                })
                .collect(),
        }
    }

    /// Returns its Hugging Face name without suffix, the first if there are several.
    pub fn name(&self) -> &str {
        self.hf.first().unwrap_or_default()
    }

    /// Returns the Hugging Face names for the suffix with this index.
    pub fn hf_names(&self, number: usize, suffix: &str) -> Vec<String> {
        let own = self.hf_suffix.as_ref().and_then(|own| own.all().get(number));
        let name = |name: &String| own.map_or_else(|| with_suffix(name, suffix), |own| format!("{name}{own}"));
        self.hf.all().iter().map(name).collect()
    }

    /// Returns the GGUF names for a suffix.
    pub fn gguf_names(&self, suffix: &str) -> Vec<String> {
        self.gguf.all().iter().map(|name| with_suffix(name, suffix)).collect()
    }
}

fn with_suffix(name: &str, suffix: &str) -> String {
    if suffix.is_empty() { name.to_owned() } else { format!("{name}.{suffix}") }
}

impl Table {
    /// Parses a table.
    ///
    /// # Errors
    /// The text is not a valid table.
    pub fn parse(text: &str) -> Result<Self> {
        let own: Self = toml::from_str(text).map_err(|error| {
            let line = text.get(..error.span().unwrap_or_default().start).unwrap_or_default().lines().count().max(1);
            Error::argument(format!("expected an architecture table, found in line {line}: {}", error.message())).caused_by(error)
        })?;
        let Some(parent) = &own.extends else { return own.resolved(&[]) };
        let parent = embedded(|name, _| name == parent).next().unwrap_or_else(|| {
            let message = format!("unknown table {parent} after extends");
            Err(Error::argument(message).hint(Hint::ListArchitectures))
        })?;
        Ok(own.resolved(&parent.hyperparameters)?.over(parent.clone()))
    }

    /// Resolves key rows that refer to hyperparameters of this table or `inherited` ones.
    fn resolved(mut self, inherited: &[Hyperparameter]) -> Result<Self> {
        for row in &mut self.keys {
            let Some(name) = &row.is else { continue };
            let known = self.hyperparameters.iter().chain(inherited).find(|known| known.name == *name);
            let known = known.ok_or_else(|| Error::argument(format!("unknown hyperparameter {name}")))?;
            row.gguf.clone_from(&known.gguf);
            row.hf = OneOrMore::More(known.hf.iter().chain(row.hf.all()).cloned().collect());
        }
        Ok(self)
    }

    /// Merges this table into its base table.
    fn over(self, mut parent: Self) -> Self {
        merge(&mut parent.keys, self.keys, |row| (row.gguf.clone(), row.rule.clone()));
        // Several rows may have one name, for layers of different kinds.
        parent.tensors.retain(|row| self.tensors.iter().all(|own| own.name() != row.name()));
        parent.tensors.extend(self.tensors);
        // A row with an empty GGUF name only removes the base table's row.
        parent.tensors.retain(|row| row.gguf.first().is_some() || row.key.is_some());
        merge(&mut parent.hyperparameters, self.hyperparameters, |known| known.name.clone());
        parent.defaults.extend(self.defaults);
        parent.lets.extend(self.lets);
        parent.config.extend(self.config);
        parent.derived.extend(self.derived);
        parent.flags.extend(self.flags);
        parent.tokens.extend(self.tokens);
        parent.components.splice(0..0, self.components);
        parent.prefixes.extend(self.prefixes);
        parent.replace.extend(self.replace);
        // The text model leaves out what the encoder has.
        if self.projector {
            parent.drop.clear();
        }
        parent.drop.extend(self.drop);
        parent.drop_zeros.extend(self.drop_zeros);
        parent.layers.extend(self.layers);
        parent.counts.extend(self.counts);
        parent.shapes.extend(self.shapes);
        parent.computed.extend(self.computed);
        let tokenizer = self.tokenizer.or(parent.tokenizer);
        Self {
            name: self.name,
            extends: None,
            gguf: self.gguf,
            classes: self.classes,
            model_types: self.model_types,
            params: self.params,
            gguf_has: self.gguf_has,
            without_head: self.without_head,
            module: self.module,
            section: self.section,
            when: self.when,
            projector: self.projector,
            text_names: if self.text_names.is_empty() { parent.text_names } else { self.text_names },
            parts: if self.parts.is_empty() { parent.parts } else { self.parts },
            any_text: self.any_text || parent.any_text,
            tokenizer,
            drops_further_layers: self.drops_further_layers || parent.drops_further_layers,
            ..parent
        }
    }

    /// Whether its condition holds for a config.
    fn applies_to(&self, config: &serde_json::Value) -> bool {
        let lookup = |name: &str| expr::Value::from_json(text_value(config, name)?);
        let holds =
            |when: &str| expr::eval(when, &lookup).ok().flatten().and_then(|value| value.number()).is_some_and(|value| value != 0.0);
        self.when.as_ref().is_none_or(|when| holds(when))
    }

    /// Reads a table from a file.
    ///
    /// # Errors
    /// The file cannot be read, is too large, or is not a valid table.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&place::read_text(path)?).map_err(|error| error.in_file(path))
    }
}

/// Replaces rows with the same name, and appends the others.
fn merge<R, N: Eq + Hash>(rows: &mut Vec<R>, own: Vec<R>, name: impl Fn(&R) -> N) {
    let mut places = HashMap::new();
    for (place, row) in rows.iter().enumerate() {
        places.entry(name(row)).or_insert(place);
    }
    for row in own {
        match places.get(&name(&row)).and_then(|&place| rows.get_mut(place)) {
            Some(same) => *same = row,
            None => {
                places.insert(name(&row), rows.len());
                rows.push(row);
            }
        }
    }
}

/// Returns the embedded tables whose name and text satisfy `wanted`, parsing them on first use.
fn embedded(wanted: impl Fn(&str, &str) -> bool) -> impl Iterator<Item = Result<&'static Table>> {
    let wanted = EMBEDDED.iter().zip(&*PARSED).filter(move |((name, text), _)| wanted(name, text));
    wanted.map(|((name, text), parsed)| match parsed.get() {
        Some(table) => Ok(table),
        None => {
            let table = Table::parse(text).map_err(|error| error.hint(format!("in the embedded table {name}")))?;
            Ok(parsed.get_or_init(|| table))
        }
    })
}

/// Returns the table common to all families, for models of an unknown family.
///
/// # Errors
/// The embedded table is invalid, which tests rule out.
pub fn common() -> Result<&'static Table> {
    embedded(|name, _| name == "_names").next().unwrap_or_else(|| Err(Error::argument("there is no table _names")))
}

/// Returns the embedded tables of these architectures (classes, model types, `general.architecture`) whose own text contains `text`; only
/// those are parsed.
///
/// # Errors
/// As for [`common`].
pub fn mentioning(text: &str, architectures: &[&str]) -> Result<Vec<&'static Table>> {
    let quoted: Vec<String> = architectures.iter().map(|name| format!("\"{name}\"")).collect();
    let fits = |table: &&Table| {
        let is = |name: &str| architectures.contains(&name);
        is(&table.gguf) || table.classes.iter().chain(&table.model_types).any(|name| is(name))
    };
    let wanted = |name: &str, own: &str| is_text(name) && quoted.iter().any(|name| head(own).contains(name)) && own.contains(text);
    let mut found = embedded(wanted).collect::<Result<Vec<_>>>()?;
    found.retain(fits);
    Ok(found)
}

/// The available tables: custom ones, then the embedded ones.
#[derive(Debug, Default)]
pub struct Tables {
    own: Vec<Table>,
}

impl Tables {
    /// Returns the custom tables followed by the embedded ones.
    pub fn with(own: Vec<Table>) -> Self {
        Self { own }
    }

    /// Returns the embedded tables and the one in a file, if one is named.
    ///
    /// # Errors
    /// As for [`Table::read`].
    pub fn with_file(path: Option<&Path>) -> Result<Self> {
        Ok(Self::with(path.map(Table::read).transpose()?.into_iter().collect()))
    }

    /// Returns all tables, parsed.
    ///
    /// # Errors
    /// An embedded table is invalid, which tests rule out.
    pub fn all(&self) -> Result<Vec<&Table>> {
        self.among(|name, _| is_text(name), |table| !table.projector)
    }

    /// Returns the tables of encoders of pictures and sounds, parsed.
    ///
    /// # Errors
    /// As for [`Tables::all`].
    pub fn projectors(&self) -> Result<Vec<&Table>> {
        self.among(|name, _| name.starts_with(PROJECTOR), |table| table.projector)
    }

    /// Returns the tables that contain `word` and satisfy `fits`; only those are parsed.
    fn find(&self, word: &str, fits: impl Fn(&Table) -> bool) -> Result<Vec<&Table>> {
        let quoted = format!("\"{word}\"");
        self.among(|name, text| is_text(name) && head(text).contains(&quoted), fits)
    }

    /// Returns the tables that satisfy `fits`, parsing only embedded ones whose name and text satisfy `wanted`.
    fn among(&self, wanted: impl Fn(&str, &str) -> bool, fits: impl Fn(&Table) -> bool) -> Result<Vec<&Table>> {
        let mut found: Vec<&Table> = self.own.iter().filter(|table| fits(table)).collect();
        for table in embedded(wanted) {
            found.extend(Some(table?).filter(|table| fits(table)));
        }
        Ok(found)
    }

    /// Returns the table for a Hugging Face config, with the parts of its vision or audio encoder, if it has one with a table.
    ///
    /// # Errors
    /// There is none; the message names the architecture.
    pub fn for_config(&self, config: &serde_json::Value) -> Result<Table> {
        let mut table = self.of_config(config)?;
        if let Some(projector) = self.projector_for_config(config)? {
            table.parts = projector.parts;
        }
        Ok(table)
    }

    /// Returns the table for the vision or audio encoder of a Hugging Face config, if there is one.
    ///
    /// # Errors
    /// An embedded table is invalid, which tests rule out.
    pub fn projector_for_config(&self, config: &serde_json::Value) -> Result<Option<Table>> {
        let named = |key: &str| config.get(key).and_then(|value| value.as_str().or_else(|| value.get(0)?.as_str()));
        let has = |names: &[String], key: &str| named(key).is_some_and(|named| names.iter().any(|name| name == named));
        let quoted: Vec<String> =
            ["architectures", "model_type"].iter().filter_map(|key| named(key)).map(|name| format!("\"{name}\"")).collect();
        // A class that is registered goes before a model_type, which several classes may share.
        let mut found = self.among(
            |name, text| name.starts_with(PROJECTOR) && quoted.iter().any(|name| head(text).contains(name)),
            |table| {
                table.projector
                    && (has(&table.classes, "architectures") || has(&table.model_types, "model_type"))
                    && table.applies_to(config)
            },
        )?;
        found.sort_by_key(|table| !has(&table.classes, "architectures"));
        Ok(found.into_iter().next().cloned())
    }

    /// Returns the table of an encoder in GGUF beside a text model with this table: one for a class that the text model has too, or for one
    /// that takes any text model. `has` tells which tensors exist.
    ///
    /// # Errors
    /// There is none.
    pub fn projector_for_gguf(&self, kind: &str, has: impl Fn(&str) -> bool, text: &Table) -> Result<Table> {
        let shared = |table: &Table| table.classes.iter().any(|class| text.classes.contains(class));
        let found = self.projectors_of_kind(kind, has)?;
        let found = found.iter().find(|table| shared(table)).or_else(|| found.iter().find(|table| table.any_text)).ok_or_else(|| {
            let message = format!("expected an encoder that goes with {}, found {kind}", text.gguf);
            Error::unsupported(message).hint(Hint::ListArchitectures)
        })?;
        let mut table = Table::clone(found);
        if shared(&table) {
            table.classes.retain(|class| text.classes.contains(class));
        }
        Ok(table)
    }

    /// Returns the first table of an encoder of this kind (`clip.projector_type`). `has` tells which tensors exist.
    ///
    /// # Errors
    /// There is none.
    pub fn projector_of_kind(&self, kind: &str, has: impl Fn(&str) -> bool) -> Result<Table> {
        let found = self.projectors_of_kind(kind, has)?.into_iter().next().cloned();
        found.ok_or_else(|| Error::unsupported(format!("unknown encoder {kind}")).hint(Hint::ListArchitectures))
    }

    fn projectors_of_kind(&self, kind: &str, has: impl Fn(&str) -> bool) -> Result<Vec<&Table>> {
        let named = |table: &Table| table.keys.iter().any(|row| row.gguf.ends_with("projector_type") && row.text.as_deref() == Some(kind));
        let fits = |table: &Table| table.projector && named(table) && table.gguf_has.as_ref().is_none_or(|key| has(key));
        // A table may inherit the kind, so all are parsed.
        let mut found = self.among(|name, _| name.starts_with(PROJECTOR), fits)?;
        found.sort_by_key(|table| table.gguf_has.is_none());
        Ok(found)
    }

    fn of_config(&self, config: &serde_json::Value) -> Result<Table> {
        let text_config = text_section(config);
        // Tables with a condition go before the one of the same class without.
        let best = |mut found: Vec<&Table>| -> Option<Table> {
            found.retain(|table| !table.projector && table.applies_to(config));
            // The first of equals, so that a custom table goes before an embedded one.
            found.sort_by_key(|table| table.when.is_none());
            found.into_iter().next().cloned()
        };
        let class = |config: &serde_json::Value| Some(config.get("architectures")?.get(0)?.as_str()?.to_owned());
        let classes = [class(config), text_config.and_then(class)];
        for class in classes.iter().flatten() {
            if let Some(table) = best(self.find(class, |table| table.classes.contains(class))?) {
                return Ok(table);
            }
        }
        let model_type = |config: &serde_json::Value| Some(config.get("model_type")?.as_str()?.to_owned());
        let model_types = [model_type(config), text_config.and_then(model_type)];
        for model_type in model_types.iter().flatten() {
            if let Some(table) = best(self.find(model_type, |table| table.model_types.contains(model_type))?) {
                return Ok(table);
            }
        }
        if classes.iter().chain(&model_types).all(Option::is_none) {
            let fits = |table: &Table| !table.params.is_empty() && table.params.iter().all(|key| config.get(key).is_some());
            let native = self.among(|_, text| head(text).contains("\nparams = "), fits)?;
            if let Some(table) = native.into_iter().max_by_key(|table| table.params.len()) {
                return Ok(table.clone());
            }
        }
        let asked = classes.into_iter().chain(model_types).flatten().next();
        let nearest = asked.as_deref().and_then(|asked| text::closest(asked, listed(&["classes", "model_types"])));
        Err(unknown(asked.as_deref().unwrap_or("none named"), nearest))
    }

    /// Returns the table for a GGUF. As families may share an architecture, `has` tells which keys exist.
    ///
    /// # Errors
    /// There is none.
    pub fn for_gguf(&self, architecture: &str, has: impl Fn(&str) -> bool) -> Result<Table> {
        let fits =
            |table: &Table| table.gguf == architecture && !table.classes.is_empty() && table.gguf_has.as_ref().is_none_or(|key| has(key));
        let mut found = self.find(architecture, fits)?;
        // A family with a required key is more specific than one without.
        found.sort_by_key(|table| table.gguf_has.as_ref().map_or(2, |has| if has.contains(" = ") { 0 } else { 1 }));
        found.into_iter().next().cloned().ok_or_else(|| unknown(architecture, text::closest(architecture, listed(&["gguf"]))))
    }
}

/// Whether the name of an embedded table is that of a text model.
fn is_text(name: &str) -> bool {
    !name.starts_with('_') && !name.starts_with(PROJECTOR)
}

/// Returns the beginning of an embedded table, which has all names of its family: tests find each table by them.
fn head(text: &str) -> &str {
    const BYTES: usize = 2_000;
    let end = (0..=BYTES.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// Returns the names in these lists of the embedded tables, without parsing these.
fn listed(keys: &'static [&str]) -> impl Iterator<Item = &'static str> {
    let list = |text: &'static str, key: &str| {
        let from = text.find(&format!("\n{key} = "))?;
        let list = text.get(from..)?;
        let end = list.find(']').filter(|_| list.split_once('=').is_some_and(|(_, value)| value.trim_start().starts_with('[')));
        list.get(..end.or_else(|| list.get(1..)?.find('\n').map(|end| end + 1))?)
    };
    let of_table = move |(_, text): &(&str, &'static str)| keys.iter().filter_map(|key| list(text, key)).collect::<Vec<_>>();
    EMBEDDED.iter().flat_map(of_table).flat_map(|list| list.split('"').skip(1).step_by(2))
}

fn unknown(architecture: &str, nearest: Option<&str>) -> Error {
    let mut error = Error::unsupported(format!("unknown architecture {architecture}"));
    if let Some(nearest) = nearest {
        error = error.add_hint(Hint::DidYouMean(nearest.to_owned()));
    }
    error.add_hint(Hint::ListArchitectures).add_hint(Hint::UseArchitectureTable).add_hint(Hint::KeepNames)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn every_embedded_table_is_valid_and_found_by_its_names() {
        let tables = Tables::default();
        for table in tables.all().unwrap().into_iter().chain(tables.projectors().unwrap()) {
            let (_, text) = EMBEDDED.iter().find(|(name, _)| *name == table.name).unwrap();
            let names = table.classes.iter().chain(&table.model_types).chain([&table.gguf]);
            names.for_each(|name| assert!(head(text).contains(&format!("\"{name}\"")), "{}: {name} is not at its start", table.name));
        }
        for table in tables.all().unwrap() {
            // Those with a condition are found if it holds, as the goldens show.
            if table.when.is_some() {
                continue;
            }
            for class in &table.classes {
                assert_eq!(tables.for_config(&json!({ "architectures": [class] })).unwrap().gguf, table.gguf);
            }
            for model_type in &table.model_types {
                // Several classes may share a model_type.
                let config = json!({ "architectures": table.classes, "model_type": model_type });
                assert_eq!(tables.for_config(&config).unwrap().gguf, table.gguf);
                assert!(tables.for_config(&json!({ "model_type": model_type })).unwrap().model_types.contains(model_type));
            }
            if !table.params.is_empty() {
                let params: serde_json::Map<_, _> = table.params.iter().map(|key| (key.clone(), json!(1))).collect();
                assert_eq!(tables.for_config(&params.into()).unwrap().name, table.name);
            } else if let Some(key) = &table.gguf_has {
                assert_eq!(tables.for_gguf(&table.gguf, |other| other == key).unwrap().name, table.name);
            }
            assert!(table.tokenizer.is_some(), "{}", table.name);
        }
    }

    #[test]
    fn a_custom_table_takes_precedence() {
        let own = Table::parse("name = 'mine'\nextends = 'llama'\ngguf = 'llama'\nclasses = ['LlamaForCausalLM']").unwrap();
        assert!(own.tensors.len() > 5, "rows of the table that it extends");
        let tables = Tables::with(vec![own]);
        assert_eq!(tables.for_config(&json!({ "architectures": ["LlamaForCausalLM"] })).unwrap().name, "mine");
        assert_eq!(tables.for_gguf("llama", |_| false).unwrap().name, "mine");
    }

    #[test]
    fn invalid_tables_and_unknown_architectures_are_errors() {
        for text in ["name = 1", "nonsense = true", "extends = 'nothing'", "[[tensors]]\nhf = 'a'\nwrong = 1", "\u{0}"] {
            assert!(Table::parse(text).is_err(), "{text}");
        }
        let error = Tables::default().for_config(&json!({ "architectures": ["NobodysForCausalLM"] })).unwrap_err();
        assert!(error.to_string().contains("NobodysForCausalLM"), "{error}");
        let error = Tables::default().for_config(&json!({ "architectures": ["Qwen3MoEForCausalLM"] })).unwrap_err();
        assert!(error.hints().contains(&Hint::DidYouMean("Qwen3MoeForCausalLM".to_owned())), "{error}");
        assert!(Tables::default().for_gguf("nobodys", |_| false).is_err());
        let error = Tables::default().for_gguf("qwen3mo", |_| false).unwrap_err();
        assert!(error.hints().contains(&Hint::DidYouMean("qwen3moe".to_owned())), "{error}");
        let tables = Tables::default();
        let all: HashSet<&str> = tables.all().unwrap().into_iter().flat_map(|table| &table.classes).map(String::as_str).collect();
        let found: HashSet<&str> = listed(&["classes"]).collect();
        assert!(all.is_subset(&found), "{:?}", all.difference(&found));
        assert!(Tables::default().for_config(&json!({})).is_err());
        // Ling 1 with an output that is divided by its norms.
        let ling =
            |norm_head: bool| Tables::default().for_config(&json!({ "architectures": ["BailingMoeForCausalLM"], "norm_head": norm_head }));
        assert!(ling(false).is_ok() && ling(true).is_err());
    }
}
