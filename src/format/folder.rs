//! Model folders: finding the weights and the config.

use std::path::{Path, PathBuf};

use crate::base::bytes::copy;
use crate::base::finding::Findings;
use crate::base::text::shorten;
use crate::base::{Error, Result, json};
use crate::format::pytorch::spec as pytorch;
use crate::format::safetensors::spec::{ENDING, INDEX_ENDING};
use crate::format::set::{PartName, home_of, is_inside, missing_files_error};
use crate::format::{FORMATS, foreign, modules, ollama, start_of};
use crate::source::Prefix;
use crate::source::file::parent;
use crate::source::place::{self, entries, read_text};

/// Returns an error that names the format if the file is of a known foreign format.
pub(crate) fn refuse_foreign(file: &Prefix) -> Result<()> {
    let start = &copy(&start_of(file)?)?;
    // A safetensors header length may look like another format's magic.
    if FORMATS.iter().any(|format| (format.probe)(start, file.len()) > 0) {
        return Ok(());
    }
    match foreign::recognise(start, file.len()) {
        Some(error) => Err(error.in_file(file.path())),
        None => Ok(()),
    }
}

/// File name suffixes of checkpoints.
const PYTORCH_ENDINGS: [&str; 4] = [".bin", ".pth", ".pt", ".ckpt"];

/// The beginnings of names of files beside a checkpoint that hold no weights: those of transformers' Trainer and of Accelerate.
const TRAINING_FILES: [&str; 6] = ["training_args", "optimizer", "scheduler", "scaler", "rng_state", "random_states"];

/// Returns the checkpoint in a folder of safetensors files that holds the same model, and is not read.
pub(crate) fn passed_over(chosen: &Path) -> Option<PathBuf> {
    let name = chosen.file_name()?.to_string_lossy();
    let folder = parent(chosen);
    if !(name.ends_with(ENDING) || name.ends_with(INDEX_ENDING)) {
        return None;
    }
    ["pytorch_model.bin", "pytorch_model.bin.index.json"].iter().map(|name| folder.join(name)).find(|path| place::is_file(path))
}

/// Returns the file to open for a folder: an index, a single file, or any file of a numbered set.
pub(crate) fn find_model(folder: &Path) -> Result<PathBuf> {
    if place::is_dir(&folder.join("snapshots")) {
        return find_model(&snapshot(folder)?);
    }
    if let Some(manifest) = ollama::find_manifest(folder)? {
        return ollama::model_of(&manifest);
    }
    let all = entries(folder)?;
    let files: Vec<&PathBuf> = all.iter().filter(|entry| !place::is_dir(entry)).collect();
    let named = |name: &str| files.iter().copied().find(|file| file.file_name().is_some_and(|found| found == name)).cloned();
    let ending = |ending: &str| -> Vec<PathBuf> {
        files
            .iter()
            .copied()
            .filter(|file| file.file_name().is_some_and(|name| name.to_string_lossy().ends_with(ending)))
            .cloned()
            .collect()
    };
    for name in ["model.safetensors", "model.safetensors.index.json"] {
        if let Some(file) = named(name) {
            return Ok(file);
        }
    }
    let tensors = ending(ENDING);
    for prefix in ["model-", "consolidated", "adapter_model", "adapters"] {
        let from_prefix: Vec<PathBuf> =
            tensors.iter().chain(&ending(INDEX_ENDING)).filter(|file| starts_with(file, prefix)).cloned().collect();
        if !from_prefix.is_empty() {
            return only(folder, from_prefix);
        }
    }
    let candidates = [ending(INDEX_ENDING), tensors, ending(".gguf")].into_iter().find(|found| !found.is_empty());
    if let Some(candidates) = candidates {
        return only(folder, candidates);
    }
    for name in ["pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin"] {
        if let Some(file) = named(name) {
            return Ok(file);
        }
    }
    if let Some(metadata) = named(pytorch::DCP_METADATA).filter(|_| !ending(pytorch::DCP_ENDING).is_empty()) {
        return Ok(metadata);
    }
    if let Some(first) = ending(pytorch::ZERO_ENDING).into_iter().next() {
        return Ok(first);
    }
    let checkpoints = |endings: &[&str]| -> Vec<PathBuf> {
        let found = endings.iter().flat_map(|known| ending(known));
        found.filter(|file| !TRAINING_FILES.iter().any(|prefix| starts_with(file, prefix))).collect()
    };
    let candidates = [checkpoints(&[pytorch::INDEX_ENDING]), checkpoints(&PYTORCH_ENDINGS), checkpoints(&[".npz"])];
    if let Some(candidates) = candidates.into_iter().find(|found| !found.is_empty()) {
        return only(folder, candidates);
    }
    if let Some(inner) = latest(folder) {
        return find_model(&inner);
    }
    if let Some(inner) = sentence_transformer(folder) {
        return find_model(&inner);
    }
    let hint = hint_for(&all);
    Err(Error::argument("no safetensors, GGUF or PyTorch files in this folder").in_file(folder).hint(hint))
}

fn starts_with(file: &Path, prefix: &str) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

/// Returns the only model among the candidates: an index, a single file, or the first file of the only numbered set.
fn only(folder: &Path, candidates: Vec<PathBuf>) -> Result<PathBuf> {
    let indexes: Vec<&PathBuf> = candidates.iter().filter(|file| file.to_string_lossy().ends_with(".index.json")).collect();
    if let [index] = indexes[..] {
        return Ok(index.clone());
    }
    if let Some(first) = candidates.first() {
        let set = |file: &Path| PartName::parse(file).map(|name| name.file_name(1));
        let of_first = set(first);
        if candidates.len() == 1 || of_first.is_some() && candidates.iter().all(|file| set(file) == of_first) {
            return Ok(first.clone());
        }
    }
    Err(several("models", &candidates).in_file(folder))
}

