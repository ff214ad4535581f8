//! Rules over a whole GGUF file: where the data of its tensors lies, and what well-known keys hold.

use std::path::Path;

use crate::base::finding::{Findings, Severity};
use crate::base::mmap::Map;
use crate::base::{Error, Result, num, text};
use crate::format::codes;
use crate::format::gguf::spec::{self, KeyType};
use crate::format::set::enough;
use crate::model::{Array, Metadata, TensorInfo, Value, ValueType};

/// An entry of the tensor table.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its offset is counted from the start of the data.
    pub(crate) tensor: TensorInfo,
    /// Where the entry is in the file.
    pub(crate) at: u64,
}

/// Gives every tensor its place in the file, in the order of the data, and checks that they lie there soundly.
pub(crate) fn place(entries: Vec<Entry>, table_end: u64, alignment: u64, map: &Map, findings: &mut Findings) -> Result<Vec<TensorInfo>> {
    let path = map.path();
    let in_order = entries.is_sorted_by_key(|entry| entry.tensor.offset_bytes);
    if !in_order {
        let error = Error::malformed("expected the tensors to be listed in the order of their data, found another order");
        findings.remark(Severity::Warning, codes::GGUF_ORDER, error.at(table_end).in_file(path));
    }
    let data_start = match num::align(table_end, alignment, "the start of the data") {
        Ok(start) => start,
        Err(error) => return Err(findings.fatal(codes::GGUF_ALIGNMENT, error.in_file(path))),
    };
    let mut tensors = Vec::with_capacity(entries.len());
    for Entry { mut tensor, at } in entries {
        match absolute(&tensor, data_start, alignment, map.len()) {
            Ok(offset) => {
                tensor.offset_bytes = offset;
                tensors.push(tensor);
            }
            Err((code, error)) => {
                findings.error(code, error.in_tensor(&tensor.name).at(at).in_file(path))?;
                enough(findings, path)?;
            }
        }
    }
    tensors.sort_by_key(|tensor| (tensor.offset_bytes, tensor.len_bytes));
    check_neighbours(&tensors, data_start, alignment, map, findings)?;
    Ok(tensors)
}

/// Where the tensor starts in the file, once it is known to lie inside.
fn absolute(tensor: &TensorInfo, data_start: u64, alignment: u64, file_len: u64) -> Result<u64, (&'static str, Error)> {
    let offset = tensor.offset_bytes;
    if !offset.is_multiple_of(alignment) {
        return Err((
            codes::GGUF_OFFSET,
            Error::malformed(format!("expected an offset that is a multiple of {alignment}, found {offset}")),
        ));
    }
    let len = tensor.len_bytes.unwrap_or(0);
    let start = data_start.checked_add(offset);
    match start.zip(start.and_then(|start| start.checked_add(len))) {
        // An empty tensor needs no byte, and so no padding before it.
        Some((start, end)) if end <= file_len || len == 0 && tensor.len_bytes.is_some() && start <= file_len.saturating_add(alignment) => {
            Ok(start)
        }
        _ => {
            let place = start.map_or_else(|| format!("{offset} bytes after byte {data_start}"), |start| format!("byte {start}"));
            let message = format!("expected {len} bytes of data from {place} on, found the end of the file at byte {file_len}");
            Err((codes::GGUF_TRUNCATED, Error::malformed(message).hint("the file is cut short: was the download complete?")))
        }
    }
}

fn check_neighbours(tensors: &[TensorInfo], data_start: u64, alignment: u64, map: &Map, findings: &mut Findings) -> Result<()> {
    let path = map.path();
    // The end of the data so far, and its tensor; none after a tensor of unknown size.
    let mut last = Some(data_start);
    let mut last_name = "";
    for tensor in tensors {
        let start = tensor.offset_bytes;
        if let Some(end) = last {
            if start < end && tensor.len_bytes != Some(0) {
                let message =
                    format!("expected it after the end of \"{}\" at byte {end}, found it at byte {start}", text::shorten(last_name));
                findings.error(codes::GGUF_OVERLAP, Error::malformed(message).in_tensor(&tensor.name).at(start).in_file(path))?;
                enough(findings, path)?;
            } else if start > num::align(end, alignment, "the end of a tensor")? {
                let message = format!("expected it at byte {end} or after its padding, found a hole of {} bytes before it", start - end);
                let error = Error::malformed(message).in_tensor(&tensor.name).at(end).in_file(path);
                findings.remark(Severity::Warning, codes::GGUF_HOLE, error);
                enough(findings, path)?;
            }
        }
        if tensor.len_bytes != Some(0) {
            last = tensor.len_bytes.map(|len| last.unwrap_or(start).max(start + len));
            last_name = &tensor.name;
        }
    }
    let Some(end) = last.filter(|_| !tensors.is_empty()) else { return Ok(()) };
    let padded = num::align(end, alignment, "the end of the data")?;
    if map.len() > padded {
        let message = format!("expected the file to end at byte {padded}, found {} bytes more", map.len() - padded);
        findings.remark(Severity::Warning, codes::GGUF_TRAILING, Error::malformed(message).at(padded).in_file(path));
    } else if map.len() < padded {
        let message = format!("expected the last tensor to be padded to byte {padded}, found the end of the file at {}", map.len());
        findings.remark(Severity::Note, codes::GGUF_PADDING, Error::malformed(message).at(end).in_file(path));
    }
    Ok(())
}

