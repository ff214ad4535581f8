//! Tar archives of PyTorch from before 0.1.10: `storages`, `tensors` and `pickle`.
//!
//! Source: `legacy_load` in `torch/serialization.py`; the header of an entry by POSIX.1-1988.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::base::bytes::{Cursor, Endian};
use crate::base::finding::Findings;
use crate::base::text::shorten;
use crate::base::{Error, Result, limits, num};
use crate::format::codes;
use crate::format::pytorch::callables::{self, StorageClass};
use crate::format::pytorch::pickle::{self, Id, Pickle, Value, Values};
use crate::format::pytorch::scan::{self, Whence};
use crate::format::pytorch::tensors::{self, Kept};
use crate::format::pytorch::view::{Place, Storage};
use crate::format::pytorch::{legacy, part};
use crate::format::set::Part;
use crate::source::Source;

/// The unit of a tar archive, in bytes.
const BLOCK: u64 = 512;

/// The first entry of an archive of PyTorch.
const FIRST: &[u8] = b"sys_info\0";

/// Whether a file starts as a tar archive.
pub(super) fn is_tar(start: &[u8]) -> bool {
    start.get(257..262) == Some(b"ustar") || start.starts_with(FIRST)
}

/// Reads an archive.
///
/// # Errors
/// It is no checkpoint, or malformed, or as for [`tensors::collect`].
pub(super) fn read(source: &Arc<dyn Source>, findings: &mut Findings) -> Result<Part> {
    let path = source.path();
    let members = members(&**source).map_err(|error| findings.fatal(codes::PT_RECORD, error.in_file(path)))?;
    let member = |name: &str| members.get(name).cloned();
    let (Some(storages), Some(tensors), Some(object)) = (member("storages"), member("tensors"), member("pickle")) else {
        let error = Error::unsupported("a tar archive that is not a PyTorch checkpoint").hint("unpack it first");
        return Err(findings.fatal(codes::FILE_FOREIGN, error.in_file(path)));
    };
    let whence = Whence { path, entry: None, in_file: true };
    let malformed = |findings: &mut Findings, error: Error| findings.fatal(codes::PICKLE_MALFORMED, error.in_file(path));
    let parsed = pickle::parse(source, object.start, object.end);
    let pickle = parsed.map_err(|error| scan::damaged(error, source, object.clone(), &whence, findings))?;
    if findings.collects() {
        scan::report(&pickle, object.end, &whence, findings)?;
    }
    let mut kept = Tables::default();
    kept.read_storages(source, storages, findings).map_err(|error| malformed(findings, error))?;
    kept.read_tensors(source, tensors, findings).map_err(|error| malformed(findings, error))?;
    let contents = tensors::collect(&pickle.values, pickle.root, &|values, id| kept.resolve(values, id), findings)?;
    Ok(part::new(source, &pickle, "tar archive", contents))
}

/// Returns the regular files of an archive with their ranges.
fn members(source: &dyn Source) -> Result<HashMap<String, Range<u64>>> {
    let mut found = HashMap::new();
    let mut at = 0;
    for _ in 0..limits::ARCHIVE_ENTRIES {
        if at + BLOCK > source.len() {
            break;
        }
        let header = source.read(at..at + BLOCK)?.into_owned();
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        let text = |range: Range<usize>| {
            let bytes = header.get(range).unwrap_or_default();
            String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
        };
        let octal = |range: Range<usize>| u64::from_str_radix(text(range).trim(), 8).ok();
        let sum: u64 = header.iter().enumerate().map(|(i, byte)| if (148..156).contains(&i) { 32 } else { u64::from(*byte) }).sum();
        let (Some(size), Some(true)) = (octal(124..136), octal(148..156).map(|found| found == sum)) else {
            return Err(Error::malformed("expected the header of an entry of a tar archive, found other bytes").at(at));
        };
        let data = at + BLOCK;
        let end = num::add(data, size, "the end of an entry")?;
        if end > source.len() {
            return Err(Error::truncated(format!("expected {size} bytes of {}, found the end", shorten(&text(0..100)))).at(at));
        }
        if matches!(header.get(156), Some(b'0' | 0)) {
            found.insert(text(0..100), data..end);
        }
        at = num::align(end, BLOCK, "the next entry")?;
    }
    Ok(found)
}

/// The storages and tensors of an archive by their keys.
#[derive(Default)]
struct Tables {
    storages: HashMap<i64, Storage>,
    /// Storage, offset, shape and strides.
    tensors: HashMap<i64, (i64, u64, Vec<u64>, Vec<u64>)>,
}

/// Reads the next pickle of a member.
fn next(source: &Arc<dyn Source>, at: &mut u64, end: u64, findings: &mut Findings) -> Result<Pickle> {
    let (pickle, parsed) = pickle::parse_prefix(source, *at, end);
    if findings.collects() {
        scan::report_one(&pickle, &Whence { path: source.path(), entry: None, in_file: true }, findings)?;
    }
    parsed?;
    *at = pickle.end;
    Ok(pickle)
}

/// Reads the number of entries of a member.
fn count(source: &Arc<dyn Source>, at: &mut u64, end: u64, findings: &mut Findings) -> Result<u64> {
    let start = *at;
    let pickle = next(source, at, end, findings)?;
    let count =
        pickle.values.int(pickle.root).and_then(|count| u64::try_from(count).ok()).filter(|count| *count <= limits::ARCHIVE_ENTRIES);
    count.ok_or_else(|| {
        Error::malformed(format!("expected a number of at most {} entries, found another value", limits::ARCHIVE_ENTRIES)).at(start)
    })
}

