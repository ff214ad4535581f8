//! LoRA adapters: what they are, and merged as PEFT merges them.

use std::path::{Path, PathBuf};

use serde_json::Value;
use weigh::codec;

use crate::build::write_weights;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lora").join(name)
}

fn run(arguments: &[&str]) -> (String, Value) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let _ = weigh::cli::run(["weigh", "--json"].iter().chain(arguments), &mut out, &mut err);
    (String::from_utf8(err).unwrap(), serde_json::from_slice(&out).unwrap_or_default())
}

fn values(path: &Path) -> Vec<(String, Vec<f32>)> {
    let reader = weigh::format::open(path).unwrap();
    let decode = |tensor: &weigh::model::TensorInfo| {
        let mut values = vec![0.0; tensor.elements().unwrap() as usize];
        (codec::codec(tensor.elem.known().unwrap()).unwrap().decode)(&reader.bytes(tensor).unwrap(), &mut values);
        (tensor.name.clone(), values)
    };
    let mut all: Vec<_> = reader.model().tensors.iter().map(decode).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[test]
fn merged_as_peft_merges() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("merged.safetensors");
    let (err, _) = run(&["convert", fixture("base").to_str().unwrap(), fixture("adapter").to_str().unwrap(), out.to_str().unwrap()]);
    assert_eq!(err, "");
    let (found, expected) = (values(&out), values(&fixture("merged.safetensors")));
    assert_eq!(found.len(), expected.len());
    let mut changed = 0;
    for ((name, found), (expected_name, expected)) in found.iter().zip(&expected) {
        assert_eq!(name, expected_name);
        for (i, (a, b)) in found.iter().zip(expected).enumerate() {
            // Sums of products of rank 4 in single precision, in another order.
            assert!((a - b).abs() <= 3e-7 * b.abs().max(0.1), "{name}[{i}]: {a}, expected {b}");
        }
        changed += usize::from(values(&fixture("base")).iter().find(|(other, _)| other == name).unwrap().1 != *found);
    }
    assert_eq!(changed, 5, "four updates and the output that the adapter has whole");
}

#[test]
fn info_says_what_an_adapter_is() {
    let (_, info) = run(&["info", fixture("adapter").to_str().unwrap()]);
    let adapter = &info["adapter"];
    assert_eq!(
        (adapter["rank"].as_u64(), adapter["alpha"].as_f64(), adapter["base_model"].as_str()),
        (Some(4), Some(6.0), Some("tiny/base"))
    );
    let updates = adapter["updates"].as_array().unwrap();
    let update = |end: &str| updates.iter().find(|update| update["module"].as_str().unwrap().ends_with(end)).unwrap();
    assert_eq!(updates.len(), 4);
    assert_eq!((update("q_proj")["scale"].as_f64(), update("v_proj")["scale"].as_f64()), (Some(1.5), Some(0.75)));
    assert_eq!((update("up_proj")["rank"].as_u64(), update("up_proj")["scale"].as_f64()), (Some(2), Some(3.0)));
    // The norm is that of what the merge adds.
    let of = |path: &Path, name: &str| values(path).into_iter().find(|(other, _)| other == name).unwrap().1;
    let name = "model.layers.0.self_attn.q_proj.weight";
    let (base, merged) = (of(&fixture("base"), name), of(&fixture("merged.safetensors"), name));
    let norm = base.iter().zip(merged).map(|(a, b)| f64::from(b - a).powi(2)).sum::<f64>().sqrt();
    assert!((update("q_proj")["norm"].as_f64().unwrap() / norm - 1.0).abs() < 1e-5);
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/packed");
    let (err, _) = run(&["convert", packed.to_str().unwrap(), fixture("adapter").to_str().unwrap(), out.to_str().unwrap()]);
    assert!(err.contains("the base has no tensor"), "{err}");
    let (err, _) = run(&["convert", fixture("base").to_str().unwrap(), fixture("base").to_str().unwrap(), out.to_str().unwrap()]);
    assert!(err.contains("not an adapter: no adapter_config.json"), "{err}");
    assert!(!out.exists());
}

#[test]
fn a_packed_base_is_merged_into_as_its_weights() {
    let folder = tempfile::tempdir().unwrap();
    let (adapter, out) = (folder.path().join("adapter"), folder.path().join("out.safetensors"));
    let factor = |end: &str, shape: [u64; 2]| (format!("base_model.model.gptq4.{end}.weight"), shape.to_vec());
    write_weights(&adapter.join("adapter_model.safetensors"), &[factor("lora_A", [2, 64]), factor("lora_B", [32, 2])]);
    // An alpha of zero adds nothing: all weights stay those that the libraries unpack.
    let config = serde_json::json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 0, "target_modules": ["gptq4"] });
    std::fs::write(adapter.join("adapter_config.json"), config.to_string()).unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let base = fixtures.join("packed");
    let (err, _) =
        run(&["convert", base.to_str().unwrap(), adapter.to_str().unwrap(), out.to_str().unwrap(), "--type", "F32", "--keep-names"]);
    assert_eq!(err, "");
    let (found, expected) = (values(&out), values(&fixtures.join("packed-expected.safetensors")));
    assert_eq!(found.len(), expected.len());
    for ((name, found), (expected_name, expected)) in found.iter().zip(&expected) {
        assert_eq!((name, found.len()), (expected_name, expected.len()));
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 2e-7 * b.abs()), "{name}");
    }
}

