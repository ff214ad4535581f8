//! `hist`: the histogram of one tensor.

use serde::Serialize;

use crate::base::Result;
use crate::format::Reader;
use crate::model::{PackingSummary, TypeName};
use crate::ops::stats::{Histogram, Percentiles, measure_one};
use crate::ops::{select, weights};

/// The histogram of one tensor.
#[derive(Debug, Serialize)]
pub struct Hist {
    schema: &'static str,
    /// Its name.
    pub name: String,
    /// The type of its elements, or its packing.
    pub dtype: TypeName,
    /// Its dimensions, outermost first.
    pub shape: Vec<u64>,
    /// The packing of the weights, if they are packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<PackingSummary>,
    /// Its percentiles.
    pub percentiles: Percentiles,
    /// Its histograms.
    pub histogram: Histogram,
}

/// Computes the histogram of a tensor.
///
/// # Errors
/// There is no such tensor, or its values cannot be decoded.
pub fn hist(reader: &Reader, tensor: &str) -> Result<Hist> {
    let reader = weights::of(reader)?;
    let found = measure_one(&reader, select::tensor_named(reader.model(), tensor)?)?;
    Ok(Hist {
        schema: "weigh.hist.v1",
        name: found.name,
        dtype: found.dtype,
        shape: found.shape,
        packing: weights::packing(&reader),
        percentiles: found.summary.percentiles,
        histogram: found.summary.histogram,
    })
}

impl Hist {
    /// Returns the edges and the count of each bin: between powers of two, for either sign, or of equal width.
    pub fn bins(&self, log: bool) -> Vec<(f64, f64, u64)> {
        if log {
            let log = &self.histogram.log;
            let power = |i: usize| 2f64.powi(log.lowest_exponent.saturating_add(i32::try_from(i).unwrap_or(i32::MAX)));
            let negative = log.negative.iter().enumerate().rev().map(|(i, &count)| (-power(i + 1), -power(i), count));
            let positive = log.positive.iter().enumerate().map(|(i, &count)| (power(i), power(i + 1), count));
            return negative.chain([(0.0, 0.0, log.zeros)]).chain(positive).collect();
        }
        let linear = &self.histogram.linear;
        let counts = linear.counts.to_vec();
        let bins = counts.len().max(1) as f64;
        let edge = |i: usize| linear.low + (linear.high - linear.low) * i as f64 / bins;
        counts.iter().enumerate().map(|(i, &count)| (edge(i), edge(i + 1), count)).collect()
    }
}
