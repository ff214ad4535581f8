//! What a conversion to GGUF loses besides the tensors that it leaves out: values of config.json, and precision.
//!
//! What a table puts in config.json on the way back is what llama.cpp computes: constants of its graph (`[config]`), what follows from keys
//! and shapes (`[derived]`), and which tensors there are (`[flags]`). A config.json that says otherwise describes another model.

use std::collections::HashSet;

use serde_json::Value as Json;

use crate::base::{Result, units};
use crate::family::config::Config;
use crate::family::sections::text_value;
use crate::family::table::Table;
use crate::family::tables::Tables;
use crate::format::Reader;
use crate::model::companion::Note;
use crate::model::{DType, Metadata, Model, TensorInfo, Value};
use crate::view::output_model::{OutputModel, OutputTensor, Source};
use crate::view::to_hf;

/// Spellings of the same function, or of functions for which llama.cpp has a single one.
const SAME: [&[&str]; 6] = [
    &["su", "longrope"],
    // Which of them it is, tensors tell.
    &["mamba", "linear_attention"],
    &["attention", "full_attention", "indexed_attention"],
    &["silu", "swish"],
    &["gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_accurate", "gelu_pytorch_tanh"],
    &["relu2", "relu_squared", "sqrelu"],
];

/// Scalings of rotary embeddings that have no table of factors in GGUF, or one that lacks a parameter.
const SCALINGS: [&str; 5] = ["linear", "yarn", "dynamic", "longrope", "su"];

/// Keys, in any section, that do not change what a model computes; or that tensors tell, and the conversion says which it leaves out.
const NOT_COMPUTED: &str =
    "architectures model_type use_cache do_sample tie_word_embeddings weight_tying num_nextn_predict_layers mtp_num_hidden_layers";

/// Returns a note for each value of config.json in place of which llama.cpp computes with another. `json` is config.json, and `config` what
/// its class makes of it.
///
/// # Errors
/// An expression in the table that is for the way back is invalid, or lacks a hyperparameter.
pub(super) fn values(tables: &Tables, table: &Table, json: &Json, config: &Config, output: &OutputModel) -> Result<Vec<Note>> {
    let mut metadata = Metadata::new();
    // The vocabulary says nothing of it, and is large.
    let is_vocabulary = |name: &str, value: &Value| name.starts_with("tokenizer.") && matches!(value, Value::Array(_));
    for (name, value) in output.metadata.iter().filter(|(name, value)| !is_vocabulary(name, value)) {
        metadata.set(name, value.clone());
    }
    let gguf = Model { tensors: output.tensors.iter().map(described).collect(), metadata, ..Model::default() };
    // A GGUF may belong to another table than config.json, of the same class.
    let found = tables.for_gguf(&table.gguf, |what| to_hf::has(&gguf, what)).ok();
    let table = found.as_ref().filter(|found| !table.projector && found.shares_class(&table.classes)).unwrap_or(table);
    let mut back = Config::empty(table);
    if table.projector {
        // Its expressions may name hyperparameters of the text model.
        let text = config.clone().into_keys().into_iter().filter(|(_, value)| !value.is_object());
        text.for_each(|(key, value)| back.set(key, value));
    }
    back.take_shapes(table, &gguf.tensors);
    to_hf::hyperparameters(table, &gguf, &mut back)?;
    let mut notes = Vec::new();
    let mut note = |key: &str, said: &Json, taken: &Json| {
        if let Some((place, said, taken)) = difference(said, taken) {
            let key = key.strip_prefix("rope.").unwrap_or(key);
            let file = if table.params.is_empty() { "config.json" } else { "params.json" };
            let message = format!("{key}{place} is {said}, which the GGUF does not record: llama.cpp takes {taken}");
            notes.push(Note::dropped(file, message));
        }
    };
    let has_tensor = |key: &str| {
        let tensor = table.flags.get(key).and_then(toml::Value::as_str);
        tensor.is_none_or(|name| back.is_true(key) != name.starts_with('!'))
    };
    // Sizes are in keys or follow from shapes, which have been compared.
    let is_size = |name: &str| {
        let is_known = table.hyperparameters.iter().any(|known| known.hf.iter().any(|hf| hf == name));
        is_known || name.ends_with("_size") || name.ends_with("_dim")
    };
    let is_held = |key: &str| {
        let name = key.rsplit('.').next().unwrap_or(key);
        key.starts_with('_')
            || table.folded.iter().any(|folded| folded == key)
            || NOT_COMPUTED.split(' ').any(|other| other == name)
            || is_size(name)
    };
    let mut met = HashSet::new();
    let keys = table.config.keys().chain(table.derived.keys()).chain(table.flags.keys());
    let is_scaling = |key: &str| ["rope.rope_type", "rope.type"].contains(&key);
    for key in keys.filter(|key| met.insert(*key) && !is_held(key) && !is_scaling(key)) {
        // What is absent is what the class takes.
        let default = || config.get(key).filter(|_| table.defaults.contains_key(key.as_str()));
        let said = if key.starts_with("rope.") { config.get(key) } else { text_value(json, key).or_else(default) };
        // A tensor that is missing counts as zero, whatever config.json says of it.
        if let (Some(said), Some(taken), true) = (said, back.get(key), has_tensor(key)) {
            note(key, said, taken);
        }
    }
    // The tables of factors stand for the scaling, but not for the length at which the long ones begin.
    if gguf.tensor("rope_factors_long.weight").is_some() {
        back.set("rope.rope_type", "longrope".into());
        back.collect_rope();
    }
    let scaling = config.get("rope.rope_type").filter(|kind| SCALINGS.iter().any(|scaling| *kind == scaling));
    if let Some(said) = scaling.filter(|_| !is_held("rope.rope_type")) {
        let none = "default".into();
        let taken = back.get("rope.rope_type").unwrap_or(&none);
        note("rope.rope_type", said, taken);
        for key in ["rope.factor", "rope.original_max_position_embeddings"] {
            if let (Some(said), Some(taken), None) = (config.get(key), back.get(key), difference(said, taken)) {
                note(key, said, taken);
            }
        }
    }
    Ok(notes)
}

