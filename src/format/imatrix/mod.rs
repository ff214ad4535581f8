//! Importance matrices in llama.cpp's legacy binary format (`imatrix.dat`), opened as a model with one tensor per entry.
//!
//! The current format is a GGUF with `general.type = imatrix`. Layout (common/imatrix-loader.cpp in llama.cpp): the number of entries; for
//! each entry the name length, name, number of calls, number of values, values; then, optionally, the number of chunks, and the length and
//! name of the dataset. Numbers are 32-bit little-endian; values are single precision.

use std::collections::HashSet;

use crate::base::bytes::{Cursor, Endian, Parsed};
use crate::base::finding::Findings;
use crate::base::{Error, Result, num};
use crate::format::set::parse_header;
use crate::format::{Format, Reader, codes};
use crate::model::{Array, DType, ElemType, FormatId, Metadata, Model, Shard, TensorInfo, Value, ValueType};
use crate::source::Prefix;

/// The format's row in [`crate::format::FORMATS`].
pub(crate) const FORMAT: Format = Format {
    id: FormatId::Imatrix,
    extensions: &["dat", "imatrix"],
    probe,
    open,
    layout: None,
    edit: None,
    stores: |dtype| dtype == DType::F32,
};

/// The metadata key with the number of calls of each entry, in tensor order.
pub const CALLS: &str = "imatrix.calls";
/// The metadata key with the number of chunks, named as in the GGUF format.
pub const CHUNK_COUNT: &str = "imatrix.chunk_count";
/// The metadata key with the names of datasets, named as in the GGUF format.
pub const DATASETS: &str = "imatrix.datasets";

/// Plausible maximum number of entries and name length, for probing.
const PLAUSIBLE: (i32, i32) = (1 << 20, 1 << 10);
/// Minimum size of an entry in bytes: three numbers and one value.
const LEAST_ENTRY: u64 = 16;

/// Recognises the format, which has no magic, by a plausible first entry.
fn probe(start: &[u8], len: u64) -> u8 {
    let first = || -> Result<bool> {
        let mut cursor = Cursor::new(start, Endian::Little);
        let (entries, name) = (cursor.i32("")?, cursor.i32("")?);
        if !(1..=PLAUSIBLE.0).contains(&entries) || !(1..=PLAUSIBLE.1).contains(&name) {
            return Ok(false);
        }
        let name = cursor.take(name as u64, "")?;
        let (calls, values) = (cursor.i32("")?, cursor.i32("")?);
        let graphic = name.iter().all(u8::is_ascii_graphic);
        Ok(graphic && calls >= 0 && values >= 1 && values as u64 * 4 <= len && entries as u64 * LEAST_ENTRY <= len)
    };
    if first().unwrap_or(false) { 20 } else { 0 }
}

fn open(mut file: Prefix, findings: &mut Findings) -> Result<Reader> {
    let (tensors, metadata) = parse_header(&mut file, findings, parse)?;
    let path = file.path().to_path_buf();
    let shards = vec![Shard { path: path.clone(), bytes: file.len() }];
    let model = Model { format: FORMAT.id, path, shards, tensors, metadata, ..Model::default() };
    Ok(Reader::new(model, vec![file.into_source()], Endian::Little))
}

/// Reads a non-negative count.
fn count(cursor: &mut Cursor<'_>, what: &str) -> Result<u64> {
    let at = cursor.position();
    let count = cursor.i32(what)?;
    u64::try_from(count).map_err(|_| Error::malformed(format!("expected {what} of at least 0, found {count}")).at(at))
}

fn name(cursor: &mut Cursor<'_>, what: &str) -> Result<String> {
    let len = count(cursor, what)?;
    let text = cursor.text(len, what)?;
    Ok(text.trim_end_matches('\0').to_owned())
}

fn parse(file: &Prefix, findings: &mut Findings) -> Parsed<Result<(Vec<TensorInfo>, Metadata)>> {
    let mut cursor = Cursor::from_prefix(file.bytes(), file.len(), Endian::Little);
    let read = read(&mut cursor).map_err(|error| findings.fatal(codes::IMATRIX_ENTRY, error.in_file(file.path())));
    cursor.parsed(read)
}

