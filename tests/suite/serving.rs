//! Weights packed for engines that serve safetensors, against what the engines' own quantisers write (fixtures/serving/).

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use weigh::{DType, format};

use crate::build;

const MAKER: &str = "fixtures/serving";

fn expected(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(MAKER).join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The weights that make.py makes of a name, as bytes of the type.
fn weights(name: &str, shape: &[u64], dtype: DType) -> Vec<u8> {
    let mantissa = match dtype {
        DType::BF16 => 7,
        DType::F16 => 10,
        _ => 23,
    };
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let special = ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.down_proj.weight"].contains(&name);
    let (small, large) = if dtype == DType::F16 { (-6, 10) } else { (-110, 20) };
    let columns = *shape.last().unwrap();
    let mut bytes = Vec::new();
    for i in 0..shape.iter().product::<u64>() {
        let mut z = hash.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let whole = (z & ((1 << mantissa) - 1)) + (1 << mantissa);
        let exponent = -4 - mantissa - (z >> 32 & 3) as i32;
        let value = whole as f32 * 2f32.powi(exponent) * if z >> 63 == 1 { -1.0 } else { 1.0 };
        let value = match (special, i / columns, i % columns) {
            (true, 3, _) | (true, 5, ..32) => 0.0,
            (true, 7, _) => -0.0,
            (true, 9, _) => value * 2f32.powi(small),
            (true, 11, _) => value * 2f32.powi(large),
            _ => value,
        };
        match dtype {
            DType::BF16 => bytes.extend(half::bf16::from_f32(value).to_le_bytes()),
            DType::F16 => bytes.extend(half::f16::from_f32(value).to_le_bytes()),
            _ => bytes.extend(value.to_le_bytes()),
        }
    }
    bytes
}

/// Writes a folder with a config and weights of these shapes.
fn write_model(folder: &Path, config: &Value, shapes: &[(String, Vec<u64>)], dtype: DType) {
    let (mut header, mut data) = (String::from("{"), Vec::new());
    for (name, shape) in shapes {
        let start = data.len();
        data.extend(weights(name, shape, dtype));
        let comma = if start == 0 { "" } else { "," };
        write!(header, "{comma}{:?}:{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{start},{}]}}", name, data.len())
            .unwrap();
    }
    header.push('}');
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    fs::write(folder.join("model.safetensors"), build::safetensors(&header, &data)).unwrap();
}

fn shapes(of: &Value) -> Vec<(String, Vec<u64>)> {
    of.as_object().unwrap().iter().map(|(name, shape)| (name.clone(), serde_json::from_value(shape.clone()).unwrap())).collect()
}

/// Writes the model of the references.
fn write_reference_model(folder: &Path, dtype: DType) {
    let of = expected("expected.json");
    write_model(folder, &of["config"], &shapes(&of["shapes"]), dtype);
}

/// Runs a command: exit status, standard output, standard error.
fn run(arguments: &[&str]) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = weigh::cli::run(["weigh"].iter().chain(arguments), &mut out, &mut err);
    let status = (0..3).find(|code| status == ExitCode::from(*code)).unwrap();
    (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn json(arguments: &[&str]) -> Value {
    let (status, out, err) = run(&[&["--json"], arguments].concat());
    assert!(status < 2, "{arguments:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

/// Converts a model, and returns the output.
fn convert(input: &Path, options: &[&str]) -> PathBuf {
    let out = input.with_file_name(format!("out-{}", options.join("-").replace(['/', ' ', '.'], "_")));
    let mut arguments = vec!["convert", input.to_str().unwrap(), out.to_str().unwrap()];
    arguments.extend(options);
    let (status, _, err) = run(&arguments);
    assert_eq!((status, err.as_str()), (0, ""), "{options:?}");
    out
}

/// The SHA-256 over all tensors, by name: name, type, shape and bytes.
fn digest(model: &Path) -> String {
    let reader = format::open(model).unwrap();
    let mut tensors: Vec<_> = reader.model().tensors.iter().collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let mut hasher = Sha256::new();
    for tensor in tensors {
        hasher.update(format!("{} {} {:?}\n", tensor.name, tensor.elem, tensor.shape));
        hasher.update(reader.bytes(tensor).unwrap());
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn config(model: &Path) -> Value {
    serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap()
}

/// The options for each scheme of llm-compressor.
const SCHEMES: [(&str, &[&str]); 19] = [
    ("FP8_DYNAMIC", &["--type", "FP8"]),
    ("FP8 tensor", &["--type", "FP8", "--scale", "tensor"]),
    ("FP8_BLOCK", &["--type", "FP8_BLOCK"]),
    ("INT8", &["--type", "INT8"]),
    ("INT8 32", &["--type", "INT8", "--group-size", "32"]),
    ("INT8 32 asymmetric", &["--type", "INT8", "--group-size", "32", "--asymmetric"]),
    ("INT8 channel asymmetric", &["--type", "INT8", "--asymmetric"]),
    ("W8A16", &["--type", "W8A16"]),
    ("W4A16", &["--type", "INT4"]),
    ("W4A16_ASYM", &["--type", "INT4", "--asymmetric"]),
    ("INT4 32", &["--type", "INT4", "--group-size", "32"]),
    ("INT4 64 asymmetric", &["--type", "INT4", "--group-size", "64", "--asymmetric"]),
    ("INT4 channel", &["--type", "INT4", "--scale", "channel"]),
    ("INT4 channel asymmetric", &["--type", "INT4", "--scale", "channel", "--asymmetric"]),
    ("NVFP4A16", &["--type", "NVFP4"]),
    ("MXFP4", &["--type", "MXFP4"]),
    ("MXFP4A16", &["--type", "MXFP4A16"]),
    ("MXFP8", &["--type", "MXFP8"]),
    ("MXFP8A16", &["--type", "MXFP8A16"]),
];

#[test]
fn packed_weights_are_those_of_llm_compressor() {
    let all = expected("expected.json");
    assert_eq!(all["tensors"].as_object().unwrap().len(), SCHEMES.len());
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        let input = folder.path().join(dtype.to_string()).join("in");
        write_reference_model(&input, dtype);
        for (scheme, options) in SCHEMES {
            let out = convert(&input, options);
            if digest(&out) != all["tensors"][scheme][dtype.name()].as_str().unwrap() {
                wrong.push(format!("{scheme} of {dtype}"));
            }
            let mut wanted = all["config"].clone();
            wanted["quantization_config"] = all["quantization_config"][scheme].clone();
            assert_eq!(config(&out), wanted, "{scheme}");
        }
    }
    if let Some(keep) = std::env::var_os("WEIGH_KEEP") {
        let _ = fs::rename(folder.path(), keep);
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn packed_weights_are_those_of_mlx() {
    let all = expected("expected-mlx.json");
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        let input = folder.path().join(dtype.to_string()).join("in");
        write_reference_model(&input, dtype);
        for (mode, quantization) in all["quantization"].as_object().unwrap() {
            let parts: Vec<&str> = mode.split(' ').collect();
            let name = if parts[0] == "affine" { format!("INT{}", parts[1]) } else { parts[0].to_uppercase() };
            let out = convert(&input, &["--to", "mlx", "--type", &name, "--group-size", parts[2]]);
            if digest(&out) != all["tensors"][mode][dtype.name()].as_str().unwrap() {
                wrong.push(format!("{mode} of {dtype}"));
            }
            let found = config(&out);
            assert_eq!((&found["quantization"], &found["quantization_config"]), (quantization, quantization), "{mode}");
            assert_eq!(format::open(&out).unwrap().model().metadata.get("format").unwrap().as_str(), Some("mlx"));
        }
    }
    if let Some(keep) = std::env::var_os("WEIGH_KEEP") {
        let _ = fs::rename(folder.path(), keep);
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// A small model without a reference.
fn write_small(folder: &Path, shapes: &[(&str, &[u64])], dtype: DType) {
    let shapes: Vec<_> = shapes.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect();
    write_model(folder, &json!({"model_type": "llama"}), &shapes, dtype);
}

const Q_PROJ: &str = "model.layers.0.self_attn.q_proj.weight";

#[test]
fn every_command_reads_what_was_packed() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in");
    write_reference_model(&input, DType::BF16);
    // Types, and bounds of the relative error: half a step of E4M3 is 1/16 at most, of E2M1 1/4, of integers less.
    for (options, shown, at_most) in [
        (&["--type", "FP8"][..], "FP8", 0.04),
        (&["--type", "FP8", "--scale", "tensor"], "FP8", 0.04),
        (&["--type", "FP8_BLOCK"], "FP8", 0.04),
        (&["--type", "INT8"], "INT8", 0.02),
        (&["--type", "INT8", "--group-size", "32", "--asymmetric"], "INT-8", 0.01),
        (&["--type", "INT4", "--group-size", "32"], "INT-4", 0.2),
        (&["--type", "INT4", "--asymmetric"], "INT-4", 0.2),
        (&["--type", "NVFP4"], "NVFP4", 0.2),
        (&["--type", "MXFP4"], "MXFP4", 0.25),
        (&["--type", "MXFP8"], "MXFP8", 0.06),
        (&["--to", "mlx", "--type", "INT4"], "MLX-4", 0.2),
        (&["--to", "mlx", "--type", "INT3", "--group-size", "32"], "MLX-3", 0.3),
        (&["--to", "mlx", "--type", "MXFP8"], "MXFP8", 0.06),
    ] {
        let out = convert(&input, options);
        let out = out.to_str().unwrap();
        let name = "model.layers.1.self_attn.o_proj.weight";
        let info = json(&["info", out]);
        assert!(info["packing"]["unresolved"] == 0 && info["packing"]["resolved"].as_u64() >= Some(14), "{options:?}: {}", info["packing"]);
        assert_eq!(run(&["verify", out, "--data"]).0, 0, "{options:?}");
        let diff = json(&["diff", input.to_str().unwrap(), out]);
        let verdict = diff["verdict"]["text"].as_str().unwrap();
        assert!(verdict.contains(&format!("a quantisation of the same weights ({shown}")), "{options:?}: {verdict}");
        let row = diff["tensors"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
        let error = row["relative_rmse"].as_f64().unwrap();
        assert!(error > 0.0 && error < at_most, "{options:?}: {error}");
        // The conversion has measured the same.
        let again = folder.path().join("again");
        let mut arguments = vec!["convert", input.to_str().unwrap(), again.to_str().unwrap(), "--force"];
        arguments.extend(options);
        let report = json(&arguments);
        let tensors = report["tensors"].as_array().unwrap();
        let own = tensors.iter().find(|row| row["name"].as_str().unwrap().starts_with(name.strip_suffix("weight").unwrap())).unwrap();
        let measured = own["quality"]["relative_rmse"].as_f64().unwrap();
        assert!((measured - error).abs() < 1e-3 * error, "{options:?}: {measured}, by diff {error}");
        let hashed = json(&["hash", "--content", out]);
        // What is hashed of packed weights is what is stored.
        let start = name.strip_suffix("weight").unwrap();
        let of_it = |row: &Value| row["name"].as_str().is_some_and(|name| name.starts_with(start));
        assert!(hashed["tensors"].as_array().unwrap().iter().any(of_it), "{options:?}");
        assert_eq!(hashed["tensors"], json(&["hash", "--content", again.to_str().unwrap()])["tensors"], "{options:?}");
        let stats = json(&["stats", out]);
        assert!(stats["tensors"].as_array().unwrap().iter().any(|row| row["name"] == name), "{options:?}");
    }
}

#[test]
fn shards_parts_and_threads_give_the_same_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in");
    write_reference_model(&input, DType::BF16);
    for name in ["NVFP4", "FP8_BLOCK", "W4A16_ASYM"] {
        let whole = digest(&convert(&input, &["--type", name]));
        for options in [&["--shard-size", "30KB", "--verify"][..], &["--threads", "1"], &["--threads", "2", "--no-quality"]] {
            let out = convert(&input, &[&["--type", name], options].concat());
            assert_eq!(digest(&out), whole, "{name} {options:?}");
        }
        let parts = folder.path().join(format!("parts-{name}"));
        let parts = parts.to_str().unwrap();
        for part in ["1/3", "2/3", "3/3"] {
            let arguments = ["convert", input.to_str().unwrap(), parts, "--type", name, "--shard-size", "30KB", "--part", part];
            assert_eq!(run(&arguments).0, 0, "{name} {part}");
        }
        assert_eq!(run(&["convert", "--join", parts]).0, 0, "{name}");
        assert_eq!(digest(Path::new(parts)), whole, "{name} in parts");
    }
}

#[test]
fn a_dry_run_lists_every_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in");
    write_small(&input, &[(Q_PROJ, &[32, 64]), ("model.embed_tokens.weight", &[8, 64]), ("model.norm.weight", &[64])], DType::F16);
    let out = folder.path().join("out");
    let plan = json(&["convert", input.to_str().unwrap(), out.to_str().unwrap(), "--type", "NVFP4", "--dry-run"]);
    assert!(!out.exists());
    let rows: Vec<Value> =
        plan["tensors"].as_array().unwrap().iter().map(|row| json!([row["name"], row["to"], row["shape"], row["packing"]])).collect();
    let stem = "model.layers.0.self_attn.q_proj.weight";
    assert_eq!(
        Value::from(rows),
        json!([
            [format!("{stem}_packed"), "U8", [32, 32], "NVFP4"],
            [format!("{stem}_scale"), "F8_E4M3", [32, 4], null],
            [format!("{stem}_global_scale"), "F32", [1], null],
            ["model.embed_tokens.weight", "F16", [8, 64], null],
            ["model.norm.weight", "F16", [64], null],
        ])
    );
}

#[test]
fn what_is_no_linear_layer_stays_and_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in");
    let tensors: &[(&str, &[u64])] = &[
        ("lm_head.weight", &[8, 64]),
        ("model.layers.0.mlp.experts.0.up_proj.weight", &[16, 64]),
        ("model.layers.0.mlp.gate.weight", &[4, 64]),
        ("model.layers.0.self_attn.q_proj.bias", &[16]),
        ("model.layers.1.mlp.experts.gate_up_proj", &[2, 32, 64]),
        ("model.layers.1.self_attn.q_proj.weight", &[16, 64]),
        ("model.visual.blocks.0.attn.qkv.weight", &[16, 64]),
        ("model.visual.patch_embed.proj.weight", &[16, 3, 2, 2]),
    ];
    write_small(&input, tensors, DType::BF16);
    let out = convert(&input, &["--type", "FP8", "--tensor-type", "layers.1.self_attn=BF16"]);
    let ignored = [
        "lm_head",
        "model.layers.0.mlp.gate",
        "model.layers.1.mlp.experts",
        "model.layers.1.self_attn.q_proj",
        "model.visual.blocks.0.attn.qkv",
    ];
    assert_eq!(config(&out)["quantization_config"]["ignore"], json!(ignored));
    let reader = format::open(&out).unwrap();
    let found: Vec<&str> =
        reader.model().tensors.iter().filter(|tensor| tensor.elem == DType::F8_E4M3.into()).map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(found, ["model.layers.0.mlp.experts.0.up_proj.weight"]);
}

#[test]
fn bad_requests_are_one_line_each() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in");
    write_small(&input, &[(Q_PROJ, &[32, 72]), ("model.norm.weight", &[72])], DType::BF16);
    let nan = folder.path().join("nan");
    write_small(&nan, &[(Q_PROJ, &[32, 64])], DType::F32);
    let file = nan.join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    let packed = convert(&nan.with_file_name("in"), &["--type", "FP8"]);
    let experts = folder.path().join("experts");
    write_small(&experts, &[("model.layers.0.mlp.experts.3.up_proj.weight", &[32, 64])], DType::BF16);
    let norms = folder.path().join("norms");
    write_small(&norms, &[("model.norm.weight", &[64])], DType::BF16);
    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for (input, out, options, message) in [
        (&input, "a.gguf", &["--type", "FP8"][..], "gguf does not support FP8, which engines that serve safetensors read"),
        (&input, "a.gguf", &["--type", "MXFP4", "--group-size", "32"], "a group size requires safetensors output, found gguf"),
        (&input, "a", &["--group-size", "32"], "a group size requires a type, such as FP8 or INT4"),
        (&input, "a", &["--asymmetric"], "zero points requires a type, such as FP8 or INT4"),
        (&input, "a", &["--to", "mlx"], "the layout of MLX requires a type, such as FP8 or INT4"),
        (
            &input,
            "a",
            &["--type", "BF16", "--scale", "tensor"],
            "the reach of a scale requires a type with scales of its own, such as FP8, found BF16",
        ),
        (&input, "a", &["--type", "FP8", "--scale", "row"], "expected a scale per tensor, channel or block128, found row"),
        (&input, "a", &["--type", "FP8", "--group-size", "32"], "a group size requires a type of integers, found FP8"),
        (&input, "a", &["--type", "FP8", "--asymmetric"], "zero points require a type of integers, found FP8"),
        (&input, "a", &["--type", "INT4", "--scale", "tensor"], "INT4 cannot have a scale per tensor"),
        (&input, "a", &["--type", "INT4", "--scale", "channel", "--group-size", "32"], "give either a group size"),
        (&input, "a", &["--type", "INT4", "--group-size", "0"], "expected a group size of 1 or more, found 0"),
        (&input, "a", &["--type", "W8A8", "--group-size", "8"], "W8A8 has a scale per channel and no zero points"),
        (&input, "a", &["--type", "INT3"], "INT3 is a type of MLX, which compressed-tensors does not have"),
        (&input, "a", &["--to", "mlx", "--type", "FP8"], "expected a type such as INT2, INT3, INT4, found FP8"),
        (&input, "a", &["--to", "mlx", "--type", "INT4", "--group-size", "16"], "expected a group size of 32, 64 or 128 for MLX, found 16"),
        (&input, "a", &["--to", "mlx", "--type", "MXFP4", "--group-size", "16"], "MXFP4 has a scale per group32"),
        (&input, "a", &["--to", "mlx", "--type", "INT4", "--asymmetric"], "MLX's integers always have a bias per group"),
        (&input, "a", &["--type", "NVFP4"], "cannot be stored as NVFP4: rows of 72 values are not a multiple of its groups of 16"),
        (&input, "a", &["--type", "INT4"], "cannot be stored as INT4: rows of 72 values are not a multiple of its groups of 128"),
        (&input, "a.safetensors", &["--type", "FP8"], "FP8 needs a folder: config.json says how the weights are packed"),
        (&packed, "a", &["--type", "INT8"], "already quantised as FP8: requantising to INT8 compounds the error"),
        (&nan, "a", &["--type", "FP8"], "expected finite weights, found infinity or NaN"),
        (&experts, "a", &["--to", "mlx", "--type", "INT4"], "mlx-lm has the experts of this model under other names"),
        (&norms, "a", &["--type", "FP8"], "the model has no linear layer that could be packed as FP8"),
    ] {
        let out = place(out);
        let mut arguments = vec!["convert", input.to_str().unwrap(), &out];
        arguments.extend(options);
        let (status, printed, error) = run(&arguments);
        assert!(
            status > 0 && printed.is_empty() && error.lines().filter(|line| !line.starts_with("hint: ")).count() == 1,
            "{options:?}: {error}"
        );
        assert!(error.contains(message), "{options:?}: {error}");
        assert!(!Path::new(&out).exists(), "{options:?}");
    }
    let again = convert(&packed, &["--type", "INT8", "--allow-requantize"]);
    assert_eq!(config(&again)["quantization_config"]["format"], "int-quantized");
}
