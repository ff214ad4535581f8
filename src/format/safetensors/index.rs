//! Sharded safetensors: the index that maps tensor names to files, and numbered sets without an index.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use foldhash::HashSet;
use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use crate::base::finding::{Findings, Severity};
use crate::base::threads::{par, prelude::*};
use crate::base::{Error, Result, limits, names};
use crate::format::safetensors::json::{Pairs, json_error};
use crate::format::safetensors::spec::{ENDING, INDEX_ENDING, WEIGHT_MAP};
use crate::format::set::{
    ConflictRule, Part, PartName, ReadPart, check_finding_limit, home_of, is_inside, join, missing_files_error, read_all, read_parallel,
};
use crate::format::{Reader, codes, folder, open_file};
use crate::model::FormatId;
use crate::source::file::Input;
use crate::source::{Prefix, file, place};

/// The contents of an index.
#[derive(Debug, Default)]
pub(crate) struct Index<'a> {
    /// Tensor names and their files, in index order.
    weight_map: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// `metadata.total_size`, if present.
    total_size: Option<serde_json::Value>,
}

/// Opens a file of a model with the files that belong to it: those of the index that it is (`is_index`) or that lists it, or of its
/// numbered set.
pub(crate) fn open(
    format: FormatId,
    file: Prefix,
    is_index: bool,
    ending: &str,
    read: ReadPart,
    conflict: ConflictRule,
    findings: &mut Findings,
) -> Result<Reader> {
    let path = file.path().to_path_buf();
    let has_neighbours = file.source().has_neighbours();
    let index = if is_index {
        let alone = || Error::unsupported("the index has no weight files next to it").in_file(&path);
        Some(has_neighbours.then(|| path.clone()).ok_or_else(alone)?)
    } else {
        has_neighbours.then(|| index_of(&path, ending)).flatten()
    };
    let on_disk = index.as_deref().filter(|index| !place::is_remote(index)).map(Input::of).transpose()?;
    let parts = match &index {
        Some(index) => read_set(index, read, findings)?,
        None => read_all(file, read, findings)?,
    };
    let mut reader = join(format, &path, parts, conflict, findings)?;
    match (on_disk, index) {
        (Some(input), _) => reader.beside.push(input),
        (None, Some(index)) => reader.add_beside(&index),
        (None, None) => {}
    }
    Ok(reader)
}

/// Reads all shards of an index.
fn read_set(path: &Path, read: ReadPart, findings: &mut Findings) -> Result<Vec<Part>> {
    let text = place::read_text(path).map_err(|error| findings.fatal(codes::INDEX_JSON, error))?;
    let index = parse(&text).map_err(|error| findings.fatal(codes::INDEX_JSON, error.in_file(path)))?;
    check_map(&index, path, findings)?;
    let folder = file::parent(path);
    // Sorted by name, which is the order of the shard numbers.
    let mut files: Vec<&str> = index.weight_map.iter().map(|(_, file)| file.as_ref()).collect();
    files.dedup(); // mostly sorted already
    files.sort_unstable();
    files.dedup();
    if files.len() > limits::SHARDS {
        return Err(Error::limit(format!("expected at most {} shards, found {}", limits::SHARDS, files.len())).in_file(path));
    }
    place::prefetch(&files.iter().filter(|file| file::is_plain(file)).map(|file| folder.join(file)).collect::<Vec<_>>());
    let (files, missing): (Vec<&str>, Vec<&str>) = files.into_iter().partition(|file| !is_missing(folder, file));
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(|file| (*file).to_owned()).collect();
        let error = missing_files_error(files.len() + missing.len(), &names).in_file(path);
        findings.missing(codes::SET_INCOMPLETE, error, Vec::new())?;
    }
    let home = home_of(folder)?;
    let shards = read_parallel(&files, findings, |file, findings| read_shard(path, folder, &home, file, read, findings));
    let mut parts = Vec::new();
    let mut of_file = HashMap::new();
    for (file, (part, found)) in files.into_iter().zip(shards) {
        let sound = found.errors() == 0;
        findings.append(found);
        match part {
            Ok(part) => {
                // Tensors missing from an invalid shard are not reported again.
                if sound {
                    of_file.insert(file, parts.len());
                }
                parts.push(part);
            }
            // Already reported; the other shards can still be checked.
            Err(error) if !findings.collects() => return Err(error),
            Err(error) => check_finding_limit(findings, path).map_err(|_| error)?,
        }
        check_finding_limit(findings, path)?;
    }
    check_places(&index, &parts, &of_file, path, findings)?;
    if findings.errors() == 0 {
        check_total(&index, &parts, path, findings);
    }
    Ok(parts)
}

