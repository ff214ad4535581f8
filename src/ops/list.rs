//! `ls`: the tensors of a model.

use std::borrow::Cow;

use serde::Serialize;

use crate::base::Error;
use crate::family::comfy;
use crate::format::Reader;
use crate::model::{ElemType, FormatId, PackingSummary};
use crate::ops::select::Selection;
use crate::ops::weights;

/// The tensors of a model.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct TensorList<'m> {
    schema: &'static str,
    /// The format of the model.
    pub format: FormatId,
    /// The packing of the weights, if they are packed: the tensors below are the stored ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<PackingSummary>,
    /// The selected tensors in order, up to the limit.
    pub tensors: Vec<TensorRow<'m>>,
    /// Number of files in the model.
    #[serde(skip)]
    pub files: usize,
    /// Number of tensors in the model.
    #[serde(skip)]
    pub of: usize,
    /// Hint for an empty selection in a model that has tensors.
    #[serde(skip)]
    pub nothing_selected: Option<Error>,
    /// Totals of the selection, listed or not.
    #[serde(skip)]
    pub selected: Selected,
}

/// Totals of the selected tensors.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Selected {
    /// Number of tensors.
    pub tensors: u64,
    /// Number of elements stored.
    pub elements: u64,
    /// Size in bytes, as far as known.
    pub bytes: u64,
}

/// One tensor.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct TensorRow<'m> {
    /// Exact name.
    pub name: &'m str,
    /// Element type; `type N` if unknown.
    pub dtype: ElemType,
    /// Dimensions, outermost first; before reshaping for quantisation, if the metadata records them.
    pub shape: Cow<'m, [u64]>,
    /// Dimensions in the file, if different.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_shape: Option<&'m [u64]>,
    /// Number of elements stored.
    pub elements: u64,
    /// Size in bytes; `None` for an unknown type.
    pub bytes: Option<u64>,
    /// The file that contains it.
    pub file: Cow<'m, str>,
    /// Offset in that file in bytes.
    pub offset: u64,
}

/// Lists the tensors of `selection`.
///
/// # Errors
/// A tensor has more than 2^64 elements, which readers reject.
pub fn list<'m>(reader: &'m Reader, selection: &Selection) -> crate::Result<TensorList<'m>> {
    let model = reader.model();
    let files: Vec<Cow<'m, str>> = model.shards.iter().map(|shard| shard.path.to_string_lossy()).collect();
    let row = |tensor: &'m crate::model::TensorInfo| {
        let original = comfy::original_shape(model, tensor).filter(|shape| *shape != tensor.shape);
        Ok(TensorRow {
            name: &tensor.name,
            dtype: tensor.elem,
            stored_shape: original.as_ref().map(|_| tensor.shape.as_slice()),
            shape: original.map_or(Cow::Borrowed(&tensor.shape), Cow::Owned),
            elements: tensor.elements()?,
            bytes: tensor.len_bytes,
            file: files.get(tensor.shard).cloned().unwrap_or_default(),
            offset: tensor.offset_bytes,
        })
    };
    let picked = selection.pick(model);
    let mut selected = Selected { tensors: picked.len() as u64, ..Selected::default() };
    for tensor in &picked {
        selected.elements = selected.elements.saturating_add(tensor.elements()?);
        selected.bytes = selected.bytes.saturating_add(tensor.len_bytes.unwrap_or(0));
    }
    let tensors = picked.into_iter().take(selection.limit()).map(row).collect::<crate::Result<_>>()?;
    let packing = weights::packing(reader);
    Ok(TensorList {
        schema: "weigh.ls.v1",
        format: model.format,
        packing,
        tensors,
        files: model.shards.len(),
        of: model.tensors.len(),
        nothing_selected: (selected.tensors == 0 && !model.tensors.is_empty()).then(|| {
            let names = model.tensors.iter().map(|tensor| tensor.name.as_str());
            selection.nothing_selected(names).in_file(&model.path)
        }),
        selected,
    })
}
