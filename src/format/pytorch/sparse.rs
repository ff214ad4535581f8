//! Sparse tensors of PyTorch as the dense tensors that they stand for.

use std::ops::Range;
use std::sync::OnceLock;

use crate::base::{Error, Result, num};
use crate::codec::codec;
use crate::format::Computed;
use crate::format::pytorch::view::Tensor;
use crate::format::strided;
use crate::model::DType;

/// The most blocks of values of a sparse tensor whose values are read: their places are kept in memory.
pub(crate) const MOST: u64 = 1 << 22;

/// Layout of the indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compressed {
    /// COO: the index in each sparse dimension.
    No,
    /// CSR: where each row begins, and the columns.
    Rows,
}

/// A sparse tensor.
#[derive(Debug)]
pub(crate) struct Sparse {
    indices: Vec<Tensor>,
    values: Tensor,
    shape: Vec<u64>,
    layout: Compressed,
    /// The first element of each block of values, with the number of the block, in order.
    places: OnceLock<Result<Vec<(u64, u64)>>>,
}

impl Sparse {
    /// Returns a tensor of this shape.
    ///
    /// # Errors
    /// Its parts do not fit together.
    pub(crate) fn new(indices: Vec<Tensor>, values: Tensor, shape: Vec<u64>, layout: Compressed) -> Result<Self> {
        let wrong =
            || Error::malformed(format!("expected indices and values of a sparse tensor of {}, found others", num::show_shape(&shape)));
        let blocks = values.shape.first().copied().ok_or_else(wrong)?;
        let sparse = match (&indices[..], layout) {
            ([one], Compressed::No) if one.shape.len() == 2 && one.shape.last() == Some(&blocks) => one.shape.first().copied().unwrap_or(0),
            ([rows, columns], Compressed::Rows)
                if rows.shape.len() == 1
                    && columns.shape == [blocks]
                    && shape.first().and_then(|rows| rows.checked_add(1)) == rows.shape.first().copied() =>
            {
                2
            }
            _ => return Err(wrong()),
        };
        let dense = shape.get(usize::try_from(sparse).map_err(|_| wrong())?..).ok_or_else(wrong)?;
        let integers = indices.iter().all(|tensor| matches!(tensor.kind.elem.known(), Some(DType::I64 | DType::I32)));
        if values.shape.get(1..) != Some(dense) || !integers {
            return Err(wrong());
        }
        num::mul(num::elements(&shape)?, values.kind.width, "the bytes of a tensor")?;
        Ok(Self { indices, values, shape, layout, places: OnceLock::new() })
    }

    fn numbers(&self, index: usize) -> Result<Vec<u64>> {
        let tensor = self.indices.get(index).ok_or_else(|| Error::malformed("expected the indices of a sparse tensor, found none"))?;
        let elements = num::elements(&tensor.shape)?;
        let bytes = crate::format::Computed::bytes(&tensor.strided()?, 0..elements * tensor.kind.width)?;
        let numbers: Vec<i64> = match tensor.kind.width {
            4 => bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect(),
            _ => bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect(),
        };
        let number =
            |number| u64::try_from(number).map_err(|_| Error::malformed(format!("expected an index of at least 0, found {number}")));
        numbers.into_iter().map(number).collect()
    }

    /// Returns the places of the blocks, checked to lie in the tensor.
    fn find_places(&self) -> Result<Vec<(u64, u64)>> {
        let blocks = self.values.shape.first().copied().unwrap_or(0);
        let strides = strided::contiguous(&self.shape);
        let outside = |index: u64, of: u64| Error::malformed(format!("expected an index below {of}, found {index}"));
        let mut places = Vec::new();
        match self.layout {
            Compressed::No => {
                let indices = self.numbers(0)?;
                for block in 0..blocks {
                    let mut place = 0;
                    for (index, (len, stride)) in
                        indices.iter().skip(block as usize).step_by(blocks as usize).zip(self.shape.iter().zip(&strides))
                    {
                        if index >= len {
                            return Err(outside(*index, *len));
                        }
                        place += index * stride;
                    }
                    places.push((place, block));
                }
            }
            Compressed::Rows => {
                let (starts, columns) = (self.numbers(0)?, self.numbers(1)?);
                let of = self.shape.get(1).copied().unwrap_or(0);
                for (row, ends) in (0..).zip(starts.windows(2)) {
                    let &[start, end] = ends else { continue };
                    let own = columns.get(num::to_usize(start, "an index")?..num::to_usize(end, "an index")?);
                    for (block, column) in (start..).zip(own.ok_or_else(|| outside(end, blocks))?) {
                        if *column >= of {
                            return Err(outside(*column, of));
                        }
                        let place = |index: usize| strides.get(index).copied().unwrap_or(1);
                        places.push((row * place(0) + column * place(1), block));
                    }
                }
            }
        }
        places.sort_unstable();
        if places.windows(2).any(|pair| matches!(pair, [a, b] if a.0 == b.0)) && self.sum().is_none() {
            let elem = &self.values.kind.elem;
            return Err(Error::unsupported(format!("expected each element of a sparse tensor of {elem} once, found one several times")));
        }
        Ok(places)
    }
}

