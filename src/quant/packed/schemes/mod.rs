//! The packing schemes, one row each: companion tensors and shapes.

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

/// The interpretation of a group of tensors: layout, shape and displayed type of the weight.
pub(super) type Interpretation = Option<(Layout, Vec<u64>, PackedType)>;

/// A packing scheme.
pub(super) struct Scheme {
    /// The library or format.
    pub name: &'static str,
    /// The name suffix of the tensor with the packed numbers.
    pub suffix: &'static str,
    /// The name suffix of the unquantised tensor.
    plain: &'static str,
    /// The types of the packed tensor.
    types: &'static [DType],
    /// Name suffixes of required companion tensors.
    pub needs: &'static [&'static str],
    /// Name suffixes of optional companion tensors.
    pub may: &'static [&'static str],
    /// Returns the layout, if the shapes fit.
    layout: fn(&Lookup<'_>, &Parts<'_>) -> Interpretation,
}

/// Numbers of this many bits, packed from the lowest bit of little-endian words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bits(pub u32);

/// The computation of values from stored numbers. Weights are `[out, in]`, and a group is a run along `in`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Layout {
    /// `qweight [in / n, out]`, packed along `in`; `qzeros [groups, out / n]`; `scales [groups, out]`; `g_idx [in]`:
    /// `(q - (z + plus)) * scale`. AutoGPTQ stores zero points less one, its version 2 as they are (qlinear_cuda_old.py, `forward`).
    Gptq { bits: Bits, group: u64, plus: u32 },
    /// `qweight [in, out / 8]`, `qzeros [groups, out / 8]`, `scales [groups, out]`, with the eight of a word in the order
    /// 0 2 4 6 1 3 5 7: `(q - z) * scale` (AutoAWQ, awq/modules/linear/gemm.py, `from_linear`, and awq/utils/packing_utils.py).
    Awq { group: u64 },
    /// Rows of weights in rows of numbers: `(q - z) * scale + bias`.
    Rows(Rows),
    /// Expert weights of gpt-oss: `blocks [experts, out, groups, 16]`, `scales [experts, out, groups]`; unquantised they are
    /// `[experts, in, out]` (transformers, integrations/mxfp4.py, `convert_moe_packed_tensors`).
    GptOss,
    /// Two indices per byte into a table of 16 values, the first in the high nibble; `absmax` per block of the flattened tensor, itself
    /// quantised if there is a nested table (bitsandbytes, functional.py, `QuantState` and `dequantize_4bit`).
    Bnb4 { block: u64, nested: Option<Nested> },
    /// GGUF blocks with a scale per this many elements (llama.cpp, `build_lora_mm`).
    Scaled { per: u64 },
    /// Only the shape is known.
    Counted,
}

/// Rows of numbers, and how to compute values from them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rows {
    pub codes: Codes,
    /// The name suffix of the scales, and their mapping to elements.
    pub scale: Option<(&'static str, Grid)>,
    pub zero: Zero,
    /// The name suffix of the tensor that is added, with one value per scale.
    pub bias: Option<&'static str>,
    /// A single scale for the tensor, or one per matrix.
    pub whole: Whole,
    /// The divisor of the scales.
    pub divide: f32,
    /// The name suffix of the tensor with the group index of each column.
    pub indices: Option<&'static str>,
}

impl Rows {
    fn new(codes: Codes, scale: &'static str, grid: Grid) -> Self {
        Self { codes, scale: Some((scale, grid)), zero: Zero::None, bias: None, whole: Whole::None, divide: 1.0, indices: None }
    }
}

/// The encoding of the numbers in a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Codes {
    /// One number per element, of the tensor's own type.
    Plain,
    /// Unsigned numbers along the row, from the low bits up, minus `center` (compressed-tensors, pack_quantized/helpers.py,
    /// `pack_to_int32`; MLX; AutoAWQ's GEMV).
    Words { bits: Bits, center: u32 },
    /// E2M1, E2M3 or E4M3 along the row, by bit width; of two in a byte, the first is in the low nibble unless `high_first`.
    Floats { bits: u32, high_first: bool },
    /// Ternary numbers plus one, two bits each: row r is in byte row `r % (out / 4)`, at bit `2 (r / (out / 4))` (transformers,
    /// integrations/bitnet.py, `unpack_weights`).
    Ternary,
}

/// The mapping of scales to elements: one scale per `tall x wide` elements of a matrix, `across` of them per row of scales. If `tall` exceeds the
/// rows of a matrix, it counts those of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid {
    pub tall: u64,
    pub wide: u64,
    pub across: u64,
    pub kind: ScaleKind,
}

/// The encoding of scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScaleKind {
    /// Floating-point numbers; bytes are exponents, as in F8_E8M0.
    Own,
    /// E4M3, regardless of the tensor's type.
    E4m3,
    /// Tiles of 128 rows and 4 columns, as in cuBLAS: the scale of row r, column c is the byte `16 (r % 32) + 4 (r / 32 % 4) + c % 4` of
    /// its tile (comfy-kitchen, float_utils.py, `to_blocked`).
    Tiled,
}

