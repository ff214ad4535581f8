//! Checkpoints of DeepSpeed's ZeRO: the weights in single precision lie flat and in parts in the optimizer states of every process, and are
//! joined as DeepSpeed's own `zero_to_fp32.py` does.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::finding::Findings;
use crate::base::text::shorten;
use crate::base::{Error, Result, limits, num};
use crate::format::pytorch::pickle::{Id, Pickle, Value, Values};
use crate::format::pytorch::spec::ZERO_ENDING as ENDING;
use crate::format::pytorch::{archive, file};
use crate::format::set::Part;
use crate::format::{Computed, codes, open_file};
use crate::model::{DType, ElemType, Metadata, TensorInfo};
use crate::source::Source;
use crate::source::file::{entries, parent};

/// File name suffix of the model states of a process.
const MODEL_ENDING: &str = "_model_states.pt";

/// The keys under which the flat weights are, by stage: stages 1 and 2 hold a part of each group, stage 3 a part of each tensor.
const GROUPS: [&str; 2] = ["optimizer_state_dict.single_partition_of_fp32_groups.", "optimizer_state_dict.fp32_flat_groups."];

/// Whether a file is one of a set of ZeRO.
pub(super) fn is_of_set(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    (name.ends_with(ENDING) || name.ends_with(MODEL_ENDING)) && states(path, ENDING).is_some_and(|files| !files.is_empty())
}

/// Returns the files beside `path` with an ending, in the order of the processes.
fn states(path: &Path, ending: &str) -> Option<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = entries(parent(path)).ok()?;
    files.retain(|file| file.file_name().is_some_and(|name| name.to_string_lossy().ends_with(ending)));
    files.sort_by_cached_key(|file| natural(&file.to_string_lossy()));
    Some(files)
}

/// Returns a key that sorts numbers in names by their value.
fn natural(name: &str) -> Vec<(u64, String)> {
    name.split_inclusive(|character: char| !character.is_ascii_digit())
        .map(|part| {
            let digits = part.trim_end_matches(|character: char| !character.is_ascii_digit());
            (digits.parse().unwrap_or(0), part.get(digits.len()..).unwrap_or_default().to_owned())
        })
        .collect()
}

/// The model states of the first process.
struct Described {
    /// Name and shape of the tensors of each group.
    groups: Vec<Vec<(String, Vec<u64>)>>,
    buffers: Vec<String>,
    /// Name and shape of the tensors that are not trained.
    frozen: Vec<(String, Vec<u64>)>,
    /// Names that stand for another.
    shared: Vec<(String, String)>,
}

