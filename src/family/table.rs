//! Architecture tables: what one family of models calls its tensors and hyperparameters in Hugging Face and in GGUF.
//!
//! The language is described, with a worked example, in CONTRIBUTING.md. Tables are embedded, and parsed only when their family is met.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::Path;
use std::sync::{LazyLock, OnceLock};

use serde::Deserialize;

use crate::base::{Error, Hint, Result};
use crate::family::components::ComponentRow;
use crate::source::file;
use crate::tokenizer;

/// The embedded tables: name and text. A name that starts with `_` is a part that others extend.
static EMBEDDED: &[(&str, &str)] = &[
    ("_names", include_str!("tables/_names.toml")),
    ("_text", include_str!("tables/_text.toml")),
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
    ("deepseek2", include_str!("tables/deepseek2.toml")),
    ("gpt-oss", include_str!("tables/gpt-oss.toml")),
    ("deepseek3", include_str!("tables/deepseek3.toml")),
    ("arcee", include_str!("tables/arcee.toml")),
    ("ernie4_5", include_str!("tables/ernie4_5.toml")),
    ("ernie4_5_moe", include_str!("tables/ernie4_5_moe.toml")),
    ("granitemoe", include_str!("tables/granitemoe.toml")),
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
];

/// The embedded tables that were met so far, in the order of [`EMBEDDED`].
static PARSED: LazyLock<Vec<OnceLock<Table>>> = LazyLock::new(|| EMBEDDED.iter().map(|_| OnceLock::new()).collect());

/// What one family of models calls things.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Table {
    /// The name of the family.
    pub name: String,
    /// An embedded table whose rows come first; rows of this one replace those of the same name.
    pub extends: Option<String>,
    /// `general.architecture` in GGUF.
    pub gguf: String,
    /// `architectures` in config.json; the first is written for GGUF -> Hugging Face.
    pub classes: Vec<String>,
    /// `model_type` in config.json; the first is written.
    pub model_types: Vec<String>,
    /// Keys that config (params.json) has in the stead of `architectures`, for a maker's own format.
    pub params: Vec<String>,
    /// A GGUF key that tells this family from others of the same architecture.
    pub gguf_has: Option<String>,
    /// Whether the class is a model without a head, so that the names of its tensors are written without prefixes.
    pub without_head: bool,
    /// What sort of tokenizer the family has.
    pub tokenizer: Option<tokenizer::Kind>,
    /// What the class takes where config.json leaves a key out or null: a value, or an expression in a string; `false`: nothing,
    /// whatever the table that this one extends says.
    pub defaults: toml::Table,
    /// The hyperparameters that `weigh info` knows, in its order. Those of `_names.toml` are every table's.
    pub hyperparameters: Vec<Hyperparameter>,
    /// Short names for expressions.
    #[serde(rename = "let")]
    pub lets: toml::Table,
    /// Hyperparameters, in the order in which they are written.
    pub keys: Vec<KeyRow>,
    /// First parts of Hugging Face names that only say which module holds the model (`model`, `language_model`, `transformer`):
    /// a tensor is looked up without them, so that one table serves a model with a head, without one, and inside another model.
    pub prefixes: Vec<String>,
    /// Parts of Hugging Face names, from the start of a name or of a part of it, and what stands for them before the rows are looked up.
    pub replace: Vec<(String, String)>,
    /// Which parts of a model its tensors are, where their names do not tell it as those of all families do.
    pub components: Vec<ComponentRow>,
    /// Tensors, in any order.
    pub tensors: Vec<TensorRow>,
    /// Globs of tensors that have no place in GGUF, and are dropped.
    pub drop: Vec<String>,
    /// Whether layers past those of the config are dropped (they predict further tokens).
    pub drops_further_layers: bool,
    /// Tensors that are computed: `rope_freqs` (Llama 3's scaling), `rope_factors` (long contexts).
    pub computed: Vec<String>,
    /// What config.json has in any case.
    pub config: toml::Table,
    /// Keys of config.json from expressions over `gguf.KEY` and the keys before.
    pub derived: toml::Table,
    /// Keys of config.json that tell whether a tensor is there; `!` before the name: whether it is not.
    pub flags: toml::Table,
}

/// A hyperparameter under all its names.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hyperparameter {
    /// Its name in weigh's output and in expressions.
    pub name: String,
    /// Its key in GGUF, without the architecture before it.
    pub gguf: String,
    /// Its keys in config.json and params.json: the first that is there counts, and the first is written.
    pub hf: Vec<String>,
}

