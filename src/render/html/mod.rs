//! A self-contained HTML page: no network access or external scripts; dark mode, phones and printing work.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

use crate::base::{text, units};

mod charts;
mod costs;
mod model;
mod pair;

pub use costs::costs;
pub use model::model;
pub use pair::pair;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The maximum number of rows of a table of tensors, which keeps the page small.
const ROWS: usize = 2000;

/// The maximum number of layers of a chart: models have up to about 200.
const LAYERS: usize = 512;

/// The maximum number of kinds of tensors of a heat map: models have up to about 60.
const KINDS: usize = 200;

/// Escapes untrusted text for use between tags and in attributes; control characters become visible.
fn escape(text: &str) -> String {
    let shown = text::escape(text);
    let mut out = String::with_capacity(shown.len());
    for c in shown.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Returns a name that may break after its dots if it is too long for a line.
fn breakable(name: &str) -> String {
    escape(name).replace('.', ".<wbr>")
}

/// Returns the whole page with the given body.
fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';img-src data:;style-src 'unsafe-inline';script-src 'unsafe-inline'\">\
         <link rel=\"icon\" href=\"data:,\"><title>{title}</title><style>{STYLE}</style></head>\n<body><main>{body}</main>\
         <footer>weigh {version}</footer><script>{SCRIPT}</script></body></html>\n"
    )
}

