//! Conversion from GGUF to Hugging Face.

use serde_json::{Value as Json, json};

use crate::family::config::Config;
use crate::family::mapping::ModelPart;
use crate::family::tables::Tables;
use crate::model::companion::Content;
use crate::model::{DType, Metadata, Value};
use crate::view::output_model::OutputModel;
use crate::view::tests::goldens::{Golden, goldens};
use crate::view::tests::{in_gguf, reader, table, written};
use crate::view::{to_gguf, to_hf};

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

/// Returns the config.json of the folder that the GGUF of a golden becomes, with its encoder if it has one.
fn config_of(golden: &Golden) -> Json {
    let (tables, hf) = (Tables::default(), golden.reader());
    let gguf = |output: &OutputModel| {
        let mut metadata = output.metadata.clone();
        // Written with the tokenizer.
        let types = golden.json["config"]["type_vocab_size"].as_u64().unwrap_or(2);
        metadata.set("tokenizer.ggml.token_type_count", Value::U32(types as u32));
        reader(written(&hf, &output.tensors), metadata, None)
    };
    let text = gguf(&to_gguf::without_tokenizer(&hf, &tables, golden.part()).unwrap());
    let both = match golden.is_projector() {
        false => text,
        true => {
            let encoder = to_gguf::projector(hf.model(), &tables, golden.json["preprocessor"].clone(), None).unwrap();
            text.with_projector(gguf(&encoder)).unwrap()
        }
    };
    let back = to_hf::weights(&both, &tables, &to_hf::Options::default()).unwrap();
    let Some(Content::Bytes(text)) = back.files.into_iter().find(|file| file.name == "config.json").map(|file| file.content) else {
        panic!("no config.json")
    };
    serde_json::from_slice(&text).unwrap()
}

/// What is not said, the classes of transformers take for their defaults.
#[test]
fn a_config_says_what_the_classes_of_transformers_read() {
    let both = ["full_attention", "full_attention"];
    let wanted = [
        ("exaone4-global", "/sliding_window", Json::Null),
        ("exaone4-global", "/layer_types", json!(both)),
        ("exaone4_5-mmproj", "/text_config/sliding_window", Json::Null),
        ("exaone4_5-mmproj", "/text_config/layer_types", json!(both)),
        ("glm5next", "/text_config/mlp_layer_types", json!(["dense", "sparse"])),
        ("bailingmoe3", "/model_type", json!("bailing_hybrid")),
        ("dots3note", "/model_type", json!("dots3_note_text")),
        ("dots3note", "/swa_num_key_value_heads", json!(2)),
        ("dots3note", "/moe_shared_expert_intermediate_size", json!(8)),
        ("minimax-m3", "/partial_rotary_factor", json!(0.5)),
        ("minimax-m3", "/shared_intermediate_size", json!(16)),
        ("minimax-m3", "/sparse_attention_config/sparse_attention_freq", json!([0, 1])),
        ("minimax-m3-vision-mmproj", "/projector_hidden_size", json!(40)),
        ("distilbert-classifier", "/architectures", json!(["DistilBertForSequenceClassification"])),
        ("distilbert", "/architectures", json!(["DistilBertModel"])),
        ("kimi-k25-mmproj", "/vision_config/vt_num_hidden_layers", json!(3)),
        ("kimi-k25-mmproj", "/vision_config/vt_intermediate_size", json!(24)),
        ("kimi-k25-mmproj", "/vision_config/pos_emb_height", json!(4)),
        ("gemma4-assistant", "/backbone_hidden_size", json!(24)),
        ("gemma4-assistant", "/use_ordered_embeddings", json!(false)),
        ("gemma4-assistant", "/text_config/vocab_size_per_layer_input", json!(0)),
        ("idefics3-mmproj", "/vision_config/layer_norm_eps", json!(1e-6)),
        ("modern-bert", "/norm_eps", json!(1e-5)),
        ("lfm2-vl-mmproj", "/vision_config/vision_use_head", json!(false)),
        ("bert-classifier", "/label2id", json!({ "no": 0, "maybe": 1, "yes": 2 })),
        ("neo-bert-classifier", "/label2id", json!({ "no": 0, "maybe": 1, "yes": 2 })),
        ("gemma3", "/sliding_window_pattern", json!(6)),
        ("gemma3", "/layer_types", json!(["sliding_attention", "sliding_attention"])),
        ("gemma3n", "/sliding_window_pattern", Json::Null),
        ("t5-gated", "/is_gated_act", json!(true)),
        ("deci", "/block_configs/0/attention/n_heads_in_group", json!(2)),
        ("deci", "/block_configs/1/attention/replace_with_linear", json!(true)),
        ("deci", "/block_configs/2/attention/no_op", json!(true)),
        ("deci", "/block_configs/3/ffn/no_op", json!(true)),
        ("qwen4exp", "/ple_layer_ids", json!([2])),
        ("qwen4exp", "/ple_embed_dim", json!(32)),
        ("qwen4exp", "/ngram_vocab_size_base", json!(19)),
        ("qwen4exp", "/make_ngram_vocab_size_divisible_by", json!(128)),
        ("qwen4exp", "/split_ngram_parts", json!(4)),
        ("qwen4exp", "/eos_token_id", json!(2)),
        ("qwen4exp", "/indexer_kv_heads", json!(1)),
        ("qwen4exp", "/output_gate_type", json!("sigmoid")),
        ("qwen4exp", "/mtp_num_hidden_layers", json!(0)),
        ("qwen4exp-without-ple", "/ple_layer_ids", json!([])),
        ("qwen4exp-without-ple", "/indexer_compress_ratio", json!(4)),
        ("qwen4exp-vision-mmproj", "/model_type", json!("qwen4_exp")),
        ("qwen4exp-vision-mmproj", "/architectures", json!(["Qwen4ExpForConditionalGeneration"])),
        ("qwen4exp-vision-mmproj", "/image_token_id", json!(40)),
        ("qwen4exp-vision-mmproj", "/text_config/eos_token_id", json!(2)),
        ("glm4v-mmproj", "/model_type", json!("glm4v")),
    ];
    let goldens = goldens();
    for (name, key, value) in wanted {
        let Some(golden) = goldens.iter().find(|golden| golden.name == name) else { continue };
        let config = config_of(golden);
        assert_eq!(config.pointer(key).unwrap_or(&Json::Null), &value, "{name}: {key}");
        // Keys for expressions only.
        for keys in [Some(&config), config.get("text_config")].into_iter().flatten().filter_map(Json::as_object) {
            assert!(!keys.keys().any(|key| key.starts_with('_')), "{name}: {keys:?}");
        }
    }
}

