//! From packed numbers to weights, in single precision.

use std::ops::Range;

use super::PackedWeight;
use super::schemes::{Bits, Layout, Whole};
use crate::base::{Error, Result, num};
use crate::codec;
use crate::format::Reader;
use crate::model::{DType, TensorInfo};

/// The values of E2M1, by their four bits (OCP Microscaling Formats, version 1.0, table 5).
const E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The place in a word of AWQ's eight columns: column c is in the nibble `AWQ_ORDER[c]`.
const AWQ_ORDER: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl Bits {
    fn mask(self) -> u32 {
        u32::MAX >> (32 - self.0)
    }

    /// The number at `index` of words packed from the lowest bit on; `word` gives a word by its place.
    fn at(self, index: u64, word: impl Fn(u64) -> u32) -> u32 {
        let bit = index * u64::from(self.0);
        let (place, shift) = (bit / 32, (bit % 32) as u32);
        let low = word(place) >> shift;
        let spilled = if shift + self.0 > 32 { word(place + 1) << (32 - shift) } else { 0 };
        (low | spilled) & self.mask()
    }

    /// How many words so many numbers take.
    fn words(self, numbers: u64) -> u64 {
        (numbers * u64::from(self.0)).div_ceil(32)
    }
}

/// A stored tensor that is read a part at a time.
#[derive(Clone, Copy)]
struct Source<'a> {
    reader: &'a Reader,
    tensor: &'a TensorInfo,
}

