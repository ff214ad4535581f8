//! The plan of a conversion: complete before the first byte is written.

use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::base::{Error, Hint, Result, num};
use crate::family::comfy;
use crate::family::tables::Tables;
use crate::format::shards::{self, PlannedFile};
use crate::format::{self, Format, OutTensor, Reader, modules};
use crate::model::companion::{CompanionFile, Content, Note};
use crate::model::{ElemType, FormatId, Metadata, Value};
use crate::ops::convert::loss::Loss;
use crate::ops::convert::manifest::PlannedPart;
use crate::ops::convert::options::Options;
use crate::ops::convert::size::SizedMix;
use crate::ops::convert::{gguf_weights, keep, like, pack, prune, size, translate, types};
use crate::ops::tensor_data::TensorData;
use crate::quant::imatrix::Imatrix;
use crate::quant::pack::{Form, PackOptions, Packing, is_packing};
use crate::quant::recipe::{self, Target, TensorType};
use crate::source::file::{parent, same_file};
use crate::source::place;
use crate::view::lora;
use crate::view::output_model::{OutputModel, OutputTensor};
use crate::view::tensor_expr::{self, TensorExpr};
use crate::write::output;

/// A fully planned conversion, including the position of every tensor in every file.
#[derive(Debug)]
pub struct Plan {
    /// The format of the output.
    pub format: &'static Format,
    /// Path of the output, as given.
    pub out: PathBuf,
    /// The tensors in output order.
    pub tensors: Vec<OutputTensor>,
    /// The files with tensors and their index, in order of publication.
    pub files: Vec<PlannedFile>,
    /// Companion files.
    pub companions: Vec<CompanionFile>,
    /// Files of an older output of the same name that are removed when the new ones appear, except those replaced by name. An index comes
    /// last.
    pub removed: Vec<PathBuf>,
    /// All files that are read: none of them is replaced or removed.
    pub inputs: Vec<PathBuf>,
    /// The part that is executed; all of it if `None`. The files and companion files are those of the part.
    pub part: Option<PlannedPart>,
    /// Path of the weight file before sharding.
    pub(super) weights: PathBuf,
    /// Sets of weights that share a global scale.
    pub(super) wholes: Vec<Vec<OutputTensor>>,
    /// Losses beyond the requested type.
    pub lossy: Vec<Loss>,
    /// Notes about dropped, zero-padded and synthesised parts.
    pub notes: Vec<Note>,
    /// The importance matrix.
    pub imatrix: Option<Imatrix>,
    /// How the types were chosen for a size.
    pub mix: Option<SizedMix>,
    /// The first tensor whose type requires importance weights that are missing. Such a plan can be shown, but not executed.
    pub lacks_imatrix: Option<String>,
    /// Whether existing output is overwritten.
    pub force: bool,
    /// Whether the output is read back and compared before it is renamed into target.
    pub verify: bool,
    /// Whether values that overflow or become zero are an error.
    pub strict: bool,
    /// Whether quantisation error is measured.
    pub quality: bool,
}

impl Plan {
    /// Plans the conversion of an open model to the file or folder `out`.
    ///
    /// # Errors
    /// The request is impossible or forbidden by the options: nothing has been written.
    pub fn new(reader: &Reader, out: &Path, options: &Options) -> Result<Self> {
        let mut plan = Self::unchecked(reader, out, options, options.force)?;
        plan.check_targets()?;
        Ok(plan)
    }

