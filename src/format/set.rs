//! Models in several files: safetensors shards and GGUF splits.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::bytes::{Endian, Parsed};
use crate::base::finding::{Findings, Severity};
use crate::base::threads::{par, prelude::*};
use crate::base::{Error, Result, limits, names, text, units};
use crate::format::{Checksum, Computed, Reader, codes, open_file};
use crate::model::checkpoint::{Checkpoint, Shared};
use crate::model::{FormatId, Metadata, Model, Shard, TensorInfo};
use crate::source::{Prefix, Source, file, place};

/// The contents of one file of a model.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) source: Arc<dyn Source>,
    /// Ordered by offset; `shard` is 0.
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) metadata: Metadata,
    pub(crate) endian: Endian,
    /// Tensors that are not ranges of the file.
    pub(crate) computed: HashMap<String, Arc<dyn Computed>>,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) checksums: Vec<Checksum>,
}

impl Part {
    /// Returns a file of tensors and metadata.
    pub(crate) fn new(source: Arc<dyn Source>, tensors: Vec<TensorInfo>, metadata: Metadata, endian: Endian) -> Self {
        Self { source, tensors, metadata, endian, computed: HashMap::new(), checkpoint: None, checksums: Vec::new() }
    }
}

impl Part {
    /// Reports the tensors whose bytes are missing at the end of the file; what is collected is then without them. Where the bytes of
    /// computed tensors are is checked when they are made.
    ///
    /// # Errors
    /// As for [`check_truncated`].
    pub(crate) fn check_truncated(&mut self, code: &'static str, findings: &mut Findings) -> Result<()> {
        let len = self.source.len();
        let stored: Vec<TensorInfo> = self.tensors.iter().filter(|tensor| !self.computed.contains_key(&tensor.name)).cloned().collect();
        if !check_truncated(&stored, len, 0, self.source.path(), code, findings)? && findings.collects() {
            self.tensors.retain(|tensor| self.computed.contains_key(&tensor.name) || !is_cut(tensor, len, 0));
        }
        Ok(())
    }
}

/// Reads one file of a set.
pub(crate) type ReadPart = fn(file: Prefix, findings: &mut Findings) -> Result<Part>;

/// The severity and exceptions for keys with different values in several files of a set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConflictRule {
    pub(crate) code: &'static str,
    pub(crate) severity: Severity,
    /// Keys that may differ.
    pub(crate) except: fn(&str) -> bool,
}

/// Joins all `parts` to one model; `path` is the path that was opened.
pub(crate) fn join(format: FormatId, path: &Path, parts: Vec<Part>, conflict: ConflictRule, findings: &mut Findings) -> Result<Reader> {
    let mut model = Model { format, path: path.to_path_buf(), ..Model::default() };
    let mut sources: Vec<Arc<dyn Source>> = Vec::with_capacity(parts.len());
    let endian = parts.first().map(|part| part.endian).unwrap_or_default();
    let (mut computed, mut checksums) = (HashMap::new(), Vec::new());
    for (shard, part) in parts.into_iter().enumerate() {
        model.shards.push(Shard { path: part.source.path().to_path_buf(), bytes: part.source.len() });
        model.tensors.extend(part.tensors.into_iter().map(|tensor| TensorInfo { shard, ..tensor }));
        if shard == 0 {
            model.metadata = part.metadata;
        } else {
            merge(&mut model.metadata, &part.metadata, conflict, part.source.path(), findings)?;
        }
        computed.extend(part.computed);
        checksums.extend(part.checksums.into_iter().map(|checksum| Checksum { shard, ..checksum }));
        add_checkpoint(&mut model.checkpoint, part.checkpoint, shard as u64);
        sources.push(part.source);
    }
    if let Some(checkpoint) = &mut model.checkpoint {
        checkpoint.find_tied();
    }
    if sources.len() > 1 {
        drop_duplicates(&mut model, findings)?;
    }
    let mut reader = Reader::new(model.clone(), sources, endian);
    reader.checksums = Arc::new(checksums);
    Ok(if computed.is_empty() { reader } else { Reader::computed(&reader, model, computed) })
}

/// Adds what another file of a checkpoint, of number `shard`, holds besides tensors.
fn add_checkpoint(into: &mut Option<Checkpoint>, from: Option<Checkpoint>, shard: u64) {
    let (Some(into), Some(mut from)) = (into.as_mut(), from.clone()) else {
        *into = into.take().or(from);
        return;
    };
    // A file numbers its storages by 32 bits.
    into.shared.extend(from.shared.drain(..).map(|shared| Shared { storage: shard << 32 | shared.storage, ..shared }));
    into.opaque.append(&mut from.opaque);
    into.unread.append(&mut from.unread);
}

/// Parses the header at the start of a source, reading more for as long as the parser needs it. Only the findings of the last attempt are
/// kept.
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

