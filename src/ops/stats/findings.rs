//! Findings about the values of weights: NaN, dead rows, outliers, odd scales.

use std::collections::BTreeMap;

use super::TensorStats;
use crate::base::finding::{Finding, Severity};
use crate::base::{Error, units};

/// A row is an outlier if its largest magnitude exceeds this many times the median row's.
pub const OUTLIER_ROWS: f64 = 20.0;

/// A layer's scale is far off if its root mean square is this many times its neighbours', or this fraction of it.
const FAR_SCALE: f64 = 4.0;

/// Number of layers on either side that count as neighbours.
const NEIGHBOURS: usize = 3;

/// Dead and outlier rows of one tensor.
#[derive(Debug, Default)]
pub(super) struct RowOutliers {
    pub count: u64,
    /// Rows of zeros only.
    pub dead: u64,
    pub outliers: u64,
    /// The row with the largest magnitude, that magnitude, and its ratio to the median row's.
    pub largest: Option<(u64, f32, f64)>,
}

impl RowOutliers {
    pub(super) fn of(row_max: &[f32], outlier: f64) -> Self {
        let mut rising = row_max.to_vec();
        let middle = rising.len() / 2;
        if rising.len() < 2 {
            return Self::default();
        }
        let median = f64::from(*rising.select_nth_unstable_by(middle, f32::total_cmp).1);
        let largest = row_max.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        Self {
            count: row_max.len() as u64,
            dead: row_max.iter().filter(|&&max| max == 0.0).count() as u64,
            outliers: row_max.iter().filter(|&&max| f64::from(max) > outlier * median && median > 0.0).count() as u64,
            largest: largest.map(|(row, &max)| (row as u64, max, f64::from(max) / median)),
        }
    }
}

/// Formats a count with its noun in singular or plural.
fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Returns the findings about one tensor. `limit` is the largest magnitude of its type and how often it occurs.
pub(super) fn of_tensor(stats: &TensorStats, rows: &RowOutliers, limit: Option<(f64, u64)>) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut flag = |severity, code, message: String| {
        found.push(Finding { severity, ..Finding::from_error(code, &Error::malformed(message).in_tensor(&stats.name)) });
    };
    let summary = &stats.summary;
    if let Some(nan) = summary.nan.filter(|&nan| nan > 0) {
        flag(Severity::Error, "stats-nan", plural(nan, "NaN"));
    }
    if let Some(inf) = summary.inf.filter(|&inf| inf > 0) {
        flag(Severity::Error, "stats-inf", format!("{} infinite", plural(inf, "value")));
    }
    let finite = summary.nan == Some(0) && summary.inf == Some(0);
    if summary.elements > 0 && finite && summary.abs_max == 0.0 {
        flag(Severity::Warning, "stats-zero", "every value is zero".into());
    } else if summary.elements > 1 && finite && summary.min == summary.max {
        flag(Severity::Note, "stats-constant", format!("every value is {}", summary.min));
    } else {
        if rows.dead > 0 {
            flag(Severity::Note, "stats-dead-rows", format!("{} of {} are all zeros", rows.dead, plural(rows.count, "row")));
        }
        if let Some((row, max, times)) = rows.largest.filter(|_| rows.outliers > 0) {
            let message = format!(
                "{} of {} far above the median: row {row} reaches {max}, {times:.0} times the median row's maximum",
                rows.outliers,
                plural(rows.count, "row")
            );
            flag(Severity::Note, "stats-outlier-rows", message);
        }
    }
    if let Some((limit, count)) = limit.filter(|&(_, count)| count > 0) {
        let message = format!("{} at the limit of {} ({limit}): possible overflow", plural(count, "value"), stats.dtype);
        flag(Severity::Warning, "stats-limit", message);
    }
    found
}

/// Splits a name into the name without its layer number and the number: its first numeric part.
fn layer_of(name: &str) -> Option<(String, u64)> {
    let mut parts: Vec<&str> = name.split('.').collect();
    let at = parts.iter().position(|part| part.bytes().all(|byte| byte.is_ascii_digit()) && !part.is_empty())?;
    let layer = parts[at].parse().ok()?;
    parts[at] = "*";
    Some((parts.join("."), layer))
}

