//! Zip archives: the central directory, checked against the local headers. Stored entries are ranges of the file; deflated ones are decoded
//! on access.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZFlush, MZStatus};
use rawzip::{CompressionMethod, ReaderAt, ZipLocator};

use crate::base::bytes::{Cursor, Endian};
use crate::base::finding::Findings;
use crate::base::text::shorten;
use crate::base::threads::{lock, par, prelude::*};
use crate::base::{Error, ErrorKind, Result, limits, num};
use crate::format::set::check_finding_limit;
use crate::format::{Checksum, codes};
use crate::source::{Data, Source, check_range};

/// The first bytes of a zip archive: the signature of a local header.
pub(crate) const MAGIC: &[u8] = b"PK\x03\x04";

/// The length of a local header without its name and extra fields, in bytes.
const LOCAL_HEADER: u64 = 30;

/// A guess of the length of a name and extra fields, so that one read is enough: PyTorch pads to a multiple of 64.
const AFTER_HEADER: u64 = 256;

/// An archive.
#[derive(Debug)]
pub(crate) struct Archive {
    /// The file.
    pub(crate) source: Arc<dyn Source>,
    /// Without folders, in the order of the central directory.
    pub(crate) entries: Vec<Entry>,
    /// Those whose name an entry before has.
    pub(crate) duplicates: Vec<Entry>,
    by_name: HashMap<String, usize>,
    /// The distance of kept states of the decompressor, in bytes of output.
    spacing: u64,
}

/// An entry of an archive.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// The range of its bytes in the file, deflated or not.
    pub(crate) range: Range<u64>,
    /// Its size when decoded.
    pub(crate) size: u64,
    pub(crate) crc: u32,
    pub(crate) method: Method,
}

/// Compression method of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Stored,
    Deflated,
    /// By another method, or encrypted.
    Unreadable(&'static str),
}

/// The bytes of an entry.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// A range of the file.
    File(Range<u64>),
    /// A source of its own.
    Decoded(Arc<dyn Source>),
}

impl Content {
    /// Returns the source and the range of the bytes; `file` is the source of the archive.
    pub(crate) fn place(&self, file: &Arc<dyn Source>) -> (Arc<dyn Source>, Range<u64>) {
        match self {
            Self::File(range) => (Arc::clone(file), range.clone()),
            Self::Decoded(decoded) => (Arc::clone(decoded), 0..decoded.len()),
        }
    }
}

impl Archive {
    /// Reads the directory of an archive.
    ///
    /// # Errors
    /// It is damaged, or too large.
    pub(crate) fn open(source: &Arc<dyn Source>, findings: &mut Findings) -> Result<Self> {
        let path = source.path();
        let (headers, directory) = directory(&**source).map_err(|error| findings.fatal(codes::ZIP_DIRECTORY, error.in_file(path)))?;
        let local = |header: &Header| local_header(&**source, header, directory);
        // From memory it takes a microsecond; from afar, as many at a time as there are threads.
        let here = Arc::clone(source).shared().is_some();
        let local: Vec<Result<Local>> = if here { headers.iter().map(local).collect() } else { par(&headers).map(local).collect() };
        let mut archive =
            Self { source: Arc::clone(source), entries: Vec::new(), duplicates: Vec::new(), by_name: HashMap::new(), spacing: 0 };
        for (header, local) in headers.into_iter().zip(local) {
            let local = local.map_err(|error| findings.fatal(codes::ZIP_DIRECTORY, error.in_file(path)))?;
            check_entry(&header, &local, path, findings)?;
            archive.add(header, &local, findings)?;
            check_finding_limit(findings, path)?;
        }
        archive.check_overlap(directory, findings)?;
        let deflated = archive.entries.iter().filter(|entry| entry.method == Method::Deflated);
        let total = deflated.fold(0u64, |sum, entry| sum.saturating_add(entry.size));
        archive.spacing = (total / limits::INFLATE_STATES).max(4 << 20);
        Ok(archive)
    }