/// A fine-tune has been saved by the class of transformers, which spells the config in its own way.
#[test]
fn glm_5_3_as_transformers_saves_it_gives_the_same_keys() {
    let Some(golden) = goldens().into_iter().find(|golden| golden.name == "glm5next") else { return };
    let hf = golden.reader();
    let mut config = golden.json["config"].clone();
    let text = match config.get_mut("text_config") {
        Some(section) => section.as_object_mut().unwrap(),
        None => config.as_object_mut().unwrap(),
    };
    let linear = text.remove("linear_attn_config").unwrap();
    for (key, value) in [
        ("linear_num_heads", &linear["num_heads"]),
        ("linear_head_dim", &linear["head_dim"]),
        ("linear_conv_kernel_dim", &linear["short_conv_kernel_size"]),
        ("linear_lower_bound", &linear["gate_lower_bound"]),
        ("mlp_layer_types", &json!(["dense", "sparse"])),
        ("layer_types", &json!(["linear_attention", "indexed_attention"])),
    ] {
        text.insert(key.to_owned(), value.clone());
    }
    text.remove("first_k_dense_replace").unwrap();
    let saved = Golden { json: json!({ "config": config, "tensors": golden.json["tensors"] }), ..golden };
    let keys = |model: &crate::format::Reader| {
        let output = to_gguf::without_tokenizer(model, &Tables::default(), ModelPart::Whole).unwrap();
        output.metadata.iter().map(|(key, value)| format!("{key} {value:?}")).collect::<Vec<_>>()
    };
    assert_eq!(keys(&saved.reader()), keys(&hf));
}

/// transformers names the layers with an indexer after it, and takes several end-of-sequence tokens; llama.cpp's converter the last of them.
#[test]
fn qwen_4_as_transformers_saves_it_gives_the_same_keys() {
    let Some(golden) = goldens().into_iter().find(|golden| golden.name == "qwen4exp") else { return };
    let keys = |text: &[(&str, Json)]| {
        let mut config = golden.json["config"].clone();
        for (key, value) in text {
            config["text_config"][key] = value.clone();
        }
        let model = Golden {
            json: json!({ "config": config, "tensors": golden.json["tensors"] }),
            name: golden.name.clone(),
            table: golden.table.clone(),
        };
        let output =
            to_gguf::without_tokenizer(&model.reader(), &Tables::default(), ModelPart::Whole).map_err(|error| error.to_string())?;
        Ok::<_, String>(output.metadata.iter().map(|(key, value)| format!("{key} {value:?}")).collect::<Vec<_>>())
    };
    let [linear, full] = ["linear_attention", "indexed_attention"];
    let saved = [("layer_types", json!([linear, linear, full, linear, full])), ("eos_token_id", json!([7, 2]))];
    assert_eq!(keys(&saved), keys(&[]));
    let error = keys(&[("ple_layer_ids", json!([1, 2]))]).unwrap_err();
    assert!(error.contains("of a single layer, not of several"), "{error}");
}

