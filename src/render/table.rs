//! Tables for people, fitted to the terminal. The only user of the crate tabled.

use std::borrow::Cow;
use std::io::{self, Write};

use rayon::prelude::*;
use tabled::grid::IterGrid;
use tabled::grid::colors::Colors;
use tabled::grid::config::{AlignmentHorizontal, Entity, Indent, Position, Sides, SpannedConfig};
use tabled::grid::dimension::{DimensionValue, StaticDimension};
use tabled::grid::records::IterRecords;
use tabled::settings::Color;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::base::text;
use crate::render::section::{Audience, Body, Column, Cut, Fact, Section, seen};
use crate::render::{Cell, Tone, spark};

/// Columns between two values.
const GAP: usize = 2;

/// The fewest columns that a shortened value keeps.
const LEAST_WIDTH: usize = 12;

/// The fewest that a name keeps as long as there is something less important to leave out.
const NAME_WIDTH: usize = 28;

/// How a table looks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Look {
    /// Whether there are colours.
    pub color: bool,
    /// How many columns there are to fill; without a limit nothing is shortened.
    pub width: Option<usize>,
}

/// Writes the sections, one after the other, under the path of the model where reports on several follow each other.
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
            Body::Table { columns, rows } => table(out, columns, rows, look)?,
            Body::Facts(list) => facts(out, list, look)?,
            Body::Text(text) => writeln!(out, "{}", text.trim_end_matches('\n'))?,
        }
        if let Some(footer) = &section.footer {
            writeln!(out, "{}", paint(&text::escape(footer), Tone::Faint, look))?;
        }
    }
    Ok(())
}

fn table(out: &mut dyn Write, columns: &[Column], rows: &[Vec<Cell>], look: &Look) -> io::Result<()> {
    let mut shown = seen(columns, Audience::People);
    let mut cells: Vec<Vec<Cow<'_, str>>> = Vec::with_capacity(rows.len() + 1);
    cells.push(shown.iter().map(|(_, column)| Cow::Borrowed(&*column.title)).collect());
    cells.extend(in_pieces(rows, |_, rows| rows.iter().map(|row| texts(&shown, row)).collect::<Vec<_>>()).into_iter().flatten());
    fit(&mut shown, &mut cells, look.width);

    let tone = |at: Position| match at.row {
        0 => Tone::Strong,
        row => shown.get(at.col).and_then(|(i, _)| rows.get(row - 1)?.get(*i)).map_or(Tone::Plain, |cell| cell.tone),
    };
    let right: Vec<bool> = shown.iter().map(|(_, column)| column.right).collect();
    grid(out, &cells, look.color.then_some(tone), &right, true)
}