/// A key of GGUF.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyRow {
    /// The hyperparameter whose key it is, which gives `gguf` and the first spellings of `hf`.
    pub is: Option<String>,
    /// The key in GGUF, without the architecture before it; whole when it starts with `general.` or `tokenizer.`.
    pub gguf: String,
    /// The key of config.json, and its other spellings.
    pub hf: OneOrMore,
    /// The type in GGUF.
    #[serde(rename = "type")]
    pub value_type: KeyType,
    /// Text that it always is.
    pub text: Option<String>,
    /// What it is, or is taken for where `hf` is absent: an expression.
    pub value: Option<String>,
    /// Whether it is left out where it is absent or null.
    pub required: bool,
    /// Whether it is left out where it is zero.
    pub nonzero: bool,
    /// Whether zero in GGUF is null in config.json.
    pub zero_is_null: bool,
    /// Whether GGUF leaves the key out where config.json says null, so that null is neither filled in nor lost.
    pub absent_is_null: bool,
    /// The numbers that names stand for.
    pub map: toml::Table,
    /// A rule that writes several keys: see [`crate::family::keys`].
    pub rule: Option<String>,
}

/// One name or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum OneOrMore {
    /// One.
    One(String),
    /// Several, the most usual first.
    More(Vec<String>),
}

impl Default for OneOrMore {
    fn default() -> Self {
        Self::More(Vec::new())
    }
}

impl OneOrMore {
    /// All of them.
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::More(names) => names,
        }
    }

    /// The first.
    pub fn first(&self) -> Option<&str> {
        self.all().first().map(String::as_str)
    }
}

/// The type of a hyperparameter in GGUF.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyType {
    /// A whole number.
    #[default]
    U32,
    /// A number in single precision.
    F32,
    /// True or false.
    Bool,
    /// Text.
    String,
}

/// A tensor, or one a layer, or one a layer and expert.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TensorRow {
    /// Its name in Hugging Face, up to the suffix.
    pub hf: String,
    /// Its name in GGUF, up to the suffix; several where it is split.
    pub gguf: OneOrMore,
    /// What both names end in: `weight` unless said otherwise; `?` after it: may be absent. Empty: the names are whole.
    pub suffix: Option<OneOrMore>,
    /// What the Hugging Face name ends in, where that differs: one for each suffix.
    pub hf_suffix: Option<OneOrMore>,
    /// What happens between the two: see [`crate::family::transform`].
    pub transform: Option<String>,
    /// The dimensions in Hugging Face, outermost first: expressions.
    pub shape: Vec<String>,
    /// Whether it may be absent: true, or the key of config.json that says so.
    pub optional: Optional,
    /// The layers that have it: `from..to`, both expressions; either may be left out.
    pub layers: Option<String>,
}

/// Whether a tensor may be absent.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Optional {
    /// Always or never.
    Plain(bool),
    /// When this key of config.json is true.
    When(String),
}

impl Default for Optional {
    fn default() -> Self {
        Self::Plain(false)
    }
}

impl TensorRow {
    /// The suffixes, and whether each may be absent. One empty suffix: the names are whole.
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

    /// The Hugging Face name for the suffix of this number.
    pub fn hf_name(&self, number: usize, suffix: &str) -> String {
        match self.hf_suffix.as_ref().and_then(|own| own.all().get(number)) {
            Some(own) => format!("{}{own}", self.hf),
            None => with_suffix(&self.hf, suffix),
        }
    }

    /// The GGUF names for a suffix.
    pub fn gguf_names(&self, suffix: &str) -> Vec<String> {
        self.gguf.all().iter().map(|name| with_suffix(name, suffix)).collect()
    }
}

fn with_suffix(name: &str, suffix: &str) -> String {
    if suffix.is_empty() { name.to_owned() } else { format!("{name}.{suffix}") }
}

impl Table {
    /// Reads a table.
    ///
    /// # Errors
    /// The text is no table.
    pub fn parse(text: &str) -> Result<Self> {
        let own: Self = toml::from_str(text).map_err(|error| {
            let line = text.get(..error.span().unwrap_or_default().start).unwrap_or_default().lines().count().max(1);
            Error::argument(format!("expected an architecture table, found in line {line}: {}", error.message())).caused_by(error)
        })?;
        let Some(parent) = &own.extends else { return own.resolved(&[]) };
        let parent = embedded(|name, _| name == parent).next().unwrap_or_else(|| {
            let message = format!("expected the name of a table after extends, found {parent}");
            Err(Error::argument(message).hint(Hint::ListArchitectures))
        })?;
        Ok(own.resolved(&parent.hyperparameters)?.over(parent.clone()))
    }

