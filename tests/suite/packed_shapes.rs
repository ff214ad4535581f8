//! Packed tensors described in a line each: what their shapes stand for, what does not fit, and values small enough to compute by hand.

use std::path::Path;

use serde_json::{Value, json};
use weigh::format::{self, Reader};
use weigh::quant::packed::{Packing, Role, repacked, unpacked};
use weigh::{DType, codec};

use crate::build;

/// The bytes of a tensor: numbers of its type (`3,4`, repeated to fill it), a JSON text, or zeros.
fn data(dtype: &str, count: u64, given: Option<&str>) -> Vec<u8> {
    let one = |number: &str| match dtype {
        "F32" => number.parse::<f32>().unwrap().to_le_bytes().to_vec(),
        "F16" => half::f16::from_f32(number.parse().unwrap()).to_le_bytes().to_vec(),
        "I64" => number.parse::<i64>().unwrap().to_le_bytes().to_vec(),
        "I32" | "U32" => (number.parse::<i64>().unwrap() as u32).to_le_bytes().to_vec(),
        "I16" => number.parse::<i16>().unwrap().to_le_bytes().to_vec(),
        _ => vec![number.parse::<i16>().unwrap() as u8],
    };
    match given {
        Some(text) if text.starts_with('{') => text.as_bytes().to_vec(),
        Some(numbers) => numbers.split(',').cycle().take(count as usize).flat_map(one).collect(),
        None => one("0").repeat(count as usize),
    }
}

/// A folder of tensors, written `name type shape` or `name type shape = data`, with `;` between; a shape is `2x3`, `*` for a text's
/// length. Of the config, `metadata` goes to the header, `files` to files beside it.
fn folder(mut config: Value, tensors: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut header = serde_json::Map::new();
    if let Some(metadata) = config.as_object_mut().unwrap().remove("metadata") {
        header.insert("__metadata__".to_owned(), metadata);
    }
    if let Some(Value::Object(files)) = config.as_object_mut().unwrap().remove("files") {
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content.to_string()).unwrap();
        }
    }
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let mut bytes = Vec::new();
    for tensor in tensors.split(';').map(str::trim) {
        let (left, given) = tensor.split_once(" = ").map_or((tensor, None), |(left, given)| (left, Some(given)));
        let [name, dtype, shape] = left.split(' ').collect::<Vec<_>>()[..] else { panic!("{tensor}") };
        let shape: Vec<u64> =
            if shape == "*" { vec![given.unwrap().len() as u64] } else { shape.split('x').map(|dim| dim.parse().unwrap()).collect() };
        let start = bytes.len();
        bytes.extend(data(dtype, shape.iter().product(), given));
        header.insert(name.to_owned(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, bytes.len()] }));
    }
    let file = build::safetensors(&Value::Object(header).to_string(), &bytes);
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    folder
}

fn open(config: Value, tensors: &str) -> (tempfile::TempDir, Reader) {
    let folder = folder(config, tensors);
    let reader = format::open(folder.path()).unwrap();
    (folder, reader)
}

/// What the packed weights of a model show, and their shapes: `GPTQ-4 64x32`; nothing where none is understood.
fn found(reader: &Reader) -> String {
    let shape = |shape: &[u64]| shape.iter().map(u64::to_string).collect::<Vec<_>>().join("x");
    let weights = Packing::detect(reader).weights;
    weights.iter().map(|weight| format!("{} {}", weight.shown, shape(&weight.shape))).collect::<Vec<_>>().join(" ")
}

fn quantised(own: Value) -> Value {
    json!({ "quantization_config": own })
}

fn comfy(said: Value) -> Value {
    json!({ "metadata": { "_quantization_metadata": json!({ "layers": { "a": said } }).to_string() } })
}

fn torchao(said: Value) -> Value {
    json!({ "metadata": { "a.weight": said.to_string() } })
}

fn quanto(kind: &str) -> Value {
    json!({ "files": { "quantization_map.json": { "a": { "weights": kind } } } })
}

fn groups(all: &[(u64, u64, &str)]) -> Value {
    let group =
        |&(bits, size, target): &(u64, u64, &str)| json!({ "targets": [target], "weights": { "num_bits": bits, "group_size": size } });
    let named = all.iter().enumerate().map(|(i, one)| (format!("group_{i}"), group(one))).collect::<serde_json::Map<_, _>>();
    quantised(json!({ "quant_method": "compressed-tensors", "config_groups": named }))
}

