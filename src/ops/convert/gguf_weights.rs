//! The tensors of the output with their types, without a plan of the files.

use crate::base::{Error, Hint, Result};
use crate::family::tables::Tables;
use crate::format::{self, Reader};
use crate::model::{DType, ElemType, FormatId, Metadata};
use crate::ops::convert::options::Options;
use crate::ops::convert::{keep, types};
use crate::ops::tensor_data::TensorData;
use crate::view::output_model::OutputTensor;
use crate::view::tensor_expr::TensorExpr;
use crate::view::to_gguf;

/// Returns the metadata and tensors of a GGUF of these types, without its tokenizer.
///
/// # Errors
/// As for [`Plan::new`].
pub(in crate::ops) fn gguf_weights(reader: &Reader, options: &Options) -> Result<(Metadata, Vec<OutputTensor>)> {
    let gguf = format::format(FormatId::Gguf);
    let mut model = match reader.model().format {
        FormatId::Gguf => keep::output_model(reader, gguf, false, options.target)?,
        _ => to_gguf::of_headers(reader, &Tables::default())?,
    };
    types::choose_types(reader, gguf, &mut model.tensors, &model.metadata, None, options)?;
    block_scales(reader, &mut model.tensors)?;
    Ok((model.metadata, model.tensors))
}

/// Adds the scales of tensors that keep packed blocks: `X.scale` and `X.input_scale` for `X.weight` (llama.cpp,
/// conversion of NVFP4).
pub(super) fn block_scales(reader: &Reader, tensors: &mut Vec<OutputTensor>) -> Result<()> {
    let mut found = Vec::new();
    for tensor in tensors.iter() {
        let sources = tensor.tensors();
        let scales: Vec<_> =
            sources.iter().filter_map(|index| reader.model().tensors.get(*index)).map(|tensor| reader.block_scales(tensor)).collect();
        if scales.iter().all(Option::is_none) {
            continue;
        }
        let kept = tensor.elem.known().is_some_and(DType::is_quantised) && TensorData::new(reader, tensor)?.elem() == tensor.elem;
        let matrices = scales.len() == 1 || tensor.shape.first() == Some(&(scales.len() as u64));
        if !kept || !matrices || scales.iter().any(Option::is_none) {
            return Err(Error::unsupported("packed blocks can only be copied to a single tensor, but here they are merged or transformed")
                .in_tensor(&tensor.name)
                .hint(Hint::ComputeWeights("BF16")));
        }
        let Some(stem) = tensor.name.strip_suffix(".weight") else { continue };
        for (which, end) in ["scale", "input_scale"].into_iter().enumerate() {
            let values: Option<Vec<f32>> = scales.iter().map(|scale| scale.and_then(|scale| *scale.get(which)?)).collect();
            if let Some(values) = values {
                let shape = vec![values.len() as u64];
                found.push(
                    OutputTensor::made(TensorExpr::values(values), format!("{stem}.{end}"), shape, ElemType::Known(DType::F32)).fixed(),
                );
            }
        }
    }
    tensors.extend(found);
    Ok(())
}