    /// Plans the conversion without looking at what is there already, except that an output that exists is refused unless `may_exist`.
    pub(super) fn unchecked(reader: &Reader, out: &Path, options: &Options, may_exist: bool) -> Result<Self> {
        let target = OutputTarget::of(out, options.to)?;
        target.check(reader, may_exist)?;
        let mut imatrix = importance(options)?;
        let none_left = imatrix.is_none() && options.imatrix.is_some();
        // As in llama-quantize, a matrix without entries is none.
        let options = &Options { imatrix: options.imatrix.clone().filter(|_| !none_left), ..options.clone() };
        let OutputModel { mut metadata, mut tensors, files: mut companions, modules, mut notes, inputs: other_inputs, zeros } =
            output_model(reader, &target, options)?;
        zeros.iter().try_for_each(|&index| check_zero(reader, index))?;
        let modules = if target.folder { modules } else { Vec::new() };
        if !target.folder {
            notes.extend(companions.drain(..).map(|file| Note::dropped(file.name, "only a folder has companion files")));
        }
        if none_left {
            notes.push(Note::remark("importance matrix", "none of its entries is used; quantised without"));
        }
        if !options.prune_layers.is_empty() {
            let renumbered = prune::prune(&options.prune_layers, &mut metadata, &mut tensors, &mut notes)?;
            if let Some(imatrix) = &mut imatrix {
                imatrix.rename(|name| renumbered.name(name));
            }
        }
        let mut recorded = metadata.clone();
        types::record(target.format, &mut recorded, imatrix.as_ref(), options)?;
        for (key, value) in &options.metadata {
            recorded.set(key, keep::value_for(target.format, value)?);
        }
        let typed = |rules: &[TensorType]| {
            let options = Options { tensor_types: [&options.tensor_types, rules].concat(), ..options.clone() };
            let mut tensors = tensors.clone();
            let decisions = types::choose_types(reader, target.format, &mut tensors, &metadata, imatrix.as_ref(), &options)?;
            gguf_weights::block_scales(reader, &mut tensors)?;
            Ok((decisions, tensors))
        };
        let lay_out = |tensors: &mut Vec<OutputTensor>, recorded: &Metadata| {
            tensors.sort_by_key(|tensor| module_number(&modules, &tensor.name));
            let layout = tensors.iter().map(|tensor| out_tensor(reader, tensor)).collect::<Result<Vec<_>>>()?;
            if options.keep_split {
                let ranges = ranges_of_shards(reader, tensors)?;
                shards::layout_ranges(target.format, &target.weights, &layout, recorded, &ranges)
            } else {
                target.layout(&layout, recorded, &modules, options.shard_bytes)
            }
        };
        let request =
            size::Request { reader, format: target.format, tensors: &tensors, metadata: &metadata, imatrix: imatrix.as_ref(), options };
        let (rules, mix) = match (options.size, options.like.as_deref()) {
            (Some(size), _) => {
                let bytes_of = |rules: &[TensorType]| Ok(total_bytes(&lay_out(&mut typed(rules)?.1, &recorded)?));
                let (rules, mix) = request.choose(size, bytes_of)?;
                (rules, Some(mix))
            }
            (None, Some(like)) => (like::rules(&request, like, &mut notes)?, None),
            (None, None) => (Vec::new(), None),
        };
        let (mut decisions, mut tensors) = typed(&rules)?;
        let mut wholes = Vec::new();
        if let Some(packing) = &options.packing {
            if !target.folder {
                let error = Error::argument(format!("{packing} needs a folder: config.json says how the weights are packed"));
                return Err(error.in_file(out).hint("end its name in /"));
            }
            let mut packed = pack::Packed { tensors, metadata: recorded, companions, notes, lossy: decisions.lossy };
            wholes = pack::apply(reader, packing, &mut packed, options)?;
            pack::Packed { tensors, metadata: recorded, companions, notes, lossy: decisions.lossy } = packed;
        }
        let files = lay_out(&mut tensors, &recorded)?;
        notes.extend(decisions.notes);
        if options.strict
            && let Some(loss) = decisions.lossy.iter().find(|loss| !loss.exact)
        {
            return Err(loss.to_error());
        }
        let inputs = inputs(reader, &companions, other_inputs, imatrix.as_ref(), options)?;
        Ok(Self {
            format: target.format,
            out: out.to_path_buf(),
            tensors,
            files,
            companions,
            removed: Vec::new(),
            part: None,
            inputs,
            weights: target.weights,
            wholes,
            lossy: decisions.lossy,
            notes,
            imatrix,
            mix,
            lacks_imatrix: decisions.lacks_imatrix,
            force: options.force,
            verify: options.verify,
            strict: options.strict,
            quality: !options.no_quality,
        })
    }

