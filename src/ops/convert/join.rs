//! Joins the parts of a conversion: checks them and completes the output.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::base::threads::{par, prelude::*};
use crate::base::{Error, Result, units};
use crate::format::{self, shards};
use crate::model::TensorInfo;
use crate::ops::Progress;
use crate::ops::convert::manifest::{Index, Manifest, Written, digest};
use crate::ops::hash::{Algorithm, Hasher};
use crate::ops::part::Part;
use crate::source::file::parent;
use crate::source::{self, Source, place, read_chunks};
use crate::write::output;

/// Number of missing parts that an error lists.
const LISTED: usize = 10;

/// The report of `weigh convert --join`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JoinReport {
    /// `weigh.join.v1`.
    pub schema: &'static str,
    /// Whether the parts were only checked.
    pub dry_run: bool,
    /// The hash of the plan.
    pub plan: String,
    /// The number of parts.
    pub parts: usize,
    /// The format of the output.
    pub format: String,
    /// All files of the output; an index comes last.
    pub output: Vec<PathBuf>,
    /// Total size of the files in bytes.
    pub bytes_out: u64,
}

/// Checks that all parts of the output at `out` belong to one plan and are complete, by sizes and digests; writes the index, if there is one,
/// and removes the manifests. With `dry_run`, only checks.
///
/// # Errors
/// A part is missing, changed, or belongs to another plan (nothing was written or removed then); or the index cannot be written.
pub fn join(out: &Path, dry_run: bool, progress: Progress<'_>) -> Result<JoinReport> {
    place::check_scheme(out)?;
    place::refresh(out);
    let is_folder = place::is_dir(out) || out.extension().is_none();
    let weights = if is_folder { out.join("model.safetensors") } else { out.to_path_buf() };
    let paths = Manifest::find(&weights)?;
    let manifests = paths.iter().map(|path| Ok((path.as_path(), Manifest::read(path)?))).collect::<Result<Vec<_>>>()?;
    let Some((_, first)) = manifests.first() else {
        let error = Error::argument("there are no parts of a conversion here").in_file(out);
        return Err(error.hint("give OUT as for the parts"));
    };
    check_same_plan(&manifests)?;
    let folder = weights.parent().unwrap_or(Path::new(""));
    let files = files(&manifests)?;
    let sources = files.iter().map(|(part, file)| open(*part, &folder.join(&file.name), file)).collect::<Result<Vec<_>>>()?;
    check_digests(&files, &sources, progress)?;
    let index = first.index.as_ref().map(|index| Ok((index, index_bytes(index, folder)?))).transpose()?;
    let mut output: Vec<PathBuf> = files.iter().map(|(_, file)| folder.join(&file.name)).collect();
    let mut bytes_out = files.iter().map(|(_, file)| file.bytes).sum();
    if let Some((index, bytes)) = &index {
        let path = folder.join(&index.file.name);
        // An earlier run may have ended before it removed the manifests.
        let is_written = place::read_bytes(&path).is_ok_and(|found| found == *bytes);
        if !dry_run && !is_written {
            output::write_whole(&path, bytes, false, &paths)?;
        }
        bytes_out += bytes.len() as u64;
        output.push(path);
    }
    if !dry_run {
        paths.iter().try_for_each(|path| place::remove_file(path))?;
        place::sync_folder(parent(&weights))?;
    }
    let Manifest { plan, parts, format, .. } = first.clone();
    Ok(JoinReport { schema: "weigh.join.v1", dry_run, plan, parts, format, output, bytes_out })
}

