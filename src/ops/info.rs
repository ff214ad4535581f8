//! `info`: what model this is.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::base::Result;
use crate::base::threads::{par, prelude::*};
use crate::family::{card, hyperparameters};
use crate::format::Reader;
use crate::model::{FormatId, Model, PackedType, PackingSummary, Value};
use crate::ops::count::{self, DTypeCount};
use crate::quant::packed::Packing;
use crate::tokenizer;
use crate::view::lora;
use crate::view::lora::{Adapter, Form, Update};

/// What model this is.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Info {
    schema: &'static str,
    /// The path that was asked for; every document has it after its schema.
    #[serde(skip)]
    pub path: String,
    /// The format of the files.
    pub format: FormatId,
    /// The architecture, as the model names it.
    pub architecture: Option<String>,
    /// What the model is called.
    pub name: Option<String>,
    /// How many parameters; unknown where numbers are packed in a way that is not known.
    pub parameters: Option<u64>,
    /// How many of them one token meets.
    pub active_parameters: Option<u64>,
    /// The parameters as people say them: `271M`; `at least 271M` where some are not known.
    pub label: String,
    /// How the weights are packed, if they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<PackingSummary>,
    /// How large the files are, in bytes.
    pub bytes: u64,
    /// 8 x bytes of the tensors / parameters.
    pub bits_per_weight: Option<f64>,
    /// The files that hold tensors.
    pub files: Vec<FileRow>,
    /// The tensors by type, the most bytes first.
    pub dtypes: Vec<DTypeCount>,
    /// The hyperparameters that are known, under stable names.
    pub hyperparameters: Map<String, Json>,
    /// The tokenizer, if there is one.
    pub tokenizer: Option<Tokenizer>,
    /// The licence, as the model names it; several are joined by commas.
    pub license: Option<String>,
    /// What the licence is called, where it is one of the model's own: `license` is `other` then.
    pub license_name: Option<String>,
    /// Where the licence is: an address, or a file of the repository.
    pub license_link: Option<String>,
    /// The types that packed weights show, and how many weights are of each: `GPTQ-4`.
    #[serde(skip)]
    pub packed: Vec<(PackedType, u64)>,
    /// What is said of a LoRA adapter, if the model is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterFacts>,
}

/// A LoRA adapter.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct AdapterFacts {
    /// Which library's form it has.
    pub form: Form,
    /// The rank of its config, or that of all updates.
    pub rank: Option<u64>,
    /// The alpha of its config, or that of all updates.
    pub alpha: Option<f64>,
    /// The modules that it updates, by the ends of their names.
    pub target_modules: Vec<String>,
    /// The model that it was made for.
    pub base_model: Option<String>,
    /// Why it cannot be merged; null for one that can.
    pub unsupported: Option<String>,
    /// The updates, in the order of the file.
    pub updates: Vec<UpdateRow>,
}

/// The update of one matrix.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct UpdateRow {
    /// The module whose matrix it is.
    pub module: String,
    /// Its rank.
    pub rank: u64,
    /// What the product of its factors is multiplied by.
    pub scale: f32,
    /// The square root of the sum of squares of what is added.
    pub norm: f64,
}

/// One file.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct FileRow {
    /// Where it is.
    pub path: String,
    /// How large it is.
    pub bytes: u64,
    /// How many tensors are in it.
    pub tensors: u64,
}

/// What is known of a tokenizer without building it.
#[derive(Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Tokenizer {
    /// Its kind: as GGUF names it (`llama`, `gpt2`, `bert`), as tokenizer.json does (`BPE`, `WordPiece`, `Unigram`), or `SentencePiece`.
    pub model: Option<String>,
    /// How text is split before it, in GGUF's names.
    pub pre: Option<String>,
    /// How many tokens it knows.
    pub tokens: Option<u64>,
    /// The token that starts a text.
    pub bos: Option<u64>,
    /// The token that ends a text.
    pub eos: Option<u64>,
    /// The token for what is unknown.
    pub unk: Option<u64>,
    /// The token that fills up.
    pub pad: Option<u64>,
    /// Whether there is a chat template.
    pub chat_template: bool,
}

/// Looks at a model.
///
/// # Errors
/// The model has more than 2^64 elements. What lies beside the weights and cannot be read is taken for absent.
pub fn info(reader: &Reader) -> Result<Info> {
    let model = reader.model();
    let count = count::count(reader)?;
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
    Ok(Info {
        schema: "weigh.info.v1",
        path: model.path.to_string_lossy().into_owned(),
        format: model.format,
        architecture: hyperparameters::architecture(model).map(str::to_owned),
        name: name(model),
        parameters: count.parameters,
        active_parameters: count.active_parameters,
        label: count.label,
        packing: count.packing,
        bytes: files.iter().map(|file| file.bytes).fold(0, u64::saturating_add),
        bits_per_weight: count.bits_per_weight,
        files,
        dtypes: count.by_dtype,
        hyperparameters: with_hidden_size(hyperparameters::all(model)),
        tokenizer: tokenizer(model),
        license: license.id,
        license_name: license.name,
        license_link: license.link,
        packed: Packing::detect(reader).shown(),
        adapter: if lora::is_adapter(reader) { Some(adapter_facts(reader, Adapter::of(reader)?)?) } else { None },
    })
}

impl Info {
    /// The licence by the name that its publisher gave it, and where it is: `Llama 3.2 Community (other), https://...`.
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

/// `general.name`; or the folder's name, which in a Hugging Face cache is that of the repository.
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

/// The licence as it was published.
#[derive(Debug, Default, PartialEq)]
struct License {
    /// `license`: an identifier, or several joined by commas; `other` where the name says more.
    id: Option<String>,
    name: Option<String>,
    link: Option<String>,
}

/// Reads the licence from `general.license` and its kin, or from the front matter of the model card.
fn license(model: &Model) -> License {
    let of_gguf = License {
        id: text(model, "general.license"),
        name: text(model, "general.license.name"),
        link: text(model, "general.license.link"),
    };
    let folder = model.folder.as_deref().or(Some(model.path.as_path()).filter(|path| path.is_dir()));
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
    // A list of ends of text starts with the one that ends a document.
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