/// Returns findings about tensors (name, Euclidean norm, number of elements) whose scale is far from that of the same tensor in neighbouring
/// layers.
pub(super) fn of_scales<'t>(tensors: impl Iterator<Item = (&'t str, f64, u64)>) -> Vec<Finding> {
    let mut kinds: BTreeMap<String, Vec<(u64, &str, f64)>> = BTreeMap::new();
    for (name, l2, elements) in tensors {
        let scale = l2 / (elements.max(1) as f64).sqrt();
        if let Some((kind, layer)) = layer_of(name).filter(|_| scale.is_finite()) {
            kinds.entry(kind).or_default().push((layer, name, scale));
        }
    }
    let mut found = Vec::new();
    for layers in kinds.values_mut() {
        layers.sort_by_key(|(layer, ..)| *layer);
        for (i, (layer, name, scale)) in layers.iter().enumerate() {
            let around = &layers[i.saturating_sub(NEIGHBOURS)..layers.len().min(i + NEIGHBOURS + 1)];
            let mut scales: Vec<f64> = around.iter().filter(|other| other.0 != *layer).map(|other| other.2).collect();
            if scales.len() < NEIGHBOURS {
                continue;
            }
            scales.sort_by(f64::total_cmp);
            let median = scales[scales.len() / 2];
            let ratio = scale / median;
            if median > 0.0 && *scale > 0.0 && !(1.0 / FAR_SCALE..=FAR_SCALE).contains(&ratio) {
                let message = format!("root mean square {}, {ratio:.2} times that of neighbouring layers", units::general(*scale, 4));
                let error = Error::malformed(message).in_tensor(name);
                found.push(Finding { severity: Severity::Note, ..Finding::from_error("stats-scale", &error) });
            }
        }
    }
    found
}

/// Returns the finding about a tensor whose type this build cannot decode.
pub(super) fn undecoded(name: &str, elem: crate::model::ElemType) -> Finding {
    let error = Error::unsupported(format!("this build cannot decode {elem}: no statistics")).in_tensor(name);
    Finding { severity: Severity::Warning, ..Finding::from_error("stats-unread", &error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_recognised_by_name() {
        assert_eq!(layer_of("blk.12.attn_q.weight"), Some(("blk.*.attn_q.weight".into(), 12)));
        assert_eq!(layer_of("model.layers.3.experts.7.w1"), Some(("model.layers.*.experts.7.w1".into(), 3)));
        assert_eq!(layer_of("output.weight"), None);
    }

    #[test]
    fn rows_far_from_the_median_and_dead_ones_are_counted() {
        let mut max = vec![1.0; 9];
        max[3] = 0.0;
        max[7] = 50.0;
        let rows = RowOutliers::of(&max, OUTLIER_ROWS);
        assert_eq!((rows.count, rows.dead, rows.outliers, rows.largest), (9, 1, 1, Some((7, 50.0, 50.0))));
    }

    #[test]
    fn a_row_is_an_outlier_above_so_many_times_the_median() {
        assert_eq!(RowOutliers::of(&[2.0, 2.0, 40.0], 20.0).outliers, 0);
        let rows = RowOutliers::of(&[2.0, 2.0, 41.0], 20.0);
        assert_eq!((rows.outliers, rows.largest), (1, Some((2, 41.0, 20.5))));
        assert_eq!(RowOutliers::of(&[0.0, 3.0], 20.0).dead, 1, "two rows are rows");
        assert_eq!(RowOutliers::of(&[0.0], 20.0).count, 0, "one is not looked at");
    }

    #[test]
    fn values_that_are_not_read_are_a_warning() {
        let finding = undecoded("x", crate::model::ElemType::Known(crate::model::DType::Q4_0));
        assert_eq!((finding.code, finding.severity, finding.tensor.as_deref()), ("stats-unread", Severity::Warning, Some("x")));
    }
}
