//! Adapters in formats other than PEFT's: GGUF, MLX, and image models.

use std::collections::HashMap;

use serde_json::Value as Json;

use crate::base::{Error, Result};
use crate::format::Reader;
use crate::model::Model;
use crate::view::lora::peft::PREFIX;
use crate::view::lora::{Adapter, Factor, Form, Update, floats};

/// Name suffixes of factors in image model adapters: the first (down), the second (up), and the format.
const PAIRS: [(&str, &str, Form); 5] = [
    (".lora_down.weight", ".lora_up.weight", Form::Kohya),
    (".lora_A.weight", ".lora_B.weight", Form::Diffusers),
    (".lora.down.weight", ".lora.up.weight", Form::Diffusers),
    ("_lora.down.weight", "_lora.up.weight", Form::Diffusers),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight", Form::Diffusers),
];

/// Name suffixes of companions of factors.
const BESIDE: [&str; 2] = [".alpha", ".dora_scale"];

/// Name parts of other adapter types for image models, and their display names.
const OTHERS: [(&str, &str); 5] =
    [(".hada_w1", "LoHa"), (".lokr_w", "LoKr"), (".lora_mid.", "LoCon with Tucker factors"), (".oft_", "OFT"), (".glora_", "GLoRA")];

fn empty(form: Form) -> Adapter {
    Adapter {
        form,
        rank: None,
        alpha: None,
        targets: Vec::new(),
        base: None,
        updates: Vec::new(),
        replaced: Vec::new(),
        tokens: Vec::new(),
        unsupported: None,
    }
}

fn plain(tensor: usize) -> Factor {
    Factor { tensor, transposed: false }
}

fn turned(tensor: usize) -> Factor {
    Factor { tensor, transposed: true }
}

fn places(model: &Model) -> HashMap<&str, usize> {
    model.tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.as_str(), i)).collect()
}

fn counterpart(places: &HashMap<&str, usize>, name: &str, stem: &str, end: &str) -> Result<usize> {
    let found = places.get(format!("{stem}{end}").as_str()).copied();
    found.ok_or_else(|| Error::malformed(format!("its companion {end} is missing")).in_tensor(name))
}

/// Reads a GGUF adapter: `NAME.lora_a` and `NAME.lora_b` per matrix, and a global alpha (llama.cpp, src/llama-adapter.cpp).
pub(super) fn gguf(model: &Model) -> Result<Adapter> {
    let mut adapter = empty(Form::Gguf);
    let text = |key: &str| model.metadata.get_str(key);
    if text("adapter.type") != Some("lora") {
        adapter.unsupported = Some(format!("a GGUF adapter of the type {}", text("adapter.type").unwrap_or("none named")));
        return Ok(adapter);
    }
    let alpha = model.metadata.get("adapter.lora.alpha").and_then(crate::model::Value::as_f64);
    let alpha = alpha.ok_or_else(|| Error::malformed("expected the key adapter.lora.alpha, found none"))?;
    adapter.alpha = Some(alpha);
    adapter.base = text("general.base_model.0.repo_url").or(text("general.base_model.0.name")).map(str::to_owned);
    if model.metadata.get("adapter.alora.invocation_tokens").is_some() {
        adapter.unsupported = Some("an activated LoRA (adapter.alora.invocation_tokens)".to_owned());
    }
    let places = places(model);
    for (a, tensor) in model.tensors.iter().enumerate() {
        let name = &tensor.name;
        let Some(stem) = name.strip_suffix(".lora_a") else {
            if !name.ends_with(".lora_b") {
                adapter.unsupported = Some(format!("a tensor that is no factor, {name}"));
            }
            continue;
        };
        let b = counterpart(&places, name, stem, ".lora_b")?;
        if tensor.shape.len() > 2 {
            adapter.unsupported = Some(format!("an update of experts, {stem}"));
            continue;
        }
        // For embeddings, the first factor is stored transposed, for row lookup.
        let (left, right) = if stem == "token_embd.weight" { (plain(a), turned(b)) } else { (plain(b), plain(a)) };
        let module = stem.strip_suffix(".weight").unwrap_or(stem).to_owned();
        // Zero means no scaling.
        let scale = |rank: u64| Ok(if alpha == 0.0 { 1.0 } else { (alpha / rank as f64) as f32 });
        adapter.updates.push(Update::new(model, module, scale, left, right)?);
    }
    Ok(adapter.complete())
}

