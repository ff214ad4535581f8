//! Conversion to packed weights: replaces tensors of the plan by their packed parts and describes the packing in config.json.

use std::path::Path;

use serde_json::{Map, Value as Json};

use crate::base::{Error, Hint, Result, json, num};
use crate::format::Reader;
use crate::model::companion::{CompanionFile, Content, Note};
use crate::model::{Class, ElemType, Metadata, Value};
use crate::ops::chunks;
use crate::ops::convert::loss::Loss;
use crate::ops::convert::options::Options;
use crate::ops::tensor_data::TensorData;
use crate::quant::pack::{self, Form, Packing, Precision, Unpacked, Weight, Whole};
use crate::view::output_model::{OutputTensor, PackedPart, Source};

/// The file that describes the packing.
const CONFIG: &str = "config.json";

/// Number of elements that a thread reads per chunk to find the largest magnitude, unless a row is longer.
const CHUNK_ELEMENTS: u64 = 1 << 18;

/// The output layer, which also exists in models whose output matrix is tied.
const OUTPUT_LAYER: &str = "lm_head";

/// Changes to a plan for packing.
pub(super) struct Packed {
    pub(super) tensors: Vec<OutputTensor>,
    pub(super) metadata: Metadata,
    pub(super) companions: Vec<CompanionFile>,
    pub(super) notes: Vec<Note>,
    pub(super) lossy: Vec<Loss>,
}

/// Replaces the weights of linear layers by the tensors of packed weights, and describes them in config.json. Returns the sets of weights
/// that share a scale of the whole.
///
/// # Errors
/// A weight cannot be packed, or is packed already.
pub(super) fn apply(reader: &Reader, packing: &Packing, plan: &mut Packed, options: &Options) -> Result<Vec<Vec<OutputTensor>>> {
    let mut weights = Vec::new();
    let mut ignored = Vec::new();
    for (index, tensor) in plan.tensors.iter().enumerate() {
        if is_packed(reader, packing, tensor, options, &mut plan.notes).map_err(|error| error.in_tensor(&tensor.name))? {
            weights.push(index);
        } else if let Some(layer) = layer(tensor) {
            ignored.push(layer);
        }
    }
    if weights.is_empty() {
        return Err(
            Error::argument(format!("the model has no linear layer that could be packed as {packing}")).in_file(&reader.model().path)
        );
    }
    if packing.form() == Form::Mlx {
        check_mlx_names(&plan.tensors)?;
        plan.metadata.set("format", Value::String("mlx".to_owned()));
    }
    let (sets, set_of) = sets(packing, &plan.tensors, &weights);
    plan.lossy.retain(|loss| !weights.iter().any(|&index| plan.tensors.get(index).is_some_and(|tensor| tensor.name == loss.tensor)));
    let wholes = sets.iter().map(|set| set.iter().filter_map(|&index| plan.tensors.get(index).cloned()).collect()).collect();
    let mut out = Vec::with_capacity(plan.tensors.len() + 2 * weights.len());
    let mut is_weight = weights.iter().copied().peekable();
    for (index, tensor) in std::mem::take(&mut plan.tensors).into_iter().enumerate() {
        match is_weight.next_if_eq(&index) {
            Some(_) => out.extend(parts(reader, packing, &tensor, set_of.get(&index).copied())?),
            None => out.push(tensor),
        }
    }
    plan.tensors = out;
    if !ignored.iter().any(|layer| layer.ends_with(OUTPUT_LAYER)) {
        ignored.insert(0, OUTPUT_LAYER.to_owned());
    }
    describe(reader, packing, &ignored, plan)?;
    Ok(wholes)
}

