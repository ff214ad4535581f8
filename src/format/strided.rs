//! Tensors whose elements are not stored one after the other: views with strides, Fortran order, another byte order, deflated.

use std::ops::Range;
use std::sync::Arc;

use crate::base::{Error, Result, limits, num};
use crate::format::Computed;
use crate::model::dtype::InlineName;
use crate::model::{DType, ElemType, Tag};
use crate::source::Source;

/// The type of the elements of a tensor, as NumPy or PyTorch stores them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Kind {
    pub(crate) elem: ElemType,
    /// Bytes of an element.
    pub(crate) width: u64,
    /// Bytes of a number, which are in the byte order of the file.
    pub(crate) number: usize,
    /// Elements of `elem` in one of these: 2 for pairs of 4-bit numbers.
    pub(crate) packed: u64,
    /// Whether its values mean something only with a scale.
    pub(crate) quantised: bool,
}

impl Kind {
    /// Returns the kind of a known type.
    pub(crate) fn known(dtype: DType, width: u64) -> Self {
        Self { elem: ElemType::Known(dtype), width, number: width as usize, packed: 1, quantised: false }
    }

    /// Returns the kind of a type that has no row in the table.
    pub(crate) fn unknown(name: &str, width: u64, number: usize) -> Option<Self> {
        let elem = ElemType::Unknown { tag: Tag::Name(InlineName::new(name)?) };
        Some(Self { elem, width, number, packed: 1, quantised: false })
    }
}

/// A tensor gathered from a source: element `i` of a dimension is `i` times its stride further on.
#[derive(Debug)]
pub(crate) struct Strided {
    source: Arc<dyn Source>,
    /// Offset of the first element, in bytes.
    offset: u64,
    /// Size of an element in bytes.
    width: u64,
    /// Length and stride of the dimensions, in elements, outermost first; those that are contiguous are merged.
    dims: Vec<(u64, u64)>,
    /// Bytes per number, if the numbers are big-endian.
    swap: Option<usize>,
}

/// The size of a span that is read at once from a source that is not in memory, in bytes.
const SPAN: u64 = 8 << 20;

impl Strided {
    /// Returns a tensor inside `source`; strides are in elements.
    ///
    /// # Errors
    /// It does not lie inside the source, or repeats its elements too often.
    pub(crate) fn new(
        source: Arc<dyn Source>,
        offset: u64,
        width: u64,
        shape: &[u64],
        strides: &[u64],
        swap: Option<usize>,
    ) -> Result<Self> {
        let stored = num::mul(extent(shape, strides)?, width, "the extent of a tensor")?;
        let end = num::add(offset, stored, "the end of a tensor")?;
        if end > source.len() {
            return Err(Error::truncated(format!("expected a tensor that ends at byte {end}, found {}", source.len())));
        }
        let bytes = match stored {
            0 => 0,
            _ => shape.iter().try_fold(width, |bytes, &dim| num::mul(bytes, dim, "the size of a tensor"))?,
        };
        if bytes > stored.max(limits::REPEATED_BYTES) {
            let message =
                format!("expected {stored} bytes repeated to at most {}, found a tensor of {bytes} bytes", limits::REPEATED_BYTES);
            return Err(Error::limit(message));
        }
        Ok(Self { source, offset, width, dims: merged(shape, strides), swap })
    }

    /// Appends `count` elements from element `from` of the source on.
    fn append(&self, from: u64, stride: u64, count: u64, out: &mut Vec<u8>) -> Result<()> {
        let width = self.width as usize;
        let at = |element: u64| self.offset + (from + element * stride) * self.width;
        if stride == 1 {
            out.extend_from_slice(&self.source.read(at(0)..at(count))?);
        } else if stride == 0 {
            let one = self.source.read(at(0)..at(0) + self.width)?;
            (0..count).for_each(|_| out.extend_from_slice(&one));
        } else {
            let span = at(count - 1) + self.width - at(0);
            if span <= SPAN || Arc::clone(&self.source).shared().is_some() {
                let span = self.source.read(at(0)..at(0) + span)?;
                let step = stride as usize * width;
                (0..count as usize).for_each(|i| out.extend_from_slice(span.get(i * step..i * step + width).unwrap_or_default()));
            } else {
                for element in 0..count {
                    out.extend_from_slice(&self.source.read(at(element)..at(element) + self.width)?);
                }
            }
        }
        Ok(())
    }
}

impl Computed for Strided {
    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let elements = self.dims.iter().map(|(len, _)| len).product::<u64>();
        let (first, last) = (range.start / self.width, range.end.div_ceil(self.width));
        if range.start > range.end || last > elements {
            return Err(Error::argument(format!("expected a range inside {elements} elements, found bytes {range:?}")));
        }
        let len = num::to_usize((last - first) * self.width, "a range of a tensor")?;
        let mut out = Vec::new();
        out.try_reserve_exact(len).map_err(|_| Error::limit(format!("expected memory for {len} bytes")))?;
        let (inner, stride) = self.dims.last().copied().unwrap_or((1, 1));
        let mut at = first;
        while at < last {
            let (mut rest, column) = (at / inner, at % inner);
            let mut from = column * stride;
            for (len, stride) in self.dims.iter().rev().skip(1) {
                from += rest % len * stride;
                rest /= len;
            }
            let count = (inner - column).min(last - at);
            self.append(from, stride, count, &mut out)?;
            at += count;
        }
        if let Some(width) = self.swap {
            out.chunks_exact_mut(width).for_each(<[u8]>::reverse);
        }
        out.truncate((range.end - first * self.width) as usize);
        out.drain(..(range.start - first * self.width) as usize);
        Ok(out)
    }
}

