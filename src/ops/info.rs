//! `info`: a summary of a model.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::base::threads::{par, prelude::*};
use crate::base::{Result, units};
use crate::family::{card, hyperparameters};
use crate::format::Reader;
use crate::model::{Checkpoint, FormatId, Model, PackingSummary, Value};
use crate::ops::count::{self, Count, DTypeCount};
use crate::ops::fit::{self, Summary};
use crate::ops::origin::{self, NamedFileType, Origin};
use crate::source::place;
use crate::tokenizer;
use crate::view::lora;
use crate::view::lora::{Adapter, Form, Update};

/// The summary of a model.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Info {
    schema: &'static str,
    /// The path as given; every document has it after its schema.
    #[serde(skip)]
    pub path: String,
    /// The format of the files.
    pub format: FormatId,
    /// Architecture, as the model names it.
    pub architecture: Option<String>,
    /// Name of the model.
    pub name: Option<String>,
    /// Number of parameters; `None` if some are packed in a way that this build cannot decode.
    pub parameters: Option<u64>,
    /// Number of parameters used per token.
    pub active_parameters: Option<u64>,
    /// Rounded parameter count: `271M`; `at least 271M` if some are unknown.
    pub label: String,
    /// The packing of the weights, if they are packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<PackingSummary>,
    /// Total size of the files in bytes.
    pub bytes: u64,
    /// 8 x bytes of the tensors / parameters.
    pub bits_per_weight: Option<f64>,
    /// Size of the tensors in bytes; `None` if the size of a type among them is unknown.
    #[serde(skip)]
    pub tensor_bytes: Option<u64>,
    /// Stored elements that are not parameters, in words.
    #[serde(skip)]
    pub left_out: Vec<String>,
    /// The files that hold tensors.
    pub files: Vec<FileRow>,
    /// Tensors by type, largest first.
    pub dtypes: Vec<DTypeCount>,
    /// File type of a GGUF by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_type: Option<NamedFileType>,
    /// Memory, where it is known what the architecture caches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Summary>,
    /// Known hyperparameters, under stable names.
    pub hyperparameters: Map<String, Json>,
    /// Tokenizer, if there is one.
    pub tokenizer: Option<Tokenizer>,
    /// Licence, as the model names it; several are joined by commas.
    pub license: Option<String>,
    /// Name of a custom licence: `license` is `other` then.
    pub license_name: Option<String>,
    /// Location of the licence: a URL, or a file of the repository.
    pub license_link: Option<String>,
    /// Authors, base models, links.
    #[serde(flatten)]
    pub origin: Origin,
    /// LoRA adapter, if the model is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterFacts>,
    /// The kind of a PyTorch checkpoint, and its contents besides tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
}

/// A LoRA adapter.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct AdapterFacts {
    /// Naming convention of the adapter.
    pub form: Form,
    /// Rank in its config, or common rank of all updates.
    pub rank: Option<u64>,
    /// Alpha in its config, or common alpha of all updates.
    pub alpha: Option<f64>,
    /// Updated modules, by the last part of their names.
    pub target_modules: Vec<String>,
    /// Base model.
    pub base_model: Option<String>,
    /// Reason why it cannot be merged; null if it can.
    pub unsupported: Option<String>,
    /// Updates, in file order.
    pub updates: Vec<UpdateRow>,
}

/// The update of one matrix.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct UpdateRow {
    /// The updated module.
    pub module: String,
    /// Its rank.
    pub rank: u64,
    /// Scale of the product of its factors.
    pub scale: f32,
    /// Euclidean norm of the update.
    pub norm: f64,
}

/// One file.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct FileRow {
    /// Path.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Number of tensors.
    pub tensors: u64,
}

/// Facts about a tokenizer, read without building it.
#[derive(Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Tokenizer {
    /// Kind, as named in GGUF (`llama`, `gpt2`, `bert`), in tokenizer.json (`BPE`, `WordPiece`, `Unigram`), or `SentencePiece`.
    pub model: Option<String>,
    /// Pre-tokenizer, by its GGUF name.
    pub pre: Option<String>,
    /// Size of the vocabulary.
    pub tokens: Option<u64>,
    /// Beginning-of-text token.
    pub bos: Option<u64>,
    /// End-of-text token.
    pub eos: Option<u64>,
    /// Unknown token.
    pub unk: Option<u64>,
    /// Padding token.
    pub pad: Option<u64>,
    /// Whether it has a chat template.
    pub chat_template: bool,
}