/// Returns a note on the tensors whose values are computed, and rounded to the type of those that they are computed from.
pub(super) fn rounded(requested: Option<DType>, tensors: &[OutputTensor]) -> Option<Note> {
    const HALVES: [DType; 2] = [DType::BF16, DType::F16];
    // Another requested type is that of all results, which are rounded to it once, as the rest of the model is.
    let keeps_type = requested.is_none_or(|dtype| HALVES.contains(&dtype));
    let mut found = tensors.iter().filter_map(|step| match &step.source {
        Source::Made(made) => {
            let dtype = step.elem.known().filter(|dtype| HALVES.contains(dtype) && (keeps_type || step.fixed))?;
            Some((step, dtype, made.adds_bits()?))
        }
        _ => None,
    });
    let (first, dtype, operation) = found.next()?;
    let message = format!("is computed ({operation}) and rounded to {dtype}{}", as_are(found.count()));
    Some(Note::remark(&first.name, message))
}

/// Returns a note on the tensors that are made ternary, if they are not stored so.
pub(super) fn ternary(reader: &Reader, tensors: &[OutputTensor]) -> Option<Note> {
    let is_rounded = |step: &&OutputTensor| match &step.source {
        Source::Made(made) => made.made_ternary().and_then(|index| reader.model().tensors.get(index)).is_some_and(|tensor| {
            // Packed ones have three values already.
            reader.type_name(tensor).packed.is_none_or(|packed| packed.name != "BitNet")
        }),
        _ => false,
    };
    let mut found = tensors.iter().filter(is_rounded);
    let first = found.next()?;
    let message = format!("is rounded to three values, as in the forward pass of the model{}", as_are(found.count()));
    Some(Note::remark(&first.name, message))
}

fn as_are(others: usize) -> String {
    match others {
        0 => String::new(),
        1 => "; so is 1 other tensor".to_owned(),
        others => format!("; so are {} other tensors", units::grouped(others as u64)),
    }
}

fn described(step: &OutputTensor) -> TensorInfo {
    TensorInfo { name: step.name.clone(), elem: step.elem, shape: step.shape.clone(), shard: 0, offset_bytes: 0, len_bytes: None }
}

/// Returns the first place at which two values differ, and what is there. Lists may go on with layers that are left out, and objects have
/// keys that only one of them spells out.
fn difference<'a>(said: &'a Json, taken: &'a Json) -> Option<(String, &'a Json, &'a Json)> {
    let within = |place: String, said, taken| difference(said, taken).map(|(rest, said, taken)| (place + &rest, said, taken));
    let number = |value: &Json| value.as_f64().or_else(|| value.as_bool().map(|value| f64::from(u8::from(value))));
    match (said, taken) {
        (Json::Null, _) | (_, Json::Null) => None,
        (Json::Array(a), Json::Array(b)) => a.iter().zip(b).enumerate().find_map(|(i, (a, b))| within(format!("[{i}]"), a, b)),
        // One number stands for a list of equal ones.
        (Json::Array(list), _) => list.iter().enumerate().find_map(|(i, said)| within(format!("[{i}]"), said, taken)),
        (_, Json::Array(list)) => list.iter().find_map(|taken| difference(said, taken)),
        // What the class works out: `auto`.
        (Json::String(_), Json::Number(_)) => None,
        (Json::Object(a), Json::Object(b)) => a.iter().find_map(|(key, a)| within(format!(".{key}"), a, b.get(key)?)),
        (Json::String(a), Json::String(b)) if a == b || SAME.iter().any(|same| [a, b].iter().all(|name| same.contains(&name.as_str()))) => {
            None
        }
        _ => match (number(said), number(taken)) {
            (Some(a), Some(b)) if (a - b).abs() <= 1e-6 * a.abs().max(b.abs()) => None,
            _ => Some((String::new(), said, taken)),
        },
    }
}
