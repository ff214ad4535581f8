//! Reads one GGUF file: header, metadata and tensor table, with every count checked against the remaining bytes.

use std::path::Path;
use std::sync::Arc;

use crate::base::bytes::{Cursor, Endian, Parsed, SharedBytes};
use crate::base::finding::{Findings, Severity};
use crate::base::names::DuplicateCheck;
use crate::base::{Error, Result, limits, num, text};
use crate::format::codes;
use crate::format::gguf::spec::{self, GGML_NAME_BYTES, MAGIC};
use crate::format::gguf::{check, values};
use crate::format::set::{Part, check_finding_limit, parse_header};
use crate::model::metadata::{read_len, read_string};
use crate::model::{DType, ElemType, Metadata, Tag, TensorInfo, Value, ValueType};
use crate::source::Prefix;

/// Minimum size of a key-value pair after the key length: one byte of key, the type, one byte of value.
const LEAST_KEY: u64 = 1 + 4 + 1;
/// Minimum size of a tensor entry after the name length: number of dimensions, type, offset.
const LEAST_TENSOR: u64 = 4 + 4 + 8;

/// The list of tokens, which the lists of their scores and types follow.
const TOKENS_KEY: &str = "tokenizer.ggml.tokens";
/// Size of a token's score and type in these lists.
const SCORE_AND_TYPE: u64 = 4 + 4;

/// A tensor that every language model has, unlike adapters and vocabulary-only files.
const TOKEN_EMBEDDINGS: &str = "token_embd.weight";

/// Reads the header of one file. Invalid tensors are reported to `findings` and omitted.
pub(crate) fn read(mut file: Prefix, findings: &mut Findings) -> Result<Part> {
    let header = parse_header(&mut file, findings, parse).map_err(|error| error.in_file(file.path()))?;
    let Header { tensors, metadata, endian } = header;
    Ok(Part::new(file.into_source(), tensors, metadata, endian))
}

struct Header {
    tensors: Vec<TensorInfo>,
    metadata: Metadata,
    endian: Endian,
}

fn parse(file: &Prefix, findings: &mut Findings) -> Parsed<Result<Header>> {
    let cursor = Cursor::from_prefix(file.bytes(), file.len(), Endian::Little);
    let mut parser = Parser { file, bytes: file.shared(), cursor, wide: true, keys: 0, tensors: 0, findings };
    let header = parser.run();
    parser.need_the_rest();
    parser.cursor.parsed(header)
}

struct Parser<'a> {
    file: &'a Prefix,
    /// The bytes under the cursor, shared with arrays.
    bytes: Arc<dyn SharedBytes>,
    cursor: Cursor<'a>,
    /// Whether lengths have 64 bits, not 32 as in version 1.
    wide: bool,
    /// Number of keys still to read.
    keys: u64,
    /// Number of tensors still to read.
    tensors: u64,
    findings: &'a mut Findings,
}

impl<'a> Parser<'a> {
    fn run(&mut self) -> Result<Header> {
        let version = read_version(&mut self.cursor).map_err(|(code, error)| self.fatal(code, error))?;
        self.wide = version > 1;
        if !self.wide {
            let error = Error::unsupported("expected version 2 or 3, found version 1, which llama.cpp no longer reads").at(4);
            self.findings.remark(Severity::Warning, codes::GGUF_VERSION_OLD, error.in_file(self.path()));
        }
        (self.tensors, self.keys) = self.counts().map_err(|error| self.fatal(codes::GGUF_HEADER, error))?;
        self.check_counts()?;
        let metadata = self.metadata()?;
        check::metadata(&metadata, self.path(), self.findings);
        let alignment = match spec::alignment(&metadata) {
            Ok(alignment) => {
                if alignment < 8 {
                    let error = Error::malformed(format!("expected an alignment that is a multiple of 8, found {alignment}"));
                    self.findings.remark(Severity::Warning, codes::GGUF_ALIGNMENT_SMALL, error.in_file(self.path()));
                }
                alignment
            }
            // Without the alignment, the start of the data is unknown.
            Err(error) => return Err(self.fatal(codes::GGUF_ALIGNMENT, error)),
        };
        let entries = self.table()?;
        if self.findings.collects() && entries.iter().any(|entry| entry.tensor.name == TOKEN_EMBEDDINGS) {
            check::needed_keys(&metadata, self.path(), self.findings);
        }
        let tensors = check::place_tensors(entries, self.cursor.position(), alignment, self.file, self.findings)?;
        Ok(Header { tensors, metadata, endian: self.cursor.endian() })
    }

    /// If more bytes are needed, asks for those of all remaining keys and tensors too.
    fn need_the_rest(&mut self) {
        let length = self.length_bytes();
        self.cursor.need_more(self.keys.saturating_mul(length + LEAST_KEY));
        self.cursor.need_more(self.tensors.saturating_mul(length + LEAST_TENSOR));
    }

