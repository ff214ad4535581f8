//! One pass over a part of a tensor.

use std::cell::RefCell;

use super::counts::{Counter, Counting, Counts, ValueTable};
use super::moments::{self, BLOCK, Moments, Sample};
use crate::base::Result;
use crate::codec::{self, Codec};
use crate::format::Reader;
use crate::model::{Class, DType, TensorInfo};

/// How many elements are read at a time: a multiple of every block, and few enough to stay in a core's cache.
pub(crate) const CHUNK: u64 = 1 << 16;

/// How many elements one thread takes at a time: so many that a table of counts is worth its clearing.
pub(crate) const SPAN: u64 = 1 << 22;

/// How the values of one type are looked at: made once a type, used by every thread.
pub(crate) struct Lens {
    pub codec: &'static Codec,
    pub counting: Counting,
    /// The values of the patterns, where they are counted by themselves.
    pub table: Option<ValueTable>,
    /// The largest magnitude that the type holds, where weights that reach it are suspect.
    pub limit: Option<f64>,
}

impl Lens {
    /// None for types that this build cannot decode.
    pub(crate) fn new(dtype: DType) -> Option<Self> {
        let table = ValueTable::new(dtype);
        let is_float = dtype.info().class == Class::Float && dtype != DType::F8_E8M0;
        let limit = table
            .as_ref()
            .filter(|_| is_float && dtype.info().block_elems == 1)
            .map(|table| table.values().iter().filter(|value| value.is_finite()).fold(0.0, |max: f64, &value| max.max(value.into())));
        Some(Self { codec: codec::codec(dtype)?, counting: Counting::of(dtype), table, limit })
    }

    fn dtype(&self) -> DType {
        self.codec.dtype
    }
}

/// What one part of a tensor contributes.
pub(crate) struct Part {
    pub counts: Counts,
    /// Of types that are not counted exactly.
    pub moments: Moments,
    /// The row that the part begins in.
    pub first_row: u64,
    /// The largest magnitude in each row, as far as it lies in the part. Empty where rows are not looked at.
    pub row_max: Vec<f32>,
}

/// Buffers of a thread, kept from part to part.
struct Scratch {
    counter: Counter,
    narrow: Vec<f32>,
    wide: Vec<f64>,
    finite_narrow: Vec<f32>,
    finite_wide: Vec<f64>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        counter: Counter::new(),
        narrow: Vec::new(),
        wide: Vec::new(),
        finite_narrow: Vec::new(),
        finite_wide: Vec::new(),
    });
}

/// Whether the rows of a tensor are worth looking at: a matrix (or a stack of them) of floating-point weights.
pub(crate) fn has_rows(tensor: &TensorInfo, dtype: DType) -> bool {
    matches!(dtype.info().class, Class::Float | Class::Block) && tensor.shape.len() >= 2 && tensor.row_elements() > 1
}

/// Looks at the elements of `ranges`, in order; each starts at a multiple of [`CHUNK`].
pub(crate) fn scan(
    reader: &Reader,
    tensor: &TensorInfo,
    lens: &Lens,
    ranges: &[std::ops::Range<u64>],
    elements: u64,
    threshold: f64,
) -> Result<Part> {
    let row = tensor.row_elements().max(1);
    let start = ranges.first().map_or(0, |range| range.start);
    let end = ranges.last().map_or(0, |range| range.end);
    let first_row = start / row;
    let rows = if has_rows(tensor, lens.dtype()) && end > start { (end - 1) / row - first_row + 1 } else { 0 };
    let mut part = Part { counts: Counts::default(), moments: Moments::default(), first_row, row_max: vec![0.0; rows as usize] };
    SCRATCH.with_borrow_mut(|scratch| {
        let few = Counts::few(elements);
        let mut codes = Vec::new();
        for range in ranges {
            for first in (range.start..range.end).step_by(CHUNK as usize) {
                let last = range.end.min(first + CHUNK);
                let bytes = reader.bytes_at(tensor, byte_range(lens.dtype(), first, last))?;
                let place = Place { row, first: first - first_row * row };
                scratch.chunk(lens, &bytes, (last - first) as usize, threshold, few.then_some(&mut codes), place, &mut part);
            }
        }
        if few {
            part.counts = Counts::sorted(codes);
        } else {
            scratch.counter.drain(&mut part.counts);
        }
        Ok(part)
    })
}

/// Where the elements of a tensor lie in its bytes. Both ends are a multiple of the block, or the end of the tensor.
pub(crate) fn byte_range(dtype: DType, first: u64, last: u64) -> std::ops::Range<u64> {
    let info = dtype.info();
    first / info.block_elems * info.block_bytes..last.div_ceil(info.block_elems) * info.block_bytes
}

/// Where a chunk lies among the rows.
#[derive(Clone, Copy)]
struct Place {
    /// The length of a row.
    row: u64,
    /// The chunk's first element, counted from the start of the part's first row.
    first: u64,
}

impl Place {
    /// Calls `f` with each row's piece of `items` and the row's number in the part.
    fn rows<T>(self, items: &[T], mut f: impl FnMut(usize, &[T])) {
        let (mut at, mut rest) = (self.first, items);
        while !rest.is_empty() {
            let left = (self.row - at % self.row).min(rest.len() as u64) as usize;
            let (piece, next) = rest.split_at(left);
            f((at / self.row) as usize, piece);
            at += left as u64;
            rest = next;
        }
    }
}