impl Tokenizer {
    /// Formats the kind: the algorithm, and for GGUF its name there: `BPE (gpt2)`.
    pub fn kind_in_words(&self) -> Option<String> {
        let model = self.model.as_deref()?;
        let kind = match model {
            "gpt2" => "BPE",
            "llama" => "SentencePiece",
            "bert" => "WordPiece",
            "t5" => "Unigram",
            other => return Some(other.to_owned()),
        };
        Some(format!("{kind} ({model})"))
    }
}

/// The context for which `info` gives the memory, unless the model is trained for less.
const SHOWN_CONTEXT: u64 = 32_768;

/// Formats a hyperparameter for people: thousands are separated, and a list is shortened to its first `most` values.
pub fn hyperparameter_in_words(value: &Json, most: usize) -> String {
    match value {
        Json::Number(number) => match (number.as_u64(), number.as_f64().unwrap_or(f64::NAN)) {
            (Some(whole), _) => units::grouped(whole),
            // A RoPE base is a float, and whole.
            (None, float) if (0.0..1e15).contains(&float) && float.fract() == 0.0 => units::grouped(float as u64),
            (None, float) => units::general(float, 6),
        },
        Json::String(text) => text.clone(),
        Json::Array(values) => {
            let first = values.iter().take(most).map(|value| hyperparameter_in_words(value, most)).collect::<Vec<_>>().join(" ");
            if values.len() > most { format!("[{first} …]") } else { format!("[{first}]") }
        }
        other => other.to_string(),
    }
}

/// Summarises a model.
///
/// # Errors
/// The model has more than 2^64 elements. Companion files that cannot be read count as absent.
pub fn info(reader: &Reader) -> Result<Info> {
    info_of(reader, &count::count(reader)?)
}

/// Returns [`info`] of a model whose parameters are counted already.
///
/// # Errors
/// As for [`info`].
pub(in crate::ops) fn info_of(reader: &Reader, count: &Count) -> Result<Info> {
    let adapter = if lora::is_adapter(reader) { Some(adapter_facts(reader, Adapter::of(reader)?)?) } else { None };
    Ok(Info { adapter, ..headers(reader, count) })
}

/// Returns the facts in the headers: [`info`] without the facts of an adapter, which are computed from values.
pub(in crate::ops) fn headers(reader: &Reader, count: &Count) -> Info {
    let model = reader.model();
    let mut files: Vec<FileRow> = model
        .shards
        .iter()
        .map(|shard| FileRow { path: shard.path.to_string_lossy().into_owned(), bytes: shard.bytes, tensors: 0 })
        .collect();
    for tensor in &model.tensors {
        if let Some(file) = files.get_mut(tensor.shard) {
            file.tensors += 1;
        }
    }
    let license = license(model);
    let hyperparameters = with_hidden_size(hyperparameters::all(model));
    let context = hyperparameters::number(&hyperparameters, "context").map_or(SHOWN_CONTEXT, |trained| trained.min(SHOWN_CONTEXT));
    Info {
        schema: "weigh.info.v1",
        path: model.path.to_string_lossy().into_owned(),
        format: model.format,
        architecture: hyperparameters::architecture(model).map(str::to_owned),
        name: name(model),
        parameters: count.parameters,
        active_parameters: count.active_parameters,
        label: count.label.clone(),
        packing: count.packing.clone(),
        bytes: files.iter().map(|file| file.bytes).fold(0, u64::saturating_add),
        bits_per_weight: count.bits_per_weight,
        tensor_bytes: count.bytes,
        left_out: count.left_out.clone(),
        files,
        dtypes: count.by_dtype.clone(),
        hyperparameters,
        file_type: origin::file_type(reader),
        memory: if lora::is_adapter(reader) { None } else { fit::summary(reader, context) },
        origin: origin::origin(model),
        tokenizer: tokenizer(model),
        license: license.id,
        license_name: license.name,
        license_link: license.link,
        adapter: None,
        checkpoint: model.checkpoint.clone(),
    }
}

