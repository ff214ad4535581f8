//! sentence-transformers modules after the transformer: pooling and dense layers.

use serde_json::{Map, Value as Json, json};

use crate::base::{Error, Hint, Result};
use crate::model::companion::{CompanionFile, Content, Note};
use crate::model::{Metadata, Model, Module, Value};
use crate::source::folder;

/// Name, config key of the pooling module, and GGUF number (`enum llama_pooling_type`).
const MODES: [(&str, &str, u32); 3] =
    [("mean", "pooling_mode_mean_tokens", 1), ("cls", "pooling_mode_cls_token", 2), ("lasttoken", "pooling_mode_lasttoken", 3)];

/// A dense layer after the transformer: the folder of its module, and its sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dense {
    /// The folder.
    pub folder: String,
    /// The number of inputs.
    pub inputs: u64,
    /// The number of outputs.
    pub outputs: u64,
}

impl Dense {
    /// Returns the layer whose matrix has this name in Hugging Face and this shape, if it is of a module.
    pub fn of(name: &str, shape: &[u64]) -> Option<Self> {
        let folder = name.strip_suffix(".linear.weight").filter(|folder| folder.ends_with("_Dense"))?.to_owned();
        let &[outputs, inputs] = shape else { return None };
        Some(Self { folder, inputs, outputs })
    }
}

/// Adds `pooling_type`, if the model has a pooling module.
///
/// # Errors
/// The module has no config, or GGUF does not support its pooling mode.
pub fn to_gguf(architecture: &str, modules: &[Module], metadata: &mut Metadata) -> Result<()> {
    let Some(pooling) = modules.iter().find(|module| module.is("Pooling")) else { return Ok(()) };
    let path = &pooling.path;
    if pooling.config.is_null() {
        return Err(Error::malformed(format!("expected {path}/config.json for the pooling of the model, found none")));
    }
    let is = |key: &str| pooling.config.get(key).and_then(Json::as_bool) == Some(true);
    let mode = pooling.config.get("pooling_mode").and_then(Json::as_str);
    let number = MODES.iter().find(|(_, key, _)| is(key)).or_else(|| MODES.iter().find(|(name, ..)| Some(*name) == mode));
    let Some((_, _, number)) = number else {
        return Err(Error::unsupported(format!("expected mean, cls or last-token pooling in {path}/config.json, found another mode")));
    };
    metadata.set(format!("{architecture}.pooling_type"), Value::U32(*number));
    Ok(())
}

/// Returns the module configs for table expressions: `modules.2_Dense.in_features`.
pub fn configs(modules: &[Module]) -> Json {
    Json::Object(modules.iter().map(|module| (module.path.clone(), module.config.clone())).collect::<Map<_, _>>())
}

/// Notes what a GGUF cannot store of the dense layers that its architecture supports.
///
/// # Errors
/// The weights of a dense layer are missing, or in a file that is not read.
pub fn check_dense(model: &Model, has_place: impl Fn(&Module) -> bool, notes: &mut Vec<Note>) -> Result<()> {
    for module in model.modules.iter().filter(|module| module.is("Dense")) {
        if module.shard.is_none() {
            let file = model.folder.clone().unwrap_or_default().join(&module.path);
            return Err(Error::unsupported("expected the weights of this module in model.safetensors, found none")
                .in_file(&file)
                .hint(Hint::KeepNames));
        }
        let activation = module.config.get("activation_function").and_then(Json::as_str).unwrap_or("torch.nn.modules.activation.Tanh");
        if has_place(module) && !activation.ends_with("Identity") {
            notes.push(Note::dropped(&module.path, format!("GGUF cannot store the activation {activation}: embeddings will differ")));
        }
    }
    Ok(())
}

