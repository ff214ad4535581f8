//! Diffusion models in GGUF as written and loaded by ComfyUI-GGUF (`loader.py`): tensors keep the names of the original checkpoint, and the
//! original shape of a tensor reshaped for quantisation is stored in a key.

use crate::base::{limits, num};
use crate::model::{Model, TensorInfo, Value, ValueType};

/// Prefix of the key with a tensor's original shape, outermost dimension first.
const ORIGINAL_SHAPE: &str = "comfy.gguf.orig_shape.";

/// The architectures of diffusion models in GGUF: `IMG_ARCH_LIST`.
const ARCHITECTURES: &[&str] =
    &["flux", "sd1", "sdxl", "sd3", "aura", "hidream", "cosmos", "ltxv", "hyvid", "wan", "lumina2", "qwen_image"];

/// Whether a GGUF is a diffusion model, whose tensors have the names of the original checkpoint.
pub fn is_diffusion(model: &Model) -> bool {
    model.metadata.get_str("general.architecture").is_some_and(|name| ARCHITECTURES.contains(&name))
}

/// Returns the original shape of a tensor reshaped for quantisation; `None` unless the metadata has one with the same number of elements.
pub fn original_shape(model: &Model, tensor: &TensorInfo) -> Option<Vec<u64>> {
    let array = match model.metadata.get(&format!("{ORIGINAL_SHAPE}{}", tensor.name))? {
        Value::Array(array) if array.elem() == ValueType::I32 && array.len() <= limits::ORIGINAL_DIMS => array,
        _ => return None,
    };
    let shape: Vec<u64> = array.iter().map(|dim| dim.ok()?.as_u64()).collect::<Option<_>>()?;
    (num::elements(&shape).ok() == tensor.elements().ok()).then_some(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Array, DType, ElemType, Metadata};

    #[test]
    fn an_original_shape_must_have_the_same_number_of_elements() {
        let shape_of = |elem: ValueType, dims: Vec<Value>| {
            let mut metadata = Metadata::new();
            metadata.set(format!("{ORIGINAL_SHAPE}a"), Value::Array(Array::new(elem, dims)));
            let shape = vec![6];
            let tensor =
                TensorInfo { name: "a".into(), elem: ElemType::Known(DType::F32), shape, shard: 0, offset_bytes: 0, len_bytes: Some(24) };
            original_shape(&Model { metadata, ..Model::default() }, &tensor)
        };
        let i32s = |dims: &[i32]| shape_of(ValueType::I32, dims.iter().map(|dim| Value::I32(*dim)).collect());
        assert_eq!(i32s(&[1, 2, 3]), Some(vec![1, 2, 3]));
        assert_eq!(i32s(&[2, 2]), None);
        assert_eq!(i32s(&[-2, -3]), None);
        assert_eq!(i32s(&[&[6][..], &[1; 100]].concat()), None, "more dimensions than any library supports");
        assert_eq!(shape_of(ValueType::U32, vec![Value::U32(6)]), None, "ComfyUI-GGUF accepts only signed integers");
    }
}
