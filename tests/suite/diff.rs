//! Comparison: what differs, by how much, and what a pair looks like.

use std::path::{Path, PathBuf};

use serde_json::Value;
use weigh::ops::diff::{Diff, Kind, Options, diff};

type Tensor = (&'static str, Vec<usize>, Vec<f32>);

/// Numbers that look random, about normal.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (0..4).map(|_| next()).sum()).collect()
}

fn model(seed: u64) -> Vec<Tensor> {
    vec![
        ("model.embed_tokens.weight", vec![64, 64], noise(seed, 4096)),
        ("model.layers.0.self_attn.q_proj.weight", vec![64, 64], noise(seed + 1, 4096)),
        ("model.layers.0.mlp.up_proj.weight", vec![96, 64], noise(seed + 2, 96 * 64)),
        ("model.norm.weight", vec![64], vec![1.0; 64]),
    ]
}

fn write(folder: &Path, name: &str, tensors: &[Tensor]) -> PathBuf {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, _, values)| values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let path = folder.join(name);
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    path
}

fn compare(a: &Path, b: &Path) -> Diff {
    diff(&weigh::open(a).unwrap(), &weigh::open(b).unwrap(), &Options::default()).unwrap()
}

fn run(arguments: &[&str]) -> (String, Value) {
    let mut out = Vec::new();
    let code = weigh::cli::run(["weigh", "--quiet"].iter().chain(arguments), &mut out, &mut Vec::new());
    (format!("{code:?}"), serde_json::from_slice(&out).unwrap_or_default())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_pairs_look_like() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let base = write(folder, "base.safetensors", &model(1));
    let kind = |other: &Path| compare(&base, other).verdict.kind;
    assert_eq!(kind(&write(folder, "same.safetensors", &model(1))), Kind::Identical);
    assert_eq!(kind(&write(folder, "other.safetensors", &model(77))), Kind::Unrelated);

    let mut tuned = model(1);
    tuned[2].2.iter_mut().zip(noise(9, 96 * 64)).for_each(|(value, change)| *value += 0.1 * change);
    let found = compare(&base, &write(folder, "tuned.safetensors", &tuned));
    assert_eq!(found.verdict.kind, Kind::FineTuned);
    let changed: Vec<_> = found.verdict.components.iter().map(|change| (change.component.name(), change.changed)).collect();
    assert_eq!(changed, [("embedding", 0), ("attention", 0), ("feed_forward", 1), ("norm", 0)]);
    assert!(found.verdict.text.contains("unchanged: embedding, attention, norm"), "{}", found.verdict.text);

    for (name, target, expected) in
        [("q8.gguf", "Q8_0", Kind::Quantised), ("bf16.safetensors", "BF16", Kind::Rounded), ("f32.gguf", "F32", Kind::SameWeights)]
    {
        let out = folder.join(name);
        run(&["convert", text(&base), text(&out), "--type", target, "--keep-names"]);
        let found = compare(&base, &out);
        assert_eq!(found.verdict.kind, expected, "{name}: {}", found.verdict.text);
        // The other way round it is the same, told the other way round.
        assert_eq!(compare(&out, &base).verdict.kind, expected, "{name}");
    }

    let mut fewer = model(1);
    fewer.truncate(1);
    let found = compare(&base, &write(folder, "fewer.safetensors", &fewer));
    assert_eq!((found.verdict.kind, found.only_a.len()), (Kind::DifferentTensors, 3));
    let mut wider = model(1);
    wider[3] = ("model.norm.weight", vec![32], vec![1.0; 32]);
    assert_eq!(compare(&base, &write(folder, "wider.safetensors", &wider)).shapes.len(), 1);
}

#[test]
fn figures_of_a_small_case() {
    let folder = tempfile::tempdir().unwrap();
    let a = write(folder.path(), "a.safetensors", &[("x", vec![4], vec![3.0, 4.0, 0.0, f32::NAN]), ("y", vec![1], vec![0.0])]);
    let b = write(folder.path(), "b.safetensors", &[("x", vec![4], vec![3.0, 5.0, 0.0, f32::NAN]), ("y", vec![1], vec![-0.0])]);
    let found = compare(&a, &b);
    let row = &found.tensors[0];
    assert_eq!(
        (row.equal, row.changed, row.max_abs, row.rmse, row.relative_rmse),
        (Some(false), Some(0.25), Some(1.0), Some(0.5), Some(0.2))
    );
    assert!((row.snr_db.unwrap() - 10.0 * 25f64.log10()).abs() < 1e-12);
    assert!((row.cosine.unwrap() - 29.0 / (5.0 * 34f64.sqrt())).abs() < 1e-12);
    assert_eq!(found.tensors[1].equal, Some(true), "zeros of both signs are one value");
}

