//! Statistics: equal to NumPy's, the same digits on any number of threads, and what is flagged.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weigh::base::finding::Severity;
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
fn statistics_match_numpy() {
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
fn anomalies_are_flagged() {
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
fn a_layer_that_deviates_from_its_neighbours_is_flagged() {
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
fn a_sample_is_marked_and_reads_less() {
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

fn one(dtype: safetensors::Dtype, shape: &[usize], bytes: Vec<u8>) -> Stats {
    of(file(&[("a", dtype, shape, bytes)]).path(), &Options::default())
}

fn f16s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect()
}

/// Code, severity and message of each finding.
fn messages(stats: &Stats) -> Vec<(&'static str, Severity, String)> {
    stats.findings.iter().map(|finding| (finding.code, finding.severity, finding.message.clone())).collect()
}

#[test]
fn nonfinite_values_are_counted_in_every_type() {
    const INF: f32 = f32::INFINITY;
    let values = [f32::NAN, f32::NAN, INF, INF, INF, -INF, 1.0, -2.0];
    for (dtype, bytes) in [(safetensors::Dtype::F16, f16s(&values)), (safetensors::Dtype::F32, f32s(values))] {
        let found = one(dtype, &[8], bytes);
        let summary = &found.total;
        assert_eq!((summary.nan, summary.inf, summary.negatives, summary.zeros), (Some(2), Some(4), Some(2), Some(0)), "{dtype:?}");
        assert_eq!((summary.min, summary.max, summary.mean, summary.std), (-2.0, 1.0, -0.5, 1.5), "{dtype:?}");
        let [nan, inf] = &messages(&found)[..] else { panic!("{:?}", found.findings) };
        assert!(nan.0 == "stats-nan" && nan.1 == Severity::Error && nan.2.contains("2 NaNs"), "{nan:?}");
        assert!(inf.0 == "stats-inf" && inf.1 == Severity::Error && inf.2.contains("4 values infinite"), "{inf:?}");
    }
    // Many: told from a sketch, in whose histogram only the finite values are; one whole block has none.
    let values = (0..12_288).map(|i| match i {
        4096..8192 => f32::NAN,
        8192 | 8193 => f32::INFINITY,
        8194 => f32::NEG_INFINITY,
        i => (i % 2) as f32,
    });
    let summary = one(safetensors::Dtype::F32, &[12_288], f32s(values)).total;
    assert_eq!((summary.nan, summary.inf, summary.negatives, summary.zeros), (Some(4096), Some(3), Some(1), Some(4094)));
    assert_eq!(summary.histogram.linear.counts.to_vec().iter().sum::<u64>(), 8189);
    // 4094 zeros and 4095 ones.
    let p = 4095.0 / 8189.0;
    assert!((summary.mean - p).abs() < 1e-15 && (summary.std - (p * (1.0 - p)).sqrt()).abs() < 1e-15, "{} {}", summary.mean, summary.std);
    // Zero has no sign here.
    let zeros = one(safetensors::Dtype::F16, &[3], f16s(&[-0.0, -0.0, -0.0])).total;
    assert!(zeros.min.is_sign_positive() && zeros.max.is_sign_positive() && zeros.percentiles.values[0].is_sign_positive());
    assert_eq!((zeros.zeros, zeros.negatives), (Some(3), Some(0)));
}

#[test]
fn every_pattern_of_a_small_float_has_its_value() {
    // Every code of E2M1 once: 0, 0.5, 1, 1.5, 2, 3, 4, 6, and the same below zero.
    let found = one(safetensors::Dtype::F4, &[16], vec![0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe]);
    let summary = &found.total;
    assert_eq!((summary.min, summary.max, summary.mean, summary.abs_mean), (-6.0, 6.0, 0.0, 2.25));
    assert_eq!((summary.zeros, summary.negatives, summary.l2), (Some(2), Some(7), 137f64.sqrt()));
}

#[test]
fn the_limit_of_a_type_is_counted_on_both_sides() {
    let found = one(safetensors::Dtype::F16, &[5], f16s(&[65504.0, 1.0, -65504.0, -65504.0, 65504.0]));
    let [(code, severity, message)] = &messages(&found)[..] else { panic!("{:?}", found.findings) };
    assert!(
        *code == "stats-limit" && *severity == Severity::Warning && message.contains("4 values at the limit of F16 (65504)"),
        "{message}"
    );
}

#[test]
fn a_value_at_the_threshold_is_not_below_it() {
    let half = Options { threshold: 0.5, ..Options::default() };
    for (dtype, bytes) in
        [(safetensors::Dtype::F16, f16s(&[0.5, -0.5, 0.25, 1.0])), (safetensors::Dtype::F32, f32s([0.5, -0.5, 0.25, 1.0]))]
    {
        assert_eq!(of(file(&[("a", dtype, &[4], bytes)]).path(), &half).total.sparsity, 0.25, "{dtype:?}");
    }
}

#[test]
fn only_rows_of_weights_are_checked() {
    let codes = |dtype, shape: &[usize], bytes| one(dtype, shape, bytes).findings.iter().map(|finding| finding.code).collect::<Vec<_>>();
    assert_eq!(codes(safetensors::Dtype::F32, &[3, 2], f32s([0.0, 0.0, 1.0, 2.0, 3.0, 1.0])), ["stats-dead-rows"]);
    assert!(codes(safetensors::Dtype::I8, &[3, 2], vec![0, 0, 1, 2, 3, 1]).is_empty(), "integers are no weights");
    assert!(codes(safetensors::Dtype::F32, &[3, 1], f32s([0.0, 1.0, 2.0])).is_empty(), "a column has no rows");
    assert!(codes(safetensors::Dtype::F32, &[3], f32s([0.0, 1.0, 2.0])).is_empty(), "nor has a vector");
    // One value is not called constant.
    assert!(codes(safetensors::Dtype::F32, &[1], f32s([2.0])).is_empty());
    assert!(codes(safetensors::Dtype::F32, &[0], vec![]).is_empty());
    assert!(codes(safetensors::Dtype::F32, &[2], f32s([0.0, f32::NAN])).iter().all(|code| *code == "stats-nan"));
    assert!(codes(safetensors::Dtype::F32, &[2], f32s([0.0, f32::INFINITY])).iter().all(|code| *code == "stats-inf"));
}

/// A matrix of ones and minus ones, a row of zeros, and a row of 256 whose last values lie in the next span of elements.
#[test]
fn rows_are_found_in_every_type_and_across_spans() {
    let expected = |rows: usize, dead: usize, row: usize, value: u32| {
        vec![
            ("stats-dead-rows", Severity::Note, format!("{dead} of {rows} rows are all zeros")),
            (
                "stats-outlier-rows",
                Severity::Note,
                format!("1 of {rows} rows far above the median: row {row} reaches {value}, {value} times the median row's maximum"),
            ),
        ]
    };
    let check = |found: Stats, expected: Vec<(&str, Severity, String)>| {
        let found = messages(&found);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (a, b) in found.iter().zip(&expected) {
            assert!(a.0 == b.0 && a.1 == b.1 && a.2.contains(&b.2), "{a:?} {b:?}");
        }
    };
    // Spans are of 4,194,304 elements, and so the first ends within row 1048. 0x38 is one, 0x78 is 256.
    let (rows, columns) = (1100, 4000);
    let mut bytes: Vec<u8> = (0..rows * columns).map(|i| if i % 2 == 0 { 0x38 } else { 0xb8 }).collect();
    bytes[1048 * columns..][..9].fill(0xf8);
    bytes[1060 * columns..][..columns].fill(0);
    check(one(safetensors::Dtype::F8_E4M3, &[rows, columns], bytes), expected(rows, 1, 1048, 256));

    let doubles = [1.0, -1.0, 0.0, 0.0, 1.0, 1.0, 1.0, -64.0, 1.0, 0.5].map(f64::to_le_bytes).concat();
    check(one(safetensors::Dtype::F64, &[5, 2], doubles), expected(5, 1, 3, 64));
    // A type without a sign: 2^(code - 127).
    let found = one(safetensors::Dtype::F8_E8M0, &[5, 2], vec![127, 127, 127, 127, 127, 126, 127, 137, 127, 127]);
    check(found, expected(5, 0, 3, 1024)[1..].to_vec());
}

#[test]
fn a_long_tensor_of_blocks_is_read_to_its_end() {
    // Q8_0 in ggml-common.h: a scale in F16, then 32 codes. Block i has the scale 1 and the codes i mod 100, all 32 of them.
    let blocks = 2400u64;
    let bytes: Vec<u8> = (0..blocks).flat_map(|i| [vec![0x00, 0x3c], vec![(i % 100) as u8; 32]].concat()).collect();
    let stored = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    std::fs::write(stored.path(), Gguf::default().tensor("x", 8, &[256, blocks / 8], bytes).build()).unwrap();
    let summary = of(stored.path(), &Options::default()).total;
    assert_eq!((summary.min, summary.max, summary.mean, summary.zeros), (0.0, 99.0, 49.5, Some(24 * 32)));
    assert!((summary.std - 833.25f64.sqrt()).abs() < 1e-12, "{}", summary.std);
}

#[test]
fn progress_is_reported_in_bytes() {
    let file =
        file(&[("a", safetensors::Dtype::F32, &[70_000], f32s(noise(70_000))), ("b", safetensors::Dtype::BF16, &[1000], vec![0; 2000])]);
    let told = std::sync::atomic::AtomicU64::new(0);
    let progress = |more, all| {
        assert_eq!(all, 282_000);
        told.fetch_add(more, std::sync::atomic::Ordering::Relaxed);
    };
    of(file.path(), &Options { progress: Some(&progress), ..Options::default() });
    assert_eq!(told.into_inner(), 282_000);
}

#[test]
fn groups_keep_to_their_extremes_and_say_what_is_exact() {
    // Just below a step of the sketch, whose middle lies outside the values.
    const EDGE: f32 = 1.007_812_4;
    let file = file(&[
        ("blk.0.a", safetensors::Dtype::F32, &[10_000], f32s(vec![EDGE; 10_000])),
        ("blk.1.a", safetensors::Dtype::F32, &[10_000], f32s(vec![-EDGE; 10_000])),
        ("blk.2.a", safetensors::Dtype::I8, &[3], vec![1, 2, 3]),
        ("blk.2.b", safetensors::Dtype::F32, &[0], vec![]),
        ("blk.3.a", safetensors::Dtype::I8, &[3], vec![1, 2, 3]),
        ("blk.3.b", safetensors::Dtype::F32, &[2], f32s([f32::INFINITY; 2])),
    ]);
    let found = of(file.path(), &Options { by: GroupBy::Layer, ..Options::default() });
    let groups = found.groups.unwrap();
    let of = |name: &str| &groups.iter().find(|group| group.name == name).unwrap().summary;
    assert_eq!(of("0").percentiles.values, [f64::from(EDGE); 9]);
    assert_eq!(of("1").percentiles.values, [-f64::from(EDGE); 9]);
    assert_eq!(of("2").percentiles.relative_error, 0.0);
    assert_eq!(of("3").percentiles.relative_error, 1.0 / 256.0);
    assert_eq!((of("3").inf, of("3").max), (Some(2), 3.0));
    // Integers and singles are in one histogram.
    assert_eq!(found.total.histogram.linear.counts.to_vec().iter().sum::<u64>(), 20_006);
}

#[test]
fn a_layer_is_compared_with_three_on_each_side() {
    let flagged = |scales: &[f32]| {
        let names: Vec<String> = (0..scales.len()).map(|layer| format!("blk.{layer}.w")).collect();
        let tensors: Vec<_> =
            names.iter().zip(scales).map(|(name, &s)| (name.as_str(), safetensors::Dtype::F32, &[4][..], f32s([s, -s, s, -s]))).collect();
        let found = of(file(&tensors).path(), &Options::default());
        let found: Vec<_> = found.findings.into_iter().filter(|finding| finding.code == "stats-scale").collect();
        assert!(found.iter().all(|finding| finding.severity == Severity::Note));
        found.into_iter().map(|finding| (finding.tensor.unwrap(), finding.message)).collect::<Vec<_>>()
    };
    let [(name, message)] = &flagged(&[10.0, 1.0, 2.0, 1.0])[..] else { panic!("three others are enough") };
    assert!(name == "blk.0.w" && message.contains("root mean square 10, 10.00 times that of neighbouring layers"), "{name}: {message}");
    assert!(flagged(&[10.0, 1.0, 1.0]).is_empty(), "two others are too few");
    assert!(flagged(&[0.0, 0.0, 1.0, 0.0, 0.0]).is_empty(), "nothing is so many times zero");
    assert!(flagged(&[1.0, 1.0, 0.0, 1.0, 1.0]).is_empty(), "zeros have a finding of their own");
    // Layer 0 sees the layers 1 to 3 alone: the median of 1, 8, 8.
    assert_eq!(flagged(&[1.0, 1.0, 8.0, 8.0, 8.0]).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["blk.0.w", "blk.1.w"]);
}

#[test]
fn statistics_per_row_match_numpy() {
    // numpy: x.mean(1), x.std(1), ...; longer than what is summed at a time. Row r counts 10 r, 10 r + 1, 10 r + 2, 10 r + 3, over and over.
    let mut values: Vec<f32> = (0..3 * 5000).map(|i| (10 * (i / 5000) + i % 4) as f32).collect();
    values.extend([f32::NAN; 5000]);
    values[2500] = f32::INFINITY;
    let file = file(&[("a", safetensors::Dtype::F32, &[4, 5000], f32s(values))]);
    let reader = weigh::format::open(file.path()).unwrap();
    let rows = weigh::ops::stats::rows(&reader, &Options::default()).unwrap().rows;
    assert_eq!((rows.len(), rows[0].inf, rows[0].zeros, rows[0].nan), (4, 1, 1249, 0));
    for (row, (min, max, mean, squares)) in [(1, (10.0, 13.0, 11.5, 534.0_f64)), (2, (20.0, 23.0, 21.5, 1854.0))] {
        let found = &rows[row];
        assert_eq!((found.row, found.min, found.max, found.mean, found.abs_max), (row as u64, min, max, mean, max));
        assert!((found.std - 1.25f64.sqrt()).abs() < 1e-12 && (found.l2 - (1250.0 * squares).sqrt()).abs() < 1e-9, "{found:?}");
    }
    assert_eq!((rows[3].nan, rows[3].zeros), (5000, 0));
    assert!([rows[3].min, rows[3].max, rows[3].mean, rows[3].l2].iter().all(|value| value.is_nan()));

    // Complex numbers: both parts are values.
    let parts = (0..2 * 3000).flat_map(|i| [(i % 4) as f32, -((i % 4) as f32)]);
    let header = r#"{"c":{"dtype":"C64","shape":[2,3000],"data_offsets":[0,48000]}}"#;
    let complex = tempfile::Builder::new().suffix(".safetensors").tempfile().unwrap();
    std::fs::write(complex.path(), crate::build::safetensors(header, &f32s(parts))).unwrap();
    let reader = weigh::format::open(complex.path()).unwrap();
    for row in weigh::ops::stats::rows(&reader, &Options::default()).unwrap().rows {
        assert_eq!((row.min, row.max, row.mean, row.zeros, row.l2), (-3.0, 3.0, 0.0, 1500, 21000f64.sqrt()));
        assert!((row.std - 3.5f64.sqrt()).abs() < 1e-15);
    }
}

/// What the program prints.
fn printed(args: &[&str]) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_weigh"));
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The message of a command that fails.
fn refusal(args: &[&str]) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_weigh"));
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Measures a model in parts, on different numbers of threads, and returns their files.
fn in_parts(at: &std::path::Path, args: &[&str], count: usize) -> Vec<String> {
    let part = |number: usize| {
        let (part, threads) = (format!("{number}/{count}"), (number % 3 + 1).to_string());
        let text = printed(&[&["stats"], args, &["--part", &part, "--json", "--threads", &threads]].concat());
        let path = at.join(format!("{number}.json"));
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    // Out of order.
    (1..=count).rev().map(part).collect()
}

#[test]
fn joined_parts_are_the_whole_to_the_last_digit() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    // Values that JSON has no number for, squares that overflow, and layers of which one is far off.
    let mut tensors: Vec<_> = (0..9)
        .map(|layer| {
            let scale = if layer == 4 { 100.0 } else { 1.0 };
            let values = (0..20_000).flat_map(|i| (((i * 7919 + layer * 31) % 1009) as f32 / 1009.0 * scale - 0.3).to_le_bytes());
            crate::build::tensor(&format!("layers.{layer}.w"), weigh::DType::F32, &[100, 200], values.collect())
        })
        .collect();
    let huge = [f64::MAX, f64::NAN, f64::INFINITY, -0.0, 1e300].iter().flat_map(|value| value.to_le_bytes()).collect();
    tensors.push(crate::build::tensor("huge", weigh::DType::F64, &[5], huge));
    tensors.push(crate::build::tensor("none", weigh::DType::F32, &[1], f32::NAN.to_le_bytes().to_vec()));
    tensors.push(crate::build::tensor("empty", weigh::DType::F16, &[0], vec![]));
    let path = at.join("m.safetensors");
    crate::build::write("safetensors", &path, &tensors, &weigh::model::Metadata::new(), None);
    let odd = path.to_str().unwrap();
    for args in [
        &[odd][..],
        &["fixtures/llama-tiny"],
        &["fixtures/llama-tiny-q8_0.gguf", "--filter", "blk.*", "--limit", "3", "--sort", "size"],
        &["fixtures/quants.safetensors", "--sample", "--threshold", "0.01", "--outlier", "2"],
        &["fixtures/packed"],
        &["fixtures/packed", "--stored"],
    ] {
        let whole = printed(&[&["stats"], args, &["--json"]].concat());
        for count in [1, 2, 7] {
            let files = in_parts(at, args, count);
            let files: Vec<&str> = files.iter().map(String::as_str).collect();
            let joined = printed(&[&["stats", "--join", "--json"], &files[..]].concat());
            assert!(joined == whole, "{args:?} in {count} parts:\n{joined}\n{whole}");
        }
    }
}

#[test]
fn parts_of_statistics_that_do_not_belong_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let model = "fixtures/llama-tiny";
    let files = in_parts(at, &[model], 3);
    let join = |files: &[&str]| refusal(&[&["stats", "--join", "--json"], files].concat());
    let [third, second, first] = [&files[0], &files[1], &files[2]];
    assert!(join(&[first, third]).contains("part 2/3 is missing"));
    assert!(join(&[first, second, third, second]).contains("part 2/3 is present twice"));
    let other = at.join("other");
    std::fs::create_dir(&other).unwrap();
    for (args, name) in [
        (&[model, "--threshold", "0.5"][..], "threshold"),
        (&["fixtures/llama-tiny-q8_0.gguf"], "model"),
        (&[model, "--filter", "*.0.*"], "filter"),
    ] {
        let strange = &in_parts(&other, args, 3)[1];
        assert!(join(&[first, strange, third]).contains("of another model or has other options"), "{name}");
    }
    let strange = &in_parts(&other, &[model], 2)[0];
    assert!(join(&[first, strange]).contains("of another model or has other options"));
    let text = std::fs::read_to_string(second).unwrap();
    for (from, to, message) in [
        ("weigh.stats-part.v1", "weigh.stats.v1", "expected a part of statistics"),
        ("\"part\": 2", "\"part\": 9", "expected a part from 1/N"),
        ("\"sums\"", "\"summe\"", "expected a part of statistics"),
        ("\"index\": ", "\"index\": 1", "expected each tensor in one part"),
    ] {
        std::fs::write(second, text.replace(from, to)).unwrap();
        let error = join(&[first, second, third]);
        assert!(error.contains(message), "{error}");
    }
    assert!(refusal(&["stats", model, "--part", "1/2"]).contains("add --json"));
    assert!(refusal(&["stats", model, model, "--part", "1/2", "--json"]).contains("--part takes one model"));
    assert!(refusal(&["stats", model, "--part", "1/2", "--json", "--by", "layer"]).contains("cannot be used with"));
    assert!(refusal(&["stats", "--join", "--json", model]).contains("fixtures/llama-tiny"));
}