/// Reads items in parallel; returns results and findings in order.
pub(crate) fn read_parallel<T: Sync>(
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

/// Reads a file that is not in an index, and the rest of its numbered set, if it belongs to one.
pub(crate) fn read_all(file: Prefix, read: ReadPart, findings: &mut Findings) -> Result<Vec<Part>> {
    match PartName::parse(file.path()) {
        Some(name) if name.count > 1 => read_numbered(file, &name, read, findings),
        _ => Ok(vec![read(file, findings)?]),
    }
}

/// Reads all files of a numbered set without an index. If some are missing: the existing ones if only headers are needed, otherwise only
/// the given file.
fn read_numbered(named: Prefix, name: &PartName, read: ReadPart, findings: &mut Findings) -> Result<Vec<Part>> {
    let path = named.path().to_path_buf();
    let has_neighbours = named.source().has_neighbours();
    let folder = file::parent(&path);
    let files: Vec<_> = (1..=name.count.min(limits::SHARDS as u64)).map(|no| folder.join(name.file_name(no))).collect();
    if has_neighbours {
        place::prefetch(&files);
    }
    let (files, missing): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| *file == path || has_neighbours && place::is_file(file));
    if !missing.is_empty() {
        let error = missing_files_error(files.len() + missing.len(), &file_names(&missing)).in_file(&path);
        findings.incomplete(Severity::Error, codes::SET_INCOMPLETE, &error);
        if !findings.allows_missing() || !has_neighbours {
            return Ok(vec![read(named, findings)?]);
        }
    }
    let parts = read_parallel(&files, findings, |file, findings| {
        let file = open_file(file).map_err(|error| findings.fatal(codes::FILE_UNREADABLE, error))?;
        read(file, findings)
    });
    let part = |(part, found)| {
        findings.append(found);
        part
    };
    parts.into_iter().map(part).collect()
}

fn merge(into: &mut Metadata, from: &Metadata, conflict: ConflictRule, path: &Path, findings: &mut Findings) -> Result<()> {
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
        let error = Error::malformed(format!("duplicate tensor in {} and {}", name(other), name(tensor.shard)));
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

/// Stops a pass that reports too many findings: an invalid file could cause millions.
pub(crate) fn check_finding_limit(findings: &mut Findings, path: &Path) -> Result<()> {
    if findings.list().len() < limits::FINDINGS {
        return Ok(());
    }
    Err(Error::limit(format!("more than {} findings: the rest of the file was not checked", limits::FINDINGS)).in_file(path))
}

/// Whether some bytes of a tensor are missing at the end of the file. An empty tensor needs none, nor padding before it.
pub(crate) fn is_cut(tensor: &TensorInfo, file_len: u64, alignment: u64) -> bool {
    let end = tensor.offset_bytes.saturating_add(tensor.len_bytes.unwrap_or(0));
    let spared = if tensor.len_bytes == Some(0) { alignment } else { 0 };
    end > file_len.saturating_add(spared)
}

/// Returns the canonical path of a folder, to which [`is_inside`] compares. A remote store has no links: its paths stay as they are.
pub(crate) fn home_of(folder: &Path) -> Result<PathBuf> {
    if place::is_remote(folder) {
        return Ok(folder.to_path_buf());
    }
    folder.canonicalize().map_err(|error| Error::io("cannot resolve", folder, error))
}

/// Whether `path` is inside the folder with the canonical path `home` ([`home_of`]), also after resolving links; or does not exist.
///
/// In a Hugging Face cache, the files in `snapshots/` are links to `blobs/`, which is inside as well.
pub(crate) fn is_inside(home: &Path, path: &Path) -> bool {
    if place::is_remote(path) {
        return true;
    }
    let Ok(real) = path.canonicalize() else { return true };
    let snapshots = home.ancestors().find(|ancestor| ancestor.file_name().is_some_and(|name| name == "snapshots"));
    let blobs = snapshots.and_then(Path::parent).map(|cache| cache.join("blobs"));
    real.starts_with(home) || blobs.is_some_and(|blobs| real.starts_with(blobs))
}

/// Reports all tensors (with absolute offsets) whose bytes are missing as one finding; returns whether there are none.
///
/// # Errors
/// Some are truncated, and the values are needed.
pub(crate) fn check_truncated(
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

/// Returns the names of files without their folders.
pub(crate) fn file_names(files: &[PathBuf]) -> Vec<String> {
    files.iter().map(|file| file.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect()
}

/// Joins the first few file names for a message.
pub(crate) fn join_few(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    names.get(..SHOWN).unwrap_or(names).iter().map(|name| text::shorten(name)).collect::<Vec<_>>().join(", ") + more
}

/// Returns the error for a set of `count` files of which `missing` do not exist.
pub(crate) fn missing_files_error(count: usize, missing: &[String]) -> Error {
    let here = count.saturating_sub(missing.len());
    let are = if here == 1 { "is" } else { "are" };
    Error::truncated(format!("{here} of {count} files of the model {are} present; missing: {}", join_few(missing)))
}

/// The name of a file in a numbered set: `PREFIX-00001-of-00003.safetensors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartName {
    prefix: String,
    /// One-based.
    pub(crate) no: u64,
    pub(crate) count: u64,
    /// File name suffix after the numbers, including the dot.
    pub(crate) ending: String,
    /// Number of digits of each number.
    digits: (usize, usize),
}

impl PartName {
    /// Parses a file name, if it is numbered.
    pub(crate) fn parse(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (stem, ending) = name.rfind('.').map(|dot| name.split_at(dot))?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, no) = rest.rsplit_once('-')?;
        let number = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse::<u64>().ok()).flatten();
        let digits = (no.len(), count.len());
        let (no, count) = (number(no)?, number(count)?);
        (no >= 1 && no <= count).then(|| Self { prefix: prefix.to_owned(), no, count, ending: ending.to_owned(), digits })
    }

    /// Whether the file is `STEM-00001-of-00003.ENDING` for this `stem`.
    pub(crate) fn belongs_to(&self, stem: &str, ending: &str) -> bool {
        self.prefix == stem && self.ending == ending
    }

    /// Returns the usual name of the index of the set.
    pub(crate) fn index_name(&self) -> String {
        format!("{}{}.index.json", self.prefix, self.ending)
    }

    /// Returns the name of file `no` of the same set.
    pub(crate) fn file_name(&self, no: u64) -> String {
        let Self { prefix, count, ending, digits: (wide, of_wide), .. } = self;
        format!("{prefix}-{no:0wide$}-of-{count:0of_wide$}{ending}")
    }
}
