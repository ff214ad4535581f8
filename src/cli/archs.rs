//! `weigh archs`

use std::path::PathBuf;

use crate::cli::context::{Context, Outcome};
use crate::family::tables::Tables;
use crate::ops::known::{self, Archs};
use crate::render::{Cell, Column, Report, Section};

/// List the architectures that weigh translates between Hugging Face and GGUF
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weigh archs
  weigh archs --format csv
  weigh archs --arch-table my-model.toml")]
pub(super) struct Args {
    /// Load an additional architecture table
    #[arg(long, value_name = "FILE")]
    arch_table: Option<PathBuf>,
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    context.emit_table(&known::archs(&Tables::with_file(args.arch_table.as_deref())?)?)
}

impl Report for Archs {
    const ROWS: Option<&'static str> = Some("archs");

    fn sections(&self) -> Vec<Section<'_>> {
        let columns = vec![
            Column::text("name"),
            Column::text("gguf"),
            Column::value("classes"),
            Column::value("model_types").optional(),
            Column::text("tokenizer").optional(),
            Column::text("back").optional(),
            Column::text("mmproj").optional(),
            Column::number("references").optional(),
        ];
        let rows = self.archs.iter().map(|row| {
            vec![
                Cell::text(row.name.clone()),
                Cell::text(row.gguf.clone()),
                Cell::text(row.classes.join(" ")),
                Cell::text(row.model_types.join(" ")),
                Cell::text(row.tokenizer.clone().unwrap_or_default()),
                Cell::text(if row.both_ways { "yes" } else { "no" }),
                Cell::text(row.mmproj.join(" ")),
                Cell::count(row.references.len() as u64),
            ]
        });
        vec![Section::table("archs", columns).rows(rows)]
    }
}
