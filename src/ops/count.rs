//! `count`: the number of parameters of a model, by type, component and layer.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use crate::base::{Result, num, units};
use crate::family::components::{Classification, Component, Components};
use crate::family::{hyperparameters, ties};
use crate::format::Reader;
use crate::model::checkpoint::{TrainingState, training_state};
use crate::model::{Model, PackingSummary, TensorInfo};
use crate::ops::weights;
use crate::quant::packed::{Packing, Role};

/// The number of parameters of a model.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Count {
    schema: &'static str,
    /// Weights: tied ones once, tables derived from the hyperparameters not at all. `None` if some are packed in a way that this build
    /// cannot decode.
    pub parameters: Option<u64>,
    /// Elements in the files.
    pub stored_elements: u64,
    /// Weights used per token; `None` if the number of experts per token is unknown.
    pub active_parameters: Option<u64>,
    /// Parameters of token, position and token-type embeddings.
    pub embedding_parameters: u64,
    /// Size of all tensors in bytes; `None` if the size of a type among them is unknown.
    pub bytes: Option<u64>,
    /// 8 x bytes / parameters, without the bytes of training state and of tied tensors.
    pub bits_per_weight: Option<f64>,
    /// Rounded parameter count: `271M`; `at least 271M` if some are unknown.
    pub label: String,
    /// The packing of the weights, if they are packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<PackingSummary>,
    /// By element type, largest first.
    pub by_dtype: Vec<DTypeCount>,
    /// By component, in the order of [`Component::ALL`]; absent components are omitted.
    pub by_component: Vec<ComponentCount>,
    /// By layer; tensors outside layers come last.
    pub by_layer: Vec<LayerCount>,
    /// Missing files, if any; all figures then cover the present files: `1 of 2 files of the model is here: no ...`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<String>,
    /// Stored elements that are not parameters, in words.
    #[serde(skip)]
    pub left_out: Vec<String>,
}

/// The tensors of one type.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DTypeCount {
    /// The type.
    pub dtype: String,
    /// Number of tensors.
    pub tensors: u64,
    /// Number of elements stored.
    pub elements: u64,
    /// Size in bytes; `None` if the size of a type among them is unknown.
    pub bytes: Option<u64>,
}

/// The tensors of one component.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct ComponentCount {
    /// The component.
    pub component: Component,
    /// Number of tensors.
    pub tensors: u64,
    /// Number of parameters.
    pub parameters: u64,
    /// Size in bytes; `None` if the size of a type among them is unknown.
    pub bytes: Option<u64>,
}

/// The tensors of one layer.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct LayerCount {
    /// Layer number; `None` for tensors outside layers.
    pub layer: Option<u64>,
    /// Number of tensors.
    pub tensors: u64,
    /// Number of parameters.
    pub parameters: u64,
    /// Size in bytes; `None` if the size of a type among them is unknown.
    pub bytes: Option<u64>,
}

/// A tensor and its parameter count.
#[derive(Debug, Clone, Copy)]
pub struct Counted<'m> {
    /// The tensor.
    pub tensor: &'m TensorInfo,
    /// Component and layer.
    pub classification: Classification,
    /// Number of parameters; `None` if it is packed in a way that this build cannot decode.
    pub parameters: Option<u64>,
    /// Reason why its elements are not parameters.
    pub left_out: Option<&'static str>,
    /// Whether its bytes are none of the weights': of training state, or those of another tensor.
    pub beside: bool,
}

/// Counts the parameters of every tensor of the model, in file order.
///
/// # Errors
/// A tensor has more than 2^64 elements, which readers reject.
pub fn counted(reader: &Reader) -> Result<Vec<Counted<'_>>> {
    let model = reader.model();
    let packing = Packing::detect(reader);
    let components = hyperparameters::components(model);
    let tied = tied_output(model, &components);
    let shared: HashSet<&str> = model.checkpoint.iter().flat_map(|checkpoint| &checkpoint.tied).map(|tied| tied.name.as_str()).collect();
    let states = training_states(model);
    let reads_pooler = model.tensors.iter().any(|tensor| ["classifier.", "score.", "cls."].iter().any(|head| tensor.name.contains(head)));
    let count = |index: usize, tensor: &'_ TensorInfo| {
        let classification = components.classify(&tensor.name);
        let left_out = if packing.role(index) == Role::Bookkeeping {
            Some("a quantisation's scales and zero points")
        } else if classification.computed {
            Some("computed tables")
        } else if tied == Some(tensor.name.as_str()) {
            Some("tied to the embedding")
        } else if shared.contains(tensor.name.as_str()) {
            Some("tied to another tensor")
        } else if let Some(state) = states.get(index).copied().flatten() {
            Some(state)
        } else if !reads_pooler && tensor.name.split('.').any(|part| part == "pooler") {
            // The encoder is complete without it, and GGUF omits it.
            Some("an unused pooler")
        } else {
            None
        };
        let beside = shared.contains(tensor.name.as_str()) || states.get(index).is_some_and(Option::is_some);
        let parameters = if left_out.is_some() { Some(0) } else { packing.parameters(model, index) };
        Ok((classification, parameters, left_out, beside))
    };
    let with = |(index, tensor)| {
        let (classification, parameters, left_out, beside) = count(index, tensor)?;
        Ok(Counted { tensor, classification, parameters, left_out, beside })
    };
    model.tensors.iter().enumerate().map(with).collect()
}

