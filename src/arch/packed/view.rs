//! A model seen without its packing: each packed weight is one tensor of F32, computed when it is read.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::{PackedWeight, Packing, Role};
use crate::base::Result;
use crate::format::{Computed, Reader};
use crate::model::{DType, ElemType, TensorInfo};

/// One packed weight of a model.
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
}

/// The model with its packed weights as F32 under the names that they have unquantised, and without the bookkeeping. A model
/// that has no packed weights is handed back as it is.
///
/// # Errors
/// A shape is past all measure.
pub fn unpacked(reader: Reader) -> Result<Reader> {
    let packing = Packing::of(&reader);
    if packing.is_empty() {
        return Ok(reader);
    }
    let stored = Arc::new(reader);
    let mut model = stored.model().clone();
    let mut tensors = Vec::new();
    let mut computed: HashMap<String, Arc<dyn Computed>> = HashMap::new();
    for (i, tensor) in model.tensors.drain(..).enumerate() {
        match packing.role(i) {
            Role::Plain => tensors.push(tensor),
            Role::Bookkeeping => {}
            Role::Packed(weight) => {
                let Some(weight) = packing.weights.get(weight) else { continue };
                tensors.push(TensorInfo {
                    name: weight.name.clone(),
                    elem: ElemType::Known(DType::F32),
                    shape: weight.shape.clone(),
                    len_bytes: Some(DType::F32.bytes_for_shape(&weight.shape)?),
                    ..tensor
                });
                computed.insert(weight.name.clone(), Arc::new(Unpacked { stored: Arc::clone(&stored), weight: weight.clone() }));
            }
        }
    }
    model.tensors = tensors;
    // What is seen is no longer quantised: a config that says so would mislead whoever loads the output.
    if let Some(config) = model.config.as_mut().and_then(serde_json::Value::as_object_mut) {
        config.retain(|key, _| key != "quantization_config" && key != "quantization");
    }
    Ok(Reader::computed(&stored, model, computed))
}
