//! A Hugging Face config completed like its class does: merged sub-configs, defaults, rope parameters in one place.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use serde_json::{Map, Value as Json};

use crate::base::{Error, Result, limits};
use crate::family::expr::Value;
use crate::family::sections::{remove_text_sections, text_section};
use crate::family::table::{Hyperparameter, Table};
use crate::family::{expr, ties};
use crate::model::TensorInfo;

/// Maximum depth of nested short names.
const ALIASES: usize = 16;

/// The spellings of the RoPE base, and of the base for sliding-window layers (`TextModel.__init__` in llama.cpp's converter). The last of
/// each may be a class default, so the others take precedence.
const THETA: [&str; 5] = ["global_rope_theta", "rope_global_theta", "rope_theta_global", "rotary_emb_base", "rope_theta"];
const LOCAL_THETA: [&str; 5] = ["local_rope_theta", "rope_local_theta", "rope_theta_local", "swa_rope_theta", "rope_local_base_freq"];

/// Hyperparameters under Hugging Face key names.
#[derive(Debug, Clone, Default)]
pub struct Config {
    keys: Map<String, Json>,
    rope: Map<String, Json>,
    /// Values that the table takes from the tensors; they take precedence over keys and are not written.
    measured: HashMap<String, Json>,
    lets: toml::Table,
    hyperparameters: Vec<Hyperparameter>,
    /// Cache of evaluated short names, cleared when a key changes. A name being evaluated counts as absent.
    known: RefCell<HashMap<String, Option<f64>>>,
    /// The layer that `bid` stands for in expressions.
    layer: Cell<Option<u64>>,
    /// Total length of expressions evaluated, in bytes.
    evaluated: Cell<u64>,
}

impl Config {
    /// Completes the config of a folder like its class does.
    ///
    /// # Errors
    /// `json` is not an object, or an expression in the table is invalid.
    pub fn new(table: &Table, json: &Json) -> Result<Self> {
        let keys = json.as_object().ok_or_else(|| Error::malformed("expected config.json to hold an object"))?;
        let mut keys = keys.clone();
        // In a multimodal model, the text config has the hyperparameters; top-level keys are kept.
        if let Some(Json::Object(text)) = text_section(json) {
            keys.extend(text.clone());
            remove_text_sections(&mut keys);
        }
        let mut config = Self { keys, ..Self::empty(table) };
        for (key, default) in &table.defaults {
            let null_is_said = config.keys.get(key).is_some_and(Json::is_null)
                && table.keys.iter().any(|row| row.absent_is_null && row.hf.first() == Some(key.as_str()));
            if !null_is_said && config.spellings(key).iter().all(|key| config.get(key).is_none()) {
                let value = match default {
                    toml::Value::String(text) => config.eval(text)?.map(number_json),
                    toml::Value::Boolean(false) => None,
                    other => from_toml(other),
                };
                if let Some(value) = value {
                    config.set(key.clone(), value);
                }
            }
        }
        let types: Vec<&str> = table.model_types.iter().map(String::as_str).collect();
        if ties::ties_output(json) || (config.get("tie_word_embeddings").is_none() && ties::types_tie(&types)) {
            config.set("tie_word_embeddings", Json::Bool(true));
        }
        config.collect_rope();
        Ok(config)
    }

    /// Returns an empty config, to be filled from GGUF keys.
    pub fn empty(table: &Table) -> Self {
        Self { lets: table.lets.clone(), hyperparameters: table.hyperparameters.clone(), ..Self::default() }
    }

    /// Returns all spellings of a hyperparameter, given one of them; only the key itself if it is not a hyperparameter.
    fn spellings<'a>(&'a self, key: &'a String) -> &'a [String] {
        let known = self.hyperparameters.iter().find(|known| known.hf.contains(key));
        known.map_or(std::slice::from_ref(key), |known| &known.hf)
    }

    /// Returns the value of a key unless absent or null. A dot leads into an object; `rope.` into the RoPE parameters.
    pub fn get(&self, key: &str) -> Option<&Json> {
        if let Some(value) = self.measured.get(key) {
            return Some(value);
        }
        let (mut object, mut key) = (&self.keys, key);
        if let Some(rest) = key.strip_prefix("rope.") {
            (object, key) = (&self.rope, rest);
        }
        while let Some((first, rest)) = key.split_once('.') {
            object = object.get(first)?.as_object()?;
            key = rest;
        }
        object.get(key).filter(|value| !value.is_null())
    }

    /// Returns the value of the first of these keys that is set.
    pub fn first(&self, keys: &[String]) -> Option<&Json> {
        keys.iter().find_map(|key| self.get(key))
    }

