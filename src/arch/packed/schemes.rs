//! The schemes, one row each: which tensors belong together, and what their shapes say.

use serde_json::Value as Json;

use super::{Lookup, PackedWeight};
use crate::model::{DType, TensorInfo};

/// A layout and the shape of the weights, if the tensors fit each other.
type Found = Option<(Layout, Vec<u64>)>;

/// A way of packing weights.
pub(super) struct Scheme {
    /// Its name in weigh's output.
    name: &'static str,
    /// The end of the name of the tensor that holds the numbers.
    suffix: &'static str,
    /// The end of the name of the unquantised tensor.
    plain: &'static str,
    /// Its types.
    types: &'static [DType],
    /// Ends of the names of tensors that must be beside it.
    needs: &'static [&'static str],
    /// Ends of the names of tensors that may be.
    may: &'static [&'static str],
    /// Tells the layout, if the shapes fit.
    layout: fn(&Lookup<'_>, &Parts<'_>) -> Found,
}

/// Numbers that are packed one after the other from the lowest bit of little-endian words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bits(pub u32);

/// How values follow from the stored numbers. Dimensions: weights are `[out, in]`, and a group is a run along `in`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Layout {
    /// `qweight [in / n, out]`, packed along `in`; `qzeros [groups, out / n]`; `scales [groups, out]`; `g_idx [in]`:
    /// `(q - (z + plus)) * scale`. AutoGPTQ stores zero points less one, its version 2 as they are (qlinear_cuda_old.py, `forward`).
    Gptq { bits: Bits, group: u64, plus: u32 },
    /// `qweight [in, out / 8]`, `qzeros [groups, out / 8]`, `scales [groups, out]`, with the eight of a word in the order
    /// 0 2 4 6 1 3 5 7: `(q - z) * scale` (AutoAWQ, awq/modules/linear/gemm.py, `from_linear`, and awq/utils/packing_utils.py).
    Awq { group: u64 },
    /// Rows packed along `in`, each value stored plus 2^(bits - 1); zero points packed along `out` in the same way:
    /// `(q - z) * scale` (compressed-tensors, pack_quantized, `pack_to_int32`).
    PackQuantized { bits: Bits, group: u64 },
    /// Rows packed along `in`: `q * scale + bias` (MLX, `mlx.core.dequantize`).
    Mlx { bits: Bits, group: u64 },
    /// One number each: `(q - z) * scale`, a scale for every `rows x columns` of them (DeepSeek-V3, inference/kernel.py,
    /// `weight_dequant`; compressed-tensors, naive-quantized; LLM.int8 with `SCB / 127`).
    Scaled { rows: u64, columns: u64, scales: u64, divide: f32 },
    /// Two FP4 (E2M1) numbers a byte, the first in the low half; a scale for each group, of the type that the tensor says, and
    /// one for the tensor that is multiplied or divided by (NVIDIA ModelOpt `weight_scale_2`; compressed-tensors
    /// `weight_global_scale`; OCP MX for MXFP4, whose scales are powers of two).
    Fp4 { group: u64, whole: Whole },
    /// Expert weights of gpt-oss: `blocks [experts, out, groups, 16]`, `scales [experts, out, groups]`; unquantised they are
    /// `[experts, in, out]` (transformers, integrations/mxfp4.py, `convert_moe_packed_tensors`).
    GptOss,
    /// Two indices a byte into a table of 16 values, the first in the high half; `absmax` for each block of the flattened tensor,
    /// itself quantised if there is a nested table (bitsandbytes, functional.py, `QuantState` and `dequantize_4bit`).
    Bnb4 { block: u64, nested: Option<Nested> },
}

/// What is done with the scale of a whole tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    None,
    Multiply,
    Divide,
}

/// How the scales of a bitsandbytes tensor are quantised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Nested {
    pub block: u64,
    pub offset: f32,
}

const F8: &[DType] = &[DType::F8_E4M3, DType::F8_E5M2, DType::F8_E4M3FNUZ, DType::F8_E5M2FNUZ];
const F8_AND_I8: &[DType] = &[DType::F8_E4M3, DType::F8_E5M2, DType::F8_E4M3FNUZ, DType::F8_E5M2FNUZ, DType::I8];

/// The tensors that LLM.int8, NF4 and FP4 keep beside a weight.
const NF4: &str = ".weight.quant_state.bitsandbytes__nf4";
const FP4: &str = ".weight.quant_state.bitsandbytes__fp4";

