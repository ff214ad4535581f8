//! One named case a corruption of a safetensors file: opening refuses it, and `verify` gives the code of the broken rule.

use std::path::Path;

use weigh::base::finding::Severity;

use crate::build::{safetensors, safetensors_bytes};
use crate::judge::{judge, refused};

/// Two tensors of 4 and 2 bytes.
const SOUND: &str = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}}"#;

fn one(dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"a":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}"#)
}

fn expect(case: &str, bytes: &[u8], code: &str) {
    refused("m.safetensors", case, bytes, code);
}

#[test]
fn lengths() {
    let sound = safetensors(SOUND, &[0; 6]);
    let with_length = |length: u64| [&length.to_le_bytes(), &sound[8..]].concat();
    for (case, bytes, code) in [
        ("too short for a length", sound[..7].to_vec(), "st-header-length"),
        ("the length alone", sound[..8].to_vec(), "st-header-length"),
        ("a length past the end", with_length(1 << 20), "st-header-length"),
        ("a length that wraps", with_length(u64::MAX), "st-header-length"),
        ("a length that wraps to nothing", with_length(u64::MAX - 7), "st-header-length"),
        ("a length past the limit", with_length(100_000_001), "st-header-length"),
        ("a length at the limit in a small file", with_length(100_000_000), "st-header-length"),
        ("a length that cuts the JSON short", with_length(SOUND.len() as u64 - 1), "st-json"),
        ("a length of the other byte order", with_length((SOUND.len() as u64).swap_bytes()), "st-header-length"),
        ("an empty header", safetensors("", &[]), "st-start"),
    ] {
        expect(case, &bytes, code);
    }
}

