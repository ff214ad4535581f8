//! Element types, formats, architectures and finding codes that this build supports.

use serde::Serialize;

use crate::base::Result;
use crate::base::finding::Severity;
use crate::codec::codec;
use crate::family::index;
use crate::family::tables::Tables;
use crate::format::{FORMATS, codes};
use crate::model::{Class, DType, FormatId};
use crate::quant::pack::{PackingRow, packings};
use crate::quant::recipe::FILE_TYPES;

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

/// The file types of llama-quantize.
#[derive(Debug, Serialize)]
pub struct FileTypes {
    schema: &'static str,
    /// Rows, those of the most bits first.
    pub file_types: Vec<FileTypeRow>,
}

/// A file type.
#[derive(Debug, Serialize)]
pub struct FileTypeRow {
    /// Its name.
    pub name: &'static str,
    /// The value of `general.file_type`.
    pub number: u32,
    /// The type of tensors to which no rule of the mix applies.
    pub base: &'static str,
    /// Bits per weight of Llama 3.1 8B.
    pub bits_per_weight: f64,
    /// Purpose.
    pub purpose: &'static str,
}

/// Bits per weight of Llama 3.1 8B converted to each file type, and what the type is for.
static PURPOSES: &[(&str, f64, &str)] = &[
    ("F32", 32.0, "full precision: a source for other types"),
    ("F16", 16.0, "half precision: a source for other types; large values overflow"),
    ("BF16", 16.0, "the precision in which most models are published: no loss"),
    ("Q8_0", 8.5, "no noticeable loss"),
    ("MXFP4_MOE", 8.5, "experts in MXFP4, the rest in Q8_0: for mixtures of experts"),
    ("Q6_K", 6.56, "very close to the original"),
    ("Q5_1", 6.04, "superseded by Q5_K_M"),
    ("Q5_K_M", 5.7, "close to the original"),
    ("Q5_0", 5.57, "superseded by Q5_K_S"),
    ("Q5_K_S", 5.57, "close to the original"),
    ("Q4_1", 5.1, "superseded by Q4_K_M"),
    ("Q4_K_M", 4.89, "the usual choice: good quality at a third of the size"),
    ("IQ4_NL", 4.68, "like Q4_K_S, also for row lengths that are not a multiple of 256"),
    ("Q4_K_S", 4.67, "a little smaller than Q4_K_M"),
    ("Q4_0", 4.64, "fast on CPUs; superseded by Q4_K_S elsewhere"),
    ("IQ4_XS", 4.46, "the smallest with good quality; best with an importance matrix"),
    ("Q3_K_L", 4.3, "noticeable loss"),
    ("Q3_K_M", 4.0, "noticeable loss"),
    ("IQ3_M", 3.76, "like Q3_K_M but smaller; with an importance matrix"),
    ("IQ3_S", 3.66, "better than Q3_K_S at its size; with an importance matrix"),
    ("Q3_K_S", 3.64, "high loss"),
    ("IQ3_XS", 3.5, "high loss; with an importance matrix"),
    ("IQ3_XXS", 3.37, "high loss; needs an importance matrix"),
    ("Q2_K", 3.16, "very high loss: for large models that do not fit otherwise"),
    ("Q2_K_S", 2.97, "very high loss; needs an importance matrix"),
    ("IQ2_M", 2.93, "very high loss; with an importance matrix"),
    ("IQ2_S", 2.74, "very high loss; with an importance matrix"),
    ("Q2_0", 2.68, "for models trained in two bits"),
    ("IQ2_XS", 2.59, "very high loss; needs an importance matrix"),
    ("TQ2_0", 2.52, "for models trained with three values (-1, 0, 1), fast"),
    ("IQ2_XXS", 2.38, "very high loss; needs an importance matrix"),
    ("TQ1_0", 2.19, "for models trained with three values (-1, 0, 1), small"),
    ("IQ1_M", 2.15, "extreme loss; needs an importance matrix"),
    ("IQ1_S", 2.0, "extreme loss; needs an importance matrix"),
    ("Q1_0", 1.48, "for models trained in one bit"),
];

/// Returns the file types of llama-quantize.
pub fn file_types() -> FileTypes {
    let row = |&(name, bits_per_weight, purpose): &(&'static str, f64, &'static str)| {
        let known = FILE_TYPES.iter().find(|file_type| file_type.name == name)?;
        Some(FileTypeRow { name, number: known.number, base: known.base.name(), bits_per_weight, purpose })
    };
    FileTypes { schema: "weigh.file-types.v1", file_types: PURPOSES.iter().filter_map(row).collect() }
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
    pub archs: Vec<index::Row>,
}

/// Returns the architectures that can be translated between Hugging Face and GGUF.
///
/// # Errors
/// A table is invalid.
pub fn archs(tables: &Tables) -> Result<Archs> {
    Ok(Archs { schema: "weigh.archs.v1", archs: index::rows(tables)? })
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
