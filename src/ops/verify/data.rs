//! The values of all tensors, on all threads, a piece at a time.

use std::collections::HashSet;
use std::ops::Range;

use crate::base::finding::{Findings, Severity};
use crate::base::threads::{par, prelude::*};
use crate::base::{Error, Result, units};
use crate::codec::{InvalidValue, InvalidValues, scan_invalid};
use crate::family::components;
use crate::format::{Reader, codes};
use crate::model::{Class, DType, TensorInfo};
use crate::ops::body::Body;
use crate::ops::chunks::{self, Chunk};
use crate::ops::verify::{Checked, zeros};
use crate::ops::{Progress, weights};
use crate::quant::packed::{Packing, Role};
use crate::view::check::Tied;
use crate::view::output_model::OutputTensor;

/// How many bytes a thread looks at at a time.
const PIECE_BYTES: u64 = 4 << 20;

/// How many elements of tied tensors are compared at a time: a multiple of every block.
const TIED_ELEMENTS: u64 = 1 << 18;

/// What a fault is called, and what its bearers are: values, or parts of blocks.
const CODES: [(InvalidValue, &str, &str); 4] = [
    (InvalidValue::Nan, codes::DATA_NAN, "values that are NaN"),
    (InvalidValue::Infinite, codes::DATA_INFINITE, "infinite values"),
    (InvalidValue::Scale, codes::DATA_SCALE, "scales of blocks that are NaN or infinite"),
    (InvalidValue::Range, codes::DATA_RANGE, "codes that the type does not have"),
];

/// The shortest run of zero bytes that is told: what downloads come in is no smaller.
const RUN_BYTES: u64 = 64 << 10;

/// The fewest rows of zeros, one after the other, that are told.
const RUN_ROWS: u64 = 64;

/// A part of a tensor, in bytes from its start.
struct Piece<'m> {
    tensor: &'m TensorInfo,
    dtype: DType,
    start: u64,
    end: u64,
}

impl Piece<'_> {
    /// Its bytes in the file.
    fn in_file(&self) -> Range<u64> {
        self.tensor.offset_bytes.saturating_add(self.start)..self.tensor.offset_bytes.saturating_add(self.end)
    }
}

/// Looks at every value of a type that is known.
pub(super) fn check(reader: &Reader, progress: Option<Progress<'_>>, checked: &mut Checked, findings: &mut Findings) -> Result<()> {
    let pieces: Vec<Piece<'_>> = reader.model().tensors.iter().flat_map(pieces).collect();
    let packing = Packing::detect(reader);
    let with_role = |wanted: fn(Role) -> bool| -> HashSet<&str> {
        let tensors = reader.model().tensors.iter().enumerate();
        tensors.filter(|(index, _)| wanted(packing.role(*index))).map(|(_, tensor)| tensor.name.as_str()).collect()
    };
    // Zero points and scales may well be zeros; whether packed weights are, their values say (`check_unpacked`).
    let (bookkeeping, packed) = (with_role(|role| role == Role::Bookkeeping), with_role(|role| matches!(role, Role::Packed(_))));
    let total = pieces.iter().map(|piece| piece.end - piece.start).sum();
    let look = |(): &mut (), chunk: Chunk| {
        let piece = &pieces[chunk.number as usize];
        let bytes = reader.bytes_at(piece.tensor, piece.start..piece.end)?;
        let found = (scan_invalid(piece.dtype, &bytes), zeros::runs(&bytes, piece.in_file().start));
        if let Some(progress) = progress {
            progress(piece.end - piece.start, total);
        }
        Ok(found)
    };
    let looked = chunks::in_order(&[pieces.len() as u64], look, |all: &mut Vec<_>, _, found: (InvalidValues, Vec<Range<u64>>)| {
        all.push(found);
        Ok(())
    })?;
    checked.values = reader.model().tensors.iter().filter(|tensor| tensor.elem.known().is_some()).count() as u64;
    checked.bytes = total;
    let (invalid, zeros): (Vec<InvalidValues>, Vec<_>) = looked.into_iter().flatten().unzip();
    let mut of_pieces = pieces.iter().zip(invalid).peekable();
    while let Some((piece, mut invalid)) = of_pieces.next() {
        while let Some((next, more)) = of_pieces.next_if(|(next, _)| std::ptr::eq(next.tensor, piece.tensor)) {
            invalid.join(next.start, &more);
        }
        tell(reader, piece.tensor, &invalid, findings);
    }
    let runs = joined(&pieces, zeros, &bookkeeping);
    tell_zeros(reader, &runs, &packed, findings);
    Ok(())
}

