//! Diffusion models in GGUF, as ComfyUI-GGUF writes and loads them (its `loader.py`): tensors keep the names of the original
//! checkpoint, and one that was reshaped to be quantised has its original shape in a key.

use crate::base::{limits, num};
use crate::model::{Model, TensorInfo, Value, ValueType};

/// The key that holds the original shape of a tensor, outermost dimension first, but for the tensor's name.
const ORIGINAL_SHAPE: &str = "comfy.gguf.orig_shape.";

/// The architectures of diffusion models in GGUF: `IMG_ARCH_LIST`.
const ARCHITECTURES: &[&str] =
    &["flux", "sd1", "sdxl", "sd3", "aura", "hidream", "cosmos", "ltxv", "hyvid", "wan", "lumina2", "qwen_image"];

/// Whether a GGUF is a diffusion model, whose tensors have the names of the original checkpoint.
pub fn is_diffusion(model: &Model) -> bool {
    model.metadata.get_str("general.architecture").is_some_and(|name| ARCHITECTURES.contains(&name))
}

/// The shape that a tensor had before it was reshaped to be quantised; `None` where the metadata has none of as many elements.
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
    fn a_shape_counts_where_it_has_as_many_elements() {
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
        assert_eq!(i32s(&[&[6][..], &[1; 100]].concat()), None, "more dimensions than any library takes");
        assert_eq!(shape_of(ValueType::U32, vec![Value::U32(6)]), None, "ComfyUI-GGUF takes whole numbers with a sign only");
    }
}
