//! Statistics: equal to NumPy's, the same digits on any number of threads, and what is flagged.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weigh::codec;
use weigh::ops::stats::{GroupBy, Options, PERCENTILES, Stats, Summary, stats};

use crate::build::Gguf;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn of(path: &Path, options: &Options<'_>) -> Stats {
    let reader = weigh::format::open(path).unwrap();
    stats(&reader, options).unwrap()
}

/// A safetensors file of these tensors: name, type, shape, bytes.
fn file(tensors: &[(&str, safetensors::Dtype, &[usize], Vec<u8>)]) -> tempfile::NamedTempFile {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, safetensors::tensor::TensorView::new(*dtype, shape.to_vec(), bytes).unwrap()));
    let file = tempfile::Builder::new().suffix(".safetensors").tempfile().unwrap();
    std::fs::write(file.path(), safetensors::serialize(views, None).unwrap()).unwrap();
    file
}

fn f32s(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// Numbers that look random, of both signs and many magnitudes.
fn noise(count: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next() * next().exp2()).collect()
}

#[test]
fn as_numpy_says() {
    let golden: Value = serde_json::from_slice(&std::fs::read(fixture("stats-numpy.json")).unwrap()).unwrap();
    let mut checked = 0;
    for path in ["packed-expected.safetensors", "packed/model.safetensors"] {
        for tensor in of(&fixture(path), &Options { stored: true, ..Options::default() }).tensors.unwrap() {
            let Some(expected) = golden.get(format!("{path}:{}", tensor.name)) else { continue };
            let found = serde_json::to_value(&tensor.summary).unwrap();
            for key in ["min", "max", "zeros", "negatives"] {
                assert_eq!(found[key].as_f64(), expected[key].as_f64(), "{} {key}", tensor.name);
            }
            for key in ["mean", "std", "abs_mean", "l2"] {
                let (a, b) = (found[key].as_f64().unwrap(), expected[key].as_f64().unwrap());
                assert!((a - b).abs() <= 1e-12 * tensor.summary.abs_mean.max(b.abs()), "{} {key}: {a} {b}", tensor.name);
            }
            let percentiles = &tensor.summary.percentiles;
            for (i, (a, b)) in percentiles.values.iter().zip(expected["percentiles"].as_array().unwrap()).enumerate() {
                let b = b.as_f64().unwrap();
                let allowed = (percentiles.relative_error * b.abs()).max(1e-12 * tensor.summary.abs_max);
                assert!((a - b).abs() <= allowed, "{} {}: {a} {b}", tensor.name, PERCENTILES[i]);
            }
            checked += 1;
        }
    }
    assert!(checked > 30, "{checked}");
}

#[test]
fn types_that_are_not_decoded_have_the_statistics_of_their_values() {
    let (rows, columns) = (40, 256);
    let mut types = 0;
    for codec in codec::CODECS.iter().filter(|codec| codec.codebooks.is_some()) {
        types += 1;
        let mut values = noise(rows * columns);
        values[3 * columns..4 * columns].fill(0.0); // a row of zeros, and one far from the others
        values[5 * columns..6 * columns].iter_mut().for_each(|value| *value *= 1e3);
        let row_bytes = codec.dtype.bytes_for(columns as u64).unwrap() as usize;
        let mut bytes = vec![0; rows * row_bytes];
        for (values, bytes) in values.chunks(columns).zip(bytes.chunks_mut(row_bytes)) {
            codec.encode.unwrap()(values, None, bytes);
        }
        let mut infinite = bytes.clone();
        infinite[7 * row_bytes..][..2].copy_from_slice(&0x7c00u16.to_le_bytes()); // a scale, but of MXFP4
        for bytes in [bytes, infinite] {
            let mut decoded = vec![0.0; values.len()];
            (codec.decode)(&bytes, &mut decoded);
            let id = codec.dtype.info().ggml_id.unwrap();
            let stored = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
            std::fs::write(stored.path(), Gguf::default().tensor("x", id, &[columns as u64, rows as u64], bytes).build()).unwrap();
            let plain = file(&[("x", safetensors::Dtype::F32, &[rows, columns], f32s(decoded))]);
            let [found, expected] = [stored.path(), plain.path()].map(|path| of(path, &Options::default()));
            let [a, b] = [&found, &expected].map(|stats| &stats.total);
            let exact = |s: &Summary| format!("{:?}", (s.min, s.max, s.abs_max, s.zeros, s.negatives, s.nan, s.inf, s.sparsity));
            assert_eq!(exact(a), exact(b), "{}", codec.dtype);
            assert_eq!((&a.percentiles, &a.histogram), (&b.percentiles, &b.histogram), "{}", codec.dtype);
            for (a, b) in [(a.mean, b.mean), (a.std, b.std), (a.abs_mean, b.abs_mean), (a.l2, b.l2), (a.kurtosis, b.kurtosis)] {
                assert!((a - b).abs() <= 1e-12 * b.abs().max(a.abs()).max(1e-3), "{}: {a} {b}", codec.dtype);
            }
            let messages = |stats: &Stats| stats.findings.iter().map(|finding| finding.message.clone()).collect::<Vec<_>>();
            assert_eq!(messages(&found), messages(&expected), "{}", codec.dtype);
            assert!(!found.findings.is_empty());
        }
    }
    assert!(types >= 4, "{types}");
}

