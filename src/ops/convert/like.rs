//! `--like`: the types of another model's tensors, by their names in the output.

use std::collections::HashMap;
use std::path::Path;

use crate::base::{Error, Result};
use crate::format;
use crate::model::companion::Note;
use crate::model::{DType, FormatId};
use crate::ops::convert::gguf_weights::gguf_weights;
use crate::ops::convert::options::Options;
use crate::ops::convert::size::Request;
use crate::ops::convert::types;
use crate::quant::recipe::TensorType;

/// Returns the types of the model at `path` as rules, for the tensors of the output that can be quantised.
///
/// # Errors
/// The model cannot be read, or none of its tensors is in the output.
pub(super) fn rules(request: &Request<'_>, path: &Path, notes: &mut Vec<Note>) -> Result<Vec<TensorType>> {
    let types = types_of(path, request.format.id)?;
    let can_change =
        types::uniform(request.reader, request.format, request.tensors, request.metadata, request.imatrix, request.options, DType::F16)?;
    let (mut rules, mut without) = (Vec::new(), Vec::new());
    for (tensor, _) in request.tensors.iter().zip(can_change).filter(|(_, change)| change.is_some()) {
        match types.get(&tensor.name) {
            Some(&dtype) => rules.push(TensorType::named(&tensor.name, dtype)),
            None => without.push(&tensor.name),
        }
    }
    if rules.is_empty() {
        let message = "expected the types of a model with the same tensors, found none of their names";
        return Err(Error::argument(message).in_file(path));
    }
    if let Some(first) = without.first() {
        let others = if without.len() > 1 { format!(" (and {} more tensors)", without.len() - 1) } else { String::new() };
        notes.push(Note::remark(*first, format!("is not in {}, so that it keeps its type{others}", path.display())));
    }
    Ok(rules)
}

/// Returns the types of a model's tensors, under the names that they have in the format.
fn types_of(path: &Path, format: FormatId) -> Result<HashMap<String, DType>> {
    let reader = format::open(path)?;
    if format == FormatId::Gguf && reader.model().format != FormatId::Gguf {
        let (_, tensors) = gguf_weights(&reader, &Options::default())?;
        return Ok(tensors.into_iter().filter_map(|tensor| Some((tensor.name, tensor.elem.known()?))).collect());
    }
    Ok(reader.model().tensors.iter().filter_map(|tensor| Some((tensor.name.clone(), tensor.elem.known()?))).collect())
}