    /// Finds what the output replaces, and checks every path that is written or removed.
    pub(super) fn check_targets(&mut self) -> Result<()> {
        output::check_parent(&self.out)?;
        self.removed = self.stale_files()?;
        let weights = self.files.iter().map(|file| file.path.clone());
        let manifest = self.part.iter().map(|part| part.manifest.clone());
        let mut all = weights.chain(self.companion_targets()).chain(manifest).chain(self.removed.iter().cloned());
        all.try_for_each(|path| output::check_name(&path, self.force, &self.inputs))
    }

    /// Returns the output folder, if the output is one.
    pub fn folder(&self) -> Option<&Path> {
        self.files.first().and_then(|file| file.path.parent()).filter(|folder| *folder == self.out)
    }

    /// Returns the files of an older output that are not replaced by name: weight files and, in a folder, the list of modules, which readers
    /// would combine with the new weights. The list comes first and is removed last: without it the older model would open as a different
    /// one.
    fn stale_files(&self) -> Result<Vec<PathBuf>> {
        if !self.force || self.part.is_some() {
            return Ok(Vec::new());
        }
        let list = self.folder().map(|folder| folder.join(modules::LIST));
        let list = list.filter(|list| !self.companion_targets().contains(list));
        let list = list.map(|list| Ok(place::has_file(&list)?.then_some(list))).transpose()?.flatten();
        let mut stale: Vec<PathBuf> = list.into_iter().collect();
        stale.extend(shards::older(self.format, &self.weights, &self.files)?);
        Ok(stale)
    }

    /// Checks the output location again. Files that appeared there since the plan was made must not be removed.
    ///
    /// # Errors
    /// A file appeared that a reader would take for a part of this model.
    pub(super) fn check_removed(&self) -> Result<()> {
        match self.stale_files()?.iter().find(|path| !self.removed.contains(path)) {
            None => Ok(()),
            Some(path) => Err(Error::argument("a file of the older output was written during the conversion")
                .in_file(path)
                .hint("run again to replace it as well")),
        }
    }

    /// Returns the output paths of the companion files.
    pub(super) fn companion_targets(&self) -> Vec<PathBuf> {
        self.companions.iter().map(|file| self.out.join(&file.name)).collect()
    }

    /// Returns the tensors that are written, in the order of the files.
    pub(super) fn written(&self) -> impl Iterator<Item = &OutputTensor> {
        let ranges = self.files.iter().filter_map(|file| match &file.content {
            shards::FileContent::Tensors(range, _) => self.tensors.get(range.clone()),
            shards::FileContent::Bytes(_) => None,
        });
        ranges.flatten()
    }

    /// Returns the total size of the output files in bytes.
    pub fn bytes_out(&self) -> u64 {
        total_bytes(&self.files)
    }

    /// Returns the matrices of the output and their types as llama-quantize's `--tensor-type-file` takes them.
    pub fn mix_text(&self) -> String {
        let matrices = self.tensors.iter().filter(|tensor| tensor.shape.len() > 1);
        recipe::mix_text(matrices.filter_map(|tensor| Some((tensor.name.as_str(), tensor.elem.known()?))))
    }
}

fn total_bytes(files: &[PlannedFile]) -> u64 {
    files.iter().map(PlannedFile::bytes).sum()
}

/// Opens the importance matrix, with the entries to use; `None` if none is given.
fn importance(options: &Options) -> Result<Option<Imatrix>> {
    let Some(path) = options.imatrix.as_deref() else { return Ok(None) };
    let mut imatrix = Imatrix::open(path)?;
    let has = |pieces: &[String], name: &str| pieces.iter().any(|piece| name.contains(piece.as_str()));
    let (included, excluded) = (&options.include_weights, &options.exclude_weights);
    imatrix.retain(|name| (included.is_empty() || has(included, name)) && !has(excluded, name));
    Ok((!imatrix.is_empty() || (included.is_empty() && excluded.is_empty())).then_some(imatrix))
}

