//! Hashes of a model's content, however it is stored: the same for other shards, another order, another container.

use super::{Algorithm, HashReport, Hasher, TensorHash};
use crate::base::threads::{par, prelude::*};
use crate::base::{Error, Result};
use crate::family::tables::Tables;
use crate::format::Reader;
use crate::model::{DType, ElemType};
use crate::ops::Progress;
use crate::ops::tensor_data::TensorData;
use crate::view;
use crate::view::output_model::OutputTensor;

/// Number of elements hashed at a time: a multiple of every block.
const CHUNK: u64 = 1 << 16;

/// Hashes the canonical form of a model: the tensors of the GGUF that it is or would be converted to, sorted by name. Each is
/// hashed as its name, type and dimensions (each as its length in bytes, 64-bit little-endian, and its bytes; dimensions as decimals
/// joined by `x`, outermost first, without ones at the front), then its values as GGUF stores them. The hash of the model is that of
/// the tensors' hashes, in hexadecimal digits, one after the other. Tensors that GGUF cannot hold do not count. A model of unknown
/// architecture is hashed under its own names.
///
/// Tensors are hashed on all threads; with `tensors`, the report includes their hashes.
///
/// # Errors
/// The values of a tensor cannot be read; or the algorithm is [`Algorithm::Uuid`], which applies to stored bytes only.
pub fn hash_content(reader: &Reader, tables: &Tables, algorithms: &[Algorithm], tensors: bool) -> Result<Vec<HashReport>> {
    hash_content_with(reader, tables, algorithms, tensors, &|_, _| ())
}

pub(super) fn hash_content_with(
    reader: &Reader,
    tables: &Tables,
    algorithms: &[Algorithm],
    tensors: bool,
    progress: Progress<'_>,
) -> Result<Vec<HashReport>> {
    if algorithms.contains(&Algorithm::Uuid) {
        let error = Error::argument("uuid is not an algorithm for content hashes");
        return Err(error.hint("llama.cpp's identifier is computed from the stored bytes; use sha256, blake3, sha1 or xxh64"));
    }
    // Tied tensors are one, as in safetensors.
    let reader = &reader.clone().untied();
    let mut canonical = view::canonical(reader.model(), tables)?;
    canonical.sort_by(|a, b| a.name.cmp(&b.name));
    let inputs = canonical.iter().filter_map(|tensor| Some(TensorData::new(reader, tensor).ok()?.inputs()));
    reader.announce(inputs.flatten());
    let bytes_of = |tensor: &OutputTensor| tensor.elem.known()?.bytes_for_shape(&tensor.shape).ok();
    let total = canonical.iter().filter_map(bytes_of).fold(0, u64::saturating_add).saturating_mul(algorithms.len() as u64);
    let step = |bytes| progress(bytes, total);
    let one = |&algorithm: &Algorithm| {
        // One tensor at a time: few are large.
        let hashes = par(&canonical)
            .with_max_len(1)
            .map(|tensor| hash_tensor(reader, algorithm, tensor, &step).map_err(|error| error.in_tensor(&tensor.name)))
            .collect::<Result<Vec<_>>>()?;
        let mut whole = Hasher::new(algorithm);
        hashes.iter().for_each(|hash| whole.update(hash.as_bytes()));
        let named = canonical.iter().zip(hashes).map(|(tensor, hash)| TensorHash { name: tensor.name.clone(), hash, verdict: None });
        Ok(HashReport {
            schema: "weigh.hash.v1",
            algorithm,
            content: true,
            tensors: if tensors { named.collect() } else { Vec::new() },
            model: whole.finish(),
            model_verdict: None,
            outcome: None,
        })
    };
    let reports = algorithms.iter().map(one).collect::<Result<_>>()?;
    reader.check_unchanged()?;
    Ok(reports)
}

/// Hashes one tensor. Calls `step` with the number of bytes of each chunk.
fn hash_tensor(reader: &Reader, algorithm: Algorithm, tensor: &OutputTensor, step: &(dyn Fn(u64) + Sync)) -> Result<String> {
    let mut hasher = Hasher::new(algorithm);
    let dims: Vec<String> = tensor.shape.iter().skip_while(|&&dim| dim == 1).map(u64::to_string).collect();
    for text in [tensor.name.as_str(), &tensor.elem.to_string(), &dims.join("x")] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    let data = TensorData::new(reader, tensor)?;
    if let ElemType::Unknown { .. } = data.elem() {
        hasher.update(&data.stored_bytes()?);
        return Ok(hasher.finish());
    }
    let elements = tensor.elements()?;
    let (mut values, mut bytes) = (Vec::new(), Vec::new());
    let mut start = 0;
    while start < elements {
        let len = CHUNK.min(elements - start);
        if data.elem() == tensor.elem {
            let stored = data.bytes(start, len)?;
            hasher.update(&stored);
            step(stored.len() as u64);
        } else if tensor.elem == ElemType::Known(DType::F32) {
            // Some tensors that GGUF requires in single precision may be stored in half precision.
            values.resize(len as usize, 0.0f32);
            data.values(start, &mut values)?;
            bytes.clear();
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            hasher.update(&bytes);
            step(bytes.len() as u64);
        } else {
            return Err(Error::unsupported(format!("expected {} or F32, found {}", data.elem(), tensor.elem)));
        }
        start += len;
    }
    Ok(hasher.finish())
}
