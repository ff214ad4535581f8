//! What this build knows: element types, formats, architectures, finding codes.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::base::Result;
use crate::base::finding::Severity;
use crate::codec::codec;
use crate::family::table::Table;
use crate::family::tables::Tables;
use crate::format::{FORMATS, codes};
use crate::model::{Class, DType, FormatId};
use crate::quant::pack::{PackingRow, packings};

/// The element types.
#[derive(Debug, Serialize)]
pub struct Types {
    schema: &'static str,
    /// Rows, in table order.
    pub types: Vec<TypeRow>,
    /// Packings of weights for engines that serve safetensors.
    pub packings: Vec<PackingRow>,
}

/// An element type.
#[derive(Debug, Serialize)]
pub struct TypeRow {
    /// Its name.
    pub name: &'static str,
    /// `float`, `integer`, `bool`, `complex` or `block`.
    pub class: &'static str,
    /// Number of elements per block.
    pub block_elements: u64,
    /// Number of bytes per block.
    pub block_bytes: u64,
    /// Bits per weight.
    pub bits_per_weight: f64,
    /// Number in GGUF.
    pub ggml_id: Option<u32>,
    /// Name in safetensors.
    pub safetensors: Option<&'static str>,
    /// Whether values can be decoded.
    pub read: bool,
    /// Whether values can be encoded.
    pub written: bool,
}

/// Returns the known element types.
pub fn types() -> Types {
    let row = |&dtype: &DType| {
        let info = dtype.info();
        TypeRow {
            name: info.name,
            class: match info.class {
                Class::Float => "float",
                Class::Integer => "integer",
                Class::Bool => "bool",
                Class::Complex => "complex",
                Class::Block => "block",
            },
            block_elements: info.block_elems,
            block_bytes: info.block_bytes,
            bits_per_weight: dtype.bits_per_weight(),
            ggml_id: info.ggml_id,
            safetensors: info.safetensors,
            read: codec(dtype).is_some(),
            written: codec(dtype).is_some_and(|codec| codec.encode.is_some()),
        }
    };
    Types { schema: "weigh.types.v1", types: DType::ALL.iter().map(row).collect(), packings: packings() }
}

/// The file formats.
#[derive(Debug, Serialize)]
pub struct Formats {
    schema: &'static str,
    /// Rows.
    pub formats: Vec<FormatRow>,
}

/// A file format.
#[derive(Debug, Serialize)]
pub struct FormatRow {
    /// Its name.
    pub id: FormatId,
    /// File extension.
    pub extensions: &'static [&'static str],
    /// Whether it can be written.
    pub written: bool,
    /// Supported element types.
    pub dtypes: Vec<&'static str>,
}

/// Returns the file formats that can be read.
pub fn formats() -> Formats {
    let row = |format: &crate::format::Format| FormatRow {
        id: format.id,
        extensions: format.extensions,
        written: format.layout.is_some(),
        dtypes: DType::ALL.iter().filter(|dtype| (format.stores)(**dtype)).map(|dtype| dtype.name()).collect(),
    };
    Formats { schema: "weigh.formats.v1", formats: FORMATS.iter().map(row).collect() }
}

/// The architectures.
#[derive(Debug, Serialize)]
pub struct Archs {
    schema: &'static str,
    /// Rows.
    pub archs: Vec<ArchRow>,
}

/// An architecture table.
#[derive(Debug, Serialize)]
pub struct ArchRow {
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
}

/// Returns the architectures that can be translated between Hugging Face and GGUF.
///
/// # Errors
/// A table is invalid.
pub fn archs(tables: &Tables) -> Result<Archs> {
    let projectors = tables.projectors()?;
    let mmproj = |table: &Table| {
        let shared = |other: &&&Table| other.classes.iter().any(|class| table.classes.contains(class));
        let kinds = projectors.iter().filter(shared).flat_map(|other| &other.keys);
        let kinds = kinds.filter(|row| row.gguf.ends_with("projector_type")).filter_map(|row| row.text.clone());
        kinds.collect::<BTreeSet<_>>().into_iter().collect()
    };
    let row = |table: &Table| ArchRow {
        both_ways: !table.classes.is_empty(),
        tokenizer: table.tokenizer.and_then(|kind| Some(serde_json::to_value(kind).ok()?.as_str()?.to_owned())),
        mmproj: mmproj(table),
        tensors: table.tensors.len(),
        name: table.name.clone(),
        gguf: table.gguf.clone(),
        classes: table.classes.clone(),
        model_types: table.model_types.clone(),
    };
    Ok(Archs { schema: "weigh.archs.v1", archs: tables.all()?.into_iter().map(row).collect() })
}

/// The codes of findings.
#[derive(Debug, Serialize)]
pub struct Codes {
    schema: &'static str,
    /// Rows, in table order.
    pub codes: Vec<CodeRow>,
}

/// A code of a finding.
#[derive(Debug, Serialize)]
pub struct CodeRow {
    /// The code.
    pub code: &'static str,
    /// Severity if the rule is violated.
    pub severity: Severity,
    /// The rule.
    pub rule: &'static str,
}

/// Returns the rules that `verify` checks.
pub fn codes() -> Codes {
    let row = |&(code, severity, rule): &(&'static str, Severity, &'static str)| CodeRow { code, severity, rule };
    Codes { schema: "weigh.codes.v1", codes: codes::CODES.iter().map(row).collect() }
}
