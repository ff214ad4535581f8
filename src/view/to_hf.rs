//! GGUF -> Hugging Face: plans a folder that transformers can load.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value as Json, json};

use crate::base::{Error, Hint, Result, num};
use crate::family::config::{Config, f32_json};
use crate::family::mapping::{Mapping, Row};
use crate::family::pattern::{self, Indices, Template};
use crate::family::table::Table;
use crate::family::tables::Tables;
use crate::family::transform::Transform;
use crate::family::{keys, pooling, rope, sections};
use crate::format::Reader;
use crate::model::companion::{CompanionFile, Content, Note};
use crate::model::{DType, ElemType, Metadata, Model, TensorInfo, Value};
use crate::source::folder;
use crate::view::output_model::{OutputModel, OutputTensor};
use crate::view::tensor_expr;
use crate::view::tensor_expr::TensorExpr;
use crate::view::transform::Shaped;
use crate::{codec, tokenizer};

/// Conversion options.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The type of the weights, if not their own.
    pub dtype: Option<DType>,
    /// The pre-tokenizer name, overriding the GGUF's.
    pub pre: Option<String>,
}

/// Plans the Hugging Face folder of a GGUF.
///
/// # Errors
/// The architecture is unknown; a tensor is missing, extra or has a different shape than the hyperparameters imply; or the tokenizer is
/// missing.
pub fn output_model(reader: &Reader, tables: &Tables, options: &Options) -> Result<OutputModel> {
    let mut output = weights(reader, tables, options)?;
    let model = reader.model();
    let tokenizer = tokenizer::write(&model.metadata, options.pre.as_deref()).map_err(|error| error.in_file(&model.path))?;
    output.files.extend(tokenizer);
    Ok(output)
}

/// Plans everything except the tokenizer.
pub(super) fn weights(reader: &Reader, tables: &Tables, options: &Options) -> Result<OutputModel> {
    let model = reader.model();
    let metadata = &model.metadata;
    let (mut table, mut config) = read_keys(model, tables)?;
    let mut output = OutputModel::default();
    let computed = computed(&table, reader, &mut config)?;
    let projector = Projector::new(model, tables, &table, &config)?;
    if projector.as_ref().is_some_and(|projector| !projector.table.text_names.is_empty()) {
        table.module = None; // the encoder's table names the module of the text model
    }
    let mapping = Mapping::new(&table, &config)?;
    let of_encoder = |name: &str| {
        let has = |projector: &Projector| projector.mapping.lookup_gguf(name).is_some() || projector.computed.contains(&name);
        projector.as_ref().is_some_and(has)
    };
    steps(reader, &mapping, &computed, &|name| !of_encoder(name), &mut output)?;
    from_keys(metadata, &mapping, main_type(model), &mut output)?;
    if let Some(projector) = &projector {
        projector.rename_text(&mut output);
        steps(reader, &projector.mapping, &projector.computed, &of_encoder, &mut output)?;
    }
    let main = options.dtype.unwrap_or_else(|| main_type(model));
    let stored = |name: &String| model.tensor(name).map(|tensor| tensor.shape.as_slice());
    let dense: Vec<_> = mapping.rows.iter().filter_map(|row| pooling::Dense::of(row.name(), row.gguf.first().and_then(stored)?)).collect();
    output.modules = dense.iter().map(|layer| layer.folder.clone()).collect();
    if !dense.is_empty() {
        output
            .notes
            .push(Note::remark("modules.json", "a GGUF does not record whether embeddings are normalised, so no such module is listed"));
    }
    output.files = files(&table, metadata, config, projector, main, &dense);
    // transformers requires this in safetensors files.
    output.metadata.set("format", Value::String("pt".to_owned()));
    Ok(output)
}

/// The encoder of pictures or sounds beside a text model.
struct Projector {
    table: Table,
    config: Config,
    mapping: Mapping,
    /// The names of computed tensors.
    computed: Vec<&'static str>,
    /// The `model_type` of the text model.
    text_type: Option<String>,
}

