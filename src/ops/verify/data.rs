//! The values of all tensors, on all threads, a piece at a time.

use std::collections::HashSet;

use rayon::prelude::*;

use crate::arch::check::Tied;
use crate::arch::packed::{Packing, Role};
use crate::arch::{Step, components};
use crate::base::finding::{Findings, Severity};
use crate::base::{Error, Result};
use crate::codec::{Fault, Faults, faults, is_zero};
use crate::format::{Reader, codes};
use crate::model::{DType, TensorInfo};
use crate::ops::convert::body::Body;
use crate::ops::verify::Progress;
use crate::ops::weights;

/// How many bytes a thread looks at at a time.
const PIECE_BYTES: u64 = 4 << 20;

/// How many elements of tied tensors are compared at a time: a multiple of every block.
const TIED_ELEMENTS: u64 = 1 << 18;

/// What a fault is called, and what its bearers are: values, or parts of blocks.
const CODES: [(Fault, &str, &str); 4] = [
    (Fault::Nan, codes::DATA_NAN, "values that are NaN"),
    (Fault::Infinite, codes::DATA_INFINITE, "infinite values"),
    (Fault::Scale, codes::DATA_SCALE, "scales of blocks that are NaN or infinite"),
    (Fault::Range, codes::DATA_RANGE, "codes that the type does not have"),
];

/// A part of a tensor, in bytes from its start.
struct Piece<'m> {
    tensor: &'m TensorInfo,
    dtype: DType,
    start: u64,
    end: u64,
}

/// Looks at every value of a type that is known.
pub(super) fn check(reader: &Reader, progress: Option<Progress<'_>>, findings: &mut Findings) -> Result<()> {
    let pieces: Vec<Piece<'_>> = reader.model().tensors.iter().flat_map(pieces).collect();
    let packing = Packing::of(reader);
    // Zero is a number like any other where numbers are packed: what they stand for is looked at apart.
    let tensors = reader.model().tensors.iter().enumerate();
    let packed: HashSet<&str> = tensors.filter(|(i, _)| packing.role(*i) != Role::Plain).map(|(_, tensor)| tensor.name.as_str()).collect();
    let total = pieces.iter().map(|piece| piece.end - piece.start).sum();
    let look = |piece: &Piece<'_>| {
        let bytes = reader.bytes_at(piece.tensor, piece.start..piece.end)?;
        let found = (faults(piece.dtype, &bytes), is_zero(&bytes));
        if let Some(progress) = progress {
            progress(piece.end - piece.start, total);
        }
        Ok(found)
    };
    let looked: Vec<(Faults, bool)> = pieces.par_iter().map(look).collect::<Result<_>>()?;
    let mut looked = pieces.iter().zip(looked).peekable();
    while let Some((piece, (mut faults, mut zero))) = looked.next() {
        while let Some((next, (more, also))) = looked.next_if(|(next, _)| std::ptr::eq(next.tensor, piece.tensor)) {
            faults.join(next.start, &more);
            zero &= also;
        }
        zero &= !packed.contains(piece.tensor.name.as_str());
        tell(reader, piece.tensor, &faults, zero, findings);
    }
    Ok(())
}

