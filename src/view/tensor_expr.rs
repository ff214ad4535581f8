//! Lazy tensor expressions: how the rows of a new tensor are gathered from stored tensors.
//!
//! Names and layouts differ between Hugging Face and GGUF, but nearly always by whole rows (runs along the innermost dimension): heads are
//! permuted, experts stacked, projections split. A [`TensorExpr`] describes where each row comes from, and [`TensorExpr::eval_rows`]
//! returns any range of rows, so that memory does not grow with the tensor and quantised rows move without decoding.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::{Error, Result, num};
use crate::codec;
use crate::format::Reader;
use crate::model::{DType, Model};
use crate::source::Data;

/// A row operation. Rows are counted over the whole tensor, across matrices.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RowOp {
    /// Treats each group of `a * b` runs of rows as an `a` by `b` grid and transposes it. The inverse swaps `a` and `b`.
    TransposeGrid {
        /// Rows of the grid.
        a: u64,
        /// Columns of the grid.
        b: u64,
        /// Rows of the tensor in a run.
        run: u64,
    },
    /// Takes `len` rows from `start` of each group of `of` rows.
    SliceRows {
        /// First row taken of a group.
        start: u64,
        /// Number of rows taken of a group.
        len: u64,
        /// Number of rows in a group.
        of: u64,
    },
    /// Divides the same elements into rows of another length.
    Reshape {
        /// Elements per row.
        row: u64,
    },
    /// Transposes each matrix of `rows` rows.
    Transpose {
        /// Rows of a matrix before transposing.
        rows: u64,
    },
    /// Adds a number to every value, in single precision.
    Add(f32),
    /// Multiplies every value by a number, in single precision.
    Scale(f32),
    /// Replaces every value by its square root, in single precision.
    SquareRoot,
    /// Replaces every value by minus its exponential, in single precision.
    NegExp,
    /// The inverse of [`RowOp::NegExp`]: the logarithm of minus every value.
    LogNeg,
    /// Replaces every value by the logarithm of one plus its exponential, in single precision.
    Softplus,
    /// The inverse of [`RowOp::Softplus`]: the logarithm of the exponential of every value, less one.
    InverseSoftplus,
    /// Stores integers in 32 or 64 bits: [`DType::I32`] or [`DType::I64`].
    Integers(DType),
}

impl fmt::Display for RowOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TransposeGrid { a, b, run: 1 } => write!(f, "swap rows {a} x {b}"),
            Self::TransposeGrid { a, b, run } => write!(f, "swap rows {a} x {b} x {run}"),
            Self::Reshape { row } => write!(f, "rows of {row}"),
            Self::SliceRows { start, len, of } => write!(f, "rows {start}..{} of {of}", start + len),
            Self::Transpose { .. } => write!(f, "transpose"),
            Self::Add(value) => write!(f, "add {value}"),
            Self::Scale(value) => write!(f, "times {value}"),
            Self::SquareRoot => write!(f, "square root"),
            Self::NegExp => write!(f, "-exp"),
            Self::LogNeg => write!(f, "log of the negative"),
            Self::Softplus => write!(f, "softplus"),
            Self::InverseSoftplus => write!(f, "inverse of softplus"),
            Self::Integers(dtype) => write!(f, "as {dtype}"),
        }
    }
}

/// An operation on two tensors, element by element, in single precision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PairOp {
    /// Multiplies them.
    Times,
    /// Divides the first by the second.
    Divide,
    /// Takes the second off the first.
    Minus,
}

impl fmt::Display for PairOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Times => "times another",
            Self::Divide => "divided by another",
            Self::Minus => "less another",
        })
    }
}

impl PairOp {
    fn apply(self, first: f32, second: f32) -> f32 {
        match self {
            Self::Times => first * second,
            Self::Divide => first / second,
            Self::Minus => first - second,
        }
    }
}

/// An operation for which all values are read before the first is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum WholeOp {
    /// Takes the mean off every value.
    Centre,
    /// Replaces every value by that of minus the mean magnitude, zero and the mean magnitude that it is nearest to.
    Ternary,
}

impl fmt::Display for WholeOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Centre => "less the mean",
            Self::Ternary => "ternary",
        })
    }
}