impl Source<'_> {
    fn bytes(&self, range: Range<u64>) -> Result<std::borrow::Cow<'_, [u8]>> {
        self.reader.bytes_at(self.tensor, range)
    }

    /// Little-endian words of 32 bits.
    fn words(&self, range: Range<u64>) -> Result<Vec<u32>> {
        let bytes = self.bytes(range.start * 4..range.end * 4)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
    }

    /// Values as numbers; one byte that is no float holds an exponent, as F8_E8M0 does.
    fn scales(&self, range: Range<u64>) -> Result<Vec<f32>> {
        match self.tensor.elem.known() {
            Some(DType::U8) => Ok(self.bytes(range)?.iter().map(|&byte| power_of_two(byte)).collect()),
            _ => self.floats(range),
        }
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

/// 2^(byte - 127), of E8M0; 255 is no number.
fn power_of_two(byte: u8) -> f32 {
    match byte {
        255 => f32::NAN,
        0 => f32::from_bits(1 << 22), // 2^-127 is subnormal
        byte => f32::from_bits(u32::from(byte) << 23),
    }
}

/// The value at a place; what is not there is zero. Places come from shapes that were checked against each other.
fn pick<T: Copy + Default>(values: &[T], place: u64) -> T {
    usize::try_from(place).ok().and_then(|place| values.get(place)).copied().unwrap_or_default()
}

impl PackedWeight {
    /// The weights of a range of elements of the whole tensor.
    ///
    /// # Errors
    /// Stored tensors cannot be read, or are of a type that makes no sense.
    pub fn values(&self, reader: &Reader, elements: Range<u64>) -> Result<Vec<f32>> {
        if elements.is_empty() {
            return Ok(Vec::new());
        }
        if let Layout::Bnb4 { .. } = self.layout {
            return self.indexed(reader, elements);
        }
        let row = self.shape.last().copied().unwrap_or(1).max(1);
        let rows = elements.start / row..elements.end.div_ceil(row);
        let mut values = match &self.layout {
            Layout::Gptq { bits, group, plus } => self.gptq(reader, rows.clone(), *bits, *group, *plus)?,
            Layout::Awq { group } => self.awq(reader, rows.clone(), *group)?,
            Layout::PackQuantized { bits, group } => self.pack_quantized(reader, rows.clone(), *bits, *group)?,
            Layout::Mlx { bits, group } => self.mlx(reader, rows.clone(), *bits, *group)?,
            Layout::Scaled { rows: tall, columns, scales, divide } => {
                self.scaled(reader, rows.clone(), (*tall, *columns, *scales), *divide)?
            }
            Layout::Fp4 { group, whole } => self.fp4(reader, rows.clone(), *group, *whole)?,
            Layout::GptOss => self.gpt_oss(reader, rows.clone())?,
            Layout::Bnb4 { .. } => Vec::new(), // above
        };
        // Ends of rows that were not asked for.
        let skip = num::to_usize(elements.start - rows.start * row, "values")?;
        values.truncate(skip + num::to_usize(elements.end - elements.start, "values")?);
        values.drain(..skip);
        Ok(values)
    }

    fn weight<'a>(&self, reader: &'a Reader) -> Result<Source<'a>> {
        self.source(reader, Some(self.weight), "the weight")
    }

    /// A tensor beside the weight.
    fn beside<'a>(&self, reader: &'a Reader, suffix: &str) -> Result<Source<'a>> {
        self.source(reader, self.place(suffix), suffix)
    }

    fn may_beside<'a>(&self, reader: &'a Reader, suffix: &str) -> Option<Source<'a>> {
        self.place(suffix).and_then(|place| self.source(reader, Some(place), suffix).ok())
    }

    fn place(&self, suffix: &str) -> Option<usize> {
        self.beside.iter().find(|(other, _)| *other == suffix).map(|&(_, place)| place)
    }

    fn source<'a>(&self, reader: &'a Reader, place: Option<usize>, what: &str) -> Result<Source<'a>> {
        let tensor = place.and_then(|place| reader.model().tensors.get(place));
        let tensor = tensor.ok_or_else(|| Error::malformed(format!("expected {what} beside it, found none")).in_tensor(&self.name))?;
        Ok(Source { reader, tensor })
    }

    /// The group of each input: told, or runs of one length.
    fn group_indices(&self, reader: &Reader, suffix: &str, group: u64) -> Result<Vec<u64>> {
        let input = self.shape.last().copied().unwrap_or(0);
        match self.may_beside(reader, suffix).filter(|source| source.tensor.elem.known() == Some(DType::I32)) {
            Some(source) => Ok(source.words(0..input)?.into_iter().map(u64::from).collect()),
            None => Ok((0..input).map(|i| i / group).collect()),
        }
    }

    fn gptq(&self, reader: &Reader, rows: Range<u64>, bits: Bits, group: u64, plus: u32) -> Result<Vec<f32>> {
        let (weight, scales, zeros) = (self.weight(reader)?, self.beside(reader, ".scales")?, self.beside(reader, ".qzeros")?);
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
            zero.extend(rows.clone().map(|row| (bits.at(row, |place| pick(&words, place)) + plus) as f32));
        }
        // The words of these rows only, word after word of the packed direction.
        let mut words = Vec::new();
        for place in 0..bits.words(input) {
            words.extend(weight.words(place * output + rows.start..place * output + rows.end)?);
        }
        let mut values = Vec::with_capacity(num::to_usize(count * input, "values")?);
        for row in 0..count {
            for (i, group) in (0u64..).zip(&indices) {
                let number = bits.at(i, |place| pick(&words, place * count + row)) as f32;
                let at = group.saturating_mul(count).saturating_add(row);
                values.push((number - pick(&zero, at)) * pick(&scale, at));
            }
        }
        Ok(values)
    }

    fn awq(&self, reader: &Reader, rows: Range<u64>, group: u64) -> Result<Vec<f32>> {
        let (weight, scales, zeros) = (self.weight(reader)?, self.beside(reader, ".scales")?, self.beside(reader, ".qzeros")?);
        let (output, input) = (self.shape[0], self.shape[1]);
        let columns = rows.start / 8..rows.end.div_ceil(8);
        let per_row = output / 8;
        let piece = |source: Source<'_>, row: u64| source.words(row * per_row + columns.start..row * per_row + columns.end);
        let nibble = |words: &[u32], row: u64| (pick(words, row / 8 - columns.start) >> (4 * AWQ_ORDER[(row % 8) as usize]) & 15) as f32;
        let count = num::to_usize(rows.end - rows.start, "rows")?;
        let mut values = vec![0.0; count * num::to_usize(input, "values")?];
        let (mut scale, mut zero) = (Vec::new(), Vec::new());
        for i in 0..input {
            if i % group == 0 {
                let group = i / group;
                scale = scales.floats(group * output + rows.start..group * output + rows.end)?;
                zero = piece(zeros, group)?;
            }
            let words = piece(weight, i)?;
            for ((row, scale), line) in rows.clone().zip(&scale).zip(values.chunks_exact_mut(input as usize)) {
                line[i as usize] = (nibble(&words, row) - nibble(&zero, row)) * scale;
            }
        }
        Ok(values)
    }

    fn pack_quantized(&self, reader: &Reader, rows: Range<u64>, bits: Bits, group: u64) -> Result<Vec<f32>> {
        let (weight, scales) = (self.weight(reader)?, self.beside(reader, ".weight_scale")?);
        let zeros = self.may_beside(reader, ".weight_zero_point");
        let input = self.shape[1];
        let (per_row, groups) = (weight.columns(), scales.columns());
        let indices = self.group_indices(reader, ".weight_g_idx", group)?;
        let half = 1u32 << (bits.0 - 1);
        let mut values = Vec::new();
        // Zero points are packed along the rows: a word holds those of several rows.
        let zero_words = zeros.map(|zeros| zeros.words(0..zeros.tensor.elements()?)).transpose()?;
        for row in rows {
            let words = weight.words(row * per_row..(row + 1) * per_row)?;
            let scale = scales.floats(row * groups..(row + 1) * groups)?;
            let zero: Vec<f32> = (0..groups)
                .map(|group| match &zero_words {
                    Some(words) => bits.at(row, |place| pick(words, place * groups + group)) as f32 - half as f32,
                    None => 0.0,
                })
                .collect();
            values.extend((0..input).zip(&indices).map(|(i, &group)| {
                let number = bits.at(i, |place| pick(&words, place)) as f32 - half as f32;
                (number - pick(&zero, group)) * pick(&scale, group)
            }));
        }
        Ok(values)
    }

    fn mlx(&self, reader: &Reader, rows: Range<u64>, bits: Bits, group: u64) -> Result<Vec<f32>> {
        let (weight, scales, biases) = (self.weight(reader)?, self.beside(reader, ".scales")?, self.beside(reader, ".biases")?);
        let input = self.shape.last().copied().unwrap_or(0);
        let (per_row, groups) = (weight.columns(), scales.columns());
        let mut values = Vec::new();
        for row in rows {
            let words = weight.words(row * per_row..(row + 1) * per_row)?;
            let scale = scales.floats(row * groups..(row + 1) * groups)?;
            let bias = biases.floats(row * groups..(row + 1) * groups)?;
            values.extend(
                (0..input).map(|i| bits.at(i, |place| pick(&words, place)) as f32 * pick(&scale, i / group) + pick(&bias, i / group)),
            );
        }
        Ok(values)
    }

    /// `tile` is how many rows and columns share a scale, and how many scales there are across.
    fn scaled(&self, reader: &Reader, rows: Range<u64>, tile: (u64, u64, u64), divide: f32) -> Result<Vec<f32>> {
        let weight = self.weight(reader)?;
        let scales = [".weight_scale_inv", ".weight_scale", ".SCB"].into_iter().find_map(|suffix| self.may_beside(reader, suffix));
        let scales = scales.ok_or_else(|| Error::malformed("expected scales beside it, found none").in_tensor(&self.name))?;
        let zeros = self.may_beside(reader, ".weight_zero_point");
        let (tall, wide, across) = tile;
        let input = self.shape.last().copied().unwrap_or(1);
        let mut values = weight.floats(rows.start * input..rows.end * input)?;
        for (row, line) in rows.zip(values.chunks_exact_mut(num::to_usize(input, "a row")?.max(1))) {
            let range = row / tall * across..(row / tall + 1) * across;
            let scale = scales.floats(range.clone())?;
            let zero = zeros.map(|zeros| zeros.floats(range)).transpose()?;
            for (i, value) in (0u64..).zip(line) {
                let zero = zero.as_ref().map_or(0.0, |zero| pick(zero, i / wide));
                *value = (*value - zero) * (pick(&scale, i / wide) / divide);
            }
        }
        Ok(values)
    }

    fn fp4(&self, reader: &Reader, rows: Range<u64>, group: u64, whole: Whole) -> Result<Vec<f32>> {
        let weight = self.weight(reader)?;
        let scales = self.may_beside(reader, ".weight_scale").map_or_else(|| self.beside(reader, ".scales"), Ok)?;
        let first = |suffix: &str| self.beside(reader, suffix)?.floats(0..1).map(|values| pick(&values, 0));
        let factor = match whole {
            Whole::None => 1.0,
            Whole::Multiply => first(".weight_scale_2")?,
            Whole::Divide => first(".weight_global_scale")?,
        };
        let input = self.shape.last().copied().unwrap_or(1);
        let groups = scales.columns();
        // Bytes in a row, whatever the words that they are stored in: MLX has words of four.
        let per_row = input / 2;
        let mut values = Vec::new();
        for row in rows {
            let bytes = weight.bytes(row * per_row..(row + 1) * per_row)?;
            let scale = scales.scales(row * groups..(row + 1) * groups)?;
            let numbers = bytes.iter().flat_map(|byte| [E2M1[usize::from(byte & 15)], E2M1[usize::from(byte >> 4)]]);
            values.extend((0u64..).zip(numbers).map(|(i, number)| {
                let scale = pick(&scale, i / group);
                number * if whole == Whole::Divide { scale / factor } else { scale * factor }
            }));
        }
        Ok(values)
    }

    fn gpt_oss(&self, reader: &Reader, rows: Range<u64>) -> Result<Vec<f32>> {
        let (blocks, scales) = (self.weight(reader)?, self.beside(reader, "_scales")?);
        let (input, output) = (self.shape[1], self.shape[2]);
        let groups = input / 32;
        let mut values = Vec::new();
        let mut row = rows.start;
        // A row here is a column there: rows that share a block are taken together, so that it is read once.
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
        let (weight, absmax) = (self.weight(reader)?, self.beside(reader, ".weight.absmax")?);
        let table = self.beside(reader, ".weight.quant_map")?.floats(0..16)?;
        let blocks = elements.start / block..elements.end.div_ceil(block);
        let mut scales = Vec::new();
        match nested {
            None => scales = absmax.floats(blocks.clone())?,
            Some(nested) => {
                let (codes, values) = (self.beside(reader, ".weight.nested_quant_map")?, self.beside(reader, ".weight.nested_absmax")?);
                let (codes, values) = (codes.floats(0..codes.tensor.elements()?)?, values.floats(0..values.tensor.elements()?)?);
                for (place, &code) in blocks.clone().zip(absmax.bytes(blocks.clone())?.iter()) {
                    scales.push(pick(&codes, code.into()) * pick(&values, place / nested.block) + nested.offset);
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
        let three = |index| Bits(3).at(index, |place| pick(&words, place));
        assert_eq!((three(0), three(1), three(10)), (5, 0, 7));
        assert_eq!((Bits(3).words(32), Bits(4).words(9)), (3, 2));
        assert_eq!(Bits(8).at(3, |_| 0xab00_0000), 0xab);
    }

    #[test]
    fn powers_of_two_reach_both_ends() {
        assert_eq!((power_of_two(127), power_of_two(128), power_of_two(0)), (1.0, 2.0, 2f32.powi(-127)));
        assert!(power_of_two(255).is_nan());
    }
}
