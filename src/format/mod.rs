//! Files <-> [`Model`]: one folder a format, one line each in [`FORMATS`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::bytes::Endian;
use crate::base::finding::{Finding, Findings};
use crate::base::{Error, Hint, Result, limits, num};
use crate::model::{DType, ElemType, FormatId, Metadata, Model, PackedType, PackingSummary, TensorInfo, TypeName};
use crate::source::file::{self, Input};
use crate::source::{self, Prefix, Source, torn};

pub mod codes;
mod folder;
mod foreign;
pub mod gguf;
pub mod imatrix;
pub(crate) mod modules;
mod ollama;
pub mod safetensors;
mod set;
pub mod shards;
mod template;

/// How many bytes of a file's start tell its format.
pub(crate) const START_BYTES: usize = 4096;

/// A file format: what the rest of weigh needs to know of it.
#[derive(Debug)]
pub struct Format {
    /// Which format it is.
    pub id: FormatId,
    /// What the files are called; the format is told by content all the same.
    pub extensions: &'static [&'static str],
    /// Whether the start of a file looks like this format: 0 no, up to 100 certain.
    pub probe: fn(start: &[u8], len: u64) -> u8,
    /// Opens a model from any one of its files. What breaks a rule goes to `findings`, which stops or goes on.
    pub open: fn(file: Prefix, findings: &mut Findings) -> Result<Reader>,
    /// Lays out one file of this format, if it can be written.
    pub layout: Option<LayOut>,
    /// Gives a file of this format other metadata, if that can be done without touching its tensors.
    pub edit: Option<Edit>,
    /// Whether the format can hold tensors of a type.
    pub stores: fn(DType) -> bool,
}

/// Lays a whole file out before its first byte is written: header, offsets, padding.
pub type LayOut = fn(tensors: &[OutTensor], metadata: &Metadata) -> Result<Layout>;

/// What a file with the metadata `old` must start with to have the metadata `new`. A change that breaks a rule is refused; with `force`
/// only one that no reader could follow.
pub type Edit = fn(file: &mut Prefix, old: &Metadata, new: &Metadata, force: bool) -> Result<Start>;

/// A new start of a file: everything before the bytes of the tensors, which follow unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The new bytes.
    pub bytes: Vec<u8>,
    /// How many bytes of the file they stand for.
    pub old_bytes: u64,
}

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutTensor {
    /// Its name in the new file.
    pub name: String,
    /// Its type in the new file. Bytes of an unknown type are copied: `len_bytes` is then taken from the source.
    pub elem: ElemType,
    /// Its dimensions, outermost first.
    pub shape: Vec<u64>,
    /// How many bytes its body has.
    pub len_bytes: u64,
}

impl OutTensor {
    /// The size is that of shape and type; of an unknown type nobody can tell.
    pub(crate) fn check_size(&self) -> Result<()> {
        let Some(dtype) = self.elem.known() else { return Ok(()) };
        let wanted = dtype.bytes_for_shape(&self.shape)?;
        if wanted == self.len_bytes {
            return Ok(());
        }
        let (shape, found) = (num::show_shape(&self.shape), self.len_bytes);
        Err(Error::argument(format!("expected {wanted} bytes for {dtype} {shape}, found {found}")))
    }
}

/// Where everything goes in a file that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// All bytes before the first body.
    pub header: Vec<u8>,
    /// Where the body of each tensor starts, in bytes from the start of the file, in the order in which they were given.
    /// Bytes between bodies are zero.
    pub offsets: Vec<u64>,
    /// The length of the whole file, in bytes.
    pub total: u64,
}

/// Every format that this build opens.
pub static FORMATS: &[Format] = &[safetensors::FORMAT, gguf::FORMAT, imatrix::FORMAT];

/// Returns the row of a format.
pub(crate) fn format(id: FormatId) -> &'static Format {
    match id {
        FormatId::Safetensors => &safetensors::FORMAT,
        FormatId::Gguf => &gguf::FORMAT,
        FormatId::Imatrix => &imatrix::FORMAT,
    }
}

/// Opens the model at `path`: a file, any one file of a set, an index, a folder, a Hugging Face cache folder, an Ollama manifest.
///
/// # Errors
/// There is no model that this build reads; or a file breaks a rule of its format.
pub fn open(path: &Path) -> Result<Reader> {
    open_with(path, &mut Findings::stop_at_first())
}

