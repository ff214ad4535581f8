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