    /// Fills in the names of the keys that are hyperparameters: of this table, or `inherited`.
    fn resolved(mut self, inherited: &[Hyperparameter]) -> Result<Self> {
        for row in &mut self.keys {
            let Some(name) = &row.is else { continue };
            let known = self.hyperparameters.iter().chain(inherited).find(|known| known.name == *name);
            let known = known.ok_or_else(|| Error::argument(format!("expected the name of a hyperparameter, found {name}")))?;
            row.gguf.clone_from(&known.gguf);
            row.hf = OneOrMore::More(known.hf.iter().chain(row.hf.all()).cloned().collect());
        }
        Ok(self)
    }

    /// This table over the one that it extends.
    fn over(self, mut parent: Self) -> Self {
        merge(&mut parent.keys, self.keys, |row| (row.gguf.clone(), row.rule.clone()));
        merge(&mut parent.tensors, self.tensors, |row| row.hf.clone());
        // A row whose GGUF name is empty only takes the parent's row away.
        parent.tensors.retain(|row| row.gguf.first().is_some());
        merge(&mut parent.hyperparameters, self.hyperparameters, |known| known.name.clone());
        parent.defaults.extend(self.defaults);
        parent.lets.extend(self.lets);
        parent.config.extend(self.config);
        parent.derived.extend(self.derived);
        parent.flags.extend(self.flags);
        parent.components.splice(0..0, self.components);
        parent.prefixes.extend(self.prefixes);
        parent.replace.extend(self.replace);
        parent.drop.extend(self.drop);
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
            tokenizer,
            drops_further_layers: self.drops_further_layers || parent.drops_further_layers,
            ..parent
        }
    }

    /// Reads a table from a file.
    ///
    /// # Errors
    /// The file cannot be read, is too long, or is no table.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&file::read_text(path)?).map_err(|error| error.in_file(path))
    }
}

/// Puts rows over those of the same name, and others behind them.
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

/// The embedded tables whose names and texts are `wanted`. Each is parsed when it is first asked for.
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

/// Returns what all tables share, for models of which no family is known.
///
/// # Errors
/// The embedded table is no table; tests see to it that this does not happen.
pub fn names() -> Result<&'static Table> {
    embedded(|name, _| name == "_names").next().unwrap_or_else(|| Err(Error::argument("expected a table _names, found none")))
}

/// Returns the embedded tables of these architectures (classes, model types, `general.architecture`) whose own text has this in it: only
/// those are parsed.
///
/// # Errors
/// As for [`names`].
pub fn that_say(text: &str, architectures: &[&str]) -> Result<Vec<&'static Table>> {
    let quoted: Vec<String> = architectures.iter().map(|name| format!("\"{name}\"")).collect();
    let fits = |table: &&Table| {
        let is = |name: &str| architectures.contains(&name);
        is(&table.gguf) || table.classes.iter().chain(&table.model_types).any(|name| is(name))
    };
    let wanted = |name: &str, own: &str| !name.starts_with('_') && own.contains(text) && quoted.iter().any(|name| own.contains(name));
    let mut found = embedded(wanted).collect::<Result<Vec<_>>>()?;
    found.retain(fits);
    Ok(found)
}

/// The tables at hand: a user's own first, then the embedded ones.
#[derive(Debug, Default)]
pub struct Tables {
    own: Vec<Table>,
}

impl Tables {
    /// The embedded tables, and these before them.
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

    /// Every table, parsed.
    ///
    /// # Errors
    /// An embedded table is no table; tests see to it that this does not happen.
    pub fn all(&self) -> Result<Vec<&Table>> {
        self.among(|name, _| !name.starts_with('_'), |_| true)
    }

    /// The tables that speak of `word` and fit: only those that mention it are parsed.
    fn find(&self, word: &str, fits: impl Fn(&Table) -> bool) -> Result<Vec<&Table>> {
        let quoted = format!("\"{word}\"");
        self.among(|name, text| !name.starts_with('_') && text.contains(&quoted), fits)
    }

