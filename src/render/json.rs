//! JSON: a document a report, or a line a row. Text is exact; a number that JSON cannot hold is null.

use std::io::{self, Write};

use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

use crate::render::Report;

/// How deep the document is broken into lines: the keys of the report and the items of its lists, each on a line of its own.
const BROKEN_LEVELS: usize = 2;

/// Writes the report as one document.
pub(super) fn document<R: Report>(out: &mut dyn Write, report: &R) -> io::Result<()> {
    report.serialize(&mut Serializer::with_formatter(&mut *out, Lines::default()))?;
    writeln!(out)
}

/// Writes the rows of the report, or the report, as one object a line. `path`: the model, where several follow each other.
pub(super) fn lines<R: Report>(out: &mut dyn Write, report: &R, path: Option<&str>) -> io::Result<()> {
    let mut value = serde_json::to_value(report)?;
    let rows = match R::ROWS.and_then(|key| value.get_mut(key)).map(Value::take) {
        Some(Value::Array(rows)) => rows,
        _ => vec![value],
    };
    for mut row in rows {
        if let (Some(path), Value::Object(object)) = (path, &mut row) {
            object.entry("path").or_insert_with(|| path.into());
        }
        serde_json::to_writer(&mut *out, &row)?;
        writeln!(out)?;
    }
    Ok(())
}

/// Breaks lines at the outer levels and nowhere else: a tensor is a line, which can be searched and compared.
#[derive(Default)]
struct Lines {
    level: usize,
    has_value: bool,
}

impl Lines {
    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.level += 1;
        self.has_value = false;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.level -= 1;
        if self.has_value && self.level < BROKEN_LEVELS {
            self.line(writer, self.level)?;
        }
        self.has_value = true;
        writer.write_all(bracket)
    }

    fn item<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(b",")?;
        }
        match self.level <= BROKEN_LEVELS {
            true => self.line(writer, self.level),
            false if first => Ok(()),
            false => writer.write_all(b" "),
        }
    }

    fn line<W: ?Sized + Write>(&self, writer: &mut W, level: usize) -> io::Result<()> {
        writer.write_all(b"\n")?;
        (0..level).try_for_each(|_| writer.write_all(b"  "))
    }
}

impl Formatter for Lines {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.item(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;
    use crate::render::Section;

    #[derive(Serialize)]
    struct Sample {
        schema: &'static str,
        rows: Vec<Value>,
        none: [u8; 0],
        mean: f64,
    }

    impl Report for Sample {
        const ROWS: Option<&'static str> = Some("rows");
        fn sections(&self) -> Vec<Section> {
            Vec::new()
        }
    }

    fn sample() -> Sample {
        Sample {
            schema: "weigh.sample.v1",
            rows: vec![serde_json::json!({"name": "a\u{1b}", "shape": [2, 3]}), serde_json::json!({})],
            none: [],
            mean: f64::NAN,
        }
    }

    #[test]
    fn a_row_is_a_line_and_nan_is_null() {
        let mut out = Vec::new();
        document(&mut out, &sample()).unwrap();
        let expected = "{\n  \"schema\": \"weigh.sample.v1\",\n  \"rows\": [\n    {\"name\": \"a\\u001b\", \"shape\": [2, 3]},\n    {}\n  ],\n  \"none\": [],\n  \"mean\": null\n}\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn ndjson_is_one_object_a_row() {
        let mut out = Vec::new();
        lines(&mut out, &sample(), Some("m.gguf")).unwrap();
        let expected = "{\"name\":\"a\\u001b\",\"shape\":[2,3],\"path\":\"m.gguf\"}\n{\"path\":\"m.gguf\"}\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