    /// Sets a key; a dot leads into an object, `rope.` into `rope_scaling`.
    pub fn set(&mut self, key: impl Into<String>, value: Json) {
        let key = key.into();
        let key = if let Some(inner) = key.strip_prefix("rope.") { format!("rope_scaling.{inner}") } else { key };
        let (mut object, mut key) = (&mut self.keys, key.as_str());
        while let Some((first, rest)) = key.split_once('.') {
            let section = object.entry(first).or_insert(Json::Null);
            if !section.is_object() {
                *section = Json::Object(Map::new());
            }
            let Json::Object(inner) = section else { return };
            (object, key) = (inner, rest);
        }
        object.insert(key.to_owned(), value);
        self.known.get_mut().clear();
    }

    /// Sets the names that a table takes from the tensors of Hugging Face: counts of numbered layers, and shapes.
    pub fn measure(&mut self, table: &Table, tensors: &[TensorInfo]) {
        self.take_shapes(table, tensors);
        for (name, start) in &table.counts {
            let Some(start) = start.as_str() else { continue };
            let number = |tensor: &str| tensor.split_once(start)?.1.split('.').next()?.parse::<u32>().ok();
            let last = tensors.iter().filter_map(|tensor| number(&tensor.name)).max();
            self.measured.insert(name.clone(), last.map_or(0, |last| u64::from(last) + 1).into());
        }
        self.known.get_mut().clear();
    }

    /// Sets the names for shapes.
    pub fn take_shapes(&mut self, table: &Table, tensors: &[TensorInfo]) {
        for (name, end) in &table.shapes {
            let Some(end) = end.as_str() else { continue };
            if let Some(tensor) = tensors.iter().find(|tensor| tensor.name.ends_with(end)) {
                self.measured.insert(name.clone(), tensor.shape.clone().into());
            }
        }
        self.known.get_mut().clear();
    }

    /// Collects the RoPE parameters of the keys set so far, for names that start with `rope.`.
    pub fn collect_rope(&mut self) {
        self.rope = self.rope_parameters();
        self.known.get_mut().clear();
    }

    /// Removes keys.
    pub fn remove(&mut self, keys: &[&str]) {
        self.keys.retain(|key, _| !keys.contains(&key.as_str()));
        self.known.get_mut().clear();
    }

    /// Returns all keys in order, without those for expressions only, whose names begin with `_`.
    pub fn into_keys(mut self) -> Map<String, Json> {
        self.keys.retain(|key, _| !key.starts_with('_'));
        self.keys
    }

    /// Whether a key is true.
    pub fn is_true(&self, key: &str) -> bool {
        self.get(key).and_then(Json::as_bool).unwrap_or(false)
    }

    /// Whether the class is the model without a head (`LlamaModel`), which has no output matrix.
    pub fn is_without_head(&self) -> bool {
        let class = self.get("architectures").and_then(|classes| classes.get(0)).and_then(Json::as_str);
        class.is_some_and(|class| class.ends_with("Model") && !class.ends_with("LMHeadModel"))
    }

    /// Returns the value of a hyperparameter or key.
    fn named(&self, name: &str) -> Option<&Json> {
        match self.hyperparameters.iter().find(|known| known.name == name) {
            Some(known) => self.first(&known.hf),
            None => self.get(name),
        }
    }

    /// Evaluates with `bid` standing for the layer.
    pub fn at_layer<T>(&self, layer: u64, evaluate: impl FnOnce() -> T) -> T {
        self.set_layer(Some(layer));
        let value = evaluate();
        self.set_layer(None);
        value
    }

    fn set_layer(&self, layer: Option<u64>) {
        if self.layer.replace(layer) != layer {
            self.known.borrow_mut().clear();
        }
    }

    /// Whether an expression depends on the layer, directly or by a short name.
    pub fn depends_on_layer(&self, text: &str) -> bool {
        self.mentions_layer(text, ALIASES)
    }

    fn mentions_layer(&self, text: &str, depth: usize) -> bool {
        let mut words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'));
        words.any(|word| match self.lets.get(word) {
            Some(toml::Value::String(text)) => depth > 0 && self.mentions_layer(text, depth - 1),
            _ => word == "bid",
        })
    }

    /// Returns the numeric value of a name in an expression: a short name, a hyperparameter or a key (true is 1).
    pub fn number(&self, name: &str) -> Option<f64> {
        self.value(name)?.number()
    }