/// Returns the tensors of each file of a split input, as ranges of the output's tensors.
fn ranges_of_shards(reader: &Reader, tensors: &[OutputTensor]) -> Result<Vec<Range<usize>>> {
    let model = reader.model();
    if model.format != FormatId::Gguf {
        return Err(Error::argument("only the split of a GGUF can be kept").in_file(&model.path).hint(Hint::Split));
    }
    let shard_of = |tensor: &OutputTensor| match &tensor.tensors()[..] {
        [index] => model.tensors.get(*index).map(|tensor| tensor.shard),
        _ => None,
    };
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for (index, tensor) in tensors.iter().enumerate() {
        let shard = shard_of(tensor).filter(|shard| shard + 1 >= ranges.len());
        let shard = shard.ok_or_else(|| Error::unsupported("is not in the order of the files of the input").in_tensor(&tensor.name))?;
        ranges.resize(shard + 1, index..index);
        if let Some(last) = ranges.last_mut() {
            last.end = index + 1;
        }
    }
    Ok(ranges)
}

/// Returns all files that are read. Which companion files are read depends on the architecture: all of them count.
fn inputs(
    reader: &Reader,
    companions: &[CompanionFile],
    other_inputs: Vec<PathBuf>,
    imatrix: Option<&Imatrix>,
    options: &Options,
) -> Result<Vec<PathBuf>> {
    let in_folder = keep::companions(reader.model())?;
    let copied = companions.iter().chain(&in_folder).filter_map(|file| match &file.content {
        Content::Copy(path) => Some(path.clone()),
        Content::Bytes(_) => None,
    });
    let readers = || std::iter::once(reader).chain(imatrix.iter().map(|imatrix| imatrix.reader()));
    let on_disk = readers().flat_map(Reader::inputs).map(|input| input.path().to_path_buf());
    let at_addresses = readers().flat_map(Reader::sources).map(|source| source.path().to_path_buf()).filter(|path| place::is_remote(path));
    let mut inputs: Vec<PathBuf> = on_disk.chain(at_addresses).chain(copied).chain(other_inputs).collect();
    inputs.extend(options.arch_table.clone());
    inputs.extend(options.like.clone());
    inputs.extend(options.base.as_deref().map(lora::base_file).transpose()?);
    inputs.sort_unstable();
    inputs.dedup();
    Ok(inputs)
}

/// Returns the output model before types are chosen: names and layouts are translated if the architecture is known.
fn output_model(reader: &Reader, target: &OutputTarget, options: &Options) -> Result<OutputModel> {
    // Read even if unused: a missing table is an error.
    let tables = Tables::with_file(options.arch_table.as_deref())?;
    if let Some(error) = reader.model().config_error.as_ref().filter(|_| !options.keeps_names()) {
        return Err(error.clone().with_hint(Hint::KeepNames));
    }
    if !options.keeps_names()
        && let Some(model) = translate::output_model(reader, target.format, &tables, options)?
    {
        return Ok(model);
    }
    let mut model = keep::output_model(reader, target.format, target.folder, options.target)?;
    let translates = [reader.model().format, target.format.id].contains(&FormatId::Gguf);
    if !options.keeps_names() && translates && reader.model().format != target.format.id {
        let (name, lack) = match (target.format.id, &reader.model().config) {
            (FormatId::Gguf, None) => ("config.json", "is missing"),
            (FormatId::Gguf, Some(_)) => ("config.json", "names no architecture"),
            _ => ("general.architecture", "is missing"),
        };
        let message = if comfy::is_diffusion(reader.model()) {
            "belongs to a diffusion model, whose tensors keep their original names in GGUF".to_owned()
        } else {
            format!("{lack}, so the architecture is unknown: tensors keep their names and layouts")
        };
        model.notes.push(Note::remark(name, message));
    }
    Ok(model)
}

/// Returns a tensor of the output for its layout.
fn out_tensor(reader: &Reader, tensor: &OutputTensor) -> Result<OutTensor> {
    let len_bytes = match tensor.elem {
        ElemType::Known(dtype) => dtype.bytes_for_shape(&tensor.shape),
        ElemType::Unknown { .. } => {
            let whole = TensorData::new(reader, tensor)?.stored_tensor().and_then(|tensor| reader.len_bytes(tensor));
            whole.ok_or_else(|| Error::unsupported(format!("expected a known type, found {}", tensor.elem)))
        }
    };
    let len_bytes = len_bytes.map_err(|error| error.in_tensor(&tensor.name))?;
    num::to_usize(tensor.row_elements(), "a row")?;
    Ok(OutTensor { name: tensor.name.clone(), elem: tensor.elem, shape: tensor.shape.clone(), len_bytes })
}

