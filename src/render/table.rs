//! Tables for people, fitted to the terminal. The only user of the crate tabled.

use std::borrow::Cow;
use std::io::{self, Write};
use std::ops::Range;

use tabled::grid::CompactGrid;
use tabled::grid::colors::Colors;
use tabled::grid::config::{CompactConfig, Indent, Position, Sides};
use tabled::grid::dimension::{DimensionValue, StaticDimension};
use tabled::grid::records::IterRecords;
use tabled::settings::Color;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::base::text;
use crate::base::threads::{par, prelude::*};
use crate::render::section::{Audience, Body, Cells, Column, Cut, Fact, Section, seen};
use crate::render::{Tone, spark};

/// The gap between two columns.
const GAP: usize = 2;

/// The minimum width of a shortened value.
const LEAST_WIDTH: usize = 12;

/// The width to which values are shortened before names are.
const SHORT_VALUE: usize = 20;

/// The minimum width of a sentence that is broken into lines.
const LEAST_SENTENCE: usize = 24;

/// The minimum width of a shortened name or value while less important columns can still be dropped.
const NAME_WIDTH: usize = 28;

/// The appearance of tables.
#[derive(Debug, Clone, Copy, Default)]
pub struct Look {
    /// Whether to use colours.
    pub color: bool,
    /// The available width; without one, nothing is shortened.
    pub width: Option<usize>,
}

/// Writes the sections, headed by the model's path if reports on several models follow each other.
pub(super) fn write(out: &mut dyn Write, sections: &[Section], path: Option<&str>, first: bool, look: &Look) -> io::Result<()> {
    if !first {
        writeln!(out)?;
    }
    if let Some(path) = path {
        writeln!(out, "{}\n", paint(&text::escape(path), Tone::Strong, look))?;
    }
    let shown = sections.iter().filter(|section| section.audience != Audience::Scripts && (!section.is_empty() || sections.len() == 1));
    for (i, section) in shown.enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        if let Some(title) = &section.title {
            writeln!(out, "{}", paint(&text::escape(title), Tone::Strong, look))?;
        }
        match &section.body {
            Body::Table { columns, cells } => table(out, columns, cells, look)?,
            Body::Facts(list) => facts(out, list, look)?,
            Body::Text(text) => writeln!(out, "{}", text.trim_end_matches('\n'))?,
            Body::Prose(text) => prose(out, text, Tone::Plain, look)?,
        }
        if let Some(footer) = &section.footer {
            prose(out, &text::escape(footer), Tone::Faint, look)?;
        }
    }
    Ok(())
}

/// Writes sentences, broken into lines that fit the terminal.
fn prose(out: &mut dyn Write, text: &str, tone: Tone, look: &Look) -> io::Result<()> {
    let lines = text.lines().flat_map(|line| wrapped(line, look.width.unwrap_or(usize::MAX)));
    lines.into_iter().try_for_each(|line| writeln!(out, "{}", paint(&line, tone, look)))
}

fn table(out: &mut dyn Write, columns: &[Column], cells: &Cells, look: &Look) -> io::Result<()> {
    let cell = |line: usize, column| line.checked_sub(1).map(|row| cells.at(columns.len(), row, column));
    let text = |line, column: usize| match cell(line, column) {
        None => Cow::Borrowed(&*columns[column].title),
        Some(Cow::Borrowed(cell)) => cell.human(),
        Some(Cow::Owned(cell)) => cell.into_human(),
    };
    let tone = |line, column| cell(line, column).map_or(Tone::Strong, |cell| cell.tone);
    lay_out(out, columns, 1 + cells.rows(columns.len()), text, tone, look, true)
}

fn facts(out: &mut dyn Write, facts: &[Fact], look: &Look) -> io::Result<()> {
    let columns = [Column::text("key"), Column::sentence("value")];
    let text = |line: usize, column| if column == 0 { Cow::Borrowed(&*facts[line].title) } else { facts[line].value.human() };
    let tone = |line: usize, column| if column == 0 { Tone::Faint } else { facts[line].value.tone };
    lay_out(out, &columns, facts.len(), text, tone, look, false)
}

