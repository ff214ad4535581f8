//! AutoAWQ.

use crate::model::PackedType;
use crate::quant::packed::Lookup;
use crate::quant::packed::schemes::{Bits, Codes, Grid, Interpretation, Layout, Parts, Rows, ScaleKind, Zero, matrix};

pub(super) fn awq(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    let ((rows, words), scales, zeros) = (parts.matrix()?, matrix(parts.get(lookup, ".scales")?)?, matrix(parts.get(lookup, ".qzeros")?)?);
    let shown = PackedType { name: "AWQ", bits: 4 };
    let version = lookup.configs.text("version").unwrap_or("gemm").to_ascii_lowercase();
    let (input, output) = (rows, words.checked_mul(8)?);
    if scales.1 == output && zeros == (scales.0, words) && input % scales.0 == 0 && version != "gemv" {
        return Some((Layout::Awq { group: input / scales.0 }, vec![output, input], shown));
    }
    // GEMV: rows of the weight, packed in order; scales and zero points are padded to whole words.
    let (output, input) = (rows, words.checked_mul(8)?);
    let named = ["group_size", "q_group_size"].into_iter().find_map(|key| lookup.configs.setting(key)?.as_i64());
    let group = named.map(|group| u64::try_from(group).unwrap_or(input)).filter(|group| *group > 0 && input % group == 0)?;
    let fits = scales.0 == output && zeros.0 == output && scales.1 == zeros.1.checked_mul(8)? && input / group <= scales.1;
    let rows = Rows {
        zero: Zero::Along { suffix: ".qzeros", bits: Bits(4) },
        ..Rows::new(
            Codes::Words { bits: Bits(4), center: 0 },
            ".scales",
            Grid { tall: 1, wide: group, across: scales.1, kind: ScaleKind::Own },
        )
    };
    (fits && version == "gemv").then_some((Layout::Rows(rows), vec![output, input], shown))
}

/// AutoAWQ's GEMV_FAST interleaves four rows in 16-bit words (awq/modules/linear/gemv_fast.py).
pub(super) fn awq_fast(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    let (rows, input) = parts.matrix()?;
    let (_, output) = matrix(parts.get(lookup, ".scales")?)?;
    (rows.checked_mul(4)? == output).then_some((Layout::Counted, vec![output, input], PackedType { name: "AWQ", bits: 4 }))
}
