//! The values of all tensors, on all threads, a piece at a time.

use rayon::prelude::*;

use crate::arch::check::Tied;
use crate::arch::{Step, components};
use crate::base::finding::{Findings, Severity};
use crate::base::threads::par;
use crate::base::{Error, Result};
use crate::codec::{Fault, Faults, faults, is_zero};
use crate::format::{Reader, codes};
use crate::model::{DType, TensorInfo};
use crate::ops::convert::body::Body;
use crate::ops::verify::Progress;

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
    let total = pieces.iter().map(|piece| piece.end - piece.start).sum();
    let look = |piece: &Piece<'_>| {
        let bytes = reader.bytes_at(piece.tensor, piece.start..piece.end)?;
        let found = (faults(piece.dtype, &bytes), is_zero(&bytes));
        if let Some(progress) = progress {
            progress(piece.end - piece.start, total);
        }
        Ok(found)
    };
    let looked: Vec<(Faults, bool)> = par(&pieces).map(look).collect::<Result<_>>()?;
    let mut looked = pieces.iter().zip(looked).peekable();
    while let Some((piece, (mut faults, mut zero))) = looked.next() {
        while let Some((next, (more, also))) = looked.next_if(|(next, _)| std::ptr::eq(next.tensor, piece.tensor)) {
            faults.join(next.start, &more);
            zero &= also;
        }
        tell(reader, piece.tensor, &faults, zero, findings);
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
    if par(&starts).map(differs).collect::<Result<Vec<_>>>()?.contains(&true) {
        let message = format!(
            "expected the values of {}, as tie_word_embeddings in config.json has it, found others: whoever loads the model takes those",
            embedding.name
        );
        findings.remark(Severity::Warning, codes::ARCH_TIED, Error::malformed(message).in_tensor(&output.name).in_file(&model.path));
    }
    Ok(())
}
