//! One pass over part of a tensor.

use std::cell::RefCell;

use super::codebooks;
use super::counts::{Counter, Counting, Counts, ValueTable};
use super::moments::{self, BLOCK, CountValues, Moments, Number};
use crate::base::Result;
use crate::codec::simd::{self, Kernel, Lanes};
use crate::codec::{self, CODEBOOK_NUMBERS, CODEBOOK_VALUES, Codebook, Codec};
use crate::format::Reader;
use crate::model::{Class, DType, TensorInfo};

/// Number of elements read at a time: a multiple of every block size, and small enough for a core's cache.
pub(crate) const CHUNK: u64 = 1 << 16;

/// Number of elements per unit of work: large enough to amortise clearing the table of counts.
pub(crate) const SPAN: u64 = 1 << 22;

/// Scans values of one type: built once per type, shared by all threads.
pub(crate) struct DtypeScanner {
    pub codec: &'static Codec,
    pub counting: Counting,
    /// The value of each pattern, if values are counted by their own bits.
    pub table: Option<ValueTable>,
    /// The largest magnitude of the type, if weights that reach it are suspect.
    pub limit: Option<f64>,
}

impl DtypeScanner {
    /// Returns `None` for types that this build cannot decode.
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

/// The result of scanning part of a tensor.
pub(crate) struct Part {
    pub counts: Counts,
    /// Moments, for types that are not counted exactly.
    pub moments: Moments,
    /// The row in which the part starts.
    pub first_row: u64,
    /// The largest magnitude in each row, within the part. Empty if rows are not measured.
    pub row_max: Vec<f32>,
}

/// Buffers of a thread, reused between parts.
struct Scratch {
    counter: Counter,
    codebooks: Vec<Codebook>,
    narrow: Vec<f32>,
    wide: Vec<f64>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        counter: Counter::new(),
        codebooks: Vec::new(),
        narrow: Vec::new(),
        wide: Vec::new(),
    });
}

/// Whether rows of a tensor are measured: a matrix (or a stack of matrices) of floating-point weights.
pub(crate) fn has_rows(tensor: &TensorInfo, dtype: DType) -> bool {
    matches!(dtype.info().class, Class::Float | Class::Block) && tensor.shape.len() >= 2 && tensor.row_elements() > 1
}

/// Scans the elements of `ranges`, in order; each starts at a multiple of [`CHUNK`].
pub(crate) fn scan(
    reader: &Reader,
    tensor: &TensorInfo,
    scanner: &DtypeScanner,
    ranges: &[std::ops::Range<u64>],
    threshold: f64,
) -> Result<Part> {
    let row = tensor.row_elements().max(1);
    let start = ranges.first().map_or(0, |range| range.start);
    let end = ranges.last().map_or(0, |range| range.end);
    let first_row = start / row;
    let rows = if has_rows(tensor, scanner.dtype()) && end > start { (end - 1) / row - first_row + 1 } else { 0 };
    let mut part = Part { counts: Counts::default(), moments: Moments::default(), first_row, row_max: vec![0.0; rows as usize] };
    SCRATCH.with_borrow_mut(|scratch| {
        for range in ranges {
            for first in (range.start..range.end).step_by(CHUNK as usize) {
                let last = range.end.min(first + CHUNK);
                let bytes = reader.bytes_at(tensor, byte_range(scanner.dtype(), first, last))?;
                let position = RowPosition { row, first: first - first_row * row };
                scratch.chunk(scanner, &bytes, (last - first) as usize, threshold, position, &mut part);
            }
        }
        scratch.counter.drain(&mut part.counts);
        Ok(part)
    })
}

/// Decodes all values of a small tensor.
pub(crate) fn values(reader: &Reader, tensor: &TensorInfo, scanner: &DtypeScanner) -> Result<Vec<f64>> {
    let elements = tensor.elements()?;
    let bytes = reader.bytes_at(tensor, byte_range(scanner.dtype(), 0, elements))?;
    let mut values = vec![0.0; elements as usize * codec::values_per_element(scanner.dtype())];
    scanner.codec.decode_f64(&bytes, &mut values);
    Ok(values)
}

/// Converts a range of elements into bytes. Both ends are block boundaries, or the end of the tensor.
pub(crate) fn byte_range(dtype: DType, first: u64, last: u64) -> std::ops::Range<u64> {
    let info = dtype.info();
    first / info.block_elems * info.block_bytes..last.div_ceil(info.block_elems) * info.block_bytes
}

