//! The input of a conversion: the model with packed weights decoded and adapters merged.

use std::path::Path;

use crate::base::{Error, Result};
use crate::format::Reader;
use crate::model::{DType, FormatId};
use crate::ops::convert::options::Options;
use crate::ops::convert::plan::{OutputTarget, Plan};
use crate::ops::convert::split;
use crate::ops::part::Part;
use crate::ops::weights;
use crate::view::lora;

/// Returns the model to convert (packed weights decoded, kept or as stored; adapters merged), and the plan of it or of one part.
///
/// # Errors
/// Packed weights cannot be read; an adapter does not fit; or as for [`Plan::new`].
pub fn prepare(model: Reader, adapters: Vec<Reader>, out: &Path, options: &Options, part: Option<Part>) -> Result<(Reader, Plan)> {
    let reader = input(model.untied(), adapters, out, options)?;
    // The folder of a part may have other parts.
    let mut plan = Plan::unchecked(&reader, out, options, options.force || part.is_some())?;
    if let Some(part) = part {
        split::reduce(&mut plan, part, &reader, options)?;
    }
    plan.check_targets()?;
    Ok((reader, plan))
}

/// Returns the model to convert and the plan, for an output that is only measured: what is there already does not matter.
///
/// # Errors
/// As for [`Plan::new`], except for what is there.
pub fn prepare_unwritten(model: Reader, out: &Path, options: &Options) -> Result<(Reader, Plan)> {
    let reader = input(model.untied(), Vec::new(), out, options)?;
    let plan = Plan::unchecked(&reader, out, options, true)?;
    Ok((reader, plan))
}

/// Returns the model to convert: packed weights decoded, or kept if the output can store them losslessly, or as stored; with adapters
/// merged into it.
fn input(reader: Reader, adapters: Vec<Reader>, out: &Path, options: &Options) -> Result<Reader> {
    if options.stored {
        return if adapters.is_empty() {
            Ok(reader)
        } else {
            Err(Error::argument("adapters cannot be merged into packed weights that are copied as stored"))
        };
    }
    weights::check_readable(&reader)?;
    if !adapters.is_empty() {
        return lora::merged(weights::weights(reader)?, adapters);
    }
    let gguf = OutputTarget::of(out, options.to)?.format.id == FormatId::Gguf;
    if gguf && keeps_blocks(&reader, options) { weights::repacked(reader) } else { weights::weights(reader) }
}

/// Whether the blocks of packed weights already have the requested type.
fn keeps_blocks(reader: &Reader, options: &Options) -> bool {
    // The blocks of a GGUF come without their scales here, so they can be copied but not transformed.
    let target = options.target.is_none_or(|target| target.base() == DType::NVFP4 && reader.model().format != FormatId::Gguf);
    target
        && !options.mixes()
        && options.tensor_types.is_empty()
        && options.output_tensor_type.is_none()
        && options.token_embedding_type.is_none()
}