/// Writes the lines without trailing spaces, a rule below the header, and the names of columns for which there was no room.
///
/// Texts and tones are requested line by line and twice: keeping the texts of all lines would take more memory and time.
///
/// tabled's compact grid streams rows with given widths; its `Table` is ten times slower on the 60,000 tensors of a large model. The grid
/// aligns all columns alike, so right-aligned texts are padded here.
fn lay_out<'t>(
    out: &mut dyn Write,
    columns: &[Column],
    lines: usize,
    text: impl Fn(usize, usize) -> Cow<'t, str> + Sync,
    tone: impl Fn(usize, usize) -> Tone + Sync,
    look: &Look,
    header: bool,
) -> io::Result<()> {
    let mut shown = seen(columns, Audience::People);
    let widest = in_chunks(lines, |lines| {
        shown.iter().map(|(i, _)| lines.clone().map(|line| width_of(&text(line, *i))).max().unwrap_or(0)).collect::<Vec<_>>()
    });
    let mut full: Vec<usize> = (0..shown.len()).map(|at| widest.iter().map(|chunk| chunk[at]).max().unwrap_or(0)).collect();
    let all = shown.clone();
    let widths = fit(&mut shown, &mut full, look.width);

    let config = CompactConfig::new().set_padding(Sides::new(Indent::zero(), Indent::spaced(GAP), Indent::zero(), Indent::zero()));
    let width = (widths.iter().sum::<usize>() + GAP * widths.len()).saturating_sub(GAP);
    let size = StaticDimension::new(DimensionValue::List(widths.iter().map(|width| width + GAP).collect()), DimensionValue::Exact(1));
    let chunks = in_chunks(lines, |lines| {
        let fitted = |line, at: usize, i, column: &Column| {
            let text = shorten(text(line, i), column.cut, full[at], widths[at]);
            if column.right { flush_right(text, widths[at]) } else { text }
        };
        let row = |line| shown.iter().enumerate().map(|(at, (i, column))| fitted(line, at, *i, column)).collect::<Vec<_>>();
        // A line with a sentence may take several rows.
        let mut rows: Vec<Vec<Cow<'_, str>>> = Vec::with_capacity(lines.len());
        let mut line_of: Vec<usize> = Vec::with_capacity(lines.len());
        for line in lines {
            let broken = broken(row(line), &shown, &widths);
            line_of.extend(broken.iter().map(|_| line));
            rows.extend(broken);
        }
        let records = IterRecords::new(rows.iter().map(|row| row.iter()), shown.len(), Some(rows.len()));
        let tone = look.color.then_some(|at: Position| match (shown.get(at.col), line_of.get(at.row)) {
            (Some((i, _)), Some(&line)) => tone(line, *i),
            _ => Tone::Plain,
        });
        let grid = CompactGrid::new(records, &config, &size, Painted(tone)).to_string();
        drop(rows);
        grid
    });
    for (line, text) in chunks.iter().flat_map(|chunk| chunk.lines()).enumerate() {
        writeln!(out, "{}", text.trim_end_matches(' '))?;
        if header && line == 0 {
            rule(out, width)?;
        }
    }
    let missing: Vec<&str> = all.iter().filter(|(i, _)| shown.iter().all(|(j, _)| i != j)).map(|(_, column)| &*column.title).collect();
    if header && !missing.is_empty() {
        prose(out, &format!("no room for: {}", missing.join(", ")), Tone::Faint, look)?;
    }
    Ok(())
}

/// Breaks the sentences of a row into lines: the row, and one more for each further line of the longest.
fn broken<'t>(row: Vec<Cow<'t, str>>, shown: &[(usize, &Column)], widths: &[usize]) -> Vec<Vec<Cow<'t, str>>> {
    let long = |at: usize, text: &str| shown[at].1.cut == Cut::Wrap && width_of(text) > widths[at];
    if !row.iter().enumerate().any(|(at, text)| long(at, text)) {
        return vec![row];
    }
    let lines = |(at, text): (usize, Cow<'t, str>)| if long(at, &text) { wrapped(&text, widths[at]) } else { vec![text] };
    let mut columns: Vec<_> = row.into_iter().enumerate().map(|cell| lines(cell).into_iter()).collect();
    let tallest = columns.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
    (0..tallest).map(|_| columns.iter_mut().map(|lines| lines.next().unwrap_or_default()).collect()).collect()
}

/// Breaks a text at spaces into lines of at most `width` columns; a longer word is broken after a dot or a slash, or else anywhere.
fn wrapped(text: &str, width: usize) -> Vec<Cow<'static, str>> {
    if width_of(text) <= width {
        return vec![Cow::Owned(text.to_owned())];
    }
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split(' ') {
        let mut word = word.to_owned();
        loop {
            let line = lines.last_mut().map(std::mem::take).unwrap_or_default();
            let joined = if line.is_empty() { word.clone() } else { format!("{line} {word}") };
            let last = lines.len() - 1;
            if width_of(&joined) <= width {
                lines[last] = joined;
                break;
            }
            if !line.is_empty() {
                lines[last] = line;
                lines.push(String::new());
                continue;
            }
            let mut head = take_width(word.chars(), width.max(2));
            if let Some(at) = head.rfind(['.', '/']) {
                head.truncate(at + 1);
            }
            word = word.split_off(head.len());
            lines[last] = head;
            lines.push(String::new());
        }
    }
    lines.into_iter().map(Cow::Owned).collect()
}

