//! The mix of types with the least error for a size.
//!
//! The error of a tensor in a type is measured on a sample of its rows: the sum of `w (y - x)²` over that of `w x²`, where `w` is the
//! importance of the column. With an importance matrix, this is the relative error of the tensor's output, as far as its inputs are
//! independent. The loss of a mix is the sum over its tensors, weighted by how sensitive the model is to each.

use serde::Serialize;

use crate::base::{Error, Hint, Result, num, units};
use crate::codec::{Codec, codec};
use crate::format::gguf::spec;
use crate::format::{Format, Reader};
use crate::model::{DType, FormatId, Metadata};
use crate::ops::chunks::{self, Chunk};
use crate::ops::convert::options::{Options, SizeTarget};
use crate::ops::convert::quality::{self, Sums};
use crate::ops::convert::types;
use crate::ops::tensor_data::TensorData;
use crate::quant::imatrix::Imatrix;
use crate::quant::knapsack::{self, Candidate};
use crate::quant::recipe::{self, TensorType};
use crate::view::output_model::OutputTensor;

/// Types among which a mix for a size is chosen by default.
pub const DEFAULT_TYPES: &[DType] = &[DType::Q2_K, DType::Q3_K, DType::IQ4_XS, DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::Q8_0];

/// Number of elements of a tensor, rounded to whole rows, on which the errors are estimated.
const SAMPLE_ELEMENTS: u64 = 1 << 18;

/// Number of elements per unit of work.
const CHUNK_ELEMENTS: u64 = 1 << 15;

/// How the types were chosen for a size.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SizedMix {
    /// Size that the output may have in bytes.
    pub target_bytes: u64,
    /// Expected loss: the sum of the tensors' relative errors, each weighted by its sensitivity.
    pub loss: f64,
    /// Loss that no mix of this size is below, for the same estimates.
    pub bound: f64,
    /// `loss / bound - 1`; `None` if the bound is 0.
    pub gap: Option<f64>,
}

/// A tensor whose type is to be chosen.
#[derive(Debug)]
struct Subject {
    /// Index of the tensor in the output.
    index: usize,
    types: Vec<DType>,
}

/// The input of the choice: the output model with everything but the types.
pub(super) struct Request<'a> {
    pub(super) reader: &'a Reader,
    pub(super) format: &'a Format,
    pub(super) tensors: &'a [OutputTensor],
    pub(super) metadata: &'a Metadata,
    pub(super) imatrix: Option<&'a Imatrix>,
    pub(super) options: &'a Options,
}

