//! Unpacks weights to single precision.

use std::ops::Range;

use super::PackedWeight;
use super::schemes::{Bits, Codes, Grid, Layout, Rows, ScaleKind, Whole, Zero};
use crate::base::{Error, Result, num};
use crate::codec;
use crate::format::Reader;
use crate::model::{DType, TensorInfo};

/// The values of E2M1 by code (OCP Microscaling Formats, version 1.0, table 5).
const E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// AWQ's order of eight columns in a word: column c is in nibble `AWQ_ORDER[c]`.
const AWQ_ORDER: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl Bits {
    fn mask(self) -> u32 {
        u32::MAX >> (32 - self.0)
    }

    /// Returns the number at `index` of words packed from the lowest bit; `word` returns a word by index.
    fn at(self, index: u64, word: impl Fn(u64) -> u32) -> u32 {
        let bit = index * u64::from(self.0);
        let (first, shift) = (bit / 32, (bit % 32) as u32);
        let low = word(first) >> shift;
        let spilled = if shift + self.0 > 32 { word(first + 1) << (32 - shift) } else { 0 };
        (low | spilled) & self.mask()
    }

    /// Returns the number of words that this many numbers take.
    fn words(self, numbers: u64) -> u64 {
        (numbers * u64::from(self.0)).div_ceil(32)
    }
}

/// A stored tensor, read in parts.
#[derive(Clone, Copy)]
struct Source<'a> {
    reader: &'a Reader,
    tensor: &'a TensorInfo,
}

impl Source<'_> {
    fn bytes(&self, range: Range<u64>) -> Result<crate::source::Data<'_>> {
        self.reader.bytes_at(self.tensor, range)
    }

    /// Reads little-endian 32-bit words.
    fn words(&self, range: Range<u64>) -> Result<Vec<u32>> {
        let bytes = self.bytes(range.start * 4..range.end * 4)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
    }

    /// Reads scales; bytes of a non-float type hold exponents, as in F8_E8M0.
    fn scales(&self, range: Range<u64>) -> Result<Vec<f32>> {
        match self.tensor.elem.known() {
            Some(DType::U8) => Ok(self.bytes(range)?.iter().map(|&byte| power_of_two(byte)).collect()),
            _ => self.floats(range),
        }
    }

    /// Reads the scales of a row; `range` is their position unless they are tiled.
    fn scales_of(&self, grid: Grid, row: u64, range: &Range<u64>) -> Result<Vec<f32>> {
        match grid.kind {
            ScaleKind::Own => self.scales(range.clone()),
            ScaleKind::E4m3 => decode(DType::F8_E4M3, &self.bytes(range.clone())?),
            ScaleKind::Tiled => {
                // A row's scales in a tile are four adjacent ones.
                let tiles = grid.across.div_ceil(4);
                let mut scales = Vec::new();
                for tile in 0..tiles {
                    let at = (row / 128 * tiles + tile) * 512 + row % 32 * 16 + row % 128 / 32 * 4;
                    scales.extend(self.scales(at..at + 4)?);
                }
                Ok(scales)
            }
        }
    }

    /// Reads numbers packed along a row of words.
    fn along(&self, bits: Bits, row: u64, count: u64) -> Result<Vec<f32>> {
        let per_row = self.columns();
        let words = self.words(row * per_row..(row + 1) * per_row)?;
        Ok((0..count).map(|i| bits.at(i, |index| pick(&words, index)) as f32).collect())
    }

    /// Appends the numbers of a weight row; `(output, input)` is the shape of the weight.
    fn codes(&self, codes: Codes, row: u64, (output, input): (u64, u64), values: &mut Vec<f32>) -> Result<()> {
        match codes {
            Codes::Plain => values.extend(self.floats(row * input..(row + 1) * input)?),
            Codes::Words { bits, center } => {
                let per_row = self.columns();
                let words = self.words(row * per_row..(row + 1) * per_row)?;
                values.extend((0..input).map(|i| bits.at(i, |index| pick(&words, index)) as f32 - center as f32));
            }
            Codes::Floats { bits, high_first } => {
                // Rows of bytes, regardless of the word size in which they are stored: MLX uses words of four.
                let per_row = input * u64::from(bits) / 8;
                let bytes = self.bytes(row * per_row..(row + 1) * per_row)?;
                match bits {
                    4 if high_first => {
                        values.extend(bytes.iter().flat_map(|byte| [E2M1[usize::from(byte >> 4)], E2M1[usize::from(byte & 15)]]))
                    }
                    4 => values.extend(bytes.iter().flat_map(|byte| [E2M1[usize::from(byte & 15)], E2M1[usize::from(byte >> 4)]])),
                    6 => values.extend(decode(DType::F6_E2M3, &bytes)?),
                    _ => values.extend(decode(DType::F8_E4M3, &bytes)?),
                }
            }
            Codes::Ternary => {
                let quarter = (output / 4).max(1);
                let (line, shift) = (row % quarter, 2 * (row / quarter));
                let bytes = self.bytes(line * input..(line + 1) * input)?;
                values.extend(bytes.iter().map(|byte| f32::from(byte >> shift & 3) - 1.0));
            }
        }
        Ok(())
    }

    fn floats(&self, range: Range<u64>) -> Result<Vec<f32>> {
        let unread = || Error::unsupported(format!("expected numbers, found {}", self.tensor.elem)).in_tensor(&self.tensor.name);
        let dtype = self.tensor.elem.known().filter(|dtype| dtype.info().block_elems == 1).ok_or_else(unread)?;
        let codec = codec::codec(dtype).ok_or_else(unread)?;
        let size = dtype.info().block_bytes;
        let mut values = vec![0.0; num::to_usize(range.end - range.start, "values")?];
        (codec.decode)(&self.bytes(range.start * size..range.end * size)?, &mut values);
        Ok(values)
    }

    fn columns(&self) -> u64 {
        self.tensor.row_elements()
    }
}

