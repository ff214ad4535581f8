//! Choice of the output type of every tensor, and the losses that it implies.

use crate::base::{Error, Hint, Result, units};
use crate::codec::codec;
use crate::format::gguf::spec::GGML_NAME_BYTES;
use crate::format::{Format, Reader};
use crate::model::companion::Note;
use crate::model::{Class, DType, ElemType, FormatId, Metadata, Tag, Value};
use crate::ops::convert::loss;
use crate::ops::convert::loss::Loss;
use crate::ops::convert::options::Options;
use crate::ops::tensor_data::TensorData;
use crate::quant::imatrix::Imatrix;
use crate::quant::recipe;
use crate::quant::recipe::{Choice, ModelTraits, Recipe, Target};
use crate::view::output_model::OutputTensor;

/// Replacement for types that the format cannot store.
const SUBSTITUTE: DType = DType::F16;

/// `GGML_QNT_VERSION` in ggml.h.
const QUANTIZATION_VERSION: u32 = 2;

/// Maximum length in bytes of the strings that llama-quantize records from its options.
const OVERRIDE_BYTES: usize = 127;

/// Results of choosing types, besides the types themselves.
#[derive(Debug, Default)]
pub(super) struct TypeDecisions {
    pub(super) lossy: Vec<Loss>,
    pub(super) notes: Vec<Note>,
    pub(super) lacks_imatrix: Option<String>,
    /// Numbers of tensors (embeddings and output matrix aside) that are quantised with an entry of the importance matrix, and without
    /// one.
    with_importance: usize,
    without_importance: usize,
}

/// Chooses the type of every output tensor.
///
/// # Errors
/// A requested type is not supported by the format or cannot be encoded; a quantised tensor would be requantised without
/// permission; an entry of the importance matrix has the wrong size.
pub(super) fn choose_types(
    reader: &Reader,
    format: &Format,
    tensors: &mut [OutputTensor],
    metadata: &Metadata,
    imatrix: Option<&Imatrix>,
    options: &Options,
) -> Result<TypeDecisions> {
    check_requested_types(format, options)?;
    options.tensor_types.iter().try_for_each(|pattern| pattern.check_meaning(tensors.iter().map(|tensor| tensor.name.as_str())))?;
    let requested_types = requested_types(reader, format, tensors, metadata, options);
    let mut decisions = TypeDecisions::default();
    let mut unchanged = Vec::new();
    for (index, (tensor, choice)) in tensors.iter_mut().zip(requested_types).enumerate() {
        let stored = TensorData::new(reader, tensor)?.elem();
        choose_type(reader, format, tensor, stored, choice, imatrix, options, &mut decisions)
            .map_err(|error| error.in_tensor(&tensor.name))?;
        let requested =
            options.tensor_types.iter().find(|pattern| pattern.fits(&tensor.name)).map(|pattern| ElemType::Known(pattern.dtype));
        if (tensor.fixed || choice.dtype.is_none()) && requested.is_some_and(|requested| requested != tensor.elem) {
            unchanged.push(index);
        }
    }
    if let Some(imatrix) = imatrix.filter(|_| decisions.without_importance > 0 && decisions.with_importance == 0) {
        let found =
            format!("the importance matrix belongs to another model: none of its {} entries names a tensor of this one", imatrix.len());
        return Err(Error::argument(found).in_file(&imatrix.reader().model().path));
    }
    decisions.notes.extend(overridden_requests(&unchanged.iter().filter_map(|&index| tensors.get(index)).collect::<Vec<_>>()));
    decisions.notes.extend(unknown_types(tensors));
    if format.id == FormatId::Gguf {
        decisions.notes.extend(long_names(tensors));
    }
    Ok(decisions)
}

/// Notes tensors that keep their type although another one was given for them by name.
fn overridden_requests(all: &[&OutputTensor]) -> Option<Note> {
    let first = all.first()?;
    let message = format!(
        "stays {} although another type was given by name: as in llama.cpp, norms, biases, routers and names that do not end in weight are never quantised",
        first.elem
    );
    Some(Note::remark(&first.name, message + &and_others(all.len())))
}

