//! Table cells: exact for scripts, readable for people.

use std::borrow::Cow;

use crate::base::{text, units};

/// The content of a cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Content<'a> {
    /// No value.
    Empty,
    /// Text, which is escaped when written.
    Text(Cow<'a, str>),
    /// A count: `262,144` for people.
    Count(u64),
    /// A number of bytes: `253 MB` for people.
    Bytes(u64),
    /// A number, rounded to this many significant digits for people.
    Float(f64, usize),
    /// A fraction from 0 to 1: a percentage for people.
    Share(f64),
    /// The dimensions of a tensor, outermost first: `32000 x 4096` for people, `32000x4096` for scripts.
    Shape(Cow<'a, [u64]>),
    /// True or false: yes or no for people.
    Flag(bool),
    /// A number as exact text.
    Number(String),
}

/// The meaning of a cell, which determines its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// No colour.
    #[default]
    Plain,
    /// Less important than the rest.
    Faint,
    /// The most important value of the row.
    Strong,
    /// Good.
    Good,
    /// Worth a look.
    Caution,
    /// An error.
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
    /// Returns an empty cell.
    pub fn empty() -> Self {
        Content::Empty.into()
    }

    /// Returns a cell with text.
    pub fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Content::Text(text.into()).into()
    }

    /// Returns a cell with a count.
    pub fn count(count: u64) -> Self {
        Content::Count(count).into()
    }

    /// Returns a cell with a number of bytes.
    pub fn bytes(bytes: u64) -> Self {
        Content::Bytes(bytes).into()
    }

    /// Returns a cell with a number, shown to people with `digits` significant digits.
    pub fn float(value: f64, digits: usize) -> Self {
        Content::Float(value, digits).into()
    }

    /// Returns a cell with a fraction from 0 to 1.
    pub fn share(share: f64) -> Self {
        Content::Share(share).into()
    }

    /// Returns a cell with a tensor's dimensions, outermost first.
    pub fn shape(shape: impl Into<Cow<'a, [u64]>>) -> Self {
        Content::Shape(shape.into()).into()
    }

    /// Returns a cell with a boolean.
    pub fn flag(flag: bool) -> Self {
        Content::Flag(flag).into()
    }

    /// Returns a cell with a number given as exact text.
    pub fn number(text: String) -> Self {
        Content::Number(text).into()
    }

    /// Returns `make(value)`, or an empty cell.
    pub fn maybe<T>(value: Option<T>, make: impl FnOnce(T) -> Self) -> Self {
        value.map_or_else(Self::empty, make)
    }

    /// Sets the tone.
    #[must_use]
    pub fn tone(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }

    /// Returns the text for people, escaped.
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

    /// Converts into the text for people.
    pub(super) fn into_human(self) -> Cow<'a, str> {
        match self.content {
            Content::Text(Cow::Borrowed(value)) => text::escape(value),
            _ => self.human().into_owned().into(),
        }
    }

    /// Returns the exact text for scripts; strings are escaped as for people, who look at csv files too.
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