    fn add(&mut self, header: Header, local: &Local, findings: &mut Findings) -> Result<()> {
        if header.name.ends_with('/') && header.size == 0 {
            return Ok(());
        }
        let Header { name, offset, size, crc, method, .. } = header;
        let entry = Entry { name, range: local.data.clone(), size, crc, method };
        if self.by_name.contains_key(&entry.name) {
            let error = Error::malformed(format!("the archive has {} twice: readers differ in which they read", shorten(&entry.name)));
            self.duplicates.push(entry);
            return findings.error(codes::ZIP_DUPLICATE, error.at(offset).in_file(self.source.path()));
        }
        self.by_name.insert(entry.name.clone(), self.entries.len());
        self.entries.push(entry);
        Ok(())
    }

    /// Whether no two entries share bytes: a bomb is made of such.
    fn check_overlap(&self, directory: u64, findings: &mut Findings) -> Result<()> {
        let mut order: Vec<&Entry> = self.entries.iter().chain(&self.duplicates).filter(|entry| !entry.range.is_empty()).collect();
        order.sort_by_key(|entry| entry.range.start);
        let nexts = order.iter().skip(1).map(|next| next.range.start).chain([directory]);
        for (entry, next) in order.iter().zip(nexts) {
            if entry.range.end > next {
                let message = format!("expected {} to end before byte {next}, where the next begins", shorten(&entry.name));
                findings.error(codes::ZIP_OVERLAP, Error::malformed(message).at(entry.range.start).in_file(self.source.path()))?;
                check_finding_limit(findings, self.source.path())?;
            }
        }
        Ok(())
    }

    /// Returns the entry with this name.
    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(*self.by_name.get(name)?)
    }

    /// Returns access to the bytes of an entry.
    ///
    /// # Errors
    /// They cannot be decoded.
    pub(crate) fn content(&self, entry: &Entry) -> Result<Content> {
        match entry.method {
            Method::Stored => Ok(Content::File(entry.range.clone())),
            Method::Deflated => Ok(Content::Decoded(Arc::new(Inflated {
                source: Arc::clone(&self.source),
                name: entry.name.clone(),
                range: entry.range.clone(),
                len: entry.size,
                spacing: self.spacing,
                states: Mutex::default(),
            }))),
            Method::Unreadable(how) => {
                let error = Error::unsupported(format!("{} is {how}", shorten(&entry.name)));
                Err(error.at(entry.range.start).in_file(self.source.path()).with_code(codes::ZIP_ENTRY))
            }
        }
    }

    /// Returns the checksum of an entry.
    ///
    /// # Errors
    /// It cannot be decoded.
    pub(crate) fn checksum(&self, entry: &Entry) -> Result<Checksum> {
        let decoded = match self.content(entry)? {
            Content::File(_) => None,
            Content::Decoded(decoded) => Some(decoded),
        };
        Ok(Checksum { shard: 0, name: entry.name.clone(), bytes: entry.range.clone(), crc: entry.crc, decoded })
    }

    /// Checks that the bytes of an entry match its checksum, for a finding.
    pub(crate) fn check_crc(&self, entry: &Entry, findings: &mut Findings) {
        let found = self.content(entry).and_then(|content| {
            let (source, bytes) = content.place(&self.source);
            crc32(&*source, bytes)
        });
        let error = match found {
            Ok(found) if found == entry.crc => return,
            Ok(found) => wrong_crc(&entry.name, entry.crc, found),
            Err(error) => error,
        };
        findings.note_error(codes::ZIP_CRC, &error.at(entry.range.start).in_file(self.source.path()));
    }

    /// Reads a small entry whole; `None` if there is none, or it is longer than `most` bytes.
    ///
    /// # Errors
    /// It cannot be decoded.
    pub(crate) fn small(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let Some(entry) = self.entry(name).filter(|entry| entry.size <= most) else { return Ok(None) };
        let (source, bytes) = self.content(entry)?.place(&self.source);
        source.read(bytes).map(|bytes| Some(bytes.into_owned()))
    }
}

/// Returns the CRC-32 of a range of a file.
///
/// # Errors
/// It cannot be read.
pub(crate) fn crc32(source: &dyn Source, bytes: Range<u64>) -> Result<u32> {
    let mut crc = rawzip::Crc32::new();
    let mut at = bytes.start;
    while at < bytes.end {
        let end = at.saturating_add(limits::CHUNK_BYTES as u64).min(bytes.end);
        crc.update(&source.read(at..end)?);
        at = end;
    }
    Ok(crc.checksum())
}