/// Reads the set that a file belongs to: the model states first, then the optimizer states of each process.
///
/// # Errors
/// A file is missing, or they do not fit together.
pub(super) fn read(path: &Path, findings: &mut Findings) -> Result<Vec<Part>> {
    let malformed = |what: String| Error::malformed(what).in_file(path);
    let models = states(path, MODEL_ENDING).unwrap_or_default();
    let model = models
        .first()
        .ok_or_else(|| findings.fatal(codes::SET_INCOMPLETE, malformed(format!("expected a file *{MODEL_ENDING}, found none"))))?;
    let (described, first) = describe(model, findings)?;
    let optimizers = states(path, ENDING).unwrap_or_default();
    if optimizers.len() > limits::SHARDS {
        return Err(Error::limit(format!("expected at most {} processes, found {}", limits::SHARDS, optimizers.len())).in_file(path));
    }
    let read = |file: &PathBuf, findings: &mut Findings| {
        let opened = open_file(file).map_err(|error| findings.fatal(codes::FILE_UNREADABLE, error))?;
        file::read(opened, findings)
    };
    let mut states = optimizers.iter().map(|file| read(file, findings)).collect::<Result<Vec<Part>>>()?;
    let stage = states.first().and_then(|part| part.metadata.get_u64("optimizer_state_dict.zero_stage"));
    let count = states.first().and_then(|part| part.metadata.get_u64("optimizer_state_dict.partition_count")).or_else(|| {
        let counts = (0..).map_while(|i| states.first()?.metadata.get_u64(&format!("optimizer_state_dict.partition_count.{i}")));
        counts.max()
    });
    if count != Some(states.len() as u64) {
        let message = format!("expected {} files *{ENDING}, found {}", count.unwrap_or(0), states.len());
        return Err(findings.fatal(codes::SET_INCOMPLETE, malformed(message)));
    }
    let by_tensor = stage == Some(3);
    let key = if by_tensor { GROUPS[1] } else { GROUPS[0] };
    // Of stage 3, each process has a part of each frozen tensor as well; of the others, the first has all.
    let holders = if by_tensor && !described.frozen.is_empty() { states.len() } else { 1 };
    if models.len() < holders {
        let message = format!("expected {holders} files *{MODEL_ENDING}, found {}", models.len());
        return Err(findings.fatal(codes::SET_INCOMPLETE, malformed(message)));
    }
    let mut parts = vec![first];
    for model in models.iter().take(holders).skip(1) {
        parts.push(read(model, findings)?);
    }
    parts.append(&mut states);
    let flats: Vec<Vec<Flat>> = parts.iter().enumerate().skip(holders).map(|(file, part)| flats(part, file, key)).collect();
    let placed = if by_tensor { place_tensors(&described, &flats) } else { place_groups(&described, &flats) };
    let frozen = place_frozen(&described, parts.get(..holders).unwrap_or_default());
    let placed = placed.and_then(|placed| Ok([frozen?, placed].concat()));
    let mut joined = Vec::new();
    for Placed { name, elem, shape, pieces } in placed.map_err(|error| findings.fatal(codes::PT_TENSOR, error.in_file(path)))? {
        let computed = Pieces::new(pieces, &parts)?;
        let len_bytes = Some(computed.pieces.iter().map(|(_, _, bytes)| bytes.end - bytes.start).sum());
        joined.push((TensorInfo { name, elem, shape, shard: 0, offset_bytes: computed.shown(), len_bytes }, computed));
    }
    for (name, to) in &described.shared {
        if let Some((tensor, computed)) = joined.iter().find(|(tensor, _)| tensor.name == *to).cloned() {
            joined.push((TensorInfo { name: name.clone(), ..tensor }, computed));
        }
    }
    let mut rest = parts.iter_mut();
    if let Some(first) = rest.next() {
        keep_buffers(first, &described.buffers);
    }
    for part in rest {
        part.tensors.clear();
        part.computed.clear();
        part.metadata = Metadata::new();
        part.checkpoint = None;
    }
    for (tensor, computed) in joined {
        let Some(part) = parts.get_mut(computed.home()) else { continue };
        // One piece is a range of the file.
        if computed.pieces.len() != 1 {
            part.computed.insert(tensor.name.clone(), Arc::new(computed));
        }
        part.tensors.push(tensor);
    }
    parts.iter_mut().for_each(|part| part.tensors.sort_by_key(|tensor| tensor.offset_bytes));
    Ok(parts)
}

/// Keeps of the model states the buffers, which are under `module`.
fn keep_buffers(part: &mut Part, buffers: &[String]) {
    part.tensors.retain_mut(|tensor| match tensor.name.strip_prefix("module.").map(str::to_owned) {
        Some(name) if buffers.contains(&name) => {
            tensor.name = name;
            true
        }
        _ => false,
    });
    part.computed =
        part.computed.drain().filter_map(|(name, computed)| Some((name.strip_prefix("module.")?.to_owned(), computed))).collect();
    if let Some(checkpoint) = &mut part.checkpoint {
        (checkpoint.kind, checkpoint.container) = ("state dict".to_owned(), "ZeRO checkpoint");
        checkpoint.opaque.clear();
        checkpoint.shared.clear();
    }
}

/// Reads the model states of the first process: what the flat weights are.
fn describe(path: &Path, findings: &mut Findings) -> Result<(Described, Part)> {
    let opened = open_file(path).map_err(|error| findings.fatal(codes::FILE_UNREADABLE, error))?;
    let source = Arc::clone(opened.source());
    let part = file::read(opened, findings)?;
    let pickle = archive::values(&source)?;
    let Pickle { values, root, .. } = &pickle;
    let wrong = |what: &str| {
        let message = format!("expected {what} in the model states of a ZeRO checkpoint, found none");
        Error::malformed(message).in_file(path).with_code(codes::PT_RECORD)
    };
    let shapes = values.item(*root, "param_shapes").ok_or_else(|| wrong("the shapes of tensors"))?;
    let groups: Vec<Id> = values.sequence(shapes).map_or_else(|| vec![shapes], <[Id]>::to_vec);
    let groups = groups
        .iter()
        .map(|group| named_shapes(values, *group))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| wrong("the shapes of tensors"))?;
    let names = |id: Id| values.sequence(id).unwrap_or_default().iter().filter_map(|name| values.text(*name)).map(str::to_owned).collect();
    let buffers = values.item(*root, "buffer_names").map(names).unwrap_or_default();
    let shared = values.item(*root, "shared_params").and_then(|id| pairs(values, id)).unwrap_or_default();
    let text = |id: &Id| values.text(*id).map(str::to_owned);
    let shared = shared.iter().filter_map(|(name, to)| Some((text(name)?, text(to)?))).collect();
    let frozen = values.item(*root, "frozen_param_shapes").filter(|id| values.get(*id) != Value::None);
    let frozen = frozen.map(|id| named_shapes(values, id).ok_or_else(|| wrong("the shapes of frozen tensors")));
    Ok((Described { groups, buffers, frozen: frozen.transpose()?.unwrap_or_default(), shared }, part))
}

