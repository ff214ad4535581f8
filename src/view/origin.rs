//! How the rows of a new tensor come from stored tensors: what every change of layout boils down to.
//!
//! Names and layouts differ between Hugging Face and GGUF, but nearly always by whole rows (runs along the innermost
//! dimension): heads are permuted, experts stacked, projections split. So an [`Origin`] says where each row comes from, and
//! [`Origin::gather`] hands out any range of rows: memory does not grow with the tensor, and quantised rows move undecoded.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::base::{Error, Result, num};
use crate::codec;
use crate::format::Reader;
use crate::model::{DType, Model};

/// One step between layouts. Rows are counted over the whole tensor, planes and all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// Each group of `a * b` rows is a grid of `a` by `b`; it becomes one of `b` by `a`. The inverse swaps `a` and `b`.
    SwapRows {
        /// Rows of the grid.
        a: u64,
        /// Columns of the grid.
        b: u64,
    },
    /// Of each group of `of` rows, the `len` rows from `start` on.
    TakeRows {
        /// The first row taken of a group.
        start: u64,
        /// How many rows are taken of a group.
        len: u64,
        /// How many rows a group has.
        of: u64,
    },
    /// Each plane of `rows` rows is transposed.
    Transpose {
        /// Rows of a plane before.
        rows: u64,
    },
    /// Every value plus this number, in single precision.
    Add(f32),
    /// Every value times this number, in single precision.
    Scale(f32),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SwapRows { a, b } => write!(f, "swap rows {a} x {b}"),
            Self::TakeRows { start, len, of } => write!(f, "rows {start}..{} of {of}", start + len),
            Self::Transpose { .. } => write!(f, "transpose"),
            Self::Add(value) => write!(f, "add {value}"),
            Self::Scale(value) => write!(f, "times {value}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    /// A stored tensor, by its index in the model.
    Stored(usize),
    /// Numbers that are computed.
    Values(Arc<[f32]>),
    Step(Box<Origin>, Step),
    /// Parts laid one after the other, each with its first row.
    Join(Vec<(u64, Origin)>),
}

/// How a tensor is made. What can be built fits the stored tensors: every row of it is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    node: Node,
    dtype: DType,
    rows: u64,
    /// Elements of a row.
    row: u64,
}

impl Origin {
    /// A stored tensor as it is, by its index in [`Model::tensors`].
    ///
    /// # Errors
    /// Its type is unknown, or its rows are no whole number of blocks.
    pub fn stored(model: &Model, tensor: usize) -> Result<Self> {
        let info =
            model.tensors.get(tensor).ok_or_else(|| Error::argument(format!("expected a tensor of the model, found number {tensor}")))?;
        let dtype = info
            .elem
            .known()
            .ok_or_else(|| Error::unsupported(format!("expected a known type, found {}", info.elem)).in_tensor(&info.name))?;
        let row = match (info.row_elements(), dtype.info().block_elems) {
            (row, 1) => row,
            (row, block) if row.is_multiple_of(block) => row,
            // Packed floats (F4, F6) whose rows end inside a byte can only be moved whole.
            _ => info.elements()?,
        };
        let rows = info.elements()?.checked_div(row).unwrap_or(0);
        Ok(Self { node: Node::Stored(tensor), dtype, rows, row })
    }

    /// Numbers that are computed, as one row.
    pub fn values(values: impl Into<Arc<[f32]>>) -> Self {
        let values = values.into();
        Self { dtype: DType::F32, rows: 1, row: values.len() as u64, node: Node::Values(values) }
    }

    /// A vector as a column: rows of one element each, so that they can be moved.
    ///
    /// # Errors
    /// The elements are not stored one by one.
    pub fn by_element(mut self) -> Result<Self> {
        if self.dtype.info().block_elems > 1 || self.whole().is_none() {
            return Err(Error::unsupported(format!("expected elements that can be moved one by one, found {}", self.dtype)));
        }
        self.rows = num::mul(self.rows, self.row, "the elements of a tensor")?;
        self.row = 1;
        Ok(self)
    }

