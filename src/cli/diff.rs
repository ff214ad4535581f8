//! `weigh diff`

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value as Json;

use crate::base::{Error, text, units};
use crate::cli::context::{Context, Outcome, Status};
use crate::cli::options::{SelectionArgs, not_negative};
use crate::ops::diff::{self, Diff, Kind, Options, TensorRow, Tolerance, Unlisted};
use crate::ops::enumerations;
use crate::render::{Audience, Cell, Column, Output, Report, Section, Tone};

/// Compare two models: names, shapes, types, metadata and values
///
/// Tensors are matched by canonical name across formats, types and shards, so that a Hugging Face folder can be compared with its GGUF.
/// Two LoRA adapters are compared by their updates; an adapter and a model are compared after merging.
/// Exit status: 0 identical, or within --tolerance; 1 different, even if only in format, types or metadata; 2 error.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weigh diff model-f16.gguf model-q4_k_m.gguf
  weigh diff base-folder tuned-folder --filter '*.mlp.*'
  weigh diff folder model.gguf --tolerance 0.01
  weigh diff a.safetensors b.safetensors --quick")]
pub(super) struct Args {
    /// First model
    a: PathBuf,
    /// Second model
    b: PathBuf,
    /// Decode no values: compare names, shapes, types, metadata, and bytes if types are equal
    #[arg(long)]
    quick: bool,
    /// Accept a relative RMSE of up to X per tensor; format, types and metadata may then differ
    #[arg(long, value_name = "X", conflicts_with = "quick", allow_negative_numbers = true, value_parser = not_negative)]
    tolerance: Option<f64>,
    /// List equal tensors too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    selection: SelectionArgs,
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    let selection = args.selection.resolve()?;
    if args.tolerance.is_some_and(|tolerance| !(0.0..f64::INFINITY).contains(&tolerance)) {
        return Err(Error::argument("expected a tolerance of 0 or more").into());
    }
    let [a, b] = context.open_both(&args.a, &args.b)?;
    let progress = context.progress(&[]);
    let for_people = matches!(context.output(), Output::Table | Output::Markdown);
    let options = Options {
        quick: args.quick,
        tolerance: args.tolerance,
        selection: Some(&selection),
        differing: for_people && !args.all,
        progress: Some(&|bytes, all| progress.add(bytes, all)),
    };
    let mut diff = diff::diff(&a, &b, &options)?;
    for (path, packing) in [&args.a, &args.b].into_iter().zip(&diff.packings) {
        context.warn_packing(path, packing.as_ref());
    }
    diff.path_b = args.b.to_string_lossy().into_owned();
    context.emit(&diff, &args.a)?;
    Ok(if diff.differ { Status::Found } else { Status::Done })
}

/// The number of names of a list shown to people.
const SHOWN: usize = 20;

fn figure(value: Option<f64>, digits: usize) -> Cell<'static> {
    Cell::maybe(value, |value| Cell::float(value, digits))
}

fn cells(row: &TensorRow) -> Vec<Cell<'_>> {
    let equal = match row.equal {
        None => Cell::empty(),
        Some(true) => Cell::flag(true).tone(Tone::Good),
        Some(false) => Cell::flag(false).tone(Tone::Caution),
    };
    vec![
        Cell::text(row.name.clone()),
        Cell::text(row.dtype_a.to_string()),
        Cell::text(row.dtype_b.to_string()),
        equal,
        Cell::maybe(row.changed, Cell::share),
        figure(row.max_abs, 4),
        figure(row.rmse, 4),
        figure(row.relative_rmse, 4),
        figure(row.cosine, 6),
        figure(row.snr_db, 4),
        figure(row.l2_a, 4),
        figure(row.l2_b, 4),
    ]
}

fn value<'a>(value: &Json, name: Option<&str>, names: &BTreeMap<i64, &str>) -> Cell<'a> {
    let text_of = |value: &Json| match value {
        Json::String(value) => text::shorten_to(value, 200).into_owned(),
        other => other.to_string(),
    };
    match value {
        Json::Null => Cell::empty(),
        Json::Object(array) => {
            let values =
                array.get("values").and_then(Json::as_array).map(|values| values.iter().map(text_of).collect::<Vec<_>>().join(", "));
            let from = array.get("from").and_then(Json::as_u64).map(|from| format!(" from {from}")).unwrap_or_default();
            let of = array.get("type").and_then(Json::as_str).unwrap_or_default();
            let len = array.get("len").and_then(Json::as_u64).unwrap_or_default();
            let text = format!("{} {of}{from}: {}", units::grouped(len), values.unwrap_or_default());
            Cell::text(enumerations::annotate(text, None, names))
        }
        other => Cell::text(enumerations::annotate(text_of(other), name, &BTreeMap::new())),
    }
}

fn names<'a>(key: &'static str, title: &str, names: &'a [String]) -> Option<Section<'a>> {
    let more = names.len().saturating_sub(SHOWN);
    let rows = names.iter().take(SHOWN).map(|name| vec![Cell::text(name.clone())]);
    let table = Section::table(key, vec![Column::name("name")]).titled(title).rows(rows).only(Audience::People);
    (!names.is_empty()).then(|| if more > 0 { table.footer(format!("{more} more")) } else { table })
}

