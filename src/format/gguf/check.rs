//! Rules for a whole GGUF file: tensor offsets, and the values of well-known keys.

use std::collections::HashMap;
use std::path::Path;

use crate::base::finding::{Findings, Severity};
use crate::base::{Error, Result, num, text, units};
use crate::format::codes;
use crate::format::gguf::keys;
use crate::format::set::{check_finding_limit, check_truncated, is_cut};
use crate::model::{Array, Metadata, TensorInfo, Value, ValueType};
use crate::source::Prefix;

/// A tensor table entry.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The tensor, with its offset relative to the start of the data.
    pub(crate) tensor: TensorInfo,
    /// Offset of the entry in the file.
    pub(crate) at: u64,
}

/// Makes tensor offsets absolute, sorts the tensors by offset, and checks that they are aligned, adjacent and inside the file.
pub(crate) fn place_tensors(
    entries: Vec<Entry>,
    table_end: u64,
    alignment: u64,
    file: &Prefix,
    findings: &mut Findings,
) -> Result<Vec<TensorInfo>> {
    let (path, file_len) = (file.path(), file.len());
    let in_order = entries.is_sorted_by_key(|entry| entry.tensor.offset_bytes);
    if !in_order {
        let error = Error::malformed("expected the tensors to be listed in the order of their data, found another order");
        findings.remark(Severity::Error, codes::GGUF_ORDER, error.at(table_end).in_file(path));
    }
    let data_start = match num::align(table_end, alignment, "the start of the data") {
        Ok(start) => start,
        Err(error) => return Err(findings.fatal(codes::GGUF_ALIGNMENT, error.in_file(path))),
    };
    let mut tensors = Vec::with_capacity(entries.len());
    for Entry { mut tensor, at } in entries {
        match absolute(&tensor, data_start, alignment) {
            Ok(offset) => {
                tensor.offset_bytes = offset;
                tensors.push(tensor);
            }
            Err((code, error)) => {
                findings.error(code, error.in_tensor(&tensor.name).at(at).in_file(path))?;
                check_finding_limit(findings, path)?;
            }
        }
    }
    if !tensors.is_empty() && data_start > file_len && tensors.iter().all(|tensor| tensor.len_bytes == Some(0)) {
        let message = format!("expected the data to start at byte {data_start}, found the end of the file at byte {}", file_len);
        findings.missing(codes::GGUF_TRUNCATED, Error::truncated(message).at(table_end).in_file(path), Vec::new())?;
    }
    let whole = check_truncated(&tensors, file_len, alignment, path, codes::GGUF_TRUNCATED, findings)?;
    tensors.sort_by_key(|tensor| (tensor.offset_bytes, tensor.len_bytes));
    check_neighbours(&tensors, data_start, alignment, whole, file, findings)?;
    if findings.collects() {
        tensors.retain(|tensor| !is_cut(tensor, file_len, alignment));
    }
    Ok(tensors)
}

/// Returns the absolute offset of a tensor if it is aligned and its end does not overflow.
fn absolute(tensor: &TensorInfo, data_start: u64, alignment: u64) -> Result<u64, (&'static str, Error)> {
    let offset = tensor.offset_bytes;
    if !offset.is_multiple_of(alignment) {
        return Err((
            codes::GGUF_OFFSET,
            Error::malformed(format!("expected an offset that is a multiple of {alignment}, found {offset}")),
        ));
    }
    let len = tensor.len_bytes.unwrap_or(0);
    data_start.checked_add(offset).filter(|start| start.checked_add(len).is_some()).ok_or_else(|| {
        let message = format!("expected {len} bytes of data that end before byte 2^64, found them {offset} bytes after byte {data_start}");
        (codes::GGUF_TRUNCATED, Error::malformed(message))
    })
}

fn check_neighbours(
    tensors: &[TensorInfo],
    data_start: u64,
    alignment: u64,
    whole: bool,
    file: &Prefix,
    findings: &mut Findings,
) -> Result<()> {
    let (path, file_len) = (file.path(), file.len());
    // The end of the data so far, and the tensor that ends there; `None` after a tensor of unknown size.
    let mut last = Some((data_start, ""));
    for tensor in tensors {
        let start = tensor.offset_bytes;
        if let Some((end, name)) = last {
            if start < end && tensor.len_bytes != Some(0) {
                let message =
                    format!("expected it to start after the end of \"{}\" at byte {end}, found it at byte {start}", text::shorten(name));
                findings.error(codes::GGUF_OVERLAP, Error::malformed(message).in_tensor(&tensor.name).at(start).in_file(path))?;
                check_finding_limit(findings, path)?;
            } else if whole && start > num::align(end, alignment, "the end of a tensor")? {
                let message = format!("expected it at byte {end} or after its padding, found a hole of {} bytes before it", start - end);
                let error = Error::malformed(message).in_tensor(&tensor.name).at(end).in_file(path);
                findings.remark(Severity::Error, codes::GGUF_HOLE, error);
                check_finding_limit(findings, path)?;
            }
        }
        if tensor.len_bytes != Some(0) {
            let end = tensor.len_bytes.map(|len| (start + len, tensor.name.as_str()));
            last = end.map(|end| last.filter(|last| last.0 > end.0).unwrap_or(end));
        }
    }
    // A truncated file is already reported.
    let Some((end, _)) = last.filter(|_| whole && !tensors.is_empty()) else { return Ok(()) };
    let padded = num::align(end, alignment, "the end of the data")?;
    if file_len > padded {
        let message = format!("expected the file to end at byte {padded}, found {} bytes more", file_len - padded);
        findings.remark(Severity::Warning, codes::GGUF_TRAILING, Error::malformed(message).at(padded).in_file(path));
    } else if file_len < padded {
        let message = format!("expected the last tensor to be padded to byte {padded}, found the end of the file at {}", file_len);
        findings.remark(Severity::Note, codes::GGUF_PADDING, Error::malformed(message).at(end).in_file(path));
    }
    Ok(())
}

