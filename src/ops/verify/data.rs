//! Checks the values of all tensors, chunk by chunk, on all threads.

use std::collections::HashSet;
use std::ops::Range;

use crate::base::finding::{Findings, Severity};
use crate::base::{Error, Result, units};
use crate::codec::{InvalidValue, InvalidValues, scan_invalid};
use crate::family::components;
use crate::format::{Reader, codes};
use crate::model::{Class, DType, TensorInfo};
use crate::ops::chunks::{self, Chunk};
use crate::ops::tensor_data::TensorData;
use crate::ops::verify::{Checked, zeros};
use crate::ops::weights;
use crate::quant::packed::{Packing, Role};
use crate::view::check::Tied;
use crate::view::output_model::OutputTensor;

/// Number of bytes scanned at a time.
const CHUNK_BYTES: u64 = 4 << 20;

/// Number of elements of tied tensors compared at a time: a multiple of every block size.
const TIED_ELEMENTS: u64 = 1 << 18;

/// Finding code and description of each kind of invalid value.
const CODES: [(InvalidValue, &str, &str); 4] = [
    (InvalidValue::Nan, codes::DATA_NAN, "NaN value"),
    (InvalidValue::Infinite, codes::DATA_INFINITE, "infinite value"),
    (InvalidValue::Scale, codes::DATA_SCALE, "NaN or infinite block scale"),
    (InvalidValue::Range, codes::DATA_RANGE, "invalid code"),
];

/// The shortest run of zero bytes that is reported: no download tool uses smaller chunks.
const MIN_RUN_BYTES: u64 = 64 << 10;

/// The fewest consecutive zero rows that are reported.
const MIN_RUN_ROWS: u64 = 64;

/// A tensor of known type and size, scanned in chunks. Their number may be huge: a strided view can repeat few bytes any number of times.
#[derive(Clone, Copy)]
struct Chunked<'m> {
    tensor: &'m TensorInfo,
    dtype: DType,
    len: u64,
}

impl<'m> Chunked<'m> {
    fn of(tensor: &'m TensorInfo) -> Option<Self> {
        Some(Self { tensor, dtype: tensor.elem.known()?, len: tensor.len_bytes? })
    }

    /// Returns the size of a chunk in bytes: whole blocks.
    fn step(&self) -> u64 {
        let block = self.dtype.info().block_bytes;
        (CHUNK_BYTES / block * block).max(block)
    }

    /// Returns the number of chunks.
    fn chunks(&self) -> u64 {
        self.len.div_ceil(self.step())
    }

    /// Returns the range of a chunk, in bytes from the start of the tensor.
    fn chunk(&self, number: u64) -> Range<u64> {
        let start = number * self.step();
        start..self.len.min(start.saturating_add(self.step()))
    }

    /// Returns its range in the file.
    fn in_file(&self) -> Range<u64> {
        self.tensor.offset_bytes..self.tensor.offset_bytes.saturating_add(self.len)
    }
}

/// Results of scanning the bytes of a tensor.
#[derive(Default)]
struct Found {
    invalid: InvalidValues,
    /// Runs of zero bytes, by their range in the file.
    zeros: Vec<Range<u64>>,
}

