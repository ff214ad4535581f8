//! Lists the models in a folder by the names of its files, without opening them.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use crate::base::Result;
use crate::format::safetensors::index;
use crate::format::safetensors::spec::{ENDING, INDEX_ENDING};
use crate::format::set::PartName;
use crate::format::{folder, ollama};
use crate::source::place::{self, entries};

/// The models in a folder, and its inner folders that may hold more.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) models: Vec<Listed>,
    pub(crate) folders: Vec<PathBuf>,
    /// Number of entries of the folder.
    pub(crate) entries: usize,
}

/// A model, found by its name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// The path to open.
    pub(crate) path: PathBuf,
    /// The files that its description depends on, as far as the folder's listing tells.
    pub(crate) files: Vec<PathBuf>,
}

/// Files beside safetensors weights that describe the model.
const DESCRIBING: [&str; 12] = [
    "config.json",
    "adapter_config.json",
    "params.json",
    "README.md",
    "quantization_config.json",
    "quantize_config.json",
    "generation_config.json",
    "modules.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "tekken.json",
];

/// Lists a folder. A numbered set and an index with its shards are one model each; a folder with only one model in safetensors stands for it. Blobs of
/// stores are left to what refers to them: snapshots, manifests.
///
/// # Errors
/// The folder cannot be listed.
pub(crate) fn list(at: &Path) -> Result<Listing> {
    let all = entries(at)?;
    let count = all.len();
    let (mut folders, files): (Vec<PathBuf>, Vec<PathBuf>) = all.into_iter().partition(|entry| place::is_dir(entry));
    let named = |path: &PathBuf, names: &[&str]| path.file_name().is_some_and(|own| names.iter().any(|name| own == *name));
    let has = |names: &[&str]| folders.iter().any(|folder| named(folder, names));
    let is_store = has(&["blobs"]) && has(&["snapshots", "manifests"]);
    folders.retain(|folder| !(named(folder, &[".git"]) || is_store && named(folder, &["blobs", "refs"])));
    if ollama::is_manifest(at) {
        let models = files.into_iter().map(|file| Listed { files: vec![file.clone()], path: file }).collect();
        return Ok(Listing { models, folders, entries: count });
    }
    let mut models = safetensors(at, &files);
    if let [only] = &mut models[..]
        && folder::find_model(at).is_ok_and(|found| found == only.path)
    {
        only.path = at.to_path_buf();
    }
    let sets = sets(files.iter().filter(|file| has_ending(file, ".gguf")));
    models.extend(sets.into_iter().map(|files| Listed { path: files[0].clone(), files }));
    Ok(Listing { models, folders, entries: count })
}

/// Returns the models of safetensors files: those of the indexes, and the other files.
fn safetensors(at: &Path, files: &[PathBuf]) -> Vec<Listed> {
    let mut listed: HashSet<PathBuf> = HashSet::new();
    let mut models = Vec::new();
    for index in files.iter().filter(|file| has_ending(file, INDEX_ENDING)) {
        let shards: Vec<PathBuf> = index::files_of(index).iter().map(|name| at.join(name)).collect();
        listed.extend(shards.iter().cloned());
        models.push(Listed { path: index.clone(), files: std::iter::once(index.clone()).chain(shards).collect() });
    }
    let others = files.iter().filter(|file| has_ending(file, ENDING) && !listed.contains(*file));
    models.extend(sets(others).into_iter().map(|files| Listed { path: files[0].clone(), files }));
    for model in &mut models {
        model.files.extend(DESCRIBING.iter().map(|name| at.join(name)));
    }
    models
}

/// Groups the files of numbered sets; other files are by themselves. No group is empty.
fn sets<'f>(files: impl Iterator<Item = &'f PathBuf>) -> Vec<Vec<PathBuf>> {
    let mut sets: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for file in files {
        let key = PartName::parse(file).map_or_else(|| file.clone(), |name| file.with_file_name(name.file_name(1)));
        sets.entry(key).or_default().push(file.clone());
    }
    sets.into_values().collect()
}

fn has_ending(file: &Path, ending: &str) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().ends_with(ending))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn listed(at: &Path) -> (Vec<String>, Vec<String>) {
        let listing = list(at).unwrap();
        let relative = |path: &Path| path.strip_prefix(at).unwrap().display().to_string();
        (
            listing.models.iter().map(|model| relative(&model.path)).collect(),
            listing.folders.iter().map(|folder| relative(folder)).collect(),
        )
    }

    #[test]
    fn sets_and_indexes_are_one_model_each() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let touch = |name: &str, text: &str| fs::write(at.join(name), text).unwrap();
        touch("notes.txt", "");
        assert_eq!(listed(at), (vec![], vec![]));
        touch("model-00001-of-00002.safetensors", "");
        touch("model-00002-of-00002.safetensors", "");
        assert_eq!(listed(at).0, [""], "the folder stands for its only model");
        touch(
            "model.safetensors.index.json",
            r#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#,
        );
        assert_eq!(listed(at).0, [""]);
        for name in ["a.gguf", "b-00001-of-00003.gguf", "b-00003-of-00003.gguf", "adapter_model.safetensors"] {
            touch(name, "");
        }
        let found = ["model.safetensors.index.json", "adapter_model.safetensors", "a.gguf", "b-00001-of-00003.gguf"];
        assert_eq!(listed(at).0, found);
    }

    #[test]
    fn blobs_are_left_to_what_refers_to_them() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        for name in ["hub/blobs", "hub/refs", "hub/snapshots/1", "plain/blobs", "plain/.git", "ollama/blobs", "ollama/manifests/r/n/m"] {
            fs::create_dir_all(at.join(name)).unwrap();
        }
        fs::write(at.join("ollama/manifests/r/n/m/latest"), "{}").unwrap();
        assert_eq!(listed(&at.join("hub")).1, ["snapshots"]);
        assert_eq!(listed(&at.join("plain")).1, ["blobs"]);
        assert_eq!(listed(&at.join("ollama")).1, ["manifests"]);
        assert_eq!(listed(&at.join("ollama/manifests/r/n/m")).0, ["latest"]);
    }
}