/// The cells of a row that are shown, for people.
fn texts<'r>(shown: &[(usize, &Column)], row: &'r [Cell<'_>]) -> Vec<Cow<'r, str>> {
    shown.iter().map(|(i, _)| row.get(*i).map(Cell::human).unwrap_or_default()).collect()
}

fn facts(out: &mut dyn Write, facts: &[Fact], look: &Look) -> io::Result<()> {
    let columns = [Column::text("key"), Column::value("value")];
    let mut shown = seen(&columns, Audience::People);
    let mut cells: Vec<Vec<Cow<'_, str>>> = facts.iter().map(|fact| vec![Cow::Borrowed(&*fact.title), fact.value.human()]).collect();
    fit(&mut shown, &mut cells, look.width);
    let tone = |at: Position| match at.col {
        0 => Tone::Faint,
        _ => facts.get(at.row).map_or(Tone::Plain, |fact| fact.value.tone),
    };
    grid(out, &cells, look.color.then_some(tone), &[false, false], false)
}

/// Makes rows fit `width`: shortens what may be shortened, the longest first; when that is not enough, the last optional column goes.
fn fit(columns: &mut Vec<(usize, &Column)>, cells: &mut [Vec<Cow<'_, str>>], width: Option<usize>) {
    let Some(width) = width else { return };
    loop {
        let widths: Vec<usize> =
            (0..columns.len()).map(|i| cells.iter().filter_map(|row| row.get(i)).map(|text| width_of(text)).max().unwrap_or(0)).collect();
        let total = widths.iter().sum::<usize>() + GAP * columns.len().saturating_sub(1);
        let mut over = total.saturating_sub(width);
        let mut narrowed = widths.clone();
        let last = (0..columns.len()).rev().filter(|&i| columns[i].1.optional.is_some()).min_by_key(|&i| columns[i].1.optional);
        let least = |column: &Column| match column.cut {
            Cut::Never => usize::MAX,
            Cut::Middle if last.is_some() => NAME_WIDTH,
            Cut::Middle | Cut::End | Cut::Scale => LEAST_WIDTH,
        };
        while over > 0 {
            let longest = (0..columns.len()).filter(|&i| narrowed[i] > least(columns[i].1)).max_by_key(|&i| narrowed[i]);
            let Some(i) = longest else { break };
            narrowed[i] -= 1;
            over -= 1;
        }
        if over > 0
            && let Some(last) = last
        {
            columns.remove(last);
            for row in cells.iter_mut().filter(|row| row.len() > last) {
                row.remove(last);
            }
            continue;
        }
        for row in cells {
            for (i, text) in row.iter_mut().enumerate() {
                if columns[i].1.cut == Cut::Scale {
                    *text = spark::scale(text, narrowed[i], widths[i]).into();
                } else if narrowed[i] < widths[i] && width_of(text) > narrowed[i] {
                    *text = match columns[i].1.cut {
                        Cut::Middle => cut_middle(text, narrowed[i]).into(),
                        _ => cut_end(text, narrowed[i]).into(),
                    };
                }
            }
        }
        return;
    }
}

/// The start and the end of a text with an ellipsis between, `width` columns in all.
fn cut_middle(text: &str, width: usize) -> String {
    let room = width.saturating_sub(1);
    let end = room.div_ceil(2);
    let head = take_width(text.chars(), room - end);
    let tail = take_width(text.chars().rev(), end);
    head.chars().chain(['…']).chain(tail.chars().rev()).collect()
}

/// The start of a text with an ellipsis after it, `width` columns in all.
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

/// How many columns a text takes, which has no control characters.
fn width_of(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.width() }
}

/// Writes rows below each other, a line each without spaces at its end, and a rule below the header. tabled's grid takes rows as they
/// come, and is told the widths: its `Table` takes ten times as long over the 60,000 tensors of a large model.
fn grid(
    out: &mut dyn Write,
    cells: &[Vec<Cow<'_, str>>],
    tone: Option<impl Fn(Position) -> Tone + Sync>,
    right: &[bool],
    header: bool,
) -> io::Result<()> {
    let mut widths = vec![0; right.len()];
    for row in cells {
        for (width, text) in widths.iter_mut().zip(row) {
            *width = width_of(text).max(*width);
        }
    }
    let mut config = SpannedConfig::new();
    // What holds for all columns is not looked up for every cell.
    config.set_padding(Entity::Global, Sides::new(Indent::zero(), Indent::spaced(GAP), Indent::zero(), Indent::zero()));
    for (i, right) in right.iter().enumerate() {
        widths[i] += GAP;
        if *right {
            config.set_alignment_horizontal(Entity::Column(i), AlignmentHorizontal::Right);
        }
    }
    let rule = header.then(|| "─".repeat(widths.iter().sum::<usize>().saturating_sub(GAP)));
    let size = StaticDimension::new(DimensionValue::List(widths), DimensionValue::Exact(1));
    let pieces = in_pieces(cells, |first, cells| {
        let records = IterRecords::new(cells.iter().map(|row| row.iter()), right.len(), Some(cells.len()));
        let tone = tone.as_ref().map(|tone| |at: Position| tone(Position::new(first + at.row, at.col)));
        IterGrid::new(records, &config, &size, Painted(tone)).to_string()
    });
    for (i, line) in pieces.iter().flat_map(|piece| piece.lines()).enumerate() {
        writeln!(out, "{}", line.trim_end_matches(' '))?;
        if let (0, Some(rule)) = (i, &rule) {
            writeln!(out, "{rule}")?;
        }
    }
    Ok(())
}

/// What a function makes of pieces of a list, given where each begins: on all threads, but in order. A short list is one piece.
fn in_pieces<'l, T: Sync, R: Send>(list: &'l [T], function: impl Fn(usize, &'l [T]) -> R + Sync) -> Vec<R> {
    const PIECE: usize = 2048;
    if list.len() <= PIECE {
        return vec![function(0, list)]; // no thread is started
    }
    list.par_chunks(PIECE).enumerate().map(|(i, piece)| function(i * PIECE, piece)).collect()
}

/// The tones of cells, as their colours.
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

/// The colours of the tones, in their order; the first has none.
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
        assert!(narrower.contains("model.layers.10…tn.q_proj.weight") && !narrower.contains("offset"), "{narrower}");
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