fn check(cases: &[(Value, &str, &str)]) {
    for (config, tensors, expected) in cases {
        let (_folder, reader) = open(config.clone(), tensors);
        assert_eq!(found(&reader), *expected, "{config} {tensors}");
        // What is only counted has no values, and a view of it has the tensors as they are stored.
        let packing = Packing::detect(&reader);
        let counted = packing.weights.iter().any(|weight| !weight.is_readable());
        assert!(packing.weights.iter().all(|weight| weight.is_readable() || weight.values(&reader, 0..1).is_err()), "{tensors}");
        let (model, wanted) = (reader.model().clone(), packing.weights.len());
        let view = unpacked(reader).unwrap();
        if counted || wanted == 0 {
            assert_eq!((&view.model().tensors, &view.model().config), (&model.tensors, &model.config), "{tensors}");
        }
    }
}

#[test]
fn layouts_of_gptq_and_awq_follow_from_shapes() {
    let gptq = |own: Value| quantised(own);
    let gemv = |group: u64| quantised(json!({ "version": "gemv", "group_size": group }));
    check(&[
        (json!({}), "a.qweight I32 32x8; a.scales F16 2x64; a.qzeros I32 2x8", "AWQ-4 64x32"),
        (json!({}), "a.qweight I32 32x8; a.scales F16 2x64; a.qzeros I32 2x4", ""),
        (json!({}), "a.qweight I32 32x8; a.scales F16 3x64; a.qzeros I32 3x8", ""),
        (json!({}), "a.qweight I32 32x8; a.scales F16 0x64; a.qzeros I32 0x8", ""),
        (json!({}), "a.qweight I32 16x0; a.scales F16 2x0; a.qzeros I32 2x0", ""),
        (gemv(32), "a.qweight I32 64x4; a.scales F16 64x8; a.qzeros I32 64x1", "AWQ-4 64x32"),
        (gemv(0), "a.qweight I32 64x4; a.scales F16 64x8; a.qzeros I32 64x1", ""),
        (gemv(24), "a.qweight I32 64x4; a.scales F16 64x8; a.qzeros I32 64x1", ""),
        // More groups than there are scales; zero points of another height, of another width.
        (gemv(2), "a.qweight I32 64x4; a.scales F16 64x8; a.qzeros I32 64x1", ""),
        (gemv(32), "a.qweight I32 64x4; a.scales F16 64x8; a.qzeros I32 32x1", ""),
        (gemv(32), "a.qweight I32 64x4; a.scales F16 64x8; a.qzeros I32 64x2", ""),
        (quantised(json!({ "group_size": 32 })), "a.qweight I32 64x4; a.scales F16 64x8; a.qzeros I32 64x1", ""),
        // GPTQ: 8 words of 8 numbers of 4 bits along the inputs.
        (json!({}), "a.qweight I32 8x32; a.scales F16 2x32; a.qzeros I32 2x4", "GPTQ-4 32x64"),
        (json!({}), "a.qweight I32 8x32; a.scales F16 2x32; a.qzeros I32 1x4", ""),
        (json!({}), "a.qweight I32 8x64; a.scales F16 1x64; a.qzeros I32 1x1", ""),
        (json!({}), "a.qweight I32 8x32; a.scales F16 1x32; a.qzeros I32 1x3", ""),
        (json!({}), "a.qweight I32 8x32; a.scales F16 1x32; a.qzeros I32 1x4; a.g_idx I32 60", ""),
        // Buffers that are larger than the config needs.
        (gptq(json!({ "bits": 4, "group_size": 16 })), "a.qweight I32 10x32; a.scales F16 3x32; a.qzeros I32 3x4", "GPTQ-4 32x48"),
        (gptq(json!({ "bits": 4, "group_size": 0 })), "a.qweight I32 8x32; a.scales F16 2x32; a.qzeros I32 2x4", "GPTQ-4 32x64"),
        (
            gptq(json!({ "bits": 4, "group_size": 64 })),
            "a.qweight I32 8x32; a.scales F16 1x32; a.qzeros I32 1x4; a.g_idx I32 60",
            "GPTQ-4 32x60",
        ),
        (gptq(json!({ "bits": 8 })), "a.qweight I32 8x32; a.scales F16 1x32; a.qzeros I32 1x4; a.g_idx I32 32", ""),
        (gptq(json!({ "bits": 4 })), "a.qweight I32 8x32; a.scales F16 1x32; a.qzeros I32 1x4; a.g_idx I32 0", ""),
        // Marlin: [in / 16, out * 2].
        (json!({}), "a.B I32 2x128; a.s F16 2x64", "GPTQ-4 64x32"),
        (json!({}), "a.B I32 2x96; a.s F16 2x64", ""),
    ]);
}

