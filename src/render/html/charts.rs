//! SVG charts. Numbers are printed beside the shapes, so that no pointer is needed.

use std::fmt::Write;

use super::escape;

/// The number of colours.
const COLOURS: usize = 8;

/// Parts of a whole, in rows of stacked bars.
pub(super) struct Stacks<'a> {
    /// The chart's text alternative.
    pub title: &'a str,
    /// The names of the parts, in the order of their colours.
    pub parts: &'a [String],
    /// The rows: a label, the size of each part, and the text at the end.
    pub rows: Vec<(String, Vec<f64>, String)>,
}

const BAR: f64 = 18.0;
const LABEL: f64 = 70.0;
const WIDTH: f64 = 900.0;
const TAIL: f64 = 110.0;

/// Returns stacked bars, the longest row as wide as the chart.
pub(super) fn stacks(chart: &Stacks<'_>) -> String {
    let longest = chart.rows.iter().map(|(_, sizes, _)| sizes.iter().sum::<f64>()).fold(0.0, f64::max);
    let height = chart.rows.len() as f64 * BAR + 4.0;
    let mut out = String::new();
    let _ = write!(out, r#"<div class="wide"><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{}">"#, escape(chart.title));
    for (i, (label, sizes, tail)) in chart.rows.iter().enumerate() {
        let y = i as f64 * BAR;
        let _ = write!(out, r#"<text x="{:.0}" y="{:.0}" text-anchor="end">{}</text>"#, LABEL - 6.0, y + 13.0, escape(label));
        let mut x = LABEL;
        for (part, size) in sizes.iter().enumerate().filter(|(_, size)| **size > 0.0) {
            let width = if longest > 0.0 { size / longest * (WIDTH - LABEL - TAIL) } else { 0.0 };
            let _ = write!(
                out,
                r#"<rect class="k{}" x="{x:.1}" y="{:.1}" width="{:.1}" height="{}"><title>{}</title></rect>"#,
                part % COLOURS,
                y + 2.0,
                width.max(0.5),
                BAR - 4.0,
                escape(chart.parts.get(part).map_or("", String::as_str))
            );
            x += width;
        }
        let _ = write!(out, r#"<text class="soft" x="{:.1}" y="{:.0}">{}</text>"#, x + 6.0, y + 13.0, escape(tail));
    }
    out.push_str("</svg></div>");
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
    let longest = chart.rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    let side = (longest as f64 * 6.8 + 12.0).clamp(60.0, 330.0);
    let scale = |value: f64| if chart.log { value.max(f64::MIN_POSITIVE).log10() } else { value };
    let all = || chart.rows.iter().flat_map(|(_, cells)| cells.iter().map(|cell| cell.1)).filter(|value| value.is_finite());
    let positive = || all().filter(|value| !chart.log || *value > 0.0).map(scale);
    let (low, high) = (positive().fold(f64::INFINITY, f64::min), positive().fold(f64::NEG_INFINITY, f64::max));
    let columns = chart.columns.len().max(1);
    let numbered = columns <= 24;
    let cell =
        if numbered { ((WIDTH * 1.2 - side) / columns as f64).clamp(38.0, 90.0) } else { ((WIDTH - side) / columns as f64).max(6.0) };
    let width = side + cell * columns as f64;
    let height = (chart.rows.len() + 1) as f64 * ROW + 4.0;
    let mut out = String::from(r#"<div class="wide">"#);
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
            let _ = write!(
                out,
                r#"<rect x="{x:.1}" y="{y:.1}" width="{:.1}" height="{:.1}" fill="hsl({:.0} 70% {:.0}%)"><title>{} {}: {written}</title></rect>"#,
                (cell - 1.0).max(1.0),
                ROW - 1.0,
                220.0 - share * 190.0,
                86.0 - share * 36.0,
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
        let _ = write!(out, r#"<p class="soft">from {} (blue) to {} (red)</p>"#, ends[0], ends[1]);
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

/// Returns a histogram labelled with its ends and its largest bin. Bar heights follow the square root of the count, so that tails stay visible.
pub(super) fn histogram(counts: &[u64], low: &str, high: &str, label: &str) -> String {
    let width = 480.0;
    let step = width / counts.len().max(1) as f64;
    let most = counts.iter().max().copied().unwrap_or(0);
    format!(
        r#"<svg viewBox="0 0 {width} 150" style="width:{width}px" role="img" aria-label="{}"><g transform="translate(0 14)">{}</g><text class="soft" x="0" y="146">{}</text><text class="soft" x="{width}" y="146" text-anchor="end">{}</text><text class="soft" x="0" y="10">largest bin {most}; heights by square root</text></svg>"#,
        escape(label),
        bars(counts, step, 116.0),
        escape(low),
        escape(high)
    )
}

fn bars(counts: &[u64], step: f64, height: f64) -> String {
    let most = (counts.iter().max().copied().unwrap_or(0).max(1) as f64).sqrt();
    let mut path = String::new();
    for (i, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let tall = ((count as f64).sqrt() / most * height).max(1.0);
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