impl WholeOp {
    /// The number that the change of every value depends on. PyTorch adds in an order that depends on its threads; here sums are in double
    /// precision.
    fn number(self, inner: &TensorExpr, reader: &Reader) -> Result<f32> {
        const ELEMENTS: u64 = 1 << 18;
        let step = (ELEMENTS / inner.row.max(1)).max(1);
        let mut sum = 0.0;
        let mut row = 0;
        while row < inner.rows {
            let end = inner.rows.min(row.saturating_add(step));
            let values = to_values(inner.dtype, &inner.eval_rows(reader, row..end)?)?.into_iter().map(f64::from);
            sum += if self == Self::Centre { values.sum::<f64>() } else { values.map(f64::abs).sum() };
            row = end;
        }
        let mean = (sum / inner.elements()?.max(1) as f64) as f32;
        Ok(match self {
            Self::Centre => {
                let mut mean = [mean];
                as_stored(inner.dtype, &mut mean);
                mean[0]
            }
            Self::Ternary => mean.max(1e-5),
        })
    }

    /// Changes values as PyTorch changes those of this type.
    fn apply(self, values: &mut [f32], number: f32, dtype: DType) {
        match self {
            Self::Centre => {
                values.iter_mut().for_each(|value| *value -= number);
                as_stored(dtype, values);
            }
            Self::Ternary => {
                let inverse = 1.0 / number;
                values.iter_mut().for_each(|value| *value = (*value * inverse).round_ties_even().clamp(-1.0, 1.0) / inverse);
                if dtype == DType::F16 {
                    as_stored(dtype, values);
                }
            }
        }
    }
}

/// Rounds values to a type of half precision.
fn as_stored(dtype: DType, values: &mut [f32]) {
    let codec = codec::codec(dtype).filter(|_| matches!(dtype, DType::BF16 | DType::F16));
    if let Some((codec, encode)) = codec.and_then(|codec| Some((codec, codec.encode?))) {
        let mut bytes = vec![0; values.len() * 2];
        encode(values, None, &mut bytes);
        (codec.decode)(&bytes, values);
    }
}

/// A number of all values of a tensor, computed once for an expression and its copies.
#[derive(Debug, Clone, Default)]
struct Once(Arc<Mutex<Option<f32>>>);

/// It follows from the expression.
impl PartialEq for Once {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Once {
    fn get(&self, compute: impl FnOnce() -> Result<f32>) -> Result<f32> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some(number) => Ok(number),
            None => Ok(*known.insert(compute()?)),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    /// A stored tensor, by its index in the model.
    Stored(usize),
    /// Computed numbers.
    Values(Arc<[f32]>),
    /// Whole numbers, as I64.
    Integers(Arc<[i64]>),
    /// Zeros.
    Zeros,
    RowOp(Box<TensorExpr>, RowOp),
    Whole(Box<TensorExpr>, WholeOp, Once),
    /// Two tensors of the same rows.
    Pair(Box<[TensorExpr; 2]>, PairOp),
    /// Concatenated parts, each with its first row.
    Join(Vec<(u64, TensorExpr)>),
}

/// A lazy row-eval_rows expression. It is validated on construction: every row exists.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorExpr {
    node: Node,
    dtype: DType,
    rows: u64,
    /// Elements per row.
    row: u64,
}

impl TensorExpr {
    /// Returns a stored tensor, by its index in [`Model::tensors`].
    ///
    /// # Errors
    /// Its type is unknown, or its rows are not whole blocks.
    pub fn stored(model: &Model, tensor: usize) -> Result<Self> {
        let info = model.tensors.get(tensor).ok_or_else(|| Error::argument(format!("the model has no tensor {tensor}")))?;
        let dtype = info
            .elem
            .known()
            .ok_or_else(|| Error::unsupported(format!("expected a known type, found {}", info.elem)).in_tensor(&info.name))?;
        let row = match (info.row_elements(), dtype.info().block_elems) {
            (row, 1) => row,
            (row, block) if row.is_multiple_of(block) => row,
            // Packed floats (F4, F6) with rows that end inside a byte can only be moved as a whole.
            _ => info.elements()?,
        };
        let rows = info.elements()?.checked_div(row).unwrap_or(0);
        Ok(Self { node: Node::Stored(tensor), dtype, rows, row })
    }

    /// Returns computed numbers as a single row.
    pub fn values(values: impl Into<Arc<[f32]>>) -> Self {
        let values = values.into();
        Self { dtype: DType::F32, rows: 1, row: values.len() as u64, node: Node::Values(values) }
    }

    /// Returns whole numbers as a single row of I64.
    pub fn integers(values: impl Into<Arc<[i64]>>) -> Self {
        let values = values.into();
        Self { dtype: DType::I64, rows: 1, row: values.len() as u64, node: Node::Integers(values) }
    }

    /// Returns rows of zeros.
    ///
    /// # Errors
    /// There are too many elements.
    pub fn zeros(rows: u64, row: u64) -> Result<Self> {
        num::mul(rows, row, "the elements of a tensor")?;
        Ok(Self { node: Node::Zeros, dtype: DType::F32, rows, row })
    }