fn pieces(tensor: &TensorInfo) -> Vec<Piece<'_>> {
    let (Some(dtype), Some(len)) = (tensor.elem.known(), tensor.len_bytes) else { return Vec::new() };
    let block = dtype.info().block_bytes;
    let step = (PIECE_BYTES / block * block).max(block);
    let starts = (0..len).step_by(usize::try_from(step).unwrap_or(usize::MAX));
    starts.map(|start| Piece { tensor, dtype, start, end: len.min(start + step) }).collect()
}

/// Puts the place of a tensor's byte into an error.
fn placed(reader: &Reader, tensor: &TensorInfo, error: Error, offset: u64) -> Error {
    let error = error.in_tensor(&tensor.name).at(offset);
    match reader.model().shards.get(tensor.shard) {
        Some(shard) => error.in_file(&shard.path),
        None => error,
    }
}

fn tell(reader: &Reader, tensor: &TensorInfo, invalid: &InvalidValues, findings: &mut Findings) {
    // A mask is made of infinities.
    let computed = components::classify(&tensor.name).computed;
    for (fault, code, what) in CODES {
        if let Some((count, first)) = invalid.of(fault).filter(|_| !(computed && fault == InvalidValue::Infinite)) {
            let error = Error::malformed(format!("expected no {what}, found {count}, the first at this byte"));
            // Collected, it does not end the walk.
            let _ = findings.error(code, placed(reader, tensor, error, tensor.offset_bytes.saturating_add(first)));
        }
    }
}

/// A run of zero bytes in a file, and the tensors that it lies in. Padding between them belongs to it.
struct Run<'m> {
    bytes: Range<u64>,
    tensors: Vec<&'m TensorInfo>,
}

/// Joins the runs of pieces that follow each other. Computed tables and `bookkeeping` may be of zeros, and end a run.
fn joined<'m>(pieces: &[Piece<'m>], zeros: Vec<Vec<Range<u64>>>, bookkeeping: &HashSet<&str>) -> Vec<Run<'m>> {
    let mut all: Vec<Run<'m>> = Vec::new();
    // Whether the last run reaches the end of the last piece, which is of this file.
    let mut open = None;
    for (piece, runs) in pieces.iter().zip(zeros) {
        let place = piece.in_file();
        if components::classify(&piece.tensor.name).computed || bookkeeping.contains(piece.tensor.name.as_str()) {
            open = None;
            continue;
        }
        let mut reaches = false;
        for run in runs {
            reaches = run.end == place.end;
            match all.last_mut().filter(|_| run.start == place.start && open == Some(piece.tensor.shard)) {
                Some(last) => {
                    last.bytes.end = run.end;
                    if !last.tensors.last().is_some_and(|tensor| std::ptr::eq(*tensor, piece.tensor)) {
                        last.tensors.push(piece.tensor);
                    }
                }
                None => all.push(Run { bytes: run, tensors: vec![piece.tensor] }),
            }
        }
        open = reaches.then_some(piece.tensor.shard);
    }
    all
}

