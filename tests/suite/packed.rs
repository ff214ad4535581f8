//! Weights that other libraries packed, against values made with those libraries' code or published formulas.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use weigh::model::Metadata;
use weigh::quant::packed::{Packing, Role, unpacked};
use weigh::{DType, codec, format};

use crate::build;

fn fixture(name: &str) -> weigh::format::Reader {
    format::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)).unwrap()
}

fn values(reader: &weigh::format::Reader, name: &str) -> Vec<f32> {
    let tensor = reader.model().tensor(name).unwrap_or_else(|| panic!("{name} is there"));
    let mut values = vec![0.0; tensor.elements().unwrap() as usize];
    (codec::codec(tensor.elem.known().unwrap()).unwrap().decode)(&reader.bytes(tensor).unwrap(), &mut values);
    values
}

#[test]
fn every_scheme_unpacks_to_the_reference() {
    let expected = fixture("packed-expected.safetensors");
    let reader = unpacked(fixture("packed")).unwrap();
    let mut names: Vec<_> = reader.model().tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    names.sort_unstable();
    let mut wanted: Vec<_> = expected.model().tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    wanted.sort_unstable();
    assert_eq!(names, wanted);
    for name in names {
        let (tensor, reference) = (reader.model().tensor(name).unwrap(), expected.model().tensor(name).unwrap());
        assert_eq!(tensor.shape, reference.shape, "{name}");
        for (i, (a, b)) in values(&reader, name).into_iter().zip(values(&expected, name)).enumerate() {
            assert!((a - b).abs() <= 2e-7 * b.abs(), "{name}[{i}]: {a}, expected {b}");
        }
    }
}

#[test]
fn any_range_reads_the_same_bytes() {
    let reader = unpacked(fixture("packed")).unwrap();
    for tensor in &reader.model().tensors {
        let all = reader.bytes(tensor).unwrap();
        let len = all.len() as u64;
        for (start, end) in [(0, len), (4, len.min(404)), (len / 2 + 1, len - 3), (len, len)] {
            if start <= end {
                let part = reader.bytes_at(tensor, start..end).unwrap();
                assert_eq!(part, &all[start as usize..end as usize], "{} {start}..{end}", tensor.name);
            }
        }
    }
}

#[test]
fn weights_count_and_bookkeeping_does_not() {
    let reader = fixture("packed");
    let packing = Packing::detect(&reader);
    let model = reader.model();
    let parameters: u64 = (0..model.tensors.len()).map(|i| packing.parameters(model, i).unwrap()).sum();
    let expected: u64 = fixture("packed-expected.safetensors").model().tensors.iter().map(|tensor| tensor.elements().unwrap()).sum();
    assert_eq!(parameters, expected);
    let plain: Vec<_> = (0..model.tensors.len()).filter(|&i| packing.role(i) == Role::Plain).map(|i| &model.tensors[i].name).collect();
    assert_eq!(plain, ["norm.weight"]);
    let shown: Vec<String> = packing.shown().iter().map(|(shown, _)| shown.to_string()).collect();
    let wanted = ["MLX-4", "MLX-6", "AWQ-4", "INT-4", "INT-8", "GPTQ-3", "GPTQ-4", "GPTQ-8", "FP8", "INT8", "MXFP4", "FP4", "NF4", "NVFP4"];
    assert_eq!(shown, wanted);
}