/// Returns the number of elements from the first to behind the last: 0 if there are none.
///
/// # Errors
/// It overflows.
pub(crate) fn extent(shape: &[u64], strides: &[u64]) -> Result<u64> {
    if num::elements(shape)? == 0 {
        return Ok(0);
    }
    let steps = shape.iter().zip(strides).map(|(len, stride)| num::mul(len.saturating_sub(1), *stride, "the extent of a tensor"));
    steps.into_iter().try_fold(1, |sum, step| num::add(sum, step?, "the extent of a tensor"))
}

/// Whether the elements follow each other in order.
pub(crate) fn is_contiguous(shape: &[u64], strides: &[u64]) -> bool {
    shape.contains(&0) || matches!(merged(shape, strides)[..], [] | [(_, 1)])
}

/// Returns the strides of a contiguous tensor.
pub(crate) fn contiguous(shape: &[u64]) -> Vec<u64> {
    let mut strides = vec![1u64; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i].max(1));
    }
    strides
}

/// Returns the strides of a tensor in Fortran order: the first dimension varies fastest.
pub(crate) fn fortran(shape: &[u64]) -> Vec<u64> {
    let mut stride = 1u64;
    shape
        .iter()
        .map(|len| {
            let own = stride;
            stride = stride.saturating_mul((*len).max(1));
            own
        })
        .collect()
}

fn merged(shape: &[u64], strides: &[u64]) -> Vec<(u64, u64)> {
    let mut dims: Vec<(u64, u64)> = Vec::with_capacity(shape.len());
    for (&len, &stride) in shape.iter().zip(strides).filter(|(len, _)| **len != 1) {
        match dims.last_mut() {
            Some(last) if stride.checked_mul(len) == Some(last.1) => *last = (last.0.saturating_mul(len), stride),
            _ => dims.push((len, stride)),
        }
    }
    dims
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::InMemory;

    fn gathered(shape: &[u64], strides: &[u64], offset: u64, swap: Option<usize>) -> Vec<u8> {
        let source = Arc::new(InMemory::new("a", (0..48).collect::<Vec<u8>>()));
        let tensor = Strided::new(source, offset, 2, shape, strides, swap).unwrap();
        let len = 2 * shape.iter().product::<u64>();
        let whole = tensor.bytes(0..len).unwrap();
        for start in 0..len {
            for end in start..len {
                assert_eq!(tensor.bytes(start..end).unwrap(), whole[start as usize..end as usize]);
            }
        }
        assert!(tensor.bytes(0..len + 1).is_err());
        whole
    }

    #[test]
    fn any_range_of_any_view_is_that_of_the_copied_tensor() {
        assert_eq!(gathered(&[2, 3], &[3, 1], 2, None), (2..14).collect::<Vec<u8>>());
        assert_eq!(gathered(&[3, 2], &[1, 3], 0, None), [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
        assert_eq!(gathered(&[2, 2], &[0, 1], 0, None), [0, 1, 2, 3, 0, 1, 2, 3]);
        assert_eq!(gathered(&[3], &[0], 4, Some(2)), [5, 4, 5, 4, 5, 4]);
        assert_eq!(gathered(&[], &[], 6, None), [6, 7]);
        assert_eq!(gathered(&[2, 1, 2], &[4, 7, 2], 0, None), [0, 1, 4, 5, 8, 9, 12, 13]);
        assert_eq!(gathered(&[0, 3], &[3, 1], 48, None), Vec::<u8>::new());
    }

    #[test]
    fn few_bytes_stand_for_a_bounded_number() {
        let source: Arc<dyn Source> = Arc::new(InMemory::new("a", vec![0; 8]));
        let new = |shape: &[u64], strides: &[u64]| Strided::new(Arc::clone(&source), 0, 4, shape, strides, None);
        assert!(new(&[1 << 20, 1 << 14, 2], &[0, 0, 0]).is_err());
        assert!(new(&[1 << 20, 1 << 14], &[0, 0]).is_ok() && new(&[1 << 40, 0], &[0, 1]).is_ok());
    }

    #[test]
    fn what_lies_outside_or_overflows_is_refused() {
        let source: Arc<dyn Source> = Arc::new(InMemory::new("a", vec![0; 8]));
        let new = |shape: &[u64], strides: &[u64], offset| Strided::new(Arc::clone(&source), offset, 4, shape, strides, None);
        assert!(new(&[2], &[1], 0).is_ok() && new(&[1 << 30], &[0], 0).is_ok());
        assert!(new(&[2], &[1], 1).is_err() && new(&[2], &[2], 0).is_err() && new(&[u64::MAX, 2], &[0, 0], 0).is_err());
        assert!(new(&[1 << 62], &[1], 0).is_err() && new(&[2], &[u64::MAX], 0).is_err() && new(&[1], &[1], u64::MAX).is_err());
        assert!(is_contiguous(&[2, 1, 3], &[3, 99, 1]) && is_contiguous(&[0, 2], &[0, 0]) && is_contiguous(&[], &[]));
        assert!(!is_contiguous(&[3, 2], &[1, 3]) && !is_contiguous(&[2], &[2]));
        assert_eq!(contiguous(&[2, 3, 4]), [12, 4, 1]);
    }
}
