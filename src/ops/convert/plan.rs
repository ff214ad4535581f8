//! What a conversion will do: complete before the first byte is written.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::base::{Error, Hint, Result, num};
use crate::family::comfy;
use crate::family::table::Tables;
use crate::format::shards::{self, PlannedFile};
use crate::format::{self, Format, OutTensor, Reader, modules};
use crate::model::companion::{CompanionFile, Content, Note};
use crate::model::{DType, ElemType, FormatId, Metadata, Value};
use crate::ops::body::Body;
use crate::ops::convert::loss::Lossy;
use crate::ops::convert::options::Options;
use crate::ops::convert::{keep, translate, types};
use crate::quant::imatrix::Imatrix;
use crate::source::file::{parent, same_file};
use crate::view::lora;
use crate::view::output_model::{OutputModel, OutputTensor};
use crate::view::tensor_expr::TensorExpr;
use crate::write::output;

/// A conversion, decided down to the place of every tensor in every file.
#[derive(Debug)]
pub struct Plan {
    /// The format of the output.
    pub format: &'static Format,
    /// The output, as it was named.
    pub out: PathBuf,
    /// The tensors, in the order of the output.
    pub steps: Vec<OutputTensor>,
    /// The files with tensors and their index, in the order in which they appear.
    pub files: Vec<PlannedFile>,
    /// Files beside the weights.
    pub companions: Vec<CompanionFile>,
    /// The files of an older output of the same name that go when the new ones appear: those that are replaced by name are not among
    /// them. An index comes last.
    pub removed: Vec<PathBuf>,
    /// Every file that is read: none of them is replaced or removed.
    pub inputs: Vec<PathBuf>,
    /// The file of the weights, before it is split.
    pub(super) weights: PathBuf,
    /// What is lost beyond what was asked for.
    pub lossy: Vec<Lossy>,
    /// What is dropped, padded, made up.
    pub notes: Vec<Note>,
    /// The importance matrix, and whether a tensor of this index uses it.
    pub imatrix: Option<Imatrix>,
    /// The first tensor whose type is useless without an importance matrix, when there is none for it. The plan can be looked at,
    /// but not executed.
    pub lacks_imatrix: Option<String>,
    /// What is there may be replaced.
    pub force: bool,
    /// What was written is read back and compared before it gets its name.
    pub verify: bool,
    /// Values that overflow or vanish are an error.
    pub strict: bool,
    /// Figures on what quantising costs are wanted.
    pub quality: bool,
}

impl Plan {
    /// Plans the conversion of an open model into the file or folder `out`.
    ///
    /// # Errors
    /// What is asked for cannot be done, or is forbidden by the options: nothing has been written.
    pub fn new(reader: &Reader, out: &Path, options: &Options) -> Result<Self> {
        let place = Place::of(out, options.to)?;
        place.check(reader, options.force)?;
        let imatrix = options.imatrix.as_deref().map(Imatrix::open).transpose()?;
        let draft = draft(reader, &place, options)?;
        let OutputModel { mut metadata, mut steps, files: mut companions, modules, mut notes, inputs: of_draft } = draft;
        let modules = if place.folder { modules } else { Vec::new() };
        if !place.folder {
            notes.extend(companions.drain(..).map(|file| Note::dropped(file.name, "goes beside the weights in a folder only")));
        }
        let decided = types::decide(reader, place.format, &mut steps, &metadata, imatrix.as_ref(), options)?;
        block_scales(reader, &mut steps)?;
        steps.sort_by_key(|step| module_number(&modules, &step.name));
        notes.extend(decided.notes);
        types::record(place.format, &mut metadata, imatrix.as_ref(), options)?;
        for (key, value) in &options.metadata {
            metadata.set(key, keep::value_for(place.format, value)?);
        }
        if options.strict
            && let Some(lossy) = decided.lossy.iter().find(|lossy| !lossy.exact)
        {
            return Err(lossy.strict());
        }
        let tensors = steps.iter().map(|step| out_tensor(reader, step)).collect::<Result<Vec<_>>>()?;
        let files = place.layout(&tensors, &metadata, &modules, options.shard_bytes)?;
        let inputs = inputs(reader, &companions, of_draft, imatrix.as_ref(), options)?;
        let mut plan = Self {
            format: place.format,
            out: out.to_path_buf(),
            steps,
            files,
            companions,
            removed: Vec::new(),
            inputs,
            weights: place.weights,
            lossy: decided.lossy,
            notes,
            imatrix,
            lacks_imatrix: decided.lacks_imatrix,
            force: options.force,
            verify: options.verify,
            strict: options.strict,
            quality: !options.no_quality,
        };
        plan.removed = plan.older()?;
        let weights = plan.files.iter().map(|file| file.path.clone());
        for path in weights.chain(plan.companion_targets()).chain(plan.removed.iter().cloned()) {
            output::check_name(&path, plan.force, &plan.inputs)?;
        }
        Ok(plan)
    }