/// The encoding of zero points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zero {
    None,
    /// Numbers of the tensor's own type, one per scale.
    Plain(&'static str),
    /// Packed along columns (a word contains several rows), minus `center`.
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

/// The effect of a tensor-wide scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    None,
    Multiply(&'static str),
    Divide(&'static str),
}

/// The quantisation of a bitsandbytes tensor's scales.
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

/// Builds rows of [`SCHEMES`] from their fields in order.
macro_rules! schemes {
    ($($name:literal $suffix:literal -> $plain:literal, $types:expr, $needs:expr, $may:expr, $layout:expr;)*) => {
        &[$(Scheme { name: $name, suffix: $suffix, plain: $plain, types: $types, needs: $needs, may: $may, layout: $layout }),*]
    };
}

/// All schemes: name, suffixes of the packed and the unquantised tensor, types, required and optional companions. The first scheme whose
/// tensors exist and fit is used.
#[rustfmt::skip]
pub(super) static SCHEMES: &[Scheme] = schemes! {
    "AWQ" ".qweight" -> ".weight", &[DType::I32], &[".scales", ".qzeros"], &[], awq;
    "AWQ" ".qweight" -> ".weight", &[DType::I16], &[".scales", ".qzeros"], &[], awq_fast;
    "GPTQ" ".qweight" -> ".weight", &[DType::I32], &[".scales", ".qzeros"], &[".g_idx"], gptq;
    "GPTQ" ".B" -> ".weight", &[DType::I32], &[".s"], &[".workspace"], marlin;
    "compressed-tensors" ".weight_packed" -> ".weight", BYTES, &[".weight_scale", ".weight_global_scale"], &[], nvfp4_packed;
    "compressed-tensors" ".weight_packed" -> ".weight", BYTES, &[".weight_scale"], &[], |lookup, parts| mx_packed(lookup, parts, ".weight_scale");
    "compressed-tensors" ".weight_packed" -> ".weight", &[DType::I32], &[".weight_scale"], &[".weight_shape", ".weight_zero_point", ".weight_g_idx"], pack_quantized;
    "compressed-tensors" ".compressed" -> "", &[DType::F32, DType::F16, DType::BF16, DType::I8, DType::F8_E4M3], &[".bitmask", ".shape"], &[".row_offsets"], bitmask;
    "ComfyUI" ".weight" -> ".weight", &[DType::U8], &[".weight_scale", ".weight_scale_2"], &[".comfy_quant"], comfy_nvfp4;
    "ComfyUI" ".weight" -> ".weight", F8, &[".weight_scale"], &[".comfy_quant"], comfy_mxfp8;
    "ModelOpt" ".weight" -> ".weight", BYTES, &[".weight_scale", ".weight_scale_2"], &[], modelopt_nvfp4;
    "ModelOpt" ".weight" -> ".weight", &[DType::U8], &[".weight_scale"], &[".pre_quant_scale", ".weight_scale_2"], modelopt_int4;
    "BitNet" ".weight" -> ".weight", &[DType::U8], &[".weight_scale"], &[], bitnet;
    "OCP MX" ".weight" -> ".weight", &[DType::U8], &[".weight_scale"], &[], |lookup, parts| mx_packed(lookup, parts, ".weight_scale");
    "OCP MX" ".weight" -> ".weight", BYTES, &[".scale"], &[], |lookup, parts| mx_packed(lookup, parts, ".scale");
    "bitsandbytes" ".weight" -> ".weight", &[DType::U8], &[".weight.absmax", ".weight.quant_map"], &[NF4, FP4, ".weight.nested_absmax", ".weight.nested_quant_map"], bnb4;
    "bitsandbytes" ".weight" -> ".weight", &[DType::I8], &[".SCB"], &[".weight_format"], |lookup, parts| scaled(lookup, parts, ".SCB", 127.0);
    "MLX" ".weight" -> ".weight", &[DType::U32], &[".scales"], &[".biases"], mlx;
    "FP8" ".weight" -> ".weight", F8, &[".weight_scale_inv"], &[], |lookup, parts| scaled(lookup, parts, ".weight_scale_inv", 1.0);
    "FP8" ".weight" -> ".weight", F8, &[".scale"], &[], |lookup, parts| scaled(lookup, parts, ".scale", 1.0);
    "FP8" "_proj" -> "_proj", F8, &["_proj_scale_inv"], &["_proj_activation_scale"], |lookup, parts| scaled(lookup, parts, "_proj_scale_inv", 1.0);
    "FP8" "_proj" -> "_proj", F8, &["_proj_scale"], &["_proj_input_scale"], |lookup, parts| scaled(lookup, parts, "_proj_scale", 1.0);
    "FP8" "_proj" -> "_proj", F8, &["_proj_weight_scale"], &["_proj_input_scale"], |lookup, parts| scaled(lookup, parts, "_proj_weight_scale", 1.0);
    "FP8" ".weight" -> ".weight", F8, &[".qscale_weight"], &[".qscale_act"], |lookup, parts| scaled(lookup, parts, ".qscale_weight", 1.0);
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

/// Name suffixes of packed tensors, whether or not a scheme reads them.
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
    pub companions: &'a [(&'static str, usize)],
}

