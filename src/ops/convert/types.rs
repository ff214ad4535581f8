//! Which type every tensor of the output gets, and what that loses.

use crate::base::{Error, Hint, Result, units};
use crate::codec::codec;
use crate::format::gguf::spec::GGML_NAME_BYTES;
use crate::format::{Format, Reader};
use crate::model::companion::Note;
use crate::model::{Class, DType, ElemType, FormatId, Metadata, Tag, Value};
use crate::ops::body::Body;
use crate::ops::convert::loss;
use crate::ops::convert::loss::Lossy;
use crate::ops::convert::options::Options;
use crate::quant::imatrix::Imatrix;
use crate::quant::recipe;
use crate::quant::recipe::{Choice, ModelTraits, Recipe};
use crate::view::output_model::OutputTensor;

/// What takes the place of a type that the format cannot hold.
const SUBSTITUTE: DType = DType::F16;

/// `GGML_QNT_VERSION` in ggml.h.
const QUANTIZATION_VERSION: u32 = 2;

/// The most bytes of the text of a key that llama-quantize writes from its options.
const OVERRIDE_BYTES: usize = 127;

/// What was decided beside the types.
#[derive(Debug, Default)]
pub(super) struct Decided {
    pub(super) lossy: Vec<Lossy>,
    pub(super) notes: Vec<Note>,
    pub(super) lacks_imatrix: Option<String>,
    /// How many tensors but for embeddings and output matrix are quantised with an entry of the importance matrix, and how many
    /// without.
    with_importance: usize,
    without_importance: usize,
}

/// Sets the type of every step.
///
/// # Errors
/// A type is asked for that the format does not hold or that cannot be written; a quantised tensor would be quantised again
/// without leave; an entry of the importance matrix has the wrong size.
pub(super) fn decide(
    reader: &Reader,
    format: &Format,
    steps: &mut [OutputTensor],
    metadata: &Metadata,
    imatrix: Option<&Imatrix>,
    options: &Options,
) -> Result<Decided> {
    check_asked(format, options)?;
    let choices = choices(reader, format, steps, metadata, options);
    let mut decided = Decided::default();
    let mut stay = Vec::new();
    for (index, (step, choice)) in steps.iter_mut().zip(choices).enumerate() {
        let stored = Body::new(reader, step)?.elem();
        decide_one(reader, format, step, stored, choice, imatrix, options, &mut decided).map_err(|error| error.in_tensor(&step.name))?;
        let asked = options.tensor_types.iter().find(|pattern| pattern.fits(&step.name)).map(|pattern| ElemType::Known(pattern.dtype));
        if (step.fixed || choice.dtype.is_none()) && asked.is_some_and(|asked| asked != step.elem) {
            stay.push(index);
        }
    }
    if let Some(imatrix) = imatrix.filter(|_| decided.without_importance > 0 && decided.with_importance == 0) {
        let found = format!("expected an importance matrix of this model, found {} entries, none for a tensor of it", imatrix.len());
        return Err(Error::argument(found).in_file(&imatrix.reader().model().path));
    }
    decided.notes.extend(unheeded(&stay.iter().filter_map(|&index| steps.get(index)).collect::<Vec<_>>()));
    decided.notes.extend(unknown_types(steps));
    if format.id == FormatId::Gguf {
        decided.notes.extend(long_names(steps));
    }
    Ok(decided)
}

/// Tells of tensors that a type is given for by name and that keep theirs all the same.
fn unheeded(all: &[&OutputTensor]) -> Option<Note> {
    let first = all.first()?;
    let message = format!(
        "stays {} whatever type is asked for by name, as in llama.cpp: norms, biases, routers and names that do not end in weight are never quantised",
        first.elem
    );
    Some(Note::remark(&first.name, message + &more(all.len())))
}

/// Tells of tensors of unknown types, which are copied.
fn unknown_types(steps: &[OutputTensor]) -> Option<Note> {
    let all: Vec<&OutputTensor> = steps.iter().filter(|step| step.elem.known().is_none()).collect();
    let first = all.first()?;
    Some(Note::remark(&first.name, format!("stays {}, which this build does not know{}", first.elem, more(all.len()))))
}

