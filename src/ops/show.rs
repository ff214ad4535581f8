//! `show`: values of one tensor, or of a slice of it.

use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};

use crate::base::{Error, Hint, Result, num, text};
use crate::codec::{Codec, Number, codec, values_per_element};
use crate::format::Reader;
use crate::model::{DType, PackingSummary, TensorInfo};
use crate::ops::{select, weights};

/// The maximum number of values shown at a time.
const MOST_VALUES: u64 = 1 << 20;

/// The maximum number of dimensions of a tensor whose values are shown: NumPy's limit.
const MOST_DIMENSIONS: usize = 64;

/// Larger arrays are summarised by their edges for people: NumPy's `threshold`.
const WHOLE_VALUES: u64 = 1000;

/// Number of values at each edge: NumPy's `edgeitems`.
const EDGE: u64 = 3;

/// Number of elements decoded at a time, at least.
const WINDOW: u64 = 4096;

/// Values of a tensor.
#[derive(Debug, Serialize)]
pub struct Values<'m> {
    schema: &'static str,
    /// The tensor's name.
    pub name: &'m str,
    /// The type of its elements.
    pub dtype: DType,
    /// Its dimensions, outermost first.
    pub shape: &'m [u64],
    /// The packing of the weights, if they are packed: the values below are the stored ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<PackingSummary>,
    /// The slice, dimension by dimension, in NumPy's notation.
    pub slice: String,
    /// The values as nested lists. A complex value is a list of two.
    pub values: Block,
}

/// An array of values with any number of dimensions.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Length of each dimension.
    pub lengths: Vec<usize>,
    /// Whether the middle of each dimension is omitted, between the first and the last few values.
    pub cut: Vec<bool>,
    /// The numbers of each element in order: one, or two for complex types.
    pub numbers: Vec<Number>,
    /// Numbers per element.
    pub per_element: usize,
}

impl Serialize for Block {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Part { lengths: &self.lengths, numbers: &self.numbers, per_element: self.per_element }.serialize(serializer)
    }
}

/// Returns the values at an index.
struct Part<'a> {
    lengths: &'a [usize],
    numbers: &'a [Number],
    per_element: usize,
}

impl Serialize for Part<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some((&length, lengths)) = self.lengths.split_first() else {
            return match self.numbers {
                [number] => number.serialize(serializer),
                numbers => numbers.serialize(serializer),
            };
        };
        let mut list = serializer.serialize_seq(Some(length))?;
        let size = self.numbers.len().checked_div(length).unwrap_or(0);
        for i in 0..length {
            list.serialize_element(&Part { lengths, numbers: &self.numbers[i * size..(i + 1) * size], per_element: self.per_element })?;
        }
        list.end()
    }
}

/// Returns the values in `slice` of `tensor` (all by default), in NumPy's notation: `0:4,:8`, `-1`, `...,::2`.
///
/// With `edges`, a long array is reduced to its edges, as NumPy prints it.
///
/// # Errors
/// There is no such tensor, or its type is unknown; the slice does not fit the shape; there are too many values.
pub fn show<'m>(reader: &'m Reader, tensor: &str, slice: Option<&str>, edges: bool) -> Result<Values<'m>> {
    let model = reader.model();
    let info = select::tensor_named(model, tensor)?;
    values(reader, info, slice, edges).map_err(|error| error.in_tensor(&info.name).in_file(&model.path))
}

