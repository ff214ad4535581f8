//! Sections of a report: tables, lists of facts, texts.

use std::borrow::Cow;

use crate::render::Cell;

/// The audience of a section or column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Audience {
    /// In every output.
    #[default]
    All,
    /// In tables and markdown only.
    People,
    /// In csv only.
    Scripts,
}

/// How text too long for the terminal is shortened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Not at all: for numbers and short words.
    Never,
    /// In the middle: for names, which differ at their ends.
    Middle,
    /// At the end: for values.
    End,
    /// Not at all, but broken into lines: for sentences.
    Wrap,
    /// By the same factor in every row: for bars.
    Scale,
}

/// A column of a table.
#[derive(Debug, Clone)]
pub struct Column {
    /// The name in csv: the JSON key.
    pub key: &'static str,
    /// The heading for people.
    pub title: Cow<'static, str>,
    /// Whether values are right-aligned: for numbers.
    pub right: bool,
    /// How long values are shortened on a narrow terminal.
    pub cut: Cut,
    /// The rank in which the column is dropped if the terminal is still too narrow: the lowest first, of equal ranks the last column.
    /// `None` for columns that are never dropped.
    pub optional: Option<u8>,
    /// Its audience.
    pub audience: Audience,
}

impl Column {
    /// Returns a column of short words, headed by its key.
    pub fn text(key: &'static str) -> Self {
        Self { key, title: Cow::Borrowed(key), right: false, cut: Cut::Never, optional: None, audience: Audience::All }
    }

    /// Returns a column of names: long ones are shortened in the middle on a narrow terminal.
    pub fn name(key: &'static str) -> Self {
        Self { cut: Cut::Middle, ..Self::text(key) }
    }

    /// Returns a column of values of any length: long ones are shortened at the end on a narrow terminal.
    pub fn value(key: &'static str) -> Self {
        Self { cut: Cut::End, ..Self::text(key) }
    }

    /// Returns a column of sentences: long ones are broken into lines on a narrow terminal.
    pub fn sentence(key: &'static str) -> Self {
        Self { cut: Cut::Wrap, ..Self::text(key) }
    }

    /// Returns a column of numbers.
    pub fn number(key: &'static str) -> Self {
        Self { right: true, ..Self::text(key) }
    }

    /// Sets the heading for people.
    #[must_use]
    pub fn titled(mut self, title: impl Into<Cow<'static, str>>) -> Self {
        self.title = title.into();
        self
    }

    /// Returns a column of bars as drawn by [`bar`](crate::render::bar): all are scaled down on a narrow terminal.
    pub fn bars(key: &'static str) -> Self {
        Self { cut: Cut::Scale, audience: Audience::People, ..Self::text(key) }
    }

    /// Lets the column be dropped on a narrow terminal, the last such column first.
    #[must_use]
    pub fn optional(self) -> Self {
        self.optional_after(0)
    }

    /// Lets the column be dropped on a narrow terminal, after those of lower rank.
    #[must_use]
    pub fn optional_after(mut self, rank: u8) -> Self {
        self.optional = Some(rank);
        self
    }

    /// Limits the column's audience.
    #[must_use]
    pub fn only(mut self, audience: Audience) -> Self {
        self.audience = audience;
        self
    }
}

/// The cells of a table in row-major order.
pub enum Cells<'a> {
    /// All cells.
    Made(Vec<Cell<'a>>),
    /// A number of rows and a function of row and column that makes cells on demand: for long tables.
    OnDemand(usize, Box<dyn Fn(usize, usize) -> Cell<'a> + Sync + 'a>),
}

impl<'a> Cells<'a> {
    /// Returns the number of rows of a table with `columns` columns.
    pub(super) fn rows(&self, columns: usize) -> usize {
        match self {
            Self::Made(cells) => cells.len() / columns.max(1),
            Self::OnDemand(rows, _) => *rows,
        }
    }

    /// Returns a cell of a table with `columns` columns.
    pub(super) fn at(&self, columns: usize, row: usize, column: usize) -> Cow<'_, Cell<'a>> {
        match self {
            Self::Made(cells) => Cow::Borrowed(&cells[row * columns + column]),
            Self::OnDemand(_, cell) => Cow::Owned(cell(row, column)),
        }
    }
}