#[test]
fn layouts_of_compressed_tensors_follow_from_shapes() {
    let (four, either) = (groups(&[(4, 64, "Linear")]), groups(&[(4, 64, "Linear"), (8, 16, "Linear")]));
    check(&[
        (json!({}), "a.weight_packed I32 4x8; a.weight_scale F16 4x1; a.weight_shape I32 2 = 4,64", "INT-4 4x64"),
        // A shape that these words cannot hold.
        (four.clone(), "a.weight_packed I32 4x8; a.weight_scale F16 4x1; a.weight_shape I64 2 = 4,0", ""),
        (four.clone(), "a.weight_packed I32 4x8; a.weight_scale F16 4x1; a.weight_shape I64 2 = 4,1000", ""),
        // Bits that follow from the number of groups: 128 inputs in groups of 64, or 64 in groups of 16.
        (either.clone(), "a.weight_packed I32 4x16; a.weight_scale F16 4x2", "INT-4 4x128"),
        (either.clone(), "a.weight_packed I32 4x16; a.weight_scale F16 4x4", "INT-8 4x64"),
        (either, "a.weight_packed I32 4x16; a.weight_scale F16 4x1", ""),
        (four, "a.weight_packed I32 4x16; a.weight_scale F16 4x1", "INT-4 4x128"),
        (groups(&[(4, 0, "Linear")]), "a.weight_packed I32 4x16; a.weight_scale F16 4x2", ""),
        (groups(&[(4, 128, "a"), (8, 64, "b")]), "a.weight_packed I32 4x16; a.weight_scale F16 4x1", "INT-4 4x128"),
        (groups(&[(4, 128, "b"), (8, 64, "a")]), "a.weight_packed I32 4x16; a.weight_scale F16 4x1", "INT-8 4x64"),
        (groups(&[(4, 64, "a")]), "a.weight_packed I32 8x8; a.weight_scale F16 8x1; a.weight_zero_point I32 1x1", "INT-4 8x64"),
        (groups(&[(4, 64, "a")]), "a.weight_packed I32 8x8; a.weight_scale F16 8x1; a.weight_zero_point I16 1x1", ""),
        (groups(&[(4, 64, "a")]), "a.weight_packed I32 8x8; a.weight_scale F16 8x1; a.weight_zero_point I32 2x1", ""),
        (json!({}), "a.weight_packed U8 4x24; a.weight_scale U8 4x1", "MXFP6 4x32"),
        (json!({}), "a.weight_packed U8 4x0; a.weight_scale U8 4x0", ""),
        (json!({}), "a.compressed F16 9; a.bitmask U8 4x1; a.shape I32 2 = 4,8", "sparse 4x8"),
        (json!({}), "a.compressed F16 9; a.bitmask U8 4x1; a.shape I64 8 = 1,1,1,1,1,1,4,8", "sparse 1x1x1x1x1x1x4x8"),
        (json!({}), "a.compressed F16 9; a.bitmask U8 4x1; a.shape I64 9 = 1", ""),
    ]);
}

