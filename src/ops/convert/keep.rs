//! `--keep-names`: tensors under their own names, with all metadata.

use std::path::Path;

use serde_json::Value as Json;

use crate::base::{Result, json};
use crate::format::safetensors::write as safetensors;
use crate::format::{Format, Reader};
use crate::model::companion::{CompanionFile, Content, Note};
use crate::model::{Checkpoint, DType, FormatId, Metadata, Model, Value};
use crate::ops::convert::metadata;
use crate::quant::recipe::Target;
use crate::source::place;
use crate::view::output_model::{OutputModel, OutputTensor};

/// Extensions of companion files in a Hugging Face folder.
const COMPANION_EXTENSIONS: &[&str] = &["json", "txt", "model", "jinja", "md", "tiktoken"];
/// Names of companion files without such an extension.
const COMPANION_NAMES: &[&str] = &["LICENSE", "NOTICE"];
/// The index of the weight files, which does not apply to the output's files.
const INDEX_SUFFIX: &str = ".index.json";

/// Returns the output model of a conversion that changes nothing but the format.
pub(super) fn output_model(reader: &Reader, format: &Format, to_folder: bool, target: Option<Target>) -> Result<OutputModel> {
    let model = reader.model();
    let alike = format.id == model.format || (format.id == FormatId::Safetensors && model.format == FormatId::PyTorch);
    let describe = if alike { OutputTensor::keep } else { OutputTensor::original };
    let mut tensors = (0..model.tensors.len()).map(|index| describe(model, index)).collect::<Result<Vec<_>>>()?;
    let mut companions = self::companions(model)?.into_iter().map(|file| effective_config(reader, file)).collect::<Result<Vec<_>>>()?;
    if let (Some(config), Some(target)) = (&model.config, target) {
        retype(&mut companions, config, target.base())?;
    }
    let stays = !to_folder || !alike;
    let mut notes: Vec<Note> =
        companions.iter().filter(|_| stays).map(|file| Note::dropped(&file.name, "companion files are not copied")).collect();
    notes.extend(checkpoint_notes(model));
    if let (Some(_), FormatId::Safetensors) = (&model.checkpoint, format.id) {
        // In the order of the safetensors library, so that the files are equal.
        tensors.sort_by(|a, b| safetensors::order(&a.elem).cmp(&safetensors::order(&b.elem)).reverse().then_with(|| a.name.cmp(&b.name)));
    }
    let modules = model.modules.iter().filter(|module| module.shard.is_some()).map(|module| module.path.clone()).collect();
    Ok(OutputModel {
        metadata: converted_metadata(reader, format)?,
        tensors,
        files: if stays { Vec::new() } else { companions },
        modules,
        notes,
        inputs: Vec::new(),
        zeros: Vec::new(),
    })
}

/// Returns notes on what a checkpoint holds that the output does not.
fn checkpoint_notes(model: &Model) -> Vec<Note> {
    let Some(checkpoint) = &model.checkpoint else { return Vec::new() };
    let tied = checkpoint.tied.iter().map(|tied| Note::dropped(&tied.name, format!("shares its memory with {}, which is stored", tied.to)));
    let unread = checkpoint.unread.iter().map(|unread| Note::dropped(&unread.name, format!("its values are not read: {}", unread.reason)));
    let opaque =
        checkpoint.opaque.iter().map(|opaque| Note::dropped(&opaque.name, format!("an object of {}, which is no tensor", opaque.callable)));
    let keys: Vec<&str> = model.metadata.iter().map(|(key, _)| key).collect();
    let values = keys.first().map(|first| {
        let others = if keys.len() > 1 { format!(", and {} others", keys.len() - 1) } else { String::new() };
        Note::dropped(*first, format!("a value of the checkpoint that is no tensor{others}"))
    });
    tied.chain(unread).chain(opaque).chain(values).collect()
}

/// Returns the metadata that safetensors' `save_model` writes for a checkpoint: the framework, and the names of tied tensors.
fn metadata_of(checkpoint: &Checkpoint) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.set("format", Value::String("pt".to_owned()));
    for tied in &checkpoint.tied {
        metadata.set(&tied.name, Value::String(tied.to.clone()));
    }
    metadata
}

/// Replaces config.json by the reader's config if the reader computes tensors; returns other files unchanged.
fn effective_config(reader: &Reader, file: CompanionFile) -> Result<CompanionFile> {
    let model = reader.model();
    let config = model
        .config
        .as_ref()
        .filter(|_| file.name == "config.json" && model.tensors.iter().any(|tensor| reader.type_name(tensor).packed.is_some()));
    let Some(config) = config else { return Ok(file) };
    Ok(CompanionFile { content: Content::Bytes(json::to_text(config)?.into_bytes()), ..file })
}

/// Returns the companion files, by name, then those of the modules.
pub(super) fn companions(model: &Model) -> Result<Vec<CompanionFile>> {
    let Some(folder) = &model.folder else { return Ok(Vec::new()) };
    let mut files = files_in(folder, "")?;
    for module in &model.modules {
        files.extend(files_in(&folder.join(&module.path), &format!("{}/", module.path))?);
    }
    Ok(files)
}

/// Returns the companion files in a folder, by name, with their paths in the output.
fn files_in(folder: &Path, under: &str) -> Result<Vec<CompanionFile>> {
    if place::is_listable(folder) && !place::is_dir(folder) {
        return Ok(Vec::new()); // a module without a folder of its own, or a list of modules in the folder above
    }
    let mut files = Vec::new();
    for path in place::entries(folder)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let known =
            path.extension().and_then(|extension| extension.to_str()).is_some_and(|extension| COMPANION_EXTENSIONS.contains(&extension));
        if place::is_file(&path) && (known || COMPANION_NAMES.contains(&name)) && !name.ends_with(INDEX_SUFFIX) && !name.starts_with('.') {
            files.push(CompanionFile { name: format!("{under}{name}"), content: Content::Copy(path.clone()) });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Updates the weight type that a config names: loaders rely on it.
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

/// Returns a typed value in the form that the format stores.
pub(super) fn value_for(format: &Format, value: &Value) -> Result<Value> {
    if format.id == FormatId::Safetensors { metadata::to_text(value).map(Value::String) } else { Ok(value.clone()) }
}

/// Returns the metadata of the output if the format changes: see [`metadata`].
fn converted_metadata(reader: &Reader, format: &Format) -> Result<Metadata> {
    let model = reader.model();
    if let Some(checkpoint) = &model.checkpoint {
        return Ok(if format.id == FormatId::Safetensors { metadata_of(checkpoint) } else { Metadata::new() });
    }
    match (model.format == FormatId::Safetensors, format.id == FormatId::Safetensors) {
        (true, false) => metadata::from_strings(&model.metadata),
        (false, true) => metadata::to_strings(&model.metadata),
        _ => Ok(model.metadata.clone()),
    }
}