impl Projector {
    /// Returns the encoder of a model that was read with one.
    fn new(model: &Model, tables: &Tables, text: &Table, text_config: &Config) -> Result<Option<Self>> {
        let metadata = &model.metadata;
        let Some(kind) = projector_type(metadata) else { return Ok(None) };
        let table = tables.projector_for_gguf(kind, |what| has(model, what), text)?;
        // Its expressions may name hyperparameters of the text model.
        let mut config = Config::empty(&table);
        text_config.clone().into_keys().into_iter().for_each(|(key, value)| config.set(key, value));
        config.take_shapes(&table, &of_encoder(model));
        hyperparameters(&table, model, &mut config)?;
        for (key, token) in &table.tokens {
            if let Some(id) = token.as_str().and_then(|token| token_id(metadata, token)) {
                config.set(key.clone(), json!(id));
            }
        }
        let mapping = Mapping::new(&table, &config)?;
        let computed = computed_names(&table);
        Ok(Some(Self { table, config, mapping, computed, text_type: text.model_types.first().cloned() }))
    }

    /// Gives the text model's tensors the names that they have beside the encoder.
    fn rename_text(&self, output: &mut OutputModel) {
        for step in &mut output.tensors {
            let longer =
                self.table.text_names.iter().find_map(|(from, to)| Some(format!("{to}{}", step.name.strip_prefix(from.as_str())?)));
            step.name = longer.unwrap_or_else(|| std::mem::take(&mut step.name));
        }
    }

    /// Returns config.json with the text model's keys in a section of their own, and preprocessor_config.json.
    fn files(self, text: Config, section: &str) -> (Map<String, Json>, Json) {
        let mut text = text.into_keys();
        let mut keys = self.config.into_keys();
        keys.retain(|key, value| text.get(key) != Some(value));
        // A text model may have the ID of a token for pictures too, but classes read it outside its section.
        for key in self.table.tokens.keys() {
            if let Some(id) = text.shift_remove(key) {
                keys.entry(key.as_str()).or_insert(id);
            }
        }
        if let Some(Json::Object(inside)) = keys.remove(section) {
            text.extend(inside);
        }
        let preprocessor = keys.remove("preprocessor").unwrap_or_else(|| json!({}));
        keys.extend(text.get_key_value("tie_word_embeddings").map(|(key, value)| (key.clone(), value.clone())));
        if self.table.any_text {
            text.entry("model_type").or_insert_with(|| json!(self.text_type));
        }
        keys.insert(section.to_owned(), Json::Object(text));
        if let Some(within) = &self.table.within {
            keys = Map::from_iter([(sections::within(within), Json::Object(keys))]);
        }
        (keys, preprocessor)
    }
}

/// Returns the ID of a token in a GGUF.
fn token_id(metadata: &Metadata, wanted: &str) -> Option<usize> {
    let tokens = metadata.get("tokenizer.ggml.tokens").and_then(Value::as_array)?;
    tokens.iter().position(|token| token.is_ok_and(|token| token.as_str() == Some(wanted)))
}

/// Returns the kind of the encoder of pictures or sounds in a GGUF.
fn projector_type(metadata: &Metadata) -> Option<&str> {
    ["clip.projector_type", "clip.vision.projector_type", "clip.audio.projector_type"].iter().find_map(|key| metadata.get_str(key))
}

/// Returns the table of an encoder of pictures or sounds in a GGUF of its own, and its hyperparameters as in config.json, with those of the
/// text model that its keys tell.
///
/// # Errors
/// There is no table for it.
pub(super) fn read_projector(model: &Model, tables: &Tables) -> Result<(Table, Config)> {
    let metadata = &model.metadata;
    let kind = projector_type(metadata).unwrap_or("none named");
    let table = tables.projector_of_kind(kind, |what| has(model, what)).map_err(|error| error.in_file(&model.path))?;
    let mut config = Config::empty(&table);
    for (name, keys) in [
        ("hidden_size", ["vision.projection_dim", "audio.projection_dim"]),
        ("num_hidden_layers", ["vision.block_count", "audio.block_count"]),
    ] {
        let found = keys.iter().find_map(|key| metadata.get_u64(&format!("clip.{key}")));
        config.set(name, found.map_or(Json::Null, Json::from));
    }
    config.take_shapes(&table, &of_encoder(model));
    hyperparameters(&table, model, &mut config)?;
    Ok((table, config))
}