/// What `verify` says of the metadata; opening does not ask.
pub(crate) fn keys(metadata: &Metadata, path: &Path, findings: &mut Findings) {
    if !findings.collects() {
        return;
    }
    for &(key, wanted) in spec::KEY_TYPES {
        let Some(value) = metadata.get(key) else { continue };
        if !fits(value, wanted) {
            let found = match value {
                Value::Array(array) => format!("an array of {}", array.elem()),
                value => value.value_type().to_string(),
            };
            let error = Error::malformed(format!("expected {key} to be {}, found {found}", describe(wanted)));
            findings.remark(Severity::Warning, codes::GGUF_KEY_TYPE, error.in_file(path));
        }
    }
    if let Some("") = metadata.get_str("general.architecture") {
        let error = Error::malformed("expected general.architecture to be a name, found nothing");
        findings.remark(Severity::Warning, codes::GGUF_KEY_TYPE, error.in_file(path));
    }
    let lens = ["tokens", "scores", "token_type"]
        .map(|list| metadata.get(&format!("tokenizer.ggml.{list}")).and_then(Value::as_array).map(Array::len));
    if let [Some(tokens), others @ ..] = lens {
        for (name, len) in ["scores", "token_type"].into_iter().zip(others).filter_map(|(name, len)| len.map(|len| (name, len))) {
            if len != tokens {
                let error = Error::malformed(format!("expected {tokens} {name} for {tokens} tokens, found {len}"));
                findings.remark(Severity::Warning, codes::GGUF_TOKENS, error.in_file(path));
            }
        }
    }
    if let Some(tokens) = lens[0] {
        for (key, value) in metadata.iter().filter(|(key, _)| key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id")) {
            if let Some(id) = value.as_u64().filter(|id| *id >= tokens) {
                let error = Error::malformed(format!("expected {key} to be one of {tokens} tokens, found {id}"));
                findings.remark(Severity::Warning, codes::GGUF_TOKEN_ID, error.in_file(path));
            }
        }
    }
    for (key, value) in metadata.iter() {
        if !key.is_ascii() {
            let error = Error::malformed(format!("expected an ASCII key, found {}", text::shorten(key)));
            findings.remark(Severity::Note, codes::GGUF_KEY_NAME, error.in_file(path));
        }
        if let Value::Array(array) = value
            && let Some(error) = first_bad_value(array)
        {
            let error = Error::malformed(format!("{}: {}", text::shorten(key), error.message()));
            // Once collected, it does not end the walk. A string that is not text loses bytes wherever it is shown or converted.
            let _ = findings.error(codes::GGUF_UTF8, error.in_file(path));
        }
    }
}

/// A truth value is read as false or true; what else its byte may hold would be lost in a rewrite.
pub(crate) fn truth(byte: u8, key: &str, at: u64, path: &Path, findings: &mut Findings) {
    if byte > 1 {
        let error = Error::malformed(format!("expected {} to be 0 or 1, found {byte}", text::shorten(key))).at(at);
        findings.remark(Severity::Warning, codes::GGUF_BOOL, error.in_file(path));
    }
}

/// What is wrong with the first bad element; numbers are never wrong.
fn first_bad_value(array: &Array) -> Option<Error> {
    match array.elem() {
        ValueType::String => array.for_each_str(|_, _| Ok(())).err(),
        ValueType::Array => array.iter().find_map(Result::err),
        _ => None,
    }
}

fn fits(value: &Value, wanted: KeyType) -> bool {
    match wanted {
        KeyType::One(value_type) => value.value_type() == value_type,
        KeyType::Whole => value.as_u64().is_some(),
        KeyType::ArrayOf(elem) => value.as_array().is_some_and(|array| array.elem() == elem),
    }
}

fn describe(wanted: KeyType) -> String {
    match wanted {
        KeyType::One(value_type) => value_type.to_string(),
        KeyType::Whole => "a whole number".to_owned(),
        KeyType::ArrayOf(elem) => format!("an array of {elem}"),
    }
}
