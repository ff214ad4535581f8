//! The report of a planned or completed conversion.

use std::collections::HashSet;
use std::path::PathBuf;

use serde::Serialize;

use crate::base::{Error, Hint, Result};
use crate::format::Reader;
use crate::format::shards::FileContent;
use crate::model::companion::{Note, NoteKind};
use crate::model::{DType, FormatId, PackingSummary};
use crate::ops::convert::loss::{Loss, LossCounts, LossKind};
use crate::ops::convert::plan::Plan;
use crate::ops::convert::quality::Quality;
use crate::ops::convert::size::SizedMix;
use crate::ops::part::Part;
use crate::ops::weights;
use crate::quant::pack;
use crate::view::output_model::OutputTensor;

/// The report of `weigh convert`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ConvertReport {
    /// `weigh.convert.v1`.
    pub schema: &'static str,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// The part that was written or planned: the output, the tensors and their losses are those of the part.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub part: Option<PartFacts>,
    /// Whether the output was read back and compared.
    pub verified: bool,
    /// The format of the output.
    pub format: FormatId,
    /// The files written; an index comes last.
    pub output: Vec<PathBuf>,
    /// Files of an older output of the same name that were removed and not replaced.
    pub removed: Vec<PathBuf>,
    /// The packing of the input, if packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<PackingSummary>,
    /// The tensors in output order.
    pub tensors: Vec<TensorRow>,
    /// Losses beyond the requested type.
    pub lossy: Vec<Loss>,
    /// Parts of the input that are not in the output.
    pub dropped: Vec<NoteRow>,
    /// Zero-padded tensors.
    pub padded: Vec<NoteRow>,
    /// Parts of the output that are not in the input.
    pub made_up: Vec<NoteRow>,
    /// Further notes.
    pub remarks: Vec<NoteRow>,
    /// The same as `padded`, under its newer name.
    pub zero_padded: Vec<NoteRow>,
    /// The same as `made_up`, under its newer name.
    pub synthesized: Vec<NoteRow>,
    /// The same as `remarks`, under its newer name.
    pub notes: Vec<NoteRow>,
    /// Total size of the input files in bytes.
    pub bytes_in: u64,
    /// Total size of the output files in bytes.
    pub bytes_out: u64,
    /// How the types were chosen, if it was for a size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mix: Option<SizedMix>,
    /// Bits of tensor data for each element; `None` if the size of a type is not known.
    pub bits_per_weight: Option<f64>,
    /// Sum of the output errors of the quantised tensors, each weighted by the sensitivity of the model to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Quantisation error over all quantised tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// The report of the vision or audio encoder, if it was converted too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mmproj: Option<Box<ConvertReport>>,
}

/// One part of a conversion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PartFacts {
    /// Which part it is.
    #[serde(flatten)]
    pub part: Part,
    /// The hash of the plan, the same for all parts.
    pub plan: String,
    /// The number of weight files in this part.
    pub shards: usize,
    /// The number of weight files in all parts.
    pub all_shards: usize,
    /// The manifest of the files that the part has written.
    pub manifest: PathBuf,
}

/// A tensor of the output.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TensorRow {
    /// Its name in the output.
    pub name: String,
    /// Type of the source values.
    pub from: String,
    /// Its type in the output.
    pub to: String,
    /// Its dimensions in the output, outermost first.
    pub shape: Vec<u64>,
    /// How the weight is packed whose numbers these are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<&'static str>,
    /// Names of the source tensors in the input, unless it is one of the same name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// Transforms applied to them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub transforms: Vec<String>,
    /// Quantisation error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// Error relative to the values, squared, weighted by importance if there is any: that of the tensor's output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_error: Option<f64>,
}

/// A note about a tensor, key or file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NoteRow {
    /// The tensor, key or file.
    pub name: String,
    /// Reason and consequence.
    pub message: String,
}

impl Loss {
    pub(super) fn fallback(tensor: &str, wanted: DType, to: DType, row: u64) -> Self {
        let block = wanted.info().block_elems;
        Self {
            tensor: tensor.to_owned(),
            kind: LossKind::Fallback,
            from: wanted.to_string(),
            to: to.to_string(),
            exact: false,
            values: None,
            bits_per_weight: Some(to.bits_per_weight() - wanted.bits_per_weight()),
            message: format!("row length {row} is not a multiple of {wanted}'s block size ({block})"),
        }
    }

    pub(super) fn unsupported_dtype(tensor: &str, from: DType, to: DType, exact: bool) -> Self {
        Self {
            tensor: tensor.to_owned(),
            kind: LossKind::UnsupportedDtype,
            from: from.to_string(),
            to: to.to_string(),
            exact,
            values: None,
            bits_per_weight: None,
            message: format!("the format does not support {from}"),
        }
    }

