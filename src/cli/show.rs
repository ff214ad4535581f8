//! `weigh show`

use std::path::PathBuf;

use crate::base::text;
use crate::cli::context::{Context, Outcome};
use crate::ops::show::{self, Values};
use crate::render::{Audience, Cell, Column, Output, Report, Section, array};

/// Print the values of one tensor or of a slice
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weigh show model.gguf token_embd.weight
  weigh show model.gguf blk.0.attn_q.weight --slice '0:4,:8'
  weigh show model.safetensors lm_head.weight --slice '-1,::100' --json")]
pub(super) struct Args {
    /// Model: a file, a folder or one part of a set
    path: PathBuf,
    /// Tensor name
    tensor: String,
    /// Part to print: an index or start:stop:step per dimension, as in NumPy
    #[arg(long, value_name = "SLICE", allow_hyphen_values = true)]
    slice: Option<String>,
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    let reader = context.open(&args.path)?;
    let for_people = matches!(context.output(), Output::Table | Output::Markdown);
    let values = show::show(&reader, &args.tensor, args.slice.as_deref(), for_people)?;
    context.emit(&values, &args.path)
}

impl Report for Values<'_> {
    fn sections(&self) -> Vec<Section<'_>> {
        let shape = self.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
        let title = format!("{}  {}  {}  [{}]", text::shorten(self.name), self.dtype, shape, self.slice);
        let columns = vec![Column::text("index"), Column::number("value")];
        let rows = self.values.numbers.chunks(self.values.per_element).enumerate().map(|(i, numbers)| {
            let value = numbers.iter().map(ToString::to_string).collect::<Vec<_>>();
            vec![Cell::text(index(i, &self.values.lengths)), Cell::number(value.join(" "))]
        });
        vec![
            Section::text(array(&self.values, self.dtype)).titled(title),
            Section::table("values", columns).rows(rows).only(Audience::Scripts),
        ]
    }
}

/// Returns the indices of the value at position `at`, one for each dimension of the slice.
fn index(mut at: usize, lengths: &[usize]) -> String {
    let mut parts = Vec::with_capacity(lengths.len());
    for &length in lengths.iter().rev() {
        parts.push((at % length.max(1)).to_string());
        at /= length.max(1);
    }
    parts.reverse();
    parts.join(" ")
}
