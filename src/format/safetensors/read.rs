//! Reads one safetensors file, checking the header by rules 1 to 7 of the specification and of the safetensors crate.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use safetensors::Dtype;
use serde::de::{IntoDeserializer, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer as _};

use crate::base::bytes::{Cursor, Endian, Parsed, copy};
use crate::base::finding::{Findings, Severity};
use crate::base::{Error, Result, limits, num, text};
use crate::format::codes;
use crate::format::safetensors::json::{Pairs, json_error};
use crate::format::safetensors::spec::{ALIGNMENT, LENGTH_BYTES, METADATA};
use crate::format::set::{Part, check_finding_limit, check_truncated, is_cut, parse_header};
use crate::model::dtype::InlineName;
use crate::model::{DType, ElemType, Metadata, Tag, TensorInfo, Value};
use crate::source::Prefix;

/// Reads the header of one file. Invalid tensors are reported to `findings` and omitted.
pub(crate) fn read(mut file: Prefix, findings: &mut Findings) -> Result<Part> {
    let text = parse_header(&mut file, findings, header_text)?;
    let (metadata, tensors) = read_header(&text, &file, findings).map_err(|error| error.in_file(file.path()))?;
    Ok(Part::new(file.into_source(), tensors, metadata, Endian::Little))
}

fn read_header(json: &str, file: &Prefix, findings: &mut Findings) -> Result<(Metadata, Vec<TensorInfo>)> {
    let path = file.path();
    let data_start = LENGTH_BYTES + json.len() as u64;
    let Header { metadata, metadata_twice, mut entries } =
        parse(json).map_err(|(code, error)| findings.fatal(code, error.in_file(path)))?;
    if let Some(key) = metadata_twice {
        findings.error(codes::ST_METADATA, Error::malformed(format!("duplicate metadata key {key}")).in_file(path))?;
    }
    if !data_start.is_multiple_of(ALIGNMENT) {
        let message = format!("expected the data to start at a multiple of {ALIGNMENT} bytes, found {data_start}");
        findings.remark(Severity::Note, codes::ST_PADDING, Error::malformed(message).in_file(path));
    }
    refuse_duplicates(&mut entries, path, findings)?;
    entries.sort_by_key(|(_, info)| (info.begin, info.end));
    let tensors = place_tensors(entries, data_start, file, findings)?;
    Ok((metadata, tensors))
}

/// Rules 1 and 2: the header's length and text, copied before validation because the file can change.
fn header_text(file: &Prefix, findings: &mut Findings) -> Parsed<Result<String>> {
    let mut cursor = Cursor::from_prefix(file.bytes(), file.len(), Endian::Little);
    let text = text_at(&mut cursor).map_err(|(code, error)| findings.fatal(code, error.in_file(file.path())));
    cursor.parsed(text)
}

fn text_at(cursor: &mut Cursor<'_>) -> Result<String, (&'static str, Error)> {
    let found = cursor.remaining();
    if found < LENGTH_BYTES {
        let message = format!("expected 8 bytes of header length, found {found} in all");
        return Err((codes::ST_HEADER_LENGTH, Error::truncated(message).at(0)));
    }
    let length = cursor.u64("the length of the header").map_err(|error| (codes::ST_HEADER_LENGTH, error))?;
    if length > limits::SAFETENSORS_HEADER_BYTES {
        let message = format!("expected a header of at most {} bytes, found {length}", limits::SAFETENSORS_HEADER_BYTES);
        return Err((codes::ST_HEADER_LENGTH, Error::malformed(message).at(0)));
    }
    if length > cursor.remaining() {
        let message = format!("expected a header of {length} bytes, found {} after its length", cursor.remaining());
        return Err((codes::ST_HEADER_LENGTH, Error::truncated(message).at(LENGTH_BYTES)));
    }
    let header = cursor.take(length, "the header").and_then(copy).map_err(|error| (codes::ST_HEADER_LENGTH, error))?;
    match header.first() {
        Some(b'{') => {}
        first => {
            let found = first.map_or("nothing".to_owned(), |byte| format!("byte 0x{byte:02x}"));
            let message = format!("expected a header that starts with {{, found {found}");
            return Err((codes::ST_START, Error::malformed(message).at(LENGTH_BYTES)));
        }
    }
    String::from_utf8(header).map_err(|error| {
        let at = LENGTH_BYTES + error.utf8_error().valid_up_to() as u64;
        (codes::ST_UTF8, Error::malformed("expected a header in UTF-8, found other bytes").at(at))
    })
}

/// A header that may still contain duplicate names.
#[derive(Default)]
struct Header {
    metadata: Metadata,
    /// A duplicate metadata key.
    metadata_twice: Option<String>,
    entries: Vec<(String, Info)>,
}

