//! The schemes, one row each: which tensors belong together, and what their shapes say.

use serde_json::Value as Json;

use super::claims::{MlxSettings, torchao};
use super::{Lookup, PackedWeight};
use crate::model::{DType, PackedType, TensorInfo};

/// What a group of tensors stands for: how its values are computed, the shape of the weights, and the type that they show.
pub(super) type Found = Option<(Layout, Vec<u64>, PackedType)>;

/// A way of packing weights.
pub(super) struct Scheme {
    /// The library or format that packs so.
    pub name: &'static str,
    /// The end of the name of the tensor that holds the numbers.
    pub suffix: &'static str,
    /// The end of the name of the unquantised tensor.
    plain: &'static str,
    /// Its types.
    types: &'static [DType],
    /// Ends of the names of tensors that must be beside it.
    pub needs: &'static [&'static str],
    /// Ends of the names of tensors that may be.
    pub may: &'static [&'static str],
    /// Finds the layout, if the shapes fit.
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
    /// Rows of the weights in rows of numbers: `(q - z) * scale + bias`.
    Rows(Rows),
    /// Expert weights of gpt-oss: `blocks [experts, out, groups, 16]`, `scales [experts, out, groups]`; unquantised they are
    /// `[experts, in, out]` (transformers, integrations/mxfp4.py, `convert_moe_packed_tensors`).
    GptOss,
    /// Two indices a byte into a table of 16 values, the first in the high half; `absmax` for each block of the flattened tensor,
    /// itself quantised if there is a nested table (bitsandbytes, functional.py, `QuantState` and `dequantize_4bit`).
    Bnb4 { block: u64, nested: Option<Nested> },
    /// Blocks of a GGUF whose values are multiplied by a scale for so many elements each (llama.cpp, `build_lora_mm`).
    Scaled { per: u64 },
    /// Numbers of whose packing only the shape is known.
    Counted,
}

/// Rows of numbers, and what makes values of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rows {
    pub codes: Codes,
    /// The tensor of the scales, by the end of its name, and which scale is whose.
    pub scale: Option<(&'static str, Grid)>,
    pub zero: Zero,
    /// The end of the name of the tensor that is added, with a value for each scale.
    pub bias: Option<&'static str>,
    /// One scale for the tensor or for each of its matrices.
    pub whole: Whole,
    /// What scales are divided by.
    pub divide: f32,
    /// The end of the name of the tensor that has the group of each column.
    pub indices: Option<&'static str>,
}

impl Rows {
    fn new(codes: Codes, scale: &'static str, grid: Grid) -> Self {
        Self { codes, scale: Some((scale, grid)), zero: Zero::None, bias: None, whole: Whole::None, divide: 1.0, indices: None }
    }
}

/// How the numbers of a row are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Codes {
    /// A number an element, of the tensor's own type.
    Plain,
    /// Unsigned numbers along the row, from the low bits up, less `center` (compressed-tensors, pack_quantized/helpers.py,
    /// `pack_to_int32`; MLX; AutoAWQ's GEMV).
    Words { bits: Bits, center: u32 },
    /// E2M1, E2M3 or E4M3 along the row, by their bits; with two a byte, the first is in the low half unless `high_first`.
    Floats { bits: u32, high_first: bool },
    /// Ternary numbers plus one, two bits each: the row is in the byte rows `r % (out / 4)`, at the bits `2 (r / (out / 4))`
    /// (transformers, integrations/bitnet.py, `unpack_weights`).
    Ternary,
}

/// Which scale an element has: one for every `tall x wide` of them, `across` in a row of scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid {
    pub tall: u64,
    pub wide: u64,
    pub across: u64,
    pub kind: ScaleKind,
}

/// How scales are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScaleKind {
    /// As floating-point numbers; bytes are exponents, as in F8_E8M0.
    Own,
    /// As E4M3, whatever the tensor's type.
    E4m3,
    /// In tiles of 128 rows and 4 columns, as cuBLAS takes them: the scale of row r, column c is the byte
    /// `16 (r % 32) + 4 (r / 32 % 4) + c % 4` of its tile (comfy-kitchen, float_utils.py, `to_blocked`).
    Tiled,
}

/// Where zero points are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zero {
    None,
    /// Numbers of their own type, one a scale.
    Plain(&'static str),
    /// Packed along the rows (a word holds those of several), less `center`.
    Down {
        suffix: &'static str,
        bits: Bits,
        center: u32,
    },
    /// Packed along each row.
    Along {
        suffix: &'static str,
        bits: Bits,
    },
}

/// What is done with the scale of a whole tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    None,
    Multiply(&'static str),
    Divide(&'static str),
}

/// How the scales of a bitsandbytes tensor are quantised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Nested {
    pub block: u64,
    pub offset: f32,
}

const F8: &[DType] = &[DType::F8_E4M3, DType::F8_E5M2, DType::F8_E4M3FNUZ, DType::F8_E5M2FNUZ];
const F8_AND_I8: &[DType] = &[DType::F8_E4M3, DType::F8_E5M2, DType::F8_E4M3FNUZ, DType::F8_E5M2FNUZ, DType::I8];
const BYTES: &[DType] = &[DType::U8, DType::I8];

