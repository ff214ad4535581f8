//! What opens can be written again in its own format, and opens equal.

use arbitrary::{Result, Unstructured};
use weigh::DType;
use weigh::base::bytes::Endian;
use weigh::format::{FORMATS, OutTensor};
use weigh::model::{Value, ValueType};

use super::open::{gguf_seeds, safetensors_of, safetensors_seeds};
use super::{Target, file, folder};
use crate::build::{Gguf, safetensors};

/// The first byte says what the rest is: a file as it is, or choices from which one that is nearly sound is built.
pub const ROUND_TRIP: Target = Target { name: "round_trip", run, seeds };

fn run(data: &[u8]) {
    let Some(bytes) = made(data) else { return };
    let first = match weigh::format::open(&file(&folder(), "first", &bytes)) {
        Ok(first) if first.model().tensors.iter().all(|tensor| tensor.len_bytes.is_some()) => first,
        _ => return,
    };
    let model = first.model();
    let format = FORMATS.iter().find(|format| format.id == model.format).expect("the format that opened it");
    let Some(lay_out) = format.layout else { return };
    let out = |tensor: &weigh::model::TensorInfo| OutTensor {
        name: tensor.name.clone(),
        elem: tensor.elem,
        shape: tensor.shape.clone(),
        len_bytes: tensor.len_bytes.unwrap_or(0),
    };
    let tensors: Vec<OutTensor> = model.tensors.iter().map(out).collect();
    let layout = match lay_out(&tensors, &model.metadata) {
        Ok(layout) if layout.total < 1 << 24 => layout,
        Ok(_) => return,
        Err(error) => {
            // An array of strings that are no text is found when it is written; all else, when the file is opened.
            assert!(model.metadata.iter().any(|(_, value)| value.as_array().is_some_and(|array| array.values().is_err())), "{error}");
            return;
        }
    };
    let mut bytes = layout.header;
    for (tensor, &offset) in model.tensors.iter().zip(&layout.offsets) {
        bytes.resize(offset as usize, 0);
        bytes.extend_from_slice(&first.bytes(tensor).expect("checked when it was opened"));
    }
    bytes.resize(layout.total as usize, 0);
    let second = weigh::format::open(&file(&folder(), "second", &bytes)).expect("what is written opens");
    assert_eq!(second.model().tensors.len(), tensors.len());
    for tensor in &model.tensors {
        let again = second.model().tensor(&tensor.name).expect("no tensor is lost");
        assert_eq!((again.elem, &again.shape), (tensor.elem, &tensor.shape));
        assert_eq!(second.bytes(again).expect("opened"), first.bytes(tensor).expect("opened"));
    }
    assert_eq!(second.model().metadata.len(), model.metadata.len());
    for ((key, value), (other_key, other)) in model.metadata.iter().zip(second.model().metadata.iter()) {
        assert_eq!(key, other_key);
        assert!(same(value, other), "{key}: {value:?} and {other:?}");
    }
}

/// NaN is the same when its bits are.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::F32(a), Value::F32(b)) => a.to_bits() == b.to_bits(),
        (Value::F64(a), Value::F64(b)) => a.to_bits() == b.to_bits(),
        (Value::Array(a), Value::Array(b)) => {
            let values = || a.iter().zip(b.iter()).all(|pair| matches!(pair, (Ok(a), Ok(b)) if same(&a, &b)));
            a.elem() == b.elem() && a.len() == b.len() && (values() || a.values().is_err())
        }
        _ => a == b,
    }
}

/// The file that an input stands for.
pub(super) fn made(data: &[u8]) -> Option<Vec<u8>> {
    let (pick, rest) = data.split_first()?;
    let mut choices = Unstructured::new(rest);
    Some(match pick % 4 {
        0 => rest.to_vec(),
        1 => safetensors_of(rest),
        2 => built_gguf(&mut choices).ok()?,
        _ => built_safetensors(&mut choices).ok()?,
    })
}

/// A short text: most often plain letters, sometimes anything.
fn text(choices: &mut Unstructured<'_>) -> Result<String> {
    const PLAIN: [&str; 8] = ["a", "b.weight", "blk.0.attn_q.weight", "k", "general.name", "general.alignment", "", "model.layers.1.x"];
    Ok(if choices.ratio(7, 8)? { (*choices.choose(&PLAIN)?).to_owned() } else { choices.arbitrary()? })
}

/// A shape of few elements that a type can have, outermost first.
fn shape(dtype: DType, choices: &mut Unstructured<'_>) -> Result<Vec<u64>> {
    let mut shape = Vec::new();
    for _ in 0..choices.int_in_range(0..=4)? {
        shape.push(choices.int_in_range(0..=4)?);
    }
    let block = dtype.info().block_elems;
    match shape.last_mut() {
        Some(row) => *row *= block,
        None if block > 1 => shape.push(block),
        None => {}
    }
    Ok(shape)
}

