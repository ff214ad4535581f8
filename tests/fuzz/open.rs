//! Any bytes as a file: opening and verifying end in a report or an error and agree, and what is listed can be read.

use std::path::Path;
use std::sync::Arc;

use weigh::base::bytes::Endian;
use weigh::base::finding::{Findings, Severity};
use weigh::format::Reader;
use weigh::format::codes::VERIFY_ONLY;
use weigh::source::InMemory;

use super::{Target, file, fixtures, folder};
use crate::build::{Gguf, safetensors, safetensors_bytes};

/// A safetensors file: the header as it is, behind its length, and as many bytes of data as the first two bytes of the input say.
/// With 0xffff there the rest is the whole file.
pub const OPEN_SAFETENSORS: Target = Target {
    name: "open_safetensors",
    run: |data| check(&file(&folder(), "m.safetensors", &safetensors_of(data))),
    seeds: safetensors_seeds,
};

/// A GGUF file.
pub const OPEN_GGUF: Target = Target { name: "open_gguf", run: |data| check(&file(&folder(), "m.gguf", data)), seeds: gguf_seeds };

pub(super) fn safetensors_of(data: &[u8]) -> Vec<u8> {
    match data.split_first_chunk() {
        None => data.to_vec(),
        Some((&[0xff, 0xff], rest)) => rest.to_vec(),
        Some((&length, rest)) => safetensors_bytes(rest, &vec![0; u16::from_le_bytes(length).into()]),
    }
}

/// Verifies and opens what is at `path`.
pub(super) fn check(path: &Path) {
    let mut findings = Findings::collect();
    let examined = weigh::format::examine(path, &mut findings);
    if let Ok(Some(reader)) = &examined {
        read(reader);
    }
    agree(&examined, &findings, weigh::format::open(path));
}

/// Checks that a file opens where no error was found, and only there, and that what is listed can be read.
fn agree(examined: &weigh::Result<Option<Reader>>, findings: &Findings, opened: weigh::Result<Reader>) {
    // Some rules are worth their time in verify alone: those on metadata that nobody may ask for. And a model opens without its config.
    let lax = |code: &str| VERIFY_ONLY.contains(&code) || code == "config-json";
    let unsound = findings.list().iter().any(|finding| finding.severity == Severity::Error && !lax(finding.code));
    match opened {
        Ok(reader) => {
            assert!(!unsound, "what opens is sound: {:?}", findings.list());
            read(&reader);
        }
        Err(error) => assert!(examined.is_err() || findings.errors() > 0, "what does not open has a finding: {error}"),
    }
}

/// Verifies and opens a file in memory, which takes none of the calls of the system that one on disk does.
pub(super) fn check_bytes(name: &str, bytes: &[u8]) {
    let source = || Arc::new(InMemory::new(name, bytes.to_vec()));
    let mut findings = Findings::collect();
    let examined = weigh::format::examine_source(source(), &mut findings);
    if let Ok(Some(reader)) = &examined {
        read(reader);
    }
    agree(&examined, &findings, weigh::format::open_source(source()));
}

/// Touches all that an open model lists.
fn read(reader: &Reader) {
    let model = reader.model();
    for tensor in &model.tensors {
        tensor.elements().expect("checked when it was opened");
        match tensor.len_bytes {
            // Indices and deflated bytes are checked when they are read; a view that repeats a number may be of any size.
            Some(len) if reader.is_computed(tensor) => {
                const END: u64 = 1 << 12;
                let _ = (reader.bytes_at(tensor, 0..len.min(END)), reader.bytes_at(tensor, len.saturating_sub(END)..len));
            }
            Some(_) => drop(reader.bytes(tensor).expect("checked when it was opened")),
            None => {}
        }
    }
    for (_, value) in model.metadata.iter() {
        if let Some(array) = value.as_array() {
            let _ = array.values();
        }
    }
}

pub(super) fn safetensors_seeds() -> Vec<Vec<u8>> {
    let headers: [(u16, &str); 6] = [
        (4, r#"{"__metadata__":{"a":"b"},"x":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}"#),
        (1, r#"{"x":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}"#),
        (0, r#"{"a":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]},"b":{"dtype":"I64","shape":[0],"data_offsets":[0,0]}}  "#),
        (
            6,
            r#"{"\u00fc\"":{"data_offsets":[4,6],"shape":[4],"dtype":"F4"},"b":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4],"x":[{}]}}"#,
        ),
        (0, r#"{"__metadata__":{}}"#),
        (8, r#"{"c":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}"#),
    ];
    let headers = headers.iter().map(|(length, header)| [&length.to_le_bytes(), header.as_bytes()].concat());
    let raw = fixtures(".safetensors").into_iter().filter(|file| file.len() < 8192);
    headers.chain(raw.chain([safetensors("{}", &[])]).map(|file| [vec![0xff, 0xff], file].concat())).collect()
}

pub(super) fn gguf_seeds() -> Vec<Vec<u8>> {
    let all = [(1, Endian::Little), (2, Endian::Little), (3, Endian::Little), (2, Endian::Big), (3, Endian::Big)];
    let mut seeds: Vec<Vec<u8>> = all.iter().map(|&(version, endian)| gguf(version, endian).build()).collect();
    seeds.push(Gguf::default().f32("e", &[0]).tensor("unknown", 99, &[3], vec![1; 5]).f32("s", &[]).build());
    seeds.push(Gguf { alignment: 8, ..Gguf::default() }.key_u32("general.alignment", 8).f32("a", &[1]).f32("b", &[1, 2, 1, 2]).build());
    seeds.extend(fixtures(".gguf").into_iter().filter(|file| file.len() < 8192));
    seeds
}

/// A GGUF with a value of every kind and two tensors.
fn gguf(version: u32, endian: Endian) -> Gguf {
    let empty = Gguf { version, endian, ..Gguf::default() };
    let texts = empty.array(8, 2, &[empty.text(b"ab"), empty.text(b"")].concat());
    let nested = empty.array(9, 1, &empty.array(0, 2, &[1, 2]));
    let mut gguf = empty.clone().key_str("general.architecture", "llama").key_u32("general.alignment", 32);
    for value_type in 0..13u32 {
        let value = match value_type {
            0 | 1 | 7 => vec![1],
            2 | 3 => empty.u16(7),
            4..=6 => empty.u32(7),
            8 => empty.text(b"text"),
            9 => nested.clone(),
            _ => empty.u64(7),
        };
        gguf = gguf.key(&format!("k{value_type}"), value_type, value);
    }
    gguf.key("tokenizer.ggml.tokens", 9, texts).f32("a", &[3]).tensor("b", 8, &[32, 2], vec![1; 68])
}
