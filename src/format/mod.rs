//! Files <-> [`Model`]: one folder a format, one line each in [`FORMATS`].

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::base::bytes::Endian;
use crate::base::finding::Findings;
use crate::base::mmap::Map;
use crate::base::{Error, Result, num};
use crate::model::{DType, ElemType, Metadata, Model, TensorInfo};

pub mod gguf;
pub mod safetensors;

/// A file format: what the rest of weigh needs to know of it.
#[derive(Debug)]
pub struct Format {
    /// The name in weigh's output.
    pub id: &'static str,
    /// What the files are called; the format is told by content all the same.
    pub extensions: &'static [&'static str],
    /// Whether the start of a file looks like this format: 0 no, up to 100 certain.
    pub probe: fn(start: &[u8], len: u64) -> u8,
    /// Opens a model from any one of its files. What breaks a rule goes to `findings`, which stops or goes on.
    pub open: fn(path: &Path, findings: &mut Findings) -> Result<Reader>,
    /// Lays out one file of this format, if it can be written.
    pub layout: Option<LayOut>,
    /// Whether the format can hold tensors of a type.
    pub stores: fn(DType) -> bool,
}

/// Lays a whole file out before its first byte is written: header, offsets, padding.
pub type LayOut = fn(tensors: &[OutTensor], metadata: &Metadata) -> Result<Layout>;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutTensor {
    /// Its name in the new file.
    pub name: String,
    /// Its type in the new file. Bytes of an unknown type are copied: `len_bytes` is then taken from the source.
    pub elem: ElemType,
    /// Its dimensions, outermost first.
    pub shape: Vec<u64>,
    /// How many bytes its body has.
    pub len_bytes: u64,
}

/// Where everything goes in a file that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// All bytes before the first body.
    pub header: Vec<u8>,
    /// Where the body of each tensor starts, in bytes from the start of the file, in the order in which they were given.
    /// Bytes between bodies are zero.
    pub offsets: Vec<u64>,
    /// The length of the whole file, in bytes.
    pub total: u64,
}

/// Every format that this build opens.
pub static FORMATS: &[Format] = &[];

/// An open model: what is in it, and the bytes of its tensors.
///
/// Files are mapped, not read: opening costs the headers, and a tensor's bytes come without a copy.
#[derive(Debug)]
pub struct Reader {
    model: Model,
    maps: Vec<Arc<Map>>,
    endian: Endian,
}

impl Reader {
    /// Called by the formats: `maps[i]` is the file of `model.shards[i]`, and numbers in the tensors have this byte order.
    pub fn new(model: Model, maps: Vec<Arc<Map>>, endian: Endian) -> Self {
        Self { model, maps, endian }
    }

    /// What is in the model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The mapped files, in the order of [`Model::shards`].
    pub fn maps(&self) -> &[Arc<Map>] {
        &self.maps
    }

    /// The byte order of the numbers in the tensors.
    pub fn endian(&self) -> Endian {
        self.endian
    }

    /// All bytes of a tensor, little-endian: borrowed from the file unless that is big-endian.
    ///
    /// # Errors
    /// The size of the tensor's type is not known; or the tensor is not of this model, and lies outside its file.
    pub fn bytes(&self, tensor: &TensorInfo) -> Result<Cow<'_, [u8]>> {
        let len = tensor.len_bytes.ok_or_else(|| unknown_size(tensor))?;
        self.bytes_at(tensor, 0..len)
    }

    /// A range of a tensor's bytes, little-endian, counted from the tensor's start. In a big-endian file it must be whole blocks.
    ///
    /// # Errors
    /// As for [`Reader::bytes`]; the range lies outside the tensor.
    pub fn bytes_at(&self, tensor: &TensorInfo, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let bytes = self.stored_bytes(tensor, range)?;
        Ok(match (self.endian, tensor.elem.known()) {
            (Endian::Little, _) => Cow::Borrowed(bytes),
            (Endian::Big, Some(dtype)) => Cow::Owned(gguf::swap::to_little_endian(dtype, bytes)),
            (Endian::Big, None) => return Err(unknown_size(tensor)),
        })
    }

    /// A range of a tensor's bytes as they are in the file, whatever its byte order.
    pub fn stored_bytes(&self, tensor: &TensorInfo, range: Range<u64>) -> Result<&[u8]> {
        let len = tensor.len_bytes.ok_or_else(|| unknown_size(tensor))?;
        let outside =
            || Error::argument(format!("expected a range inside the {len} bytes of the tensor, found {range:?}")).in_tensor(&tensor.name);
        let map = self.maps.get(tensor.shard).ok_or_else(outside)?;
        if range.start > range.end || range.end > len {
            return Err(outside());
        }
        let start = num::add(tensor.offset_bytes, range.start, "a tensor's start")?;
        let end = num::add(tensor.offset_bytes, range.end, "a tensor's end")?;
        let (start, end) = (num::to_usize(start, "a tensor's start")?, num::to_usize(end, "a tensor's end")?);
        map.bytes().get(start..end).ok_or_else(outside)
    }
}

fn unknown_size(tensor: &TensorInfo) -> Error {
    Error::unsupported(format!("expected a known type, found {}", tensor.elem))
        .in_tensor(&tensor.name)
        .hint("a newer weigh may know this type; `weigh types` lists what this one knows")
}