fn built_gguf(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let endian = if choices.ratio(1, 4)? { Endian::Big } else { Endian::Little };
    let version = choices.int_in_range(if endian == Endian::Big { 2..=3 } else { 1..=3 })?;
    let mut gguf = Gguf { endian, version, ..Gguf::default() };
    if choices.arbitrary()? {
        gguf.alignment = 1 << choices.int_in_range(0..=9)?;
        gguf = gguf.clone().key_u32("general.alignment", gguf.alignment as u32);
    }
    for _ in 0..choices.int_in_range(0..=6)? {
        let value_type = *choices.choose(ValueType::ALL)?;
        let value = value(&gguf, value_type, 0, choices)?;
        gguf = gguf.key(&text(choices)?, value_type as u32, value);
    }
    let types: Vec<DType> = DType::ALL.iter().copied().filter(|dtype| dtype.info().ggml_id.is_some()).collect();
    for _ in 0..choices.int_in_range(0..=5)? {
        let dtype = *choices.choose(&types)?;
        let shape = shape(dtype, choices)?;
        let len = dtype.bytes_for_shape(&shape).unwrap_or(0) as usize;
        let bytes = choices.bytes(len.min(choices.len()))?.iter().copied().chain(std::iter::repeat(0)).take(len).collect();
        let dims: Vec<u64> = shape.into_iter().rev().collect();
        gguf = gguf.tensor(&text(choices)?, dtype.info().ggml_id.unwrap_or(0), &dims, bytes);
    }
    if choices.ratio(1, 8)? {
        gguf.tensor_count = Some(choices.int_in_range(0..=8)?);
    }
    Ok(gguf.build())
}

/// The bytes of a value, of whatever content.
fn value(gguf: &Gguf, value_type: ValueType, depth: usize, choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(match value_type {
        ValueType::Bool => vec![choices.arbitrary::<bool>()?.into()],
        ValueType::String => gguf.text(text(choices)?.as_bytes()),
        ValueType::Array => {
            let elem = *choices.choose(ValueType::ALL)?;
            let elem = if elem == ValueType::Array && depth > 2 { ValueType::U8 } else { elem };
            let count = choices.int_in_range(0..=3)?;
            let mut elements = Vec::new();
            for _ in 0..count {
                elements.extend(value(gguf, elem, depth + 1, choices)?);
            }
            gguf.array(elem as u32, count, &elements)
        }
        ValueType::U8 | ValueType::I8 => choices.bytes(1)?.to_vec(),
        ValueType::U16 | ValueType::I16 => choices.bytes(2)?.to_vec(),
        ValueType::U32 | ValueType::I32 | ValueType::F32 => choices.bytes(4)?.to_vec(),
        ValueType::U64 | ValueType::I64 | ValueType::F64 => choices.bytes(8)?.to_vec(),
    })
}

fn built_safetensors(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let types: Vec<DType> = DType::ALL.iter().copied().filter(|dtype| dtype.info().safetensors.is_some()).collect();
    let quote = |text: String| serde_json::Value::from(text).to_string();
    let mut entries = Vec::new();
    let mut data = Vec::new();
    if choices.arbitrary()? {
        let mut pairs = Vec::new();
        for _ in 0..choices.int_in_range(0..=3)? {
            pairs.push(format!("{}:{}", quote(text(choices)?), quote(text(choices)?)));
        }
        entries.push(format!(r#""__metadata__":{{{}}}"#, pairs.join(",")));
    }
    for _ in 0..choices.int_in_range(0..=5)? {
        let dtype = *choices.choose(&types)?;
        let shape = shape(dtype, choices)?;
        let len = dtype.bytes_for_shape(&shape).unwrap_or(0) as usize;
        let begin = data.len();
        data.extend(choices.bytes(len.min(choices.len()))?);
        data.resize(begin + len, 0);
        let (name, dtype, end) = (quote(text(choices)?), dtype.info().safetensors.unwrap_or_default(), data.len());
        entries.push(format!(r#"{name}:{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#));
    }
    Ok(safetensors(&format!("{{{}}}", entries.join(",")), &data))
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let raw = gguf_seeds().into_iter().map(|seed| [vec![0], seed].concat());
    let headers = safetensors_seeds().into_iter().map(|seed| [vec![1], seed].concat());
    let noise = |salt: u32| (0..400u32).map(|i| ((i ^ salt << 9).wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<u8>>();
    let built = (0..16u32).map(|salt| [vec![2 + (salt % 2) as u8], noise(salt)].concat());
    raw.chain(headers).chain(built).collect()
}
