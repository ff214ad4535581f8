//! A table evaluated for one model: maps tensors between Hugging Face and GGUF.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::base::{Error, Result, num};
use crate::family::config::Config;
use crate::family::pattern::{self, Indices, Template};
use crate::family::table::{Optional, Table, TensorRow};
use crate::family::transform::Transform;
use crate::model::{DType, Module};

/// The part of a model to convert, if some of its layers predict further tokens (MTP, NextN).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ModelPart {
    /// All of it.
    #[default]
    Whole,
    /// All but those layers.
    WithoutMtp,
    /// Those layers, and what they share with the others: the embeddings, the last norm and the output matrix.
    MtpAlone,
}

/// Tensors that multi-token prediction layers share with the others.
const SHARED: [&str; 3] = ["token_embd.", "output_norm.", "output."];

/// The rows of a table, evaluated for one model.
#[derive(Debug)]
pub struct Mapping {
    /// One row per kind of tensor and suffix; several if its shape differs between layers.
    pub rows: Vec<Row>,
    /// The number of layers.
    pub layers: u64,
    prefixes: Vec<String>,
    replace: Vec<(String, String)>,
    drop: GlobSet,
    keep: GlobSet,
    drop_zeros: GlobSet,
    projector: bool,
    parts: Vec<String>,
    drops_further_layers: bool,
    has_mtp: bool,
    by_hf: Names,
    by_gguf: Names,
}

/// A kind of tensor.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its Hugging Face name templates: several if they are joined.
    pub hf: Vec<String>,
    /// Its GGUF name templates: several if it is split.
    pub gguf: Vec<String>,
    /// The transform between the two.
    pub transform: Transform,
    /// Its Hugging Face shape, if given by the table.
    pub shape: Option<Vec<u64>>,
    /// Whether it is optional.
    pub optional: bool,
    /// The type in GGUF, where it is fixed.
    pub dtype: Option<DType>,
    /// Whether it has the type of the model even if tensors of this name stay in F32 in other families.
    pub of_model: bool,
    /// The number of experts, or of other numbered tensors, that are stacked; absent if it is not known.
    experts: Option<u64>,
    layers: Layers,
    numbers: Numbers,
    /// The array of numbers in GGUF that holds its elements, instead of tensors.
    pub key: Option<String>,
    /// Whether it is dropped if a row above has made the same tensors.
    pub copy: bool,
    drops_others: bool,
}

/// The numbers in GGUF of the layers, where they differ.
#[derive(Debug, Clone, Default)]
struct Numbers {
    to_gguf: BTreeMap<u64, u64>,
    to_hf: BTreeMap<u64, u64>,
}

impl Numbers {
    /// Evaluates the number of each layer.
    fn new(text: Option<&str>, config: &Config, layers: &Layers) -> Result<Self> {
        let mut numbers = Self::default();
        let Some(text) = text else { return Ok(numbers) };
        for layer in layers.all() {
            let number = config.at_layer(layer, || config.count(text))?;
            numbers.to_gguf.insert(layer, number);
            numbers.to_hf.insert(number, layer);
        }
        Ok(numbers)
    }

    fn in_gguf(&self, layer: u64) -> u64 {
        self.to_gguf.get(&layer).copied().unwrap_or(layer)
    }

    fn in_hf(&self, number: u64) -> Option<u64> {
        if self.to_hf.is_empty() { Some(number) } else { self.to_hf.get(&number).copied() }
    }
}

/// The layers that have a tensor.
#[derive(Debug, Clone, PartialEq)]
enum Layers {
    Range(Range<u64>),
    List(Vec<u64>),
}

impl Layers {
    fn has(&self, layer: u64) -> bool {
        match self {
            Self::Range(range) => range.contains(&layer),
            Self::List(layers) => layers.binary_search(&layer).is_ok(),
        }
    }

    fn are_before(&self, layer: u64) -> bool {
        match self {
            Self::Range(range) => range.end <= layer,
            Self::List(layers) => layers.last().is_some_and(|&last| last < layer),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Range(range) => range.is_empty(),
            Self::List(layers) => layers.is_empty(),
        }
    }

