//! Writes safetensors headers.

use std::collections::HashSet;

use serde::Deserialize;
use serde::de::IntoDeserializer;

use crate::base::{Error, Hint, Result, limits, num};
use crate::format::safetensors::spec::{ALIGNMENT, LENGTH_BYTES, METADATA};
use crate::format::{Layout, OutTensor};
use crate::model::{ElemType, Metadata, Tag, Value};

/// Computes the layout of a file: a header padded with spaces, then the tensors in the given order.
///
/// # Errors
/// A tensor's type does not exist in safetensors, or its size does not match its shape; a name is duplicated; a metadata value is not a
/// string; or the header is larger than readers accept.
pub fn layout(tensors: &[OutTensor], metadata: &Metadata) -> Result<Layout> {
    let mut json = String::from("{");
    if !metadata.is_empty() {
        json.push_str(&quote(METADATA));
        json.push_str(":{");
        for (i, (key, value)) in metadata.iter().enumerate() {
            let Value::String(text) = value else {
                return Err(Error::argument(format!(
                    "expected a string for {key} in safetensors, found a value of {}",
                    value.value_type()
                )));
            };
            let comma = if i > 0 { "," } else { "" };
            json.push_str(&format!("{comma}{}:{}", quote(key), quote(text)));
        }
        json.push('}');
    }
    let mut ends = Vec::with_capacity(tensors.len());
    let mut names = HashSet::with_capacity(tensors.len());
    let mut begin = 0u64;
    for tensor in tensors {
        check(tensor, &mut names).map_err(|error| error.in_tensor(&tensor.name))?;
        let dtype = match &tensor.elem {
            ElemType::Known(dtype) => dtype.info().safetensors,
            ElemType::Unknown { tag: Tag::Name(name) } => Some(name.as_str()),
            ElemType::Unknown { tag: Tag::Number(_) } => None,
        };
        let dtype =
            dtype.map(quote).ok_or_else(|| Error::argument(format!("safetensors has no type {}", tensor.elem)).in_tensor(&tensor.name))?;
        let end = num::add(begin, tensor.len_bytes, "the size of all tensors")?;
        let comma = if json.len() > 1 { "," } else { "" };
        let dims: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        let (name, shape) = (quote(&tensor.name), dims.join(","));
        json.push_str(&format!("{comma}{name}:{{\"dtype\":{dtype},\"shape\":[{shape}],\"data_offsets\":[{begin},{end}]}}"));
        ends.push(end);
        begin = end;
    }
    json.push('}');
    while !(json.len() as u64).is_multiple_of(ALIGNMENT) {
        json.push(' ');
    }
    let header_len = json.len() as u64;
    if header_len > limits::SAFETENSORS_HEADER_BYTES {
        let message = format!("expected a header of at most {} bytes, found {header_len}", limits::SAFETENSORS_HEADER_BYTES);
        return Err(Error::limit(message).hint(Hint::Split));
    }
    let data_start = LENGTH_BYTES + header_len;
    let mut header = header_len.to_le_bytes().to_vec();
    header.extend(json.into_bytes());
    let total = num::add(data_start, begin, "the size of the file")?;
    let starts = std::iter::once(0).chain(ends).take(tensors.len());
    Ok(Layout { header, offsets: starts.map(|start| data_start + start).collect(), total })
}

/// Returns the place of a type in the order in which the safetensors library writes tensors, the last first.
pub fn order(elem: &ElemType) -> Option<safetensors::Dtype> {
    let name = elem.known()?.info().safetensors?;
    safetensors::Dtype::deserialize(IntoDeserializer::<serde::de::value::Error>::into_deserializer(name)).ok()
}

fn check<'a>(tensor: &'a OutTensor, names: &mut HashSet<&'a str>) -> Result<()> {
    if tensor.name == METADATA {
        return Err(Error::argument(format!("a tensor cannot be named {METADATA}, which safetensors reserves for metadata")));
    }
    if !names.insert(&tensor.name) {
        return Err(Error::argument("duplicate tensor name"));
    }
    tensor.check_size()
}

/// Quotes text as a JSON string.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