/// As above; what the class computes of the published keys replaces them, and not all names are translated back.
#[test]
fn deepseek_v4_as_transformers_saves_it_gives_the_same_keys() {
    let Some(golden) = goldens().into_iter().find(|golden| golden.name == "deepseek4") else { return };
    let hf = golden.reader();
    let mut config = golden.json["config"].clone();
    let text = config.as_object_mut().unwrap();
    let mut compress = text.remove("rope_scaling").unwrap();
    compress["rope_type"] = compress["type"].clone();
    compress["attention_factor"] = json!(1.0);
    compress["rope_theta"] = text["compress_rope_theta"].clone();
    for key in ["compress_ratios", "num_hash_layers"] {
        text.remove(key).unwrap();
    }
    for (key, value) in [
        ("rope_parameters", json!({ "main": { "rope_type": "default", "rope_theta": 10000.0 }, "compress": compress })),
        ("layer_types", json!(["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"])),
        ("compress_rates", json!({ "compressed_sparse_attention": 4, "heavily_compressed_attention": 128 })),
        ("mlp_layer_types", json!(["hash_moe", "moe", "moe"])),
    ] {
        text.insert(key.to_owned(), value);
    }
    let mut tensors = golden.json["tensors"].clone();
    for row in tensors.as_array_mut().unwrap().iter_mut().filter(|row| row[0] != "head.weight") {
        let name = row[0].as_str().unwrap().replace("hc_head_", "hc_head.hc_").replace("attn.kv_norm.", "attn.norm.");
        row[0] = format!("model.{}", name.replace("embed.weight", "embed_tokens.weight")).into();
    }
    let saved = Golden { json: json!({ "config": config, "tensors": tensors }), ..golden };
    let keys = |model: &crate::format::Reader| {
        let output = to_gguf::without_tokenizer(model, &Tables::default(), ModelPart::Whole).unwrap();
        // The published list goes on for the layer that predicts a further token.
        let ratios = |key: &str, value: &Value| match value.as_array() {
            Some(array) if key.ends_with("compress_ratios") => format!("{:?}", array.values().unwrap().get(..3)),
            _ => format!("{value:?}"),
        };
        let mut keys: Vec<String> = output.metadata.iter().map(|(key, value)| format!("{key} {}", ratios(key, value))).collect();
        keys.extend(output.tensors.iter().map(|tensor| format!("{} {:?}", tensor.name, tensor.shape)));
        keys.sort();
        keys
    };
    assert_eq!(keys(&saved.reader()), keys(&hf));
}

/// llama.cpp requires the sections of the rotations, of which a checkpoint for transformers says nothing.
#[test]
fn qwen3_asr_for_transformers_has_the_sections_of_the_first_checkpoint() {
    let Some(golden) = goldens().into_iter().find(|golden| golden.name == "qwen3asr-hf-mmproj") else { return };
    let output = to_gguf::without_tokenizer(&golden.reader(), &Tables::default(), ModelPart::Whole).unwrap();
    let sections = output.metadata.get("qwen3vl.rope.dimension_sections").and_then(Value::as_array).unwrap();
    assert_eq!(sections.iter().map(|value| value.unwrap().as_u64()).collect::<Vec<_>>(), [24, 20, 20, 0].map(Some));
}

/// `Gemma4TextConfig` reads `global_head_dim` only if there is no `per_layer_config`, which lists the layers that differ.
#[test]
fn gemma_4_layers_of_full_attention_are_of_another_size_only_if_the_config_lists_them() {
    let tables = Tables::default();
    let table = table(&tables, "gemma4");
    let kinds = json!(["sliding_attention", "full_attention"]);
    for (key, value, size) in [
        ("global_head_dim", json!(24), 24.0),
        ("per_layer_config", json!({ "1": { "head_dim": 24 } }), 24.0),
        ("per_layer_config", json!({}), 16.0),
        ("per_layer_config", Json::Null, 512.0),
    ] {
        let json = json!({ "head_dim": 16, "num_hidden_layers": 2, "layer_types": kinds, key: value });
        let config = Config::new(&table, &json).unwrap();
        assert_eq!(config.number("ghd"), Some(size), "{json}");
    }
}

/// Without a sliding window llama.cpp has full attention in all layers of a Gemma 3, as Rnj 1 has.
#[test]
fn a_gemma_3_of_full_attention_alone_has_no_sliding_window() {
    let Some(mut golden) = goldens().into_iter().find(|golden| golden.name == "gemma3") else { return };
    golden.json["config"]["sliding_window_pattern"] = json!(1);
    golden.json["config"]["layer_types"] = json!(["full_attention", "full_attention"]);
    let output = to_gguf::without_tokenizer(&golden.reader(), &Tables::default(), ModelPart::Whole).unwrap();
    assert_eq!(output.metadata.get("gemma3.attention.sliding_window"), None);
    assert!(!output.notes.iter().any(|note| note.name == "config.json"), "{:?}", output.notes);
    let config = config_of(&golden);
    assert_eq!((&config["sliding_window_pattern"], &config["layer_types"][0]), (&json!(1), &json!("full_attention")));
}