/// Checks the metadata for `verify`; opening does not need this.
pub(crate) fn metadata(metadata: &Metadata, path: &Path, findings: &mut Findings) {
    if !findings.collects() {
        return;
    }
    let architecture = metadata.get_str("general.architecture").unwrap_or_default();
    let layers = metadata.get_u64(&format!("{architecture}.block_count"));
    // A list may leave out the layers that predict further tokens.
    let further = metadata.get_u64(&format!("{architecture}.nextn_predict_layers")).unwrap_or(0);
    let fewer = layers.map(|layers| layers.saturating_sub(further));
    for (key, value) in metadata.iter() {
        let Some((wanted, refused)) = keys::type_of(key, architecture) else { continue };
        if !wanted.fits(value, layers) && !wanted.fits(value, fewer) {
            let found = match value {
                Value::Array(array) => format!("an array of {} {}", units::grouped(array.len()), array.elem()),
                value => value.value_type().to_string(),
            };
            let error = Error::malformed(format!("expected {} to be {}, found {found}", text::shorten(key), wanted.describe(layers)));
            let severity = if refused { Severity::Error } else { Severity::Warning };
            findings.remark(severity, codes::GGUF_KEY_TYPE, error.in_file(path));
        }
    }
    if let Some("") = metadata.get_str("general.architecture") {
        let error = Error::malformed("expected general.architecture to be a name, found an empty string");
        findings.remark(Severity::Warning, codes::GGUF_KEY_TYPE, error.in_file(path));
    }
    let lens = ["tokens", "scores", "token_type"]
        .map(|list| metadata.get(&format!("tokenizer.ggml.{list}")).and_then(Value::as_array).map(Array::len));
    if let [Some(tokens), others @ ..] = lens {
        for (name, len) in ["scores", "token_type"].into_iter().zip(others).filter_map(|(name, len)| len.map(|len| (name, len))) {
            if len != tokens {
                let error = Error::malformed(format!("expected {tokens} {name} for {tokens} tokens, found {len}"));
                // llama.cpp rejects a list that is too short.
                let severity = if len < tokens { Severity::Error } else { Severity::Warning };
                findings.remark(severity, codes::GGUF_TOKENS, error.in_file(path));
            }
        }
    }
    if let Some((token, first, second)) = metadata.get("tokenizer.ggml.tokens").and_then(Value::as_array).and_then(find_duplicate) {
        let message = format!("duplicate token {} ({first} and {second})", text::shorten(&token));
        findings.remark(Severity::Error, codes::GGUF_TOKEN_TWICE, Error::malformed(message).in_file(path));
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
            && array.elem() == ValueType::Array
        {
            let error = Error::malformed(format!("expected {} to be an array of scalars, found an array of arrays", text::shorten(key)));
            findings.remark(Severity::Error, codes::GGUF_NESTED, error.in_file(path));
        }
        if let Value::Array(array) = value
            && let Some(error) = first_bad_value(array)
        {
            let error = Error::malformed(format!("{}: {}", text::shorten(key), error.message()));
            // When collecting, this does not end the pass. A string that is not UTF-8 loses bytes when it is displayed or converted.
            let _ = findings.error(codes::GGUF_UTF8, error.in_file(path));
        }
    }
}

/// Checks for `verify` that required keys are present.
pub(crate) fn needed_keys(metadata: &Metadata, path: &Path, findings: &mut Findings) {
    for (key, severity) in keys::missing(metadata) {
        let error =
            Error::malformed(format!("expected {}, without which llama.cpp refuses a model, found no such key", text::shorten(&key)));
        findings.remark(severity, codes::GGUF_KEY_MISSING, error.in_file(path));
    }
}

/// Checks a boolean: it is read as false or true, so any other byte value would be lost in a rewrite.
pub(crate) fn check_bool(byte: u8, key: &str, at: u64, path: &Path, findings: &mut Findings) {
    if byte > 1 {
        let error = Error::malformed(format!("expected {} to be 0 or 1, found {byte}", text::shorten(key))).at(at);
        findings.remark(Severity::Warning, codes::GGUF_BOOL, error.in_file(path));
    }
}

/// Returns the first duplicate token and its two IDs; llama.cpp aborts on it, except that it renames empty tokens.
fn find_duplicate(tokens: &Array) -> Option<(String, u64, u64)> {
    let mut seen: HashMap<String, u64> = HashMap::new();
    let mut found = None;
    // A token that is not UTF-8 is already reported, and ends the iteration.
    let _ = tokens.for_each_str(|i, token| {
        if found.is_none()
            && !token.is_empty()
            && let Some(first) = seen.insert(token.to_owned(), i)
        {
            found = Some((token.to_owned(), first, i));
        }
        Ok(())
    });
    found
}

/// Returns the error of the first invalid element; numbers are always valid.
fn first_bad_value(array: &Array) -> Option<Error> {
    match array.elem() {
        ValueType::String => array.for_each_str(|_, _| Ok(())).err(),
        ValueType::Array => array.iter().find_map(Result::err),
        _ => None,
    }
}