/// Tells of names that are longer than ggml takes.
fn long_names(steps: &[OutputTensor]) -> Option<Note> {
    let all: Vec<&OutputTensor> = steps.iter().filter(|step| step.name.len() > GGML_NAME_BYTES).collect();
    let first = all.first()?;
    let message = format!("is a name of {} bytes: llama.cpp refuses files with names of more than {GGML_NAME_BYTES}", first.name.len());
    Some(Note::remark(&first.name, message + &more(all.len())))
}

/// What to say behind the first of so many tensors.
fn more(count: usize) -> String {
    match count.saturating_sub(1) {
        0 => String::new(),
        1 => "; so it is with 1 more tensor".to_owned(),
        more => format!("; so it is with {} more tensors", units::grouped(more as u64)),
    }
}

/// What is asked for must be something that the format holds, and that can be written.
fn check_asked(format: &Format, options: &Options) -> Result<()> {
    let asked = options.target.map(|target| (target.to_string(), target.base())).into_iter();
    let others = options.tensor_types.iter().map(|pattern| pattern.dtype);
    let others = others.chain(options.output_tensor_type).chain(options.token_embedding_type);
    for (name, dtype) in asked.chain(others.map(|dtype| (dtype.to_string(), dtype))) {
        if !(format.stores)(dtype) {
            return Err(Error::argument(format!("expected a type that {} holds, found {name}", format.id)).hint(Hint::ListTypes));
        }
        if codec(dtype).is_none_or(|codec| codec.encode.is_none()) {
            return Err(Error::argument(format!("expected a type that this build writes, found {name}")));
        }
    }
    let for_gguf = [
        (options.output_tensor_type.is_some(), "a type of the output matrix"),
        (options.token_embedding_type.is_some(), "a type of the token embeddings"),
        (options.leave_output_tensor, "an output matrix that stays as it is"),
        (options.imatrix.is_some(), "an importance matrix"),
        (options.pure, "one type without a mix"),
    ];
    match for_gguf.iter().find(|(given, _)| *given && format.id != FormatId::Gguf) {
        Some((_, option)) => Err(Error::argument(format!("expected a GGUF to be written, which alone has {option}, found {}", format.id))),
        None => Ok(()),
    }
}

/// What is asked for each tensor.
fn choices(reader: &Reader, format: &Format, steps: &[OutputTensor], metadata: &Metadata, options: &Options) -> Vec<Choice> {
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
    // A converter makes all weights the asked-for float; only a quantiser leaves some of them as they are.
    let quantises = !translated || options.target.is_none_or(|target| target.base().is_quantised());
    if format.id == FormatId::Gguf && quantises {
        let tensors: Vec<(&str, &[u64])> = steps.iter().map(|step| (step.name.as_str(), step.shape.as_slice())).collect();
        return recipe::choose(&recipe, &ModelTraits::from_metadata(metadata), &tensors);
    }
    steps.iter().map(|step| recipe.uniform(&step.name)).collect()
}

/// The type that a step has if nothing is asked for: what another library packed is computed in F32, which is more than it ever held.
fn natural(reader: &Reader, step: &OutputTensor) -> ElemType {
    let suggested = |index: &usize| reader.model().tensors.get(*index).and_then(|tensor| reader.suggested(tensor));
    match step.tensors().iter().find_map(suggested) {
        Some(dtype) if !step.fixed => dtype.into(),
        _ => step.elem,
    }
}