/// Writes a rule of any width: a value can be as long as the file.
fn rule(out: &mut dyn Write, width: usize) -> io::Result<()> {
    const AT_ONCE: usize = 64;
    let part = "─".repeat(AT_ONCE);
    (0..width / AT_ONCE).try_for_each(|_| out.write_all(part.as_bytes()))?;
    writeln!(out, "{}", "─".repeat(width % AT_ONCE))
}

/// Fits columns of widths `full` into `width` and returns their new widths: shortens columns that may be shortened, long values first, then
/// the widest, then drops the last optional column.
fn fit(columns: &mut Vec<(usize, &Column)>, full: &mut Vec<usize>, width: Option<usize>) -> Vec<usize> {
    loop {
        let total = full.iter().sum::<usize>() + GAP * columns.len().saturating_sub(1);
        let mut over = total.saturating_sub(width.unwrap_or(usize::MAX));
        let mut narrowed = full.clone();
        let last = (0..columns.len()).rev().filter(|&i| columns[i].1.optional.is_some()).min_by_key(|&i| columns[i].1.optional);
        let least = |column: &Column| match column.cut {
            Cut::Never => usize::MAX,
            Cut::Middle | Cut::End if last.is_some() => NAME_WIDTH,
            Cut::Wrap => LEAST_SENTENCE,
            Cut::Middle | Cut::End | Cut::Scale => LEAST_WIDTH,
        };
        while over > 0 {
            let value = |i: usize| columns[i].1.cut == Cut::End && narrowed[i] > SHORT_VALUE;
            let candidates = (0..columns.len()).filter(|&i| narrowed[i] > least(columns[i].1));
            let longest = candidates.max_by_key(|&i| (value(i), narrowed[i]));
            let Some(i) = longest else { break };
            narrowed[i] -= 1;
            over -= 1;
        }
        let Some(last) = last.filter(|_| over > 0) else { return narrowed };
        columns.remove(last);
        full.remove(last);
    }
}

/// Shortens a text of a column that is `full` wide and gets `width`.
fn shorten(text: Cow<'_, str>, cut: Cut, full: usize, width: usize) -> Cow<'_, str> {
    match cut {
        Cut::Wrap => text,
        Cut::Scale if width < full => spark::scale(&text, width, full).into(),
        Cut::Middle if width < full && width_of(&text) > width => cut_middle(&text, width).into(),
        _ if width < full && width_of(&text) > width => cut_end(&text, width).into(),
        _ => text,
    }
}

/// Pads a text on the left to `width`.
fn flush_right(text: Cow<'_, str>, width: usize) -> Cow<'_, str> {
    match width.saturating_sub(width_of(&text)) {
        0 => text,
        spaces => (" ".repeat(spaces) + &text).into(),
    }
}

/// Shortens a text to `width` columns with an ellipsis in the middle.
fn cut_middle(text: &str, width: usize) -> String {
    let room = width.saturating_sub(1);
    let end = room.div_ceil(2);
    let head = take_width(text.chars(), room - end);
    let tail = take_width(text.chars().rev(), end);
    head.chars().chain(['…']).chain(tail.chars().rev()).collect()
}

/// Shortens a text to `width` columns with an ellipsis at the end.
fn cut_end(text: &str, width: usize) -> String {
    take_width(text.chars(), width.saturating_sub(1)) + "…"
}

fn take_width(chars: impl Iterator<Item = char>, width: usize) -> String {
    let mut used = 0;
    chars
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= width
        })
        .collect()
}

/// Returns the display width of a text without control characters.
fn width_of(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.width() }
}

/// Applies a function to chunks of `lines` lines on all threads and returns the results in order. Few lines are one chunk.
fn in_chunks<R: Send>(lines: usize, function: impl Fn(Range<usize>) -> R + Sync) -> Vec<R> {
    const CHUNK: usize = 2048;
    if lines <= CHUNK {
        return vec![function(0..lines)]; // no thread is started
    }
    par(0..lines.div_ceil(CHUNK)).map(|i| function(i * CHUNK..lines.min((i + 1) * CHUNK))).collect()
}

/// The colours of cells, by tone.
struct Painted<F>(Option<F>);