/// Opens the model at `path` for what its headers say: it opens too when a file is cut short behind its header, or files of the set are
/// missing, of which [`Reader::lacks`] tells. Values that are not here are errors once they are asked for.
///
/// # Errors
/// As for [`open`], but for what is missing.
pub fn open_headers(path: &Path) -> Result<Reader> {
    open_with(path, &mut Findings::headers())
}

/// Opens the model that a source has. What belongs to it beside (other shards, an index, a config) is looked for only where the source is
/// a file on disk.
///
/// # Errors
/// As for [`open`].
pub fn open_source(source: Arc<dyn Source>) -> Result<Reader> {
    open_source_with(source, &mut Findings::stop_at_first())
}

/// Opens the model that a source has for what its header says: as [`open_headers`] does.
///
/// # Errors
/// As for [`open_headers`].
pub fn open_source_headers(source: Arc<dyn Source>) -> Result<Reader> {
    open_source_with(source, &mut Findings::headers())
}

/// Looks at the model at `path` and notes every rule that it breaks in `findings`, which should be one that collects.
///
/// Gives what could be read all the same; tensors that are not sound are left out of it. None when nothing could be.
///
/// # Errors
/// There is nothing to examine: no such file, or none of a format that this build reads.
pub fn examine(path: &Path, findings: &mut Findings) -> Result<Option<Reader>> {
    examined(open_with(path, findings), findings)
}

/// Looks at the model that a source has, as [`examine`] does.
///
/// # Errors
/// As for [`examine`].
pub fn examine_source(source: Arc<dyn Source>, findings: &mut Findings) -> Result<Option<Reader>> {
    examined(open_source_with(source, findings), findings)
}

fn examined(opened: Result<Reader>, findings: &Findings) -> Result<Option<Reader>> {
    match opened {
        Ok(reader) => Ok(Some(reader)),
        Err(_) if findings.errors() > 0 => Ok(None),
        Err(error) => Err(error),
    }
}

fn open_with(path: &Path, findings: &mut Findings) -> Result<Reader> {
    let file = resolve(path)?;
    if file != path {
        folder::check_whole(&file, findings)?;
    }
    for _ in 0..limits::REOPENINGS {
        let start = open_file(&file)?;
        let source = Arc::clone(start.source());
        let mut found = findings.new_like();
        let result = open_prefix(path, start, &mut found);
        let sources = result.as_ref().map_or(std::slice::from_ref(&source), |reader| reader.sources());
        if sources.iter().all(|source| torn::is_unchanged(&**source)) {
            findings.append(found);
            return result;
        }
    }
    Err(Error::malformed("expected a file that stays the same while it is opened, found one that is being written").in_file(&file))
}

fn open_source_with(source: Arc<dyn Source>, findings: &mut Findings) -> Result<Reader> {
    let path = source.path().to_path_buf();
    let reader = open_prefix(&path, Prefix::new(source)?, findings)?;
    reader.sources.iter().try_for_each(|source| source.check_unchanged())?;
    Ok(reader)
}

/// Opens a file of a model.
///
/// # Errors
/// As for [`source::open`]; or a change of the file was interrupted ([`torn::refuse_torn`]).
fn open_file(path: &Path) -> Result<Prefix> {
    let file = file::open_regular(path)?;
    torn::refuse_torn(path, &file)?;
    Prefix::new(source::from_file(&file, path)?)
}

/// Opens the model of which `start` is a file; `path` is what was asked for.
fn open_prefix(path: &Path, start: Prefix, findings: &mut Findings) -> Result<Reader> {
    let (file, on_disk) = (start.path().to_path_buf(), start.source().file().is_some());
    let format = find_format(&start).map_err(|error| findings.fatal(codes::FILE_FOREIGN, error))?;
    let mut reader = (format.open)(start, findings).map_err(|error| error.in_file(&file))?;
    reader.model.path = path.to_path_buf();
    if findings.collects() {
        check_templates(&file, on_disk, &reader, findings);
    }
    if on_disk && format.id == FormatId::Safetensors {
        if let Some(path) = folder::find_config(&file) {
            add_config(&mut reader, &path, findings);
        }
        modules::join(&file, &mut reader, findings)?;
    }
    if !findings.collects() {
        reader.lacks = findings.list().to_vec();
    }
    Ok(reader)
}