/// The contents of a section.
pub enum Body<'a> {
    /// Columns with headings, rows.
    Table {
        /// The columns.
        columns: Vec<Column>,
        /// The cells of the rows.
        cells: Cells<'a>,
    },
    /// Names and values.
    Facts(Vec<Fact<'a>>),
    /// Lines shown unchanged: any text from a file must already be escaped.
    Text(String),
    /// Sentences, broken into lines that fit the terminal: any text from a file must already be escaped.
    Prose(String),
}

/// A name and a value.
#[derive(Debug, Clone)]
pub struct Fact<'a> {
    /// The name in csv.
    pub key: Cow<'static, str>,
    /// The name for people.
    pub title: Cow<'static, str>,
    /// The value.
    pub value: Cell<'a>,
}

impl<'a> Fact<'a> {
    /// Returns a value with different names for scripts and people.
    pub fn new(key: impl Into<Cow<'static, str>>, title: impl Into<Cow<'static, str>>, value: Cell<'a>) -> Self {
        Self { key: key.into(), title: title.into(), value }
    }

    /// Returns a value with the same name for scripts and people.
    pub fn named(name: impl Into<Cow<'static, str>>, value: Cell<'a>) -> Self {
        let name = name.into();
        Self::new(name.clone(), name, value)
    }
}

/// A section of a report.
pub struct Section<'a> {
    /// The name in csv if a report has several sections: the JSON key of the list.
    pub key: &'static str,
    /// The heading for people.
    pub title: Option<String>,
    /// The contents.
    pub body: Body<'a>,
    /// A final line for people.
    pub footer: Option<String>,
    /// Its audience.
    pub audience: Audience,
}

impl<'a> Section<'a> {
    /// Returns a table without rows.
    pub fn table(key: &'static str, columns: Vec<Column>) -> Self {
        Self::new(key, Body::Table { columns, cells: Cells::Made(Vec::new()) })
    }

    /// Returns a list of facts.
    pub fn facts(key: &'static str, facts: Vec<Fact<'a>>) -> Self {
        Self::new(key, Body::Facts(facts))
    }

    /// Returns sentences for people, broken into lines that fit the terminal.
    pub fn prose(text: impl Into<String>) -> Self {
        Self { audience: Audience::People, ..Self::new("text", Body::Prose(text.into())) }
    }

    /// Returns lines for people, written unchanged.
    pub fn text(text: impl Into<String>) -> Self {
        Self { audience: Audience::People, ..Self::new("text", Body::Text(text.into())) }
    }

    fn new(key: &'static str, body: Body<'a>) -> Self {
        Self { key, title: None, body, footer: None, audience: Audience::All }
    }

    /// Adds rows.
    #[must_use]
    pub fn rows(mut self, more: impl IntoIterator<Item = impl IntoIterator<Item = Cell<'a>>>) -> Self {
        if let Body::Table { columns, cells: Cells::Made(cells) } = &mut self.body {
            for row in more {
                cells.extend(row);
                debug_assert!(cells.len().is_multiple_of(columns.len()), "a cell for each column");
            }
        }
        self
    }

    /// Sets a number of rows whose cells are made on demand.
    #[must_use]
    pub fn on_demand(mut self, rows: usize, cell: impl Fn(usize, usize) -> Cell<'a> + Sync + 'a) -> Self {
        if let Body::Table { cells, .. } = &mut self.body {
            *cells = Cells::OnDemand(rows, Box::new(cell));
        }
        self
    }

    /// Sets the heading.
    #[must_use]
    pub fn titled(mut self, title: impl Into<String>) -> Self {
        self.title = Some(title.into());
        self
    }

    /// Sets the final line.
    #[must_use]
    pub fn footer(mut self, footer: impl Into<String>) -> Self {
        self.footer = Some(footer.into());
        self
    }

    /// Limits the section's audience.
    #[must_use]
    pub fn only(mut self, audience: Audience) -> Self {
        self.audience = audience;
        self
    }

    /// Whether the section is empty.
    pub fn is_empty(&self) -> bool {
        match &self.body {
            Body::Table { columns, cells } => cells.rows(columns.len()) == 0,
            Body::Facts(facts) => facts.is_empty(),
            Body::Text(text) | Body::Prose(text) => text.is_empty(),
        }
    }
}

/// Returns the columns that an audience sees, with their indices.
pub(super) fn seen(columns: &[Column], by: Audience) -> Vec<(usize, &Column)> {
    columns.iter().enumerate().filter(|(_, column)| column.audience == Audience::All || column.audience == by).collect()
}
