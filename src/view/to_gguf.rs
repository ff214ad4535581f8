//! Hugging Face -> GGUF: plans a GGUF from a folder with a config.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use crate::base::{Error, Hint, Result, units};
use crate::family::config::Config;
use crate::family::mapping::{HfTensor, Mapping, ModelPart, Row};
use crate::family::pattern::Indices;
use crate::family::table::Table;
use crate::family::tables::Tables;
use crate::family::{keys, pattern, pooling, rope, sections};
use crate::format::Reader;
use crate::model::companion::Note;
use crate::model::{Array, DType, ElemType, Metadata, Model, TensorInfo, Value, ValueType};
use crate::source::folder;
use crate::tokenizer;
use crate::view::output_model::{OutputModel, OutputTensor};
use crate::view::tensor_expr::{self, TensorExpr};
use crate::view::transform::Shaped;
use crate::view::{general, lost};

/// Conversion options.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Those of the tokenizer.
    pub tokenizer: tokenizer::Options,
    /// The requested type of the weights, if not their own.
    pub dtype: Option<DType>,
    /// Whether to convert the vision or audio encoder instead of the text model.
    pub projector: bool,
    /// The part of the text model to convert.
    pub part: ModelPart,
}

/// Plans the GGUF of a Hugging Face model.
///
/// # Errors
/// The architecture is unknown; a tensor is missing, extra or has a different shape than the config implies; or a hyperparameter or the
/// tokenizer is missing.
pub fn output_model(reader: &Reader, tables: &Tables, options: &Options) -> Result<OutputModel> {
    let model = reader.model();
    if options.projector {
        return projector(model, tables, preprocessor(model)?, options.dtype);
    }
    let (json, table, config) = read_config(model, tables)?;
    let planned = text(reader, json, &table, config, model.folder.as_deref(), options)?;
    Ok(with_losses(reader, tables, json, &table, planned, options))
}

/// Plans the GGUF of the text model; also returns the hyperparameters of what is converted.
fn text(
    reader: &Reader,
    json: &serde_json::Value,
    table: &Table,
    mut config: Config,
    folder: Option<&Path>,
    options: &Options,
) -> Result<(OutputModel, Config)> {
    let model = reader.model();
    let mut output = OutputModel::default();
    let left_out = left_out(model, table, &mut config, options.part, &mut output.notes)?;
    let mut computed = tensors(model, table, &config, options.part, &left_out, &mut output)?;
    to_keys(reader, table, &config, &mut computed)?;
    metadata(table, json, &config, model, folder, &options.tokenizer, computed, &mut output)?;
    if options.part == ModelPart::WithoutMtp {
        output.metadata.remove(&crate::model::metadata::full_key(&table.gguf, "nextn_predict_layers"));
    }
    Ok((output, config))
}

/// Adds notes on what is lost of the text model.
fn with_losses(
    reader: &Reader,
    tables: &Tables,
    json: &serde_json::Value,
    table: &Table,
    (mut output, config): (OutputModel, Config),
    options: &Options,
) -> OutputModel {
    output.notes.extend(lost::rounded(options.dtype, &output.tensors));
    output.notes.extend(lost::ternary(reader, &output.tensors));
    // Layers that predict further tokens, alone, go along with a model of which all is said.
    if options.part != ModelPart::MtpAlone {
        // A table of the user's need not lead back.
        output.notes.extend(lost::values(tables, table, json, &config, &output).unwrap_or_default());
    }
    output
}