/// Returns the index of the sentence-transformers module that a tensor belongs to, from 1; 0 for the transformer itself.
fn module_number(modules: &[String], tensor: &str) -> usize {
    let is_of = |module: &String| tensor.strip_prefix(module.as_str()).is_some_and(|rest| rest.starts_with('.'));
    modules.iter().position(is_of).map_or(0, |number| number + 1)
}

/// Location, kind and format of the output.
#[derive(Debug)]
pub(super) struct OutputTarget {
    pub(super) format: &'static Format,
    /// Path of the weight file before sharding.
    weights: PathBuf,
    /// Whether the output is a folder.
    folder: bool,
    out: PathBuf,
}

impl OutputTarget {
    pub(super) fn of(out: &Path, to: Option<FormatId>) -> Result<Self> {
        place::check_scheme(out)?;
        place::refresh(out);
        let slash = out.as_os_str().as_encoded_bytes().ends_with(b"/");
        let is_folder = slash || place::is_dir(out);
        let extension = out.extension().and_then(OsStr::to_str).filter(|_| !is_folder);
        let by_extension = |extension: &str| writable(|format| format.extensions.iter().any(|own| own.eq_ignore_ascii_case(extension)));
        let format = match (to, extension) {
            (Some(id), _) => writable(|format| format.id == id).ok_or_else(|| not_writable(id.name()))?,
            (None, None) => format::format(FormatId::Safetensors),
            (None, Some(extension)) => by_extension(extension).ok_or_else(|| {
                Error::argument(format!("expected .gguf, .safetensors or a folder to write, found .{extension}"))
                    .in_file(out)
                    .hint(Hint::NameFormat)
            })?,
        };
        let folder = is_folder || (extension.is_none() && format.id == FormatId::Safetensors);
        if folder && format.id != FormatId::Safetensors {
            return Err(Error::argument(format!("expected a file name for {} output, found a folder", format.id)).in_file(out));
        }
        let weights = if folder { out.join("model.safetensors") } else { out.to_path_buf() };
        Ok(Self { format, weights, folder, out: out.to_path_buf() })
    }

    /// Lays out the files: the weight files, then one for each module in its folder. Tensors are in module order.
    fn layout(&self, tensors: &[OutTensor], metadata: &Metadata, modules: &[String], shard_bytes: Option<u64>) -> Result<Vec<PlannedFile>> {
        let start = |number: usize| tensors.partition_point(|tensor| module_number(modules, &tensor.name) < number);
        let mut files = shards::layout(self.format, &self.weights, &tensors[..start(1)], metadata, shard_bytes)?;
        for (i, module) in modules.iter().enumerate() {
            let range = start(i + 1)..start(i + 2);
            let own = |tensor: &OutTensor| OutTensor { name: tensor.name[module.len() + 1..].to_owned(), ..tensor.clone() };
            let own: Vec<OutTensor> = tensors[range.clone()].iter().map(own).collect();
            let mut keys = Metadata::new();
            keys.set("format", Value::String("pt".to_owned()));
            for mut file in shards::layout(self.format, &self.out.join(module).join("model.safetensors"), &own, &keys, None)? {
                if let shards::FileContent::Tensors(tensors, _) = &mut file.content {
                    *tensors = range.start + tensors.start..range.start + tensors.end;
                }
                files.push(file);
            }
        }
        Ok(files)
    }

