//! AutoGPTQ and GPTQModel.

use crate::model::PackedType;
use crate::quant::packed::Lookup;
use crate::quant::packed::schemes::{Bits, Interpretation, Layout, Parts, matrix, unpacked, whole_groups};

pub(super) fn gptq(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    let (words, output) = parts.matrix()?;
    let (groups, scaled) = matrix(parts.get(lookup, ".scales")?)?;
    let (zero_groups, zero_words) = matrix(parts.get(lookup, ".qzeros")?)?;
    if scaled != output || zero_groups != groups {
        return None;
    }
    let configs = &lookup.configs;
    let group_size = configs.number("group_size").filter(|size| *size > 0);
    let indices = parts.get(lookup, ".g_idx").map(|tensor| tensor.shape.as_slice());
    // Bits and inputs that fill the words exactly, or those in the config if the buffers are larger than needed.
    let exact = || {
        let bits = zero_words.checked_mul(32)?.checked_div(output)?;
        let input = unpacked(words, bits)?;
        (unpacked(zero_words, bits)? == output && indices.is_none_or(|indices| indices == [input])).then_some((bits, input))
    };
    let configured = || {
        let bits = configs.number("bits").filter(|bits| (1..=8).contains(bits))?;
        let input = match indices {
            Some(&[input]) => input,
            _ => group_size?.checked_mul(groups)?,
        };
        let fits = |numbers: u64, words: u64| numbers.checked_mul(bits).is_some_and(|all| all.div_ceil(32) <= words);
        (fits(input, words) && fits(output, zero_words)).then_some((bits, input))
    };
    // `dynamic` sets other bits for some layers.
    let (bits, input) = if configs.setting("dynamic").is_some() { exact().or_else(configured)? } else { configured().or_else(exact)? };
    // `group_size` determines the groups if the last is partial; -1 is a single group.
    let group = group_size.filter(|size| input.div_ceil(*size) == groups).or_else(|| whole_groups(input, groups))?;
    let plus = u32::from(!configs.gptq_format().is_some_and(|format| format.eq_ignore_ascii_case("gptq_v2")));
    let bits = u32::try_from(bits).ok().filter(|bits| (2..=8).contains(bits))?;
    Some((Layout::Gptq { bits: Bits(bits), group, plus }, vec![output, input], PackedType { name: "GPTQ", bits }))
}

/// Marlin's order of 4-bit numbers: `B [in / 16, out * 2]`, `s [groups, out]` (AutoGPTQ, qlinear_marlin.py).
pub(super) fn marlin(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    let ((rows, words), (_, output)) = (parts.matrix()?, matrix(parts.get(lookup, ".s")?)?);
    let fits = words == output.checked_mul(2)?;
    fits.then_some((Layout::Counted, vec![output, rows.checked_mul(16)?], PackedType { name: "GPTQ", bits: 4 }))
}
