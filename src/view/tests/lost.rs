//! What a conversion to GGUF says of what it loses.

use serde_json::{Value as Json, json};

use crate::family::tables::Tables;
use crate::format::Reader;
use crate::model::companion::Note;
use crate::model::{DType, Model};
use crate::quant::packed;
use crate::view::output_model::OutputModel;
use crate::view::tests::goldens::{Golden, goldens};
use crate::view::{lost, to_gguf};

/// Returns what a golden converts to, with other values in its config.
fn converted(golden: &Golden, values: &[(&str, Json)]) -> OutputModel {
    let (tables, hf) = (Tables::default(), golden.reader());
    let mut config = golden.json["config"].clone();
    for (key, value) in values {
        let (section, key) = key.rsplit_once('/').unwrap_or(("", key));
        config.pointer_mut(section).unwrap()[key] = value.clone();
    }
    let model = Model { config: Some(config), ..hf.model().clone() };
    let hf = packed::repacked(Reader::computed(&hf, model, std::collections::HashMap::new())).unwrap();
    let preprocessor = golden.json["preprocessor"].clone();
    match golden.is_projector() {
        true => to_gguf::projector(hf.model(), &tables, preprocessor, None),
        false => to_gguf::without_tokenizer(&hf, &tables, golden.part()),
    }
    .unwrap_or_else(|error| panic!("{}: {error}", golden.name))
}

/// Returns what is said of the config.
fn of_config(output: OutputModel) -> Vec<String> {
    output.notes.into_iter().filter(|note| note.name == "config.json").map(|note| note.message).collect()
}

