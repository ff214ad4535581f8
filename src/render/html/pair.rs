//! The page comparing two models.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value as Json;

use super::charts::{self, Heat};
use super::model::{Facts, info_facts, title};
use super::{Cell, ROWS, by_kind, escape, general, left_out, page, scrolls, table};
use crate::base::units;
use crate::ops::diff::{Diff, TensorRow};
use crate::ops::enumerations;
use crate::ops::info::Info;
use crate::ops::overview::Comparison;

/// Returns the HTML page comparing two models.
pub fn pair(data: &Comparison) -> String {
    let [a, b] = &data.infos;
    let named = |info: &Info| if title(a) == title(b) { format!("{} ({})", title(info), info.path) } else { title(info).to_owned() };
    let names = [named(a), named(b)];
    let mut body = format!(
        "<h1>{} and {}</h1><p class=\"lead\">{}</p>",
        escape(&names[0]),
        escape(&names[1]),
        escape(&sentence(&data.diff.verdict.text))
    );
    for note in &data.diff.notes {
        let _ = write!(body, "<p class=\"soft\">{}</p>", escape(&sentence(note)));
    }
    let facts = [(&data.infos[0], &data.counts[0]), (&data.infos[1], &data.counts[1])].map(|(info, count)| info_facts(info, count));
    body.push_str(&side_by_side([title(a), title(b)], &facts));
    body.push_str(&components(&data.diff));
    body.push_str(&heat(&data.diff.tensors));
    body.push_str(&rest(&data.diff));
    body.push_str(&tensors(&data.diff.tensors));
    page(&format!("{} and {} - weigh", names[0], names[1]), &body)
}

/// Returns the facts of both models in a table; rows that differ stand out.
fn side_by_side(names: [&str; 2], facts: &[Facts; 2]) -> String {
    let [first, second] = names.map(escape);
    let mut out = format!(
        "<h2>The models</h2>{}<table class=\"pair\"><thead><tr><td></td><th scope=\"col\">First: {first}</th>\
         <th scope=\"col\">Second: {second}</th></tr></thead><tbody>",
        scrolls("The models")
    );
    let mut names: Vec<&str> = facts[0].iter().map(|(name, _)| *name).collect();
    names.extend(facts[1].iter().map(|(name, _)| *name).filter(|name| !facts[0].iter().any(|(other, _)| other == name)));
    for name in names {
        let [a, b] = [0, 1].map(|model| facts[model].iter().find(|(other, _)| *other == name).map_or("", |(_, value)| value));
        if a.is_empty() && b.is_empty() {
            continue;
        }
        let class = if a == b { "" } else { " class=\"differs\"" };
        let _ = write!(out, "<tr{class}><th scope=\"row\">{name}</th><td>{}</td><td>{}</td></tr>", escape(a), escape(b));
    }
    out.push_str("</tbody></table></div>");
    out
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).chain(['.']).collect()).unwrap_or_default()
}

fn percent(value: f64) -> String {
    units::percent(value, 3)
}

fn components(diff: &Diff) -> String {
    let mut out = format!(
        "<h2>Change by component</h2>{}<table><thead><tr><th scope=\"col\">component</th>\
         <th scope=\"col\" class=\"n\">tensors</th><th scope=\"col\" class=\"n\">differ</th><th scope=\"col\" class=\"n\">relative error</th></tr></thead><tbody>",
        scrolls("Change by component")
    );
    for change in &diff.verdict.components {
        let error = change.relative_rmse.map(percent).unwrap_or_default();
        let name = change.component.name().replace('_', " ");
        let _ = write!(
            out,
            "<tr><th scope=\"row\">{name}</th><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{error}</td></tr>",
            change.tensors, change.changed
        );
    }
    out.push_str("</tbody></table></div>");
    out
}

