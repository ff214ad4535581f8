//! `weigh stats`

use std::path::PathBuf;

use clap::ValueEnum;

use crate::base::finding::Severity;
use crate::base::{Error, text, units};
use crate::cli::context::{Context, Outcome};
use crate::cli::options::{SelectionArgs, not_negative};
use crate::ops::part::Part;
use crate::ops::stats::{self, GroupBy, Joined, Options, PERCENTILES, PartOfStats, Stats, Summary};
use crate::render::{Audience, Cell, Column, Output, Report, Section, Tone, sparkline};

/// Compute statistics of the values: extremes, moments, percentiles, histograms, anomalies
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weigh stats model.gguf --filter 'blk.0.*'
  weigh stats folder --by layer
  weigh stats model.safetensors --filter lm_head.weight --per-row --format csv
  weigh stats huge-folder --sample
  weigh stats huge-folder --part 2/7 --json > 2.json   (on one of seven machines)
  weigh stats --join [1-7].json --json                  (the same as of the whole)")]
pub(super) struct Args {
    /// Model: a file, a folder or one part of a set; with --join, the files of the parts
    #[arg(required = true)]
    path: Vec<PathBuf>,
    /// Group statistics by
    #[arg(long, value_enum, value_name = "GROUP", default_value = "tensor", hide_default_value = true)]
    by: ByArg,
    /// Statistics of each row (output channel) of one tensor
    #[arg(long, conflicts_with_all = ["by", "sample"])]
    per_row: bool,
    /// Read only a sample: about a million elements of each tensor, evenly spread
    #[arg(long)]
    sample: bool,
    /// Count values with a magnitude below X as sparse
    #[arg(long, value_name = "X", default_value_t = 1e-6, allow_negative_numbers = true, value_parser = not_negative)]
    threshold: f64,
    /// Report rows whose largest magnitude is more than K times the median row's
    #[arg(long, value_name = "K", default_value_t = stats::OUTLIER_ROWS, allow_negative_numbers = true, value_parser = not_negative)]
    outlier: f64,
    /// Measure only part I of N of the tensors, as JSON with exact sums for --join
    #[arg(long, value_name = "I/N", conflicts_with_all = ["by", "per_row"])]
    part: Option<Part>,
    /// Join the parts in the given files into the statistics of the whole model
    #[arg(long, conflicts_with_all = ["by", "per_row", "sample", "threshold", "outlier", "stored", "part", "filter", "exclude", "sort", "reverse", "limit"])]
    join: bool,
    /// Measure packed weights (GPTQ, AWQ ...) as stored instead of unpacking them
    #[arg(long)]
    stored: bool,
    #[command(flatten)]
    selection: SelectionArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ByArg {
    Tensor,
    Layer,
    Component,
    Dtype,
    Model,
}

impl ByArg {
    fn resolve(self) -> GroupBy {
        match self {
            Self::Tensor => GroupBy::Tensor,
            Self::Layer => GroupBy::Layer,
            Self::Component => GroupBy::Component,
            Self::Dtype => GroupBy::DType,
            Self::Model => GroupBy::Model,
        }
    }
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    if args.join {
        let joined = stats::join(&args.path)?;
        return context.emit(&joined, &joined.path);
    }
    if args.part.is_some() && (args.path.len() > 1 || context.output() != Output::Json) {
        return Err(Error::argument("--part takes one model and writes JSON: add --json").into());
    }
    let selection = args.selection.resolve()?;
    context.each(&args.path, |context, path| {
        let reader = context.open(path)?;
        let progress = context.progress(&args.path);
        let options = Options {
            selection: Some(&selection),
            by: args.by.resolve(),
            stored: args.stored,
            threshold: args.threshold,
            outlier: args.outlier,
            sample: args.sample.then_some(stats::SAMPLE_ELEMENTS),
            progress: Some(&|bytes, all| progress.add(bytes, all)),
            cancel: None,
        };
        if args.per_row {
            let rows = stats::rows(&reader, &options)?;
            context.warn_packing(path, rows.packing.as_ref());
            return context.emit(&rows, path);
        }
        if let Some(part) = args.part {
            return context.emit(&stats::part(&reader, &options, part)?, path);
        }
        let report = stats::stats(&reader, &options)?;
        context.warn_packing(path, report.packing.as_ref());
        if report.groups.is_none() { context.emit(&report, path) } else { context.emit(&Groups(report), path) }
    })
}

fn number(value: f64) -> Cell<'static> {
    if value.is_nan() { Cell::empty() } else { Cell::float(value, 4) }
}

