//! Files of PyTorch from before 1.6, which are pickles one after the other and then the storages; and bare pickles.
//!
//! Source: `_legacy_load` and `_legacy_save` in `torch/serialization.py`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::base::finding::{Findings, Severity};
use crate::base::text::shorten;
use crate::base::{Error, Result, num, units};
use crate::format::codes;
use crate::format::pytorch::callables::{self, Meaning, StorageClass};
use crate::format::pytorch::part;
use crate::format::pytorch::pickle::{self, Id, Pickle, Value, Values};
use crate::format::pytorch::scan::{self, Whence};
use crate::format::pytorch::tensors::{self, Kept};
use crate::format::pytorch::view::{self, Place, Storage, persistent};
use crate::format::set::Part;
use crate::source::Source;

/// The first value of a file: 0x1950a86a20f9469cfc6c.
const MAGIC: &[u8] = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
/// The same in decimal, as protocol 0 writes it.
const MAGIC_TEXT: &[u8] = b"119547037146038801333356L";

/// Reads a file.
///
/// # Errors
/// A pickle cannot be parsed, or as for [`tensors::collect`].
pub(super) fn read(source: &Arc<dyn Source>, findings: &mut Findings) -> Result<Part> {
    let path = source.path();
    let whence = Whence { path, entry: None, in_file: true };
    let malformed = |findings: &mut Findings, error: Error| scan::damaged(error, source, 0..source.len(), &whence, findings);
    let first = pickle::parse(source, 0, source.len()).map_err(|error| malformed(findings, error))?;
    if !is_magic(&first)? {
        if findings.collects() {
            scan::report(&first, source.len(), &whence, findings)?;
        }
        let known = RefCell::default();
        let contents = tensors::collect(&first.values, first.root, &|values, id| nested(values, id, &known), findings)?;
        return Ok(part::new(source, &first, "pickle", contents));
    }
    let file = File::parse(source, &first, source.len()).map_err(|error| malformed(findings, error))?;
    if findings.collects() {
        for pickle in [&first].into_iter().chain(&file.others).chain([&file.object]) {
            scan::report(pickle, pickle.end, &whence, findings)?;
        }
        if file.end < source.len() {
            let message =
                format!("expected the end of the file, found {} bytes behind the storages", units::grouped(source.len() - file.end));
            findings.remark(Severity::Warning, codes::PICKLE_TRAILING, Error::malformed(message).at(file.end).in_file(path));
        }
    }
    let contents = tensors::collect(&file.object.values, file.object.root, &|values, id| file.resolve(values, id), findings)?;
    Ok(part::new(source, &file.object, "legacy file", contents))
}

/// Whether a pickle is the first of a file from before 1.6.
fn is_magic(pickle: &Pickle) -> Result<bool> {
    let Value::BigInt { at, len } = pickle.values.get(pickle.root) else { return Ok(false) };
    let bytes = pickle.values.source.read(at..at + u64::from(len))?;
    Ok(*bytes == *MAGIC || *bytes == *MAGIC_TEXT)
}

/// The number, the first byte and the length in bytes of each storage, by its key.
type Storages = HashMap<String, (u32, u64, u64)>;

/// A file from before 1.6.
#[derive(Debug)]
struct File {
    source: Arc<dyn Source>,
    /// The values.
    object: Pickle,
    /// The other pickles.
    others: Vec<Pickle>,
    storages: Storages,
    end: u64,
}

impl File {
    /// Parses the pickles behind the first, and finds the storages. A file that ends with the values has none.
    fn parse(source: &Arc<dyn Source>, first: &Pickle, end: u64) -> Result<Self> {
        let version = pickle::parse_small(source, first.end, end)?;
        let info = pickle::parse_small(source, version.end, end)?;
        let object = pickle::parse(source, info.end, end)?;
        let mut file = Self { source: Arc::clone(source), end: object.end, object, others: vec![version, info], storages: Storages::new() };
        if file.end < end {
            let keys = pickle::parse_small(source, file.end, end)?;
            (file.storages, file.end) = storages(source, &file.object, &keys, end)?;
            file.others.push(keys);
        }
        Ok(file)
    }