    /// The tables that fit: of the embedded ones only those whose names and texts are `wanted` are parsed.
    fn among(&self, wanted: impl Fn(&str, &str) -> bool, fits: impl Fn(&Table) -> bool) -> Result<Vec<&Table>> {
        let mut found: Vec<&Table> = self.own.iter().filter(|table| fits(table)).collect();
        for table in embedded(wanted) {
            found.extend(Some(table?).filter(|table| fits(table)));
        }
        Ok(found)
    }

    /// The table for a Hugging Face config.
    ///
    /// # Errors
    /// None fits; the message names what was looked for.
    pub fn for_config(&self, config: &serde_json::Value) -> Result<Table> {
        let text_config = config.get("text_config");
        let class = |config: &serde_json::Value| Some(config.get("architectures")?.get(0)?.as_str()?.to_owned());
        let classes = [class(config), text_config.and_then(class)];
        for class in classes.iter().flatten() {
            if let Some(table) = self.find(class, |table| table.classes.contains(class))?.into_iter().next() {
                return Ok(table.clone());
            }
        }
        let model_type = |config: &serde_json::Value| Some(config.get("model_type")?.as_str()?.to_owned());
        let model_types = [model_type(config), text_config.and_then(model_type)];
        for model_type in model_types.iter().flatten() {
            if let Some(table) = self.find(model_type, |table| table.model_types.contains(model_type))?.into_iter().next() {
                return Ok(table.clone());
            }
        }
        if classes.iter().chain(&model_types).all(Option::is_none) {
            let fits = |table: &Table| !table.params.is_empty() && table.params.iter().all(|key| config.get(key).is_some());
            let native = self.among(|_, text| text.contains("\nparams = "), fits)?;
            if let Some(table) = native.into_iter().max_by_key(|table| table.params.len()) {
                return Ok(table.clone());
            }
        }
        let asked = classes.into_iter().chain(model_types).flatten().next();
        Err(unknown(asked.as_deref().unwrap_or("none named")))
    }

    /// The table for a GGUF: several families may share an architecture, so `has` says which keys there are.
    ///
    /// # Errors
    /// None fits.
    pub fn for_gguf(&self, architecture: &str, has: impl Fn(&str) -> bool) -> Result<Table> {
        let fits =
            |table: &Table| table.gguf == architecture && !table.classes.is_empty() && table.gguf_has.as_ref().is_none_or(|key| has(key));
        let mut found = self.find(architecture, fits)?;
        // One that asks for a key that is there says more than one that asks for none.
        found.sort_by_key(|table| table.gguf_has.is_none());
        found.into_iter().next().cloned().ok_or_else(|| unknown(architecture))
    }
}

fn unknown(architecture: &str) -> Error {
    Error::unsupported(format!("expected a known architecture, found {architecture}"))
        .hint(Hint::ListArchitectures)
        .add_hint(Hint::UseArchitectureTable)
        .add_hint(Hint::KeepNames)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_embedded_table_is_one_and_its_names_lead_to_it() {
        let tables = Tables::default();
        for table in tables.all().unwrap() {
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
    fn a_table_of_ones_own_goes_before_the_embedded() {
        let own = Table::parse("name = 'mine'\nextends = 'llama'\ngguf = 'llama'\nclasses = ['LlamaForCausalLM']").unwrap();
        assert!(own.tensors.len() > 5, "rows of the table that it extends");
        let tables = Tables::with(vec![own]);
        assert_eq!(tables.for_config(&json!({ "architectures": ["LlamaForCausalLM"] })).unwrap().name, "mine");
        assert_eq!(tables.for_gguf("llama", |_| false).unwrap().name, "mine");
    }

    #[test]
    fn what_is_no_table_and_what_no_table_knows_are_errors() {
        for text in ["name = 1", "nonsense = true", "extends = 'nothing'", "[[tensors]]\nhf = 'a'\nwrong = 1", "\u{0}"] {
            assert!(Table::parse(text).is_err(), "{text}");
        }
        let error = Tables::default().for_config(&json!({ "architectures": ["NobodysForCausalLM"] })).unwrap_err();
        assert!(error.to_string().contains("NobodysForCausalLM"), "{error}");
        assert!(Tables::default().for_gguf("nobodys", |_| false).is_err());
        assert!(Tables::default().for_config(&json!({})).is_err());
    }
}
