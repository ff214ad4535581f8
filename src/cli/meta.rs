//! `weigh meta`

use std::path::{Path, PathBuf};

use crate::base::{Error, Result, text, units};
use crate::cli::assignment;
use crate::cli::context::{Context, Outcome, Status};
use crate::model::{Array, Value, value_text};
use crate::ops::edit::{self, Change, Destination, EditReport, Editing, RecoveryReport};
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
  weigh meta get general.name model.gguf
  weigh meta model.gguf set general.name='string:My model' tokenizer.chat_template=@template.jinja -o new.gguf
  weigh meta model.gguf rm general.tags --in-place
  weigh meta model.gguf --json --full get tokenizer.ggml.tokens
  weigh meta model.gguf --recover

In place, the header alone is overwritten where the new one is as long as the old one; else a new file takes the old one's name, \
mode and owner. A new file is also written, and said to be, where the file has other names (hard links) or belongs to another user. \
An edit waits for another one of the same file, for 10 s at most. One that was cut short by a crash leaves a model that weigh refuses \
to open until --recover has put its old header back."
)]
pub(super) struct Args {
    /// Model: a file, a folder or one part of a set; may also come last, behind the keys
    path: Option<PathBuf>,
    /// Show arrays and texts in full
    #[arg(long, global = true)]
    full: bool,
    /// Undo an edit in place that was interrupted by a crash, or clear away what is left of one that was finished
    #[arg(long)]
    recover: bool,
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
    /// Give keys a value: KEY=TYPE:VALUE, KEY=VALUE where the key is there, KEY=@FILE for a text in a file
    Set {
        /// The keys and values; TYPE is u8 ... f64, bool or string, or TYPE[] for an array in JSON
        #[arg(required = true, value_name = "KEY=TYPE:VALUE")]
        key: Vec<String>,
        #[command(flatten)]
        destination: DestinationArgs,
    },
    /// Take keys out
    Rm {
        /// The keys
        #[arg(required = true)]
        key: Vec<String>,
        #[command(flatten)]
        destination: DestinationArgs,
    },
    /// Give keys other names, in their old places
    Rename {
        /// The old and the new names
        #[arg(required = true, value_name = "OLD=NEW")]
        key: Vec<String>,
        #[command(flatten)]
        destination: DestinationArgs,
    },
}

impl Action {
    fn keys(&mut self) -> &mut Vec<String> {
        match self {
            Self::Get { key } | Self::Set { key, .. } | Self::Rm { key, .. } | Self::Rename { key, .. } => key,
        }
    }
}

#[derive(Debug, clap::Args)]
struct DestinationArgs {
    /// Write the changed model into a new file
    #[arg(long, short, value_name = "OUT", conflicts_with = "in_place")]
    output: Option<PathBuf>,
    /// Change the file itself: only its header where the new one fits, else by a new file that takes its name
    #[arg(long)]
    in_place: bool,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    /// Replace OUT if it is there; change keys in ways that llama.cpp refuses
    #[arg(long)]
    force: bool,
}

impl DestinationArgs {
    fn resolve(self) -> Result<Destination> {
        match self.output {
            _ if self.dry_run => Ok(Destination::DryRun),
            Some(path) => Ok(Destination::New { path, force: self.force }),
            None if self.in_place => Ok(Destination::InPlace),
            None => Err(Error::argument("expected -o OUT, --in-place or --dry-run, found none of them")),
        }
    }
}

pub(super) fn run(mut args: Args, context: &mut Context<'_>) -> Outcome {
    // `meta get KEY PATH` is as good as `meta PATH get KEY`.
    let last = args.action.as_mut().filter(|_| args.path.is_none()).map(Action::keys).filter(|keys| keys.len() > 1).and_then(Vec::pop);
    let path = args.path.or(last.map(PathBuf::from)).ok_or_else(|| Error::argument("expected the PATH of a model, found none"))?;
    if args.recover {
        if args.action.is_some() {
            return Err(Error::argument("expected --recover by itself, found another action").into());
        }
        let report = edit::recover(&path, &mut |path| context.warn(&waiting(path)))?;
        return context.emit(&report, &path);
    }
    let (changes, destination) = match args.action {
        None => {
            let reader = context.open_headers(&path)?;
            context.emit(&meta::meta(&reader, &[], args.full)?, &path)?;
            return Ok(Status::of_headers(&reader));
        }
        Some(Action::Get { key }) => {
            let reader = context.open_headers(&path)?;
            let list = meta::meta(&reader, &key, args.full)?;
            if key.len() == 1 {
                context.emit(&Single(list), &path)?
            } else {
                context.emit(&list, &path)?
            };
            return Ok(Status::of_headers(&reader));
        }
        Some(Action::Set { key, destination }) => (key.iter().map(|given| assignment::change(given)).collect::<Result<_>>()?, destination),
        Some(Action::Rm { key, destination }) => (key.into_iter().map(Change::Remove).collect(), destination),
        Some(Action::Rename { key, destination }) => (renames(&key)?, destination),
    };
    let how = Editing { force: destination.force, waiting: &mut |path| context.warn(&waiting(path)) };
    let report = edit::edit_with(&path, &changes, &destination.resolve()?, how)?;
    for note in &report.notes {
        context.warn(&format!("{}: {note}", path.display()));
    }
    match &report.output {
        Some(written) => context.emit_done(&report, &path, written),
        None => context.emit(&report, &path),
    }
}