#[test]
fn layouts_of_floats_with_scales_follow_from_shapes() {
    let fp8 = "a.weight F8_E4M3 4x8; a.weight_scale F32 1";
    check(&[
        // Blocks of 128 x 128, of a stack too, if they fill each of its matrices.
        (json!({}), "a.weight F8_E4M3 256x128; a.weight_scale_inv F32 2x1", "FP8 256x128"),
        (quantised(json!({ "weight_block_size": [0, 128] })), "a.weight F8_E4M3 256x128; a.weight_scale_inv F32 2x1", "FP8 256x128"),
        (json!({}), "a.weight F8_E4M3 256x128; a.weight_scale_inv F32 3x1", ""),
        (json!({}), "a.weight F8_E4M3 2x256x128; a.weight_scale_inv F32 2x2x1", "FP8 2x256x128"),
        (json!({}), "a.weight F8_E4M3 2x192x128; a.weight_scale_inv F32 2x2x1", "FP8 2x192x128"),
        (json!({}), "a.weight F8_E4M3 2x192x128; a.weight_scale_inv F32 3x1", ""),
        (json!({}), "a_proj F8_E4M3 2x4x8; a_proj_scale F32 2x1x8", "FP8 2x4x8"),
        (json!({}), "a_proj F8_E4M3 2x4x8; a_proj_weight_scale F32 1; a_proj_input_scale F32 1", "FP8 2x4x8"),
        // Stacked experts of transformers have no `.weight`; Mistral's own files have another name for the scale.
        (json!({}), "a_proj F8_E4M3 2x256x128; a_proj_scale_inv F32 2x2x1", "FP8 2x256x128"),
        (json!({}), "a_proj F8_E4M3 2x4x8; a_proj_scale_inv F32 2; a_proj_activation_scale F32 1", "FP8 2x4x8"),
        (json!({}), "a.weight F8_E4M3 4x8; a.qscale_weight F32 1; a.qscale_act F32 1", "FP8 4x8"),
        (json!({}), "a.weight F8_E4M3 4x8; a.weight_scale F32 1x5", ""),
        (json!({}), "a.weight F8_E4M3 4x8; a.weight_scale F32 2x8", ""),
        (json!({}), "a.weight F8_E4M3 4x0; a.weight_scale F32 1", ""),
        (json!({}), "a.weight F8_E4M3 0x4; a.weight_scale F32 1", ""),
        (json!({}), "a.weight F8_E4M3 4x4; a.weight_scale F32 0", ""),
        (json!({}), "a.weight I8 4x8; a.weight_scale F32 4; a.weight_zero_point I8 4", "INT8 4x8"),
        (json!({}), "a.weight I8 4x8; a.weight_scale F32 4; a.weight_zero_point I8 2", ""),
        // MXFP8 is exponents for 32 numbers each.
        (json!({}), "a.weight F8_E4M3 4x64; a.weight_scale U8 4x2", "MXFP8 4x64"),
        (json!({}), "a.weight F8_E4M3 4x64; a.weight_scale F32 4x2", "FP8 4x64"),
        (json!({}), "a.weight F8_E4M3 4x64; a.weight_scale U8 4x1", "FP8 4x64"),
        (json!({}), "a.weight U8 4x16; a.weight_scale F8_E8M0 4x1", "MXFP4 4x32"),
        (json!({}), "a.weight U8 4x16; a.weight_scale F16 4x1", ""),
        (json!({}), "a.weight U8 4x8; a.weight_scale F8_E4M3 4x1; a.weight_scale_2 F32 1", "NVFP4 4x16"),
        (json!({}), "a.weight U8 4x8; a.weight_scale F8_E4M3 4x1; a.weight_scale_2 F32 3", ""),
        (json!({}), "a.weight U8 2x4x8; a.weight_scale F8_E4M3 2x4x1; a.weight_scale_2 F32 1", "NVFP4 2x4x16"),
        (json!({}), "a.weight U8 2x4x8; a.weight_scale F8_E4M3 2x4x1; a.weight_scale_2 F32 2", "NVFP4 2x4x16"),
        (json!({}), "a.weight U8 2x4x8; a.weight_scale F8_E4M3 2x4x1; a.weight_scale_2 F32 3", ""),
        (json!({}), "a_blocks U8 2x3x4x16; a_scales U8 2x3x4", "MXFP4 2x128x3"),
        (json!({}), "a_blocks U8 2x3x4x16; a_scales U8 2x3x5", ""),
        (json!({}), "a_blocks U8 2x3x4x16; a_scales F16 2x3x4", ""),
        // ComfyUI: a rotation or a format of its own is not undone by scales.
        (comfy(json!({ "format": "float8_e4m3fn" })), fp8, "FP8 4x8"),
        (comfy(json!({ "format": "float8_e4m3fn", "convrot": false })), fp8, "FP8 4x8"),
        (comfy(json!({ "format": "float8_e4m3fn", "convrot": null })), fp8, "FP8 4x8"),
        (comfy(json!({ "format": "float8_e4m3fn", "convrot": true })), fp8, ""),
        (comfy(json!({ "format": "invented" })), fp8, ""),
        (json!({}), "a.weight F8_E4M3 4x8; a.weight_scale F32 1; a.comfy_quant U8 * = {\"format\":\"invented\"}", ""),
        (comfy(json!({ "format": "nvfp4" })), "a.weight U8 4x8; a.weight_scale F8_E4M3 128x4; a.weight_scale_2 F32 1", "NVFP4 4x16"),
        (comfy(json!({ "format": "nvfp4", "convrot": true })), "a.weight U8 4x8; a.weight_scale F8_E4M3 128x4; a.weight_scale_2 F32 1", ""),
        (comfy(json!({ "format": "invented" })), "a.weight U8 4x8; a.weight_scale F8_E4M3 128x4; a.weight_scale_2 F32 1", ""),
    ]);
}