/// The tensors that LLM.int8, NF4 and FP4 keep beside a weight.
const NF4: &str = ".weight.quant_state.bitsandbytes__nf4";
const FP4: &str = ".weight.quant_state.bitsandbytes__fp4";

/// What HQQ keeps beside the numbers (hqq/core/quantize.py, `HQQLinear.state_dict_keys`).
const HQQ: &[&str] = &[
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

const fn named(name: &'static str) -> PackedType {
    PackedType::named(name)
}

/// A row of [`SCHEMES`] in the order of its fields.
macro_rules! schemes {
    ($($name:literal $suffix:literal -> $plain:literal, $types:expr, $needs:expr, $may:expr, $layout:expr;)*) => {
        &[$(Scheme { name: $name, suffix: $suffix, plain: $plain, types: $types, needs: $needs, may: $may, layout: $layout }),*]
    };
}

/// Every scheme: name, the tensor of the numbers and what it is called unquantised, types, what must be beside it, what may be. The
/// first whose tensors are all there and fit wins.
#[rustfmt::skip]
pub(super) static SCHEMES: &[Scheme] = schemes! {
    "AWQ" ".qweight" -> ".weight", &[DType::I32], &[".scales", ".qzeros"], &[], awq;
    "AWQ" ".qweight" -> ".weight", &[DType::I16], &[".scales", ".qzeros"], &[], awq_fast;
    "GPTQ" ".qweight" -> ".weight", &[DType::I32], &[".scales", ".qzeros"], &[".g_idx"], gptq;
    "GPTQ" ".B" -> ".weight", &[DType::I32], &[".s"], &[".workspace"], marlin;
    "compressed-tensors" ".weight_packed" -> ".weight", BYTES, &[".weight_scale", ".weight_global_scale"], &[], nvfp4_packed;
    "compressed-tensors" ".weight_packed" -> ".weight", BYTES, &[".weight_scale"], &[], mx_packed;
    "compressed-tensors" ".weight_packed" -> ".weight", &[DType::I32], &[".weight_scale"], &[".weight_shape", ".weight_zero_point", ".weight_g_idx"], pack_quantized;
    "compressed-tensors" ".compressed" -> "", &[DType::F32, DType::F16, DType::BF16, DType::I8, DType::F8_E4M3], &[".bitmask", ".shape"], &[".row_offsets"], bitmask;
    "ComfyUI" ".weight" -> ".weight", &[DType::U8], &[".weight_scale", ".weight_scale_2"], &[".comfy_quant"], comfy_nvfp4;
    "ComfyUI" ".weight" -> ".weight", F8, &[".weight_scale"], &[".comfy_quant"], comfy_mxfp8;
    "ModelOpt" ".weight" -> ".weight", BYTES, &[".weight_scale", ".weight_scale_2"], &[], modelopt_nvfp4;
    "ModelOpt" ".weight" -> ".weight", &[DType::U8], &[".weight_scale"], &[".pre_quant_scale", ".weight_scale_2"], modelopt_int4;
    "BitNet" ".weight" -> ".weight", &[DType::U8], &[".weight_scale"], &[], bitnet;
    "OCP MX" ".weight" -> ".weight", &[DType::U8], &[".weight_scale"], &[], mx_packed;
    "bitsandbytes" ".weight" -> ".weight", &[DType::U8], &[".weight.absmax", ".weight.quant_map"], &[NF4, FP4, ".weight.nested_absmax", ".weight.nested_quant_map"], bnb4;
    "bitsandbytes" ".weight" -> ".weight", &[DType::I8], &[".SCB"], &[".weight_format"], |lookup, parts| scaled(lookup, parts, ".SCB", 127.0);
    "MLX" ".weight" -> ".weight", &[DType::U32], &[".scales"], &[".biases"], mlx;
    "FP8" ".weight" -> ".weight", F8, &[".weight_scale_inv"], &[], |lookup, parts| scaled(lookup, parts, ".weight_scale_inv", 1.0);
    "ComfyUI" ".weight" -> ".weight", F8_AND_I8, &[".scale_weight"], &[".scale_input", ".comfy_quant"], |lookup, parts| scaled(lookup, parts, ".scale_weight", 1.0);
    "scaled weights" ".weight" -> ".weight", F8_AND_I8, &[".weight_scale"], &[".weight_zero_point", ".comfy_quant"], |lookup, parts| scaled(lookup, parts, ".weight_scale", 1.0);
    "quanto" ".weight._data" -> ".weight", F8_AND_I8, &[".weight._scale"], &[], |lookup, parts| scaled(lookup, parts, ".weight._scale", 1.0);
    "quanto" ".weight._data" -> ".weight", &[DType::U8], &[".weight._scale", ".weight._shift"], &[], quanto_bits;
    "quanto" ".weight._data._data" -> ".weight", &[DType::U8], &[".weight._scale", ".weight._shift"], &[], quanto_bits;
    "torchao" "._weight_qdata" -> ".weight", &[DType::U8, DType::I8, DType::I32, DType::F8_E4M3, DType::F8_E5M2], &["._weight_scale"], &["._weight_zero_point", "._weight_act_pre_scale", "._weight_per_tensor_scale"], torchao_data;
    "torchao" "._weight_qdata" -> ".weight", &[DType::U8, DType::I8, DType::I32], &["._weight_scale_and_zero"], &[], torchao_data;
    "EETQ" ".weight" -> ".weight", &[DType::I8], &[".weight_scales"], &[], eetq;
    "EXL2" ".q_weight" -> ".weight", &[DType::I32], &[".q_scale", ".q_groups"], &[".q_invperm", ".q_perm", ".q_scale_max", ".q_group_map"], exl2;
    "EXL3" ".trellis" -> ".weight", &[DType::I16, DType::U16], &[], &[".suh", ".svh", ".su", ".sv", ".mcg", ".mul1", ".mcg_mult", ".mul1_mult"], exl3;
    "HQQ" ".W_q" -> ".weight", &[DType::U8, DType::I32, DType::F32, DType::F16, DType::BF16], &[".shape", ".scale", ".zero"], HQQ, hqq;
    "AQLM" ".codes" -> ".weight", &[DType::I8, DType::U8, DType::I16, DType::I32], &[".codebooks", ".scales"], &[], aqlm;
    "VPTQ" ".indices" -> ".weight", &[DType::I32, DType::U16, DType::I16], &[".centroids.weight"], &[".res_centroids.weight", ".res_indices", ".outlier_indices", ".outlier_centroids.weight", ".weight_scale", ".weight_bias", ".perm"], vptq;
    "MXFP4" "_blocks" -> "", &[DType::U8], &["_scales"], &[], gpt_oss;
};

/// Ends of names that packed numbers have, whether or not a scheme above reads them.
pub(super) const PACKED_NAMES: &[&str] = &[
    ".qweight",
    ".weight_packed",
    ".W_q",
    ".codes",
    ".q_weight",
    ".trellis",
    "._data",
    "._weight_qdata",
    ".indices",
    ".dense_weights",
    ".compressed",
    "_blocks",
    ".weight.absmax",
    ".weight",
    ".B",
];

/// The tensors of one packed weight.
pub(super) struct Parts<'a> {
    pub stem: &'a str,
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

    fn is(&self, dtype: DType) -> bool {
        is(self.weight, dtype)
    }
}

