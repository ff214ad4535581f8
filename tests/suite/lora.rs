//! LoRA adapters: what they are, and merged as PEFT merges them.

use std::path::{Path, PathBuf};

use serde_json::Value;
use weigh::codec;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lora").join(name)
}

fn run(arguments: &[&str]) -> (String, Value) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let _ = weigh::cli::run(["weigh", "--json"].iter().chain(arguments), &mut out, &mut err);
    (String::from_utf8(err).unwrap(), serde_json::from_slice(&out).unwrap_or_default())
}

fn values(path: &Path) -> Vec<(String, Vec<f32>)> {
    let reader = weigh::open(path).unwrap();
    let decode = |tensor: &weigh::TensorInfo| {
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
    assert!(err.contains("in the base, found no such tensor"), "{err}");
    let (err, _) = run(&["convert", fixture("base").to_str().unwrap(), fixture("base").to_str().unwrap(), out.to_str().unwrap()]);
    assert!(err.contains("expected a PEFT adapter"), "{err}");
    assert!(!out.exists());
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
    assert_eq!(diff["notes"][0], "the first is compared as what the adapter makes of the second");
    let (_, diff) = run(&["diff", base.to_str().unwrap(), merged.to_str().unwrap()]);
    assert_eq!(diff["tensors"].as_array().unwrap().iter().filter(|row| row["equal"] == false).count(), 5);
}