/// Adds the config of a folder to its model, or why it cannot be read.
fn add_config(reader: &mut Reader, path: &Path, findings: &mut Findings) {
    reader.beside.extend(Input::of(path).ok());
    let model = &mut reader.model;
    model.folder = Some(file::parent(path).to_path_buf());
    match folder::read_config(path) {
        Ok(config) => model.config = Some(config),
        Err(error) => {
            let error = error.hint("without it the architecture and its hyperparameters are not known");
            findings.note_error(codes::CONFIG_JSON, &error);
            model.config_error = Some(error);
        }
    }
}

/// Looks at the chat templates of a model, wherever its format has them.
fn check_templates(file: &Path, on_disk: bool, reader: &Reader, findings: &mut Findings) {
    if reader.model.format == FormatId::Gguf {
        template::check_metadata(&reader.model.metadata, file, findings);
    } else if on_disk {
        template::check_folder(file::parent(file), findings);
    }
}

/// The file that a path stands for.
///
/// # Errors
/// There is none, or no single one.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    let kind = std::fs::metadata(path).map_err(|error| Error::io("cannot open", path, error))?;
    if kind.is_dir() {
        return folder::find_model(path);
    }
    if kind.is_file() && ollama::is_manifest(path) {
        return ollama::model_of(path);
    }
    Ok(path.to_path_buf())
}

/// The bytes of a file that tell its format.
fn start_of(file: &Prefix) -> Result<Cow<'_, [u8]>> {
    let len = file.len().min(START_BYTES as u64);
    match file.bytes().get(..len as usize) {
        Some(start) => Ok(Cow::Borrowed(start)),
        None => file.source().read(0..len),
    }
}

/// The format of a file by its content; by its name only where the content is that of no format.
fn find_format(file: &Prefix) -> Result<&'static Format> {
    let start = &*start_of(file)?;
    let best = FORMATS.iter().map(|format| ((format.probe)(start, file.len()), format)).max_by_key(|(score, _)| *score);
    if let Some((_, format)) = best.filter(|(score, _)| *score > 0) {
        return Ok(format);
    }
    folder::refuse_foreign(file)?;
    let name = file.path().file_name().unwrap_or_default().to_string_lossy();
    let by_name = FORMATS.iter().find(|format| format.extensions.iter().any(|extension| name.ends_with(&format!(".{extension}"))));
    by_name.ok_or_else(|| {
        let names: Vec<&str> = FORMATS.iter().map(|format| format.id.name()).collect();
        let hint = if name.ends_with(".json") { "name the folder or the weights".into() } else { Hint::ListFormats };
        Error::unsupported(format!("expected a file of {}, found something else", names.join(" or "))).in_file(file.path()).hint(hint)
    })
}

/// An open model: what is in it, and the bytes of its tensors.
///
/// Opening costs the headers; of a file on disk, or bytes in memory, a tensor's bytes come without a copy.
#[derive(Debug, Clone)]
pub struct Reader {
    model: Model,
    sources: Vec<Arc<dyn Source>>,
    endian: Endian,
    computed: HashMap<String, Arc<dyn Computed>>,
    /// What was read besides `sources`: an index, a config, the files of adapters.
    beside: Vec<Input>,
    /// The bytes of the tensors whose types do not tell their size, by name: all up to the next tensor, or the end of the file.
    spans: Arc<HashMap<String, u64>>,
    lacks: Vec<Finding>,
    packing: Option<PackingSummary>,
}

/// The bytes of a tensor that is in no file as it is: unpacked, merged.
pub trait Computed: fmt::Debug + Send + Sync {
    /// A range of the tensor's bytes, little-endian, counted from its start.
    ///
    /// # Errors
    /// What it is computed from cannot be read.
    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>>;

    /// The type to store the tensor in when nothing else is asked for, if that is not the one that it is computed in.
    fn suggested(&self) -> Option<DType> {
        None
    }

    /// How many bytes it takes in the files, if not as many as it has here.
    fn stored_size(&self) -> Option<u64> {
        None
    }

    /// The packing that it is stored in.
    fn packed(&self) -> Option<PackedType> {
        None
    }

    /// Of blocks whose values a GGUF multiplies by a scale of its own: that scale, and that of the activations, if there are any.
    fn scales(&self) -> Option<[Option<f32>; 2]> {
        None
    }
}