/// Notes tensors of unknown types, which are copied.
fn unknown_types(tensors: &[OutputTensor]) -> Option<Note> {
    let all: Vec<&OutputTensor> = tensors.iter().filter(|tensor| tensor.elem.known().is_none()).collect();
    let first = all.first()?;
    Some(Note::remark(&first.name, format!("stays {}, a type unknown to this build{}", first.elem, and_others(all.len()))))
}

/// Notes names that are longer than ggml accepts.
fn long_names(tensors: &[OutputTensor]) -> Option<Note> {
    let all: Vec<&OutputTensor> = tensors.iter().filter(|tensor| tensor.name.len() > GGML_NAME_BYTES).collect();
    let first = all.first()?;
    let message = format!("is a name of {} bytes: llama.cpp rejects names longer than {GGML_NAME_BYTES}", first.name.len());
    Some(Note::remark(&first.name, message + &and_others(all.len())))
}

/// Returns the suffix that counts the other tensors of a note.
fn and_others(count: usize) -> String {
    match count.saturating_sub(1) {
        0 => String::new(),
        1 => " (and 1 more tensor)".to_owned(),
        more => format!(" (and {} more tensors)", units::grouped(more as u64)),
    }
}

/// Checks that the requested types are supported by the format and can be encoded.
fn check_requested_types(format: &Format, options: &Options) -> Result<()> {
    let requested = options.target.map(|target| (target.to_string(), target.base())).into_iter();
    let others = options.tensor_types.iter().map(|pattern| pattern.dtype);
    let others = others.chain(options.output_tensor_type).chain(options.token_embedding_type);
    for (name, dtype) in requested.chain(others.map(|dtype| (dtype.to_string(), dtype))) {
        check_type(format, &name, dtype)?;
    }
    let for_gguf = [
        (options.output_tensor_type.is_some(), "a type for the output matrix"),
        (options.token_embedding_type.is_some(), "a type for the token embeddings"),
        (options.leave_output_tensor, "leaving the output matrix unchanged"),
        (options.imatrix.is_some(), "an importance matrix"),
        (options.pure, "one type for all tensors"),
    ];
    match for_gguf.iter().find(|(given, _)| *given && format.id != FormatId::Gguf) {
        Some((_, option)) => Err(Error::argument(format!("{option} requires GGUF output, found {}", format.id))),
        None => Ok(()),
    }
}

/// Checks that a type is supported by the format and can be encoded.
pub(super) fn check_type(format: &Format, name: &str, dtype: DType) -> Result<()> {
    if !(format.stores)(dtype) {
        return Err(Error::argument(format!("{} does not support {name}", format.id)).hint(Hint::ListTypes));
    }
    if codec(dtype).is_none_or(|codec| codec.encode.is_none()) {
        return Err(Error::argument(format!("this build cannot encode {name}")));
    }
    Ok(())
}

/// Returns the type of each tensor if the type of all is this one, and whether it can be had: importance weights that it needs may be
/// missing. `None` for those that keep their type.
///
/// # Errors
/// An output tensor refers to a missing tensor.
pub(super) fn uniform(
    reader: &Reader,
    format: &Format,
    tensors: &[OutputTensor],
    metadata: &Metadata,
    imatrix: Option<&Imatrix>,
    options: &Options,
    dtype: DType,
) -> Result<Vec<Option<(DType, bool)>>> {
    let options = Options { target: Some(Target::Uniform(dtype)), pure: true, ..options.clone() };
    let choices = requested_types(reader, format, tensors, metadata, &options);
    let chosen = tensors.iter().zip(choices).map(|(tensor, choice)| {
        let stored = TensorData::new(reader, tensor)?.elem();
        let has_importance = || imatrix.and_then(|imatrix| imatrix.weights_of(&tensor.name)) == Some(importance_len(&tensor.shape));
        let changes = is_weights(stored) && !tensor.fixed;
        Ok(choice.dtype.filter(|_| changes).map(|dtype| (dtype, !choice.needs_imatrix || has_importance())))
    });
    chosen.collect()
}

