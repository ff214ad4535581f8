//! `--prune-layers`: leaves layers out of a GGUF and renumbers the others.

use std::collections::BTreeMap;

use crate::base::{Error, Result};
use crate::format::gguf::keys::ONE_PER_LAYER;
use crate::model::companion::Note;
use crate::model::metadata::{Array, full_key};
use crate::model::{Metadata, Value};
use crate::view::output_model::OutputTensor;

/// Keys that count layers at the start or the end of the model, besides the total number.
const FIRST_LAYERS: [&str; 2] = ["leading_dense_block_count", "hash_layer_count"];
const LAST_LAYERS: &str = "nextn_predict_layers";

/// Keys that define the kind of a layer by its position.
const BY_POSITION: [&str; 3] = ["attention.sliding_window_pattern", "full_attention_interval", "interleave_moe_layer_step"];

/// The new numbers of the layers that stay.
#[derive(Debug)]
pub(super) struct Renumbered(BTreeMap<u64, u64>);

impl Renumbered {
    /// Returns the name of a tensor in the output; `None` if its layer is left out.
    pub(super) fn name(&self, name: &str) -> Option<String> {
        match split(name) {
            Some((before, layer, after)) => Some(format!("{before}{}{after}", self.0.get(&layer)?)),
            None => Some(name.to_owned()),
        }
    }
}

/// Splits a name at its layer: `blk.`, 7, `.attn_q.weight`.
fn split(name: &str) -> Option<(&str, u64, &str)> {
    let start = name.find("blk.")? + "blk.".len();
    let (before, rest) = name.split_at(start);
    let digits = rest.find('.')?;
    let (number, after) = rest.split_at(digits);
    Some((before, number.parse().ok()?, after))
}

/// Leaves out these layers: their tensors, their places in arrays of one value per layer, and from the numbers of layers.
///
/// # Errors
/// The model has no such layer, or none is left; or its metadata cannot be read.
pub(super) fn prune(layers: &[u64], metadata: &mut Metadata, tensors: &mut Vec<OutputTensor>, notes: &mut Vec<Note>) -> Result<Renumbered> {
    let architecture = metadata.get_str("general.architecture").unwrap_or_default().to_owned();
    let key = |name: &str| full_key(&architecture, name);
    let count = metadata.get_u64(&key("block_count"));
    let count = count.ok_or_else(|| Error::argument(format!("layers can only be left out of a GGUF with {}", key("block_count"))))?;
    if let Some(missing) = layers.iter().find(|layer| **layer >= count) {
        return Err(Error::argument(format!("expected layers from 0 to {}, found {missing}", count.saturating_sub(1))));
    }
    let stays = |layer: u64| !layers.contains(&layer);
    let mut here: Vec<u64> = tensors.iter().filter_map(|tensor| Some(split(&tensor.name)?.1)).filter(|layer| *layer < count).collect();
    here.sort_unstable();
    here.dedup();
    let renumbered = Renumbered(here.iter().copied().filter(|layer| stays(*layer)).zip(0..).collect());
    if renumbered.0.is_empty() {
        return Err(Error::argument("no layer would be left"));
    }
    tensors.retain_mut(|tensor| match renumbered.name(&tensor.name) {
        Some(name) => {
            tensor.name = name;
            true
        }
        None => false,
    });
    let number = |layers: u64| Value::U32(u32::try_from(layers).unwrap_or(u32::MAX));
    for (name, from_end) in FIRST_LAYERS.map(|name| (name, false)).into_iter().chain([(LAST_LAYERS, true)]) {
        let Some(all) = metadata.get_u64(&key(name)) else { continue };
        let range = if from_end { count.saturating_sub(all)..count } else { 0..all.min(count) };
        metadata.set(key(name), number(range.filter(|layer| stays(*layer)).count() as u64));
    }
    // Those of xIELU are not under the architecture, and that of DeepSeek V4 may go on behind the last layer.
    for own in ONE_PER_LAYER.iter().flat_map(|name| [key(name), (*name).to_owned()]) {
        let Some(array) = metadata.get(&own).and_then(Value::as_array).filter(|array| array.len() >= count) else { continue };
        let (elem, values) = (array.elem(), array.values()?);
        let left = values.into_iter().zip(0..).filter(|(_, layer)| *layer >= count || stays(*layer)).map(|(value, _)| value).collect();
        metadata.set(own, Value::Array(Array::new(elem, left)));
    }
    metadata.set(key("block_count"), number(renumbered.0.len() as u64));
    if let Some(found) =
        BY_POSITION.iter().map(|name| key(name)).find(|key| metadata.get(key).is_some_and(|value| value.as_array().is_none()))
    {
        notes
            .push(Note::remark(found, "tells kinds of layers by their position, which changes for those after the first that is left out"));
    }
    Ok(renumbered)
}
