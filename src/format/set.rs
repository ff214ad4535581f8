//! Several files that are one model: shards of safetensors, splits of GGUF.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::bytes::{Endian, Parsed};
use crate::base::finding::{Findings, Severity};
use crate::base::threads::{par, prelude::*};
use crate::base::{Error, Result, limits, names, text, units};
use crate::format::{Reader, codes};
use crate::model::{FormatId, Metadata, Model, Shard, TensorInfo};
use crate::source::{Prefix, Source};

/// What one file of a model holds.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) source: Arc<dyn Source>,
    /// In the order of their data; `shard` is 0.
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) metadata: Metadata,
    pub(crate) endian: Endian,
}

/// How bad it is when a later file of a set gives a key another value than an earlier one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conflict {
    pub(crate) code: &'static str,
    pub(crate) severity: Severity,
    /// Keys that may differ.
    pub(crate) except: fn(&str) -> bool,
}

/// One model of all `parts`; `path` is what was asked for.
pub(crate) fn join(format: FormatId, path: &Path, parts: Vec<Part>, conflict: Conflict, findings: &mut Findings) -> Result<Reader> {
    let mut model = Model { format, path: path.to_path_buf(), ..Model::default() };
    let mut sources: Vec<Arc<dyn Source>> = Vec::with_capacity(parts.len());
    let endian = parts.first().map(|part| part.endian).unwrap_or_default();
    for (shard, part) in parts.into_iter().enumerate() {
        model.shards.push(Shard { path: part.source.path().to_path_buf(), bytes: part.source.len() });
        model.tensors.extend(part.tensors.into_iter().map(|tensor| TensorInfo { shard, ..tensor }));
        if shard == 0 {
            model.metadata = part.metadata;
        } else {
            merge(&mut model.metadata, &part.metadata, conflict, part.source.path(), findings)?;
        }
        sources.push(part.source);
    }
    if sources.len() > 1 {
        drop_duplicates(&mut model, findings)?;
    }
    Ok(Reader::new(model, sources, endian))
}

/// Parses the header at the start of a source, and reads more of it for as long as the parser needs more. Only the findings of the last
/// attempt count.
pub(crate) fn parse_header<T>(
    prefix: &mut Prefix,
    findings: &mut Findings,
    parse: impl Fn(&Prefix, &mut Findings) -> Parsed<Result<T>>,
) -> Result<T> {
    let before = findings.list().len();
    prefix.parse(|prefix| {
        findings.truncate(before);
        parse(prefix, findings)
    })?
}

/// Reads files side by side; gives for each what was read and what was found, in their order.
pub(crate) fn read_beside<T: Sync>(
    files: &[T],
    findings: &Findings,
    read: impl Fn(&T, &mut Findings) -> Result<Part> + Sync,
) -> Vec<(Result<Part>, Findings)> {
    let one = |file| {
        let mut found = findings.new_like();
        (read(file, &mut found), found)
    };
    par(files).map(one).collect()
}

fn merge(into: &mut Metadata, from: &Metadata, conflict: Conflict, path: &Path, findings: &mut Findings) -> Result<()> {
    for (key, value) in from.iter().filter(|(key, _)| !(conflict.except)(key)) {
        match into.get(key) {
            None => into.insert(key, value.clone())?,
            Some(first) if first == value => {}
            Some(_) => {
                let error = Error::malformed(format!("expected {key} as in the first file, found another value")).in_file(path);
                match conflict.severity {
                    Severity::Error => findings.error(conflict.code, error)?,
                    severity => findings.remark(severity, conflict.code, error),
                }
            }
        }
    }
    Ok(())
}

fn drop_duplicates(model: &mut Model, findings: &mut Findings) -> Result<()> {
    let names: Vec<&str> = model.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let twice = names::duplicates(&names);
    for &(i, other) in &twice {
        let tensor = &model.tensors[i];
        let name = |shard: usize| model.shards[shard].path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let other = model.tensors[other].shard;
        let error = Error::malformed(format!("expected each tensor in one file, found it in {} and {}", name(other), name(tensor.shard)));
        findings.error(codes::SET_DUPLICATE, error.in_tensor(&tensor.name).in_file(&model.shards[tensor.shard].path))?;
    }
    if twice.is_empty() {
        return Ok(());
    }
    let mut twice = twice.into_iter().map(|(i, _)| i).peekable();
    let mut i = 0;
    model.tensors.retain(|_| {
        let drop = twice.next_if_eq(&i).is_some();
        i += 1;
        !drop
    });
    Ok(())
}