    /// Returns the layer, if there is exactly one.
    fn only(&self) -> Option<u64> {
        match self {
            Self::Range(range) => (range.end.checked_sub(range.start) == Some(1)).then_some(range.start),
            Self::List(layers) => layers.first().copied().filter(|_| layers.len() == 1),
        }
    }

    fn all(&self) -> Vec<u64> {
        match self {
            Self::Range(range) => range.clone().collect(),
            Self::List(layers) => layers.clone(),
        }
    }
}

impl Row {
    /// Whether there is one per layer.
    pub fn is_layered(&self) -> bool {
        self.hf.iter().any(|name| name.contains("{bid}"))
    }

    /// Whether there is one per expert.
    pub fn is_stacked(&self) -> bool {
        self.hf.iter().any(|name| name.contains("{eid}"))
    }

    /// Returns the number of Hugging Face tensors that make one in GGUF: experts, or parts that are joined.
    ///
    /// # Errors
    /// The number of experts is not known.
    pub fn members(&self) -> Result<u64> {
        if !self.is_stacked() {
            return Ok(self.hf.len() as u64);
        }
        self.experts.ok_or_else(|| Error::unsupported("hyperparameters needed for experts are missing").in_tensor(self.name()))
    }

    /// Returns the number of elements of one tensor in the array of a key.
    ///
    /// # Errors
    /// There are too many.
    pub fn elements(&self) -> Result<u64> {
        self.shape.as_deref().map_or(Ok(1), num::elements)
    }

    /// Whether the array of a key holds whole numbers.
    pub fn is_whole(&self) -> bool {
        self.dtype == Some(DType::U64)
    }

    /// Returns the Hugging Face template, the first if there are several.
    pub fn name(&self) -> &str {
        self.hf.first().map_or("", String::as_str)
    }

    /// Returns the name of a member in Hugging Face.
    pub fn hf_name(&self, places: Indices, member: u64) -> String {
        if self.is_stacked() {
            return pattern::fill(self.name(), Indices { expert: Some(member), ..places });
        }
        pattern::fill(self.hf.get(member as usize).map_or("", String::as_str), places)
    }

    /// Returns its names in GGUF.
    pub fn gguf_names(&self, places: Indices) -> impl Iterator<Item = String> {
        let layer = Some(self.numbers.in_gguf(places.layer.unwrap_or(0)));
        self.gguf.iter().map(move |name| pattern::fill(name, Indices { layer, ..places }))
    }

    /// Returns the indices of its tensors: one per layer, or a single one outside the layers.
    pub fn indices(&self) -> Vec<Indices> {
        if self.is_layered() {
            self.layers.all().into_iter().map(|layer| Indices { layer: Some(layer), expert: None }).collect()
        } else if self.layers.is_empty() {
            Vec::new()
        } else {
            vec![Indices::default()]
        }
    }
}

/// Names of tensors, and the rows that they belong to.
#[derive(Debug, Default)]
struct Names(HashMap<String, Vec<(Template, usize, usize)>>);

impl Names {
    fn add(&mut self, name: &str, row: usize, part: usize) {
        let (key, template) = Template::parse(name);
        self.0.entry(key).or_default().push((template, row, part));
    }

    /// Returns the rows with this name, which of their tensors it is, and its indices.
    fn find(&self, name: &str) -> impl Iterator<Item = (usize, usize, Indices)> {
        let (key, numbers) = pattern::split_numbers(name);
        let found = self.0.get(&key).map(Vec::as_slice).unwrap_or_default();
        found.iter().filter_map(move |(template, row, part)| Some((*row, *part, template.indices(&numbers)?)))
    }
}

