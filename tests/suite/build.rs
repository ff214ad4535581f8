//! Small files built byte by byte, sound or broken as a test asks; and whole models written as the product writes them.

use std::fs;
use std::path::{Path, PathBuf};

use weigh::DType;
use weigh::base::bytes::Endian;
use weigh::format::shards::{self, FileContent};
use weigh::format::{FORMATS, Format, OutTensor};
use weigh::model::{Metadata, value_text};
use weigh::ops::edit::Change;
use weigh::write::output::{Output, Target};

/// A safetensors file: the header's length, the header, the data.
pub(crate) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    safetensors_bytes(header.as_bytes(), data)
}

/// As [`safetensors`], for a header that is no text.
pub(crate) fn safetensors_bytes(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

/// A GGUF file. What is not set is sound.
#[derive(Clone)]
pub(crate) struct Gguf {
    pub(crate) version: u32,
    pub(crate) endian: Endian,
    pub(crate) alignment: u64,
    /// Keys with the number of their value's type and the value's bytes.
    pub(crate) keys: Vec<(Vec<u8>, u32, Vec<u8>)>,
    pub(crate) tensors: Vec<GgufTensor>,
    pub(crate) key_count: Option<u64>,
    pub(crate) tensor_count: Option<u64>,
}

#[derive(Clone)]
pub(crate) struct GgufTensor {
    pub(crate) name: Vec<u8>,
    /// Innermost first.
    pub(crate) dims: Vec<u64>,
    pub(crate) tag: u32,
    /// Counted from the start of the data; behind the tensor before it when not set.
    pub(crate) offset: Option<u64>,
    pub(crate) data: Vec<u8>,
}

impl Default for Gguf {
    fn default() -> Self {
        Self { version: 3, endian: Endian::Little, alignment: 32, keys: vec![], tensors: vec![], key_count: None, tensor_count: None }
    }
}

impl Gguf {
    pub(crate) fn u16(&self, v: u16) -> Vec<u8> {
        if self.endian == Endian::Little { v.to_le_bytes().to_vec() } else { v.to_be_bytes().to_vec() }
    }

    pub(crate) fn u32(&self, v: u32) -> Vec<u8> {
        if self.endian == Endian::Little { v.to_le_bytes().to_vec() } else { v.to_be_bytes().to_vec() }
    }

    pub(crate) fn u64(&self, v: u64) -> Vec<u8> {
        if self.endian == Endian::Little { v.to_le_bytes().to_vec() } else { v.to_be_bytes().to_vec() }
    }

    /// A length: 32 bits in version 1.
    pub(crate) fn len(&self, v: u64) -> Vec<u8> {
        if self.version == 1 { self.u32(v as u32) } else { self.u64(v) }
    }

    pub(crate) fn text(&self, v: &[u8]) -> Vec<u8> {
        [self.len(v.len() as u64), v.to_vec()].concat()
    }

    /// An array: element type, length, elements.
    pub(crate) fn array(&self, elem: u32, len: u64, elements: &[u8]) -> Vec<u8> {
        [self.u32(elem), self.len(len), elements.to_vec()].concat()
    }

    pub(crate) fn key(mut self, key: &str, value_type: u32, value: Vec<u8>) -> Self {
        self.keys.push((key.into(), value_type, value));
        self
    }

    pub(crate) fn key_u16(self, key: &str, value: u16) -> Self {
        let value = self.u16(value);
        self.key(key, 2, value)
    }

    pub(crate) fn key_u32(self, key: &str, value: u32) -> Self {
        let value = self.u32(value);
        self.key(key, 4, value)
    }

    pub(crate) fn key_str(self, key: &str, value: &str) -> Self {
        let value = self.text(value.as_bytes());
        self.key(key, 8, value)
    }

    /// A tensor of any type; dimensions innermost first.
    pub(crate) fn tensor(mut self, name: &str, tag: u32, dims: &[u64], data: Vec<u8>) -> Self {
        self.tensors.push(GgufTensor { name: name.into(), dims: dims.into(), tag, offset: None, data });
        self
    }

    /// A tensor of F32 that is all zeros.
    pub(crate) fn f32(self, name: &str, dims: &[u64]) -> Self {
        let bytes = dims.iter().product::<u64>() * 4;
        self.tensor(name, 0, dims, vec![0; bytes as usize])
    }

    /// Everything before the data, without padding.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.u32(self.version));
        out.extend(self.len(self.tensor_count.unwrap_or(self.tensors.len() as u64)));
        out.extend(self.len(self.key_count.unwrap_or(self.keys.len() as u64)));
        for (key, value_type, value) in &self.keys {
            out.extend(self.text(key));
            out.extend(self.u32(*value_type));
            out.extend(value);
        }
        let mut next = 0u64;
        for tensor in &self.tensors {
            out.extend(self.text(&tensor.name));
            out.extend(self.u32(tensor.dims.len() as u32));
            for &dim in &tensor.dims {
                out.extend(self.len(dim));
            }
            out.extend(self.u32(tensor.tag));
            out.extend(self.u64(tensor.offset.unwrap_or(next)));
            next = (next + tensor.data.len() as u64).next_multiple_of(self.alignment);
        }
        out
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let pad = |out: &mut Vec<u8>| out.resize(out.len().next_multiple_of(self.alignment as usize), 0);
        let mut out = self.header();
        pad(&mut out);
        for tensor in &self.tensors {
            out.extend(&tensor.data);
            pad(&mut out);
        }
        out
    }
}