/// Returns the tensors of an encoder, which may be beside those of a text model.
fn of_encoder(model: &Model) -> Vec<TensorInfo> {
    let starts = ["v.", "a.", "mm."];
    model.tensors.iter().filter(|tensor| starts.iter().any(|start| tensor.name.starts_with(start))).cloned().collect()
}

/// Whether a GGUF has a key or tensor, or a key with a text, a number or a list (`KEY = TEXT`, `KEY = []`).
pub(super) fn has(model: &Model, what: &str) -> bool {
    let metadata = &model.metadata;
    match what.split_once(" = ") {
        Some((key, "[]")) => matches!(metadata.get(key), Some(Value::Array(_))),
        Some((key, text)) => metadata.get_str(key) == Some(text) || metadata.get_u64(key).is_some_and(|number| number.to_string() == text),
        None => metadata.get(what).is_some() || model.tensor(what).is_some(),
    }
}

/// Returns the table of a GGUF's architecture, and its hyperparameters as in config.json.
///
/// # Errors
/// The architecture is unknown.
pub(super) fn read_keys(model: &Model, tables: &Tables) -> Result<(Table, Config)> {
    let metadata = &model.metadata;
    let architecture = metadata
        .get_str("general.architecture")
        .ok_or_else(|| Error::unsupported("the key general.architecture is missing").in_file(&model.path).hint(Hint::KeepNames))?;
    let mut table = tables.for_gguf(architecture, |what| has(model, what)).map_err(|error| error.in_file(&model.path))?;
    if let Some(kind) = projector_type(metadata) {
        table = tables.text_beside(&tables.projector_for_gguf(kind, |what| has(model, what), &table)?, table)?;
    }
    let mut config = Config::empty(&table);
    config.take_shapes(&table, &model.tensors);
    hyperparameters(&table, model, &mut config)?;
    Ok((table, config))
}

/// Converts the hyperparameters in GGUF keys, and those implied by tensors.
pub(super) fn hyperparameters(table: &Table, model: &Model, config: &mut Config) -> Result<()> {
    let shape = |name: &str| model.tensor(name).map(|tensor| tensor.shape.clone());
    let names: HashSet<&str> = model.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let flags = table.flags.iter().filter_map(|(key, tensor)| Some((key, tensor.as_str()?)));
    // Those for expressions go before them.
    let (first, flags): (Vec<_>, Vec<_>) = flags.partition(|(key, _)| key.starts_with('_'));
    for (key, tensor) in first {
        let (template, places) = Template::parse(tensor);
        let layer = |name: &str| {
            let (own, numbers) = pattern::split_numbers(name);
            (own == template).then(|| places.indices(&numbers)?.layer)?
        };
        let mut layers: Vec<u64> = names.iter().filter_map(|name| layer(name)).collect();
        layers.sort_unstable();
        config.set(key.clone(), if tensor.contains("{bid}") { json!(layers) } else { json!(names.contains(tensor)) });
    }
    keys::to_config(table, &model.metadata, &shape, config)?;
    for (key, tensor) in flags {
        let (is_inverted, tensor) = tensor.strip_prefix('!').map_or((false, tensor), |tensor| (true, tensor));
        let Some(tensor) = with_numbers(tensor, config)? else { continue };
        config.set(key.clone(), json!(names.contains(tensor.as_str()) != is_inverted));
    }
    if let Some([rows, _]) = model.tensor("token_embd.weight").map(|tensor| tensor.shape.as_slice()) {
        config.set("vocab_size", json!(rows));
    }
    Ok(())
}