/// Returns the tensors, by index, outside the part to convert. If that has no layers that predict further tokens, the config counts none.
fn left_out(model: &Model, table: &Table, config: &mut Config, part: ModelPart, notes: &mut Vec<Note>) -> Result<HashSet<usize>> {
    if part == ModelPart::Whole {
        return Ok(HashSet::new());
    }
    let error = |message: String| Error::unsupported(message).in_file(&model.path);
    if !table.mtp {
        return Err(error(format!("the multi-token prediction layers of {} cannot be selected", table.gguf)));
    }
    let mapping = Mapping::new(table, config)?;
    let found = model.tensors.iter().map(|tensor| match mapping.lookup_hf(&tensor.name) {
        HfTensor::Row(number, _, places) => mapping.rows.get(number).map(|row| (row, places)),
        _ => None,
    });
    let found: Vec<_> = found.collect();
    if part == ModelPart::MtpAlone && !found.iter().flatten().any(|(row, places)| mapping.predicts(row, *places)) {
        return Err(error("the model has no layers that predict further tokens".to_owned()));
    }
    let is_out = |found: &Option<(&Row, Indices)>| found.is_some_and(|(row, places)| !mapping.is_in(part, row, places));
    let left_out: HashSet<usize> = found.iter().enumerate().filter(|(_, found)| is_out(found)).map(|(index, _)| index).collect();
    let what = if part == ModelPart::MtpAlone {
        "other layers than those that predict further tokens"
    } else {
        "layers that predict further tokens"
    };
    if !left_out.is_empty() {
        notes.push(Note::dropped("*", format!("{} of {what}", units::counted(left_out.len() as u64, "tensor"))));
    }
    if part == ModelPart::WithoutMtp {
        let kept: Vec<TensorInfo> =
            model.tensors.iter().enumerate().filter(|(index, _)| !left_out.contains(index)).map(|(_, tensor)| tensor.clone()).collect();
        config.measure(table, &kept);
    }
    Ok(left_out)
}

/// Plans the GGUF of the vision or audio encoder.
pub(super) fn projector(model: &Model, tables: &Tables, preprocessor: serde_json::Value, dtype: Option<DType>) -> Result<OutputModel> {
    let json = config_of(model)?;
    let (table, config) = projector_config(model, tables, json, preprocessor)?.ok_or_else(|| {
        Error::unsupported("there is no table for a vision or audio encoder of this architecture")
            .in_file(&model.path)
            .hint(Hint::ListArchitectures)
    })?;
    let mut output = OutputModel::default();
    let computed = tensors(model, &table, &config, ModelPart::Whole, &HashSet::new(), &mut output)?;
    // As llama.cpp's converter has it: patches are embedded in F32, or in F16 where that is the type of the file.
    let main = dtype.or_else(|| output.tensors.iter().find(|step| step.shape.len() > 1 && !step.fixed)?.elem.known());
    if main == Some(DType::F16) {
        let patches = |name: &str| PATCHES.iter().any(|part| name.contains(part)) || table.patches.iter().any(|patches| patches == name);
        output.tensors.iter_mut().filter(|step| patches(&step.name)).for_each(|step| step.elem = ElemType::Known(DType::F16));
    }
    metadata(&table, json, &config, model, model.folder.as_deref(), &tokenizer::Options::default(), computed, &mut output)?;
    output.metadata.set("general.type", Value::String("mmproj".to_owned()));
    output.notes.extend(lost::rounded(dtype, &output.tensors));
    let json = sections::lifted(json, table.within.as_deref());
    output.notes.extend(lost::values(tables, &table, &json, &config, &output).unwrap_or_default());
    Ok(output)
}

/// Returns the table of a model's vision or audio encoder, and its completed hyperparameters; `None` if there is no table.
///
/// # Errors
/// A file of the folder is malformed.
pub(super) fn read_projector(model: &Model, tables: &Tables) -> Result<Option<(Table, Config)>> {
    let Some(json) = &model.config else { return Ok(None) };
    if tables.projector_for_config(json)?.is_none() {
        return Ok(None);
    }
    projector_config(model, tables, json, preprocessor(model)?)
}

fn projector_config(
    model: &Model,
    tables: &Tables,
    json: &serde_json::Value,
    preprocessor: serde_json::Value,
) -> Result<Option<(Table, Config)>> {
    let Some(table) = tables.projector_for_config(json)? else { return Ok(None) };
    let mut config = completed(model, &table, &sections::lifted(json, table.within.as_deref()))?;
    config.set("preprocessor", preprocessor);
    config.set("root", json.clone());
    Ok(Some((table, config)))
}

/// The reason why a text model's GGUF lacks the tensors of an encoder.
pub(super) const BESIDE: &str = "of the encoder of pictures or sounds, which has a GGUF of its own";

/// The embeddings and mergers of patches, of which llama.cpp's converter fixes the type.
const PATCHES: [&str; 2] = [".patch_embd.weight", ".patch_merger.weight"];

