//! The file type of a GGUF, told from its tensors.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use weigh::{ConvertOptions, Edit, Value};

use crate::build::safetensors;

const LAYERS: usize = 16;

/// Writes a Llama with rows of whole blocks, and so many layers that the mixes differ; all weights are zero.
fn llama(folder: &Path) {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/llama-tiny");
    for entry in fs::read_dir(&tiny).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.extension().is_none_or(|ending| ending != "safetensors") && !entry.ends_with("model.safetensors.index.json") {
            fs::copy(&entry, folder.join(entry.file_name().unwrap())).unwrap();
        }
    }
    let mut config: Json = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    for (key, value) in [("hidden_size", 256), ("intermediate_size", 256), ("head_dim", 64), ("num_hidden_layers", LAYERS)] {
        config[key] = json!(value);
    }
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let layer = [
        ("input_layernorm", vec![256]),
        ("post_attention_layernorm", vec![256]),
        ("self_attn.q_proj", vec![256, 256]),
        ("self_attn.k_proj", vec![128, 256]),
        ("self_attn.v_proj", vec![128, 256]),
        ("self_attn.o_proj", vec![256, 256]),
        ("mlp.gate_proj", vec![256, 256]),
        ("mlp.up_proj", vec![256, 256]),
        ("mlp.down_proj", vec![256, 256]),
    ];
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![325, 256]), ("model.norm.weight".to_owned(), vec![256])];
    for number in 0..LAYERS {
        tensors.extend(layer.iter().map(|(name, shape)| (format!("model.layers.{number}.{name}.weight"), shape.clone())));
    }
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
    }
    fs::write(folder.join("model.safetensors"), safetensors(&Json::Object(header).to_string(), &vec![0; end])).unwrap();
}

fn told(path: &PathBuf) -> Json {
    serde_json::to_value(weigh::open_headers(path).unwrap().info().unwrap()).unwrap()["file_type"].clone()
}

/// Those that llama-quantize tells apart by the types of a few layers. The unit tests of `quant::recipe` have the others, with the types that it
/// chose.
const FILE_TYPES: [&str; 5] = ["BF16", "Q8_0", "Q3_K_M", "Q4_K_S", "Q4_K_M"];

/// Without the key, the name is right. Where other file types have the same mix in a model without experts, they are named as well.
#[test]
fn file_types_are_told_from_the_mix() {
    let folder = tempfile::tempdir().unwrap();
    llama(folder.path());
    let model = weigh::open(folder.path()).unwrap();
    let out = folder.path().join("out.gguf");
    for name in FILE_TYPES {
        model.convert(&out, &ConvertOptions::new().file_type(name).overwrite(true)).unwrap();
        assert_eq!(told(&out), json!({"name": name, "source": "general.file_type"}));
        weigh::edit(&out, &Edit::new().remove("general.file_type")).unwrap();
        let found = told(&out);
        assert_eq!(found["name"], name, "{found}");
        let candidates: Vec<&str> = found["candidates"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        assert!(candidates.is_empty() || candidates == ["Q8_0", "MXFP4_MOE"], "{found}");
    }
}

#[test]
fn a_wrong_key_is_said_to_be_wrong() {
    let folder = tempfile::tempdir().unwrap();
    llama(folder.path());
    let out = folder.path().join("out.gguf");
    weigh::open(folder.path()).unwrap().convert(&out, &ConvertOptions::new().file_type("Q4_K_S")).unwrap();
    // LLAMA_FTYPE_MOSTLY_Q4_K_M
    weigh::edit(&out, &Edit::new().set("general.file_type", Value::U32(15))).unwrap();
    assert_eq!(told(&out), json!({"name": "Q4_K_S", "source": "mix", "contradicted": "Q4_K_M"}));
}
