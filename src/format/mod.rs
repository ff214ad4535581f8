//! File formats: reading and writing [`Model`]s. One module and one row of [`FORMATS`] per format.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::base::bytes::Endian;
use crate::base::finding::{Finding, Findings};
use crate::base::threads::{par, prelude::*};
use crate::base::{Error, ErrorKind, Hint, Result, limits, num, text};
use crate::model::{DType, ElemType, FormatId, Metadata, Model, PackedType, PackingSummary, TensorInfo, TypeName};
use crate::source::file::{self, Input};
use crate::source::{self, Data, Prefix, Source, place, remote, torn};

pub mod codes;
mod folder;
mod foreign;
pub mod gguf;
pub mod imatrix;
#[cfg(feature = "catalog")]
pub(crate) mod listing;
pub(crate) mod modules;
mod numpy;
mod ollama;
mod pytorch;
pub mod safetensors;
mod set;
pub mod shards;
mod strided;
mod template;
mod zip;

/// Number of bytes at the start of a file used to recognise its format.
pub(crate) const START_BYTES: usize = 4096;

/// A file format.
#[derive(Debug)]
pub struct Format {
    /// The format's ID.
    pub id: FormatId,
    /// The usual file extensions; the format is recognised by content nevertheless.
    pub extensions: &'static [&'static str],
    /// Returns how likely the start of a file is of this format, from 0 (not) to 100 (certain).
    pub probe: fn(start: &[u8], len: u64) -> u8,
    /// Opens a model, given any of its files. Violated rules go to `findings`, which decides whether to continue.
    pub open: fn(file: Prefix, findings: &mut Findings) -> Result<Reader>,
    /// Computes the layout of a file, if the format can be written.
    pub layout: Option<LayoutFn>,
    /// Replaces the metadata of a file without touching its tensors, if the format supports that.
    pub edit: Option<EditFn>,
    /// Whether the format can store tensors of a type.
    pub stores: fn(DType) -> bool,
}

/// Computes the layout of a whole file before anything is written: header, offsets, padding.
pub type LayoutFn = fn(tensors: &[OutTensor], metadata: &Metadata) -> Result<Layout>;

/// Returns the header that replaces the metadata `old` of a file by `new`. Changes that violate a rule are refused; with `force`, only
/// those that no reader could handle.
pub type EditFn = fn(file: &mut Prefix, old: &Metadata, new: &Metadata, force: bool) -> Result<EditedHeader>;

/// A replaced header: all bytes before the tensors, which follow unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditedHeader {
    /// The new header.
    pub bytes: Vec<u8>,
    /// Length of the header that it replaces, in bytes.
    pub old_bytes: u64,
}

/// A tensor to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutTensor {
    /// The name in the new file.
    pub name: String,
    /// The type in the new file. The bytes of an unknown type are copied, with `len_bytes` taken from the source.
    pub elem: ElemType,
    /// The dimensions, outermost first.
    pub shape: Vec<u64>,
    /// The size of its data in bytes.
    pub len_bytes: u64,
}

impl OutTensor {
    /// Checks that the size matches shape and type, unless the type is unknown.
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

/// The layout of a file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// All bytes before the first tensor's data.
    pub header: Vec<u8>,
    /// Absolute offset of each tensor's data, in the given order. Gaps are zero.
    pub offsets: Vec<u64>,
    /// The file size in bytes.
    pub total: u64,
}

/// All supported formats.
pub static FORMATS: &[Format] = &[safetensors::FORMAT, gguf::FORMAT, pytorch::FORMAT, numpy::FORMAT, imatrix::FORMAT];

/// Returns the row of a format.
pub(crate) fn format(id: FormatId) -> &'static Format {
    match id {
        FormatId::Safetensors => &safetensors::FORMAT,
        FormatId::Gguf => &gguf::FORMAT,
        FormatId::Imatrix => &imatrix::FORMAT,
        FormatId::PyTorch => &pytorch::FORMAT,
        FormatId::NumPy => &numpy::FORMAT,
    }
}