/// An entry according to the central directory.
struct Header {
    name: String,
    /// Of the local header.
    offset: u64,
    compressed: u64,
    size: u64,
    crc: u32,
    method: Method,
    flags: u16,
    raw_method: u16,
}

/// An entry according to its local header.
struct Local {
    data: Range<u64>,
    name: Vec<u8>,
    flags: u16,
    method: u16,
    crc: u32,
    compressed: u32,
    size: u32,
}

/// Returns the error of an entry whose bytes do not match its checksum.
pub(crate) fn wrong_crc(name: &str, wanted: u32, found: u32) -> Error {
    Error::malformed(format!("expected a CRC-32 of {wanted:08x} of {}, found {found:08x}", shorten(name)))
}

/// The names of flags in a local header.
const ENCRYPTED: u16 = 1;
const DESCRIPTOR: u16 = 1 << 3;

/// Reads the central directory; also returns where it starts.
fn directory(source: &dyn Source) -> Result<(Vec<Header>, u64)> {
    let broken = |error: rawzip::Error| {
        // The directory is at the end.
        let cut = matches!(error.kind(), rawzip::ErrorKind::MissingEndOfCentralDirectory | rawzip::ErrorKind::Eof);
        let kind = if cut { ErrorKind::Truncated } else { ErrorKind::Malformed };
        let message = format!("expected the directory of a zip archive, found: {error}");
        Error::new(kind, message).hint("was the download complete?").caused_by(error)
    };
    let reader = Window { source, read: Mutex::default() };
    let mut buffer = vec![0; rawzip::RECOMMENDED_BUFFER_SIZE];
    let archive = ZipLocator::new().locate_in_reader(&reader, &mut buffer, source.len()).map_err(|(_, error)| broken(error))?;
    let start = archive.directory_offset();
    let bytes = archive.eocd_offset().saturating_sub(start);
    if bytes > limits::ARCHIVE_DIRECTORY_BYTES || archive.entries_hint() > limits::ARCHIVE_ENTRIES {
        let message = format!(
            "expected at most {} entries in {} bytes of directory, found {} in {bytes}",
            limits::ARCHIVE_ENTRIES,
            limits::ARCHIVE_DIRECTORY_BYTES,
            archive.entries_hint()
        );
        return Err(Error::limit(message).at(start));
    }
    let mut headers = Vec::new();
    let mut entries = archive.entries(&mut buffer);
    while let Some(entry) = entries.next_entry().map_err(broken)? {
        let offset = entry.local_header_offset();
        let flags = entry.flags();
        let raw_method = entry.compression_method();
        let method = match raw_method {
            _ if flags.is_encrypted() || flags.has_strong_encryption() || flags.is_masked() => Method::Unreadable("encrypted"),
            CompressionMethod::STORE => Method::Stored,
            CompressionMethod::DEFLATE => Method::Deflated,
            _ => Method::Unreadable("compressed by a method that is not supported"),
        };
        let (compressed, size) = (entry.compressed_size_hint(), entry.uncompressed_size_hint());
        let name = String::from_utf8_lossy(entry.file_path().as_bytes()).into_owned();
        if method == Method::Stored && compressed != size {
            let message = format!("expected {size} bytes of {}, found {compressed}", shorten(&name));
            return Err(Error::malformed(message).at(offset));
        }
        // At most 1032 to 1, by the format of deflate.
        if method == Method::Deflated && size > compressed.saturating_add(1).saturating_mul(1032) {
            let message = format!("expected {} to decode to what {compressed} bytes can hold, found {size}", shorten(&name));
            return Err(Error::malformed(message).at(offset));
        }
        let (crc, raw_method) = (entry.crc32(), raw_method.as_u16());
        headers.push(Header { name, offset, compressed, size, crc, method, flags: flags.bits(), raw_method });
    }
    if headers.len() as u64 != archive.entries_hint() {
        let message = format!("expected {} entries in the directory, found {}", archive.entries_hint(), headers.len());
        return Err(Error::malformed(message).at(start));
    }
    Ok((headers, start))
}

