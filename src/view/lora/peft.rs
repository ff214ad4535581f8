//! PEFT's adapters: adapter_config.json and names under `base_model.model.`.

use std::collections::HashMap;

use regex::Regex;
use serde_json::Value as Json;

use crate::base::{Error, Result};
use crate::model::{Model, TensorInfo};
use crate::view::lora::{Adapter, Factor, Form, Update, texts};

/// Prefix of tensor names in an adapter.
pub(super) const PREFIX: &str = "base_model.model.";

/// Name suffixes of the two factors: of linear layers, and of embeddings.
const FACTORS: [(&str, &str, bool); 2] = [(".lora_A.weight", ".lora_B.weight", false), (".lora_embedding_A", ".lora_embedding_B", true)];

/// Name suffixes of DoRA's magnitudes, and of replaced token rows.
const MAGNITUDE: &str = ".lora_magnitude_vector";
const TOKENS: &str = ".token_adapter.trainable_tokens_delta";

/// Config keys that change the meaning of the factors, with descriptions. They apply unless null, false or empty.
const UNSUPPORTED: [(&str, &str); 9] = [
    ("layer_replication", "layers that are repeated (layer_replication)"),
    ("target_parameters", "updates of parameters other than module matrices (target_parameters)"),
    ("alora_invocation_tokens", "an activated LoRA (alora_invocation_tokens)"),
    ("use_qalora", "QALoRA (use_qalora)"),
    ("use_bdlora", "a block-diagonal LoRA (use_bdlora)"),
    ("arrow_config", "Arrow's mixture of adapters (arrow_config)"),
    ("kasa_config", "KaSA (kasa_config)"),
    ("velora_config", "VeLoRA (velora_config)"),
    ("monteclora_config", "MonteCLoRA (monteclora_config)"),
];

/// Initialisations that also change the base, so that the adapter does not fit the published base.
const CHANGES_BASE: [&str; 4] = ["pissa", "olora", "corda", "lora_ga"];

/// Reads an adapter from its config and tensor names.
pub(super) fn read(model: &Model) -> Result<Adapter> {
    let config = model.config.as_ref().unwrap_or(&Json::Null);
    let text = |key: &str| config.get(key).and_then(Json::as_str);
    let mut adapter = Adapter {
        form: Form::Peft,
        rank: config.get("r").and_then(Json::as_u64),
        alpha: config.get("lora_alpha").and_then(Json::as_f64),
        targets: texts(config.get("target_modules")),
        base: text("base_model_name_or_path").map(str::to_owned),
        updates: Vec::new(),
        replaced: Vec::new(),
        tokens: Vec::new(),
        unsupported: unsupported(config),
    };
    if text("peft_type") != Some("LORA") {
        return Ok(adapter);
    }
    let settings = Settings::of(config)?;
    let places: HashMap<&str, usize> = model.tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.as_str(), i)).collect();
    for (a, tensor) in model.tensors.iter().enumerate() {
        let first = FACTORS.iter().find_map(|(first, second, embedding)| Some((tensor.name.strip_suffix(first)?, *second, *embedding)));
        let Some((stem, second, embedding)) = first else {
            other(&mut adapter, config, a, tensor);
            continue;
        };
        let b = places.get(format!("{stem}{second}").as_str()).copied();
        let b = b.ok_or_else(|| Error::malformed(format!("its companion {second} is missing")).in_tensor(&tensor.name))?;
        let module = stem.strip_prefix(PREFIX).unwrap_or(stem).to_owned();
        let turned = embedding || settings.fan_in_fan_out;
        let (left, right) = if turned { (a, b) } else { (b, a) };
        let factor = |tensor| Factor { tensor, transposed: turned };
        let scale = |rank| settings.scale(&module, rank);
        let mut update = Update::new(model, module.clone(), scale, factor(left), factor(right))?;
        update.magnitude = places.get(format!("{stem}{MAGNITUDE}").as_str()).copied();
        if update.magnitude.is_some() && turned {
            adapter.unsupported = Some(format!("DoRA of an embedding or of a layer with fan_in_fan_out, {module}"));
        }
        adapter.updates.push(update);
    }
    Ok(adapter)
}

/// Returns the reason why the adapter of a config cannot be merged.
fn unsupported(config: &Json) -> Option<String> {
    let is_set = |value: &Json| match value {
        Json::Null | Json::Bool(false) => false,
        Json::Array(values) => !values.is_empty(),
        Json::Object(keys) => !keys.is_empty(),
        _ => true,
    };
    match config.get("peft_type").and_then(Json::as_str) {
        Some("LORA") => {}
        _ if config.is_null() => return Some("one without its adapter_config.json, which has the alpha".to_owned()),
        other => return Some(format!("{}, which is no LoRA", other.unwrap_or("an adapter of no known type"))),
    }
    if let Some((_, what)) = UNSUPPORTED.iter().find(|(key, _)| config.get(key).is_some_and(is_set)) {
        return Some((*what).to_owned());
    }
    let start = config.get("init_lora_weights").and_then(Json::as_str)?;
    CHANGES_BASE.iter().any(|name| start.starts_with(name)).then(|| format!("one that changed its base when it was trained ({start})"))
}

