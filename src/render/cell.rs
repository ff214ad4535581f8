//! One value of a table: exact for scripts, readable for people.

use std::borrow::Cow;

use crate::base::{text, units};

/// What a cell holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content<'a> {
    /// Nothing is known.
    Empty,
    /// Text, of weigh or of a file: it is escaped when it is written.
    Text(Cow<'a, str>),
    /// A count: `262,144` for people.
    Count(u64),
    /// A number of bytes: `253 MB` for people.
    Bytes(u64),
    /// A number, in this many significant digits for people.
    Float(f64, usize),
    /// A part of a whole, 0 to 1: a percentage for people.
    Share(f64),
    /// The dimensions of a tensor, outermost first: `32000 x 4096` for people, `32000x4096` for scripts.
    Shape(Cow<'a, [u64]>),
    /// True or false: yes or no for people.
    Flag(bool),
    /// A number that is written already, exactly.
    Number(String),
}

/// What a cell means, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// No colour.
    #[default]
    Plain,
    /// Less important than the rest.
    Faint,
    /// The main thing of the row.
    Strong,
    /// As it should be.
    Good,
    /// Worth a look.
    Caution,
    /// Wrong.
    Bad,
}

/// A value of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell<'a> {
    /// The value.
    pub content: Content<'a>,
    /// Its colour.
    pub tone: Tone,
}

impl<'a> Cell<'a> {
    /// A cell with nothing in it.
    pub fn empty() -> Self {
        Content::Empty.into()
    }

    /// A text.
    pub fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Content::Text(text.into()).into()
    }

    /// A count.
    pub fn count(count: u64) -> Self {
        Content::Count(count).into()
    }

    /// A number of bytes.
    pub fn bytes(bytes: u64) -> Self {
        Content::Bytes(bytes).into()
    }

    /// A number, shown to people in `digits` significant digits.
    pub fn float(value: f64, digits: usize) -> Self {
        Content::Float(value, digits).into()
    }

    /// A part of a whole, 0 to 1.
    pub fn share(share: f64) -> Self {
        Content::Share(share).into()
    }

    /// The dimensions of a tensor, outermost first.
    pub fn shape(shape: impl Into<Cow<'a, [u64]>>) -> Self {
        Content::Shape(shape.into()).into()
    }

    /// True or false.
    pub fn flag(flag: bool) -> Self {
        Content::Flag(flag).into()
    }

    /// A number in the text that stands for it exactly.
    pub fn number(text: String) -> Self {
        Content::Number(text).into()
    }

    /// What `make` makes of the value, or an empty cell.
    pub fn maybe<T>(value: Option<T>, make: impl FnOnce(T) -> Self) -> Self {
        value.map_or_else(Self::empty, make)
    }

    /// The same cell in another colour.
    #[must_use]
    pub fn tone(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }

    /// The value for people, escaped.
    pub(super) fn human(&self) -> Cow<'_, str> {
        match &self.content {
            Content::Empty => "-".into(),
            Content::Text(value) => text::escape(value),
            Content::Count(count) => units::grouped(*count).into(),
            Content::Bytes(bytes) => units::bytes(*bytes).into(),
            Content::Float(value, digits) => units::general(*value, *digits).into(),
            Content::Share(share) => format!("{:.1}%", share * 100.0).into(),
            Content::Shape(shape) if shape.is_empty() => "scalar".into(),
            Content::Shape(shape) => join(shape, " x ").into(),
            Content::Flag(flag) => if *flag { "yes" } else { "no" }.into(),
            Content::Number(text) => text.into(),
        }
    }

    /// The same of a cell that goes.
    pub(super) fn into_human(self) -> Cow<'a, str> {
        match self.content {
            Content::Text(Cow::Borrowed(value)) => text::escape(value),
            _ => self.human().into_owned().into(),
        }
    }

    /// The value for scripts, exact; text is escaped as for people, since a csv file is looked at as well.
    pub(super) fn exact(&self) -> String {
        match &self.content {
            Content::Empty => String::new(),
            Content::Text(value) => text::escape(value).into_owned(),
            Content::Count(count) | Content::Bytes(count) => count.to_string(),
            Content::Float(value, _) | Content::Share(value) if value.is_finite() => value.to_string(),
            Content::Float(..) | Content::Share(_) => String::new(), // as null in JSON
            Content::Shape(shape) => join(shape, "x"),
            Content::Flag(flag) => flag.to_string(),
            Content::Number(text) => text.clone(),
        }
    }
}

impl<'a> From<Content<'a>> for Cell<'a> {
    fn from(content: Content<'a>) -> Self {
        Self { content, tone: Tone::Plain }
    }
}

fn join(shape: &[u64], between: &str) -> String {
    let mut text = String::new();
    for (i, size) in shape.iter().enumerate() {
        text.push_str(if i == 0 { "" } else { between });
        text.push_str(&size.to_string());
    }
    text
}
