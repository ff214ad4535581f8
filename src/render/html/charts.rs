//! SVG charts. Numbers are printed beside the shapes, so that no pointer is needed.

use std::fmt::Write;

use super::escape;
use crate::render::picture::{self, Plot};

/// The number of colours.
const COLOURS: usize = 8;

/// A chart of stacked bars, one per row.
pub(super) struct Stacks<'a> {
    /// The chart's text alternative.
    pub title: &'a str,
    /// The names of the parts, in the order of their colours.
    pub parts: &'a [String],
    /// The rows: a label, the size of each part, and the text at the end.
    pub rows: Vec<(String, Vec<f64>, String)>,
}

/// Returns stacked bars, the longest row as wide as the page allows.
pub(super) fn stacks(chart: &Stacks<'_>) -> String {
    let longest = chart.rows.iter().map(|(_, sizes, _)| sizes.iter().sum::<f64>()).fold(0.0, f64::max);
    let mut out = String::new();
    let _ = write!(out, r#"<div class="stacks" role="img" aria-label="{}">"#, escape(chart.title));
    for (label, sizes, tail) in &chart.rows {
        let _ = write!(out, "<div><span>{}</span><span class=\"track\">", escape(label));
        for (part, size) in sizes.iter().enumerate().filter(|(_, size)| **size > 0.0) {
            let width = if longest > 0.0 { size / longest * 100.0 } else { 0.0 };
            let title = escape(chart.parts.get(part).map_or("", String::as_str));
            let _ = write!(out, r#"<i class="k{}" style="width:{width:.2}%" title="{title}"></i>"#, part % COLOURS);
        }
        let _ = write!(out, "</span><span class=\"soft\">{}</span></div>", escape(tail));
    }
    out.push_str("</div>");
    out
}

/// Returns the legend of parts and colours.
pub(super) fn legend(parts: &[String]) -> String {
    let mut out = String::from(r#"<ul class="legend">"#);
    for (i, part) in parts.iter().enumerate() {
        let class = i % COLOURS;
        let _ = write!(
            out,
            r#"<li><svg viewBox="0 0 10 10" aria-hidden="true"><rect class="k{class}" width="10" height="10"/></svg> {}</li>"#,
            escape(part)
        );
    }
    out.push_str("</ul>");
    out
}

/// A heat map: rows are kinds of tensors, columns are layers.
pub(super) struct Heat<'a> {
    /// The chart's text alternative.
    pub title: &'a str,
    /// The labels of the columns.
    pub columns: Vec<String>,
    /// The rows: a label, and pairs of column and value.
    pub rows: Vec<super::HeatRow>,
    /// Formats a value.
    pub write: fn(f64) -> String,
    /// Whether colours follow the logarithm.
    pub log: bool,
}

/// Returns a heat map. With few columns every cell shows its value; with many, only the ends of the scale are labelled.
pub(super) fn heat(chart: &Heat<'_>) -> String {
    const ROW: f64 = 20.0;
    const WIDTH: f64 = 900.0;
    let longest = chart.rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    let side = (longest as f64 * 6.8 + 12.0).clamp(60.0, 330.0);
    let scale = |value: f64| if chart.log { value.max(f64::MIN_POSITIVE).log10() } else { value };
    let all = || chart.rows.iter().flat_map(|(_, cells)| cells.iter().map(|cell| cell.1)).filter(|value| value.is_finite());
    let positive = || all().filter(|value| !chart.log || *value > 0.0).map(scale);
    let (low, high) = (positive().fold(f64::INFINITY, f64::min), positive().fold(f64::NEG_INFINITY, f64::max));
    // Nothing has no logarithm, and a colour of its own.
    let is_none = |value: f64| chart.log && value == 0.0;
    let columns = chart.columns.len().max(1);
    let numbered = columns <= 24;
    let cell =
        if numbered { ((WIDTH * 1.2 - side) / columns as f64).clamp(38.0, 90.0) } else { ((WIDTH - side) / columns as f64).max(6.0) };
    let width = side + cell * columns as f64;
    let height = (chart.rows.len() + 1) as f64 * ROW + 4.0;
    let mut out = super::scrolls(chart.title);
    let _ = write!(
        out,
        r#"<svg viewBox="0 0 {width:.0} {height:.0}" style="width:{width:.0}px" role="img" aria-label="{}">"#,
        escape(chart.title)
    );
    let every = (columns as f64 * 24.0 / (width - side)).ceil().max(1.0) as usize;
    for (i, label) in chart.columns.iter().enumerate().filter(|(i, _)| i % every == 0) {
        let x = side + (i as f64 + 0.5) * cell;
        let _ = write!(out, r#"<text class="soft" x="{x:.1}" y="13" text-anchor="middle">{}</text>"#, escape(label));
    }
    for (row, (label, cells)) in chart.rows.iter().enumerate() {
        let y = (row + 1) as f64 * ROW;
        let _ = write!(out, r#"<text x="{:.0}" y="{:.0}" text-anchor="end">{}</text>"#, side - 6.0, y + 14.0, escape(label));
        for (column, value) in cells {
            let share = if high > low { ((scale(*value) - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
            let share = if share.is_finite() { share } else { 1.0 };
            let x = side + *column as f64 * cell;
            let written = (chart.write)(*value);
            let fill = if is_none(*value) {
                "#e4e7eb".to_owned()
            } else {
                format!("hsl({:.0} 70% {:.0}%)", 220.0 - share * 190.0, 86.0 - share * 36.0)
            };
            let _ = write!(
                out,
                r#"<rect x="{x:.1}" y="{y:.1}" width="{:.1}" height="{:.1}" fill="{fill}"><title>{} {}: {written}</title></rect>"#,
                (cell - 1.0).max(1.0),
                ROW - 1.0,
                escape(label),
                escape(chart.columns.get(*column).map_or("", String::as_str)),
            );
            if numbered {
                let _ = write!(
                    out,
                    r#"<text x="{:.1}" y="{:.1}" text-anchor="middle" class="cell">{written}</text>"#,
                    x + cell / 2.0,
                    y + 13.5
                );
            }
        }
    }
    out.push_str("</svg></div>");
    let ends = [low, high].map(|end| (chart.write)(if chart.log { 10f64.powf(end) } else { end }));
    if low.is_finite() {
        let scale = if chart.log { ", on a logarithmic scale" } else { "" };
        let none = if all().any(is_none) { "; grey: 0" } else { "" };
        let _ = write!(out, r#"<p class="soft">from {} (blue) to {} (red){scale}{none}</p>"#, ends[0], ends[1]);
    }
    out
}

/// Returns a bare histogram for a table cell.
pub(super) fn spark(counts: &[u64]) -> String {
    format!(
        r#"<svg class="spark" viewBox="0 0 {} 20" preserveAspectRatio="none" aria-hidden="true">{}</svg>"#,
        counts.len() * 4,
        bars(counts, 4.0, 20.0)
    )
}

/// Returns a histogram with axes.
pub(super) fn histogram(counts: &[u64], low: f64, high: f64, title: &str) -> String {
    let bins = counts.len().max(1) as f64;
    let edges = (0..=counts.len()).map(|edge| low + (high - low) * edge as f64 / bins).collect();
    let plot = Plot { title: title.to_owned(), axis: "value".to_owned(), counts: counts.to_vec(), edges };
    picture::inline(&plot)
}

fn bars(counts: &[u64], step: f64, height: f64) -> String {
    let most = counts.iter().max().copied().unwrap_or(0).max(1) as f64;
    let mut path = String::new();
    for (i, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let tall = (count as f64 / most * height).max(1.0);
        let _ = write!(path, "M{:.1} {height}v-{tall:.1}h{:.1}v{tall:.1}z", i as f64 * step, step * 0.92);
    }
    format!(r#"<path class="bar" d="{path}"/>"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_shapes_are_there() {
        let chart = Stacks { title: "a\"<b", parts: &["<p>".to_owned()], rows: vec![("0".into(), vec![2.0], "2".into())] };
        let svg = stacks(&chart);
        assert!(svg.contains("a&quot;&lt;b") && svg.contains("&lt;p&gt;") && !svg.contains("<p>"), "{svg}");
        let heat = heat(&Heat {
            title: "h",
            columns: vec!["0".into()],
            rows: vec![("x".into(), vec![(0, 0.0)])],
            write: |v| v.to_string(),
            log: true,
        });
        assert!(heat.contains("<rect"), "{heat}");
        assert_eq!(bars(&[0, 4, 1], 10.0, 20.0).matches('M').count(), 2);
    }
}
