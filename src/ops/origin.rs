//! Who made a model, and from what: as published in a GGUF's metadata or in a model card.

use serde::Serialize;

use crate::family::card;
use crate::format::Reader;
use crate::model::{DType, FormatId, Model};
use crate::quant::recipe;
use crate::quant::recipe::{FILE_TYPES, FileType, ModelTraits, file_type_name};

/// Most base models and links that are shown.
const MOST: u64 = 16;

/// The published origin of a model.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Origin {
    /// Authors and organisations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub authors: Vec<String>,
    /// Base models: addresses, repositories or names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub base_models: Vec<String>,
    /// Version of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Purpose of the fine-tuning: `Instruct`, `chat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finetune: Option<String>,
    /// Description of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Who quantised it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantized_by: Option<String>,
    /// Links of the model and its sources.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
}

/// The keys of GGUF for links.
const LINKS: [&str; 7] = [
    "general.url",
    "general.repo_url",
    "general.doi",
    "general.source.url",
    "general.source.repo_url",
    "general.source.doi",
    "general.source.huggingface.repository",
];

/// Returns the origin from GGUF metadata, or else from the front matter of the folder's model card.
pub(in crate::ops) fn origin(model: &Model) -> Origin {
    let text = |key: &str| model.metadata.get_str(key).map(str::to_owned);
    let base = |number: u64| ["repo_url", "url", "name"].iter().find_map(|key| text(&format!("general.base_model.{number}.{key}")));
    let count = model.metadata.get_u64("general.base_model.count").unwrap_or(0).min(MOST);
    let mut links: Vec<String> = LINKS.iter().filter_map(|key| text(key)).collect();
    links.dedup();
    let of_gguf = Origin {
        authors: ["general.author", "general.organization"].iter().filter_map(|key| text(key)).collect(),
        base_models: (0..count).filter_map(base).collect(),
        version: text("general.version"),
        finetune: text("general.finetune"),
        description: text("general.description"),
        quantized_by: text("general.quantized_by"),
        links,
    };
    let folder = model.folder.as_deref().or(Some(model.path.as_path()).filter(|path| path.is_dir()));
    let Some(folder) = folder.filter(|_| of_gguf == Origin::default()) else { return of_gguf };
    let card = card::read(&folder.join("README.md")).unwrap_or_default();
    let authors = if card.has("authors") { card.list("authors") } else { card.list("author") };
    Origin { authors, base_models: card.list("base_model"), quantized_by: card.text(&["quantized_by"]), ..Origin::default() }
}

/// The file type of a GGUF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NamedFileType {
    /// Name as in llama-quantize; of the type of most weights if `source` is `tensors`.
    pub name: String,
    /// `general.file_type`; `mix`: the only file type whose mix gives every tensor its type; or `tensors`.
    pub source: &'static str,
    /// The file types whose mixes all give every tensor its type, if there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<String>,
    /// The file type in `general.file_type` if the tensors contradict it: its name, or the number of an unknown one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contradicted: Option<String>,
}

impl NamedFileType {
    /// Formats the file type with its source: `Q4_K_M (inferred from the mix of types)`, `Q4_K_S or Q4_K_M (inferred from the mix of types, which is the
    /// same)`.
    pub fn in_words(&self) -> String {
        let contradicted = self.contradicted.as_ref().map(|named| format!(", as general.file_type is wrong: {named}")).unwrap_or_default();
        let name = &self.name;
        match (self.source, self.candidates.split_last()) {
            ("tensors", Some((last, others))) => {
                format!("{} or {last} (inferred from the mix of types, which is the same{contradicted})", others.join(", "))
            }
            ("tensors", None) => format!("mostly {name} (inferred from the tensors{contradicted})"),
            ("mix", _) => format!("{name} (inferred from the mix of types{contradicted})"),
            (source, _) => format!("{name} ({source})"),
        }
    }
}

/// Returns the file type that `general.file_type` names; without that, or if the tensors contradict it, the one inferred from the tensors.
///
/// They contradict it if they are the mix of another file type; or if none has the type that most have in the named one. The types of a
/// file with a mix of its own do not.
pub(in crate::ops) fn file_type(reader: &Reader) -> Option<NamedFileType> {
    file_type_of(reader.model(), reader.missing_files().next().is_none())
}

/// Returns the file type. `whole` tells whether all tensors are known; otherwise no mix is inferred.
fn file_type_of(model: &Model, whole: bool) -> Option<NamedFileType> {
    const KEY: &str = "general.file_type";
    let number = model.metadata.get_u64(KEY);
    if number.is_none() && model.format != FormatId::Gguf {
        return None;
    }
    let named = number.and_then(file_type_name);
    let row = named.and_then(|name| FILE_TYPES.iter().find(|row| row.name == name));
    let mixes = Mixes::of(model, whole);
    let by_key = |name: &str| NamedFileType { name: name.to_owned(), source: KEY, candidates: Vec::new(), contradicted: None };
    if let Some(name) = named.filter(|_| model.tensors.is_empty() || row.is_none_or(|row| !mixes.told([row].into_iter()).is_empty())) {
        return Some(by_key(name));
    }
    let told = mixes.told(FILE_TYPES.iter());
    let has_base = row.is_some_and(|row| mixes.dtypes.contains(&Some(row.base)));
    if let Some(name) = named.filter(|_| has_base && told.is_empty()) {
        return Some(by_key(name));
    }
    let contradicted = number.map(|number| named.map_or_else(|| number.to_string(), str::to_owned));
    let candidates: Vec<String> = told.iter().map(|row| row.name.to_owned()).collect();
    match <[String; 1]>::try_from(candidates) {
        Ok([name]) => Some(NamedFileType { name, source: "mix", candidates: Vec::new(), contradicted }),
        Err(candidates) => Some(NamedFileType { name: commonest_type(model)?, source: "tensors", candidates, contradicted }),
    }
}

