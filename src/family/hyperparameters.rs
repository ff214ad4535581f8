//! Hyperparameters under common names, from GGUF metadata or config.json.

use serde_json::{Map, Number, Value as Json};

use crate::family::components::Components;
use crate::family::config::Config;
use crate::family::keys;
use crate::family::table::{Hyperparameter, KeyRow, Table};
use crate::family::tables::{self, Tables};
use crate::model::{Array, Model, Value};

/// Returns the architecture: `general.architecture` of a GGUF; `model_type`, or else the class, of a config.
pub fn architecture(model: &Model) -> Option<&str> {
    if let Some(name) = model.metadata.get("general.architecture").and_then(Value::as_str) {
        return Some(name);
    }
    let config = model.config.as_ref()?;
    let class = || config.pointer("/architectures/0");
    config.get("model_type").or_else(class).and_then(Json::as_str)
}

/// Returns the component patterns for a model.
pub fn components(model: &Model) -> Components {
    let class = |config: &Json| Some(config.get("architectures")?.get(0)?.as_str()?.to_owned());
    let texts = [architecture(model).map(str::to_owned), model.config.as_ref().and_then(class)];
    let names: Vec<&str> = texts.iter().flatten().map(String::as_str).collect();
    let own = tables::mentioning("\ncomponents = [", &names).unwrap_or_default();
    Components::with(own.into_iter().flat_map(|table| &table.components))
}

/// Returns the known hyperparameters in a fixed order: numbers, strings, or lists with one number per layer.
///
/// From a config, these are the effective values: those its class would use and its GGUF would contain.
pub fn all(model: &Model) -> Map<String, Json> {
    let mut found = Map::new();
    if model.metadata.get_str("general.architecture") == Some("clip") {
        return of_encoder(model);
    }
    let Ok(names) = tables::common() else { return found };
    let completed = model.config.as_ref().and_then(|config| {
        let table = Tables::default().for_config(config).unwrap_or_else(|_| names.clone());
        let mut config = Config::new(&table, config).ok()?;
        config.measure(&table, &model.tensors);
        Some((config, table))
    });
    for known in &names.hyperparameters {
        let value = match (&completed, architecture(model)) {
            (Some((config, table)), _) => from_config(config, table, known),
            (None, Some(architecture)) => model.metadata.get(&format!("{architecture}.{}", known.gguf)).and_then(from_metadata),
            (None, None) => None,
        };
        // Explicit values for absence: "default" and "none" for scalings, 0 for windows and experts.
        let none = |value: &Json| matches!(value.as_str(), Some("default" | "none" | "")) || value.as_f64() == Some(0.0);
        if let Some(value) = value.filter(|value| !none(value)).or_else(|| implied(model, &known.name, &found)) {
            found.insert(known.name.clone(), value);
        }
    }
    found
}

/// Hyperparameters of a vision or audio encoder in a separate GGUF: the name here, and the key.
const ENCODER: [(&str, &str); 15] = [
    ("projector_type", "projector_type"),
    ("vision_projector_type", "vision.projector_type"),
    ("vision_layers", "vision.block_count"),
    ("vision_width", "vision.embedding_length"),
    ("vision_feed_forward", "vision.feed_forward_length"),
    ("vision_heads", "vision.attention.head_count"),
    ("image_size", "vision.image_size"),
    ("patch_size", "vision.patch_size"),
    ("audio_projector_type", "audio.projector_type"),
    ("audio_layers", "audio.block_count"),
    ("audio_width", "audio.embedding_length"),
    ("audio_feed_forward", "audio.feed_forward_length"),
    ("audio_heads", "audio.attention.head_count"),
    ("mel_bins", "audio.num_mel_bins"),
    ("projection", "vision.projection_dim"),
];

/// Returns the hyperparameters of an encoder of pictures or sounds in a GGUF of its own, with the width that it projects to.
fn of_encoder(model: &Model) -> Map<String, Json> {
    let get = |key: &str| model.metadata.get(&format!("clip.{key}")).and_then(from_metadata);
    let projection = || get("audio.projection_dim");
    let value = |name: &str, key: &str| get(key).or_else(|| projection().filter(|_| name == "projection"));
    ENCODER.iter().filter_map(|(name, key)| Some(((*name).to_owned(), value(name, key)?))).collect()
}

/// Returns an integer hyperparameter.
pub fn number(hyperparameters: &Map<String, Json>, name: &str) -> Option<u64> {
    hyperparameters.get(name).and_then(Json::as_u64)
}

/// Returns a hyperparameter implied by others.
fn implied(model: &Model, name: &str, known: &Map<String, Json>) -> Option<Json> {
    match name {
        "kv_heads" => known.get("heads").cloned(),
        "head_dim" => Some(number(known, "width")?.checked_div(number(known, "heads")?)?.into()),
        "vocabulary" => model.metadata.get("tokenizer.ggml.tokens").and_then(Value::as_array).map(|tokens| tokens.len().into()),
        _ => None,
    }
}

/// Returns the value of the table's key row, or else of the config.
fn from_config(config: &Config, table: &Table, known: &Hyperparameter) -> Option<Json> {
    let applies = |row: &&KeyRow| row.when.as_ref().is_none_or(|when| config.holds(when).unwrap_or(false));
    let row = table.keys.iter().filter(|row| row.gguf == known.gguf).find(applies);
    let said = row.and_then(|row| keys::config_value(row, config).ok()?).or_else(|| config.first(&known.hf).cloned());
    match said? {
        Json::Array(values) if !values.is_empty() && values.iter().all(Json::is_number) => Some(one_or_all(values)),
        value => Some(value).filter(|value| value.is_number() || value.is_string()),
    }
}

