//! What a conversion will do or has done, as `weigh convert` tells it.

use std::path::PathBuf;

use serde::Serialize;

use crate::base::{Error, Hint, Result};
use crate::format::Reader;
use crate::model::companion::{Note, NoteKind};
use crate::model::{DType, FormatId, PackingSummary};
use crate::ops::convert::loss::{LossKind, Lossy, Lost};
use crate::ops::convert::plan::Plan;
use crate::ops::convert::quality::Quality;
use crate::ops::weights;
use crate::view::output_model::OutputTensor;

/// The report of `weigh convert`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ConvertReport {
    /// `weigh.convert.v1`.
    pub schema: &'static str,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Whether what was written was read back and compared.
    pub verified: bool,
    /// The format of the output.
    pub format: FormatId,
    /// The files written, the index last.
    pub output: Vec<PathBuf>,
    /// The files of an older output of the same name that go without a new one of their names: see [`Plan::removed`].
    pub removed: Vec<PathBuf>,
    /// The packing of the input, if packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<PackingSummary>,
    /// The tensors, in the order of the output.
    pub tensors: Vec<TensorRow>,
    /// What is lost beyond what was asked for.
    pub lossy: Vec<Lossy>,
    /// What of the input is not in the output.
    pub dropped: Vec<NoteRow>,
    /// What was filled up with zeros.
    pub padded: Vec<NoteRow>,
    /// What of the output is not in the input.
    pub made_up: Vec<NoteRow>,
    /// What else is worth knowing.
    pub remarks: Vec<NoteRow>,
    /// The same as `padded`, by its newer name.
    pub zero_padded: Vec<NoteRow>,
    /// The same as `made_up`, by its newer name.
    pub synthesized: Vec<NoteRow>,
    /// The same as `remarks`, by its newer name.
    pub notes: Vec<NoteRow>,
    /// The bytes of the input's files.
    pub bytes_in: u64,
    /// The bytes of the output's files.
    pub bytes_out: u64,
    /// What quantising cost in all: over the tensors that were quantised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
}

/// A tensor of the output.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TensorRow {
    /// Its name in the output.
    pub name: String,
    /// The type of what it is made of.
    pub from: String,
    /// Its type in the output.
    pub to: String,
    /// Its dimensions in the output, outermost first.
    pub shape: Vec<u64>,
    /// The tensors of the input that it is made of, where it is not one of the same name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// What is done to them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub transforms: Vec<String>,
    /// What quantising cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
}

/// Something that the plan tells beside the tensors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NoteRow {
    /// The tensor, key or file.
    pub name: String,
    /// Why, and what it means.
    pub message: String,
}

impl Lossy {
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
            message: format!("rows of {row} are no multiple of the {block} of {wanted}"),
        }
    }

    pub(super) fn unheld(tensor: &str, from: DType, to: DType, exact: bool) -> Self {
        Self {
            tensor: tensor.to_owned(),
            kind: LossKind::Unheld,
            from: from.to_string(),
            to: to.to_string(),
            exact,
            values: None,
            bits_per_weight: None,
            message: format!("the format does not hold {from}"),
        }
    }

    /// What was lost on the way from one type to another.
    pub(super) fn lost(tensor: &str, from: &str, to: DType, lost: Lost) -> Vec<Self> {
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
        if lost.overflowed > 0 {
            found.push(one(LossKind::Overflow, lost.overflowed, "finite values overflow"));
        }
        if lost.flushed > 0 {
            found.push(one(LossKind::Flush, lost.flushed, "values become zero"));
        }
        found
    }

    /// Returns the error that it is to a caller who is strict.
    pub(super) fn strict(&self) -> Error {
        let Self { from, to, message, .. } = self;
        Error::argument(format!("expected no loss beyond the asked-for type, found {from} made {to}: {message}"))
            .in_tensor(&self.tensor)
            .hint(Hint::AllowLoss)
    }
}

impl ConvertReport {
    /// What the plan will do.
    ///
    /// # Errors
    /// A step is about a tensor that is not there.
    pub fn planned(reader: &Reader, plan: &Plan) -> Result<Self> {
        let rows = |kind: NoteKind| {
            let of_kind = plan.notes.iter().filter(|note| note.kind == kind);
            of_kind.map(|Note { name, message, .. }| NoteRow { name: name.clone(), message: message.clone() }).collect()
        };
        let mut output: Vec<PathBuf> = plan.companion_targets();
        output.extend(plan.files.iter().map(|file| file.path.clone()));
        Ok(Self {
            schema: "weigh.convert.v1",
            dry_run: true,
            verified: false,
            format: plan.format.id,
            output,
            removed: plan.removed.clone(),
            packing: weights::packing(reader),
            tensors: plan.steps.iter().map(|step| tensor_row(reader, step)).collect::<Result<_>>()?,
            lossy: plan.lossy.clone(),
            dropped: rows(NoteKind::Dropped),
            padded: rows(NoteKind::Padded),
            made_up: rows(NoteKind::Synthesized),
            remarks: rows(NoteKind::Remark),
            zero_padded: rows(NoteKind::Padded),
            synthesized: rows(NoteKind::Synthesized),
            notes: rows(NoteKind::Remark),
            bytes_in: reader.model().shards.iter().map(|shard| shard.bytes).sum(),
            bytes_out: plan.bytes_out(),
            quality: None,
        })
    }
}

fn tensor_row(reader: &Reader, step: &OutputTensor) -> Result<TensorRow> {
    let tensors = &reader.model().tensors;
    let (mut sources, mut types) = (Vec::new(), Vec::new());
    for index in step.tensors() {
        let tensor =
            tensors.get(index).ok_or_else(|| Error::argument("expected a tensor of the model, found none").in_tensor(&step.name))?;
        sources.push(tensor.name.clone());
        let name = reader.type_name(tensor).to_string();
        if !types.contains(&name) {
            types.push(name);
        }
    }
    if sources.len() == 1 && sources[0] == step.name {
        sources.clear();
    }
    if types.is_empty() {
        types.push(DType::F32.to_string()); // computed
    }
    Ok(TensorRow {
        name: step.name.clone(),
        from: types.join("+"),
        to: step.elem.to_string(),
        shape: step.shape.clone(),
        sources,
        transforms: step.transforms(),
        quality: None,
    })
}