/// Decodes values of a type.
fn decode(dtype: DType, bytes: &[u8]) -> Result<Vec<f32>> {
    let info = dtype.info();
    let codec =
        codec::codec(dtype).ok_or_else(|| Error::unsupported(format!("expected a type whose values this build reads, found {dtype}")))?;
    let mut values = vec![0.0; num::to_usize(bytes.len() as u64 / info.block_bytes * info.block_elems, "values")?];
    (codec.decode)(bytes, &mut values);
    Ok(values)
}

/// Zero points packed along columns, starting with the word that contains the first row's.
struct Down {
    bits: Bits,
    center: u32,
    first: u64,
    words: Vec<u32>,
}

impl Down {
    /// Returns the zero points of a row.
    fn row(&self, row: u64, groups: u64) -> Vec<f32> {
        let word = |group: u64| move |index: u64| pick(&self.words, index.saturating_sub(self.first) * groups + group);
        (0..groups).map(|group| self.bits.at(row, word(group)) as f32 - self.center as f32).collect()
    }
}

/// The effect of a tensor-wide scale.
#[derive(Clone, Copy)]
enum Factor {
    One,
    Times(f32),
    Over(f32),
}

impl Factor {
    fn apply(self, value: f32) -> f32 {
        match self {
            Self::One => value,
            Self::Times(factor) => value * factor,
            Self::Over(factor) => value / factor,
        }
    }
}

/// Decodes E8M0: 2^(byte - 127); 255 is NaN.
fn power_of_two(byte: u8) -> f32 {
    match byte {
        255 => f32::NAN,
        0 => f32::from_bits(1 << 22), // 2^-127 is subnormal
        byte => f32::from_bits(u32::from(byte) << 23),
    }
}