/// Whether elements of a type are weights; integers, booleans and unknown types stay unchanged.
fn is_weights(stored: ElemType) -> bool {
    stored.known().is_some_and(|dtype| matches!(dtype.info().class, Class::Float | Class::Block))
}

/// Returns the requested type of each tensor.
fn requested_types(reader: &Reader, format: &Format, tensors: &[OutputTensor], metadata: &Metadata, options: &Options) -> Vec<Choice> {
    let translated = !options.keeps_names() && reader.model().format != format.id;
    let recipe = Recipe {
        target: options.target,
        pure: options.pure,
        tensor_types: options.tensor_types.clone(),
        output: options.output_tensor_type,
        embedding: options.token_embedding_type,
        leave_output: options.leave_output_tensor,
        imatrix: options.imatrix.is_some(),
    };
    // A converter stores all weights as the requested float; only a quantiser leaves some of them unchanged.
    let quantises = !translated || options.target.is_none_or(|target| target.base().is_quantised());
    if format.id == FormatId::Gguf && quantises {
        let tensors: Vec<(&str, &[u64])> = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect();
        return recipe::choose(&recipe, &ModelTraits::from_metadata(metadata), &tensors);
    }
    tensors.iter().map(|tensor| recipe.uniform(&tensor.name)).collect()
}

/// Returns the type of an output tensor if none is requested: weights packed by another library are computed in F32, more than they ever had.
fn default_type(reader: &Reader, tensor: &OutputTensor) -> ElemType {
    let suggested = |index: &usize| reader.model().tensors.get(*index).and_then(|tensor| reader.suggested(tensor));
    match tensor.tensors().iter().find_map(suggested) {
        Some(dtype) if !tensor.fixed => dtype.into(),
        _ => tensor.elem,
    }
}

#[allow(clippy::too_many_arguments)]
fn choose_type(
    reader: &Reader,
    format: &Format,
    tensor: &mut OutputTensor,
    stored: ElemType,
    choice: Choice,
    imatrix: Option<&Imatrix>,
    options: &Options,
    decisions: &mut TypeDecisions,
) -> Result<()> {
    let default_type = default_type(reader, tensor);
    let chosen = choice.dtype.filter(|_| is_weights(stored) && !tensor.fixed);
    let supported = |elem: ElemType| match elem {
        ElemType::Known(dtype) => (format.stores)(dtype),
        ElemType::Unknown { tag: Tag::Number(_) } => format.id == FormatId::Gguf,
        ElemType::Unknown { tag: Tag::Name(_) } => format.id == reader.model().format,
    };
    tensor.elem = chosen.map_or(default_type, ElemType::Known);
    if let (Some(dtype), Some(wanted)) = (chosen, choice.instead_of) {
        decisions.lossy.push(Loss::fallback(&tensor.name, wanted, dtype, tensor.row_elements()));
    }
    if !supported(tensor.elem) {
        let readable = default_type.known().filter(|dtype| codec(*dtype).is_some() && dtype.info().class != Class::Complex);
        let Some(dtype) = readable else {
            let message = format!("{} does not support {default_type}, and this build cannot decode it", format.id);
            return Err(Error::unsupported(message));
        };
        tensor.elem = SUBSTITUTE.into();
        decisions.lossy.push(Loss::unsupported_dtype(&tensor.name, dtype, SUBSTITUTE, loss::holds(SUBSTITUTE, dtype)));
    }
    if tensor.elem == stored {
        return Ok(());
    }
    let Some((from, to)) = stored.known().zip(tensor.elem.known()) else {
        return Err(Error::unsupported(format!("cannot convert {stored} to {}", tensor.elem)));
    };
    if codec(from).is_none() {
        return Err(Error::unsupported(format!("this build cannot decode {from}")));
    }
    if codec(to).is_none_or(|codec| codec.encode.is_none()) {
        return Err(Error::unsupported(format!("this build cannot encode {to}")));
    }
    if from.is_quantised() && to.is_quantised() && !options.allow_requantize {
        let message = format!("already quantised as {from}: requantising to {to} compounds the error");
        return Err(Error::argument(message).hint(Hint::AllowRequantize));
    }
    if to.is_quantised() {
        check_importance(tensor, to, choice.needs_imatrix, imatrix, decisions)?;
    }
    Ok(())
}