    fn resolve(&self, values: &Values, id: Id) -> Result<Kept> {
        let Value::Persistent(inner) = values.get(id) else {
            let error = Error::malformed(format!("expected a storage, found {}", values.show(id)));
            return Err(error.with_code(codes::PT_STORAGE));
        };
        // A class with its source, as whole modules were saved: ("module", class, file, source).
        if let Some([tag, class, ..]) = values.tuple(inner)
            && values.text(*tag) == Some("module")
        {
            return Ok(Kept::Value(*class));
        }
        let (class, key, len, rest) = persistent(values, id)?;
        let kind = match class {
            StorageClass::Typed(kind) => Some(kind),
            StorageClass::Bytes => None,
        };
        let width = kind.map_or(1, |kind| kind.width);
        let wrong = |message: String| Error::malformed(message).with_code(codes::PT_STORAGE);
        let key = values.text(key).map_or_else(|| values.show(key), str::to_owned);
        let found = self.storages.get(&key);
        let &(number, offset, bytes) =
            found.ok_or_else(|| wrong(format!("expected the storage {} in the file, found none", shorten(&key))))?;
        let wanted = num::mul(len, width, "the size of a storage")?;
        if bytes != wanted {
            return Err(wrong(format!("expected {wanted} bytes of storage {}, found {bytes}", shorten(&key))));
        }
        let mut place = Place { source: Arc::clone(&self.source), offset, len: bytes, in_file: true, shown: offset, big_endian: false };
        // A part of a storage: (key, offset, length) in elements.
        if let Some(&[_, from, count]) = rest.first().and_then(|view| values.tuple(*view)) {
            let number = |id: Id| values.int(id).and_then(|value| u64::try_from(value).ok());
            let part =
                number(from).zip(number(count)).and_then(|(from, count)| Some((from.checked_mul(width)?, count.checked_mul(width)?)));
            let inside = part.filter(|(from, count)| from.checked_add(*count).is_some_and(|end| end <= bytes));
            let (from, count) = inside.ok_or_else(|| wrong(format!("expected a part of storage {}, found one outside", shorten(&key))))?;
            (place.offset, place.shown, place.len) = (offset + from, offset + from, count);
        }
        let is_part = place.len < bytes;
        Ok(Kept::Storage(Storage { number, is_part, place, kind }))
    }
}

/// Returns the storages with their places, and where they end: each is its length in elements (8 bytes) and its bytes.
fn storages(source: &Arc<dyn Source>, object: &Pickle, keys: &Pickle, end: u64) -> Result<(Storages, u64)> {
    let mut widths: HashMap<String, u64> = HashMap::new();
    for (id, value) in object.values.all() {
        if let (Value::Persistent(_), Ok((class, key, _, _))) = (value, persistent(&object.values, id)) {
            let width = if let StorageClass::Typed(kind) = class { kind.width } else { 1 };
            let key = object.values.text(key).map_or_else(|| object.values.show(key), str::to_owned);
            widths.entry(key).or_insert(width);
        }
    }
    let list = keys
        .values
        .sequence(keys.root)
        .ok_or_else(|| Error::malformed("expected a list of storages, found another value").at(keys.start))?;
    let mut found = Storages::new();
    let mut at = keys.end;
    for key in list {
        let key = keys.values.text(*key).map_or_else(|| keys.values.show(*key), str::to_owned);
        let width =
            *widths.get(&key).ok_or_else(|| Error::malformed(format!("expected a use of storage {}, found none", shorten(&key))).at(at))?;
        let (len, data) = length(source, at, end)?;
        let bytes = num::mul(len, width, "the size of a storage").map_err(|error| error.at(at))?;
        found.insert(key, (found.len() as u32, data, bytes));
        // The end of the file may be missing: what is cut is told of the tensors.
        at = num::add(data, bytes, "the end of a storage").map_err(|error| error.at(at))?;
    }
    Ok((found, at))
}

/// Reads a length in front of a storage; returns it and where the storage starts.
pub(super) fn length(source: &Arc<dyn Source>, at: u64, end: u64) -> Result<(u64, u64)> {
    let data = num::add(at, 8, "the start of a storage")?;
    if data > end.min(source.len()) {
        return Err(Error::truncated("expected the length of a storage, found the end").at(at));
    }
    let bytes = source.read(at..data)?;
    let len = bytes.first_chunk().map_or(0, |bytes| i64::from_le_bytes(*bytes));
    let len = u64::try_from(len).map_err(|_| Error::malformed(format!("expected the length of a storage, found {len}")).at(at))?;
    Ok((len, data))
}

/// Resolves a storage that a pickle holds as a checkpoint in bytes: `torch.storage._load_from_bytes(...)`; `known` are those of before, by
/// their bytes.
fn nested(values: &Values, id: Id, known: &RefCell<HashMap<Id, Kept>>) -> Result<Kept> {
    let wrong = || Error::malformed(format!("expected a storage, found {}", values.show(id))).with_code(codes::PT_STORAGE);
    let object = values.object(id).ok_or_else(wrong)?;
    let is_nested = values.class(object).and_then(callables::meaning) == Some(Meaning::Nested);
    let bytes = *values.sequence(object.args).and_then(|args| args.first()).filter(|_| is_nested).ok_or_else(wrong)?;
    if let Some(kept) = known.borrow().get(&bytes) {
        return Ok(kept.clone());
    }
    let place = view::bytes(values, bytes)?;
    let end = place.offset + place.len;
    let first = pickle::parse_small(&place.source, place.offset, end)?;
    if !is_magic(&first)? {
        return Err(wrong());
    }
    let file = File::parse(&place.source, &first, end)?;
    let mut kept = file.resolve(&file.object.values, file.object.root)?;
    if let Kept::Storage(storage) = &mut kept {
        if storage.place.offset.checked_add(storage.place.len).is_none_or(|last| last > end) {
            return Err(wrong());
        }
        storage.number = bytes | 1 << 31;
        if !place.in_file {
            (storage.place.in_file, storage.place.shown) = (false, place.shown);
        }
    }
    known.borrow_mut().insert(bytes, kept.clone());
    Ok(kept)
}