/// The result of looking up a Hugging Face tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HfTensor {
    /// A tensor of the row with this index: which of the tensors that make one in GGUF it is, and its indices.
    Row(usize, u64, Indices),
    /// A tensor without GGUF equivalent.
    Dropped,
    /// A tensor of the other part: of the vision or audio encoder, or of the text model.
    Elsewhere,
    /// A tensor without GGUF equivalent, which must be zero.
    Zero,
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
            let all = row_layers(row, table, config, layers)?;
            if all.is_empty() {
                continue; // the hyperparameters of its shape may be absent too
            }
            let outside = row.gguf.first().is_some_and(|name| !name.contains("{bid}"));
            if outside && row.name().contains("{bid}") && all.only().is_none() {
                return Err(Error::unsupported(format!("GGUF holds {} of a single layer, not of several", row.name())));
            }
            for (number, (suffix, may_be_absent)) in row.suffixes().into_iter().enumerate() {
                rows.extend(resolve(row, number, suffix, may_be_absent, config, &all)?);
            }
        }
        if let Ok(experts) = config.count("experts") {
            let stacked: Vec<Row> =
                rows.iter().filter(|row| row.transform == Transform::StackExperts).map(|row| stacked_by_mlx(row, experts)).collect();
            rows.extend(stacked);
        }
        let mut prefixes = table.prefixes.clone();
        if let Some(within) = &table.within {
            prefixes.push(within.clone());
            for name in rows.iter_mut().flat_map(|row| &mut row.hf) {
                *name = format!("{within}.{}", pattern::strip_prefixes(name, &prefixes));
            }
        }
        if let Some(module) = &table.module {
            for name in rows.iter_mut().flat_map(|row| &mut row.hf) {
                if let Some(rest) = name.strip_prefix("model.") {
                    *name = format!("model.{module}.{rest}");
                }
            }
        }
        if table.without_head || config.is_without_head() {
            for name in rows.iter_mut().flat_map(|row| &mut row.hf) {
                *name = pattern::strip_prefixes(name, &prefixes).to_owned();
            }
        }
        let (mut by_hf, mut by_gguf) = (Names::default(), Names::default());
        for (i, row) in rows.iter().enumerate() {
            for (part, name) in row.hf.iter().enumerate() {
                by_hf.add(pattern::strip_prefixes(name, &prefixes), i, part);
            }
            for (part, name) in row.gguf.iter().enumerate() {
                by_gguf.add(name, i, part);
            }
        }
        let (drop, keep, drop_zeros) = (globs(&table.drop, table)?, globs(&table.keep, table)?, globs(&table.drop_zeros, table)?);
        let (replace, projector, parts) = (table.replace.clone(), table.projector, table.parts.clone());
        Ok(Self {
            projector,
            parts,
            rows,
            layers,
            prefixes,
            replace,
            drop,
            keep,
            drop_zeros,
            drops_further_layers: table.drops_further_layers,
            has_mtp: table.mtp,
            by_hf,
            by_gguf,
        })
    }

    /// Whether a tensor belongs to this part of the model.
    pub fn is_in(&self, part: ModelPart, row: &Row, places: Indices) -> bool {
        let is_shared = || row.gguf.iter().any(|name| SHARED.iter().any(|start| name.starts_with(start)));
        match part {
            ModelPart::Whole => true,
            ModelPart::WithoutMtp => !self.predicts(row, places),
            ModelPart::MtpAlone => self.predicts(row, places) || is_shared(),
        }
    }

    /// Whether a tensor is of a layer that predicts further tokens.
    pub fn predicts(&self, row: &Row, places: Indices) -> bool {
        let is_layered = row.gguf.iter().any(|name| name.contains("{bid}"));
        self.has_mtp && is_layered && row.numbers.in_gguf(places.layer.unwrap_or(0)) >= self.layers
    }

    /// Returns the part of the model that tensors with these rows and layers are.
    pub fn part(&self, found: impl Iterator<Item = (usize, Option<u64>)>) -> ModelPart {
        let mut predicts = false;
        for (number, layer) in found {
            let places = Indices { layer, expert: None };
            match self.rows.get(number) {
                Some(row) if self.predicts(row, places) => predicts = true,
                Some(row) if !self.is_in(ModelPart::MtpAlone, row, places) => return ModelPart::Whole,
                _ => {}
            }
        }
        if predicts { ModelPart::MtpAlone } else { ModelPart::Whole }
    }

    /// Whether it maps the vision or audio encoder.
    pub fn is_projector(&self) -> bool {
        self.projector
    }

    /// Returns the beginning of the names of the encoder's part that a tensor belongs to.
    pub fn part_of(&self, name: &str) -> String {
        let stripped = pattern::strip_prefixes(name, &self.prefixes);
        let part = self.parts.iter().find(|part| stripped.starts_with(part.as_str())).map_or("", String::as_str);
        format!("{}{part}", name.strip_suffix(stripped).unwrap_or_default())
    }

    /// Looks up a Hugging Face tensor.
    pub fn lookup_hf(&self, name: &str) -> HfTensor {
        let stripped = pattern::strip_prefixes(name, &self.prefixes);
        if self.projector != self.parts.iter().any(|part| stripped.starts_with(part.as_str())) {
            return if self.projector { self.lookup_picked(stripped) } else { HfTensor::Elsewhere };
        }
        if (self.drop.is_match(name) || self.drop.is_match(stripped)) && !self.keep.is_match(stripped) {
            return HfTensor::Dropped;
        }
        if self.drop_zeros.is_match(name) || self.drop_zeros.is_match(stripped) {
            return HfTensor::Zero;
        }
        let mut name = stripped.to_owned();
        for (from, to) in &self.replace {
            let at = name.match_indices(from.as_str()).map(|(at, _)| at).find(|&at| {
                let before = name.get(..at).unwrap_or_default();
                before.is_empty() || before.ends_with('.') || from.starts_with('.')
            });
            if let Some(at) = at {
                name.replace_range(at..at + from.len(), to);
            }
        }
        let mut dropped = false;
        let mut further = pattern::split_template(&name).1.layer.is_some_and(|layer| layer >= self.layers);
        for (number, part, places) in self.by_hf.find(&name) {
            let Some(row) = self.rows.get(number) else { continue };
            further |= row.layers.are_before(places.layer.unwrap_or(0));
            dropped |= row.drops_others;
            if row.layers.has(places.layer.unwrap_or(0)) {
                let member = if row.is_stacked() { places.expert.unwrap_or(0) } else { part as u64 };
                return HfTensor::Row(number, member, places);
            }
        }
        if dropped || self.drops_further_layers && further { HfTensor::Dropped } else { HfTensor::Unknown }
    }

    /// Looks up a tensor of the text model, of which the encoder may store a row.
    fn lookup_picked(&self, name: &str) -> HfTensor {
        let is_picked = |number: &usize| self.rows.get(*number).is_some_and(|row| matches!(row.transform, Transform::Pick(_)));
        let mut found = self.by_hf.find(name).filter(|(number, ..)| is_picked(number));
        found.next().map_or(HfTensor::Elsewhere, |(number, _, places)| HfTensor::Row(number, 0, places))
    }

    /// Whether any row belongs to this sentence-transformers module.
    pub fn has_module(&self, module: &Module) -> bool {
        self.rows.iter().any(|row| module.has(row.name()))
    }

    /// Looks up a GGUF tensor: returns its row, which of the row's tensors it is, and its indices. The first row with a name is used.
    pub fn lookup_gguf(&self, name: &str) -> Option<(usize, usize, Indices)> {
        self.by_gguf.find(name).find_map(|(number, part, places)| {
            let row = self.rows.get(number)?;
            let layer = match places.layer {
                Some(layer) => row.numbers.in_hf(layer),
                // A tensor outside the layers in GGUF is of the only layer that has it.
                None if row.is_layered() => row.layers.only(),
                None => Some(0),
            };
            let layer = layer.filter(|layer| row.layers.has(*layer))?;
            Some((number, part, Indices { layer: row.is_layered().then_some(layer), ..places }))
        })
    }
}

