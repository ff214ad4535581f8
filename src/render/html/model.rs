//! The page on one model.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::charts::{self, Heat, Stacks};
use super::{Cell, HISTOGRAM, LAYERS, ROWS, breakable, by_kind, escape, facts, general, left_out, page, table};
use crate::base::finding::Severity;
use crate::base::units;
use crate::family::components::{Component, classify};
use crate::model::PackingSummary;
use crate::ops::count::Count;
use crate::ops::fit::Summary;
use crate::ops::info::{Info, hyperparameter_in_words};
use crate::ops::origin::NamedFileType;
use crate::ops::overview::Overview;
use crate::ops::stats::{PERCENTILES, Stats, TensorStats};

/// The number of values of a hyperparameter that are shown.
const SHOWN_VALUES: usize = 8;

/// Returns the HTML page on one model.
pub fn model(data: &Overview) -> String {
    let tensors = data.stats.tensors.as_deref().unwrap_or_default();
    let mut body = head(&data.info, &data.count);
    body.push_str(&parameters(data, tensors));
    body.push_str(&types(tensors));
    body.push_str(&scales(tensors));
    body.push_str(&findings(&data.stats));
    body.push_str(&values(tensors));
    body.push_str(&metadata(&data.metadata));
    page(&format!("{} - weigh", title(&data.info)), &body)
}

pub(super) fn title(info: &Info) -> &str {
    info.name.as_deref().or(info.architecture.as_deref()).unwrap_or(&info.path)
}

fn head(info: &Info, count: &Count) -> String {
    let mut out = format!(
        "<h1>{}</h1><p class=\"lead\">{} parameters, {}, {}</p>",
        escape(title(info)),
        escape(&info.label),
        escape(&units::bytes(info.bytes)),
        escape(&info.dtypes.iter().take(4).map(|row| row.dtype.clone()).collect::<Vec<_>>().join(", "))
    );
    out.push_str(&facts(&info_facts(info, count)));
    out
}

/// Facts of a model: names and values.
pub(super) type Facts = Vec<(&'static str, String)>;

/// Returns the facts of `info`.
pub(super) fn info_facts(info: &Info, count: &Count) -> Facts {
    let number = |value: Option<u64>| value.map(units::grouped).unwrap_or_default();
    let mut rows = vec![
        ("file", info.path.clone()),
        ("format", info.format.name().to_owned()),
        ("architecture", info.architecture.clone().unwrap_or_default()),
        ("parameters", info.parameters.map_or_else(|| info.label.clone(), units::grouped)),
        ("active parameters", number(info.active_parameters.filter(|active| Some(*active) != info.parameters))),
        ("in embeddings", units::grouped(count.embedding_parameters)),
        ("file size", units::bytes(info.bytes)),
        ("tensor size", info.tensor_bytes.map_or_else(|| "unknown".to_owned(), units::bytes)),
        ("bits per weight", info.bits_per_weight.map_or_else(|| "unknown".to_owned(), |bits| units::general(bits, 4))),
        ("not counted", info.left_out.join(", ")),
        ("files", info.files.len().to_string()),
        ("tensors", units::grouped(info.dtypes.iter().map(|row| row.tensors).sum())),
        ("file type", info.file_type.as_ref().map(NamedFileType::in_words).unwrap_or_default()),
        ("packed", info.packing.as_ref().map(packed).unwrap_or_default()),
        ("licence", info.license_in_words().unwrap_or_else(|| "not stated".to_owned())),
    ];
    if let Some(tokenizer) = &info.tokenizer {
        let tokens = tokenizer.tokens.map(|tokens| format!(", {} tokens", units::grouped(tokens))).unwrap_or_default();
        rows.push(("tokenizer", format!("{}{tokens}", tokenizer.kind_in_words().unwrap_or_default())));
    }
    let shown = info.hyperparameters.iter().filter(|(key, _)| *key != "width"); // `hidden_size` is the same
    let words = |key: &str| key.replace('_', " ").replace("kv heads", "KV heads").replace("rope", "RoPE");
    let known: Vec<String> = shown.map(|(key, value)| format!("{} {}", words(key), hyperparameter_in_words(value, SHOWN_VALUES))).collect();
    rows.push(("memory", info.memory.as_ref().map(Summary::in_words).unwrap_or_default()));
    rows.push(("hyperparameters", known.join(", ")));
    rows
}

/// Returns the table of metadata.
fn metadata(entries: &[(String, String)]) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let rows = entries.iter().take(ROWS).map(|(key, value)| vec![Cell::name(key), Cell::text(value)]);
    let table = table("metadata", "Long values and arrays are shortened.", &[("key", false), ("value", false)], rows);
    format!("<h2>Metadata</h2>{table}{}", left_out(entries.len(), ROWS, "keys"))
}