#[allow(clippy::too_many_arguments)]
fn decide_one(
    reader: &Reader,
    format: &Format,
    step: &mut OutputTensor,
    stored: ElemType,
    choice: Choice,
    imatrix: Option<&Imatrix>,
    options: &Options,
    decided: &mut Decided,
) -> Result<()> {
    let natural = natural(reader, step);
    // Whole numbers, truth values and unknown types are not weights: they stay.
    let is_weights = stored.known().is_some_and(|dtype| matches!(dtype.info().class, Class::Float | Class::Block));
    let chosen = choice.dtype.filter(|_| is_weights && !step.fixed);
    let held = |elem: ElemType| match elem {
        ElemType::Known(dtype) => (format.stores)(dtype),
        ElemType::Unknown { tag: Tag::Number(_) } => format.id == FormatId::Gguf,
        ElemType::Unknown { tag: Tag::Name(_) } => format.id == FormatId::Safetensors,
    };
    step.elem = chosen.map_or(natural, ElemType::Known);
    if let (Some(dtype), Some(wanted)) = (chosen, choice.instead_of) {
        decided.lossy.push(Lossy::fallback(&step.name, wanted, dtype, step.row_elements()));
    }
    if !held(step.elem) {
        let readable = natural.known().filter(|dtype| codec(*dtype).is_some() && dtype.info().class != Class::Complex);
        let Some(dtype) = readable else {
            let message = format!("expected a type that {} holds or whose values can be read, found {natural}", format.id);
            return Err(Error::unsupported(message));
        };
        step.elem = SUBSTITUTE.into();
        decided.lossy.push(Lossy::unheld(&step.name, dtype, SUBSTITUTE, loss::holds(SUBSTITUTE, dtype)));
    }
    if step.elem == stored {
        return Ok(());
    }
    let Some((from, to)) = stored.known().zip(step.elem.known()) else {
        return Err(Error::unsupported(format!("expected a known type to make {} of, found {stored}", step.elem)));
    };
    if codec(from).is_none() {
        return Err(Error::unsupported(format!("expected a type whose values this build reads, found {from}")));
    }
    if codec(to).is_none_or(|codec| codec.encode.is_none()) {
        return Err(Error::unsupported(format!("expected a type that this build writes, found {to}")));
    }
    if from.is_quantised() && to.is_quantised() && !options.allow_requantize {
        let message = format!("expected values that were not quantised before, found {from} to be made {to}");
        return Err(Error::argument(message).hint(Hint::AllowRequantize));
    }
    if to.is_quantised() {
        check_importance(step, to, choice.needs_imatrix, imatrix, decided)?;
    }
    Ok(())
}

/// How many importance weights a tensor needs: one a column, for each matrix of a stack.
pub(super) fn importance_len(shape: &[u64]) -> u64 {
    let matrices: u64 = shape.iter().rev().skip(2).product();
    matrices.saturating_mul(shape.last().copied().unwrap_or(1))
}

fn check_importance(step: &OutputTensor, to: DType, needed: bool, imatrix: Option<&Imatrix>, decided: &mut Decided) -> Result<()> {
    let wanted = importance_len(&step.shape);
    let found = imatrix.and_then(|imatrix| imatrix.weights_of(&step.name));
    // Most matrices leave these out, so they tell nothing of the others.
    if !["token_embd.weight", "output.weight"].contains(&step.name.as_str()) {
        let count = if found == Some(wanted) { &mut decided.with_importance } else { &mut decided.without_importance };
        *count += 1;
    }
    match found {
        Some(found) if found == wanted => return Ok(()),
        // Embeddings are looked up, not multiplied: what is measured of them has another size.
        Some(found) if !step.name.ends_with("token_embd.weight") => {
            return Err(Error::argument(format!("expected {wanted} importance weights, found {found}"))
                .hint("the importance matrix was made of another model, or of an older layout of its experts"));
        }
        _ => {}
    }
    if needed {
        decided.lacks_imatrix.get_or_insert_with(|| step.name.clone());
    }
    if imatrix.is_some() {
        decided.notes.push(Note::remark(&step.name, format!("the importance matrix has no entry for it; made {to} without")));
    }
    Ok(())
}

/// Writes down in a GGUF's metadata what was asked for, as llama-quantize does.
pub(super) fn record(format: &Format, metadata: &mut Metadata, imatrix: Option<&Imatrix>, options: &Options) -> Result<()> {
    let Some(target) = options.target.filter(|_| format.id == FormatId::Gguf) else { return Ok(()) };
    metadata.set("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
    match target.number() {
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