impl Tables {
    fn read_storages(&mut self, source: &Arc<dyn Source>, member: Range<u64>, findings: &mut Findings) -> Result<()> {
        let (mut at, end) = (member.start, member.end);
        for number in 0..count(source, &mut at, end, findings)? {
            let start = at;
            let wrong = || Error::malformed("expected the key, location and class of a storage, found other values").at(start);
            let pickle = next(source, &mut at, end, findings)?;
            let &[key, _, class] = pickle.values.sequence(pickle.root).ok_or_else(wrong)? else { return Err(wrong()) };
            let key = pickle.values.int(key).ok_or_else(wrong)?;
            let Some(StorageClass::Typed(kind)) = pickle.values.global(class).and_then(callables::storage) else { return Err(wrong()) };
            let (len, data) = legacy::length(source, at, end)?;
            let bytes = num::mul(len, kind.width, "the size of a storage").map_err(|error| error.at(at))?;
            at = num::add(data, bytes, "the end of a storage").map_err(|error| error.at(at))?;
            if at > end {
                return Err(Error::truncated(format!("expected {bytes} bytes of a storage, found {}", end.saturating_sub(data))).at(data));
            }
            let place = Place { source: Arc::clone(source), offset: data, len: bytes, in_file: true, shown: data, big_endian: false };
            self.storages.insert(key, Storage { number: number as u32, is_part: false, place, kind: Some(kind) });
        }
        let start = at;
        let wrong = || Error::malformed("expected a list of parts of storages, found other values").at(start);
        let pickle = next(source, &mut at, end, findings)?;
        let mut parts = Vec::new();
        for part in pickle.values.sequence(pickle.root).ok_or_else(wrong)? {
            let numbers: Option<Vec<i64>> =
                pickle.values.sequence(*part).unwrap_or_default().iter().map(|id| pickle.values.int(*id)).collect();
            parts.push(numbers.filter(|numbers| numbers.len() == 4).ok_or_else(wrong)?);
        }
        for part in parts {
            let &[key, root, offset, len] = &part[..] else { continue };
            let mut storage = self.storages.get(&root).cloned().ok_or_else(wrong)?;
            let width = storage.kind.map_or(1, |kind| kind.width);
            let bytes = |number: i64| u64::try_from(number).ok().and_then(|number| number.checked_mul(width)).ok_or_else(wrong);
            let (offset, len) = (bytes(offset)?, bytes(len)?);
            if offset.checked_add(len).is_none_or(|end| end > storage.place.len) {
                return Err(wrong());
            }
            storage.is_part = true;
            (storage.place.offset, storage.place.shown, storage.place.len) =
                (storage.place.offset + offset, storage.place.shown + offset, len);
            self.storages.insert(key, storage);
        }
        Ok(())
    }

    fn read_tensors(&mut self, source: &Arc<dyn Source>, member: Range<u64>, findings: &mut Findings) -> Result<()> {
        let (mut at, end) = (member.start, member.end);
        for _ in 0..count(source, &mut at, end, findings)? {
            let start = at;
            let wrong = || Error::malformed("expected the key, storage and class of a tensor, found other values").at(start);
            let pickle = next(source, &mut at, end, findings)?;
            let &[key, storage, ..] = pickle.values.sequence(pickle.root).ok_or_else(wrong)? else { return Err(wrong()) };
            let (key, storage) = pickle.values.int(key).zip(pickle.values.int(storage)).ok_or_else(wrong)?;
            // The number of dimensions is that of 8 bytes.
            let head = source.read(at..end.min(at + 16 * limits::TENSOR_DIMS as u64 + 16))?.into_owned();
            let mut cursor = Cursor::new(&head, Endian::Little);
            let dims = cursor.u32("a number of dimensions")? as usize;
            cursor.u32("a number of dimensions")?;
            if dims > limits::TENSOR_DIMS {
                return Err(Error::limit(format!("expected at most {} dimensions, found {dims}", limits::TENSOR_DIMS)).at(at));
            }
            let shape = (0..dims).map(|_| cursor.u64("a size")).collect::<Result<Vec<u64>>>()?;
            let strides = (0..dims).map(|_| cursor.u64("a stride")).collect::<Result<Vec<u64>>>()?;
            let offset = cursor.u64("an offset")?;
            at += cursor.position();
            self.tensors.insert(key, (storage, offset, shape, strides));
        }
        Ok(())
    }

    fn resolve(&self, values: &Values, id: Id) -> Result<Kept> {
        let wrong = || Error::malformed(format!("expected a tensor or storage, found {}", values.show(id))).with_code(codes::PT_STORAGE);
        let Value::Persistent(inner) = values.get(id) else { return Err(wrong()) };
        // A class with its source: (class, file, source).
        if let Some([class, ..]) = values.tuple(inner) {
            return Ok(Kept::Value(*class));
        }
        let key = values.int(inner).or_else(|| values.text(inner)?.parse().ok()).ok_or_else(wrong)?;
        let storage = |key: &i64| self.storages.get(key).cloned().ok_or_else(wrong);
        match self.tensors.get(&key) {
            Some((of, offset, shape, strides)) => Ok(Kept::Tensor(storage(of)?, *offset, shape.clone(), strides.clone())),
            None => storage(&key).map(Kept::Storage),
        }
    }
}
