//! Reports -> bytes on a given writer: table, json, ndjson, csv, markdown.
//!
//! A report is `Serialize` for scripts and gives [`Section`]s for people; each output format is one file here.

use std::io;
use std::path::Path;

use serde::Serialize;

mod array;
mod cell;
mod csv;
pub mod html;
mod json;
mod markdown;
pub mod picture;
mod section;
mod spark;
mod table;

pub use array::array;
pub use cell::{Cell, Content, Tone};
pub use section::{Audience, Body, Cells, Column, Cut, Fact, Section};
pub use spark::{bar, sparkline};
pub use table::Look;

/// What an operation found.
///
/// Its JSON is the contract with scripts; the sections are what people see.
pub trait Report: Serialize {
    /// The JSON key of the list that ndjson prints one object a row of. Without one the whole report is one line.
    const ROWS: Option<&'static str> = None;

    /// The tables and texts, in the order in which they are shown.
    fn sections(&self) -> Vec<Section<'_>>;
}

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// For people: human sizes, fitted to the terminal.
    #[default]
    Table,
    /// For scripts: one document a report, exact numbers.
    Json,
    /// For scripts: one object a row, a line each.
    Ndjson,
    /// For spreadsheets: exact numbers.
    Csv,
    /// For issues and model cards.
    Markdown,
}

/// Writes reports to one writer, one after the other.
#[derive(Debug)]
pub struct Renderer {
    output: Output,
    look: Look,
    /// Whether reports on several models follow each other, so that each must say which it is on.
    several: bool,
    written: usize,
}

impl Renderer {
    /// A renderer for one report.
    pub fn new(output: Output, look: Look) -> Self {
        Self { output, look, several: false, written: 0 }
    }

    /// From now on every report (row, in csv and ndjson) names the model that it is on. JSON documents always do.
    pub fn several(&mut self) {
        self.several = true;
    }

    /// How reports are written.
    pub fn output(&self) -> Output {
        self.output
    }

    /// Writes one report, which is on the model at `path`, if on any.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write<R: Report>(&mut self, out: &mut dyn io::Write, report: &R, path: Option<&Path>) -> io::Result<()> {
        let first = self.written == 0;
        self.written += 1;
        let path = path.map(|path| path.to_string_lossy());
        let model = path.as_deref();
        let path = model.filter(|_| self.several);
        match self.output {
            Output::Table => table::write(out, &report.sections(), path, first, &self.look),
            Output::Json => json::document(out, report, model),
            Output::Ndjson => json::lines(out, report, model, self.several),
            Output::Csv => csv::write(out, &report.sections(), path, first),
            Output::Markdown => markdown::write(out, &report.sections(), path, first),
        }
    }
}
