//! What tensors are called: models without a head and inside other models, modules of sentence-transformers, ties.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::build::{Pickle, write_weights, zip};

fn run(arguments: &[&str]) -> (String, Value) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let _ = weigh::cli::run(["weigh", "--json"].iter().chain(arguments), &mut out, &mut err);
    (String::from_utf8(err).unwrap(), serde_json::from_slice(&out).unwrap_or_default())
}

fn names(list: &[(&str, &[u64])]) -> Vec<(String, Vec<u64>)> {
    list.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect()
}

fn folder(path: &Path, config: &Value, tensors: &[(String, Vec<u64>)]) {
    write_weights(&path.join("model.safetensors"), tensors);
    fs::write(path.join("config.json"), config.to_string()).unwrap();
}

/// A Llama of one layer, whose names begin with `prefix`.
fn llama(prefix: &str) -> Vec<(String, Vec<u64>)> {
    let own: [(&str, &[u64]); 11] = [
        ("embed_tokens", &[12, 8]),
        ("layers.0.input_layernorm", &[8]),
        ("layers.0.self_attn.q_proj", &[8, 8]),
        ("layers.0.self_attn.k_proj", &[4, 8]),
        ("layers.0.self_attn.v_proj", &[4, 8]),
        ("layers.0.self_attn.o_proj", &[8, 8]),
        ("layers.0.post_attention_layernorm", &[8]),
        ("layers.0.mlp.gate_proj", &[10, 8]),
        ("layers.0.mlp.up_proj", &[10, 8]),
        ("layers.0.mlp.down_proj", &[8, 10]),
        ("norm", &[8]),
    ];
    own.iter().map(|(name, shape)| (format!("{prefix}{name}.weight"), shape.to_vec())).collect()
}

fn llama_config(class: &str) -> Value {
    json!({ "architectures": [class], "model_type": "llama", "hidden_size": 8, "intermediate_size": 10, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 12, "tie_word_embeddings": false })
}

#[test]
fn a_model_is_known_within_any_modules_and_without_a_head() {
    let temporary = tempfile::tempdir().unwrap();
    let prefixes = ["", "model.", "language_model.model.", "model.language_model.", "transformer.", "text_model.", "module.model."];
    for (number, prefix) in prefixes.into_iter().enumerate() {
        let path = temporary.path().join(number.to_string());
        folder(&path, &llama_config("LlamaModel"), &llama(prefix));
        let (_, verdict) = run(&["verify", path.to_str().unwrap()]);
        assert_eq!((verdict["ok"].as_bool(), verdict["findings"].as_array().map(Vec::len)), (Some(true), Some(0)), "{prefix}: {verdict}");
    }
    // The same weights, whatever they are in.
    let paths = [0, 2].map(|number: usize| temporary.path().join(number.to_string()).to_str().unwrap().to_owned());
    let (_, diff) = run(&["diff", &paths[0], &paths[1]]);
    assert_eq!(diff["verdict"]["kind"], "identical", "{diff}");
    // A class with a head lacks it.
    let path = temporary.path().join("headed");
    folder(&path, &llama_config("LlamaForCausalLM"), &llama("model."));
    let (_, verdict) = run(&["verify", path.to_str().unwrap()]);
    assert_eq!(verdict["findings"][0]["tensor"], "lm_head.weight", "{verdict}");
}

#[test]
fn a_missing_tensor_has_the_name_that_a_model_without_a_head_gives_it() {
    let temporary = tempfile::tempdir().unwrap();
    let mut tensors = llama("");
    tensors.retain(|(name, _)| !name.contains("up_proj"));
    folder(temporary.path(), &llama_config("LlamaModel"), &tensors);
    let (_, verdict) = run(&["verify", temporary.path().to_str().unwrap()]);
    assert_eq!(verdict["findings"][0]["tensor"], "layers.0.mlp.up_proj.weight", "{verdict}");
}

#[test]
fn the_same_tensor_within_two_modules_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let mut tensors = llama("model.");
    tensors.extend(names(&[("language_model.model.norm.weight", &[8])]));
    folder(temporary.path(), &llama_config("LlamaModel"), &tensors);
    let out = temporary.path().join("out.gguf");
    let (err, _) = run(&["convert", temporary.path().to_str().unwrap(), out.to_str().unwrap()]);
    assert!(err.contains("is present under two names"), "{err}");
}