/// Whether a tensor is packed.
fn is_packed(reader: &Reader, packing: &Packing, tensor: &OutputTensor, options: &Options, notes: &mut Vec<Note>) -> Result<bool> {
    let named = options.tensor_types.iter().any(|pattern| pattern.fits(&tensor.name));
    let stored = TensorData::new(reader, tensor)?.elem();
    let is_weights = stored.known().is_some_and(|dtype| matches!(dtype.info().class, Class::Float | Class::Block));
    if named || !is_weights {
        return Ok(false);
    }
    match pack::unpacked(packing.form(), &tensor.name, &tensor.shape) {
        None => {}
        Some(Unpacked::Stack) => {
            let message = format!("stays {}: experts in one stack are not packed", tensor.elem);
            notes.push(Note::remark(&tensor.name, message));
            return Ok(false);
        }
        Some(_) => return Ok(false),
    }
    if let Some(misfit) = packing.misfit(tensor.row_elements()) {
        if packing.form() == Form::Mlx {
            notes.push(Note::remark(&tensor.name, format!("stays {}, as in mlx-lm: {misfit}", tensor.elem)));
            return Ok(false);
        }
        return Err(Error::argument(format!("cannot be stored as {packing}: {misfit}")).hint(Hint::LeaveTensor));
    }
    let sources = tensor.tensors();
    let packed = sources.iter().filter_map(|index| reader.model().tensors.get(*index)).find_map(|tensor| reader.type_name(tensor).packed);
    let small = stored.known().filter(|dtype| dtype.bits_per_weight() <= 8.5 || dtype.is_quantised());
    let found = packed.map(|packed| packed.to_string()).or(small.map(|dtype| dtype.to_string()));
    match found.filter(|_| !options.allow_requantize) {
        Some(found) => {
            let message = format!("already quantised as {found}: requantising to {packing} compounds the error");
            Err(Error::argument(message).hint(Hint::AllowRequantize))
        }
        None => Ok(true),
    }
}

/// Returns the name of the linear layer whose weight is not packed; `None` if the tensor is not one.
fn layer(tensor: &OutputTensor) -> Option<String> {
    match pack::unpacked(Form::CompressedTensors, &tensor.name, &tensor.shape) {
        Some(Unpacked::NotLinear) => None,
        Some(Unpacked::Stack) => tensor.name.rsplit_once('.').map(|(experts, _)| experts.to_owned()),
        Some(Unpacked::Kept(_)) | None => tensor.name.strip_suffix(".weight").map(str::to_owned),
    }
}

/// Checks that mlx-lm has the weights under the same names.
fn check_mlx_names(tensors: &[OutputTensor]) -> Result<()> {
    let is_expert = |tensor: &&OutputTensor| {
        let parts: Vec<&str> = tensor.name.split('.').collect();
        parts.windows(2).any(|pair| pair[0] == "experts" && pair[1].bytes().all(|byte| byte.is_ascii_digit()))
            || pack::unpacked(Form::Mlx, &tensor.name, &tensor.shape) == Some(Unpacked::Stack)
    };
    match tensors.iter().find(is_expert) {
        None => Ok(()),
        Some(tensor) => Err(Error::unsupported("mlx-lm has the experts of this model under other names").in_tensor(&tensor.name)),
    }
}

type SetOf = std::collections::HashMap<usize, usize>;

/// Returns the sets of weights that share a scale of the whole, and the set of each.
fn sets(packing: &Packing, tensors: &[OutputTensor], weights: &[usize]) -> (Vec<Vec<usize>>, SetOf) {
    if !packing.needs_whole() {
        return (Vec::new(), SetOf::new());
    }
    let mut sets: Vec<Vec<usize>> = Vec::new();
    if packing.has_whole_scale() {
        let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let packed = |set: Vec<usize>| set.into_iter().filter(|index| weights.binary_search(index).is_ok()).collect::<Vec<_>>();
        sets.extend(pack::fused(&names).into_iter().map(packed).filter(|set| !set.is_empty()));
    }
    let mut set_of: SetOf = sets.iter().enumerate().flat_map(|(number, set)| set.iter().map(move |&index| (index, number))).collect();
    for &index in weights {
        set_of.entry(index).or_insert_with(|| {
            sets.push(vec![index]);
            sets.len() - 1
        });
    }
    (sets, set_of)
}

/// Returns the tensors of a packed weight.
fn parts(reader: &Reader, packing: &Packing, tensor: &OutputTensor, whole: Option<usize>) -> Result<Vec<OutputTensor>> {
    let stored = TensorData::new(reader, tensor)?.elem();
    let precision = stored.known().and_then(Precision::of).unwrap_or(Precision::F32);
    let (rows, columns) = (tensor.shape.first().copied().unwrap_or(0), tensor.row_elements());
    let stem = tensor.name.strip_suffix("weight").unwrap_or(&tensor.name);
    let parts = packing.parts(rows, columns, precision).into_iter().map(|stored| OutputTensor {
        name: format!("{stem}{}", stored.suffix),
        shape: stored.shape,
        elem: ElemType::Known(stored.dtype),
        fixed: true,
        source: Source::Packed(Box::new(PackedPart { weight: tensor.clone(), packing: *packing, precision, part: stored.part, whole })),
    });
    Ok(parts.collect())
}

