//! Packed weights under tables: a model of every table, packed as published models are, converts like the model that it stands for.

use serde_json::{Value as Json, json};

use crate::family::mapping::ModelPart;
use crate::family::tables::Tables;
use crate::format::Reader;
use crate::model::{DType, Metadata, Model};
use crate::quant::packed;
use crate::view::output_model::OutputModel;
use crate::view::tests::goldens::{all_are_wanted, goldens};
use crate::view::tests::{Tensor, models, reader, written};
use crate::view::to_gguf;

/// The stored tensors of a weight, and its values.
type Packed = (Vec<Tensor>, Vec<f32>);

/// A packing: what config.json says of it, and what a tensor becomes, if it is one that is packed.
struct Packing {
    name: &'static str,
    config: fn() -> Json,
    pack: fn(&str, &[u64]) -> Option<Packed>,
}

/// What published models store, by the formulas of `ModelBase.dequant_model` in llama.cpp's converter.
const PACKINGS: [Packing; 9] = [
    // DeepSeek, Qwen, GLM, MiniMax: blocks that do not divide the matrix.
    Packing {
        name: "FP8 blocks",
        config: || json!({ "quantization_config": { "quant_method": "fp8", "weight_block_size": [6, 24] } }),
        pack: |name, shape| blocks(name, shape, 6, 24),
    },
    // DeepSeek V4: exponents, under another name.
    Packing {
        name: "FP8 blocks with exponents",
        config: || json!({ "quantization_config": { "quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [6, 24] } }),
        pack: |name, shape| exponents(name, shape, 6, 24),
    },
    // Llama 4 as fbgemm stores it: one scale for each column of each expert.
    Packing {
        name: "FP8 columns of experts",
        config: || json!({ "quantization_config": { "quant_method": "fbgemm_fp8" } }),
        pack: |name, shape| stacked(name, shape, "_scale", |shape| vec![shape[0], 1, shape[2]]),
    },
    // ModelOpt: one scale for each expert.
    Packing {
        name: "FP8 experts",
        config: || json!({ "quantization_config": { "quant_method": "modelopt" } }),
        pack: |name, shape| stacked(name, shape, "_weight_scale", |shape| vec![shape[0], 1, 1]),
    },
    // Ministral 3: one scale for a tensor.
    Packing {
        name: "FP8 tensors",
        config: || json!({ "quantization_config": { "quant_method": "fp8", "weight_block_size": null } }),
        pack: fp8_tensor,
    },
    Packing {
        name: "FP8 channels",
        config: || compressed("float-quantized", json!({ "num_bits": 8, "strategy": "channel", "type": "float" })),
        pack: fp8_channels,
    },
    Packing {
        name: "int4 groups",
        config: || compressed("pack-quantized", json!({ "num_bits": 4, "group_size": 8, "strategy": "group", "type": "int" })),
        pack: int4,
    },
    Packing { name: "bitnet", config: || json!({ "quantization_config": { "quant_method": "bitnet" } }), pack: bitnet },
    // Mistral's own files.
    Packing { name: "qscale", config: || json!({ "quantization": { "qformat_weight": "fp8_e4m3" } }), pack: qscale },
];

fn compressed(format: &str, weights: Json) -> Json {
    let groups = json!({ "group_0": { "targets": ["Linear"], "weights": weights } });
    json!({ "quantization_config": { "quant_method": "compressed-tensors", "format": format, "config_groups": groups } })
}

/// Numbers that any two runs make the same: bytes of a linear congruence.
fn bytes(name: &str, count: u64) -> Vec<u8> {
    let mut seed = name.bytes().fold(7u32, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// Scales from 1/8 to almost 1/4, as single precision has them.
fn scales(name: &str, count: u64) -> (Vec<f32>, Vec<u8>) {
    let values: Vec<f32> =
        bytes(&format!("{name} scales"), count).into_iter().map(|byte| 0.125 * (1.0 + f32::from(byte) / 256.0)).collect();
    let stored = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    (values, stored)
}

/// Codes of E4M3 without its two that are no numbers, and their values.
fn e4m3(name: &str, count: u64) -> (Vec<u8>, Vec<f32>) {
    let codes: Vec<u8> = bytes(name, count).into_iter().map(|byte| if byte & 0x7f == 0x7f { byte ^ 0x40 } else { byte }).collect();
    let value = |code: u8| {
        let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7) / 8.0);
        let size = if exponent == 0 { mantissa * 2f32.powi(-6) } else { (1.0 + mantissa) * 2f32.powi(exponent - 7) };
        if code >= 128 { -size } else { size }
    };
    let values = codes.iter().map(|code| value(*code)).collect();
    (codes, values)
}

/// The rows and columns of a matrix with a name that linear layers have; of a stack of them, all rows.
fn linear(name: &str, shape: &[u64]) -> Option<(u64, u64)> {
    let is_linear = name.ends_with(".weight") && !name.contains("conv") && shape.len() == 2;
    is_linear.then(|| (shape[0], shape[1]))
}

fn blocks(name: &str, shape: &[u64], tall: u64, wide: u64) -> Option<Packed> {
    // Experts that are stacked in a tensor have no `.weight`.
    let is_stack = name.ends_with("_proj") && shape.len() == 3;
    let (rows, columns) = if is_stack { (shape[1], shape[2]) } else { linear(name, shape)? };
    let planes = if is_stack { shape[0] } else { 1 };
    let (codes, mut values) = e4m3(name, planes * rows * columns);
    let (down, across) = (rows.div_ceil(tall), columns.div_ceil(wide));
    let (scale, stored) = scales(name, planes * down * across);
    for (i, value) in values.iter_mut().enumerate() {
        let (plane, row, column) = (i as u64 / (rows * columns), i as u64 / columns % rows, i as u64 % columns);
        *value *= scale[((plane * down + row / tall) * across + column / wide) as usize];
    }
    let mut grid = shape.to_vec();
    let outer = grid.len() - 2;
    grid[outer..].copy_from_slice(&[down, across]);
    let all = vec![(name.to_owned(), shape.to_vec(), DType::F8_E4M3, codes), (format!("{name}_scale_inv"), grid, DType::F32, stored)];
    Some((all, values))
}

fn exponents(name: &str, shape: &[u64], tall: u64, wide: u64) -> Option<Packed> {
    let (rows, columns) = linear(name, shape)?;
    let (codes, mut values) = e4m3(name, rows * columns);
    let (down, across) = (rows.div_ceil(tall), columns.div_ceil(wide));
    // From 2^-7 to 2^0.
    let stored: Vec<u8> = bytes(&format!("{name} scales"), down * across).into_iter().map(|byte| 120 + byte % 8).collect();
    for (i, value) in values.iter_mut().enumerate() {
        let (row, column) = (i as u64 / columns, i as u64 % columns);
        *value *= 2f32.powi(i32::from(stored[(row / tall * across + column / wide) as usize]) - 127);
    }
    let scales = format!("{}.scale", name.strip_suffix(".weight")?);
    let all = vec![(name.to_owned(), shape.to_vec(), DType::F8_E4M3, codes), (scales, vec![down, across], DType::F8_E8M0, stored)];
    Some((all, values))
}

/// Experts in one tensor, with scales of this shape.
fn stacked(name: &str, shape: &[u64], end: &str, grid: fn(&[u64]) -> Vec<u64>) -> Option<Packed> {
    let &[planes, rows, columns] = shape else { return None };
    if !name.ends_with("_proj") {
        return None;
    }
    let (codes, mut values) = e4m3(name, planes * rows * columns);
    let grid = grid(shape);
    let (scale, stored) = scales(name, grid.iter().product());
    for (i, value) in values.iter_mut().enumerate() {
        let (plane, column) = (i as u64 / (rows * columns), i as u64 % columns);
        *value *= scale[(plane * grid[2] + column % grid[2]) as usize];
    }
    let all = vec![(name.to_owned(), shape.to_vec(), DType::F8_E4M3, codes), (format!("{name}{end}"), grid, DType::F32, stored)];
    Some((all, values))
}

fn fp8_tensor(name: &str, shape: &[u64]) -> Option<Packed> {
    let (rows, columns) = linear(name, shape)?;
    let (codes, values) = e4m3(name, rows * columns);
    let (scale, stored) = scales(name, 1);
    let stem = name.strip_suffix(".weight")?;
    let all = vec![
        (name.to_owned(), shape.to_vec(), DType::F8_E4M3, codes),
        (format!("{name}_scale_inv"), vec![], DType::F32, stored.clone()),
        (format!("{stem}.activation_scale"), vec![], DType::F32, stored),
    ];
    Some((all, values.into_iter().map(|value| value * scale[0]).collect()))
}

fn qscale(name: &str, shape: &[u64]) -> Option<Packed> {
    let (mut all, values) = fp8_tensor(name, shape)?;
    let stem = name.strip_suffix(".weight")?;
    all[1].0 = format!("{stem}.qscale_weight");
    all[2].0 = format!("{stem}.qscale_act");
    Some((all, values))
}

fn fp8_channels(name: &str, shape: &[u64]) -> Option<Packed> {
    let (rows, columns) = linear(name, shape)?;
    let (codes, mut values) = e4m3(name, rows * columns);
    let (scale, stored) = scales(name, rows);
    values.iter_mut().enumerate().for_each(|(i, value)| *value *= scale[i / columns as usize]);
    let all = vec![(name.to_owned(), shape.to_vec(), DType::F8_E4M3, codes), (format!("{name}_scale"), vec![rows, 1], DType::F32, stored)];
    Some((all, values))
}

fn int4(name: &str, shape: &[u64]) -> Option<Packed> {
    let (rows, columns) = linear(name, shape).filter(|(_, columns)| columns.is_multiple_of(8))?;
    let codes = bytes(name, rows * columns / 2);
    let groups = columns / 8;
    let (scale, stored) = scales(name, rows * groups);
    let nibble = |i: usize| f32::from(codes[i / 2] >> (4 * (i % 2)) & 15) - 8.0;
    let values = (0..(rows * columns) as usize).map(|i| nibble(i) * scale[i / 8]).collect();
    let of_shape = [rows, columns].iter().flat_map(|dim| dim.to_le_bytes()).collect();
    let all = vec![
        (format!("{name}_packed"), vec![rows, groups], DType::I32, codes),
        (format!("{name}_scale"), vec![rows, groups], DType::F32, stored),
        (format!("{name}_shape"), vec![2], DType::I64, of_shape),
    ];
    Some((all, values))
}

fn bitnet(name: &str, shape: &[u64]) -> Option<Packed> {
    let (rows, columns) = linear(name, shape).filter(|(rows, _)| rows.is_multiple_of(4))?;
    let quarter = rows / 4;
    // Each code is 0, 1 or 2.
    let codes: Vec<u8> = bytes(name, quarter * columns).into_iter().map(|byte| byte & !(byte >> 1 & 0x55)).collect();
    let (scale, stored) = scales(name, 1);
    let code = |i: u64| {
        let (row, column) = (i / columns, i % columns);
        f32::from(codes[(row % quarter * columns + column) as usize] >> (2 * (row / quarter)) & 3) - 1.0
    };
    let values = (0..rows * columns).map(|i| code(i) / scale[0]).collect();
    let all = vec![(name.to_owned(), vec![quarter, columns], DType::U8, codes), (format!("{name}_scale"), vec![1], DType::F32, stored)];
    Some((all, values))
}

/// Returns a model with its weights packed, and the one with what they stand for; none if it has no weight that is packed so.
fn both(packing: &Packing, whole: &Reader) -> Option<(Reader, Reader)> {
    let (mut stored, mut plain) = (Vec::new(), Vec::new());
    for tensor in &whole.model().tensors {
        match (packing.pack)(&tensor.name, &tensor.shape) {
            Some((parts, values)) => {
                stored.extend(parts);
                let values = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                plain.push((tensor.name.clone(), tensor.shape.clone(), DType::F32, values));
            }
            None => {
                let kept = (tensor.name.clone(), tensor.shape.clone(), tensor.elem.known()?, whole.bytes(tensor).ok()?.into_owned());
                stored.push(kept.clone());
                plain.push(kept);
            }
        }
    }
    if stored.len() == plain.len() {
        return None;
    }
    let config = whole.model().config.clone()?;
    let mut quantised = config.clone();
    quantised.as_object_mut()?.extend((packing.config)().as_object()?.clone());
    let with = |tensors, config| {
        let made = reader(tensors, Metadata::new(), Some(config));
        Reader::computed(&made, Model { modules: whole.model().modules.clone(), ..made.model().clone() }, std::collections::HashMap::new())
    };
    Some((with(stored, quantised), with(plain, config)))
}

#[test]
fn packed_models_of_every_table_convert_like_what_they_stand_for() {
    let tables = Tables::default();
    let texts = models().into_iter().map(|(name, _, reader)| (name, reader, None));
    let encoders = goldens().into_iter().filter(|golden| golden.is_projector());
    let encoders = encoders.map(|golden| (golden.name.clone(), golden.reader(), Some(golden.json["preprocessor"].clone())));
    let (mut converted, mut differ) = (0, Vec::new());
    for (name, whole, preprocessor) in texts.chain(encoders) {
        for packing in &PACKINGS {
            let Some((stored, plain)) = both(packing, &whole) else { continue };
            let name = format!("{name}, {}", packing.name);
            let made = |reader: Reader| {
                let reader = packed::repacked(reader).unwrap();
                let output = match &preprocessor {
                    Some(preprocessor) => to_gguf::projector(reader.model(), &tables, preprocessor.clone(), None),
                    None => to_gguf::without_tokenizer(&reader, &tables, ModelPart::Whole),
                };
                let OutputModel { tensors: steps, metadata, .. } = output.unwrap_or_else(|error| panic!("{name}: {error}"));
                let mut tensors = written(&reader, &steps);
                tensors.sort();
                let keys: Vec<String> = metadata.iter().map(|(key, value)| format!("{key} {value:?}")).collect();
                (tensors, keys)
            };
            let (made, wanted) = (made(stored), made(plain));
            assert_eq!(made.1, wanted.1, "{name}");
            let listed =
                |tensors: &[Tensor]| tensors.iter().map(|tensor| (tensor.0.clone(), tensor.1.clone(), tensor.2)).collect::<Vec<_>>();
            assert_eq!(listed(&made.0), listed(&wanted.0), "{name}");
            let pairs = made.0.iter().zip(&wanted.0).filter(|(made, wanted)| made.3 != wanted.3);
            differ.extend(pairs.map(|(made, _)| format!("{name}: {}", made.0)));
            converted += 1;
        }
    }
    assert!(differ.is_empty(), "{} tensors: {:?}", differ.len(), &differ[..differ.len().min(9)]);
    assert!(converted > 900 || !all_are_wanted(), "{converted}");
}

#[test]
fn weights_are_said_to_be_made_ternary_unless_they_are_packed_so() {
    let Some(golden) = goldens().into_iter().find(|golden| golden.name == "bitnet") else { return };
    let packing = PACKINGS.iter().find(|packing| packing.name == "bitnet").unwrap();
    let (stored, plain) = both(packing, &golden.reader()).unwrap();
    let notes = |reader: Reader| {
        let output = to_gguf::without_tokenizer(&packed::repacked(reader).unwrap(), &Tables::default(), ModelPart::Whole).unwrap();
        output.notes.into_iter().filter(|note| note.message.contains("three values")).map(|note| (note.name, note.message))
    };
    let message = "is rounded to three values, as in the forward pass of the model; so are 13 other tensors".to_owned();
    assert_eq!(notes(plain).collect::<Vec<_>>(), [("blk.0.attn_q.weight".to_owned(), message)]);
    assert_eq!(notes(stored).count(), 0);
}
