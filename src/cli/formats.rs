//! `weigh formats`

use crate::cli::context::{Context, Outcome};
use crate::ops::known::{self, Formats};
use crate::render::{Cell, Column, Report, Section};

/// List the supported file formats
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weigh formats
  weigh formats --json")]
pub(super) struct Args {}

pub(super) fn run(_: &Args, context: &mut Context<'_>) -> Outcome {
    context.emit_table(&known::formats())
}

impl Report for Formats {
    const ROWS: Option<&'static str> = Some("formats");

    fn sections(&self) -> Vec<Section<'_>> {
        let columns =
            vec![Column::text("id"), Column::text("extensions"), Column::text("written"), Column::value("dtypes").titled("holds")];
        let rows = self.formats.iter().map(|row| {
            vec![Cell::text(row.id.name()), Cell::text(row.extensions.join(" ")), Cell::flag(row.written), Cell::text(row.dtypes.join(" "))]
        });
        vec![Section::table("formats", columns).rows(rows)]
    }
}