/// Every scheme. The first whose tensors are all there wins.
pub(super) static SCHEMES: &[Scheme] = &[
    Scheme {
        name: "AWQ",
        suffix: ".qweight",
        plain: ".weight",
        types: &[DType::I32],
        needs: &[".scales", ".qzeros"],
        may: &[],
        layout: awq,
    },
    Scheme {
        name: "GPTQ",
        suffix: ".qweight",
        plain: ".weight",
        types: &[DType::I32],
        needs: &[".scales", ".qzeros"],
        may: &[".g_idx"],
        layout: gptq,
    },
    Scheme {
        name: "NVFP4",
        suffix: ".weight_packed",
        plain: ".weight",
        types: &[DType::U8],
        needs: &[".weight_scale", ".weight_global_scale"],
        may: &[".input_global_scale"],
        layout: |lookup, parts| fp4(lookup, parts, Whole::Divide),
    },
    Scheme {
        name: "MXFP4",
        suffix: ".weight_packed",
        plain: ".weight",
        types: &[DType::U8],
        needs: &[".weight_scale"],
        may: &[],
        layout: |lookup, parts| fp4(lookup, parts, Whole::None),
    },
    Scheme {
        name: "compressed-tensors",
        suffix: ".weight_packed",
        plain: ".weight",
        types: &[DType::I32],
        needs: &[".weight_scale"],
        may: &[".weight_shape", ".weight_zero_point", ".weight_g_idx"],
        layout: pack_quantized,
    },
    Scheme {
        name: "NVFP4",
        suffix: ".weight",
        plain: ".weight",
        types: &[DType::U8],
        needs: &[".weight_scale", ".weight_scale_2"],
        may: &[".input_scale"],
        layout: |lookup, parts| fp4(lookup, parts, Whole::Multiply),
    },
    Scheme {
        name: "bitsandbytes 4-bit",
        suffix: ".weight",
        plain: ".weight",
        types: &[DType::U8],
        needs: &[".weight.absmax", ".weight.quant_map"],
        may: &[NF4, FP4, ".weight.nested_absmax", ".weight.nested_quant_map"],
        layout: bnb4,
    },
    Scheme {
        name: "bitsandbytes 8-bit",
        suffix: ".weight",
        plain: ".weight",
        types: &[DType::I8],
        needs: &[".SCB"],
        may: &[".weight_format"],
        layout: |lookup, parts| scaled(lookup, parts, 127.0),
    },
    Scheme { name: "MLX", suffix: ".weight", plain: ".weight", types: &[DType::U32], needs: &[".scales"], may: &[".biases"], layout: mlx },
    Scheme {
        name: "FP8 blocks",
        suffix: ".weight",
        plain: ".weight",
        types: F8,
        needs: &[".weight_scale_inv"],
        may: &[],
        layout: |lookup, parts| scaled(lookup, parts, 1.0),
    },
    Scheme {
        name: "compressed-tensors",
        suffix: ".weight",
        plain: ".weight",
        types: F8_AND_I8,
        needs: &[".weight_scale"],
        may: &[".weight_zero_point"],
        layout: |lookup, parts| scaled(lookup, parts, 1.0),
    },
    Scheme { name: "MXFP4", suffix: "_blocks", plain: "", types: &[DType::U8], needs: &["_scales"], may: &[], layout: gpt_oss },
];

/// The tensors of one packed weight.
pub(super) struct Parts<'a> {
    pub weight: &'a TensorInfo,
    pub beside: &'a [(&'static str, usize)],
}

impl<'a> Parts<'a> {
    /// The tensor beside the weight whose name ends so.
    fn get<'b>(&self, lookup: &'b Lookup<'_>, suffix: &str) -> Option<&'b TensorInfo> {
        let &(_, index) = self.beside.iter().find(|(other, _)| *other == suffix)?;
        lookup.tensor(index)
    }

    fn matrix(&self) -> Option<(u64, u64)> {
        matrix(self.weight)
    }
}

fn matrix(tensor: &TensorInfo) -> Option<(u64, u64)> {
    match tensor.shape[..] {
        [rows, columns] if rows > 0 && columns > 0 => Some((rows, columns)),
        _ => None,
    }
}

impl Scheme {
    /// Whether a tensor may hold numbers packed so.
    pub(super) fn may_hold(&self, tensor: &TensorInfo) -> bool {
        tensor.elem.known().is_some_and(|dtype| self.types.contains(&dtype)) && tensor.name.ends_with(self.suffix)
    }

    /// The packed weight whose numbers a tensor holds.
    pub(super) fn resolve(&self, lookup: &Lookup<'_>, index: usize, tensor: &TensorInfo) -> Option<PackedWeight> {
        if !self.may_hold(tensor) {
            return None;
        }
        let stem = tensor.name.strip_suffix(self.suffix)?;
        let mut beside = Vec::new();
        for &suffix in self.needs {
            beside.push((suffix, lookup.sibling(stem, suffix)?));
        }
        beside.extend(self.may.iter().filter_map(|&suffix| Some((suffix, lookup.sibling(stem, suffix)?))));
        let (layout, shape) = (self.layout)(lookup, &Parts { weight: tensor, beside: &beside })?;
        shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))?;
        let name = format!("{stem}{}", self.plain);
        // A name that another tensor has is not given away.
        if name != tensor.name && lookup.places.contains_key(name.as_str()) {
            return None;
        }
        Some(PackedWeight { scheme: self.name, name, shape, weight: index, beside, layout })
    }
}

