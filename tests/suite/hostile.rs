//! Files cut anywhere and changed anywhere: no panic, no hang, no verdict of soundness on a file that is cut.

use weigh::base::bytes::Endian;
use weigh::base::finding::{Finding, Severity};

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use crate::build::{Gguf, safetensors};
use crate::judge::judge_path;

/// One file that takes one content after the other: making thousands of files costs more than reading them.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn judge(&self, name: &str, bytes: &[u8]) -> (Vec<Finding>, Option<weigh::Error>) {
        let path: PathBuf = self.folder.path().join(name);
        // Emptying the file first would make some file systems write it to the disk at once.
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).unwrap();
        file.write_all(bytes).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        judge_path(&path)
    }
}

/// A GGUF with a value of every kind and two tensors.
fn gguf(version: u32, endian: Endian) -> Gguf {
    let empty = Gguf { version, endian, ..Gguf::default() };
    let texts = empty.array(8, 2, &[empty.text(b"ab"), empty.text(b"")].concat());
    let nested = empty.array(9, 1, &empty.array(0, 2, &[1, 2]));
    let gguf = empty.clone().key_str("general.architecture", "llama").key_u32("general.alignment", 32);
    let gguf = gguf.key("t", 9, texts).key("n", 9, nested).key("b", 7, vec![1]).key("q", 10, empty.u64(5));
    gguf.f32("a", &[3]).tensor("b", 8, &[32, 2], vec![1; 68])
}

const ALL: [(u32, Endian); 5] = [(1, Endian::Little), (2, Endian::Little), (3, Endian::Little), (2, Endian::Big), (3, Endian::Big)];

#[test]
fn a_gguf_truncated_anywhere_is_refused() {
    let bench = Bench::new();
    for (version, endian) in ALL {
        let bytes = gguf(version, endian).build();
        let end = bytes.len() - (96 - 68); // the padding of the last tensor may be missing
        assert!(bench.judge("m.gguf", &bytes[..end]).1.is_none());
        for len in 0..end {
            let (findings, error) = bench.judge("m.gguf", &bytes[..len]);
            assert!(error.is_some(), "version {version}, {endian:?}: opened when cut to {len} of {} bytes", bytes.len());
            assert!(len < 4 || !findings.is_empty(), "{len}");
        }
    }
}

#[test]
fn a_safetensors_file_truncated_anywhere_is_refused() {
    let header = r#"{"__metadata__":{"a":"b"},"x":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}"#;
    let bytes = safetensors(header, &[0; 4]);
    let bench = Bench::new();
    for len in 0..bytes.len() {
        assert!(bench.judge("m.safetensors", &bytes[..len]).1.is_some(), "opened when cut to {len} bytes");
    }
}

/// Every byte of `header` set to other values: whatever the verdict is, opening and verifying agree on it.
fn change_every_byte(name: &str, bytes: &[u8], header: usize, values: impl Fn(u8) -> Vec<u8>) {
    let bench = Bench::new();
    for at in 0..header {
        for value in values(bytes[at]) {
            let mut changed = bytes.to_vec();
            changed[at] = value;
            let (findings, error) = bench.judge(name, &changed);
            let unsound = findings.iter().any(|finding| finding.severity == Severity::Error);
            // A file of no known format has no findings.
            let lax = findings.iter().any(|finding| weigh::format::codes::VERIFY_ONLY.contains(&finding.code));
            assert!(unsound == error.is_some() || lax || findings.is_empty(), "byte {at} = {value}: {error:?}, {findings:?}");
        }
    }
}

#[test]
fn a_gguf_changed_anywhere_gets_one_verdict() {
    for (version, endian) in [(1, Endian::Little), (3, Endian::Little), (3, Endian::Big)] {
        let gguf = gguf(version, endian);
        let few = |old: u8| vec![0, 1, b'"', 0x7f, 0xff, old.wrapping_add(1), old ^ 0x80];
        change_every_byte("m.gguf", &gguf.build(), gguf.header().len(), few);
    }
    let small = Gguf::default().key_u32("k", 7).f32("a", &[3]);
    change_every_byte("m.gguf", &small.build(), small.header().len(), |_| (0..=255).collect());
}