fn read(cursor: &mut Cursor<'_>) -> Result<(Vec<TensorInfo>, Metadata)> {
    let entries = count(cursor, "a number of entries")?;
    if entries * LEAST_ENTRY > cursor.remaining() {
        let message = format!("expected {entries} entries, found {} bytes", cursor.remaining());
        return Err(Error::malformed(message).at(0));
    }
    let (mut tensors, mut calls, mut names) = (Vec::new(), Vec::new(), HashSet::new());
    for _ in 0..entries {
        let at = cursor.position();
        let name = name(cursor, "an entry's name")?;
        if !names.insert(name.clone()) {
            return Err(Error::malformed("duplicate entry").at(at).in_tensor(&name));
        }
        calls.push(Value::U32(count(cursor, "the calls of an entry")? as u32));
        let values = count(cursor, "the values of an entry")?;
        let offset_bytes = cursor.position();
        let len = num::mul(values, 4, "the bytes of an entry")?;
        cursor.take(len, "an entry's values").map_err(|error| error.in_tensor(&name))?;
        let elem = ElemType::Known(DType::F32);
        tensors.push(TensorInfo { name, elem, shape: vec![values], shard: 0, offset_bytes, len_bytes: Some(len) });
    }
    let mut metadata = Metadata::new();
    metadata.insert("general.type", Value::String("imatrix".to_owned()))?;
    metadata.insert(CALLS, Value::Array(Array::new(ValueType::U32, calls)))?;
    if cursor.remaining() > 0 {
        metadata.insert(CHUNK_COUNT, Value::U32(count(cursor, "a number of chunks")? as u32))?;
    }
    if cursor.remaining() > 0 {
        metadata.insert(DATASETS, Value::Array(Array::strings([name(cursor, "a dataset's name")?])))?;
    }
    Ok((tensors, metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes = 2i32.to_le_bytes().to_vec();
        for (name, values) in [("blk.0.attn_q.weight", 3i32), ("blk.0.ffn_up.weight", 2)] {
            bytes.extend((name.len() as i32).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(4i32.to_le_bytes());
            bytes.extend(values.to_le_bytes());
            (0..values).for_each(|i| bytes.extend((i as f32).to_le_bytes()));
        }
        bytes.extend(7i32.to_le_bytes());
        bytes.extend(4i32.to_le_bytes());
        bytes.extend(b"wiki");
        bytes
    }

    fn opened(bytes: &[u8]) -> Result<Reader> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let file = Prefix::new(crate::source::open(file.path()).unwrap()).unwrap();
        open(file, &mut Findings::stop_at_first())
    }

    #[test]
    fn entries_chunks_and_dataset_are_read() {
        let bytes = sample();
        assert!(probe(&bytes, bytes.len() as u64) > 0);
        let reader = opened(&bytes).unwrap();
        let model = reader.model();
        assert_eq!(model.tensors[1].name, "blk.0.ffn_up.weight");
        assert_eq!(reader.bytes(&model.tensors[1]).unwrap().as_ref(), [0f32, 1.0].map(f32::to_le_bytes).concat());
        assert_eq!(model.metadata.get_u64(CHUNK_COUNT), Some(7));
        assert_eq!(model.metadata.get(DATASETS).unwrap().as_array().unwrap().values().unwrap(), [Value::String("wiki".into())]);
    }

    #[test]
    fn every_cut_is_an_error_or_a_file_without_the_optional_end() {
        let bytes = sample();
        let entries = bytes.len() - 12;
        for cut in 0..bytes.len() {
            let whole = [entries, entries + 4].contains(&cut);
            assert_eq!(opened(&bytes[..cut]).is_ok(), whole, "{cut} of {}", bytes.len());
        }
        for (at, value) in [(0, -1i32), (0, i32::MAX), (4, -1), (4, i32::MAX), (31, -3)] {
            let mut wrong = bytes.clone();
            wrong[at..at + 4].copy_from_slice(&value.to_le_bytes());
            assert!(opened(&wrong).is_err(), "{at} {value}");
        }
        assert_eq!(probe(b"GGUF\x03\0\0\0", 1 << 20), 0);
    }
}