    /// Divides the same elements into rows of another length.
    ///
    /// # Errors
    /// They are not whole rows of that length.
    pub fn reshaped(mut self, row: u64) -> Result<Self> {
        if row == self.row {
            return Ok(self);
        }
        let block = self.dtype.info().block_elems;
        if matches!(self.node, Node::Stored(_)) && row.is_multiple_of(block) && self.row.is_multiple_of(block) {
            let elements = self.elements()?;
            match elements.checked_div(row) {
                Some(rows) if rows * row == elements => (self.rows, self.row) = (rows, row),
                _ => return Err(Error::malformed(format!("expected rows of {row} elements, found {elements} elements"))),
            }
            return Ok(self);
        }
        self.then(RowOp::Reshape { row })
    }

    /// Converts a vector to a column of one-element rows, so that they can be moved.
    ///
    /// # Errors
    /// There are too many.
    pub fn by_element(self) -> Result<Self> {
        self.reshaped(1)
    }

    /// Appends a row operation.
    ///
    /// # Errors
    /// The number of rows is not divisible as required.
    pub fn then(self, step: RowOp) -> Result<Self> {
        let groups = |size: u64| match self.rows.checked_div(size) {
            Some(groups) if self.rows.is_multiple_of(size) => Ok(groups),
            _ => Err(Error::malformed(format!("expected rows in groups of {size}, found {} rows", self.rows))),
        };
        let (mut rows, mut row, mut dtype) = (self.rows, self.row, self.dtype);
        match step {
            RowOp::TransposeGrid { a, b, run } => {
                groups(num::mul(num::mul(a, b, "a group of rows")?, run, "a group of rows")?)?;
            }
            RowOp::Reshape { row: len } => {
                let elements = self.elements()?;
                rows = elements
                    .checked_div(len)
                    .filter(|rows| rows * len == elements)
                    .ok_or_else(|| Error::malformed(format!("expected rows of {len} elements, found {elements} elements")))?;
                if !len.is_multiple_of(dtype.info().block_elems) {
                    dtype = DType::F32;
                }
                row = len;
            }
            RowOp::SliceRows { start, len, of } => {
                if len == 0 || start.checked_add(len).is_none_or(|end| end > of) {
                    return Err(Error::malformed(format!("expected rows within a group of {of}, found {len} from {start}")));
                }
                rows = groups(of)? * len;
            }
            RowOp::Transpose { rows: plane } => {
                rows = num::mul(groups(plane)?, row, "the rows of a transposed tensor")?;
                row = plane;
                if dtype.info().block_elems > 1 {
                    dtype = DType::F32;
                }
            }
            RowOp::Add(_)
            | RowOp::Scale(_)
            | RowOp::SquareRoot
            | RowOp::NegExp
            | RowOp::LogNeg
            | RowOp::Softplus
            | RowOp::InverseSoftplus => {
                dtype = DType::F32;
            }
            RowOp::Integers(to) => dtype = to,
        }
        Ok(Self { node: Node::RowOp(Box::new(self), step), dtype, rows, row })
    }

    /// Stores integers in 32 or 64 bits.
    ///
    /// # Errors
    /// It has no such integers.
    pub fn as_integers(self, to: DType) -> Result<Self> {
        match self.dtype {
            dtype if dtype == to => Ok(self),
            DType::I32 | DType::I64 => self.then(RowOp::Integers(to)),
            other => Err(Error::malformed(format!("expected integers of 32 or 64 bits, found {other}"))),
        }
    }

    /// Appends an operation that depends on all values.
    #[must_use]
    pub fn then_whole(self, step: WholeOp) -> Self {
        Self { dtype: DType::F32, rows: self.rows, row: self.row, node: Node::Whole(Box::new(self), step, Once::default()) }
    }

    /// Combines it with a tensor of as many elements.
    ///
    /// # Errors
    /// It has more or fewer.
    pub fn pair(self, step: PairOp, other: Self) -> Result<Self> {
        let other = other.reshaped(self.row)?;
        if other.rows != self.rows {
            return Err(Error::malformed(format!("expected {} rows, found {}", self.rows, other.rows)));
        }
        Ok(Self { dtype: DType::F32, rows: self.rows, row: self.row, node: Node::Pair(Box::new([self, other]), step) })
    }

    /// Takes the rows `start..start + len`.
    ///
    /// # Errors
    /// They are out of bounds.
    pub fn slice(self, start: u64, len: u64) -> Result<Self> {
        let of = self.rows;
        if start == 0 && len == of { Ok(self) } else { self.then(RowOp::SliceRows { start, len, of }) }
    }