#[test]
fn layouts_of_mlx_follow_from_shapes() {
    let mlx = |own: Value| json!({ "quantization": own });
    let mode = |mode: &str, bits: u64, group: u64| mlx(json!({ "mode": mode, "bits": bits, "group_size": group }));
    check(&[
        (mlx(json!({ "group_size": 64, "bits": 4 })), "a.weight U32 4x8; a.scales F16 4x1; a.biases F16 4x1", "MLX-4 4x64"),
        (mlx(json!({ "group_size": 64, "bits": 4 })), "a.weight U32 4x8; a.scales F16 3x1; a.biases F16 3x1", ""),
        (mlx(json!({ "group_size": 64, "bits": 4 })), "a.weight U32 4x8; a.scales F16 4x0; a.biases F16 4x0", ""),
        (mlx(json!({ "group_size": 64, "bits": 4 })), "a.weight U32 8; a.scales F16 1; a.biases F16 1", ""),
        (mlx(json!({ "group_size": 64, "bits": 4 })), "a.weight U32 0x8; a.scales F16 0x1; a.biases F16 0x1", ""),
        (mlx(json!({ "group_size": 17, "bits": 3 })), "a.weight U32 4x8; a.scales F16 4x5; a.biases F16 4x5", ""),
        (mlx(json!({ "group_size": 32, "bits": 4 })), "a.weight U32 4x8; a.scales U8 4x2", "MXFP4 4x64"),
        (mode("mxfp4", 4, 32), "a.weight U32 4x8; a.scales U8 4x2", "MXFP4 4x64"),
        (mode("mxfp8", 8, 32), "a.weight U32 4x8; a.scales U8 4x1", "MXFP8 4x32"),
        (mode("nvfp4", 4, 16), "a.weight U32 4x8; a.scales U8 4x4", "NVFP4 4x64"),
        (mode("affine", 4, 64), "a.weight U32 4x8; a.scales F16 4x1", ""),
        (mode("affine", 4, 32), "a.weight U32 4x8; a.scales U8 4x2; a.biases F16 4x2", ""),
        (mode("mxfp4", 4, 32), "a.weight U32 4x8; a.scales F16 4x2", ""),
        (mode("mxfp8", 8, 32), "a.weight U32 4x8; a.scales F16 4x1", ""),
        (mode("nvfp4", 4, 16), "a.weight U32 4x8; a.scales F16 4x4", ""),
        (mode("mxfp4", 4, 32), "a.weight U32 4x8; a.scales U8 4x2; a.biases F16 4x2", ""),
        (mode("mxfp8", 8, 32), "a.weight U32 4x8; a.scales U8 4x1; a.biases F16 4x1", ""),
        (mode("nvfp4", 4, 16), "a.weight U32 4x8; a.scales U8 4x4; a.biases F16 4x4", ""),
    ]);
}

#[test]
fn layouts_of_the_other_schemes_follow_from_shapes() {
    let absmax = "a.weight U8 32x1; a.weight.absmax F32 1; a.weight.quant_map F32 16";
    let int4 = quantised(json!({ "quant_algo": "W4A16_AWQ" }));
    check(&[
        (json!({}), absmax, "FP4 64"),
        (json!({}), "a.weight U8 32x1; a.weight.absmax F32 2; a.weight.quant_map F32 16", ""),
        (json!({}), "a.weight U8 32x1; a.weight.absmax F32 1; a.weight.quant_map F32 8", ""),
        (json!({}), &format!("{absmax}; a.weight.quant_state.bitsandbytes__nf4 U8 * = {{\"shape\":[8,8]}}"), "NF4 8x8"),
        (json!({}), &format!("{absmax}; a.weight.quant_state.bitsandbytes__nf4 U8 * = {{\"shape\":[8,6]}}"), ""),
        (json!({}), "a.weight U8 2x8; a.weight_scale F32 1", "BitNet 8x8"),
        (json!({}), "a.weight U8 2x8; a.weight_scale U8 1", ""),
        (json!({}), "a.weight U8 2x8; a.weight_scale F32 2", ""),
        (quantised(json!({ "quant_method": "invented" })), "a.weight U8 2x8; a.weight_scale F32 1", ""),
        (int4, "a.weight U8 4x8; a.weight_scale F16 8x1", "INT-4 8x8"),
        (quantised(json!({ "quant_algo": "FP8" })), "a.weight U8 4x8; a.weight_scale F16 8x1", ""),
        (quanto("qint4"), "a.weight._data U8 4x8; a.weight._scale F16 4; a.weight._shift F16 4", "QINT-4 64"),
        (quanto("qint2"), "a.weight._data._data U8 4x8; a.weight._scale F16 4; a.weight._shift F16 4", "QINT-2 128"),
        (quanto("qfloat8"), "a.weight._data U8 4x8; a.weight._scale F16 4; a.weight._shift F16 4", ""),
        (torchao(json!({ "_type": "Float8Tensor" })), "a._weight_qdata F8_E4M3 4x8; a._weight_scale F32 4x1", "FP8 4x8"),
        (torchao(json!({ "_type": "Int8Tensor" })), "a._weight_qdata I8 4x8; a._weight_scale F32 4x1", "INT8 4x8"),
        (torchao(json!({ "_type": "Float8Tensor" })), "a._weight_qdata F8_E4M3 8; a._weight_scale F32 1", ""),
        (torchao(json!({ "_type": "Int4Tensor" })), "a._weight_qdata U8 4x8; a._weight_scale F32 4x1", "INT-4 64"),
        (torchao(json!({ "_type": "Int4Tensor" })), "a._weight_qdata I32 4x8; a._weight_scale F32 4x1", "INT-4 256"),
        (
            torchao(json!({ "_type": "Int4Tensor", "_data": { "shape": [8, 8] } })),
            "a._weight_qdata U8 4x8; a._weight_scale F32 4x1",
            "INT-4 8x8",
        ),
        (torchao(json!({ "_type": "Invented" })), "a._weight_qdata U8 4x8; a._weight_scale F32 4x1", ""),
        (
            torchao(json!({ "_type": "Invented", "_data": { "shape": [8, 8] } })),
            "a._weight_qdata U8 4x8; a._weight_scale F32 4x1",
            "torchao 8x8",
        ),
        // EXL2 without a permutation: 5 rows of words of 5 bits are 32 inputs, 4 rows of 4 bits are 32 more.
        (json!({}), "a.q_weight I32 9x16; a.q_scale I32 2x2; a.q_groups I16 4 = 5,0,4,5", "EXL2 16x64"),
        (json!({}), "a.q_weight I32 9x16; a.q_scale I32 2x2; a.q_groups U8 8 = 5,0,0,0,4,0,5,0", ""),
        (json!({}), "a.trellis I16 2x4x48", "EXL3-3 64x32"),
        (json!({}), "a.trellis I16 2x4x40", ""),
        (json!({}), "a.W_q U8 4x8; a.shape I64 2 = 8,8; a.scale F16 8x1; a.zero F16 8x1; a.nbits I64 1 = 4", "HQQ-4 8x8"),
        (json!({}), "a.codes I8 4x2x1; a.codebooks F16 1x256x2x8; a.scales F16 4", "AQLM 8x16"),
        (json!({}), "a.codes I8 4x2x1; a.codebooks F16 2x256x1x8; a.scales F16 4", ""),
    ]);
}

