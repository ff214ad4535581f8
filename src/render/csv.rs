//! CSV: one table, exact numbers. A cell that a spreadsheet would take for a formula is made plain text.

use std::io::{self, Write};

use crate::render::section::{Audience, Body, Section, seen};
use crate::render::{Cell, Content};

/// Writes the sections as one table. With more than one of them the first column, `table`, says which a row is of, and the columns
/// are those of all; where reports on several models follow each other, the first column is the model's path.
pub(super) fn write(out: &mut dyn Write, sections: &[Section], path: Option<&str>, first: bool) -> io::Result<()> {
    let tables: Vec<Flat> = sections.iter().filter(|section| section.audience != Audience::People).filter_map(flat).collect();
    let mut keys: Vec<&str> = Vec::new();
    for key in tables.iter().flat_map(|table| table.keys.iter().copied()) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let path_column = path.is_some() && !keys.contains(&"path");
    let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(out);
    if first {
        let lead = path_column.then_some("path").into_iter().chain((tables.len() > 1).then_some("table"));
        writer.write_record(lead.chain(keys.iter().copied())).map_err(to_io)?;
    }
    for table in &tables {
        let places: Vec<Option<usize>> = keys.iter().map(|key| table.keys.iter().position(|own| own == key)).collect();
        for row in &table.rows {
            let mut record: Vec<String> = Vec::new();
            record.extend(path.filter(|_| path_column).map(|path| guarded(&Cell::text(path.to_owned()))));
            record.extend((tables.len() > 1).then(|| table.name.to_owned()));
            record.extend(places.iter().map(|place| place.and_then(|i| row.get(i)).cloned().unwrap_or_default()));
            writer.write_record(&record).map_err(to_io)?;
        }
    }
    writer.flush()
}

/// A section as rows of finished texts.
struct Flat {
    name: &'static str,
    keys: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

fn flat(section: &Section) -> Option<Flat> {
    let (keys, rows) = match &section.body {
        Body::Table { columns, cells } => {
            let seen = seen(columns, Audience::Scripts);
            let keys = seen.iter().map(|(_, column)| column.key).collect();
            let exact = |row| seen.iter().map(|(i, _)| guarded(&cells.at(columns.len(), row, *i))).collect();
            (keys, (0..cells.rows(columns.len())).map(exact).collect())
        }
        Body::Facts(facts) => (vec!["key", "value"], facts.iter().map(|fact| vec![fact.key.to_string(), guarded(&fact.value)]).collect()),
        Body::Text(_) => return None,
    };
    Some(Flat { name: section.key, keys, rows })
}

/// The exact value; text that starts like a formula gets a quote before it, as OWASP advises against CSV injection.
fn guarded(cell: &Cell) -> String {
    let text = cell.exact();
    match &cell.content {
        Content::Text(_) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => format!("'{text}"),
        _ => text,
    }
}

fn to_io(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
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
    fn several_tables_share_one_header() {
        let a = Section::facts("facts", vec![Fact::named("name", Cell::text("x,y"))]);
        let b = Section::table("by_dtype", vec![Column::text("dtype")]).rows([vec![Cell::text("F32")]]);
        assert_eq!(text(&[a, b], Some("m.gguf")), "path,table,key,value,dtype\nm.gguf,facts,name,\"x,y\",\nm.gguf,by_dtype,,,F32\n");
    }
}
