//! `weigh types`

use crate::cli::context::{Context, Outcome};
use crate::ops::known::{self, FileTypes, Types};
use crate::render::{Audience, Cell, Column, Report, Section};

/// List the supported element types, or the file types
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weigh types
  weigh types --file-types")]
pub(super) struct Args {
    /// List the file types of llama-quantize (Q4_K_M ...), with bits per weight and intended use
    #[arg(long)]
    file_types: bool,
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    if args.file_types { context.emit_table(&known::file_types()) } else { context.emit_table(&known::types()) }
}

impl Report for FileTypes {
    const ROWS: Option<&'static str> = Some("file_types");

    fn sections(&self) -> Vec<Section<'_>> {
        let columns = vec![
            Column::text("name"),
            Column::number("number").titled("file_type").optional(),
            Column::text("base").titled("mostly"),
            Column::number("bits_per_weight").titled("bits/weight"),
            Column::sentence("purpose").titled("for"),
        ];
        let rows = self.file_types.iter().map(|row| {
            let bits = Cell::float(row.bits_per_weight, 3);
            vec![Cell::text(row.name), Cell::count(row.number.into()), Cell::text(row.base), bits, Cell::text(row.purpose)]
        });
        vec![Section::table("file_types", columns).rows(rows).footer("Bits per weight are those of Llama 3.1 8B.")]
    }
}

impl Report for Types {
    const ROWS: Option<&'static str> = Some("types");

    fn sections(&self) -> Vec<Section<'_>> {
        let columns = vec![
            Column::text("name"),
            Column::text("class").optional(),
            Column::number("block_elements").titled("block"),
            Column::number("block_bytes").titled("bytes"),
            Column::number("bits_per_weight").titled("bits/weight"),
            Column::number("ggml_id").titled("ggml"),
            Column::text("safetensors").optional(),
            Column::text("read"),
            Column::text("written"),
        ];
        let rows = self.types.iter().map(|row| {
            vec![
                Cell::text(row.name),
                Cell::text(row.class),
                Cell::count(row.block_elements),
                Cell::count(row.block_bytes),
                Cell::float(row.bits_per_weight, 6),
                Cell::maybe(row.ggml_id, |id| Cell::count(id.into())),
                Cell::maybe(row.safetensors, Cell::text),
                Cell::flag(row.read),
                Cell::flag(row.written),
            ]
        });
        let packing_columns = vec![
            Column::text("name"),
            Column::number("bits"),
            Column::text("scale"),
            Column::text("activations"),
            Column::text("libraries"),
        ];
        let packings = self.packings.iter().map(|row| {
            vec![
                Cell::text(row.name),
                Cell::count(row.bits.into()),
                Cell::text(row.scale.clone()),
                Cell::flag(row.activations),
                Cell::text(row.libraries.join(", ")),
            ]
        });
        vec![
            Section::table("types", columns).rows(rows),
            Section::table("packings", packing_columns)
                .rows(packings)
                .titled("Packings for engines that serve safetensors")
                .only(Audience::People),
        ]
    }
}
