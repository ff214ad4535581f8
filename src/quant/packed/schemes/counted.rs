//! Libraries of which only the shapes are interpreted: EETQ, ExLlama, HQQ, AQLM, VPTQ, and quanto's low-bit types.

use serde_json::Value as Json;

use crate::model::{DType, PackedType};
use crate::quant::packed::Lookup;
use crate::quant::packed::schemes::{Interpretation, Layout, Parts, is, named, unpacked, whole_numbers};

/// HQQ's companion tensors (hqq/core/quantize.py, `HQQLinear.state_dict_keys`).
pub(super) const HQQ: &[&str] = &[
    ".nbits",
    ".group_size",
    ".shape",
    ".scale",
    ".zero",
    ".axis",
    ".packing",
    ".unpack_view_dtype",
    ".view_as_float",
    ".quant_scale",
    ".quant_zero",
    ".compute_dtype",
    ".offload_meta",
    ".encoded_state_dict",
    ".stores_quant_config",
    ".channel_wise",
    ".optimize",
    ".round_zero",
];

/// EETQ: bytes in the order of its kernels; the shape is `[in, out]`.
pub(super) fn eetq(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    let (input, output) = parts.matrix()?;
    let scales = parts.get(lookup, ".weight_scales")?.elements().ok()?;
    (scales == output).then_some((Layout::Counted, vec![output, input], named("EETQ")))
}

/// EXL2: rows of words with several bit widths; the permutation has one entry per input.
pub(super) fn exl2(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    let (_, output) = parts.matrix()?;
    let order = [".q_invperm", ".q_perm"].into_iter().find_map(|suffix| parts.get(lookup, suffix));
    let input = match order {
        Some(order) => order.elements().ok()?,
        None => exl2_inputs(lookup, parts)?,
    };
    Some((Layout::Counted, vec![output, input], named("EXL2")))
}

/// Computes the number of inputs of an EXL2 matrix from `q_groups`: pairs of bits and first word row of each group.
fn exl2_inputs(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Option<u64> {
    const GROUPS_BYTES: u64 = 1 << 20;
    let (words, _) = parts.matrix()?;
    let groups = parts
        .get(lookup, ".q_groups")
        .filter(|groups| is(groups, DType::I16) && groups.len_bytes.is_some_and(|len| len <= GROUPS_BYTES))?;
    let bytes = lookup.reader.bytes(groups).ok()?;
    let pairs: Vec<[u64; 2]> = bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|pair| [u64::from(u16::from_le_bytes([pair[0], pair[1]])), u64::from(u16::from_le_bytes([pair[2], pair[3]]))])
        .collect();
    let ends = pairs.iter().skip(1).map(|pair| pair[1]).chain([words]);
    pairs.iter().zip(ends).try_fold(0u64, |sum, (&[bits, first], end)| sum.checked_add(unpacked(end.checked_sub(first)?, bits)?))
}

/// EXL3: tiles of 16 x 16 weights (exllamav3, modules/quant/exl3.py).
pub(super) fn exl3(_: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    match parts.weight.shape[..] {
        [input, output, words] if words.is_multiple_of(16) => {
            let bits = u32::try_from(words / 16).ok().filter(|bits| (1..=8).contains(bits))?;
            Some((Layout::Counted, vec![output.checked_mul(16)?, input.checked_mul(16)?], PackedType { name: "EXL3", bits }))
        }
        _ => None,
    }
}

pub(super) fn hqq(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    let shape = whole_numbers(lookup, parts.get(lookup, ".shape")?)?;
    let bits = parts.get(lookup, ".nbits").and_then(|tensor| whole_numbers(lookup, tensor)).and_then(|bits| bits.first().copied());
    let bits = bits.or_else(|| lookup.configs.number("nbits")).and_then(|bits| u32::try_from(bits).ok()).unwrap_or(0);
    Some((Layout::Counted, shape, PackedType { name: "HQQ", bits }))
}

/// AQLM: `codes [out / g, in / h, books]`, `codebooks [books, size, g, h]` (aqlm/inference.py, `QuantizedLinear`).
pub(super) fn aqlm(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    match (&parts.weight.shape[..], &parts.get(lookup, ".codebooks")?.shape[..]) {
        (&[rows, columns, books], &[of, _, tall, wide]) if books == of => {
            Some((Layout::Counted, vec![rows.checked_mul(tall)?, columns.checked_mul(wide)?], named("AQLM")))
        }
        _ => None,
    }
}

/// VPTQ: the config contains the shape of each layer.
pub(super) fn vptq(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    let layer = lookup.configs.setting("config_for_layers")?.get(parts.stem)?;
    let size = |key: &str| layer.get(key).and_then(Json::as_u64);
    Some((Layout::Counted, vec![size("out_features")?, size("in_features")?], named("VPTQ")))
}

/// quanto's 2- and 4-bit types: bytes in the order of its groups; its type map tells how many numbers are in one.
pub(super) fn quanto_bits(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Interpretation {
    let bits = match lookup.configs.quanto(parts.stem)? {
        "qint2" => 2,
        "qint4" => 4,
        _ => return None,
    };
    let numbers = parts.weight.elements().ok()?.checked_mul(8 / bits)?;
    Some((Layout::Counted, vec![numbers], PackedType { name: "QINT", bits: u32::try_from(bits).ok()? }))
}