impl Request<'_> {
    /// Chooses the types for the size, as rules for the tensors by name; `bytes_of` lays out the output with such rules.
    ///
    /// # Errors
    /// No mix is as small, or the model is smaller even in F16; an error cannot be measured.
    pub(super) fn choose(
        &self,
        target: SizeTarget,
        bytes_of: impl Fn(&[TensorType]) -> Result<u64>,
    ) -> Result<(Vec<TensorType>, SizedMix)> {
        if self.format.id != FormatId::Gguf {
            return Err(Error::argument(format!("a target size requires GGUF output, found {}", self.format.id)));
        }
        let subjects = self.subjects()?;
        let rules = |chosen: &[usize]| -> Vec<TensorType> {
            let named = subjects.iter().zip(chosen).filter_map(|(subject, &which)| {
                Some(TensorType::named(&self.tensors.get(subject.index)?.name, *subject.types.get(which)?))
            });
            named.collect()
        };
        let sizes = self.sizes(&subjects)?;
        let smallest: Vec<usize> = sizes.iter().map(|sizes| (0..sizes.len()).min_by_key(|&which| sizes[which]).unwrap_or(0)).collect();
        let smallest_bytes = bytes_of(&rules(&smallest))?;
        let padded: u64 = sizes.iter().zip(&smallest).map(|(sizes, &which)| sizes[which]).sum();
        let overhead = smallest_bytes.saturating_sub(padded);
        let target_bytes = self.target_bytes(target)?;
        if smallest_bytes > target_bytes {
            let message = format!(
                "the target of {} is below the smallest mix of these types, {} ({} bytes)",
                units::bytes(target_bytes),
                units::bytes(smallest_bytes),
                units::grouped(smallest_bytes)
            );
            return Err(Error::argument(message).hint("add smaller types to those to choose from"));
        }
        let in_f16: Vec<TensorType> =
            subjects.iter().filter_map(|subject| Some(TensorType::named(&self.tensors.get(subject.index)?.name, DType::F16))).collect();
        let f16_bytes = bytes_of(&in_f16)?;
        if target_bytes > f16_bytes {
            let message =
                format!("the target of {} is above the size of the model in F16, {}", units::bytes(target_bytes), units::bytes(f16_bytes));
            return Err(Error::argument(message).hint("convert it to F16 instead"));
        }
        let errors = self.errors(&subjects)?;
        let items: Vec<Vec<Candidate>> = subjects
            .iter()
            .zip(sizes.iter().zip(&errors))
            .map(|(subject, (sizes, errors))| {
                let sensitivity = self.tensors.get(subject.index).map_or(1.0, |tensor| recipe::sensitivity(&tensor.name));
                sizes.iter().zip(errors).map(|(&bytes, &error)| Candidate { bytes, loss: sensitivity * error }).collect()
            })
            .collect();
        // The size of the headers depends on the number of shards, which depends on the types.
        let mut budget = target_bytes.saturating_sub(overhead);
        loop {
            let Some(found) = knapsack::solve(&items, budget) else {
                return Err(Error::argument("no mix of this size was found").hint("give a slightly larger size"));
            };
            let rules = rules(&found.chosen);
            let bytes = bytes_of(&rules)?;
            if bytes <= target_bytes {
                let gap = (found.bound > 0.0).then(|| found.loss / found.bound - 1.0);
                let mix = SizedMix { target_bytes, loss: found.loss, bound: found.bound, gap };
                return Ok((rules, mix));
            }
            budget = budget.saturating_sub((bytes - target_bytes).max(1));
        }
    }

    /// Returns the size of the file that is aimed for.
    fn target_bytes(&self, target: SizeTarget) -> Result<u64> {
        match target {
            SizeTarget::Bytes(bytes) => Ok(bytes),
            SizeTarget::BitsPerWeight(bits) => {
                let elements = self.tensors.iter().try_fold(0, |all, tensor| num::add(all, tensor.elements()?, "the number of weights"))?;
                Ok((bits * elements as f64 / 8.0) as u64)
            }
        }
    }

    /// Returns the tensors whose type is to be chosen, each with its candidates.
    fn subjects(&self) -> Result<Vec<Subject>> {
        let wanted = if self.options.candidate_types.is_empty() { DEFAULT_TYPES } else { &self.options.candidate_types };
        let mut candidates: Vec<Vec<DType>> = vec![Vec::new(); self.tensors.len()];
        let mut without_importance = vec![false; self.tensors.len()];
        for &dtype in wanted {
            types::check_type(self.format, &dtype.to_string(), dtype)?;
            let chosen = types::uniform(self.reader, self.format, self.tensors, self.metadata, self.imatrix, self.options, dtype)?;
            for ((types, lacks), chosen) in candidates.iter_mut().zip(&mut without_importance).zip(chosen) {
                match chosen {
                    Some((dtype, true)) if !types.contains(&dtype) => types.push(dtype),
                    Some((_, false)) => *lacks = true,
                    _ => {}
                }
            }
        }
        let lacking = candidates.iter().zip(&without_importance).position(|(types, lacks)| types.is_empty() && *lacks);
        if let Some(tensor) = lacking.and_then(|index| self.tensors.get(index)) {
            let error = Error::argument("all candidate types need an importance matrix").in_tensor(&tensor.name);
            return Err(error.hint(Hint::GiveImportanceMatrix));
        }
        let found = candidates.into_iter().enumerate().filter(|(_, types)| !types.is_empty());
        let subjects: Vec<Subject> = found.map(|(index, types)| Subject { index, types }).collect();
        if subjects.iter().all(|subject| subject.types.iter().all(|dtype| !dtype.is_quantised())) {
            let names: Vec<&str> = wanted.iter().map(|dtype| dtype.name()).collect();
            let message = format!("no tensor of this model can be quantised to any of {}", names.join(", "));
            return Err(Error::argument(message).in_file(&self.reader.model().path));
        }
        Ok(subjects)
    }

    /// Returns the size of every candidate in the file, with its padding.
    fn sizes(&self, subjects: &[Subject]) -> Result<Vec<Vec<u64>>> {
        let alignment = spec::alignment_to_write(self.metadata)?;
        let sizes = subjects.iter().map(|subject| {
            let Some(tensor) = self.tensors.get(subject.index) else { return Ok(Vec::new()) };
            let size = |dtype: &DType| num::align(dtype.bytes_for_shape(&tensor.shape)?, alignment, "the size of a tensor");
            subject.types.iter().map(size).collect::<Result<Vec<_>>>().map_err(|error| error.in_tensor(&tensor.name))
        });
        sizes.collect()
    }

    /// Measures the relative error of every candidate on a sample of rows, which depends on the shape alone.
    fn errors(&self, subjects: &[Subject]) -> Result<Vec<Vec<f64>>> {
        let samples = subjects
            .iter()
            .filter_map(|subject| self.tensors.get(subject.index).map(|tensor| Sample::new(self, tensor, &subject.types)))
            .collect::<Result<Vec<_>>>()?;
        let counts: Vec<u64> = samples.iter().map(Sample::chunks).collect();
        self.reader.announce(samples.iter().flat_map(|sample| sample.data.inputs()));
        let process = |buffers: &mut Buffers, chunk: Chunk| {
            let sample = &samples[chunk.item];
            sample.measure(chunk.number, buffers).map_err(|error| error.in_tensor(&sample.tensor.name))
        };
        let sums: Vec<Vec<[f64; 2]>> = chunks::in_order(&counts, process, |all: &mut Vec<[f64; 2]>, _, part: Vec<[f64; 2]>| {
            all.resize(part.len(), [0.0; 2]);
            all.iter_mut().zip(part).for_each(|(sum, part)| *sum = [sum[0] + part[0], sum[1] + part[1]]);
            Ok(())
        })?;
        let relative = samples.iter().zip(sums).map(|(sample, mut sums)| {
            sums.resize(sample.codecs.len(), [0.0; 2]); // a tensor without elements
            let unknown =
                || Error::unsupported("its error cannot be measured: it has values that are not finite").in_tensor(&sample.tensor.name);
            sums.into_iter().map(|sums| quality::output_error(sums).ok_or_else(unknown)).collect::<Result<Vec<_>>>()
        });
        relative.collect()
    }
}