fn is(tensor: &TensorInfo, dtype: DType) -> bool {
    tensor.elem.known() == Some(dtype)
}

fn matrix(tensor: &TensorInfo) -> Option<(u64, u64)> {
    match tensor.shape[..] {
        [rows, columns] if rows > 0 && columns > 0 => Some((rows, columns)),
        _ => None,
    }
}

/// The rows of a stack of matrices, and the length of a row.
fn rows_of(tensor: &TensorInfo) -> Option<(u64, u64)> {
    let (&columns, outer) = tensor.shape.split_last()?;
    let rows = outer.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim))?;
    (!outer.is_empty() && rows > 0 && columns > 0).then_some((rows, columns))
}

/// The shape of a tensor with rows of another length.
fn with_columns(tensor: &TensorInfo, columns: u64) -> Vec<u64> {
    let mut shape = tensor.shape.clone();
    if let Some(last) = shape.last_mut() {
        *last = columns;
    }
    shape
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
        let may = self.may.iter().filter(|suffix| !self.needs.contains(suffix));
        beside.extend(may.filter_map(|&suffix| Some((suffix, lookup.sibling(stem, suffix)?))));
        let (layout, shape, shown) = (self.layout)(lookup, &Parts { stem, weight: tensor, beside: &beside })?;
        // Sizes in bytes of the weights as F32 are computed of this.
        shape.iter().try_fold(32u64, |product, &dim| product.checked_mul(dim))?;
        let name = format!("{stem}{}", self.plain);
        // A name that another tensor has is not given away.
        if name != tensor.name && lookup.places.contains_key(name.as_str()) {
            return None;
        }
        Some(PackedWeight { scheme: self.name, shown, name, shape, weight: index, beside, layout })
    }
}

/// How many numbers of so many bits fit into this many words, if they come out even.
fn unpacked(words: u64, bits: u64) -> Option<u64> {
    let all = words.checked_mul(32)?;
    (bits > 0 && all % bits == 0).then(|| all / bits)
}

fn whole_groups(length: u64, groups: u64) -> Option<u64> {
    (groups > 0 && length > 0).then(|| length.div_ceil(groups))
}

