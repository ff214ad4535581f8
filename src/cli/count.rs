//! `weigh count`

use std::path::PathBuf;

use crate::base::units;
use crate::cli::context::{Context, Outcome, Status};
use crate::ops::count::{self, Count, LayerCount};
use crate::render::{Audience, Cell, Column, Fact, Report, Section, Tone};

/// Count parameters by type, component and layer
///
/// Tied weights count once; tables derived from hyperparameters (rope_freqs, position_ids, masks) do not count.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weigh count model.gguf
  weigh count folder --json")]
pub(super) struct Args {
    /// Model: a file, a folder or one part of a set
    #[arg(required = true)]
    path: Vec<PathBuf>,
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    context.each(&args.path, |context, path| {
        let reader = context.open_headers(path)?;
        let count = count::count(&reader)?;
        context.warn_packing(path, count.packing.as_ref());
        context.emit(&count, path)?;
        Ok(Status::of_headers(&reader))
    })
}

impl Report for Count {
    fn sections(&self) -> Vec<Section<'_>> {
        let title = if self.incomplete.is_some() { "parameters in the files present" } else { "parameters" };
        let parameters = self.parameters.map_or_else(|| Cell::text(self.label.clone()), people);
        let mut facts = vec![Fact::new("parameters", title, parameters.tone(Tone::Strong))];
        if self.active_parameters != self.parameters {
            facts.push(Fact::new("active_parameters", "active", Cell::maybe(self.active_parameters, people)));
        }
        facts.push(Fact::new("embedding_parameters", "in embeddings", people(self.embedding_parameters)));
        facts.push(Fact::new("stored_elements", "stored elements", Cell::count(self.stored_elements)));
        facts.push(Fact::new("bytes", "tensor size", Cell::maybe(self.bytes, Cell::bytes)));
        facts.push(Fact::new("bits_per_weight", "bits per weight", Cell::maybe(self.bits_per_weight, |bits| Cell::float(bits, 4))));
        if !self.left_out.is_empty() {
            facts.push(Fact::new("left_out", "not counted", Cell::text(self.left_out.join(", "))));
        }
        let exact = vec![
            Fact::named("parameters", Cell::maybe(self.parameters, Cell::count)),
            Fact::named("active_parameters", Cell::maybe(self.active_parameters, Cell::count)),
            Fact::named("embedding_parameters", Cell::count(self.embedding_parameters)),
            Fact::named("stored_elements", Cell::count(self.stored_elements)),
            Fact::named("bytes", Cell::maybe(self.bytes, Cell::bytes)),
            Fact::named("bits_per_weight", Cell::maybe(self.bits_per_weight, |bits| Cell::float(bits, 4))),
            Fact::named("label", Cell::text(self.label.clone())),
        ];
        let exact =
            exact.into_iter().chain(self.incomplete.iter().map(|what| Fact::named("incomplete", Cell::text(what.clone())))).collect();
        // Shares are of the size for types, and of the parameters for components and layers.
        let parts = |name, second, of| {
            vec![
                Column::text(name),
                Column::number("tensors"),
                Column::number(second),
                Column::number("share").titled(of).only(Audience::People),
                Column::number("bytes").titled("size"),
            ]
        };
        let share = |part: u64, whole: u64| if whole == 0 { Cell::empty() } else { Cell::share(part as f64 / whole as f64) };
        let by_dtype = self.by_dtype.iter().map(|row| {
            let share = row.bytes.zip(self.bytes).map_or_else(Cell::empty, |(part, whole)| share(part, whole));
            vec![
                Cell::text(row.dtype.clone()),
                Cell::count(row.tensors),
                Cell::count(row.elements),
                share,
                Cell::maybe(row.bytes, Cell::bytes),
            ]
        });
        // Without a known total there are no shares.
        let all = self.parameters.unwrap_or(0);
        let by_component = self.by_component.iter().map(|row| {
            let share = share(row.parameters, all);
            vec![
                Cell::text(row.component.name()),
                Cell::count(row.tensors),
                Cell::count(row.parameters),
                share,
                Cell::maybe(row.bytes, Cell::bytes),
            ]
        });
        let layer = |label: String, row: &LayerCount| {
            let share = share(row.parameters, all);
            vec![Cell::text(label), Cell::count(row.tensors), Cell::count(row.parameters), share, Cell::maybe(row.bytes, Cell::bytes)]
        };
        let by_layer = self.by_layer.iter().map(|row| layer(row.layer.map_or_else(String::new, |n| n.to_string()), row));
        let folded = runs(&self.by_layer).into_iter().map(|(first, last)| match (first.layer, last.layer) {
            (Some(a), Some(b)) if a < b => layer(format!("{a}-{b}, each"), first),
            (Some(a), _) => layer(a.to_string(), first),
            _ => layer("outside layers".to_owned(), first),
        });
        vec![
            Section::facts("count", facts).only(Audience::People),
            Section::facts("count", exact).only(Audience::Scripts),
            Section::table("by_dtype", parts("dtype", "elements", "of size")).rows(by_dtype),
            Section::table("by_component", parts("component", "parameters", "of parameters")).rows(by_component),
            Section::table("by_layer", parts("layer", "parameters", "of parameters")).rows(folded).only(Audience::People),
            Section::table("by_layer", parts("layer", "parameters", "of parameters")).rows(by_layer).only(Audience::Scripts),
        ]
    }
}

/// Formats a number of parameters for people: `271M (270,896,128)`.
pub(super) fn people(parameters: u64) -> Cell<'static> {
    let (label, exact) = (units::label(parameters), units::grouped(parameters));
    Cell::text(if label == exact { label } else { format!("{label} ({exact})") })
}

/// Returns the first and last layer of each run of identical consecutive layers.
fn runs(layers: &[LayerCount]) -> Vec<(&LayerCount, &LayerCount)> {
    let mut runs: Vec<(&LayerCount, &LayerCount)> = Vec::new();
    for row in layers {
        match runs.last_mut() {
            Some((_, last))
                if last.layer.is_some_and(|n| n.checked_add(1) == row.layer)
                    && (last.tensors, last.parameters, last.bytes) == (row.tensors, row.parameters, row.bytes) =>
            {
                *last = row;
            }
            _ => runs.push((row, row)),
        }
    }
    runs
}