#[test]
fn a_packing_is_named_by_its_config_or_by_its_tensors() {
    let tensors = "a.qweight I32 8x32; a.scales F16 2x32; a.qzeros I32 2x4";
    for (config, method) in [
        (json!({}), "GPTQ"),
        (quantised(json!({ "desc_act": false, "bits": 4, "group_size": 32 })), "GPTQ or AWQ"),
        (quantised(json!({ "w_bit": 4 })), "GPTQ or AWQ"),
        (quantised(json!({ "bits": 4, "group_size": 32 })), "an unnamed method"),
        (quantised(json!({ "bits": 4 })), "GPTQ"),
        (json!({ "text_config": { "quantization_config": { "quant_method": "inner" } } }), "inner"),
        (json!({ "other": { "quantization_config": { "quant_method": "inner" } } }), "GPTQ"),
        (json!({ "quantization": { "mode": "affine" } }), "MLX"),
        (json!({ "quantization": { "qformat_weight": "fp8_e4m3" } }), "GPTQ"),
    ] {
        let (_folder, reader) = open(config, tensors);
        assert_eq!(Packing::detect(&reader).summary(reader.model()).unwrap().method, method);
    }
}

#[test]
fn tensors_that_fit_no_scheme_have_the_roles_that_their_names_and_types_give() {
    let claimed = || quantised(json!({ "quant_method": "invented" }));
    let (plain, beside, unknown) = (Role::Plain, Role::Bookkeeping, Role::Unresolved);
    for (config, tensors, roles) in [
        // Nothing is packed: whole numbers and scales of the cache are tensors like others.
        (json!({}), "a.table I8 4x4; a.k_scale F32 1", vec![plain, plain]),
        (json!({}), "a.qweight I32 8x8; a.scales F16 2x3; b.k_scale F32 1", vec![unknown, beside, beside]),
        (json!({}), "a.qweight F16 8x8; a.scales F16 2x3", vec![plain, plain]),
        (claimed(), "a.bias I8 8; b.table I8 2x4; b.norm F16 4", vec![plain, unknown, plain]),
        (json!({}), "a.qweight I32 0x8; b.norm F16 4", vec![plain, plain]),
        (claimed(), "model.position_ids I32 1x8; b.norm F16 4", vec![plain, plain]),
        (json!({}), "0 U8 8; 1 U8 8", vec![unknown, unknown]),
        (json!({}), "0 U8 2x4; 1 U8 8", vec![plain, plain]),
        (json!({}), "bias U8 8", vec![plain]),
        (json!({}), "bias I8 8", vec![plain]),
    ] {
        let (_folder, reader) = open(config.clone(), tensors);
        let packing = Packing::detect(&reader);
        let found: Vec<_> = (0..roles.len()).map(|i| packing.role(i)).collect();
        assert_eq!(found, roles, "{config} {tensors}");
    }
}

/// The values of a tensor of a view, and the bytes of every range of it against the whole.
fn values(reader: &Reader, name: &str) -> Vec<f32> {
    let tensor = reader.model().tensor(name).unwrap_or_else(|| panic!("{name} is there"));
    let all = reader.bytes(tensor).unwrap().into_owned();
    let step = (all.len() / 24).max(1);
    for start in (0..all.len()).step_by(step) {
        for end in (start..=all.len()).step_by(step) {
            assert_eq!(reader.bytes_at(tensor, start as u64..end as u64).unwrap(), &all[start..end], "{name} {start}..{end}");
        }
    }
    let mut values = vec![0.0; tensor.elements().unwrap() as usize];
    (codec::codec(tensor.elem.known().unwrap()).unwrap().decode)(&all, &mut values);
    values
}

