//! Writes GGUF headers: version 3, little-endian.

use std::collections::HashSet;

use crate::base::{Error, Result, limits, num};
use crate::format::gguf::spec::{self, MAGIC, VERSION};
use crate::format::{Layout, OutTensor};
use crate::model::{Array, ElemType, Metadata, Tag, Value};

/// Computes the layout of a file: header, keys, tensor table and data, with each tensor padded to the alignment in the metadata (default
/// 32).
///
/// # Errors
/// The alignment is invalid or too large; a tensor has more than 4 dimensions, a type that GGUF does not have, or a size that does not
/// match its shape; a name is duplicated; or a key is empty or too long.
pub fn layout(tensors: &[OutTensor], metadata: &Metadata) -> Result<Layout> {
    let alignment = spec::alignment_to_write(metadata)?;
    let mut header = MAGIC.to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    put_keys(&mut header, metadata)?;
    let mut starts = Vec::with_capacity(tensors.len());
    let mut names = HashSet::with_capacity(tensors.len());
    let mut start = 0u64;
    for tensor in tensors {
        if !names.insert(tensor.name.as_str()) {
            return Err(Error::argument("duplicate tensor name").in_tensor(&tensor.name));
        }
        put_entry(&mut header, tensor, start).map_err(|error| error.in_tensor(&tensor.name))?;
        starts.push(start);
        start = num::align(num::add(start, tensor.len_bytes, "the size of all tensors")?, alignment, "the size of all tensors")?;
    }
    let data_start = num::align(header.len() as u64, alignment, "the size of the header")?;
    header.resize(num::to_usize(data_start, "a header")?, 0);
    let total = num::add(data_start, start, "the size of the file")?;
    Ok(Layout { header, offsets: starts.into_iter().map(|start| data_start + start).collect(), total })
}

/// Writes the key-value pairs.
pub(crate) fn put_keys(out: &mut Vec<u8>, metadata: &Metadata) -> Result<()> {
    for (key, value) in metadata.iter() {
        if key.is_empty() || key.len() as u64 > limits::GGUF_KEY_BYTES {
            let message = format!("expected a key of 1 to {} bytes, found one of {}", limits::GGUF_KEY_BYTES, key.len());
            return Err(Error::argument(message));
        }
        put_str(out, key);
        out.extend((value.value_type() as u32).to_le_bytes());
        put_value(out, value)?;
    }
    Ok(())
}

fn put_entry(out: &mut Vec<u8>, tensor: &OutTensor, start: u64) -> Result<()> {
    if tensor.shape.len() > limits::GGUF_DIMS as usize {
        return Err(Error::argument(format!("expected at most {} dimensions in GGUF, found {}", limits::GGUF_DIMS, tensor.shape.len())));
    }
    let tag = match tensor.elem {
        ElemType::Unknown { tag: Tag::Number(number) } => Some(number),
        ElemType::Unknown { tag: Tag::Name(_) } => None,
        ElemType::Known(dtype) => dtype.info().ggml_id,
    };
    let tag = tag.ok_or_else(|| Error::argument(format!("GGUF has no type {}", tensor.elem)))?;
    tensor.check_size()?;
    put_str(out, &tensor.name);
    out.extend((tensor.shape.len() as u32).to_le_bytes());
    for dim in tensor.shape.iter().rev() {
        out.extend(dim.to_le_bytes());
    }
    out.extend(tag.to_le_bytes());
    out.extend(start.to_le_bytes());
    Ok(())
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) -> Result<()> {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(text) => put_str(out, text),
        Value::Array(array) => put_array(out, array)?,
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
    Ok(())
}

/// Writes an array. An empty one keeps its element type; encoded bytes are copied if possible.
fn put_array(out: &mut Vec<u8>, array: &Array) -> Result<()> {
    out.extend((array.elem() as u32).to_le_bytes());
    out.extend(array.len().to_le_bytes());
    if let Some(bytes) = array.encoded_le() {
        out.extend(bytes);
        return Ok(());
    }
    for value in array.iter() {
        put_value(out, &value?)?;
    }
    Ok(())
}
