//! The weights that a model's tensors represent: the one place that makes packed weights count, measure, compare and convert as the
//! weights they represent.

use std::borrow::Cow;
use std::sync::Arc;

use crate::base::{Error, Hint, Result};
use crate::format::Reader;
use crate::model::packed::by_type;
use crate::model::{FormatId, PackingSummary};
use crate::quant::packed;
use crate::quant::packed::Packing;

/// Returns the model with packed weights decoded, under their unquantised names, and without their scales.
/// Weights packed in a way that this build cannot decode stay as stored; [`packing`] of the result reports them.
///
/// # Errors
/// A shape's element count overflows.
pub fn weights(reader: Reader) -> Result<Reader> {
    packed::unpacked(reader)
}

/// Like [`weights`], but borrows the model: returns it unchanged if nothing is packed, or everything is decoded already.
///
/// # Errors
/// As for [`weights`].
pub(in crate::ops) fn of(reader: &Reader) -> Result<Cow<'_, Reader>> {
    if reader.packing() == Some(None) {
        return Ok(Cow::Borrowed(reader));
    }
    let packing = Packing::detect(reader);
    if packing.is_empty() {
        return Ok(Cow::Borrowed(reader));
    }
    packing.unpack(&Arc::new(reader.clone())).map(|unpacked| Cow::Owned(Arc::unwrap_or_clone(unpacked)))
}

/// Like [`weights`], but keeps packed weights that GGUF blocks can represent losslessly.
///
/// # Errors
/// As for [`weights`].
pub(in crate::ops) fn repacked(reader: Reader) -> Result<Reader> {
    if reader.model().format == FormatId::Gguf {
        return Ok(reader); // its blocks stay as they are, and their scales go with them
    }
    packed::repacked(reader)
}

/// Returns the packing of a model's weights, and how much of it is supported; `None` if nothing is packed.
pub fn packing(reader: &Reader) -> Option<PackingSummary> {
    match reader.packing() {
        Some(known) => known.cloned(),
        None => Packing::detect(reader).summary(reader.model()),
    }
}

/// Rejects packed weights that cannot be decoded.
///
/// # Errors
/// Some weights cannot be decoded.
pub(in crate::ops) fn check_readable(reader: &Reader) -> Result<()> {
    match packing(reader).and_then(|packing| packing.warning()) {
        None => Ok(()),
        Some(warning) => Err(Error::unsupported(warning).in_file(&reader.model().path).hint(Hint::KeepStored)),
    }
}

/// Returns the combined packing of two models.
pub(in crate::ops) fn packing_of_both(packings: &[Option<PackingSummary>; 2]) -> Option<PackingSummary> {
    match packings.clone().into() {
        (Some(a), Some(b)) => Some(PackingSummary {
            method: if a.method == b.method { a.method } else { format!("{}, {}", a.method, b.method) },
            resolved: a.resolved + b.resolved,
            unresolved: a.unresolved + b.unresolved,
            first: a.first.or(b.first),
            uncounted: a.uncounted || b.uncounted,
            types: by_type(a.types.into_iter().chain(b.types)),
        }),
        (a, b) => a.or(b),
    }
}
