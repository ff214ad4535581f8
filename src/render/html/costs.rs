//! The page on what file types cost.

use std::fmt::Write;

use super::{Cell, escape, general, page, table};
use crate::base::units;
use crate::ops::compare::Comparison;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
const MARGIN: f64 = 48.0;

/// Returns the HTML page on what file types cost; `title` is the name of the model.
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
    let ends = |of: fn(&(f64, f64, &str)) -> f64| {
        let values = || points.iter().map(of);
        let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        (low, (high - low).max(1e-9))
    };
    let ((left, across), (bottom, up)) = (ends(|point| point.0), ends(|point| point.1));
    let mut out = format!(
        r#"<div class="wide"><svg viewBox="0 0 {WIDTH} {HEIGHT}" style="width:{WIDTH}px" role="img" aria-label="loss over bits per weight">"#
    );
    for &(bits, loss, name) in &points {
        let x = MARGIN + (bits - left) / across * (WIDTH - 3.0 * MARGIN);
        let y = HEIGHT - MARGIN - (loss - bottom) / up * (HEIGHT - 2.0 * MARGIN);
        let shown = general(10f64.powf(loss));
        let _ = write!(
            out,
            r#"<circle class="k0" cx="{x:.1}" cy="{y:.1}" r="4"><title>{0}: {1} bits per weight, loss {shown}</title></circle><text x="{2:.1}" y="{3:.1}">{0} {shown}</text>"#,
            escape(name),
            general(bits),
            x + 8.0,
            y - 6.0,
        );
    }
    let _ = write!(
        out,
        r#"<text class="soft" x="{MARGIN}" y="{0:.0}">{1} bits per weight</text><text class="soft" x="{2:.0}" y="{0:.0}" text-anchor="end">{3}</text></svg></div>"#,
        HEIGHT - 12.0,
        general(left),
        WIDTH - MARGIN,
        general(left + across),
    );
    out
}