/// Ends a collecting walk that finds one thing after the other: a hostile file could make it find millions.
pub(crate) fn enough(findings: &mut Findings, path: &Path) -> Result<()> {
    if findings.list().len() < limits::FINDINGS {
        return Ok(());
    }
    Err(Error::limit(format!("expected fewer than {} findings: the rest of the file was not looked at", limits::FINDINGS)).in_file(path))
}

/// Whether bytes of a tensor lie behind the end of its file. An empty tensor needs none, and so no padding before it either.
pub(crate) fn is_cut(tensor: &TensorInfo, file_len: u64, alignment: u64) -> bool {
    let end = tensor.offset_bytes.saturating_add(tensor.len_bytes.unwrap_or(0));
    let spared = if tensor.len_bytes == Some(0) { alignment } else { 0 };
    end > file_len.saturating_add(spared)
}

/// Looks for tensors whose bytes are not all in the file, whose places are absolute; gives whether there are none. They are one fault.
///
/// # Errors
/// There are such tensors, and the values are wanted.
pub(crate) fn truncated(
    tensors: &[TensorInfo],
    file_len: u64,
    alignment: u64,
    path: &Path,
    code: &'static str,
    findings: &mut Findings,
) -> Result<bool> {
    let cut: Vec<&TensorInfo> = tensors.iter().filter(|tensor| is_cut(tensor, file_len, alignment)).collect();
    let ends = cut.iter().map(|tensor| tensor.offset_bytes.saturating_add(tensor.len_bytes.unwrap_or(0)));
    let Some(end) = ends.max() else { return Ok(true) };
    let (missing, wanted) = (units::bytes_with_decimal(end.saturating_sub(file_len)), units::bytes_with_decimal(end));
    let of = units::grouped(tensors.len() as u64);
    let message = match cut[..] {
        [one] => format!("{missing} of {wanted} are missing: 1 of {of} tensors (\"{}\")", text::shorten(&one.name)),
        _ => format!("{missing} of {wanted} are missing: {} of {of} tensors", units::grouped(cut.len() as u64)),
    };
    let names = if findings.allows_missing() { cut.iter().map(|tensor| tensor.name.clone()).collect() } else { Vec::new() };
    findings.missing(code, Error::truncated(message).at(file_len).in_file(path), names)?;
    Ok(false)
}

/// The names of files without their folders.
pub(crate) fn file_names(files: &[PathBuf]) -> Vec<String> {
    files.iter().map(|file| file.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect()
}

/// The names of files as a message lists them: the first few.
pub(crate) fn few(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    names.get(..SHOWN).unwrap_or(names).iter().map(|name| text::shorten(name)).collect::<Vec<_>>().join(", ") + more
}

/// What is said of a set of `count` files of which `missing` are not here.
pub(crate) fn lacks_files(count: usize, missing: &[String]) -> Error {
    let here = count.saturating_sub(missing.len());
    let are = if here == 1 { "is" } else { "are" };
    Error::truncated(format!("{here} of {count} files of the model {are} here: no {}", few(missing)))
}

/// The name of a numbered file: `PREFIX-00001-of-00003.safetensors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartName {
    prefix: String,
    /// Counted from 1.
    pub(crate) no: u64,
    pub(crate) count: u64,
    /// What follows the numbers, dot included.
    pub(crate) ending: String,
    /// How many digits each number has.
    digits: (usize, usize),
}

impl PartName {
    /// Takes the name of a file apart, if it is numbered.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (stem, ending) = name.rfind('.').map(|dot| name.split_at(dot))?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, no) = rest.rsplit_once('-')?;
        let number = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse::<u64>().ok()).flatten();
        let digits = (no.len(), count.len());
        let (no, count) = (number(no)?, number(count)?);
        (no >= 1 && no <= count).then(|| Self { prefix: prefix.to_owned(), no, count, ending: ending.to_owned(), digits })
    }

    /// Whether the file is named after `stem`: `STEM-00001-of-00003.ENDING`.
    pub(crate) fn is_of(&self, stem: &str, ending: &str) -> bool {
        self.prefix == stem && self.ending == ending
    }

    /// The name of file `no` of the same set.
    pub(crate) fn file_of(&self, no: u64) -> String {
        let Self { prefix, count, ending, digits: (wide, of_wide), .. } = self;
        format!("{prefix}-{no:0wide$}-of-{count:0of_wide$}{ending}")
    }
}