    /// Returns the value of a name in an expression.
    pub fn value(&self, name: &str) -> Option<Value<'_>> {
        self.value_within(name, ALIASES)
    }

    fn value_within(&self, name: &str, depth: usize) -> Option<Value<'_>> {
        match self.lets.get(name) {
            Some(toml::Value::String(_)) if depth == 0 => None,
            Some(toml::Value::String(text)) => {
                if let Some(known) = self.known.borrow().get(name) {
                    return known.map(Value::Number);
                }
                self.known.borrow_mut().insert(name.to_owned(), None);
                let value =
                    self.spend(text).ok().and_then(|()| expr::eval(text, &|name| self.value_within(name, depth - 1)).ok().flatten());
                let number = value.as_ref().and_then(Value::number);
                if number.is_some() || value.is_none() {
                    self.known.borrow_mut().insert(name.to_owned(), number);
                } else {
                    self.known.borrow_mut().remove(name); // texts and lists are evaluated each time
                }
                value
            }
            Some(toml::Value::Integer(number)) => Some(Value::Number(*number as f64)),
            Some(toml::Value::Float(number)) => Some(Value::Number(*number)),
            Some(toml::Value::Array(values)) => Some(Value::List(values.iter().filter_map(from_toml).collect())),
            Some(_) => None,
            None if name == "bid" => self.layer.get().map(|layer| Value::Number(layer as f64)),
            None => Value::from_json(self.named(name)?),
        }
    }

    /// Evaluates an expression to a number.
    ///
    /// # Errors
    /// The text is not an expression.
    pub fn eval(&self, text: &str) -> Result<Option<f64>> {
        Ok(self.eval_value(text)?.and_then(|value| value.number()))
    }

    /// Evaluates an expression.
    ///
    /// # Errors
    /// As for [`Config::eval`].
    pub fn eval_value(&self, text: &str) -> Result<Option<Value<'_>>> {
        self.eval_with(text, &|name| self.value(name))
    }

    /// Evaluates an expression with additional names.
    ///
    /// # Errors
    /// As for [`Config::eval`].
    pub fn eval_with<'a>(&self, text: &str, lookup: &dyn Fn(&str) -> Option<Value<'a>>) -> Result<Option<Value<'a>>> {
        self.spend(text)?;
        let value = expr::eval(text, lookup)?;
        self.spend("")?; // nested short names may have exceeded the limit
        Ok(value)
    }

    /// Evaluates an expression for each of `count` layers; `None` if any has no value.
    ///
    /// # Errors
    /// As for [`Config::eval`].
    pub fn eval_each(&self, text: &str, count: u64) -> Result<Option<Vec<Json>>> {
        (0..count).map(|layer| self.at_layer(layer, || Ok(self.eval_value(text)?.map(Value::into_json)))).collect()
    }

    /// Whether the condition holds; an absent value counts as false.
    ///
    /// # Errors
    /// As for [`Config::eval`].
    pub fn holds(&self, condition: &str) -> Result<bool> {
        Ok(self.eval_value(condition)?.is_some_and(|value| value.is_true()))
    }

    /// Adds the length of an expression to the total and checks the limit.
    fn spend(&self, text: &str) -> Result<()> {
        self.evaluated.set(self.evaluated.get().saturating_add(text.len() as u64));
        if self.evaluated.get() > limits::EXPRESSION_BYTES {
            let most = limits::EXPRESSION_BYTES;
            return Err(Error::limit(format!("the architecture table needs more than {most} bytes of expressions to evaluate")));
        }
        Ok(())
    }

    /// Evaluates an expression as a count.
    ///
    /// # Errors
    /// The text is not an expression, a name is absent, or the result is not a count.
    pub fn count(&self, text: &str) -> Result<u64> {
        expr::whole(text, self.eval(text)?)
    }

    /// Evaluates an expression as a list length: of layers, experts or elements per head.
    ///
    /// # Errors
    /// As for [`Config::count`]; or it exceeds [`limits::PARTS`].
    pub fn length(&self, text: &str) -> Result<u64> {
        match self.count(text)? {
            length if length <= limits::PARTS => Ok(length),
            length => Err(Error::limit(format!("expected at most {} for {text}, found {length}", limits::PARTS))),
        }
    }

    /// Returns the RoPE parameters in the structure of newer configs.
    ///
    /// Older configs have `rope_theta` and `rope_scaling`, newer ones `rope_parameters`; models with sliding windows have one set per layer
    /// type (transformers 5, `RotaryEmbeddingConfigMixin`).
    fn rope_parameters(&self) -> Map<String, Json> {
        let given = ["rope_parameters", "rope_scaling"].iter().find_map(|key| self.get(key).and_then(Json::as_object));
        let mut rope = given.cloned().unwrap_or_default();
        let local = LOCAL_THETA.iter().find_map(|key| self.get(key)).cloned();
        let nested = rope.contains_key("full_attention") || rope.contains_key("sliding_attention");
        if !nested {
            self.complete(&mut rope);
        }
        for kind in ["full_attention", "sliding_attention"] {
            if let Some(Json::Object(own)) = rope.get_mut(kind) {
                self.complete_within(own, kind == "full_attention");
            }
        }
        if let Some(local) = local
            && !rope.contains_key("sliding_attention")
        {
            rope.insert("sliding_attention".to_owned(), serde_json::json!({ "rope_theta": local }));
        }
        rope
    }

    fn complete(&self, rope: &mut Map<String, Json>) {
        self.complete_within(rope, true);
        if let Some(factor) = self.get("partial_rotary_factor").or_else(|| self.get("rope_pct")) {
            rope.entry("partial_rotary_factor").or_insert_with(|| factor.clone());
        }
        // Phi-3 has the original length outside, with precedence over one inside.
        if let Some(length) = self.get("original_max_position_embeddings") {
            rope.insert("original_max_position_embeddings".to_owned(), length.clone());
        } else if rope.get("rope_type").and_then(Json::as_str).is_some_and(|kind| ["llama3", "yarn", "longrope"].contains(&kind))
            && let Some(length) = self.get("max_position_embeddings")
        {
            rope.entry("original_max_position_embeddings").or_insert_with(|| length.clone());
        }
    }

    fn complete_within(&self, rope: &mut Map<String, Json>, with_theta: bool) {
        if let Some(kind) = rope.get("type").cloned() {
            rope.entry("rope_type").or_insert(kind);
        }
        if with_theta && let Some(theta) = THETA.iter().find_map(|key| self.get(key)) {
            rope.entry("rope_theta").or_insert_with(|| theta.clone());
        }
    }
}