/// The adapter with another alpha.
fn adapter_with(folder: &Path, config: &str, new: &str) -> PathBuf {
    let path = folder.join("other");
    std::fs::create_dir(&path).unwrap();
    std::fs::copy(fixture("adapter/adapter_model.safetensors"), path.join("adapter_model.safetensors")).unwrap();
    let text = std::fs::read_to_string(fixture("adapter/adapter_config.json")).unwrap();
    assert!(text.contains(config));
    std::fs::write(path.join("adapter_config.json"), text.replace(config, new)).unwrap();
    path
}

#[test]
fn two_adapters_are_compared_by_their_updates() {
    let folder = tempfile::tempdir().unwrap();
    let other = adapter_with(folder.path(), "\"lora_alpha\": 6", "\"lora_alpha\": 12");
    let (first, other) = (fixture("adapter"), other.to_str().unwrap().to_owned());
    let (_, same) = run(&["diff", first.to_str().unwrap(), first.to_str().unwrap()]);
    assert_eq!(same["verdict"]["kind"], "identical");

    let (_, diff) = run(&["diff", first.to_str().unwrap(), &other]);
    let row = |end: &str| diff["tensors"].as_array().unwrap().iter().find(|row| row["name"].as_str().unwrap().ends_with(end)).unwrap();
    // The norm is the one that info tells, and twice the alpha is twice the update.
    let (_, info) = run(&["info", first.to_str().unwrap()]);
    let updates = info["adapter"]["updates"].as_array().unwrap();
    let norm = updates.iter().find(|update| update["module"].as_str().unwrap().ends_with("q_proj")).unwrap()["norm"].as_f64().unwrap();
    let query = row("q_proj.weight");
    assert!((query["l2_a"].as_f64().unwrap() / norm - 1.0).abs() < 1e-9, "{query}");
    assert!((query["l2_b"].as_f64().unwrap() / norm - 2.0).abs() < 1e-6, "{query}");
    assert!((query["cosine"].as_f64().unwrap() - 1.0).abs() < 1e-9 && (query["relative_rmse"].as_f64().unwrap() - 1.0).abs() < 1e-6);
    // v_proj has an alpha of its own, and the output is held whole by both.
    assert_eq!((row("v_proj.weight")["equal"].as_bool(), row("lm_head.weight")["equal"].as_bool()), (Some(true), Some(true)));
    let keys: Vec<_> = diff["metadata"].as_array().unwrap().iter().map(|row| (row["key"].as_str().unwrap(), &row["b"])).collect();
    assert_eq!(keys, [("adapter.alpha", &Value::from(12.0))]);
    assert!(diff["verdict"]["text"].as_str().unwrap().starts_with("adapters of related updates"), "{}", diff["verdict"]);
}

#[test]
fn an_adapter_and_a_model_are_compared_as_what_the_one_makes_of_the_other() {
    let (base, adapter) = (fixture("base"), fixture("adapter"));
    let (_, diff) = run(&["diff", base.to_str().unwrap(), adapter.to_str().unwrap()]);
    let changed = diff["tensors"].as_array().unwrap().iter().filter(|row| row["equal"] == false).count();
    assert_eq!((changed, diff["verdict"]["kind"].as_str()), (5, Some("changed")));
    let merged = fixture("merged.safetensors");
    let (_, diff) = run(&["diff", adapter.to_str().unwrap(), base.to_str().unwrap(), "--quick"]);
    assert_eq!(diff["notes"][0], "the first is an adapter, compared after merging it into the second");
    let (_, diff) = run(&["diff", base.to_str().unwrap(), merged.to_str().unwrap()]);
    assert_eq!(diff["tensors"].as_array().unwrap().iter().filter(|row| row["equal"] == false).count(), 5);
}

/// The adapter merged into the base is what PEFT made of them.
fn assert_merges_as_peft(base: &Path, adapter: &Path, expected: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("merged.safetensors");
    let (err, _) = run(&["convert", base.to_str().unwrap(), adapter.to_str().unwrap(), out.to_str().unwrap()]);
    assert_eq!(err, "", "{}", adapter.display());
    let (found, expected) = (values(&out), values(expected));
    let changed = found.iter().zip(values(base)).filter(|(found, base)| *found != base).count();
    assert!(changed >= 2, "{}: {changed}", adapter.display());
    for ((name, found), (expected_name, expected)) in found.iter().zip(&expected) {
        assert_eq!(name, expected_name);
        for (i, (a, b)) in found.iter().zip(expected).enumerate() {
            assert!((a - b).abs() <= 1e-6 * b.abs().max(0.5), "{} {name}[{i}]: {a}, expected {b}", adapter.display());
        }
    }
}

