//! `info`: what model this is.

use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::Reader;
use crate::arch::facts;
use crate::arch::lora::{self, Adapter, Form, Update};
use crate::arch::packed::Packing;
use crate::base::mmap::Map as FileMap;
use crate::base::{Result, limits};
use crate::model::{Model, Value};
use crate::ops::count::{self, DTypeCount};

/// What model this is.
#[derive(Debug, Serialize)]
pub struct Info {
    schema: &'static str,
    /// The path that was asked for.
    pub path: String,
    /// The format of the files.
    pub format: &'static str,
    /// The architecture, as the model names it.
    pub architecture: Option<String>,
    /// What the model is called.
    pub name: Option<String>,
    /// How many parameters.
    pub parameters: u64,
    /// How many of them one token meets.
    pub active_parameters: Option<u64>,
    /// The parameters as people say them: `271M`.
    pub label: String,
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
    /// The licence, as the model names it.
    pub license: Option<String>,
    /// How other libraries packed the weights into integers: `GPTQ`, `AWQ` ...
    #[serde(skip)]
    pub packed: Vec<&'static str>,
    /// What is said of a LoRA adapter, if the model is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterFacts>,
}

/// A LoRA adapter.
#[derive(Debug, Serialize)]
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
    Ok(Info {
        schema: "weigh.info.v1",
        path: model.path.to_string_lossy().into_owned(),
        format: model.format,
        architecture: facts::architecture(model).map(str::to_owned),
        name: name(model),
        parameters: count.parameters,
        active_parameters: count.active_parameters,
        label: count.label,
        bytes: files.iter().map(|file| file.bytes).fold(0, u64::saturating_add),
        bits_per_weight: count.bits_per_weight,
        files,
        dtypes: count.by_dtype,
        hyperparameters: facts::hyperparameters(model),
        tokenizer: tokenizer(model),
        license: license(model),
        packed: Packing::of(reader).schemes(),
        adapter: if lora::is_adapter(reader) { Some(adapter_facts(reader, Adapter::of(reader)?)?) } else { None },
    })
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
        updates: adapter.updates.par_iter().map(row).collect::<Result<_>>()?,
    })
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

/// `general.license`; or that of the model card, in the lines between `---` at its start.
fn license(model: &Model) -> Option<String> {
    if let Some(license) = text(model, "general.license") {
        return Some(license);
    }
    let card = read(model.folder.as_deref()?, "README.md")?;
    let card = std::str::from_utf8(card.bytes()).ok()?;
    let front = card.strip_prefix("---")?.split("\n---").next()?;
    let license = front.lines().find_map(|line| line.strip_prefix("license:"))?.trim().trim_matches(['"', '\'']);
    (!license.is_empty()).then(|| license.to_owned())
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
    let mut found = Tokenizer::default();
    if let Some(json) = read(folder, "tokenizer.json") {
        let scan: Scan = serde_json::from_slice(json.bytes()).ok()?;
        let past_added = scan.added_tokens.iter().map(|token| token.id.saturating_add(1)).max();
        found.model = scan.model.kind;
        found.tokens = scan.model.vocab.map(|Entries(entries)| entries).max(past_added);
    } else if let Some(pieces) = read(folder, "tokenizer.model") {
        found.model = Some("SentencePiece".to_owned());
        found.tokens = sentencepiece_tokens(pieces.bytes());
    } else if folder.join("vocab.txt").is_file() {
        found.model = Some("WordPiece".to_owned());
    } else {
        return None;
    }
    // A list of ends of text starts with the one that ends a document.
    let id = |name: &str| {
        let value = model.config.as_ref()?.get(name)?;
        value.get(0).unwrap_or(value).as_u64()
    };
    (found.bos, found.eos, found.pad) = (id("bos_token_id"), id("eos_token_id"), id("pad_token_id"));
    let own_file = ["chat_template.jinja", "chat_template.json"].iter().any(|name| folder.join(name).is_file());
    found.chat_template = own_file
        || read(folder, "tokenizer_config.json")
            .and_then(|json| serde_json::from_slice::<TokenizerConfig>(json.bytes()).ok())
            .is_some_and(|config| config.chat_template.is_some());
    Some(found)
}

/// How many pieces a SentencePiece model has: fields number 1 of its protobuf message (sentencepiece_model.proto, `ModelProto`).
fn sentencepiece_tokens(mut message: &[u8]) -> Option<u64> {
    fn varint(message: &mut &[u8]) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = message.split_first()?;
            *message = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
    let mut pieces = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let length = match tag & 7 {
            0 => varint(&mut message).map(|_| 0)?,
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        pieces += u64::from(tag == (1 << 3 | 2));
        message = message.get(length..)?;
    }
    Some(pieces)
}

/// A file beside the weights, if it is there and of a sane size.
fn read(folder: &Path, name: &str) -> Option<FileMap> {
    FileMap::open(&folder.join(name)).ok().filter(|map| map.len() <= limits::JSON_FILE_BYTES)
}

#[derive(Deserialize)]
struct TokenizerConfig {
    chat_template: Option<serde::de::IgnoredAny>,
}

/// What is wanted of a tokenizer.json, without building its vocabulary.
#[derive(Deserialize)]
struct Scan {
    model: ScanModel,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct ScanModel {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Option<Entries>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u64,
}

/// How many entries a list or a map has.
struct Entries(u64);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
        struct Counter;
        impl<'de> Visitor<'de> for Counter {
            type Value = Entries;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list or a map")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entries, A::Error> {
                let mut entries = 0;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    entries += 1;
                }
                Ok(Entries(entries))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = 0;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    entries += 1;
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_any(Counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_sentencepiece_model_are_counted() {
        // Two pieces, a trainer_spec (field 2), a varint (field 9), and a piece that is cut short.
        let whole = [0x0a, 1, 0, 0x0a, 0, 0x12, 2, 1, 2, 0x48, 0x80, 1];
        assert_eq!(sentencepiece_tokens(&whole), Some(2));
        assert_eq!(sentencepiece_tokens(&[0x0a, 5, 1]), None);
        assert_eq!(sentencepiece_tokens(&[0xff; 20]), None);
    }
}