/// Scans the values of all tensors of known type.
pub(super) fn check(
    reader: &Reader,
    packing: &Packing,
    step: &(dyn Fn(u64) + Sync),
    checked: &mut Checked,
    findings: &mut Findings,
) -> Result<()> {
    let parts: Vec<Chunked<'_>> = reader.model().tensors.iter().filter_map(Chunked::of).collect();
    let with_role = |wanted: fn(Role) -> bool| -> HashSet<&str> {
        let tensors = reader.model().tensors.iter().enumerate();
        tensors.filter(|(index, _)| wanted(packing.role(*index))).map(|(_, tensor)| tensor.name.as_str()).collect()
    };
    // Zero points and scales may be all zeros; packed weights are checked after unpacking (`check_unpacked`).
    let (bookkeeping, packed) = (with_role(|role| role == Role::Bookkeeping), with_role(|role| matches!(role, Role::Packed(_))));
    let scan = |(): &mut (), chunk: Chunk| {
        let part = &parts[chunk.item];
        let range = part.chunk(chunk.number);
        let bytes = reader.bytes_at(part.tensor, range.clone())?;
        let found = (scan_invalid(part.dtype, &bytes), zeros::runs(&bytes, part.tensor.offset_bytes.saturating_add(range.start)));
        step(range.end - range.start);
        Ok(found)
    };
    let counts: Vec<u64> = parts.iter().map(Chunked::chunks).collect();
    reader.announce(&reader.model().tensors);
    let found = chunks::in_order(&counts, scan, |all: &mut Found, chunk, (invalid, zeros): (InvalidValues, Vec<Range<u64>>)| {
        all.invalid.merge(parts[chunk.item].chunk(chunk.number).start, &invalid);
        for run in zeros {
            match all.zeros.last_mut().filter(|last| last.end == run.start) {
                Some(last) => last.end = run.end,
                None => all.zeros.push(run),
            }
        }
        Ok(())
    })?;
    checked.values = parts.len() as u64;
    checked.bytes = parts.iter().fold(0, |sum, part| sum.saturating_add(part.len));
    let (invalid, zeros): (Vec<InvalidValues>, Vec<_>) = found.into_iter().map(|found| (found.invalid, found.zeros)).unzip();
    for (part, invalid) in parts.iter().zip(invalid) {
        report(reader, part.tensor, &invalid, findings);
    }
    let runs = merge_runs(&parts, zeros, &bookkeeping);
    report_zeros(reader, &runs, &packed, findings);
    Ok(())
}

/// Adds the tensor, file and byte offset to an error.
fn locate(reader: &Reader, tensor: &TensorInfo, error: Error, offset: u64) -> Error {
    let error = error.in_tensor(&tensor.name).at(offset);
    match reader.model().shards.get(tensor.shard) {
        Some(shard) => error.in_file(&shard.path),
        None => error,
    }
}

fn report(reader: &Reader, tensor: &TensorInfo, invalid: &InvalidValues, findings: &mut Findings) {
    // A mask consists of infinities.
    let computed = components::classify(&tensor.name).computed;
    for (kind, code, what) in CODES {
        if let Some((count, first)) = invalid.of(kind).filter(|_| !(computed && kind == InvalidValue::Infinite)) {
            let error = Error::malformed(format!("{}, the first at this byte", units::counted(count, what)));
            // With findings that are collected, this never fails.
            let _ = findings.error(code, locate(reader, tensor, error, tensor.offset_bytes.saturating_add(first)));
        }
    }
}

/// A run of zero bytes in a file, and the tensors that it covers, including the padding between them.
struct Run<'m> {
    bytes: Range<u64>,
    tensors: Vec<&'m TensorInfo>,
}

/// Merges the runs of adjacent tensors. Computed tables and `bookkeeping` tensors may be zero, and end a run.
fn merge_runs<'m>(parts: &[Chunked<'m>], zeros: Vec<Vec<Range<u64>>>, bookkeeping: &HashSet<&str>) -> Vec<Run<'m>> {
    let mut all: Vec<Run<'m>> = Vec::new();
    // The shard of the last tensor, if the last run reaches its end.
    let mut open = None;
    for (part, runs) in parts.iter().zip(zeros) {
        let range = part.in_file();
        if components::classify(&part.tensor.name).computed || bookkeeping.contains(part.tensor.name.as_str()) {
            open = None;
            continue;
        }
        let mut reaches = false;
        for run in runs {
            reaches = run.end == range.end;
            match all.last_mut().filter(|_| run.start == range.start && open == Some(part.tensor.shard)) {
                Some(last) => {
                    last.bytes.end = run.end;
                    if !last.tensors.last().is_some_and(|tensor| std::ptr::eq(*tensor, part.tensor)) {
                        last.tensors.push(part.tensor);
                    }
                }
                None => all.push(Run { bytes: run, tensors: vec![part.tensor] }),
            }
        }
        open = reaches.then_some(part.tensor.shard);
    }
    all
}

