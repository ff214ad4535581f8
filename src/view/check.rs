//! Checks the tensors of a model against its architecture table for `verify`: required tensors, shapes, and vocabulary rows. Unlike
//! conversion, this reports all problems.

use std::collections::{HashMap, HashSet};

use crate::base::finding::{Findings, Severity};
use crate::base::{Error, ErrorKind, num};
use crate::family::components::{Component, classify};
use crate::family::config::Config;
use crate::family::mapping::{HfTensor, Mapping, Row};
use crate::family::naming::Naming;
use crate::family::pattern::Indices;
use crate::family::table::Table;
use crate::family::tables::Tables;
use crate::family::{comfy, pattern};
use crate::format::codes;
use crate::model::{Model, Value};
use crate::tokenizer;
use crate::view::tensor_expr::TensorExpr;
use crate::view::transform::Shaped;
use crate::view::{to_gguf, to_hf};

/// The canonical names of the token embeddings and the output matrix.
const EMBEDDING: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";

/// Two tied tensors, by index in [`Model::tensors`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tied {
    /// The token embeddings.
    pub embedding: usize,
    /// The output matrix, which loaders take from the embeddings.
    pub output: usize,
}

/// Checks the tensors of a model against its architecture table, if the architecture is known. Returns the tensors that the config ties, if
/// both are stored.
pub fn check(model: &Model, tables: &Tables, findings: &mut Findings) -> Option<Tied> {
    if model.tensors.is_empty() {
        return None; // vocabulary-only, or just an index
    }
    let naming = Naming::detect(model);
    let worked_out = match naming {
        Naming::HuggingFace | Naming::Mistral => to_gguf::read_config(model, tables).map(|(_, table, config)| (table, config)),
        Naming::Gguf if model.metadata.get_str("general.architecture") == Some("clip") => to_hf::read_projector(model, tables),
        Naming::Gguf => to_hf::read_keys(model, tables),
        // An unknown architecture is reported.
        Naming::Own if comfy::is_diffusion(model) => to_hf::read_keys(model, tables),
        Naming::Own => return None,
    };
    let remark = |findings: &mut Findings, severity, code, error: Error| findings.remark(severity, code, error.in_file(&model.path));
    let (table, config) = match worked_out {
        Ok(worked_out) => worked_out,
        Err(error) => {
            let (severity, code) = match error.kind() {
                ErrorKind::Unsupported => (Severity::Note, codes::ARCH_UNKNOWN),
                _ => (Severity::Warning, codes::ARCH_CONFIG),
            };
            remark(findings, severity, code, error);
            return None;
        }
    };
    let mapping = match Mapping::new(&table, &config) {
        Ok(mapping) => mapping,
        Err(error) => {
            remark(findings, Severity::Warning, codes::ARCH_CONFIG, error);
            return None;
        }
    };
    if naming != Naming::Gguf {
        check_encoder(model, tables, findings);
    }
    let mut check = Check { model, mapping: &mapping, findings, met: Met::default() };
    if naming != Naming::Gguf {
        check.hub_tensors();
        check.hub_missing();
        check.hub_vocabulary(&table, &config)
    } else {
        check.gguf_tensors(&table);
        check.gguf_missing();
        check.gguf_vocabulary();
        None
    }
}

/// Checks the tensors of the model's encoder of pictures or sounds, if there is a table for it.
fn check_encoder(model: &Model, tables: &Tables, findings: &mut Findings) {
    let read = to_gguf::read_projector(model, tables);
    match read.and_then(|read| read.map(|(table, config)| Mapping::new(&table, &config)).transpose()) {
        Ok(None) => {}
        Ok(Some(mapping)) => {
            let mut check = Check { model, mapping: &mapping, findings, met: Met::default() };
            check.hub_tensors();
            check.hub_missing();
        }
        Err(error) => findings.remark(Severity::Warning, codes::ARCH_CONFIG, error.in_file(&model.path)),
    }
}

/// The tensors found so far.
#[derive(Debug, Default)]
struct Met {
    /// By row and layer: the tensors by expert, or by part of the row.
    groups: HashMap<(usize, Option<u64>), HashMap<u64, usize>>,
    /// The tensors without GGUF equivalent, by index.
    dropped: Vec<usize>,
    /// Whether experts are stored individually although the table stacks them.
    unmerged: bool,
}

impl Met {
    fn has(&self, row: usize, places: Indices, member: u64) -> bool {
        self.groups.get(&(row, places.layer)).is_some_and(|group| group.contains_key(&member))
    }
}

struct Check<'a, 'f> {
    model: &'a Model,
    mapping: &'a Mapping,
    findings: &'f mut Findings,
    met: Met,
}

