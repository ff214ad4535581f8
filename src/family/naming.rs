//! The naming convention of a model's tensors.

use crate::family::comfy;
use crate::model::{FormatId, Model};

/// A convention for tensor names, layouts and hyperparameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Naming {
    /// Hugging Face: `model.layers.0.mlp.up_proj.weight`, with config.json.
    HuggingFace,
    /// llama.cpp: `blk.0.ffn_up.weight`, with `general.architecture`.
    Gguf,
    /// Meta and Mistral: `layers.0.feed_forward.w3.weight`, with params.json.
    Mistral,
    /// Unknown: a checkpoint without a config, or a diffusion model.
    Own,
}

impl Naming {
    /// Returns the convention implied by the config or metadata of a model.
    pub fn detect(model: &Model) -> Self {
        let has = |key: &str| model.config.as_ref().and_then(|config| config.get(key)).is_some_and(|value| !value.is_null());
        match model.format {
            FormatId::Gguf if is_gguf_model(model) && !comfy::is_diffusion(model) => Self::Gguf,
            FormatId::Safetensors | FormatId::PyTorch if ["architectures", "model_type", "text_config"].into_iter().any(has) => {
                Self::HuggingFace
            }
            FormatId::Safetensors | FormatId::PyTorch if has("dim") => Self::Mistral,
            _ => Self::Own,
        }
    }
}

/// Whether a GGUF has an architecture and is not an adapter, importance matrix or projector.
fn is_gguf_model(model: &Model) -> bool {
    let kind = model.metadata.get_str("general.type");
    model.metadata.get_str("general.architecture").is_some() && kind.is_none_or(|kind| kind == "model")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Metadata, Value};

    #[test]
    fn the_config_of_a_folder_names_the_convention() {
        let of = |config| Naming::detect(&Model { config, ..Model::default() });
        assert_eq!(of(None), Naming::Own);
        assert_eq!(of(Some(json!({ "model_type": null, "hidden_size": 8 }))), Naming::Own);
        assert_eq!(of(Some(json!({ "text_config": {} }))), Naming::HuggingFace);
        assert_eq!(of(Some(json!({ "model_type": "distilbert", "dim": 8 }))), Naming::HuggingFace);
        assert_eq!(of(Some(json!({ "dim": 8, "n_layers": 2 }))), Naming::Mistral);
    }

    #[test]
    fn the_keys_of_a_gguf_name_the_convention() {
        let of = |keys: &[(&str, &str)]| {
            let mut metadata = Metadata::new();
            keys.iter().for_each(|(key, value)| drop(metadata.set(*key, Value::String((*value).to_owned()))));
            Naming::detect(&Model { format: FormatId::Gguf, metadata, ..Model::default() })
        };
        assert_eq!(of(&[]), Naming::Own);
        assert_eq!(of(&[("general.architecture", "llama")]), Naming::Gguf);
        assert_eq!(of(&[("general.architecture", "llama"), ("general.type", "model")]), Naming::Gguf);
        assert_eq!(of(&[("general.architecture", "llama"), ("general.type", "adapter")]), Naming::Own);
        assert_eq!(of(&[("general.architecture", "flux")]), Naming::Own);
    }
}
