//! What a model says of itself, under the same names whether it says so in GGUF keys or in a config.json.

use serde_json::{Map, Number, Value as Json};

use crate::model::{Array, Model, Value};

/// A hyperparameter: its stable name, its GGUF key after the architecture's name, and where configs have it (the first that is there).
struct Row {
    name: &'static str,
    gguf: &'static str,
    config: &'static [&'static str],
}

const fn row(name: &'static str, gguf: &'static str, config: &'static [&'static str]) -> Row {
    Row { name, gguf, config }
}

// Spellings: transformers' configs (GPT-2's and Falcon's n_*), Mistral's and Meta's params.json (dim, n_layers, moe.*).
const ROWS: &[Row] = &[
    row("layers", "block_count", &["num_hidden_layers", "n_layer", "n_layers", "num_layers"]),
    row("width", "embedding_length", &["hidden_size", "n_embd", "d_model", "dim"]),
    row("heads", "attention.head_count", &["num_attention_heads", "n_head", "n_heads", "num_heads"]),
    row("kv_heads", "attention.head_count_kv", &["num_key_value_heads", "n_kv_heads", "num_kv_heads"]),
    row("head_dim", "attention.key_length", &["head_dim"]),
    row("feed_forward", "feed_forward_length", &["intermediate_size", "n_inner", "ffn_hidden_size", "hidden_dim", "d_ff"]),
    row("context", "context_length", &["max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"]),
    row("vocabulary", "vocab_size", &["vocab_size"]),
    row(
        "rope_base",
        "rope.freq_base",
        &["rope_theta", "rope_parameters.rope_theta", "rope_parameters.full_attention.rope_theta", "rotary_emb_base"],
    ),
    row("rope_scaling", "rope.scaling.type", &["rope_scaling.rope_type", "rope_scaling.type", "rope_parameters.rope_type"]),
    row("rope_scaling_factor", "rope.scaling.factor", &["rope_scaling.factor", "rope_parameters.factor"]),
    row("sliding_window", "attention.sliding_window", &["sliding_window"]),
    row("experts", "expert_count", &["num_local_experts", "num_experts", "n_routed_experts", "moe.num_experts"]),
    row("experts_used", "expert_used_count", &["num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe.num_experts_per_tok"]),
    row("experts_shared", "expert_shared_count", &["n_shared_experts"]),
    row("expert_feed_forward", "expert_feed_forward_length", &["moe_intermediate_size"]),
];

/// The architecture: `general.architecture` of a GGUF, `model_type` (or else the class) of a config.
pub fn architecture(model: &Model) -> Option<&str> {
    if let Some(name) = model.metadata.get("general.architecture").and_then(Value::as_str) {
        return Some(name);
    }
    let config = model.config.as_ref()?;
    let class = || config.pointer("/architectures/0");
    config.get("model_type").or_else(class).and_then(Json::as_str)
}

/// The model types whose class ties the output to the embeddings where config.json does not say `tie_word_embeddings`: the defaults of
/// the config classes of transformers 5.24.
const TIED_BY_DEFAULT: &str = "\
    albert bart bert bert-generation big_bird bigbird_pegasus biogpt blenderbot blenderbot-small bloom camembert canary \
    cohere cohere2 cohere2_moe cohere_compass_text convbert cpmant ctrl data2vec-text deberta deberta-v2 distilbert \
    electra ernie ernie4_5 ernie4_5_moe esm falcon falcon_mamba flaubert fnet fun_asr_nano funnel gemma gemma2 gemma3 \
    gemma3_text gemma3n gemma3n_text gemma4 gemma4_text gemma4_unified gemma4_unified_assistant gemma4_unified_text \
    glmasr got_ocr2 gpt-sw3 gpt2 gpt_bigcode gpt_neo gpt_neox_japanese granite_speech granite_speech_plus granite_swa \
    gte ibert jetmoe jina_embeddings_v3 lara_mini layoutlm led lfm2 lfm2_moe lfm3 longformer longt5 luke m2m_100 mamba \
    marian mbart megatron-bert minicpm3 mobilebert modernbert modernbert-decoder moonshine moss_transcribe_diarize \
    mpnet mpt mra mt5 mvp neomme nllb-moe nomic_bert nystromformer openai-gpt opt pegasus pegasus_x plbart pop2piano \
    prophetnet qwen3_asr recurrent_gemma roberta roberta-prelayernorm roc_bert roformer seamless_m4t seamless_m4t_v2 \
    smollm3 speech_to_text speecht5 squeezebert starcoder2 switch_transformers t5 t5gemma t5gemma2 tapas trocr umt5 \
    vaultgemma voxtral_realtime whisper xglm xlm xlm-roberta xlm-roberta-xl xlnet xmod yoso youtu zamba zamba2 zaya";

/// Whether the output matrix of a model is its embedding, by its config or the default of its class.
pub fn ties_output(config: &Json) -> bool {
    let text = config.get("text_config");
    let both = || [Some(config), text].into_iter().flatten();
    let said = both().find_map(|config| config.get("tie_word_embeddings")?.as_bool());
    let ties = |config: &Json| {
        config.get("model_type").and_then(Json::as_str).is_some_and(|name| TIED_BY_DEFAULT.split(' ').any(|tied| tied == name))
    };
    said.unwrap_or_else(|| both().any(ties))
}

