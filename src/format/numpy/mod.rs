//! NumPy arrays: `.npy`, one array; `.npz`, a zip archive of them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::bytes::Endian;
use crate::base::finding::{Findings, Severity};
use crate::base::{Error, Result, num};
use crate::format::pytorch::scan::{self, Whence};
use crate::format::set::{ConflictRule, Part, join};
use crate::format::strided::{self, Kind, Strided};
use crate::format::zip::{self, Archive, Content};
use crate::format::{Computed, Format, Reader, codes};
use crate::model::{Class, DType, FormatId, Metadata, TensorInfo};
use crate::source::{Prefix, Source};

mod dtype;
mod header;

pub(crate) use dtype::parse as dtype;

use header::Header;

/// The format's row in [`crate::format::FORMATS`].
pub(crate) const FORMAT: Format = Format {
    id: FormatId::NumPy,
    extensions: &["npy", "npz"],
    probe,
    open,
    layout: None,
    edit: None,
    stores: |dtype| {
        matches!(dtype, DType::F16 | DType::F32 | DType::F64 | DType::C64 | DType::BOOL)
            || (dtype.info().class == Class::Integer && dtype.info().block_elems == 1)
    },
};

/// The ending of an array's name in an archive.
const ENDING: &str = ".npy";

/// The name of the array of an `.npy` file.
const ALONE: &str = "array";

/// Recognises an array, or an archive whose first entry is one.
fn probe(start: &[u8], _: u64) -> u8 {
    let first = start.get(26..28).and_then(|len| start.get(30..30 + usize::from(u16::from_le_bytes([*len.first()?, *len.last()?]))));
    match start {
        _ if start.starts_with(header::MAGIC) => 95,
        _ if start.starts_with(zip::MAGIC) && first.is_some_and(|name| name.ends_with(ENDING.as_bytes())) => 95,
        _ => 0,
    }
}

const CONFLICT: ConflictRule = ConflictRule { code: codes::SET_METADATA, severity: Severity::Note, except: |_| false };

fn open(file: Prefix, findings: &mut Findings) -> Result<Reader> {
    let path = file.path().to_path_buf();
    let source = file.into_source();
    let mut checksums = Ok(Vec::new());
    let mut arrays = Arrays { source: Arc::clone(&source), tensors: Vec::new(), computed: HashMap::new() };
    if *source.read(0..source.len().min(zip::MAGIC.len() as u64))? == *zip::MAGIC {
        let archive = Archive::open(&source, findings)?;
        checksums = archive.entries.iter().map(|entry| archive.checksum(entry)).collect::<Result<_>>();
        for entry in &archive.entries {
            let name = entry.name.strip_suffix(ENDING).unwrap_or(&entry.name);
            let content = archive.content(entry).map_err(|error| findings.fatal(codes::ZIP_ENTRY, error))?;
            match content {
                Content::File(range) => arrays.add(name, &source, range.start, range.end, None, findings)?,
                Content::Decoded(decoded) => arrays.add(name, &decoded, 0, decoded.len(), Some(entry.range.start), findings)?,
            }
        }
    } else {
        arrays.add(ALONE, &source, 0, source.len(), None, findings)?;
    }
    arrays.tensors.sort_by_key(|tensor| tensor.offset_bytes);
    let mut part = Part::new(source, arrays.tensors, Metadata::new(), Endian::Little);
    (part.computed, part.checksums) = (arrays.computed, checksums?);
    part.check_truncated(codes::NPY_SIZE, findings)?;
    join(FORMAT.id, &path, vec![part], CONFLICT, findings)
}

struct Arrays {
    source: Arc<dyn Source>,
    tensors: Vec<TensorInfo>,
    computed: HashMap<String, Arc<dyn Computed>>,
}

impl Arrays {
    /// Adds the array at byte `start` of a source, which ends at byte `end`; `shown` is the offset in the file, if the source is not the file.
    fn add(&mut self, name: &str, from: &Arc<dyn Source>, start: u64, end: u64, shown: Option<u64>, findings: &mut Findings) -> Result<()> {
        let path = self.source.path().to_path_buf();
        let located = |error: Error| {
            let error = error.in_tensor(name).in_file(&path);
            shown.into_iter().fold(error, Error::at)
        };
        let header = match header::read(&**from, start, end) {
            Ok(header) => header,
            Err(error) => return findings.error(codes::NPY_HEADER, located(error)),
        };
        let Header { descr, fortran, shape, data } = header;
        let Some((kind, big)) = dtype(&descr) else {
            let message = format!("expected an array of numbers, found one of {descr}: its values are not read");
            findings.remark(Severity::Warning, codes::NPY_DTYPE, located(Error::unsupported(message)));
            // The objects of an array are a pickle.
            if descr.ends_with('O') && findings.collects() {
                let whence = Whence { path: &path, entry: Some(name), in_file: shown.is_none() };
                scan::report_part(from, data..end, &whence, findings)?;
            }
            return Ok(());
        };
        match self.place(from, &shape, kind, big, fortran, data, end, shown.is_none()) {
            Ok((len, computed)) => {
                let offset_bytes = shown.unwrap_or(data);
                let info = TensorInfo { name: name.to_owned(), elem: kind.elem, shape, shard: 0, offset_bytes, len_bytes: Some(len) };
                self.tensors.push(info);
                self.computed.extend(computed.map(|computed| (name.to_owned(), computed)));
                Ok(())
            }
            Err(error) => findings.error(codes::NPY_SIZE, located(error)),
        }
    }

    /// Returns the size of an array, and how its bytes are computed if they are not a range of the file.
    #[allow(clippy::too_many_arguments)]
    fn place(
        &self,
        from: &Arc<dyn Source>,
        shape: &[u64],
        kind: Kind,
        big: bool,
        fortran_order: bool,
        data: u64,
        end: u64,
        in_file: bool,
    ) -> Result<(u64, Option<Arc<dyn Computed>>)> {
        let len = num::mul(num::elements(shape)?, kind.width, "the bytes of an array")?;
        num::mul(len, 8, "the bits of an array")?;
        if len > end.saturating_sub(data) {
            return Err(Error::truncated(format!("expected {len} bytes of data, found {}", end.saturating_sub(data))).at(data));
        }
        let strides = if fortran_order { strided::fortran(shape) } else { strided::contiguous(shape) };
        let swap = big.then_some(kind.number);
        if in_file && swap.is_none() && strided::is_contiguous(shape, &strides) {
            return Ok((len, None));
        }
        Ok((len, Some(Arc::new(Strided::new(Arc::clone(from), data, kind.width, shape, &strides, swap)?))))
    }
}
