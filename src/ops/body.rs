//! The elements of one tensor of the output, a range at a time: as numbers, or as stored bytes when nothing about them changes.
//!
//! Nothing here holds a tensor: a range is asked of the files, or of the rows that are gathered from them.

use std::borrow::Cow;

use crate::base::{Error, Result, num};
use crate::codec::{self, Decoded, codec};
use crate::format::Reader;
use crate::model::{DType, ElemType, TensorInfo, TypeName};
use crate::view::output_model::{OutputTensor, Source};
use crate::view::tensor_expr::TensorExpr;

/// What a [`OutputTensor`] is made of, ready to be asked for ranges.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Body<'a> {
    reader: &'a Reader,
    source: Stored<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Stored<'a> {
    Whole(&'a TensorInfo),
    Made(&'a TensorExpr),
}

impl<'a> Body<'a> {
    /// The body of a step.
    ///
    /// # Errors
    /// There is no such tensor, or its elements are not as many as those of the step.
    pub(in crate::ops) fn new(reader: &'a Reader, step: &'a OutputTensor) -> Result<Self> {
        let (source, elements) = match &step.source {
            Source::Stored(index) => {
                let tensor = reader.model().tensors.get(*index);
                let tensor = tensor.ok_or_else(|| Error::argument(format!("expected a tensor of the model, found number {index}")))?;
                (Stored::Whole(tensor), tensor.elements()?)
            }
            Source::Made(origin) => (Stored::Made(origin), origin.elements()?),
        };
        let wanted = step.elements()?;
        if elements != wanted {
            return Err(Error::malformed(format!("expected {wanted} elements, found {elements}")).in_tensor(&step.name));
        }
        Ok(Self { reader, source })
    }

    /// The type in which the elements are at hand.
    pub(in crate::ops) fn elem(&self) -> ElemType {
        match self.source {
            Stored::Whole(tensor) => tensor.elem,
            Stored::Made(origin) => ElemType::Known(origin.dtype()),
        }
    }

    /// The type of the elements as reports show it: their packing, where all of them are packed alike.
    pub(in crate::ops) fn type_name(&self) -> TypeName {
        let tensors = match self.source {
            Stored::Whole(tensor) => vec![tensor],
            Stored::Made(origin) => origin.tensors().into_iter().filter_map(|index| self.reader.model().tensors.get(index)).collect(),
        };
        let mut packings = tensors.into_iter().map(|tensor| self.reader.type_name(tensor).packed);
        let first = packings.next().flatten();
        TypeName { elem: self.elem(), packed: first.filter(|first| packings.all(|other| other == Some(*first))) }
    }

    /// The stored tensor, if the elements are those of one in their order.
    pub(in crate::ops) fn whole(&self) -> Option<&'a TensorInfo> {
        match self.source {
            Stored::Whole(tensor) => Some(tensor),
            Stored::Made(_) => None,
        }
    }

    /// The stored bytes of the elements from `start` on; both ends are those of blocks.
    ///
    /// # Errors
    /// The range lies outside or cuts a block, or cannot be read.
    pub(in crate::ops) fn bytes(&self, start: u64, elements: u64) -> Result<Cow<'a, [u8]>> {
        let dtype = self.dtype()?;
        let at = |element: u64| dtype.bytes_for(element);
        let end = num::add(start, elements, "the end of a range")?;
        match self.source {
            Stored::Whole(tensor) => self.reader.bytes_at(tensor, at(start)?..at(end)?),
            Stored::Made(origin) => {
                let row = origin.row_elements().max(1);
                let (first, last) = (start / row, end.div_ceil(row));
                let rows = origin.eval_rows(self.reader, first..last)?;
                let skip = at(start - first * row)? as usize;
                let len = at(elements)? as usize;
                let cut = || Error::argument(format!("expected {len} bytes of gathered rows, found {}", rows.len()));
                match &rows {
                    _ if skip == 0 && rows.len() == len => Ok(rows),
                    Cow::Borrowed(rows) => rows.get(skip..skip + len).map(Cow::Borrowed).ok_or_else(cut),
                    Cow::Owned(bytes) => bytes.get(skip..skip + len).map(|bytes| Cow::Owned(bytes.to_vec())).ok_or_else(cut),
                }
            }
        }
    }

    /// Fills `out` with the numbers from element `start` on; an element of a complex type is two.
    ///
    /// # Errors
    /// The values of the type cannot be read; or the range lies outside.
    pub(in crate::ops) fn values<T: Decoded>(&self, start: u64, out: &mut [T]) -> Result<()> {
        let dtype = self.dtype()?;
        let codec = codec(dtype).ok_or_else(|| unreadable(ElemType::Known(dtype)))?;
        let (block, numbers) = (dtype.info().block_elems, codec::values_per_element(dtype));
        let end = num::add(start, (out.len() / numbers) as u64, "the end of a range")?;
        let (first, last) = (start / block * block, end.div_ceil(block) * block);
        let bytes = self.bytes(first, last - first)?;
        if (first, last) == (start, end) {
            T::decode(codec, &bytes, out);
        } else {
            let mut blocks = vec![T::default(); (last - first) as usize];
            T::decode(codec, &bytes, &mut blocks);
            let skip = (start - first) as usize;
            out.copy_from_slice(&blocks[skip..skip + out.len()]);
        }
        Ok(())
    }

    /// All stored bytes, of whatever type, in the byte order of the file.
    ///
    /// # Errors
    /// The tensor is not stored as it is, or the size of its type is not known.
    pub(in crate::ops) fn stored(&self) -> Result<Cow<'a, [u8]>> {
        match self.source {
            Stored::Whole(tensor) => self.reader.stored_bytes(tensor, 0..self.reader.len_bytes(tensor).unwrap_or(0)),
            Stored::Made(_) => Err(Error::argument("expected a stored tensor")),
        }
    }

    fn dtype(&self) -> Result<DType> {
        self.elem().known().ok_or_else(|| unreadable(self.elem()))
    }
}

fn unreadable(elem: ElemType) -> Error {
    Error::unsupported(format!("expected a type whose values this build reads, found {elem}"))
}
