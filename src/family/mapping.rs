//! A table with the hyperparameters of one model filled in: which tensor of Hugging Face is which of GGUF.

use std::collections::HashMap;
use std::ops::Range;

use globset::{Glob, GlobMatcher};

use crate::base::{Error, Result};
use crate::family::config::Config;
use crate::family::pattern;
use crate::family::pattern::Places;
use crate::family::table::{Optional, Table, TensorRow};
use crate::family::transform::Transform;
use crate::model::Module;

/// The rows of a table, worked out for one model.
#[derive(Debug)]
pub struct Mapping {
    /// One row for each kind of tensor and suffix.
    pub rows: Vec<Row>,
    /// How many layers the model has.
    pub layers: u64,
    prefixes: Vec<String>,
    replace: Vec<(String, String)>,
    drop: Vec<GlobMatcher>,
    drops_further_layers: bool,
    by_hf: HashMap<String, usize>,
    by_gguf: HashMap<String, (usize, usize)>,
}

/// One kind of tensor.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its pattern in Hugging Face.
    pub hf: String,
    /// Its patterns in GGUF: several where it is split.
    pub gguf: Vec<String>,
    /// What happens between the two.
    pub transform: Transform,
    /// Its dimensions in Hugging Face, where the table says them.
    pub shape: Option<Vec<u64>>,
    /// Whether it may be absent.
    pub optional: bool,
    /// The layers that have it; empty for a tensor outside the layers.
    pub layers: Range<u64>,
}

impl Row {
    /// Whether there is one for each layer.
    pub fn is_layered(&self) -> bool {
        self.hf.contains("{bid}")
    }

    /// Whether there is one for each expert.
    pub fn is_stacked(&self) -> bool {
        self.transform == Transform::StackExperts
    }

    /// The layers, or the one place outside them.
    pub fn places(&self) -> Vec<Places> {
        if self.is_layered() {
            self.layers.clone().map(|bid| Places { bid: Some(bid), eid: None }).collect()
        } else {
            vec![Places::default()]
        }
    }
}

/// What a name of Hugging Face is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// A tensor of the row of this number.
    Row(usize, Places),
    /// One that has no place in GGUF.
    Dropped,
    /// None of the table's.
    Unknown,
}

impl Mapping {
    /// Works out the rows for a model.
    ///
    /// # Errors
    /// A hyperparameter that a transform or the layers need is missing, or the table is wrong.
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
            rows.iter_mut().for_each(|row| row.hf = pattern::bare(&row.hf, &prefixes).to_owned());
        }
        let by_hf = rows.iter().enumerate().map(|(i, row)| (pattern::bare(&row.hf, &prefixes).to_owned(), i)).collect();
        // The first row that makes a name is the one that the way back takes.
        let mut by_gguf = HashMap::new();
        for (i, row) in rows.iter().enumerate() {
            for (part, name) in row.gguf.iter().enumerate() {
                by_gguf.entry(name.clone()).or_insert((i, part));
            }
        }
        let replace = table.replace.clone();
        Ok(Self { rows, layers, prefixes, replace, drop, drops_further_layers: table.drops_further_layers, by_hf, by_gguf })
    }

    /// What a tensor of Hugging Face is.
    pub fn hf(&self, name: &str) -> Known {
        let bare = pattern::bare(name, &self.prefixes);
        if self.drop.iter().any(|glob| glob.is_match(name) || glob.is_match(bare)) {
            return Known::Dropped;
        }
        let mut name = bare.to_owned();
        for (from, to) in &self.replace {
            let at = name.match_indices(from.as_str()).map(|(at, _)| at).find(|&at| {
                let before = name.get(..at).unwrap_or_default();
                before.is_empty() || before.ends_with('.') || from.starts_with('.')
            });
            if let Some(at) = at {
                name.replace_range(at..at + from.len(), to);
            }
        }
        let (pattern, places) = pattern::skeleton(&name);
        if self.drops_further_layers && places.bid.is_some_and(|bid| bid >= self.layers) {
            return Known::Dropped;
        }
        match self.by_hf.get(&pattern) {
            Some(&row) if places.bid.is_none_or(|bid| bid < self.layers) => Known::Row(row, places),
            _ => Known::Unknown,
        }
    }

    /// Whether any row is of this module of sentence-transformers.
    pub fn knows(&self, module: &Module) -> bool {
        self.rows.iter().any(|row| module.has(&row.hf))
    }

    /// The row of a tensor of GGUF, which of the row's tensors it is, and its layer.
    pub fn gguf(&self, name: &str) -> Option<(usize, usize, Places)> {
        let (pattern, places) = pattern::skeleton(name);
        let &(row, part) = self.by_gguf.get(&pattern)?;
        places.bid.is_none_or(|bid| bid < self.layers).then_some((row, part, places))
    }
}

/// The row of the same experts in one tensor, as mlx-lm's `SwitchGLU` has them: `mlp.switch_mlp.gate_proj` for `mlp.experts.{eid}.w1`.
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
        // A bias has a number for each output: all dimensions but the last.
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
    // Of a tensor that may be absent, what gives the shape may be absent as well.
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