/// A Gemma without a head, of one layer, with pooling and two dense layers.
fn embedding_gemma(path: &Path) {
    let config = json!({ "architectures": ["Gemma3TextModel"], "model_type": "gemma3_text", "hidden_size": 8, "intermediate_size": 10,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 12, "sliding_window": 4 });
    let mut tensors = llama("");
    tensors.extend(names(&[
        ("layers.0.self_attn.q_norm.weight", &[4]),
        ("layers.0.self_attn.k_norm.weight", &[4]),
        ("layers.0.pre_feedforward_layernorm.weight", &[8]),
        ("layers.0.post_feedforward_layernorm.weight", &[8]),
    ]));
    folder(path, &config, &tensors);
    let module = |i: usize, path: &str, kind: &str| json!({ "idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}") });
    let modules = json!([
        module(0, "", "Transformer"),
        module(1, "1_Pooling", "Pooling"),
        module(2, "2_Dense", "Dense"),
        module(3, "3_Dense", "Dense"),
        module(4, "4_Normalize", "Normalize"),
    ]);
    fs::write(path.join("modules.json"), modules.to_string()).unwrap();
    fs::create_dir(path.join("1_Pooling")).unwrap();
    fs::write(path.join("1_Pooling/config.json"), r#"{"pooling_mode_mean_tokens": true}"#).unwrap();
    for (name, features) in [("2_Dense", [8, 20]), ("3_Dense", [20, 8])] {
        let [input, output] = features;
        write_weights(&path.join(name).join("model.safetensors"), &names(&[("linear.weight", &[output, input])]));
        let config = json!({ "in_features": input, "out_features": output, "bias": false, "activation_function": "torch.nn.Identity" });
        fs::write(path.join(name).join("config.json"), config.to_string()).unwrap();
    }
}

#[test]
fn modules_of_sentence_transformers_are_opened_with_the_folder() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model");
    embedding_gemma(&path);
    let own = path.to_str().unwrap();
    // 12 x 8, attention 64 + 32 + 32 + 64, feed-forward 240, norms 5 x 8 + 2 x 4; dense layers 160 each.
    let transformer = 96 + 192 + 240 + 48;
    let (_, count) = run(&["count", own]);
    assert_eq!(count["parameters"], transformer + 320);
    let output = count["by_component"].as_array().unwrap().iter().find(|row| row["component"] == "output").unwrap();
    assert_eq!(output["parameters"], 320);
    // Named by its file it is the same model.
    assert_eq!(run(&["count", path.join("model.safetensors").to_str().unwrap()]).1["parameters"], transformer + 320);
    let (_, list) = run(&["ls", own, "--filter", "3_Dense*"]);
    assert_eq!((&list["tensors"][0]["name"], &list["tensors"][0]["shape"]), (&json!("3_Dense.linear.weight"), &json!([8, 20])));
    let (_, verdict) = run(&["verify", own]);
    assert_eq!((verdict["ok"].as_bool(), verdict["findings"].as_array().map(Vec::len)), (Some(true), Some(0)), "{verdict}");
}

#[test]
fn a_folder_that_is_copied_keeps_its_modules_in_their_folders() {
    let temporary = tempfile::tempdir().unwrap();
    let (path, out) = (temporary.path().join("model"), temporary.path().join("out"));
    embedding_gemma(&path);
    let (err, _) = run(&["convert", path.to_str().unwrap(), &format!("{}/", out.display())]);
    assert_eq!(err, "");
    for file in ["modules.json", "1_Pooling/config.json", "2_Dense/config.json"] {
        assert_eq!(fs::read(path.join(file)).unwrap(), fs::read(out.join(file)).unwrap(), "{file}");
    }
    let dense = weigh::format::open(&out.join("2_Dense/model.safetensors")).unwrap();
    assert_eq!(dense.model().tensors[0].name, "linear.weight");
    let (_, diff) = run(&["diff", path.to_str().unwrap(), out.to_str().unwrap()]);
    assert_eq!(diff["verdict"]["kind"], "identical", "{diff}");
}

