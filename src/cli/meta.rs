//! `weigh meta`

use std::path::{Path, PathBuf};

use crate::base::{Error, Result, text, units};
use crate::cli::assignment;
use crate::cli::context::{Context, Outcome, Status};
use crate::model::{Array, Value, value_text};
use crate::ops::edit::{self, Change, Destination, EditReport, Editing, RecoveryReport};
use crate::ops::enumerations;
use crate::ops::meta::{self, MetaList, Shown};
use crate::render::{Audience, Cell, Column, Report, Section};

/// Show or edit metadata: GGUF keys, or the __metadata__ of safetensors
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

--in-place overwrites only the header if the new one fits; otherwise a new file replaces the old one and keeps its mode and owner. \
A new file is also written, with a warning, if the file has other hard links or belongs to another user. \
Concurrent edits of one file wait for each other, up to 10 s. After a crash during an edit, weigh refuses to open the model until \
--recover has restored its old header."
)]
pub(super) struct Args {
    /// Model: a file, a folder or one part of a set; may also come last, after the keys
    path: Option<PathBuf>,
    /// Show arrays and strings in full
    #[arg(long, global = true)]
    full: bool,
    /// Undo an in-place edit interrupted by a crash, or clean up after one that was completed
    #[arg(long)]
    recover: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print the values of keys; for a single key, the bare value
    #[command(after_help = "Examples:
  weigh meta model.gguf get general.name
  weigh meta model.gguf get tokenizer.chat_template > template.jinja")]
    Get {
        /// Metadata keys
        #[arg(required = true)]
        key: Vec<String>,
    },
    /// Set keys: KEY=TYPE:VALUE (TYPE may be omitted for existing keys), or KEY=@FILE for a string in a file
    #[command(after_help = "Examples:
  weigh meta model.gguf set general.name='My model' --in-place
  weigh meta model.gguf set tokenizer.chat_template=@template.jinja -o new.gguf
  weigh meta model.gguf set general.license=string:mit --dry-run")]
    Set {
        /// Keys and values; TYPE is u8 ... f64, bool or string, or TYPE[] for a JSON array
        #[arg(required = true, value_name = "KEY=TYPE:VALUE")]
        key: Vec<String>,
        #[command(flatten)]
        destination: DestinationArgs,
    },
    /// Remove keys
    #[command(after_help = "Examples:
  weigh meta model.gguf rm general.quantized_by --in-place")]
    Rm {
        /// Metadata keys
        #[arg(required = true)]
        key: Vec<String>,
        #[command(flatten)]
        destination: DestinationArgs,
    },
    /// Rename keys in place
    #[command(after_help = "Examples:
  weigh meta model.gguf rename general.author=general.organization --in-place")]
    Rename {
        /// Old and new names
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
    /// Write the changed model to a new file
    #[arg(long, short, value_name = "OUT", conflicts_with = "in_place")]
    output: Option<PathBuf>,
    /// Edit the file itself: rewrite only the header if the new one fits, else replace the file
    #[arg(long)]
    in_place: bool,
    /// Show what would change without writing anything
    #[arg(long)]
    dry_run: bool,
    /// Overwrite an existing OUT; allow changes that llama.cpp refuses
    #[arg(long)]
    force: bool,
}

impl DestinationArgs {
    fn resolve(self) -> Result<Destination> {
        match self.output {
            _ if self.dry_run => Ok(Destination::DryRun),
            Some(path) => Ok(Destination::New { path, force: self.force }),
            None if self.in_place => Ok(Destination::InPlace),
            None => Err(Error::argument("choose where to write: -o OUT, --in-place or --dry-run")),
        }
    }
}

pub(super) fn run(mut args: Args, context: &mut Context<'_>) -> Outcome {
    // `meta get KEY PATH` is the same as `meta PATH get KEY`.
    let last = args.action.as_mut().filter(|_| args.path.is_none()).map(Action::keys).filter(|keys| keys.len() > 1).and_then(Vec::pop);
    let path = args.path.or(last.map(PathBuf::from)).ok_or_else(|| Error::argument("no model given: expected a PATH"))?;
    if args.recover {
        if args.action.is_some() {
            return Err(Error::argument("--recover cannot be combined with another action").into());
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
    let progress = context.progress(&[]);
    let add = |bytes, total| progress.add(bytes, total);
    let how = Editing { force: destination.force, waiting: &mut |path| context.warn(&waiting(path)), progress: Some(&add) };
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
    format!("{}: waiting for another edit to finish", path.display())
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
        let how = if self.fits { "only the header" } else { "the whole file" };
        let size = units::bytes(self.bytes_written);
        let footer = match &self.output {
            Some(output) => format!("{size} written to {}", text::escape(&output.to_string_lossy())),
            None if self.changes.is_empty() => "no changes".to_owned(),
            None => format!("dry run: {size} would be written; in place, {how}"),
        };
        vec![Section::table("changes", columns).rows(rows).footer(footer)]
    }
}

impl Report for RecoveryReport {
    const ROWS: Option<&'static str> = None;

    fn sections(&self) -> Vec<Section<'_>> {
        let done = match self.recovery {
            "undone" => "the edit was undone and the old header restored",
            "finished" => "the edit was complete; its undo copy is removed",
            _ => "no edit was interrupted",
        };
        vec![Section::text(format!("{}: {done}", text::escape(&self.file.to_string_lossy())))]
    }
}

impl Report for MetaList<'_> {
    const ROWS: Option<&'static str> = Some("metadata");

    fn sections(&self) -> Vec<Section<'_>> {
        let exact = Column::value("value").only(Audience::Scripts);
        let columns = vec![Column::name("key"), Column::text("type"), Column::value("value").only(Audience::People), exact];
        let rows = self.metadata.iter().map(|entry| {
            let kind = match entry.value.value {
                Value::Array(array) => format!("{} x {}", units::grouped(array.len()), array.elem()),
                value => value.value_type().to_string(),
            };
            let value = line(entry.value);
            let named = enumerations::annotate(value.clone(), entry.name, &entry.names);
            vec![Cell::text(entry.key.to_owned()), Cell::text(kind), Cell::text(named), Cell::text(value)]
        });
        vec![Section::table("metadata", columns).rows(rows)]
    }
}

/// The value of a single key, printed bare in tables and markdown.
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
        sections[0].audience = Audience::Scripts;
        sections.extend(self.0.metadata.iter().map(|entry| Section::text(block(entry.value))));
        sections
    }
}

/// The maximum length of a string in a list.
const LINE_CHARS: usize = 160;

/// Formats a value on one line.
fn line(shown: Shown<'_>) -> String {
    let mut out = String::new();
    write_line(&mut out, shown);
    out
}

/// Writes a value on one line. Arrays are written value by value.
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

/// Formats a bare value: strings keep their lines, arrays have one value per line.
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

/// Writes a value inside a list: strings are quoted.
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