/// Properties of a model that a mix depends on.
struct Mixes<'m> {
    whole: bool,
    traits: ModelTraits,
    tensors: Vec<(&'m str, &'m [u64])>,
    dtypes: Vec<Option<DType>>,
}

impl<'m> Mixes<'m> {
    fn of(model: &'m Model, whole: bool) -> Self {
        Self {
            whole,
            traits: ModelTraits::from_metadata(&model.metadata),
            tensors: model.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect(),
            dtypes: model.tensors.iter().map(|tensor| tensor.elem.known()).collect(),
        }
    }

    fn told(&self, candidates: impl Iterator<Item = &'static FileType>) -> Vec<&'static FileType> {
        if !self.whole {
            return Vec::new();
        }
        recipe::told(candidates, &self.traits, &self.tensors, &self.dtypes)
    }
}

/// Returns the type of most weights in matrices.
fn commonest_type(model: &Model) -> Option<String> {
    let mut sizes: Vec<(String, u64)> = Vec::new();
    for tensor in model.tensors.iter().filter(|tensor| tensor.shape.len() > 1) {
        let (name, elements) = (tensor.elem.name().into_owned(), tensor.elements().unwrap_or(0));
        match sizes.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum = sum.saturating_add(elements),
            None => sizes.push((name, elements)),
        }
    }
    sizes.into_iter().max_by_key(|(_, elements)| *elements).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ElemType, Metadata, TensorInfo, Value};

    fn model(entries: &[(&str, Value)], dtypes: &[DType]) -> Model {
        let mut metadata = Metadata::new();
        for (key, value) in entries {
            metadata.set(*key, value.clone());
        }
        let tensor = |dtype: &DType| TensorInfo {
            name: "blk.0.attn_q.weight".to_owned(),
            elem: ElemType::Known(*dtype),
            shape: vec![256, 256],
            shard: 0,
            offset_bytes: 0,
            len_bytes: Some(0),
        };
        Model { format: FormatId::Gguf, metadata, tensors: dtypes.iter().map(tensor).collect(), ..Model::default() }
    }

    #[test]
    fn the_file_type_is_the_named_one_unless_the_tensors_contradict_it() {
        let found = |number: Option<u32>, dtypes: &[DType]| {
            let entries: Vec<_> = number.map(|number| ("general.file_type", Value::U32(number))).into_iter().collect();
            file_type_of(&model(&entries, dtypes), true)
                .map(|found| (found.name, found.source, found.candidates.join(" "), found.contradicted))
        };
        let row = |name: &str, source, candidates: &str, contradicted: Option<&str>| {
            Some((name.to_owned(), source, candidates.to_owned(), contradicted.map(str::to_owned)))
        };
        // No mix of llama.cpp, in which these tensors all have the same type.
        let mix = [DType::Q4_K, DType::Q4_K, DType::Q6_K];
        // LLAMA_FTYPE_MOSTLY_Q4_K_M is 15, LLAMA_FTYPE_GUESSED 1024.
        assert_eq!(found(Some(15), &mix), row("Q4_K_M", "general.file_type", "", None));
        assert_eq!(found(Some(1024 + 15), &mix), row("Q4_K_M", "general.file_type", "", None));
        assert_eq!(found(Some(1), &mix), row("Q4_K", "tensors", "", Some("F16")));
        assert_eq!(found(Some(9999), &mix), row("Q4_K", "tensors", "", Some("9999")));
        assert_eq!(found(None, &mix), row("Q4_K", "tensors", "", None));
        // Queries are of the base type in all mixes of Q4_K.
        let queries = [DType::Q4_K; 2];
        assert_eq!(found(Some(14), &queries), row("Q4_K_S", "general.file_type", "", None));
        assert_eq!(found(None, &queries), row("Q4_K", "tensors", "Q4_K_S Q4_K_M", None));
        assert_eq!(found(Some(17), &queries), row("Q4_K", "tensors", "Q4_K_S Q4_K_M", Some("Q5_K_M")));
        assert_eq!(found(None, &[DType::Q6_K]), row("Q6_K", "mix", "", None));
        assert_eq!(found(Some(15), &[DType::Q6_K]), row("Q6_K", "mix", "", Some("Q4_K_M")));
        assert_eq!(found(Some(15), &[]), row("Q4_K_M", "general.file_type", "", None));
        assert_eq!(found(None, &[]), None);
    }

    #[test]
    fn the_origin_is_as_published() {
        let text = |text: &str| Value::String(text.to_owned());
        let entries = [
            ("general.author", text("Some One")),
            ("general.quantized_by", text("Another")),
            ("general.base_model.count", Value::U32(2)),
            ("general.base_model.0.name", text("Base")),
            ("general.base_model.0.repo_url", text("https://example.org/base")),
            ("general.base_model.1.name", text("Second")),
            ("general.repo_url", text("https://example.org/this")),
        ];
        let found = origin(&model(&entries, &[]));
        assert_eq!(found.authors, ["Some One"]);
        assert_eq!(found.base_models, ["https://example.org/base", "Second"]);
        assert_eq!(found.quantized_by.as_deref(), Some("Another"));
        assert_eq!(found.links, ["https://example.org/this"]);
    }
}
