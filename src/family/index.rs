//! The index of the embedded tables: what is listed of them, so that none is parsed for it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::base::{Error, Result};
use crate::family::table::Table;
use crate::family::tables::Tables;

/// The rows of the embedded tables: a test compares them with the tables and with fixtures/arch.
const INDEX: &str = include_str!("index.json");

/// What is listed of an architecture table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Name of the table.
    pub name: String,
    /// `general.architecture` in GGUF.
    pub gguf: String,
    /// `architectures` in config.json; empty for a vendor format.
    pub classes: Vec<String>,
    /// `model_type` in config.json.
    pub model_types: Vec<String>,
    /// Number of tensor kinds.
    pub tensors: usize,
    /// Whether a GGUF can also be converted back: not to a vendor format.
    pub both_ways: bool,
    /// How the tokenizer is read.
    pub tokenizer: Option<String>,
    /// The kinds of encoders of pictures or sounds of its classes, as llama.cpp names their projectors.
    pub mmproj: Vec<String>,
    /// The small models made by llama.cpp's converter with which this table, and those of its encoders, have been compared.
    pub references: Vec<String>,
}

impl Row {
    /// Returns the row of a table of a text model. `references` are those of each table, by its name.
    pub(crate) fn of(table: &Table, projectors: &[&Table], references: &BTreeMap<String, Vec<String>>) -> Self {
        let encoders: Vec<&Table> = projectors.iter().copied().filter(|encoder| encoder.shares_class(&table.classes)).collect();
        let compared = [table].into_iter().chain(encoders.iter().copied()).filter_map(|table| references.get(&table.name));
        Self {
            name: table.name.clone(),
            gguf: table.gguf.clone(),
            classes: table.classes.clone(),
            model_types: table.model_types.clone(),
            tensors: table.tensors.len(),
            both_ways: !table.classes.is_empty(),
            tokenizer: table.tokenizer.and_then(|kind| Some(serde_json::to_value(kind).ok()?.as_str()?.to_owned())),
            mmproj: encoders.iter().copied().flat_map(Table::projector_types).collect::<BTreeSet<_>>().into_iter().collect(),
            references: compared.flatten().cloned().collect(),
        }
    }
}

/// Returns the rows of all tables of text models: custom ones, then the embedded ones.
///
/// # Errors
/// The index or an embedded table is invalid, which tests rule out.
pub fn rows(tables: &Tables) -> Result<Vec<Row>> {
    let invalid = |error: serde_json::Error| Error::argument(format!("expected the index of architecture tables: {error}"));
    let mut listed: Vec<Row> = serde_json::from_str(INDEX).map_err(invalid)?;
    if tables.own().is_empty() {
        return Ok(listed);
    }
    let (encoders, texts): (Vec<&Table>, Vec<&Table>) = tables.own().iter().partition(|table| table.projector);
    for row in &mut listed {
        let own = encoders.iter().filter(|encoder| encoder.shares_class(&row.classes)).flat_map(|encoder| encoder.projector_types());
        row.mmproj = own.chain(row.mmproj.drain(..)).collect::<BTreeSet<_>>().into_iter().collect();
    }
    let projectors = tables.projectors()?;
    Ok(texts.into_iter().map(|table| Row::of(table, &projectors, &BTreeMap::new())).chain(listed).collect())
}
