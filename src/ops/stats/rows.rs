//! Statistics of one tensor per row: a row is an output channel of a linear layer.

use serde::Serialize;

use super::moments::{self, BLOCK, Moments};
use super::scan::{CHUNK, byte_range};
use super::{Options, measured_as, selected};
use crate::base::{Error, Hint, Result};
use crate::codec;
use crate::format::Reader;
use crate::model::{PackingSummary, TensorInfo};
use crate::ops::chunks::{self, Chunk};
use crate::ops::select::Selection;
use crate::ops::weights;

/// The report of [`rows`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RowsReport {
    /// `weigh.stats.v1`.
    pub schema: &'static str,
    /// The tensor's name.
    pub name: String,
    /// Its dimensions, outermost first.
    pub shape: Vec<u64>,
    /// The packing of the weights, if they are packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<PackingSummary>,
    /// Statistics per row.
    pub rows: Vec<RowStats>,
}

/// Statistics of one row. Terms as in [`super::Summary`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct RowStats {
    /// Row index, counted through all dimensions but the innermost.
    pub row: u64,
    pub min: f64,
    pub max: f64,
    pub mean: f64,
    pub std: f64,
    pub abs_max: f64,
    pub l2: f64,
    pub zeros: u64,
    pub nan: u64,
    pub inf: u64,
}

/// Measures the rows of the one selected tensor.
///
/// # Errors
/// None or several are selected; its type cannot be decoded, its rows do not start at whole bytes, or values cannot be read.
pub fn rows(reader: &Reader, options: &Options<'_>) -> Result<RowsReport> {
    let reader = measured_as(reader, options)?;
    let tensors = selected(&reader, options)?;
    let limit = options.selection.map_or(usize::MAX, Selection::limit);
    match tensors[..tensors.len().min(limit)] {
        [tensor] => of_tensor(&reader, tensor),
        _ => Err(Error::argument(format!("rows are measured for one tensor at a time, found {}", tensors.len())).hint(Hint::SelectTensor)),
    }
}

fn of_tensor(reader: &Reader, tensor: &TensorInfo) -> Result<RowsReport> {
    let unread = || Error::unsupported(format!("this build cannot decode {}", tensor.elem)).in_tensor(&tensor.name);
    let dtype = tensor.elem.known().ok_or_else(unread)?;
    let codec = codec::codec(dtype).ok_or_else(unread)?;
    let width = tensor.row_elements();
    if !width.is_multiple_of(dtype.info().block_elems) {
        return Err(Error::unsupported(format!("rows of {width} {dtype} elements do not start at whole bytes")).in_tensor(&tensor.name));
    }
    let count = tensor.elements()?.checked_div(width).unwrap_or(0);
    // A row may be long: it is read in parts that are whole blocks of every type.
    let row = |row: u64| -> Result<RowStats> {
        let mut all = Moments::default();
        let mut values = [0.0; BLOCK];
        let part = (BLOCK / codec::values_per_element(dtype)) as u64;
        for first in (0..width).step_by(part as usize) {
            let last = width.min(first + part);
            let bytes = reader.bytes_at(tensor, byte_range(dtype, row * width + first, row * width + last))?;
            let values = &mut values[..(last - first) as usize * codec::values_per_element(dtype)];
            codec.decode_f64(&bytes, values);
            all.merge(&moments::of_block(values, 0.0, &mut ()));
        }
        let (n, some) = (all.finite as f64, all.finite > 0);
        let or_nan = |value: f64| if some { value } else { f64::NAN };
        Ok(RowStats {
            row,
            min: or_nan(all.min),
            max: or_nan(all.max),
            mean: all.mean(),
            std: (all.m2 / n).sqrt(),
            abs_max: all.abs_max(),
            l2: or_nan(all.square_sum.sqrt()),
            zeros: all.zeros,
            nan: all.nan,
            inf: all.inf,
        })
    };
    let per_chunk = (CHUNK / width.max(1)).max(1);
    let of_chunk = |(): &mut (), chunk: Chunk| -> Result<Vec<RowStats>> {
        let first = chunk.number * per_chunk;
        (first..count.min(first + per_chunk)).map(row).collect()
    };
    reader.announce([tensor]);
    let rows = chunks::in_order(&[count.div_ceil(per_chunk)], of_chunk, |all: &mut Vec<_>, _, rows| {
        all.extend(rows);
        Ok(())
    })?;
    Ok(RowsReport {
        schema: "weigh.stats.v1",
        name: tensor.name.clone(),
        shape: tensor.shape.clone(),
        packing: weights::packing(reader),
        rows: rows.into_iter().flatten().collect(),
    })
}