#[test]
fn packed_weights_convert_like_any_others() {
    let folder = tempfile::tempdir().unwrap();
    let (out, packed) = (folder.path().join("out/"), Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/packed"));
    let mut err = Vec::new();
    let arguments = ["weigh", "convert", packed.to_str().unwrap(), &format!("{}/", out.display())];
    let _ = weigh::cli::run(arguments, &mut Vec::new(), &mut err);
    assert_eq!(String::from_utf8(err).unwrap(), "");
    let (found, expected) = (format::open(&out).unwrap(), fixture("packed-expected.safetensors"));
    assert!(found.model().config.as_ref().unwrap().get("quantization_config").is_none(), "it is no longer quantised");
    for tensor in &expected.model().tensors {
        assert_eq!(found.model().tensor(&tensor.name).unwrap().shape, tensor.shape);
        for (a, b) in values(&found, &tensor.name).into_iter().zip(values(&expected, &tensor.name)) {
            assert_eq!(a, half::f16::from_f32(b).to_f32(), "{}", tensor.name);
        }
    }
}

/// Runs a command with JSON: the exit status, what it said on standard error, and the document.
fn json(arguments: &[&str]) -> (u8, String, Value) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = weigh::cli::run(["weigh", "--json"].iter().chain(arguments), &mut out, &mut err);
    let status = (0..3).find(|code| status == ExitCode::from(*code)).unwrap();
    (status, String::from_utf8(err).unwrap(), serde_json::from_slice(&out).unwrap_or_default())
}

fn path(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name).to_str().unwrap().to_owned()
}

#[test]
fn weights_are_those_of_the_library_that_packed_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/schemes");
    let mut folders: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    assert!(folders.len() >= 35, "{}", folders.len());
    for folder in folders {
        let expected = format::open(&folder.join("expected.safetensors")).unwrap();
        let stored = format::open(&folder).unwrap();
        let packing = Packing::detect(&stored).summary(stored.model()).unwrap();
        assert_eq!((packing.unresolved, packing.warning()), (0, None), "{}", folder.display());
        let reader = unpacked(stored).unwrap();
        assert_eq!(reader.model().tensors.len(), expected.model().tensors.len(), "{}", folder.display());
        let claims = ["quantization_config", "quantization", "expert_dtype"];
        let config = reader.model().config.as_ref();
        assert!(claims.iter().all(|key| config.is_none_or(|config| config.get(key).is_none())), "{}", folder.display());
        for tensor in &expected.model().tensors {
            let found = reader.model().tensor(&tensor.name).unwrap_or_else(|| panic!("{}: {}", folder.display(), tensor.name));
            assert_eq!(found.shape, tensor.shape, "{}: {}", folder.display(), tensor.name);
            for (i, (a, b)) in values(&reader, &tensor.name).into_iter().zip(values(&expected, &tensor.name)).enumerate() {
                assert!((a - b).abs() <= 2e-7 * b.abs(), "{}: {}[{i}]: {a}, expected {b}", folder.display(), tensor.name);
            }
        }
        // A range in the middle is what the whole has there, whatever rows it cuts.
        for tensor in &reader.model().tensors {
            let all = reader.bytes(tensor).unwrap();
            let (start, end) = (all.len() / 3 / 4 * 4, all.len() / 2 / 4 * 4);
            assert_eq!(reader.bytes_at(tensor, start as u64..end as u64).unwrap(), &all[start..end], "{}", folder.display());
        }
    }
}

/// AutoAWQ's WQLinear_GEMVFast: I16 [outputs / 4, inputs], and scales and zero points [groups filled up to 8, outputs].
#[test]
fn awq_in_the_fast_layout_is_counted() {
    for (outputs, parameters) in [(64, Value::from(8_192)), (60, Value::Null)] {
        let folder = tempfile::tempdir().unwrap();
        let config = r#"{"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemv_fast"}}"#;
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let part = |name: &str, dtype, shape: &[u64]| {
            let bytes = shape.iter().product::<u64>() as usize * 2;
            build::tensor(&format!("model.layers.0.mlp.up_proj.{name}"), dtype, shape, vec![0x3c; bytes])
        };
        let tensors =
            [part("qweight", DType::I16, &[16, 128]), part("qzeros", DType::F16, &[8, outputs]), part("scales", DType::F16, &[8, outputs])];
        build::write("safetensors", &folder.path().join("model.safetensors"), &tensors, &Metadata::new(), None);
        let (_, _, document) = json(&["count", folder.path().to_str().unwrap()]);
        assert_eq!(document["parameters"], parameters, "{outputs} outputs: {document}");
    }
}

