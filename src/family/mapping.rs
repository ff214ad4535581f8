//! A table evaluated for one model: maps tensors between Hugging Face and GGUF.

use std::collections::HashMap;
use std::ops::Range;

use globset::{Glob, GlobMatcher};

use crate::base::{Error, Result};
use crate::family::config::Config;
use crate::family::pattern;
use crate::family::pattern::Indices;
use crate::family::table::{Optional, Table, TensorRow};
use crate::family::transform::Transform;
use crate::model::Module;

/// The rows of a table, evaluated for one model.
#[derive(Debug)]
pub struct Mapping {
    /// One row per kind of tensor and suffix.
    pub rows: Vec<Row>,
    /// The number of layers.
    pub layers: u64,
    prefixes: Vec<String>,
    replace: Vec<(String, String)>,
    drop: Vec<GlobMatcher>,
    drops_further_layers: bool,
    by_hf: HashMap<String, usize>,
    by_gguf: HashMap<String, (usize, usize)>,
}

/// A kind of tensor.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its Hugging Face name template.
    pub hf: String,
    /// Its GGUF name templates: several if it is split.
    pub gguf: Vec<String>,
    /// The transform between the two.
    pub transform: Transform,
    /// Its Hugging Face shape, if given by the table.
    pub shape: Option<Vec<u64>>,
    /// Whether it is optional.
    pub optional: bool,
    /// The layers that have it; empty for a tensor outside the layers.
    pub layers: Range<u64>,
}

impl Row {
    /// Whether there is one per layer.
    pub fn is_layered(&self) -> bool {
        self.hf.contains("{bid}")
    }

    /// Whether there is one per expert.
    pub fn is_stacked(&self) -> bool {
        self.transform == Transform::StackExperts
    }

    /// Returns the indices of its tensors: one per layer, or a single one outside the layers.
    pub fn indices(&self) -> Vec<Indices> {
        if self.is_layered() {
            self.layers.clone().map(|layer| Indices { layer: Some(layer), expert: None }).collect()
        } else {
            vec![Indices::default()]
        }
    }
}

/// The result of looking up a Hugging Face tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HfTensor {
    /// A tensor of the row with this index.
    Row(usize, Indices),
    /// A tensor without GGUF equivalent.
    Dropped,
    /// A tensor that is not in the table.
    Unknown,
}

impl Mapping {
    /// Evaluates a table for a model.
    ///
    /// # Errors
    /// A hyperparameter needed by a transform or the layer count is missing, or the table is invalid.
    pub fn new(table: &Table, config: &Config) -> Result<Self> {
        let layers = config.length("layers")?;
        let mut rows = Vec::new();
        for row in &table.tensors {
            for (number, (suffix, may_be_absent)) in row.suffixes().into_iter().enumerate() {
                rows.push(resolve(row, number, suffix, may_be_absent, config, layers)?);
            }
        }
        if let Ok(experts) = config.count("experts") {
            let stacked: Vec<Row> = rows.iter().filter(|row| row.is_stacked()).map(|row| stacked_by_mlx(row, experts)).collect();
            rows.extend(stacked);
        }
        let drop = table
            .drop
            .iter()
            .map(|glob| Glob::new(glob).map(|glob| glob.compile_matcher()))
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| Error::argument(format!("expected a glob in the table {}: {error}", table.name)))?;
        let prefixes = table.prefixes.clone();
        if table.without_head || config.is_without_head() {
            rows.iter_mut().for_each(|row| row.hf = pattern::strip_prefixes(&row.hf, &prefixes).to_owned());
        }
        let by_hf = rows.iter().enumerate().map(|(i, row)| (pattern::strip_prefixes(&row.hf, &prefixes).to_owned(), i)).collect();
        // The first row with a GGUF name is used for the reverse direction.
        let mut by_gguf = HashMap::new();
        for (i, row) in rows.iter().enumerate() {
            for (part, name) in row.gguf.iter().enumerate() {
                by_gguf.entry(name.clone()).or_insert((i, part));
            }
        }
        let replace = table.replace.clone();
        Ok(Self { rows, layers, prefixes, replace, drop, drops_further_layers: table.drops_further_layers, by_hf, by_gguf })
    }

    /// Looks up a Hugging Face tensor.
    pub fn lookup_hf(&self, name: &str) -> HfTensor {
        let strip_prefixes = pattern::strip_prefixes(name, &self.prefixes);
        if self.drop.iter().any(|glob| glob.is_match(name) || glob.is_match(strip_prefixes)) {
            return HfTensor::Dropped;
        }
        let mut name = strip_prefixes.to_owned();
        for (from, to) in &self.replace {
            let at = name.match_indices(from.as_str()).map(|(at, _)| at).find(|&at| {
                let before = name.get(..at).unwrap_or_default();
                before.is_empty() || before.ends_with('.') || from.starts_with('.')
            });
            if let Some(at) = at {
                name.replace_range(at..at + from.len(), to);
            }
        }
        let (pattern, places) = pattern::split_template(&name);
        if self.drops_further_layers && places.layer.is_some_and(|layer| layer >= self.layers) {
            return HfTensor::Dropped;
        }
        match self.by_hf.get(&pattern) {
            Some(&row) if places.layer.is_none_or(|layer| layer < self.layers) => HfTensor::Row(row, places),
            _ => HfTensor::Unknown,
        }
    }

    /// Whether any row belongs to this sentence-transformers module.
    pub fn has_module(&self, module: &Module) -> bool {
        self.rows.iter().any(|row| module.has(&row.hf))
    }

    /// Looks up a GGUF tensor: returns its row, which of the row's tensors it is, and its indices.
    pub fn lookup_gguf(&self, name: &str) -> Option<(usize, usize, Indices)> {
        let (pattern, places) = pattern::split_template(name);
        let &(row, part) = self.by_gguf.get(&pattern)?;
        places.layer.is_none_or(|layer| layer < self.layers).then_some((row, part, places))
    }
}