    /// This, then one step more.
    ///
    /// # Errors
    /// The rows do not divide into the step's groups.
    pub fn then(self, step: Step) -> Result<Self> {
        let groups = |size: u64| match self.rows.checked_div(size) {
            Some(groups) if self.rows.is_multiple_of(size) => Ok(groups),
            _ => Err(Error::malformed(format!("expected rows in groups of {size}, found {} rows", self.rows))),
        };
        let (mut rows, mut row, mut dtype) = (self.rows, self.row, self.dtype);
        match step {
            Step::SwapRows { a, b } => {
                groups(num::mul(a, b, "a group of rows")?)?;
            }
            Step::TakeRows { start, len, of } => {
                if len == 0 || start.checked_add(len).is_none_or(|end| end > of) {
                    return Err(Error::malformed(format!("expected rows within a group of {of}, found {len} from {start}")));
                }
                rows = groups(of)? * len;
            }
            Step::Transpose { rows: plane } => {
                rows = num::mul(groups(plane)?, row, "the rows of a transposed tensor")?;
                row = plane;
                if dtype.info().block_elems > 1 {
                    dtype = DType::F32;
                }
            }
            Step::Add(_) | Step::Scale(_) => dtype = DType::F32,
        }
        Ok(Self { node: Node::Step(Box::new(self), step), dtype, rows, row })
    }

    /// The rows `start..start + len`.
    ///
    /// # Errors
    /// They are not all there.
    pub fn slice(self, start: u64, len: u64) -> Result<Self> {
        let of = self.rows;
        if start == 0 && len == of { Ok(self) } else { self.then(Step::TakeRows { start, len, of }) }
    }

    /// Parts laid one after the other, row by row. If their types differ, all become F32.
    ///
    /// # Errors
    /// There are none, or their rows are not of one length.
    pub fn join(parts: Vec<Origin>) -> Result<Self> {
        let Some(first) = parts.first() else {
            return Err(Error::argument("expected parts to join, found none"));
        };
        let row = first.row;
        let mut dtype = first.dtype;
        if parts.len() == 1 {
            return parts.into_iter().next().ok_or_else(|| Error::argument("expected parts to join, found none"));
        }
        let mut rows = 0;
        let mut placed = Vec::with_capacity(parts.len());
        for part in parts {
            if part.row != row {
                return Err(Error::malformed(format!("expected parts with rows of {row} elements, found {}", part.row)));
            }
            if part.dtype != dtype {
                dtype = DType::F32;
            }
            let start = rows;
            rows = num::add(rows, part.rows, "the rows of a tensor")?;
            placed.push((start, part));
        }
        Ok(Self { node: Node::Join(placed), dtype, rows, row })
    }

    /// The type of the bytes that [`Origin::gather`] hands out: the stored one, or F32 where values change.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// How many rows there are.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Elements of a row.
    pub fn row_elements(&self) -> u64 {
        self.row
    }

    /// How many elements there are.
    pub fn elements(&self) -> Result<u64> {
        num::mul(self.rows, self.row, "the elements of a tensor")
    }

    /// The stored tensors that it comes from, by index in [`Model::tensors`], in order, each once.
    pub fn tensors(&self) -> Vec<usize> {
        fn walk(origin: &Origin, found: &mut Vec<usize>) {
            match &origin.node {
                Node::Stored(tensor) if !found.contains(tensor) => found.push(*tensor),
                Node::Stored(_) | Node::Values(_) => {}
                Node::Step(inner, _) => walk(inner, found),
                Node::Join(parts) => parts.iter().for_each(|(_, part)| walk(part, found)),
            }
        }
        let mut found = Vec::new();
        walk(self, &mut found);
        found
    }