/// Adds numbers in single precision, and rounds each sum to their own.
fn sum_in_single_precision(dtype: DType, into: &mut [u8], more: &[u8]) {
    let Some((codec, encode)) = codec(dtype).and_then(|codec| Some((codec, codec.encode?))) else { return };
    let decoded = |bytes: &[u8]| {
        let mut values = vec![0.0; bytes.len() / 2];
        (codec.decode)(bytes, &mut values);
        values
    };
    let sums: Vec<f32> = decoded(into).into_iter().zip(decoded(more)).map(|(a, b)| a + b).collect();
    encode(&sums, None, into);
}

/// Adds the numbers of the second bytes to those of the first.
type Sum = fn(&mut [u8], &[u8]);

impl Sparse {
    /// Returns how values of the same place are added: one after the other, in their own precision, as PyTorch does.
    fn sum(&self) -> Option<Sum> {
        macro_rules! sum {
            ($type:ty, $add:expr) => {
                |into, more| {
                    for (into, more) in into.as_chunks_mut().0.iter_mut().zip(more.as_chunks().0) {
                        *into = $add(<$type>::from_le_bytes(*into), <$type>::from_le_bytes(*more)).to_le_bytes();
                    }
                }
            };
        }
        Some(match self.values.kind.elem.known()? {
            DType::F16 => |into, more| sum_in_single_precision(DType::F16, into, more),
            DType::BF16 => |into, more| sum_in_single_precision(DType::BF16, into, more),
            DType::F32 | DType::C64 => sum!(f32, |a, b| a + b),
            DType::F64 => sum!(f64, |a, b| a + b),
            DType::I8 | DType::U8 => sum!(u8, u8::wrapping_add),
            DType::I16 | DType::U16 => sum!(u16, u16::wrapping_add),
            DType::I32 | DType::U32 => sum!(u32, u32::wrapping_add),
            DType::I64 | DType::U64 => sum!(u64, u64::wrapping_add),
            DType::BOOL => sum!(u8, |a, b| a | b),
            _ => return None,
        })
    }

    /// Returns the bytes of a range of whole numbers.
    fn whole(&self, range: &Range<u64>) -> Result<Vec<u8>> {
        let places = self.places.get_or_init(|| self.find_places()).as_ref().map_err(Clone::clone)?;
        let width = self.values.kind.width;
        let block = self.values.shape.iter().skip(1).product::<u64>() * width;
        let len = num::to_usize(range.end.saturating_sub(range.start), "a range of a tensor")?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Error::limit(format!("expected memory for {len} bytes")))?;
        bytes.resize(len, 0);
        let values = self.values.strided()?;
        let first = places.partition_point(|(place, _)| place * width + block <= range.start);
        let mut last = None;
        for (place, number) in places.iter().skip(first).take_while(|(place, _)| place * width < range.end) {
            let start = place * width;
            let own = range.start.max(start) - start..range.end.min(start + block) - start;
            let found = values.bytes(number * block + own.start..number * block + own.end)?;
            let at = (start + own.start - range.start) as usize;
            if let Some(into) = bytes.get_mut(at..at + found.len()) {
                match self.sum().filter(|_| last == Some(place)) {
                    Some(add) => add(into, &found),
                    None => into.copy_from_slice(&found),
                }
            }
            last = Some(place);
        }
        Ok(bytes)
    }
}

impl Computed for Sparse {
    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>> {
        // Numbers are added whole.
        let number = self.values.kind.number as u64;
        let whole = range.start / number * number..range.end.div_ceil(number) * number;
        let mut bytes = self.whole(&whole)?;
        bytes.truncate((range.end - whole.start) as usize);
        bytes.drain(..(range.start - whole.start) as usize);
        Ok(bytes)
    }
}