impl<F: Fn(Position) -> Tone> Colors for Painted<F> {
    type Color = Color;

    fn get_color(&self, at: Position) -> Option<&Color> {
        color_of(self.0.as_ref()?(at))
    }

    fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// Returns the colour of a tone.
static COLORS: [Option<Color>; 6] =
    [None, Some(Color::DIMMED), Some(Color::BOLD), Some(Color::FG_GREEN), Some(Color::FG_YELLOW), Some(Color::FG_RED)];

fn color_of(tone: Tone) -> Option<&'static Color> {
    COLORS.get(tone as usize)?.as_ref()
}

fn paint(text: &str, tone: Tone, look: &Look) -> String {
    match color_of(tone).filter(|_| look.color) {
        Some(color) => color.colorize(text),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::Cell;

    #[test]
    fn sentences_are_broken_into_lines_and_lost_columns_are_named() {
        let section =
            Section::table("findings", vec![Column::text("code"), Column::sentence("message"), Column::number("offset").optional()])
                .rows([vec![Cell::text("x"), Cell::text("one two three four five six seven"), Cell::count(123)]]);
        let mut out = Vec::new();
        write(&mut out, &[section], None, true, &Look { color: false, width: Some(30) }).unwrap();
        let expected =
            "code  message\n──────────────────────────────\nx     one two three four five\n      six seven\nno room for: offset\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert_eq!(wrapped("abcdefgh ij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrapped("blk.10.attn_q.weight", 16), ["blk.10.attn_q.", "weight"]);
    }

    #[test]
    fn final_lines_and_sentences_are_broken_between_words() {
        let section = Section::table("a", vec![Column::text("code")]).rows([[Cell::text("x")]]).footer("one of two listed");
        let mut out = Vec::new();
        write(&mut out, &[section, Section::prose("three four five")], None, true, &Look { color: false, width: Some(10) }).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "code\n────\nx\none of two\nlisted\n\nthree four\nfive\n");
    }

    #[test]
    fn long_values_are_shortened_before_names() {
        let section = Section::table("metadata", vec![Column::name("key"), Column::value("value")])
            .rows([[Cell::text("tokenizer.ggml.unknown_token_id"), Cell::text("a value of more than forty characters in all")]]);
        let mut out = Vec::new();
        write(&mut out, &[section], None, true, &Look { color: false, width: Some(60) }).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("\ntokenizer.ggml.unknown_token_id  a value of more than forty…\n"));
    }

    fn shown(width: Option<usize>, color: bool) -> String {
        let section = Section::table(
            "tensors",
            vec![Column::name("name"), Column::text("dtype"), Column::number("elements"), Column::number("offset").optional()],
        )
        .rows([
            vec![Cell::text("model.layers.10.self_attn.q_proj.weight"), Cell::text("F32"), Cell::count(1_048_576), Cell::count(12)],
            vec![Cell::text("模型\u{1b}[31m"), Cell::text("Q4_K").tone(Tone::Bad), Cell::count(7), Cell::empty()],
        ]);
        let mut out = Vec::new();
        write(&mut out, &[section], None, true, &Look { color, width }).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn without_a_limit_everything_is_shown() {
        let expected = "\
name                                     dtype   elements  offset
─────────────────────────────────────────────────────────────────
model.layers.10.self_attn.q_proj.weight  F32    1,048,576      12
模型\\u{1b}[31m                           Q4_K           7       -
";
        assert_eq!(shown(None, false), expected);
    }

    #[test]
    fn names_lose_their_middle_then_columns_go() {
        let narrow = shown(Some(60), false);
        assert!(narrow.contains("model.layers.10.…ttn.q_proj.weight") && narrow.contains("offset"), "{narrow}");
        let narrower = shown(Some(50), false);
        assert!(narrower.contains("model.layers.10…tn.q_proj.weight") && narrower.ends_with("no room for: offset\n"), "{narrower}");
        let narrowest = shown(Some(32), false);
        assert!(narrowest.contains("model.….weight"), "{narrowest}");
        for (text, width) in [(narrow, 60), (narrower, 50), (narrowest, 32)] {
            assert!(text.lines().all(|line| line.width() <= width), "{text}");
        }
    }

    #[test]
    fn colour_is_there_only_when_asked_for() {
        assert!(!shown(None, false).contains('\u{1b}'));
        assert!(shown(None, true).contains("\u{1b}[31mQ4_K"));
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(cut_middle("模型模型模型", 7), "模…型");
        assert_eq!(cut_end("abcdef", 4), "abc…");
    }
}