    /// The stored tensor, if this is one with its elements in their order (the shape may differ).
    pub fn whole(&self) -> Option<usize> {
        match self.node {
            Node::Stored(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// What is done, in words, for people who read a plan: that of the first part, where parts are joined.
    pub fn steps(&self) -> Vec<String> {
        match &self.node {
            Node::Stored(_) => Vec::new(),
            Node::Values(_) => vec!["computed".to_owned()],
            Node::Step(inner, step) => {
                let mut steps = inner.steps();
                steps.push(step.to_string());
                steps
            }
            Node::Join(parts) => {
                let mut steps = parts.first().map(|(_, part)| part.steps()).unwrap_or_default();
                steps.push(format!("join {}", parts.len()));
                steps
            }
        }
    }

    /// The bytes of a range of rows, in [`Origin::dtype`]: borrowed from the file where they lie together.
    ///
    /// # Errors
    /// The rows are outside the tensor, or a stored type cannot be decoded where values change.
    pub fn gather<'a>(&'a self, reader: &'a Reader, range: Range<u64>) -> Result<Cow<'a, [u8]>> {
        if range.start > range.end || range.end > self.rows {
            return Err(Error::argument(format!("expected rows within 0..{}, found {range:?}", self.rows)));
        }
        match &self.node {
            Node::Stored(tensor) => {
                let info = reader.model().tensors.get(*tensor).ok_or_else(|| Error::argument("expected a tensor of this model"))?;
                reader.bytes_at(info, self.bytes(range.start)?..self.bytes(range.end)?)
            }
            Node::Values(_) if range.is_empty() => Ok(Cow::Borrowed(&[])),
            Node::Values(values) => Ok(Cow::Owned(to_bytes(values))),
            Node::Join(parts) => {
                let first = parts.partition_point(|(start, _)| *start <= range.start).saturating_sub(1);
                let mut runs = Runs::new(self.bytes(range.end - range.start)?)?;
                for (start, part) in parts.iter().skip(first).take_while(|(start, _)| *start < range.end) {
                    let (from, to) = (range.start.max(*start) - start, (range.end - start).min(part.rows));
                    let bytes = part.gather(reader, from..to)?;
                    runs.push(if part.dtype == self.dtype { bytes } else { Cow::Owned(to_bytes(&to_values(part.dtype, &bytes)?)) });
                }
                Ok(runs.done())
            }
            Node::Step(inner, step) => self.gather_step(inner, step, reader, range),
        }
    }

    fn gather_step<'a>(&'a self, inner: &'a Origin, step: &Step, reader: &'a Reader, range: Range<u64>) -> Result<Cow<'a, [u8]>> {
        match *step {
            Step::SwapRows { a, b } => {
                let mut runs = Runs::new(self.bytes(range.end - range.start)?)?;
                for row in range {
                    let (group, inside) = (row / (a * b), row % (a * b));
                    let source = group * a * b + (inside % a) * b + inside / a;
                    runs.push(inner.gather(reader, source..source + 1)?);
                }
                Ok(runs.done())
            }
            Step::TakeRows { start, len, of } => {
                let mut runs = Runs::new(self.bytes(range.end - range.start)?)?;
                let mut row = range.start;
                while row < range.end {
                    let run = (len - row % len).min(range.end - row);
                    let source = row / len * of + start + row % len;
                    runs.push(inner.gather(reader, source..source + run)?);
                    row += run;
                }
                Ok(runs.done())
            }
            Step::Transpose { rows: plane } => {
                // A row of the result is a column of a plane, so one plane is at hand at a time.
                let mut out = Runs::new(self.bytes(range.end - range.start)?)?;
                let mut row = range.start;
                while row < range.end {
                    let number = row / inner.row;
                    let end = range.end.min((number + 1) * inner.row);
                    let stored = inner.gather(reader, number * plane..(number + 1) * plane)?;
                    let stored = if inner.dtype == self.dtype { stored } else { Cow::Owned(to_bytes(&to_values(inner.dtype, &stored)?)) };
                    let size = num::to_usize(self.dtype.info().block_bytes, "an element")?;
                    let width = num::to_usize(inner.row, "a row")? * size;
                    for column in row - number * inner.row..end - number * inner.row {
                        let at = num::to_usize(column, "a column")? * size;
                        for line in stored.chunks_exact(width) {
                            out.push_bytes(line.get(at..at + size).unwrap_or_default());
                        }
                    }
                    row = end;
                }
                Ok(out.done())
            }
            Step::Add(number) => {
                let mut values = to_values(inner.dtype, &inner.gather(reader, range)?)?;
                values.iter_mut().for_each(|value| *value += number);
                Ok(Cow::Owned(to_bytes(&values)))
            }
            Step::Scale(number) => {
                let mut values = to_values(inner.dtype, &inner.gather(reader, range)?)?;
                values.iter_mut().for_each(|value| *value *= number);
                Ok(Cow::Owned(to_bytes(&values)))
            }
        }
    }

    /// How many bytes so many rows take.
    fn bytes(&self, rows: u64) -> Result<u64> {
        self.dtype.bytes_for(num::mul(rows, self.row, "the elements of rows")?)
    }
}

/// All values of a small tensor, in single precision.
///
/// # Errors
/// The type of the stored tensor cannot be decoded.
pub fn values(reader: &Reader, origin: &Origin) -> Result<Vec<f32>> {
    to_values(origin.dtype(), &origin.gather(reader, 0..origin.rows())?)
}

/// Collects runs of bytes; a single one stays borrowed.
struct Runs<'a> {
    first: Option<Cow<'a, [u8]>>,
    all: Vec<u8>,
    capacity: usize,
}