/// The position of a chunk relative to rows.
#[derive(Clone, Copy)]
struct RowPosition {
    /// The length of a row.
    row: u64,
    /// The chunk's first element, relative to the start of the part's first row.
    first: u64,
}

impl RowPosition {
    /// Splits a chunk into blocks, each with its position, bytes and number of decoded values.
    fn blocks(self, dtype: DType, bytes: &[u8], elements: usize) -> impl Iterator<Item = (Self, &[u8], usize)> {
        let numbers = codec::values_per_element(dtype);
        let step = BLOCK / numbers;
        let blocks = bytes.chunks(byte_range(dtype, 0, step as u64).end as usize);
        blocks
            .zip((0..elements).step_by(step))
            .map(move |(bytes, first)| (Self { first: self.first + first as u64, ..self }, bytes, step.min(elements - first) * numbers))
    }

    /// Splits `items` at row boundaries and calls `f` with each row's index in the part and its items.
    fn rows<T>(self, items: &[T], mut f: impl FnMut(usize, &[T])) {
        let (mut at, mut rest) = (self.first, items);
        while !rest.is_empty() {
            let left = (self.row - at % self.row).min(rest.len() as u64) as usize;
            let (run, next) = rest.split_at(left);
            f((at / self.row) as usize, run);
            at += left as u64;
            rest = next;
        }
    }
}

impl Scratch {
    fn chunk(&mut self, scanner: &DtypeScanner, bytes: &[u8], elements: usize, threshold: f64, position: RowPosition, part: &mut Part) {
        match scanner.counting {
            Counting::Pair => {
                self.counter.pairs(bytes); // prefetches, and so comes first
                part.update_row_max(position, bytes.as_chunks::<2>().0, |pairs| scanner.largest(pairs));
            }
            Counting::Byte => {
                part.update_row_max(position, bytes, |bytes| scanner.largest(bytes));
                self.counter.bytes(bytes);
            }
            Counting::Sketch if scanner.dtype() == DType::F32 => {
                let values = bytes.as_chunks::<4>().0;
                for block in values.chunks(BLOCK) {
                    part.moments.merge(&moments::of_block(block, threshold, &mut self.counter));
                }
                part.update_row_max(position, values, largest);
            }
            Counting::Sketch if scanner.codec.decode_wide.is_some() => {
                for (position, bytes, values) in position.blocks(scanner.dtype(), bytes, elements) {
                    self.wide.resize(values, 0.0);
                    scanner.codec.decode_f64(bytes, &mut self.wide);
                    part.moments.merge(&moments::of_block(&self.wide, threshold, &mut self.counter));
                    part.update_row_max(position, &self.wide, largest);
                }
            }
            Counting::Sketch | Counting::Upper => {
                for (position, bytes, values) in position.blocks(scanner.dtype(), bytes, elements) {
                    if self.codebooks(scanner, bytes, values, threshold, position, part) {
                        continue;
                    }
                    self.narrow.resize(values, 0.0);
                    (scanner.codec.decode)(bytes, &mut self.narrow);
                    if scanner.counting == Counting::Sketch {
                        part.moments.merge(&moments::of_block(&self.narrow, threshold, &mut self.counter));
                    } else {
                        self.counter.count(&self.narrow);
                    }
                    part.update_row_max(position, &self.narrow, largest);
                }
            }
        }
    }

    /// Scans a block through its codebooks. Returns false, with nothing changed, if the type has none, a value is not finite, or rows
    /// are not whole codebooks.
    fn codebooks(
        &mut self,
        scanner: &DtypeScanner,
        bytes: &[u8],
        values: usize,
        threshold: f64,
        position: RowPosition,
        part: &mut Part,
    ) -> bool {
        let numbers = CODEBOOK_NUMBERS as u64;
        let Some(read) = scanner.codec.codebooks.filter(|_| position.row.is_multiple_of(numbers)) else { return false };
        self.codebooks.resize(values / CODEBOOK_NUMBERS, Codebook::default());
        read(bytes, &mut self.codebooks);
        let Some(moments) = codebooks::of_codebooks(&self.codebooks, threshold, &mut self.counter) else { return false };
        part.moments.merge(&moments);
        let position = RowPosition { row: position.row / numbers, first: position.first / numbers };
        part.update_row_max(position, &self.codebooks, |codebooks| simd::run(LargestValue(codebooks)));
        true
    }
}

impl Part {
    /// Updates the largest magnitudes of the rows that `items` belong to, if rows are measured.
    fn update_row_max<T>(&mut self, position: RowPosition, items: &[T], largest: impl Fn(&[T]) -> f32) {
        if !self.row_max.is_empty() {
            position.rows(items, |row, run| {
                if let Some(max) = self.row_max.get_mut(row) {
                    *max = max.max(largest(run));
                }
            });
        }
    }
}