fn bad(count: Option<u64>) -> Cell<'static> {
    let cell = Cell::maybe(count, Cell::count);
    if count.is_some_and(|count| count > 0) { cell.tone(Tone::Bad) } else { cell }
}

/// Returns the columns of a summary. NaN and infinities are never left out where there are any.
fn columns(total: &Summary) -> Vec<Column> {
    let odd = |key, count: Option<u64>| if count == Some(0) { Column::number(key).optional() } else { Column::number(key) };
    let mut columns = vec![
        Column::number("min"),
        Column::number("max"),
        Column::number("mean").optional_after(1),
        Column::number("std"),
        Column::number("abs_mean").only(Audience::Scripts),
        Column::number("abs_max").only(Audience::Scripts),
        Column::number("l2").only(Audience::Scripts),
        Column::number("kurtosis").optional(),
        Column::number("zeros").only(Audience::Scripts),
        Column::number("zero_share").titled("zeros").optional().only(Audience::People),
        Column::number("negatives").only(Audience::Scripts),
        odd("nan", total.nan),
        odd("inf", total.inf),
        Column::number("sparsity").only(Audience::Scripts),
    ];
    const KEYS: [&str; PERCENTILES.len()] = ["p0.1", "p1", "p5", "p25", "p50", "p75", "p95", "p99", "p99.9"];
    columns.extend(KEYS.map(|key| Column::number(key).only(Audience::Scripts)));
    columns.push(Column::text("histogram").only(Audience::People).optional_after(2));
    columns
}

/// Returns the cell of a summary in a column of [`columns`].
fn cell(summary: &Summary, column: usize) -> Cell<'static> {
    let share = |part: u64| part as f64 / (summary.elements.max(1)) as f64;
    match column {
        0 => number(summary.min),
        1 => number(summary.max),
        2 => number(summary.mean),
        3 => number(summary.std),
        4 => number(summary.abs_mean),
        5 => number(summary.abs_max),
        6 => number(summary.l2),
        7 => number(summary.kurtosis),
        8 => Cell::maybe(summary.zeros, Cell::count),
        9 => Cell::maybe(summary.zeros, |zeros| Cell::share(share(zeros))),
        10 => Cell::maybe(summary.negatives, Cell::count),
        11 => bad(summary.nan),
        12 => bad(summary.inf),
        13 => number(summary.sparsity),
        more => match summary.percentiles.values.get(more - 14) {
            Some(value) => number(*value),
            None => Cell::text(if summary.min.is_nan() { String::new() } else { sparkline(&summary.shape.to_vec()) }),
        },
    }
}

/// Statistics by group: the rows are groups.
struct Groups(Stats);

impl serde::Serialize for Groups {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl Report for Groups {
    const ROWS: Option<&'static str> = Some("groups");

    fn sections(&self) -> Vec<Section<'_>> {
        self.0.sections()
    }
}

impl Report for Stats {
    const ROWS: Option<&'static str> = Some("tensors");

