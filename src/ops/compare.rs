//! `convert --compare`: what file types cost, measured without writing files.

use std::path::Path;

use serde::Serialize;

use crate::base::{Error, Result};
use crate::format::Reader;
use crate::model::FormatId;
use crate::ops::convert::quality::Quality;
use crate::ops::convert::{self, ConvertReport, Options};
use crate::ops::fit;
use crate::quant::recipe::Target;

/// Number of worst tensors of each type.
const WORST: usize = 3;

/// Sizes and quantisation errors of file types.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Comparison {
    /// `weigh.compare.v1`.
    pub schema: &'static str,
    /// Total size of the input files in bytes.
    pub bytes_in: u64,
    /// Context of `memory_bytes` in tokens: the longest that the model is trained for.
    pub context: Option<u64>,
    /// The file types, as given.
    pub types: Vec<TypeCost>,
}

/// Size and quantisation error of a file type.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TypeCost {
    /// Name of the file type.
    #[serde(rename = "type")]
    pub name: String,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Bits of tensor data for each element.
    pub bits_per_weight: Option<f64>,
    /// Sum of the output errors of the quantised tensors, each weighted by the sensitivity of the model to it.
    pub loss: Option<f64>,
    /// Quantisation error over all quantised tensors; `None` if none is.
    pub quality: Option<Quality>,
    /// The tensors with the largest output errors.
    pub worst: Vec<WorstTensor>,
    /// Memory that llama.cpp needs for the weights, the cache and computing; `None` if it is not known for the architecture.
    pub memory_bytes: Option<u64>,
}

/// A tensor with a large error.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WorstTensor {
    /// Its name in the output.
    pub name: String,
    /// Its type in the output.
    pub to: String,
    /// Error of its output relative to the output, squared.
    pub output_error: f64,
}

/// Measures what the model costs as each of these file types.
///
/// # Errors
/// The model cannot be converted to one of them.
pub fn compare(model: &Reader, targets: &[Target], options: &Options, progress: convert::Progress<'_>) -> Result<Comparison> {
    if targets.is_empty() {
        return Err(Error::argument("expected file types to compare, found none"));
    }
    let fitted = fit::Options { types: targets.to_vec(), ..fit::Options::default() };
    let fitted = fit::fit(model, None, &fitted).ok();
    let cost = |target: &Target| {
        let options = Options { target: Some(*target), to: Some(FormatId::Gguf), ..options.clone() };
        let (reader, plan) = convert::prepare_unwritten(model.clone(), Path::new("compared.gguf"), &options)?;
        let report = convert::measure(&reader, &plan, progress)?;
        let name = target.to_string();
        let memory = fitted.iter().flat_map(|fit| &fit.options).find(|row| row.name == name).map(|row| row.total_bytes);
        Ok(TypeCost {
            bytes: report.bytes_out,
            bits_per_weight: report.bits_per_weight,
            loss: report.loss,
            quality: report.quality,
            worst: worst(&report),
            memory_bytes: memory.filter(|_| fitted.as_ref().is_some_and(|fit| fit.compute_bytes.is_some())),
            name,
        })
    };
    let types = targets.iter().map(cost).collect::<Result<Vec<_>>>()?;
    let bytes_in = model.model().shards.iter().map(|shard| shard.bytes).sum();
    Ok(Comparison { schema: "weigh.compare.v1", bytes_in, context: fitted.map(|fit| fit.context), types })
}

/// Returns the tensors with the largest output errors.
fn worst(report: &ConvertReport) -> Vec<WorstTensor> {
    let measured = report
        .tensors
        .iter()
        .filter_map(|row| Some(WorstTensor { name: row.name.clone(), to: row.to.clone(), output_error: row.output_error? }));
    let mut worst: Vec<WorstTensor> = measured.collect();
    worst.sort_by(|a, b| b.output_error.total_cmp(&a.output_error));
    worst.truncate(WORST);
    worst
}
