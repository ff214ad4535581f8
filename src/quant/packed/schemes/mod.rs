//! The schemes, one row each: which tensors belong together, and what their shapes say.

use super::{Lookup, PackedWeight};
use crate::model::{DType, PackedType, TensorInfo};

mod awq;
mod bitnet;
mod bitsandbytes;
mod comfy;
mod compressed_tensors;
mod counted;
mod gpt_oss;
mod gptq;
mod microscaling;
mod mlx;
mod modelopt;
mod torchao;

use awq::{awq, awq_fast};
use bitnet::bitnet;
use bitsandbytes::{FP4, NF4, bnb4};
use comfy::{comfy_mxfp8, comfy_nvfp4, comfy_other};
use compressed_tensors::{bitmask, nvfp4_packed, pack_quantized};
use counted::{HQQ, aqlm, eetq, exl2, exl3, hqq, quanto_bits, vptq};
use gpt_oss::gpt_oss;
use gptq::{gptq, marlin};
use microscaling::mx_packed;
use mlx::mlx;
use modelopt::{modelopt_int4, modelopt_nvfp4};
use torchao::torchao_data;

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