/// Rows of runs: `(value, length)`.
fn runs(runs: &[(f32, usize)]) -> Vec<f32> {
    runs.iter().flat_map(|&(value, count)| std::iter::repeat_n(value, count)).collect()
}

#[test]
fn values_follow_the_formulas() {
    // 0x38 is 1.0 in E4M3, 0x22 twice the number 1.0 in E2M1, 0x1111_1111 eight times 1 in four bits.
    let (ones, nines) = (0x1111_1111, -0x6666_6667_i64);
    let group = |size: u64| quantised(json!({ "bits": 4, "group_size": size }));
    let cases: Vec<(Value, String, Vec<f32>)> = vec![
        // One scale for each matrix of a stack, for each column, for each row.
        (json!({}), "a.weight F8_E4M3 2x4x8 = 56; a.weight_scale F32 2 = 2,3".into(), runs(&[(2.0, 32), (3.0, 32)])),
        (json!({}), "a.weight F8_E4M3 3x4 = 56; a.weight_scale F32 1x4 = 2,3,4,5".into(), [2.0, 3.0, 4.0, 5.0].repeat(3)),
        (json!({}), "a.weight F8_E4M3 2x3 = 56; a.weight_scale F32 2x1 = 2,3".into(), runs(&[(2.0, 3), (3.0, 3)])),
        // A row that ends within a block.
        (
            quantised(json!({ "weight_block_size": [8, 24] })),
            "a.weight F8_E4M3 1x32 = 56; a.weight_scale_inv F32 1x2 = 2,3".into(),
            runs(&[(2.0, 24), (3.0, 8)]),
        ),
        // (1 - (0 + 1)) * scale is nothing: nines less one are eights. Groups of 16, the last one cut short; 40 inputs.
        (
            group(16),
            format!("a.qweight I32 5x8 = {nines}; a.scales F16 3x8 = 1,1,1,1,1,1,1,1,2,2,2,2,2,2,2,2,3,3,3,3,3,3,3,3; a.qzeros I32 3x1"),
            runs(&[(8.0, 16), (16.0, 16), (24.0, 8)]).repeat(8),
        ),
        // A group that is told for each column, and one that none is told for.
        (
            groups(&[(4, 8, "Linear")]),
            format!("a.weight_packed I32 1x2 = {nines}; a.weight_scale F16 1x2 = 1,2; a.weight_g_idx I32 16 = 1,0"),
            [2.0, 1.0].repeat(8),
        ),
        (
            groups(&[(4, 8, "Linear")]),
            format!("a.weight_packed I32 1x2 = {nines}; a.weight_scale F16 1x2 = 1,2; a.weight_g_idx I32 16 = -1"),
            runs(&[(1.0, 8), (2.0, 8)]),
        ),
        // torchao's zero points: (5 - 3) * 2.
        (
            torchao(json!({ "_type": "Int8Tensor" })),
            "a._weight_qdata I8 2x4 = 5; a._weight_scale F32 2x1 = 2; a._weight_zero_point I8 2x1 = 3".into(),
            vec![4.0; 8],
        ),
        // NVFP4: one scale for all matrices of a stack, and one for each.
        (json!({}), "a.weight U8 2x4x8 = 34; a.weight_scale F8_E4M3 2x4x1 = 56; a.weight_scale_2 F32 1 = 3".into(), vec![3.0; 128]),
        (
            json!({}),
            "a.weight U8 2x4x8 = 34; a.weight_scale F8_E4M3 2x4x1 = 56; a.weight_scale_2 F32 2 = 3,5".into(),
            runs(&[(3.0, 64), (5.0, 64)]),
        ),
        // AWQ: ones less zero points of nothing, a scale for each output and group of two inputs.
        (
            json!({}),
            format!("a.qweight I32 4x2 = {ones}; a.scales F16 2x16 = 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16; a.qzeros I32 2x2"),
            (1..=16).flat_map(|output| [output as f32; 4]).collect(),
        ),
        // Zero points along the rows: row r has the zero point r, of 4 bits; 16 rows of 8 nines less 8, so 1 - (r % 8 - 8).
        (
            groups(&[(4, 8, "Linear")]),
            format!("a.weight_packed I32 16x1 = {nines}; a.weight_scale F16 16x1 = 1; a.weight_zero_point I32 2x1 = 1985229328"),
            (0..16).flat_map(|row| [9.0 - (row % 8) as f32; 8]).collect(),
        ),
    ];
    for (config, tensors, expected) in cases {
        let (_folder, reader) = open(config, &tensors);
        let size: u64 = reader.model().tensors.iter().filter_map(|tensor| tensor.len_bytes).sum();
        let view = unpacked(reader).unwrap();
        assert_eq!(values(&view, "a.weight"), expected, "{tensors}");
        // What it takes is what its stored tensors take.
        assert_eq!(view.stored_size(view.model().tensor("a.weight").unwrap()), size, "{tensors}");
        assert_eq!(view.model().tensors.len(), 1, "{tensors}");
    }
}

