//! `weigh hist`

use std::path::PathBuf;

use serde::Serialize;

use crate::base::{Error, text, units};
use crate::cli::context::{Context, Outcome, Status};
use crate::model::{PackingSummary, TypeName};
use crate::ops::stats::{self, Histogram, Options, Percentiles};
use crate::ops::weights;
use crate::render::{Audience, Cell, Column, Fact, Report, Section, bar, picture};
use crate::write::output;
use crate::write::output::{Output, Target};

/// Draw the histogram of one tensor
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weigh hist model.gguf blk.0.ffn_down.weight
  weigh hist model.gguf token_embd.weight --log
  weigh hist folder lm_head.weight -o head.svg")]
pub(super) struct Args {
    /// Model: a file, a folder or one part of a set
    path: PathBuf,
    /// The tensor's name
    tensor: String,
    /// Bins between powers of two, for either sign, instead of bins of equal width
    #[arg(long)]
    log: bool,
    /// Write a picture: .svg or .png
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace a picture that is there already
    #[arg(long, requires = "output")]
    force: bool,
}

/// The histogram of one tensor.
#[derive(Serialize)]
struct Hist {
    schema: &'static str,
    name: String,
    dtype: TypeName,
    shape: Vec<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packing: Option<PackingSummary>,
    percentiles: Percentiles,
    histogram: Histogram,
    #[serde(skip)]
    log: bool,
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    let reader = weights::weights(context.open(&args.path)?)?;
    let packing = weights::packing(&reader);
    context.warn_packing(&args.path, packing.as_ref());
    let tensor = reader.model().tensor(&args.tensor).ok_or_else(|| {
        Error::argument(format!("expected a tensor of the model, found no {}", args.tensor))
            .in_file(&args.path)
            .hint("`weigh ls` lists them")
    })?;
    let inputs: Vec<PathBuf> = reader.inputs().map(|input| input.path().to_path_buf()).collect();
    if let Some(path) = &args.output {
        output::check(path, args.force, &inputs)?; // before the tensor is read
    }
    let stats = stats::stats(&reader, &[tensor], &Options::default())?;
    let Some(found) = stats.tensors.and_then(|tensors| tensors.into_iter().next()) else { return Ok(Status::Done) };
    let summary = found.summary;
    let hist = Hist {
        schema: "weigh.hist.v1",
        name: found.name,
        dtype: found.dtype,
        shape: found.shape,
        packing,
        percentiles: summary.percentiles,
        histogram: summary.histogram,
        log: args.log,
    };
    let Some(path) = &args.output else { return context.emit(&hist, &args.path) };
    let bars: Vec<u64> = hist.bins().into_iter().map(|(_, _, count)| count).collect();
    let ends = [hist.bins().first().map(|bin| bin.0), hist.bins().last().map(|bin| bin.1)];
    let ends = ends.map(|end| end.map(|value| units::general(value, 4)).unwrap_or_default());
    let title = format!("{} ({})", text::escape(&hist.name), hist.dtype);
    let bytes = match path.extension().and_then(|extension| extension.to_str()) {
        Some("svg") => picture::svg(&title, &bars, &ends).into_bytes(),
        Some("png") => picture::png(&bars, &ends)?,
        _ => return Err(Error::argument("expected a picture that ends in .svg or .png").in_file(path).into()),
    };
    let mut output = Output::begin(vec![Target { path: path.clone(), bytes: bytes.len() as u64 }], args.force, &inputs)?;
    output.write(0, &bytes)?;
    output.commit()?;
    Ok(Status::Done)
}

impl Hist {
    /// Where each bin begins and ends, and how many values it holds.
    fn bins(&self) -> Vec<(f64, f64, u64)> {
        if self.log {
            let log = &self.histogram.log;
            let power = |i: usize| 2f64.powi(log.lowest_exponent.saturating_add(i32::try_from(i).unwrap_or(i32::MAX)));
            let negative = log.negative.iter().enumerate().rev().map(|(i, &count)| (-power(i + 1), -power(i), count));
            let positive = log.positive.iter().enumerate().map(|(i, &count)| (power(i), power(i + 1), count));
            return negative.chain([(0.0, 0.0, log.zeros)]).chain(positive).collect();
        }
        let linear = &self.histogram.linear;
        let counts = linear.counts.to_vec();
        let bins = counts.len().max(1) as f64;
        let edge = |i: usize| linear.low + (linear.high - linear.low) * i as f64 / bins;
        counts.iter().enumerate().map(|(i, &count)| (edge(i), edge(i + 1), count)).collect()
    }
}

/// How many characters the longest bar has where there is room.
const BAR: u64 = 50;

impl Report for Hist {
    fn sections(&self) -> Vec<Section<'_>> {
        let columns = vec![Column::number("from"), Column::number("to"), Column::number("count"), Column::bars("bar").titled("")];
        let bins = self.bins();
        let most = bins.iter().map(|bin| bin.2).max().unwrap_or(0).max(1);
        let rows = bins.into_iter().map(|(from, to, count)| {
            let eighths = (u128::from(count) * u128::from(BAR) * 8).div_ceil(u128::from(most)) as usize;
            vec![Cell::float(from, 4), Cell::float(to, 4), Cell::count(count), Cell::text(bar(eighths))]
        });
        let percentiles = stats::PERCENTILES.iter().zip(self.percentiles.values);
        let percentiles = percentiles.map(|(percent, value)| Fact::named(format!("{percent}%"), Cell::float(value, 4))).collect();
        let shape = self.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
        vec![
            Section::table("histogram", columns).titled(format!("{}  {}  {shape}", self.name, self.dtype)).rows(rows),
            Section::facts("percentiles", percentiles).titled("Percentiles").only(Audience::People),
        ]
    }
}