/// Opens the model at `path`: a file, any one file of a set, an index, a folder, a Hugging Face cache folder, an Ollama manifest.
///
/// # Errors
/// No supported model was found, or a file violates its format.
pub fn open(path: &Path) -> Result<Reader> {
    open_with(path, &mut Findings::stop_at_first())
}

/// Opens the model at `path` for its headers: this also succeeds if a file is truncated after its header, or files of the set are missing,
/// which [`Reader::lacks`] lists. Reading missing values is an error.
///
/// # Errors
/// As for [`open`], except for missing data.
pub fn open_headers(path: &Path) -> Result<Reader> {
    open_with(path, &mut Findings::headers())
}

/// Opens a model from a source. Related files (other shards, an index, a config) are only looked for if the source is a file on disk.
///
/// # Errors
/// As for [`open`].
pub fn open_source(source: Arc<dyn Source>) -> Result<Reader> {
    open_source_with(source, &mut Findings::stop_at_first())
}

/// Opens a model from a source for its headers, like [`open_headers`].
///
/// # Errors
/// As for [`open_headers`].
pub fn open_source_headers(source: Arc<dyn Source>) -> Result<Reader> {
    open_source_with(source, &mut Findings::headers())
}

/// Opens the model at `path` and collects all violated rules in `findings`, which should be in collecting mode.
///
/// Returns what could be read, without invalid tensors; `None` if nothing could be read.
///
/// # Errors
/// There is no such file, or it is of no supported format.
pub fn examine(path: &Path, findings: &mut Findings) -> Result<Option<Reader>> {
    examined(open_with(path, findings), findings)
}

/// Examines a model from a source, like [`examine`].
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
    let shown = path.to_str().and_then(remote::conceal).map(PathBuf::from);
    let path = shown.as_deref().unwrap_or(path);
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
            let passed_over = (file != path).then(|| folder::passed_over(&file)).flatten();
            return result.map(|mut reader| {
                reader.model.passed_over = passed_over;
                reader
            });
        }
    }
    Err(Error::malformed("the file keeps changing while it is opened").in_file(&file))
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
    if place::is_remote(path) {
        return Prefix::new(source::open(path)?);
    }
    let file = file::open_regular(path)?;
    torn::refuse_torn(path, &file)?;
    Prefix::new(source::from_file(&file, path)?)
}