fn values<'m>(reader: &'m Reader, info: &'m TensorInfo, slice: Option<&str>, edges: bool) -> Result<Values<'m>> {
    let unknown = || Error::unsupported(format!("expected a type whose values are known, found {}", info.elem)).hint(Hint::ListTypes);
    let dtype = info.elem.known().ok_or_else(unknown)?;
    let codec = codec(dtype).ok_or_else(unknown)?;
    if info.shape.len() > MOST_DIMENSIONS {
        return Err(Error::limit(format!("expected at most {MOST_DIMENSIONS} dimensions, found {}", info.shape.len())));
    }
    let axes = parse(slice.unwrap_or("..."), &info.shape)?;
    let elements = num::elements(&axes.iter().filter(|axis| axis.kept).map(|axis| axis.count).collect::<Vec<_>>())?;
    let cuts = edges && elements > WHOLE_VALUES;
    let picked: Vec<(Vec<u64>, bool)> = axes
        .iter()
        .map(|axis| match cuts && axis.count > 2 * EDGE {
            true => ((0..EDGE).chain(axis.count - EDGE..axis.count).map(|i| axis.at(i)).collect(), true),
            false => (Vec::new(), false),
        })
        .collect();
    let counts: Vec<u64> = picked.iter().zip(&axes).map(|((edge, cut), axis)| if *cut { edge.len() as u64 } else { axis.count }).collect();
    let count = num::elements(&counts)?;
    if count > MOST_VALUES {
        let error = Error::limit(format!("expected at most {MOST_VALUES} values at a time, found {count}"));
        return Err(error.hint(Hint::Slice));
    }
    let indexes: Vec<Vec<u64>> = picked
        .iter()
        .zip(&axes)
        .map(|((edge, cut), axis)| if *cut { edge.clone() } else { (0..axis.count).map(|i| axis.at(i)).collect() })
        .collect();
    let numbers = if count == 0 { Vec::new() } else { read(reader, info, codec, &indexes)? };
    let kept = |i: &usize| axes[*i].kept;
    Ok(Values {
        schema: "weigh.show.v1",
        name: &info.name,
        dtype,
        shape: &info.shape,
        packing: weights::packing(reader),
        slice: axes.iter().map(Axis::written).collect::<Vec<_>>().join(","),
        values: Block {
            lengths: (0..axes.len()).filter(kept).map(|i| indexes[i].len()).collect(),
            cut: (0..axes.len()).filter(kept).map(|i| picked[i].1).collect(),
            numbers,
            per_element: values_per_element(dtype),
        },
    })
}

/// Returns the numbers at all combinations of the indexes, in order.
fn read(reader: &Reader, info: &TensorInfo, codec: &Codec, indexes: &[Vec<u64>]) -> Result<Vec<Number>> {
    let mut decoder = Decoder { reader, info, codec, start: 0, end: 0, numbers: Vec::new() };
    let one = vec![0];
    let (columns, outer) = indexes.split_last().unwrap_or((&one, &[]));
    let mut numbers = Vec::new();
    let mut position = vec![0usize; outer.len()];
    loop {
        let row = outer.iter().zip(&position).zip(&info.shape).fold(0, |row, ((index, &i), dim)| row * dim + index[i]);
        let start = row * info.row_elements();
        let last = start + columns.iter().max().copied().unwrap_or(0);
        for column in columns {
            decoder.push(start + column, last, &mut numbers)?;
        }
        // The next combination: the innermost index varies fastest.
        let Some(axis) = (0..outer.len()).rev().find(|&axis| position[axis] + 1 < outer[axis].len()) else { return Ok(numbers) };
        position[axis] += 1;
        position[axis + 1..].fill(0);
    }
}

/// Decodes the blocks that contain requested elements, and caches the last.
struct Decoder<'a> {
    reader: &'a Reader,
    info: &'a TensorInfo,
    codec: &'a Codec,
    start: u64,
    end: u64,
    numbers: Vec<Number>,
}

impl Decoder<'_> {
    /// Appends the numbers of one element; elements up to `last` will be requested next.
    fn push(&mut self, element: u64, last: u64, numbers: &mut Vec<Number>) -> Result<()> {
        if !(self.start..self.end).contains(&element) {
            let block = self.codec.dtype.info();
            let first = element / block.block_elems;
            let end = last.min(element + WINDOW) / block.block_elems + 1;
            let bytes = self.reader.bytes_at(self.info, first * block.block_bytes..end * block.block_bytes)?;
            self.numbers = self.codec.numbers(&bytes);
            (self.start, self.end) = (first * block.block_elems, end * block.block_elems);
        }
        let per_element = values_per_element(self.codec.dtype);
        let at = (element - self.start) as usize * per_element;
        numbers.extend_from_slice(self.numbers.get(at..at + per_element).unwrap_or_default());
        Ok(())
    }
}

/// The selected part of one dimension.
struct Axis {
    start: u64,
    step: u64,
    count: u64,
    /// Whether the result keeps this dimension: a single index drops it.
    kept: bool,
}

impl Axis {
    fn at(&self, i: u64) -> u64 {
        self.start + i * self.step
    }

    fn written(&self) -> String {
        if !self.kept {
            return self.start.to_string();
        }
        let end = if self.count == 0 { self.start } else { self.at(self.count - 1) + 1 };
        if self.step == 1 { format!("{}:{end}", self.start) } else { format!("{}:{end}:{}", self.start, self.step) }
    }
}

