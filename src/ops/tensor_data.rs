//! Range access to the elements of an output tensor: as numbers, or as stored bytes if they are unchanged.
//!
//! No tensor is held in memory: a range is read from the files, or from the rows gathered from them.

use crate::base::{Error, Result, num};
use crate::codec::{self, Decoded, codec};
use crate::format::Reader;
use crate::model::{DType, ElemType, TensorInfo, TypeName};
use crate::source::Data;
use crate::view::output_model::{OutputTensor, Source};
use crate::view::tensor_expr::TensorExpr;

/// Gives access to the data of an [`OutputTensor`], range by range.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct TensorData<'a> {
    reader: &'a Reader,
    source: DataSource<'a>,
}

#[derive(Debug, Clone, Copy)]
enum DataSource<'a> {
    Stored(&'a TensorInfo),
    Computed(&'a TensorExpr),
}

impl<'a> TensorData<'a> {
    /// Opens the data of an output tensor; of a part of a packed weight, that of the weight.
    ///
    /// # Errors
    /// There is no such tensor, or its number of elements differs from the output tensor's.
    pub(in crate::ops) fn new(reader: &'a Reader, output: &'a OutputTensor) -> Result<Self> {
        let (source, elements) = match &output.source {
            Source::Stored(index) => {
                let tensor = reader.model().tensors.get(*index);
                let tensor = tensor.ok_or_else(|| Error::argument(format!("no tensor with index {index}")))?;
                (DataSource::Stored(tensor), tensor.elements()?)
            }
            Source::Made(expr) => (DataSource::Computed(expr), expr.elements()?),
            Source::Packed(packed) => return Self::new(reader, &packed.weight),
        };
        let wanted = output.elements()?;
        if elements != wanted {
            return Err(Error::malformed(format!("expected {wanted} elements, found {elements}")).in_tensor(&output.name));
        }
        Ok(Self { reader, source })
    }

    /// Returns the type of the source elements.
    pub(in crate::ops) fn elem(&self) -> ElemType {
        match self.source {
            DataSource::Stored(tensor) => tensor.elem,
            DataSource::Computed(expr) => ElemType::Known(expr.dtype()),
        }
    }

    /// Returns the type name for reports: the packing, if all sources are packed alike.
    pub(in crate::ops) fn type_name(&self) -> TypeName {
        let mut packings = self.inputs().into_iter().map(|tensor| self.reader.type_name(tensor).packed);
        let first = packings.next().flatten();
        TypeName { elem: self.elem(), packed: first.filter(|first| packings.all(|other| other == Some(*first))) }
    }

    /// Returns the stored tensor, if the elements are those of one tensor in order.
    pub(in crate::ops) fn stored_tensor(&self) -> Option<&'a TensorInfo> {
        match self.source {
            DataSource::Stored(tensor) => Some(tensor),
            DataSource::Computed(_) => None,
        }
    }

    /// Returns the tensors that the elements are read or computed from.
    pub(in crate::ops) fn inputs(&self) -> Vec<&'a TensorInfo> {
        match self.source {
            DataSource::Stored(tensor) => vec![tensor],
            DataSource::Computed(expr) => expr.tensors().into_iter().filter_map(|index| self.reader.model().tensors.get(index)).collect(),
        }
    }

    /// Returns the number of bytes of this many elements, rounded up to a block.
    pub(in crate::ops) fn bytes_for(&self, elements: u64) -> u64 {
        self.elem().known().map_or(elements, |dtype| {
            let info = dtype.info();
            elements.div_ceil(info.block_elems).saturating_mul(info.block_bytes)
        })
    }

    /// Returns the stored bytes of a range of elements; both ends are block boundaries.
    ///
    /// # Errors
    /// The range is out of bounds, splits a block, or cannot be read.
    pub(in crate::ops) fn bytes(&self, start: u64, elements: u64) -> Result<Data<'a>> {
        let dtype = self.dtype()?;
        let at = |element: u64| dtype.bytes_for(element);
        let end = num::add(start, elements, "the end of a range")?;
        match self.source {
            DataSource::Stored(tensor) => self.reader.bytes_at(tensor, at(start)?..at(end)?),
            DataSource::Computed(expr) => {
                let row = expr.row_elements().max(1);
                let (first, last) = (start / row, end.div_ceil(row));
                let rows = expr.eval_rows(self.reader, first..last)?;
                let skip = at(start - first * row)? as usize;
                let len = at(elements)? as usize;
                let found = rows.len();
                rows.part(skip..skip + len).ok_or_else(|| Error::argument(format!("expected {len} bytes of gathered rows, found {found}")))
            }
        }
    }

    /// Decodes the numbers from element `start` on into `out`; an element of a complex type is two numbers.
    ///
    /// # Errors
    /// Values of the type cannot be decoded, or the range is out of bounds.
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

    /// Returns all stored bytes, of any type, in the byte order of the file.
    ///
    /// # Errors
    /// The tensor is not stored unchanged, or the size of its type is unknown.
    pub(in crate::ops) fn stored_bytes(&self) -> Result<Data<'a>> {
        match self.source {
            DataSource::Stored(tensor) => self.reader.stored_bytes(tensor, 0..self.reader.len_bytes(tensor).unwrap_or(0)),
            DataSource::Computed(_) => Err(Error::argument("the tensor is not stored as it is")),
        }
    }

    fn dtype(&self) -> Result<DType> {
        self.elem().known().ok_or_else(|| unreadable(self.elem()))
    }
}

fn unreadable(elem: ElemType) -> Error {
    Error::unsupported(format!("this build cannot decode {elem}"))
}