impl Reader {
    /// Called by the formats: `sources[i]` is the file of `model.shards[i]`, and numbers in the tensors have this byte order.
    pub fn new(model: Model, sources: Vec<Arc<dyn Source>>, endian: Endian) -> Self {
        let spans = Arc::new(spans(&model));
        Self { model, sources, endian, computed: HashMap::new(), beside: Vec::new(), spans, lacks: Vec::new(), packing: None }
    }

    /// Another view of an open model: tensors that `computed` has, by name, are computed; the others are as `stored` has them.
    pub fn computed(stored: &Self, model: Model, computed: HashMap<String, Arc<dyn Computed>>) -> Self {
        let mut all = stored.computed.clone();
        all.extend(computed);
        Self {
            model,
            computed: all,
            sources: stored.sources.clone(),
            endian: stored.endian,
            beside: stored.beside.clone(),
            spans: stored.spans.clone(),
            lacks: stored.lacks.clone(),
            packing: stored.packing.clone(),
        }
    }

    /// Counts further files among those that the model was read from.
    #[must_use]
    pub fn with_inputs(mut self, inputs: impl IntoIterator<Item = Input>) -> Self {
        self.beside.extend(inputs);
        self
    }

    /// The files on disk that the model was read from: weights, index, config, those of merged adapters.
    pub fn inputs(&self) -> impl Iterator<Item = &Input> {
        self.sources.iter().filter_map(|source| source.file()).chain(&self.beside)
    }

    /// Returns the paths of [`Reader::inputs`].
    pub fn input_paths(&self) -> Vec<PathBuf> {
        self.inputs().map(|input| input.path().to_path_buf()).collect()
    }

    /// Looks at all that the model was read from again. What was computed from the tensors' values is of one state of it if none of it
    /// changed since it was opened.
    ///
    /// # Errors
    /// A file was written to or replaced, or is gone.
    pub fn check_unchanged(&self) -> Result<()> {
        self.sources.iter().try_for_each(|source| source.check_unchanged())?;
        self.beside.iter().try_for_each(Input::check_unchanged)
    }

    /// The same, with what is known of how the stored weights are packed.
    #[must_use]
    pub fn with_packing(self, packing: Option<PackingSummary>) -> Self {
        Self { packing, ..self }
    }

    /// How the stored weights of a view are packed, and how much of that is understood.
    pub fn packing(&self) -> Option<&PackingSummary> {
        self.packing.as_ref()
    }

    /// The type of a tensor as reports show it: its packing, where it is computed of packed weights.
    pub fn type_name(&self, tensor: &TensorInfo) -> TypeName {
        TypeName { elem: tensor.elem, packed: self.computed.get(&tensor.name).and_then(|computed| computed.packed()) }
    }

    /// How many bytes a tensor takes in the files, scales and all; 0 where the size of its type is not known.
    pub fn stored_size(&self, tensor: &TensorInfo) -> u64 {
        self.computed.get(&tensor.name).and_then(|computed| computed.stored_size()).or(tensor.len_bytes).unwrap_or(0)
    }

    /// Of a tensor in blocks whose values are multiplied by a scale of its own: that scale, and that of the activations.
    pub fn block_scales(&self, tensor: &TensorInfo) -> Option<[Option<f32>; 2]> {
        self.computed.get(&tensor.name)?.scales()
    }

    /// Whether a tensor is computed: its bytes are in no file.
    pub fn is_computed(&self, tensor: &TensorInfo) -> bool {
        self.computed.contains_key(&tensor.name)
    }

    /// The type to store a computed tensor in when nothing else is asked for, if that is not its own.
    pub fn suggested(&self, tensor: &TensorInfo) -> Option<DType> {
        self.computed.get(&tensor.name)?.suggested()
    }

    /// What of the model is not here: files of its set, or (see [`open_headers`]) the ends of files. Not told by `verify`'s own opening.
    pub fn lacks(&self) -> &[Finding] {
        &self.lacks
    }

    /// What is in the model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The bytes of the files, in the order of [`Model::shards`].
    pub fn sources(&self) -> &[Arc<dyn Source>] {
        &self.sources
    }

    /// The byte order of the numbers in the tensors.
    pub fn endian(&self) -> Endian {
        self.endian
    }