/// What the goldens' configs say that a GGUF does not record. A published model with these classes has the values that llama.cpp takes.
const UNRECORDED: [(&str, &str, &str); 6] = [
    ("grok", r#"hidden_act is "silu""#, r#""gelu""#),
    ("grok2", r#"hidden_act is "silu""#, r#""gelu""#),
    ("minicpm3", "original_max_position_embeddings is 64", "128"),
    ("pixtral-mmproj", "vision_feature_layer is -2", "-1"),
    ("pixtral-mmproj", r#"vision_feature_select_strategy is "default""#, r#""full""#),
    ("plm", r#"hidden_act is "silu""#, r#""relu2""#),
];

fn unrecorded(said: &str, taken: &str) -> String {
    format!("{said}, which the GGUF does not record: llama.cpp takes {taken}")
}

#[test]
fn what_a_gguf_does_not_record_of_a_config_is_told_and_nothing_else() {
    for golden in goldens() {
        let wanted = UNRECORDED.iter().filter(|(name, ..)| *name == golden.name).map(|(_, said, taken)| unrecorded(said, taken));
        assert_eq!(of_config(converted(&golden, &[])), wanted.collect::<Vec<_>>(), "{}", golden.name);
    }
}

#[test]
fn a_config_that_llama_cpp_does_not_compute_is_told() {
    let all = goldens();
    for (name, key, value, wanted) in [
        ("gemma3", "/query_pre_attn_scalar", json!(512), Some(("query_pre_attn_scalar is 512", "32"))),
        ("gemma3", "/query_pre_attn_scalar", json!(32.0), None),
        (
            "gemma3",
            "/layer_types",
            json!(["sliding_attention", "full_attention"]),
            Some((r#"layer_types[1] is "full_attention""#, r#""sliding_attention""#)),
        ),
        ("gemma3", "/sliding_window_pattern", json!(2), Some(("sliding_window_pattern is 2", "6"))),
        ("llama3", "/hidden_act", json!("relu"), Some((r#"hidden_act is "relu""#, r#""silu""#))),
        ("llama3", "/hidden_act", json!("swish"), None),
        ("llama3", "/hidden_act", Json::Null, None),
        (
            "llama3",
            "/rope_parameters",
            json!({ "rope_type": "dynamic", "factor": 2.0 }),
            Some((r#"rope_type is "dynamic""#, r#""default""#)),
        ),
        ("llama3", "/rope_parameters", json!({ "rope_type": "linear", "factor": 2.0 }), None),
        ("glm4v-mmproj", "/vision_config/hidden_act", json!("relu"), Some((r#"vision_config.hidden_act is "relu""#, r#""quick_gelu""#))),
        ("glm5next", "/text_config/layer_types", json!(["linear_attention", "indexed_attention"]), None),
        ("granitehybrid", "/layer_types", json!(["linear_attention", "full_attention"]), None),
    ] {
        let Some(golden) = all.iter().find(|golden| golden.name == name) else { continue };
        let wanted: Vec<String> = wanted.into_iter().map(|(said, taken)| unrecorded(said, taken)).collect();
        assert_eq!(of_config(converted(golden, &[(key, value.clone())])), wanted, "{name}: {key} {value}");
    }
}

/// Of a key that config.json leaves out, the class takes its default.
#[test]
fn a_default_that_llama_cpp_does_not_compute_is_told() {
    for golden in goldens().into_iter().filter(|golden| ["gemma2", "gemma3", "gemma3n"].contains(&golden.name.as_str())) {
        let mut json = golden.json.clone();
        let config = json["config"].as_object_mut().unwrap();
        config.remove("query_pre_attn_scalar");
        let head = config.get("head_dim").cloned();
        let wanted = head.filter(|_| golden.name != "gemma3n").map(|head| unrecorded("query_pre_attn_scalar is 256", &head.to_string()));
        let golden = Golden { json, ..golden };
        assert_eq!(of_config(converted(&golden, &[])), wanted.into_iter().collect::<Vec<_>>(), "{}", golden.name);
    }
}

/// The factor of scores that llama.cpp has for MiniCPM3 is a constant, and the long factors begin at the context length.
#[test]
fn the_constants_of_minicpm3_are_told() {
    let Some(golden) = goldens().into_iter().find(|golden| golden.name == "minicpm3") else { return };
    let values = [("/scale_depth", json!(2)), ("/original_max_position_embeddings", json!(128))];
    assert_eq!(of_config(converted(&golden, &values)), [unrecorded("scale_depth is 2", "1.4")]);
}

/// Returns what is said of a tensor that is rounded.
fn of_rounding(notes: impl IntoIterator<Item = Note>) -> Vec<(String, String)> {
    notes.into_iter().filter(|note| note.message.contains("rounded")).map(|note| (note.name, note.message)).collect()
}

#[test]
fn weights_times_a_factor_are_said_to_be_rounded_and_others_not() {
    for golden in goldens().into_iter().filter(|golden| !["bitnet", "falcon-h1"].contains(&golden.name.as_str())) {
        assert_eq!(of_rounding(converted(&golden, &[]).notes), [], "{}", golden.name);
    }
    let Some(golden) = goldens().into_iter().find(|golden| golden.name == "falcon-h1") else { return };
    let output = converted(&golden, &[]);
    let message = "is computed (times 0.0195) and rounded to BF16; so are 13 other tensors".to_owned();
    assert_eq!(of_rounding(lost::rounded(Some(DType::F32), &output.tensors)), []);
    assert_eq!(of_rounding(lost::rounded(Some(DType::Q8_0), &output.tensors)), []);
    assert_eq!(of_rounding(output.notes), [("output.weight".to_owned(), message)]);
    // Powers of two are exact.
    let keys = "attention_in attention_out embedding key lm_head ssm_in ssm_out".split(' ').map(|name| format!("/{name}_multiplier"));
    let mut values: Vec<(String, Json)> = keys.map(|key| (key, json!(0.125))).collect();
    values.extend([("/mlp_multipliers".to_owned(), json!([2, 1])), ("/ssm_multipliers".to_owned(), json!([1, 1, 0.5, 1, 1]))]);
    let values: Vec<(&str, Json)> = values.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    assert_eq!(of_rounding(converted(&golden, &values).notes), []);
}