fn pairs(values: &Values, id: Id) -> Option<&[(Id, Id)]> {
    values.dict(id).or_else(|| values.object(id).map(|object| object.entries.as_slice()))
}

fn named_shapes(values: &Values, id: Id) -> Option<Vec<(String, Vec<u64>)>> {
    let shape = |id: Id| {
        let items = match values.get(id) {
            Value::Object(_) => values.sequence(*values.sequence(values.object(id)?.args)?.first()?)?,
            _ => values.sequence(id)?,
        };
        items.iter().map(|item| u64::try_from(values.int(*item)?).ok()).collect::<Option<Vec<u64>>>()
    };
    pairs(values, id)?.iter().map(|(name, size)| Some((values.text(*name)?.to_owned(), shape(*size)?))).collect()
}

/// Flat weights of a process: the file, the first byte and the number of elements.
#[derive(Debug, Clone, Copy)]
struct Flat {
    file: usize,
    start: u64,
    len: u64,
}

/// Returns the flat weights in a file, by group.
fn flats(part: &Part, file: usize, key: &str) -> Vec<Flat> {
    let group = |number: usize| {
        let name = format!("{key}{number}");
        let plain = |tensor: &&TensorInfo| tensor.name == name && tensor.elem == FLAT && !part.computed.contains_key(&name);
        let tensor = part.tensors.iter().find(plain)?;
        Some(Flat { file, start: tensor.offset_bytes, len: tensor.elements().ok()? })
    };
    (0..).map_while(group).collect()
}

/// A tensor with its pieces: the file and the range of bytes of each.
#[derive(Debug, Clone)]
struct Placed {
    name: String,
    elem: ElemType,
    shape: Vec<u64>,
    pieces: Vec<(usize, Range<u64>)>,
}

/// The type of flat weights.
const FLAT: ElemType = ElemType::Known(DType::F32);

/// Returns elements `range` of flat weights that follow each other.
fn cut(flats: &[Flat], range: Range<u64>) -> Vec<(usize, Range<u64>)> {
    let mut start = 0;
    let mut pieces = Vec::new();
    for flat in flats {
        let own = range.start.max(start)..range.end.min(start + flat.len);
        if own.start < own.end {
            pieces.push((flat.file, flat.start + (own.start - start) * 4..flat.start + (own.end - start) * 4));
        }
        start += flat.len;
    }
    pieces
}

fn total(flats: &[Flat]) -> u64 {
    flats.iter().fold(0, |sum, flat| sum.saturating_add(flat.len))
}

/// Places the tensors of stages 1 and 2: those of a group follow each other in the parts of all processes.
fn place_groups(described: &Described, flats: &[Vec<Flat>]) -> Result<Vec<Placed>> {
    let mut placed = Vec::new();
    let processes = flats.len() as u64;
    for (number, group) in described.groups.iter().enumerate() {
        let parts: Vec<Flat> = flats.iter().filter_map(|flats| flats.get(number).copied()).collect();
        let mut at = 0u64;
        for (name, shape) in group {
            let end = num::add(at, num::elements(shape)?, "the elements of a group")?;
            if end > total(&parts) {
                return Err(too_few(name, end, total(&parts)));
            }
            placed.push(Placed { name: name.clone(), elem: FLAT, shape: shape.clone(), pieces: cut(&parts, at..end) });
            at = end;
        }
        // Groups are padded to twice the number of processes.
        if at.div_ceil(2 * processes) != total(&parts).div_ceil(2 * processes) {
            return Err(Error::malformed(format!("expected {at} elements of group {number}, found {}", total(&parts))));
        }
    }
    Ok(placed)
}