/// Opens the model that `start` is a file of; `path` is the path that was given.
fn open_prefix(path: &Path, start: Prefix, findings: &mut Findings) -> Result<Reader> {
    let (file, has_neighbours) = (start.path().to_path_buf(), start.source().has_neighbours());
    let format = find_format(&start).map_err(|error| findings.fatal(codes::FILE_FOREIGN, error))?;
    let mut reader = (format.open)(start, findings).map_err(|error| error.in_file(&file))?;
    reader.model.path = path.to_path_buf();
    if findings.collects() {
        check_templates(&file, has_neighbours, &reader, findings);
    }
    if has_neighbours && matches!(format.id, FormatId::Safetensors | FormatId::PyTorch) {
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

/// Adds the config of the folder to the model, or the error of reading it.
fn add_config(reader: &mut Reader, path: &Path, findings: &mut Findings) {
    reader.add_beside(path);
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

/// Checks the chat templates of a model.
fn check_templates(file: &Path, has_neighbours: bool, reader: &Reader, findings: &mut Findings) {
    if reader.model.format == FormatId::Gguf {
        template::check_metadata(&reader.model.metadata, file, findings);
    } else if has_neighbours {
        template::check_folder(file::parent(file), findings);
    }
}

/// Resolves a path to the file to open.
///
/// # Errors
/// There is no such file, or the choice is ambiguous.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    let kind = match std::fs::metadata(path) {
        Ok(kind) => kind,
        Err(error) => return resolve_address(path, Error::io("cannot open", path, error)),
    };
    if kind.is_dir() {
        return folder::find_model(path);
    }
    if kind.is_file() && ollama::is_manifest(path) {
        return ollama::model_of(path);
    }
    Ok(path.to_path_buf())
}

/// Resolves a path that is not on disk, if it is an address or the name of a model on the Hub; a model in the local cache comes first.
fn resolve_address(path: &Path, absent: Error) -> Result<PathBuf> {
    let Some(address) = remote::locate(path)? else { return Err(like_name(path).into_iter().fold(absent, Error::hint)) };
    let cached = remote::cached(&address).and_then(|cached| resolve(&cached).ok());
    if let Some(file) = cached.filter(|file| safetensors::index::has_whole_set(file)) {
        return Ok(file);
    }
    if !place::is_dir(&address) {
        return Ok(address);
    }
    let is_name = path.to_str().is_some_and(|text| !text.contains("://"));
    folder::find_model(&address).map_err(|error| match is_name {
        true => error.add_hint(format!("there is no file {} either", path.display())),
        false => error,
    })
}

/// Returns the hint for a path at which there is nothing: the most similar name in its folder, if any.
fn like_name(path: &Path) -> Option<Hint> {
    if path == Path::new("-") {
        return Some("a model is read from a file: save standard input to one".into());
    }
    let entries = file::entries(file::parent(path)).ok()?;
    let names = entries.iter().filter_map(|entry| entry.file_name()?.to_str());
    let near = text::closest(path.file_name()?.to_str()?, names)?;
    Some(Hint::DidYouMean(text::shorten(&path.with_file_name(near).to_string_lossy()).into_owned()))
}

/// Returns the start of a file, by which its format is recognised.
fn start_of(file: &Prefix) -> Result<Data<'_>> {
    let len = file.len().min(START_BYTES as u64);
    match file.bytes().get(..len as usize) {
        Some(start) => Ok(Data::Borrowed(start)),
        None => file.source().read(0..len),
    }
}

/// Recognises the format of a file by its content, or by its name if the content is inconclusive.
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
        Error::unsupported(format!("not a {} file", names.join(" or "))).in_file(file.path()).hint(hint)
    })
}

/// An open model: its headers, and access to the data of its tensors.
///
/// Opening reads only the headers; the bytes of a tensor are borrowed from a mapped file or from memory.
#[derive(Debug, Clone)]
pub struct Reader {
    model: Model,
    sources: Vec<Arc<dyn Source>>,
    endian: Endian,
    computed: HashMap<String, Arc<dyn Computed>>,
    /// Files on disk read in addition to `sources`: index, config, adapters.
    beside: Vec<Input>,
    /// The same of what is not on disk: files at addresses, bytes in memory.
    beside_elsewhere: Vec<Arc<dyn Source>>,
    /// Sizes of the tensors of unknown type, by name: up to the next tensor or the end of the file.
    spans: Arc<HashMap<String, u64>>,
    lacks: Vec<Finding>,
    /// Checksums of ranges of the files.
    checksums: Arc<Vec<Checksum>>,
    packing: OnceLock<Option<PackingSummary>>,
}

/// A checksum of a range of a file, as an archive has of its entries.
#[derive(Debug, Clone)]
pub struct Checksum {
    /// The file, by its index in [`Model::shards`].
    pub shard: usize,
    /// The name of the entry.
    pub name: String,
    /// Its bytes in the file.
    pub bytes: Range<u64>,
    /// The CRC-32 of these, or of what they decode to.
    pub crc: u32,
    /// The decoded bytes, if they are deflated.
    pub decoded: Option<Arc<dyn Source>>,
}

/// A tensor computed on access (unpacked or merged) rather than stored.
pub trait Computed: fmt::Debug + Send + Sync {
    /// Returns a range of the tensor's little-endian bytes, relative to its start.
    ///
    /// # Errors
    /// The underlying data cannot be read.
    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>>;

