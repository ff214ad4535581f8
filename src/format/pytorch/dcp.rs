//! Distributed checkpoints: a folder with `.metadata`, a pickle that says where the chunks of each tensor are, and `.distcp` files of
//! chunks, each an archive of its own. The tensors are joined as `torch.distributed.checkpoint.format_utils.dcp_to_torch_save` does.
//!
//! Source: `torch/distributed/checkpoint/metadata.py` and `filesystem.py`.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Component, Path};
use std::sync::Arc;

use crate::base::bytes::Endian;
use crate::base::finding::Findings;
use crate::base::text::shorten;
use crate::base::{Error, Result, limits, num};
use crate::format::pytorch::pickle::{Id, Pickle, Value, Values};
use crate::format::pytorch::scan::{self, Whence};
use crate::format::pytorch::{archive, spec};
use crate::format::set::{Part, check_finding_limit};
use crate::format::{Checksum, Computed, codes, open_file, strided};
use crate::model::checkpoint::{Checkpoint, Opaque};
use crate::model::{Metadata, TensorInfo};
use crate::source::file::parent;
use crate::source::{Data, Prefix, Source, check_range};

/// Whether a pickle describes a distributed checkpoint.
pub(super) fn is_metadata(pickle: &Pickle) -> bool {
    let class = pickle.values.object(pickle.root).and_then(|object| pickle.values.class(object));
    class.is_some_and(|class| class.module == "torch.distributed.checkpoint.metadata" && class.name == "Metadata")
}

/// Location of a chunk.
#[derive(Debug, Clone)]
struct Location {
    file: String,
    bytes: Range<u64>,
}

/// Reads a checkpoint; `source` is its `.metadata`.
///
/// # Errors
/// The metadata are malformed, or a chunk cannot be read.
pub(super) fn read(source: &Arc<dyn Source>, pickle: &Pickle, findings: &mut Findings) -> Result<Vec<Part>> {
    let path = source.path();
    if findings.collects() {
        scan::report(pickle, source.len(), &Whence { path, entry: None, in_file: true }, findings)?;
    }
    let located = |error: Error| error.in_file(path);
    let values = &pickle.values;
    let malformed = |what: &str| Error::malformed(format!("expected {what} in the metadata of a distributed checkpoint, found none"));
    let attribute = |object: Id, name: &str| values.object(object).and_then(|object| values.item(object.state?, name));
    let wrong = |what: &str| located(malformed(what));
    let tensors = attribute(pickle.root, "state_dict_metadata").and_then(|id| entries(values, id));
    let tensors = tensors.ok_or_else(|| findings.fatal(codes::PICKLE_MALFORMED, wrong("the tensors")))?;
    let places = attribute(pickle.root, "storage_data").and_then(|id| entries(values, id));
    let places = places.ok_or_else(|| findings.fatal(codes::PICKLE_MALFORMED, wrong("the places of chunks")))?;
    let mut locations: HashMap<(String, Vec<u64>), Location> = HashMap::new();
    for (index, info) in places {
        let name = attribute(*index, "fqn").and_then(|id| values.text(id));
        let file = attribute(*info, "relative_path").and_then(|id| values.text(id));
        let number = |name: &str| attribute(*info, name).and_then(|id| u64::try_from(values.int(id)?).ok());
        let (Some(name), Some(file), Some(start), Some(len)) = (name, file, number("offset"), number("length")) else {
            return Err(findings.fatal(codes::PICKLE_MALFORMED, wrong("the name, file and range of a chunk")));
        };
        let end = num::add(start, len, "the end of a chunk").map_err(located)?;
        let offset = attribute(*index, "offset").and_then(|id| numbers(values, id)).unwrap_or_default();
        locations.insert((name.to_owned(), offset), Location { file: file.to_owned(), bytes: start..end });
    }
    let mut files = Files { folder: parent(path), parts: Vec::new(), known: BTreeMap::new() };
    let mut checkpoint = Checkpoint::default();
    (checkpoint.kind, checkpoint.container) = ("state dict".to_owned(), "distributed checkpoint");
    for (name, described) in tensors {
        let Some(name) = values.text(*name) else { continue };
        let (Some(size), Some(chunks)) =
            (attribute(*described, "size").and_then(|id| numbers(values, id)), attribute(*described, "chunks"))
        else {
            checkpoint.opaque.push(Opaque::new(name, "bytes"));
            continue;
        };
        let list = values.sequence(chunks).unwrap_or_default().iter();
        let chunks: Option<Vec<(Vec<u64>, Vec<u64>)>> = list
            .map(|chunk| {
                Some((
                    attribute(*chunk, "offsets").and_then(|id| numbers(values, id))?,
                    attribute(*chunk, "sizes").and_then(|id| numbers(values, id))?,
                ))
            })
            .collect();
        let chunks = chunks.ok_or_else(|| findings.fatal(codes::PICKLE_MALFORMED, wrong("the offsets and sizes of chunks")))?;
        if let Err(error) = files.add(name, &size, &chunks, &locations, findings) {
            let code = error.code().unwrap_or(codes::PT_TENSOR);
            findings.error(code, located(error.in_tensor(name)))?;
            check_finding_limit(findings, path)?;
        }
    }
    if files.parts.is_empty() {
        files.parts.push(Part::new(Arc::clone(source), Vec::new(), Metadata::new(), Endian::Little));
    }
    if let Some(first) = files.parts.first_mut() {
        first.checkpoint = Some(checkpoint);
    }
    files.parts.iter_mut().for_each(|part| part.tensors.sort_by_key(|tensor| tensor.offset_bytes));
    Ok(files.parts)
}

