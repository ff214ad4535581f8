//! Converts a GGUF adapter to PEFT: its factors get the names and layout of the base in Hugging Face's format, the inverse of
//! [`super::to_gguf`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::base::{Error, Result};
use crate::family::config::f32_json;
use crate::family::mapping::{Mapping, Row};
use crate::family::tables::Tables;
use crate::family::transform::Transform;
use crate::format::Reader;
use crate::model::companion::{CompanionFile, Content, Note};
use crate::model::{ElemType, Value};
use crate::source::folder;
use crate::view::lora::pair::{self, Pair};
use crate::view::lora::peft::PREFIX;
use crate::view::lora::to_gguf::{EMBEDDING, base_config, base_file, base_path};
use crate::view::lora::{Adapter, Update};
use crate::view::output_model::{OutputModel, OutputTensor};
use crate::view::tensor_expr::TensorExpr;
use crate::view::transform::Shaped;

/// Plans the PEFT folder of a GGUF adapter.
///
/// # Errors
/// The adapter cannot be converted, a module is not in the base, or its layout does not apply to factors.
pub fn output_model(reader: &Reader, base: Option<&Path>, tables: &Tables) -> Result<OutputModel> {
    let model = reader.model();
    let adapter = Adapter::supported(reader)?;
    let base = base_file(&base_path(&adapter, base)?)?;
    let (table, config) = base_config(&base, tables)?;
    let mapping = Mapping::new(&table, &config)?;
    let mut output = OutputModel { inputs: vec![base], ..OutputModel::default() };
    let mut modules = Modules::default();
    for ((number, layer), updates) in by_row(&adapter, &mapping)? {
        let Some(row) = mapping.rows.get(number) else { continue };
        let places = crate::family::pattern::Indices { layer, expert: None };
        let name = row.hf_name(places, 0);
        let module = name.strip_suffix(".weight").unwrap_or(&name).to_owned();
        let named = |error: Error| error.in_tensor(&name).in_file(&model.path);
        let first = updates.values().next().ok_or_else(|| Error::malformed("expected an update"))?;
        let factors = if row.gguf.iter().any(|name| name == EMBEDDING) {
            let parts = [(first.left.tensor, "lora_embedding_A", true), (first.right.tensor, "lora_embedding_B", false)];
            parts.map(|(tensor, end, turn)| {
                let stored = pair::stored(model, crate::view::lora::Factor { tensor, transposed: false })?;
                Ok((if turn { pair::turned(stored)? } else { stored }, end))
            })
        } else {
            let pair = joined(reader, row, &updates).map_err(named)?;
            // The layers of GPT-2 are stored the other way round, which PEFT knows as `fan_in_fan_out`.
            let [a, b] = if row.transform == Transform::Transpose {
                modules.fan_in_fan_out.insert(true);
                [pair::turned(pair.left)?, pair::turned(pair.right)?]
            } else {
                modules.fan_in_fan_out.insert(false);
                [pair.right, pair.left]
            };
            [Ok((a, "lora_A.weight")), Ok((b, "lora_B.weight"))]
        };
        for factor in factors {
            let (factor, end): (Shaped, &str) = factor.map_err(named)?;
            let elem = ElemType::Known(factor.origin.dtype());
            output.tensors.push(OutputTensor::made(factor.origin, format!("{PREFIX}{module}.{end}"), factor.shape, elem));
        }
        modules.add(module, first);
    }
    let file = modules.config(&adapter)?;
    output.files.push(CompanionFile { name: "adapter_config.json".to_owned(), content: Content::Bytes(folder::to_json(&file)) });
    output.metadata.set("format", Value::String("pt".to_owned()));
    let unnamed = adapter.base.is_none();
    output.notes.extend(
        unnamed.then(|| Note::remark("adapter_config.json", "the adapter does not name its base, so base_model_name_or_path is null")),
    );
    Ok(output)
}

/// The updates by table row and layer, then by part of the row.
type ByRow<'a> = BTreeMap<(usize, Option<u64>), BTreeMap<usize, &'a Update>>;

fn by_row<'a>(adapter: &'a Adapter, mapping: &Mapping) -> Result<ByRow<'a>> {
    let mut rows = ByRow::new();
    for update in &adapter.updates {
        let name = format!("{}.weight", update.module);
        let found = mapping.lookup_gguf(&name);
        let (number, part, places) =
            found.ok_or_else(|| Error::malformed("this module is not in the architecture table of the base").in_tensor(&name))?;
        rows.entry((number, places.layer)).or_default().insert(part, update);
    }
    Ok(rows)
}

/// Joins the updates of the tensors that one of Hugging Face became. Parts without an update get one of zeros.
fn joined(reader: &Reader, row: &Row, updates: &BTreeMap<usize, &Update>) -> Result<Pair> {
    let model = reader.model();
    let first = updates.values().next().ok_or_else(|| Error::malformed("expected an update"))?;
    let pairs = (0..row.gguf.len()).map(|part| match (updates.get(&part), &row.transform) {
        (Some(update), _) => Pair::of(model, update),
        (None, Transform::SplitRows(sizes)) => {
            let rows = sizes.get(part).copied().unwrap_or(0);
            let zeros = Shaped { origin: TensorExpr::zeros(rows, first.rank)?, shape: vec![rows, first.rank] };
            Ok(Pair { left: zeros, right: Pair::of(model, first)?.right })
        }
        (None, _) => Err(Error::unsupported("expected an update of every part of this matrix, found some without")),
    });
    let made = Pair::backward(pairs.collect::<Result<_>>()?, &row.transform, reader)?;
    <[Pair; 1]>::try_from(made).map(|[pair]| pair).map_err(|made| Error::unsupported(format!("expected one matrix, found {}", made.len())))
}

/// The modules that are updated, with their ranks and alphas.
#[derive(Default)]
struct Modules {
    all: Vec<(String, u64, f32)>,
    fan_in_fan_out: BTreeSet<bool>,
}

impl Modules {
    fn add(&mut self, module: String, update: &Update) {
        self.all.push((module, update.rank, (f64::from(update.scale) * update.rank as f64) as f32));
    }

    /// Returns adapter_config.json: the most common rank and alpha, and those of the modules that have others.
    fn config(self, adapter: &Adapter) -> Result<Json> {
        if self.fan_in_fan_out.len() > 1 {
            return Err(Error::unsupported("expected updates of layers that are all stored one way, found both (fan_in_fan_out)"));
        }
        let rank = most_common(self.all.iter().map(|(_, rank, _)| *rank)).unwrap_or(0);
        let alpha = most_common(self.all.iter().map(|(_, _, alpha)| alpha.to_bits())).map_or(0.0, f32::from_bits);
        let (mut ranks, mut alphas) = (Map::new(), Map::new());
        for (module, own_rank, own_alpha) in &self.all {
            if *own_rank != rank {
                ranks.insert(module.clone(), json!(own_rank));
            }
            if *own_alpha != alpha {
                alphas.insert(module.clone(), f32_json(*own_alpha));
            }
        }
        let targets: BTreeSet<&str> = self.all.iter().map(|(module, ..)| module.rsplit('.').next().unwrap_or(module)).collect();
        Ok(json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": adapter.base,
            "r": rank,
            "lora_alpha": f32_json(alpha),
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": self.fan_in_fan_out.contains(&true),
            "inference_mode": true,
            "target_modules": targets,
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
        }))
    }
}

fn most_common<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    values.for_each(|value| *counts.entry(value).or_default() += 1);
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(value, _)| value)
}