/// Reports long runs, and tensors and rows that are zero in shorter ones.
fn report_zeros(reader: &Reader, runs: &[Run<'_>], packed: &HashSet<&str>, findings: &mut Findings) {
    for run in runs {
        let len = run.bytes.end - run.bytes.start;
        let Some(first) = run.tensors.first() else { continue };
        if len >= MIN_RUN_BYTES {
            // A tensor that is zero as a whole is one finding.
            if let [tensor] = run.tensors[..]
                && is_whole(run, tensor)
            {
                if !packed.contains(tensor.name.as_str()) {
                    findings.remark(Severity::Warning, codes::DATA_ZERO, locate(reader, tensor, all_zero(), tensor.offset_bytes));
                }
                continue;
            }
            let inside = match run.tensors.len() {
                1 => rows(run, first).map_or_else(String::new, |(first, last, of)| format!(": rows {first} to {last} of {of}")),
                tensors => format!(", in {tensors} tensors"),
            };
            let message = format!("{} zero bytes{inside}", units::grouped(len));
            let names = run.tensors.iter().filter(|_| run.tensors.len() > 1).map(|tensor| tensor.name.clone()).collect();
            findings.remark_tensors(
                Severity::Warning,
                codes::DATA_ZERO_RUN,
                locate(reader, first, Error::truncated(message), run.bytes.start),
                names,
            );
            continue;
        }
        for tensor in &run.tensors {
            if packed.contains(tensor.name.as_str()) {
                continue; // a few packed zero rows are normal
            }
            if is_whole(run, tensor) && must_have_values(tensor) {
                findings.remark(Severity::Warning, codes::DATA_ZERO, locate(reader, tensor, all_zero(), tensor.offset_bytes));
            } else if let Some((first, last, of)) = rows(run, tensor).filter(|(first, last, _)| last - first + 1 >= MIN_RUN_ROWS) {
                let error = Error::malformed(format!("rows {first} to {last} of {of} are zero"));
                findings.remark(Severity::Warning, codes::DATA_ZERO_RUN, locate(reader, tensor, error, run.bytes.start));
            }
        }
    }
}

fn all_zero() -> Error {
    Error::malformed("all values are zero")
}

/// Whether a run covers all bytes of a tensor.
fn is_whole(run: &Run<'_>, tensor: &TensorInfo) -> bool {
    let len = tensor.len_bytes.unwrap_or(0);
    len > 0 && run.bytes.start <= tensor.offset_bytes && tensor.offset_bytes.saturating_add(len) <= run.bytes.end
}

/// Whether all zeros is suspicious: biases often are, and scalars may be.
fn must_have_values(tensor: &TensorInfo) -> bool {
    let vector_of_weights = !tensor.name.contains("bias") && tensor.elem.known().is_some_and(|dtype| dtype.info().class == Class::Float);
    (tensor.shape.len() > 1 || vector_of_weights) && tensor.elements().is_ok_and(|elements| elements > 1)
}

/// Returns the rows of a matrix that a run covers: the first, the last, and the number of rows of the matrix.
fn rows(run: &Run<'_>, tensor: &TensorInfo) -> Option<(u64, u64, u64)> {
    let (len, width) = (tensor.len_bytes?, *tensor.shape.last()?);
    let of = tensor.elements().ok()?.checked_div(width)?;
    let row = len.checked_div(of).filter(|row| *row > 0 && tensor.shape.len() > 1)?;
    let first = run.bytes.start.saturating_sub(tensor.offset_bytes).div_ceil(row);
    let end = (run.bytes.end.saturating_sub(tensor.offset_bytes) / row).min(of);
    (first < end).then(|| (first, end - 1, of))
}

/// Scans the values of packed tensors, and reports those that cannot be decoded.
pub(super) fn check_unpacked(reader: &Reader, findings: &mut Findings) -> Result<()> {
    if let Some(warning) = weights::packing(reader).and_then(|packing| packing.warning()) {
        let error = Error::unsupported(format!("{warning}: their values were not checked")).in_file(&reader.model().path);
        let _ = findings.error(codes::DATA_PACKED, error);
    }
    let unpacked = reader.model().tensors.iter().filter(|tensor| reader.is_computed(tensor));
    let parts: Vec<Chunked<'_>> = unpacked.filter_map(Chunked::of).collect();
    let scan = |(): &mut (), chunk: Chunk| {
        let part = &parts[chunk.item];
        // Computed in single precision: a negative scale turns 0 into -0.
        let is_zero = |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().all(|value| f32::from_le_bytes(*value) == 0.0);
        let bytes = reader.bytes_at(part.tensor, part.chunk(chunk.number));
        Ok(bytes.map(|bytes| (scan_invalid(part.dtype, &bytes), is_zero(&bytes))))
    };
    let counts: Vec<u64> = parts.iter().map(Chunked::chunks).collect();
    reader.announce(parts.iter().map(|part| part.tensor));
    let scanned = chunks::in_order(&counts, scan, |all: &mut Scanned, chunk, found| {
        match found {
            Ok((invalid, zero)) => {
                all.invalid.merge(parts[chunk.item].chunk(chunk.number).start, &invalid);
                all.nonzero |= !zero;
            }
            Err(error) => {
                all.error.get_or_insert(error);
            }
        }
        Ok(())
    })?;
    for (Chunked { tensor, .. }, Scanned { invalid, nonzero, error }) in parts.into_iter().zip(scanned) {
        let about = |error: Error| error.in_tensor(&tensor.name).in_file(&reader.model().path);
        if let Some(error) = error {
            let _ = findings.error(codes::DATA_PACKED, about(error));
            continue;
        }
        for (kind, code, what) in CODES {
            if let Some((count, _)) = invalid.of(kind) {
                let _ = findings.error(code, about(Error::malformed(format!("{} once unpacked", units::counted(count, what)))));
            }
        }
        if !nonzero && must_have_values(tensor) {
            findings.remark(Severity::Warning, codes::DATA_ZERO, about(all_zero()));
        }
    }
    Ok(())
}

/// The values of an unpacked weight.
#[derive(Default)]
struct Scanned {
    invalid: InvalidValues,
    nonzero: bool,
    /// Why some of them cannot be computed.
    error: Option<Error>,
}

/// Compares an output matrix with the embedding that it should be tied to according to the config.
pub(super) fn check_tied(reader: &Reader, tied: Tied, findings: &mut Findings) -> Result<()> {
    let model = reader.model();
    let (embedding, output) = (OutputTensor::keep(model, tied.embedding)?, OutputTensor::keep(model, tied.output)?);
    if embedding.shape != output.shape {
        return Ok(()); // already reported
    }
    let (a, b) = (TensorData::new(reader, &embedding)?, TensorData::new(reader, &output)?);
    let elements = embedding.elements()?;
    let differs = |(left, right): &mut (Vec<f32>, Vec<f32>), chunk: Chunk| -> Result<bool> {
        let start = chunk.number * TIED_ELEMENTS;
        let len = TIED_ELEMENTS.min(elements - start);
        if a.elem() == b.elem() {
            return Ok(a.bytes(start, len)? != b.bytes(start, len)?);
        }
        left.resize(len as usize, 0.0);
        right.resize(len as usize, 0.0);
        a.values(start, left)?;
        b.values(start, right)?;
        Ok(left != right)
    };
    let found = chunks::in_order(&[elements.div_ceil(TIED_ELEMENTS)], differs, |any: &mut bool, _, differs| {
        *any |= differs;
        Ok(())
    })?;
    if found.contains(&true) {
        let message = format!("differs from {}, to which the model ties it: loaders use that tensor instead", embedding.name);
        findings.remark(Severity::Warning, codes::ARCH_TIED, Error::malformed(message).in_tensor(&output.name).in_file(&model.path));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_counted_not_listed() {
        let tensor = TensorInfo {
            name: "x".into(),
            elem: DType::Q8_0.into(),
            shape: vec![1 << 25, 1 << 25],
            shard: 0,
            offset_bytes: 100,
            len_bytes: Some(34 << 45),
        };
        let part = Chunked::of(&tensor).unwrap();
        // The most whole blocks of 34 bytes in 4 MiB.
        let step = 123_361 * 34;
        assert_eq!((part.step(), part.chunks()), (step, (34u64 << 45).div_ceil(step)));
        assert_eq!((part.chunk(0), part.chunk(2)), (0..step, 2 * step..3 * step));
        assert_eq!(part.chunk(part.chunks() - 1).end, 34 << 45);
        assert_eq!(part.in_file(), 100..100 + (34 << 45));
    }
}
