//! Zip archives of PyTorch since 1.6: `data.pkl`, and a file for each storage in `data/`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::base::finding::{Findings, Severity};
use crate::base::text::shorten;
use crate::base::{Error, Result, num};
use crate::format::codes;
use crate::format::pytorch::callables::StorageClass;
use crate::format::pytorch::part;
use crate::format::pytorch::pickle::{self, Id, Pickle, Values};
use crate::format::pytorch::scan::{self, Whence};
use crate::format::pytorch::tensors::{self, Kept};
use crate::format::pytorch::view::{Place, Storage, persistent};
use crate::format::set::Part;
use crate::format::zip::{Archive, Content, Entry, Method};
use crate::source::Source;

/// The entry with the values.
const PICKLE: &str = "data.pkl";

/// Reads an archive.
///
/// # Errors
/// Its directory is damaged; it has no pickle, or one that cannot be parsed; or as for [`tensors::collect`].
pub(super) fn read(source: &Arc<dyn Source>, findings: &mut Findings) -> Result<Part> {
    let path = source.path();
    let archive = Archive::open(source, findings)?;
    if let Some(encrypted) = archive.entries.iter().find(|entry| entry.method == Method::Unreadable("encrypted")) {
        let message = format!("expected an archive without encryption, found {} encrypted", shorten(&encrypted.name));
        return Err(findings.fatal(codes::ZIP_ENTRY, Error::unsupported(message).at(encrypted.range.start).in_file(path)));
    }
    let root = root(&archive).map_err(|error| findings.fatal(codes::PT_RECORD, error.in_file(path)))?;
    let name = format!("{root}{PICKLE}");
    let entry = archive.entry(&name).ok_or_else(|| Error::malformed("expected a data.pkl in the archive, found none").in_file(path))?;
    let content = archive.content(entry).map_err(|error| findings.fatal(codes::ZIP_ENTRY, error))?;
    let whence = Whence { path, entry: Some(&name), in_file: matches!(content, Content::File(_)) };
    let (pickle, end) = parse(source, &content, &whence).map_err(|error| findings.fatal(codes::PICKLE_MALFORMED, error))?;
    let storages = Storages::new(&archive, &root)?;
    let contents = tensors::collect(&pickle.values, pickle.root, &|values, id| storages.resolve(values, id), findings)?;
    let code = archive.entries.iter().find(|entry| entry.name.starts_with(&format!("{root}code/")));
    if findings.collects() {
        scan::report(&pickle, end, &whence, findings)?;
        if let Some(code) = code {
            let message = format!("expected no program code, found {}: this is a TorchScript module", shorten(&code.name));
            findings.note_error(codes::PT_CODE, &Error::malformed(message).at(code.range.start).in_file(path));
        }
        let storages = format!("{root}data/");
        for entry in archive.entries.iter().filter(|entry| !entry.name.starts_with(&storages)) {
            archive.check_crc(entry, findings);
        }
        others(&archive, &root, &name, findings)?;
    }
    let mut part = part::new(source, &pickle, "zip archive", contents);
    if let (Some(checkpoint), Some(_)) = (&mut part.checkpoint, code) {
        checkpoint.kind = "TorchScript module".to_owned();
    }
    part.checksums = archive
        .entries
        .iter()
        .filter(|entry| entry.method == Method::Stored && entry.name.starts_with(&format!("{root}data/")))
        .map(Entry::checksum)
        .collect();
    Ok(part)
}

/// Returns the values of an archive.
///
/// # Errors
/// As for [`read`].
pub(super) fn values(source: &Arc<dyn Source>) -> Result<Pickle> {
    let archive = Archive::open(source, &mut Findings::stop_at_first())?;
    let name = format!("{}{PICKLE}", root(&archive)?);
    let entry = archive.entry(&name).ok_or_else(|| Error::malformed("expected a data.pkl in the archive, found none"))?;
    let content = archive.content(entry)?;
    let whence = Whence { path: source.path(), entry: Some(&name), in_file: matches!(content, Content::File(_)) };
    parse(source, &content, &whence).map(|(pickle, _)| pickle)
}

/// Parses the pickle of an entry; also returns where the entry ends.
fn parse(source: &Arc<dyn Source>, content: &Content, whence: &Whence<'_>) -> Result<(Pickle, u64)> {
    let parsed = match content {
        Content::File(range) => pickle::parse(source, range.start, range.end).map(|pickle| (pickle, range.end)),
        Content::Decoded(decoded) => pickle::parse(decoded, 0, decoded.len()).map(|pickle| (pickle, decoded.len())),
    };
    parsed.map_err(|error| if whence.in_file { error } else { error.context(&shorten(whence.entry.unwrap_or_default())) })
}

