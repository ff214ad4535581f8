//! BitNet in transformers' format.

use crate::model::DType;
use crate::quant::packed::Lookup;
use crate::quant::packed::schemes::{Codes, Interpretation, Layout, Parts, Rows, Whole, Zero, is, named};

pub(super) fn bitnet(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    let scale = parts.get(lookup, ".weight_scale")?;
    let float = [DType::F32, DType::F16, DType::BF16].into_iter().any(|dtype| is(scale, dtype));
    let (quarter, input) = parts.matrix()?;
    if !float || scale.elements().ok()? != 1 || lookup.configs.text("quant_method").is_some_and(|method| method != "bitnet") {
        return None;
    }
    // transformers' older layer divides by the scale (integrations/bitnet.py, `BitLinear` and `AutoBitLinear`).
    let whole = if lookup.configs.text("linear_class").unwrap_or("bitlinear") == "autobitlinear" {
        Whole::Multiply(".weight_scale")
    } else {
        Whole::Divide(".weight_scale")
    };
    let rows = Rows { codes: Codes::Ternary, scale: None, zero: Zero::None, bias: None, whole, divide: 1.0, indices: None };
    Some((Layout::Rows(rows), vec![quarter.checked_mul(4)?, input], named("BitNet")))
}
