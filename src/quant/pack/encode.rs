//! The bytes of a packed weight, a range of rows at a time.

use std::ops::Range;

use super::{BLOCK, Form, Packing, Part, ScaleType, Scales};
use crate::base::{Error, Result, num};
use crate::codec::scaled::{self, GroupScale, Numbers, Precision};
use crate::model::DType;

/// The number of rows whose packed zero points fill whole words.
const ROWS_OF_ZEROS: u64 = 32;

/// The largest finite E4M3 and E2M1.
const LARGEST_E4M3: f32 = 448.0;
const LARGEST_E2M1: f32 = 6.0;

/// Replaces an E4M3 scale of zero (quantization/utils/helpers.py, `_get_dtype_eps`).
const SMALLEST_E4M3_SCALE: f32 = 0.125;

/// MLX's smallest scale (mlx/backend/cpu/quantized.cpp, `quantize`).
const SMALLEST_MLX_SCALE: f32 = 1e-7;

/// Reads whole rows of a weight, from one row on.
type ReadRows<'a> = &'a dyn Fn(u64, &mut [f32]) -> Result<()>;

/// Receives values before and after.
pub type Compare<'a> = &'a mut dyn FnMut(&[f32], &[f32]);

/// A property of all values of a tensor: the largest magnitude, or that of all tensors that share its scale.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Whole {
    /// The largest magnitude.
    pub largest: f32,
}

impl Whole {
    /// Adds values.
    ///
    /// # Errors
    /// A value is not finite.
    pub fn add(&mut self, values: &[f32]) -> Result<()> {
        let mut found = Vec::with_capacity(1);
        scaled::magnitudes(values, values.len().max(1), &mut found);
        let found = found.first().map_or(0.0, |bits| f32::from_bits(*bits));
        self.largest = self.largest.max(finite(found)?);
        Ok(())
    }

    /// Adds what other values determine.
    pub fn merge(&mut self, other: &Self) {
        self.largest = self.largest.max(other.largest);
    }
}

/// Buffers of a thread.
#[derive(Debug, Default)]
pub struct Scratch {
    values: Vec<f32>,
    numbers: Vec<f32>,
    restored: Vec<f32>,
    magnitudes: Vec<u32>,
    extremes: Vec<(f32, f32)>,
    groups: Vec<Group>,
    by: Vec<GroupScale>,
    back: Vec<GroupScale>,
}

/// The scale of a group.
#[derive(Debug, Clone, Copy, Default)]
struct Group {
    /// The divisor, and what is added or subtracted.
    by: GroupScale,
    /// The same as it is stored: rounded.
    back: GroupScale,
    /// The code of the scale, if it is stored as a byte.
    code: u8,
}

/// A weight to pack: a matrix.
#[derive(Debug, Clone, Copy)]
pub struct Weight {
    /// How it is packed.
    pub packing: Packing,
    /// Its shape.
    pub rows: u64,
    /// The length of a row.
    pub columns: u64,
    /// The type in which scales are computed.
    pub precision: Precision,
    /// The property of all values, if the packing [needs it](Packing::needs_whole).
    pub whole: Whole,
}

impl Weight {
    /// Returns the number of rows that a part needs at a time; ranges of rows begin at multiples of it.
    pub fn band(&self, part: Part) -> u64 {
        match part {
            Part::WholeScale | Part::Shape => self.rows.max(1),
            Part::Scales if self.packing.scales == Scales::Tensor => self.rows.max(1),
            Part::Zeros => ROWS_OF_ZEROS,
            _ if self.packing.scales == Scales::Block => BLOCK,
            _ => 1,
        }
    }

    /// Whether values are read for a part.
    pub fn reads(&self, part: Part) -> bool {
        !matches!(part, Part::WholeScale | Part::Shape) && (part != Part::Scales || self.packing.scales != Scales::Tensor)
    }