fn globs(globs: &[String], table: &Table) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    let invalid = |error: globset::Error| Error::argument(format!("expected a glob in the table {}: {error}", table.name));
    for glob in globs {
        set.add(Glob::new(glob).map_err(invalid)?);
    }
    set.build().map_err(invalid)
}

/// Returns a row for the same experts stacked as in mlx-lm's `SwitchGLU`: `mlp.switch_mlp.gate_proj` for `mlp.experts.{eid}.w1`.
fn stacked_by_mlx(row: &Row, experts: u64) -> Row {
    const PROJECTIONS: [(&str, &str); 3] = [("ffn_gate_exps", "gate_proj"), ("ffn_up_exps", "up_proj"), ("ffn_down_exps", "down_proj")];
    let name = row.gguf.first().map_or("", String::as_str);
    let projection = PROJECTIONS.iter().find(|(gguf, _)| name.contains(gguf)).map_or(name, |(_, mlx)| mlx);
    let block = row.name().split(".experts.").next().unwrap_or_default();
    let suffix = row.name().rsplit('.').next().unwrap_or_default();
    let mut shape = vec![experts];
    shape.extend(row.shape.iter().flatten());
    Row {
        hf: vec![format!("{block}.switch_mlp.{projection}.{suffix}")],
        transform: Transform::Plain,
        shape: row.shape.is_some().then_some(shape),
        optional: true,
        ..row.clone()
    }
}