impl Check<'_, '_> {
    fn error(&mut self, code: &'static str, tensor: &str, index: Option<usize>, message: String) {
        let file = index.and_then(|index| self.model.shards.get(self.model.tensors.get(index)?.shard)).map(|shard| shard.path.as_path());
        let error = Error::malformed(message).in_tensor(tensor).in_file(file.unwrap_or(&self.model.path));
        // A collecting sink continues.
        let _ = self.findings.error(code, error);
    }

    fn extra(&mut self, index: usize) {
        let Some(tensor) = self.model.tensors.get(index) else { return };
        let error = Error::malformed("this tensor is not in the architecture table").in_tensor(&tensor.name);
        self.findings.remark(Severity::Warning, codes::ARCH_EXTRA, error.in_file(&self.model.path));
    }

    fn missing(&mut self, name: &str) {
        self.error(codes::ARCH_MISSING, name, None, "this tensor is missing".to_owned());
    }

    fn hub_tensors(&mut self) {
        for (index, tensor) in self.model.tensors.iter().enumerate() {
            let (number, member, places) = match self.mapping.lookup_hf(&tensor.name) {
                HfTensor::Row(number, member, places) => (number, member, places),
                HfTensor::Dropped | HfTensor::Zero | HfTensor::Elsewhere => {
                    self.met.dropped.push(index);
                    continue;
                }
                HfTensor::Unknown if self.model.module_of(&tensor.name).is_some_and(|module| !self.mapping.has_module(module)) => continue,
                HfTensor::Unknown => {
                    self.extra(index);
                    continue;
                }
            };
            let Some(row) = self.mapping.rows.get(number) else { continue };
            if row.members().is_ok_and(|members| member >= members) {
                self.extra(index);
                continue;
            }
            self.met.groups.entry((number, places.layer)).or_default().insert(member, index);
            if let Some(shape) = &row.shape
                && *shape != tensor.shape
            {
                let message = wrong_shape(shape, &tensor.shape);
                self.error(codes::ARCH_SHAPE, &tensor.name, Some(index), message);
            }
        }
    }

    fn hub_missing(&mut self) {
        let members = |row: &Row| row.members().unwrap_or(0);
        // Tensors present in another layout (stacked experts, fused projections) are not missing.
        let mut made = HashSet::new();
        for (number, row) in self.mapping.rows.iter().enumerate() {
            for places in row.indices().into_iter().filter(|places| (0..members(row)).all(|member| self.met.has(number, *places, member))) {
                made.extend(row.gguf_names(places));
            }
        }
        let mut missing = Vec::new();
        let part = self.mapping.part(self.met.groups.keys().copied());
        for (number, row) in self.mapping.rows.iter().enumerate() {
            for places in row.indices().into_iter().filter(|places| self.mapping.is_in(part, row, *places)) {
                let any = self.met.groups.contains_key(&(number, places.layer));
                let elsewhere = || row.key.is_none() && row.gguf_names(places).all(|name| made.contains(&name));
                if !any && (row.optional || elsewhere()) {
                    continue;
                }
                let lacking = (0..members(row)).filter(|member| !self.met.has(number, places, *member));
                missing.extend(lacking.map(|member| row.hf_name(places, member)));
            }
        }
        missing.iter().for_each(|name| self.missing(name));
    }

    /// Returns the tensor that maps unchanged to this canonical name.
    fn hub_tensor(&self, canonical: &str) -> Option<usize> {
        let row = self.mapping.rows.iter().position(|row| row.gguf.first().is_some_and(|name| name == canonical))?;
        self.met.groups.get(&(row, None))?.get(&0).copied()
    }

    fn hub_vocabulary(&mut self, table: &Table, config: &Config) -> Option<Tied> {
        let embedding = self.hub_tensor(EMBEDDING)?;
        let rows = self.model.tensors.get(embedding)?.shape.first().copied()?;
        if table.tokenizer.is_some()
            && let Some(folder) = &self.model.folder
            && let Ok(Some(largest)) = tokenizer::largest_id(folder)
            && largest >= rows
        {
            let message = format!("expected an embedding row for each token, found {rows} rows and token {largest}");
            self.findings.remark(Severity::Warning, codes::ARCH_TOKENS, Error::malformed(message).in_file(folder));
        }
        // A family that always ties its embeddings drops a stored output matrix.
        let tied = self.hub_tensor(OUTPUT).filter(|_| config.is_true("tie_word_embeddings"));
        Some(Tied { embedding, output: tied.or_else(|| self.dropped_output(embedding))? })
    }