/// The files that say how pictures and sounds are prepared, in increasing precedence, and a section of each whose keys count as its own.
const PREPROCESSORS: [(&str, &str); 2] = [("preprocessor_config.json", "media_proc_cfg"), ("processor_config.json", "image_processor")];

/// Returns the keys of a folder's preprocessor files, and the ids of its added tokens in `tokens`, by their names' letters, digits and `_`.
fn preprocessor(model: &Model) -> Result<serde_json::Value> {
    let mut keys = serde_json::Map::new();
    for (name, section) in PREPROCESSORS {
        let Some(folder) = &model.folder else { continue };
        let Some(serde_json::Value::Object(file)) = folder::json(&folder.join(name))? else { continue };
        let inner = file.get(section).and_then(serde_json::Value::as_object).cloned();
        keys.extend(file);
        keys.extend(inner.into_iter().flatten());
    }
    if let Some(folder) = &model.folder {
        let in_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
        let tokens = tokenizer::added_ids(folder)?.into_iter();
        let tokens = tokens.map(|(name, id)| (name.chars().filter(in_name).collect::<String>(), id.into()));
        keys.insert("tokens".to_owned(), serde_json::Value::Object(tokens.collect()));
    }
    Ok(serde_json::Value::Object(keys))
}

/// Plans everything except the tokenizer.
///
/// # Errors
/// As for [`output_model`], except for the tokenizer.
#[cfg(test)]
pub fn without_tokenizer(reader: &Reader, tables: &Tables, part: ModelPart) -> Result<OutputModel> {
    let (json, mut table, config) = read_config(reader.model(), tables)?;
    table.tokenizer = None;
    let options = Options { part, ..Options::default() };
    let planned = text(reader, json, &table, config, None, &options)?;
    Ok(with_losses(reader, tables, json, &table, planned, &options))
}

/// Plans everything except the tokenizer, without notes on what is lost, as commands that read a model need it.
///
/// # Errors
/// As for [`output_model`], except for the tokenizer.
pub fn of_headers(reader: &Reader, tables: &Tables) -> Result<OutputModel> {
    let (json, mut table, config) = read_config(reader.model(), tables)?;
    table.tokenizer = None;
    Ok(text(reader, json, &table, config, None, &Options::default())?.0)
}

/// Returns the tensors as in GGUF, without metadata and files.
///
/// # Errors
/// As for [`output_model`], except for the tokenizer.
pub fn canonical(model: &Model, tables: &Tables) -> Result<Vec<OutputTensor>> {
    let (_, table, config) = read_config(model, tables)?;
    let mut output = OutputModel::default();
    tensors(model, &table, &config, ModelPart::Whole, &HashSet::new(), &mut output)?;
    Ok(output.tensors)
}

/// Returns the config of a model, the table of its architecture, and the completed hyperparameters.
///
/// # Errors
/// There is no config, or the architecture is unknown.
pub(super) fn read_config<'a>(model: &'a Model, tables: &Tables) -> Result<(&'a serde_json::Value, Table, Config)> {
    let json = config_of(model)?;
    let table = tables.for_config(json).map_err(|error| error.in_file(&model.path))?;
    let config = completed(model, &table, json)?;
    Ok((json, table, config))
}

fn config_of(model: &Model) -> Result<&serde_json::Value> {
    let missing = || Error::unsupported("there is no config.json next to the weights").in_file(&model.path).hint(Hint::KeepNames);
    model.config.as_ref().ok_or_else(missing)
}

/// Completes the config of a model for a table.
fn completed(model: &Model, table: &Table, json: &serde_json::Value) -> Result<Config> {
    let mut config = Config::new(table, json).map_err(|error| error.in_file(&model.path))?;
    config.set("modules", pooling::configs(&model.modules));
    config.measure(table, &model.tensors);
    Ok(config)
}

/// Adds the tensors to a plan; returns the metadata of the computed ones.
fn tensors(
    model: &Model,
    table: &Table,
    config: &Config,
    part: ModelPart,
    left_out: &HashSet<usize>,
    output: &mut OutputModel,
) -> Result<Metadata> {
    let mapping = Mapping::new(table, config).map_err(|error| error.in_file(&model.path))?;
    let mut computed = Metadata::new();
    for name in &table.computed {
        compute(name, table, config, &mut output.tensors, &mut computed)?;
    }
    steps(model, &mapping, part, left_out, output)?;
    Ok(computed)
}