/// How the scales of a matrix (or a stack of them) are spread over it, by their shape: one in all, one a matrix, one a row or column,
/// one for a run of a row, or one for a block.
fn grid(scales: &TensorInfo, shape: &[u64], block: Option<(u64, u64)>) -> Option<Grid> {
    let (&input, outer) = shape.split_last()?;
    let output = outer.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim))?;
    let planes: u64 = shape.iter().rev().skip(2).product();
    let all = scales.elements().ok()?;
    if input == 0 || output == 0 || all == 0 {
        return None;
    }
    let of = |tall, wide, across| Some(Grid { tall, wide, across, kind: ScaleKind::Own });
    if all == 1 {
        return of(output, input, 1);
    }
    let (&across, down) = scales.shape.split_last()?;
    let down = down.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim))?;
    if let Some((tall, wide)) = block {
        let fits = input.div_ceil(wide) == across && (output / planes).div_ceil(tall) * planes == down;
        if fits && down != output && (planes == 1 || (output / planes).is_multiple_of(tall)) {
            return of(tall, wide, across);
        }
    }
    if down == output {
        return of(1, whole_groups(input, across)?, across);
    }
    if all == output {
        return of(1, input, 1);
    }
    if all == planes {
        return of(output / planes, input, 1);
    }
    if down == 1 && across == input {
        return of(output, 1, across);
    }
    None
}

/// DeepSeek's blocks, where no config says another size.
const BLOCK: (u64, u64) = (128, 128);