/// Reads the local header of an entry.
fn local_header(source: &dyn Source, header: &Header, directory: u64) -> Result<Local> {
    let most = directory.min(source.len());
    let at = |error: Error| error.at(header.offset);
    let end = num::add(header.offset, LOCAL_HEADER, "the end of a header")?;
    if end > most {
        let message = format!("expected the header of {} before byte {most}, found it at {}", shorten(&header.name), header.offset);
        return Err(at(Error::malformed(message)));
    }
    let mut bytes = source.read(header.offset..(end + AFTER_HEADER).min(most))?.into_owned();
    let mut cursor = Cursor::new(&bytes, Endian::Little);
    let magic = cursor.take(4, "a header's signature")?;
    if magic != MAGIC {
        return Err(at(Error::malformed(format!("expected the header of {}, found other bytes", shorten(&header.name)))));
    }
    cursor.take(2, "a version")?;
    let (flags, method) = (cursor.u16("flags")?, cursor.u16("a method")?);
    cursor.take(4, "a time")?;
    let (crc, compressed, size) = (cursor.u32("a checksum")?, cursor.u32("a size")?, cursor.u32("a size")?);
    let (name_len, extra) = (u64::from(cursor.u16("a length")?), u64::from(cursor.u16("a length")?));
    let name_end = end + name_len;
    let start = name_end + extra;
    let data = start..num::add(start, header.compressed, "the end of an entry")?;
    if data.end > most {
        let message =
            format!("expected {} bytes of {} before byte {most}, found them at {start}", header.compressed, shorten(&header.name));
        return Err(at(Error::truncated(message)));
    }
    if name_end - header.offset > bytes.len() as u64 {
        bytes = source.read(header.offset..name_end)?.into_owned();
    }
    let name = bytes.get(LOCAL_HEADER as usize..(name_end - header.offset) as usize).unwrap_or_default().to_vec();
    Ok(Local { data, name, flags, method, crc, compressed, size })
}

/// Checks an entry: its name stays inside the folder, and both headers say the same.
fn check_entry(header: &Header, local: &Local, path: &Path, findings: &mut Findings) -> Result<()> {
    let mut differs = |what: &str| {
        let message = format!("expected the same {what} of {} in both headers, found two", shorten(&header.name));
        findings.note_error(codes::ZIP_HEADER, &Error::malformed(message).at(header.offset).in_file(path));
    };
    if String::from_utf8_lossy(&local.name) != header.name {
        differs("name");
    }
    if local.method != header.raw_method {
        differs("compression");
    }
    if (local.flags ^ header.flags) & ENCRYPTED != 0 {
        differs("encryption");
    }
    let narrow = |wide: u64| u32::try_from(wide).unwrap_or(u32::MAX);
    let sizes = [(local.compressed, header.compressed), (local.size, header.size)];
    // Sizes of zip64 are in extra fields; with a descriptor they follow the data.
    let described = local.flags & DESCRIPTOR != 0;
    if !described && sizes.iter().any(|(found, wanted)| *found != u32::MAX && *found != narrow(*wanted)) {
        differs("size");
    }
    if !described && local.crc != header.crc {
        differs("checksum");
    }
    let name = &header.name;
    let leaves = name.starts_with('/') || name.contains('\0') || name.split(['/', '\\']).any(|part| part == "..") || name.contains(":\\");
    if leaves {
        let message = format!("expected a name inside the archive's folder, found {}", shorten(name));
        findings.note_error(codes::ZIP_PATH, &Error::malformed(message).at(header.offset).in_file(path));
    }
    Ok(())
}

/// A source that is read in steps of a useful size.
struct Window<'s> {
    source: &'s dyn Source,
    read: Mutex<(u64, Vec<u8>)>,
}

