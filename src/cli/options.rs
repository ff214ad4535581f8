//! Options shared by several commands.

use std::io::{self, IsTerminal};
use std::num::NonZeroUsize;

use clap::ValueEnum;

use crate::base::{Result, limits, threads};
use crate::ops::select::{Selection, SortBy};
use crate::render::{Look, Output, Renderer};

/// The options of every command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// Output format
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    format: FormatArg,
    /// Same as --format json
    #[arg(long, global = true, conflicts_with = "format")]
    json: bool,
    /// When to use colours (NO_COLOR turns them off too)
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value = "auto", hide_default_value = true)]
    color: ColorArg,
    /// Number of compute threads, at most 256 (default: one per core)
    #[arg(long, global = true, value_name = "N", value_parser = thread_count)]
    threads: Option<NonZeroUsize>,
    /// Do not read or write the cache of remote headers
    #[arg(long, global = true)]
    no_cache: bool,
    /// Read only what is under KEY in a nested checkpoint, with names relative to it: state_dict, model, optimizer.state.0
    #[arg(long, global = true, value_name = "KEY")]
    root: Option<String>,
    /// Suppress progress bars, warnings, and tables that report what was written
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatArg {
    /// Human-readable, fitted to the terminal
    Table,
    /// One JSON document with exact numbers
    Json,
    /// One JSON object per row, each on a line
    Ndjson,
    /// One table with exact numbers, for spreadsheets
    Csv,
    /// Tables for issues and model cards
    Markdown,
    /// SARIF 2.1.0, for code review tools: findings of `verify` only
    Sarif,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ColorArg {
    /// Only on a terminal
    Auto,
    Always,
    Never,
}

impl Global {
    /// Whether headers of remote files are cached.
    pub(super) fn cache(&self) -> bool {
        !self.no_cache
    }

    /// Whether progress and warnings are suppressed.
    pub(super) fn quiet(&self) -> bool {
        self.quiet
    }

    /// Returns the key of a nested checkpoint to take.
    pub(super) fn root(&self) -> Option<String> {
        self.root.clone()
    }

    /// Starts the requested number of threads; by default they start when first needed. Returns a warning if fewer run, because of the
    /// limit or because the system refused some.
    pub(super) fn start_threads(&self) -> Option<String> {
        let wanted = self.threads?.get();
        let running = threads::start(wanted);
        (running < wanted).then(|| match wanted > limits::THREADS && running == limits::THREADS {
            true => format!("{running} threads instead of {wanted}: more would not help"),
            false => format!("only {running} of {wanted} threads could be started"),
        })
    }

    /// Returns the renderer for these options and the environment: terminal, NO_COLOR, COLUMNS.
    pub(super) fn renderer(&self) -> Renderer {
        let output = match self.format {
            _ if self.json => Output::Json,
            FormatArg::Table => Output::Table,
            FormatArg::Json => Output::Json,
            FormatArg::Ndjson => Output::Ndjson,
            FormatArg::Csv => Output::Csv,
            FormatArg::Markdown => Output::Markdown,
            FormatArg::Sarif => Output::Sarif,
        };
        let color = match self.color {
            ColorArg::Always => true,
            ColorArg::Never => false,
            ColorArg::Auto => !matches!(anstream::AutoStream::choice(&io::stdout()), anstream::ColorChoice::Never),
        };
        Renderer::new(output, Look { color, width: width() })
    }
}

/// Returns the width for tables: COLUMNS, or else that of the terminal; unlimited in files and pipes.
fn width() -> Option<usize> {
    let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).filter(|columns| *columns > 0);
    columns.or_else(|| {
        let stdout = io::stdout();
        let size = stdout.is_terminal().then(|| terminal_size::terminal_size_of(stdout)).flatten();
        size.map(|(width, _)| usize::from(width.0)).filter(|width| *width > 0)
    })
}

/// Parses a number of threads.
fn thread_count(text: &str) -> std::result::Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "expected a whole number, 1 or more".to_owned())
}

/// Parses a threshold.
pub(super) fn not_negative(text: &str) -> std::result::Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| "expected a finite number, 0 or more".to_owned())
}

/// The options of every command that lists tensors.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Selecting tensors")]
pub(super) struct SelectionArgs {
    /// Only tensors whose name matches GLOB (repeatable); a pattern without *?[{ matches anywhere in the name
    #[arg(long, value_name = "GLOB")]
    filter: Vec<String>,
    /// Leave out tensors whose name matches GLOB (repeatable)
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Sort by KEY, size and elements with the largest first (default: file order)
    #[arg(long, value_enum, value_name = "KEY")]
    sort: Option<SortArg>,
    /// Reverse the order
    #[arg(long)]
    reverse: bool,
    /// List at most N tensors; totals and verdicts cover all selected tensors
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SortArg {
    Name,
    File,
    Size,
    Elements,
    Dtype,
}

impl SelectionArgs {
    /// Returns the selection.
    ///
    /// # Errors
    /// A pattern is malformed.
    pub(super) fn resolve(&self) -> Result<Selection> {
        let sort = match self.sort {
            None | Some(SortArg::File) => SortBy::File,
            Some(SortArg::Name) => SortBy::Name,
            Some(SortArg::Size) => SortBy::Size,
            Some(SortArg::Elements) => SortBy::Elements,
            Some(SortArg::Dtype) => SortBy::DType,
        };
        Selection::new(&self.filter, &self.exclude, sort, self.reverse, self.limit)
    }
}
