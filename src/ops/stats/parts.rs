//! Statistics computed in parts on several machines. A part has whole tensors; their sums are stored exactly and joined in the order of a single
//! run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::counts::Counts;
use super::moments::Moments;
use super::scan::DtypeScanner;
use super::{GroupBy, Options, Slot, Summary, findings, measured_as, merge_distributions, scan_all, selected};
use crate::base::{Error, Result, json, num};
use crate::format::Reader;
use crate::model::DType;
use crate::ops::identity::Identity;
use crate::ops::part::{Part, owners};
use crate::ops::select::Selection;
use crate::ops::weights;
use crate::source::place::read_bytes;

/// The version of [`PartOfStats`].
const SCHEMA: &str = "weigh.stats-part.v1";

/// The statistics of one part of a model's tensors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PartOfStats {
    schema: String,
    /// The path of the model, which is set when it is read.
    #[serde(skip_serializing, default)]
    path: String,
    /// The hash of the model's headers and the options, the same for all parts.
    plan: String,
    part: usize,
    parts: usize,
    /// Number of selected tensors in all parts.
    selected: usize,
    /// Maximum number of tensors to list.
    limit: Option<usize>,
    sample: Option<u64>,
    packing: Option<Json>,
    threshold: f64,
    tensors: Vec<Measured>,
    /// How often each pattern occurs in the tensors of the part, by type.
    counts: BTreeMap<String, Vec<(u16, u64)>>,
}

/// A measured tensor.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Measured {
    /// Its index in the selection.
    index: usize,
    counts: [u64; 7],
    /// The bits of the sums in hexadecimal digits: JSON numbers cannot be infinite or NaN.
    sums: [String; 8],
    findings: Vec<Json>,
    /// Its statistics, as in the joined report.
    stats: Json,
}

/// The joined statistics: the JSON of a single run over the model.
#[derive(Debug, Clone, Serialize)]
pub struct Joined {
    schema: &'static str,
    /// The path of the model, as given for the first part.
    #[serde(skip)]
    pub path: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packing: Option<Json>,
    threshold: f64,
    /// Statistics of each tensor.
    pub tensors: Vec<Json>,
    /// All tensors together.
    pub total: Summary,
    findings: Vec<Json>,
}

/// Measures one part of the selected tensors.
///
/// # Errors
/// As for [`stats`](super::stats); or the statistics are grouped.
pub fn part(reader: &Reader, options: &Options<'_>, part: Part) -> Result<PartOfStats> {
    if options.by != GroupBy::Tensor {
        return Err(Error::argument("statistics by group cannot be computed in parts"));
    }
    let reader = measured_as(reader, options)?;
    let tensors = selected(&reader, options)?;
    let limit = options.selection.map(Selection::limit).filter(|limit| *limit < usize::MAX);
    let mut plan = Identity::of(&reader)?;
    for tensor in &tensors {
        plan.field(tensor.name.as_bytes());
    }
    plan.field(format!("{:?} {:?} {:?} {} {limit:?}", options.sample, options.threshold, options.outlier, options.stored).as_bytes());
    let work: Vec<u64> = tensors.iter().map(|tensor| tensor.len_bytes.unwrap_or(0)).collect();
    let own: Vec<usize> =
        owners(&work, part.count).into_iter().enumerate().filter(|(_, owner)| *owner + 1 == part.number).map(|(index, _)| index).collect();
    let of_part: Vec<_> = own.iter().filter_map(|&index| tensors.get(index).copied()).collect();
    let scanned = scan_all(&reader, &of_part, options)?;
    let measured = own.into_iter().zip(scanned.slots).map(|(index, (_, slot))| {
        let Slot::Measured(mut measured) = slot else {
            return Err(Error::limit("a tensor was not measured"));
        };
        Ok(Measured {
            index,
            counts: measured.moments.counts().map(|count| *count),
            sums: measured.moments.sums().map(|sum| format!("{:016x}", sum.to_bits())),
            findings: measured.findings.iter().map(to_json).collect::<Result<_>>()?,
            stats: to_json(&measured.stats)?,
        })
    });
    Ok(PartOfStats {
        schema: SCHEMA.to_owned(),
        path: String::new(),
        plan: plan.finish(),
        part: part.number,
        parts: part.count,
        selected: tensors.len(),
        limit,
        sample: options.sample,
        packing: weights::packing(&reader).as_ref().map(to_json).transpose()?,
        threshold: options.threshold,
        tensors: measured.collect::<Result<_>>()?,
        counts: scanned.total.counts.iter().map(|(dtype, counts)| (dtype.name().to_owned(), counts.iter().collect())).collect(),
    })
}

fn to_json<T: Serialize>(value: &T) -> Result<Json> {
    serde_json::to_value(value).map_err(|error| Error::malformed(format!("cannot write the statistics: {error}")))
}