fn awq(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let ((rows, words), scales, zeros) = (parts.matrix()?, matrix(parts.get(lookup, ".scales")?)?, matrix(parts.get(lookup, ".qzeros")?)?);
    let shown = PackedType { name: "AWQ", bits: 4 };
    let version = lookup.claims.text("version").unwrap_or("gemm").to_ascii_lowercase();
    let (input, output) = (rows, words.checked_mul(8)?);
    if scales.1 == output && zeros == (scales.0, words) && input % scales.0 == 0 && version != "gemv" {
        return Some((Layout::Awq { group: input / scales.0 }, vec![output, input], shown));
    }
    // GEMV: rows of the weights, packed in order; scales and zero points are filled up to whole words.
    let (output, input) = (rows, words.checked_mul(8)?);
    let named = ["group_size", "q_group_size"].into_iter().find_map(|key| lookup.claims.setting(key)?.as_i64());
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

/// AutoAWQ's GEMV_FAST interleaves four rows in words of 16 bits (awq/modules/linear/gemv_fast.py).
fn awq_fast(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let (rows, input) = parts.matrix()?;
    let (_, output) = matrix(parts.get(lookup, ".scales")?)?;
    (rows.checked_mul(4)? == output).then_some((Layout::Counted, vec![output, input], PackedType { name: "AWQ", bits: 4 }))
}

fn gptq(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let (words, output) = parts.matrix()?;
    let (groups, scaled) = matrix(parts.get(lookup, ".scales")?)?;
    let (zero_groups, zero_words) = matrix(parts.get(lookup, ".qzeros")?)?;
    if scaled != output || zero_groups != groups {
        return None;
    }
    let claims = &lookup.claims;
    let group_size = claims.number("group_size").filter(|size| *size > 0);
    let indices = parts.get(lookup, ".g_idx").map(|tensor| tensor.shape.as_slice());
    // Bits and inputs that fill the words exactly; or those that the config says, in buffers that may be larger than needed.
    let exact = || {
        let bits = zero_words.checked_mul(32)?.checked_div(output)?;
        let input = unpacked(words, bits)?;
        (unpacked(zero_words, bits)? == output && indices.is_none_or(|indices| indices == [input])).then_some((bits, input))
    };
    let configured = || {
        let bits = claims.number("bits").filter(|bits| (1..=8).contains(bits))?;
        let input = match indices {
            Some(&[input]) => input,
            _ => group_size?.checked_mul(groups)?,
        };
        let fits = |numbers: u64, words: u64| numbers.checked_mul(bits).is_some_and(|all| all.div_ceil(32) <= words);
        (fits(input, words) && fits(output, zero_words)).then_some((bits, input))
    };
    // `dynamic` has other bits for some layers.
    let (bits, input) = if claims.setting("dynamic").is_some() { exact().or_else(configured)? } else { configured().or_else(exact)? };
    // `group_size` tells the groups where the last is cut short; -1 is one group for all.
    let group = group_size.filter(|size| input.div_ceil(*size) == groups).or_else(|| whole_groups(input, groups))?;
    let plus = u32::from(!claims.gptq_format().is_some_and(|format| format.eq_ignore_ascii_case("gptq_v2")));
    let bits = u32::try_from(bits).ok().filter(|bits| (2..=8).contains(bits))?;
    Some((Layout::Gptq { bits: Bits(bits), group, plus }, vec![output, input], PackedType { name: "GPTQ", bits }))
}

/// Marlin's own order of 4-bit numbers: `B [in / 16, out * 2]`, `s [groups, out]` (AutoGPTQ, qlinear_marlin.py).
fn marlin(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let ((rows, words), (_, output)) = (parts.matrix()?, matrix(parts.get(lookup, ".s")?)?);
    let fits = words == output.checked_mul(2)?;
    fits.then_some((Layout::Counted, vec![output, rows.checked_mul(16)?], PackedType { name: "GPTQ", bits: 4 }))
}

fn pack_quantized(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let (output, words) = rows_of(parts.weight)?;
    let scales = parts.get(lookup, ".weight_scale")?;
    let told = parts.get(lookup, ".weight_shape").and_then(|tensor| whole_numbers(lookup, tensor));
    let told = told.as_ref().and_then(|shape| shape.last().copied()).filter(|input| *input > 0 && *input <= words.saturating_mul(32));
    let needed = |input: u64, bits: u64| input.checked_mul(bits).map(|all| all.div_ceil(32));
    let configured = lookup.claims.group_bits(parts.stem);
    let (input, bits) = match told {
        Some(input) => {
            let fits = |bits: &u64| needed(input, *bits) == Some(words);
            (input, configured.iter().copied().find(fits).or_else(|| (1..=8).find(fits))?)
        }
        None => {
            // Of several groups of layers, the one whose groups of columns are as many as the scales.
            let sizes: Vec<u64> = lookup.claims.groups().iter().filter_map(|weights| weights.get("group_size")?.as_u64()).collect();
            let groups = scales.shape.last().copied()?;
            let fits = |bits: &&u64| {
                unpacked(words, **bits).is_some_and(|input| {
                    sizes.is_empty() || groups == 1 || sizes.iter().any(|size| *size > 0 && input.div_ceil(*size) == groups)
                })
            };
            let mut fitting = configured.iter().filter(fits);
            let bits = *fitting.next()?;
            if fitting.next().is_some() {
                return None; // which of them cannot be known
            }
            (unpacked(words, bits)?, bits)
        }
    };
    let shape = with_columns(parts.weight, input);
    let bits = u32::try_from(bits).ok().filter(|bits| (1..=8).contains(bits))?;
    let center = 1u32 << (bits - 1);
    let grid = grid(scales, &shape, None)?;
    let zero = match parts.get(lookup, ".weight_zero_point") {
        None => Zero::None,
        Some(zeros) if zeros.shape == scales.shape => Zero::Plain(".weight_zero_point"),
        Some(zeros) => {
            let packed =
                parts.matrix().is_some() && is(zeros, DType::I32) && matrix(zeros)? == (needed(output, u64::from(bits))?, grid.across);
            packed.then_some(Zero::Down { suffix: ".weight_zero_point", bits: Bits(bits), center })?
        }
    };
    let indices = parts.get(lookup, ".weight_g_idx").filter(|indices| indices.shape == [input] && is(indices, DType::I32));
    let rows = Rows {
        zero,
        indices: indices.map(|_| ".weight_g_idx"),
        ..Rows::new(Codes::Words { bits: Bits(bits), center }, ".weight_scale", grid)
    };
    Some((Layout::Rows(rows), shape, PackedType { name: "INT", bits }))
}

/// The values of a short tensor of integers.
fn whole_numbers(lookup: &Lookup<'_>, tensor: &TensorInfo) -> Option<Vec<u64>> {
    if tensor.elements().ok()? > 8 {
        return None;
    }
    let bytes = lookup.reader.bytes(tensor).ok()?;
    match tensor.elem.known()? {
        DType::I64 => bytes.as_chunks::<8>().0.iter().map(|number| u64::try_from(i64::from_le_bytes(*number)).ok()).collect(),
        DType::I32 => bytes.as_chunks::<4>().0.iter().map(|number| u64::try_from(i32::from_le_bytes(*number)).ok()).collect(),
        _ => None,
    }
}

fn mlx(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let (_, words) = rows_of(parts.weight)?;
    let scales = parts.get(lookup, ".scales")?;
    let (&groups, scale_outer) = scales.shape.split_last()?;
    if parts.weight.shape.split_last()?.1 != scale_outer || groups == 0 {
        return None;
    }
    let affine = parts.get(lookup, ".biases").is_some();
    let MlxSettings { group, bits, mode } = lookup.claims.mlx(parts.stem);
    let bytes = is(scales, DType::U8);
    // How many bits a group has is known; which bits and which group, the config says, or the mode where it is silent.
    let per_group = words.checked_mul(32)?.checked_div(groups).filter(|_| words * 32 % groups == 0)?;
    let mode = match mode.as_deref() {
        Some(mode) => mode,
        None if affine => "affine",
        None => "mxfp4",
    };
    let (kind, name, default_group, default_bits) = match mode {
        "affine" if affine && !bytes => (ScaleKind::Own, "MLX", 64, 4),
        "mxfp4" if bytes && !affine => (ScaleKind::Own, "MXFP4", 32, 4),
        "mxfp8" if bytes && !affine => (ScaleKind::Own, "MXFP8", 32, 8),
        "nvfp4" if bytes && !affine => (ScaleKind::E4m3, "NVFP4", 16, 4),
        _ => return None,
    };
    let (group, bits) = match (group, bits) {
        (Some(group), Some(bits)) => (group, bits),
        (Some(group), None) => (group, per_group.checked_div(group)?),
        (None, Some(bits)) => (per_group.checked_div(bits)?, bits),
        (None, None) => (default_group, default_bits),
    };
    if group.checked_mul(bits)? != per_group {
        return None;
    }
    let input = groups.checked_mul(group)?;
    let grid = Grid { tall: 1, wide: group, across: groups, kind };
    let bits = u32::try_from(bits).ok()?;
    let (rows, shown) = match (affine, bits) {
        (true, 2 | 3 | 4 | 5 | 6 | 8) => {
            let rows = Rows { bias: Some(".biases"), ..Rows::new(Codes::Words { bits: Bits(bits), center: 0 }, ".scales", grid) };
            (rows, PackedType { name, bits })
        }
        (false, 4 | 8) => (Rows::new(Codes::Floats { bits, high_first: false }, ".scales", grid), named(name)),
        _ => return None,
    };
    Some((Layout::Rows(rows), with_columns(parts.weight, input), shown))
}

/// Whether ComfyUI says that a layer is packed in a way that scales alone do not undo: rotated, or in a format of its own.
fn comfy_other(lookup: &Lookup<'_>, layer: &str) -> bool {
    let Some(said) = lookup.claims.comfy(layer) else { return false };
    let format = said.get("format").and_then(Json::as_str).unwrap_or_default();
    let rotated = said.get("convrot").is_some_and(|value| *value != Json::Bool(false) && !value.is_null());
    rotated || !["float8_e4m3fn", "float8_e5m2", "int8_tensorwise", "int8_rowwise", ""].contains(&format)
}

/// A number an element and scales.
fn scaled(lookup: &Lookup<'_>, parts: &Parts<'_>, suffix: &'static str, divide: f32) -> Found {
    if comfy_other(lookup, parts.stem) {
        return None;
    }
    let scales = parts.get(lookup, suffix)?;
    let shape = parts.weight.shape.clone();
    let grid = grid(scales, &shape, Some(lookup.claims.block().unwrap_or(BLOCK)))?;
    let zero = match parts.get(lookup, ".weight_zero_point") {
        None => Zero::None,
        Some(zeros) if zeros.elements().ok()? == scales.elements().ok()? => Zero::Plain(".weight_zero_point"),
        Some(_) => return None,
    };
    let exponents = is(scales, DType::U8) || is(scales, DType::F8_E8M0);
    let shown = match (parts.is(DType::I8), exponents && grid.wide == 32) {
        (true, _) => named("INT8"),
        (false, true) => named("MXFP8"),
        (false, false) => named("FP8"),
    };
    Some((Layout::Rows(Rows { zero, divide, ..Rows::new(Codes::Plain, suffix, grid) }), shape, shown))
}

/// A float of so few bits that bytes hold several, and scales of groups in rows.
fn packed_floats(lookup: &Lookup<'_>, parts: &Parts<'_>, bits: u32, group: u64) -> Option<(Rows, Vec<u64>)> {
    let (output, bytes) = rows_of(parts.weight)?;
    let scales = parts.get(lookup, ".weight_scale")?;
    let input = bytes.checked_mul(8)?.checked_div(u64::from(bits)).filter(|_| (bytes * 8).is_multiple_of(u64::from(bits)))?;
    let (rows, groups) = rows_of(scales)?;
    let fits = rows == output && input == groups.checked_mul(group)?;
    let grid = Grid { tall: 1, wide: group, across: groups, kind: ScaleKind::Own };
    fits.then(|| (Rows::new(Codes::Floats { bits, high_first: false }, ".weight_scale", grid), with_columns(parts.weight, input)))
}

fn nvfp4_packed(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    nvfp4(lookup, parts, Whole::Divide(".weight_global_scale"))
}

fn modelopt_nvfp4(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    nvfp4(lookup, parts, Whole::Multiply(".weight_scale_2"))
}

fn nvfp4(lookup: &Lookup<'_>, parts: &Parts<'_>, whole: Whole) -> Found {
    if !is(parts.get(lookup, ".weight_scale")?, DType::F8_E4M3) {
        return None;
    }
    // Groups of 16; of 32 where activations have 8 bits.
    let (rows, shape) = [16, 32].into_iter().find_map(|group| packed_floats(lookup, parts, 4, group))?;
    let (Whole::Multiply(suffix) | Whole::Divide(suffix)) = whole else { return None };
    let planes: u64 = shape.iter().rev().skip(2).product();
    let scales = parts.get(lookup, suffix)?.elements().ok()?;
    (scales == 1 || scales == planes).then_some((Layout::Rows(Rows { whole, ..rows }), shape, named("NVFP4")))
}

/// The formats of OCP MX: powers of two for 32 numbers each, of 4 or 6 bits.
fn mx_packed(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let scales = parts.get(lookup, ".weight_scale")?;
    if !is(scales, DType::U8) && !is(scales, DType::F8_E8M0) {
        return None;
    }
    [(4, "MXFP4"), (6, "MXFP6")].into_iter().find_map(|(bits, name)| {
        let (rows, shape) = packed_floats(lookup, parts, bits, 32)?;
        Some((Layout::Rows(rows), shape, named(name)))
    })
}

/// Scales in cuBLAS' tiles: rows filled up to 128, columns to 4.
fn tiled(scales: &TensorInfo, output: u64, input: u64, group: u64) -> Option<Grid> {
    let across = input.div_ceil(group);
    let stored = output.div_ceil(128).checked_mul(128)?.checked_mul(across.div_ceil(4).checked_mul(4)?)?;
    (scales.elements().ok()? == stored).then_some(Grid { tall: 1, wide: group, across, kind: ScaleKind::Tiled })
}

fn comfy_format<'a>(lookup: &'a Lookup<'_>, layer: &str) -> Option<&'a str> {
    lookup.claims.comfy(layer)?.get("format")?.as_str()
}

/// ComfyUI's NVFP4: the first number of a byte is in its high half (comfy-kitchen, `dequantize_nvfp4`).
fn comfy_nvfp4(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let (output, bytes) = parts.matrix()?;
    let said = comfy_format(lookup, parts.stem)? == "nvfp4" && lookup.claims.comfy(parts.stem)?.get("convrot").is_none();
    let grid = tiled(parts.get(lookup, ".weight_scale")?, output, bytes.checked_mul(2)?, 16)?;
    let rows =
        Rows { whole: Whole::Multiply(".weight_scale_2"), ..Rows::new(Codes::Floats { bits: 4, high_first: true }, ".weight_scale", grid) };
    said.then_some((Layout::Rows(rows), vec![output, bytes.checked_mul(2)?], named("NVFP4")))
}

fn comfy_mxfp8(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let (output, input) = parts.matrix()?;
    let said = comfy_format(lookup, parts.stem)? == "mxfp8";
    let grid = tiled(parts.get(lookup, ".weight_scale")?, output, input, 32)?;
    said.then_some((Layout::Rows(Rows::new(Codes::Plain, ".weight_scale", grid)), vec![output, input], named("MXFP8")))
}

/// ModelOpt's INT4: two rows a byte row, for its AWQ algorithms.
fn modelopt_int4(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let algorithm = lookup.claims.text("quant_algo").or_else(|| lookup.claims.text("quantization"))?;
    let (half, input) = parts.matrix()?;
    (algorithm.contains("W4A")).then_some((Layout::Counted, vec![half.checked_mul(2)?, input], PackedType { name: "INT", bits: 4 }))
}

fn bitnet(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let scale = parts.get(lookup, ".weight_scale")?;
    let float = [DType::F32, DType::F16, DType::BF16].into_iter().any(|dtype| is(scale, dtype));
    let (quarter, input) = parts.matrix()?;
    if !float || scale.elements().ok()? != 1 || lookup.claims.text("quant_method").is_some_and(|method| method != "bitnet") {
        return None;
    }
    // transformers' older layer divides by it (integrations/bitnet.py, `BitLinear` and `AutoBitLinear`).
    let whole = if lookup.claims.text("linear_class").unwrap_or("bitlinear") == "autobitlinear" {
        Whole::Multiply(".weight_scale")
    } else {
        Whole::Divide(".weight_scale")
    };
    let rows = Rows { codes: Codes::Ternary, scale: None, zero: Zero::None, bias: None, whole, divide: 1.0, indices: None };
    Some((Layout::Rows(rows), vec![quarter.checked_mul(4)?, input], named("BitNet")))
}

fn gpt_oss(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let scales = parts.get(lookup, "_scales")?;
    match parts.weight.shape[..] {
        [experts, output, groups, 16] if scales.shape == [experts, output, groups] && is(scales, DType::U8) => {
            Some((Layout::GptOss, vec![experts, groups.checked_mul(32)?, output], named("MXFP4")))
        }
        _ => None,
    }
}

fn bnb4(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let (shown, state) = match (parts.get(lookup, NF4), parts.get(lookup, FP4)) {
        (Some(state), _) => ("NF4", Some(state)),
        (None, state) => ("FP4", state),
    };
    let bytes = parts.weight.elements().ok()?;
    let state: Json = match state.filter(|tensor| tensor.elements().is_ok_and(|n| n <= 1 << 16)) {
        Some(tensor) => serde_json::from_slice(&lookup.reader.bytes(tensor).ok()?).ok()?,
        None => Json::Null,
    };
    let told = state.get("shape").and_then(Json::as_array).and_then(|dims| dims.iter().map(Json::as_u64).collect::<Option<Vec<_>>>());
    let shape = match told {
        Some(shape) => shape,
        None => vec![bytes.checked_mul(2)?],
    };
    let elements = shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))?;
    let scales = parts.get(lookup, ".weight.absmax")?.elements().ok()?;
    let block = state.get("blocksize").and_then(Json::as_u64).unwrap_or(64).max(1);
    let nested = parts.get(lookup, ".weight.nested_absmax").map(|_| Nested {
        block: state.get("nested_blocksize").and_then(Json::as_u64).unwrap_or(256).max(1),
        offset: state.get("nested_offset").and_then(Json::as_f64).unwrap_or(0.0) as f32,
    });
    let table = parts.get(lookup, ".weight.quant_map")?.elements().ok()? == 16;
    let fits = elements.div_ceil(2) == bytes && elements.div_ceil(block) == scales && table;
    fits.then_some((Layout::Bnb4 { block, nested }, shape, named(shown)))
}