/// Returns how the weights are packed, and how many cannot be unpacked.
fn packed(packing: &PackingSummary) -> String {
    packing.warning().unwrap_or_else(|| format!("by {}", packing.method))
}

/// Returns a bar for the whole model, then one per layer on a separate scale: embeddings would dwarf them.
fn all_and_layers(what: [&str; 2], parts: &[String], rows: Vec<(Option<u64>, Vec<f64>)>, write: fn(f64) -> String) -> String {
    let mut all = vec![0.0; parts.len()];
    for (_, sizes) in &rows {
        all.iter_mut().zip(sizes).for_each(|(sum, size)| *sum += size);
    }
    let total = write(all.iter().sum());
    let mut out = charts::legend(parts);
    out.push_str(&charts::stacks(&Stacks { title: what[0], parts, rows: vec![("all".to_owned(), all, total)] }));
    let layers: Vec<_> = rows.into_iter().filter_map(|(layer, sizes)| Some((layer?, sizes))).collect();
    let of = layers.len();
    let layers = layers.into_iter().take(LAYERS).map(|(layer, sizes)| {
        let sum = write(sizes.iter().sum());
        (layer.to_string(), sizes, sum)
    });
    if of > 0 {
        let chart = charts::stacks(&Stacks { title: what[1], parts, rows: layers.collect() });
        let left_out = left_out(of, LAYERS, "layers");
        let _ = write!(out, "<p class=\"soft\">By layer (tensors outside layers not shown):</p>{chart}{left_out}");
    }
    out
}

/// Returns for each layer the sums over its tensors by part.
fn by_layer<P: Ord + Copy>(tensors: &[TensorStats], parts: &[P], of: impl Fn(&TensorStats) -> (P, f64)) -> Vec<(Option<u64>, Vec<f64>)> {
    let mut layers: BTreeMap<(bool, Option<u64>), Vec<f64>> = BTreeMap::new();
    for tensor in tensors {
        let layer = classify(&tensor.name).layer;
        let row = layers.entry((layer.is_none(), layer)).or_insert_with(|| vec![0.0; parts.len()]);
        let (part, size) = of(tensor);
        if let Some(at) = parts.iter().position(|other| *other == part) {
            row[at] += size;
        }
    }
    layers.into_iter().map(|((_, layer), sizes)| (layer, sizes)).collect()
}

fn parameters(data: &Overview, tensors: &[TensorStats]) -> String {
    let count = &data.count;
    let parts: Vec<Component> = count.by_component.iter().map(|row| row.component).collect();
    let total = count.by_component.iter().map(|row| row.parameters).sum::<u64>().max(1) as f64;
    let names: Vec<String> = count
        .by_component
        .iter()
        .map(|row| {
            let share = row.parameters as f64 / total * 100.0;
            format!("{} {} ({share:.1}%)", row.component.name().replace('_', " "), units::label(row.parameters))
        })
        .collect();
    let rows = by_layer(tensors, &parts, |tensor| (data.components.classify(&tensor.name).component, tensor.summary.elements as f64));
    let what = ["Parameters by component", "Parameters of each layer by component"];
    format!("<h2>Parameters</h2>{}", all_and_layers(what, &names, rows, |size| units::label(size as u64)))
}

fn types(tensors: &[TensorStats]) -> String {
    let mut sums: BTreeMap<String, (u64, f64)> = BTreeMap::new();
    let bytes = |tensor: &TensorStats| tensor.bytes as f64;
    for tensor in tensors {
        let sum = sums.entry(tensor.dtype.to_string()).or_default();
        (sum.0, sum.1) = (sum.0 + 1, sum.1 + bytes(tensor));
    }
    let mut sums: Vec<(String, (u64, f64))> = sums.into_iter().collect();
    sums.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    let parts: Vec<usize> = (0..sums.len()).collect();
    let part_of = |tensor: &TensorStats| sums.iter().position(|(name, _)| *name == tensor.dtype.to_string()).unwrap_or(0);
    let rows = by_layer(tensors, &parts, |tensor| (part_of(tensor), bytes(tensor)));
    let name = |(name, (tensors, bytes)): &(String, (u64, f64))| {
        format!("{name}: {}, {}", units::counted(*tensors, "tensor"), units::bytes(*bytes as u64))
    };
    let names: Vec<String> = sums.iter().map(name).collect();
    let what = ["Bytes by type", "Bytes of each layer by type"];
    format!("<h2>Types</h2>{}", all_and_layers(what, &names, rows, |size| units::bytes(size as u64)))
}

