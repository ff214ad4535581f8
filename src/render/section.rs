//! The parts of a report as people see it: tables, lists of facts, texts.

use std::borrow::Cow;

use crate::render::Cell;

/// Who a section or a column is for.
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

/// What to do with a text that is too long for the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It is shown in full: for numbers and short words.
    Never,
    /// The middle goes: for names, which differ at their ends.
    Middle,
    /// The end goes: for values.
    End,
    /// All get shorter by the same factor: for bars.
    Scale,
}

/// A column of a table.
#[derive(Debug, Clone)]
pub struct Column {
    /// The name in csv: the key of the value in JSON.
    pub key: &'static str,
    /// The heading for people.
    pub title: Cow<'static, str>,
    /// Whether values end flush: for numbers.
    pub right: bool,
    /// What happens to long values on a narrow terminal.
    pub cut: Cut,
    /// Whether the whole column may go when the terminal is too narrow even then, and in which order: the lowest number goes first,
    /// of equals the last.
    pub optional: Option<u8>,
    /// Who sees it.
    pub audience: Audience,
}

impl Column {
    /// A column of short words, headed by its key.
    pub fn text(key: &'static str) -> Self {
        Self { key, title: Cow::Borrowed(key), right: false, cut: Cut::Never, optional: None, audience: Audience::All }
    }

    /// A column of names: long ones lose their middle on a narrow terminal.
    pub fn name(key: &'static str) -> Self {
        Self { cut: Cut::Middle, ..Self::text(key) }
    }

    /// A column of values of any length: long ones lose their end on a narrow terminal.
    pub fn value(key: &'static str) -> Self {
        Self { cut: Cut::End, ..Self::text(key) }
    }

    /// A column of numbers.
    pub fn number(key: &'static str) -> Self {
        Self { right: true, ..Self::text(key) }
    }

    /// Another heading for people.
    #[must_use]
    pub fn titled(mut self, title: impl Into<Cow<'static, str>>) -> Self {
        self.title = title.into();
        self
    }

    /// A column of bars, as [`bar`](crate::render::bar) draws them: all get shorter on a narrow terminal.
    pub fn bars(key: &'static str) -> Self {
        Self { cut: Cut::Scale, audience: Audience::People, ..Self::text(key) }
    }

    /// The column goes when the terminal is too narrow; the last such column goes first.
    #[must_use]
    pub fn optional(self) -> Self {
        self.optional_after(0)
    }

    /// The column goes when the terminal is too narrow, after those of lower rank.
    #[must_use]
    pub fn optional_after(mut self, rank: u8) -> Self {
        self.optional = Some(rank);
        self
    }

    /// Limits who sees the column.
    #[must_use]
    pub fn only(mut self, audience: Audience) -> Self {
        self.audience = audience;
        self
    }
}

/// The cells of a table, row by row: as many in each as there are columns.
pub enum Cells<'a> {
    /// All of them.
    Made(Vec<Cell<'a>>),
    /// Those of so many rows are made when they are asked for, by row and column: for tables of many rows.
    OnDemand(usize, Box<dyn Fn(usize, usize) -> Cell<'a> + Sync + 'a>),
}

impl<'a> Cells<'a> {
    /// How many rows there are, of so many columns.
    pub(super) fn rows(&self, columns: usize) -> usize {
        match self {
            Self::Made(cells) => cells.len() / columns.max(1),
            Self::OnDemand(rows, _) => *rows,
        }
    }

    /// A cell of a table of so many columns.
    pub(super) fn at(&self, columns: usize, row: usize, column: usize) -> Cow<'_, Cell<'a>> {
        match self {
            Self::Made(cells) => Cow::Borrowed(&cells[row * columns + column]),
            Self::OnDemand(_, cell) => Cow::Owned(cell(row, column)),
        }
    }
}

/// What a section shows.
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
    /// Lines of weigh's own making, shown as they are: text from a file in them must be escaped already.
    Text(String),
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
    /// A value with one name for scripts and another for people.
    pub fn new(key: impl Into<Cow<'static, str>>, title: impl Into<Cow<'static, str>>, value: Cell<'a>) -> Self {
        Self { key: key.into(), title: title.into(), value }
    }

    /// A value with the same name for everyone.
    pub fn named(name: impl Into<Cow<'static, str>>, value: Cell<'a>) -> Self {
        let name = name.into();
        Self::new(name.clone(), name, value)
    }
}

/// A part of a report.
pub struct Section<'a> {
    /// What csv calls it, when a report has more than one: the key of the list in JSON.
    pub key: &'static str,
    /// The heading for people.
    pub title: Option<String>,
    /// What it shows.
    pub body: Body<'a>,
    /// A line for people after it.
    pub footer: Option<String>,
    /// Who sees it.
    pub audience: Audience,
}

impl<'a> Section<'a> {
    /// A table without rows.
    pub fn table(key: &'static str, columns: Vec<Column>) -> Self {
        Self::new(key, Body::Table { columns, cells: Cells::Made(Vec::new()) })
    }

    /// Names and values.
    pub fn facts(key: &'static str, facts: Vec<Fact<'a>>) -> Self {
        Self::new(key, Body::Facts(facts))
    }

    /// Lines for people.
    pub fn text(text: impl Into<String>) -> Self {
        Self { audience: Audience::People, ..Self::new("text", Body::Text(text.into())) }
    }

    fn new(key: &'static str, body: Body<'a>) -> Self {
        Self { key, title: None, body, footer: None, audience: Audience::All }
    }

    /// With these rows more.
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

    /// With so many rows, whose cells are made when they are asked for.
    #[must_use]
    pub fn on_demand(mut self, rows: usize, cell: impl Fn(usize, usize) -> Cell<'a> + Sync + 'a) -> Self {
        if let Body::Table { cells, .. } = &mut self.body {
            *cells = Cells::OnDemand(rows, Box::new(cell));
        }
        self
    }

    /// Under a heading.
    #[must_use]
    pub fn titled(mut self, title: impl Into<String>) -> Self {
        self.title = Some(title.into());
        self
    }

    /// With a line after it.
    #[must_use]
    pub fn footer(mut self, footer: impl Into<String>) -> Self {
        self.footer = Some(footer.into());
        self
    }

    /// Limits who sees it.
    #[must_use]
    pub fn only(mut self, audience: Audience) -> Self {
        self.audience = audience;
        self
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        match &self.body {
            Body::Table { columns, cells } => cells.rows(columns.len()) == 0,
            Body::Facts(facts) => facts.is_empty(),
            Body::Text(text) => text.is_empty(),
        }
    }
}

/// The columns that an audience sees, with their places.
pub(super) fn seen(columns: &[Column], by: Audience) -> Vec<(usize, &Column)> {
    columns.iter().enumerate().filter(|(_, column)| column.audience == Audience::All || column.audience == by).collect()
}