/// quanto's types of 2 and 4 bits: bytes in the order of its groups; the map of its types says how many numbers are in one.
fn quanto_bits(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let bits = match lookup.claims.quanto(parts.stem)? {
        "qint2" => 2,
        "qint4" => 4,
        _ => return None,
    };
    let numbers = parts.weight.elements().ok()?.checked_mul(8 / bits)?;
    Some((Layout::Counted, vec![numbers], PackedType { name: "QINT", bits: u32::try_from(bits).ok()? }))
}

/// torchao's tensors, by the type and attributes in the metadata of the file (torchao/prototype/safetensors).
fn torchao_data(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let said = torchao(lookup.model, &format!("{}.weight", parts.stem))?;
    let attributes = said.get("_data");
    let told = attributes.and_then(|data| data.get("shape")?.as_array()?.iter().map(Json::as_u64).collect::<Option<Vec<u64>>>());
    let shape = parts.weight.shape.clone();
    match said.get("_type")?.as_str()? {
        kind @ ("Float8Tensor" | "Int8Tensor") if parts.matrix().is_some() => {
            let grid = grid(parts.get(lookup, "._weight_scale")?, &shape, None)?;
            let zero = parts.get(lookup, "._weight_zero_point").map_or(Zero::None, |_| Zero::Plain("._weight_zero_point"));
            let shown = named(if kind == "Float8Tensor" { "FP8" } else { "INT8" });
            let fits = F8_AND_I8.iter().any(|dtype| parts.is(*dtype));
            fits.then_some((Layout::Rows(Rows { zero, ..Rows::new(Codes::Plain, "._weight_scale", grid) }), shape, shown))
        }
        kind if kind.contains("Int4") => {
            // Two numbers a byte, eight a word of 32 bits.
            let numbers = if parts.is(DType::I32) { 8 } else { 2 };
            let all = || Some(vec![parts.weight.elements().ok()?.checked_mul(numbers)?]);
            Some((Layout::Counted, told.or_else(all)?, PackedType { name: "INT", bits: 4 }))
        }
        _ => Some((Layout::Counted, told?, named("torchao"))),
    }
}

