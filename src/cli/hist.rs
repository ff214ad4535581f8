//! `weigh hist`

use std::path::{Path, PathBuf};

use crate::base::{Error, text};
use crate::cli::context::{Context, Outcome};
use crate::ops::hist::{self, Hist};
use crate::ops::stats;
use crate::render::picture::{self, Plot};
use crate::render::{Audience, Cell, Column, Fact, Report, Section, bar};
use crate::write::output;

/// Draw a histogram of one tensor
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weigh hist model.gguf blk.0.ffn_down.weight
  weigh hist model.gguf token_embd.weight --log
  weigh hist folder lm_head.weight -o head.svg")]
pub(super) struct Args {
    /// Model: a file, a folder or one part of a set
    path: PathBuf,
    /// Tensor name
    tensor: String,
    /// Use logarithmic bins (powers of two, for each sign) instead of bins of equal width
    #[arg(long)]
    log: bool,
    /// Write an image to FILE (.svg or .png)
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite an existing image
    #[arg(long, requires = "output")]
    force: bool,
}

impl Args {
    /// Whether a picture is written instead of a table.
    pub(super) fn draws(&self) -> bool {
        self.output.is_some()
    }
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    let reader = context.open(&args.path)?;
    let inputs = reader.input_paths();
    if let Some(path) = &args.output {
        output::check(path, args.force, &inputs)?; // before the tensor is read
    }
    let hist = hist::hist(&reader, &args.tensor)?;
    context.warn_packing(&args.path, hist.packing.as_ref());
    let view = View { bins: hist.bins(args.log), log: args.log, hist };
    let Some(path) = &args.output else { return context.emit(&view, &args.path) };
    let picture = view.picture(path)?;
    output::write_whole(path, &picture, args.force, &inputs)?;
    context.wrote(path, picture.len())
}

/// A histogram and its displayed bins.
struct View {
    hist: Hist,
    bins: Vec<(f64, f64, u64)>,
    /// Whether the bins are between powers of two.
    log: bool,
}

impl serde::Serialize for View {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.hist.serialize(serializer)
    }
}

impl View {
    /// Returns the image in the format given by the file name.
    fn picture(&self, path: &Path) -> crate::Result<Vec<u8>> {
        let edges = self.bins.iter().map(|bin| bin.0).chain(self.bins.last().map(|bin| bin.1)).collect();
        let plot = Plot {
            title: format!("{} ({})", text::escape(&self.hist.name), self.hist.dtype),
            axis: if self.log { "value, on a logarithmic scale: bars between powers of two" } else { "value" }.to_owned(),
            counts: self.bins.iter().map(|bin| bin.2).collect(),
            edges,
        };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("svg") => Ok(picture::svg(&plot).into_bytes()),
            Some("png") => picture::png(&plot),
            _ => Err(Error::argument("the name of an image must end in .svg or .png").in_file(path)),
        }
    }
}

/// The length of the longest bar, if there is room.
const BAR: u64 = 50;

impl Report for View {
    fn sections(&self) -> Vec<Section<'_>> {
        let columns = vec![Column::number("from"), Column::number("to"), Column::number("count"), Column::bars("bar").titled("")];
        let most = self.bins.iter().map(|bin| bin.2).max().unwrap_or(0).max(1);
        let rows = self.bins.iter().map(|&(from, to, count)| {
            let eighths = (u128::from(count) * u128::from(BAR) * 8).div_ceil(u128::from(most)) as usize;
            vec![Cell::float(from, 4), Cell::float(to, 4), Cell::count(count), Cell::text(bar(eighths))]
        });
        let percentiles = stats::PERCENTILES.iter().zip(self.hist.percentiles.values);
        let percentiles = percentiles.map(|(percent, value)| Fact::named(format!("{percent}%"), Cell::float(value, 4))).collect();
        let shape = self.hist.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
        vec![
            Section::table("histogram", columns).titled(format!("{}  {}  {shape}", self.hist.name, self.hist.dtype)).rows(rows),
            Section::facts("percentiles", percentiles).titled("Percentiles").only(Audience::People),
        ]
    }
}
