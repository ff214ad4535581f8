//! Zip archives of PyTorch since 1.6: `data.pkl`, and a file for each storage in `data/`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
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
use crate::format::set::{Part, check_finding_limit};
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
    let root = root(&archive);
    let name = root.as_ref().map(|root| format!("{root}{PICKLE}"));
    if findings.collects() {
        scan_others(&archive, name.as_deref().ok(), findings)?;
    }
    if let Some(encrypted) = archive.entries.iter().find(|entry| entry.method == Method::Unreadable("encrypted")) {
        let message = format!("expected an archive without encryption, found {} encrypted", shorten(&encrypted.name));
        return Err(findings.fatal(codes::ZIP_ENTRY, Error::unsupported(message).at(encrypted.range.start).in_file(path)));
    }
    let root = root.map_err(|error| findings.fatal(codes::PT_RECORD, error.in_file(path)))?;
    let name = format!("{root}{PICKLE}");
    let entry = archive.entry(&name).ok_or_else(|| Error::malformed("expected a data.pkl in the archive, found none").in_file(path))?;
    let content = archive.content(entry).map_err(|error| findings.fatal(codes::ZIP_ENTRY, error))?;
    let whence = Whence { path, entry: Some(&name), in_file: matches!(content, Content::File(_)) };
    let (from, bytes) = content.place(source);
    let parsed = parse(&from, &bytes, &whence);
    let pickle = parsed.map_err(|error| scan::damaged(error, &from, bytes.clone(), &whence, findings))?;
    let code = archive.entries.iter().find(|entry| entry.name.starts_with(&format!("{root}code/")));
    if findings.collects() {
        scan::report(&pickle, bytes.end, &whence, findings)?;
        if let Some(code) = code {
            let message = format!("expected no program code, found {}: this is a TorchScript module", shorten(&code.name));
            findings.note_error(codes::PT_CODE, &Error::malformed(message).at(code.range.start).in_file(path));
        }
        let storages = format!("{root}data/");
        for entry in archive.entries.iter().filter(|entry| !entry.name.starts_with(&storages)) {
            archive.check_crc(entry, findings);
        }
    }
    let storages = Storages::new(&archive, &root).map_err(|error| findings.fatal(codes::PT_RECORD, error.in_file(path)))?;
    let contents = tensors::collect(&pickle.values, pickle.root, &|values, id| storages.resolve(values, id), findings)?;
    let mut part = part::new(source, &pickle, "zip archive", contents);
    if let (Some(checkpoint), Some(_)) = (&mut part.checkpoint, code) {
        checkpoint.kind = "TorchScript module".to_owned();
    }
    let stored = archive.entries.iter().filter(|entry| entry.name.starts_with(&format!("{root}data/")));
    part.checksums = stored.map(|entry| archive.checksum(entry)).collect::<Result<_>>()?;
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
    let (from, bytes) = content.place(source);
    parse(&from, &bytes, &whence)
}

/// Parses the pickle of an entry.
fn parse(from: &Arc<dyn Source>, bytes: &Range<u64>, whence: &Whence<'_>) -> Result<Pickle> {
    pickle::parse(from, bytes.start, bytes.end)
        .map_err(|error| if whence.in_file { error } else { error.context(&shorten(whence.entry.unwrap_or_default())) })
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
            let error = Error::unsupported("not a PyTorch checkpoint: the archive has no data.pkl");
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
        let name = format!("{root}byteorder");
        let big_endian = match (archive.entry(&name), archive.small(&name, 16)?.as_deref()) {
            // Before PyTorch 2.1 there is none.
            (None, _) | (_, Some(b"little")) => false,
            (_, Some(b"big")) => true,
            (Some(entry), _) => {
                let message = format!("expected \"little\" or \"big\" in {}, found other bytes", shorten(&name));
                return Err(Error::malformed(message).at(entry.range.start));
            }
        };
        Ok(Self { archive, root, big_endian, known: RefCell::default() })
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
        Ok(Kept::Storage(Storage { number, is_part: false, place, kind }))
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

/// Reports what the pickles in all entries but `main` would run, whatever their names: `data.pkl` of other folders, entries that no reader of
/// PyTorch asks for, storages, and entries whose name is present twice.
///
/// # Errors
/// There are too many findings, or the file cannot be read.
fn scan_others(archive: &Archive, main: Option<&str>, findings: &mut Findings) -> Result<()> {
    let others = archive.entries.iter().filter(|entry| main != Some(entry.name.as_str()));
    for entry in others.chain(&archive.duplicates) {
        let Ok(content) = archive.content(entry) else { continue };
        let whence = Whence { path: archive.source.path(), entry: Some(&entry.name), in_file: matches!(content, Content::File(_)) };
        let (from, bytes) = content.place(&archive.source);
        let by_name = entry.name.ends_with(".pkl");
        match scan::guess(&from, bytes.start, bytes.end) {
            Ok(Some((pickle, _))) if by_name || !pickle.values.globals.is_empty() => {
                if !by_name || entry.name.ends_with(PICKLE) {
                    let message = format!("expected the pickle in data.pkl alone, found another in {}", shorten(&entry.name));
                    let error = whence.locate(Error::malformed(message), pickle.start);
                    findings.remark(Severity::Warning, codes::PICKLE_NESTED, error);
                }
                scan::report(&pickle, bytes.end, &whence, findings)?;
            }
            Ok(None) if by_name => {
                let message = format!("expected a pickle in {}, found other bytes", shorten(&entry.name));
                findings.remark(Severity::Warning, codes::PICKLE_NESTED, whence.locate(Error::malformed(message), bytes.start));
            }
            Ok(_) => {}
            // Deflated bytes that are damaged: the checksum tells.
            Err(_) if !whence.in_file => {}
            Err(error) => return Err(error),
        }
        check_finding_limit(findings, archive.source.path())?;
    }
    Ok(())
}