/// Returns the folder of the archive, with its slash: that of the pickle.
fn root(archive: &Archive) -> Result<String> {
    let pickles = archive.entries.iter().filter_map(|entry| entry.name.strip_suffix(PICKLE));
    let roots: Vec<&str> = pickles.filter(|root| root.is_empty() || root.ends_with('/')).collect();
    // PyTorch takes the folder of the first entry.
    let first = archive.entries.first().and_then(|entry| entry.name.split_once('/')).map_or("", |(folder, _)| folder);
    let of_first = roots.iter().find(|root| root.trim_end_matches('/') == first);
    match of_first.or(roots.iter().min_by_key(|root| root.len())) {
        Some(root) => Ok((*root).to_owned()),
        None => {
            let error = Error::unsupported("expected a data.pkl in the archive, found none: this is no checkpoint of PyTorch");
            Err(error.hint("unpack the archive if it holds a model"))
        }
    }
}

/// The storages of an archive.
struct Storages<'a> {
    archive: &'a Archive,
    root: &'a str,
    big_endian: bool,
    /// Decoded entries, and numbers of storages, by name.
    known: RefCell<HashMap<String, (u32, Content)>>,
}

impl<'a> Storages<'a> {
    fn new(archive: &'a Archive, root: &'a str) -> Result<Self> {
        let order = archive.small(&format!("{root}byteorder"), 16)?;
        Ok(Self { archive, root, big_endian: order.is_some_and(|order| order == b"big"), known: RefCell::default() })
    }

    fn resolve(&self, values: &Values, id: Id) -> Result<Kept> {
        let (class, key, len, _) = persistent(values, id)?;
        let wrong = |message: String| Error::malformed(message).with_code(codes::PT_STORAGE);
        let key = values.text(key).map_or_else(|| values.show(key), str::to_owned);
        let name = format!("{}data/{key}", self.root);
        let entry = self.archive.entry(&name);
        let entry = entry.ok_or_else(|| wrong(format!("expected the storage {} in the archive, found none", shorten(&key))))?;
        let kind = match class {
            StorageClass::Typed(kind) => Some(kind),
            StorageClass::Bytes => None,
        };
        let bytes = num::mul(len, kind.map_or(1, |kind| kind.width), "the size of a storage")?;
        if entry.size != bytes {
            return Err(wrong(format!("expected {bytes} bytes of storage {}, found {}", shorten(&key), entry.size)));
        }
        let (number, content) = self.content(&name, entry)?;
        let shown = entry.range.start;
        let (source, offset, in_file) = match content {
            Content::File(range) => (Arc::clone(&self.archive.source), range.start, true),
            Content::Decoded(source) => (source, 0, false),
        };
        let place = Place { source, offset, len: bytes, in_file, shown, big_endian: self.big_endian };
        Ok(Kept::Storage(Storage { number, place, kind }))
    }

    fn content(&self, name: &str, entry: &Entry) -> Result<(u32, Content)> {
        let mut known = self.known.borrow_mut();
        if let Some(found) = known.get(name) {
            return Ok(found.clone());
        }
        let found = (known.len() as u32, self.archive.content(entry)?);
        known.insert(name.to_owned(), found.clone());
        Ok(found)
    }
}

/// Looks for pickles in the entries that are neither the pickle nor storages.
fn others(archive: &Archive, root: &str, pickle: &str, findings: &mut Findings) -> Result<()> {
    const MOST: u64 = 16 << 20;
    let storages = format!("{root}data/");
    for entry in archive.entries.iter().filter(|entry| entry.name != pickle && !entry.name.starts_with(&storages) && entry.size <= MOST) {
        let Ok(content) = archive.content(entry) else { continue };
        let whence = Whence { path: archive.source.path(), entry: Some(&entry.name), in_file: matches!(content, Content::File(_)) };
        let start = match &content {
            Content::File(range) => archive.source.read(range.start..range.end.min(range.start + 2))?,
            Content::Decoded(source) => source.read(0..source.len().min(2))?,
        }
        .into_owned();
        let by_name = entry.name.ends_with(".pkl");
        if !by_name && !scan::may_be_pickle(&start) {
            continue;
        }
        match parse(&archive.source, &content, &whence) {
            Ok((pickle, end)) => {
                if !by_name && !pickle.values.globals.is_empty() {
                    let message = format!("expected the pickle in data.pkl alone, found another in {}", shorten(&entry.name));
                    let error = whence.locate(Error::malformed(message), pickle.start);
                    findings.remark(Severity::Warning, codes::PICKLE_NESTED, error);
                }
                if by_name || !pickle.values.globals.is_empty() {
                    scan::report(&pickle, end, &whence, findings)?;
                }
            }
            Err(error) if by_name => findings.remark(Severity::Warning, codes::PICKLE_NESTED, error.in_file(whence.path)),
            Err(_) => {}
        }
    }
    Ok(())
}
