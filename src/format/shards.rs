//! Splits the output into one or several files: safetensors shards with an index, or GGUF splits.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::base::{Error, Hint, Result, limits, num};
use crate::format::gguf::spec as gguf;
use crate::format::safetensors::{index, spec as safetensors};
use crate::format::set::PartName;
use crate::format::{Format, Layout, OutTensor};
use crate::model::{FormatId, Metadata, Value};
use crate::source::{file, place};

/// A file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// Its path.
    pub path: PathBuf,
    /// Its contents.
    pub content: FileContent,
}

/// The contents of a file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileContent {
    /// A range of the tensors, and the layout of the file.
    Tensors(Range<usize>, Layout),
    /// These bytes: the index.
    Bytes(Vec<u8>),
}

impl PlannedFile {
    /// Returns the file size in bytes.
    pub fn bytes(&self) -> u64 {
        match &self.content {
            FileContent::Tensors(_, layout) => layout.total,
            FileContent::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

/// Plans the file at `path`, or, if the tensors exceed `shard_bytes` in total, several files named after it:
/// `NAME-00001-of-00003.safetensors` and `NAME.safetensors.index.json`, or `NAME-00001-of-00003.gguf`.
///
/// The index comes last. GGUF split keys are dropped, and rewritten if the output is split.
///
/// # Errors
/// The format cannot be written, or cannot store one of the tensors or values.
pub fn layout(
    format: &Format,
    path: &Path,
    tensors: &[OutTensor],
    metadata: &Metadata,
    shard_bytes: Option<u64>,
) -> Result<Vec<PlannedFile>> {
    layout_ranges(format, path, tensors, metadata, &split(tensors, shard_bytes.unwrap_or(u64::MAX))?)
}

/// Plans the file at `path`, or a file for each of several ranges of tensors, named as by [`layout`].
///
/// # Errors
/// As for [`layout`].
pub fn layout_ranges(
    format: &Format,
    path: &Path,
    tensors: &[OutTensor],
    metadata: &Metadata,
    ranges: &[Range<usize>],
) -> Result<Vec<PlannedFile>> {
    let lay_out = format.layout.ok_or_else(|| Error::unsupported(format!("{} cannot be written", format.id)))?;
    let mut metadata = metadata.clone();
    for key in [gguf::SPLIT_NO, gguf::SPLIT_COUNT, gguf::SPLIT_TENSORS] {
        metadata.remove(key);
    }
    if ranges.len() <= 1 {
        let layout = lay_out(tensors, &metadata)?;
        return Ok(vec![PlannedFile { path: path.to_path_buf(), content: FileContent::Tensors(0..tensors.len(), layout) }]);
    }
    let is_gguf = format.id == FormatId::Gguf;
    let mut files = Vec::with_capacity(ranges.len() + 1);
    let mut names = Vec::with_capacity(ranges.len());
    for (no, range) in ranges.iter().enumerate() {
        let mut keys = if no == 0 { metadata.clone() } else { later_metadata(&metadata, is_gguf) };
        if is_gguf {
            // In the order of llama-gguf-split.
            keys.set(gguf::SPLIT_NO, Value::U16(no as u16));
            keys.set(gguf::SPLIT_TENSORS, Value::I32(tensors.len() as i32));
            keys.set(gguf::SPLIT_COUNT, Value::U16(ranges.len() as u16));
        }
        let name = numbered(path, no + 1, ranges.len());
        let layout = lay_out(&tensors[range.clone()], &keys)?;
        files.push(PlannedFile { path: path.with_file_name(&name), content: FileContent::Tensors(range.clone(), layout) });
        names.push(name);
    }
    if !is_gguf {
        let named = ranges.iter().zip(&names).flat_map(|(range, name)| tensors[range.clone()].iter().map(move |tensor| (tensor, name)));
        let bytes = index_bytes(named.map(|(tensor, file)| (tensor.name.as_str(), tensor.len_bytes, file.as_str())))?;
        let name = format!("{}{}", stem(path), safetensors::INDEX_ENDING);
        files.push(PlannedFile { path: path.with_file_name(name), content: FileContent::Bytes(bytes) });
    }
    Ok(files)
}

/// Returns the files of an older output at `path` (in one file or several) that the new `files` do not overwrite: readers would take them
/// for that model or parts of it. An index comes last.
///
/// For safetensors, these are the file itself, the index, the files it lists, and all numbered files; for GGUF, the file itself, and the
/// numbered files if the new ones are numbered, since a single GGUF does not refer to others.
///
/// # Errors
/// The folder cannot be listed.
pub fn older(format: &Format, path: &Path, files: &[PlannedFile]) -> Result<Vec<PathBuf>> {
    let folder = file::parent(path);
    if !place::has_folder(folder)? {
        return Ok(Vec::new());
    }
    let mut older = vec![path.to_path_buf()];
    let is_gguf = format.id == FormatId::Gguf;
    let index = path.with_file_name(format!("{}{}", stem(path), safetensors::INDEX_ENDING));
    if !is_gguf {
        older.extend(index::files_of(&index).iter().map(|name| path.with_file_name(name)));
    }
    if !is_gguf || files.len() > 1 {
        let ending = format!(".{}", path.extension().unwrap_or_default().to_string_lossy());
        let numbered = |entry: &PathBuf| PartName::parse(entry).is_some_and(|name| name.belongs_to(&stem(path), &ending));
        older.extend(
            place::entries(folder)?
                .iter()
                .filter(|entry| numbered(entry))
                .filter_map(|entry| Some(path.with_file_name(entry.file_name()?))),
        );
    }
    older.sort_unstable();
    older.dedup();
    older.extend((!is_gguf).then_some(index));
    older.retain(|old| !files.iter().any(|file| file.path == *old));
    let there = older.iter().map(|old| place::has_file(old)).collect::<Result<Vec<_>>>()?;
    Ok(older.into_iter().zip(there).filter_map(|(old, there)| there.then_some(old)).collect())
}

/// Splits the tensors, in order, into parts of at most `most` bytes; a larger tensor is a part of its own.
fn split(tensors: &[OutTensor], most: u64) -> Result<Vec<Range<usize>>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0u64;
    for (i, tensor) in tensors.iter().enumerate() {
        let together = num::add(bytes, tensor.len_bytes, "the size of a shard")?;
        match ranges.last_mut() {
            Some(last) if together <= most => {
                last.end = i + 1;
                bytes = together;
            }
            _ => {
                ranges.push(i..i + 1);
                bytes = tensor.len_bytes;
            }
        }
    }
    if ranges.len() > limits::SHARDS {
        let message = format!("expected at most {} shards, found {}", limits::SHARDS, ranges.len());
        return Err(Error::argument(message).hint(Hint::LargerShards));
    }
    Ok(ranges)
}

/// Returns the metadata of the files after the first: none for GGUF; for safetensors the framework, which loaders expect in each.
fn later_metadata(metadata: &Metadata, is_gguf: bool) -> Metadata {
    const FRAMEWORK: &str = "format";
    let mut later = Metadata::new();
    if let Some(value) = metadata.get(FRAMEWORK).filter(|_| !is_gguf) {
        later.set(FRAMEWORK, value.clone());
    }
    later
}

/// Returns the file name without its extension.
fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn numbered(path: &Path, no: usize, count: usize) -> String {
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    format!("{}-{no:05}-of-{count:05}.{extension}", stem(path))
}

/// Formats the index of tensors, each with its size and its file, like `huggingface_hub`: sorted names, two-space indent.
///
/// # Errors
/// The sizes overflow.
pub fn index_bytes<'a>(tensors: impl Iterator<Item = (&'a str, u64, &'a str)>) -> Result<Vec<u8>> {
    let mut map = std::collections::BTreeMap::new();
    let mut total = 0u64;
    for (tensor, bytes, file) in tensors {
        map.insert(tensor, file);
        total = num::add(total, bytes, "the size of all tensors")?;
    }
    let index = serde_json::json!({ "metadata": { "total_size": total }, safetensors::WEIGHT_MAP: map });
    let text = serde_json::to_string_pretty(&index).map_err(|error| Error::malformed(format!("cannot write the index: {error}")))?;
    Ok((text + "\n").into_bytes())
}
