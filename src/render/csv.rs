//! CSV: one table with exact numbers. Cells that a spreadsheet would take for formulas become plain text.

use std::io::{self, Write};

use crate::render::section::{Audience, Body, Section, seen};
use crate::render::{Cell, Content};

/// Writes the sections as one table with the columns of all. If there are several, the first column, `table`, names the section of a row; if
/// reports on several models follow each other, the first column is the model's path.
pub(super) fn write(out: &mut dyn Write, sections: &[Section], path: Option<&str>, first: bool) -> io::Result<()> {
    let tables: Vec<Flat> = sections.iter().filter(|section| section.audience != Audience::People).filter_map(Flat::of).collect();
    let mut keys: Vec<&str> = Vec::new();
    for key in tables.iter().flat_map(|table| table.keys.iter().copied()) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let path = path.filter(|_| !keys.contains(&"path")).map(|path| guarded(&Cell::text(path)));
    let several = tables.len() > 1;
    if first {
        let lead = path.as_ref().map(|_| "path").into_iter().chain(several.then_some("table"));
        record(out, lead.chain(keys.iter().copied()))?;
    }
    for table in &tables {
        let indices: Vec<Option<usize>> = keys.iter().map(|key| table.keys.iter().position(|own| own == key)).collect();
        for row in 0..table.rows {
            let cells: Vec<String> = indices.iter().map(|index| index.map(|column| table.cell(row, column)).unwrap_or_default()).collect();
            let lead = path.as_deref().into_iter().chain(several.then_some(table.name));
            record(out, lead.chain(cells.iter().map(String::as_str)))?;
        }
    }
    Ok(())
}

/// Writes a record (RFC 4180): fields are quoted if necessary, or if a single empty field would give an empty line.
fn record<'f>(out: &mut dyn Write, fields: impl Iterator<Item = &'f str>) -> io::Result<()> {
    let mut written = 0;
    for field in fields {
        out.write_all(if written == 0 { b"" } else { b"," })?;
        if field.contains([',', '"', '\n', '\r']) {
            out.write_all(b"\"")?;
            for (i, part) in field.split('"').enumerate() {
                out.write_all(if i == 0 { b"" } else { b"\"\"" })?;
                out.write_all(part.as_bytes())?;
            }
            out.write_all(b"\"")?;
        } else {
            out.write_all(field.as_bytes())?;
        }
        written += field.len() + 1;
    }
    out.write_all(if written == 1 { b"\"\"\n" } else { b"\n" })
}

/// A section as rows of texts, made on demand.
struct Flat<'s, 'a> {
    name: &'static str,
    keys: Vec<&'s str>,
    rows: usize,
    body: &'s Body<'a>,
    /// The indices of the columns shown.
    indices: Vec<usize>,
}

impl<'s, 'a> Flat<'s, 'a> {
    fn of(section: &'s Section<'a>) -> Option<Self> {
        let (keys, indices, rows) = match &section.body {
            Body::Table { columns, cells } => {
                let (indices, keys) = seen(columns, Audience::Scripts).into_iter().map(|(index, column)| (index, column.key)).unzip();
                (keys, indices, cells.rows(columns.len()))
            }
            Body::Facts(facts) => (vec!["key", "value"], vec![0, 1], facts.len()),
            Body::Text(_) | Body::Prose(_) => return None,
        };
        Some(Self { name: section.key, keys, rows, body: &section.body, indices })
    }

    fn cell(&self, row: usize, column: usize) -> String {
        match self.body {
            Body::Table { columns, cells } => guarded(&cells.at(columns.len(), row, self.indices[column])),
            Body::Facts(facts) if column == 0 => facts[row].key.to_string(),
            Body::Facts(facts) => guarded(&facts[row].value),
            Body::Text(_) | Body::Prose(_) => String::new(),
        }
    }
}

/// Returns the exact text; text that starts like a formula is prefixed with a quote, as OWASP recommends against CSV injection.
fn guarded(cell: &Cell) -> String {
    let text = cell.exact();
    match &cell.content {
        Content::Text(_) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => format!("'{text}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::{Column, Fact};

    fn text(sections: &[Section], path: Option<&str>) -> String {
        let mut out = Vec::new();
        write(&mut out, sections, path, true).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn formulas_are_text_and_numbers_are_exact() {
        let section = Section::table("tensors", vec![Column::name("name"), Column::number("bytes"), Column::number("mean")]).rows([vec![
            Cell::text("=cmd|'/C calc'!A0"),
            Cell::bytes(1_234_567),
            Cell::float(-0.1, 3),
        ]]);
        assert_eq!(text(&[section], None), "name,bytes,mean\n'=cmd|'/C calc'!A0,1234567,-0.1\n");
    }

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        let line = |fields: &[&str]| {
            let mut out = Vec::new();
            record(&mut out, fields.iter().copied()).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(line(&["a", "b c", "", "d,e", "f\"g", "h\ni", "\r"]), "a,b c,,\"d,e\",\"f\"\"g\",\"h\ni\",\"\r\"\n");
        assert_eq!((line(&[""]), line(&["", ""])), ("\"\"\n".to_owned(), ",\n".to_owned()));
    }

    #[test]
    fn several_tables_share_one_header() {
        let a = Section::facts("facts", vec![Fact::named("name", Cell::text("x,y"))]);
        let b = Section::table("by_dtype", vec![Column::text("dtype")]).rows([vec![Cell::text("F32")]]);
        assert_eq!(text(&[a, b], Some("m.gguf")), "path,table,key,value,dtype\nm.gguf,facts,name,\"x,y\",\nm.gguf,by_dtype,,,F32\n");
    }
}