/// Returns the value at an index, or zero if out of bounds. Indices come from shapes that were checked against each other.
fn pick<T: Copy + Default>(values: &[T], index: u64) -> T {
    usize::try_from(index).ok().and_then(|index| values.get(index)).copied().unwrap_or_default()
}

impl PackedWeight {
    /// Computes a range of elements of the weight.
    ///
    /// # Errors
    /// A stored tensor cannot be read or has an unsuitable type, or the packing is unknown.
    pub fn values(&self, reader: &Reader, elements: Range<u64>) -> Result<Vec<f32>> {
        if elements.is_empty() {
            return Ok(Vec::new());
        }
        match self.layout {
            Layout::Bnb4 { .. } => return self.indexed(reader, elements),
            Layout::Scaled { per } => return self.scaled_blocks(reader, elements, per),
            Layout::Counted => return Err(self.unread()),
            _ => {}
        }
        let row = self.shape.last().copied().unwrap_or(1).max(1);
        let rows = elements.start / row..elements.end.div_ceil(row);
        let mut values = match &self.layout {
            Layout::Gptq { bits, group, plus } => self.gptq(reader, rows.clone(), *bits, *group, *plus)?,
            Layout::Awq { group } => self.awq(reader, rows.clone(), *group)?,
            Layout::Rows(how) => self.rows(reader, rows.clone(), how)?,
            Layout::GptOss => self.gpt_oss(reader, rows.clone())?,
            Layout::Bnb4 { .. } | Layout::Scaled { .. } | Layout::Counted => Vec::new(), // handled above
        };
        // Trim the rows to the requested range.
        let skip = num::to_usize(elements.start - rows.start * row, "values")?;
        values.truncate(skip + num::to_usize(elements.end - elements.start, "values")?);
        values.drain(..skip);
        Ok(values)
    }

    /// Returns the error for values that cannot be read.
    fn unread(&self) -> Error {
        Error::unsupported(format!("expected a packing whose values this build reads, found {}", self.shown)).in_tensor(&self.name)
    }