    /// The folder of the output, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        self.files.first().and_then(|file| file.path.parent()).filter(|folder| *folder == self.out)
    }

    /// The files of an older output that the new one does not replace by name: those of its weights and, in a folder, its list of modules,
    /// which a reader would join to the new weights. The list comes first and so leaves last: without it the older model would open as
    /// another one.
    fn older(&self) -> Result<Vec<PathBuf>> {
        if !self.force {
            return Ok(Vec::new());
        }
        let list = self.folder().map(|folder| folder.join(modules::LIST));
        let is_older =
            |list: &PathBuf| fs::symlink_metadata(list).is_ok_and(|found| !found.is_dir()) && !self.companion_targets().contains(list);
        let mut older: Vec<PathBuf> = list.filter(is_older).into_iter().collect();
        older.extend(shards::older(self.format, &self.weights, &self.files)?);
        Ok(older)
    }

    /// Looks again at what lies where the output goes. What came there since the plan was made is not the plan's to remove.
    ///
    /// # Errors
    /// Something came there that a reader would take for a part of this model.
    pub(super) fn check_removed(&self) -> Result<()> {
        match self.older()?.iter().find(|path| !self.removed.contains(path)) {
            None => Ok(()),
            Some(path) => {
                Err(Error::argument("expected the older output as it was, found a file of another one that was written meanwhile")
                    .in_file(path)
                    .hint("run it again to replace that too"))
            }
        }
    }

    /// Where the files beside the weights go.
    pub(super) fn companion_targets(&self) -> Vec<PathBuf> {
        self.companions.iter().map(|file| self.out.join(&file.name)).collect()
    }

    /// How many bytes the files will have in all.
    pub fn bytes_out(&self) -> u64 {
        self.files.iter().map(PlannedFile::bytes).sum()
    }
}

/// Every file that is read. Which of the files beside the weights are read depends on the architecture: all count.
fn inputs(
    reader: &Reader,
    companions: &[CompanionFile],
    of_draft: Vec<PathBuf>,
    imatrix: Option<&Imatrix>,
    options: &Options,
) -> Result<Vec<PathBuf>> {
    let beside = keep::companions(reader.model())?;
    let copied = companions.iter().chain(&beside).filter_map(|file| match &file.content {
        Content::Copy(path) => Some(path.clone()),
        Content::Bytes(_) => None,
    });
    let of_readers = reader.inputs().chain(imatrix.iter().flat_map(|imatrix| imatrix.reader().inputs()));
    let mut inputs: Vec<PathBuf> = of_readers.map(|input| input.path().to_path_buf()).chain(copied).chain(of_draft).collect();
    inputs.extend(options.arch_table.clone());
    inputs.extend(options.base.as_deref().map(lora::base_file).transpose()?);
    inputs.sort_unstable();
    inputs.dedup();
    Ok(inputs)
}

/// What becomes of the model before types are decided: its names and layouts are translated where something says what they mean.
fn draft(reader: &Reader, place: &Place, options: &Options) -> Result<OutputModel> {
    // Read even where nothing needs it: a table that is not there is a mistake.
    let tables = Tables::with_file(options.arch_table.as_deref())?;
    if let Some(error) = reader.model().config_error.as_ref().filter(|_| !options.keeps_names()) {
        return Err(error.clone().with_hint(Hint::KeepNames));
    }
    if !options.keeps_names()
        && let Some(draft) = translate::draft(reader, place.format, &tables, options)?
    {
        return Ok(draft);
    }
    let mut draft = keep::draft(reader, place.format, place.folder, options.target)?;
    if !options.keeps_names() && reader.model().format != place.format.id {
        let (name, lack) = match (place.format.id, &reader.model().config) {
            (FormatId::Gguf, None) => ("config.json", "is not there"),
            (FormatId::Gguf, Some(_)) => ("config.json", "names no architecture"),
            _ => ("general.architecture", "is not there"),
        };
        let message = if comfy::is_diffusion(reader.model()) {
            "is that of a diffusion model: tensors have their original names in GGUF, and keep them".to_owned()
        } else {
            format!("{lack}, so the architecture is not known: tensors keep their names and layouts")
        };
        draft.notes.push(Note::remark(name, message));
    }
    Ok(draft)
}