fn from_metadata(value: &Value) -> Option<Json> {
    match value {
        Value::Array(array) => from_array(array),
        Value::String(text) => Some(text.as_str().into()),
        _ => value.as_u64().map(Json::from).or_else(|| value.as_f64().and_then(Number::from_f64).map(Json::Number)),
    }
}

/// Returns the only value, if all layers have the same, or else all.
fn one_or_all(values: Vec<Json>) -> Json {
    match values.first() {
        Some(first) if values.iter().all(|value| value == first) => first.clone(),
        _ => Json::Array(values),
    }
}

/// Returns one number per layer, or a single number if all are equal.
fn from_array(array: &Array) -> Option<Json> {
    /// More layers than any model has; a longer list is something else.
    const MOST_LAYERS: u64 = 10_000;
    if array.len() > MOST_LAYERS {
        return None;
    }
    array.iter().map(|value| from_metadata(&value.ok()?)).collect::<Option<Vec<Json>>>().filter(|values| !values.is_empty()).map(one_or_all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Metadata, ValueType};

    fn of_config(config: Json) -> Map<String, Json> {
        all(&Model { config: Some(config), ..Model::default() })
    }

    fn of_gguf(entries: Vec<(&str, Value)>) -> Map<String, Json> {
        let mut metadata = Metadata::new();
        metadata.insert("general.architecture", Value::String("llama".into())).unwrap();
        for (key, value) in entries {
            metadata.insert(key, value).unwrap();
        }
        all(&Model { metadata, ..Model::default() })
    }

    #[test]
    fn rows_count_where_their_condition_holds() {
        // 10000 x 1000 ^ (8 / 6), as llama.cpp's converter computes it for dynamic scaling.
        for (kind, base) in [("default", 1e4), ("dynamic", 1e8)] {
            let rope = json!({ "rope_type": kind, "rope_theta": 1e4, "alpha": 1000.0 });
            let found = of_config(json!({ "architectures": ["HunYuanDenseV1ForCausalLM"], "head_dim": 8, "rope_parameters": rope }));
            assert!((found["rope_base"].as_f64().unwrap() / base - 1.0).abs() < 1e-9, "{kind}: {found:?}");
        }
    }

    #[test]
    fn both_sources_use_the_same_names() {
        let config = of_config(json!({"hidden_size": 64, "num_attention_heads": 4, "head_dim": null,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}));
        let gguf = of_gguf(vec![
            ("llama.embedding_length", Value::U32(64)),
            ("llama.attention.head_count", Value::U32(4)),
            ("llama.rope.freq_base", Value::F32(10000.0)),
        ]);
        assert_eq!(config, gguf);
        assert_eq!(serde_json::to_string(&config).unwrap(), r#"{"width":64,"heads":4,"kv_heads":4,"head_dim":16,"rope_base":10000.0}"#);
    }

    #[test]
    fn the_text_model_of_a_multimodal_config_is_used() {
        let found = of_config(json!({"model_type": "gemma3", "text_config": {"hidden_size": 8}}));
        assert_eq!(number(&found, "width"), Some(8));
    }

    #[test]
    fn missing_keys_get_class_defaults() {
        // Gemma2Config in transformers: head_dim 256, regardless of hidden_size.
        let found = of_config(json!({"model_type": "gemma2", "hidden_size": 2304, "num_attention_heads": 8, "num_key_value_heads": 4}));
        assert_eq!(number(&found, "head_dim"), Some(256));
        // Command R's max_position_embeddings is less than its training context; its GGUF has the latter.
        let found = of_config(json!({"model_type": "cohere", "max_position_embeddings": 8192, "model_max_length": 131072}));
        assert_eq!(number(&found, "context"), Some(131072));
    }

    #[test]
    fn a_generation_length_is_not_a_context_length() {
        assert!(!of_config(json!({"model_type": "unheard-of", "max_length": 20})).contains_key("context"));
    }

    #[test]
    fn every_spelling_is_known_without_a_table() {
        for known in &tables::common().unwrap().hyperparameters {
            for key in known.hf.iter().filter(|key| !key.contains('.')) {
                assert_eq!(of_config(json!({ key: 7 })).get(&known.name), Some(&json!(7)), "{key}");
            }
        }
    }

    #[test]
    fn per_layer_numbers_are_a_list() {
        let heads = |list: &[u32]| Value::Array(Array::new(ValueType::U32, list.iter().map(|n| Value::U32(*n)).collect()));
        assert_eq!(of_gguf(vec![("llama.attention.head_count", heads(&[4, 4]))])["heads"], 4);
        assert_eq!(of_gguf(vec![("llama.attention.head_count", heads(&[4, 2]))])["heads"], json!([4, 2]));
    }

    #[test]
    fn numbers_that_differ_between_layers_are_a_list_from_a_config_too() {
        let of =
            |kinds: Json| of_config(json!({"model_type": "lfm2", "num_hidden_layers": 2, "num_key_value_heads": 2, "layer_types": kinds}));
        assert_eq!(of(json!(["conv", "full_attention"]))["kv_heads"], json!([0, 2]));
        assert_eq!(of(json!(["full_attention", "full_attention"]))["kv_heads"], 2);
        assert_eq!(of_config(json!({"model_type": "gemma3n_text", "intermediate_size": [8, 8]}))["feed_forward"], 8);
    }

    #[test]
    fn a_zero_does_not_divide() {
        assert!(!of_config(json!({"hidden_size": 64, "num_attention_heads": 0})).contains_key("head_dim"));
    }
}