/// Adds the arrays of the tensors that GGUF holds as numbers.
pub(super) fn to_keys(reader: &Reader, table: &Table, config: &Config, metadata: &mut Metadata) -> Result<()> {
    if table.tensors.iter().all(|row| row.key.is_none()) {
        return Ok(());
    }
    let mapping = Mapping::new(table, config)?;
    let model = reader.model();
    let found = model.tensors.iter().enumerate().filter_map(|(index, tensor)| match mapping.lookup_hf(&tensor.name) {
        HfTensor::Row(number, _, places) => Some(((number, places.layer), index)),
        _ => None,
    });
    let found: HashMap<_, usize> = found.collect();
    for (number, row) in mapping.rows.iter().enumerate() {
        let Some(key) = &row.key else { continue };
        let indices: Option<Vec<usize>> = row.indices().iter().map(|places| found.get(&(number, places.layer)).copied()).collect();
        let Some(indices) = indices else { continue };
        let mut values = Vec::new();
        for index in indices {
            let origin = TensorExpr::stored(model, index)?;
            let own = if row.is_whole() {
                let whole = |number: i64| number.try_into().map(Value::U64);
                let numbers = tensor_expr::integers(reader, &origin)?.into_iter().map(whole).collect::<Result<Vec<_>, _>>();
                numbers.map_err(|_| Error::unsupported("expected whole numbers from 0").in_tensor(row.name()))?
            } else {
                tensor_expr::values(reader, &origin)?.into_iter().map(Value::F32).collect()
            };
            let wanted = row.elements()?;
            if own.len() as u64 != wanted {
                let message = format!("expected {}, found {}", units::counted(wanted, "number"), own.len());
                return Err(Error::malformed(message).in_tensor(row.name()));
            }
            values.extend(own);
        }
        let value = match values.as_slice() {
            [value] if !row.is_layered() => value.clone(),
            _ => Value::Array(Array::new(if row.is_whole() { ValueType::U64 } else { ValueType::F32 }, values)),
        };
        metadata.set(key.as_str(), value);
    }
    Ok(())
}

/// Adds a tensor computed from hyperparameters, and its metadata.
fn compute(name: &str, table: &Table, config: &Config, steps: &mut Vec<OutputTensor>, metadata: &mut Metadata) -> Result<()> {
    let mut add_shaped = |name: &str, shape: Vec<u64>, values: Vec<f32>| {
        steps.push(OutputTensor::made(TensorExpr::values(values), format!("{name}.weight"), shape, ElemType::Known(DType::F32)).fixed());
    };
    let mut add = |name: &str, values: Vec<f32>| add_shaped(name, vec![values.len() as u64], values);
    match name {
        "rope_freqs" => {
            let dim = config.length("hd")?;
            if let Some(factors) = rope::llama3_factors(config, dim, config.length("rope_dims").unwrap_or(dim)) {
                add("rope_freqs", factors);
            }
        }
        "rope_proportional" => {
            if let Some(factors) = rope::proportional_factors(config, config.length("rope_dims")?) {
                add("rope_freqs", factors);
            }
        }
        "rope_factors" | "rope_factors_alone" => {
            if let Some((long, short, attention)) = rope::long_factors(config, config.length("rope_dims")?)? {
                if name == "rope_factors" {
                    metadata.set(crate::model::metadata::full_key(&table.gguf, "rope.scaling.attn_factor"), Value::F32(attention));
                }
                add("rope_factors_long", long);
                add("rope_factors_short", short);
            }
        }
        "sinusoids" => {
            const POSITIONS: u64 = 1_500;
            let width = config.length("ad")?;
            add_shaped("a.position_embd", vec![POSITIONS, width], sinusoids(POSITIONS, width));
        }
        other => return Err(Error::argument(format!("expected a known tensor to compute, found {other}"))),
    }
    Ok(())
}

