//! The format of architecture tables: tensor and hyperparameter names of a model family in Hugging Face and GGUF.
//!
//! The language is described, with an example, in CONTRIBUTING.md.

use std::collections::HashMap;
use std::hash::Hash;

use serde::Deserialize;

use crate::base::{Error, Result};
use crate::family::components::ComponentRow;
use crate::family::expr;
use crate::family::sections::text_value;
use crate::tokenizer;

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
    /// A GGUF key or tensor that distinguishes this family from others of the same architecture; `KEY = VALUE`: a key with this text or number;
    /// `KEY = []`: one with a list.
    pub gguf_has: Option<String>,
    /// Whether the class is a model without a head, so that tensor names are written without prefixes.
    pub without_head: bool,
    /// Whether this is the table of the vision or audio encoder of its classes, which has a GGUF of its own (mmproj).
    pub projector: bool,
    /// The beginnings of the Hugging Face names of an encoder's tensors, without prefixes.
    pub parts: Vec<String>,
    /// The part of the model that encoder and text model are in: a module, and with `_config` behind it a section of config.json.
    pub within: Option<String>,
    /// The GGUF names of tensors of an encoder whose type is that of its patch embeddings: F16 in a file of this type, else F32.
    pub patches: Vec<String>,
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
    /// Globs of tensors that stay although `drop` has them.
    pub keep: Vec<String>,
    /// Globs of tensors that are dropped if all their values are zero; otherwise GGUF cannot hold the model.
    pub drop_zeros: Vec<String>,
    /// Whether the layers that predict further tokens (MTP, NextN), which GGUF numbers after the others, may be left out, or converted alone.
    pub mtp: bool,
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
    /// Keys of config.json that may come back with another value although nothing is lost: what they say is in the weights, or in other keys.
    pub folded: Vec<String>,
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
    /// The array of numbers in GGUF that holds the elements of these tensors, layer by layer, instead of tensors: of each those of its
    /// shape, by default one; outside the layers, the number. With the type U64, whole numbers, which are I64 in Hugging Face.
    pub key: Option<String>,
    /// Whether it is a copy of a tensor of a row above with the same GGUF name, and is dropped if that is there.
    pub copy: bool,
    /// Whether tensors of this name in layers that do not have it are dropped.
    pub drops_others: bool,
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
    /// Resolves key rows that refer to hyperparameters of this table or `inherited` ones.
    ///
    /// # Errors
    /// There is no such hyperparameter.
    pub fn resolved(mut self, inherited: &[Hyperparameter]) -> Result<Self> {
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
    pub fn over(self, mut parent: Self) -> Self {
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
        parent.folded.extend(self.folded);
        parent.tokens.extend(self.tokens);
        parent.components.splice(0..0, self.components);
        parent.prefixes.extend(self.prefixes);
        parent.replace.extend(self.replace);
        // The text model leaves out what the encoder has.
        if self.projector {
            parent.drop.clear();
        }
        parent.drop.extend(self.drop);
        parent.keep.extend(self.keep);
        parent.drop_zeros.extend(self.drop_zeros);
        parent.layers.extend(self.layers);
        parent.counts.extend(self.counts);
        parent.shapes.extend(self.shapes);
        parent.computed.extend(self.computed);
        let tokenizer = self.tokenizer.or(parent.tokenizer);
        Self {
            name: self.name,
            extends: self.extends,
            gguf: self.gguf,
            classes: self.classes,
            model_types: self.model_types,
            params: self.params,
            gguf_has: self.gguf_has,
            without_head: self.without_head,
            mtp: self.mtp,
            module: self.module,
            section: self.section,
            when: self.when,
            projector: self.projector,
            within: self.within.or(parent.within),
            patches: if self.patches.is_empty() { parent.patches } else { self.patches },
            text_names: if self.text_names.is_empty() { parent.text_names } else { self.text_names },
            parts: if self.parts.is_empty() { parent.parts } else { self.parts },
            any_text: self.any_text || parent.any_text,
            tokenizer,
            drops_further_layers: self.drops_further_layers || parent.drops_further_layers,
            ..parent
        }
    }

    /// Whether one of these classes is its own.
    pub fn shares_class(&self, classes: &[String]) -> bool {
        self.classes.iter().any(|class| classes.contains(class))
    }

    /// Returns the kinds of its encoders (`clip.projector_type` and its like).
    pub fn projector_types(&self) -> impl Iterator<Item = String> {
        self.keys.iter().filter(|row| row.gguf.ends_with("projector_type")).filter_map(|row| row.text.clone())
    }

    /// Whether its condition holds for a config.
    pub fn applies_to(&self, config: &serde_json::Value) -> bool {
        let lookup = |name: &str| expr::Value::from_json(text_value(config, name)?);
        let holds = |when: &str| expr::eval(when, &lookup).ok().flatten().is_some_and(|value| value.is_true());
        self.when.as_ref().is_none_or(|when| holds(when))
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