    /// Returns the default type for storing the tensor, if it differs from the type in which it is computed.
    fn suggested(&self) -> Option<DType> {
        None
    }

    /// Returns its stored size in bytes, if different from its size here.
    fn stored_size(&self) -> Option<u64> {
        None
    }

    /// Returns the packing scheme in which it is stored.
    fn packed(&self) -> Option<PackedType> {
        None
    }

    /// Returns the weight scale and the activation scale that a GGUF multiplies the values of its blocks by, if any.
    fn scales(&self) -> Option<[Option<f32>; 2]> {
        None
    }
}

impl Reader {
    /// Returns a reader; `sources[i]` is the file of `model.shards[i]`, and numbers in tensors are in byte order `endian`.
    pub fn new(model: Model, sources: Vec<Arc<dyn Source>>, endian: Endian) -> Self {
        let spans = Arc::new(spans(&model));
        Self {
            model,
            sources,
            endian,
            computed: HashMap::new(),
            beside: Vec::new(),
            beside_elsewhere: Vec::new(),
            spans,
            lacks: Vec::new(),
            checksums: Arc::default(),
            packing: OnceLock::new(),
        }
    }

    /// Returns another view of an open model, in which the tensors named in `computed` are computed and the others are those of `stored`.
    pub fn computed(stored: &Self, model: Model, computed: HashMap<String, Arc<dyn Computed>>) -> Self {
        let mut all = stored.computed.clone();
        all.extend(computed);
        Self {
            model,
            computed: all,
            sources: stored.sources.clone(),
            endian: stored.endian,
            beside: stored.beside.clone(),
            beside_elsewhere: stored.beside_elsewhere.clone(),
            spans: stored.spans.clone(),
            lacks: stored.lacks.clone(),
            checksums: Arc::clone(&stored.checksums),
            packing: stored.packing.clone(),
        }
    }

