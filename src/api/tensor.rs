//! A tensor and its values.

use std::borrow::Cow;
use std::ops::{Bound, Range, RangeBounds};

use crate::base::threads::{par, prelude::*};
use crate::base::{Error, Result, num};
use crate::codec::{self, Codec, Decoded};
use crate::family::comfy;
use crate::format::Reader;
use crate::model::{ElemType, PackedType, TensorInfo};

/// Number of elements that a thread decodes per chunk: a multiple of every block size.
const CHUNK_ELEMENTS: usize = 1 << 16;

/// A tensor of an open model, or a range of its rows.
#[derive(Debug, Clone)]
pub struct Tensor<'m> {
    reader: &'m Reader,
    info: &'m TensorInfo,
    shape: Cow<'m, [u64]>,
    /// The selected elements, counted from the start of the tensor.
    elements: Range<u64>,
}

impl<'m> Tensor<'m> {
    pub(super) fn new(reader: &'m Reader, info: &'m TensorInfo) -> Self {
        let shape = comfy::original_shape(reader.model(), info).map_or(Cow::Borrowed(info.shape.as_slice()), Cow::Owned);
        // Readers reject tensors with more elements than fit.
        Self { reader, info, shape, elements: 0..info.elements().unwrap_or(0) }
    }

    /// Returns the name exactly as in the file; for a packed weight, its unquantised name.
    pub fn name(&self) -> &'m str {
        &self.info.name
    }

    /// Returns the element type of [`Tensor::bytes`]: F32 for a packed weight (see [`Tensor::packing`]).
    pub fn dtype(&self) -> ElemType {
        self.info.elem
    }

    /// Returns the packing of a packed weight: `GPTQ-4`, `NVFP4`.
    pub fn packing(&self) -> Option<PackedType> {
        self.reader.type_name(self.info).packed
    }

    /// Returns the dimensions, outermost first. Empty for a scalar.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Returns the number of elements: the product of the shape.
    pub fn elements(&self) -> u64 {
        self.elements.end - self.elements.start
    }

    /// Returns a range of rows (indices of the outermost dimension), like `tensor[2:5]` in NumPy.
    ///
    /// # Errors
    /// The range ends after the last row or before its start, or the tensor is a scalar.
    pub fn rows(&self, range: impl RangeBounds<u64>) -> Result<Self> {
        let Some((&rows, inner)) = self.shape.split_first() else {
            return Err(self.error(Error::argument("a scalar has no rows")));
        };
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.saturating_add(1),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => rows,
        };
        if start > end || end > rows {
            return Err(self.error(Error::argument(format!("rows {start}..{end} are out of range: the tensor has {rows}"))));
        }
        let row = self.elements().checked_div(rows).unwrap_or(0);
        let first = self.elements.start;
        let shape = [&[end - start], inner].concat().into();
        // No product exceeds the tensor's element count.
        Ok(Self { shape, elements: first + start * row..first + end * row, ..*self })
    }

    /// Returns the little-endian bytes in the layout of [`Tensor::dtype`]: borrowed from the mapped file, except for packed weights and
    /// big-endian files.
    ///
    /// # Errors
    /// The values cannot be read; this is a range of rows, and the size of the type is unknown or rows are not whole blocks.
    pub fn bytes(&self) -> Result<Cow<'m, [u8]>> {
        let all = self.elements() == self.info.elements()?;
        let bytes = match self.info.elem.known() {
            _ if all => self.reader.bytes(self.info),
            Some(dtype) => dtype
                .bytes_for(self.elements.start)
                .and_then(|start| Ok(start..dtype.bytes_for(self.elements.end)?))
                .and_then(|range| self.reader.bytes_at(self.info, range)),
            None => Err(self.unknown()),
        };
        bytes.map(Cow::from).map_err(|error| self.error(error))
    }

    /// Returns the values in single precision, dequantised, in row-major order. Numbers that single precision cannot represent are rounded to
    /// nearest. A complex element gives two values: the real part, then the imaginary part.
    ///
    /// # Errors
    /// The type cannot be decoded, the values cannot be read, or there is not enough memory.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        self.values()
    }

    /// Returns the values in double precision, like [`Tensor::to_f32`]. They are exact, except that 64-bit integers beyond 2^53 are rounded to
    /// nearest.
    ///
    /// # Errors
    /// As for [`Tensor::to_f32`].
    pub fn to_f64(&self) -> Result<Vec<f64>> {
        self.values()
    }

    fn values<T: Decoded + Send>(&self) -> Result<Vec<T>> {
        let decode = || {
            let codec = self.info.elem.known().and_then(codec::codec).ok_or_else(|| self.unknown())?;
            let per_element = codec::values_per_element(codec.dtype);
            let mut values = zeros(num::mul(self.elements(), per_element as u64, "the number of values")?)?;
            let firsts = self.elements.clone().step_by(CHUNK_ELEMENTS);
            let chunks: Vec<(u64, &mut [T])> = firsts.zip(values.chunks_mut(CHUNK_ELEMENTS * per_element)).collect();
            par(chunks).try_for_each(|(first, values)| self.decode(codec, first, values))?;
            Ok(values)
        };
        decode().map_err(|error| self.error(error))
    }

    /// Decodes the elements from `first` on; the first and last block may be needed only in part.
    fn decode<T: Decoded>(&self, codec: &Codec, first: u64, values: &mut [T]) -> Result<()> {
        let (dtype, per_element) = (codec.dtype, codec::values_per_element(codec.dtype));
        let block = dtype.info().block_elems;
        let last = first + (values.len() / per_element) as u64;
        let blocks = first / block * block..last.next_multiple_of(block);
        let bytes = self.reader.bytes_at(self.info, dtype.bytes_for(blocks.start)?..dtype.bytes_for(blocks.end)?)?;
        if blocks == (first..last) {
            T::decode(codec, &bytes, values);
            return Ok(());
        }
        let mut whole = vec![T::default(); (blocks.end - blocks.start) as usize * per_element];
        T::decode(codec, &bytes, &mut whole);
        let wanted = whole.iter().skip((first - blocks.start) as usize * per_element);
        values.iter_mut().zip(wanted).for_each(|(value, wanted)| *value = *wanted);
        Ok(())
    }

    fn unknown(&self) -> Error {
        let error = Error::unsupported(format!("values of {} cannot be decoded", self.info.elem));
        error.hint("the bytes of the whole tensor can be read all the same")
    }

    fn error(&self, error: Error) -> Error {
        error.in_tensor(&self.info.name).in_file(&self.reader.model().path)
    }
}

/// Returns `len` zeros.
fn zeros<T: Clone + Default>(len: u64) -> Result<Vec<T>> {
    let mut zeros = Vec::new();
    let room = num::to_usize(len, "the number of values")?;
    zeros.try_reserve_exact(room).map_err(|_| Error::limit(format!("not enough memory for {len} values")))?;
    zeros.resize(room, T::default());
    Ok(zeros)
}