/// EETQ's order of bytes is that of its kernels; the shape is `[in, out]`.
fn eetq(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let (input, output) = parts.matrix()?;
    let scales = parts.get(lookup, ".weight_scales")?.elements().ok()?;
    (scales == output).then_some((Layout::Counted, vec![output, input], named("EETQ")))
}

/// EXL2: rows of words of several bit widths; the permutation has an entry for each input.
fn exl2(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let (_, output) = parts.matrix()?;
    let order = [".q_invperm", ".q_perm"].into_iter().find_map(|suffix| parts.get(lookup, suffix));
    let input = match order {
        Some(order) => order.elements().ok()?,
        None => exl2_inputs(lookup, parts)?,
    };
    Some((Layout::Counted, vec![output, input], named("EXL2")))
}

/// The inputs of an EXL2 matrix, of `q_groups`: pairs of bits and the first row of words of each group.
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
fn exl3(_: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    match parts.weight.shape[..] {
        [input, output, words] if words.is_multiple_of(16) => {
            let bits = u32::try_from(words / 16).ok().filter(|bits| (1..=8).contains(bits))?;
            Some((Layout::Counted, vec![output.checked_mul(16)?, input.checked_mul(16)?], PackedType { name: "EXL3", bits }))
        }
        _ => None,
    }
}