/// Reads an mlx-lm adapter: `NAME.lora_a` of `[in, r]`, `NAME.lora_b` of `[r, out]`, and a global scale (mlx_lm/tuner/lora.py).
pub(super) fn mlx(model: &Model) -> Result<Adapter> {
    let config = model.config.as_ref().unwrap_or(&Json::Null);
    let mut adapter = empty(Form::Mlx);
    let kind = config.get("fine_tune_type").and_then(Json::as_str).unwrap_or("lora");
    if kind != "lora" {
        let what = if kind == "full" { "weights of a full fine-tuning" } else { kind };
        adapter.unsupported = Some(format!("{what} by MLX"));
    }
    adapter.base = config.get("model").and_then(Json::as_str).map(str::to_owned);
    let parameters = config.get("lora_parameters").unwrap_or(config);
    let number = |key: &str| parameters.get(key).and_then(Json::as_f64);
    let places = places(model);
    for (a, tensor) in model.tensors.iter().enumerate() {
        let Some(module) = tensor.name.strip_suffix(".lora_a") else { continue };
        let b = counterpart(&places, &tensor.name, module, ".lora_b")?;
        if tensor.shape.len() > 2 {
            adapter.unsupported = Some(format!("an update of experts by MLX, {module}"));
            continue;
        }
        let scale = |rank: u64| {
            let scale = number("scale").or_else(|| Some(number("alpha")? / rank as f64));
            scale.map(|scale| scale as f32).ok_or_else(|| Error::malformed("expected a scale in adapter_config.json, found none"))
        };
        adapter.updates.push(Update::new(model, module.to_owned(), scale, turned(b), turned(a))?);
    }
    Ok(adapter.complete())
}

/// Returns the format if all names are those of an image model adapter.
pub(super) fn by_names(model: &Model) -> Option<Form> {
    let end = |name: &str| PAIRS.iter().find(|(first, second, _)| name.ends_with(first) || name.ends_with(second));
    let mut found = None;
    for tensor in &model.tensors {
        let name = tensor.name.as_str();
        if let Some((_, _, form)) = end(name) {
            found = found.or(Some(*form));
        } else if OTHERS.iter().any(|(part, _)| name.contains(part)) {
            found = Some(Form::Kohya);
        } else if !BESIDE.iter().any(|end| name.ends_with(end)) {
            return None;
        }
    }
    let by_peft = model.tensors.iter().any(|tensor| tensor.name.starts_with(PREFIX));
    found.map(|form| if by_peft { Form::Peft } else { form })
}

/// Reads an image model adapter: pairs of factors, each with an alpha unless it equals the rank.
pub(super) fn of_images(reader: &Reader, form: Form) -> Result<Adapter> {
    let model = reader.model();
    let mut adapter = empty(form);
    let text = |key: &str| model.metadata.get_str(key).map(str::to_owned);
    adapter.base = text("ss_sd_model_name").or_else(|| text("ss_base_model_version")).or_else(|| text("modelspec.architecture"));
    adapter.unsupported = Some(format!("one of an image model ({})", form.title()));
    let places = places(model);
    for (down, tensor) in model.tensors.iter().enumerate() {
        let name = &tensor.name;
        if let Some((_, kind)) = OTHERS.iter().find(|(part, _)| name.contains(part)) {
            adapter.unsupported = Some(format!("{kind}, which is not a plain LoRA"));
            continue;
        }
        let Some((stem, second)) = PAIRS.iter().find_map(|(first, second, _)| Some((name.strip_suffix(first)?, *second))) else { continue };
        let up = counterpart(&places, name, stem, second)?;
        let alpha = places.get(format!("{stem}.alpha").as_str()).and_then(|&index| model.tensors.get(index));
        let alpha = alpha
            .filter(|alpha| alpha.elements().is_ok_and(|elements| elements == 1))
            .map(|alpha| floats(reader, alpha, 0..1))
            .transpose()?;
        let alpha = alpha.and_then(|values| values.first().copied());
        let scale = |rank: u64| Ok(alpha.map_or(1.0, |alpha| alpha / rank as f32));
        adapter.updates.push(Update::new(model, stem.to_owned(), scale, plain(up), plain(down))?);
    }
    Ok(adapter.complete())
}