    /// Refuses existing output unless `force` is set; a folder that contains the input is always refused, since its weights are replaced.
    fn check(&self, reader: &Reader, force: bool) -> Result<()> {
        if place::is_remote(&self.out) {
            return self.check_address(reader, force);
        }
        let found = fs::symlink_metadata(&self.out);
        let of_input = |own: &fs::Metadata| {
            let folders = reader.model().shards.iter().map(|shard| parent(&shard.path));
            folders.filter_map(|folder| fs::metadata(folder).ok()).any(|folder| same_file(own, &folder))
        };
        if self.folder && fs::metadata(&self.out).is_ok_and(|own| of_input(&own)) {
            return Err(Error::argument("the output folder is the folder of the input").in_file(&self.out));
        }
        match found {
            Ok(found) if self.folder && !found.is_dir() && !self.out.is_dir() => {
                Err(Error::argument("expected an output folder, found a file").in_file(&self.out))
            }
            Ok(_) if !force => Err(self.exists()),
            _ => Ok(()),
        }
    }

    /// As [`OutputTarget::check`], for a bucket: a folder is what its files have in their names.
    fn check_address(&self, reader: &Reader, force: bool) -> Result<()> {
        let folder = parent(&self.weights);
        if self.folder && reader.model().shards.iter().any(|shard| parent(&shard.path) == folder) {
            return Err(Error::argument("the output folder is the folder of the input").in_file(&self.out));
        }
        let is_there = !force && if self.folder { place::has_folder(&self.out)? } else { place::has_file(&self.out)? };
        if is_there { Err(self.exists()) } else { Ok(()) }
    }

    fn exists(&self) -> Error {
        Error::argument("the output already exists").in_file(&self.out).hint(Hint::Replace)
    }
}

/// Returns the writable format of this name.
///
/// # Errors
/// There is no such format.
pub fn format_named(name: &str) -> Result<FormatId> {
    writable(|format| Some(format.id) == FormatId::named(name)).map(|format| format.id).ok_or_else(|| not_writable(name))
}

fn not_writable(name: &str) -> Error {
    Error::argument(format!("no writable format named {name}")).hint("gguf or safetensors")
}

fn writable(fits: impl Fn(&Format) -> bool) -> Option<&'static Format> {
    format::FORMATS.iter().find(|format| format.layout.is_some() && fits(format))
}
/// Checks that a tensor that the output cannot hold is zero.
///
/// # Errors
/// It has another value.
fn check_zero(reader: &Reader, index: usize) -> Result<()> {
    let Some(tensor) = reader.model().tensors.get(index) else { return Ok(()) };
    let values = tensor_expr::values(reader, &TensorExpr::stored(reader.model(), index)?)?;
    match values.iter().find(|value| **value != 0.0) {
        Some(value) => {
            let message = format!("expected zeros, for GGUF has no place for this tensor, found {value}");
            Err(Error::unsupported(message).in_tensor(&tensor.name).in_file(&reader.model().path))
        }
        None => Ok(()),
    }
}

/// Returns what a requested type means for the output at `out`: a target type or file type, or a packing, which only safetensors has.
///
/// # Errors
/// There is no such type; the output cannot hold it; or an option does not apply to it.
pub fn request(name: Option<&str>, out: &Path, to: Option<FormatId>, options: &PackOptions) -> Result<(Option<Target>, Option<Packing>)> {
    let given = options.given();
    let Some(name) = name else {
        return match given {
            None => Ok((None, None)),
            Some(given) => Err(Error::argument(format!("{given} requires a type, such as FP8 or INT4"))),
        };
    };
    let format = OutputTarget::of(out, to)?.format.id;
    if format == FormatId::Safetensors && (is_packing(name) || options.form == Form::Mlx) {
        return Ok((None, Some(Packing::new(name, options)?)));
    }
    match (name.parse(), given) {
        (Err(_), _) if is_packing(name) => {
            let error = Error::argument(format!("{format} does not support {name}, which engines that serve safetensors read"));
            Err(error.hint(Hint::ListTypes))
        }
        (Err(error), _) => Err(error),
        (Ok(_), Some(given)) if format != FormatId::Safetensors => {
            Err(Error::argument(format!("{given} requires safetensors output, found {format}")))
        }
        (Ok(_), Some(given)) => Err(Error::argument(format!("{given} requires a type with scales of its own, such as FP8, found {name}"))),
        (Ok(target), None) => Ok((Some(target), None)),
    }
}