fn hqq(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let shape = whole_numbers(lookup, parts.get(lookup, ".shape")?)?;
    let bits = parts.get(lookup, ".nbits").and_then(|tensor| whole_numbers(lookup, tensor)).and_then(|bits| bits.first().copied());
    let bits = bits.or_else(|| lookup.claims.number("nbits")).and_then(|bits| u32::try_from(bits).ok()).unwrap_or(0);
    Some((Layout::Counted, shape, PackedType { name: "HQQ", bits }))
}

/// AQLM: `codes [out / g, in / h, books]`, `codebooks [books, size, g, h]` (aqlm/inference.py, `QuantizedLinear`).
fn aqlm(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    match (&parts.weight.shape[..], &parts.get(lookup, ".codebooks")?.shape[..]) {
        (&[rows, columns, books], &[of, _, tall, wide]) if books == of => {
            Some((Layout::Counted, vec![rows.checked_mul(tall)?, columns.checked_mul(wide)?], named("AQLM")))
        }
        _ => None,
    }
}

/// VPTQ: the config has the shape of each layer.
fn vptq(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    let layer = lookup.claims.setting("config_for_layers")?.get(parts.stem)?;
    let size = |key: &str| layer.get(key).and_then(Json::as_u64);
    Some((Layout::Counted, vec![size("out_features")?, size("in_features")?], named("VPTQ")))
}

/// compressed-tensors' sparse weights: the values that are not zero, and a mask of where they are.
fn bitmask(lookup: &Lookup<'_>, parts: &Parts<'_>) -> Found {
    Some((Layout::Counted, whole_numbers(lookup, parts.get(lookup, ".shape")?)?, named("sparse")))
}