/// Checks that the manifests cover all parts of one plan.
fn check_same_plan(manifests: &[(&Path, Manifest)]) -> Result<()> {
    let Some(((path, first), others)) = manifests.split_first() else { return Ok(()) };
    if let Some((other, found)) = others.iter().find(|(_, manifest)| !manifest.fits(first)) {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let error = Error::argument(format!("part {} is of another plan than part {} ({name})", found.of(), first.of())).in_file(other);
        return Err(error.hint("write every part with the same input, options and version of weigh"));
    }
    let here: Vec<usize> = manifests.iter().map(|(_, manifest)| manifest.part).collect();
    let missing: Vec<String> =
        (1..=first.parts).filter(|number| !here.contains(number)).map(|number| format!("{number}/{}", first.parts)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let more = if missing.len() > LISTED { ", ..." } else { "" };
    let listed = missing.get(..LISTED).unwrap_or(&missing).join(", ");
    let message = format!("{} of {} are here; missing: {listed}{more}", here.len(), units::counted(first.parts as u64, "part"));
    Err(Error::truncated(message).in_file(parent(path)).hint("run the missing parts again"))
}

/// Returns the files of all parts, each with its part, by name.
fn files(manifests: &[(&Path, Manifest)]) -> Result<Vec<(Part, Written)>> {
    let mut all: BTreeMap<&str, (Part, &Written)> = BTreeMap::new();
    for (path, manifest) in manifests {
        for file in &manifest.files {
            if let Some((other, _)) = all.insert(&file.name, (manifest.of(), file)) {
                let message = format!("expected each file in one part, found {} in part {other} too", file.name);
                return Err(Error::malformed(message).in_file(path));
            }
        }
    }
    if let Some((path, Manifest { index: Some(index), .. })) = manifests.first()
        && let Some(name) = index.shards.iter().find(|name| !all.contains_key(name.as_str()))
    {
        return Err(Error::malformed(format!("expected the shard {name} in one of the parts, found it in none")).in_file(path));
    }
    Ok(all.into_values().map(|(part, file)| (part, file.clone())).collect())
}

/// Opens a file of a part, which must have the size in the manifest.
fn open(part: Part, path: &Path, file: &Written) -> Result<Arc<dyn Source>> {
    let again = || format!("run part {part} again, replacing what it has written");
    let source = source::open(path).map_err(|error| error.hint(again()))?;
    if source.len() == file.bytes {
        return Ok(source);
    }
    let message = format!("expected {} bytes, as part {part} has written, found {}", file.bytes, source.len());
    Err(Error::malformed(message).in_file(path).hint(again()))
}

/// Compares the digests of all files with those in the manifests, several files concurrently.
fn check_digests(files: &[(Part, Written)], sources: &[Arc<dyn Source>], progress: Progress<'_>) -> Result<()> {
    let total = files.iter().map(|(_, file)| file.bytes).sum();
    let indices: Vec<usize> = (0..files.len()).collect();
    par(&indices).with_max_len(1).map(|&index| index).try_for_each(|index| {
        let (Some((part, file)), Some(source)) = (files.get(index), sources.get(index)) else { return Ok(()) };
        let mut hasher = Hasher::new(Algorithm::Blake3);
        read_chunks(&**source, 0, |chunk| {
            hasher.update(chunk);
            progress(chunk.len() as u64, total);
            Ok(())
        })?;
        if hasher.finish() == file.blake3 {
            return source.check_unchanged();
        }
        let error = Error::malformed(format!("expected the bytes that part {part} has written, found others (BLAKE3)"));
        Err(error.in_file(source.path()).hint(format!("run part {part} again, replacing what it has written")))
    })
}

/// Makes the index from the headers of the shards, which open as a numbered set.
fn index_bytes(index: &Index, folder: &Path) -> Result<Vec<u8>> {
    let first = index.shards.first().map(|name| folder.join(name)).unwrap_or_default();
    let reader = format::open(&first)?;
    let model = reader.model();
    let file_of = |tensor: &TensorInfo| model.shards.get(tensor.shard)?.path.file_name()?.to_str();
    let tensors = model.tensors.iter().filter_map(|tensor| {
        // A module of sentence-transformers, in a folder of its own, opens with the set.
        let file = file_of(tensor).filter(|file| index.shards.iter().any(|shard| shard == file))?;
        Some((tensor.name.as_str(), tensor.len_bytes.unwrap_or(0), file))
    });
    let bytes = shards::index_bytes(tensors)?;
    if digest(&bytes) != index.file.blake3 {
        let message = "expected the shards to give the index of the plan, found another index";
        return Err(Error::malformed(message).in_file(&folder.join(&index.file.name)));
    }
    Ok(bytes)
}