/// Checks that a folder contains all files of a numbered set without an index.
///
/// # Errors
/// Some are missing, and the values are needed.
pub(crate) fn check_whole(first: &Path, findings: &Findings) -> Result<()> {
    let Some(name) =
        PartName::parse(first).filter(|name| [ENDING, pytorch::ENDING].contains(&name.ending.as_str()) && !findings.allows_missing())
    else {
        return Ok(());
    };
    let count = name.count.min(crate::base::limits::SHARDS as u64);
    let missing: Vec<String> = (1..=count).map(|no| name.file_name(no)).filter(|file| !place::is_file(&parent(first).join(file))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(missing_files_error(count as usize, &missing).in_file(first).add_hint("to open a single file, give its path"))
}

fn several(what: &str, candidates: &[PathBuf]) -> Error {
    const SHOWN: usize = 5;
    let names: Vec<_> =
        candidates.iter().take(SHOWN).map(|file| file.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect();
    let more = if candidates.len() > SHOWN { ", ..." } else { "" };
    Error::argument(format!("expected one model in the folder, found {} {what}: {}{more}", candidates.len(), names.join(", ")))
        .hint("give the path of one of them")
}

/// Returns the snapshot of a Hugging Face cache folder that `refs/main` names, or else the only one.
fn snapshot(folder: &Path) -> Result<PathBuf> {
    let snapshots = folder.join("snapshots");
    let home = home_of(&snapshots)?;
    let inside = |snapshot: PathBuf| {
        let leads_out = || Error::malformed("expected a snapshot inside the cache, found a link that leads out of it");
        if is_inside(&home, &snapshot) { Ok(snapshot) } else { Err(leads_out().in_file(&snapshot)) }
    };
    if let Ok(revision) = read_text(&folder.join("refs").join("main")) {
        let revision = revision.trim();
        let named = snapshots.join(revision);
        if revision.bytes().all(|byte| byte.is_ascii_alphanumeric()) && !revision.is_empty() && named.is_dir() {
            return inside(named);
        }
    }
    let found = entries(&snapshots)?;
    let folders: Vec<PathBuf> = found.iter().filter(|entry| entry.is_dir()).cloned().collect();
    match &folders[..] {
        [only] => inside(only.clone()),
        // Files directly in snapshots/: an export, not the cache layout.
        [] if !found.is_empty() => Ok(snapshots),
        _ => Err(several("snapshots", &folders).in_file(&snapshots)),
    }
}

/// Returns the folder of the step that the file `latest` of DeepSpeed names.
fn latest(folder: &Path) -> Option<PathBuf> {
    let text = read_text(&folder.join("latest")).ok()?;
    let tag = Path::new(text.trim());
    let plain = matches!(tag.components().collect::<Vec<_>>()[..], [std::path::Component::Normal(_)]);
    let inner = folder.join(tag);
    (plain && inner.is_dir() && is_inside(&home_of(folder).ok()?, &inner)).then_some(inner)
}

/// Returns the transformer's folder according to `modules.json` of a sentence-transformers folder.
fn sentence_transformer(folder: &Path) -> Option<PathBuf> {
    let path = folder.join(modules::LIST);
    let modules = json::parse(&read_text(&path).ok()?, &path).ok()?;
    let first = modules.as_array()?.iter().find_map(|module| module.get("path")?.as_str().filter(|path| !path.is_empty()))?;
    let plain = Path::new(first).components().all(|component| matches!(component, std::path::Component::Normal(_)));
    let inner = folder.join(first);
    if !(plain && place::is_dir(&inner) && inner != folder) {
        return None;
    }
    is_inside(&home_of(folder).ok()?, &inner).then_some(inner)
}

fn hint_for(all: &[PathBuf]) -> String {
    let with = |wanted: fn(&str) -> bool| all.iter().any(|entry| entry.file_name().is_some_and(|name| wanted(&name.to_string_lossy())));
    if with(|name| name.starts_with("models--")) {
        "this is a cache of several models: give the path of one of the models--* folders".to_owned()
    } else if let Some(inner) = all.iter().find(|entry| place::is_dir(entry) && holds_weights(entry)) {
        format!("give the path of the inner folder: {}", inner.display())
    } else {
        "give the path of the file or folder with the weights".to_owned()
    }
}

fn holds_weights(folder: &Path) -> bool {
    entries(folder).is_ok_and(|found| {
        found.iter().any(|file| [ENDING, ".gguf", ".bin", ".pth"].iter().any(|ending| file.to_string_lossy().ends_with(ending)))
    })
}

/// Finds the config next to a weight file, under any of its usual names.
pub(crate) fn find_config(weights: &Path) -> Option<PathBuf> {
    let is_adapter = starts_with(weights, "adapter") || weights.to_string_lossy().ends_with("_adapters.safetensors");
    let names: &[&str] = if is_adapter {
        &["adapter_config.json", "config.json"]
    } else if starts_with(weights, "consolidated") {
        &["params.json", "config.json"]
    } else {
        &["config.json"]
    };
    names.iter().map(|name| parent(weights).join(name)).find(|path| place::is_file(path))
}

/// Reads a config, which must be a JSON object.
pub(crate) fn read_config(path: &Path) -> Result<serde_json::Value> {
    let config = json::parse(&read_text(path)?, path)?;
    if config.is_object() {
        return Ok(config);
    }
    let found = shorten(&config.to_string()).into_owned();
    Err(Error::malformed(format!("expected a JSON object, found {found}")).in_file(path))
}