    fn sections(&self) -> Vec<Section<'_>> {
        let mut sections = Vec::new();
        // One row per tensor or group, made on demand, and the total.
        let total = || Cell::text("total").tone(Tone::Strong);
        let table = if let Some(tensors) = &self.tensors {
            let mut head =
                vec![Column::name("name"), Column::text("dtype"), Column::text("shape").optional(), Column::number("elements").optional()];
            head.extend(columns(&self.total));
            Section::table("tensors", head).on_demand(tensors.len() + 1, move |row, column| match (column, tensors.get(row)) {
                (0, tensor) => tensor.map_or_else(total, |tensor| Cell::text(&tensor.name)),
                (1, tensor) => Cell::maybe(tensor, |tensor| Cell::text(tensor.dtype.to_string())),
                (2, tensor) => Cell::maybe(tensor, |tensor| Cell::shape(&tensor.shape)),
                (3, tensor) => Cell::count(tensor.map_or(&self.total, |tensor| &tensor.summary).elements),
                (more, tensor) => cell(tensor.map_or(&self.total, |tensor| &tensor.summary), more - 4),
            })
        } else {
            let mut head =
                vec![Column::name("name").titled(self.by.unwrap_or("name")), Column::number("tensors"), Column::number("elements")];
            head.extend(columns(&self.total));
            let groups = self.groups.as_deref().unwrap_or_default();
            Section::table("groups", head).on_demand(groups.len() + 1, move |row, column| match (column, groups.get(row)) {
                (0, group) => group.map_or_else(total, |group| Cell::text(&group.name)),
                (1, Some(group)) => Cell::count(group.tensors),
                (1, None) => Cell::count(self.measured),
                (2, group) => Cell::count(group.map_or(&self.total, |group| &group.summary).elements),
                (more, group) => cell(group.map_or(&self.total, |group| &group.summary), more - 3),
            })
        };
        let mut remarks = Vec::new();
        let of_groups = || self.groups.iter().flatten().map(|group| group.tensors).sum();
        let listed = self.tensors.as_ref().map_or_else(of_groups, |tensors| tensors.len() as u64);
        if listed < self.measured {
            remarks.push(format!("{} of {} listed; the total covers all", units::grouped(listed), units::counted(self.measured, "tensor")));
        }
        remarks.extend(self.sample.map(|sample| {
            format!("sampled: at most {} elements of each tensor; extremes and counts are those of the sample", units::grouped(sample))
        }));
        sections.push(if remarks.is_empty() { table } else { table.footer(remarks.join("; ")) });
        if !self.findings.is_empty() {
            let columns = vec![Column::text("severity"), Column::text("code"), Column::sentence("tensor"), Column::sentence("message")];
            let cell = |row: usize, column| {
                let finding = &self.findings[row];
                let (word, tone) = match finding.severity {
                    Severity::Note => ("note", Tone::Faint),
                    Severity::Warning => ("warning", Tone::Caution),
                    Severity::Error => ("error", Tone::Bad),
                };
                match column {
                    0 => Cell::text(word).tone(tone),
                    1 => Cell::text(finding.code),
                    2 => Cell::maybe(finding.tensor.as_deref(), Cell::text),
                    _ => Cell::text(&*finding.message),
                }
            };
            let table = Section::table("findings", columns).on_demand(self.findings.len(), cell);
            sections.push(table.titled("Worth a look").only(Audience::People));
        }
        sections
    }
}

impl Report for PartOfStats {
    /// Written as JSON only.
    fn sections(&self) -> Vec<Section<'_>> {
        Vec::new()
    }
}

impl Report for Joined {
    const ROWS: Option<&'static str> = Some("tensors");

    /// For people the total; the tensors are in the JSON.
    fn sections(&self) -> Vec<Section<'_>> {
        let mut head = vec![Column::number("tensors"), Column::number("elements")];
        head.extend(columns(&self.total));
        let table = Section::table("total", head).on_demand(1, |_, column| match column {
            0 => Cell::count(self.tensors.len() as u64),
            1 => Cell::count(self.total.elements),
            more => cell(&self.total, more - 2),
        });
        vec![table.footer("the tensors are in the output of --json")]
    }
}

impl Report for stats::RowsReport {
    const ROWS: Option<&'static str> = Some("rows");

    fn sections(&self) -> Vec<Section<'_>> {
        let columns = ["row", "min", "max", "mean", "std", "abs_max", "l2", "zeros", "nan", "inf"].map(Column::number).to_vec();
        let rows = self.rows.iter().map(|row| {
            let mut cells = vec![Cell::count(row.row)];
            cells.extend([row.min, row.max, row.mean, row.std, row.abs_max, row.l2].map(number));
            cells.extend([Cell::count(row.zeros), bad(Some(row.nan)), bad(Some(row.inf))]);
            cells
        });
        vec![Section::table("rows", columns).titled(format!("{} {:?}", text::escape(&self.name), self.shape)).rows(rows)]
    }
}