impl Scratch {
    #[allow(clippy::too_many_arguments)]
    fn chunk(
        &mut self,
        lens: &Lens,
        bytes: &[u8],
        elements: usize,
        threshold: f64,
        few: Option<&mut Vec<u16>>,
        place: Place,
        part: &mut Part,
    ) {
        let values = elements * codec::values_per_element(lens.dtype());
        match lens.counting {
            Counting::Pair => {
                match few {
                    Some(codes) => codes.extend(bytes.as_chunks().0.iter().map(|pair| u16::from_le_bytes(*pair))),
                    None => self.counter.pairs(bytes),
                }
                if let (Some(table), false) = (&lens.table, part.row_max.is_empty()) {
                    place.rows(bytes.as_chunks().0, |row, pairs| raise(&mut part.row_max, row, largest_pair(pairs, table)));
                }
            }
            Counting::Byte => {
                count(&mut self.counter, few, bytes.iter().map(|&byte| u16::from(byte)));
                if let (Some(table), false) = (&lens.table, part.row_max.is_empty()) {
                    let value = |&byte: &u8| table.values().get(usize::from(byte)).copied().unwrap_or(0.0);
                    place.rows(bytes, |row, bytes| raise(&mut part.row_max, row, largest(bytes.iter().map(value))));
                }
            }
            Counting::Sketch if lens.codec.decode_wide.is_some() => {
                self.wide.resize(values, 0.0);
                lens.codec.decode_f64(bytes, &mut self.wide);
                count(&mut self.counter, few, self.wide.iter().map(|value| value.sketch_code()));
                for block in self.wide.chunks(BLOCK) {
                    part.moments.join(&moments::of_block(block, threshold, &mut self.finite_wide));
                }
                if !part.row_max.is_empty() {
                    place.rows(&self.wide, |row, values| {
                        raise(&mut part.row_max, row, largest(values.iter().map(|&value| value as f32)));
                    });
                }
            }
            Counting::Sketch | Counting::Upper => {
                self.narrow.resize(values, 0.0);
                (lens.codec.decode)(bytes, &mut self.narrow);
                count(&mut self.counter, few, self.narrow.iter().map(|value| value.sketch_code()));
                if lens.counting == Counting::Sketch {
                    for block in self.narrow.chunks(BLOCK) {
                        part.moments.join(&moments::of_block(block, threshold, &mut self.finite_narrow));
                    }
                }
                if !part.row_max.is_empty() {
                    place.rows(&self.narrow, |row, values| raise(&mut part.row_max, row, largest(values.iter().copied())));
                }
            }
        }
    }
}

fn count(counter: &mut Counter, few: Option<&mut Vec<u16>>, codes: impl Iterator<Item = u16>) {
    match few {
        Some(list) => list.extend(codes),
        None => counter.codes(codes),
    }
}

fn raise(row_max: &mut [f32], row: usize, value: f32) {
    if let Some(max) = row_max.get_mut(row) {
        *max = max.max(value);
    }
}

/// The largest finite magnitude. Patterns of floats of one sign are ordered as their magnitudes are.
fn largest(values: impl Iterator<Item = f32>) -> f32 {
    const INFINITE: i32 = f32::INFINITY.to_bits() as i32;
    let finite = |bits: i32| if bits < INFINITE { bits } else { 0 };
    f32::from_bits(values.map(|value| finite((value.to_bits() & 0x7fff_ffff) as i32)).fold(0, i32::max) as u32)
}

/// The same for pairs of bytes that are F16 or BF16.
fn largest_pair(pairs: &[[u8; 2]], table: &ValueTable) -> f32 {
    let magnitudes = |pair: &[u8; 2]| i16::from_le_bytes(*pair) & 0x7fff;
    let value = |code: i16| table.values().get(code as usize).copied().unwrap_or(0.0);
    let max = value(pairs.iter().map(magnitudes).fold(0, i16::max));
    if max.is_finite() {
        max
    } else {
        pairs.iter().map(|pair| value(magnitudes(pair))).filter(|value| value.is_finite()).fold(0.0, f32::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_apart_across_chunks() {
        let mut seen = Vec::new();
        Place { row: 4, first: 6 }.rows(&[1, 2, 3, 4, 5, 6, 7], |row, piece| seen.push((row, piece.to_vec())));
        assert_eq!(seen, [(1, vec![1, 2]), (2, vec![3, 4, 5, 6]), (3, vec![7])]);
    }

    #[test]
    fn the_largest_magnitude_is_finite() {
        assert_eq!(largest([1.0, -3.0, f32::NAN, f32::NEG_INFINITY].into_iter()), 3.0);
        let lens = Lens::new(DType::F16).unwrap();
        let table = lens.table.as_ref().unwrap();
        assert_eq!(largest_pair(&[0x3c00u16, 0xc200, 0x7c00].map(u16::to_le_bytes), table), 3.0);
        assert_eq!(lens.limit, Some(65504.0));
    }
}