/// The sampled rows of a tensor.
struct Sample<'a> {
    tensor: &'a OutputTensor,
    data: TensorData<'a>,
    codecs: Vec<(DType, &'static Codec)>,
    importance: Option<Vec<f32>>,
    row: u64,
    rows: u64,
    /// Number of rows sampled in all, and per chunk.
    sampled: u64,
    per_chunk: u64,
}

#[derive(Default)]
struct Buffers {
    values: Vec<f32>,
    bytes: Vec<u8>,
    decoded: Vec<f32>,
}

impl<'a> Sample<'a> {
    fn new(request: &Request<'a>, tensor: &'a OutputTensor, types: &[DType]) -> Result<Self> {
        let data = TensorData::new(request.reader, tensor)?;
        let uncoded = |dtype: DType| Error::argument(format!("this build cannot encode {dtype}"));
        let codecs = types.iter().map(|&dtype| Ok((dtype, codec(dtype).ok_or_else(|| uncoded(dtype))?))).collect::<Result<Vec<_>>>()?;
        let row = tensor.row_elements().max(1);
        num::to_usize(row, "a row")?;
        let rows = tensor.elements()? / row;
        let matrices: u64 = tensor.shape.iter().rev().skip(2).product();
        // Of a stack, every matrix.
        let sampled = (SAMPLE_ELEMENTS / row).max(matrices).clamp(1, rows.max(1)).min(rows);
        let importance = match request.imatrix {
            Some(imatrix) if imatrix.weights_of(&tensor.name) == Some(types::importance_len(&tensor.shape)) => {
                imatrix.weights(&tensor.name)?
            }
            _ => None,
        };
        Ok(Self { tensor, data, codecs, importance, row, rows, sampled, per_chunk: (CHUNK_ELEMENTS / row).max(1) })
    }

    fn chunks(&self) -> u64 {
        self.sampled.div_ceil(self.per_chunk)
    }

    /// Returns the weighted sums of squares of the errors and of the values, for each candidate.
    fn measure(&self, number: u64, buffers: &mut Buffers) -> Result<Vec<[f64; 2]>> {
        let Buffers { values, bytes, decoded } = buffers;
        let row = self.row as usize;
        values.resize(row, 0.0);
        decoded.resize(row, 0.0);
        let mut sums = vec![[0.0; 2]; self.codecs.len()];
        let first = number * self.per_chunk;
        for sample in first..(first + self.per_chunk).min(self.sampled) {
            // The middles of equal parts.
            let at = (u128::from(2 * sample + 1) * u128::from(self.rows) / u128::from(2 * self.sampled)) as u64;
            self.data.values(at * self.row, values)?;
            let weights = self.importance.as_deref().and_then(|weights| types::importance_of_row(weights, &self.tensor.shape, at));
            for ((dtype, codec), sum) in self.codecs.iter().zip(&mut sums) {
                let Some(encode) = codec.encode else { continue };
                bytes.resize(dtype.bytes_for(self.row)? as usize, 0);
                encode(values, weights.filter(|_| dtype.is_quantised()), bytes);
                (codec.decode)(bytes, decoded);
                let part = match weights {
                    Some(weights) => quality::weighted_squares(values, decoded, weights),
                    None => Sums::of(values, decoded).squares(),
                };
                *sum = [sum[0] + part[0], sum[1] + part[1]];
            }
        }
        Ok(sums)
    }
}