/// How many numbers of a word's worth of bits each fit into this many words, if they come out even.
fn unpacked(words: u64, bits: u64) -> Option<u64> {
    let all = words.checked_mul(32)?;
    (bits > 0 && all % bits == 0).then(|| all / bits)
}

fn whole_groups(length: u64, groups: u64) -> Option<u64> {
    (groups > 0 && length > 0).then(|| length.div_ceil(groups))
}

fn awq(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let (input, words) = parts.matrix()?;
    let (groups, output) = matrix(parts.get(lookup, ".scales")?)?;
    let version = lookup.setting("version").and_then(Json::as_str).unwrap_or("gemm");
    let fits = words.checked_mul(8)? == output && matrix(parts.get(lookup, ".qzeros")?)? == (groups, words) && input % groups == 0;
    (fits && version.eq_ignore_ascii_case("gemm")).then_some((Layout::Awq { group: input / groups }, vec![output, input]))
}

fn gptq(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let (words, output) = parts.matrix()?;
    let (groups, scaled) = matrix(parts.get(lookup, ".scales")?)?;
    let (zero_groups, zero_words) = matrix(parts.get(lookup, ".qzeros")?)?;
    let bits = zero_words.checked_mul(32)? / output;
    let input = unpacked(words, bits)?;
    let indices = parts.get(lookup, ".g_idx").is_none_or(|tensor| tensor.shape == [input]);
    let fits = scaled == output && zero_groups == groups && unpacked(zero_words, bits)? == output && indices;
    // `group_size` tells the groups where the last is cut short; -1 is one group for all.
    let group = lookup.setting("group_size").and_then(Json::as_u64).filter(|size| *size > 0 && input.div_ceil(*size) == groups);
    let group = group.or_else(|| whole_groups(input, groups))?;
    let plus = u32::from(lookup.setting("checkpoint_format").and_then(Json::as_str) != Some("gptq_v2"));
    let bits = u32::try_from(bits).ok().filter(|bits| (2..=8).contains(bits))?;
    fits.then_some((Layout::Gptq { bits: Bits(bits), group, plus }, vec![output, input]))
}

/// `num_bits` of the weights, as compressed-tensors' config has it for its groups of layers.
fn configured_bits(lookup: &Lookup<'_>) -> Option<u64> {
    let groups = lookup.setting("config_groups")?.as_object()?;
    groups.values().find_map(|group| group.get("weights")?.get("num_bits")?.as_u64())
}

fn pack_quantized(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let (output, words) = parts.matrix()?;
    let (scale_rows, groups) = matrix(parts.get(lookup, ".weight_scale")?)?;
    let told = parts.get(lookup, ".weight_shape").and_then(|tensor| whole_numbers(lookup, tensor));
    let bits_for = |input: u64| (1..=8u64).find(|bits| (input * bits).div_ceil(32) == words);
    let (input, bits) = match told.as_deref() {
        Some(&[rows, input]) if rows == output && input > 0 && input <= words.checked_mul(32)? => {
            (input, configured_bits(lookup).filter(|bits| (input * bits).div_ceil(32) == words).or_else(|| bits_for(input))?)
        }
        _ => {
            let bits = configured_bits(lookup).unwrap_or(4);
            (unpacked(words, bits)?, bits)
        }
    };
    let group = whole_groups(input, groups)?;
    let bits = u32::try_from(bits).ok().filter(|bits| (1..=8).contains(bits))?;
    (scale_rows == output).then_some((Layout::PackQuantized { bits: Bits(bits), group }, vec![output, input]))
}

/// The values of a short tensor of 64-bit integers.
fn whole_numbers(lookup: &Lookup<'_>, tensor: &TensorInfo) -> Option<Vec<u64>> {
    if tensor.elem.known() != Some(DType::I64) || tensor.elements().ok()? > 8 {
        return None;
    }
    let bytes = lookup.reader.bytes(tensor).ok()?;
    bytes.as_chunks::<8>().0.iter().map(|number| u64::try_from(i64::from_le_bytes(*number)).ok()).collect()
}

