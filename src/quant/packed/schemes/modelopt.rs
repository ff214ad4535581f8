//! Nvidia's ModelOpt.

use crate::model::PackedType;
use crate::quant::packed::Lookup;
use crate::quant::packed::schemes::microscaling::nvfp4;
use crate::quant::packed::schemes::{Interpretation, Layout, Parts, Whole};

pub(super) fn modelopt_nvfp4(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    nvfp4(lookup, parts, Whole::Multiply(".weight_scale_2"))
}

/// ModelOpt's INT4 for its AWQ algorithms: two rows per byte row.
pub(super) fn modelopt_int4(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    let algorithm = lookup.configs.text("quant_algo").or_else(|| lookup.configs.text("quantization"))?;
    let (half, input) = parts.matrix()?;
    (algorithm.contains("W4A")).then_some((Layout::Counted, vec![half.checked_mul(2)?, input], PackedType { name: "INT", bits: 4 }))
}