/// Tells of runs that are long; and of tensors, and rows of them, that are zero in shorter ones.
fn tell_zeros(reader: &Reader, runs: &[Run<'_>], packed: &HashSet<&str>, findings: &mut Findings) {
    for run in runs {
        let len = run.bytes.end - run.bytes.start;
        let Some(first) = run.tensors.first() else { continue };
        if len >= RUN_BYTES {
            // A whole tensor is told as one.
            if let [tensor] = run.tensors[..]
                && is_whole(run, tensor)
            {
                if !packed.contains(tensor.name.as_str()) {
                    findings.remark(Severity::Warning, codes::DATA_ZERO, placed(reader, tensor, all_zero(), tensor.offset_bytes));
                }
                continue;
            }
            let inside = match run.tensors.len() {
                1 => rows(run, first).map_or_else(String::new, |(first, last, of)| format!(": rows {first} to {last} of {of}")),
                tensors => format!(", in {tensors} tensors"),
            };
            let message = format!("expected values, found {} zero bytes{inside}", units::grouped(len));
            let names = run.tensors.iter().filter(|_| run.tensors.len() > 1).map(|tensor| tensor.name.clone()).collect();
            findings.remark_tensors(
                Severity::Warning,
                codes::DATA_ZERO_RUN,
                placed(reader, first, Error::truncated(message), run.bytes.start),
                names,
            );
            continue;
        }
        for tensor in &run.tensors {
            if packed.contains(tensor.name.as_str()) {
                continue; // a few rows of packed zeros are nothing strange
            }
            if is_whole(run, tensor) && must_have_values(tensor) {
                findings.remark(Severity::Warning, codes::DATA_ZERO, placed(reader, tensor, all_zero(), tensor.offset_bytes));
            } else if let Some((first, last, of)) = rows(run, tensor).filter(|(first, last, _)| last - first + 1 >= RUN_ROWS) {
                let error = Error::malformed(format!("expected values, found rows of zeros: rows {first} to {last} of {of}"));
                findings.remark(Severity::Warning, codes::DATA_ZERO_RUN, placed(reader, tensor, error, run.bytes.start));
            }
        }
    }
}

fn all_zero() -> Error {
    Error::malformed("expected values, found zeros only")
}

/// Whether a run has all bytes of a tensor.
fn is_whole(run: &Run<'_>, tensor: &TensorInfo) -> bool {
    let len = tensor.len_bytes.unwrap_or(0);
    len > 0 && run.bytes.start <= tensor.offset_bytes && tensor.offset_bytes.saturating_add(len) <= run.bytes.end
}

/// Whether zeros only are no weights: biases often are, and single numbers may be.
fn must_have_values(tensor: &TensorInfo) -> bool {
    let vector_of_weights = !tensor.name.contains("bias") && tensor.elem.known().is_some_and(|dtype| dtype.info().class == Class::Float);
    (tensor.shape.len() > 1 || vector_of_weights) && tensor.elements().is_ok_and(|elements| elements > 1)
}

/// The rows of a matrix that lie in a run: the first, the last, and how many there are.
fn rows(run: &Run<'_>, tensor: &TensorInfo) -> Option<(u64, u64, u64)> {
    let (len, width) = (tensor.len_bytes?, *tensor.shape.last()?);
    let of = tensor.elements().ok()?.checked_div(width)?;
    let row = len.checked_div(of).filter(|row| *row > 0 && tensor.shape.len() > 1)?;
    let first = run.bytes.start.saturating_sub(tensor.offset_bytes).div_ceil(row);
    let end = (run.bytes.end.saturating_sub(tensor.offset_bytes) / row).min(of);
    (first < end).then(|| (first, end - 1, of))
}

/// Looks at the values that packed tensors stand for, and says which of them cannot be read.
pub(super) fn check_unpacked(reader: &Reader, findings: &mut Findings) {
    if let Some(warning) = weights::packing(reader).and_then(|packing| packing.warning()) {
        let error = Error::unsupported(format!("{warning}: their values were not checked")).in_file(&reader.model().path);
        let _ = findings.error(codes::DATA_PACKED, error);
    }
    let computed: Vec<&TensorInfo> = reader.model().tensors.iter().filter(|tensor| reader.is_computed(tensor)).collect();
    let look = |tensor: &&TensorInfo| -> Result<(InvalidValues, bool)> {
        let (mut all, mut zero) = (InvalidValues::default(), true);
        for piece in pieces(tensor) {
            let bytes = reader.bytes_at(tensor, piece.start..piece.end)?;
            all.join(piece.start, &scan_invalid(piece.dtype, &bytes));
            // Computed in single precision: a scale below zero makes -0 of a zero.
            zero &= bytes.as_chunks::<4>().0.iter().all(|value| f32::from_le_bytes(*value) == 0.0);
        }
        Ok((all, zero))
    };
    let looked: Vec<Result<(InvalidValues, bool)>> = par(&computed).map(look).collect();
    for (tensor, looked) in computed.into_iter().zip(looked) {
        let about = |error: Error| error.in_tensor(&tensor.name).in_file(&reader.model().path);
        match looked {
            Ok((invalid, zero)) => {
                for (fault, code, what) in CODES {
                    if let Some((count, _)) = invalid.of(fault) {
                        let _ = findings.error(code, about(Error::malformed(format!("expected no {what}, found {count} once unpacked"))));
                    }
                }
                if zero && must_have_values(tensor) {
                    findings.remark(Severity::Warning, codes::DATA_ZERO, about(all_zero()));
                }
            }
            Err(error) => {
                let _ = findings.error(codes::DATA_PACKED, about(error));
            }
        }
    }
}

/// Compares an output matrix with the embeddings that the config says it is.
pub(super) fn check_tied(reader: &Reader, tied: Tied, findings: &mut Findings) -> Result<()> {
    let model = reader.model();
    let (embedding, output) = (OutputTensor::keep(model, tied.embedding)?, OutputTensor::keep(model, tied.output)?);
    if embedding.shape != output.shape {
        return Ok(()); // which was said
    }
    let (a, b) = (Body::new(reader, &embedding)?, Body::new(reader, &output)?);
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
        let message = format!(
            "expected the values of {}, which the model ties it to, found others: whoever loads the model takes those",
            embedding.name
        );
        findings.remark(Severity::Warning, codes::ARCH_TIED, Error::malformed(message).in_tensor(&output.name).in_file(&model.path));
    }
    Ok(())
}