#[test]
fn blocks_of_a_gguf_hold_the_same_values() {
    let mode = |mode: &str, group: u64| json!({ "quantization": { "mode": mode, "bits": 4, "group_size": group } });
    // Numbers and scales that differ from place to place; scales of E4M3 from 2^-3 to 1, powers of two from 2^-4 on.
    let numbers = "16,50,84,118,152,186,220,254,1,35,69,103,137,171,205,239,7";
    for (config, tensors, blocks) in [
        (
            mode("nvfp4", 16),
            format!("a.weight U8 3x32 = {numbers}; a.weight_scale F8_E4M3 3x4 = 40,44,48,52,56; a.weight_scale_2 F32 1 = 1"),
            "NVFP4",
        ),
        (mode("nvfp4", 16), "a.weight U32 3x8 = 305419896,1985229328,1126; a.scales U8 3x4 = 40,44,48,52,56".into(), "NVFP4"),
        (mode("mxfp4", 32), "a.weight U32 3x8 = 305419896,1985229328,1126; a.scales U8 3x2 = 127,123,125,128,126".into(), "MXFP4"),
        (json!({}), format!("a.weight U8 3x32 = {numbers}; a.weight_scale U8 3x2 = 127,123,125,128,126"), "MXFP4"),
        // Rows that are no whole blocks; a scale for each matrix of a stack.
        (json!({}), format!("a.weight U8 3x8 = {numbers}; a.weight_scale F8_E4M3 3x1 = 40,44,48; a.weight_scale_2 F32 1 = 1"), "F32"),
        (json!({}), format!("a.weight U8 2x3x32 = {numbers}; a.weight_scale F8_E4M3 2x3x4 = 40,44,48; a.weight_scale_2 F32 2 = 1"), "F32"),
        (json!({}), "a.weight F8_E4M3 3x64 = 40,44,48; a.weight_scale F32 3 = 2".into(), "F32"),
    ] {
        let folder = folder(config, &tensors);
        let (as_blocks, as_floats) =
            (repacked(format::open(folder.path()).unwrap()).unwrap(), unpacked(format::open(folder.path()).unwrap()).unwrap());
        assert_eq!(as_blocks.model().tensor("a.weight").unwrap().elem.known().unwrap().name(), blocks, "{tensors}");
        assert_eq!(values(&as_blocks, "a.weight"), values(&as_floats, "a.weight"), "{tensors}");
        let stored = format::open(folder.path()).unwrap();
        let name = |reader: &Reader| reader.type_name(reader.model().tensor("a.weight").unwrap()).to_string();
        assert_eq!(name(&as_blocks), Packing::detect(&stored).weights[0].shown.to_string(), "{tensors}");
    }
}

#[test]
fn a_scale_tensor_multiplies_the_blocks_of_a_gguf() {
    // NVFP4: four scales of 16 numbers (0x38 is 2^0 with E4M3's bias, halved by doubled numbers in ggml), then 32 bytes of numbers.
    let block: Vec<u8> = [[0x38; 4].as_slice(), &[0x22; 32]].concat();
    let one = {
        let mut values = vec![0.0; 64];
        (codec::codec(DType::NVFP4).unwrap().decode)(&block, &mut values);
        values
    };
    assert_eq!(one, [1.0; 64]);
    let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    for (shape, scales, expected) in [
        (&[3, 64][..], vec![5.0], Some(runs(&[(5.0, 192)]))),
        (&[2, 3, 64], vec![5.0, 7.0], Some(runs(&[(5.0, 192), (7.0, 192)]))),
        (&[2, 3, 64], vec![5.0, 7.0, 9.0], None),
        (&[3, 64], vec![5.0, 7.0, 9.0], None),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let blocks = shape.iter().product::<u64>() as usize / 64;
        let tensors = [
            build::tensor("blk.0.ffn_up.weight", DType::NVFP4, shape, block.repeat(blocks)),
            build::tensor("blk.0.ffn_up.scale", DType::F32, &[scales.len() as u64], floats(&scales)),
        ];
        build::write("gguf", &path, &tensors, &weigh::model::Metadata::new(), None);
        let reader = format::open(Path::new(&path)).unwrap();
        assert_eq!(Packing::detect(&reader).weights.len(), usize::from(expected.is_some()), "{shape:?} {scales:?}");
        if let Some(expected) = expected {
            assert_eq!(values(&unpacked(reader).unwrap(), "blk.0.ffn_up.weight"), expected, "{shape:?}");
        }
    }
}