/// Joins the parts in these files into the statistics of the model, to the last digit.
///
/// # Errors
/// A file is not a part of statistics, a part is missing or duplicated, or the parts have different models or options.
pub fn join(files: &[PathBuf]) -> Result<Joined> {
    let mut parts = files.iter().map(|path| Ok((path.as_path(), read(path)?))).collect::<Result<Vec<_>>>()?;
    parts.sort_by_key(|(_, part)| part.part);
    let Some((_, first)) = parts.first().cloned() else {
        return Err(Error::argument("expected files with parts of statistics, found none"));
    };
    for (path, other) in &parts {
        if (&other.plan, other.parts, other.selected) != (&first.plan, first.parts, first.selected) {
            let error = Error::argument(format!("part {}/{} is of another model or has other options", other.part, other.parts));
            return Err(error.in_file(path).hint("measure every part with the same model, options and version of weigh"));
        }
    }
    for number in 1..=first.parts {
        let of_number: Vec<&Path> = parts.iter().filter(|(_, part)| part.part == number).map(|(path, _)| *path).collect();
        match of_number[..] {
            [_] => {}
            [] => return Err(Error::truncated(format!("part {number}/{} is missing", first.parts))),
            [_, again, ..] => return Err(Error::argument(format!("part {number}/{} is present twice", first.parts)).in_file(again)),
        }
    }
    let mut counts: BTreeMap<DType, Counts> = BTreeMap::new();
    let mut tensors = Vec::new();
    for (path, part) in parts {
        for (name, codes) in part.counts {
            let own = counts.entry(name.parse::<DType>().map_err(|error| error.in_file(path))?).or_default();
            codes.into_iter().for_each(|(code, count)| own.increment(code, count));
        }
        tensors.extend(part.tensors.into_iter().map(|tensor| (path, tensor)));
    }
    tensors.sort_by_key(|(_, tensor)| tensor.index);
    if tensors.len() != first.selected || tensors.iter().enumerate().any(|(index, (_, tensor))| tensor.index != index) {
        return Err(Error::malformed("expected each tensor in one part, found some in several or in none"));
    }
    let mut all = Moments::default();
    let (mut elements, mut listed, mut found) = (0u64, Vec::new(), Vec::new());
    for (path, tensor) in tensors {
        all.merge(&tensor.moments().map_err(|error| error.in_file(path))?);
        elements = elements.saturating_add(tensor.stats.get("elements").and_then(Json::as_u64).unwrap_or(0));
        found.extend(tensor.findings);
        listed.push(tensor.stats);
    }
    let scales = listed
        .iter()
        .filter_map(|stats| Some((stats.get("name")?.as_str()?, stats.get("l2")?.as_f64()?, stats.get("elements")?.as_u64()?)));
    found.extend(findings::of_scales(scales).iter().map(to_json).collect::<Result<Vec<_>>>()?);
    let scanners = counts.keys().map(|&dtype| (dtype, DtypeScanner::new(dtype))).collect();
    let (distribution, exact) = merge_distributions(&counts, &scanners, all.min, all.max);
    listed.truncate(first.limit.unwrap_or(usize::MAX));
    Ok(Joined {
        schema: "weigh.stats.v1",
        path: PathBuf::from(first.path),
        sample: first.sample,
        packing: first.packing,
        threshold: first.threshold,
        tensors: listed,
        total: Summary::new(elements, &all, &distribution, exact),
        findings: found,
    })
}

fn read(path: &Path) -> Result<PartOfStats> {
    let parsed: serde_json::Result<PartOfStats> = json::from_bytes(read_bytes(path)?);
    let expected = |found: String| Error::malformed(format!("expected a part of statistics ({SCHEMA}), found {found}")).in_file(path);
    let part = parsed.map_err(|error| expected(error.to_string()).caused_by(error))?;
    if part.schema != SCHEMA {
        return Err(expected("another schema".to_owned()));
    }
    Part::new(part.part, part.parts).map_err(|error| error.in_file(path))?;
    // Sums of counts from outside must not overflow.
    let mut sum = 0;
    let counts = part.counts.values().flatten().map(|(_, count)| *count);
    for count in counts.chain(part.tensors.iter().flat_map(|tensor| tensor.counts)) {
        sum = num::add(sum, count, "the counts of a part").map_err(|error| error.in_file(path))?;
    }
    if sum > u64::MAX / 64 / part.parts as u64 {
        return Err(Error::limit("expected counts of a model's values, found larger ones").in_file(path));
    }
    Ok(part)
}

impl Measured {
    fn moments(&self) -> Result<Moments> {
        let mut moments = Moments::default();
        moments.counts().into_iter().zip(self.counts).for_each(|(count, stored)| *count = stored);
        for (sum, digits) in moments.sums().into_iter().zip(&self.sums) {
            let bits = u64::from_str_radix(digits, 16).map_err(|_| Error::malformed("expected 16 hexadecimal digits of a sum"))?;
            *sum = f64::from_bits(bits);
        }
        Ok(moments)
    }
}
