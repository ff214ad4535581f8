//! Markdown for issues and model cards: GitHub tables with all text escaped.

use std::io::{self, Write};

use crate::base::text;
use crate::render::section::{Audience, Body, Column, Section, seen};

/// Writes the sections, headed by the model's path if reports on several models follow each other.
pub(super) fn write(out: &mut dyn Write, sections: &[Section], path: Option<&str>, first: bool) -> io::Result<()> {
    if !first {
        writeln!(out)?;
    }
    if let Some(path) = path {
        writeln!(out, "## {}\n", escape(&text::escape(path)))?;
    }
    let shown = sections.iter().filter(|section| section.audience != Audience::Scripts && (!section.is_empty() || sections.len() == 1));
    for (i, section) in shown.enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        if let Some(title) = &section.title {
            writeln!(out, "### {}\n", escape(&text::escape(title)))?;
        }
        match &section.body {
            Body::Table { columns, cells } => {
                let seen = seen(columns, Audience::People);
                header(out, seen.iter().map(|(_, column)| *column))?;
                for row in 0..cells.rows(columns.len()) {
                    line(out, seen.iter().map(|(i, _)| escape(&cells.at(columns.len(), row, *i).human())))?;
                }
            }
            Body::Facts(facts) => {
                header(out, [Column::text("key").titled(""), Column::text("value").titled("")].iter())?;
                for fact in facts {
                    line(out, [escape(&fact.title), escape(&fact.value.human())].into_iter())?;
                }
            }
            Body::Text(text) | Body::Prose(text) => fenced(out, text)?,
        }
        if let Some(footer) = &section.footer {
            writeln!(out, "\n{}", escape(&text::escape(footer)))?;
        }
    }
    Ok(())
}

fn header<'a>(out: &mut dyn Write, columns: impl Iterator<Item = &'a Column> + Clone) -> io::Result<()> {
    line(out, columns.clone().map(|column| escape(&column.title)))?;
    line(out, columns.map(|column| if column.right { "---:" } else { "---" }.to_owned()))
}

fn line(out: &mut dyn Write, cells: impl Iterator<Item = String>) -> io::Result<()> {
    write!(out, "|")?;
    for cell in cells {
        write!(out, " {cell} |")?;
    }
    writeln!(out)
}

/// Writes text in a code fence longer than any run of backquotes in it.
fn fenced(out: &mut dyn Write, text: &str) -> io::Result<()> {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    writeln!(out, "{fence}text\n{}\n{fence}", text.trim_end_matches('\n'))
}

/// Escapes every character that Markdown or HTML would take as markup. An underscore inside a word is not markup.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let (mut chars, mut before) = (text.chars().peekable(), None);
    let word = |c: Option<&char>| c.is_some_and(|c| c.is_alphanumeric());
    while let Some(c) = chars.next() {
        let markup = match c {
            '_' => !(word(before.as_ref()) && word(chars.peek())),
            '@' | '#' => !word(before.as_ref()), // mentions, issue numbers
            _ => matches!(c, '\\' | '`' | '*' | '[' | ']' | '<' | '>' | '|' | '~' | '&' | '$'),
        };
        if markup {
            out.push('\\');
        }
        out.push(c);
        before = Some(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::Cell;

    #[test]
    fn cells_cannot_break_the_table_or_become_markup() {
        let section = Section::table("tensors", vec![Column::name("name"), Column::number("bytes").titled("size")])
            .rows([vec![Cell::text("a|b<img src=x>\n[x](y)`*_z_ attn_q"), Cell::bytes(2048)]]);
        let mut out = Vec::new();
        write(&mut out, &[section], None, true).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "| name | size |\n| --- | ---: |\n| a\\|b\\<img src=x\\>\\\\n\\[x\\](y)\\`\\*\\_z\\_ attn_q | 2.05 kB |\n"
        );
    }

    #[test]
    fn a_fence_is_longer_than_what_is_in_it() {
        let mut out = Vec::new();
        fenced(&mut out, "a ``` b").unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "````text\na ``` b\n````\n");
    }
}