#[test]
fn rank_stabilised_weight_decomposed_and_token_adapters_merge_as_peft_merges_them() {
    for name in ["rslora", "dora", "tokens", "patterns"] {
        assert_merges_as_peft(&fixture("base"), &fixture(name), &fixture(&format!("{name}-merged.safetensors")));
    }
}

#[test]
fn patterns_are_regular_expressions_and_the_first_that_fits_counts() {
    let (_, info) = run(&["info", fixture("patterns").to_str().unwrap()]);
    let updates = info["adapter"]["updates"].as_array().unwrap();
    let scale = |end: &str| updates.iter().find(|update| update["module"].as_str().unwrap().ends_with(end)).unwrap()["scale"].as_f64();
    // alpha / rank: 1 / 4 by an alternative, 16 / 4 by an anchored name before it, 10 / 2 by a class of digits.
    assert_eq!((scale("q_proj"), scale("v_proj"), scale("down_proj")), (Some(0.25), Some(4.0), Some(5.0)));
    // And alpha / sqrt(rank): 6 / 2.
    let (_, info) = run(&["info", fixture("rslora").to_str().unwrap()]);
    assert_eq!(info["adapter"]["updates"][0]["scale"], 3.0);
}

/// A copy of an adapter with another text in its config.
fn with_config(folder: &Path, adapter: &str, old: &str, new: &str) -> PathBuf {
    let path = folder.join("changed");
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir(&path).unwrap();
    std::fs::copy(fixture(adapter).join("adapter_model.safetensors"), path.join("adapter_model.safetensors")).unwrap();
    let text = std::fs::read_to_string(fixture(adapter).join("adapter_config.json")).unwrap();
    assert!(text.contains(old), "{old}");
    std::fs::write(path.join("adapter_config.json"), text.replace(old, new)).unwrap();
    path
}

#[test]
fn what_would_be_merged_wrongly_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    for (adapter, old, new, said) in [
        ("rslora", "\"alpha_pattern\": {}", "\"alpha_pattern\": {\"(?<=q)_proj\": 1}", "without look-around"),
        ("rslora", "\"r\": 4", "\"r\": 8", "expected factors of rank 8"),
        ("rslora", "\"layer_replication\": null", "\"layer_replication\": [[0, 1]]", "layer_replication"),
        ("rslora", "\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa_niter_4\"", "pissa_niter_4"),
        ("rslora", "\"peft_type\": \"LORA\"", "\"peft_type\": \"IA3\"", "IA3"),
        ("dora", "\"fan_in_fan_out\": false", "\"fan_in_fan_out\": true", "DoRA of"),
        ("tokens", "\"trainable_token_indices\": [\n  3,\n  5\n ]", "\"trainable_token_indices\": [3]", "rows for tokens"),
        (
            "tokens",
            "\"trainable_token_indices\": [\n  3,\n  5\n ]",
            "\"trainable_token_indices\": [3, 99]",
            "expected rows of the base's shape",
        ),
    ] {
        let changed = with_config(folder.path(), adapter, old, new);
        let (err, _) = run(&["convert", fixture("base").to_str().unwrap(), changed.to_str().unwrap(), out.to_str().unwrap()]);
        assert!(err.contains(said), "{new}: {err}");
    }
    assert!(!out.exists());
}