/// The format of this id.
pub(crate) fn format(id: &str) -> &'static Format {
    FORMATS.iter().find(|format| format.id.name() == id).unwrap()
}

/// A tensor to write, and its bytes.
pub(crate) fn tensor(name: &str, dtype: DType, shape: &[u64], bytes: Vec<u8>) -> (OutTensor, Vec<u8>) {
    let elem = weigh::ElemType::Known(dtype);
    (OutTensor { name: name.into(), elem, shape: shape.into(), len_bytes: bytes.len() as u64 }, bytes)
}

/// Writes a model as the product does; gives the paths of its files.
pub(crate) fn write(
    id: &str,
    path: &Path,
    tensors: &[(OutTensor, Vec<u8>)],
    metadata: &Metadata,
    shard_bytes: Option<u64>,
) -> Vec<PathBuf> {
    let out: Vec<OutTensor> = tensors.iter().map(|(tensor, _)| tensor.clone()).collect();
    let files = shards::layout(format(id), path, &out, metadata, shard_bytes).unwrap();
    let targets = files.iter().map(|file| Target { path: file.path.clone(), bytes: file.bytes() }).collect();
    let mut output = Output::begin(targets, false, &[]).unwrap();
    for (i, file) in files.iter().enumerate() {
        match &file.content {
            FileContent::Bytes(bytes) => output.write(i, bytes).unwrap(),
            FileContent::Tensors(range, layout) => {
                let mut writer = output.create(i).unwrap();
                writer.append(&layout.header).unwrap();
                for ((_, bytes), &offset) in tensors[range.clone()].iter().zip(&layout.offsets) {
                    writer.pad_to(offset).unwrap();
                    writer.append(bytes).unwrap();
                }
                writer.pad_to(layout.total).unwrap();
                output.seal(writer).unwrap();
            }
        }
    }
    output.commit().unwrap();
    files.into_iter().map(|file| file.path).collect()
}

/// Writes a safetensors file of these tensors in F32; the values are small and differ.
pub(crate) fn write_weights(path: &Path, tensors: &[(String, Vec<u64>)]) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape) in tensors {
        let start = data.len();
        data.extend((0..shape.iter().product::<u64>()).flat_map(|i| (0.25 + (i % 13) as f32 / 16.0).to_le_bytes()));
        header.insert(name.clone(), serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] }));
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut header = serde_json::Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    fs::write(path, safetensors(&header, &data)).unwrap();
}