fn mlx(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let (&words, outer) = parts.weight.shape.split_last()?;
    let scales = parts.get(lookup, ".scales")?;
    let (&groups, scale_outer) = scales.shape.split_last()?;
    if outer != scale_outer || outer.is_empty() || groups == 0 {
        return None;
    }
    // Without biases it is MLX's own form of MXFP4: powers of two for 32 weights.
    let has_biases = parts.get(lookup, ".biases").is_some();
    let size = if has_biases { lookup.setting("group_size").and_then(Json::as_u64).unwrap_or(64) } else { 32 };
    let input = groups.checked_mul(size)?;
    let bits = words.checked_mul(32)?.checked_div(input)?;
    let mut shape = outer.to_vec();
    shape.push(input);
    match (has_biases, bits) {
        (true, 2 | 3 | 4 | 5 | 6 | 8) => Some((Layout::Mlx { bits: Bits(bits as u32), group: size }, shape)),
        (false, 4) if scales.elem.known() == Some(DType::U8) => Some((Layout::Fp4 { group: size, whole: Whole::None }, shape)),
        _ => None,
    }
}

fn scaled(lookup: &Lookup<'_>, parts: &Parts<'_>, divide: f32) -> Found {
    let scales = [".weight_scale_inv", ".weight_scale", ".SCB"].into_iter().find_map(|suffix| parts.get(lookup, suffix))?;
    let shape = parts.weight.shape.clone();
    let (&input, outer) = shape.split_last()?;
    let output: u64 = outer.iter().product();
    let all = scales.elements().ok()?;
    let set = lookup.setting("weight_block_size").and_then(Json::as_array).and_then(|sizes| {
        let size = |i: usize| sizes.get(i).and_then(Json::as_u64).filter(|size| *size > 0);
        Some((size(0)?, size(1)?))
    });
    let (rows, columns, across) = if all == 1 {
        (output, input, 1) // one for the tensor
    } else if all == output && scales.shape.last() != Some(&input.div_ceil(128)) {
        (1, input, 1) // one a row
    } else {
        let (&across, down) = scales.shape.split_last()?;
        let down: u64 = down.iter().product();
        // Groups along a row, or blocks in both directions: told by the config, or 128 wide as DeepSeek's are.
        let wide = if down == output { (1, whole_groups(input, across)?) } else { set.unwrap_or((128, 128)) };
        let planes: u64 = shape.iter().rev().skip(2).product();
        let fits = input.div_ceil(wide.1) == across && (output / planes.max(1)).div_ceil(wide.0) * planes.max(1) == down;
        if !fits || (planes > 1 && !(output / planes).is_multiple_of(wide.0)) {
            return None;
        }
        (wide.0, wide.1, across)
    };
    Some((Layout::Scaled { rows, columns, scales: across, divide }, shape))
}

fn fp4(lookup: &Lookup<'_>, parts: &Parts<'_>, whole: Whole) -> Found {
    let (output, bytes) = parts.matrix()?;
    let scales = parts.get(lookup, ".weight_scale")?;
    let (rows, groups) = matrix(scales)?;
    let input = bytes.checked_mul(2)?;
    let is_scale = matches!(scales.elem.known(), Some(DType::F8_E4M3 | DType::F8_E8M0 | DType::U8));
    let fits = rows == output && input % groups == 0 && is_scale;
    fits.then(|| (Layout::Fp4 { group: input / groups, whole }, vec![output, input]))
}

fn gpt_oss(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let scales = parts.get(lookup, "_scales")?;
    match parts.weight.shape[..] {
        [experts, output, groups, 16] if scales.shape == [experts, output, groups] && scales.elem.known() == Some(DType::U8) => {
            Some((Layout::GptOss, vec![experts, groups.checked_mul(32)?, output]))
        }
        _ => None,
    }
}

fn bnb4(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let state = parts.get(lookup, NF4).or_else(|| parts.get(lookup, FP4));
    let bytes = parts.weight.elements().ok()?;
    let state: Json = match state.filter(|tensor| tensor.elements().is_ok_and(|n| n <= 1 << 16)) {
        Some(tensor) => serde_json::from_slice(&lookup.reader.bytes(tensor).ok()?).ok()?,
        None => Json::Null,
    };
    let told = state.get("shape").and_then(Json::as_array).and_then(|dims| dims.iter().map(Json::as_u64).collect::<Option<Vec<_>>>());
    let shape = told.unwrap_or_else(|| vec![bytes * 2]);
    let elements = shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))?;
    let scales = parts.get(lookup, ".weight.absmax")?.elements().ok()?;
    let block = state.get("blocksize").and_then(Json::as_u64).unwrap_or(64).max(1);
    let nested = parts.get(lookup, ".weight.nested_absmax").map(|_| Nested {
        block: state.get("nested_blocksize").and_then(Json::as_u64).unwrap_or(256).max(1),
        offset: state.get("nested_offset").and_then(Json::as_f64).unwrap_or(0.0) as f32,
    });
    let table = parts.get(lookup, ".weight.quant_map")?.elements().ok()? == 16;
    let fits = elements.div_ceil(2) == bytes && elements.div_ceil(block) == scales && table;
    fits.then_some((Layout::Bnb4 { block, nested }, shape))
}
