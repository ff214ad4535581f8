//! Renders reports as table, json, ndjson, csv or markdown.
//!
//! A report is `Serialize` for scripts and gives [`Section`]s for people; each output format has a module.

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

/// A result of an operation.
///
/// Scripts rely on its JSON; people see its sections.
pub trait Report: Serialize {
    /// The JSON key of the list whose items are the lines of ndjson, before a last line with the other keys. Without one, the whole report is
    /// one line.
    const ROWS: Option<&'static str> = None;

    /// Returns the tables and texts in display order.
    fn sections(&self) -> Vec<Section<'_>>;
}

/// An output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// Human-readable, fitted to the terminal.
    #[default]
    Table,
    /// For scripts: one document per report, exact numbers.
    Json,
    /// For scripts: one object per line, one line per row.
    Ndjson,
    /// For spreadsheets: exact numbers.
    Csv,
    /// For issues and model cards.
    Markdown,
    /// Findings as SARIF, which their command writes itself.
    Sarif,
}

/// Writes a sequence of reports.
#[derive(Debug)]
pub struct Renderer {
    output: Output,
    look: Look,
    /// Whether reports on several models follow each other, so that each must name its model.
    several: bool,
    written: usize,
}

impl Renderer {
    /// Returns a renderer for one report.
    pub fn new(output: Output, look: Look) -> Self {
        Self { output, look, several: false, written: 0 }
    }

    /// Makes every further report (row, in csv and ndjson) name its model. JSON documents always do.
    pub fn several(&mut self) {
        self.several = true;
    }

    /// Returns the output format.
    pub fn output(&self) -> Output {
        self.output
    }

    /// Writes a report; `path` is that of the model, if the report is about one.
    ///
    /// # Errors
    /// Writing fails.
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
            Output::Sarif => Ok(()),
        }
    }
}