/// Returns the number of importance weights of a tensor: one per column, for each matrix of a stack.
pub(super) fn importance_len(shape: &[u64]) -> u64 {
    let matrices: u64 = shape.iter().rev().skip(2).product();
    matrices.saturating_mul(shape.last().copied().unwrap_or(1))
}

/// Returns the importance weights of a row.
pub(super) fn importance_of_row<'w>(weights: &'w [f32], shape: &[u64], row: u64) -> Option<&'w [f32]> {
    let rows_of_matrix = shape.iter().rev().nth(1).copied().unwrap_or(1).max(1);
    weights.chunks_exact(usize::try_from(*shape.last()?).ok()?.max(1)).nth(usize::try_from(row / rows_of_matrix).ok()?)
}

fn check_importance(
    tensor: &OutputTensor,
    to: DType,
    needed: bool,
    imatrix: Option<&Imatrix>,
    decisions: &mut TypeDecisions,
) -> Result<()> {
    let wanted = importance_len(&tensor.shape);
    let found = imatrix.and_then(|imatrix| imatrix.weights_of(&tensor.name));
    // Most importance matrices omit these, so they say nothing about the others.
    if !["token_embd.weight", "output.weight"].contains(&tensor.name.as_str()) {
        let count = if found == Some(wanted) { &mut decisions.with_importance } else { &mut decisions.without_importance };
        *count += 1;
    }
    match found {
        Some(found) if found == wanted => return Ok(()),
        // Embeddings are looked up, not multiplied: their entries have another size.
        Some(found) if !tensor.name.ends_with("token_embd.weight") => {
            return Err(Error::argument(format!("expected {wanted} importance weights, found {found}"))
                .hint("the importance matrix belongs to another model, or has an older layout of the experts"));
        }
        _ => {}
    }
    if needed {
        decisions.lacks_imatrix.get_or_insert_with(|| tensor.name.clone());
    }
    if imatrix.is_some() {
        decisions.notes.push(Note::remark(&tensor.name, format!("the importance matrix has no entry for it; quantised to {to} without")));
    }
    Ok(())
}

/// Records the request in a GGUF's metadata, as llama-quantize does.
pub(super) fn record(format: &Format, metadata: &mut Metadata, imatrix: Option<&Imatrix>, options: &Options) -> Result<()> {
    if format.id != FormatId::Gguf || (options.target.is_none() && !options.mixes()) {
        return Ok(());
    }
    metadata.set("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
    match options.target.and_then(Target::number) {
        Some(number) => drop(metadata.set("general.file_type", Value::U32(number))),
        None => drop(metadata.remove("general.file_type")),
    }
    let Some((imatrix, path)) = imatrix.zip(options.imatrix.as_deref()) else { return Ok(()) };
    let text = |text: &str| {
        let ends = text.char_indices().map(|(start, c)| start + c.len_utf8()).take_while(|end| *end <= OVERRIDE_BYTES);
        Value::String(text[..ends.last().unwrap_or(0)].to_owned())
    };
    metadata.set("quantize.imatrix.file", text(&path.to_string_lossy()));
    if let Some(dataset) = imatrix.dataset() {
        metadata.set("quantize.imatrix.dataset", text(&dataset));
    }
    metadata.set("quantize.imatrix.entries_count", Value::U32(u32::try_from(imatrix.len()).unwrap_or(u32::MAX)));
    if let Some(chunks) = imatrix.chunks().and_then(|chunks| u32::try_from(chunks).ok()).filter(|chunks| *chunks > 0) {
        metadata.set("quantize.imatrix.chunks_count", Value::U32(chunks));
    }
    Ok(())
}