/// Returns the files of a sentence-transformers folder, if the GGUF has a pooling type or dense layers.
pub fn to_files(architecture: &str, metadata: &Metadata, embedding: Option<&Json>, dense: &[Dense]) -> Vec<CompanionFile> {
    let number = metadata.get_u64(&format!("{architecture}.pooling_type"));
    let pooling = MODES.iter().find(|(.., kind)| Some(u64::from(*kind)) == number);
    if pooling.is_none() && dense.is_empty() {
        return Vec::new();
    }
    let mut modules = vec![("", "Transformer")];
    let mut files = Vec::new();
    if let Some((_, chosen, _)) = pooling {
        let mut config = json!({ "word_embedding_dimension": embedding });
        for (_, key, _) in MODES {
            config[key] = json!(key == *chosen);
        }
        modules.push(("1_Pooling", "Pooling"));
        files.push(("1_Pooling/config.json".to_owned(), config));
    }
    for Dense { folder, inputs, outputs } in dense {
        let config = json!({
            "in_features": inputs,
            "out_features": outputs,
            "bias": false,
            "activation_function": "torch.nn.modules.linear.Identity",
        });
        modules.push((folder.as_str(), "Dense"));
        files.push((format!("{folder}/config.json"), config));
    }
    let row = |(i, (path, kind)): (usize, &(&str, &str))| json!({ "idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}") });
    files.insert(0, ("modules.json".to_owned(), Json::Array(modules.iter().enumerate().map(row).collect())));
    files.into_iter().map(|(name, value)| CompanionFile { name, content: Content::Bytes(folder::to_json(&value)) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(path: &str, class: &str, config: Json) -> Module {
        Module { path: path.to_owned(), kind: format!("sentence_transformers.models.{class}"), config, shard: Some(0) }
    }

    /// `llama_pooling_type` in llama.h: mean 1, cls 2, last 3.
    #[test]
    fn both_spellings_of_pooling_have_the_numbers_of_llama_cpp() {
        let cases = [
            (json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}), Some(1)),
            (json!({"pooling_mode_cls_token": true}), Some(2)),
            (json!({"pooling_mode_lasttoken": true}), Some(3)),
            (json!({"pooling_mode": "mean"}), Some(1)),
            (json!({"pooling_mode": "cls"}), Some(2)),
            (json!({"pooling_mode": "lasttoken"}), Some(3)),
            (json!({"pooling_mode": "max"}), None),
            (json!({}), None),
        ];
        for (config, expected) in cases {
            let mut metadata = Metadata::new();
            let result = to_gguf("x", &[module("1_Pooling", "Pooling", config.clone())], &mut metadata);
            assert_eq!(result.is_ok(), expected.is_some(), "{config}");
            assert_eq!(metadata.get_u64("x.pooling_type"), expected, "{config}");
        }
    }

    #[test]
    fn an_activation_that_gguf_does_not_keep_is_told() {
        let notes = |place: bool, activation: &str| {
            let config = json!({ "activation_function": activation });
            let model = Model { modules: vec![module("2_Dense", "Dense", config)], ..Model::default() };
            let mut notes = Vec::new();
            check_dense(&model, |_| place, &mut notes).unwrap();
            notes.len()
        };
        assert_eq!(notes(true, "torch.nn.modules.activation.Tanh"), 1);
        assert_eq!(notes(true, "torch.nn.modules.linear.Identity"), 0);
        assert_eq!(notes(false, "torch.nn.modules.activation.Tanh"), 0);
    }

    #[test]
    fn a_folder_of_sentence_transformers_has_a_file_for_each_module() {
        let layer = Dense::of("2_Dense.linear.weight", &[4, 8]).unwrap();
        assert_eq!(layer, Dense { folder: "2_Dense".to_owned(), inputs: 8, outputs: 4 });
        assert!(Dense::of("model.linear.weight", &[4, 8]).is_none() && Dense::of("2_Dense.linear.bias", &[4, 8]).is_none());
        let names = |metadata: &Metadata, dense: &[Dense]| {
            to_files("x", metadata, Some(&json!(8)), dense).into_iter().map(|file| file.name).collect::<Vec<_>>()
        };
        let mut metadata = Metadata::new();
        assert!(names(&metadata, &[]).is_empty());
        assert!(names(&metadata, &[layer]).contains(&"2_Dense/config.json".to_owned()));
        metadata.set("x.pooling_type", Value::U32(2));
        let found = names(&metadata, &[]);
        assert!(found.contains(&"1_Pooling/config.json".to_owned()) && found.contains(&"modules.json".to_owned()), "{found:?}");
    }
}