/// Returns Whisper's positions: sines, then cosines, of each position over periods from one radian to 10,000. Functions of single precision
/// differ in the last bit between PyTorch's builds; these are the nearest.
fn sinusoids(positions: u64, width: u64) -> Vec<f32> {
    let half = width / 2;
    let step = 10_000.0_f64.ln() / half.saturating_sub(1).max(1) as f64;
    let rates: Vec<f32> = (0..half).map(|i| f64::from(-(step as f32) * i as f32).exp() as f32).collect();
    let row = |position: u64| {
        let angles = rates.iter().map(move |rate| f64::from(position as f32 * rate));
        angles.clone().map(f64::sin).chain(angles.map(f64::cos)).map(|value| value as f32)
    };
    (0..positions).flat_map(row).collect()
}

/// The sources of one tensor (or of the parts that it is split into), collected so far.
#[derive(Default)]
struct Group {
    /// By expert or part; 0 if there are none.
    sources: BTreeMap<u64, usize>,
}

fn steps(model: &Model, mapping: &Mapping, part: ModelPart, left_out: &HashSet<usize>, output: &mut OutputModel) -> Result<()> {
    pooling::check_dense(model, |module| mapping.has_module(module), &mut output.notes)?;
    let mut groups: HashMap<(usize, Option<u64>), Group> = HashMap::new();
    let copies = copies(model, mapping);
    let mut beside: BTreeMap<String, u64> = BTreeMap::new();
    for (index, tensor) in model.tensors.iter().enumerate().filter(|(index, _)| !left_out.contains(index)) {
        if copies.contains(&index) {
            output.notes.push(Note::dropped(&tensor.name, "is a copy of another tensor"));
            continue;
        }
        let (number, member, places) = match mapping.lookup_hf(&tensor.name) {
            HfTensor::Row(number, member, places) => (number, member, places),
            HfTensor::Elsewhere if mapping.is_projector() => continue,
            HfTensor::Elsewhere => {
                // Hundreds of them: one note for each part.
                *beside.entry(mapping.part_of(&tensor.name)).or_default() += 1u64;
                continue;
            }
            HfTensor::Zero => {
                output.zeros.push(index);
                output.notes.push(Note::dropped(&tensor.name, "has no GGUF equivalent, and must be zero"));
                continue;
            }
            HfTensor::Dropped => {
                output.notes.push(Note::dropped(&tensor.name, "has no GGUF equivalent"));
                continue;
            }
            HfTensor::Unknown if model.module_of(&tensor.name).is_some_and(|module| !mapping.has_module(module)) => {
                output.notes.push(Note::dropped(&tensor.name, "belongs to a sentence-transformers module without GGUF equivalent"));
                continue;
            }
            HfTensor::Unknown => {
                return Err(Error::unsupported("this tensor is not in the architecture table")
                    .in_tensor(&tensor.name)
                    .hint(Hint::KeepNames)
                    .add_hint(Hint::UseArchitectureTable));
            }
        };
        let Some(row) = mapping.rows.get(number) else { continue };
        if let Some(shape) = &row.shape
            && *shape != tensor.shape
        {
            let message = format!("expected shape {shape:?} by the config, found {:?}", tensor.shape);
            return Err(Error::malformed(message).in_tensor(&tensor.name));
        }
        let group = groups.entry((number, places.layer)).or_default();
        if group.sources.insert(member, index).is_some() {
            return Err(Error::malformed("this tensor is present under two names").in_tensor(&tensor.name));
        }
        if group.sources.len() as u64 == row.members()? && row.key.is_none() {
            emit(model, row, places, group, output)?;
        }
    }
    let note = |(part, count)| Note::dropped(format!("{part}*"), format!("{} {BESIDE}", units::counted(count, "tensor")));
    output.notes.extend(beside.into_iter().map(note));
    let mut names = HashSet::new();
    if let Some(step) = output.tensors.iter().find(|step| !names.insert(step.name.as_str())) {
        return Err(Error::malformed("this tensor is present in two layouts").in_tensor(&step.name));
    }
    // Missing tensors are reported before anything is written; tensors present in another layout are not missing.
    for (number, row) in mapping.rows.iter().enumerate() {
        for places in row.indices().into_iter().filter(|places| mapping.is_in(part, row, *places)) {
            let found = groups.get(&(number, places.layer)).map_or(0, |group| group.sources.len() as u64);
            let made = || row.key.is_none() && row.gguf_names(places).all(|name| names.contains(name.as_str()));
            if found == 0 && (row.optional || made()) {
                continue;
            }
            let wanted = row.members()?;
            if found == wanted {
                continue;
            }
            let has = |member: &u64| groups.get(&(number, places.layer)).is_some_and(|group| group.sources.contains_key(member));
            let member = (0..wanted).find(|member| !has(member)).unwrap_or(0);
            return Err(Error::malformed("this tensor is missing").in_tensor(&row.hf_name(places, member)).in_file(&model.path));
        }
    }
    Ok(())
}