fn heat(tensors: &[TensorRow]) -> String {
    let grid = by_kind(tensors.iter().map(|row| (row.name.as_str(), row.layer, row.relative_rmse)));
    if grid.rows.is_empty() {
        return String::new();
    }
    let what = "Relative root mean square of the difference, in percent, by kind of tensor and layer.";
    let write = |value| units::percent(value, 2).trim_end_matches('%').to_owned();
    let chart = Heat { title: what, columns: grid.columns, rows: grid.rows, write, log: true };
    format!("<h2>Change by layer</h2><p class=\"soft\">{what}</p>{}{}", charts::heat(&chart), grid.left_out)
}

/// Returns the tensors in one model only, the tensors whose shapes differ, and the differing metadata.
fn rest(diff: &Diff) -> String {
    let mut out = String::new();
    for (heading, names) in [("Only in the first model", &diff.only_a), ("Only in the second model", &diff.only_b)] {
        if !names.is_empty() {
            let _ = write!(out, "<h2>{heading}</h2><ul>");
            for name in names.iter().take(ROWS) {
                let _ = write!(out, "<li>{}</li>", escape(name));
            }
            out.push_str("</ul>");
            out.push_str(&left_out(names.len(), ROWS, "tensors"));
        }
    }
    if !diff.shapes.is_empty() {
        out.push_str("<h2>Shapes differ</h2><ul>");
        for row in diff.shapes.iter().take(ROWS) {
            let shared = row.rows_in_words().map(|words| format!("; {words}")).unwrap_or_default();
            let _ = write!(out, "<li>{}: {:?} and {:?}{shared}</li>", escape(&row.name), row.shape_a, row.shape_b);
        }
        out.push_str("</ul>");
        out.push_str(&left_out(diff.shapes.len(), ROWS, "tensors"));
    }
    if !diff.metadata.is_empty() {
        let heads = [("key", false), ("first", false), ("second", false)];
        let rows = diff.metadata.iter().take(ROWS).map(|row| {
            let [a, b] = [(&row.a, row.name_a), (&row.b, row.name_b)].map(|(value, name)| metadata_value(value, name, &row.names));
            vec![Cell::name(&row.key), Cell::text(&a), Cell::text(&b)]
        });
        let _ = write!(out, "<h2>Metadata</h2>{}", table("metadata", "Keys that differ.", &heads, rows));
        out.push_str(&left_out(diff.metadata.len(), ROWS, "keys"));
    }
    out
}

fn metadata_value(value: &Json, name: Option<&str>, names: &BTreeMap<i64, &str>) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => text.chars().take(400).collect(),
        array @ Json::Object(_) => enumerations::annotate(array.to_string().chars().take(400).collect(), None, names),
        other => enumerations::annotate(other.to_string(), name, &BTreeMap::new()),
    }
}

fn tensors(tensors: &[TensorRow]) -> String {
    let heads = [
        ("name", false),
        ("first", false),
        ("second", false),
        ("equal", false),
        ("elements", true),
        ("changed", true),
        ("max abs", true),
        ("rmse", true),
        ("rel. rmse", true),
        ("cosine", true),
        ("SNR dB", true),
    ];
    let more = left_out(tensors.len(), ROWS, "tensors");
    let rows = tensors.iter().take(ROWS).map(|row| {
        vec![
            Cell::name(&row.name),
            Cell::text(&row.dtype_a.to_string()),
            Cell::text(&row.dtype_b.to_string()),
            Cell::text(match row.equal {
                Some(true) => "yes",
                Some(false) => "no",
                None => "",
            }),
            Cell::number(Some(row.elements as f64), |_| units::grouped(row.elements)),
            Cell::number(row.changed, percent),
            Cell::number(row.max_abs, general),
            Cell::number(row.rmse, general),
            Cell::number(row.relative_rmse, percent),
            Cell::number(row.cosine, |value| units::general(value, 6)),
            Cell::number(row.snr_db, general),
        ]
    });
    format!("<h2>Tensors</h2>{}{more}", table("tensors", "Tensors in both models.", &heads, rows))
}