/// Adds the scales of tensors that keep packed blocks: `X.scale` and `X.input_scale` beside `X.weight` (llama.cpp,
/// conversion of NVFP4).
fn block_scales(reader: &Reader, steps: &mut Vec<OutputTensor>) -> Result<()> {
    let mut found = Vec::new();
    for step in steps.iter() {
        let tensors = step.tensors();
        let scales: Vec<_> =
            tensors.iter().filter_map(|index| reader.model().tensors.get(*index)).map(|tensor| reader.block_scales(tensor)).collect();
        if scales.iter().all(Option::is_none) {
            continue;
        }
        let kept = step.elem.known().is_some_and(DType::is_quantised) && Body::new(reader, step)?.elem() == step.elem;
        let matrices = scales.len() == 1 || step.shape.first() == Some(&(scales.len() as u64));
        if !kept || !matrices || scales.iter().any(Option::is_none) {
            return Err(Error::unsupported("expected packed blocks that go to one tensor as they are, found others joined or changed")
                .in_tensor(&step.name)
                .hint(Hint::ComputeWeights("BF16")));
        }
        let Some(stem) = step.name.strip_suffix(".weight") else { continue };
        for (which, end) in ["scale", "input_scale"].into_iter().enumerate() {
            let values: Option<Vec<f32>> = scales.iter().map(|scale| scale.and_then(|scale| *scale.get(which)?)).collect();
            if let Some(values) = values {
                let shape = vec![values.len() as u64];
                found.push(
                    OutputTensor::made(TensorExpr::values(values), format!("{stem}.{end}"), shape, ElemType::Known(DType::F32)).fixed(),
                );
            }
        }
    }
    steps.extend(found);
    Ok(())
}

/// A tensor of the output, for its layout.
fn out_tensor(reader: &Reader, step: &OutputTensor) -> Result<OutTensor> {
    let len_bytes = match step.elem {
        ElemType::Known(dtype) => dtype.bytes_for_shape(&step.shape),
        ElemType::Unknown { .. } => {
            let whole = Body::new(reader, step)?.whole().and_then(|tensor| reader.len_bytes(tensor));
            whole.ok_or_else(|| Error::unsupported(format!("expected a known type, found {}", step.elem)))
        }
    };
    let len_bytes = len_bytes.map_err(|error| error.in_tensor(&step.name))?;
    num::to_usize(step.row_elements(), "a row")?;
    Ok(OutTensor { name: step.name.clone(), elem: step.elem, shape: step.shape.clone(), len_bytes })
}

/// Which of these modules of sentence-transformers a tensor belongs to, counted from 1; 0 for the transformer's own.
fn module_number(modules: &[String], tensor: &str) -> usize {
    let is_of = |module: &String| tensor.strip_prefix(module.as_str()).is_some_and(|rest| rest.starts_with('.'));
    modules.iter().position(is_of).map_or(0, |number| number + 1)
}

/// Where the output goes, and what it is.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) format: &'static Format,
    /// The file of the weights, before it is split.
    weights: PathBuf,
    /// Whether the output is a folder.
    folder: bool,
    out: PathBuf,
}

impl Place {
    pub(super) fn of(out: &Path, to: Option<FormatId>) -> Result<Self> {
        let slash = out.as_os_str().as_encoded_bytes().ends_with(b"/");
        let is_folder = slash || out.is_dir();
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
            return Err(Error::argument(format!("expected the name of a file for {}, found a folder", format.id)).in_file(out));
        }
        let weights = if folder { out.join("model.safetensors") } else { out.to_path_buf() };
        Ok(Self { format, weights, folder, out: out.to_path_buf() })
    }

    /// Lays out the files: those of the weights, then one for each module in its folder. The tensors are in the order of the modules.
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

    /// An output that is there already is refused; and a folder that the input is in always, since its weights are replaced whole.
    fn check(&self, reader: &Reader, force: bool) -> Result<()> {
        let found = fs::symlink_metadata(&self.out);
        let of_input = |own: &fs::Metadata| {
            let folders = reader.model().shards.iter().map(|shard| parent(&shard.path));
            folders.filter_map(|folder| fs::metadata(folder).ok()).any(|folder| same_file(own, &folder))
        };
        if self.folder && fs::metadata(&self.out).is_ok_and(|own| of_input(&own)) {
            return Err(Error::argument("expected a folder other than the input's, found the same").in_file(&self.out));
        }
        match found {
            Ok(found) if self.folder && !found.is_dir() && !self.out.is_dir() => {
                Err(Error::argument("expected a folder to write to, found a file").in_file(&self.out))
            }
            Ok(_) if !force => {
                Err(Error::argument("expected a new output, found one that is there already").in_file(&self.out).hint(Hint::Replace))
            }
            _ => Ok(()),
        }
    }
}

/// Returns the format of this name that a conversion can write.
///
/// # Errors
/// There is none.
pub fn format_named(name: &str) -> Result<FormatId> {
    writable(|format| Some(format.id) == FormatId::named(name)).map(|format| format.id).ok_or_else(|| not_writable(name))
}

fn not_writable(name: &str) -> Error {
    Error::argument(format!("expected a format that can be written, found {name}")).hint("gguf or safetensors")
}

fn writable(fits: impl Fn(&Format) -> bool) -> Option<&'static Format> {
    format::FORMATS.iter().find(|format| format.layout.is_some() && fits(format))
}