/// Returns the tensors, by index, that are copies of others in the model.
fn copies(model: &Model, mapping: &Mapping) -> HashSet<usize> {
    let mut found: Vec<(usize, Indices, usize)> = Vec::new();
    if mapping.rows.iter().any(|row| row.copy) {
        let row = |(index, tensor): (usize, &TensorInfo)| match mapping.lookup_hf(&tensor.name) {
            HfTensor::Row(number, _, places) => Some((number, places, index)),
            _ => None,
        };
        found = model.tensors.iter().enumerate().filter_map(row).collect();
        found.sort_by_key(|(number, ..)| *number);
    }
    let mut made = HashSet::new();
    let is_copy = |(number, places, index): (usize, Indices, usize)| {
        let row = mapping.rows.get(number)?;
        let is_new = made.insert(row.gguf_names(places).next());
        (row.copy && !is_new).then_some(index)
    };
    found.into_iter().filter_map(is_copy).collect()
}

/// Adds the tensors that a complete group produces.
fn emit(model: &Model, row: &Row, places: Indices, group: &Group, output: &mut OutputModel) -> Result<()> {
    let named = |error: Error| error.in_tensor(&pattern::fill(row.name(), places));
    if group.sources.keys().copied().ne(0..group.sources.len() as u64) {
        return Err(named(Error::malformed("expected experts numbered consecutively from 0")));
    }
    let sources: Vec<Shaped> = group
        .sources
        .values()
        .map(|&index| {
            let shape = model.tensors.get(index).map(|tensor| tensor.shape.clone()).unwrap_or_default();
            Ok(Shaped { origin: TensorExpr::stored(model, index)?, shape })
        })
        .collect::<Result<_>>()?;
    let of_all = |dtype: &DType| sources.iter().all(|source| source.origin.dtype() == *dtype);
    let stored = [DType::F16, DType::BF16].into_iter().find(of_all);
    for (made, name) in row.transform.forward(sources).map_err(named)?.into_iter().zip(row.gguf_names(places)) {
        // Arithmetic is in single precision, and its result has the type of the sources.
        let dtype = if row.transform.keeps_values() { made.origin.dtype() } else { stored.unwrap_or(DType::F32) };
        let kept = !row.of_model && stays_f32(&name, made.shape.len());
        let fixed = row.dtype.or_else(|| kept.then_some(DType::F32));
        let step = OutputTensor::made(made.origin, name, made.shape, ElemType::Known(fixed.unwrap_or(dtype)));
        output.tensors.push(if fixed.is_some() { step.fixed() } else { step });
    }
    Ok(())
}

/// Whether llama.cpp's converter keeps a tensor in F32 regardless of the requested type (`ModelBase.prepare_tensors`).
pub fn stays_f32(name: &str, dimensions: usize) -> bool {
    const KEPT: &str = "\
        _norm .ffn_gate_inp .ffn_gate_inp_shexp position_embd token_types .ssm_conv1d .ssm_conv1d_q .ssm_conv1d_k .ssm_conv1d_v \
        .shortconv.conv .time_mix_first .time_mix_w1 .time_mix_w2 .time_mix_decay_w1 .time_mix_decay_w2 .time_mix_lerp_fused \
        .altup_correct_coef .altup_predict_coef .indexer.proj";
    let Some(stem) = name.strip_suffix(".weight") else { return true };
    dimensions <= 1 || KEPT.split(' ').any(|kept| stem.ends_with(kept)) || PATCHES.iter().any(|part| name.contains(part))
}

