//! Importance matrices: how much each column of a weight matters, measured by running the model. Reads both llama.cpp formats.

use std::collections::HashMap;
use std::path::Path;

use crate::base::{Error, Result};
use crate::format::{self, Reader, imatrix as legacy};
use crate::model::{DType, ElemType, FormatId, TensorInfo, Value};

/// Suffixes of the two tensors of an entry in the GGUF format.
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// An open importance matrix. Sums are read from the file on demand.
#[derive(Debug)]
pub struct Imatrix {
    reader: Reader,
    entries: HashMap<String, Entry>,
    /// Number of entries before any were renamed or removed with their layer.
    len: usize,
}

#[derive(Debug)]
struct Entry {
    /// The index of the tensor of sums.
    sums: usize,
    divisors: Divisors,
}

/// The divisors of the sums.
#[derive(Debug)]
enum Divisors {
    /// A tensor of counts, one per matrix of a stack. A matrix that was never used gets equal importance everywhere.
    Counts(usize),
    /// A single number of calls. `None` leaves the sums unchanged.
    Calls(u32),
}

impl Imatrix {
    /// Opens a file in either format.
    ///
    /// # Errors
    /// It is not an importance matrix, an entry lacks sums or counts, or a value is negative or not finite.
    pub fn open(path: &Path) -> Result<Self> {
        let reader = format::open(path)?;
        let entries = if reader.model().format == FormatId::Imatrix { legacy_entries(&reader) } else { gguf_entries(&reader) };
        let entries = entries.map_err(|error| error.in_file(path))?;
        let imatrix = Self { len: entries.len(), entries, reader };
        imatrix.check().map_err(|error| error.in_file(path))?;
        Ok(imatrix)
    }

    /// Returns the open file.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Removes the entries of tensors that `keep` is false for.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.entries.retain(|tensor, _| keep(tensor));
        self.len = self.entries.len();
    }

    /// Gives the entries the names of their tensors in the output; those without one are not used.
    pub fn rename(&mut self, new_name: impl Fn(&str) -> Option<String>) {
        self.entries = std::mem::take(&mut self.entries).into_iter().filter_map(|(old, entry)| Some((new_name(&old)?, entry))).collect();
    }

    /// Returns the number of text chunks that it was measured on, if recorded.
    pub fn chunks(&self) -> Option<u64> {
        self.reader.model().metadata.get_u64(legacy::CHUNK_COUNT)
    }

    /// Returns the first dataset that it was measured on, if recorded.
    pub fn dataset(&self) -> Option<String> {
        match self.reader.model().metadata.get(legacy::DATASETS)?.as_array()?.iter().next()?.ok()? {
            Value::String(name) => Some(name),
            _ => None,
        }
    }

    /// Returns the number of importance weights of a tensor; `None` without an entry.
    pub fn weights_of(&self, tensor: &str) -> Option<u64> {
        let entry = self.entries.get(tensor)?;
        self.tensor(entry.sums).ok()?.elements().ok()
    }

    /// Returns the importance weights of a tensor: one per column, for each matrix of a stack. `None` without an entry.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn weights(&self, tensor: &str) -> Result<Option<Vec<f32>>> {
        let Some(entry) = self.entries.get(tensor) else { return Ok(None) };
        let mut weights = self.numbers(entry.sums)?;
        match entry.divisors {
            Divisors::Calls(0) => {}
            Divisors::Calls(calls) => weights.iter_mut().for_each(|sum| *sum /= calls as f32),
            Divisors::Counts(index) => {
                let counts = self.numbers(index)?;
                let columns = weights.len().checked_div(counts.len()).unwrap_or(0).max(1);
                for (sums, count) in weights.chunks_mut(columns).zip(counts) {
                    let count = count.round();
                    if count > 0.0 {
                        sums.iter_mut().for_each(|sum| *sum /= count);
                    } else {
                        sums.fill(1.0);
                    }
                }
            }
        }
        Ok(Some(weights))
    }

    fn tensor(&self, index: usize) -> Result<&TensorInfo> {
        self.reader.model().tensors.get(index).ok_or_else(|| Error::argument("no such tensor in the importance matrix"))
    }

    fn numbers(&self, index: usize) -> Result<Vec<f32>> {
        Ok(floats(&self.reader.bytes(self.tensor(index)?)?))
    }

    fn check(&self) -> Result<()> {
        for (name, entry) in &self.entries {
            let sums = self.tensor(entry.sums)?.elements()?;
            if let Divisors::Counts(index) = entry.divisors {
                let counts = self.tensor(index)?.elements()?;
                if counts == 0 || !sums.is_multiple_of(counts) {
                    let message = format!("expected the number of sums to be a multiple of the number of counts, {counts}, found {sums}");
                    return Err(Error::malformed(message).in_tensor(name));
                }
            }
            if let Some(value) = self.weights(name)?.unwrap_or_default().iter().find(|value| !(value.is_finite() && **value >= 0.0)) {
                return Err(Error::malformed(format!("expected finite, non-negative importance weights, found {value}")).in_tensor(name));
            }
        }
        Ok(())
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (numbers, _) = bytes.as_chunks::<4>();
    numbers.iter().map(|number| f32::from_le_bytes(*number)).collect()
}

fn legacy_entries(reader: &Reader) -> Result<HashMap<String, Entry>> {
    let model = reader.model();
    let calls = match model.metadata.get(legacy::CALLS).and_then(Value::as_array) {
        Some(array) => array.values()?,
        None => Vec::new(),
    };
    let calls = calls.iter().map(|calls| calls.as_u64().and_then(|calls| u32::try_from(calls).ok()).unwrap_or(0));
    let entry =
        |(sums, (tensor, calls)): (usize, (&TensorInfo, u32))| (tensor.name.clone(), Entry { sums, divisors: Divisors::Calls(calls) });
    Ok(model.tensors.iter().zip(calls).enumerate().map(entry).collect())
}

fn gguf_entries(reader: &Reader) -> Result<HashMap<String, Entry>> {
    let model = reader.model();
    let is_one = |tensor: &TensorInfo| tensor.name.ends_with(SUMS) || tensor.name.ends_with(COUNTS);
    if model.metadata.get_str("general.type") != Some("imatrix") && !model.tensors.iter().any(is_one) {
        return Err(Error::malformed("expected an importance matrix (general.type imatrix), found a model"));
    }
    let index: HashMap<&str, usize> = model.tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.as_str(), i)).collect();
    let mut entries = HashMap::new();
    for (i, tensor) in model.tensors.iter().enumerate().filter(|(_, tensor)| is_one(tensor)) {
        if tensor.elem != ElemType::Known(DType::F32) {
            return Err(Error::malformed(format!("expected F32, found {}", tensor.elem)).in_tensor(&tensor.name));
        }
        let (name, other) = match tensor.name.strip_suffix(SUMS) {
            Some(name) => (name, COUNTS),
            None => (tensor.name.strip_suffix(COUNTS).unwrap_or_default(), SUMS),
        };
        let pair = index.get(format!("{name}{other}").as_str());
        let pair = *pair.ok_or_else(|| Error::malformed(format!("its companion {name}{other} is missing")).in_tensor(&tensor.name))?;
        if other == COUNTS {
            entries.insert(name.to_owned(), Entry { sums: i, divisors: Divisors::Counts(pair) });
        }
    }
    Ok(entries)
}
