//! What the tensors of a model stand for: the one place that decides that packed weights count, measure, compare and convert as the
//! weights that they stand for.

use std::borrow::Cow;

use crate::base::{Error, Hint, Result};
use crate::format::Reader;
use crate::model::{FormatId, PackingSummary};
use crate::quant::packed;
use crate::quant::packed::Packing;

/// Returns the model as its weights: packed ones computed, under the names that they have unquantised, and without their scales.
/// What is packed in a way that this build does not read stays as it is stored; [`packing`] of the result says so.
///
/// # Errors
/// A shape is past all measure.
pub fn weights(reader: Reader) -> Result<Reader> {
    packed::unpacked(reader)
}

/// Returns the model as [`weights`] does, without taking it: itself where nothing in it is packed, or all is computed already.
///
/// # Errors
/// As for [`weights`].
pub(in crate::ops) fn of(reader: &Reader) -> Result<Cow<'_, Reader>> {
    match reader.packing().is_some() || packing(reader).is_none() {
        true => Ok(Cow::Borrowed(reader)),
        false => weights(reader.clone()).map(Cow::Owned),
    }
}

/// Returns the model as [`weights`] does, but keeps what a GGUF can hold in its own blocks without loss.
///
/// # Errors
/// As for [`weights`].
pub(in crate::ops) fn repacked(reader: Reader) -> Result<Reader> {
    if reader.model().format == FormatId::Gguf {
        // Its blocks are what they are, and their scales go with them.
        let summary = packing(&reader);
        return Ok(reader.with_packing(summary));
    }
    packed::repacked(reader)
}

/// Returns how the weights of a model are packed, and how much of that is understood; nothing where none are.
pub fn packing(reader: &Reader) -> Option<PackingSummary> {
    reader.packing().cloned().or_else(|| Packing::detect(reader).summary(reader.model()))
}

/// Refuses packed weights whose values cannot be read.
///
/// # Errors
/// There are some.
pub(in crate::ops) fn check_readable(reader: &Reader) -> Result<()> {
    match packing(reader).and_then(|packing| packing.warning()) {
        None => Ok(()),
        Some(warning) => Err(Error::unsupported(warning).in_file(&reader.model().path).hint(Hint::KeepStored)),
    }
}

/// Returns how two models are packed, taken together.
pub(in crate::ops) fn packing_of_both(a: &Reader, b: &Reader) -> Option<PackingSummary> {
    match (packing(a), packing(b)) {
        (Some(a), Some(b)) => Some(PackingSummary {
            method: if a.method == b.method { a.method } else { format!("{}, {}", a.method, b.method) },
            resolved: a.resolved + b.resolved,
            unresolved: a.unresolved + b.unresolved,
            first: a.first.or(b.first),
            uncounted: a.uncounted || b.uncounted,
        }),
        (a, b) => a.or(b),
    }
}