/// Looks at the weights that packed numbers stand for, and says which of them cannot be read.
pub(super) fn check_packed(reader: &Reader, findings: &mut Findings) -> Result<()> {
    if let Some(warning) = weights::packing(reader).and_then(|packing| packing.warning()) {
        let error = Error::unsupported(format!("{warning}: their values were not checked")).in_file(&reader.model().path);
        let _ = findings.error(codes::DATA_PACKED, error);
    }
    let computed = reader.model().tensors.iter().filter(|tensor| reader.is_computed(tensor));
    let pieces: Vec<Piece<'_>> = computed.flat_map(pieces).collect();
    let look = |piece: &Piece<'_>| -> Result<[bool; 2]> {
        let bytes = reader.bytes_at(piece.tensor, piece.start..piece.end)?;
        let values = bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value));
        let (mut zero, mut finite) = (true, true);
        for value in values {
            zero &= value == 0.0;
            finite &= value.is_finite();
        }
        Ok([zero, finite])
    };
    let looked: Vec<[bool; 2]> = pieces.par_iter().map(look).collect::<Result<_>>()?;
    let mut looked = pieces.iter().zip(looked).peekable();
    while let Some((piece, [mut zero, mut finite])) = looked.next() {
        while let Some((_, more)) = looked.next_if(|(next, _)| std::ptr::eq(next.tensor, piece.tensor)) {
            (zero, finite) = (zero && more[0], finite && more[1]);
        }
        let place = |error: Error| error.in_tensor(&piece.tensor.name).in_file(&reader.model().path);
        if !finite {
            let message = "expected finite weights of its packed numbers and scales, found others";
            let _ = findings.error(codes::DATA_INFINITE, place(Error::malformed(message)));
        }
        if zero && piece.tensor.shape.len() > 1 {
            let error = Error::malformed("expected values, found packed numbers that stand for zeros only");
            findings.remark(Severity::Warning, codes::DATA_ZERO, place(error));
        }
    }
    Ok(())
}

fn pieces(tensor: &TensorInfo) -> Vec<Piece<'_>> {
    let (Some(dtype), Some(len)) = (tensor.elem.known(), tensor.len_bytes) else { return Vec::new() };
    let block = dtype.info().block_bytes;
    let step = (PIECE_BYTES / block * block).max(block);
    let starts = (0..len).step_by(usize::try_from(step).unwrap_or(usize::MAX));
    starts.map(|start| Piece { tensor, dtype, start, end: len.min(start + step) }).collect()
}

fn tell(reader: &Reader, tensor: &TensorInfo, faults: &Faults, zero: bool, findings: &mut Findings) {
    let place = |error: Error, at: u64| {
        let error = error.in_tensor(&tensor.name).at(tensor.offset_bytes.saturating_add(at));
        match reader.model().shards.get(tensor.shard) {
            Some(shard) => error.in_file(&shard.path),
            None => error,
        }
    };
    // A mask is made of infinities.
    let computed = components::place(&tensor.name).computed;
    for (fault, code, what) in CODES {
        if let Some((count, first)) = faults.of(fault).filter(|_| !(computed && fault == Fault::Infinite)) {
            let error = Error::malformed(format!("expected no {what}, found {count}, the first at this byte"));
            // Collected, it does not end the walk.
            let _ = findings.error(code, place(error, first));
        }
    }
    if zero && tensor.shape.len() > 1 && !computed && tensor.elements().is_ok_and(|elements| elements > 1) {
        let error = Error::malformed("expected values, found zeros only");
        findings.remark(Severity::Warning, codes::DATA_ZERO, place(error, 0));
    }
}

/// Compares an output matrix with the embeddings that the config says it is.
pub(super) fn check_tied(reader: &Reader, tied: Tied, findings: &mut Findings) -> Result<()> {
    let model = reader.model();
    let (embedding, output) = (Step::keep(model, tied.embedding)?, Step::keep(model, tied.output)?);
    if embedding.shape != output.shape {
        return Ok(()); // which was said
    }
    let (a, b) = (Body::new(reader, &embedding)?, Body::new(reader, &output)?);
    let elements = embedding.elements()?;
    let starts: Vec<u64> = (0..elements).step_by(TIED_ELEMENTS as usize).collect();
    let differs = |start: &u64| -> Result<bool> {
        let len = TIED_ELEMENTS.min(elements - start);
        if a.elem() == b.elem() {
            return Ok(a.bytes(*start, len)? != b.bytes(*start, len)?);
        }
        let (mut left, mut right) = (vec![0.0f32; len as usize], vec![0.0f32; len as usize]);
        a.values(*start, &mut left)?;
        b.values(*start, &mut right)?;
        Ok(left != right)
    };
    if starts.par_iter().map(differs).collect::<Result<Vec<_>>>()?.contains(&true) {
        let message = format!(
            "expected the values of {}, as tie_word_embeddings in config.json has it, found others: whoever loads the model takes those",
            embedding.name
        );
        findings.remark(Severity::Warning, codes::ARCH_TIED, Error::malformed(message).in_tensor(&output.name).in_file(&model.path));
    }
    Ok(())
}