    fn weight<'a>(&self, reader: &'a Reader) -> Result<Source<'a>> {
        self.source(reader, Some(self.weight), "the weight")
    }

    /// Returns a companion tensor of the weight.
    fn companion<'a>(&self, reader: &'a Reader, suffix: &str) -> Result<Source<'a>> {
        self.source(reader, self.companion_index(suffix), suffix)
    }

    fn optional_companion<'a>(&self, reader: &'a Reader, suffix: &str) -> Option<Source<'a>> {
        self.companion_index(suffix).and_then(|index| self.source(reader, Some(index), suffix).ok())
    }

    fn companion_index(&self, suffix: &str) -> Option<usize> {
        self.companions.iter().find(|(other, _)| *other == suffix).map(|&(_, index)| index)
    }

    fn source<'a>(&self, reader: &'a Reader, index: Option<usize>, what: &str) -> Result<Source<'a>> {
        let tensor = index.and_then(|index| reader.model().tensors.get(index));
        let tensor = tensor.ok_or_else(|| Error::malformed(format!("its companion {what} is missing")).in_tensor(&self.name))?;
        Ok(Source { reader, tensor })
    }

    /// Returns the group of each input: stored, or consecutive runs.
    fn group_indices(&self, reader: &Reader, suffix: &str, group: u64) -> Result<Vec<u64>> {
        let input = self.shape.last().copied().unwrap_or(0);
        match self.optional_companion(reader, suffix).filter(|source| source.tensor.elem.known() == Some(DType::I32)) {
            Some(source) => Ok(source.words(0..input)?.into_iter().map(u64::from).collect()),
            None => Ok((0..input).map(|i| i / group).collect()),
        }
    }

    fn gptq(&self, reader: &Reader, rows: Range<u64>, bits: Bits, group: u64, plus: u32) -> Result<Vec<f32>> {
        let (weight, scales, zeros) = (self.weight(reader)?, self.companion(reader, ".scales")?, self.companion(reader, ".qzeros")?);
        let (output, input) = (self.shape[0], self.shape[1]);
        let indices = self.group_indices(reader, ".g_idx", group)?;
        let groups = scales.tensor.shape[0];
        let count = rows.end - rows.start;
        let mut scale = Vec::new();
        let mut zero = Vec::new();
        let zero_words = zeros.columns();
        for group in 0..groups {
            scale.extend(scales.floats(group * output + rows.start..group * output + rows.end)?);
            let words = zeros.words(group * zero_words..(group + 1) * zero_words)?;
            zero.extend(rows.clone().map(|row| (bits.at(row, |index| pick(&words, index)) + plus) as f32));
        }
        // Only the words of these rows, word by word along the packed dimension.
        let mut words = Vec::new();
        for index in 0..bits.words(input) {
            words.extend(weight.words(index * output + rows.start..index * output + rows.end)?);
        }
        let mut values = Vec::with_capacity(num::to_usize(count * input, "values")?);
        for row in 0..count {
            for (i, group) in (0u64..).zip(&indices) {
                let number = bits.at(i, |index| pick(&words, index * count + row)) as f32;
                let at = group.saturating_mul(count).saturating_add(row);
                values.push((number - pick(&zero, at)) * pick(&scale, at));
            }
        }
        Ok(values)
    }

    fn awq(&self, reader: &Reader, rows: Range<u64>, group: u64) -> Result<Vec<f32>> {
        let (weight, scales, zeros) = (self.weight(reader)?, self.companion(reader, ".scales")?, self.companion(reader, ".qzeros")?);
        let (output, input) = (self.shape[0], self.shape[1]);
        let columns = rows.start / 8..rows.end.div_ceil(8);
        let per_row = output / 8;
        let words_of = |source: Source<'_>, row: u64| source.words(row * per_row + columns.start..row * per_row + columns.end);
        let nibble = |words: &[u32], row: u64| (pick(words, row / 8 - columns.start) >> (4 * AWQ_ORDER[(row % 8) as usize]) & 15) as f32;
        let count = num::to_usize(rows.end - rows.start, "rows")?;
        let mut values = vec![0.0; count * num::to_usize(input, "values")?];
        let (mut scale, mut zero) = (Vec::new(), Vec::new());
        for i in 0..input {
            if i % group == 0 {
                let group = i / group;
                scale = scales.floats(group * output + rows.start..group * output + rows.end)?;
                zero = words_of(zeros, group)?;
            }
            let words = words_of(weight, i)?;
            for ((row, scale), line) in rows.clone().zip(&scale).zip(values.chunks_exact_mut(input as usize)) {
                line[i as usize] = (nibble(&words, row) - nibble(&zero, row)) * scale;
            }
        }
        Ok(values)
    }

    /// Computes rows of numbers with scales and zero points.
    fn rows(&self, reader: &Reader, rows: Range<u64>, how: &Rows) -> Result<Vec<f32>> {
        let weight = self.weight(reader)?;
        let input = self.shape.last().copied().unwrap_or(1);
        let output: u64 = self.shape.iter().rev().skip(1).product();
        let bias = how.bias.map(|suffix| self.companion(reader, suffix)).transpose()?;
        // compressed-tensors starts with -1 everywhere: groups that were not assigned are in order (forward.py, `_process_quantization`).
        let indices = how.indices.map(|suffix| self.group_indices(reader, suffix, input)).transpose()?;
        let indices = indices.filter(|indices| !indices.contains(&u64::from(u32::MAX)));
        let down = self.zeros_down(reader, &rows, how)?;
        let mut values = Vec::new();
        for row in rows {
            let start = values.len();
            weight.codes(how.codes, row, (output, input), &mut values)?;
            let line = values.get_mut(start..).unwrap_or_default();
            let factor = self.factor(reader, how.whole, row)?;
            let Some((suffix, grid)) = how.scale else {
                line.iter_mut().for_each(|value| *value = factor.apply(*value));
                continue;
            };
            let above = self.scale_row(grid, row);
            let range = above * grid.across..(above + 1) * grid.across;
            let scale = self.companion(reader, suffix)?.scales_of(grid, row, &range)?;
            let zero = match how.zero {
                Zero::None => None,
                Zero::Plain(suffix) => Some(self.companion(reader, suffix)?.floats(range.clone())?),
                Zero::Along { suffix, bits } => Some(self.companion(reader, suffix)?.along(bits, row, grid.across)?),
                Zero::Down { .. } => down.as_ref().map(|down| down.row(row, grid.across)),
            };
            let bias = bias.map(|bias| bias.floats(range)).transpose()?;
            for (i, value) in (0u64..).zip(line) {
                let group = indices.as_ref().map_or_else(|| i / grid.wide, |indices| pick(indices, i));
                let zero = zero.as_ref().map_or(0.0, |zero| pick(zero, group));
                // A small number times its scale is exact if both are, so the tensor-wide scale is applied last.
                *value = factor.apply((*value - zero) * (pick(&scale, group) / how.divide));
                // Adding nothing would change the sign of a zero.
                if let Some(bias) = &bias {
                    *value += pick(bias, group);
                }
            }
        }
        Ok(values)
    }

    /// Returns the row of scales of a row of a stack of matrices.
    fn scale_row(&self, grid: Grid, row: u64) -> u64 {
        let matrix = self.matrix_rows();
        if grid.tall > matrix { row / grid.tall } else { row / matrix * matrix.div_ceil(grid.tall) + row % matrix / grid.tall }
    }

    /// Returns the number of rows of each matrix in a stack, or of the only one.
    fn matrix_rows(&self) -> u64 {
        self.shape.iter().rev().nth(1).copied().unwrap_or(1).max(1)
    }

    /// Reads the words of zero points packed along columns that these rows need.
    fn zeros_down(&self, reader: &Reader, rows: &Range<u64>, how: &Rows) -> Result<Option<Down>> {
        let (Zero::Down { suffix, bits, center }, Some((_, grid))) = (how.zero, how.scale) else { return Ok(None) };
        let zeros = self.companion(reader, suffix)?;
        let first = rows.start * u64::from(bits.0) / 32;
        let words = zeros.words(first * grid.across..bits.words(rows.end) * grid.across)?;
        Ok(Some(Down { bits, center, first, words }))
    }

    /// Returns the effect of the scale of the tensor, or of the matrix that contains the row.
    fn factor(&self, reader: &Reader, whole: Whole, row: u64) -> Result<Factor> {
        let (Whole::Multiply(suffix) | Whole::Divide(suffix)) = whole else { return Ok(Factor::One) };
        let source = self.companion(reader, suffix)?;
        let index = if source.tensor.elements()? > 1 { row / self.matrix_rows() } else { 0 };
        let factor = pick(&source.floats(index..index + 1)?, 0);
        Ok(if matches!(whole, Whole::Multiply(_)) { Factor::Times(factor) } else { Factor::Over(factor) })
    }

    /// Computes GGUF blocks multiplied by the scale of their tensor or matrix.
    fn scaled_blocks(&self, reader: &Reader, elements: Range<u64>, per: u64) -> Result<Vec<f32>> {
        let (weight, scales) = (self.weight(reader)?, self.companion(reader, ".scale")?);
        let dtype = weight.tensor.elem.known().ok_or_else(|| self.unread())?;
        let codec = codec::codec(dtype).ok_or_else(|| self.unread())?;
        let block = dtype.info().block_elems;
        let (first, last) = (elements.start / block * block, elements.end.div_ceil(block) * block);
        let mut values = vec![0.0; num::to_usize(last - first, "values")?];
        (codec.decode)(&weight.bytes(dtype.bytes_for(first)?..dtype.bytes_for(last)?)?, &mut values);
        let scale = scales.floats(first / per..last.div_ceil(per))?;
        for (i, value) in (first..).zip(&mut values) {
            *value *= pick(&scale, i / per - first / per);
        }
        values.truncate(num::to_usize(elements.end - first, "values")?);
        values.drain(..num::to_usize(elements.start - first, "values")?);
        Ok(values)
    }

    /// Returns the GGUF type whose blocks store the same values, apart from a tensor-wide scale.
    pub(super) fn fits_blocks(&self) -> Option<DType> {
        if self.layout == Layout::GptOss {
            return Some(DType::MXFP4);
        }
        let Layout::Rows(rows) = &self.layout else { return None };
        let (Codes::Floats { bits: 4, high_first: false }, Some((".weight_scale" | ".scales" | ".scale", grid))) = (rows.codes, rows.scale)
        else {
            return None;
        };
        let dtype = match (rows.whole, grid.wide, grid.kind, self.shown.name) {
            (Whole::Multiply(".weight_scale_2"), 16, ScaleKind::Own, "NVFP4") => DType::NVFP4,
            (Whole::None, 16, ScaleKind::E4m3, "NVFP4") => DType::NVFP4,
            (Whole::None, 32, ScaleKind::Own, "MXFP4") => DType::MXFP4,
            _ => return None,
        };
        let input = self.shape.last().copied().unwrap_or(1);
        // A stack has one scale per matrix, which a single number cannot represent.
        let one = rows.whole == Whole::None || self.shape.len() == 2;
        (input.is_multiple_of(dtype.info().block_elems) && one).then_some(dtype)
    }

    /// Returns the name and shape of the weight as its blocks are stored: those of gpt-oss lie the other way round.
    pub(super) fn as_blocks(&self) -> (String, Vec<u64>) {
        match (&self.layout, self.shape.as_slice()) {
            (Layout::GptOss, [experts, input, output]) => (format!("{}_blocks", self.name), vec![*experts, *output, *input]),
            _ => (self.name.clone(), self.shape.clone()),
        }
    }

    /// Returns the first value of a companion tensor.
    pub(super) fn first(&self, reader: &Reader, suffix: &str) -> Option<f32> {
        self.optional_companion(reader, suffix)?.floats(0..1).ok()?.first().copied()
    }

    /// Encodes a range of bytes of the weight as GGUF blocks (ggml-common.h, `block_nvfp4` and `block_mxfp4`): scales, then the two halves
    /// of a group in the low and high nibbles.
    pub(super) fn blocks(&self, reader: &Reader, dtype: DType, range: Range<u64>) -> Result<Vec<u8>> {
        let (suffix, group) = match &self.layout {
            Layout::GptOss => ("_scales", 32),
            Layout::Rows(rows) => rows.scale.map(|(suffix, grid)| (suffix, grid.wide)).ok_or_else(|| self.unread())?,
            _ => return Err(self.unread()),
        };
        let (weight, scales) = (self.weight(reader)?, self.companion(reader, suffix)?);
        let info = dtype.info();
        let (first, last) = (range.start / info.block_bytes, range.end.div_ceil(info.block_bytes));
        let groups = info.block_elems / group;
        let half = num::to_usize(group / 2, "half a group")?;
        let mut bytes = Vec::with_capacity(num::to_usize((last - first) * info.block_bytes, "blocks")?);
        for block in first..last {
            let scale = scales.bytes(block * groups..(block + 1) * groups)?;
            // GGUF's scales are unsigned, and for NVFP4 have half the bias of E4M3: the bits are equal.
            bytes.extend(scale.iter().map(|byte| if dtype == DType::NVFP4 { byte & 0x7f } else { *byte }));
            let packed = weight.bytes(block * info.block_elems / 2..(block + 1) * info.block_elems / 2)?;
            for group in packed.chunks_exact(half) {
                let number = |i: usize| group.get(i / 2).map_or(0, |byte| byte >> (4 * (i % 2)) & 15);
                bytes.extend((0..half).map(|i| number(i) | number(i + half) << 4));
            }
        }
        bytes.drain(..num::to_usize(range.start - first * info.block_bytes, "blocks")?);
        bytes.truncate(num::to_usize(range.end - range.start, "blocks")?);
        Ok(bytes)
    }

    fn gpt_oss(&self, reader: &Reader, rows: Range<u64>) -> Result<Vec<f32>> {
        let (blocks, scales) = (self.weight(reader)?, self.companion(reader, "_scales")?);
        let (input, output) = (self.shape[1], self.shape[2]);
        let groups = input / 32;
        let mut values = Vec::new();
        let mut row = rows.start;
        // A row here is a column in the file: rows that share a block are computed together, to read it once.
        while row < rows.end {
            let (expert, first) = (row / input, row % input);
            let last = (first / 32 * 32 + 32).min(first + rows.end - row);
            let start = values.len();
            values.resize(start + num::to_usize((last - first) * output, "values")?, 0.0);
            let tile = &mut values[start..];
            for column in 0..output {
                let at = (expert * output + column) * groups + first / 32;
                let bytes = blocks.bytes(at * 16..at * 16 + 16)?;
                let scale = pick(&scales.scales(at..at + 1)?, 0);
                for i in first..last {
                    let byte = pick(&bytes, i % 32 / 2);
                    let number = E2M1[usize::from(if i % 2 == 0 { byte & 15 } else { byte >> 4 })];
                    tile[((i - first) * output + column) as usize] = number * scale;
                }
            }
            row += last - first;
        }
        Ok(values)
    }

    fn indexed(&self, reader: &Reader, elements: Range<u64>) -> Result<Vec<f32>> {
        let Layout::Bnb4 { block, nested } = self.layout else { return Ok(Vec::new()) };
        let (weight, absmax) = (self.weight(reader)?, self.companion(reader, ".weight.absmax")?);
        let table = self.companion(reader, ".weight.quant_map")?.floats(0..16)?;
        let blocks = elements.start / block..elements.end.div_ceil(block);
        let mut scales = Vec::new();
        match nested {
            None => scales = absmax.floats(blocks.clone())?,
            Some(nested) => {
                let (codes, values) =
                    (self.companion(reader, ".weight.nested_quant_map")?, self.companion(reader, ".weight.nested_absmax")?);
                let (codes, values) = (codes.floats(0..codes.tensor.elements()?)?, values.floats(0..values.tensor.elements()?)?);
                for (index, &code) in blocks.clone().zip(absmax.bytes(blocks.clone())?.iter()) {
                    scales.push(pick(&codes, code.into()) * pick(&values, index / nested.block) + nested.offset);
                }
            }
        }
        let first = elements.start / 2;
        let bytes = weight.bytes(first..elements.end.div_ceil(2))?;
        Ok(elements
            .map(|i| {
                let byte = pick(&bytes, i / 2 - first);
                let index = if i % 2 == 0 { byte >> 4 } else { byte & 15 };
                pick(&table, index.into()) * pick(&scales, i / block - blocks.start)
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_span_words() {
        let words = [0b11 << 30 | 0b101, 0b1];
        let three = |index| Bits(3).at(index, |index| pick(&words, index));
        assert_eq!((three(0), three(1), three(10)), (5, 0, 7));
        assert_eq!((Bits(3).words(32), Bits(4).words(9)), (3, 2));
        assert_eq!(Bits(8).at(3, |_| 0xab00_0000), 0xab);
    }

    #[test]
    fn powers_of_two_cover_the_whole_range() {
        assert_eq!((power_of_two(127), power_of_two(128), power_of_two(0)), (1.0, 2.0, 2f32.powi(-127)));
        assert!(power_of_two(255).is_nan());
    }
}