    /// Returns the output matrix that is dropped as tied to these embeddings.
    fn dropped_output(&self, embedding: usize) -> Option<usize> {
        let shape = &self.model.tensors.get(embedding)?.shape;
        let is_output = |index: &&usize| {
            let tensor = self.model.tensors.get(**index);
            tensor.is_some_and(|tensor| classify(&tensor.name).component == Component::Output && tensor.shape == *shape)
        };
        self.met.dropped.iter().find(is_output).copied()
    }

    fn gguf_tensors(&mut self, table: &Table) {
        let computed = to_hf::computed_names(table);
        let fits = |places: Indices| places.layer.is_none_or(|layer| layer < self.mapping.layers);
        let mut extra = Vec::new();
        for (index, tensor) in self.model.tensors.iter().enumerate() {
            if let Some((number, part, places)) = self.mapping.lookup_gguf(&tensor.name) {
                self.met.groups.entry((number, places.layer)).or_default().insert(part as u64, index);
            } else if !computed.contains(&tensor.name.as_str()) {
                let (_, places) = pattern::split_template(&tensor.name);
                self.met.unmerged |= places.expert.is_some() && fits(places);
                // A scale or bias belongs to its known tensor.
                let beside = [".scale", ".input_scale", ".bias"].iter().find_map(|end| tensor.name.strip_suffix(end));
                if beside.is_none_or(|stem| self.mapping.lookup_gguf(&format!("{stem}.weight")).is_none()) {
                    extra.push(index);
                }
            }
        }
        extra.into_iter().for_each(|index| self.extra(index));
        let mut groups: Vec<_> = self.met.groups.iter().collect();
        groups.sort_by_key(|(place, _)| **place);
        let wrong: Vec<_> = groups.into_iter().filter_map(|((number, _), group)| self.gguf_shape(*number, group)).collect();
        for (index, message) in wrong {
            let name = self.model.tensors.get(index).map_or("", |tensor| &tensor.name);
            self.error(codes::ARCH_SHAPE, name, Some(index), message);
        }
    }

    /// Checks the shape of a complete row of tensors.
    fn gguf_shape(&self, number: usize, group: &HashMap<u64, usize>) -> Option<(usize, String)> {
        let row = self.mapping.rows.get(number)?;
        let wanted = row.shape.as_ref()?;
        let indices: Vec<usize> = (0..row.gguf.len() as u64).map(|part| group.get(&part).copied()).collect::<Option<_>>()?;
        let first = *indices.first()?;
        let sources = indices.iter().map(|&index| {
            let tensor = self.model.tensors.get(index)?;
            Some(Shaped { origin: TensorExpr::stored(self.model, index).ok()?, shape: tensor.shape.clone() })
        });
        let sources = sources.collect::<Option<Vec<_>>>()?; // an unknown type cannot be checked
        match row.transform.backward(sources) {
            Err(error) if error.kind() == ErrorKind::Unsupported => None,
            Err(error) => Some((first, error.message().to_owned())),
            Ok(made) => {
                let other = made.iter().find(|made| num::squeezed(&made.shape) != num::squeezed(wanted))?;
                Some((first, wrong_shape(wanted, &other.shape)))
            }
        }
    }

    fn gguf_missing(&mut self) {
        let mut missing = Vec::new();
        let part = self.mapping.part(self.met.groups.keys().copied());
        for (number, row) in self.mapping.rows.iter().enumerate() {
            if row.is_stacked() && self.met.unmerged {
                continue;
            }
            for places in row.indices().into_iter().filter(|places| self.mapping.is_in(part, row, *places)) {
                for (part, name) in row.gguf_names(places).enumerate() {
                    // A name produced by several rows is looked up under the first.
                    let own = self.mapping.lookup_gguf(&name).is_some_and(|(first, ..)| first == number);
                    let started = self.met.groups.contains_key(&(number, places.layer));
                    if own && !self.met.has(number, places, part as u64) && (!row.optional || started) {
                        missing.push(name);
                    }
                }
            }
        }
        missing.iter().for_each(|name| self.missing(name));
    }

    fn gguf_vocabulary(&mut self) {
        let tokens = self.model.metadata.get("tokenizer.ggml.tokens").and_then(Value::as_array).map(|tokens| tokens.len());
        let (Some(tokens), Some(index)) = (tokens, self.model.tensors.iter().position(|tensor| tensor.name == EMBEDDING)) else { return };
        let rows = self.model.tensors.get(index).and_then(|tensor| tensor.shape.first().copied()).unwrap_or(0);
        if rows != tokens {
            let message = format!("expected a row for each of {tokens} tokens, found {rows}");
            self.error(codes::ARCH_ROWS, EMBEDDING, Some(index), message);
        }
    }
}

fn wrong_shape(wanted: &[u64], found: &[u64]) -> String {
    format!("expected shape {} by the hyperparameters, found {}", num::show_shape(wanted), num::show_shape(found))
}