/// Returns what the tensors of a training checkpoint are that are no weights of the model.
fn training_states(model: &Model) -> Vec<Option<&'static str>> {
    if model.checkpoint.is_none() {
        return Vec::new();
    }
    let states: Vec<_> = model.tensors.iter().map(|tensor| training_state(&tensor.name)).collect();
    // A file of averages alone is a model.
    let weights = states.contains(&None);
    let word = |state| match state {
        TrainingState::Optimizer => Some("the optimizer's state"),
        TrainingState::Other => Some("other training state"),
        TrainingState::Average => weights.then_some("averaged weights"),
    };
    states.into_iter().map(|state| state.and_then(word)).collect()
}

/// Returns the output matrix that is stored although the config, or by default the class, ties it to the embedding.
fn tied_output<'m>(model: &'m Model, components: &Components) -> Option<&'m str> {
    const OUTPUTS: &[&str] = &["lm_head.weight", "embed_out.weight", "proj_out.weight", "cls.predictions.decoder.weight"];
    model.config.as_ref().filter(|config| ties::ties_output(config))?;
    let output = model.tensors.iter().find(|tensor| OUTPUTS.iter().any(|name| tensor.name.ends_with(name)))?;
    let same = |tensor: &&TensorInfo| components.classify(&tensor.name).component == Component::Embedding && tensor.shape == output.shape;
    model.tensors.iter().find(same).map(|_| output.name.as_str())
}

/// Totals of one component or layer.
#[derive(Debug, Clone, Copy)]
struct Sums {
    tensors: u64,
    parameters: u64,
    bytes: Option<u64>,
}

impl Default for Sums {
    fn default() -> Self {
        Self { tensors: 0, parameters: 0, bytes: Some(0) }
    }
}

/// Adds two sizes, if both are known.
fn plus(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    Some(a?.saturating_add(b?))
}