impl Report for Diff {
    const ROWS: Option<&'static str> = Some("tensors");

    fn sections(&self) -> Vec<Section<'_>> {
        let diff = self;
        let mut sections = Vec::new();
        // For adapters, people first want the size of the updates.
        let norm = |key: &'static str, title: &'static str| {
            let column = Column::number(key).titled(title);
            if diff.adapters { column } else { column.only(Audience::Scripts) }
        };
        let columns = vec![
            Column::name("name"),
            Column::text("dtype_a").titled("a"),
            Column::text("dtype_b").titled("b"),
            Column::text("equal").optional(),
            Column::number("changed").optional_after(1),
            Column::number("max_abs"),
            Column::number("rmse").optional(),
            Column::number("relative_rmse").titled("rel. rmse"),
            Column::number("cosine").optional(),
            Column::number("snr_db").titled("snr dB").optional_after(2),
            norm("l2_a", "norm a"),
            norm("l2_b", "norm b"),
        ];
        let mut table = Section::table("tensors", columns).rows(diff.tensors.iter().map(cells));
        let Unlisted { equal, beyond } = diff.unlisted;
        let listed = diff.tensors.len() as u64;
        let mut more = Vec::new();
        more.extend((beyond > 0).then(|| format!("{} of {} listed", units::grouped(listed), units::grouped(listed + beyond))));
        let them = if equal == 1 { ("is", "it") } else { ("are", "them") };
        more.extend((equal > 0).then(|| format!("{} {} equal (--all lists {})", units::counted(equal, "more tensor"), them.0, them.1)));
        if !more.is_empty() {
            table = table.footer(more.join("; "));
        }
        sections.push(if listed + beyond > 0 { table } else { table.only(Audience::Scripts) });
        sections.extend(names("only_a", "Only in the first", &diff.only_a));
        sections.extend(names("only_b", "Only in the second", &diff.only_b));
        if !diff.shapes.is_empty() {
            let shared = diff.shapes.iter().any(|row| row.shared.is_some());
            let rows = diff.shapes.iter().map(|row| {
                let mut cells = vec![Cell::text(row.name.clone()), Cell::shape(&row.shape_a), Cell::shape(&row.shape_b)];
                cells.extend(shared.then(|| Cell::maybe(row.rows_in_words(), Cell::text)));
                cells
            });
            let mut columns = vec![Column::name("name"), Column::text("a"), Column::text("b")];
            columns.extend(shared.then(|| Column::text("shared").titled("shared rows")));
            sections.push(Section::table("shapes", columns).titled("Shapes differ").rows(rows).only(Audience::People));
        }
        if !diff.metadata.is_empty() {
            let rows = diff.metadata.iter().map(|row| {
                let (a, b) = (value(&row.a, row.name_a, &row.names), value(&row.b, row.name_b, &row.names));
                vec![Cell::text(row.key.clone()), a, b]
            });
            let columns = vec![Column::name("key"), Column::value("a"), Column::value("b")];
            sections.push(Section::table("metadata", columns).titled("Metadata").rows(rows).only(Audience::People));
        }
        let changed: Vec<_> = diff.verdict.components.iter().filter(|change| change.changed > 0).collect();
        if !changed.is_empty() {
            let rows = changed.iter().map(|change| {
                let of = format!("{} of {}", change.changed, change.tensors);
                vec![Cell::text(change.component.name()), Cell::text(of), figure(change.relative_rmse, 4)]
            });
            let columns = vec![Column::text("component"), Column::number("changed"), Column::number("relative_rmse").titled("rel. rmse")];
            sections.push(Section::table("components", columns).titled("Change by component").rows(rows).only(Audience::People));
        }
        sections.extend(diff.notes.iter().map(|note| Section::prose(text::escape(note).into_owned())));
        let mark = match diff.verdict.kind {
            Kind::Identical => "=",
            Kind::SameWeights | Kind::Rounded => "≈",
            _ if !diff.differ => "≈",
            _ => "≠",
        };
        let mut lines = format!("{mark} {}", diff.verdict.text);
        if let Some(tolerance) = &diff.tolerance {
            lines.push('\n');
            lines.push_str(&tolerance_in_words(tolerance, diff.compared.tensors));
        }
        sections.push(Section::prose(lines));
        sections
    }
}

/// Formats the tolerance check: the largest error and its tensor, and how many tensors exceed the tolerance.
fn tolerance_in_words(tolerance: &Tolerance, tensors: u64) -> String {
    let largest = match (&tolerance.tensor, tolerance.largest) {
        (Some(tensor), Some(error)) => {
            format!("the largest relative error is {}, in {}", units::general(error, 3), text::escape(tensor))
        }
        (None, Some(_)) => "no value differs".to_owned(),
        (_, None) => "no relative error is known".to_owned(),
    };
    let limit = units::general(tolerance.limit, 6);
    if tolerance.within {
        return format!("within the tolerance of {limit}: {largest}");
    }
    let which = match tolerance.beyond {
        0 => "tensors or shapes differ".to_owned(),
        beyond => format!("{} of {}", units::grouped(beyond), units::counted(tensors, "tensor")),
    };
    format!("beyond the tolerance of {limit}: {which}; {largest}")
}