/// A change of metadata, `KEY=TYPE:VALUE` or `KEY=VALUE` for a key that is there.
pub(crate) fn change(given: &str) -> Change {
    let (key, given) = given.split_once('=').unwrap();
    let typed = given.split_once(':').and_then(|(name, text)| {
        let elem = name.strip_suffix("[]").and_then(value_text::scalar_type);
        let scalar = || value_text::scalar_type(name).map(|kind| value_text::read_scalar(kind, text).unwrap());
        elem.map(|elem| value_text::read_array(elem, text).unwrap()).or_else(scalar)
    });
    match typed {
        Some(value) => Change::Set(key.to_owned(), value),
        None => Change::SetText(key.to_owned(), given.to_owned()),
    }
}

/// A pickle written opcode by opcode.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pickle(Vec<u8>);

impl Pickle {
    /// Starts a pickle of a protocol.
    pub(crate) fn new(protocol: u8) -> Self {
        Self(vec![0x80, protocol])
    }

    /// Starts a piece of a pickle.
    pub(crate) fn bare() -> Self {
        Self::default()
    }

    /// Appends opcodes.
    pub(crate) fn op(mut self, opcodes: &[u8]) -> Self {
        self.0.extend(opcodes);
        self
    }

    /// Appends bytes as they are.
    pub(crate) fn raw(self, bytes: &[u8]) -> Self {
        self.op(bytes)
    }

    pub(crate) fn text(self, text: &str) -> Self {
        self.op(b"X").op(&(text.len() as u32).to_le_bytes()).op(text.as_bytes())
    }

    pub(crate) fn number(self, number: u32) -> Self {
        self.op(b"J").op(&number.to_le_bytes())
    }

    pub(crate) fn global(self, module: &str, name: &str) -> Self {
        self.op(format!("c{module}\n{name}\n").as_bytes())
    }

    /// Appends a tensor as PyTorch does: of a storage of `len` elements.
    pub(crate) fn tensor(self, class: &str, key: &str, len: u32, offset: u32, shape: &[u32], strides: &[u32]) -> Self {
        let tuple = |pickle: Self, numbers: &[u32]| numbers.iter().fold(pickle.op(b"("), |pickle, number| pickle.number(*number)).op(b"t");
        let pickle = self.global("torch._utils", "_rebuild_tensor_v2").op(b"((").text("storage").global("torch", class);
        let pickle = pickle.text(key).text("cpu").number(len).op(b"tQ").number(offset);
        tuple(tuple(pickle, shape), strides).op(b"\x89").global("collections", "OrderedDict").op(b")RtR")
    }

    /// Ends the pickle.
    pub(crate) fn end(self) -> Vec<u8> {
        self.op(b".").0
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Returns a zip archive of stored entries.
pub(crate) fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let offset = file.len() as u32;
        let mut common = vec![0; 8];
        let (len, name_len) = ((data.len() as u32).to_le_bytes(), (name.len() as u16).to_le_bytes());
        common.extend(crc32(data).to_le_bytes());
        common.extend([len, len].concat());
        common.extend([name_len, [0; 2]].concat());
        file.extend([b"PK\x03\x04\x14\0".as_slice(), &common, name.as_bytes(), data].concat());
        let rest = [[0u8; 10].as_slice(), &offset.to_le_bytes()].concat();
        directory.extend([b"PK\x01\x02\x14\0\x14\0".as_slice(), &common, &rest, name.as_bytes()].concat());
    }
    let (start, count) = (file.len() as u32, entries.len() as u16);
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    file.extend([(directory.len() as u32).to_le_bytes(), start.to_le_bytes()].concat());
    file.extend([0; 2]);
    file
}

/// The CRC-32 of zip archives, bit by bit.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }))
}