/// Counts the parameters of a model.
///
/// # Errors
/// The model has more than 2^64 elements.
pub fn count(reader: &Reader) -> Result<Count> {
    let model = reader.model();
    let mut total = [0u64; 2]; // parameters, elements
    let (mut all_bytes, mut beside) = (Some(0u64), 0u64);
    let mut known = true;
    let mut experts = 0;
    let mut embedding = 0;
    let mut by_dtype: BTreeMap<String, DTypeCount> = BTreeMap::new();
    let mut by_component: BTreeMap<Component, Sums> = BTreeMap::new();
    let mut by_layer: BTreeMap<(bool, Option<u64>), Sums> = BTreeMap::new();
    let mut left_out: Vec<(&'static str, u64)> = Vec::new();
    for counted in counted(reader)? {
        let Counted { tensor, classification, parameters, .. } = counted;
        known &= parameters.is_some();
        let parameters = parameters.unwrap_or(0);
        let (elements, bytes) = (tensor.elements()?, tensor.len_bytes);
        for (sum, term) in total.iter_mut().zip([parameters, elements]) {
            *sum = num::add(*sum, term, "the size of the model")?;
        }
        all_bytes = match (all_bytes, bytes) {
            (Some(sum), Some(term)) => Some(num::add(sum, term, "the size of the model")?),
            _ => None,
        };
        beside = beside.saturating_add(bytes.filter(|_| counted.beside).unwrap_or(0));
        // The sums below cannot exceed the total.
        match classification.component {
            Component::Experts => experts += parameters,
            Component::Embedding => embedding += parameters,
            _ => {}
        }
        let dtype = tensor.elem.to_string();
        let row = by_dtype.entry(dtype.clone()).or_insert_with(|| DTypeCount { dtype, bytes: Some(0), ..DTypeCount::default() });
        (row.tensors, row.elements, row.bytes) = (row.tensors + 1, row.elements + elements, plus(row.bytes, bytes));
        for sums in [
            by_component.entry(classification.component).or_default(),
            by_layer.entry((classification.layer.is_none(), classification.layer)).or_default(),
        ] {
            *sums = Sums { tensors: sums.tensors + 1, parameters: sums.parameters + parameters, bytes: plus(sums.bytes, bytes) };
        }
        if let Some(why) = counted.left_out {
            match left_out.iter_mut().find(|(known, _)| *known == why) {
                Some((_, sum)) => *sum += elements,
                None => left_out.push((why, elements)),
            }
        }
    }
    let [parameters, stored_elements] = total;
    let lacks: Vec<&str> = reader.missing_files().map(|finding| finding.message.as_str()).collect();
    let mut by_dtype: Vec<DTypeCount> = by_dtype.into_values().collect();
    by_dtype.sort_by_key(|row| std::cmp::Reverse(row.bytes));
    Ok(Count {
        schema: "weigh.count.v1",
        parameters: known.then_some(parameters),
        stored_elements,
        active_parameters: active(model, parameters, experts).filter(|_| known),
        embedding_parameters: embedding,
        bytes: all_bytes,
        bits_per_weight: all_bytes
            .filter(|_| parameters > 0 && known)
            .map(|bytes| bytes.saturating_sub(beside) as f64 * 8.0 / parameters as f64),
        label: if known { units::label(parameters) } else { format!("at least {}", units::label(parameters)) },
        packing: weights::packing(reader),
        by_dtype,
        by_component: by_component
            .into_iter()
            .map(|(component, Sums { tensors, parameters, bytes })| ComponentCount { component, tensors, parameters, bytes })
            .collect(),
        by_layer: by_layer
            .into_iter()
            .map(|((_, layer), Sums { tensors, parameters, bytes })| LayerCount { layer, tensors, parameters, bytes })
            .collect(),
        incomplete: (!lacks.is_empty()).then(|| lacks.join("; ")),
        left_out: left_out.into_iter().map(|(why, elements)| format!("{} of {why}", units::grouped(elements))).collect(),
    })
}

/// Counts shared weights and those of as many experts as each token is routed to.
fn active(model: &Model, parameters: u64, experts: u64) -> Option<u64> {
    if experts == 0 {
        return Some(parameters);
    }
    let known = hyperparameters::all(model);
    let (of, used) = (hyperparameters::number(&known, "experts")?, hyperparameters::number(&known, "experts_used")?);
    if of == 0 || used > of {
        return None;
    }
    let used = u128::from(experts) * u128::from(used) / u128::from(of);
    Some(parameters - experts + u64::try_from(used).ok()?)
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;
    use crate::base::bytes::Endian;
    use crate::family::config::Config;
    use crate::family::mapping::Mapping;
    use crate::family::tables::Tables;
    use crate::model::{DType, ElemType};

    /// Returns the headers of a model with this config: the tensors that its table requires.
    fn of_config(config: Json) -> Reader {
        let table = Tables::default().for_config(&config).unwrap();
        let mut completed = Config::new(&table, &config).unwrap();
        completed.measure(&table, &[]);
        let mapping = Mapping::new(&table, &completed).unwrap();
        let mut tensors = Vec::new();
        for row in mapping.rows.iter().filter(|row| !row.optional) {
            for places in row.indices() {
                for member in 0..row.members().unwrap() {
                    let shape = row.shape.clone().unwrap();
                    let len_bytes = Some(2 * shape.iter().product::<u64>());
                    let (name, elem) = (row.hf_name(places, member), ElemType::Known(DType::BF16));
                    tensors.push(TensorInfo { name, elem, shape, shard: 0, offset_bytes: 0, len_bytes });
                }
            }
        }
        Reader::new(Model { tensors, config: Some(config), ..Model::default() }, Vec::new(), Endian::Little)
    }

    /// Whether a count, rounded to as many digits as the published one has, is that one: `30.5B`.
    fn rounds_to(count: u64, published: &str) -> bool {
        let (number, unit) = published.split_at(published.len() - 1);
        let unit = match unit {
            "T" => 1e12,
            "B" => 1e9,
            "M" => 1e6,
            other => panic!("{other}"),
        };
        let digits = number.split_once('.').map_or(0, |(_, digits)| digits.len());
        // Makers round down as well (3.35B is published as 3.3B).
        let exact = count as f64 / unit;
        let step = 10f64.powi(-(digits as i32));
        let value: f64 = number.parse().unwrap();
        (exact - value).abs() <= step * 0.5 || (value..value + step).contains(&exact)
    }

    #[test]
    fn published_models_have_their_published_sizes() {
        let list: toml::Table = toml::from_str(include_str!("../../fixtures/published.toml")).unwrap();
        let models = list["model"].as_array().unwrap();
        assert!(models.len() > 15);
        for row in models {
            let name = row["name"].as_str().unwrap();
            let count = count(&of_config(serde_json::from_str(row["config"].as_str().unwrap()).unwrap())).unwrap();
            let total = count.parameters.unwrap();
            assert!(rounds_to(total, row["total"].as_str().unwrap()), "{name}: {total} parameters");
            if let Some(published) = row.get("active").and_then(toml::Value::as_str) {
                let mut active = count.active_parameters.unwrap();
                if row.get("without_embedding").is_some() {
                    active -= count.embedding_parameters;
                }
                assert!(rounds_to(active, published), "{name}: {active} active parameters");
            }
        }
    }
}