fn parse(json: &str) -> Result<Header, (&'static str, Error)> {
    let broken = RefCell::default();
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let parsed = deserializer.deserialize_map(HeaderVisitor { broken: &broken });
    let parsed = parsed.and_then(|header| deserializer.end().map(|()| header));
    parsed.map_err(|error| {
        let error = |what| json_error(json, &error, what).at_base(LENGTH_BYTES);
        match broken.into_inner() {
            Some(name) if name == METADATA => (codes::ST_METADATA, error("metadata that maps strings to strings")),
            Some(name) => (codes::ST_JSON, error("dtype, shape and data_offsets").in_tensor(&name)),
            None => (codes::ST_JSON, error("an object of tensors")),
        }
    })
}

struct HeaderVisitor<'a> {
    /// Set to the name of the tensor whose value is invalid.
    broken: &'a RefCell<Option<String>>,
}

impl HeaderVisitor<'_> {
    fn fail<T, E>(&self, name: String, error: E) -> Result<T, E> {
        self.broken.replace(Some(name));
        Err(error)
    }
}

impl<'de> Visitor<'de> for HeaderVisitor<'_> {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header::default();
        let mut seen_metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                if seen_metadata {
                    return Err(serde::de::Error::custom("duplicate __metadata__"));
                }
                seen_metadata = true;
                match map.next_value::<Option<Pairs<'_>>>() {
                    Ok(pairs) => (header.metadata, header.metadata_twice) = pairs.map(to_metadata).unwrap_or_default(), // null counts as absent
                    Err(error) => return self.fail(name, error),
                }
            } else {
                match map.next_value::<Info>() {
                    Ok(info) => header.entries.push((name, info)),
                    Err(error) => return self.fail(name, error),
                }
            }
        }
        Ok(header)
    }
}

/// The header entry of one tensor.
struct Info {
    elem: ElemType,
    shape: Vec<u64>,
    /// Relative to the start of the data.
    begin: u64,
    end: u64,
    /// A field that is not part of the format.
    foreign: Option<String>,
}

impl<'de> Deserialize<'de> for Info {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InfoVisitor)
    }
}

struct InfoVisitor;

impl<'de> Visitor<'de> for InfoVisitor {
    type Value = Info;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Info, A::Error> {
        fn once<T, E: serde::de::Error>(slot: &mut Option<T>, value: T, field: &'static str) -> Result<(), E> {
            match slot.replace(value) {
                None => Ok(()),
                Some(_) => Err(E::duplicate_field(field)),
            }
        }
        let (mut dtype, mut shape, mut offsets, mut foreign) = (None, None, None, None);
        while let Some(field) = map.next_key::<Field>()? {
            match field {
                Field::Dtype => once(&mut dtype, map.next_value()?, "dtype")?,
                Field::Shape => once(&mut shape, map.next_value()?, "shape")?,
                Field::Offsets => once(&mut offsets, map.next_value::<(u64, u64)>()?, "data_offsets")?,
                Field::Foreign(name) => {
                    // Parsed, not skipped, so that the nesting depth is limited.
                    map.next_value::<serde_json::Value>()?;
                    foreign = Some(name);
                }
            }
        }
        let missing = <A::Error as serde::de::Error>::missing_field;
        let (begin, end) = offsets.ok_or_else(|| missing("data_offsets"))?;
        let (TypeOf(elem), shape) = (dtype.ok_or_else(|| missing("dtype"))?, shape.ok_or_else(|| missing("shape"))?);
        Ok(Info { elem, shape, begin, end, foreign })
    }
}

/// The element type with a name, known or unknown.
struct TypeOf(ElemType);

impl<'de> Deserialize<'de> for TypeOf {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TypeVisitor;
        impl Visitor<'_> for TypeVisitor {
            type Value = TypeOf;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a type name of at most {} bytes", InlineName::BYTES)
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<TypeOf, E> {
                let known = Dtype::deserialize(IntoDeserializer::<serde::de::value::Error>::into_deserializer(name)).ok();
                let known = known.and_then(|_| DType::from_safetensors(name)).map(ElemType::Known);
                let unknown = || InlineName::new(name).map(|name| ElemType::Unknown { tag: Tag::Name(name) });
                known.or_else(unknown).map(TypeOf).ok_or_else(|| E::invalid_value(Unexpected::Str(&text::shorten(name)), &self))
            }
        }
        deserializer.deserialize_str(TypeVisitor)
    }
}

/// A field name; known ones need no allocation, since every tensor has three.
enum Field {
    Dtype,
    Shape,
    Offsets,
    Foreign(String),
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldVisitor;
        impl Visitor<'_> for FieldVisitor {
            type Value = Field;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Field, E> {
                Ok(match name {
                    "dtype" => Field::Dtype,
                    "shape" => Field::Shape,
                    "data_offsets" => Field::Offsets,
                    _ => Field::Foreign(name.to_owned()),
                })
            }
        }
        deserializer.deserialize_identifier(FieldVisitor)
    }
}

/// Converts the pairs to metadata; also returns a duplicate key, if any.
fn to_metadata(pairs: Pairs<'_>) -> (Metadata, Option<String>) {
    let mut metadata = Metadata::new();
    let mut twice = None;
    for (key, value) in pairs.0 {
        if metadata.get(&key).is_some() {
            twice.get_or_insert(key.into_owned());
        } else {
            metadata.set(key, Value::String(value.into_owned()));
        }
    }
    (metadata, twice)
}

