//! Modules of sentence-transformers: the stages after the transformer, each in its own folder (`1_Pooling`, `2_Dense`).

use std::path::{Component, Path};
use std::sync::Arc;

use serde_json::Value as Json;

use crate::base::finding::{Findings, Severity};
use crate::base::text::shorten;
use crate::base::{Error, Result, json, limits};
use crate::format::pytorch::file as pytorch;
use crate::format::set::{ReadPart, home_of, is_inside};
use crate::format::{Reader, codes, open_file, safetensors, spans};
use crate::model::{Module, Shard, TensorInfo};
use crate::source::file::parent;
use crate::source::place::{self, read_text};

/// The list of modules, next to the transformer's weights or in the parent folder.
pub(crate) const LIST: &str = "modules.json";

/// The files of a module's weights: the first that exists is read.
const WEIGHTS: [(&str, ReadPart); 2] = [("model.safetensors", safetensors::read_file), ("pytorch_model.bin", pytorch::read)];

/// A module's config.
const CONFIG: &str = "config.json";

/// Adds the modules listed next to `weights`: their configs, and their tensors with the module's path as prefix.
///
/// # Errors
/// The list is not JSON, a module is outside the folder, or its weights violate their format.
pub(super) fn join(weights: &Path, reader: &mut Reader, findings: &mut Findings) -> Result<()> {
    let own = parent(weights);
    let Some(root) = [own, parent(own)].into_iter().find(|folder| place::is_file(&folder.join(LIST))) else { return Ok(()) };
    let list = root.join(LIST);
    let listed = match read(&list, reader) {
        Ok(listed) => listed,
        Err(error) => return findings.error(codes::CONFIG_JSON, error),
    };
    let paths: Vec<(&str, &str)> = listed.as_array().into_iter().flatten().take(limits::SHARDS).filter_map(path_and_kind).collect();
    // A list in the parent folder refers to these weights only if it lists their folder.
    let is_own = |path: &str| if path.is_empty() { root == own } else { same(&root.join(path), own) };
    if !paths.iter().any(|(path, _)| is_own(path)) {
        return Ok(());
    }
    let home = home_of(root)?;
    for (path, kind) in paths.into_iter().filter(|(path, _)| !is_own(path)) {
        let folder = root.join(path);
        let link = if Path::new(path).components().any(|part| !matches!(part, Component::Normal(_))) {
            Some("")
        } else {
            let leads_out = WEIGHTS.iter().map(|(name, _)| *name).chain([CONFIG]).any(|file| !is_inside(&home, &folder.join(file)));
            leads_out.then_some(", a link that leads out of it")
        };
        if let Some(link) = link {
            let message = format!("expected the path of a module inside the folder, found {}{link}", shorten(path));
            findings.error(codes::CONFIG_JSON, Error::malformed(message).in_file(&list))?;
            continue;
        }
        // The weights of a repeated module are added once.
        if reader.model.modules.iter().all(|module| module.path != path) {
            add(root, path, kind, reader, findings)?;
        }
    }
    Ok(())
}

fn path_and_kind(module: &Json) -> Option<(&str, &str)> {
    Some((module.get("path")?.as_str()?, module.get("type")?.as_str()?))
}

fn same(a: &Path, b: &Path) -> bool {
    if place::is_remote(a) {
        return a == b;
    }
    a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a == b)
}

/// Reads a JSON file of the model.
fn read(path: &Path, reader: &mut Reader) -> Result<Json> {
    reader.add_beside(path);
    json::parse(&read_text(path)?, path)
}

/// Reads a module's config; null if it is missing or invalid, which does not prevent opening the model.
fn config(path: &Path, reader: &mut Reader, findings: &mut Findings) -> Json {
    if !place::is_file(path) {
        return Json::Null;
    }
    read(path, reader).unwrap_or_else(|error| {
        findings.note_error(codes::CONFIG_JSON, &error);
        reader.model.config_error.get_or_insert(error);
        Json::Null
    })
}

fn add(root: &Path, path: &str, kind: &str, reader: &mut Reader, findings: &mut Findings) -> Result<()> {
    let folder = root.join(path);
    let config = config(&folder.join(CONFIG), reader, findings);
    let mut module = Module { path: path.to_owned(), kind: kind.to_owned(), config, shard: None };
    let found = WEIGHTS.into_iter().map(|(name, read)| (folder.join(name), read)).find(|(file, _)| place::is_file(file));
    if let Some((weights, read)) = found {
        module.shard = add_weights(&weights, read, path, reader, findings)?;
    } else if module.is("Dense") {
        let message = format!("expected the weights of module {path} in model.safetensors, found none");
        findings.incomplete(Severity::Error, codes::SET_INCOMPLETE, &Error::malformed(message).in_file(&folder));
    }
    reader.model.modules.push(module);
    Ok(())
}

/// Adds the tensors of a module's file; returns its index among the files.
fn add_weights(weights: &Path, read: ReadPart, path: &str, reader: &mut Reader, findings: &mut Findings) -> Result<Option<usize>> {
    let before = findings.errors();
    let opened = open_file(weights).map_err(|error| findings.fatal(codes::FILE_UNREADABLE, error));
    let part = match opened.and_then(|file| read(file, findings)) {
        Ok(part) => part,
        Err(_) if findings.collects() && findings.errors() > before => return Ok(None),
        Err(error) => return Err(error),
    };
    let shard = reader.model.shards.len();
    reader.model.shards.push(Shard { path: weights.to_path_buf(), bytes: part.source.len() });
    reader.sources.push(part.source);
    let named = part.tensors.into_iter().map(|tensor| TensorInfo { name: format!("{path}.{}", tensor.name), shard, ..tensor });
    reader.model.tensors.extend(named);
    reader.computed.extend(part.computed.into_iter().map(|(name, computed)| (format!("{path}.{name}"), computed)));
    reader.spans = Arc::new(spans(&reader.model));
    Ok(Some(shard))
}