impl Info {
    /// Formats the licence with its name and location: `Llama 3.2 Community (other), https://...`.
    pub fn license_in_words(&self) -> Option<String> {
        let named = match (self.license_name.as_deref(), self.license.as_deref()) {
            (Some(name), Some(id)) if name != id => Some(format!("{name} ({id})")),
            (name, id) => name.or(id).map(str::to_owned),
        };
        let parts: Vec<String> = named.into_iter().chain(self.license_link.clone()).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

fn adapter_facts(reader: &Reader, adapter: Adapter) -> Result<AdapterFacts> {
    let row = |update: &Update| {
        Ok(UpdateRow { module: update.module.clone(), rank: update.rank, scale: update.scale, norm: update.norm(reader)? })
    };
    Ok(AdapterFacts {
        form: adapter.form,
        unsupported: adapter.unsupported.clone(),
        rank: adapter.rank,
        alpha: adapter.alpha,
        target_modules: adapter.targets,
        base_model: adapter.base,
        updates: par(&adapter.updates).map(row).collect::<Result<_>>()?,
    })
}

/// Adds `hidden_size` after the hyperparameters, the usual name of `width`.
fn with_hidden_size(mut known: Map<String, Json>) -> Map<String, Json> {
    if let Some(size) = known.get("width").cloned() {
        known.insert("hidden_size".to_owned(), size);
    }
    known
}

fn text(model: &Model, key: &str) -> Option<String> {
    model.metadata.get(key).and_then(Value::as_str).map(str::to_owned)
}

/// Returns `general.name`, or the folder's name, which in a Hugging Face cache is the repository's.
fn name(model: &Model) -> Option<String> {
    if let Some(name) = text(model, "general.name") {
        return Some(name);
    }
    let folder = model.folder.as_deref()?;
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    let repository = whole.ancestors().filter_map(|part| part.file_name()?.to_str()?.strip_prefix("models--")).next();
    match repository {
        Some(repository) => Some(repository.replacen("--", "/", 1)),
        None => folder.file_name().or_else(|| whole.file_name()).map(|name| name.to_string_lossy().into_owned()),
    }
}

/// The published licence.
#[derive(Debug, Default, PartialEq)]
struct License {
    /// `license`: an identifier, or several joined by commas; `other` for a custom licence.
    id: Option<String>,
    name: Option<String>,
    link: Option<String>,
}

/// Reads the licence from `general.license` and related keys, or from the front matter of the model card.
fn license(model: &Model) -> License {
    let of_gguf = License {
        id: text(model, "general.license"),
        name: text(model, "general.license.name"),
        link: text(model, "general.license.link"),
    };
    let folder = model.folder.as_deref().or(Some(model.path.as_path()).filter(|path| place::is_dir(path)));
    let Some(folder) = folder.filter(|_| of_gguf == License::default()) else { return of_gguf };
    let card = card::read(&folder.join("README.md")).unwrap_or_default();
    let ids = card.list("license");
    License { id: (!ids.is_empty()).then(|| ids.join(", ")), name: card.text(&["license_name"]), link: card.text(&["license_link"]) }
}

fn tokenizer(model: &Model) -> Option<Tokenizer> {
    match &model.folder {
        Some(folder) => folder_tokenizer(model, folder),
        None => gguf_tokenizer(model),
    }
}

fn gguf_tokenizer(model: &Model) -> Option<Tokenizer> {
    let id = |name: &str| model.metadata.get_u64(&format!("tokenizer.ggml.{name}_token_id"));
    Some(Tokenizer {
        model: Some(text(model, "tokenizer.ggml.model")?),
        pre: text(model, "tokenizer.ggml.pre"),
        tokens: model.metadata.get("tokenizer.ggml.tokens").and_then(Value::as_array).map(|tokens| tokens.len()),
        bos: id("bos"),
        eos: id("eos"),
        unk: id("unknown"),
        pad: id("padding"),
        chat_template: model.metadata.get("tokenizer.chat_template").is_some(),
    })
}

fn folder_tokenizer(model: &Model, folder: &Path) -> Option<Tokenizer> {
    let summary = tokenizer::summary(folder)?;
    // A list of end tokens starts with the one that ends a document.
    let id = |name: &str| {
        let value = model.config.as_ref()?.get(name)?;
        value.get(0).unwrap_or(value).as_u64()
    };
    Some(Tokenizer {
        model: summary.kind,
        tokens: summary.tokens,
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        pad: id("pad_token_id"),
        chat_template: summary.chat_template,
        ..Tokenizer::default()
    })
}