/// Returns the layers that have a row's tensors; for one outside the layers, one if it is there and none if not.
fn row_layers(row: &TensorRow, table: &Table, config: &Config, layers: u64) -> Result<Layers> {
    let of_stack = || table.layers.iter().find(|(prefix, _)| row.name().starts_with(prefix.as_str())).and_then(|(_, range)| range.as_str());
    let is_layered = row.name().contains("{bid}");
    let range = match row.layers.as_deref().or_else(of_stack).filter(|_| is_layered).map(|range| range.split_once("..")) {
        None => 0..if is_layered { layers } else { 1 },
        Some(None) => return Err(Error::argument(format!("expected layers as from..to for {}", row.name()))),
        Some(Some((from, to))) => {
            let bound = |text: &str, default: u64| if text.trim().is_empty() { Ok(default) } else { config.length(text.trim()) };
            // The layers of the model, unless the stack or row says otherwise.
            let most = if table.layers.is_empty() && row.number.is_none() { layers } else { u64::MAX };
            bound(from, 0)?..bound(to, layers)?.min(most)
        }
    };
    let Some(when) = &row.when else { return Ok(Layers::Range(range)) };
    let mut found = Vec::new();
    for layer in range {
        if config.at_layer(layer, || config.holds(when))? {
            found.push(layer);
        }
    }
    Ok(Layers::List(found))
}

/// Evaluates a row: one for all layers, or one for each set of layers with the same shape and transform.
fn resolve(row: &TensorRow, number: usize, suffix: &str, may_be_absent: bool, config: &Config, layers: &Layers) -> Result<Vec<Row>> {
    let texts = row.shape.iter().chain(&row.transform);
    if !texts.into_iter().any(|text| config.depends_on_layer(text)) {
        return Ok(vec![resolve_one(row, number, suffix, may_be_absent, config, layers.clone())?]);
    }
    let mut rows: Vec<Row> = Vec::new();
    let mut places = HashMap::new();
    for layer in layers.all() {
        let made = config.at_layer(layer, || resolve_one(row, number, suffix, may_be_absent, config, Layers::List(vec![layer])))?;
        let place = *places.entry((made.shape.clone(), format!("{:?}", made.transform))).or_insert(rows.len());
        match rows.get_mut(place) {
            Some(Row { layers: Layers::List(layers), .. }) => layers.push(layer),
            _ => rows.push(made),
        }
    }
    Ok(rows)
}

fn resolve_one(row: &TensorRow, number: usize, suffix: &str, may_be_absent: bool, config: &Config, layers: Layers) -> Result<Row> {
    let shape = if suffix == "bias" && row.shape.len() > 1 {
        // A bias has one number per output: all dimensions but the last; of a two-dimensional convolution, the first.
        if row.shape.len() > 3 { row.shape.get(..1) } else { row.shape.split_last().map(|(_, rest)| rest) }.unwrap_or_default()
    } else {
        &row.shape[..]
    };
    let transform = match row.transform.as_deref() {
        Some(text) => Transform::parse(text, config)?,
        None => Transform::Plain,
    };
    let (hf, gguf) = (row.hf_names(number, suffix), row.gguf_names(suffix));
    let outputs = transform.outputs(hf.len());
    if row.key.is_none() && gguf.len() != outputs {
        return Err(Error::argument(format!("expected {outputs} names in GGUF for {}, found {}", row.name(), gguf.len())));
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
    let experts = match transform.stacked() {
        Some(count) => Some(count),
        None => config.length("experts").ok(),
    };
    let numbers = Numbers::new(row.number.as_deref(), config, &layers)?;
    let of_model = row.dtype.as_deref() == Some("model");
    let dtype = row.dtype.as_deref().filter(|_| !of_model).map(str::parse).transpose()?;
    Ok(Row {
        hf,
        gguf,
        transform,
        shape,
        optional,
        dtype,
        of_model,
        experts,
        layers,
        numbers,
        key: row.key.clone(),
        copy: row.copy,
        drops_others: row.drops_others,
    })
}