    /// How many bytes of its file belong to a tensor. Where its type does not tell, those are all up to the next tensor: what pads
    /// it is among them.
    pub fn len_bytes(&self, tensor: &TensorInfo) -> Option<u64> {
        tensor.len_bytes.or_else(|| self.spans.get(&tensor.name).copied())
    }

    /// All bytes of a tensor, little-endian: borrowed where they are at hand, unless the file is big-endian.
    ///
    /// # Errors
    /// The size of the tensor's type is not known; or the tensor is not of this model, and lies outside its file.
    pub fn bytes(&self, tensor: &TensorInfo) -> Result<Cow<'_, [u8]>> {
        let len = self.len_bytes(tensor).ok_or_else(|| unknown_size(tensor))?;
        self.bytes_at(tensor, 0..len)
    }

    /// A range of a tensor's bytes, little-endian, counted from the tensor's start. In a big-endian file it must be whole blocks.
    ///
    /// # Errors
    /// As for [`Reader::bytes`]; the range lies outside the tensor.
    pub fn bytes_at(&self, tensor: &TensorInfo, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        if let Some(computed) = self.computed.get(&tensor.name) {
            return computed.bytes(range).map(Cow::Owned);
        }
        let bytes = self.stored_bytes(tensor, range)?;
        Ok(match (self.endian, tensor.elem.known()) {
            (Endian::Little, _) => bytes,
            (Endian::Big, Some(dtype)) => Cow::Owned(gguf::swap::to_little_endian(dtype, &bytes)),
            (Endian::Big, None) => return Err(unknown_size(tensor)),
        })
    }

    /// A range of a tensor's bytes as they are in the file, whatever its byte order.
    ///
    /// # Errors
    /// As for [`Reader::bytes_at`]; a computed tensor is in no file.
    pub fn stored_bytes(&self, tensor: &TensorInfo, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let len = self.len_bytes(tensor).ok_or_else(|| unknown_size(tensor))?;
        let outside =
            || Error::argument(format!("expected a range inside the {len} bytes of the tensor, found {range:?}")).in_tensor(&tensor.name);
        let source = self.sources.get(tensor.shard).ok_or_else(outside)?;
        if range.start > range.end || range.end > len || self.is_computed(tensor) {
            return Err(outside());
        }
        if range.is_empty() {
            return Ok(Cow::Borrowed(&[])); // a tensor without elements may lie behind the last byte, where padding was left out
        }
        let start = num::add(tensor.offset_bytes, range.start, "a tensor's start")?;
        let end = num::add(tensor.offset_bytes, range.end, "a tensor's end")?;
        if end > source.len() {
            return Err(outside());
        }
        let bytes = source.read(start..end)?;
        if bytes.len() as u64 != end - start {
            let message = format!("expected {} bytes, found {}", end - start, bytes.len());
            return Err(Error::truncated(message).at(start + bytes.len() as u64).in_tensor(&tensor.name).in_file(source.path()));
        }
        Ok(bytes)
    }
}

/// The distance from each tensor of unknown size to the next one of its file, or to the end of that.
fn spans(model: &Model) -> HashMap<String, u64> {
    if model.tensors.iter().all(|tensor| tensor.len_bytes.is_some()) {
        return HashMap::new();
    }
    let mut order: Vec<&TensorInfo> = model.tensors.iter().collect();
    order.sort_by_key(|tensor| (tensor.shard, tensor.offset_bytes));
    let mut spans = HashMap::new();
    let mut next: Option<&TensorInfo> = None;
    for tensor in order.into_iter().rev() {
        let end = match next.filter(|next| next.shard == tensor.shard) {
            Some(next) => next.offset_bytes,
            None => model.shards.get(tensor.shard).map_or(tensor.offset_bytes, |shard| shard.bytes),
        };
        if tensor.len_bytes.is_none() {
            spans.insert(tensor.name.clone(), end.saturating_sub(tensor.offset_bytes));
        }
        if tensor.len_bytes != Some(0) {
            next = Some(tensor);
        }
    }
    spans
}

fn unknown_size(tensor: &TensorInfo) -> Error {
    Error::unsupported(format!("expected a known type, found {}", tensor.elem))
        .in_tensor(&tensor.name)
        .hint("a newer weigh may know this type")
        .add_hint(Hint::ListTypes)
}