/// Returns the index next to `path` that lists `path`, if there is one.
fn index_of(path: &Path, ending: &str) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let folder = file::parent(path);
    if !place::is_listable(folder) {
        let index = folder.join(PartName::parse(path)?.index_name());
        return place::is_file(&index).then_some(index);
    }
    let mut indexes: Vec<PathBuf> = place::entries(folder)
        .ok()?
        .into_iter()
        .filter(|entry| entry.file_name().is_some_and(|name| name.to_string_lossy().ends_with(ending)))
        .collect();
    indexes.sort();
    // A broken index must not prevent opening a single shard.
    indexes.into_iter().find(|index| {
        place::read_text(index).is_ok_and(|text| {
            parse(&text).is_ok_and(|index| index.weight_map.iter().any(|(_, file)| Path::new(&**file) == Path::new(name)))
        })
    })
}

/// Returns the file names that an index lists, as far as they are in the same folder; empty if it is not a valid index.
pub(crate) fn files_of(index: &Path) -> Vec<String> {
    let Ok(text) = place::read_text(index) else { return Vec::new() };
    let Ok(index) = parse(&text) else { return Vec::new() };
    let beside = |name: &str| Path::new(name).file_name().is_some_and(|own| own == name) && name.ends_with(ENDING);
    let mut names: Vec<String> = index.weight_map.iter().map(|(_, name)| name.to_string()).filter(|name| beside(name)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Whether all files of the set that a file belongs to are there: those of its numbers, and those that an index lists.
pub(crate) fn has_whole_set(first: &Path) -> bool {
    let names = match PartName::parse(first) {
        Some(name) => (1..=name.count.min(limits::SHARDS as u64)).map(|no| name.file_name(no)).collect(),
        None if first.to_string_lossy().ends_with(INDEX_ENDING) => files_of(first),
        None => Vec::new(),
    };
    names.iter().all(|name| file::parent(first).join(name).is_file())
}

/// Whether a file listed in an index does not exist. Paths that are not plain are checked later.
fn is_missing(folder: &Path, file: &str) -> bool {
    file::is_plain(file) && !exists(&folder.join(file))
}

/// Whether there is a file; if the system does not say, opening it does.
fn exists(path: &Path) -> bool {
    if place::is_remote(path) { place::is_file(path) } else { !matches!(path.try_exists(), Ok(false)) }
}

fn read_shard(index: &Path, folder: &Path, home: &Path, file: &str, read: ReadPart, findings: &mut Findings) -> Result<Part> {
    let path = shard_path(folder, home, file).map_err(|error| findings.fatal(codes::INDEX_PATH, error.in_file(index)))?;
    let file = open_file(&path).map_err(|error| findings.fatal(codes::FILE_UNREADABLE, error.hint("the index lists this file")))?;
    folder::refuse_foreign(&file).map_err(|error| findings.fatal(codes::FILE_FOREIGN, error))?;
    read(file, findings)
}

/// Returns the path of a shard: `file` must be a relative path inside `folder`, also after resolving links. `home` is the canonical folder.
fn shard_path(folder: &Path, home: &Path, file: &str) -> Result<PathBuf> {
    let fail = |link: &str| {
        let file = crate::base::text::shorten(file);
        Error::malformed(format!("expected a file inside the index's folder, found {file}{link}"))
    };
    if !file::is_plain(file) {
        return Err(fail(""));
    }
    let path = folder.join(file);
    if is_inside(home, &path) { Ok(path) } else { Err(fail(", a link that leads out of it")) }
}

/// Checks that the index lists every tensor once.
fn check_map(index: &Index<'_>, path: &Path, findings: &mut Findings) -> Result<()> {
    let names: Vec<&str> = index.weight_map.iter().map(|(name, _)| name.as_ref()).collect();
    for (index, _) in names::duplicates(&names) {
        let error = Error::malformed("duplicate tensor in the index").in_tensor(names[index]).in_file(path);
        findings.error(codes::INDEX_JSON, error)?;
        check_finding_limit(findings, path)?;
    }
    Ok(())
}

/// Checks that the index and the shards contain the same tensors.
fn check_places<'i>(
    index: &'i Index<'_>,
    parts: &[Part],
    of_file: &HashMap<&str, usize>,
    path: &Path,
    findings: &mut Findings,
) -> Result<()> {
    // Part by part, so that the hash table of names stays in the CPU cache.
    let mut listed: Vec<(&str, Vec<&str>)> = vec![("", Vec::new()); parts.len()];
    for same in index.weight_map.chunk_by(|a, b| a.1 == b.1) {
        let Some((_, file)) = same.first() else { continue };
        let Some((of, names)) = of_file.get(file.as_ref()).and_then(|&part| listed.get_mut(part)) else { continue };
        *of = file;
        names.extend(same.iter().map(|(name, _)| name.as_ref()));
    }
    let missing = |((file, names), part): (&(&'i str, Vec<&'i str>), &Part)| -> Vec<(&'i str, &'i str)> {
        let there: HashSet<&str> = part.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        names.iter().filter(|name| !there.contains(*name)).map(|name| (*name, *file)).collect()
    };
    let missing: Vec<Vec<(&str, &str)>> = par(&listed).zip(parts).map(missing).collect();
    for (name, file) in missing.into_iter().flatten() {
        let error = Error::malformed(format!("the index lists the tensor in {file}, which does not contain it"));
        findings.error(codes::INDEX_MISSING, error.in_tensor(name).in_file(path))?;
        check_finding_limit(findings, path)?;
    }
    if findings.collects() {
        let listed: HashSet<&str> = index.weight_map.iter().map(|(name, _)| name.as_ref()).collect();
        for tensor in parts.iter().flat_map(|part| &part.tensors).filter(|tensor| !listed.contains(tensor.name.as_str())) {
            let error = Error::malformed("the index does not list this tensor");
            findings.remark(Severity::Warning, codes::INDEX_UNLISTED, error.in_tensor(&tensor.name).in_file(path));
            check_finding_limit(findings, path)?;
        }
    }
    Ok(())
}

fn check_total(index: &Index<'_>, parts: &[Part], path: &Path, findings: &mut Findings) {
    let Some(claimed) = &index.total_size else { return };
    let total: u64 = parts.iter().flat_map(|part| &part.tensors).filter_map(|tensor| tensor.len_bytes).sum();
    if claimed.as_f64() != Some(total as f64) {
        let claimed = crate::base::text::shorten(&claimed.to_string()).into_owned();
        let error = Error::malformed(format!("expected a total_size of {total}, found {claimed}"));
        findings.remark(Severity::Warning, codes::INDEX_TOTAL, error.in_file(path));
    }
}

/// Parses an index; its map may contain duplicates.
fn parse(text: &str) -> Result<Index<'_>> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = deserializer.deserialize_map(IndexVisitor).and_then(|index| deserializer.end().map(|()| index));
    let index = parsed.map_err(|error| json_error(text, &error, "an index").at_base(0))?;
    index.ok_or_else(|| Error::malformed(format!("expected an index with a {WEIGHT_MAP}, found none")))
}

struct IndexVisitor;

impl<'de> Visitor<'de> for IndexVisitor {
    type Value = Option<Index<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a weight_map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut index = Index::default();
        let mut seen = false;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                WEIGHT_MAP if seen => return Err(serde::de::Error::custom("duplicate weight_map")),
                WEIGHT_MAP => {
                    index.weight_map = map.next_value::<Pairs<'_>>()?.0;
                    seen = true;
                }
                "metadata" => {
                    let metadata = map.next_value::<serde_json::Value>()?;
                    index.total_size = metadata.get("total_size").cloned();
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(seen.then_some(index))
    }
}