/// Places the tensors of stage 3: each process has a part of every tensor.
fn place_tensors(described: &Described, flats: &[Vec<Flat>]) -> Result<Vec<Placed>> {
    let mut placed = Vec::new();
    let processes = flats.len() as u64;
    let mut at = 0u64;
    for (name, shape) in described.groups.iter().flatten() {
        let elements = num::elements(shape)?;
        let part = elements.div_ceil(processes.max(1));
        let end = num::add(at, part, "the elements of a process")?;
        let mut left = elements;
        let mut pieces = Vec::new();
        for flats in flats {
            if end > total(flats) {
                return Err(too_few(name, end, total(flats)));
            }
            // The last is padded.
            let own = part.min(left);
            pieces.extend(cut(flats, at..at + own));
            left -= own;
        }
        placed.push(Placed { name: name.clone(), elem: FLAT, shape: shape.clone(), pieces });
        at = end;
    }
    if let Some(flats) = flats.iter().find(|flats| total(flats) != at) {
        return Err(Error::malformed(format!("expected {at} elements of a process, found {}", total(flats))));
    }
    Ok(placed)
}

/// Places the tensors that are not trained: the parts in the model states follow each other, and the last is padded.
fn place_frozen(described: &Described, models: &[Part]) -> Result<Vec<Placed>> {
    let mut placed = Vec::new();
    for (name, shape) in &described.frozen {
        let own = format!("frozen_param_fragments.{name}");
        let missing = || Error::malformed(format!("expected the frozen weights of {} in every file, found none", shorten(name)));
        let (mut elem, mut left, mut pieces) = (None, num::elements(shape)?, Vec::new());
        for (file, part) in models.iter().enumerate() {
            let tensor = part.tensors.iter().find(|tensor| tensor.name == own && !part.computed.contains_key(&own)).ok_or_else(missing)?;
            let (count, Some(dtype)) = (tensor.elements()?, tensor.elem.known()) else { return Err(missing()) };
            if *elem.get_or_insert(tensor.elem) != tensor.elem {
                return Err(missing());
            }
            let len = dtype.bytes_for_shape(&[count.min(left)])?;
            left -= count.min(left);
            pieces.extend((len > 0).then(|| (file, tensor.offset_bytes..tensor.offset_bytes + len)));
        }
        if left > 0 {
            let elements = num::elements(shape)?;
            return Err(too_few(name, elements, elements - left));
        }
        placed.push(Placed { name: name.clone(), elem: elem.ok_or_else(missing)?, shape: shape.clone(), pieces });
    }
    Ok(placed)
}

fn too_few(name: &str, wanted: u64, found: u64) -> Error {
    Error::malformed(format!("expected {wanted} elements up to the end of {}, found {found}", shorten(name)))
}

/// A tensor of pieces of files, one after the other.
#[derive(Debug, Clone)]
struct Pieces {
    pieces: Vec<(usize, Arc<dyn Source>, Range<u64>)>,
}

impl Pieces {
    fn new(pieces: Vec<(usize, Range<u64>)>, parts: &[Part]) -> Result<Self> {
        let source = |(file, bytes): (usize, Range<u64>)| {
            let source = parts.get(file).map(|part| Arc::clone(&part.source)).filter(|source| bytes.end <= source.len());
            source
                .map(|source| (file, source, bytes))
                .ok_or_else(|| Error::truncated("expected the weights inside the file, found the end"))
        };
        Ok(Self { pieces: pieces.into_iter().map(source).collect::<Result<_>>()? })
    }

    /// The file that the tensor is listed in, and the offset there: those of the first piece.
    fn home(&self) -> usize {
        self.pieces.first().map_or(0, |(file, _, _)| *file)
    }

    fn shown(&self) -> u64 {
        self.pieces.first().map_or(0, |(_, _, bytes)| bytes.start)
    }
}

impl Computed for Pieces {
    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let mut found = Vec::new();
        let mut start = 0;
        for (_, source, bytes) in &self.pieces {
            let len = bytes.end - bytes.start;
            let own = range.start.max(start)..range.end.min(start + len);
            if own.start < own.end {
                found.extend_from_slice(&source.read(bytes.start + own.start - start..bytes.start + own.end - start)?);
            }
            start += len;
        }
        Ok(found)
    }
}