/// Handles a tensor other than a factor: a magnitude, token rows, or a replacement of a base tensor.
fn other(adapter: &mut Adapter, config: &Json, index: usize, tensor: &TensorInfo) {
    let name = tensor.name.strip_prefix(PREFIX).unwrap_or(&tensor.name);
    if FACTORS.iter().any(|(_, second, _)| name.ends_with(second)) || name.ends_with(MAGNITUDE) {
        return; // met with the first factor
    }
    if let Some(module) = name.strip_suffix(TOKENS) {
        let rows = token_rows(config.get("trainable_token_indices"), module);
        match rows.filter(|rows| tensor.shape.first() == Some(&(rows.len() as u64))) {
            Some(rows) => adapter.tokens.push((format!("{module}.weight"), rows, index)),
            None => adapter.unsupported = Some(format!("rows for tokens that its config does not name, {name}")),
        }
    } else if name.contains("lora_") || name.contains("token_adapter") {
        adapter.unsupported = Some(format!("a part that is no factor of a linear layer or embedding, {name}"));
    } else {
        let name = name.replace(".modules_to_save.default", "").replace(".modules_to_save", "").replace(".base_layer", "");
        adapter.replaced.push((name, index));
    }
}

/// Returns the rows in `trainable_token_indices` for a module: a list for the embedding, or one per module.
fn token_rows(indices: Option<&Json>, module: &str) -> Option<Vec<u64>> {
    let list = match indices? {
        Json::Object(modules) => modules.iter().find(|(name, _)| is_end(module, name))?.1,
        list => list,
    };
    list.as_array()?.iter().map(Json::as_u64).collect()
}

fn is_end(module: &str, end: &str) -> bool {
    module.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The scale settings of the config.
struct Settings {
    rank: Option<u64>,
    alpha: Option<f64>,
    by_root: bool,
    fan_in_fan_out: bool,
    ranks: Vec<(Regex, f64)>,
    alphas: Vec<(Regex, f64)>,
}

impl Settings {
    fn of(config: &Json) -> Result<Self> {
        let is = |key: &str| config.get(key).and_then(Json::as_bool) == Some(true);
        Ok(Self {
            rank: config.get("r").and_then(Json::as_u64),
            alpha: config.get("lora_alpha").and_then(Json::as_f64),
            by_root: is("use_rslora"),
            fan_in_fan_out: is("fan_in_fan_out"),
            ranks: patterns(config, "rank_pattern")?,
            alphas: patterns(config, "alpha_pattern")?,
        })
    }

    /// Returns alpha / r, or alpha / sqrt(r), with per-module overrides in the config.
    fn scale(&self, module: &str, rank: u64) -> Result<f32> {
        let wanted = exception(&self.ranks, module).or(self.rank.map(|rank| rank as f64));
        if let Some(wanted) = wanted.filter(|wanted| *wanted != rank as f64) {
            return Err(Error::malformed(format!("expected factors of rank {wanted} for {module}, as its config says, found rank {rank}")));
        }
        let alpha = exception(&self.alphas, module).or(self.alpha);
        let alpha = alpha.ok_or_else(|| Error::malformed("expected lora_alpha in adapter_config.json, found none"))?;
        let rank = rank as f64;
        Ok((alpha / if self.by_root { rank.sqrt() } else { rank }) as f32)
    }
}

/// Returns the value of the first pattern that matches a module.
fn exception(patterns: &[(Regex, f64)], module: &str) -> Option<f64> {
    patterns.iter().find(|(pattern, _)| pattern.is_match(module)).map(|(_, value)| *value)
}

/// Returns the patterns of a key. Like PEFT, matches regular expressions at the end of a name, from its start or after a dot
/// (peft/utils/other.py, `get_pattern_key`).
fn patterns(config: &Json, key: &str) -> Result<Vec<(Regex, f64)>> {
    let Some(patterns) = config.get(key).and_then(Json::as_object) else { return Ok(Vec::new()) };
    let parse = |(pattern, value): (&String, &Json)| {
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$")).map_err(|error| {
            let reason = error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Error::unsupported(format!(
                "expected a regular expression without look-around and back-references in {key}, found {pattern}: {reason}"
            ))
        })?;
        let value = value.as_f64().ok_or_else(|| Error::malformed(format!("expected a number for {pattern} in {key}, found {value}")))?;
        Ok((regex, value))
    };
    patterns.iter().map(parse).collect()
}