fn entries(values: &Values, id: Id) -> Option<&[(Id, Id)]> {
    values.dict(id).or_else(|| values.object(id).map(|object| object.entries.as_slice()))
}

/// Returns the numbers of a `torch.Size`, or of a tuple.
fn numbers(values: &Values, id: Id) -> Option<Vec<u64>> {
    let items = match values.get(id) {
        Value::Object(_) => values.sequence(*values.sequence(values.object(id)?.args)?.first()?)?,
        _ => values.sequence(id)?,
    };
    let numbers: Option<Vec<u64>> = items.iter().map(|item| u64::try_from(values.int(*item)?).ok()).collect();
    numbers.filter(|numbers| numbers.len() <= limits::TENSOR_DIMS)
}

/// The files of a checkpoint.
struct Files<'f> {
    folder: &'f Path,
    parts: Vec<Part>,
    /// By name, their places in `parts`.
    known: BTreeMap<String, usize>,
}

impl Files<'_> {
    fn open(&mut self, name: &str, findings: &mut Findings) -> Result<usize> {
        if let Some(known) = self.known.get(name) {
            return Ok(*known);
        }
        let mut components = Path::new(name).components();
        if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
            let message = format!("expected a file in the folder of the checkpoint, found {}", shorten(name));
            return Err(Error::malformed(message).with_code(codes::PT_STORAGE));
        }
        if self.parts.len() >= limits::SHARDS {
            return Err(Error::limit(format!("expected at most {} files, found more", limits::SHARDS)));
        }
        let file = open_file(&self.folder.join(name)).map_err(|error| findings.fatal(codes::FILE_UNREADABLE, error))?;
        self.parts.push(Part::new(file.into_source(), Vec::new(), Metadata::new(), Endian::Little));
        self.known.insert(name.to_owned(), self.parts.len() - 1);
        Ok(self.parts.len() - 1)
    }

    /// Adds a tensor.
    fn add(
        &mut self,
        name: &str,
        shape: &[u64],
        chunks: &[(Vec<u64>, Vec<u64>)],
        locations: &HashMap<(String, Vec<u64>), Location>,
        findings: &mut Findings,
    ) -> Result<()> {
        let elements = num::elements(shape)?;
        let mut joined = Joined { shape: shape.to_vec(), width: 0, chunks: Vec::new() };
        let (mut home, mut kind) = (None, None);
        let mut covered = 0u64;
        for (offsets, sizes) in chunks {
            let inside = offsets.len() == shape.len()
                && sizes.len() == shape.len()
                && offsets
                    .iter()
                    .zip(sizes)
                    .zip(shape)
                    .all(|((offset, size), len)| offset.checked_add(*size).is_some_and(|end| end <= *len));
            if !inside {
                return Err(Error::malformed("expected chunks inside the tensor, found one outside"));
            }
            let missing = || Error::malformed("expected the place of each chunk, found none").with_code(codes::PT_STORAGE);
            let location = locations.get(&(name.to_owned(), offsets.clone())).ok_or_else(missing)?.clone();
            let file = self.open(&location.file, findings)?;
            let source = self.parts.get(file).map(|part| Arc::clone(&part.source)).ok_or_else(missing)?;
            let (tensor, computed, checksums) = chunk(&source, location, findings)?;
            if let Some(part) = self.parts.get_mut(file) {
                part.checksums.extend(checksums);
            }
            if tensor.shape != *sizes || *kind.get_or_insert(tensor.elem) != tensor.elem {
                return Err(Error::malformed(format!(
                    "expected a chunk of {}, found {}",
                    num::show_shape(sizes),
                    num::show_shape(&tensor.shape)
                )));
            }
            let own = num::elements(sizes)?;
            covered = num::add(covered, own, "the elements of chunks")?;
            joined.width = tensor.len_bytes.unwrap_or(0).checked_div(own).unwrap_or(joined.width);
            home.get_or_insert((file, tensor.offset_bytes));
            joined.chunks.push(Chunk { offsets: offsets.clone(), sizes: sizes.clone(), source, start: tensor.offset_bytes, computed });
        }
        let (Some((file, offset_bytes)), Some(elem)) = (home, kind) else {
            return Err(Error::malformed("expected chunks of the tensor, found none"));
        };
        if covered != elements {
            return Err(Error::malformed(format!("expected chunks of {elements} elements, found {covered}")));
        }
        let len_bytes = Some(num::mul(elements, joined.width, "the bytes of a tensor")?);
        let Some(part) = self.parts.get_mut(file) else { return Ok(()) };
        part.tensors.push(TensorInfo { name: name.to_owned(), elem, shape: shape.to_vec(), shard: 0, offset_bytes, len_bytes });
        let single = joined.chunks.len() == 1;
        match joined.chunks.pop() {
            Some(one) if single => part.computed.extend(one.computed.map(|computed| (name.to_owned(), computed))),
            last => {
                joined.chunks.extend(last);
                part.computed.insert(name.to_owned(), Arc::new(joined));
            }
        }
        Ok(())
    }
}