/// Returns a single-precision number in its shortest decimal representation.
pub fn f32_json(number: f32) -> Json {
    number.to_string().parse::<f64>().map_or(Json::Null, Json::from)
}

/// Returns a number as JSON, integers without a decimal point.
pub fn number_json(value: f64) -> Json {
    if value.fract() == 0.0 && value.abs() < 9e15 { Json::from(value as i64) } else { Json::from(value) }
}

/// Converts a TOML value to JSON.
pub fn from_toml(value: &toml::Value) -> Option<Json> {
    Some(match value {
        toml::Value::String(text) => Json::from(text.as_str()),
        toml::Value::Integer(number) => Json::from(*number),
        toml::Value::Float(number) => Json::from(*number),
        toml::Value::Boolean(value) => Json::from(*value),
        toml::Value::Array(values) => Json::Array(values.iter().filter_map(from_toml).collect()),
        toml::Value::Table(table) => Json::Object(table.iter().filter_map(|(key, value)| Some((key.clone(), from_toml(value)?))).collect()),
        toml::Value::Datetime(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(json: Json) -> Config {
        let table = Table::parse(
            "let = { hd = 'head_dim ?? hidden_size // num_attention_heads', a = 'b', b = 'a' }\n\
             [defaults]\nnum_key_value_heads = 'num_attention_heads'\nrope_theta = 10000.0",
        )
        .unwrap();
        Config::new(&table, &json).unwrap()
    }

    #[test]
    fn list_lengths_are_limited() {
        let config = config(json!({"num_hidden_layers": 1e9, "num_attention_heads": 65536}));
        assert_eq!(config.length("num_attention_heads").unwrap(), 65536);
        let error = config.length("num_hidden_layers").unwrap_err().to_string();
        assert!(error.contains("expected at most 65536"), "{error}");
    }

    #[test]
    fn names_lead_to_names_so_often_and_no_further() {
        let chain = |len: usize| {
            let lets: String = (0..len).map(|i| format!("a{i} = 'a{}'\n", i + 1)).collect();
            let table = Table::parse(&format!("[let]\n{lets}a{len} = 7")).unwrap();
            Config::new(&table, &json!({})).unwrap().number("a0")
        };
        assert_eq!(chain(ALIASES), Some(7.0));
        assert_eq!(chain(ALIASES + 1), None);
        assert_eq!(chain(3 * ALIASES), None);
    }

    #[test]
    fn layers_of_two_sorts_keep_their_own_rope() {
        for kind in ["full_attention", "sliding_attention"] {
            let one = config(json!({"rope_parameters": {kind: {"rope_type": "linear", "factor": 2.0}}}));
            assert_eq!(one.get("rope.rope_theta"), None, "{kind}");
        }
        // The base outside is that of full attention.
        let both = config(json!({"rope_theta": 5e5, "rope_parameters": {"full_attention": {}, "sliding_attention": {}}}));
        assert_eq!(both.number("rope.full_attention.rope_theta"), Some(5e5));
        assert_eq!(both.get("rope.sliding_attention.rope_theta"), None);
    }

    #[test]
    fn whole_numbers_are_written_as_such_where_that_is_exact() {
        assert_eq!(number_json(7.0).to_string(), "7");
        assert_eq!(number_json(0.5).to_string(), "0.5");
        assert!(number_json(1e300).is_f64());
    }

    #[test]
    fn both_rope_spellings_are_equivalent() {
        let old = config(json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}));
        let new = config(json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}}));
        for key in ["rope.rope_theta", "rope.rope_type", "rope.factor"] {
            assert_eq!(old.get(key), new.get(key), "{key}");
            assert!(old.get(key).is_some(), "{key}");
        }
        assert_eq!(config(json!({"rope_scaling": null})).number("rope.rope_theta"), Some(10000.0));
    }

    #[test]
    fn every_spelling_of_the_rope_bases_is_known() {
        for key in THETA {
            assert_eq!(config(json!({ key: 5.0 })).number("rope.rope_theta"), Some(5.0), "{key}");
        }
        for key in LOCAL_THETA {
            assert_eq!(config(json!({ key: 7.0 })).number("rope.sliding_attention.rope_theta"), Some(7.0), "{key}");
        }
    }

    #[test]
    fn absent_or_null_keys_get_defaults() {
        let config = config(json!({"num_attention_heads": 4, "hidden_size": 64, "head_dim": null, "text_config": {"hidden_size": 32}}));
        assert_eq!(config.number("num_key_value_heads"), Some(4.0));
        assert_eq!(config.count("hd").unwrap(), 8, "the text part goes before the rest");
    }

    #[test]
    fn the_section_of_the_text_model_is_taken_out_wherever_it_is() {
        for path in ["text_config", "language_config", "llm_config", "lm_config", "thinker_config.text_config"] {
            let mut json = json!({ "thinker_config": { "audio_config": { "d_model": 8 } } });
            let at = format!("/{}", path.replace('.', "/"));
            match path.split_once('.') {
                Some((outer, key)) => json[outer][key] = json!({ "hidden_size": 32 }),
                None => json[path] = json!({ "hidden_size": 32 }),
            }
            assert!(json.pointer(&at).is_some());
            let config = config(json);
            assert_eq!(config.number("hidden_size"), Some(32.0), "{path}");
            assert_eq!(config.get(path), None, "{path}");
            assert_eq!(config.number("thinker_config.audio_config.d_model"), Some(8.0), "{path}: others stay");
        }
    }

    #[test]
    fn every_spelling_of_a_hyperparameter_works_in_expressions_and_keys() {
        let table = Table::parse("extends = '_text'\ngguf = 'x'").unwrap();
        for key in ["num_hidden_layers", "n_layers", "n_layer", "num_layers"] {
            let config = Config::new(&table, &json!({ key: 3 })).unwrap();
            assert_eq!(config.count("layers").unwrap(), 3, "{key}");
        }
        // A value under another spelling takes precedence over the default.
        let config = Config::new(&table, &json!({"n_heads": 8, "num_attention_heads": 8, "n_kv_heads": 2})).unwrap();
        assert_eq!(config.count("kv").unwrap(), 2);
    }

    #[test]
    fn circular_names_are_absent() {
        assert_eq!(config(json!({})).number("a"), None);
    }

    #[test]
    fn a_short_name_is_evaluated_once_and_again_after_a_change() {
        let ten = |name: &str| [name; 10].join(" + ");
        let lets = ('a'..'n').zip('b'..='n').map(|(name, next)| format!("{name} = '{}'", ten(&next.to_string()))).collect::<Vec<_>>();
        let table = Table::parse(&format!("let = {{ {}, n = 'x', loop = '{}' }}", lets.join(", "), ten("loop"))).unwrap();
        let mut config = Config::new(&table, &json!({"x": 1})).unwrap();
        assert_eq!((config.number("a"), config.number("loop")), (Some(1e13), None));
        assert!(config.evaluated.get() < 2_000, "{} bytes", config.evaluated.get());
        config.set("x", json!(2));
        assert_eq!(config.number("a"), Some(2e13));
    }

    #[test]
    fn expressions_have_a_limit() {
        let config = config(json!({"hidden_size": 8}));
        let long = vec!["hidden_size"; 100_000].join(" + ");
        let error = (0..100).find_map(|_| config.eval(&long).err()).unwrap().to_string();
        assert!(error.contains("bytes of expressions to evaluate"), "{error}");
    }
}