impl<'a> Runs<'a> {
    fn new(bytes: u64) -> Result<Self> {
        Ok(Self { first: None, all: Vec::new(), capacity: num::to_usize(bytes, "a run of rows")? })
    }

    fn push(&mut self, bytes: Cow<'a, [u8]>) {
        if self.first.is_none() && self.all.is_empty() {
            self.first = Some(bytes);
        } else {
            self.push_bytes(&bytes);
        }
    }

    fn push_bytes(&mut self, bytes: &[u8]) {
        if self.all.is_empty() {
            self.all.reserve(self.capacity);
        }
        if let Some(first) = self.first.take() {
            self.all.extend_from_slice(&first);
        }
        self.all.extend_from_slice(bytes);
    }

    fn done(self) -> Cow<'a, [u8]> {
        self.first.unwrap_or(Cow::Owned(self.all))
    }
}

fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Decodes whole blocks.
fn to_values(dtype: DType, bytes: &[u8]) -> Result<Vec<f32>> {
    let codec =
        codec::codec(dtype).ok_or_else(|| Error::unsupported(format!("expected a type whose values can be read, found {dtype}")))?;
    let info = dtype.info();
    let elements = num::to_usize(bytes.len() as u64 / info.block_bytes * info.block_elems, "the elements of rows")?;
    let mut values = vec![0.0; elements];
    (codec.decode)(bytes, &mut values);
    Ok(values)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::base::bytes::Endian;
    use crate::model::{ElemType, Shard, TensorInfo};
    use crate::source::InMemory;

    /// A model whose tensors are U8 and count up.
    fn reader(shapes: &[&[u64]]) -> Reader {
        let mut tensors = Vec::new();
        let mut all = Vec::new();
        for (i, shape) in shapes.iter().enumerate() {
            let len: u64 = shape.iter().product();
            tensors.push(TensorInfo {
                name: format!("t{i}"),
                elem: ElemType::Known(DType::U8),
                shape: shape.to_vec(),
                shard: 0,
                offset_bytes: all.len() as u64,
                len_bytes: Some(len),
            });
            all.extend((0..len).map(|j| (j + 100 * i as u64) as u8));
        }
        let shards = vec![Shard { path: PathBuf::from("a"), bytes: all.len() as u64 }];
        let model = Model { tensors, shards, ..Model::default() };
        Reader::new(model, vec![Arc::new(InMemory::new("a", all))], Endian::Little)
    }

    fn all(origin: &Origin, reader: &Reader) -> Vec<u8> {
        let whole = origin.gather(reader, 0..origin.rows()).unwrap().into_owned();
        let mut piecewise = Vec::new();
        for row in 0..origin.rows() {
            piecewise.extend_from_slice(&origin.gather(reader, row..row + 1).unwrap());
        }
        assert_eq!(whole, piecewise, "a row is the same however it is asked for");
        whole
    }

    #[test]
    fn swapping_rows_there_and_back_is_nothing() {
        let reader = reader(&[&[12, 2]]);
        let stored = Origin::stored(reader.model(), 0).unwrap();
        let there = stored.clone().then(Step::SwapRows { a: 2, b: 3 }).unwrap();
        assert_eq!(all(&there, &reader), [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, 12, 13, 18, 19, 14, 15, 20, 21, 16, 17, 22, 23]);
        let back = there.then(Step::SwapRows { a: 3, b: 2 }).unwrap();
        assert_eq!(all(&back, &reader), all(&stored, &reader));
    }

    #[test]
    fn joined_parts_are_found_again_as_slices() {
        let reader = reader(&[&[2, 3], &[1, 3], &[3, 3]]);
        let model = reader.model();
        let parts: Vec<Origin> = (0..3).map(|i| Origin::stored(model, i).unwrap()).collect();
        let joined = Origin::join(parts.clone()).unwrap();
        assert_eq!((joined.rows(), joined.row_elements()), (6, 3));
        let mut start = 0;
        for part in &parts {
            let slice = joined.clone().slice(start, part.rows()).unwrap();
            assert_eq!(all(&slice, &reader), all(part, &reader));
            start += part.rows();
        }
        assert_eq!(joined.tensors(), [0, 1, 2]);
    }

    #[test]
    fn every_second_row_and_the_rest_interleave_to_the_whole() {
        let reader = reader(&[&[2, 4, 2]]);
        let stored = Origin::stored(reader.model(), 0).unwrap();
        let even = stored.clone().then(Step::TakeRows { start: 0, len: 1, of: 2 }).unwrap();
        let odd = stored.clone().then(Step::TakeRows { start: 1, len: 1, of: 2 }).unwrap();
        assert_eq!(all(&even, &reader), [0, 1, 4, 5, 8, 9, 12, 13]);
        let parts = (0..2).flat_map(|e| [even.clone().slice(2 * e, 2).unwrap(), odd.clone().slice(2 * e, 2).unwrap()]).collect();
        let whole = Origin::join(parts).unwrap().then(Step::SwapRows { a: 2, b: 2 }).unwrap();
        assert_eq!(all(&whole, &reader), all(&stored, &reader));
    }

    #[test]
    fn transposing_planes_twice_is_nothing() {
        let reader = reader(&[&[2, 3, 4]]);
        let stored = Origin::stored(reader.model(), 0).unwrap();
        let turned = stored.clone().then(Step::Transpose { rows: 3 }).unwrap();
        assert_eq!((turned.rows(), turned.row_elements()), (8, 3));
        assert_eq!(all(&turned, &reader)[..6], [0, 4, 8, 1, 5, 9]);
        assert_eq!(all(&turned.then(Step::Transpose { rows: 4 }).unwrap(), &reader), all(&stored, &reader));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let reader = reader(&[&[6, 2], &[2, 3]]);
        let stored = Origin::stored(reader.model(), 0).unwrap();
        assert!(stored.clone().then(Step::SwapRows { a: 2, b: 2 }).is_err());
        assert!(stored.clone().then(Step::SwapRows { a: 0, b: 2 }).is_err());
        assert!(stored.clone().then(Step::TakeRows { start: 2, len: 2, of: 3 }).is_err());
        assert!(stored.clone().slice(5, 2).is_err());
        assert!(Origin::join(vec![stored.clone(), Origin::stored(reader.model(), 1).unwrap()]).is_err());
        assert!(Origin::join(Vec::new()).is_err());
        assert!(stored.gather(&reader, 5..7).is_err());
        assert!(Origin::stored(reader.model(), 9).is_err());
    }

    #[test]
    fn a_vector_moves_by_element() {
        let reader = reader(&[&[6]]);
        let origin = Origin::stored(reader.model(), 0).unwrap().by_element().unwrap().then(Step::SwapRows { a: 2, b: 3 }).unwrap();
        assert_eq!(all(&origin, &reader), [0, 3, 1, 4, 2, 5]);
    }
}
