//! Sizes of the weights, by place.

use serde::Serialize;

use crate::base::{Error, Result, num};
use crate::family::memory::{Caches, Places};
use crate::format::Reader;
use crate::model::{DType, ElemType, FormatId, Metadata};
use crate::ops::convert;
use crate::ops::convert::gguf_weights::gguf_weights;
use crate::ops::fit::kv::ALIGNMENT;
use crate::ops::weights;
use crate::quant::recipe::Target;

/// The weights of a GGUF, existing or resulting from a conversion.
#[derive(Debug)]
pub(super) struct Subject {
    /// GGUF metadata.
    pub metadata: Metadata,
    /// The weights, under GGUF names.
    pub weights: Vec<Weight>,
}

/// One weight.
#[derive(Debug)]
pub(super) struct Weight {
    /// Name in GGUF.
    pub name: String,
    /// Shape, outermost dimension first.
    pub shape: Vec<u64>,
    /// Size in bytes.
    pub bytes: u64,
}

impl Subject {
    /// Returns the weights of a GGUF, or of the GGUF that a model would be converted to; with the types of `target`, if given.
    ///
    /// # Errors
    /// A file of the set is missing; the model cannot be converted; or the size of a type is unknown.
    pub(super) fn new(reader: &Reader, target: Option<Target>) -> Result<Self> {
        if let Some(missing) = reader.missing_files().next() {
            return Err(Error::unsupported(format!("the weights are not known in full: {}", missing.message)));
        }
        if reader.model().format == FormatId::Gguf && target.is_none() {
            let weight = |tensor: &crate::model::TensorInfo| {
                let bytes = tensor.len_bytes.ok_or_else(|| unknown_size(tensor.elem).in_tensor(&tensor.name))?;
                Ok(Weight { name: tensor.name.clone(), shape: tensor.shape.clone(), bytes })
            };
            let weights = reader.model().tensors.iter().map(weight).collect::<Result<_>>()?;
            return Ok(Self { metadata: reader.model().metadata.clone(), weights });
        }
        weights::check_readable(reader)?;
        let options = convert::Options { target, allow_requantize: true, ..convert::Options::default() };
        let reader = if target.is_none() { weights::repacked(reader.clone())? } else { weights::of(reader)?.into_owned() };
        let (metadata, tensors) = gguf_weights(&reader, &options)?;
        let weight = |tensor: crate::view::output_model::OutputTensor| {
            let dtype: DType = tensor.elem.known().ok_or_else(|| unknown_size(tensor.elem).in_tensor(&tensor.name))?;
            let bytes = dtype.bytes_for_shape(&tensor.shape).map_err(|error| error.in_tensor(&tensor.name))?;
            Ok(Weight { name: tensor.name, shape: tensor.shape, bytes })
        };
        Ok(Self { metadata, weights: tensors.into_iter().map(weight).collect::<Result<_>>()? })
    }

    /// Returns the number of rows of the output matrix; 0 if the model has none.
    pub(super) fn vocabulary(&self) -> u64 {
        let rows = |name: &str| self.weights.iter().find(|weight| weight.name == name).and_then(|weight| weight.shape.first().copied());
        rows("output.weight").or_else(|| rows("token_embd.weight")).unwrap_or(0)
    }

    /// Whether the feed-forward networks are gated.
    pub(super) fn is_gated(&self) -> bool {
        let fused =
            |weight: &Weight| weight.name.ends_with(".ffn_up.weight") && self.weights.iter().any(|other| self.halves(weight, other));
        self.weights.iter().any(|weight| weight.name.contains(".ffn_gate.") || fused(weight))
    }

    /// Whether the input of `down` is half the output of `up`.
    fn halves(&self, up: &Weight, down: &Weight) -> bool {
        down.name.ends_with(".ffn_down.weight") && down.shape.get(1).is_some_and(|inner| up.shape.first() == inner.checked_mul(2).as_ref())
    }
}

fn unknown_size(elem: ElemType) -> Error {
    Error::unsupported(format!("expected a type of known size, found {elem}"))
}

/// The weights by place, in bytes as allocated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Weights {
    /// Token embeddings and other lookup tables of the input.
    pub embeddings: u64,
    /// All layers.
    pub layers: u64,
    /// Output matrix and norm.
    pub output: u64,
}