/// Returns the number of the file type (`enum llama_ftype` in llama.h) for the most common tensor type.
fn file_type(steps: &[OutputTensor]) -> u32 {
    for (blocks, number) in [(DType::NVFP4, 39), (DType::MXFP4, 38)] {
        if steps.iter().any(|step| step.elem.known() == Some(blocks)) {
            return number;
        }
    }
    let first = steps.iter().find(|step| step.shape.len() > 1 && !step.fixed).and_then(|step| step.elem.known());
    match first {
        Some(DType::F32) => 0,
        Some(DType::BF16) => 32,
        Some(DType::Q8_0) => 7,
        _ => 1,
    }
}

/// Notes placeholder tokens: most models have a few spare rows, and those with the tokenizer elsewhere do too.
fn made_up_tokens(ids: &[usize]) -> Option<Note> {
    let name = |id: &usize| format!("[PAD{id}]");
    let names = match ids {
        [] => return None,
        [only] => name(only),
        [first, second] => format!("{}, {}", name(first), name(second)),
        [first, .., last] => format!("{} ... {}", name(first), name(last)),
    };
    let tokens = match ids.len() {
        1 => "1 token is".to_owned(),
        count => format!("{} tokens are", units::grouped(count as u64)),
    };
    let message = format!("{tokens} synthesized for embedding rows without a token: {names}");
    Some(Note::synthesized("tokenizer.ggml.tokens", message))
}

#[allow(clippy::too_many_arguments)]
fn metadata(
    table: &Table,
    json: &serde_json::Value,
    config: &Config,
    model: &Model,
    folder: Option<&Path>,
    options: &tokenizer::Options,
    computed: Metadata,
    output: &mut OutputModel,
) -> Result<()> {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String(table.gguf.clone()));
    for (key, value) in computed.iter() {
        metadata.set(key, value.clone());
    }
    general::to_gguf(folder, json, &output.tensors, &mut metadata, &mut output.notes)?;
    keys::to_gguf(table, config, &model.modules, file_type(&output.tensors), &mut metadata)?;
    metadata.set("general.quantization_version", Value::U32(2));
    if let Some(kind) = table.tokenizer {
        let Some(folder) = folder else {
            return Err(Error::unsupported("there is no folder with the tokenizer"));
        };
        let tokenizer = tokenizer::read(folder, json, kind, options)?;
        tokenizer.to_gguf(&table.gguf, &mut metadata);
        output.notes.extend(tokenizer.notes().iter().map(|note| Note::dropped("tokenizer", note)));
        output.notes.extend(made_up_tokens(tokenizer.made_up()));
    }
    output.metadata = metadata;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::output_model::Source;

    /// Values of `enum llama_ftype`; llama.cpp keeps position tables and routers in F32, which says nothing about the others.
    #[test]
    fn the_file_type_is_that_of_the_first_convertible_matrix() {
        let step = |dtype: DType, shape: &[u64], fixed| OutputTensor {
            source: Source::Stored(0),
            name: String::new(),
            shape: shape.to_vec(),
            elem: ElemType::Known(dtype),
            fixed,
        };
        let (positions, norm) = (step(DType::F32, &[8, 4], true), step(DType::F32, &[4], true));
        for (dtype, number) in
            [(DType::F32, 0), (DType::F16, 1), (DType::Q8_0, 7), (DType::BF16, 32), (DType::MXFP4, 38), (DType::NVFP4, 39)]
        {
            let steps = [positions.clone(), norm.clone(), step(dtype, &[4, 4], false), step(DType::F16, &[4, 4], false)];
            assert_eq!(file_type(&steps), number, "{dtype}");
        }
    }
    #[test]
    fn positions_are_the_sines_and_cosines_of_pytorch() {
        let found = sinusoids(1_500, 16);
        // Of `SinusoidsPositionEmbedding(1500, 16)`.
        for (row, column, wanted) in [
            (0, 0, 0.0),
            (0, 8, 1.0),
            (1, 0, 0.841_470_96),
            (1, 1, 0.265_063_3),
            (1, 9, 0.964_231),
            (700, 4, -0.465_358_94),
            (1_499, 0, -0.444_220_7),
            (1_499, 3, -0.618_499_76),
            (1_499, 15, 0.988_786_04_f32),
        ] {
            let value = found[row * 16 + column];
            assert!((value - wanted).abs() <= 2e-4, "{row}, {column}: {value}, not {wanted}");
        }
        assert_eq!(found.len(), 24_000);
    }
}