/// The tensor of a chunk, how it is computed, and the checksums of its archive.
type ChunkEntry = (TensorInfo, Option<Arc<dyn Computed>>, Vec<Checksum>);

/// Reads the tensor of a chunk, with its place in the file, and how it is computed, if it is no range of it.
fn chunk(source: &Arc<dyn Source>, location: Location, findings: &mut Findings) -> Result<ChunkEntry> {
    if location.bytes.end > source.len() {
        let message = format!("expected a chunk that ends at byte {}, found the end at {}", location.bytes.end, source.len());
        return Err(Error::truncated(message).with_code(codes::PT_TRUNCATED));
    }
    let start = location.bytes.start;
    let section: Arc<dyn Source> = Arc::new(Section { source: Arc::clone(source), bytes: location.bytes });
    let mut found = findings.new_like();
    let read = archive::read(&section, &mut found);
    found.shift(start);
    findings.append(found);
    let mut part = read.map_err(|error| {
        let moved = Error::new(error.kind(), error.message()).with_code(error.code().unwrap_or(codes::PT_STORAGE));
        moved.at(start.saturating_add(error.offset().unwrap_or(0))).in_file(source.path())
    })?;
    let tensor = part.tensors.pop().filter(|_| part.tensors.is_empty());
    let tensor = tensor.ok_or_else(|| Error::malformed("expected one tensor in a chunk, found others").at(start))?;
    let computed = part.computed.remove(&tensor.name);
    let moved = |range: Range<u64>| range.start.saturating_add(start)..range.end.saturating_add(start);
    let checksums = part.checksums.into_iter().map(|checksum| Checksum { bytes: moved(checksum.bytes.clone()), ..checksum }).collect();
    Ok((TensorInfo { offset_bytes: tensor.offset_bytes.saturating_add(start), ..tensor }, computed, checksums))
}

/// A range of a source as a source of its own.
#[derive(Debug)]
struct Section {
    source: Arc<dyn Source>,
    bytes: Range<u64>,
}

