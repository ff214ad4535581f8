//! `weigh ls`

use std::path::PathBuf;

use crate::base::{text, units};
use crate::cli::context::{Context, Outcome, Status};
use crate::cli::options::SelectionArgs;
use crate::ops::list::{self, TensorList};
use crate::ops::tree::{Node, tree};
use crate::render::{Audience, Cell, Column, Report, Section};

/// List the tensors
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weigh ls model.gguf --sort size --limit 10
  weigh ls folder --filter '*.mlp.*' --exclude '*.bias'
  weigh ls model.safetensors --format csv > tensors.csv")]
pub(super) struct Args {
    /// Model: a file, a folder or one part of a set
    #[arg(required = true)]
    path: Vec<PathBuf>,
    /// Show a tree of names with identical layers collapsed (JSON still lists every tensor)
    #[arg(long)]
    tree: bool,
    #[command(flatten)]
    selection: SelectionArgs,
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    let selection = args.selection.resolve()?;
    context.each(&args.path, |context, path| {
        let reader = context.open_headers(path)?;
        let list = list::list(&reader, &selection)?;
        if let Some(error) = &list.nothing_selected {
            context.warn_of(error);
        }
        if args.tree {
            context.emit(&Tree(list), path)?
        } else {
            context.emit(&list, path)?
        };
        Ok(Status::of_headers(&reader))
    })
}

impl Report for TensorList<'_> {
    const ROWS: Option<&'static str> = Some("tensors");

    fn sections(&self) -> Vec<Section<'_>> {
        // People see the file name, and only if there are several; scripts see the path.
        let name = Column::name("file").optional().only(Audience::People);
        let mut columns = vec![
            Column::name("name"),
            Column::text("dtype"),
            Column::text("shape"),
            Column::number("elements").optional(),
            Column::number("bytes").titled("size"),
            Column::text("file").only(Audience::Scripts),
            Column::number("offset").optional(),
        ];
        columns.extend((self.files > 1).then_some(name));
        let cell = |row: usize, column| {
            let tensor = &self.tensors[row];
            match column {
                0 => Cell::text(tensor.name),
                1 => Cell::text(tensor.dtype.name()),
                2 => Cell::shape(&*tensor.shape),
                3 => Cell::count(tensor.elements),
                4 => Cell::maybe(tensor.bytes, Cell::bytes),
                5 => Cell::text(&*tensor.file),
                6 => Cell::count(tensor.offset),
                _ => Cell::text(tensor.file.rsplit('/').next().unwrap_or_default()),
            }
        };
        vec![Section::table("tensors", columns).on_demand(self.tensors.len(), cell).footer(self.footer())]
    }
}

impl TensorList<'_> {
    fn footer(&self) -> String {
        let selected = &self.selected;
        let of = if selected.tensors < self.of as u64 { format!(" of {}", units::grouped(self.of as u64)) } else { String::new() };
        let listed = self.tensors.len() as u64;
        let listed = if listed < selected.tensors { format!("; {} listed", units::grouped(listed)) } else { String::new() };
        format!(
            "{}{of} tensors, {} elements, {}{listed}",
            units::grouped(selected.tensors),
            units::grouped(selected.elements),
            units::bytes(selected.bytes)
        )
    }
}

/// A tensor list shown as a tree.
struct Tree<'m>(TensorList<'m>);

impl serde::Serialize for Tree<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl Report for Tree<'_> {
    const ROWS: Option<&'static str> = TensorList::ROWS;

    fn sections(&self) -> Vec<Section<'_>> {
        let columns = vec![
            Column::name("name").only(Audience::People),
            Column::text("name").only(Audience::Scripts),
            Column::number("tensors"),
            Column::value("dtype"),
            Column::text("shape").optional_after(1),
            Column::number("elements").optional(),
            Column::number("bytes").titled("size"),
        ];
        let mut rows = Vec::new();
        branch(&tree(&self.0.tensors), "", "", &mut rows);
        vec![Section::table("tree", columns).rows(rows).footer(self.0.footer())]
    }
}

/// Adds a row for everything under `node`, whose full name is `name`.
fn branch(node: &Node, indent: &str, name: &str, rows: &mut Vec<Vec<Cell<'static>>>) {
    for (i, child) in node.children.iter().enumerate() {
        let last = i + 1 == node.children.len();
        let (stem, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let full = if name.is_empty() { child.label.clone() } else { format!("{name}.{}", child.label) };
        let leaf = child.children.is_empty();
        let dtypes = match child.dtypes.len() {
            1 => child.dtypes.keys().cloned().collect(),
            _ => child.dtypes.iter().map(|(dtype, tensors)| format!("{tensors} {dtype}")).collect::<Vec<_>>().join(", "),
        };
        rows.push(vec![
            Cell::text(format!("{indent}{stem}{}", text::escape(&child.label))),
            Cell::text(full.clone()),
            Cell::count(child.tensors),
            Cell::text(dtypes),
            Cell::maybe(child.shape.clone().filter(|_| leaf), Cell::shape),
            Cell::count(child.elements),
            Cell::bytes(child.bytes),
        ]);
        branch(child, &format!("{indent}{below}"), &full, rows);
    }
}