#[test]
fn an_adapter_becomes_the_gguf_that_llama_cpps_converter_makes() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    let (adapter, base) = (fixture("for-gguf"), fixture("base"));
    let (err, _) = run(&["convert", adapter.to_str().unwrap(), out.to_str().unwrap(), "--base", base.to_str().unwrap()]);
    assert_eq!(err, "");
    let (made, reference) = (weigh::format::open(&out).unwrap(), weigh::format::open(&fixture("for-gguf.gguf")).unwrap());
    let keys = |reader: &weigh::format::Reader| {
        let keys = reader.model().metadata.iter().filter(|(key, _)| *key != "general.name");
        keys.map(|(key, value)| (key.to_owned(), value.clone())).collect::<Vec<_>>()
    };
    assert_eq!(keys(&made), keys(&reference));
    let tensors = |reader: &weigh::format::Reader| {
        let body = |tensor: &weigh::model::TensorInfo| {
            (tensor.name.clone(), tensor.shape.clone(), tensor.elem, reader.bytes(tensor).unwrap().into_owned())
        };
        reader.model().tensors.iter().map(body).collect::<Vec<_>>()
    };
    assert!(tensors(&made) == tensors(&reference));
    assert_eq!(made.model().tensors.len(), 6);

    let (err, _) = run(&["convert", adapter.to_str().unwrap(), folder.path().join("x.gguf").to_str().unwrap()]);
    assert!(err.contains("tiny/base") && err.contains("--base"), "{err}");
    // Back: the factors of PEFT's, bit for bit, and what they are multiplied by.
    let back = folder.path().join("back");
    let (err, _) = run(&["convert", out.to_str().unwrap(), &format!("{}/", back.display()), "--base", base.to_str().unwrap()]);
    assert_eq!(err, "");
    let same = |a: &Path, b: &Path| {
        let (a, b) = (weigh::format::open(a).unwrap(), weigh::format::open(b).unwrap());
        let sorted = |reader| {
            let mut found = tensors(reader);
            found.sort_by(|a, b| a.0.cmp(&b.0));
            found
        };
        sorted(&a) == sorted(&b)
    };
    assert!(same(&back, &adapter));
    let config = |folder: &Path| -> Value { serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap()).unwrap() };
    let (found, original) = (config(&back), config(&adapter));
    for key in ["peft_type", "r", "lora_alpha"] {
        assert_eq!(
            found[key].as_f64().map_or(found[key].clone(), Value::from),
            original[key].as_f64().map_or(original[key].clone(), Value::from),
            "{key}"
        );
    }
    let (err, _) = run(&["convert", out.to_str().unwrap(), folder.path().join("other/").to_str().unwrap()]);
    assert!(err.contains("--base"), "{err}");
}

#[test]
fn a_scale_that_gguf_works_out_otherwise_goes_into_its_alpha_or_into_the_second_factor() {
    let folder = tempfile::tempdir().unwrap();
    let base = fixture("base");
    for name in ["rslora", "patterns"] {
        let out = folder.path().join(format!("{name}.gguf"));
        let (err, _) = run(&["convert", fixture(name).to_str().unwrap(), out.to_str().unwrap(), "--base", base.to_str().unwrap()]);
        assert_eq!(err, "");
        assert_merges_as_peft(&base, &out, &fixture(&format!("{name}-merged.safetensors")));
    }
    // 6 / sqrt(4) is 12 / 4.
    let (_, info) = run(&["info", folder.path().join("rslora.gguf").to_str().unwrap()]);
    assert_eq!(info["adapter"]["alpha"], 12.0);
}

#[test]
fn an_adapter_in_gguf_is_one_and_merges_like_the_one_of_peft() {
    let gguf = fixture("for-gguf.gguf");
    let (_, info) = run(&["info", gguf.to_str().unwrap()]);
    let adapter = &info["adapter"];
    assert_eq!((&adapter["form"], &adapter["rank"], &adapter["alpha"]), (&Value::from("gguf"), &Value::from(4), &Value::from(6.0)));
    assert_eq!(adapter["target_modules"], serde_json::json!(["attn_k", "attn_q", "ffn_down"]));
    let folder = tempfile::tempdir().unwrap();
    let merged = |adapter: &Path, out: &str| {
        let out = folder.path().join(out);
        let (err, _) = run(&["convert", fixture("base").to_str().unwrap(), adapter.to_str().unwrap(), out.to_str().unwrap()]);
        assert_eq!(err, "");
        values(&out)
    };
    let (one, other) = (merged(&fixture("for-gguf"), "peft.safetensors"), merged(&gguf, "gguf.safetensors"));
    assert!(one == other);
    let changed = one.iter().zip(values(&fixture("base"))).filter(|(merged, base)| *merged != base).count();
    assert_eq!(changed, 3, "queries and keys, whose rows are in another order in GGUF, and a feed-forward matrix");
    let (_, same) = run(&["diff", gguf.to_str().unwrap(), gguf.to_str().unwrap()]);
    assert_eq!(same["verdict"]["kind"], "identical");
    let (err, _) = run(&["diff", fixture("for-gguf").to_str().unwrap(), gguf.to_str().unwrap()]);
    assert!(err.contains("a GGUF adapter cannot be compared with a PEFT adapter"), "{err}");
}