#[test]
fn json() {
    let deep = "[".repeat(100_000);
    for (case, header, code) in [
        ("an array", "[]".to_owned(), "st-start"),
        ("only spaces", "        ".to_owned(), "st-start"),
        ("a space before it", format!(" {SOUND}"), "st-start"),
        ("a mark before it", format!("\u{feff}{SOUND}"), "st-start"),
        ("something after it", format!("{SOUND}x"), "st-json"),
        ("two objects", format!("{SOUND}{SOUND}"), "st-json"),
        ("NULs after it", format!("{SOUND}\0\0"), "st-json"),
        ("a comment", format!("{{/* */{}", &SOUND[1..]), "st-json"),
        ("a raw newline in a name", SOUND.replace("\"a\"", "\"a\n\""), "st-json"),
        ("a lone surrogate in a name", SOUND.replace("\"a\"", "\"\\ud800\""), "st-json"),
        ("a tensor that is null", r#"{"a":null}"#.to_owned(), "st-json"),
        ("a tensor that is text", r#"{"a":"b"}"#.to_owned(), "st-json"),
        ("no dtype", r#"{"a":{"shape":[],"data_offsets":[0,0]}}"#.to_owned(), "st-json"),
        ("no shape", r#"{"a":{"dtype":"U8","data_offsets":[0,1]}}"#.to_owned(), "st-json"),
        ("no offsets", r#"{"a":{"dtype":"U8","shape":[]}}"#.to_owned(), "st-json"),
        ("a field twice", SOUND.replace(r#""dtype":"F32""#, r#""dtype":"F32","dtype":"F32""#), "st-json"),
        ("a type without a name", one(r#""""#, "[1]", "[0,6]"), "st-json"),
        ("a type of too long a name", one(r#""F8_E4M3_SOMETHING_NEW23""#, "[1]", "[0,6]"), "st-json"),
        ("a type with a control character", one(r#""F\u001b[2J""#, "[1]", "[0,6]"), "st-json"),
        ("a type that is a number", one("3", "[1]", "[0,4]"), "st-json"),
        ("a negative dimension", one(r#""U8""#, "[-1,-6]", "[0,6]"), "st-json"),
        ("a fraction", one(r#""U8""#, "[1.5]", "[0,1]"), "st-json"),
        ("an exponent", one(r#""U8""#, "[6e0]", "[0,6]"), "st-json"),
        ("a dimension of 2^64", one(r#""U8""#, "[18446744073709551616]", "[0,0]"), "st-json"),
        ("a dimension of many digits", one(r#""U8""#, &format!("[{}]", "1".repeat(100_000)), "[0,0]"), "st-json"),
        ("a shape that is null", one(r#""U8""#, "null", "[0,6]"), "st-json"),
        ("one offset", one(r#""U8""#, "[6]", "[6]"), "st-json"),
        ("three offsets", one(r#""U8""#, "[6]", "[0,6,6]"), "st-json"),
        ("a negative offset", one(r#""U8""#, "[6]", "[-6,0]"), "st-json"),
        ("deep nesting", format!("{{\"a\":{deep}"), "st-json"),
        ("deep nesting in a shape", one(r#""U8""#, &deep, "[0,6]"), "st-json"),
        ("deep nesting in a field of no meaning", format!("{{\"a\":{{\"x\":{}{}}}}}", deep, "]".repeat(100_000)), "st-json"),
        ("metadata twice", format!("{{\"__metadata__\":{{}},\"__metadata__\":{{}},{}", &SOUND[1..]), "st-json"),
        ("metadata that is a list", r#"{"__metadata__":[]}"#.to_owned(), "st-metadata"),
        ("a metadata value that is a number", r#"{"__metadata__":{"a":1}}"#.to_owned(), "st-metadata"),
        ("a metadata key twice", r#"{"__metadata__":{"a":"1","\u0061":"2"}}"#.to_owned(), "st-metadata"),
        ("a name twice", format!("{},{}", &SOUND[..SOUND.len() - 1], &SOUND[1..]), "st-duplicate"),
        ("a name twice, once escaped", SOUND.replace("\"b\"", "\"\\u0061\""), "st-duplicate"),
    ] {
        expect(case, &safetensors(&header, &[0; 6]), code);
    }
    for (case, header, code) in [
        ("not UTF-8", &b"{\"\xff\":{}}"[..], "st-utf8"),
        ("an overlong NUL", b"{\"\xc0\x80\":{}}", "st-utf8"),
        ("UTF-16", b"{\0\"\0a\0\"\0", "st-json"),
    ] {
        expect(case, &safetensors_bytes(header, &[0; 6]), code);
    }
}

#[test]
fn places() {
    for (case, header, data, code) in [
        ("a product that wraps to nothing", one(r#""U8""#, "[4294967296,4294967296]", "[0,0]"), 0, "st-size"),
        ("a product that wraps to what is there", one(r#""U8""#, "[6148914691236517206,3]", "[0,2]"), 2, "st-size"),
        ("bytes that wrap", one(r#""F64""#, "[2305843009213693952]", "[0,0]"), 0, "st-size"),
        ("bits that wrap", one(r#""U8""#, "[2305843009213693953]", "[0,1]"), 1, "st-size"),
        ("half a byte", one(r#""F4""#, "[3]", "[0,1]"), 1, "st-size"),
        ("too few bytes", one(r#""F32""#, "[2]", "[0,6]"), 6, "st-size"),
        ("too many bytes", one(r#""F32""#, "[1]", "[0,6]"), 6, "st-size"),
        ("the wrong way round", one(r#""U8""#, "[6]", "[6,0]"), 6, "st-offsets"),
        ("the last byte missing", SOUND.to_owned(), 5, "st-truncated"),
        ("all bytes missing", SOUND.to_owned(), 0, "st-truncated"),
        ("a byte too many", SOUND.to_owned(), 7, "st-trailing"),
        ("data of no tensor", "{}".to_owned(), 1, "st-trailing"),
        ("a hole at the start", one(r#""U8""#, "[5]", "[1,6]"), 6, "st-hole"),
        ("a hole in the middle", SOUND.replace("[4,6]", "[5,7]"), 7, "st-hole"),
        ("overlap in part", SOUND.replace("[4,6]", "[3,5]"), 5, "st-overlap"),
        (
            "the same range",
            one(r#""U8""#, "[2]", "[0,2]").replace("}}", "},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}"),
            2,
            "st-overlap",
        ),
        ("the end of all numbers", one(r#""U8""#, "[1]", "[18446744073709551614,18446744073709551615]"), 6, "st-hole"),
    ] {
        expect(case, &safetensors(&header, &vec![0; data]), code);
    }
}

#[test]
fn verify_continues_past_the_first_error() {
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[2],"data_offsets":[5,7]},"c":{"dtype":"U8","shape":[1],"data_offsets":[7,8],"x":1}}"#;
    let (findings, _) = judge("m.safetensors", &safetensors(header, &[0; 9]));
    let codes: Vec<_> = findings.iter().map(|finding| finding.code).filter(|code| *code != "st-padding").collect();
    assert_eq!(codes, ["st-size", "st-hole", "st-field", "st-trailing"]);
    assert_eq!(findings.iter().find(|finding| finding.code == "st-hole").unwrap().tensor.as_deref(), Some("b"));
}

#[test]
fn metadata_that_is_null_is_none() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/null-metadata.safetensors");
    let reader = weigh::format::open(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let crate_reads = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert!(reader.model().metadata.is_empty());
    assert_eq!(reader.model().tensors.len(), crate_reads.len());
    for (name, view) in crate_reads.iter() {
        let tensor = reader.model().tensor(name).unwrap();
        assert_eq!(*reader.bytes(tensor).unwrap(), *view.data(), "{name}");
    }
}

#[test]
fn unusual_but_valid() {
    for (case, header, data) in [
        ("nothing at all", "{}".to_owned(), 0),
        ("empty metadata", r#"{"__metadata__":{}}"#.to_owned(), 0),
        // As crate safetensors 0.8 has it.
        ("metadata that is null", r#"{"__metadata__":null}"#.to_owned(), 0),
        ("spaces after it", format!("{SOUND}   \n\t"), 6),
        ("the empty name", SOUND.replace("\"a\"", "\"\""), 6),
        ("tensors without elements", one(r#""F32""#, "[0,5]", "[0,0]"), 0),
        ("a scalar", one(r#""F32""#, "[]", "[0,4]"), 4),
        ("thousands of dimensions", one(r#""U8""#, &format!("[1{}]", ",1".repeat(3000)), "[0,1]"), 1),
        ("packed floats", one(r#""F6_E2M3""#, "[2,2]", "[0,3]"), 3),
        ("a field of no meaning", SOUND.replacen("\"dtype\"", "\"x\":{\"y\":[1]},\"dtype\"", 1), 6),
    ] {
        let (findings, error) = judge("m.safetensors", &safetensors(&header, &vec![0; data]));
        assert!(error.is_none(), "{case}: {error:?}");
        assert!(findings.iter().all(|finding| finding.severity != Severity::Error), "{case}: {findings:?}");
    }
}

#[test]
fn unknown_types_are_listed_but_invalid() {
    for name in ["F128", "f32", "MXFP4"] {
        let header = format!(
            r#"{{"a":{{"dtype":"{name}","shape":[3],"data_offsets":[0,4]}},"b":{{"dtype":"U8","shape":[2],"data_offsets":[4,6]}}}}"#
        );
        let (findings, error) = judge("m.safetensors", &safetensors(&header, &[0; 6]));
        assert!(error.is_none(), "{error:?}");
        let found: Vec<_> = findings.iter().filter(|finding| finding.code == "st-type").map(|finding| finding.severity).collect();
        assert_eq!(found, [Severity::Error], "{findings:?}");
    }
    // Their places are checked as all others are.
    refused("m.safetensors", "an unknown type past the end", &safetensors(&one(r#""F128""#, "[1]", "[0,16]"), &[0; 6]), "st-truncated");
    let wraps = safetensors(&one(r#""F128""#, "[4294967296,4294967296]", "[0,6]"), &[0; 6]);
    refused("m.safetensors", "an unknown type whose elements wrap", &wraps, "st-size");
}

#[test]
fn a_header_of_100_000_000_bytes_is_the_longest() {
    // As in the crate: HeaderTooLarge from one byte more; a file that is too short for its header is another fault.
    let file = |length: u64| [&length.to_le_bytes()[..], b"{}"].concat();
    for (length, what) in
        [(100_000_000, "expected a header of 100000000 bytes, found 2"), (100_000_001, "expected a header of at most 100000000 bytes")]
    {
        let error = judge("m.safetensors", &file(length)).1.unwrap().to_string();
        assert!(error.contains(what), "{error}");
    }
    assert!(matches!(safetensors::SafeTensors::deserialize(&file(100_000_000)), Err(safetensors::SafeTensorError::InvalidHeaderLength)));
    assert!(matches!(safetensors::SafeTensors::deserialize(&file(100_000_001)), Err(safetensors::SafeTensorError::HeaderTooLarge)));
}