impl ReaderAt for Window<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read = lock(&self.read);
        let end = offset.saturating_add(buffer.len() as u64).min(self.source.len());
        let have = read.0..read.0 + read.1.len() as u64;
        if offset < have.start || end > have.end {
            // Most reads are at the end of the file, where the directory is.
            let step = self.source.least_read();
            let from = if end == self.source.len() { offset.min(end.saturating_sub(step)) } else { offset };
            let to = end.max(from.saturating_add(step)).min(self.source.len());
            if from >= to {
                return Ok(0);
            }
            *read = (from, self.source.read(from..to).map_err(io::Error::other)?.into_owned());
        }
        let bytes = read.1.get((offset - read.0) as usize..).unwrap_or_default();
        let len = bytes.len().min(buffer.len());
        buffer.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Ok(len)
    }
}

/// A deflated entry as a source: ranges are decoded from the last kept state of the decompressor before them.
#[derive(Debug)]
struct Inflated {
    source: Arc<dyn Source>,
    name: String,
    range: Range<u64>,
    len: u64,
    spacing: u64,
    /// States after whole multiples of the spacing, in order.
    states: Mutex<Vec<State>>,
}

/// The decompressor after some bytes.
#[derive(Clone)]
struct State {
    inflate: Box<InflateState>,
    input: u64,
    output: u64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("input", &self.input).field("output", &self.output).finish()
    }
}

/// Bytes read and decoded at a time.
const STEP: usize = 1 << 16;

impl Inflated {
    fn state_before(&self, start: u64) -> State {
        let states = lock(&self.states);
        let after = states.partition_point(|state| state.output <= start);
        match after.checked_sub(1).and_then(|last| states.get(last)) {
            Some(state) => state.clone(),
            None => State { inflate: InflateState::new_boxed(DataFormat::Raw), input: 0, output: 0 },
        }
    }

    /// Keeps a state if it is far enough behind the last.
    fn keep(&self, state: &State) {
        let mut states = lock(&self.states);
        if state.output >= states.last().map_or(0, |last| last.output).saturating_add(self.spacing) {
            states.push(state.clone());
        }
    }

    fn broken(&self, state: &State, what: String) -> Error {
        Error::malformed(format!("expected deflated bytes of {}, found {what}", shorten(&self.name)))
            .at(self.range.start + state.input)
            .in_file(self.source.path())
    }

    /// Decodes up to `buffer.len()` bytes; fewer only if the input is used up.
    fn decode(&self, state: &mut State, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let at = self.range.start + state.input;
            let end = at.saturating_add(STEP as u64).min(self.range.end);
            let input = self.source.read(at..end)?;
            let result = inflate(&mut state.inflate, &input, buffer.get_mut(done..).unwrap_or_default(), MZFlush::None);
            state.input += result.bytes_consumed as u64;
            state.output += result.bytes_written as u64;
            done += result.bytes_written;
            match result.status {
                Ok(MZStatus::Ok) if result.bytes_written > 0 || result.bytes_consumed > 0 => {}
                Ok(MZStatus::StreamEnd) if done == buffer.len() => {}
                Ok(_) => return Err(self.broken(state, format!("their end after {} of {} bytes", state.output, self.len))),
                Err(_) => return Err(self.broken(state, "others".to_owned())),
            }
        }
        Ok(())
    }
}

impl Source for Inflated {
    fn path(&self) -> &Path {
        self.source.path()
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, range: Range<u64>) -> Result<Data<'_>> {
        check_range(&range, self.len, self.path())?;
        let len = num::to_usize(range.end - range.start, "a range of an entry")?;
        let mut state = self.state_before(range.start);
        let mut skipped = vec![0; STEP];
        while state.output < range.start {
            let step = skipped.len().min((range.start - state.output) as usize);
            self.decode(&mut state, &mut skipped[..step])?;
            self.keep(&state);
        }
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let from = bytes.len();
            let to = len.min(from + STEP);
            // In steps, so that no more is allocated than there is.
            bytes.try_reserve(to - from).map_err(|_| Error::limit(format!("expected memory for {len} bytes")).in_file(self.path()))?;
            bytes.resize(to, 0);
            self.decode(&mut state, &mut bytes[from..])?;
            self.keep(&state);
        }
        Ok(Data::Owned(bytes))
    }

    fn check_unchanged(&self) -> Result<()> {
        self.source.check_unchanged()
    }
}
