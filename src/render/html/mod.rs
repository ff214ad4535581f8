//! One self-contained page: no network, no scripts from elsewhere, readable in the dark, on a phone, on paper.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

use crate::base::{text, units};

mod charts;
mod model;
mod pair;

pub use model::model;
pub use pair::pair;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// How many rows a table of tensors has at the most: a page must stay small.
const ROWS: usize = 2000;

/// How many layers a chart has at the most: models have up to about 200.
const LAYERS: usize = 512;

/// How many kinds of tensors a heat map has at the most: models have up to about 60.
const KINDS: usize = 200;

/// Text of strangers, safe between tags and in attributes: control characters are shown, markup is none.
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

/// The whole page around its sections.
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

/// Names and values.
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

/// A cell: what is shown, as HTML, and the value that it is sorted by, if that is another.
struct Cell {
    html: String,
    value: Option<f64>,
}

impl Cell {
    fn text(text: &str) -> Self {
        Self { html: escape(text), value: None }
    }

    fn number(value: Option<f64>, shown: impl Fn(f64) -> String) -> Self {
        let value = value.filter(|value| value.is_finite());
        Self { html: value.map(|value| escape(&shown(value))).unwrap_or_default(), value }
    }

    fn html(html: String) -> Self {
        Self { html, value: None }
    }
}

/// A table that can be sorted by every column and filtered by words.
fn table(id: &str, caption: &str, heads: &[Head], rows: impl Iterator<Item = Vec<Cell>>) -> String {
    let mut out = format!(
        "<p class=\"search\"><label>Filter <input type=\"search\" aria-controls=\"{id}\" data-count=\"{id}-count\" autocomplete=\"off\"></label> \
         <span id=\"{id}-count\" class=\"soft\" role=\"status\"></span></p>\
         <div class=\"scroll\"><table id=\"{id}\" class=\"sortable\"><caption>{}</caption><thead><tr>",
        escape(caption)
    );
    for (head, number) in heads {
        let class = if *number { " class=\"n\"" } else { "" };
        let _ = write!(out, "<th scope=\"col\"{class}><button type=\"button\">{}</button></th>", escape(head));
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
            // A number that is not there sorts last; text sorts by itself.
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

/// The name of a tensor with its layer's number out, and the number.
fn kind_of(name: &str, layer: Option<u64>) -> String {
    let Some(layer) = layer else { return name.to_owned() };
    let number = layer.to_string();
    let parts: Vec<&str> = name.split('.').collect();
    let at = parts.iter().position(|part| *part == number);
    at.map_or_else(|| name.to_owned(), |at| parts[at + 1..].join("."))
}

/// A row of a heat map: a label, and the columns that have a number, rising, with it.
type HeatRow = (String, Vec<(usize, f64)>);

/// The numbers of a heat map, and what was left out of it.
struct Grid {
    columns: Vec<String>,
    rows: Vec<HeatRow>,
    left_out: String,
}

/// Rows of a heat map: a number for each kind of tensor in each layer that has it; the largest of several (experts, say).
///
/// At most [`LAYERS`] columns and [`KINDS`] rows: a hostile model may have as many of both as it has tensors.
fn by_kind<'t>(tensors: impl Iterator<Item = (&'t str, Option<u64>, Option<f64>)>) -> Grid {
    let mut rows: Vec<(String, BTreeMap<u64, f64>)> = Vec::new();
    let mut places = HashMap::new();
    let mut layers = BTreeSet::new();
    for (name, layer, value) in tensors {
        let (Some(layer), Some(value)) = (layer, value.filter(|value| value.is_finite())) else { continue };
        let mut kind = kind_of(name, Some(layer));
        // Experts that are stored one by one are one kind.
        if let Some((before, after)) = kind.split_once("experts.")
            && let Some((_, after)) = after.split_once('.')
        {
            kind = format!("{before}experts.*.{after}");
        }
        let kind = kind.strip_suffix(".weight").map(str::to_owned).unwrap_or(kind);
        layers.insert(layer);
        let place = *places.entry(kind.clone()).or_insert_with(|| {
            rows.push((kind, BTreeMap::new()));
            rows.len() - 1
        });
        rows[place].1.entry(layer).and_modify(|cell| *cell = value.max(*cell)).or_insert(value);
    }
    let left_out = [left_out(rows.len(), KINDS, "kinds of tensors"), left_out(layers.len(), LAYERS, "layers")].concat();
    let layers: Vec<u64> = layers.into_iter().take(LAYERS).collect();
    let cells = |found: BTreeMap<u64, f64>| {
        found.into_iter().filter_map(|(layer, value)| Some((layers.binary_search(&layer).ok()?, value))).collect()
    };
    let rows = rows.into_iter().take(KINDS).map(|(kind, found)| (kind, cells(found))).collect();
    Grid { columns: layers.iter().map(u64::to_string).collect(), rows, left_out }
}

/// A paragraph that says how many of `all` are not shown, where only the first `most` are.
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