/// Parses a slice in NumPy's notation; dimensions that it does not mention are taken whole.
fn parse(slice: &str, shape: &[u64]) -> Result<Vec<Axis>> {
    let whole = |dim: &u64| Axis { start: 0, step: 1, count: *dim, kept: true };
    let parts: Vec<&str> = slice.trim_matches(['[', ']']).split(',').map(str::trim).collect();
    let (before, after) = match parts.iter().position(|part| *part == "...") {
        Some(at) => (&parts[..at], &parts[at + 1..]),
        None => (&parts[..], &[][..]),
    };
    let named = before.len() + after.len();
    if named > shape.len() {
        return Err(Error::argument(format!("expected a slice of at most {} dimensions, found {}", shape.len(), text::shorten(slice))));
    }
    let mut axes = Vec::with_capacity(shape.len());
    for (part, dim) in before.iter().zip(shape) {
        axes.push(axis(part, *dim)?);
    }
    axes.extend(shape[before.len()..shape.len() - after.len()].iter().map(whole));
    for (part, dim) in after.iter().zip(&shape[shape.len() - after.len()..]) {
        axes.push(axis(part, *dim)?);
    }
    Ok(axes)
}

fn axis(part: &str, dim: u64) -> Result<Axis> {
    let bad = || {
        let error = Error::argument(format!("expected an index or start:stop:step, found {}", text::shorten(part)));
        error.hint(Hint::Slice)
    };
    let number = |text: &str| text.trim().parse::<i64>().map_err(|_| bad());
    // Negative values count from the end; values out of range are clamped.
    let clamp = |n: i64| if n < 0 { dim.saturating_sub(n.unsigned_abs()) } else { n.unsigned_abs().min(dim) };
    let bounds: Vec<&str> = part.split(':').collect();
    if let [index] = bounds[..] {
        let index = number(index)?;
        let at = if index < 0 { dim.checked_sub(index.unsigned_abs()) } else { Some(index.unsigned_abs()) };
        let at = at.filter(|at| *at < dim);
        let at = at.ok_or_else(|| Error::argument(format!("expected an index below {dim}, found {index}")))?;
        return Ok(Axis { start: at, step: 1, count: 1, kept: false });
    }
    let or = |text: &str, default: u64| if text.trim().is_empty() { Ok(default) } else { number(text).map(clamp) };
    let (start, stop, step) = match bounds[..] {
        [start, stop] => (or(start, 0)?, or(stop, dim)?, 1),
        [start, stop, step] if step.trim().is_empty() => (or(start, 0)?, or(stop, dim)?, 1),
        [start, stop, step] => (or(start, 0)?, or(stop, dim)?, number(step)?),
        _ => return Err(bad()),
    };
    let step = u64::try_from(step).ok().filter(|step| *step > 0);
    let step = step.ok_or_else(|| Error::argument(format!("expected a step above zero, found {}", text::shorten(part))))?;
    Ok(Axis { start, step, count: stop.saturating_sub(start).div_ceil(step), kept: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(slice: &str, shape: &[u64]) -> String {
        match parse(slice, shape) {
            Ok(axes) => axes.iter().map(Axis::written).collect::<Vec<_>>().join(","),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn slices_mean_what_they_mean_in_numpy() {
        assert_eq!(written("0:4,:8", &[10, 20]), "0:4,0:8");
        assert_eq!(written("...", &[10, 20]), "0:10,0:20");
        assert_eq!(written("-1", &[10, 20]), "9,0:20");
        assert_eq!(written("..., ::7", &[10, 20]), "0:10,0:15:7");
        assert_eq!(written("-3:-1,100:", &[10, 20]), "7:9,20:20");
        assert_eq!(written("[1, 2]", &[10, 20]), "1,2");
        assert_eq!(written("", &[10]), "expected an index or start:stop:step, found ");
        assert_eq!(written("10", &[10]), "expected an index below 10, found 10");
        assert_eq!(written("::0", &[10]), "expected a step above zero, found ::0");
        assert_eq!(written("::-1", &[10]), "expected a step above zero, found ::-1");
        assert_eq!(written("0,0", &[10]), "expected a slice of at most 1 dimensions, found 0,0");
        assert_eq!(written("...", &[]), "");
    }
}
