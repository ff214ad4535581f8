//! gpt-oss experts as published by OpenAI.

use crate::model::DType;
use crate::quant::packed::Lookup;
use crate::quant::packed::schemes::{Interpretation, Layout, Parts, is, named};

pub(super) fn gpt_oss(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    let scales = parts.get(lookup, "_scales")?;
    match parts.weight.shape[..] {
        [experts, output, groups, 16] if scales.shape == [experts, output, groups] && is(scales, DType::U8) => {
            Some((Layout::GptOss, vec![experts, groups.checked_mul(32)?, output], named("MXFP4")))
        }
        _ => None,
    }
}
