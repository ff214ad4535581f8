//! The page comparing file types.

use std::fmt::Write;

use super::{Cell, escape, general, page, scrolls, table};
use crate::base::units;
use crate::ops::compare::Comparison;

/// Size of the chart and its margins, in pixels: above and at the right, at the left for the loss, and below for the bits.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
const MARGIN: f64 = 24.0;
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 48.0;

/// Room of a label.
const LABEL: (f64, f64) = (110.0, 14.0);

/// Returns the HTML page comparing file types; `title` is the name of the model.
pub fn costs(title: &str, data: &Comparison) -> String {
    let mut body = format!(
        "<h1>{}</h1><p class=\"lead\">{}, {}</p>",
        escape(title),
        escape(&units::bytes(data.bytes_in)),
        units::counted(data.types.len() as u64, "file type")
    );
    body.push_str("<h2>Loss against size</h2>");
    body.push_str(&chart(data));
    let heads = [
        ("type", false),
        ("size", true),
        ("bits per weight", true),
        ("loss", true),
        ("relative RMSE", true),
        ("memory", true),
        ("largest output errors", false),
    ];
    let rows = data.types.iter().map(|cost| {
        let size = |bytes: Option<u64>| Cell::number(bytes.map(|bytes| bytes as f64), |bytes| units::bytes(bytes as u64));
        let worst = cost.worst.iter().map(|worst| format!("{} ({} {})", worst.name, worst.to, units::general(worst.output_error, 2)));
        vec![
            Cell::text(&cost.name),
            size(Some(cost.bytes)),
            Cell::number(cost.bits_per_weight, general),
            Cell::number(cost.loss, general),
            Cell::number(cost.quality.as_ref().and_then(|quality| quality.relative_rmse), general),
            size(cost.memory_bytes),
            Cell::text(&worst.collect::<Vec<_>>().join(", ")),
        ]
    });
    body.push_str(&table("costs", "What each file type costs", &heads, rows));
    page(&format!("{title}: file types - weigh"), &body)
}

/// Returns a chart of the loss, on a logarithmic scale, over bits per weight.
fn chart(data: &Comparison) -> String {
    let points: Vec<(f64, f64, &str)> = data
        .types
        .iter()
        .filter_map(|cost| Some((cost.bits_per_weight?, cost.loss.filter(|loss| *loss > 0.0)?.log10(), cost.name.as_str())))
        .collect();
    if points.is_empty() {
        return String::new();
    }
    // Both axes end at a whole step: bits per weight and powers of ten.
    let ends = |of: fn(&(f64, f64, &str)) -> f64| {
        let values = || points.iter().map(of);
        let low = values().fold(f64::INFINITY, f64::min).floor();
        (low, values().fold(f64::NEG_INFINITY, f64::max).ceil().max(low + 1.0))
    };
    let ((left, right), (bottom, top)) = (ends(|point| point.0), ends(|point| point.1));
    let x = |bits: f64| LEFT + (bits - left) / (right - left) * (WIDTH - LEFT - MARGIN);
    let y = |loss: f64| MARGIN + (top - loss) / (top - bottom) * (HEIGHT - MARGIN - BOTTOM);
    let what = "Loss, on a logarithmic scale, over bits per weight";
    let mut out = format!(
        r#"{}<svg viewBox="0 0 {WIDTH} {HEIGHT}" style="width:{WIDTH}px" role="img" aria-label="{what}"><text class="soft" x="0" y="14">loss (logarithmic scale)</text>"#,
        scrolls(what)
    );
    for power in ticks(bottom, top) {
        let _ = write!(
            out,
            r#"<path class="grid" d="M{LEFT} {0:.1}H{1}"/><text class="soft" x="{2}" y="{3:.1}" text-anchor="end">{4}</text>"#,
            y(power),
            WIDTH - MARGIN,
            LEFT - 8.0,
            y(power) + 4.0,
            units::general(10f64.powf(power), 3),
        );
    }
    for bits in ticks(left, right) {
        let _ = write!(
            out,
            r#"<path class="grid" d="M{0:.1} {MARGIN}V{1}"/><text class="soft" x="{0:.1}" y="{2}" text-anchor="middle">{bits}</text>"#,
            x(bits),
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0,
        );
    }
    let mut labels: Vec<(f64, f64)> = Vec::new();
    for &(bits, loss, name) in &points {
        let shown = general(10f64.powf(loss));
        // The label is on the side where there is more room.
        let (shift, anchor) = if x(bits) > WIDTH / 2.0 { (-8.0, "end") } else { (8.0, "start") };
        let mut label = (x(bits) + shift, y(loss) - 6.0);
        while labels.iter().any(|other| (other.0 - label.0).abs() < LABEL.0 && (other.1 - label.1).abs() < LABEL.1) {
            label.1 += LABEL.1;
        }
        labels.push(label);
        let _ = write!(
            out,
            r#"<circle class="k0" cx="{x:.1}" cy="{y:.1}" r="4"><title>{0}: {1} bits per weight, loss {shown}</title></circle><text x="{2:.1}" y="{3:.1}" text-anchor="{anchor}">{0} {shown}</text>"#,
            escape(name),
            general(bits),
            label.0,
            label.1,
            x = x(bits),
            y = y(loss),
        );
    }
    let _ = write!(
        out,
        r#"<text class="soft" x="{0:.0}" y="{1:.0}" text-anchor="middle">bits per weight</text></svg></div>"#,
        (LEFT + WIDTH - MARGIN) / 2.0,
        HEIGHT - 6.0,
    );
    out
}

/// Returns at most nine whole numbers from `low` to `high`, evenly spaced.
fn ticks(low: f64, high: f64) -> impl Iterator<Item = f64> {
    let step = ((high - low) / 8.0).ceil().max(1.0);
    (0..9).map(move |tick| low + step * f64::from(tick)).take_while(move |at| *at <= high)
}