    /// Returns the position in a part of the first byte of a row, which begins a band, or of the end.
    pub fn offset(&self, part: Part, row: u64) -> Result<u64> {
        let packing = &self.packing;
        let stored = packing.parts(self.rows, self.columns, self.precision).into_iter().find(|stored| stored.part == part);
        let stored = stored.ok_or_else(|| Error::argument("the packing has no such part"))?;
        if row >= self.rows {
            return stored.dtype.bytes_for_shape(&stored.shape);
        }
        let row_bytes = stored.dtype.bytes_for(stored.shape.last().copied().unwrap_or(1))?;
        let down = match part {
            Part::WholeScale | Part::Shape => 0,
            Part::Zeros => row * u64::from(packing.bits()) / 32,
            Part::Scales => match packing.scales {
                Scales::Tensor => 0,
                Scales::Block => row / BLOCK,
                _ => row,
            },
            Part::Codes | Part::Biases => row,
        };
        num::mul(down, row_bytes, "a position")
    }

    /// Appends the bytes of a part for a range of rows, which begins and ends at bands. `compare` receives the values, and what they became.
    ///
    /// # Errors
    /// Values cannot be read or are not finite.
    pub fn encode(
        &self,
        part: Part,
        rows: Range<u64>,
        read: ReadRows<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
        compare: Option<Compare<'_>>,
    ) -> Result<()> {
        match part {
            Part::Shape => [self.rows, self.columns].iter().for_each(|dim| out.extend(dim.to_le_bytes())),
            Part::WholeScale => out.extend(self.whole_scale().to_le_bytes()),
            Part::Scales if self.packing.scales == Scales::Tensor => {
                let group = self.symmetric(self.whole.largest);
                self.store_scale(&group, out);
            }
            Part::Codes => self.encode_codes(rows, read, scratch, out, compare)?,
            Part::Scales | Part::Biases if self.packing.scales == Scales::Block => {
                self.block_groups(rows, read, scratch)?;
                scratch.groups.iter().for_each(|group| self.store_scale(group, out));
            }
            Part::Scales | Part::Biases => {
                let Scratch { values, magnitudes, extremes, groups, .. } = scratch;
                let values = self.read(rows, read, values)?;
                for row in values.chunks_exact(self.row_len()?) {
                    self.row_groups(row, magnitudes, extremes, groups)?;
                    for group in groups.iter() {
                        if part == Part::Scales { self.store_scale(group, out) } else { self.store(group.back.bias, out) }
                    }
                }
            }
            Part::Zeros => self.encode_zeros(rows, read, scratch, out)?,
        }
        Ok(())
    }

    fn row_len(&self) -> Result<usize> {
        num::to_usize(self.columns, "a row")
    }

    fn read<'v>(&self, rows: Range<u64>, read: ReadRows<'_>, values: &'v mut Vec<f32>) -> Result<&'v [f32]> {
        let count = num::mul(rows.end - rows.start, self.columns, "a chunk of a tensor")?;
        values.resize(num::to_usize(count, "a chunk of a tensor")?, 0.0);
        read(rows.start, values)?;
        Ok(values)
    }

    fn encode_codes(
        &self,
        rows: Range<u64>,
        read: ReadRows<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
        mut compare: Option<Compare<'_>>,
    ) -> Result<()> {
        let blocks = self.packing.scales == Scales::Block;
        let row_len = self.row_len()?;
        let row_bytes = num::to_usize(self.offset(Part::Codes, self.rows)? / self.rows.max(1), "a row")?;
        let width = num::to_usize(self.packing.width(self.columns), "a group")?;
        // Blocks are read a row at a time, twice; the others in one piece.
        let step = if blocks { 1 } else { rows.end - rows.start };
        for first in (rows.start..rows.end).step_by(num::to_usize(step.max(1), "rows")?) {
            if blocks && first % BLOCK == 0 {
                self.block_groups(first..(first + BLOCK).min(rows.end), read, scratch)?;
            }
            let Scratch { values, numbers, restored, magnitudes, extremes, groups, by, back } = &mut *scratch;
            numbers.resize(row_len, 0.0);
            let values = self.read(first..first + step, read, values)?;
            if compare.is_some() {
                restored.resize(values.len(), 0.0);
            }
            for (i, row) in values.chunks_exact(row_len).enumerate() {
                if !blocks {
                    self.row_groups(row, magnitudes, extremes, groups)?;
                }
                by.clear();
                by.extend(groups.iter().map(|group| group.by));
                scaled::quantise(self.packing.numbers, self.divisions(), row, by, width, numbers);
                let start = out.len();
                out.resize(start + row_bytes, 0);
                self.store_codes(numbers, out.get_mut(start..).unwrap_or_default());
                if compare.is_some() {
                    back.clear();
                    back.extend(groups.iter().map(|group| group.back));
                    let restored = restored.chunks_exact_mut(row_len).nth(i).unwrap_or_default();
                    scaled::restore(numbers, back, width, restored);
                }
            }
            if let Some(compare) = &mut compare {
                compare(values, restored);
            }
        }
        Ok(())
    }

