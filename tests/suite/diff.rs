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
    diff(&weigh::format::open(a).unwrap(), &weigh::format::open(b).unwrap(), &Options::default()).unwrap()
}

fn run(arguments: &[&str]) -> (String, Value) {
    let mut out = Vec::new();
    let code = weigh::cli::run(["weigh", "--quiet"].iter().chain(arguments), &mut out, &mut Vec::new());
    (format!("{code:?}"), serde_json::from_slice(&out).unwrap_or_default())
}

/// What the command says to people, and its exit status.
fn said(arguments: &[&str]) -> (i32, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_weigh")).args(arguments).env_remove("COLUMNS").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn verdicts_of_typical_pairs() {
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
fn metrics_of_a_small_case() {
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
    assert_eq!(keys(&json), "schema path path_b compared identical verdict only_a only_b shapes metadata tensors notes");
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
fn values_beyond_single_precision_are_compared_exactly() {
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
fn a_folder_whose_tokenizer_cannot_be_read_is_still_matched_with_its_gguf() {
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

#[test]
fn a_limit_cuts_the_list_and_neither_the_verdict_nor_the_exit_status() {
    let folder = tempfile::tempdir().unwrap();
    let mut tuned = model(1);
    tuned[2].2[7] += 1e-3; // the third of four; the first is equal
    let (a, b) = (write(folder.path(), "a.safetensors", &model(1)), write(folder.path(), "b.safetensors", &tuned));
    let (a, b) = (text(&a), text(&b));
    let whole = run(&["diff", a, b, "--json"]).1;
    for limit in ["0", "1", "3"] {
        let (status, json) = run(&["diff", a, b, "--json", "--limit", limit]);
        assert_eq!(status, format!("{:?}", std::process::ExitCode::from(1)), "{limit}");
        assert_eq!(json["tensors"].as_array().unwrap().len().to_string(), limit);
        for key in ["identical", "verdict", "compared"] {
            assert_eq!(json[key], whole[key], "{limit} {key}");
        }
        assert_eq!((&json["identical"], &json["compared"]["tensors"]), (&Value::Bool(false), &Value::from(4)));
    }
    // People see those first that differ.
    let (status, text, _) = said(&["diff", a, b, "--limit", "1"]);
    assert!(status == 1 && text.contains("\nmodel.layers.0.mlp.up_proj.weight "), "{text}");
}

#[test]
fn a_filter_that_matches_nothing_is_an_error_and_a_plain_one_is_a_substring() {
    let folder = tempfile::tempdir().unwrap();
    let mut tuned = model(1);
    tuned[1].2[7] += 1e-3; // q_proj
    let (a, b) = (write(folder.path(), "a.safetensors", &model(1)), write(folder.path(), "b.safetensors", &tuned));
    let (a, b) = (text(&a), text(&b));
    for command in [&["diff", a, b][..], &["stats", a]] {
        for filter in ["attn_q", "q_proj*", "weights"] {
            let (status, out, err) = said(&[command, &["--filter", filter]].concat());
            assert_eq!((status, out.as_str()), (2, ""), "{command:?} {filter}");
            assert!(err.contains(&format!("no tensor matches '{filter}' (4 tensors)\nhint: ")), "{err}");
        }
        let (status, _, err) = said(&[command, &["--exclude", "weight"]].concat());
        assert!(status == 2 && err.contains("'weight' excludes every selected tensor"), "{err}");
    }
    let (status, out, err) = said(&["ls", a, "--filter", "attn_q", "--json"]);
    assert_eq!((status, serde_json::from_str::<Value>(&out).unwrap()["tensors"].as_array().unwrap().len()), (0, 0));
    assert!(err.contains("no tensor matches 'attn_q'"), "{err}");

    let names = |arguments: &[&str]| {
        let (_, json) = run(&[arguments, &["--json"]].concat());
        json["tensors"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for command in [&["diff", a, b][..], &["stats", a], &["ls", a]] {
        assert_eq!(names(&[command, &["--filter", "q_proj"]].concat()), ["model.layers.0.self_attn.q_proj.weight"], "{command:?}");
        assert_eq!(names(&[command, &["--exclude", "model.layers"]].concat()), ["model.embed_tokens.weight", "model.norm.weight"]);
    }
    assert_eq!(said(&["diff", a, b, "--filter", "q_proj"]).0, 1);
    let (status, out, _) = said(&["diff", a, b, "--filter", "mlp"]);
    assert_eq!(
        (status, out.as_str()),
        (0, "only selected tensors are compared: 1 of 4 tensors\n\n= identical: 1 of 4 tensors and the metadata\n")
    );
    let compared = run(&["diff", a, b, "--filter", "mlp", "--json"]).1["compared"].clone();
    let expected = serde_json::json!({"tensors": 1, "tensors_a": 4, "tensors_b": 4, "filtered": true, "values": true, "metadata": true});
    assert_eq!(compared, expected);
}

#[test]
fn a_tolerance_says_what_it_decided() {
    let folder = tempfile::tempdir().unwrap();
    // Of x the relative error is 1 / 5, of y 0.5 / 10: |b - a| / |a|.
    let x = |second: f32| vec![3.0, second, 0.0, 0.0];
    let a = write(folder.path(), "a.safetensors", &[("x", vec![4], x(4.0)), ("y", vec![2], vec![6.0, 8.0]), ("z", vec![1], vec![0.0])]);
    let b = write(folder.path(), "b.safetensors", &[("x", vec![4], x(5.0)), ("y", vec![2], vec![6.5, 8.0]), ("z", vec![1], vec![0.0])]);
    let zero =
        write(folder.path(), "zero.safetensors", &[("x", vec![4], x(4.0)), ("y", vec![2], vec![6.0, 8.0]), ("z", vec![1], vec![1.0])]);
    let fewer = write(folder.path(), "fewer.safetensors", &[("x", vec![4], x(4.0)), ("y", vec![2], vec![6.0, 8.0])]);
    let (a, b, zero, fewer) = (text(&a), text(&b), text(&zero), text(&fewer));
    let last = |b: &str, tolerance: &str| {
        let (status, out, _) = said(&["diff", a, b, "--tolerance", tolerance]);
        (status, out.lines().last().unwrap().to_owned())
    };
    let line = |status: i32, text: &str| (status, text.to_owned());
    assert_eq!(last(b, "0.25"), line(0, "within the tolerance of 0.25: the largest relative error is 0.2, in x"));
    assert_eq!(last(b, "0.1"), line(1, "beyond the tolerance of 0.1: 1 of 3 tensors; the largest relative error is 0.2, in x"));
    assert_eq!(last(b, "1e-3"), line(1, "beyond the tolerance of 0.001: 2 of 3 tensors; the largest relative error is 0.2, in x"));
    assert_eq!(last(a, "0"), line(0, "within the tolerance of 0: no value differs"));
    assert_eq!(last(zero, "9"), line(1, "beyond the tolerance of 9: 1 of 3 tensors; no relative error is known"));
    assert_eq!(last(fewer, "9"), line(1, "beyond the tolerance of 9: tensors or shapes differ; no value differs"));
    let (_, json) = run(&["diff", a, b, "--tolerance", "0.1", "--json"]);
    assert_eq!(json["tolerance"], serde_json::json!({"limit": 0.1, "within": false, "largest": 0.2, "tensor": "x", "beyond": 1}));
    assert_eq!(said(&["diff", a, b, "--tolerance=nan"]).0, 2);
    assert_eq!(said(&["diff", a, b, "--tolerance=-1"]).0, 2);
}

#[test]
fn rows_that_two_vocabularies_share_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let grown = |rows: usize, first: f32| {
        let mut tensors = model(1);
        tensors[0].1[0] = rows;
        tensors[0].2.resize(rows * 64, 0.25);
        tensors[0].2[0] += first;
        tensors
    };
    let a = write(folder.path(), "a.safetensors", &model(1));
    let b = write(folder.path(), "b.safetensors", &grown(66, 0.0));
    let c = write(folder.path(), "c.safetensors", &grown(65, 1.0));
    let found = compare(&a, &b);
    let shape = &found.shapes[0];
    let shared = shape.shared.as_ref().unwrap();
    assert_eq!(
        (shape.name.as_str(), shared.rows, shared.equal, shared.relative_rmse),
        ("model.embed_tokens.weight", 64, Some(true), Some(0.0))
    );
    assert_eq!(
        found.verdict.text,
        "the same values in the 3 tensors that both have in the same shape; model.embed_tokens.weight: 64 rows equal, 2 added"
    );
    assert!(compare(&b, &a).verdict.text.ends_with("64 rows equal, 2 removed"));
    // One value of the shared rows differs by 1: the error is 1 over the length of those rows.
    let shared = compare(&a, &c).shapes[0].shared.clone().unwrap();
    let length = model(1)[0].2.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
    assert_eq!((shared.equal, shared.max_abs), (Some(false), Some(1.0)));
    assert!((shared.relative_rmse.unwrap() - 1.0 / length).abs() < 1e-6, "{shared:?}");
    // Matrices of another number of columns, and others than those of vocabularies, share nothing.
    let mut narrow = model(1);
    narrow[0] = ("model.embed_tokens.weight", vec![128, 32], noise(1, 4096));
    narrow[2] = ("model.layers.0.mlp.up_proj.weight", vec![95, 64], noise(3, 95 * 64));
    let found = compare(&a, &write(folder.path(), "narrow.safetensors", &narrow));
    assert_eq!(found.shapes.iter().map(|shape| shape.shared.is_some()).collect::<Vec<_>>(), [false, false]);
    assert!(found.verdict.text.ends_with("; 2 tensors with a different shape"), "{}", found.verdict.text);
}

#[test]
fn large_errors_do_not_suggest_related_models() {
    let folder = tempfile::tempdir().unwrap();
    let a = write(folder.path(), "a.safetensors", &model(1));
    let mut damaged = model(1);
    damaged[1].2[..3500].fill(0.0);
    let found = compare(&a, &write(folder.path(), "b.safetensors", &damaged));
    assert_eq!(found.verdict.kind, Kind::Changed, "{}", found.verdict.text);
    // The relative error of values that became zero is their length over that of all.
    let length = |values: &[f32]| values.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
    let whole = &model(1)[1].2;
    let error = (100.0 * length(&whole[..3500]) / length(whole)).round();
    assert!(error > 90.0 && error < 100.0);
    let (start, rest) = found.verdict.text.split_once(": relative error ").unwrap();
    assert_eq!(start, "1 of 4 tensors differs");
    let shown: f64 = rest.split_once('%').unwrap().0.parse().unwrap();
    assert_eq!(shown.round(), error, "{}", found.verdict.text);
}

#[test]
fn the_sign_agrees_with_the_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let base = write(folder.path(), "base.safetensors", &model(1));
    let (same, half, q8) = (folder.path().join("same.gguf"), folder.path().join("bf16.safetensors"), folder.path().join("q8.gguf"));
    for (path, target) in [(&same, "F32"), (&half, "BF16"), (&q8, "Q8_0")] {
        run(&["convert", text(&base), text(path), "--type", target, "--keep-names"]);
    }
    let other = write(folder.path(), "other.safetensors", &model(5));
    let sign = |b: &Path, more: &[&str]| {
        let (status, out, _) = said(&[&["diff", text(&base), text(b)], more].concat());
        let verdict = out.lines().rev().find(|line| line.starts_with(['=', '≈', '≠'])).unwrap().to_owned();
        (status, verdict)
    };
    assert_eq!(sign(&base, &[]), (0, "= identical: 4 tensors and the metadata".to_owned()));
    assert_eq!(
        sign(&same, &[]),
        (1, "≈ the same values in 4 tensors; different formats (safetensors, gguf); metadata not compared".to_owned())
    );
    for (path, more, status, start) in [
        (&half, &[][..], 1, "≈ the same weights, rounded from F32 to BF16: "),
        (&q8, &[], 1, "≠ the second looks quantised"),
        (&q8, &["--tolerance", "0.1"], 0, "≈ the second looks quantised"),
        (&other, &[], 1, "≠ unrelated weights"),
        (&other, &["--quick"], 1, "≠ values not compared: of 4 tensors, 3 differ in their bytes"),
    ] {
        let (found, verdict) = sign(path, more);
        assert!(found == status && verdict.starts_with(start), "{found} {verdict}");
    }
}

#[test]
fn the_side_of_fewer_bits_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let base = write(folder.path(), "base.safetensors", &model(1));
    // A block of 32 values takes 34 bytes in Q8_0 and 18 in Q4_0: the latter has fewer bits.
    let [q8, q4] = ["Q8_0", "Q4_0"].map(|target| {
        let out = folder.path().join(format!("{target}.gguf"));
        run(&["convert", text(&base), text(&out), "--type", target, "--keep-names", "--pure"]);
        out
    });
    for (a, b, less) in [(&q8, &q4, "second"), (&q4, &q8, "first")] {
        let text = compare(a, b).verdict.text;
        assert!(text.starts_with(&format!("two quantisations of the same weights, the {less} in fewer bits: ")), "{text}");
    }
}

#[test]
fn dimensions_of_size_one_do_not_change_the_shape() {
    let folder = tempfile::tempdir().unwrap();
    let values = || noise(3, 8);
    let a = write(folder.path(), "a.safetensors", &[("x", vec![8, 1], values()), ("y", vec![1, 2, 1, 4], values())]);
    let b = write(folder.path(), "b.safetensors", &[("x", vec![8], values()), ("y", vec![2, 4], values())]);
    let c = write(folder.path(), "c.safetensors", &[("x", vec![2, 4], values()), ("y", vec![4, 2], values())]);
    let found = compare(&a, &b);
    assert_eq!((found.verdict.kind, found.shapes.len(), found.tensors.len()), (Kind::Identical, 0, 2));
    assert_eq!(compare(&a, &c).shapes.len(), 2, "as many elements, but in other dimensions");
}

#[test]
fn progress_adds_up_to_the_bytes_of_the_larger_model() {
    let folder = tempfile::tempdir().unwrap();
    let mut tuned = model(1);
    tuned.iter_mut().for_each(|(_, _, values)| values[3] += 0.25);
    let (a, b) = (write(folder.path(), "a.safetensors", &model(1)), write(folder.path(), "b.safetensors", &tuned));
    let fewer = write(folder.path(), "fewer.safetensors", &model(1)[..1]);
    let [a, b, fewer] = [a, b, fewer].map(|path| weigh::format::open(&path).unwrap());
    let bytes = 4 * (4096 + 4096 + 96 * 64 + 64);
    for other in [&a, &fewer] {
        let told = std::sync::atomic::AtomicU64::new(0);
        let progress = |more, all| {
            assert_eq!(all, bytes);
            told.fetch_add(more, std::sync::atomic::Ordering::Relaxed);
        };
        diff(other, &b, &Options { progress: Some(&progress), ..Options::default() }).unwrap();
        assert!(told.into_inner() > 0);
    }
}

#[test]
fn packed_models_are_counted_together() {
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/packed");
    let reader = weigh::format::open(&packed).unwrap();
    let one = weigh::ops::stats::stats(&reader, &weigh::ops::stats::Options::default()).unwrap().packing.unwrap();
    let both = compare(&packed, &packed).packing.unwrap();
    assert!(one.resolved > 0);
    assert_eq!((both.resolved, both.unresolved, both.method), (2 * one.resolved, 2 * one.unresolved, one.method));
}