#[test]
fn the_same_digits_on_any_number_of_threads() {
    // Several spans of one tensor, and many tensors.
    let values = noise(5_000_000);
    let file = file(&[
        ("a", safetensors::Dtype::F32, &[5_000_000], f32s(values.iter().copied())),
        ("b", safetensors::Dtype::F32, &[100, 100], f32s(values[..10_000].iter().copied())),
        ("c", safetensors::Dtype::BF16, &[1000, 1000], values[..500_000].iter().flat_map(|value| value.to_le_bytes()).collect()),
    ]);
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| serde_json::to_string(&of(file.path(), &Options::default())).unwrap())
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn groups_and_the_total_are_the_sum_of_their_tensors() {
    let values = noise(3000);
    let file = file(&[
        ("blk.0.x", safetensors::Dtype::F32, &[1000], f32s(values[..1000].iter().copied())),
        ("blk.1.x", safetensors::Dtype::F32, &[1000], f32s(values[1000..2000].iter().copied())),
        ("blk.1.y", safetensors::Dtype::F32, &[1000], f32s(values[2000..].iter().copied())),
        ("i", safetensors::Dtype::I8, &[4], vec![1, 2, 3, 255]),
    ]);
    let found = of(file.path(), &Options { by: GroupBy::Layer, ..Options::default() });
    let groups = found.groups.unwrap();
    assert_eq!(groups.iter().map(|group| (group.name.as_str(), group.tensors)).collect::<Vec<_>>(), [("0", 1), ("1", 2), ("-", 1)]);
    assert!(found.tensors.is_none());
    let one = &groups[1].summary;
    let mean = values[1000..].iter().map(|&value| f64::from(value)).sum::<f64>() / 2000.0;
    let variance = values[1000..].iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / 2000.0;
    assert!((one.mean - mean).abs() < 1e-15 && (one.std - variance.sqrt()).abs() < 1e-15);
    assert_eq!(groups[2].summary.percentiles.relative_error, 0.0, "one type of few bits");
    assert_eq!((found.total.elements, found.total.max), (3004, 3.0));
    assert!(found.total.percentiles.relative_error > 0.0);
}

#[test]
fn what_looks_wrong_is_flagged() {
    let half = |value: f32| half::f16::from_f32(value).to_le_bytes();
    let mut rows = noise(40 * 50);
    rows[..50].fill(0.0);
    rows[100..150].iter_mut().for_each(|value| *value *= 500.0);
    let file = file(&[
        ("nan", safetensors::Dtype::F32, &[3], f32s([1.0, f32::NAN, f32::INFINITY])),
        ("zero", safetensors::Dtype::F32, &[2, 2], f32s([0.0; 4])),
        ("same", safetensors::Dtype::F32, &[3], f32s([2.0; 3])),
        ("limit", safetensors::Dtype::F16, &[3], [half(65504.0), half(1.0), half(-65504.0)].concat()),
        ("rows", safetensors::Dtype::F32, &[40, 50], f32s(rows)),
    ]);
    let found = of(file.path(), &Options::default()).findings;
    let mut found: Vec<_> = found.iter().map(|finding| (finding.tensor.as_deref().unwrap(), finding.code)).collect();
    found.sort_unstable();
    let expected = [
        ("limit", "stats-limit"),
        ("nan", "stats-inf"),
        ("nan", "stats-nan"),
        ("rows", "stats-dead-rows"),
        ("rows", "stats-outlier-rows"),
        ("same", "stats-constant"),
        ("zero", "stats-zero"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_layer_off_its_neighbours_is_flagged() {
    let names: Vec<String> = (0..8).map(|layer| format!("model.layers.{layer}.w")).collect();
    let tensors: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let scale = if i == 5 { 9.0 } else { 1.0 };
            (name.as_str(), safetensors::Dtype::F32, &[100][..], f32s(noise(100).into_iter().map(|value| value * scale)))
        })
        .collect();
    let found = of(file(&tensors).path(), &Options::default()).findings;
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].code, found[0].tensor.as_deref()), ("stats-scale", Some("model.layers.5.w")));
}

#[test]
fn a_sample_says_so_and_looks_at_less() {
    let file = file(&[("a", safetensors::Dtype::F32, &[300_000], f32s(noise(300_000)))]);
    let found = of(file.path(), &Options { sample: Some(70_000), ..Options::default() });
    assert_eq!(found.sample, Some(70_000));
    let histogram = &found.tensors.unwrap()[0].summary.histogram;
    assert_eq!(histogram.linear.counts.to_vec().iter().sum::<u64>(), 2 << 16);
}