    /// Returns the precision of divisions by scales: single, if the scale is.
    fn divisions(&self) -> Precision {
        if self.packing.has_whole_scale() { Precision::F32 } else { self.precision }
    }

    fn store_codes(&self, numbers: &[f32], bytes: &mut [u8]) {
        match self.packing.numbers {
            Numbers::E4m3 => scaled::store_e4m3(numbers, bytes),
            Numbers::E2m1 | Numbers::E2m1Low => scaled::store_e2m1(numbers, bytes),
            Numbers::Signed(bits) if self.packing.words => scaled::store_bits(bits, center(bits), numbers, bytes),
            Numbers::Signed(_) => scaled::store_bytes(numbers, bytes),
            Numbers::Unsigned(bits) => scaled::store_bits(bits, 0.0, numbers, bytes),
        }
    }

    fn encode_zeros(&self, rows: Range<u64>, read: ReadRows<'_>, scratch: &mut Scratch, out: &mut Vec<u8>) -> Result<()> {
        let Scratch { values, magnitudes, extremes, groups, .. } = scratch;
        let across = num::to_usize(self.columns.div_ceil(self.packing.width(self.columns).max(1)), "groups")?;
        let bits = self.packing.bits();
        for first in (rows.start..rows.end).step_by(ROWS_OF_ZEROS as usize) {
            let end = (first + ROWS_OF_ZEROS).min(rows.end);
            // A column of words for each group: the zero points of up to 32 rows.
            let mut columns = vec![Vec::with_capacity(ROWS_OF_ZEROS as usize); across];
            for row in self.read(first..end, read, values)?.chunks_exact(self.row_len()?) {
                self.row_groups(row, magnitudes, extremes, groups)?;
                columns.iter_mut().zip(groups.iter()).for_each(|(column, group)| column.push(group.by.zero));
            }
            let words = num::to_usize(((end - first) * u64::from(bits)).div_ceil(32), "words")?;
            let mut packed = vec![0; words * 4];
            let start = out.len();
            out.resize(start + words * across * 4, 0);
            let table = out.get_mut(start..).unwrap_or_default();
            for (group, column) in columns.iter().enumerate() {
                packed.fill(0);
                scaled::store_bits(bits, center(bits), column, &mut packed);
                for (line, word) in table.chunks_exact_mut(across * 4).zip(packed.chunks_exact(4)) {
                    if let Some(place) = line.chunks_exact_mut(4).nth(group) {
                        place.copy_from_slice(word);
                    }
                }
            }
        }
        Ok(())
    }

    /// Computes the scales of bands of blocks.
    fn block_groups(&self, rows: Range<u64>, read: ReadRows<'_>, scratch: &mut Scratch) -> Result<()> {
        let across = num::to_usize(self.columns.div_ceil(BLOCK), "blocks")?;
        let mut largest = vec![0; across];
        scratch.groups.clear();
        for row in rows.clone() {
            let values = self.read(row..row + 1, read, &mut scratch.values)?;
            scratch.magnitudes.clear();
            scaled::magnitudes(values, BLOCK as usize, &mut scratch.magnitudes);
            largest.iter_mut().zip(&scratch.magnitudes).for_each(|(largest, found)| *largest = (*largest).max(*found));
            if (row + 1) % BLOCK == 0 || row + 1 == rows.end {
                for bits in &mut largest {
                    let group = self.symmetric(finite(f32::from_bits(std::mem::take(bits)))?);
                    scratch.groups.push(group);
                }
            }
        }
        Ok(())
    }