#[test]
fn packed_models_of_public_reports_count_right() {
    let cases = [
        ("awq-gemv", 8_192, "AWQ-4"),
        ("bitnet-u8", 49_280, "BitNet"),
        ("gptq-3bit-overallocated", 12_288, "GPTQ-3"),
        ("gptq-v2-key-format", 4_096, "GPTQ-4"),
        ("gptq-v2-quantize-config", 4_096, "GPTQ-4"),
        ("ct-w8-nested-i32", 8_192, "INT-8"),
        ("ct-mxfp8", 32_768, "MXFP8"),
        ("mlx-layer-group-32", 49_152, "MLX-8"),
        ("mlx-layer-group-128", 32_768, "MLX-4"),
        ("mlx-nvfp4", 16_384, "NVFP4"),
        ("mlx-mxfp8", 16_384, "MXFP8"),
        ("mlx-switch-mlp", 78_688, "MLX-4"),
        ("comfy-scale-weight", 20_480, "FP8"),
        ("comfy-weight-scale", 20_480, "FP8"),
        ("comfy-quant", 20_480, "FP8"),
        ("nvfp4-modelopt", 115_456, "NVFP4"),
        ("nvfp4-modelopt-ref.gguf", 115_456, "NVFP4"),
    ];
    for (case, parameters, shown) in cases {
        let path = path(&format!("packed-cases/{case}"));
        for command in ["count", "info"] {
            let (_, err, document) = json(&[command, &path]);
            assert_eq!((err.as_str(), &document["parameters"]), ("", &Value::from(parameters)), "{command} {case}");
            assert_eq!(document["packing"]["unresolved"], 0, "{command} {case}");
            assert!(document["packing"]["resolved"].as_u64().unwrap() > 0, "{command} {case}");
        }
        let (_, _, stats) = json(&["stats", &path]);
        let types: Vec<_> = stats["tensors"].as_array().unwrap().iter().map(|row| row["dtype"].as_str().unwrap()).collect();
        assert!(types.contains(&shown), "{case}: {types:?}");
        let (_, _, verdict) = json(&["verify", "--data", &path]);
        assert!(!verdict["findings"].to_string().contains("data-packed"), "{case}: {verdict}");
    }
}

#[test]
fn zeros_are_looked_for_among_the_weights_that_numbers_stand_for() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({ "quantization_config": { "quant_method": "bitnet", "linear_class": "autobitlinear" } });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    // 0b01010101 is four zeros, a byte of zero four times -1.
    for (byte, zero) in [(0x55u8, true), (0, false)] {
        let scale = 1f32.to_le_bytes();
        let data = [vec![byte; 16], scale.to_vec()].concat();
        let header = r#"{"a.weight":{"dtype":"U8","shape":[2,8],"data_offsets":[0,16]},"a.weight_scale":{"dtype":"F32","shape":[1],"data_offsets":[16,20]}}"#;
        std::fs::write(folder.path().join("model.safetensors"), build::safetensors(header, &data)).unwrap();
        let (_, _, verdict) = json(&["verify", "--data", folder.path().to_str().unwrap()]);
        assert_eq!(verdict["findings"].to_string().contains("data-zero"), zero, "{verdict}");
    }
}

/// A stored tensor: its name, its type, the bytes of an element, its shape.
type Stored<'a> = (&'a str, &'a str, u64, &'a [u64]);

/// A folder with a config and tensors of zero bytes.
fn folder(config: &Value, tensors: &[Stored<'_>]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, dtype, size, shape) in tensors {
        let start = end;
        end += size * shape.iter().product::<u64>();
        header.insert((*name).to_owned(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }));
    }
    let bytes = build::safetensors(&Value::Object(header).to_string(), &vec![0; end as usize]);
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    folder
}

