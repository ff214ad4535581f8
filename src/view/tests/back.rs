//! Conversion from GGUF to Hugging Face.

use serde_json::{Value as Json, json};

use crate::family::tables::Tables;
use crate::model::companion::Content;
use crate::model::{DType, Metadata, Value};
use crate::view::output_model::OutputModel;
use crate::view::tests::{in_gguf, reader, table};
use crate::view::to_hf;

#[test]
fn what_a_gguf_lacks_is_named_on_the_way_back() {
    let tables = Tables::default();
    let (tensors, metadata) = in_gguf(&table(&tables, "llama"));
    for name in ["blk.1.ffn_up.weight", "output_norm.weight"] {
        let fewer = tensors.iter().filter(|tensor| tensor.0 != name).cloned().collect();
        let error = to_hf::weights(&reader(fewer, metadata.clone(), None), &tables, &to_hf::Options::default()).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("is missing"), "{error}");
    }
}

#[test]
fn vectors_go_back_to_the_type_of_the_weights_where_nothing_is_lost() {
    let tables = Tables::default();
    let (mut tensors, mut metadata) = in_gguf(&table(&tables, "llama"));
    // A tenth is no number of BF16.
    let norm = tensors.iter_mut().find(|tensor| tensor.0 == "blk.0.attn_norm.weight").unwrap();
    norm.3 = [0.1f32; 24].iter().flat_map(|value| value.to_le_bytes()).collect();
    for (key, value) in [
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ("tokenizer.ggml.eot_token_id", Value::U32(5)),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("general.sampling.temp", Value::F32(0.5)),
        ("general.sampling.top_k", Value::I32(40)),
        ("general.sampling.penalty_repeat", Value::F32(1.5)),
    ] {
        metadata.set(key, value);
    }
    let back_of = |metadata: &Metadata, main: DType| {
        let mut tensors = tensors.clone();
        if main == DType::F32 {
            for (_, _, dtype, bytes) in tensors.iter_mut().filter(|tensor| tensor.2 == DType::BF16) {
                *dtype = DType::F32;
                *bytes = bytes.as_chunks::<2>().0.iter().flat_map(|pair| [0, 0, pair[0], pair[1]]).collect();
            }
        }
        to_hf::weights(&reader(tensors, metadata.clone(), None), &tables, &to_hf::Options::default()).unwrap()
    };
    let back = back_of(&metadata, DType::BF16);
    let elem = |name: &str| back.tensors.iter().find(|step| step.name == name).unwrap().elem.known();
    assert_eq!(elem("model.layers.0.input_layernorm.weight"), Some(DType::F32));
    assert_eq!(elem("model.layers.1.input_layernorm.weight"), Some(DType::BF16));
    assert_eq!(elem("model.layers.0.mlp.up_proj.weight"), Some(DType::BF16));
    assert!(back_of(&metadata, DType::F32).tensors.iter().all(|step| step.elem.known() == Some(DType::F32)), "no type is narrower");

    let file = |output: &OutputModel, name: &str| -> Json {
        let found = output.files.iter().find(|file| file.name == name).unwrap();
        let Content::Bytes(bytes) = &found.content else { panic!("{name}") };
        serde_json::from_slice(bytes).unwrap()
    };
    assert_eq!(file(&back, "config.json")["torch_dtype"], "bfloat16");
    assert_eq!(file(&back_of(&metadata, DType::F32), "config.json")["torch_dtype"], "float32");
    let expected = json!({
        "bos_token_id": 1, "eos_token_id": [2, 5], "temperature": 0.5, "top_k": 40, "repetition_penalty": 1.5, "do_sample": true
    });
    assert_eq!(file(&back, "generation_config.json"), expected);
    metadata.set("tokenizer.ggml.eot_token_id", Value::U32(2));
    assert_eq!(file(&back_of(&metadata, DType::BF16), "generation_config.json")["eos_token_id"], 2);
}
