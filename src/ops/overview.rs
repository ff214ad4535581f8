//! `report`: everything about one model, or about two, for one page.

use crate::base::Result;
use crate::family::components::Components;
use crate::family::hyperparameters;
use crate::format::Reader;
use crate::ops::count::{Count, count};
use crate::ops::diff::{self, Diff};
use crate::ops::info::{Info, info_of};
use crate::ops::meta;
use crate::ops::stats::{self, Stats};

/// Everything about one model.
#[derive(Debug)]
pub struct Overview {
    /// Summary.
    pub info: Info,
    /// Number of parameters.
    pub count: Count,
    /// Statistics of its values.
    pub stats: Stats,
    /// Component names.
    pub components: Components,
    /// Metadata: keys, and values on one line.
    pub metadata: Vec<(String, String)>,
}

/// Describes, counts and measures a model.
///
/// # Errors
/// As for [`stats::stats`].
pub fn overview(reader: &Reader, options: &stats::Options<'_>) -> Result<Overview> {
    let components = hyperparameters::components(reader.model());
    let (info, count) = described(reader)?;
    let metadata = reader.model().metadata.iter().map(|(key, value)| (key.to_owned(), meta::brief(key, value))).collect();
    Ok(Overview { info, count, stats: stats::stats(reader, options)?, components, metadata })
}

/// Two models side by side.
#[derive(Debug)]
pub struct Comparison {
    /// Summaries.
    pub infos: [Info; 2],
    /// Number of parameters.
    pub counts: [Count; 2],
    /// Differences.
    pub diff: Diff,
}

/// Describes and counts two models, and compares them.
///
/// # Errors
/// As for [`diff::diff`].
pub fn comparison(a: &Reader, b: &Reader, options: &diff::Options<'_>) -> Result<Comparison> {
    let ((info_a, count_a), (info_b, count_b)) = (described(a)?, described(b)?);
    Ok(Comparison { infos: [info_a, info_b], counts: [count_a, count_b], diff: diff::diff(a, b, options)? })
}

/// Describes and counts a model.
fn described(reader: &Reader) -> Result<(Info, Count)> {
    let count = count(reader)?;
    Ok((info_of(reader, &count)?, count))
}