/// Returns a row for the same experts stacked as in mlx-lm's `SwitchGLU`: `mlp.switch_mlp.gate_proj` for `mlp.experts.{eid}.w1`.
fn stacked_by_mlx(row: &Row, experts: u64) -> Row {
    const PROJECTIONS: [(&str, &str); 3] = [("ffn_gate_exps", "gate_proj"), ("ffn_up_exps", "up_proj"), ("ffn_down_exps", "down_proj")];
    let name = row.gguf.first().map_or("", String::as_str);
    let projection = PROJECTIONS.iter().find(|(gguf, _)| name.contains(gguf)).map_or(name, |(_, mlx)| mlx);
    let block = row.hf.split(".experts.").next().unwrap_or_default();
    let suffix = row.hf.rsplit('.').next().unwrap_or_default();
    let mut shape = vec![experts];
    shape.extend(row.shape.iter().flatten());
    Row {
        hf: format!("{block}.switch_mlp.{projection}.{suffix}"),
        transform: Transform::Plain,
        shape: row.shape.is_some().then_some(shape),
        optional: true,
        ..row.clone()
    }
}

fn resolve(row: &TensorRow, number: usize, suffix: &str, may_be_absent: bool, config: &Config, layers: u64) -> Result<Row> {
    let shape = if suffix == "bias" && row.shape.len() > 1 {
        // A bias has one number per output: all dimensions but the last.
        row.shape.split_last().map(|(_, rest)| rest).unwrap_or_default()
    } else {
        &row.shape[..]
    };
    let transform = match row.transform.as_deref() {
        Some(text) => Transform::parse(text, config)?,
        None => Transform::Plain,
    };
    let gguf = row.gguf_names(suffix);
    if gguf.len() != transform.outputs() {
        return Err(Error::argument(format!("expected {} names in GGUF for {}, found {}", transform.outputs(), row.hf, gguf.len())));
    }
    let optional = may_be_absent
        || match &row.optional {
            Optional::Plain(optional) => *optional,
            Optional::When(key) => config.is_true(key) || config.is_without_head(),
        };
    // For an optional tensor, the hyperparameters of the shape may be absent too.
    let is_known = !optional || shape.iter().all(|dim| config.eval(dim).is_ok_and(|value| value.is_some()));
    let shape = match shape {
        [] => None,
        _ if !is_known => None,
        shape => Some(shape.iter().map(|dim| config.count(dim)).collect::<Result<Vec<_>>>()?),
    };
    let range = match row.layers.as_deref().map(|range| range.split_once("..")) {
        None => 0..layers,
        Some(None) => return Err(Error::argument(format!("expected layers as from..to for {}", row.hf))),
        Some(Some((from, to))) => {
            let bound = |text: &str, default: u64| if text.trim().is_empty() { Ok(default) } else { config.count(text.trim()) };
            bound(from, 0)?..bound(to, layers)?.min(layers)
        }
    };
    Ok(Row { hf: row.hf_name(number, suffix), gguf, transform, shape, optional, layers: range })
}