    /// Computes the scales of the groups of a row.
    fn row_groups(&self, row: &[f32], magnitudes: &mut Vec<u32>, extremes: &mut Vec<(f32, f32)>, groups: &mut Vec<Group>) -> Result<()> {
        groups.clear();
        if self.packing.scales == Scales::Tensor {
            groups.push(self.symmetric(self.whole.largest));
            return Ok(());
        }
        let width = num::to_usize(self.packing.width(self.columns), "a group")?;
        if self.packing.symmetric {
            magnitudes.clear();
            scaled::magnitudes(row, width, magnitudes);
            for bits in magnitudes.iter() {
                groups.push(self.symmetric(finite(f32::from_bits(*bits))?));
            }
        } else {
            extremes.clear();
            scaled::extremes(row, width, extremes);
            for &(low, high) in extremes.iter() {
                finite(low)?;
                groups.push(if self.packing.form == Form::Mlx { self.mlx_affine(low, high) } else { self.asymmetric(low, high) });
            }
        }
        Ok(())
    }

    /// Returns the scale of a group whose largest magnitude this is (quantization/utils/helpers.py, `calculate_qparams`).
    fn symmetric(&self, largest: f32) -> Group {
        match (self.packing.scale_type, self.packing.form) {
            (ScaleType::OfWeights, _) => {
                let half = match self.packing.numbers {
                    Numbers::Signed(bits) | Numbers::Unsigned(bits) => ((1u32 << bits) - 1) as f32 / 2.0,
                    _ => LARGEST_E4M3,
                };
                let scale = self.precision.round(largest / half);
                Group::plain(if scale == 0.0 { self.precision.epsilon() } else { scale })
            }
            (ScaleType::E8m0, Form::CompressedTensors) => self.power_of_two(largest),
            (ScaleType::E4m3, Form::CompressedTensors) => {
                let whole = self.whole_scale();
                let scale = scaled::round_e4m3(whole * self.precision.round(largest / LARGEST_E2M1));
                let scale = if scale == 0.0 { SMALLEST_E4M3_SCALE } else { scale };
                Group { code: scaled::e4m3_code(scale), ..Group::plain(scale / whole) }
            }
            (ScaleType::E8m0, Form::Mlx) => self.mlx_power_of_two(largest),
            (ScaleType::E4m3, Form::Mlx) => {
                let scale = scaled::round_e4m3(self.precision.round(largest / LARGEST_E2M1));
                // A scale of zero makes all numbers zero.
                let by = GroupScale { scale: if scale == 0.0 { f32::INFINITY } else { scale }, ..GroupScale::default() };
                Group { by, code: scaled::e4m3_code(scale), ..Group::plain(scale) }
            }
        }
    }

    /// Returns the scale of the tensor for E4M3 scales (quantization/utils/helpers.py, `generate_gparam`).
    fn whole_scale(&self) -> f32 {
        let round = |value| self.precision.round(value);
        let largest = self.whole.largest.max(self.precision.smallest_normal());
        let scale = round(round(1.0 / largest) * (LARGEST_E4M3 * LARGEST_E2M1));
        if scale.is_finite() { scale } else { 1.0 }
    }

    /// Returns the power of two for a group (quantization/utils/mxfp_utils.py, `generate_mx_scales`; compressors/mx_utils.py,
    /// `compress_mx_scale`).
    fn power_of_two(&self, largest: f32) -> Group {
        // Rounds up from seven quarters of a power of two on; the exponent is that of the weights' type.
        let bits = self.precision.mantissa_bits();
        let rounded = match self.precision {
            Precision::F16 => {
                let encoded = half_bits(largest) + (1 << (bits - 2));
                half_value(encoded & 0xfc00)
            }
            _ => f32::from_bits((largest.to_bits() + (1 << 21)) & 0xff80_0000),
        };
        let offset = if self.packing.bits() == 4 { 2.0 } else { 8.0 };
        let exponent = (127.0 + rounded.log2().floor() - offset).clamp(0.0, 255.0);
        let scale = self.precision.round(exponent_value(exponent as i32));
        let scale = if scale == 0.0 { 1.0 } else { scale };
        let code = (127.0 + scale.log2().floor()).clamp(0.0, 255.0) as u8;
        Group { code, ..Group::plain(scale) }
    }

