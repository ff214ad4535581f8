//! `report`: what there is to know of a model, or of two, for one page.

use crate::base::Result;
use crate::family::components::Components;
use crate::family::hyperparameters;
use crate::format::Reader;
use crate::ops::count::{Count, count};
use crate::ops::diff::{self, Diff};
use crate::ops::info::{Info, info};
use crate::ops::stats::{self, Stats};

/// All of one model.
#[derive(Debug)]
pub struct Overview {
    /// What it is.
    pub info: Info,
    /// Number of parameters.
    pub count: Count,
    /// Its values.
    pub stats: Stats,
    /// The names that tell its components.
    pub components: Components,
}

/// Describes, counts and measures a model.
///
/// # Errors
/// As for [`stats::stats`].
pub fn overview(reader: &Reader, options: &stats::Options<'_>) -> Result<Overview> {
    let components = hyperparameters::components(reader.model());
    Ok(Overview { info: info(reader)?, count: count(reader)?, stats: stats::stats(reader, options)?, components })
}

/// Two models beside each other.
#[derive(Debug)]
pub struct Comparison {
    /// What they are.
    pub infos: [Info; 2],
    /// Number of parameters.
    pub counts: [Count; 2],
    /// How they differ.
    pub diff: Diff,
}

/// Describes and counts two models, and compares them.
///
/// # Errors
/// As for [`diff::diff`].
pub fn comparison(a: &Reader, b: &Reader, options: &diff::Options<'_>) -> Result<Comparison> {
    Ok(Comparison { infos: [info(a)?, info(b)?], counts: [count(a)?, count(b)?], diff: diff::diff(a, b, options)? })
}