    /// Concatenates parts by rows. If their types differ, all become F32.
    ///
    /// # Errors
    /// There are none, or their row lengths differ.
    pub fn join(parts: Vec<TensorExpr>) -> Result<Self> {
        let Some(first) = parts.first() else {
            return Err(Error::argument("there are no parts to join"));
        };
        let row = first.row;
        let mut dtype = first.dtype;
        if parts.len() == 1 {
            return parts.into_iter().next().ok_or_else(|| Error::argument("there are no parts to join"));
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

    /// Returns the type of the bytes that [`TensorExpr::eval_rows`] returns: the stored type, or F32 if values change.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Returns the number of elements per row.
    pub fn row_elements(&self) -> u64 {
        self.row
    }

    /// Returns the number of elements.
    pub fn elements(&self) -> Result<u64> {
        num::mul(self.rows, self.row, "the elements of a tensor")
    }

    /// Returns the distinct stored tensors that it depends on, by index in [`Model::tensors`], in order.
    pub fn tensors(&self) -> Vec<usize> {
        fn walk(origin: &TensorExpr, found: &mut Vec<usize>) {
            match &origin.node {
                Node::Stored(tensor) if !found.contains(tensor) => found.push(*tensor),
                Node::Stored(_) | Node::Values(_) | Node::Integers(_) | Node::Zeros => {}
                Node::RowOp(inner, _) | Node::Whole(inner, ..) => walk(inner, found),
                Node::Pair(both, _) => both.iter().for_each(|one| walk(one, found)),
                Node::Join(parts) => parts.iter().for_each(|(_, part)| walk(part, found)),
            }
        }
        let mut found = Vec::new();
        walk(self, &mut found);
        found
    }

    /// Returns the stored tensor, if this is one with its elements in order (the shape may differ).
    pub fn whole(&self) -> Option<usize> {
        match self.node {
            Node::Stored(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// Describes the operations for display: those of the first part, if parts are joined.
    pub fn steps(&self) -> Vec<String> {
        match &self.node {
            Node::Stored(_) => Vec::new(),
            Node::Values(_) | Node::Integers(_) => vec!["computed".to_owned()],
            Node::Zeros => vec!["zeros".to_owned()],
            Node::RowOp(inner, step) => {
                let mut steps = inner.steps();
                steps.push(step.to_string());
                steps
            }
            Node::Pair(both, step) => {
                let mut steps = both[0].steps();
                steps.push(step.to_string());
                steps
            }
            Node::Whole(inner, step, _) => {
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

    /// Returns the first operation whose results have more significant bits than the values that they are computed from, so that they are
    /// rounded where they are written in the same type.
    pub fn adds_bits(&self) -> Option<String> {
        // A power of two changes the exponent only.
        let is_power = |number: f32| number.to_bits() & 0x007f_ffff == 0;
        let name = |step: &dyn fmt::Display| Some(step.to_string());
        match &self.node {
            Node::Stored(_) | Node::Values(_) | Node::Integers(_) | Node::Zeros => None,
            Node::RowOp(inner, step) => inner.adds_bits().or_else(|| match step {
                RowOp::TransposeGrid { .. }
                | RowOp::SliceRows { .. }
                | RowOp::Reshape { .. }
                | RowOp::Transpose { .. }
                | RowOp::Integers(_) => None,
                RowOp::Scale(number) if is_power(*number) => None,
                RowOp::Add(0.0) => None,
                _ => name(step),
            }),
            Node::Whole(inner, step, _) => inner.adds_bits().or_else(|| (*step == WholeOp::Centre).then(|| step.to_string())),
            Node::Pair(_, step) => name(step),
            Node::Join(parts) => parts.iter().find_map(|(_, part)| part.adds_bits()),
        }
    }

    /// Returns the stored tensor, by index, whose values become ternary.
    pub fn made_ternary(&self) -> Option<usize> {
        match &self.node {
            Node::Whole(inner, WholeOp::Ternary, _) => inner.whole(),
            Node::RowOp(inner, _) | Node::Whole(inner, ..) => inner.made_ternary(),
            Node::Join(parts) => parts.iter().find_map(|(_, part)| part.made_ternary()),
            _ => None,
        }
    }

    /// Evaluates a range of rows to bytes of type [`TensorExpr::dtype`], borrowed from the file if contiguous.
    ///
    /// # Errors
    /// The rows are out of bounds, or a stored type cannot be decoded although values change.
    pub fn eval_rows<'a>(&'a self, reader: &'a Reader, range: Range<u64>) -> Result<Data<'a>> {
        if range.start > range.end || range.end > self.rows {
            return Err(Error::argument(format!("expected rows within 0..{}, found {range:?}", self.rows)));
        }
        match &self.node {
            Node::Stored(tensor) => {
                let info = reader.model().tensors.get(*tensor).ok_or_else(|| Error::argument("expected a tensor of this model"))?;
                reader.bytes_at(info, self.bytes(range.start)?..self.bytes(range.end)?)
            }
            Node::Zeros => Ok(Data::Owned(vec![0; num::to_usize(self.bytes(range.end - range.start)?, "rows of zeros")?])),
            Node::Values(_) | Node::Integers(_) if range.is_empty() => Ok(Data::Borrowed(&[])),
            Node::Values(values) => Ok(Data::Owned(to_bytes(values))),
            Node::Integers(values) => Ok(Data::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect())),
            Node::Join(parts) => {
                let first = parts.partition_point(|(start, _)| *start <= range.start).saturating_sub(1);
                let mut runs = Runs::new(self.bytes(range.end - range.start)?)?;
                for (start, part) in parts.iter().skip(first).take_while(|(start, _)| *start < range.end) {
                    let (from, to) = (range.start.max(*start) - start, (range.end - start).min(part.rows));
                    let bytes = part.eval_rows(reader, from..to)?;
                    runs.push(if part.dtype == self.dtype { bytes } else { Data::Owned(to_bytes(&to_values(part.dtype, &bytes)?)) });
                }
                Ok(runs.done())
            }
            Node::RowOp(inner, step) => self.eval_row_op(inner, step, reader, range),
            Node::Pair(both, step) => {
                let [first, second] = &**both;
                let mut values = to_values(first.dtype, &first.eval_rows(reader, range.clone())?)?;
                let others = to_values(second.dtype, &second.eval_rows(reader, range)?)?;
                values.iter_mut().zip(others).for_each(|(value, other)| *value = step.apply(*value, other));
                Ok(Data::Owned(to_bytes(&values)))
            }
            Node::Whole(inner, step, number) => {
                let number = number.get(|| step.number(inner, reader))?;
                let mut values = to_values(inner.dtype, &inner.eval_rows(reader, range)?)?;
                step.apply(&mut values, number, inner.dtype);
                Ok(Data::Owned(to_bytes(&values)))
            }
        }
    }

    fn eval_row_op<'a>(&'a self, inner: &'a TensorExpr, step: &RowOp, reader: &'a Reader, range: Range<u64>) -> Result<Data<'a>> {
        match *step {
            RowOp::TransposeGrid { a, b, run } => {
                let mut runs = Runs::new(self.bytes(range.end - range.start)?)?;
                let mut row = range.start;
                while row < range.end {
                    let (number, at) = (row / run, row % run);
                    let (group, inside) = (number / (a * b), number % (a * b));
                    let source = (group * a * b + (inside % a) * b + inside / a) * run + at;
                    let len = (run - at).min(range.end - row);
                    runs.push(inner.eval_rows(reader, source..source + len)?);
                    row += len;
                }
                Ok(runs.done())
            }
            RowOp::Reshape { row } => {
                // The rows that hold these elements, without those before and after.
                let (from, to) = (range.start * row, range.end * row);
                let first = from / inner.row;
                let bytes = inner.eval_rows(reader, first..to.div_ceil(inner.row))?;
                let same = inner.dtype == self.dtype;
                let bytes = if same { bytes } else { Data::Owned(to_bytes(&to_values(inner.dtype, &bytes)?)) };
                let start = num::to_usize(self.dtype.bytes_for(from - first * inner.row)?, "a row")?;
                let end = start + num::to_usize(self.dtype.bytes_for(to - from)?, "rows")?;
                Ok(bytes.part(start..end).unwrap_or_default())
            }
            RowOp::SliceRows { start, len, of } => {
                let mut runs = Runs::new(self.bytes(range.end - range.start)?)?;
                let mut row = range.start;
                while row < range.end {
                    let run = (len - row % len).min(range.end - row);
                    let source = row / len * of + start + row % len;
                    runs.push(inner.eval_rows(reader, source..source + run)?);
                    row += run;
                }
                Ok(runs.done())
            }
            RowOp::Transpose { rows: plane } => {
                // A row of the result is a column of a matrix, so one matrix at a time is transposed.
                let mut out = Runs::new(self.bytes(range.end - range.start)?)?;
                let mut row = range.start;
                while row < range.end {
                    let number = row / inner.row;
                    let end = range.end.min((number + 1) * inner.row);
                    let stored = inner.eval_rows(reader, number * plane..(number + 1) * plane)?;
                    let stored = if inner.dtype == self.dtype { stored } else { Data::Owned(to_bytes(&to_values(inner.dtype, &stored)?)) };
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
            RowOp::Add(number) => mapped(inner, reader, range, |value| value + number),
            RowOp::Scale(number) => mapped(inner, reader, range, |value| value * number),
            RowOp::SquareRoot => mapped(inner, reader, range, f32::sqrt),
            // In double precision, which rounds to the nearest single.
            RowOp::NegExp => mapped(inner, reader, range, |value| -(f64::from(value).exp() as f32)),
            RowOp::LogNeg => mapped(inner, reader, range, |value| f64::from(-value).ln() as f32),
            // In forms in which the exponential does not overflow.
            RowOp::Softplus => mapped(inner, reader, range, |value| {
                let value = f64::from(value);
                (value.max(0.0) + (-value.abs()).exp().ln_1p()) as f32
            }),
            RowOp::InverseSoftplus => mapped(inner, reader, range, |value| {
                let value = f64::from(value);
                (value + (-(-value).exp_m1()).ln()) as f32
            }),
            RowOp::Integers(to) => resize_integers(to, &inner.eval_rows(reader, range)?).map(Data::Owned),
        }
    }

    /// Returns the size of `rows` rows in bytes.
    fn bytes(&self, rows: u64) -> Result<u64> {
        self.dtype.bytes_for(num::mul(rows, self.row, "the elements of rows")?)
    }
}

/// Converts integers of the other size to 32 or 64 bits.
fn resize_integers(to: DType, bytes: &[u8]) -> Result<Vec<u8>> {
    if to == DType::I64 {
        return Ok(bytes.as_chunks::<4>().0.iter().flat_map(|number| i64::from(i32::from_le_bytes(*number)).to_le_bytes()).collect());
    }
    let mut out = Vec::with_capacity(bytes.len() / 2);
    for number in bytes.as_chunks::<8>().0.iter().map(|number| i64::from_le_bytes(*number)) {
        let number = i32::try_from(number).map_err(|_| Error::unsupported(format!("expected integers of 32 bits, found {number}")))?;
        out.extend(number.to_le_bytes());
    }
    Ok(out)
}

/// Evaluates rows in single precision, each value changed.
fn mapped<'a>(inner: &TensorExpr, reader: &Reader, range: Range<u64>, change: impl Fn(f32) -> f32) -> Result<Data<'a>> {
    let mut values = to_values(inner.dtype, &inner.eval_rows(reader, range)?)?;
    values.iter_mut().for_each(|value| *value = change(*value));
    Ok(Data::Owned(to_bytes(&values)))
}

/// Evaluates a small expression to single precision.
///
/// # Errors
/// The type of the stored tensor cannot be decoded.
pub fn values(reader: &Reader, origin: &TensorExpr) -> Result<Vec<f32>> {
    to_values(origin.dtype(), &origin.eval_rows(reader, 0..origin.rows())?)
}

/// Evaluates a small expression of integers, none of which is rounded.
///
/// # Errors
/// Its type is neither I64 nor I32.
pub fn integers(reader: &Reader, origin: &TensorExpr) -> Result<Vec<i64>> {
    let wide = origin.clone().as_integers(DType::I64)?;
    let bytes = wide.eval_rows(reader, 0..wide.rows())?;
    Ok(bytes.as_chunks::<8>().0.iter().map(|value| i64::from_le_bytes(*value)).collect())
}

/// Collects runs of bytes; a single one stays borrowed.
struct Runs<'a> {
    first: Option<Data<'a>>,
    all: Vec<u8>,
    capacity: usize,
}

impl<'a> Runs<'a> {
    fn new(bytes: u64) -> Result<Self> {
        Ok(Self { first: None, all: Vec::new(), capacity: num::to_usize(bytes, "a run of rows")? })
    }

    fn push(&mut self, bytes: Data<'a>) {
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

    fn done(self) -> Data<'a> {
        self.first.unwrap_or(Data::Owned(self.all))
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

    /// Returns a model with U8 tensors of ascending values.
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

    fn reader_of(dtype: DType, shape: &[u64], bytes: Vec<u8>) -> Reader {
        let len = bytes.len() as u64;
        let (elem, shape, len_bytes) = (ElemType::Known(dtype), shape.to_vec(), Some(len));
        let tensors = vec![TensorInfo { name: "t".to_owned(), elem, shape, shard: 0, offset_bytes: 0, len_bytes }];
        let model = Model { tensors, shards: vec![Shard { path: PathBuf::from("a"), bytes: len }], ..Model::default() };
        Reader::new(model, vec![Arc::new(InMemory::new("a", bytes))], Endian::Little)
    }

    fn all(origin: &TensorExpr, reader: &Reader) -> Vec<u8> {
        let whole = origin.eval_rows(reader, 0..origin.rows()).unwrap().into_owned();
        let mut piecewise = Vec::new();
        for row in 0..origin.rows() {
            piecewise.extend_from_slice(&origin.eval_rows(reader, row..row + 1).unwrap());
        }
        assert_eq!(whole, piecewise, "rows are equal for any range");
        whole
    }

    #[test]
    fn transposing_a_grid_twice_is_the_identity() {
        let reader = reader(&[&[12, 2]]);
        let stored = TensorExpr::stored(reader.model(), 0).unwrap();
        let there = stored.clone().then(RowOp::TransposeGrid { a: 2, b: 3, run: 1 }).unwrap();
        assert_eq!(all(&there, &reader), [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, 12, 13, 18, 19, 14, 15, 20, 21, 16, 17, 22, 23]);
        let back = there.then(RowOp::TransposeGrid { a: 3, b: 2, run: 1 }).unwrap();
        assert_eq!(all(&back, &reader), all(&stored, &reader));
    }

    #[test]
    fn softplus_has_an_inverse_from_the_least_to_the_greatest() {
        let reader = reader(&[&[1]]);
        let numbers = [-80.0, -5.0, -0.5, 0.0, 1.0, 20.5, 1000.0_f32];
        let there = TensorExpr::values(numbers).then(RowOp::Softplus).unwrap();
        // ln(1 + e^x): at 0 that of 2, and x itself where the one is lost.
        let found = values(&reader, &there).unwrap();
        assert_eq!((found[3], found[5], found[6]), (std::f32::consts::LN_2, 20.5, 1000.0));
        let back = values(&reader, &there.then(RowOp::InverseSoftplus).unwrap()).unwrap();
        let near = |(found, wanted): (&f32, &f32)| (found - wanted).abs() <= 4.0 * f32::EPSILON * wanted.abs().max(1.0);
        assert!(back.iter().zip(&numbers).all(near), "{back:?}");
    }

    #[test]
    fn what_depends_on_all_values_is_the_same_for_any_range() {
        let reader = reader(&[&[3, 2]]);
        let numbers = |origin: &TensorExpr| all(origin, &reader).as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
        let stored = TensorExpr::stored(reader.model(), 0).unwrap();
        let centred: Vec<f32> = numbers(&stored.clone().then_whole(WholeOp::Centre));
        assert_eq!(centred, [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]);
        // Of -1 to 4 the mean magnitude is 11 / 6, of which 1 is more than half.
        let ternary: Vec<f32> = numbers(&stored.then(RowOp::Add(-1.0)).unwrap().then_whole(WholeOp::Ternary));
        let scale = 1.0 / (1.0 / (11.0_f32 / 6.0));
        assert_eq!(ternary, [-scale, 0.0, scale, scale, scale, scale]);
        let zeros = TensorExpr::zeros(2, 2).unwrap().then_whole(WholeOp::Ternary);
        assert_eq!(values(&reader, &zeros).unwrap(), [0.0; 4]);
        // Of BF16 the mean and the differences are of BF16 too: the mean of 1, 1 and 1.0078125 is 1.
        let bytes = [1.0_f32, 1.0, 1.007_812_5].into_iter().flat_map(|value| value.to_le_bytes()[2..].to_vec()).collect();
        let halves = reader_of(DType::BF16, &[3], bytes);
        let centred = TensorExpr::stored(halves.model(), 0).unwrap().then_whole(WholeOp::Centre);
        assert_eq!(values(&halves, &centred).unwrap(), [0.0, 0.0, 0.007_812_5]);
    }

    #[test]
    fn a_pair_has_two_of_every_element() {
        let reader = reader(&[&[2, 2], &[4]]);
        let [matrix, vector] = [0, 1].map(|tensor| TensorExpr::stored(reader.model(), tensor).unwrap());
        let product = matrix.clone().pair(PairOp::Times, vector.clone()).unwrap();
        assert_eq!((values(&reader, &product).unwrap(), product.tensors()), (vec![0.0, 101.0, 204.0, 309.0], vec![0, 1]));
        all(&product, &reader);
        let of = |step| values(&reader, &matrix.clone().pair(step, vector.clone().then(RowOp::SquareRoot).unwrap()).unwrap()).unwrap();
        assert_eq!((of(PairOp::Divide)[0], of(PairOp::Minus)[0]), (0.0, -10.0));
        assert!(
            matrix
                .clone()
                .pair(PairOp::Times, vector.slice(0, 1).unwrap().then(RowOp::Reshape { row: 2 }).unwrap().slice(0, 1).unwrap())
                .is_err()
        );
    }

    #[test]
    fn joined_parts_equal_their_slices() {
        let reader = reader(&[&[2, 3], &[1, 3], &[3, 3]]);
        let model = reader.model();
        let parts: Vec<TensorExpr> = (0..3).map(|i| TensorExpr::stored(model, i).unwrap()).collect();
        let joined = TensorExpr::join(parts.clone()).unwrap();
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
    fn even_and_odd_rows_interleave_to_the_whole() {
        let reader = reader(&[&[2, 4, 2]]);
        let stored = TensorExpr::stored(reader.model(), 0).unwrap();
        let even = stored.clone().then(RowOp::SliceRows { start: 0, len: 1, of: 2 }).unwrap();
        let odd = stored.clone().then(RowOp::SliceRows { start: 1, len: 1, of: 2 }).unwrap();
        assert_eq!(all(&even, &reader), [0, 1, 4, 5, 8, 9, 12, 13]);
        let parts = (0..2).flat_map(|e| [even.clone().slice(2 * e, 2).unwrap(), odd.clone().slice(2 * e, 2).unwrap()]).collect();
        let whole = TensorExpr::join(parts).unwrap().then(RowOp::TransposeGrid { a: 2, b: 2, run: 1 }).unwrap();
        assert_eq!(all(&whole, &reader), all(&stored, &reader));
    }

    #[test]
    fn transposing_matrices_twice_is_the_identity() {
        let reader = reader(&[&[2, 3, 4]]);
        let stored = TensorExpr::stored(reader.model(), 0).unwrap();
        let turned = stored.clone().then(RowOp::Transpose { rows: 3 }).unwrap();
        assert_eq!((turned.rows(), turned.row_elements()), (8, 3));
        assert_eq!(all(&turned, &reader)[..6], [0, 4, 8, 1, 5, 9]);
        assert_eq!(all(&turned.then(RowOp::Transpose { rows: 4 }).unwrap(), &reader), all(&stored, &reader));
    }

    #[test]
    fn mismatched_shapes_are_errors() {
        let reader = reader(&[&[6, 2], &[2, 3]]);
        let stored = TensorExpr::stored(reader.model(), 0).unwrap();
        assert!(stored.clone().then(RowOp::TransposeGrid { a: 2, b: 2, run: 1 }).is_err());
        assert!(stored.clone().then(RowOp::TransposeGrid { a: 0, b: 2, run: 1 }).is_err());
        assert!(stored.clone().then(RowOp::SliceRows { start: 2, len: 2, of: 3 }).is_err());
        assert!(stored.clone().slice(5, 2).is_err());
        assert!(TensorExpr::join(vec![stored.clone(), TensorExpr::stored(reader.model(), 1).unwrap()]).is_err());
        assert!(TensorExpr::join(Vec::new()).is_err());
        assert!(stored.eval_rows(&reader, 5..7).is_err());
        assert!(TensorExpr::stored(reader.model(), 9).is_err());
    }

    #[test]
    fn integers_change_their_size_and_nothing_else() {
        let numbers = [3i64, -1, 255, 1 << 31];
        let reader = reader_of(DType::I64, &[2, 2], numbers.iter().flat_map(|number| number.to_le_bytes()).collect());
        let stored = TensorExpr::stored(reader.model(), 0).unwrap();
        let short = stored.clone().as_integers(DType::I32).unwrap();
        assert_eq!((short.dtype(), short.steps()), (DType::I32, vec!["as I32".to_owned()]));
        assert_eq!(short.eval_rows(&reader, 0..1).unwrap().into_owned(), [3, 0, 0, 0, 255, 255, 255, 255]);
        let error = short.eval_rows(&reader, 1..2).unwrap_err().to_string();
        assert!(error.contains("2147483648"), "{error}");
        let back = short.as_integers(DType::I64).unwrap();
        assert_eq!(*back.eval_rows(&reader, 0..1).unwrap(), *stored.eval_rows(&reader, 0..1).unwrap());
        assert_eq!(stored.clone().as_integers(DType::I64).unwrap(), stored);
        assert!(TensorExpr::values([1.0]).as_integers(DType::I32).is_err());
    }

    #[test]
    fn a_vector_moves_by_element() {
        let reader = reader(&[&[6]]);
        let origin =
            TensorExpr::stored(reader.model(), 0).unwrap().by_element().unwrap().then(RowOp::TransposeGrid { a: 2, b: 3, run: 1 }).unwrap();
        assert_eq!(all(&origin, &reader), [0, 3, 1, 4, 2, 5]);
    }
}
