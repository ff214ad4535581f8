//! `--keep-names`: tensors under their own names, metadata carried whole.

use std::fs;
use std::path::Path;

use serde_json::Value as Json;

use crate::base::{Error, Result, json};
use crate::format::{Format, Reader};
use crate::model::companion::{CompanionFile, Content, Note};
use crate::model::{DType, FormatId, Metadata, Model, Value};
use crate::ops::convert::metadata;
use crate::quant::recipe::Target;
use crate::view::output_model::{OutputModel, OutputTensor};

/// Endings of files that belong to a model in a Hugging Face folder but are no weights.
const COMPANIONS: &[&str] = &["json", "txt", "model", "jinja", "md", "tiktoken"];
/// Files without such an ending that belong to it as well.
const COMPANION_NAMES: &[&str] = &["LICENSE", "NOTICE"];
/// What speaks of the files of the weights, which are others in the output.
const INDEX_ENDING: &str = ".index.json";

/// The draft of a conversion that changes nothing but the format.
pub(super) fn draft(reader: &Reader, format: &Format, to_folder: bool, target: Option<Target>) -> Result<OutputModel> {
    let model = reader.model();
    let step = if format.id == model.format { OutputTensor::keep } else { OutputTensor::original };
    let steps = (0..model.tensors.len()).map(|index| step(model, index)).collect::<Result<Vec<_>>>()?;
    let beside = companions(model)?;
    let mut beside = beside.into_iter().map(|file| told(reader, file)).collect::<Result<Vec<_>>>()?;
    if let (Some(config), Some(target)) = (&model.config, target) {
        retype(&mut beside, config, target.base())?;
    }
    let stays = !to_folder || format.id != model.format;
    let notes =
        beside.iter().filter(|_| stays).map(|file| Note::dropped(&file.name, "files beside the weights do not come along")).collect();
    let modules = model.modules.iter().filter(|module| module.shard.is_some()).map(|module| module.path.clone()).collect();
    Ok(OutputModel {
        metadata: carried(reader, format)?,
        steps,
        files: if stays { Vec::new() } else { beside },
        modules,
        notes,
        inputs: Vec::new(),
    })
}

/// The config as the reader tells it, where it computes tensors; other files as they are.
fn told(reader: &Reader, file: CompanionFile) -> Result<CompanionFile> {
    let model = reader.model();
    let config =
        model.config.as_ref().filter(|_| file.name == "config.json" && model.tensors.iter().any(|tensor| reader.is_computed(tensor)));
    let Some(config) = config else { return Ok(file) };
    Ok(CompanionFile { content: Content::Bytes(json::to_text(config)?.into_bytes()), ..file })
}

/// The files beside the weights, by name, then those of the modules.
pub(super) fn companions(model: &Model) -> Result<Vec<CompanionFile>> {
    let Some(folder) = &model.folder else { return Ok(Vec::new()) };
    let mut files = files_in(folder, "")?;
    for module in &model.modules {
        files.extend(files_in(&folder.join(&module.path), &format!("{}/", module.path))?);
    }
    Ok(files)
}

/// The files of a model in a folder that are no weights, by name, under this path in the output.
fn files_in(folder: &Path, under: &str) -> Result<Vec<CompanionFile>> {
    if !folder.is_dir() {
        return Ok(Vec::new()); // a module without a folder of its own, or a list of modules in the folder above
    }
    let io = |error| Error::io("cannot list", folder, error);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let known = path.extension().and_then(|extension| extension.to_str()).is_some_and(|extension| COMPANIONS.contains(&extension));
        if path.is_file() && (known || COMPANION_NAMES.contains(&name)) && !name.ends_with(INDEX_ENDING) && !name.starts_with('.') {
            files.push(CompanionFile { name: format!("{under}{name}"), content: Content::Copy(path.clone()) });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// A config that names the type of the weights must name the new one: loaders go by it.
fn retype(files: &mut [CompanionFile], config: &Json, dtype: DType) -> Result<()> {
    const NAMES: &[(DType, &str)] = &[(DType::F32, "float32"), (DType::F16, "float16"), (DType::BF16, "bfloat16"), (DType::F64, "float64")];
    let file = files.iter_mut().find(|file| file.name == "config.json");
    let (Some(file), Some((_, name))) = (file, NAMES.iter().find(|(known, _)| *known == dtype)) else { return Ok(()) };
    let mut config = config.clone();
    let mut changed = false;
    for key in ["torch_dtype", "dtype"] {
        if let Some(value) = config.get_mut(key).filter(|value| value.is_string() && value.as_str() != Some(name)) {
            *value = Json::from(*name);
            changed = true;
        }
    }
    if changed {
        file.content = Content::Bytes((json::to_text(&config)? + "\n").into_bytes());
    }
    Ok(())
}

/// A typed value as the format holds it.
pub(super) fn value_for(format: &Format, value: &Value) -> Result<Value> {
    if format.id == FormatId::Safetensors { metadata::to_text(value).map(Value::String) } else { Ok(value.clone()) }
}

/// The metadata of the output when the format changes: see [`metadata`].
fn carried(reader: &Reader, format: &Format) -> Result<Metadata> {
    let model = reader.model();
    match (model.format == FormatId::Safetensors, format.id == FormatId::Safetensors) {
        (true, false) => metadata::from_strings(&model.metadata),
        (false, true) => metadata::to_strings(&model.metadata),
        _ => Ok(model.metadata.clone()),
    }
}