    /// Turns counts of counts values into losses.
    pub(super) fn from_counts(tensor: &str, from: &str, to: DType, counts: LossCounts) -> Vec<Self> {
        let one = |kind, values, message: &str| Self {
            tensor: tensor.to_owned(),
            kind,
            from: from.to_owned(),
            to: to.to_string(),
            exact: false,
            values: Some(values),
            bits_per_weight: None,
            message: format!("{values} {message} in {to}"),
        };
        let mut found = Vec::new();
        if counts.overflowed > 0 {
            found.push(one(LossKind::Overflow, counts.overflowed, "finite values overflow"));
        }
        if counts.flushed > 0 {
            found.push(one(LossKind::Flush, counts.flushed, "values become zero"));
        }
        found
    }

    /// Returns the error that replaces it in strict mode.
    pub(super) fn to_error(&self) -> Error {
        let Self { from, to, message, .. } = self;
        Error::argument(format!("loss beyond the requested type, from {from} to {to}: {message}"))
            .in_tensor(&self.tensor)
            .hint(Hint::AllowLoss)
    }
}

impl ConvertReport {
    /// Returns the report of a plan that was not executed yet.
    ///
    /// # Errors
    /// An output tensor refers to a missing tensor.
    #[doc(hidden)]
    pub fn planned(reader: &Reader, plan: &Plan) -> Result<Self> {
        let rows = |kind: NoteKind| {
            let of_kind = plan.notes.iter().filter(|note| note.kind == kind);
            of_kind.map(|Note { name, message, .. }| NoteRow { name: name.clone(), message: message.clone() }).collect()
        };
        let mut output: Vec<PathBuf> = plan.companion_targets();
        output.extend(plan.files.iter().map(|file| file.path.clone()));
        let written = plan.files.iter().flat_map(|file| match &file.content {
            FileContent::Tensors(range, _) => plan.tensors.get(range.clone()).unwrap_or_default(),
            FileContent::Bytes(_) => &[],
        });
        let tensors = written.map(|tensor| tensor_row(reader, tensor)).collect::<Result<Vec<_>>>()?;
        let mut lossy = plan.lossy.clone();
        if plan.part.is_some() {
            let own: HashSet<&str> = tensors.iter().map(|row| row.name.as_str()).collect();
            lossy.retain(|loss| own.contains(loss.tensor.as_str()));
        }
        let part = plan.part.as_ref().map(|planned| PartFacts {
            part: planned.part,
            plan: planned.plan.clone(),
            shards: plan.files.len(),
            all_shards: planned.shards,
            manifest: planned.manifest.clone(),
        });
        Ok(Self {
            schema: "weigh.convert.v1",
            dry_run: true,
            part,
            verified: false,
            format: plan.format.id,
            output,
            removed: plan.removed.clone(),
            packing: weights::packing(reader),
            tensors,
            lossy,
            dropped: rows(NoteKind::Dropped),
            padded: rows(NoteKind::Padded),
            made_up: rows(NoteKind::Synthesized),
            remarks: rows(NoteKind::Remark),
            zero_padded: rows(NoteKind::Padded),
            synthesized: rows(NoteKind::Synthesized),
            notes: rows(NoteKind::Remark),
            bytes_in: reader.model().shards.iter().map(|shard| shard.bytes).sum(),
            bytes_out: plan.bytes_out(),
            mix: plan.mix.clone(),
            bits_per_weight: bits_per_weight(&plan.tensors),
            loss: None,
            quality: None,
            mmproj: None,
        })
    }
}

/// Returns the bits of tensor data for each element.
fn bits_per_weight(tensors: &[OutputTensor]) -> Option<f64> {
    let sizes = tensors.iter().map(|tensor| Some((tensor.elem.known()?.bytes_for_shape(&tensor.shape).ok()?, tensor.elements().ok()?)));
    let sizes: Vec<(u64, u64)> = sizes.collect::<Option<_>>()?;
    let (bytes, elements) = sizes.into_iter().fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
    (elements > 0).then(|| bytes as f64 * 8.0 / elements as f64)
}

fn tensor_row(reader: &Reader, tensor: &OutputTensor) -> Result<TensorRow> {
    let tensors = &reader.model().tensors;
    let (mut sources, mut types) = (Vec::new(), Vec::new());
    for index in tensor.tensors() {
        let source = tensors.get(index).ok_or_else(|| Error::argument("no such tensor").in_tensor(&tensor.name))?;
        sources.push(source.name.clone());
        let name = reader.type_name(source).to_string();
        if !types.contains(&name) {
            types.push(name);
        }
    }
    if sources.len() == 1 && sources[0] == tensor.name {
        sources.clear();
    }
    if types.is_empty() {
        types.push(DType::F32.to_string()); // computed
    }
    Ok(TensorRow {
        name: tensor.name.clone(),
        from: types.join("+"),
        to: tensor.elem.to_string(),
        shape: tensor.shape.clone(),
        packing: tensor.packed().filter(|packed| packed.part == pack::Part::Codes).map(|packed| packed.packing.name),
        sources,
        transforms: tensor.transforms(),
        quality: None,
        output_error: None,
    })
}
