//! `weigh meta`

use std::path::PathBuf;

use crate::base::{text, units};
use crate::cli::context::{Context, Outcome};
use crate::model::{Array, Value};
use crate::ops::meta::{self, MetaList, Shown};
use crate::render::{Cell, Column, Report, Section};

/// Show the metadata: GGUF keys, or the __metadata__ of safetensors
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = false,
    subcommand_precedence_over_arg = true,
    after_help = "Examples:
  weigh meta model.gguf
  weigh meta model.gguf get general.name
  weigh meta model.gguf --json --full get tokenizer.ggml.tokens"
)]
pub(super) struct Args {
    /// Model: a file, a folder or one part of a set
    path: PathBuf,
    /// Show arrays and texts in full
    #[arg(long, global = true)]
    full: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show the values of these keys; of one key, the bare value
    Get {
        /// The keys
        #[arg(required = true)]
        key: Vec<String>,
    },
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    let reader = crate::open(&args.path)?;
    match &args.action {
        None => context.emit(&meta::meta(&reader, &[], args.full)?, &args.path),
        Some(Action::Get { key }) => {
            let list = meta::meta(&reader, key, args.full)?;
            if key.len() == 1 { context.emit(&Single(list), &args.path) } else { context.emit(&list, &args.path) }
        }
    }
}

impl Report for MetaList<'_> {
    const ROWS: Option<&'static str> = Some("metadata");

    fn sections(&self) -> Vec<Section> {
        let columns = vec![Column::name("key"), Column::text("type"), Column::value("value")];
        let rows = self.metadata.iter().map(|entry| {
            let kind = match entry.value.value {
                Value::Array(array) => format!("{} x {}", units::grouped(array.len()), array.elem()),
                value => value.value_type().to_string(),
            };
            vec![Cell::text(entry.key.to_owned()), Cell::text(kind), Cell::text(line(entry.value))]
        });
        vec![Section::table("metadata", columns).rows(rows)]
    }
}

/// The value of one key, by itself where people or scripts without JSON read it.
struct Single<'m>(MetaList<'m>);

impl serde::Serialize for Single<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl Report for Single<'_> {
    const ROWS: Option<&'static str> = MetaList::ROWS;

    fn sections(&self) -> Vec<Section> {
        let mut sections = self.0.sections();
        sections[0].audience = crate::render::Audience::Scripts;
        sections.extend(self.0.metadata.iter().map(|entry| Section::text(block(entry.value))));
        sections
    }
}

/// The most characters of a text in a list.
const LINE_CHARS: usize = 160;

/// A value on one line.
fn line(shown: Shown<'_>) -> String {
    match shown.value {
        Value::Array(array) => {
            let values = shown.values(array).unwrap_or_default();
            let mut parts: Vec<String> = values.iter().map(|value| quoted(Shown { value, ..shown })).collect();
            parts.extend(more(shown, array));
            format!("[{}]", parts.join(", "))
        }
        _ if shown.full => plain(shown),
        _ => text::shorten_to(&plain(shown), LINE_CHARS).into_owned(),
    }
}

/// A value by itself: texts keep their lines, arrays give a line a value.
fn block(shown: Shown<'_>) -> String {
    match shown.value {
        Value::Array(array) => {
            let values = shown.values(array).unwrap_or_default();
            let mut lines: Vec<String> = values.iter().map(|value| text::escape(&line(Shown { value, ..shown })).into_owned()).collect();
            lines.extend(more(shown, array));
            lines.join("\n")
        }
        _ => plain(shown).split('\n').map(text::escape).collect::<Vec<_>>().join("\n"),
    }
}

fn more(shown: Shown<'_>, array: &Array) -> Option<String> {
    let hidden = array.len() - shown.limit(array);
    (hidden > 0).then(|| format!("… {} more", units::grouped(hidden)))
}

/// A value inside a list, where a text needs its bounds.
fn quoted(shown: Shown<'_>) -> String {
    match shown.value {
        Value::String(text) => format!("\"{}\"", text::shorten_to(text, LINE_CHARS)),
        _ => line(shown),
    }
}

fn plain(shown: Shown<'_>) -> String {
    match shown.value {
        Value::U8(v) => v.to_string(),
        Value::I8(v) => v.to_string(),
        Value::U16(v) => v.to_string(),
        Value::I16(v) => v.to_string(),
        Value::U32(v) => v.to_string(),
        Value::I32(v) => v.to_string(),
        Value::U64(v) => v.to_string(),
        Value::I64(v) => v.to_string(),
        Value::F32(v) => format!("{v:?}"), // the shortest text that reads back the same
        Value::F64(v) => format!("{v:?}"),
        Value::Bool(v) => v.to_string(),
        Value::String(v) => v.clone(),
        Value::Array(_) => line(shown),
    }
}
