//! The quantisation configs of a model: in files next to the weights, in metadata and in tensors.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value as Json;

use crate::base::json;
use crate::format::Reader;
use crate::model::{Model, Value};
use crate::source::folder;

/// Maximum size of a `comfy_quant` tensor in bytes: it contains a short JSON text.
const COMFY_BYTES: u64 = 1 << 16;

/// The files written by GPTQ and AWQ tools, in the order in which GPTQModel looks for them, before config.json.
const OWN_FILES: [&str; 2] = ["quantize_config.json", "quant_config.json"];

/// The quantisation configs of a model.
#[derive(Debug, Default)]
pub(super) struct QuantConfigs {
    /// The configs in order of precedence.
    configs: Vec<Json>,
    /// ComfyUI's settings of each layer, by name.
    comfy: HashMap<String, Json>,
    /// Whether a config is MLX's, which has the key `quantization`.
    mlx: bool,
    /// quanto's `quantization_map.json`: the type of each module.
    quanto: Option<Json>,
}

impl QuantConfigs {
    /// Reads all quantisation configs of a safetensors model. Invalid JSON files are ignored.
    pub(super) fn read(reader: &Reader) -> Self {
        let model = reader.model();
        let mut configs = Self::default();
        let shard = model.shards.first().and_then(|shard| shard.path.parent());
        let folder = model.folder.as_deref().or(shard);
        configs.configs.extend(OWN_FILES.iter().filter_map(|name| read_json(folder, name)));
        if let Some(config) = &model.config {
            configs.add_config(config);
        }
        if let Some(mut own) = read_json(folder, "hf_quant_config.json") {
            configs.configs.extend(own.get_mut("quantization").map(Json::take));
        }
        let text = |key: &str| model.metadata.get(key).and_then(Value::as_str);
        configs.configs.extend(text("quantization_config").and_then(|text| serde_json::from_str(text).ok()));
        configs.quanto = read_json(folder, "quantization_map.json").or_else(|| read_json(folder, "quanto_qmap.json"));
        let layers = text("_quantization_metadata").and_then(|text| serde_json::from_str::<Json>(text).ok());
        if let Some(layers) = layers.as_ref().and_then(|whole| whole.get("layers")?.as_object()) {
            configs.comfy.extend(layers.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        configs.add_comfy(reader);
        configs
    }

    /// Adds config.json, including its text config.
    fn add_config(&mut self, config: &Json) {
        let Some(keys) = config.as_object() else { return };
        let inner =
            keys.iter().filter(|(key, value)| key.ends_with("_config") && key.as_str() != "quantization_config" && value.is_object());
        for config in std::iter::once(config).chain(inner.map(|(_, value)| value)) {
            if let Some(own) = config.get("quantization").filter(|own| own.is_object()) {
                // Mistral's params.json has this key too.
                self.mlx |= own.get("qformat_weight").is_none();
                self.configs.push(own.clone());
            }
            self.configs.extend(config.get("quantization_config").filter(|own| own.is_object()).cloned());
        }
    }

    /// Adds the `comfy_quant` tensors.
    fn add_comfy(&mut self, reader: &Reader) {
        for tensor in &reader.model().tensors {
            let Some(layer) = tensor.name.strip_suffix(".comfy_quant") else { continue };
            let short = tensor.len_bytes.is_some_and(|len| len <= COMFY_BYTES);
            let text = short.then(|| reader.bytes(tensor).ok()).flatten();
            if let Some(config) = text.and_then(|text| json::from_bytes(text.into_owned()).ok()) {
                self.comfy.entry(layer.to_owned()).or_insert(config);
            }
        }
    }

    /// Returns the value of a key from the first config that has it.
    pub(super) fn setting(&self, key: &str) -> Option<&Json> {
        self.configs.iter().find_map(|config| config.get(key).filter(|value| !value.is_null()))
    }

    /// Returns the string value of a key from the first config that has it.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.setting(key).and_then(Json::as_str)
    }

    /// Returns the numeric value of a key from the first config that has it.
    pub(super) fn number(&self, key: &str) -> Option<u64> {
        self.setting(key).and_then(Json::as_u64)
    }

    /// Returns the format of a GPTQ checkpoint from the first config, the later of its two keys taking precedence (GPTQModel,
    /// quantization/config.py, `from_pretrained` and `from_quant_config`).
    pub(super) fn gptq_format(&self) -> Option<&str> {
        let keys = self.configs.first()?.as_object()?;
        let mut named = keys.iter().filter(|(key, _)| matches!(key.to_ascii_lowercase().as_str(), "format" | "checkpoint_format"));
        named.next_back().and_then(|(_, value)| value.as_str())
    }

    /// Returns MLX's settings of a layer: its own entry, or the global one (mlx_lm/utils.py, `load_model`).
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

    /// Returns the schemes of compressed-tensors' layer groups: `weights` of each.
    pub(super) fn groups(&self) -> Vec<&Json> {
        let groups = self.setting("config_groups").and_then(Json::as_object);
        groups.map(|groups| groups.values().filter_map(|group| group.get("weights")).collect()).unwrap_or_default()
    }

    /// Returns the bits per number of a layer according to the compressed-tensors groups: of the group that lists it, or of all.
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

    /// Returns height and width of the blocks that share a scale.
    pub(super) fn block(&self) -> Option<(u64, u64)> {
        let in_groups = || self.groups().into_iter().find_map(|weights| weights.get("block_structure").filter(|block| block.is_array()));
        let block = self.setting("weight_block_size").or_else(in_groups)?.as_array()?;
        let size = |i: usize| block.get(i).and_then(Json::as_u64).filter(|size| *size > 0);
        Some((size(0)?, size(1)?))
    }

    /// Returns ComfyUI's settings of a layer.
    pub(super) fn comfy(&self, layer: &str) -> Option<&Json> {
        self.comfy.get(layer)
    }

    /// Returns quanto's type of a module.
    pub(super) fn quanto(&self, module: &str) -> Option<&str> {
        self.quanto.as_ref()?.get(module)?.get("weights")?.as_str()
    }

    /// Returns the quantisation method named in a config.
    pub(super) fn method(&self) -> Option<String> {
        let named = ["quant_method", "quant_algo", "quant_type"].into_iter().find_map(|key| self.text(key)).map(str::to_owned);
        let own = || self.mlx.then(|| "MLX".to_owned());
        let quanto = || self.quanto.as_ref().map(|_| "quanto".to_owned());
        let comfy = || (!self.comfy.is_empty()).then(|| "ComfyUI".to_owned());
        // quantize_config.json of older AutoGPTQ versions does not name the method.
        let old = || (self.setting("desc_act").is_some() || self.setting("w_bit").is_some()).then(|| "GPTQ or AWQ".to_owned());
        let any = || (self.number("bits").is_some() && self.number("group_size").is_some()).then(|| "an unnamed method".to_owned());
        named.or_else(own).or_else(quanto).or_else(comfy).or_else(old).or_else(any)
    }
}

/// MLX's settings of a layer.
#[derive(Debug, Default)]
pub(super) struct MlxSettings {
    pub group: Option<u64>,
    pub bits: Option<u64>,
    pub mode: Option<String>,
}

/// Reads a small JSON file next to the weights.
fn read_json(folder: Option<&Path>, name: &str) -> Option<Json> {
    folder::json(&folder?.join(name)).ok().flatten()
}

/// Returns torchao's metadata of a tensor: its type and attributes.
pub(super) fn torchao(model: &Model, tensor: &str) -> Option<Json> {
    let said: Json = serde_json::from_str(model.metadata.get(tensor)?.as_str()?).ok()?;
    said.get("_type").is_some().then_some(said)
}