    /// Returns the power of two for a group of MLX (mlx/ops.cpp, `fp_quantize`).
    fn mlx_power_of_two(&self, largest: f32) -> Group {
        let round = |value| self.precision.round(value);
        let scale = round(largest / if self.packing.bits() == 4 { LARGEST_E2M1 } else { LARGEST_E4M3 });
        // In double precision first, so that the logarithm is the nearest on every machine.
        let exponent = if scale == 0.0 { 0.0 } else { (f64::from(scale).log2() as f32).ceil() };
        let scale = round(exponent_value(exponent as i32 + 127));
        Group { code: (exponent as i32 + 127).clamp(0, 255) as u8, ..Group::plain(scale) }
    }

    /// Returns scale and zero point of a group between these values (`calculate_qparams`).
    fn asymmetric(&self, low: f32, high: f32) -> Group {
        let round = |value| self.precision.round(value);
        let bits = self.packing.bits();
        let (low, high, lowest) = (low.min(0.0), high.max(0.0), -center(bits));
        let scale = round(round(high - low) / ((1u32 << bits) - 1) as f32);
        let zero = round(lowest - round(low / scale)).clamp(lowest, -lowest - 1.0).round_ties_even();
        let by = GroupScale {
            scale: if scale == 0.0 { self.precision.epsilon() } else { scale },
            zero: if zero.is_nan() { 0.0 } else { zero },
            bias: 0.0,
        };
        Group { by, back: by, code: 0 }
    }

    /// Returns scale and bias of a group of MLX between these values (mlx/backend/cpu/quantized.cpp, `quantize`).
    fn mlx_affine(&self, low: f32, high: f32) -> Group {
        let levels = ((1u32 << self.packing.bits()) - 1) as f32;
        let from_low = low.abs() > high.abs();
        let scale = ((high - low) / levels).max(SMALLEST_MLX_SCALE);
        let (scale, edge) = if from_low { (scale, low) } else { (-scale, high) };
        let steps = (edge / scale).round_ties_even();
        let (scale, bias) = if steps == 0.0 { (scale, 0.0) } else { (edge / steps, edge) };
        let back = GroupScale { scale: self.precision.round(scale), zero: 0.0, bias: self.precision.round(bias) };
        Group { by: GroupScale { scale, zero: 0.0, bias }, back, code: 0 }
    }

    fn store_scale(&self, group: &Group, out: &mut Vec<u8>) {
        match self.packing.scale_type {
            ScaleType::OfWeights => self.store(group.back.scale, out),
            ScaleType::E8m0 | ScaleType::E4m3 => out.push(group.code),
        }
    }

    /// Appends a number in the type of the weights.
    fn store(&self, value: f32, out: &mut Vec<u8>) {
        match self.precision.dtype() {
            DType::BF16 => out.extend(((value.to_bits() >> 16) as u16).to_le_bytes()),
            DType::F16 => out.extend(half_bits(value).to_le_bytes().get(..2).unwrap_or_default()),
            _ => out.extend(value.to_le_bytes()),
        }
    }
}

impl Group {
    fn plain(scale: f32) -> Self {
        let by = GroupScale { scale, ..GroupScale::default() };
        Self { by, back: by, code: 0 }
    }
}

/// Returns half of the number of integers of this many bits.
fn center(bits: u32) -> f32 {
    (1u32 << (bits - 1)) as f32
}

/// Returns `2^(exponent - 127)`; below the normal numbers, that of the smallest.
fn exponent_value(exponent: i32) -> f32 {
    match exponent {
        255.. => f32::INFINITY,
        1.. => f32::from_bits((exponent as u32) << 23),
        _ => f32::from_bits(1 << 22),
    }
}

fn half_bits(value: f32) -> u32 {
    u32::from(u16::from_le_bytes(scaled::half_bytes(value)))
}

fn half_value(bits: u32) -> f32 {
    scaled::half_value((bits as u16).to_le_bytes())
}

/// Returns a number that is finite.
fn finite(value: f32) -> Result<f32> {
    if value.is_finite() { Ok(value) } else { Err(Error::unsupported("expected finite weights, found infinity or NaN")) }
}