#[test]
fn adapters_of_other_programs_are_named_with_rank_and_alpha() {
    let folder = tempfile::tempdir().unwrap();
    let named = |list: &[(&str, &[u64])]| list.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect::<Vec<_>>();
    let kohya = folder.path().join("kohya.safetensors");
    // The first value that is written is 0.25.
    write_weights(
        &kohya,
        &named(&[
            ("lora_unet_mid_block_attn.alpha", &[]),
            ("lora_unet_mid_block_attn.lora_down.weight", &[4, 8]),
            ("lora_unet_mid_block_attn.lora_up.weight", &[6, 4]),
            ("lora_unet_conv.alpha", &[]),
            ("lora_unet_conv.lora_down.weight", &[4, 8, 3, 3]),
            ("lora_unet_conv.lora_up.weight", &[6, 4, 1, 1]),
        ]),
    );
    let diffusers = folder.path().join("diffusers.safetensors");
    write_weights(
        &diffusers,
        &named(&[("transformer.blocks.0.to_q.lora_A.weight", &[2, 8]), ("transformer.blocks.0.to_q.lora_B.weight", &[8, 2])]),
    );
    let mlx = folder.path().join("mlx");
    write_weights(
        &mlx.join("adapters.safetensors"),
        &named(&[("model.layers.0.self_attn.q_proj.lora_a", &[16, 2]), ("model.layers.0.self_attn.q_proj.lora_b", &[2, 16])]),
    );
    let config = r#"{"fine_tune_type": "lora", "model": "tiny/base", "lora_parameters": {"rank": 2, "scale": 20.0}}"#;
    std::fs::write(mlx.join("adapter_config.json"), config).unwrap();
    for (path, form, rank, alpha, scale) in
        [(&kohya, "kohya", 4, 0.25, 0.0625), (&diffusers, "diffusers", 2, 2.0, 1.0), (&mlx, "mlx", 2, 40.0, 20.0)]
    {
        let (_, info) = run(&["info", path.to_str().unwrap()]);
        let adapter = &info["adapter"];
        assert_eq!((&adapter["form"], &adapter["rank"], &adapter["alpha"]), (&form.into(), &rank.into(), &alpha.into()), "{adapter}");
        assert_eq!(adapter["updates"][0]["scale"], scale, "{adapter}");
    }
    // mlx_lm adds scale (a b)^T.
    let out = folder.path().join("merged.safetensors");
    let (err, _) = run(&["convert", fixture("base").to_str().unwrap(), mlx.to_str().unwrap(), out.to_str().unwrap()]);
    assert_eq!(err, "");
    let of = |path: &Path, name: &str| values(path).into_iter().find(|(other, _)| other == name).unwrap().1;
    let name = "model.layers.0.self_attn.q_proj.weight";
    let (base, merged) = (of(&fixture("base"), name), of(&out, name));
    let written = |i: usize| 0.25 + (i % 13) as f32 / 16.0;
    // Row 1, column 2: a[2, :] is elements 4 and 5, b[:, 1] elements 1 and 17.
    let expected = base[16 + 2] + 20.0 * (written(4) * written(1) + written(5) * written(17));
    assert!((merged[16 + 2] - expected).abs() < 1e-4, "{} {expected}", merged[16 + 2]);
    // One of PEFT that lost its config is not taken for one of those.
    let lost = folder.path().join("lost.safetensors");
    std::fs::copy(fixture("for-gguf/adapter_model.safetensors"), &lost).unwrap();
    let (err, _) = run(&["convert", fixture("base").to_str().unwrap(), lost.to_str().unwrap(), out.to_str().unwrap()]);
    assert!(err.contains("without its adapter_config.json"), "{err}");
    // Those of image models have no base that is known here.
    let (err, _) = run(&[
        "convert",
        fixture("base").to_str().unwrap(),
        kohya.to_str().unwrap(),
        folder.path().join("x.safetensors").to_str().unwrap(),
    ]);
    assert!(err.contains("one of an image model (kohya)"), "{err}");
}

#[test]
fn an_adapter_of_a_model_without_a_head_or_within_another_finds_its_matrix() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(fixture("for-gguf/adapter_config.json")).unwrap();
    let merged = |adapter: &Path, out: &str| {
        let out = folder.path().join(out);
        let (err, _) = run(&["convert", fixture("base").to_str().unwrap(), adapter.to_str().unwrap(), out.to_str().unwrap()]);
        assert_eq!(err, "");
        values(&out)
    };
    let expected = merged(&fixture("for-gguf"), "expected.safetensors");
    for (number, prefix) in ["", "language_model.model.", "model.language_model."].into_iter().enumerate() {
        let path = folder.path().join(number.to_string());
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("adapter_config.json"), &text).unwrap();
        let bytes = std::fs::read(fixture("for-gguf/adapter_model.safetensors")).unwrap();
        let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = std::str::from_utf8(&bytes[8..8 + len]).unwrap();
        let header = header.trim_end().replace("base_model.model.model.", &format!("base_model.model.{prefix}"));
        std::fs::write(path.join("adapter_model.safetensors"), crate::build::safetensors(&header, &bytes[8 + len..])).unwrap();
        assert!(merged(&path, &format!("{number}.safetensors")) == expected, "{prefix}");
    }
}

/// An adapter of PEFT with these tensors, under `base_model.model.`, and these keys beside the usual ones in its config.
fn peft(folder: &Path, tensors: &[(&str, &[u64])], keys: &Value) -> PathBuf {
    let path = folder.join("adapter");
    let _ = std::fs::remove_dir_all(&path);
    let named: Vec<_> = tensors.iter().map(|(name, shape)| (format!("base_model.model.{name}"), shape.to_vec())).collect();
    write_weights(&path.join("adapter_model.safetensors"), &named);
    let mut config = serde_json::json!({ "peft_type": "LORA", "r": 1, "lora_alpha": 1 });
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    std::fs::write(path.join("adapter_config.json"), config.to_string()).unwrap();
    path
}