#[test]
fn exit_statuses_and_keys() {
    let folder = tempfile::tempdir().unwrap();
    let mut tuned = model(1);
    tuned[1].2[7] += 1e-3;
    let (a, b) = (write(folder.path(), "a.safetensors", &model(1)), write(folder.path(), "b.safetensors", &tuned));
    let (a, b) = (text(&a), text(&b));
    let (found, done) = (format!("{:?}", std::process::ExitCode::from(1)), format!("{:?}", std::process::ExitCode::SUCCESS));
    assert_eq!(run(&["diff", a, a]).0, done);
    assert_eq!(run(&["diff", a, b]).0, found);
    assert_eq!(run(&["diff", a, b, "--quick"]).0, found);
    assert_eq!(run(&["diff", a, b, "--tolerance", "0.01"]).0, done);
    assert_eq!(run(&["diff", a, b, "--tolerance", "1e-9"]).0, found);
    assert_eq!(run(&["diff", a, b, "--exclude", "*q_proj*"]).0, done);

    let (_, json) = run(&["diff", a, b, "--json"]);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(keys(&json), "schema path identical verdict only_a only_b shapes metadata tensors notes");
    assert_eq!(keys(&json["tensors"][0]), "name dtype_a dtype_b equal max_abs rmse relative_rmse cosine snr_db changed l2_a l2_b");
    assert_eq!((json["schema"].as_str(), json["verdict"]["kind"].as_str()), (Some("weigh.diff.v1"), Some("fine_tuned")));
    let (_, quick) = run(&["diff", a, b, "--quick", "--json"]);
    let row = quick["tensors"].as_array().unwrap().iter().find(|row| row["name"].as_str().unwrap().contains("q_proj")).unwrap();
    assert_eq!((&row["equal"], &row["rmse"]), (&Value::Bool(false), &Value::Null));
}

/// A safetensors file of one tensor.
fn one(folder: &Path, name: &str, dtype: safetensors::Dtype, bytes: &[u8], elements: usize) -> PathBuf {
    let view = safetensors::tensor::TensorView::new(dtype, vec![elements], bytes).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, safetensors::serialize([("t", view)], None).unwrap()).unwrap();
    path
}

#[test]
fn what_singles_cannot_hold_is_compared_exactly() {
    use safetensors::Dtype;
    let folder = tempfile::tempdir().unwrap();
    let bytes = |values: &[f64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let whole = |values: &[i64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let a = one(folder.path(), "a.safetensors", Dtype::F64, &bytes(&[1.0, 2.0, f64::NAN, 1e300]), 4);
    let b = one(folder.path(), "b.safetensors", Dtype::F64, &bytes(&[1.0 + 1e-12, 2.0, f64::NAN, 1e300]), 4);
    let row = &compare(&a, &b).tensors[0];
    assert_eq!((row.changed, row.max_abs), (Some(0.25), Some(1.0 + 1e-12 - 1.0)));

    let large = 1i64 << 60;
    let a = one(folder.path(), "c.safetensors", Dtype::I64, &whole(&[large, -large, 7]), 3);
    let b = one(folder.path(), "d.safetensors", Dtype::I64, &whole(&[large + 1, -large, 7]), 3);
    let row = &compare(&a, &b).tensors[0];
    assert_eq!((row.changed, row.max_abs), (Some(1.0 / 3.0), Some(1.0)));
    // The same whole numbers in another type are equal.
    let c = one(folder.path(), "e.safetensors", Dtype::U64, &whole(&[large, 8, 7]), 3);
    let d = one(folder.path(), "f.safetensors", Dtype::I64, &whole(&[large, 8, 7]), 3);
    assert_eq!(compare(&c, &d).tensors[0].equal, Some(true));

    // Both parts of complex numbers count.
    let parts = |values: [f32; 4]| values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
    let a = one(folder.path(), "g.safetensors", Dtype::C64, &parts([1.0, 2.0, 3.0, 4.0]), 2);
    let b = one(folder.path(), "h.safetensors", Dtype::C64, &parts([1.0, 2.0, 3.0, 5.0]), 2);
    let row = &compare(&a, &b).tensors[0];
    assert_eq!((row.changed, row.max_abs), (Some(0.25), Some(1.0)));
}

#[test]
fn a_folder_whose_tokenizer_cannot_be_read_still_meets_its_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(fixtures.join("llama-tiny").join(name), folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    let diff = compare(folder.path(), &fixtures.join("llama-tiny-q8_0.gguf"));
    assert_eq!((diff.only_a.len(), diff.verdict.kind), (0, Kind::Quantised), "{:?}", diff.only_a);
    assert!(diff.metadata.is_empty() && diff.notes[0].starts_with("metadata is not compared: "), "{:?}", diff.notes);
}