impl<'a> Parts<'a> {
    /// Returns the companion tensor with this suffix.
    fn get<'b>(&self, lookup: &'b Lookup<'_>, suffix: &str) -> Option<&'b TensorInfo> {
        let &(_, index) = self.companions.iter().find(|(other, _)| *other == suffix)?;
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

/// Returns the total number of rows of a stack of matrices, and the row length.
fn rows_of(tensor: &TensorInfo) -> Option<(u64, u64)> {
    let (&columns, outer) = tensor.shape.split_last()?;
    let rows = outer.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim))?;
    (!outer.is_empty() && rows > 0 && columns > 0).then_some((rows, columns))
}

/// Returns a tensor's shape with another row length.
fn with_columns(tensor: &TensorInfo, columns: u64) -> Vec<u64> {
    let mut shape = tensor.shape.clone();
    if let Some(last) = shape.last_mut() {
        *last = columns;
    }
    shape
}

impl Scheme {
    /// Whether a tensor's name and type fit the scheme.
    pub(super) fn may_hold(&self, tensor: &TensorInfo) -> bool {
        tensor.elem.known().is_some_and(|dtype| self.types.contains(&dtype)) && tensor.name.ends_with(self.suffix)
    }

    /// Interprets a tensor and its companions as a packed weight.
    pub(super) fn resolve(&self, lookup: &Lookup<'_>, index: usize, tensor: &TensorInfo) -> Option<PackedWeight> {
        if !self.may_hold(tensor) {
            return None;
        }
        let stem = tensor.name.strip_suffix(self.suffix)?;
        let mut companions = Vec::new();
        for &suffix in self.needs {
            companions.push((suffix, lookup.sibling(stem, suffix)?));
        }
        let may = self.may.iter().filter(|suffix| !self.needs.contains(suffix));
        companions.extend(may.filter_map(|&suffix| Some((suffix, lookup.sibling(stem, suffix)?))));
        let (layout, shape, shown) = (self.layout)(lookup, &Parts { stem, weight: tensor, companions: &companions })?;
        // Sizes of the F32 weights in bytes are computed from this.
        shape.iter().try_fold(32u64, |product, &dim| product.checked_mul(dim))?;
        let name = format!("{stem}{}", self.plain);
        // The name must not belong to another tensor.
        if name != tensor.name && lookup.indices.contains_key(name.as_str()) {
            return None;
        }
        Some(PackedWeight { scheme: self.name, shown, name, shape, weight: index, companions, layout })
    }
}

/// Returns how many numbers of `bits` bits fit into `words` words exactly.
fn unpacked(words: u64, bits: u64) -> Option<u64> {
    let all = words.checked_mul(32)?;
    (bits > 0 && all % bits == 0).then(|| all / bits)
}

fn whole_groups(length: u64, groups: u64) -> Option<u64> {
    (groups > 0 && length > 0).then(|| length.div_ceil(groups))
}

/// Determines the grid of scales of a matrix (or a stack of them) from their shape: per tensor, matrix, row, column, run of a row, or
/// block.
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
    if let Some((tall, wide)) = block
        && input.div_ceil(wide) == across
        && (output / planes).div_ceil(tall) * planes == down
    {
        return of(tall.min(output / planes), wide, across);
    }
    // In a stack, one row of scales for each matrix, even for a square one.
    if shape.len() > 2 && scales.shape.len() == shape.len() && down == planes && across == input {
        return of(output / planes, 1, across);
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

/// DeepSeek's block size, used unless a config specifies another.
const BLOCK: (u64, u64) = (128, 128);

/// Reads a short integer tensor.
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

/// One number per element, with scales.
fn scaled(lookup: &Lookup<'_>, parts: &Parts<'_>, suffix: &'static str, divide: f32) -> Interpretation {
    if comfy_other(lookup, parts.stem) {
        return None;
    }
    let scales = parts.get(lookup, suffix)?;
    let shape = parts.weight.shape.clone();
    let grid = grid(scales, &shape, Some(lookup.configs.block().unwrap_or(BLOCK)))?;
    let zero = match parts.get(lookup, ".weight_zero_point") {
        None => Zero::None,
        Some(zeros) if zeros.elements().ok()? == scales.elements().ok()? => Zero::Plain(".weight_zero_point"),
        Some(_) => return None,
    };
    let exponents = is(scales, DType::U8) || is(scales, DType::F8_E8M0);
    let shown = match (parts.is(DType::I8), exponents && (grid.tall, grid.wide) == (1, 32)) {
        (true, _) => named("INT8"),
        (false, true) => named("MXFP8"),
        (false, false) => named("FP8"),
    };
    Some((Layout::Rows(Rows { zero, divide, ..Rows::new(Codes::Plain, suffix, grid) }), shape, shown))
}