#[test]
fn the_keys_of_the_json() {
    let file = file(&[("a", safetensors::Dtype::F32, &[2], f32s([1.0, f32::NAN]))]);
    let mut out = Vec::new();
    let _ = weigh::cli::run(["weigh".as_ref(), "stats".as_ref(), "--json".as_ref(), file.path().as_os_str()], &mut out, &mut Vec::new());
    let found: Value = serde_json::from_slice(&out).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(keys(&found), "schema path threshold tensors total findings");
    assert_eq!(found["schema"], "weigh.stats.v1");
    let values = "elements min max mean std abs_mean abs_max l2 zeros negatives nan inf kurtosis sparsity percentiles histogram";
    assert_eq!(keys(&found["tensors"][0]), format!("name dtype shape {values}"));
    assert_eq!(keys(&found["total"]), values);
    assert_eq!(keys(&found["total"]["percentiles"]), "0.1 1 5 25 50 75 95 99 99.9 relative_error");
    assert_eq!(found["total"]["histogram"]["log"], json!({"lowest_exponent": 0, "negative": [0], "zeros": 0, "positive": [1]}));
    assert_eq!(found["total"]["kurtosis"], Value::Null, "NaN has no place in JSON");
}

#[test]
fn percentiles_of_few_values_are_exact() {
    // Between the first two lies the lowest percentile, which a rounding of either would put far off.
    let values: Vec<f32> = std::iter::once(-0.7).chain((0..999).map(|i| 0.7017 + i as f32)).collect();
    let file = file(&[("few", safetensors::Dtype::F32, &[1000], f32s(values.iter().copied()))]);
    let found = of(file.path(), &Options::default());
    let percentiles = &found.tensors.unwrap()[0].summary.percentiles;
    // numpy.percentile(values, 0.1)
    let expected = f64::from(values[0]) + 0.999 * (f64::from(values[1]) - f64::from(values[0]));
    assert_eq!(percentiles.relative_error, 0.0);
    assert!((percentiles.values[0] - expected).abs() < 1e-12, "{} {expected}", percentiles.values[0]);
}

#[test]
fn sparsity_is_a_share_of_the_finite_values() {
    // np.mean(np.abs(x[np.isfinite(x)]) < 1e-6): two of the four finite values.
    let file = file(&[("a", safetensors::Dtype::F32, &[6], f32s([0.0, 1e-7, 1.0, -2.0, f32::NAN, f32::INFINITY]))]);
    let summary = &of(file.path(), &Options::default()).tensors.unwrap()[0].summary;
    assert_eq!((summary.sparsity, summary.nan, summary.inf), (0.5, Some(1), Some(1)));
}

#[test]
fn a_layer_of_too_small_a_scale_is_flagged_as_one_of_too_large() {
    // The root mean square of a layer whose values are all +-s is s; a quarter of its neighbours' is the least that passes.
    let layers = |scale: f32| {
        let values = |layer: usize| f32s((0..8).map(move |i| (if layer == 3 { scale } else { 1.0 }) * if i % 2 == 0 { 1.0 } else { -1.0 }));
        let names: Vec<String> = (0..7).map(|layer| format!("model.layers.{layer}.w")).collect();
        let tensors: Vec<_> =
            names.iter().enumerate().map(|(i, name)| (name.as_str(), safetensors::Dtype::F32, &[8usize][..], values(i))).collect();
        let file = file(&tensors);
        let found = of(file.path(), &Options::default()).findings;
        found.into_iter().filter(|finding| finding.code == "stats-scale").filter_map(|finding| finding.tensor).collect::<Vec<_>>()
    };
    for (scale, flagged) in [(0.2, true), (0.25, false), (1.0, false), (4.0, false), (5.0, true)] {
        assert_eq!(layers(scale), if flagged { vec!["model.layers.3.w".to_owned()] } else { Vec::new() }, "{scale}");
    }
}

#[test]
fn no_row_is_an_outlier_beside_rows_that_are_mostly_zero() {
    // The median row's largest magnitude is zero: nothing is so many times that.
    let file = file(&[("rows", safetensors::Dtype::F32, &[5, 2], f32s([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, -1.0, 5.0, 2.0]))]);
    let found: Vec<_> = of(file.path(), &Options::default()).findings.into_iter().map(|finding| finding.code).collect();
    assert_eq!(found, ["stats-dead-rows"]);
}

#[test]
fn a_limit_cuts_the_list_and_not_the_total() {
    let file = file(&[
        ("model.layers.0.w", safetensors::Dtype::F32, &[2], f32s([1.0, 2.0])),
        ("model.layers.1.w", safetensors::Dtype::F32, &[2], f32s([3.0, 9.0])),
    ]);
    let path = file.path().to_str().unwrap();
    for (by, rows) in [("tensor", "tensors"), ("layer", "groups")] {
        let mut out = Vec::new();
        weigh::cli::run(["weigh", "stats", path, "--by", by, "--limit", "1", "--json"], &mut out, &mut Vec::new());
        let found: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(found[rows].as_array().unwrap().len(), 1);
        assert_eq!((&found["total"]["elements"], &found["total"]["max"], &found["total"]["mean"]), (&json!(4), &json!(9.0), &json!(3.75)));
    }
}
