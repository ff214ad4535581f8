//! The entries of config.json that describe packed weights.

use serde_json::{Map, Value as Json, json};

use super::{BLOCK, Form, PACKINGS, Packing, ScaleType, Scales};
use crate::codec::scaled::Numbers;

/// The version of compressed-tensors whose layout is written.
const VERSION: &str = "0.19.0";

/// Adds the description of the packing to a config. `ignored` are the linear layers that are not packed.
pub fn configure(config: &mut Map<String, Json>, packing: &Packing, ignored: &[String]) {
    config.remove("quantization");
    match packing.form {
        Form::CompressedTensors => drop(config.insert("quantization_config".to_owned(), packing.compressed_config(ignored))),
        Form::Mlx => {
            let own = mlx_config(packing);
            config.insert("quantization".to_owned(), own.clone());
            config.insert("quantization_config".to_owned(), own);
        }
    }
}

/// Returns MLX's description of a packing (mlx_lm/utils.py, `quantize_model`).
pub fn mlx_config(packing: &Packing) -> Json {
    let mode = match (packing.scale_type, packing.bits()) {
        (ScaleType::OfWeights, _) => "affine",
        (ScaleType::E4m3, _) => "nvfp4",
        (ScaleType::E8m0, 4) => "mxfp4",
        (ScaleType::E8m0, _) => "mxfp8",
    };
    json!({ "group_size": packing.width(0), "bits": packing.bits(), "mode": mode })
}

impl Packing {
    /// Returns compressed-tensors' `quantization_config` (quantization/quant_config.py).
    fn compressed_config(&self, ignored: &[String]) -> Json {
        let group = json!({
            "format": self.format(),
            "input_activations": self.activations(),
            "output_activations": null,
            "targets": ["Linear"],
            "weights": self.weights(),
        });
        json!({
            "config_groups": { self.group_name(): group },
            "format": self.format(),
            "global_compression_ratio": null,
            "ignore": ignored,
            "kv_cache_scheme": null,
            "quant_method": "compressed-tensors",
            "quantization_status": "compressed",
            "transform_config": {},
            "version": VERSION,
        })
    }

    /// Returns the name of the preset that this is, or a number.
    fn group_name(&self) -> &'static str {
        let preset = PACKINGS.iter().find(|preset| Self { name: self.name, ..**preset } == *self);
        preset.map_or("config_group_0", |preset| preset.name)
    }

    fn format(&self) -> &'static str {
        match (self.numbers, self.scale_type) {
            (Numbers::Signed(_) | Numbers::Unsigned(_), _) if self.words => "pack-quantized",
            (Numbers::Signed(_) | Numbers::Unsigned(_), _) => "int-quantized",
            (Numbers::E4m3, ScaleType::E8m0) => "mxfp8-quantized",
            (Numbers::E4m3, _) => "float-quantized",
            (_, ScaleType::E8m0) => "mxfp4-pack-quantized",
            _ => "nvfp4-pack-quantized",
        }
    }

    fn type_name(&self) -> &'static str {
        if matches!(self.numbers, Numbers::Signed(_) | Numbers::Unsigned(_)) { "int" } else { "float" }
    }

    fn scale_type_name(&self) -> Json {
        match self.scale_type {
            ScaleType::OfWeights => Json::Null,
            ScaleType::E8m0 => "torch.uint8".into(),
            ScaleType::E4m3 => "torch.float8_e4m3fn".into(),
        }
    }

    fn weights(&self) -> Json {
        let (strategy, group, block) = match self.scales {
            Scales::Tensor => ("tensor", Json::Null, Json::Null),
            Scales::Channel => ("channel", Json::Null, Json::Null),
            Scales::Group(size) => (if self.scale_type == ScaleType::E4m3 { "tensor_group" } else { "group" }, size.into(), Json::Null),
            Scales::Block => ("block", Json::Null, json!([BLOCK, BLOCK])),
        };
        self.arguments(strategy, &group, &block, false, self.symmetric)
    }

    fn activations(&self) -> Json {
        if !self.activations {
            return Json::Null;
        }
        let (strategy, group) = match self.scales {
            Scales::Tensor | Scales::Channel => ("token", Json::Null),
            Scales::Block => ("group", BLOCK.into()),
            Scales::Group(size) => ("group", size.into()),
        };
        self.arguments(strategy, &group, &Json::Null, true, true)
    }

    /// Returns the arguments of a quantisation (quantization/quant_args.py).
    fn arguments(&self, strategy: &str, group: &Json, block: &Json, dynamic: bool, symmetric: bool) -> Json {
        json!({
            "actorder": null,
            "block_structure": block,
            "dynamic": dynamic,
            "group_size": group,
            "num_bits": self.bits(),
            "observer": null,
            "observer_kwargs": {},
            "scale_dtype": self.scale_type_name(),
            "strategy": strategy,
            "symmetric": symmetric,
            "type": self.type_name(),
            "zp_dtype": if symmetric { Json::Null } else { "torch.int8".into() },
        })
    }
}