/// The hyperparameters that are known, in a fixed order: numbers, or texts, or a list with a number for each layer.
pub fn hyperparameters(model: &Model) -> Map<String, Json> {
    let mut found = Map::new();
    for row in ROWS {
        let value = match (&model.config, architecture(model)) {
            (Some(config), _) => row.config.iter().find_map(|path| from_config(config, path)),
            (None, Some(architecture)) => model.metadata.get(&format!("{architecture}.{}", row.gguf)).and_then(from_metadata),
            (None, None) => None,
        };
        // Some say that there is none: "default" and "none" of scalings, 0 of windows and experts.
        let none = |value: &Json| matches!(value.as_str(), Some("default" | "none" | "")) || value.as_u64() == Some(0);
        if let Some(value) = value.filter(|value| !none(value)) {
            found.insert(row.name.to_owned(), value);
        } else if let Some(value) = implied(model, row.name, &found) {
            found.insert(row.name.to_owned(), value);
        }
    }
    found
}

/// One hyperparameter that is a whole number.
pub fn number(hyperparameters: &Map<String, Json>, name: &str) -> Option<u64> {
    hyperparameters.get(name).and_then(Json::as_u64)
}

/// What follows from the others where it is not said.
fn implied(model: &Model, name: &str, known: &Map<String, Json>) -> Option<Json> {
    match name {
        "kv_heads" => known.get("heads").cloned(),
        "head_dim" => Some(number(known, "width")?.checked_div(number(known, "heads")?)?.into()),
        "vocabulary" => model.metadata.get("tokenizer.ggml.tokens").and_then(Value::as_array).map(|tokens| tokens.len().into()),
        _ => None,
    }
}

/// The value at a path of keys; of the language model, where the config is that of a model of several kinds of input.
fn from_config(config: &Json, path: &str) -> Option<Json> {
    let under = |config: &Json| path.split('.').try_fold(config.clone(), |value, key| value.get(key).cloned());
    let plain = |value: &Json| value.is_number() || value.is_string();
    under(config).filter(plain).or_else(|| config.get("text_config").and_then(under).filter(plain))
}

fn from_metadata(value: &Value) -> Option<Json> {
    match value {
        Value::Array(array) => from_array(array),
        Value::String(text) => Some(text.as_str().into()),
        _ => value.as_u64().map(Json::from).or_else(|| value.as_f64().and_then(Number::from_f64).map(Json::Number)),
    }
}

/// A number for each layer: one number, if it is the same for all.
fn from_array(array: &Array) -> Option<Json> {
    /// More layers than any model has; a longer list is something else.
    const MOST_LAYERS: u64 = 10_000;
    if array.len() > MOST_LAYERS {
        return None;
    }
    let values = array.iter().map(|value| from_metadata(&value.ok()?)).collect::<Option<Vec<Json>>>()?;
    let first = values.first()?;
    Some(if values.iter().all(|value| value == first) { first.clone() } else { Json::Array(values) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Metadata, ValueType};

    fn of_config(config: Json) -> Map<String, Json> {
        hyperparameters(&Model { config: Some(config), ..Model::default() })
    }

    fn of_gguf(entries: Vec<(&str, Value)>) -> Map<String, Json> {
        let mut metadata = Metadata::new();
        metadata.insert("general.architecture", Value::String("llama".into())).unwrap();
        for (key, value) in entries {
            metadata.insert(key, value).unwrap();
        }
        hyperparameters(&Model { metadata, ..Model::default() })
    }

    #[test]
    fn both_sources_give_the_same_names() {
        let config = of_config(serde_json::json!({"hidden_size": 64, "num_attention_heads": 4, "head_dim": null,
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
    fn the_text_model_of_a_multimodal_config_counts() {
        let found = of_config(serde_json::json!({"model_type": "gemma3", "text_config": {"hidden_size": 8}}));
        assert_eq!(number(&found, "width"), Some(8));
    }

    #[test]
    fn numbers_that_differ_by_layer_are_a_list() {
        let heads = |list: &[u32]| Value::Array(Array::new(ValueType::U32, list.iter().map(|n| Value::U32(*n)).collect()));
        assert_eq!(of_gguf(vec![("llama.attention.head_count", heads(&[4, 4]))])["heads"], 4);
        assert_eq!(of_gguf(vec![("llama.attention.head_count", heads(&[4, 2]))])["heads"], serde_json::json!([4, 2]));
    }

    #[test]
    fn the_output_is_tied_as_the_config_or_else_the_class_says() {
        for (config, tied) in [
            (serde_json::json!({"model_type": "gemma2"}), true),
            (serde_json::json!({"model_type": "gemma2", "tie_word_embeddings": false}), false),
            (serde_json::json!({"model_type": "paligemma", "text_config": {"model_type": "gemma"}}), true),
            (serde_json::json!({"model_type": "whisper"}), true),
            (serde_json::json!({"model_type": "zaya"}), true),
            (serde_json::json!({"model_type": "llama"}), false),
            (serde_json::json!({"model_type": "llama", "text_config": {"tie_word_embeddings": true}}), true),
            (serde_json::json!({}), false),
        ] {
            assert_eq!(ties_output(&config), tied, "{config}");
        }
    }

    #[test]
    fn a_zero_does_not_divide() {
        assert!(!of_config(serde_json::json!({"hidden_size": 64, "num_attention_heads": 0})).contains_key("head_dim"));
    }
}