/// What merging an adapter into a base of these matrices says, and the values of all tensors.
fn merge(base: &[(&str, &[u64])], adapter: &[(&str, &[u64])], keys: &Value) -> Result<Vec<(String, Vec<f32>)>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.safetensors");
    write_weights(&path, &base.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect::<Vec<_>>());
    let (adapter, out) = (peft(folder.path(), adapter, keys), folder.path().join("out.safetensors"));
    let command = std::process::Command::new(env!("CARGO_BIN_EXE_weigh"))
        .args(["--quiet".as_ref(), "convert".as_ref(), path.as_os_str(), adapter.as_os_str(), out.as_os_str()])
        .output()
        .unwrap();
    if command.status.success() { Ok(values(&out)) } else { Err(String::from_utf8(command.stderr).unwrap()) }
}

const FACTORS: [(&str, &[u64]); 2] = [("m.lora_A.weight", &[1, 2]), ("m.lora_B.weight", &[3, 1])];

#[test]
fn an_update_finds_its_matrix_and_no_other() {
    // 0.25 + i / 16, as `write_weights` has them; A is (1/4, 5/16), B is (1/4, 5/16, 3/8).
    let expected: Vec<f32> = (0..6).map(|i| 0.25 + i as f32 / 16.0 + [4.0, 5.0, 6.0][i / 2] * [4.0, 5.0][i % 2] / 256.0).collect();
    let none = serde_json::json!({});
    for (names, changed) in [(["m.weight", "n.weight"], 0), (["n.weight", "m.weight"], 1), (["a.m.weight", "m.n.weight"], 0)] {
        let found = merge(&[(names[0], &[3, 2]), (names[1], &[3, 2])], &FACTORS, &none).unwrap();
        for (i, name) in names.iter().enumerate() {
            let values = &found.iter().find(|(other, _)| other == name).unwrap().1;
            assert_eq!(*values == expected, i == changed, "{names:?}: {name} is {values:?}");
        }
    }
    let inside = [("other.m.lora_A.weight", &[1, 2][..]), ("other.m.lora_B.weight", &[3, 1])];
    assert_eq!(merge(&[("m.weight", &[3, 2])], &inside, &none).unwrap()[0].1, expected);
    let error = merge(&[("am.weight", &[3, 2])], &FACTORS, &none).unwrap_err();
    assert!(error.contains("the base has no tensor m.weight"), "{error}");
}