#[test]
fn what_only_the_shape_is_known_of_counts_and_does_not_convert() {
    // Shapes by the definitions of each library: EXL2 and EXL3 of a 256 x 128 matrix in 4 and 3 bits, AQLM of 1 x 8 groups.
    let layers: &[(&str, Value, &[Stored<'_>], u64)] = &[
        (
            "exl2",
            json!({}),
            &[
                ("a.q_weight", "I32", 4, &[16, 256]),
                ("a.q_scale", "I32", 4, &[4, 32]),
                ("a.q_scale_max", "F16", 2, &[4]),
                ("a.q_groups", "I16", 2, &[8]),
                ("a.q_invperm", "I16", 2, &[128]),
            ],
            256 * 128,
        ),
        ("exl3", json!({}), &[("a.trellis", "I16", 2, &[8, 16, 48]), ("a.suh", "F16", 2, &[128]), ("a.svh", "F16", 2, &[256])], 256 * 128),
        (
            "aqlm",
            json!({}),
            &[("a.codes", "I16", 2, &[64, 16, 1]), ("a.codebooks", "F16", 2, &[1, 256, 1, 8]), ("a.scales", "F16", 2, &[64, 1, 1, 1])],
            64 * 128,
        ),
        (
            "vptq",
            json!({ "config_for_layers": { "a": { "in_features": 128, "out_features": 64 } } }),
            &[("a.indices", "I32", 4, &[1, 16, 8]), ("a.centroids.weight", "F16", 2, &[1, 256])],
            64 * 128,
        ),
        ("eetq", json!({}), &[("a.weight", "I8", 1, &[128, 64]), ("a.weight_scales", "F16", 2, &[64])], 64 * 128),
    ];
    for (method, own, tensors, parameters) in layers {
        let mut config = own.clone();
        config["quant_method"] = Value::from(*method);
        let folder = folder(&json!({ "quantization_config": config }), tensors);
        let path = folder.path().to_str().unwrap();
        let (_, err, count) = json(&["count", path]);
        assert_eq!(count["parameters"], *parameters, "{method}: {count}");
        assert_eq!(count["packing"], json!({ "method": method, "resolved": 0, "unresolved": 1 }));
        assert!(err.contains("1 of 1 packed weights are not understood"), "{err}");
        let out = folder.path().join("out.safetensors");
        let (status, err, _) = json(&["convert", path, out.to_str().unwrap()]);
        assert!(status == 2 && err.contains("--stored") && !out.exists(), "{method}: {err}");
        let (status, _, verdict) = json(&["verify", "--data", path]);
        assert!(status == 1 && verdict["ok"] == false && verdict["findings"].to_string().contains("data-packed"), "{verdict}");
    }
}

#[test]
fn what_is_claimed_and_not_understood_is_said_by_every_command() {
    let tensors: &[Stored<'_>] = &[("a.weight", "F16", 2, &[4, 4]), ("b.weight", "U8", 1, &[8, 4]), ("b.weight_odd", "F16", 2, &[8])];
    for config in [
        json!({ "quantization_config": { "quant_method": "invented" } }),
        json!({ "text_config": { "quantization_config": { "quant_method": "invented" } } }),
        json!({}),
    ] {
        let folder = folder(&config, tensors);
        let path = folder.path().to_str().unwrap();
        for command in ["count", "info"] {
            let (_, err, document) = json(&[command, path]);
            assert_eq!((&document["parameters"], &document["label"]), (&Value::Null, &Value::from("at least 24")), "{command}");
            assert!(document["active_parameters"].is_null() && document["bits_per_weight"].is_null(), "{document}");
            assert_eq!((&document["packing"]["resolved"], &document["packing"]["unresolved"]), (&Value::from(0), &Value::from(1)));
            assert!(err.contains("the first b.weight: how many weights they stand for is not known"), "{err}");
        }
        for arguments in [&["stats", path][..], &["verify", path], &["diff", path, path], &["ls", path]] {
            let (_, err, document) = json(arguments);
            assert_eq!(document["packing"]["unresolved"], if arguments[0] == "diff" { 2 } else { 1 }, "{document}");
            assert!(arguments[0] == "ls" || err.contains("not understood"), "{arguments:?}: {err}");
        }
        let out = folder.path().join("out/");
        let (status, err, _) = json(&["convert", path, &format!("{}/", out.display())]);
        assert!(status == 2 && err.contains("hint: --stored"), "{err}");
        let (status, _, report) = json(&["convert", "--stored", path, &format!("{}/", out.display())]);
        assert_eq!((status, report["tensors"].as_array().unwrap().len()), (0, 3), "{report}");
        let (_, _, diff) = json(&["diff", path, out.to_str().unwrap()]);
        assert_eq!(diff["identical"], true, "{diff}");
    }
}

#[test]
fn other_marks_of_packing_are_seen() {
    let none = json!({});
    for (claimed, config, tensors) in [
        // UQFF numbers its tensors, and has a header of its own in each.
        ("UQFF", &none, &[("0", "U8", 1, &[64][..]), ("1", "U8", 1, &[64])][..]),
        ("an unknown method", &none, &[("a.dense_weights", "I64", 8, &[64])]),
        ("an unknown method", &none, &[("a.qweight", "I32", 4, &[8, 8])]),
        ("an unknown method", &none, &[("a.weight", "U32", 4, &[8, 8]), ("b.weight", "F16", 2, &[8, 8])]),
        // MLX: scales of another size than the config has.
        (
            "MLX",
            &json!({ "quantization": { "group_size": 64, "bits": 4 } }),
            &[("a.weight", "U32", 4, &[8, 8]), ("a.scales", "F16", 2, &[8, 5]), ("a.biases", "F16", 2, &[8, 5])],
        ),
        // FP8 that a config claims, and no scale for it.
        ("fp8", &json!({ "quantization_config": { "quant_method": "fp8" } }), &[("a.weight", "F8_E4M3", 1, &[8, 8])]),
    ] {
        let folder = folder(config, tensors);
        let (_, err, count) = json(&["count", folder.path().to_str().unwrap()]);
        assert_eq!(count["packing"]["method"], claimed, "{count}");
        assert!(count["packing"]["unresolved"].as_u64().unwrap() > 0 && err.contains("not understood"), "{count} {err}");
        // Nobody stores two FP8 numbers in one: their number is known all the same.
        assert_eq!(count["parameters"].as_u64(), (claimed == "fp8").then_some(64), "{count}");
    }
    // Whole numbers that are none of it.
    let plain = folder(&none, &[("a.weight", "F8_E4M3", 1, &[8, 8]), ("position_ids", "I32", 4, &[1, 8]), ("table", "I32", 4, &[8, 8])]);
    let (_, err, count) = json(&["count", plain.path().to_str().unwrap()]);
    assert!(err.is_empty() && count.get("packing").is_none() && !count["parameters"].is_null(), "{count} {err}");
}

#[test]
fn a_quantised_checkpoint_is_a_quantisation_of_its_base() {
    for name in ["gptq-v1", "awq-gemv-64", "ct-int4-channel", "ct-nvfp4", "mlx-affine", "ct-fp8-tensor"] {
        let packed = path(&format!("schemes/{name}"));
        // Its base: the same values, and in each row some that were between two numbers.
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("model.safetensors");
        let (status, err, _) = json(&["convert", &packed, file.to_str().unwrap(), "--type", "F32"]);
        assert_eq!((status, err.as_str()), (0, ""));
        let mut bytes = std::fs::read(&file).unwrap();
        let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for value in bytes[start..].as_chunks_mut::<4>().0.iter_mut().step_by(3) {
            *value = (f32::from_le_bytes(*value) * 1.05).to_le_bytes();
        }
        std::fs::write(&file, bytes).unwrap();
        for (a, b) in [(packed.as_str(), file.to_str().unwrap()), (file.to_str().unwrap(), packed.as_str())] {
            let (_, _, diff) = json(&["diff", a, b]);
            let text = diff["verdict"]["text"].as_str().unwrap();
            assert!(text.contains("is a quantisation of the same weights") && !text.contains("tuned"), "{name}: {text}");
            assert_eq!(diff["verdict"]["kind"], "quantised");
        }
    }
}

#[test]
fn nvfp4_goes_to_a_gguf_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (out, copy) = (folder.path().join("out.gguf"), folder.path().join("copy.gguf"));
    let (out, copy) = (out.to_str().unwrap(), copy.to_str().unwrap());
    let (modelopt, reference) = (path("packed-cases/nvfp4-modelopt"), path("packed-cases/nvfp4-modelopt-ref.gguf"));
    for (from, to) in [(modelopt.as_str(), out), (reference.as_str(), copy)] {
        let (status, err, _) = json(&["convert", from, to]);
        assert_eq!((status, err.as_str()), (0, ""));
        let (found, wanted) = (format::open(Path::new(to)).unwrap(), format::open(Path::new(&reference)).unwrap());
        assert_eq!(found.model().tensors.len(), wanted.model().tensors.len());
        for tensor in &wanted.model().tensors {
            let own = found.model().tensor(&tensor.name).unwrap_or_else(|| panic!("{}", tensor.name));
            assert_eq!((own.elem, &own.shape), (tensor.elem, &tensor.shape), "{}", tensor.name);
            assert_eq!(found.bytes(own).unwrap(), wanted.bytes(tensor).unwrap(), "{}", tensor.name);
        }
        assert_eq!(found.model().metadata.get_u64("general.file_type"), Some(39));
    }
    // The scale of the tensor counts: both sides have the same values, to the last bit.
    let (_, _, diff) = json(&["diff", &modelopt, &reference]);
    assert!(diff["tensors"].as_array().unwrap().iter().all(|row| row["equal"] == true), "{diff}");
    assert_eq!(diff["tensors"][0]["dtype_a"], diff["tensors"][0]["dtype_b"]);
    // Another type is computed with it.
    let (status, _, _) = json(&["convert", &reference, out, "--type", "F32", "--force"]);
    assert_eq!(status, 0);
    let (_, _, diff) = json(&["diff", &modelopt, out]);
    assert!(diff["tensors"].as_array().unwrap().iter().all(|row| row["equal"] == true), "{diff}");
}

#[test]
fn operations_of_the_library_see_packed_weights_as_what_they_stand_for() {
    use weigh::ops::{diff, hist, stats};
    let (packed, expected) = (fixture("packed"), fixture("packed-expected.safetensors"));
    let of = |reader: &weigh::format::Reader| stats::stats(reader, &stats::Options::default()).unwrap();
    let (found, wanted) = (of(&packed), of(&expected));
    let (found, wanted) = (found.tensors.unwrap(), wanted.tensors.unwrap());
    assert_eq!(found.len(), wanted.len());
    for wanted in &wanted {
        let found = found.iter().find(|found| found.name == wanted.name).unwrap();
        for (found, wanted) in [(found.summary.min, wanted.summary.min), (found.summary.l2, wanted.summary.l2)] {
            assert!((found - wanted).abs() <= 1e-6 * wanted.abs(), "{found} {wanted}");
        }
        let hist = hist::hist(&packed, &found.name).unwrap();
        assert_eq!(hist.percentiles, found.summary.percentiles, "{}", found.name);
    }
    let stored = stats::stats(&packed, &stats::Options { stored: true, ..stats::Options::default() }).unwrap();
    assert_eq!(stored.tensors.unwrap().len(), packed.model().tensors.len());
    let diff = diff::diff(&packed, &expected, &diff::Options { tolerance: Some(1e-6), ..diff::Options::default() }).unwrap();
    assert!(!diff.differ && diff.packings[0].is_some() && diff.packings[1].is_none(), "{:?}", diff.tolerance);
}
