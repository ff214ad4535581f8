//! What is converted: the model as its weights, with adapters merged into it.

use std::path::Path;

use crate::base::{Error, Result};
use crate::format::Reader;
use crate::model::{DType, FormatId};
use crate::ops::convert::options::Options;
use crate::ops::convert::plan::{Place, Plan};
use crate::ops::weights;
use crate::view::lora;

/// Returns the model as it is to be converted (packed weights computed, kept or as they are stored; adapters merged), and the plan.
///
/// # Errors
/// Packed weights cannot be read; an adapter does not fit; or as for [`Plan::new`].
pub fn prepare(model: Reader, adapters: Vec<Reader>, out: &Path, options: &Options) -> Result<(Reader, Plan)> {
    let reader = input(model, adapters, out, options)?;
    let plan = Plan::new(&reader, out, options)?;
    Ok((reader, plan))
}

/// Returns the model as it is to be converted: packed weights computed, or kept where the output can hold them without loss, or as they
/// are stored; with adapters merged into it.
fn input(reader: Reader, adapters: Vec<Reader>, out: &Path, options: &Options) -> Result<Reader> {
    if options.stored {
        return if adapters.is_empty() {
            Ok(reader)
        } else {
            Err(Error::argument("expected no adapter to merge where packed weights are moved as they are stored, found one"))
        };
    }
    weights::check_readable(&reader)?;
    if !adapters.is_empty() {
        return lora::merged(weights::weights(reader)?, adapters);
    }
    let gguf = Place::of(out, options.to)?.format.id == FormatId::Gguf;
    if gguf && keeps_blocks(&reader, options) { weights::repacked(reader) } else { weights::weights(reader) }
}

/// Whether no other type than that of packed blocks is asked for.
fn keeps_blocks(reader: &Reader, options: &Options) -> bool {
    // Blocks of a GGUF are seen without their scales, which no step beyond a copy would do justice.
    let target = options.target.is_none_or(|target| target.base() == DType::NVFP4 && reader.model().format != FormatId::Gguf);
    target && options.tensor_types.is_empty() && options.output_tensor_type.is_none() && options.token_embedding_type.is_none()
}