fn waiting(path: &Path) -> String {
    format!("{}: waiting for another edit of it to end", path.display())
}

fn renames(given: &[String]) -> Result<Vec<Change>> {
    let rename = |given: &String| {
        let (old, new) = assignment::split(given)?;
        Ok(Change::Rename(old.to_owned(), new.to_owned()))
    };
    given.iter().map(rename).collect()
}

impl Report for EditReport {
    const ROWS: Option<&'static str> = Some("changes");

    fn sections(&self) -> Vec<Section<'_>> {
        let columns = vec![Column::name("key"), Column::value("old"), Column::value("new")];
        let cell = |value: &Option<Value>| Cell::maybe(value.as_ref(), |value| Cell::text(line(Shown { value, full: false })));
        let rows = self.changes.iter().map(|change| vec![Cell::text(change.key.clone()), cell(&change.old), cell(&change.new)]);
        let how = if self.fits { "the header alone, in its old place" } else { "the whole file" };
        let size = units::bytes(self.bytes_written);
        let footer = match &self.output {
            Some(output) => format!("{size} written to {}", text::escape(&output.to_string_lossy())),
            None if self.changes.is_empty() => "nothing changes".to_owned(),
            None => format!("dry run: {size} would be written; in place, {how}"),
        };
        vec![Section::table("changes", columns).rows(rows).footer(footer)]
    }
}

impl Report for RecoveryReport {
    const ROWS: Option<&'static str> = None;

    fn sections(&self) -> Vec<Section<'_>> {
        let done = match self.recovery {
            "undone" => "the edit was undone: the header is the old one",
            "finished" => "the edit was complete: the header is the new one",
            _ => "no edit was interrupted",
        };
        vec![Section::text(format!("{}: {done}", text::escape(&self.file.to_string_lossy())))]
    }
}

impl Report for MetaList<'_> {
    const ROWS: Option<&'static str> = Some("metadata");

    fn sections(&self) -> Vec<Section<'_>> {
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

    fn sections(&self) -> Vec<Section<'_>> {
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
    let mut out = String::new();
    write_line(&mut out, shown);
    out
}

/// Writes a value on one line. Long arrays grow one text, value by value.
fn write_line(out: &mut String, shown: Shown<'_>) {
    match shown.value {
        Value::Array(array) => {
            out.push('[');
            for (i, value) in shown.values(array).flatten().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                write_quoted(out, Shown { value: &value, ..shown });
            }
            if let Some(more) = more(shown, array) {
                out.push_str(if shown.limit(array) == 0 { "" } else { ", " });
                out.push_str(&more);
            }
            out.push(']');
        }
        Value::String(text) if !shown.full => out.push_str(&text::shorten_to(text, LINE_CHARS)),
        value => value_text::write_scalar(value, out),
    }
}

/// A value by itself: texts keep their lines, arrays give a line a value.
fn block(shown: Shown<'_>) -> String {
    let mut out = String::new();
    match shown.value {
        Value::Array(array) => {
            for (i, value) in shown.values(array).flatten().enumerate() {
                out.push_str(if i == 0 { "" } else { "\n" });
                match &value {
                    Value::String(_) | Value::Array(_) => out.push_str(&text::escape(&line(Shown { value: &value, ..shown }))),
                    value => value_text::write_scalar(value, &mut out),
                }
            }
            if let Some(more) = more(shown, array) {
                out.push('\n');
                out.push_str(&more);
            }
        }
        Value::String(text) => {
            for (i, line) in text.split('\n').enumerate() {
                out.push_str(if i == 0 { "" } else { "\n" });
                out.push_str(&text::escape(line));
            }
        }
        value => value_text::write_scalar(value, &mut out),
    }
    out
}

fn more(shown: Shown<'_>, array: &Array) -> Option<String> {
    let hidden = array.len() - shown.limit(array);
    (hidden > 0).then(|| format!("… {} more", units::grouped(hidden)))
}

/// Writes a value inside a list, where a text needs its bounds.
fn write_quoted(out: &mut String, shown: Shown<'_>) {
    match shown.value {
        Value::String(text) => {
            out.push('"');
            out.push_str(&text::shorten_to(text, LINE_CHARS));
            out.push('"');
        }
        _ => write_line(out, shown),
    }
}