    /// Adds the inputs of other models, such as adapters.
    #[must_use]
    pub fn with_inputs_of<'r>(mut self, readers: impl IntoIterator<Item = &'r Self>) -> Self {
        for reader in readers {
            self.beside.extend(reader.inputs().cloned());
            let elsewhere = reader.sources.iter().filter(|source| source.file().is_none());
            self.beside_elsewhere.extend(elsewhere.chain(&reader.beside_elsewhere).cloned());
        }
        self
    }

    /// Returns what is below a key of a nested checkpoint: its tensors under names without the key.
    ///
    /// # Errors
    /// There is nothing below it.
    pub fn rooted(&self, key: &str) -> Result<Self> {
        let root = format!("{key}.");
        let mut model = self.model.clone();
        model.tensors.retain_mut(|tensor| tensor.name.strip_prefix(&root).map(str::to_owned).map(|name| tensor.name = name).is_some());
        if model.tensors.is_empty() {
            let keys: BTreeSet<&str> = self.model.tensors.iter().filter_map(|tensor| Some(tensor.name.split_once('.')?.0)).collect();
            let keys: Vec<&str> = keys.into_iter().take(8).collect();
            let error = Error::argument(format!("no tensors under {key}")).in_file(&self.model.path);
            return Err(if keys.is_empty() { error } else { error.hint(format!("there are some under {}", keys.join(", "))) });
        }
        if let Some(checkpoint) = &model.checkpoint {
            model.checkpoint = Some(checkpoint.under(&root));
            let values = self.model.metadata.iter().filter_map(|(key, value)| Some((key.strip_prefix(&root)?, value)));
            model.metadata = Metadata::new();
            values.for_each(|(key, value)| drop(model.metadata.set(key, value.clone())));
        }
        let computed =
            self.computed.iter().filter_map(|(name, computed)| Some((name.strip_prefix(&root)?.to_owned(), Arc::clone(computed))));
        let mut reader = Self { computed: computed.collect(), model, ..self.clone() };
        reader.spans = Arc::new(spans(&reader.model));
        reader.packing = OnceLock::new();
        Ok(reader)
    }

    /// Returns the model without the tensors that share their memory with another, which stands for them.
    #[must_use]
    pub fn untied(self) -> Self {
        self.untied_unless(|_| false)
    }

    /// Like [`Self::untied`], but keeps the tensors of these names.
    #[must_use]
    pub fn untied_unless(mut self, keep: impl Fn(&str) -> bool) -> Self {
        if let Some(checkpoint) = self.model.checkpoint.as_ref().filter(|checkpoint| !checkpoint.tied.is_empty()) {
            let tied: HashSet<&str> = checkpoint.tied.iter().map(|tied| tied.name.as_str()).filter(|name| !keep(name)).collect();
            self.model.tensors.retain(|tensor| !tied.contains(tensor.name.as_str()));
        }
        self
    }

    /// Adds a file to the inputs, if there is one.
    pub(in crate::format) fn add_beside(&mut self, path: &Path) {
        if place::is_remote(path) {
            self.beside_elsewhere.extend(place::open(path).ok());
        } else {
            self.beside.extend(Input::of(path).ok());
        }
    }

    /// Opens what the model was read from in addition to its [`sources`](Reader::sources): index, config, adapters.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub fn open_beside(&self) -> Result<Vec<Arc<dyn Source>>> {
        let on_disk = self.beside.iter().map(|input| place::open(input.path()));
        on_disk.chain(self.beside_elsewhere.iter().cloned().map(Ok)).collect()
    }

    /// Returns a text model together with its encoder of pictures or sounds, both GGUF: the tensors of both, and the keys that describe them.
    ///
    /// # Errors
    /// `projector` is no such encoder.
    pub fn with_projector(mut self, projector: Self) -> Result<Self> {
        let own = &projector.model;
        if own.metadata.get_str("general.type") != Some("mmproj") || own.format != self.model.format || projector.endian != self.endian {
            let message = "expected the GGUF of an encoder of pictures or sounds (general.type mmproj)";
            return Err(Error::unsupported(message).in_file(&own.path));
        }
        if let Some(tensor) = own.tensors.iter().find(|tensor| self.model.tensor(&tensor.name).is_some()) {
            return Err(Error::malformed("this tensor is in the text model too").in_tensor(&tensor.name).in_file(&own.path));
        }
        let shards = self.model.shards.len();
        self.model.tensors.extend(own.tensors.iter().map(|tensor| TensorInfo { shard: tensor.shard + shards, ..tensor.clone() }));
        self.model.shards.extend(own.shards.iter().cloned());
        for (key, value) in own.metadata.iter().filter(|(key, _)| key.starts_with("clip.")) {
            self.model.metadata.set(key, value.clone());
        }
        self.sources.extend(projector.sources);
        self.beside.extend(projector.beside);
        self.beside_elsewhere.extend(projector.beside_elsewhere);
        self.spans = Arc::new(spans(&self.model));
        Ok(self)
    }

    /// Returns the files on disk that the model was read from: weights, index, config, merged adapters.
    pub fn inputs(&self) -> impl Iterator<Item = &Input> {
        self.sources.iter().filter_map(|source| source.file()).chain(&self.beside)
    }

    /// Returns the paths of [`Reader::inputs`].
    pub fn input_paths(&self) -> Vec<PathBuf> {
        self.inputs().map(|input| input.path().to_path_buf()).collect()
    }

    /// Checks that no input file has changed since the model was opened, so that results computed from its values are consistent.
    ///
    /// # Errors
    /// A file was modified, replaced or removed.
    pub fn check_unchanged(&self) -> Result<()> {
        self.sources.iter().try_for_each(|source| source.check_unchanged())?;
        self.beside.iter().try_for_each(Input::check_unchanged)
    }

    /// Records the summary of packed weights. The first one stays, and passes to all views of the model.
    pub fn record_packing(&self, packing: impl FnOnce() -> Option<PackingSummary>) {
        self.packing.get_or_init(packing);
    }

    /// Returns the recorded summary of packed weights; `None` if they have not been looked for.
    pub fn packing(&self) -> Option<Option<&PackingSummary>> {
        self.packing.get().map(Option::as_ref)
    }

    /// Returns the displayed type of a tensor: its packing scheme if it is computed from packed weights.
    pub fn type_name(&self, tensor: &TensorInfo) -> TypeName {
        TypeName { elem: tensor.elem, packed: self.computed.get(&tensor.name).and_then(|computed| computed.packed()) }
    }

    /// Returns the stored size of a tensor in bytes, including scales; 0 if its type is unknown.
    pub fn stored_size(&self, tensor: &TensorInfo) -> u64 {
        self.computed.get(&tensor.name).and_then(|computed| computed.stored_size()).or(tensor.len_bytes).unwrap_or(0)
    }

    /// Returns the per-tensor scales (weight and activation) of a block-quantised tensor.
    pub fn block_scales(&self, tensor: &TensorInfo) -> Option<[Option<f32>; 2]> {
        self.computed.get(&tensor.name)?.scales()
    }

    /// Whether a tensor is computed rather than stored.
    pub fn is_computed(&self, tensor: &TensorInfo) -> bool {
        self.computed.contains_key(&tensor.name)
    }

    /// Returns the default type for storing a computed tensor, if it differs from its own.
    pub fn suggested(&self, tensor: &TensorInfo) -> Option<DType> {
        self.computed.get(&tensor.name)?.suggested()
    }

    /// Returns the missing parts of the model: files of the set or (see [`open_headers`]) ends of files. Empty if opened by [`examine`].
    pub fn lacks(&self) -> &[Finding] {
        &self.lacks
    }

    /// Returns the missing files of the set, whose tensors are not known.
    pub fn missing_files(&self) -> impl Iterator<Item = &Finding> {
        self.lacks.iter().filter(|finding| finding.tensors.is_empty())
    }

    /// Checks the checksums that the files have of their parts; returns how many.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn check_checksums(&self, findings: &mut Findings) -> Result<u64> {
        let computed: Vec<Result<u32>> = par(&self.checksums[..])
            .map(|checksum| match (&checksum.decoded, self.sources.get(checksum.shard)) {
                (Some(decoded), _) => zip::crc32(&**decoded, 0..decoded.len()),
                (None, Some(source)) => zip::crc32(&**source, checksum.bytes.clone()),
                (None, None) => Ok(checksum.crc),
            })
            .collect();
        for (checksum, found) in self.checksums.iter().zip(computed) {
            let error = match found {
                Ok(found) if found == checksum.crc => continue,
                Ok(found) => zip::wrong_crc(&checksum.name, checksum.crc, found).at(checksum.bytes.start),
                Err(error) if checksum.decoded.is_some() && error.kind() != ErrorKind::Io => error,
                Err(error) => return Err(error),
            };
            if let Some(source) = self.sources.get(checksum.shard) {
                findings.note_error(codes::ZIP_CRC, &error.in_file(source.path()));
            }
        }
        Ok(self.checksums.len() as u64)
    }

    /// Returns the number of checksums that the files have of their parts.
    pub fn checksums(&self) -> u64 {
        self.checksums.len() as u64
    }

    /// Returns the model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Returns the files in the order of [`Model::shards`].
    pub fn sources(&self) -> &[Arc<dyn Source>] {
        &self.sources
    }

    /// Returns the byte order of the numbers in tensors.
    pub fn endian(&self) -> Endian {
        self.endian
    }

    /// Returns the size of a tensor in its file. For an unknown type, this is everything up to the next tensor, including padding.
    pub fn len_bytes(&self, tensor: &TensorInfo) -> Option<u64> {
        tensor.len_bytes.or_else(|| self.spans.get(&tensor.name).copied())
    }

    /// Returns the size of the blocks in which the files are received, as [`Source::block_bytes`] does.
    pub fn block_bytes(&self) -> Option<u64> {
        self.sources.iter().find_map(|source| source.block_bytes())
    }

    /// Whether files of the model are read over a network.
    pub fn is_remote(&self) -> bool {
        self.sources.iter().any(|source| source.has_neighbours() && source.file().is_none())
    }

    /// Announces that the values of tensors will be read, roughly in order: remote files are then read ahead.
    pub fn announce<'t>(&self, tensors: impl IntoIterator<Item = &'t TensorInfo>) {
        if self.sources.iter().all(|source| source.file().is_some()) {
            return;
        }
        let mut ranges: Vec<Vec<Range<u64>>> = vec![Vec::new(); self.sources.len()];
        for tensor in tensors {
            if self.is_computed(tensor) {
                // From tensors that only the computation knows.
                self.sources.iter().zip(&mut ranges).for_each(|(source, ranges)| ranges.push(0..source.len()));
                break;
            }
            let end = tensor.offset_bytes.saturating_add(self.len_bytes(tensor).unwrap_or(0));
            if let Some(ranges) = ranges.get_mut(tensor.shard) {
                ranges.push(tensor.offset_bytes..end);
            }
        }
        self.announce_ranges(&ranges);
    }

    /// Announces ranges of each file that will be read, roughly in order.
    pub fn announce_ranges(&self, ranges: &[Vec<Range<u64>>]) {
        self.sources.iter().zip(ranges).for_each(|(source, ranges)| source.announce(ranges));
    }

    /// Returns a tensor's bytes, little-endian: borrowed if possible, copied if the file is big-endian.
    ///
    /// # Errors
    /// The size of the type is unknown, or the tensor is not in this model and out of bounds.
    pub fn bytes(&self, tensor: &TensorInfo) -> Result<Data<'_>> {
        let len = self.len_bytes(tensor).ok_or_else(|| unknown_size(tensor))?;
        self.bytes_at(tensor, 0..len)
    }

    /// Returns a range of a tensor's bytes, little-endian, relative to its start. In a big-endian file it must consist of whole blocks.
    ///
    /// # Errors
    /// As for [`Reader::bytes`]; or the range is out of bounds.
    pub fn bytes_at(&self, tensor: &TensorInfo, range: Range<u64>) -> Result<Data<'_>> {
        if let Some(computed) = self.computed.get(&tensor.name) {
            return computed.bytes(range).map(Data::Owned);
        }
        let bytes = self.stored_bytes(tensor, range)?;
        Ok(match (self.endian, tensor.elem.known()) {
            (Endian::Little, _) => bytes,
            (Endian::Big, Some(dtype)) => Data::Owned(gguf::swap::to_little_endian(dtype, &bytes)),
            (Endian::Big, None) => return Err(unknown_size(tensor)),
        })
    }

    /// Returns a range of a tensor's bytes as stored, in the file's byte order.
    ///
    /// # Errors
    /// As for [`Reader::bytes_at`]; or the tensor is computed.
    pub fn stored_bytes(&self, tensor: &TensorInfo, range: Range<u64>) -> Result<Data<'_>> {
        let len = self.len_bytes(tensor).ok_or_else(|| unknown_size(tensor))?;
        let outside =
            || Error::argument(format!("expected a range inside the {len} bytes of the tensor, found {range:?}")).in_tensor(&tensor.name);
        let source = self.sources.get(tensor.shard).ok_or_else(outside)?;
        if range.start > range.end || range.end > len || self.is_computed(tensor) {
            return Err(outside());
        }
        if range.is_empty() {
            return Ok(Data::Borrowed(&[])); // an empty tensor may lie beyond the end if padding was omitted
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

/// Returns the distance from each tensor of unknown size to the next tensor, or to the end of the file.
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
