//! JSON: one document per report, or one line per row. Text is exact; numbers that JSON cannot represent are null.

use std::fmt;
use std::io::{self, BufWriter, Write};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::ser::{CompactFormatter, Formatter, Serializer};
use serde_json::value::RawValue;

use crate::render::Report;

/// The depth to which the document is broken into lines: the report's keys, and those items of its lists that are objects or lists.
const BROKEN_LEVELS: usize = 2;

/// Writes the report as one document. Its second key is `path` if it is about a model.
pub(super) fn document<R: Report>(out: &mut dyn Write, report: &R, path: Option<&str>) -> io::Result<()> {
    // The serializer writes a few bytes at a time: a buffer of a known type makes most writes a plain copy.
    let mut out = BufWriter::new(out);
    let path = path.map(text).transpose()?;
    report.serialize(&mut Serializer::with_formatter(&mut out, Lines { path, ..Lines::default() }))?;
    writeln!(out)?;
    out.flush()
}

/// Writes each row of the report as an object on a line, then the other keys; or the whole report if it has no rows. Rows begin with `path` if
/// reports on several models follow each other; the last line, which alone has `schema`, has it as its second key, like a document.
pub(super) fn lines<R: Report>(out: &mut dyn Write, report: &R, path: Option<&str>, several: bool) -> io::Result<()> {
    // As text, so that every number stays as written.
    let text = text(report)?;
    let whole: Object<'_> = serde_json::from_str(&text)?;
    let mut rest = String::new();
    for (key, value) in &whole.0 {
        if R::ROWS == Some(key) {
            let rows: Vec<&RawValue> = serde_json::from_str(value.get())?;
            rows.into_iter().try_for_each(|row| line(out, row.get(), path.filter(|_| several)))?;
            continue;
        }
        let comma = if rest.is_empty() { "" } else { "," };
        let path = path.filter(|_| rest.is_empty()).map(self::text).transpose()?;
        let path = path.map(|path| format!(",\"path\":{path}")).unwrap_or_default();
        rest += &format!("{comma}\"{key}\":{}{path}", value.get());
    }
    writeln!(out, "{{{rest}}}")
}

/// Serialises a value on one line.
fn text<T: serde::Serialize + ?Sized>(value: &T) -> io::Result<String> {
    let mut out = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut out, OneLine))?;
    String::from_utf8(out).map_err(io::Error::other)
}

/// Formats everything on one line.
struct OneLine;

impl Formatter for OneLine {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        write_fragment(writer, fragment)
    }
}

/// Writes a part of a string, escaping control characters that JSON allows but terminals interpret: DEL and 0x80 to 0x9f.
fn write_fragment<W: ?Sized + Write>(writer: &mut W, mut fragment: &str) -> io::Result<()> {
    // Most strings have neither DEL nor the lead byte of the others.
    if fragment.bytes().any(|byte| matches!(byte, 0x7f | 0xc2)) {
        while let Some((at, control)) = fragment.char_indices().find(|(_, c)| c.is_control()) {
            let (before, rest) = fragment.split_at(at);
            write!(writer, "{before}\\u{:04x}", u32::from(control))?;
            fragment = rest.get(control.len_utf8()..).unwrap_or_default();
        }
    }
    writer.write_all(fragment.as_bytes())
}

/// The keys of a report in their order, with values as written.
struct Object<'a>(Vec<(&'a str, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut keys = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    keys.push(entry);
                }
                Ok(Object(keys))
            }
        }

        deserializer.deserialize_map(Keys)
    }
}

/// Writes an object, with the model's path as its first key if given.
fn line(out: &mut dyn Write, object: &str, path: Option<&str>) -> io::Result<()> {
    match (path, object.strip_prefix('{')) {
        (Some(path), Some(rest)) => {
            let more = if rest == "}" { "" } else { "," };
            writeln!(out, "{{\"path\":{}{more}{rest}", text(path)?)
        }
        _ => writeln!(out, "{object}"),
    }
}

/// Breaks lines at the outer levels only: each tensor is a line, which suits grep and diff.
#[derive(Default)]
struct Lines {
    level: usize,
    /// Whether the innermost list or object was broken into lines, so that its closing bracket gets its own line.
    broken: bool,
    /// Set when an item of a list begins (true for the first): whether it gets its own line depends on its kind.
    item: Option<bool>,
    /// The value of `path`, to be written after the first key.
    path: Option<String>,
}