impl Weights {
    /// Returns the sum.
    pub fn total(&self) -> u64 {
        self.embeddings.saturating_add(self.layers).saturating_add(self.output)
    }
}

/// The weights by place and layer.
#[derive(Debug, Default)]
pub(super) struct Placed {
    pub(super) weights: Weights,
    /// By layer: all weights, and those of experts.
    pub(super) layers: Vec<[u64; 2]>,
    /// Token embeddings that are the output matrix as well.
    pub(super) tied: u64,
}

impl Placed {
    /// Adds to the weights of a layer, and returns them.
    fn on_layer(&mut self, layer: u64, bytes: u64) -> Result<&mut [u64; 2]> {
        let layer = num::to_usize(layer, "a layer")?;
        let count = self.layers.len();
        let weights =
            self.layers.get_mut(layer).ok_or_else(|| Error::malformed(format!("expected {count} layers, found layer {layer}")))?;
        weights[0] = num::add(weights[0], bytes, "the size of the weights")?;
        Ok(weights)
    }
}

/// Groups weights by place; multi-token prediction layers are skipped as far as llama.cpp skips them.
pub(super) fn placed(subject: &Subject, caches: &Caches) -> Result<Placed> {
    let all = num::to_usize(caches.all_layers, "the number of layers")?;
    let mut placed = Placed { layers: vec![[0, 0]; all], ..Placed::default() };
    let mut tied = 0;
    for weight in &subject.weights {
        let bytes = num::align(weight.bytes, ALIGNMENT, "a size")?;
        let place = match place(&weight.name, caches.places) {
            _ if caches.output_norm.is_some_and(|norm| weight.name.starts_with(norm)) => &mut placed.weights.output,
            Place::Layer(layer) => {
                let rest = weight.name.split_once('.').and_then(|(_, rest)| rest.split_once('.')).map_or("", |(_, rest)| rest);
                let drafts = layer < caches.all_layers && caches.drafts_loaded.split_whitespace().any(|start| rest.starts_with(start));
                if layer >= caches.loaded_layers && !drafts {
                    continue;
                }
                let [_, experts] = placed.on_layer(layer, bytes)?;
                *experts = experts.saturating_add(if caches.places.is_expert(rest) { bytes } else { 0 });
                &mut placed.weights.layers
            }
            Place::OtherLayer(layer) => {
                placed.on_layer(layer.min(caches.all_layers.saturating_sub(1)), bytes)?;
                &mut placed.weights.layers
            }
            Place::Shared => &mut placed.weights.layers,
            Place::Output => &mut placed.weights.output,
            Place::Embeddings if caches.places.is_on_first_layer(&weight.name) => {
                placed.on_layer(0, bytes)?;
                &mut placed.weights.embeddings
            }
            Place::Embeddings => &mut placed.weights.embeddings,
        };
        *place = num::add(*place, bytes, "the size of the weights")?;
        if weight.name == "token_embd.weight" {
            tied = bytes;
        }
    }
    let has_output = subject.weights.iter().any(|weight| weight.name == "output.weight");
    if !has_output && caches.tied_twice {
        placed.weights.output = num::add(placed.weights.output, tied, "the size of the weights")?;
    } else if !has_output && !caches.without_output {
        placed.tied = tied;
    }
    Ok(placed)
}

enum Place {
    Embeddings,
    Layer(u64),
    /// A layer of an encoder beside a decoder, or of the decoder, which may have more of them.
    OtherLayer(u64),
    /// Rotary factors, which all layers share.
    Shared,
    Output,
}

fn place(name: &str, places: &Places) -> Place {
    let layer = |name: &str| name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok();
    if let Some(layer) = layer(name) {
        return Place::Layer(layer);
    }
    let of_two = name.strip_prefix("enc.").or_else(|| name.strip_prefix("dec."));
    if let Some(layer) = of_two.and_then(layer) {
        return Place::OtherLayer(layer);
    }
    let name = of_two.unwrap_or(name);
    if places.is_shared(name) {
        Place::Shared
    } else if places.is_output(name) {
        Place::Output
    } else {
        Place::Embeddings
    }
}