impl Source for Section {
    fn path(&self) -> &Path {
        self.source.path()
    }

    fn len(&self) -> u64 {
        self.bytes.end - self.bytes.start
    }

    fn read(&self, range: Range<u64>) -> Result<Data<'_>> {
        check_range(&range, self.len(), self.path())?;
        self.source.read(self.bytes.start + range.start..self.bytes.start + range.end)
    }

    fn check_unchanged(&self) -> Result<()> {
        self.source.check_unchanged()
    }

    fn least_read(&self) -> u64 {
        self.source.least_read()
    }
}

/// A tensor of several chunks, each a box of it.
#[derive(Debug)]
struct Joined {
    shape: Vec<u64>,
    /// Bytes of an element.
    width: u64,
    chunks: Vec<Chunk>,
}

#[derive(Debug)]
struct Chunk {
    offsets: Vec<u64>,
    sizes: Vec<u64>,
    source: Arc<dyn Source>,
    /// Of its first byte, if it is a range of the source.
    start: u64,
    computed: Option<Arc<dyn Computed>>,
}

impl Chunk {
    /// Returns the bytes of elements of the chunk.
    fn bytes(&self, elements: Range<u64>, width: u64) -> Result<Data<'_>> {
        let bytes = elements.start * width..elements.end * width;
        match &self.computed {
            Some(computed) => computed.bytes(bytes).map(Data::Owned),
            None => self.source.read(self.start + bytes.start..self.start + bytes.end),
        }
    }

    /// Returns the element of the chunk at a place of the tensor, and how many follow it in both; `None` if the place is outside.
    fn run(&self, place: &[u64], shape: &[u64]) -> Option<(u64, u64)> {
        let mut inner = Vec::with_capacity(place.len());
        for ((at, offset), size) in place.iter().zip(&self.offsets).zip(&self.sizes) {
            inner.push(at.checked_sub(*offset).filter(|at| at < size)?);
        }
        let strides = strided::contiguous(&self.sizes);
        let element = inner.iter().zip(&strides).map(|(at, stride)| at * stride).sum();
        // Up to the end of the outermost dimension below which the chunk is as wide as the tensor.
        let mut axis = shape.len().saturating_sub(1);
        while axis > 0 && self.sizes.get(axis) == shape.get(axis) {
            axis -= 1;
        }
        let end = self.sizes.get(axis..).unwrap_or_default().iter().product::<u64>();
        let within: u64 = inner.iter().zip(&strides).skip(axis).map(|(at, stride)| at * stride).sum();
        Some((element, end.saturating_sub(within).max(1)))
    }
}

impl Computed for Joined {
    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let (first, last) = (range.start / self.width.max(1), range.end.div_ceil(self.width.max(1)));
        let len = num::to_usize((last - first) * self.width, "a range of a tensor")?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Error::limit(format!("expected memory for {len} bytes")))?;
        let mut at = first;
        while at < last {
            let mut rest = at;
            let mut place: Vec<u64> = self
                .shape
                .iter()
                .rev()
                .map(|len| {
                    let index = rest % len.max(&1);
                    rest /= len.max(&1);
                    index
                })
                .collect();
            place.reverse();
            let found = self.chunks.iter().find_map(|chunk| Some((chunk, chunk.run(&place, &self.shape)?)));
            let (chunk, (element, run)) =
                found.ok_or_else(|| Error::malformed("expected a chunk for every element, found none for one"))?;
            let count = run.min(last - at);
            bytes.extend_from_slice(&chunk.bytes(element..element + count, self.width)?);
            at += count;
        }
        bytes.truncate((range.end - first * self.width) as usize);
        bytes.drain(..(range.start - first * self.width) as usize);
        Ok(bytes)
    }
}

/// Returns the metadata beside a file of chunks.
///
/// # Errors
/// They cannot be opened.
pub(super) fn metadata_of(file: &Prefix) -> Result<Option<Prefix>> {
    let path = file.path();
    let beside = parent(path).join(spec::DCP_METADATA);
    let is_chunk = file.source().file().is_some() && path.to_string_lossy().ends_with(spec::DCP_ENDING) && beside.is_file();
    is_chunk.then(|| open_file(&beside)).transpose()
}