#[test]
fn an_update_of_another_shape_is_refused_with_the_reason() {
    let none = serde_json::json!({});
    for (shape, reason) in [([4, 2], "resize the base's embeddings"), ([3, 3], "made for another model")] {
        let error = merge(&[("m.weight", &shape)], &FACTORS, &none).unwrap_err();
        assert!(error.contains(&format!("expected the base's shape {shape:?} in the adapter, found [3, 2]")), "{error}");
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn keys_that_are_set_to_nothing_change_nothing() {
    let base: [(&str, &[u64]); 1] = [("m.weight", &[3, 2])];
    let with = |value: Value| merge(&base, &FACTORS, &serde_json::json!({ "layer_replication": value }));
    let plain = merge(&base, &FACTORS, &serde_json::json!({})).unwrap();
    for nothing in [serde_json::json!(null), serde_json::json!(false), serde_json::json!([]), serde_json::json!({})] {
        assert_eq!(with(nothing.clone()).unwrap(), plain, "{nothing}");
    }
    for something in [serde_json::json!([[0, 1]]), serde_json::json!({"a": 1}), serde_json::json!("x")] {
        assert!(with(something.clone()).unwrap_err().contains("layer_replication"), "{something}");
    }
}

#[test]
fn parts_that_are_no_factors_are_refused_and_rows_for_tokens_are_not() {
    let base: [(&str, &[u64]); 2] = [("m.weight", &[3, 2]), ("x.embed.weight", &[4, 2])];
    let with = |name: &str, keys: Value| merge(&base, &[FACTORS[0], FACTORS[1], (name, &[1, 2])], &keys);
    for name in ["m.lora_C.weight", "m.token_adapter.other"] {
        let error = with(name, serde_json::json!({})).unwrap_err();
        assert!(error.contains("a part that is no factor of a linear layer or embedding"), "{error}");
    }
    let tokens = "x.embed.token_adapter.trainable_tokens_delta";
    for module in ["embed", "x.embed"] {
        let found = with(tokens, serde_json::json!({ "trainable_token_indices": { module: [2] } })).unwrap();
        let embed = &found.iter().find(|(name, _)| name == "x.embed.weight").unwrap().1;
        // Row 2 is the adapter's.
        assert_eq!(*embed, [0.25, 0.3125, 0.375, 0.4375, 0.25, 0.3125, 0.625, 0.6875]);
    }
    for module in ["bed", "other"] {
        let error = with(tokens, serde_json::json!({ "trainable_token_indices": { module: [2] } })).unwrap_err();
        assert!(error.contains("rows for tokens that its config does not name"), "{error}");
    }
}

#[test]
fn target_modules_may_be_one_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = peft(folder.path(), &FACTORS, &serde_json::json!({ "target_modules": "all-linear" }));
    let (_, info) = run(&["info", path.to_str().unwrap()]);
    assert_eq!(info["adapter"]["target_modules"], serde_json::json!(["all-linear"]));
}

#[test]
fn adapters_of_mlx_have_a_scale_or_an_alpha() {
    let folder = tempfile::tempdir().unwrap();
    let write = |config: Value, tensors: &[(&str, &[u64])]| {
        let named: Vec<_> = tensors.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect();
        write_weights(&folder.path().join("adapters.safetensors"), &named);
        std::fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
        run(&["info", folder.path().to_str().unwrap()]).1["adapter"].take()
    };
    let pair: [(&str, &[u64]); 2] = [("m.lora_a", &[16, 2]), ("m.lora_b", &[2, 16])];
    for (config, scale) in [
        (serde_json::json!({"lora_parameters": {"rank": 2, "alpha": 6.0}}), 3.0),
        (serde_json::json!({"fine_tune_type": "lora", "scale": 5.0}), 5.0),
        (serde_json::json!({"fine_tune_type": "lora", "lora_parameters": {"scale": 7.0, "alpha": 6.0}}), 7.0),
    ] {
        let adapter = write(config.clone(), &pair);
        assert_eq!((&adapter["form"], &adapter["updates"][0]["scale"]), (&"mlx".into(), &scale.into()), "{config}");
    }
    let refused = |config: Value, tensors: &[(&str, &[u64])]| {
        write(config, tensors);
        let out = folder.path().join("out.safetensors");
        run(&["convert", fixture("base").to_str().unwrap(), folder.path().to_str().unwrap(), out.to_str().unwrap()]).0
    };
    for (kind, said) in [("full", "weights of a full fine-tuning by MLX"), ("dora", "dora by MLX")] {
        let error = refused(serde_json::json!({"fine_tune_type": kind, "lora_parameters": {"scale": 1.0}}), &pair);
        assert!(error.contains(said), "{error}");
    }
    let experts: [(&str, &[u64]); 2] = [("m.lora_a", &[3, 2, 16]), ("m.lora_b", &[3, 16, 2])];
    let error = refused(serde_json::json!({"fine_tune_type": "lora", "scale": 1.0}), &experts);
    assert!(error.contains("an update of experts by MLX, m"), "{error}");
}

#[test]
fn a_model_with_an_architecture_is_no_adapter_whatever_its_names_are() {
    let folder = tempfile::tempdir().unwrap();
    let names = [("m.lora_A.weight", [1, 2]), ("m.lora_B.weight", [3, 1])].map(|(name, shape)| (name.to_owned(), shape.to_vec()));
    write_weights(&folder.path().join("model.safetensors"), &names);
    for config in [r#"{"model_type": "llama"}"#, r#"{"architectures": ["LlamaForCausalLM"]}"#] {
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        assert_eq!(run(&["info", folder.path().to_str().unwrap()]).1["adapter"], Value::Null, "{config}");
    }
}

#[test]
fn gguf_adapters_hold_factors_alone_and_scale_those_of_another_alpha() {
    let folder = tempfile::tempdir().unwrap();
    let (base, out) = (fixture("base"), folder.path().join("out.gguf"));
    let convert = |adapter: &Path| {
        let _ = std::fs::remove_file(&out);
        run(&["convert", adapter.to_str().unwrap(), out.to_str().unwrap(), "--base", base.to_str().unwrap()])
    };
    for name in ["adapter", "dora", "tokens"] {
        let (error, _) = convert(&fixture(name));
        assert!(error.contains("expected factors alone, as GGUF adapters have"), "{name}: {error}");
    }
    // Two of three have the alpha 6; a third, of ten times as much, has its second factor multiplied.
    let changed = with_config(folder.path(), "for-gguf", "\"alpha_pattern\": {}", "\"alpha_pattern\": {\"down_proj\": 60}");
    let (error, report) = convert(&changed);
    assert_eq!(error, "");
    assert_eq!(run(&["info", out.to_str().unwrap()]).1["adapter"]["alpha"], 6.0);
    let notes: Vec<String> = report["notes"].as_array().unwrap().iter().map(Value::to_string).collect();
    let own: Vec<_> = notes.iter().filter(|note| note.contains("has an alpha of its own")).collect();
    assert!(own.len() == 1 && own[0].contains("down_proj") && own[0].contains("multiplied by 10"), "{notes:?}");
    // What the base has already is left out.
    let with_base: [(&str, &[u64]); 3] = [
        ("model.layers.0.self_attn.o_proj.lora_A.weight", &[1, 16]),
        ("model.layers.0.self_attn.o_proj.lora_B.weight", &[16, 1]),
        ("model.layers.0.self_attn.o_proj.base_layer.weight", &[16, 16]),
    ];
    let (error, report) = convert(&peft(folder.path(), &with_base, &serde_json::json!({})));
    assert_eq!(error, "");
    assert!(report.to_string().contains("is the base's own"), "{report}");
    let turned = peft(folder.path(), &with_base[..2], &serde_json::json!({ "fan_in_fan_out": true }));
    let (error, _) = convert(&turned);
    assert_eq!(error, "");
    // A layer that is stored the other way round: the two forms of its adapter change the base alike.
    let merged = |adapter: &Path, name: &str| {
        let file = folder.path().join(name);
        let (error, _) = run(&["convert", base.to_str().unwrap(), adapter.to_str().unwrap(), file.to_str().unwrap()]);
        assert_eq!(error, "");
        values(&file)
    };
    assert!(merged(&turned, "a.safetensors") == merged(&out, "b.safetensors"));
}

#[test]
fn an_update_of_embeddings_is_the_same_by_way_of_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let factors: [(&str, &[u64]); 4] = [
        ("model.embed_tokens.lora_embedding_A", &[2, 24]),
        ("model.embed_tokens.lora_embedding_B", &[16, 2]),
        ("model.layers.0.self_attn.o_proj.lora_A.weight", &[2, 16]),
        ("model.layers.0.self_attn.o_proj.lora_B.weight", &[16, 2]),
    ];
    for pattern in [serde_json::json!({}), serde_json::json!({ "embed_tokens": 7 }), serde_json::json!({ "o_proj": 7 })] {
        let adapter = peft(folder.path(), &factors, &serde_json::json!({ "r": 2, "lora_alpha": 3, "alpha_pattern": pattern }));
        let gguf = folder.path().join("adapter.gguf");
        let _ = std::fs::remove_file(&gguf);
        let (error, _) = run(&["convert", adapter.to_str().unwrap(), gguf.to_str().unwrap(), "--base", fixture("base").to_str().unwrap()]);
        assert_eq!(error, "");
        let merged = |adapter: &Path| {
            let out = folder.path().join("merged.safetensors");
            let _ = std::fs::remove_file(&out);
            assert_eq!(run(&["convert", fixture("base").to_str().unwrap(), adapter.to_str().unwrap(), out.to_str().unwrap()]).0, "");
            values(&out)
        };
        let (direct, by_gguf) = (merged(&adapter), merged(&gguf));
        for ((name, a), (_, b)) in direct.iter().zip(&by_gguf) {
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5), "{pattern}: {name}");
        }
        // W + alpha / r (B A)^T: row 5, column 3 of the embeddings.
        let embed = |all: &[(String, Vec<f32>)]| all.iter().find(|(name, _)| name == "model.embed_tokens.weight").unwrap().1[5 * 16 + 3];
        let written = |i: usize| 0.25 + (i % 13) as f32 / 16.0;
        let scale = if pattern.get("embed_tokens").is_some() { 3.5 } else { 1.5 };
        let expected = embed(&values(&fixture("base"))) + scale * (written(5) * written(6) + written(24 + 5) * written(7));
        assert!((embed(&direct) - expected).abs() < 1e-5, "{pattern}: {} {expected}", embed(&direct));
    }
}