#[test]
fn a_safetensors_file_changed_anywhere_gets_one_verdict() {
    let header = r#"{"__metadata__":{"a":"b"},"x":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"y":{"dtype":"U8","shape":[],"data_offsets":[4,5]}}"#;
    change_every_byte("m.safetensors", &safetensors(header, &[0; 5]), 8 + header.len(), |old| vec![b'"', b'}', b' ', 0xff, old ^ 1]);
    let small = r#"{"x":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}"#;
    change_every_byte("m.safetensors", &safetensors(small, &[0; 1]), 8 + small.len(), |_| (0..=255).collect());
}

#[test]
fn claims_that_a_sparse_file_backs_fail_fast() {
    let folder = tempfile::tempdir().unwrap();
    for (case, keys, tensors) in [("keys", 10_000_000, 0), ("tensors", 0, 10_000_000)] {
        let path = folder.path().join(case);
        fs::write(&path, Gguf { key_count: Some(keys), tensor_count: Some(tensors), ..Gguf::default() }.header()).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
        let start = std::time::Instant::now();
        let (findings, error) = judge_path(&path);
        assert!(error.is_some(), "{case}");
        assert!(findings.len() <= 2 * weigh::base::limits::FINDINGS, "{case}: {}", findings.len());
        assert!(start.elapsed().as_secs() < 2, "{case}: {:?}", start.elapsed());
    }
}

/// Files that would fill the memory of a reader that believes them.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let base = Gguf::default();
    let claims = |keys, tensors| {
        let mut bytes = Gguf { key_count: Some(keys), tensor_count: Some(tensors), ..Gguf::default() }.header();
        bytes.resize(4 << 20, 0);
        bytes
    };
    let key = |value: Vec<u8>| base.clone().key("k", 9, value).build();
    let header = |inside: String| safetensors(&inside, &[]);
    vec![
        ("keys.gguf", claims(300_000, 0)),
        ("tensors.gguf", claims(0, 170_000)),
        ("bytes.gguf", key(base.array(0, 1 << 22, &vec![0; 1 << 22]))),
        ("strings.gguf", key(base.array(8, 1 << 19, &vec![0; 1 << 22]))),
        ("arrays.gguf", key(base.array(9, 1 << 18, &vec![0; 3 << 20]))),
        ("deep.safetensors", header(format!("{{\"a\":{}", "[".repeat(4 << 20)))),
        ("digits.safetensors", header(format!("{{\"a\":{{\"dtype\":\"U8\",\"shape\":[{}", "1".repeat(4 << 20)))),
        ("dims.safetensors", header(format!("{{\"a\":{{\"dtype\":\"U8\",\"shape\":[1{}]}}}}", ",1".repeat(2 << 20)))),
        ("metadata.safetensors", header(format!("{{\"__metadata__\":{{\"a\":\"\"{}}}}}", ",\"a\":\"\"".repeat(1 << 19)))),
        (
            "names.safetensors",
            header(format!("{{{}}}", vec!["\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}"; 80_000].join(","))),
        ),
        ("spaces.safetensors", header(format!("{{{}", " ".repeat(4 << 20)))),
    ]
}

#[test]
fn memory_is_bounded_by_the_size_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in bombs() {
        fs::write(folder.path().join(name), &bytes).unwrap();
        for command in ["ls", "verify"] {
            // 256 MB of addresses, for files of 4 MB.
            let script = format!("ulimit -v 262144; exec \"$0\" {command} --json {name}");
            let mut run = std::process::Command::new("sh");
            let out = run.args(["-c", &script, env!("CARGO_BIN_EXE_weigh")]).current_dir(folder.path()).output().unwrap();
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(matches!(out.status.code(), Some(0..=2)), "{command} {name}: {:?} {said}", out.status);
            assert!(!said.contains("panicked") && !said.contains("emory allocation"), "{command} {name}: {said}");
        }
    }
}
