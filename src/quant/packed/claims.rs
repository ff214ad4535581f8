//! What configs say of a model's quantisation, wherever they are: beside the weights, in their metadata, in tensors.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value as Json;

use crate::format::Reader;
use crate::model::{Model, Value};
use crate::source::folder;

/// The most bytes of a `comfy_quant` tensor: it holds a short JSON text.
const COMFY_BYTES: u64 = 1 << 16;

/// The files beside the weights that GPTQ's and AWQ's tools write, in the order in which GPTQModel looks for them, before config.json.
const OWN_FILES: [&str; 2] = ["quantize_config.json", "quant_config.json"];

/// The quantisation configs of a model.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// The configs, in the order in which their keys are looked up.
    configs: Vec<Json>,
    /// What ComfyUI says of each layer, by its name.
    comfy: HashMap<String, Json>,
    /// Whether a config is of MLX, which names it `quantization`.
    mlx: bool,
    /// `quantization_map.json` of quanto: the type of each module.
    quanto: Option<Json>,
}

impl Claims {
    /// Reads everything that a safetensors model says of its quantisation. A file that is no JSON says nothing.
    pub(super) fn of(reader: &Reader) -> Self {
        let model = reader.model();
        let mut claims = Self::default();
        let shard = model.shards.first().and_then(|shard| shard.path.parent());
        let beside = model.folder.as_deref().or(shard);
        claims.configs.extend(OWN_FILES.iter().filter_map(|name| read(beside, name)));
        if let Some(config) = &model.config {
            claims.add_config(config);
        }
        if let Some(mut own) = read(beside, "hf_quant_config.json") {
            claims.configs.extend(own.get_mut("quantization").map(Json::take));
        }
        let text = |key: &str| model.metadata.get(key).and_then(Value::as_str);
        claims.configs.extend(text("quantization_config").and_then(|text| serde_json::from_str(text).ok()));
        claims.quanto = read(beside, "quantization_map.json").or_else(|| read(beside, "quanto_qmap.json"));
        let layers = text("_quantization_metadata").and_then(|text| serde_json::from_str::<Json>(text).ok());
        if let Some(layers) = layers.as_ref().and_then(|whole| whole.get("layers")?.as_object()) {
            claims.comfy.extend(layers.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        claims.add_comfy(reader);
        claims
    }

    /// Adds what config.json says, also for the text model inside it.
    fn add_config(&mut self, config: &Json) {
        let Some(keys) = config.as_object() else { return };
        let inner =
            keys.iter().filter(|(key, value)| key.ends_with("_config") && key.as_str() != "quantization_config" && value.is_object());
        for config in std::iter::once(config).chain(inner.map(|(_, value)| value)) {
            if let Some(own) = config.get("quantization").filter(|own| own.is_object()) {
                self.mlx = true;
                self.configs.push(own.clone());
            }
            self.configs.extend(config.get("quantization_config").filter(|own| own.is_object()).cloned());
        }
    }

    /// Adds what tensors named `comfy_quant` say.
    fn add_comfy(&mut self, reader: &Reader) {
        for tensor in &reader.model().tensors {
            let Some(layer) = tensor.name.strip_suffix(".comfy_quant") else { continue };
            let short = tensor.len_bytes.is_some_and(|len| len <= COMFY_BYTES);
            let text = short.then(|| reader.bytes(tensor).ok()).flatten();
            if let Some(config) = text.and_then(|text| serde_json::from_slice(&text).ok()) {
                self.comfy.entry(layer.to_owned()).or_insert(config);
            }
        }
    }

    /// A key of the first config that has it.
    pub(super) fn setting(&self, key: &str) -> Option<&Json> {
        self.configs.iter().find_map(|config| config.get(key).filter(|value| !value.is_null()))
    }

    /// A text of the first config that has it.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.setting(key).and_then(Json::as_str)
    }

    /// A number of the first config that has it.
    pub(super) fn number(&self, key: &str) -> Option<u64> {
        self.setting(key).and_then(Json::as_u64)
    }

    /// The format of a GPTQ checkpoint: of the first config, whichever of its two keys comes last (GPTQModel,
    /// quantization/config.py, `from_pretrained` and `from_quant_config`).
    pub(super) fn gptq_format(&self) -> Option<&str> {
        let keys = self.configs.first()?.as_object()?;
        let mut named = keys.iter().filter(|(key, _)| matches!(key.to_ascii_lowercase().as_str(), "format" | "checkpoint_format"));
        named.next_back().and_then(|(_, value)| value.as_str())
    }

    /// What MLX says of a layer: its own entry, or what holds for all (mlx_lm/utils.py, `load_model`).
    pub(super) fn mlx(&self, layer: &str) -> MlxSettings {
        let of_mlx = |config: &&Json| ["group_size", "mode", layer].iter().any(|key| config.get(key).is_some());
        let config = self.configs.iter().find(of_mlx);
        let own = config.and_then(|config| config.get(layer)).filter(|own| own.is_object());
        let Some(of) = own.or(config) else { return MlxSettings::default() };
        MlxSettings {
            group: of.get("group_size").and_then(Json::as_u64),
            bits: of.get("bits").and_then(Json::as_u64),
            mode: of.get("mode").and_then(Json::as_str).map(str::to_owned),
        }
    }

    /// The schemes of compressed-tensors' groups of layers: `weights` of each.
    pub(super) fn groups(&self) -> Vec<&Json> {
        let groups = self.setting("config_groups").and_then(Json::as_object);
        groups.map(|groups| groups.values().filter_map(|group| group.get("weights")).collect()).unwrap_or_default()
    }

    /// The bits of the numbers of a layer, of the groups of compressed-tensors: that which names it, or what all of them say.
    pub(super) fn group_bits(&self, layer: &str) -> Vec<u64> {
        let groups = self.setting("config_groups").and_then(Json::as_object);
        let all: Vec<&Json> = groups.map(|groups| groups.values().collect()).unwrap_or_default();
        let names = |group: &&Json| {
            group.get("targets").and_then(Json::as_array).is_some_and(|targets| targets.iter().any(|target| target == layer))
        };
        let bits = |group: &Json| group.get("weights")?.get("num_bits")?.as_u64();
        if let Some(own) = all.iter().copied().find(names).and_then(bits) {
            return vec![own];
        }
        let mut found: Vec<u64> = all.into_iter().filter_map(bits).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The height and width of the blocks that share a scale.
    pub(super) fn block(&self) -> Option<(u64, u64)> {
        let in_groups = || self.groups().into_iter().find_map(|weights| weights.get("block_structure").filter(|block| block.is_array()));
        let block = self.setting("weight_block_size").or_else(in_groups)?.as_array()?;
        let size = |i: usize| block.get(i).and_then(Json::as_u64).filter(|size| *size > 0);
        Some((size(0)?, size(1)?))
    }

    /// What ComfyUI says of a layer.
    pub(super) fn comfy(&self, layer: &str) -> Option<&Json> {
        self.comfy.get(layer)
    }

    /// The type that quanto gave the weights of a module.
    pub(super) fn quanto(&self, module: &str) -> Option<&str> {
        self.quanto.as_ref()?.get(module)?.get("weights")?.as_str()
    }

    /// The packing that a config claims, as it names it.
    pub(super) fn method(&self) -> Option<String> {
        let named = ["quant_method", "quant_algo", "quant_type"].into_iter().find_map(|key| self.text(key)).map(str::to_owned);
        let own = || self.mlx.then(|| "MLX".to_owned());
        let quanto = || self.quanto.as_ref().map(|_| "quanto".to_owned());
        let comfy = || (!self.comfy.is_empty()).then(|| "ComfyUI".to_owned());
        // quantize_config.json of old AutoGPTQ names no method.
        let old = || (self.setting("desc_act").is_some() || self.setting("w_bit").is_some()).then(|| "GPTQ or AWQ".to_owned());
        let any = || (self.number("bits").is_some() && self.number("group_size").is_some()).then(|| "an unnamed method".to_owned());
        named.or_else(own).or_else(quanto).or_else(comfy).or_else(old).or_else(any)
    }
}

/// The settings of a layer in MLX.
#[derive(Debug, Default)]
pub(super) struct MlxSettings {
    pub group: Option<u64>,
    pub bits: Option<u64>,
    pub mode: Option<String>,
}

/// A small JSON file beside the weights.
fn read(folder: Option<&Path>, name: &str) -> Option<Json> {
    folder::json(&folder?.join(name)).ok().flatten()
}

/// What torchao says of a tensor in the metadata of its file: its type and its attributes.
pub(super) fn torchao(model: &Model, tensor: &str) -> Option<Json> {
    let said: Json = serde_json::from_str(model.metadata.get(tensor)?.as_str()?).ok()?;
    said.get("_type").is_some().then_some(said)
}