#[test]
fn a_base_in_another_format_takes_factors_alone_and_one_of_integers_none() {
    let folder = tempfile::tempdir().unwrap();
    let (base, out) = (folder.path().join("base.gguf"), folder.path().join("out.gguf"));
    std::fs::write(&base, crate::build::Gguf::default().f32("m.weight", &[2, 3]).build()).unwrap();
    for name in ["adapter", "dora", "tokens"] {
        let (error, _) = run(&["convert", base.to_str().unwrap(), fixture(name).to_str().unwrap(), out.to_str().unwrap()]);
        assert!(error.contains("expected an adapter of factors alone"), "{name}: {error}");
    }
    let header = r#"{"m.weight":{"dtype":"I8","shape":[3,2],"data_offsets":[0,6]}}"#;
    let integers = folder.path().join("base.safetensors");
    std::fs::write(&integers, crate::build::safetensors(header, &[1; 6])).unwrap();
    let adapter = peft(folder.path(), &FACTORS, &serde_json::json!({}));
    let merged = folder.path().join("out.safetensors");
    let (error, _) = run(&["convert", integers.to_str().unwrap(), adapter.to_str().unwrap(), merged.to_str().unwrap()]);
    assert!(error.contains("expected a base of plain floats to merge into, found I8"), "{error}");
}