fn scales(tensors: &[TensorStats]) -> String {
    let rms = |tensor: &TensorStats| Some(tensor.summary.l2 / (tensor.summary.elements.max(1) as f64).sqrt());
    let outlier = |tensor: &TensorStats| Some(tensor.summary.abs_max / rms(tensor)?);
    let mut out = String::new();
    type Measure<'m> = &'m dyn Fn(&TensorStats) -> Option<f64>;
    let charts: [(&str, &str, Measure<'_>); 2] = [
        ("Scale", "Root mean square of the values, by kind of tensor and layer.", &rms),
        ("Outliers", "Largest magnitude over the root mean square, by kind of tensor and layer.", &outlier),
    ];
    for (heading, what, measure) in charts {
        let grid = by_kind(tensors.iter().map(|tensor| (tensor.name.as_str(), classify(&tensor.name).layer, measure(tensor))));
        if grid.rows.is_empty() {
            continue;
        }
        let chart = Heat { title: what, columns: grid.columns, rows: grid.rows, write: |value| units::general(value, 3), log: true };
        let _ = write!(out, "<h2>{heading}</h2><p class=\"soft\">{what}</p>{}{}", charts::heat(&chart), grid.left_out);
    }
    out
}

fn findings(stats: &Stats) -> String {
    if stats.findings.is_empty() {
        return "<h2>Worth a look</h2><p>Nothing stands out.</p>".to_owned();
    }
    let mut out = String::from("<h2>Worth a look</h2><ul>");
    for finding in stats.findings.iter().take(ROWS) {
        let word = match finding.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let tensor = finding.tensor.as_deref().unwrap_or_default();
        let _ = write!(
            out,
            "<li><span class=\"{word}\">{word}</span> <code>{}</code> {}: {}</li>",
            escape(finding.code),
            escape(tensor),
            escape(&finding.message)
        );
    }
    out.push_str("</ul>");
    out.push_str(&left_out(stats.findings.len(), ROWS, "findings"));
    out
}

/// Returns the name with an expandable histogram and percentiles.
fn details(tensor: &TensorStats) -> String {
    let summary = &tensor.summary;
    let linear = &summary.histogram.linear;
    if summary.min.is_nan() {
        return breakable(&tensor.name);
    }
    let percentiles =
        PERCENTILES.iter().zip(&summary.percentiles.values).map(|(percent, value)| format!("{percent}%: {}", general(*value)));
    let percentiles = percentiles.collect::<Vec<_>>().join(", ");
    let error = match summary.percentiles.relative_error {
        0.0 => String::new(),
        error => format!(" (each within {}%)", units::general(error * 100.0, 2)),
    };
    let chart = charts::histogram(&linear.counts.to_vec(), linear.low, linear.high, &format!("Histogram of {}", tensor.name));
    format!(
        "<details><summary>{}</summary><div>{chart}<p class=\"soft\">percentiles {}{error}; kurtosis {}, zeros {}</p></div></details>",
        breakable(&tensor.name),
        escape(&percentiles),
        general(summary.kurtosis),
        summary.zeros.map(units::grouped).unwrap_or_default()
    )
}

fn values(tensors: &[TensorStats]) -> String {
    let mut largest: Vec<usize> = (0..tensors.len()).collect();
    if tensors.len() > ROWS {
        largest.sort_by_key(|&i| std::cmp::Reverse(tensors[i].summary.elements));
        largest.truncate(ROWS);
        largest.sort_unstable();
    }
    let heads = [
        ("name", false),
        ("type", false),
        ("shape", false),
        ("elements", true),
        (HISTOGRAM, false),
        ("min", true),
        ("max", true),
        ("mean", true),
        ("std", true),
        ("zeros %", true),
        ("NaN, inf", true),
    ];
    let rows = largest.iter().map(|&i| {
        let (tensor, summary) = (&tensors[i], &tensors[i].summary);
        let elements = summary.elements as f64;
        let odd = summary.nan.zip(summary.inf).map(|(nan, inf)| (nan + inf) as f64);
        vec![
            Cell::html(details(tensor)),
            Cell::text(&tensor.dtype.to_string()),
            Cell::html(tensor.shape.iter().map(u64::to_string).collect::<Vec<_>>().join("&nbsp;x&nbsp;")),
            Cell::number(Some(elements), |_| units::grouped(summary.elements)),
            Cell::html(if summary.min.is_nan() { String::new() } else { charts::spark(&summary.shape.to_vec()) }),
            Cell::number(Some(summary.min), general),
            Cell::number(Some(summary.max), general),
            Cell::number(Some(summary.mean), general),
            Cell::number(Some(summary.std), general),
            Cell::number(summary.zeros.map(|zeros| zeros as f64 / elements.max(1.0) * 100.0), |share| units::general(share, 3)),
            Cell::number(odd, |odd| units::general(odd, 6)),
        ]
    });
    let caption = if tensors.len() > ROWS {
        format!(
            "The {} largest of {} tensors. Click a name for its histogram.",
            units::grouped(ROWS as u64),
            units::grouped(tensors.len() as u64)
        )
    } else {
        "All tensors. Click a name for its histogram; sparklines span percentiles 0.1 to 99.9.".to_owned()
    };
    format!("<h2>Tensors</h2>{}", table("tensors", &caption, &heads, rows))
}