/// Evaluates the expression in braces in a name, if any; absent if its value is.
fn with_numbers(name: &str, config: &Config) -> Result<Option<String>> {
    let Some((start, (inside, end))) = name.split_once('{').and_then(|(start, rest)| Some((start, rest.split_once('}')?))) else {
        return Ok(Some(name.to_owned()));
    };
    Ok(config.eval(inside)?.map(|number| format!("{start}{number}{end}")))
}

/// The names in tables of computed tensors, and their tensor names.
const COMPUTED: [(&str, &[&str]); 5] = [
    ("rope_freqs", &["rope_freqs.weight"]),
    ("rope_proportional", &["rope_freqs.weight"]),
    ("rope_factors", &["rope_factors_long.weight", "rope_factors_short.weight"]),
    ("rope_factors_alone", &["rope_factors_long.weight", "rope_factors_short.weight"]),
    ("sinusoids", &["a.position_embd.weight"]),
];

/// Returns the names of tensors that a GGUF of this architecture may have in addition to the table's rows.
pub(super) fn computed_names(table: &Table) -> Vec<&'static str> {
    COMPUTED.iter().filter(|(kind, _)| table.computed.iter().any(|own| own == kind)).flat_map(|(_, names)| *names).copied().collect()
}

/// Converts computed tensors to config keys, and returns their names.
fn computed(table: &Table, reader: &Reader, config: &mut Config) -> Result<Vec<&'static str>> {
    let model = reader.model();
    let values = |name: &str| -> Result<Option<Vec<f32>>> {
        let Some(index) = model.tensors.iter().position(|tensor| tensor.name == name) else { return Ok(None) };
        tensor_expr::values(reader, &TensorExpr::stored(model, index)?).map(Some)
    };
    let mut found = Vec::new();
    for (kind, names) in COMPUTED.iter().filter(|(kind, _)| table.computed.iter().any(|own| own == kind)) {
        found.extend(names.iter().copied());
        match names {
            _ if *kind == "sinusoids" => {}
            [freqs] if *kind == "rope_proportional" => {
                let Some(factors) = values(freqs)? else { continue };
                let part = rope::part_from_factors(&factors)
                    .ok_or_else(|| Error::unsupported("the factors are not those of a part of each head").in_tensor(freqs))?;
                config.set("rope_parameters.full_attention.partial_rotary_factor", part.into());
            }
            [freqs] => {
                let Some(factors) = values(freqs)? else { continue };
                let base = config.get("rope_theta").and_then(rope::first_number).unwrap_or(10_000.0);
                let rotated = config.length("rope_dims").unwrap_or(2 * factors.len() as u64);
                let scaling = rope::llama3_from_factors(&factors, base, rotated)
                    .ok_or_else(|| Error::unsupported("the factors are not those of Llama 3's rope scaling").in_tensor(freqs))?;
                config.set("rope_scaling", scaling);
            }
            [long, short] => {
                let (Some(long), Some(short)) = (values(long)?, values(short)?) else { continue };
                let list = |values: Vec<f32>| Json::Array(values.into_iter().map(f32_json).collect());
                config.set("rope_scaling", json!({ "type": "longrope", "long_factor": list(long), "short_factor": list(short) }));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Adds the tensors whose names are `wanted`.
pub(super) fn steps(
    reader: &Reader,
    mapping: &Mapping,
    computed: &[&str],
    wanted: &dyn Fn(&str) -> bool,
    output: &mut OutputModel,
) -> Result<()> {
    let model = reader.model();
    let main = main_type(model);
    let mut groups: HashMap<(usize, Option<u64>), Vec<Option<usize>>> = HashMap::new();
    for (index, tensor) in model.tensors.iter().enumerate().filter(|(_, tensor)| wanted(&tensor.name)) {
        if computed.contains(&tensor.name.as_str()) {
            output.notes.push(Note::dropped(&tensor.name, "follows from config.json"));
            continue;
        }
        let Some((number, part, places)) = mapping.lookup_gguf(&tensor.name) else {
            return Err(Error::unsupported("this tensor is not in the architecture table")
                .in_tensor(&tensor.name)
                .hint(Hint::KeepNames)
                .add_hint(Hint::UseArchitectureTable));
        };
        let Some(row) = mapping.rows.get(number) else { continue };
        let group = groups.entry((number, places.layer)).or_insert_with(|| vec![None; row.gguf.len()]);
        if let Some(slot) = group.get_mut(part) {
            *slot = Some(index);
        }
        if group.iter().all(Option::is_some) {
            let indices: Vec<usize> = group.iter().flatten().copied().collect();
            emit(reader, row, places, &indices, main, output)?;
        }
    }
    missing(mapping, &groups).map_or(Ok(()), |name| Err(Error::malformed("this tensor is missing").in_tensor(&name).in_file(&model.path)))
}

/// Adds the tensors whose elements GGUF holds in an array.
fn from_keys(metadata: &Metadata, mapping: &Mapping, main: DType, output: &mut OutputModel) -> Result<()> {
    for row in &mapping.rows {
        let Some(key) = &row.key else { continue };
        let numbers = match metadata.get(key) {
            Some(Value::Array(array)) => Some(array.iter().collect::<Result<Vec<_>>>()?),
            Some(number) if !row.is_layered() => Some(vec![number.clone()]),
            _ => None,
        };
        let Some(numbers) = numbers else {
            if row.optional {
                continue;
            }
            return Err(Error::unsupported(format!("the key {key} is missing")));
        };
        let places = row.indices();
        let each = row.elements()?;
        let wanted = num::mul(places.len() as u64, each, "the numbers of a key")?;
        if wanted != numbers.len() as u64 {
            return Err(Error::malformed(format!("expected {wanted} numbers in {key}, found {}", numbers.len())));
        }
        let wrong = |what| Error::malformed(format!("expected {what} in {key}"));
        for (places, own) in places.into_iter().zip(numbers.chunks(num::to_usize(each.max(1), "the numbers of a key")?)) {
            let (name, shape) = (row.hf_name(places, 0), row.shape.clone().unwrap_or_default());
            output.tensors.push(if row.is_whole() {
                let numbers = own.iter().map(|value| value.as_i64().ok_or_else(|| wrong("whole numbers"))).collect::<Result<Vec<_>>>()?;
                OutputTensor::made(TensorExpr::integers(numbers), name, shape, ElemType::Known(DType::I64)).fixed()
            } else {
                let number = |value: &Value| value.as_f64().map(|number| number as f32).ok_or_else(|| wrong("numbers"));
                let numbers = own.iter().map(number).collect::<Result<Vec<_>>>()?;
                OutputTensor::made(TensorExpr::values(numbers), name, shape, main)
            });
        }
    }
    Ok(())
}

/// Returns the name of a required tensor that is missing.
fn missing(mapping: &Mapping, groups: &HashMap<(usize, Option<u64>), Vec<Option<usize>>>) -> Option<String> {
    let part = mapping.part(groups.keys().copied());
    for (number, row) in mapping.rows.iter().enumerate() {
        for places in row.indices().into_iter().filter(|places| mapping.is_in(part, row, *places)) {
            let group = groups.get(&(number, places.layer));
            for (part, name) in row.gguf_names(places).enumerate() {
                let found = group.is_some_and(|group| group.get(part).is_some_and(Option::is_some));
                // A name produced by several rows is looked up under the first.
                let own = mapping.lookup_gguf(&name).is_some_and(|(first, ..)| first == number);
                if !found && own && (!row.optional || group.is_some()) {
                    return Some(name);
                }
            }
        }
    }
    None
}

fn emit(reader: &Reader, row: &Row, places: Indices, indices: &[usize], main: DType, output: &mut OutputModel) -> Result<()> {
    let model = reader.model();
    let named = |error: Error| error.in_tensor(&row.gguf_names(places).next().unwrap_or_default());
    let sources: Vec<Shaped> = indices
        .iter()
        .map(|&index| {
            let shape = model.tensors.get(index).map(|tensor| tensor.shape.clone()).unwrap_or_default();
            Ok(Shaped { origin: TensorExpr::stored(model, index)?, shape })
        })
        .collect::<Result<_>>()?;
    let parts = row.transform.backward(sources).map_err(named)?;
    if matches!(row.transform, Transform::Concat(_)) {
        let message = format!("a GGUF does not record the parts of this tensor: it is split into {}", parts.len());
        output.notes.push(Note::remark(row.gguf_names(places).next().unwrap_or_default(), message));
    }
    for (member, made) in parts.into_iter().enumerate() {
        if let Some(shape) = &row.shape
            && *shape != made.shape
        {
            let message = format!("expected shape {shape:?} by the hyperparameters, found {:?}", made.shape);
            return Err(named(Error::malformed(message)));
        }
        let name = row.hf_name(places, member as u64);
        let stored = made.origin.dtype();
        // Norms etc. are F32 only because GGUF requires it: they return to the main type if that is lossless.
        let may_narrow = (stored == DType::F32 || row.dtype == Some(stored)) && ![DType::F32, stored].contains(&main);
        let elem = if may_narrow && narrows(reader, &made.origin, main, row.transform.rounds())? { main } else { stored };
        output.tensors.push(OutputTensor::made(made.origin, name, made.shape, ElemType::Known(elem)));
    }
    Ok(())
}

/// Maximum number of values checked to decide whether a tensor fits a narrower type.
const LOOKED_AT: u64 = 1 << 24;

/// Whether a 16-bit type can represent all values of an F32 tensor exactly; or, if they are rounded, within the precision of a single: then
/// they had this type before.
fn narrows(reader: &Reader, origin: &TensorExpr, main: DType, is_rounded: bool) -> Result<bool> {
    let Some(codec) = codec::codec(main) else { return Ok(false) };
    let Some(encode) = codec.encode else { return Ok(false) };
    if main.info().block_elems > 1 || origin.elements()? > LOOKED_AT {
        return Ok(false);
    }
    let values = tensor_expr::values(reader, origin)?;
    let mut bytes = vec![0; values.len() * main.info().block_bytes as usize];
    encode(&values, None, &mut bytes);
    let mut again = vec![0.0; values.len()];
    (codec.decode)(&bytes, &mut again);
    let near = |a: f32, b: f32| is_rounded && (a - b).abs() <= 4.0 * f32::EPSILON * b.abs().max(1.0);
    Ok(values.iter().zip(&again).all(|(&a, &b)| a.to_bits() == b.to_bits() || near(a, b)))
}

/// Returns the main type of the weights in the output: F16 for quantised ones.
fn main_type(model: &Model) -> DType {
    let matrices = model.tensors.iter().filter(|tensor| tensor.shape.len() > 1 && tensor.name.ends_with(".weight"));
    let types = matrices.filter_map(|tensor| tensor.elem.known());
    // Most tables keep some matrices in F32, so any other type is the main type.
    let chosen = types.fold(DType::F32, |chosen, dtype| if chosen == DType::F32 { dtype } else { chosen });
    if chosen.is_quantised() { DType::F16 } else { chosen }
}

fn files(
    table: &Table,
    metadata: &Metadata,
    mut config: Config,
    projector: Option<Projector>,
    main: DType,
    dense: &[pooling::Dense],
) -> Vec<CompanionFile> {
    let ids = tokenizer::ids(metadata);
    // Beside the size of the vocabulary too: transformers checks it against that of the same section.
    if let Some(padding) = ids.get("pad_token_id") {
        config.set("pad_token_id", padding.clone());
    }
    let embedding = config.get("hidden_size").cloned();
    // As the classes of transformers write it beside the labels.
    if let Some(Json::Object(labels)) = config.get("id2label") {
        let ids = labels.iter().filter_map(|(id, label)| Some((label.as_str()?.to_owned(), json!(id.parse::<u64>().ok()?))));
        let ids: Map<String, Json> = ids.collect();
        config.set("label2id", Json::Object(ids));
    }
    let mut keys = Map::new();
    let named = projector.as_ref().map_or(table, |projector| &projector.table);
    if let (Some(class), Some(model_type)) = (named.classes.first(), named.model_types.first()) {
        keys.insert("architectures".to_owned(), json!([class]));
        keys.insert("model_type".to_owned(), json!(model_type));
    }
    keys.extend(ids.clone());
    let torch = [(DType::F32, "float32"), (DType::F16, "float16"), (DType::BF16, "bfloat16")];
    if let Some((_, name)) = torch.iter().find(|(dtype, _)| *dtype == main) {
        keys.insert("torch_dtype".to_owned(), json!(name));
    }
    let mut preprocessor = None;
    match (projector, &table.section) {
        (Some(projector), section) => {
            let section = projector.table.section.clone().or_else(|| section.clone());
            let (own, file) = projector.files(config, section.as_deref().unwrap_or("text_config"));
            keys.extend(own);
            preprocessor = Some(file);
        }
        (None, Some(section)) => {
            // The sections of other parts of the model, and what the class reads outside.
            let (outside, inside): (Map<String, Json>, _) =
                config.into_keys().into_iter().partition(|(key, _)| OUTSIDE.contains(&key.as_str()));
            keys.extend(outside);
            keys.extend(inside.get_key_value("tie_word_embeddings").map(|(key, value)| (key.clone(), value.clone())));
            keys.insert(section.clone(), Json::Object(inside));
        }
        (None, None) => keys.extend(config.into_keys()),
    }
    let file = |name: &str, value: &Json| CompanionFile { name: name.to_owned(), content: Content::Bytes(folder::to_json(value)) };
    let mut files = vec![file("config.json", &Json::Object(keys))];
    files.extend(preprocessor.map(|keys| file("preprocessor_config.json", &keys)));
    let generates = table.classes.first().is_some_and(|class| class.ends_with("ForCausalLM"));
    if generates {
        files.push(file("generation_config.json", &generation(metadata, &ids)));
    }
    files.extend(pooling::to_files(&table.gguf, metadata, embedding.as_ref(), dense));
    files
}

/// The keys of config.json beside the section of the text model: the sections of encoders, and those that a Gemma 4 assistant's class reads.
const OUTSIDE: [&str; 4] = ["vision_config", "audio_config", "backbone_hidden_size", "use_ordered_embeddings"];

fn generation(metadata: &Metadata, ids: &Map<String, Json>) -> Json {
    const SAMPLING: [(&str, &str); 5] =
        [("top_k", "top_k"), ("top_p", "top_p"), ("min_p", "min_p"), ("temp", "temperature"), ("penalty_repeat", "repetition_penalty")];
    let mut keys = Map::new();
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        if let Some(id) = ids.get(key) {
            keys.insert(key.to_owned(), id.clone());
        }
    }
    // The end-of-turn token also ends generation.
    if let (Some(eos), Some(eot)) = (ids.get("eos_token_id"), ids.get("eot_token_id"))
        && eos != eot
    {
        keys.insert("eos_token_id".to_owned(), json!([eos, eot]));
    }
    for (gguf, name) in SAMPLING {
        match metadata.get(&format!("general.sampling.{gguf}")) {
            Some(Value::F32(number)) => keys.insert(name.to_owned(), f32_json(*number)),
            Some(other) => keys.insert(name.to_owned(), json!(other.as_u64())),
            None => continue,
        };
        keys.insert("do_sample".to_owned(), json!(true));
    }
    Json::Object(keys)
}
