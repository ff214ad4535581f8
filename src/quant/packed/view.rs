//! A view of a model with its packed weights unpacked: each is one F32 tensor, computed on access.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::{PackedWeight, Packing, Role};
use crate::base::Result;
use crate::format::{Computed, Reader};
use crate::model::{DType, ElemType, PackedType, TensorInfo};

/// A packed weight of a model.
#[derive(Debug)]
struct Unpacked {
    stored: Arc<Reader>,
    weight: PackedWeight,
}

impl Computed for Unpacked {
    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let values = self.weight.values(&self.stored, range.start / 4..range.end.div_ceil(4));
        let mut bytes: Vec<u8> =
            values.map_err(|error| error.in_tensor(&self.weight.name))?.into_iter().flat_map(f32::to_le_bytes).collect();
        bytes.drain(..(range.start % 4) as usize);
        bytes.truncate((range.end - range.start) as usize);
        Ok(bytes)
    }

    fn suggested(&self) -> Option<DType> {
        Some(DType::F16)
    }

    fn stored_size(&self) -> Option<u64> {
        Some(self.weight.stored_size(&self.stored))
    }

    fn packed(&self) -> Option<PackedType> {
        Some(self.weight.shown)
    }
}

/// A packed weight of a model, repacked without loss into GGUF blocks.
#[derive(Debug)]
struct Repacked {
    stored: Arc<Reader>,
    weight: PackedWeight,
    blocks: DType,
    whole: Option<f32>,
    input: Option<f32>,
}

impl Computed for Repacked {
    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>> {
        self.weight.blocks(&self.stored, self.blocks, range).map_err(|error| error.in_tensor(&self.weight.name))
    }

    fn packed(&self) -> Option<PackedType> {
        Some(self.weight.shown)
    }

    fn scales(&self) -> Option<[Option<f32>; 2]> {
        Some([self.whole, self.input])
    }
}

/// Returns a view with packed weights as F32 under their unquantised names, and without bookkeeping tensors. A model without packed weights
/// is returned unchanged; what cannot be unpacked stays as stored.
///
/// # Errors
/// A shape's element count overflows.
pub fn unpacked(reader: Reader) -> Result<Reader> {
    view(reader, |_, _| None)
}

/// Like [`unpacked`], but repacks weights that GGUF blocks can store without loss.
///
/// # Errors
/// As for [`unpacked`].
pub fn repacked(reader: Reader) -> Result<Reader> {
    view(reader, |weight, stored| {
        let blocks = weight.fits_blocks()?;
        let scale = |suffix: &str| weight.first(stored, suffix);
        let stem = weight.name.strip_suffix(".weight");
        let input = stem.and_then(|stem| stored.model().tensor(&format!("{stem}.input_scale")));
        let input = input.filter(|tensor| tensor.elem == ElemType::Known(DType::F32) && tensor.elements().is_ok_and(|all| all == 1));
        let input = input.and_then(|tensor| Some(f32::from_le_bytes(stored.bytes(tensor).ok()?.as_ref().try_into().ok()?)));
        Some(Repacked { stored: Arc::clone(stored), weight: weight.clone(), blocks, whole: scale(".weight_scale_2"), input })
    })
}

fn view(reader: Reader, keep: impl Fn(&PackedWeight, &Arc<Reader>) -> Option<Repacked>) -> Result<Reader> {
    let packing = Packing::detect(&reader);
    if packing.is_empty() { Ok(reader) } else { view_of(&packing, &Arc::new(reader), keep) }
}

impl Packing {
    /// Returns [`unpacked`] of the model that this packing was detected in.
    ///
    /// # Errors
    /// As for [`unpacked`].
    pub fn unpack(&self, stored: &Arc<Reader>) -> Result<Arc<Reader>> {
        if self.is_empty() { Ok(Arc::clone(stored)) } else { view_of(self, stored, |_, _| None).map(Arc::new) }
    }
}

/// The keys of config.json that say how weights are packed; the last is DeepSeek V4's.
const CLAIMS: [&str; 3] = ["quantization_config", "quantization", "expert_dtype"];

fn view_of(packing: &Packing, stored: &Arc<Reader>, keep: impl Fn(&PackedWeight, &Arc<Reader>) -> Option<Repacked>) -> Result<Reader> {
    let mut model = stored.model().clone();
    let mut tensors = Vec::new();
    let mut computed: HashMap<String, Arc<dyn Computed>> = HashMap::new();
    let unread = packing.unread();
    for (i, tensor) in model.tensors.drain(..).enumerate() {
        match packing.role(i) {
            Role::Bookkeeping if !unread.contains(&i) => {}
            Role::Packed(weight) if !unread.contains(&i) => {
                let Some(weight) = packing.weights.get(weight) else { continue };
                let kept = keep(weight, stored);
                let dtype = kept.as_ref().map_or(DType::F32, |kept| kept.blocks);
                let (name, shape) = if kept.is_some() { weight.as_blocks() } else { (weight.name.clone(), weight.shape.clone()) };
                tensors.push(TensorInfo {
                    name: name.clone(),
                    elem: ElemType::Known(dtype),
                    len_bytes: Some(dtype.bytes_for_shape(&shape)?),
                    shape,
                    ..tensor
                });
                let body: Arc<dyn Computed> = match kept {
                    Some(kept) => Arc::new(kept),
                    None => Arc::new(Unpacked { stored: Arc::clone(stored), weight: weight.clone() }),
                };
                computed.insert(name, body);
            }
            _ => tensors.push(tensor),
        }
    }
    model.tensors = tensors;
    // The view is no longer quantised, so a config that says otherwise would mislead loaders of the output.
    if let Some(config) = model.config.as_mut().and_then(serde_json::Value::as_object_mut).filter(|_| unread.is_empty()) {
        config.retain(|key, _| !CLAIMS.contains(&key.as_str()));
        for inner in config.iter_mut().filter(|(key, _)| key.ends_with("_config")).filter_map(|(_, value)| value.as_object_mut()) {
            inner.retain(|key, _| !CLAIMS.contains(&key.as_str()));
        }
    }
    Ok(Reader::computed(stored, model, computed))
}