    fn counts(&mut self) -> Result<(u64, u64)> {
        Ok((read_len(&mut self.cursor, self.wide, "the tensor count")?, read_len(&mut self.cursor, self.wide, "the key count")?))
    }

    fn path(&self) -> &'a Path {
        self.file.path()
    }

    fn fatal(&mut self, code: &'static str, error: Error) -> Error {
        let path = self.path();
        self.findings.fatal(code, error.in_file(path))
    }

    fn error(&mut self, code: &'static str, error: Error) -> Result<()> {
        let path = self.path();
        self.findings.error(code, error.in_file(path))?;
        check_finding_limit(self.findings, path)
    }

    /// Returns the size of a length field in bytes.
    fn length_bytes(&self) -> u64 {
        if self.wide { 8 } else { 4 }
    }

    /// Checks the counts against the remaining bytes before any loop or allocation.
    fn check_counts(&mut self) -> Result<()> {
        let left = self.cursor.remaining();
        let needed = |count: u64, least: u64| count.checked_mul(least + self.length_bytes());
        let both =
            needed(self.keys, LEAST_KEY).zip(needed(self.tensors, LEAST_TENSOR)).and_then(|(keys, tensors)| keys.checked_add(tensors));
        if both.is_some_and(|bytes| bytes <= left) {
            return Ok(());
        }
        let message = format!(
            "expected as many keys and tensors as fit the {left} bytes left, found counts of {} keys and {} tensors",
            self.keys, self.tensors
        );
        let at = self.cursor.position() - 2 * self.length_bytes();
        Err(self.fatal(codes::GGUF_COUNT, Error::truncated(message).at(at)))
    }

    fn metadata(&mut self) -> Result<Metadata> {
        let mut metadata = Metadata::new();
        while self.keys > 0 {
            self.keys -= 1;
            let at = self.cursor.position();
            let key = self.key()?;
            let value = self.value(&key).map_err(|error| {
                let code = if error.is_caused_by::<std::str::Utf8Error>() { codes::GGUF_UTF8 } else { codes::GGUF_VALUE };
                self.findings.fatal(code, error.context(&text::shorten(&key)).at(at).in_file(self.file.path()))
            })?;
            if metadata.get(&key).is_some() {
                let message = format!("duplicate key {}", text::shorten(&key));
                self.error(codes::GGUF_KEY_DUPLICATE, Error::malformed(message).at(at))?;
            } else {
                metadata.set(key, value);
            }
        }
        Ok(metadata)
    }

    fn key(&mut self) -> Result<String> {
        let at = self.cursor.position();
        let key = read_string(&mut self.cursor, self.wide, "a metadata key").map_err(|error| self.fatal(codes::GGUF_KEY, error))?;
        if key.is_empty() {
            self.error(codes::GGUF_KEY, Error::malformed("expected a key of at least one byte, found an empty one").at(at))?;
        }
        if key.len() as u64 > limits::GGUF_KEY_BYTES {
            let message = format!("expected a key of at most {} bytes, found {}", limits::GGUF_KEY_BYTES, key.len());
            self.error(codes::GGUF_KEY, Error::malformed(message).at(at))?;
        }
        Ok(key)
    }

    fn value(&mut self, key: &str) -> Result<Value> {
        let at = self.cursor.position();
        let tag = self.cursor.u32("a value's type")?;
        let value_type =
            values::value_type(tag).ok_or_else(|| Error::malformed(format!("expected a value type of 0 to 12, found {tag}")).at(at))?;
        match value_type {
            ValueType::Array => {
                let after = if key == TOKENS_KEY { SCORE_AND_TYPE } else { 0 };
                values::array(&mut self.cursor, &self.bytes, self.wide, after).map(Value::Array)
            }
            ValueType::Bool => {
                let at = self.cursor.position();
                let byte = self.cursor.u8("a metadata value")?;
                check::check_bool(byte, key, at, self.file.path(), self.findings);
                Ok(Value::Bool(byte != 0))
            }
            _ => Value::read(&mut self.cursor, value_type, self.wide),
        }
    }

    /// Reads the tensor entries, with offsets relative to the start of the data.
    fn table(&mut self) -> Result<Vec<check::Entry>> {
        let mut entries: Vec<check::Entry> = Vec::new();
        let mut names = DuplicateCheck::default();
        while self.tensors > 0 {
            self.tensors -= 1;
            let at = self.cursor.position();
            let name =
                read_string(&mut self.cursor, self.wide, "a tensor's name").map_err(|error| self.fatal(codes::GGUF_TENSOR_NAME, error))?;
            if !(1..=GGML_NAME_BYTES).contains(&name.len()) {
                let error = Error::malformed(format!("expected a name of 1 to {GGML_NAME_BYTES} bytes, found {}", name.len()));
                let path = self.path();
                self.findings.remark(Severity::Warning, codes::GGUF_TENSOR_LONG, error.in_tensor(&name).at(at).in_file(path));
                check_finding_limit(self.findings, path)?;
            }
            let twice = names.is_duplicate(&name, entries.len(), |index| entries.get(index).map(|entry| entry.tensor.name.as_str()));
            if twice {
                let error = Error::malformed("duplicate tensor name").in_tensor(&name).at(at);
                self.error(codes::GGUF_DUPLICATE, error)?;
            }
            entries.extend(self.entry(name, at)?.filter(|_| !twice));
        }
        Ok(entries)
    }

    /// Reads the rest of an entry after its name; `None` if its size is invalid.
    fn entry(&mut self, name: String, at: u64) -> Result<Option<check::Entry>> {
        let raw = self.raw_entry().map_err(|(code, error)| self.fatal(code, error.in_tensor(&name)))?;
        let elem = DType::from_ggml_id(raw.tag).map_or(ElemType::Unknown { tag: Tag::Number(raw.tag) }, ElemType::Known);
        let size = match elem {
            ElemType::Known(dtype) => dtype.bytes_for_shape(&raw.shape).map(Some),
            ElemType::Unknown { .. } if raw.tag > i32::MAX as u32 => {
                Err(Error::malformed(format!("expected a type number below 2^31, found {}", raw.tag)))
            }
            ElemType::Unknown { .. } => num::elements(&raw.shape).map(|_| None),
        };
        if elem.known().is_none() {
            let error = Error::malformed(format!("expected a known type, found {elem}: its values cannot be read")).in_tensor(&name).at(at);
            let path = self.path();
            self.findings.remark(Severity::Warning, codes::GGUF_TYPE, error.in_file(path));
            check_finding_limit(self.findings, path)?;
        }
        let signed = raw.shape.iter().all(|dim| i64::try_from(*dim).is_ok());
        let too_large = || Error::malformed(format!("expected dimensions below 2^63, found {}", num::show_shape(&raw.shape)));
        match size.and_then(|size| if signed { Ok(size) } else { Err(too_large()) }) {
            Ok(len_bytes) => {
                let tensor = TensorInfo { name, elem, shape: raw.shape, shard: 0, offset_bytes: raw.offset, len_bytes };
                Ok(Some(check::Entry { tensor, at }))
            }
            Err(error) => {
                self.error(codes::GGUF_SIZE, error.in_tensor(&name).at(at))?;
                Ok(None)
            }
        }
    }

    fn raw_entry(&mut self) -> Result<RawEntry, (&'static str, Error)> {
        let cut = |error| (codes::GGUF_TENSOR, error);
        let at = self.cursor.position();
        let dims = self.cursor.u32("the count of dimensions").map_err(cut)?;
        if dims > limits::GGUF_DIMS {
            let message = format!("expected at most {} dimensions, found {dims}", limits::GGUF_DIMS);
            return Err((codes::GGUF_DIMS, Error::malformed(message).at(at)));
        }
        let mut shape = Vec::with_capacity(dims as usize);
        for _ in 0..dims {
            shape.push(read_len(&mut self.cursor, self.wide, "a dimension").map_err(cut)?);
        }
        shape.reverse(); // GGUF stores the innermost dimension first
        let tag = self.cursor.u32("a tensor's type").map_err(cut)?;
        let offset = self.cursor.u64("a tensor's offset").map_err(cut)?;
        Ok(RawEntry { shape, tag, offset })
    }
}

struct RawEntry {
    shape: Vec<u64>,
    tag: u32,
    offset: u64,
}

/// Reads magic and version, and sets the cursor's byte order.
pub(crate) fn read_version(cursor: &mut Cursor<'_>) -> Result<u32, (&'static str, Error)> {
    let header = |error| (codes::GGUF_HEADER, error);
    let magic = cursor.take(4, "the magic").map_err(header)?;
    if magic != MAGIC {
        return Err(header(Error::malformed(format!("expected the magic GGUF, found {}", magic.escape_ascii())).at(0)));
    }
    let mut version = cursor.u32("the version").map_err(header)?;
    if version != 0 && version & 0xffff == 0 {
        version = version.swap_bytes();
        cursor.set_endian(Endian::Big);
    }
    if !(1..=spec::VERSION).contains(&version) {
        let error = Error::unsupported(format!("expected GGUF version 1 to {}, found {version}", spec::VERSION)).at(4);
        return Err((codes::GGUF_VERSION, error));
    }
    Ok(version)
}