/// Writes a scalar on the line of its list.
macro_rules! scalars {
    ($($method:ident($($value:ident: $type:ty)?);)*) => {
        $(fn $method<W: ?Sized + Write>(&mut self, writer: &mut W $(, $value: $type)?) -> io::Result<()> {
            self.separate(writer, false)?;
            CompactFormatter.$method(writer $(, $value)?)
        })*
    };
}

impl Lines {
    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.separate(writer, true)?;
        self.level += 1;
        self.broken = false;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.level -= 1;
        if self.broken {
            self.line(writer)?;
        }
        // The enclosing list or object was broken into lines if this one was at an outer level.
        self.broken = self.level > 0 && self.level <= BROKEN_LEVELS;
        writer.write_all(bracket)
    }

    /// Writes the separator before the next item of a list.
    fn separate<W: ?Sized + Write>(&mut self, writer: &mut W, nests: bool) -> io::Result<()> {
        match self.item.take() {
            Some(_) if nests && self.level <= BROKEN_LEVELS => self.line(writer),
            Some(false) => writer.write_all(b" "),
            _ => Ok(()),
        }
    }

    fn line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b"\n")?;
        (0..self.level).try_for_each(|_| writer.write_all(b"  "))
    }
}

impl Formatter for Lines {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        write_fragment(writer, fragment)
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.item = Some(first);
        if first { Ok(()) } else { writer.write_all(b",") }
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(b",")?;
        }
        if self.level <= BROKEN_LEVELS {
            self.broken = true;
            return self.line(writer);
        }
        if first { Ok(()) } else { writer.write_all(b" ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        let Some(path) = self.path.take_if(|_| self.level == 1) else { return Ok(()) };
        writer.write_all(b",")?;
        self.line(writer)?;
        write!(writer, "\"path\": {path}")
    }

    scalars! {
        write_null();
        write_bool(value: bool);
        write_i8(value: i8);
        write_i16(value: i16);
        write_i32(value: i32);
        write_i64(value: i64);
        write_i128(value: i128);
        write_u8(value: u8);
        write_u16(value: u16);
        write_u32(value: u32);
        write_u64(value: u64);
        write_u128(value: u128);
        write_f32(value: f32);
        write_f64(value: f64);
        write_number_str(value: &str);
        begin_string();
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
        rows: Vec<serde_json::Value>,
        none: [u8; 2],
        mean: f64,
    }

    impl Report for Sample {
        const ROWS: Option<&'static str> = Some("rows");
        fn sections(&self) -> Vec<Section<'_>> {
            Vec::new()
        }
    }

    fn sample() -> Sample {
        Sample {
            schema: "weigh.sample.v1",
            rows: vec![serde_json::json!({"name": "a\u{1b}", "shape": [2, 3]}), serde_json::json!({})],
            none: [1, 2],
            mean: f64::NAN,
        }
    }

    #[test]
    fn a_row_is_a_line_and_nan_is_null() {
        let mut out = Vec::new();
        document(&mut out, &sample(), Some("a\"b")).unwrap();
        let expected = "{\n  \"schema\": \"weigh.sample.v1\",\n  \"path\": \"a\\\"b\",\n  \"rows\": [\n    {\"name\": \"a\\u001b\", \"shape\": [2, 3]},\n    {}\n  ],\n  \"none\": [1, 2],\n  \"mean\": null\n}\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn ndjson_is_one_object_a_row_and_one_of_the_rest() {
        let mut out = Vec::new();
        lines(&mut out, &sample(), Some("m.gguf"), true).unwrap();
        let expected = "{\"path\":\"m.gguf\",\"name\":\"a\\u001b\",\"shape\":[2,3]}\n{\"path\":\"m.gguf\"}\n{\"schema\":\"weigh.sample.v1\",\"path\":\"m.gguf\",\"none\":[1,2],\"mean\":null}\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn no_control_character_reaches_a_terminal_and_text_stays_exact() {
        let hostile = "a\u{7f}b\u{9b}31m\u{1b}\n\u{e9}\u{a0}\u{7f}";
        let mut broken = Vec::new();
        Serialize::serialize(hostile, &mut Serializer::with_formatter(&mut broken, Lines::default())).unwrap();
        for json in [text(hostile).unwrap(), String::from_utf8(broken).unwrap()] {
            assert!(!json.chars().any(char::is_control), "{json:?}");
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), hostile);
        }
    }
}
