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
        write!(header, "{comma}{:?}:{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{start},{}]}}", name, data.len()).unwrap();
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
    let out = input.with_file_name(format!("out-{}", options.join("-").replace(['/', ' '], "_")));
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
