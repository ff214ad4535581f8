//! What a conversion to GGUF says of what it loses.

use serde_json::{Value as Json, json};

use crate::family::tables::Tables;
use crate::format::Reader;
use crate::model::Model;
use crate::quant::packed;
use crate::view::output_model::OutputModel;
use crate::view::tests::goldens::{Golden, goldens};
use crate::view::to_gguf;

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

/// Most goldens are of the defaults of their classes, with which llama.cpp computes too.
#[test]
fn the_values_that_gguf_does_not_record_are_told() {
    let found: Vec<(String, String)> = goldens().iter().flat_map(|golden| of_config(converted(golden, &[])).into_iter().map(|note| (golden.name.clone(), note))).collect();
    for f in &found { println!("DUMP {f:?}"); }
    for (name, values) in [("gemma3", vec![("query_pre_attn_scalar", json!(512))]), ("llama", vec![("hidden_act", json!("relu"))]), ("llama", vec![("hidden_act", json!("swish"))]), ("minicpm3", vec![("hidden_act", json!("gelu")), ("scale_depth", json!(2))]), ("llama", vec![("rope_scaling", json!({"type": "dynamic", "factor": 2.0}))])] {
        for golden in goldens().iter().filter(|golden| golden.name == name) {
            println!("DUMP {name} {:?}", of_config(converted(golden, &values)));
        }
    }
}