/// Returns a list of names and values.
fn facts(rows: &[(&str, String)]) -> String {
    let mut out = String::from(r#"<dl class="facts">"#);
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        let class = if value.len() > 60 { " class=\"wide\"" } else { "" };
        let _ = write!(out, "<div{class}><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value));
    }
    out.push_str("</dl>");
    out
}

/// A heading of a table: its text, and whether the column holds numbers.
type Head = (&'static str, bool);

/// A table cell: its HTML, and the value to sort by if different.
struct Cell {
    html: String,
    value: Option<f64>,
}

impl Cell {
    fn text(text: &str) -> Self {
        Self { html: escape(text), value: None }
    }

    fn name(name: &str) -> Self {
        Self { html: breakable(name), value: None }
    }

    fn number(value: Option<f64>, shown: impl Fn(f64) -> String) -> Self {
        let value = value.filter(|value| value.is_finite());
        Self { html: value.map(|value| escape(&shown(value))).unwrap_or_default(), value }
    }

    fn html(html: String) -> Self {
        Self { html, value: None }
    }
}

/// The heading of a column of charts.
const HISTOGRAM: &str = "histogram";

/// Returns the start of a region that scrolls horizontally and can take the keyboard focus.
fn scrolls(label: &str) -> String {
    format!("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">", escape(label))
}

/// The maximum number of rows of a table without a filter, which are visible at once.
const UNFILTERED: usize = 10;

/// Returns a table that can be sorted by every column and, if it is long, filtered by words and patterns.
fn table(id: &str, caption: &str, heads: &[Head], rows: impl Iterator<Item = Vec<Cell>>) -> String {
    let rows: Vec<Vec<Cell>> = rows.collect();
    let mut out = String::new();
    if rows.len() > UNFILTERED {
        let _ = write!(
            out,
            "<p class=\"search\"><label>Filter <input type=\"search\" aria-controls=\"{id}\" data-count=\"{id}-count\" autocomplete=\"off\"></label> \
             <span id=\"{id}-count\" class=\"soft\" role=\"status\"></span></p>"
        );
    }
    let _ = write!(out, "{}<table id=\"{id}\" class=\"sortable\"><caption>{}</caption><thead><tr>", scrolls(caption), escape(caption));
    for (head, number) in heads {
        let class = if *number { " class=\"n\"" } else { "" };
        // Pictures have no order.
        let button = if *head == HISTOGRAM { (*head).to_owned() } else { format!("<button type=\"button\">{}</button>", escape(head)) };
        let _ = write!(out, "<th scope=\"col\"{class}>{button}</th>");
    }
    out.push_str("</tr></thead><tbody>");
    for row in rows {
        out.push_str("<tr>");
        for (i, (cell, (_, number))) in row.iter().zip(heads).enumerate() {
            let class = match (i, number) {
                (0, _) => " class=\"name\"",
                (_, true) => " class=\"n\"",
                _ => "",
            };
            // A missing number sorts last; text sorts by itself.
            let value = match (number, cell.value) {
                (true, Some(value)) => Cow::Owned(format!(" data-v=\"{value}\"")),
                (true, None) => Cow::Borrowed(" data-v=\"\""),
                _ => Cow::Borrowed(""),
            };
            let _ = write!(out, "<td{class}{value}>{}</td>", cell.html);
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    out
}

fn general(value: f64) -> String {
    units::general(value, 4)
}

/// Returns a tensor's name without the part up to its layer number.
fn kind_of(name: &str, layer: Option<u64>) -> String {
    let Some(layer) = layer else { return name.to_owned() };
    let number = layer.to_string();
    let parts: Vec<&str> = name.split('.').collect();
    let at = parts.iter().position(|part| *part == number);
    at.map_or_else(|| name.to_owned(), |at| parts[at + 1..].join("."))
}

/// A row of a heat map: a label, and pairs of column and value in ascending order.
type HeatRow = (String, Vec<(usize, f64)>);

/// The values of a heat map, and a note on omitted rows and columns.
struct Grid {
    columns: Vec<String>,
    rows: Vec<HeatRow>,
    left_out: String,
}

/// Returns a heat map of one value per kind of tensor and layer: the largest if there are several, as for experts.
///
/// At most [`LAYERS`] columns and [`KINDS`] rows: a hostile model may have as many of both as it has tensors.
fn by_kind<'t>(tensors: impl Iterator<Item = (&'t str, Option<u64>, Option<f64>)>) -> Grid {
    let mut rows: Vec<(String, BTreeMap<u64, f64>)> = Vec::new();
    let mut indices = HashMap::new();
    let mut layers = BTreeSet::new();
    for (name, layer, value) in tensors {
        let (Some(layer), Some(value)) = (layer, value.filter(|value| value.is_finite())) else { continue };
        let mut kind = kind_of(name, Some(layer));
        // Experts stored separately are one kind.
        if let Some((before, after)) = kind.split_once("experts.")
            && let Some((_, after)) = after.split_once('.')
        {
            kind = format!("{before}experts.*.{after}");
        }
        let kind = kind.strip_suffix(".weight").map(str::to_owned).unwrap_or(kind);
        layers.insert(layer);
        let index = *indices.entry(kind.clone()).or_insert_with(|| {
            rows.push((kind, BTreeMap::new()));
            rows.len() - 1
        });
        rows[index].1.entry(layer).and_modify(|cell| *cell = value.max(*cell)).or_insert(value);
    }
    let left_out = [left_out(rows.len(), KINDS, "kinds of tensors"), left_out(layers.len(), LAYERS, "layers")].concat();
    let layers: Vec<u64> = layers.into_iter().take(LAYERS).collect();
    let cells = |found: BTreeMap<u64, f64>| {
        found.into_iter().filter_map(|(layer, value)| Some((layers.binary_search(&layer).ok()?, value))).collect()
    };
    let rows = rows.into_iter().take(KINDS).map(|(kind, found)| (kind, cells(found))).collect();
    Grid { columns: layers.iter().map(u64::to_string).collect(), rows, left_out }
}

/// Returns a paragraph saying that only the first `most` of `all` are shown; empty if all are.
fn left_out(all: usize, most: usize, what: &str) -> String {
    if all <= most {
        return String::new();
    }
    format!("<p class=\"soft\">Only the first {} of {} {what} are shown.</p>", units::grouped(most as u64), units::grouped(all as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_no_markup() {
        assert_eq!(escape("<script>'\"&\u{202e}"), "&lt;script&gt;&#39;&quot;&amp;\\u{202e}");
    }

    #[test]
    fn kinds_lose_their_layer() {
        assert_eq!(kind_of("blk.3.attn_q.weight", Some(3)), "attn_q.weight");
        assert_eq!(kind_of("model.layers.10.mlp.up_proj.weight", Some(10)), "mlp.up_proj.weight");
        let grid = by_kind(
            [("l.0.experts.0.w1", Some(0), Some(1.0)), ("l.0.experts.1.w1", Some(0), Some(2.0)), ("l.2.x.weight", Some(2), Some(3.0))]
                .into_iter(),
        );
        assert_eq!((grid.columns, grid.left_out.as_str()), (vec!["0".to_owned(), "2".to_owned()], ""));
        assert_eq!(grid.rows, [("experts.*.w1".to_owned(), vec![(0, 2.0)]), ("x".to_owned(), vec![(1, 3.0)])]);
    }

    #[test]
    fn cells_are_made_only_where_there_are_tensors_and_few_are_drawn() {
        let names: Vec<String> = (0..30_000).map(|i| format!("blk.{i}.k{i}.weight")).collect();
        let grid = by_kind(names.iter().enumerate().map(|(i, name)| (name.as_str(), Some(i as u64), Some(1.0))));
        assert_eq!((grid.columns.len(), grid.rows.len()), (LAYERS, KINDS));
        assert_eq!(grid.rows.iter().map(|(_, cells)| cells.len()).sum::<usize>(), KINDS);
        assert!(grid.left_out.contains("200 of 30,000 kinds") && grid.left_out.contains("512 of 30,000 layers"), "{}", grid.left_out);
    }
}
