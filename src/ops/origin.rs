//! Who made a model, and from what: as published in a GGUF's metadata or in a model card.

use serde::Serialize;

use crate::family::card;
use crate::model::{Model, Value};
use crate::quant::recipe::{FILE_TYPES, file_type_name};

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
        quantized_by: text("general.quantized_by"),
        links,
    };
    let folder = model.folder.as_deref().or(Some(model.path.as_path()).filter(|path| path.is_dir()));
    let Some(folder) = folder.filter(|_| of_gguf == Origin::default()) else { return of_gguf };
    let card = card::read(&folder.join("README.md")).unwrap_or_default();
    let authors = if card.has("authors") { card.list("authors") } else { card.list("author") };
    Origin { authors, base_models: card.list("base_model"), quantized_by: card.text(&["quantized_by"]), links: Vec::new() }
}

/// The file type of a GGUF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NamedFileType {
    /// Name as in llama-quantize; of the type of most weights if `source` is `tensors`.
    pub name: String,
    /// `general.file_type`, or `tensors` where that is missing or names a type that no tensor has.
    pub source: &'static str,
}

/// Returns the file type that `general.file_type` names; without that, or where no tensor is of its type, the type of most weights.
pub(in crate::ops) fn file_type(model: &Model) -> Option<NamedFileType> {
    const KEY: &str = "general.file_type";
    let number = model.metadata.get_u64(KEY);
    if number.is_none() && model.format != crate::model::FormatId::Gguf {
        return None;
    }
    let named = number.and_then(file_type_name);
    let base = named.and_then(|name| FILE_TYPES.iter().find(|row| row.name == name)).map(|row| row.base);
    let is_there = base.is_none_or(|base| model.tensors.iter().any(|tensor| tensor.elem.known() == Some(base)));
    if let Some(name) = named.filter(|_| is_there || model.tensors.is_empty()) {
        return Some(NamedFileType { name: name.to_owned(), source: KEY });
    }
    let mut sizes: Vec<(String, u64)> = Vec::new();
    for tensor in model.tensors.iter().filter(|tensor| tensor.shape.len() > 1) {
        let (name, elements) = (tensor.elem.name().into_owned(), tensor.elements().unwrap_or(0));
        match sizes.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum = sum.saturating_add(elements),
            None => sizes.push((name, elements)),
        }
    }
    let (name, _) = sizes.into_iter().max_by_key(|(_, elements)| *elements)?;
    Some(NamedFileType { name, source: "tensors" })
}

/// Numbers of enumerations in llama.h and llama-hparams.h: the end of the key, and the names of 0, 1 ...
const ENUMERATIONS: [(&str, &[&str]); 2] = [
    (".pooling_type", &["none", "mean", "cls", "last", "rank"]),
    (".expert_gating_func", &["none", "softmax", "sigmoid", "softmax_weight", "sqrt_softplus"]),
];

/// Returns the name that a number of an enumeration stands for.
pub(in crate::ops) fn enumerated(key: &str, value: &Value) -> Option<&'static str> {
    let number = value.as_u64()?;
    if key == "general.file_type" {
        return file_type_name(number);
    }
    let (_, names) = ENUMERATIONS.iter().find(|(end, _)| key.ends_with(end))?;
    names.get(usize::try_from(number).ok()?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DType, ElemType, FormatId, Metadata, TensorInfo};

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
    fn the_file_type_is_the_named_one_if_the_tensors_agree() {
        let found = |number: Option<u32>, dtypes: &[DType]| {
            let entries: Vec<_> = number.map(|number| ("general.file_type", Value::U32(number))).into_iter().collect();
            file_type(&model(&entries, dtypes)).map(|found| (found.name, found.source))
        };
        let mix = [DType::Q4_K, DType::Q4_K, DType::Q6_K];
        // LLAMA_FTYPE_MOSTLY_Q4_K_M is 15, LLAMA_FTYPE_GUESSED 1024.
        assert_eq!(found(Some(15), &mix), Some(("Q4_K_M".to_owned(), "general.file_type")));
        assert_eq!(found(Some(1024 + 15), &mix), Some(("Q4_K_M".to_owned(), "general.file_type")));
        assert_eq!(found(Some(1), &mix), Some(("Q4_K".to_owned(), "tensors")));
        assert_eq!(found(Some(9999), &mix), Some(("Q4_K".to_owned(), "tensors")));
        assert_eq!(found(None, &mix), Some(("Q4_K".to_owned(), "tensors")));
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

    #[test]
    fn numbers_of_enumerations_have_names() {
        assert_eq!(enumerated("general.file_type", &Value::U32(15)), Some("Q4_K_M"));
        assert_eq!(enumerated("bert.pooling_type", &Value::U32(2)), Some("cls"));
        assert_eq!(enumerated("qwen3moe.expert_gating_func", &Value::U32(2)), Some("sigmoid"));
        assert_eq!(enumerated("bert.pooling_type", &Value::U32(99)), None);
        assert_eq!(enumerated("llama.block_count", &Value::U32(2)), None);
    }
}