/// Describes the packing in config.json.
fn describe(reader: &Reader, packing: &Packing, ignored: &[String], plan: &mut Packed) -> Result<()> {
    let file = plan.companions.iter_mut().find(|file| file.name == CONFIG);
    let config = match file.as_ref().map(|file| &file.content) {
        Some(Content::Bytes(bytes)) => {
            let text = String::from_utf8(bytes.to_vec()).map_err(|_| Error::malformed("expected UTF-8").in_file(Path::new(CONFIG)))?;
            Some(json::parse(&text, Path::new(CONFIG))?)
        }
        _ => reader.model().config.clone(),
    };
    let mut config = match config {
        Some(Json::Object(config)) => config,
        _ => Map::new(),
    };
    pack::configure(&mut config, packing, ignored);
    let content = Content::Bytes((json::to_text(&Json::Object(config))? + "\n").into_bytes());
    match file {
        Some(file) => file.content = content,
        None => {
            plan.companions.push(CompanionFile { name: CONFIG.to_owned(), content });
            plan.notes.push(Note::synthesized(CONFIG, "says only how the weights are packed: the input has none"));
        }
    }
    Ok(())
}

/// Returns a packed weight for its encoder.
pub(super) fn weight(packed: &PackedPart, wholes: &[Whole]) -> Weight {
    Weight {
        packing: packed.packing,
        rows: packed.weight.shape.first().copied().unwrap_or(0),
        columns: packed.weight.row_elements(),
        precision: packed.precision,
        whole: packed.whole.and_then(|set| wholes.get(set)).copied().unwrap_or_default(),
    }
}

/// Reads the weights that share a scale of the whole, if this part of the plan writes any of them, and returns what they determine.
pub(super) fn measure<'t>(
    reader: &Reader,
    sets: &[Vec<OutputTensor>],
    written: impl Iterator<Item = &'t OutputTensor>,
) -> Result<Vec<Whole>> {
    let mut needed = vec![false; sets.len()];
    for tensor in written {
        if let Some(slot) = tensor.packed().and_then(|packed| packed.whole).and_then(|set| needed.get_mut(set)) {
            *slot = true;
        }
    }
    let mut wholes = vec![Whole::default(); sets.len()];
    let sets = sets.iter().zip(&needed).enumerate().filter(|(_, (_, needed))| **needed);
    let all: Vec<(usize, &OutputTensor)> = sets.flat_map(|(number, (set, _))| set.iter().map(move |tensor| (number, tensor))).collect();
    let chunk = |tensor: &OutputTensor| {
        let row = tensor.row_elements().max(1);
        (CHUNK_ELEMENTS / row).max(1).saturating_mul(row)
    };
    let counts = all.iter().map(|(_, tensor)| Ok(tensor.elements()?.div_ceil(chunk(tensor)))).collect::<Result<Vec<_>>>()?;
    let process = |values: &mut Vec<f32>, at: chunks::Chunk| {
        let mut whole = Whole::default();
        let Some((_, tensor)) = all.get(at.item) else { return Ok(whole) };
        let start = at.number * chunk(tensor);
        values.resize(num::to_usize(chunk(tensor).min(tensor.elements()? - start), "a chunk of a tensor")?, 0.0);
        let mut read = || {
            TensorData::new(reader, tensor)?.values(start, values)?;
            whole.add(values)
        };
        read().map_err(|error| error.in_tensor(&tensor.name))?;
        Ok(whole)
    };
    let found: Vec<Whole> = chunks::in_order(&counts, process, |all: &mut Whole, _, one| {
        all.merge(&one);
        Ok(())
    })?;
    for ((set, _), one) in all.iter().zip(&found) {
        if let Some(whole) = wholes.get_mut(*set) {
            whole.merge(one);
        }
    }
    Ok(wholes)
}