#[test]
fn a_dense_layer_of_another_shape_or_without_its_weights_is_said() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model");
    embedding_gemma(&path);
    let own = path.to_str().unwrap();
    fs::write(path.join("3_Dense/config.json"), r#"{"in_features": 20, "out_features": 9}"#).unwrap();
    let (_, verdict) = run(&["verify", own]);
    assert_eq!(
        (&verdict["findings"][0]["code"], &verdict["findings"][0]["tensor"]),
        (&json!("arch-shape"), &json!("3_Dense.linear.weight"))
    );
    // 576 of the transformer, 160 of each dense layer; the second as a checkpoint.
    let whole = run(&["count", own]).1["parameters"].clone();
    fs::remove_file(path.join("3_Dense/model.safetensors")).unwrap();
    let weight = Pickle::new(2).op(b"}").text("linear.weight").tensor("FloatStorage", "0", 160, 0, &[16, 10], &[10, 1]).op(b"s").end();
    let archive = zip(&[("m/data.pkl", &weight), ("m/data/0", &[1; 640])]);
    fs::write(path.join("3_Dense/pytorch_model.bin"), archive).unwrap();
    assert_eq!((&run(&["count", own]).1["parameters"], &whole), (&json!(576 + 160 + 160), &json!(576 + 160 + 160)));
    let (_, verdict) = run(&["verify", own]);
    assert_eq!(verdict["findings"][0]["tensor"], "3_Dense.linear.weight", "{verdict}");
    fs::remove_file(path.join("3_Dense/pytorch_model.bin")).unwrap();
    assert_eq!(run(&["verify", own]).1["findings"][0]["code"], "set-incomplete");
    assert_eq!(run(&["count", own]).1["incomplete"], "expected the weights of module 3_Dense in model.safetensors, found none");
    // A module outside the folder is not followed.
    fs::write(path.join("modules.json"), r#"[{"path": "", "type": "a.Transformer"}, {"path": "../x", "type": "a.Dense"}]"#).unwrap();
    let (err, _) = run(&["count", own]);
    assert!(err.contains("inside the folder, found ../x"), "{err}");
}

#[test]
fn an_output_that_the_class_ties_counts_once() {
    let temporary = tempfile::tempdir().unwrap();
    let whisper = names(&[("model.decoder.embed_tokens.weight", &[20, 4]), ("proj_out.weight", &[20, 4])]);
    let llama = names(&[("model.embed_tokens.weight", &[20, 4]), ("lm_head.weight", &[20, 4])]);
    for (number, (kind, tensors, parameters)) in
        [("whisper", &whisper, 80), ("gemma2", &llama, 80), ("llama", &llama, 160)].into_iter().enumerate()
    {
        let path = temporary.path().join(number.to_string());
        folder(&path, &json!({ "model_type": kind }), tensors);
        assert_eq!(run(&["count", path.to_str().unwrap()]).1["parameters"], parameters, "{kind}");
    }
}

#[test]
fn what_modules_weights_are_read_from_is_whole_unchanged_and_never_an_output() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model");
    embedding_gemma(&path);
    let own = path.to_str().unwrap();
    let out = path.join("2_Dense/config.json");
    let (err, _) = run(&["convert", own, out.to_str().unwrap(), "--to", "gguf", "--keep-names", "--force"]);
    assert!(err.contains("config.json") && out.is_file(), "{err}");
    let read = fs::read(&out).unwrap();
    assert!(read.starts_with(b"{"), "the input is as it was: {err}");
    let inputs = weigh::format::open(&path).unwrap();
    let names: Vec<_> = inputs.inputs().map(|input| input.path().strip_prefix(&path).unwrap().to_str().unwrap().to_owned()).collect();
    for name in ["modules.json", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"] {
        assert!(names.iter().any(|own| own == name), "{name} in {names:?}");
    }
    // Cut short, its headers still count, and are said to be all that is there.
    let weights = path.join("2_Dense/model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 8]).unwrap();
    let (err, count) = run(&["count", own]);
    assert_eq!(count["parameters"], 576 + 320);
    assert!(err.contains("2_Dense/model.safetensors"), "{err}");
    assert!(run(&["hash", own]).0.contains("2_Dense/model.safetensors"));
    // A config of a module that is no JSON is said, and keeps nobody from opening the model.
    fs::write(&weights, &bytes).unwrap();
    fs::write(path.join("1_Pooling/config.json"), "{").unwrap();
    let (err, list) = run(&["ls", own]);
    assert!(err.contains("1_Pooling/config.json") && list["tensors"].is_array(), "{err}");
    let (_, verdict) = run(&["verify", own]);
    assert!(verdict["findings"].as_array().unwrap().iter().any(|finding| finding["code"] == "config-json"), "{verdict}");
}

#[test]
fn an_output_that_the_class_ties_is_held_to_the_embeddings() {
    let temporary = tempfile::tempdir().unwrap();
    let mut tensors = llama("model.");
    tensors.extend(names(&[("lm_head.weight", &[12, 8])]));
    let mut config = llama_config("LlamaForCausalLM");
    config.as_object_mut().unwrap().remove("tie_word_embeddings");
    // The table of Llama has no default: what ties is the class of the model_type.
    for (number, (kind, said, found)) in [
        ("llama", json!({}), false),
        ("llama", json!({ "tie_word_embeddings": true }), true),
        ("smollm3", json!({}), true),
        ("smollm3", json!({ "tie_word_embeddings": false }), false),
    ]
    .into_iter()
    .enumerate()
    {
        let mut config = config.clone();
        (config["model_type"], config["text_config"]) = (json!(kind), said);
        let path = temporary.path().join(number.to_string());
        folder(&path, &config, &tensors);
        let weights = path.join("model.safetensors");
        let mut bytes = fs::read(&weights).unwrap();
        *bytes.last_mut().unwrap() ^= 0x40;
        fs::write(&weights, bytes).unwrap();
        let (_, verdict) = run(&["verify", "--data", path.to_str().unwrap()]);
        let tied = verdict["findings"].as_array().unwrap().iter().any(|finding| finding["code"] == "arch-tied");
        assert_eq!(tied, found, "{number}: {verdict}");
    }
}

#[test]
fn a_pooler_counts_where_a_classifier_reads_it() {
    let temporary = tempfile::tempdir().unwrap();
    let mut tensors = names(&[("bert.embeddings.word_embeddings.weight", &[10, 4]), ("bert.pooler.dense.weight", &[4, 4])]);
    let (plain, classifier) = (temporary.path().join("plain"), temporary.path().join("classifier"));
    folder(&plain, &json!({ "model_type": "bert" }), &tensors);
    tensors.extend(names(&[("classifier.weight", &[2, 4])]));
    folder(&classifier, &json!({ "model_type": "bert" }), &tensors);
    assert_eq!(run(&["count", plain.to_str().unwrap()]).1["parameters"], 40);
    assert_eq!(run(&["count", classifier.to_str().unwrap()]).1["parameters"], 40 + 16 + 8);
}

#[test]
fn experts_as_mlx_stacks_them_are_known_and_counted_as_experts() {
    let temporary = tempfile::tempdir().unwrap();
    let config = json!({ "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 12, "num_experts": 4, "num_experts_per_tok": 1,
        "moe_intermediate_size": 6, "intermediate_size": 10, "tie_word_embeddings": true });
    let mut tensors = llama("model.");
    tensors.retain(|(name, _)| !name.contains("mlp."));
    tensors.extend(names(&[
        ("model.layers.0.self_attn.q_norm.weight", &[4]),
        ("model.layers.0.self_attn.k_norm.weight", &[4]),
        ("model.layers.0.mlp.gate.weight", &[4, 8]),
        ("model.layers.0.mlp.switch_mlp.gate_proj.weight", &[4, 6, 8]),
        ("model.layers.0.mlp.switch_mlp.up_proj.weight", &[4, 6, 8]),
        ("model.layers.0.mlp.switch_mlp.down_proj.weight", &[4, 8, 6]),
    ]));
    folder(temporary.path(), &config, &tensors);
    let path = temporary.path().to_str().unwrap();
    let (_, verdict) = run(&["verify", path]);
    assert_eq!((verdict["ok"].as_bool(), verdict["findings"].as_array().map(Vec::len)), (Some(true), Some(0)), "{verdict}");
    // 96 of embeddings, 192 of attention, 3 x 8 + 2 x 4 of norms, 32 of the router; experts 4 x 144.
    let (_, count) = run(&["count", path]);
    assert_eq!((count["parameters"].as_u64(), count["active_parameters"].as_u64()), (Some(352 + 576), Some(352 + 144)));
}