/// Rule 7: removes duplicate names after the first.
fn refuse_duplicates(entries: &mut Vec<(String, Info)>, path: &Path, findings: &mut Findings) -> Result<()> {
    let mut seen: HashSet<&str> = HashSet::with_capacity(entries.len());
    let first: Vec<bool> = entries.iter().map(|(name, _)| seen.insert(name)).collect();
    for ((name, _), _) in entries.iter().zip(&first).filter(|(_, first)| !**first) {
        findings.error(codes::ST_DUPLICATE, Error::malformed("duplicate tensor name").in_tensor(name).in_file(path))?;
        check_finding_limit(findings, path)?;
    }
    let mut first = first.into_iter();
    entries.retain(|_| first.next().unwrap_or(false));
    Ok(())
}

/// Rules 3 to 5 for entries sorted by offset: no holes, no overlaps, matching sizes, nothing after the last.
fn place_tensors(entries: Vec<(String, Info)>, data_start: u64, file: &Prefix, findings: &mut Findings) -> Result<Vec<TensorInfo>> {
    let (path, file_len) = (file.path(), file.len());
    let data_len = file_len.saturating_sub(data_start);
    let mut tensors = Vec::with_capacity(entries.len());
    let mut last = 0;
    for (name, info) in entries {
        let Info { elem, shape, begin, end, foreign } = info;
        if elem.known().is_none() {
            let error = Error::malformed(format!("expected a known type, found {elem}: its values cannot be read"));
            findings.note_error(codes::ST_TYPE, &error.in_tensor(&name).in_file(path));
            check_finding_limit(findings, path)?;
        }
        if let Some(field) = foreign {
            let message = format!("expected only the fields dtype, shape and data_offsets, found {}", text::shorten(&field));
            findings.remark(Severity::Warning, codes::ST_FIELD, Error::malformed(message).in_tensor(&name).in_file(path));
            check_finding_limit(findings, path)?;
        }
        let broken = check(elem, &shape, begin, end, last);
        if end >= begin {
            last = last.max(end);
        }
        match broken {
            None => tensors.push(TensorInfo {
                name,
                elem,
                shape,
                shard: 0,
                offset_bytes: data_start.saturating_add(begin),
                len_bytes: Some(end - begin),
            }),
            Some((code, error)) => {
                let error = data_start.checked_add(begin).into_iter().fold(error, Error::at);
                let error = error.in_tensor(&name).in_file(path);
                findings.error(code, error)?;
                check_finding_limit(findings, path)?;
            }
        }
    }
    check_truncated(&tensors, file_len, 0, path, codes::ST_TRUNCATED, findings)?;
    if findings.collects() {
        tensors.retain(|tensor| !is_cut(tensor, file_len, 0));
    }
    if last < data_len {
        let message = format!("expected the file to end with the last tensor, found {} bytes after it", data_len - last);
        findings.error(codes::ST_TRAILING, Error::malformed(message).at(data_start + last).in_file(path))?;
    }
    Ok(tensors)
}

/// Returns the first rule that a tensor violates; `last` is the end of the previous tensor.
fn check(elem: ElemType, shape: &[u64], begin: u64, end: u64, last: u64) -> Option<(&'static str, Error)> {
    let broken = |code, message: String| Some((code, Error::malformed(message)));
    if end < begin {
        return broken(codes::ST_OFFSETS, format!("expected data_offsets in ascending order, found [{begin}, {end}]"));
    }
    if begin > last {
        return broken(codes::ST_HOLE, format!("expected the data to begin at {last}, where the previous tensor ends, found {begin}"));
    }
    if begin < last {
        return broken(codes::ST_OVERLAP, format!("expected the data to begin at {last}, where the previous tensor ends, found {begin}"));
    }
    let found = end - begin;
    // The size of an unknown type is unknown.
    match num::elements(shape).and_then(|elements| elem.known().map_or(Ok(found), |dtype| dtype.bytes_for(elements))) {
        Ok(bytes) if bytes == found => {}
        Ok(bytes) => {
            return broken(codes::ST_SIZE, format!("expected {bytes} bytes for {elem} {}, found {found}", num::show_shape(shape)));
        }
        Err(error) => return Some((codes::ST_SIZE, error)),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_changes_while_it_is_parsed_is_read_consistently() {
        let header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), b"x"].concat();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let mut prefix = Prefix::new(crate::source::open(file.path()).unwrap()).unwrap();
        let mut read = || parse_header(&mut prefix, &mut Findings::stop_at_first(), header_text);
        let text = read().unwrap();
        std::os::unix::fs::FileExt::write_all_at(file.as_file(), &[0xff; 20], 8).unwrap();
        assert_eq!(text, header);
        assert!(read().is_err(), "what is read anew changes with the file");
    }
}