/// Returns the largest finite magnitude.
fn largest<T: Number>(values: &[T]) -> f32 {
    struct Largest<'a, T>(&'a [T]);

    impl<T: Number> Kernel for Largest<'_, T> {
        type Output = i32;

        /// Float patterns of one sign sort by magnitude.
        #[inline(always)]
        fn run<V: Lanes>(self, _token: V::Token) -> i32 {
            const INFINITE: i32 = f32::INFINITY.to_bits() as i32;
            let mut largest = 0;
            for value in self.0 {
                let magnitude = (value.narrow().to_bits() & 0x7fff_ffff) as i32;
                let finite = if magnitude < INFINITE { magnitude } else { 0 };
                largest = if finite > largest { finite } else { largest };
            }
            largest
        }
    }

    f32::from_bits(simd::run(Largest(values)) as u32)
}

/// The largest magnitude among the values that occur, all finite.
struct LargestValue<'a>(&'a [Codebook]);

impl Kernel for LargestValue<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<V: Lanes>(self, token: V::Token) -> f32 {
        let zero = V::splat(token, 0.0);
        let mut largest = zero;
        for codebook in self.0 {
            for (values, counts) in codebook.values.chunks_exact(V::COUNT).zip(codebook.counts.chunks_exact(V::COUNT)) {
                let occurs = zero.lt(V::from_bytes(token, counts));
                largest = V::select(occurs, V::load(token, values).abs(), zero).max(largest);
            }
        }
        let mut lanes = [0.0; CODEBOOK_VALUES];
        largest.store(&mut lanes);
        lanes.iter().fold(0.0, |all: f32, &lane| all.max(lane))
    }
}

/// A pattern of one byte or two.
trait Pattern: Copy {
    fn code(self) -> u16;
}

impl Pattern for u8 {
    #[inline(always)]
    fn code(self) -> u16 {
        u16::from(self)
    }
}

impl Pattern for [u8; 2] {
    #[inline(always)]
    fn code(self) -> u16 {
        u16::from_le_bytes(self)
    }
}

/// The largest pattern without its sign bit.
struct LargestPattern<'a, T> {
    patterns: &'a [T],
    unsigned: u16,
}

impl<T: Pattern> Kernel for LargestPattern<'_, T> {
    type Output = u16;

    #[inline(always)]
    fn run<V: Lanes>(self, _token: V::Token) -> u16 {
        let mut largest = 0;
        for pattern in self.patterns {
            let magnitude = pattern.code() & self.unsigned;
            largest = if magnitude > largest { magnitude } else { largest };
        }
        largest
    }
}

impl DtypeScanner {
    /// Returns the largest finite magnitude of patterns: in all float types, patterns of one sign sort by magnitude.
    fn largest<T: Pattern>(&self, patterns: &[T]) -> f32 {
        let unsigned = match (self.dtype(), size_of::<T>()) {
            (DType::F8_E8M0, _) => 0xff, // has no sign
            (_, 1) => 0x7f,
            _ => 0x7fff,
        };
        let value = |code: u16| self.table.as_ref().and_then(|table| table.values().get(usize::from(code))).copied().unwrap_or(0.0);
        let max = value(simd::run(LargestPattern { patterns, unsigned }));
        if max.is_finite() {
            max
        } else {
            patterns.iter().map(|pattern| value(pattern.code() & unsigned)).filter(|value| value.is_finite()).fold(0.0, f32::max)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_kept_apart_across_chunks() {
        let mut seen = Vec::new();
        RowPosition { row: 4, first: 6 }.rows(&[1, 2, 3, 4, 5, 6, 7], |row, run| seen.push((row, run.to_vec())));
        assert_eq!(seen, [(1, vec![1, 2]), (2, vec![3, 4, 5, 6]), (3, vec![7])]);
    }

    #[test]
    fn the_largest_magnitude_is_finite() {
        assert_eq!(largest(&[1.0f32, -3.0, f32::NAN, f32::NEG_INFINITY]), 3.0);
        let scanner = DtypeScanner::new(DType::F16).unwrap();
        assert_eq!(scanner.largest(&[0x3c00u16, 0xc200, 0x7c00].map(u16::to_le_bytes)), 3.0);
        assert_eq!(scanner.largest(&[0x3c00u16, 0xc200].map(u16::to_le_bytes)), 3.0);
        assert_eq!(scanner.limit, Some(65504.0));
    }
}
