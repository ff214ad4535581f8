//! `weigh catalog`

use std::path::PathBuf;

use crate::base::{text, units};
use crate::cli::context::{Context, Outcome, Status};
use crate::ops::catalog::{self, Catalog, Options};
use crate::render::{Audience, Cell, Column, Report, Section};

/// List all models below folders in two Parquet tables: models.parquet and tensors.parquet
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Folders are searched with all folders below them, through links: plain folders, Hugging Face caches, Ollama stores, and the
addresses of a model on the Hub or of a folder in a bucket. A model that cannot be read gets a row with its error
(exit status 1). A later run into the same folder reads only what has changed.

Examples:
  weigh catalog ~/.cache/huggingface/hub ~/models -o catalog
  weigh catalog /models -o catalog --content
  weigh catalog hf://org/name s3://bucket/models -o catalog
  duckdb -c \"SELECT name, parameters FROM 'catalog/models.parquet' ORDER BY parameters DESC LIMIT 10\""
)]
pub(super) struct Args {
    /// Folders to search, or models; on disk or at an address
    #[arg(required = true)]
    path: Vec<PathBuf>,
    /// Folder for the tables
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
    /// Add the content hash of `weigh hash --content`, the same for the same weights under any name; reads all weights
    #[arg(long)]
    content: bool,
    /// Read all models again, and overwrite files that are not tables of a catalogue
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    let progress = context.progress_in("models");
    let options = Options { content: args.content, force: args.force };
    let report = catalog::catalog(&args.path, &args.output, options, &|models, total| progress.add(models, total))?;
    progress.hide();
    if report.errors > 0 || !context.is_silent() {
        context.emit_table(&report)?;
    }
    Ok(if report.errors > 0 { Status::Found } else { Status::Done })
}

impl Report for Catalog {
    const ROWS: Option<&'static str> = Some("unreadable");

    fn sections(&self) -> Vec<Section<'_>> {
        let rows = self.unreadable.iter().map(|row| vec![Cell::text(row.path.clone()), Cell::text(row.error.clone())]);
        let table = Section::table("unreadable", vec![Column::name("path"), Column::value("error")]).rows(rows);
        let table = table.titled("Not readable, or not in full");
        let listed = self.unreadable.len() as u64;
        let table = if listed < self.errors {
            table.footer(format!("{} more (in models.parquet)", units::grouped(self.errors - listed)))
        } else {
            table
        };
        let files: Vec<_> = self.output.iter().map(|path| text::escape(&path.to_string_lossy()).into_owned()).collect();
        let removed = if self.removed > 0 { format!(", {} gone", units::grouped(self.removed)) } else { String::new() };
        let summary = format!(
            "{} ({} read, {} as before{removed}), {} in {}",
            units::counted(self.models, "model"),
            units::grouped(self.read),
            units::grouped(self.reused),
            units::counted(self.tensors, "tensor"),
            files.join(" and ")
        );
        let table = if self.unreadable.is_empty() { table.only(Audience::Scripts) } else { table };
        vec![table, Section::prose(summary)]
    }
}
