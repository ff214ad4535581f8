//! One named case a corruption of a GGUF file: opening refuses it, and `verify` gives the code of the broken rule.

use weigh::base::bytes::Endian;
use weigh::base::finding::Severity;

use crate::build::{Gguf, GgufTensor};
use crate::judge::{judge, refused};

fn expect(case: &str, bytes: &[u8], code: &str) {
    refused("m.gguf", case, bytes, code);
}

fn base() -> Gguf {
    Gguf::default().key_str("general.architecture", "llama")
}

#[test]
fn headers() {
    let sound = base().f32("a", &[4]);
    let counts = |keys, tensors| Gguf { key_count: keys, tensor_count: tensors, ..sound.clone() }.build();
    for (case, bytes, code) in [
        ("the magic alone", b"GGUF".to_vec(), "gguf-header"),
        ("half a version", b"GGUF\x03\0".to_vec(), "gguf-header"),
        ("no counts", sound.build()[..8].to_vec(), "gguf-header"),
        ("version 0", Gguf { version: 0, ..sound.clone() }.build(), "gguf-version"),
        ("version 4", Gguf { version: 4, ..sound.clone() }.build(), "gguf-version"),
        ("version 65536", Gguf { version: 65536, ..sound.clone() }.build(), "gguf-version"),
        ("2^63 keys", counts(Some(1 << 63), None), "gguf-count"),
        ("2^64 - 1 keys", counts(Some(u64::MAX), None), "gguf-count"),
        ("10^9 keys", counts(Some(1_000_000_000), None), "gguf-count"),
        ("2^36 tensors", counts(None, Some(1 << 36)), "gguf-count"),
        ("tensors whose size wraps", counts(None, Some(u64::MAX / 24 + 2)), "gguf-count"),
        ("a key too many", Gguf { key_count: Some(2), ..base() }.build(), "gguf-key"),
        ("a key too few", counts(Some(0), None), "gguf-dims"),
        ("a tensor too many", counts(None, Some(2)), "gguf-overlap"),
    ] {
        expect(case, &bytes, code);
    }
}

#[test]
fn keys() {
    let raw = |key: &[u8]| Gguf { keys: vec![(key.to_vec(), 4, vec![1, 0, 0, 0])], ..Gguf::default() }.build();
    let value = |value_type: u32, bytes: Vec<u8>| base().key("x", value_type, bytes).f32("a", &[4]).build();
    let text = |len: u64| value(8, [&len.to_le_bytes()[..], b"abc"].concat());
    let array = |elem: u32, len: u64| value(9, base().array(elem, len, &[0; 8]));
    let nested = |depth: usize| {
        let mut bytes = base().array(4, 1, &[7, 0, 0, 0]);
        for _ in 1..depth {
            bytes = base().array(9, 1, &bytes);
        }
        value(9, bytes)
    };
    let sized = |len: u64| {
        let mut bytes = base().build();
        bytes[24..32].copy_from_slice(&len.to_le_bytes());
        bytes
    };
    for (case, bytes, code) in [
        ("an empty key", raw(b""), "gguf-key"),
        ("a key of 65,536 bytes", raw(&[b'k'; 65_536]), "gguf-key"),
        ("a key that is not UTF-8", raw(b"\xff"), "gguf-key"),
        ("a key whose length wraps", sized(u64::MAX), "gguf-key"),
        ("a key past the end", sized(1000), "gguf-key"),
        ("a key twice", base().key_u32("general.alignment", 32).key_u32("general.alignment", 64).build(), "gguf-key-duplicate"),
        ("value type 13", value(13, vec![0]), "gguf-value"),
        ("value type 2^32 - 1", value(u32::MAX, vec![0]), "gguf-value"),
        ("text past the end", text(1000), "gguf-value"),
        ("text whose end wraps", text(u64::MAX - 15), "gguf-value"),
        ("text of 2^32 + 1 bytes", text((1 << 32) + 1), "gguf-value"),
        ("text that is not UTF-8", value(8, base().text(b"\xff\xfe")), "gguf-utf8"),
        ("an array of type 13", array(13, 1), "gguf-value"),
        ("an empty array of type 77", array(77, 0), "gguf-value"),
        ("an array of 2^64 - 1 bytes", array(0, u64::MAX), "gguf-value"),
        ("an array whose size wraps", array(10, 1 << 61), "gguf-value"),
        ("an array of strings whose size wraps", array(8, 1 << 60), "gguf-value"),
        ("an array of 2^40 arrays", array(9, 1 << 40), "gguf-value"),
        ("arrays 5 deep", nested(5), "gguf-value"),
        ("arrays 20,000 deep", nested(20_000), "gguf-value"),
        ("an array of strings, one too long", value(9, base().array(8, 1, &u64::MAX.to_le_bytes())), "gguf-value"),
    ] {
        expect(case, &bytes, code);
    }
    // The specification allows arrays of arrays, and ggml refuses them ("has invalid GGUF type 9").
    let (findings, error) = judge("m.gguf", &nested(4));
    assert!(error.is_none() && findings.iter().any(|finding| finding.code == "gguf-nested" && finding.severity == Severity::Error));
}

/// llama.cpp: "GGUFv1 is no longer supported, please use a more up-to-date version".
#[test]
fn version_1_opens_and_is_remarked_on() {
    for (version, remarks) in [(1, &[("gguf-version-old", Severity::Warning)][..]), (2, &[]), (3, &[])] {
        let (findings, error) =
            judge("m.gguf", &Gguf { version, ..Gguf::default() }.key_str("general.architecture", "llama").f32("a", &[4]).build());
        let found: Vec<_> = findings.iter().map(|finding| (finding.code, finding.severity)).collect();
        assert!(error.is_none() && found == remarks, "version {version}: {found:?}");
    }
}

#[test]
fn alignments() {
    let with = |value_type: u32, value: &[u8]| base().key("general.alignment", value_type, value.to_vec()).f32("a", &[4]).build();
    for (case, bytes) in [
        ("0", with(4, &[0; 4])),
        ("3", with(4, &3u32.to_le_bytes())),
        ("48", with(4, &48u32.to_le_bytes())),
        ("2^32 - 1", with(4, &[0xff; 4])),
        ("a string", with(8, &base().text(b"32"))),
        ("a u64", with(10, &32u64.to_le_bytes())),
        ("an i32", with(5, &(-32i32).to_le_bytes())),
        ("a float", with(6, &32f32.to_le_bytes())),
        ("an array", with(9, &base().array(4, 1, &32u32.to_le_bytes()))),
    ] {
        expect(case, &bytes, "gguf-alignment");
    }
    expect("2^31", &with(4, &(1u32 << 31).to_le_bytes()), "gguf-truncated");
    let mismatch = base().key_u32("general.alignment", 64).f32("a", &[4]).f32("b", &[4]).build();
    expect("64, placed for 32", &mismatch, "gguf-offset");
}

#[test]
fn tensors() {
    let shaped = |tag: u32, dims: &[u64], bytes: usize| base().tensor("a", tag, dims, vec![0; bytes]).build();
    let two = |offset: u64| {
        let mut gguf = base().f32("a", &[16]).f32("b", &[16]);
        gguf.tensors[1].offset = Some(offset);
        gguf.build()
    };
    let named = |name: &[u8]| {
        let tensor = GgufTensor { name: name.to_vec(), dims: vec![4], tag: 0, offset: None, data: vec![0; 16] };
        Gguf { tensors: vec![tensor], ..base() }.build()
    };
    let cut = |bytes: Vec<u8>, by: usize| bytes[..bytes.len() - by].to_vec();
    for (case, bytes, code) in [
        ("a name twice", base().f32("a", &[4]).f32("a", &[4]).build(), "gguf-duplicate"),
        ("a name that is not UTF-8", named(b"\xff"), "gguf-tensor-name"),
        ("5 dimensions", shaped(0, &[1, 1, 1, 1, 1], 4), "gguf-dims"),
        ("a dimension of 2^63", shaped(0, &[1 << 63], 4), "gguf-size"),
        ("a dimension of 2^63 beside a zero", shaped(0, &[1 << 63, 0], 0), "gguf-size"),
        ("a dimension of 2^64 - 1 behind a zero", shaped(8, &[0, u64::MAX], 0), "gguf-size"),
        ("two negative dimensions", shaped(0, &[u64::MAX, 0u64.wrapping_sub(16)], 64), "gguf-size"),
        ("a product that wraps to nothing", shaped(0, &[1 << 32, 1 << 32], 0), "gguf-size"),
        ("bytes that wrap", shaped(0, &[1 << 62], 0), "gguf-size"),
        ("a petabyte", shaped(0, &[1 << 48], 64), "gguf-truncated"),
        ("padding that wraps", shaped(24, &[u64::MAX / 8 - 3], 0), "gguf-truncated"),
        ("type 2^32 - 1", shaped(u32::MAX, &[4], 16), "gguf-size"),
        ("a row that is no whole block", shaped(2, &[33], 36), "gguf-size"),
        ("rows of half blocks", shaped(8, &[16, 2], 34), "gguf-size"),
        ("a block type as a scalar", shaped(2, &[], 18), "gguf-size"),
        ("an offset between two alignments", two(65), "gguf-offset"),
        ("an offset past the end", two(1 << 40), "gguf-truncated"),
        ("an offset that wraps", two(0u64.wrapping_sub(32)), "gguf-truncated"),
        ("overlap", two(32), "gguf-overlap"),
        ("the same place", two(0), "gguf-overlap"),
        ("a byte missing", cut(base().f32("a", &[8]).build(), 1), "gguf-truncated"),
        ("no data", base().f32("a", &[8]).header(), "gguf-truncated"),
    ] {
        expect(case, &bytes, code);
    }
}

#[test]
fn verify_warns_of_what_opening_accepts() {
    let tokens = base().array(8, 2, &[base().text(b"a"), base().text(b"b")].concat());
    let scores = base().array(6, 1, &[0; 4]);
    let bad_text = base().array(8, 2, &[base().text(b"a"), base().text(b"\xff")].concat());
    let offsets = |first: u64, second: u64| {
        let mut gguf = base().f32("a", &[8]).f32("b", &[8]);
        (gguf.tensors[0].offset, gguf.tensors[1].offset) = (Some(first), Some(second));
        let mut bytes = gguf.build();
        bytes.resize(bytes.len() + 64, 0);
        bytes
    };
    for (case, bytes, code) in [
        ("another order", offsets(32, 0), "gguf-order"),
        ("a hole", offsets(0, 64), "gguf-hole"),
        ("a hole at the start", offsets(32, 64), "gguf-hole"),
        ("bytes after the data", offsets(0, 32), "gguf-trailing"),
        (
            "no padding at the end",
            {
                let bytes = base().f32("a", &[1]).build();
                bytes[..bytes.len() - 28].to_vec()
            },
            "gguf-padding",
        ),
        ("a long name", base().f32(&"x".repeat(64), &[8]).build(), "gguf-tensor-name-long"),
        ("an unknown type", base().tensor("a", 99, &[8], vec![0; 32]).build(), "gguf-type"),
        ("alignment 1", Gguf { alignment: 1, ..base() }.key_u32("general.alignment", 1).f32("a", &[8]).build(), "gguf-alignment-small"),
        ("an architecture that is a number", Gguf::default().key_u32("general.architecture", 1).build(), "gguf-key-type"),
        (
            "scores for half of the tokens",
            base().key("tokenizer.ggml.tokens", 9, tokens).key("tokenizer.ggml.scores", 9, scores).build(),
            "gguf-tokens",
        ),
        (
            "a token twice",
            base().key("tokenizer.ggml.tokens", 9, base().array(8, 2, &[base().text(b"a"), base().text(b"a")].concat())).build(),
            "gguf-token-twice",
        ),
        ("a truth value of 2", base().key("x", 7, vec![2]).build(), "gguf-bool"),
        ("a template that breaks out", base().key_str("tokenizer.chat_template", "{{ ''.__class__ }}").build(), "template"),
        ("a key that is not ASCII", base().key_u32("ä", 1).build(), "gguf-key-name"),
        ("a token that is not UTF-8", base().key("tokenizer.ggml.tokens", 9, bad_text).build(), "gguf-utf8"),
    ] {
        let (findings, error) = judge("m.gguf", &bytes);
        assert!(error.is_none(), "{case}: {error:?}");
        assert!(findings.iter().any(|finding| finding.code == code), "{case}: {findings:?}");
    }
}

#[test]
fn every_version_and_byte_order_opens() {
    for (version, endian) in [(1, Endian::Little), (2, Endian::Little), (3, Endian::Little), (2, Endian::Big), (3, Endian::Big)] {
        let empty = Gguf { version, endian, ..Gguf::default() };
        let floats = [empty.u32(1.5f32.to_bits()), empty.u32(f32::NAN.to_bits())].concat();
        let gguf = empty.clone().key_str("general.architecture", "llama").key_u32("n", 7).key("f", 9, empty.array(6, 2, &floats));
        let gguf = gguf.key("none", 9, empty.array(8, 0, &[])).tensor("a", 0, &[2, 1], floats).tensor("half", 1, &[1], empty.u16(0x3c00));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a name that says nothing");
        std::fs::write(&path, gguf.build()).unwrap();
        let reader = weigh::format::open(&path).unwrap();
        let model = reader.model();
        assert_eq!(model.metadata.get_u64("n"), Some(7));
        let array = model.metadata.get("f").unwrap().as_array().unwrap();
        assert_eq!(array.values().unwrap()[0].as_f64(), Some(1.5));
        assert_eq!(model.metadata.get("none").unwrap().as_array().unwrap().elem(), weigh::model::ValueType::String);
        assert_eq!(model.tensors[0].shape, [1, 2]);
        assert_eq!(reader.bytes(&model.tensors[0]).unwrap()[..4], 1.5f32.to_le_bytes());
        assert_eq!(*reader.bytes(&model.tensors[1]).unwrap(), [0, 0x3c]);
    }
}

#[test]
fn another_format_says_what_it_is() {
    for (bytes, what) in [
        (&b""[..], "the file is empty"),
        (b"PK\x03\x04", "the directory of a zip archive"),
        (b"\x08\x07\x12\x07pytorch", "an ONNX model"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"lmgg\x01\0\0\0", "a GGML file from before GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\n <!DOCTYPE HTML><html>", "a web page"),
        (b"\x1f\x8b\x08", "a gzip file"),
        (&[0; 64], "only zeros"),
    ] {
        for name in ["m.gguf", "m.safetensors", "m.bin"] {
            let error = judge(name, bytes).1.unwrap();
            assert!(error.to_string().contains(what), "{error}");
            assert!(error.hint_text().is_some());
        }
    }
}

#[test]
fn an_empty_tensor_beyond_the_end_is_accepted() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let padded = base().f32("a", &[3]).f32("empty", &[0]).build();
    let bytes = &padded[..padded.len() - 20]; // to the end of the three numbers: some writers leave the last padding out
    std::fs::write(file.path(), bytes).unwrap();
    let reader = weigh::format::open(file.path()).unwrap();
    let empty = &reader.model().tensors[1];
    assert!(empty.offset_bytes > bytes.len() as u64);
    assert_eq!(reader.bytes(empty).unwrap().as_ref(), b"");
}

#[test]
fn unused_experts_get_uniform_importance() {
    let numbers = |numbers: &[f32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    let gguf = Gguf::default()
        .key_str("general.type", "imatrix")
        .tensor("a.in_sum2", 0, &[2, 3], numbers(&[2.0, 6.0, 5.0, 7.0, 0.0, 0.0]))
        .tensor("a.counts", 0, &[1, 3], numbers(&[2.0, 0.0, 0.25])) // a count is rounded, as by lround
        .build();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), gguf).unwrap();
    let matrix = weigh::quant::imatrix::Imatrix::open(file.path()).unwrap();
    // llama-quantize (tools/quantize/quantize.cpp, load_imatrix): sums over counts, and 1 where the count is 0.
    assert_eq!(matrix.weights("a").unwrap().unwrap(), [1.0, 3.0, 1.0, 1.0, 1.0, 1.0]);
}

#[test]
fn an_importance_matrix_is_recognised_by_its_type_or_its_tensors() {
    use weigh::quant::imatrix::Imatrix;
    let numbers = |numbers: &[f32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    let pair = |gguf: Gguf, counts: u64| {
        gguf.tensor("a.in_sum2", 0, &[3], numbers(&[2.0; 3])).tensor("a.counts", 0, &[counts], numbers(&vec![2.0; counts as usize]))
    };
    let typed = || Gguf::default().key_str("general.type", "imatrix");
    let file = tempfile::NamedTempFile::new().unwrap();
    let open = |bytes: Vec<u8>| {
        std::fs::write(file.path(), bytes).unwrap();
        Imatrix::open(file.path())
    };
    for (gguf, entries) in [(typed(), 0), (pair(typed(), 1), 1), (pair(Gguf::default(), 1), 1), (pair(typed(), 3), 1)] {
        let matrix = open(gguf.build()).unwrap();
        assert_eq!((matrix.len(), matrix.is_empty()), (entries, entries == 0));
    }
    for (gguf, expected) in [
        (Gguf::default(), "expected an importance matrix"),
        (pair(typed(), 2), "of the number of counts, 2, found 3"),
        (pair(typed(), 0), "of the number of counts, 0, found 3"),
    ] {
        let error = open(gguf.build()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} has no {expected:?}");
    }
    // The old form: entries (name, calls, sums), which llama-quantize divides by the calls.
    let word = |number: u32| number.to_le_bytes().to_vec();
    let old = [word(1), word(1), b"a".to_vec(), word(4), word(2), numbers(&[8.0, 2.0]), word(5), word(4), b"text".to_vec()].concat();
    assert_eq!(open(old).unwrap().weights("a").unwrap().unwrap(), [2.0, 0.5]);
}

#[test]
fn importance_is_finite_and_not_negative() {
    let numbers = |numbers: [f32; 2]| numbers.map(f32::to_le_bytes).concat();
    let matrix = |sums: [f32; 2]| {
        let gguf = Gguf::default().key_str("general.type", "imatrix").tensor("a.in_sum2", 0, &[2, 1], numbers(sums));
        gguf.tensor("a.counts", 0, &[1, 1], 2f32.to_le_bytes().to_vec()).build()
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    for (sums, sound) in [([1.0, 0.0], true), ([1.0, -1e-30], false), ([f32::NAN, 1.0], false), ([f32::INFINITY, 1.0], false)] {
        std::fs::write(file.path(), matrix(sums)).unwrap();
        let opened = weigh::quant::imatrix::Imatrix::open(file.path()).map(|matrix| matrix.weights("a").unwrap().unwrap());
        match opened {
            Ok(weights) => assert!(sound && weights == [0.5, 0.0], "{sums:?}"),
            Err(error) => assert!(!sound && error.to_string().contains("non-negative"), "{error}"),
        }
    }
}

#[test]
fn a_header_without_its_padding_is_truncated() {
    // ggml: "failed to seek to beginning of data section", though the tensor has no data.
    let bytes = base().f32("a", &[0]).header();
    assert!(!bytes.len().is_multiple_of(32));
    expect("no padding before no data", &bytes, "gguf-truncated");
}

#[test]
fn a_tensor_inside_another_does_not_hide_the_overlap_of_the_next() {
    // a: bytes 0 to 256, b: 32 to 64, inside a; c: 64 to 96 lies in a as well, and behind b.
    let mut gguf = base().f32("a", &[64]).f32("b", &[8]).f32("c", &[8]);
    (gguf.tensors[1].offset, gguf.tensors[2].offset) = (Some(32), Some(64));
    let (findings, _) = judge("m.gguf", &gguf.build());
    let overlaps: Vec<_> = findings.iter().filter(|finding| finding.code == "gguf-overlap").collect();
    assert_eq!(overlaps.iter().map(|finding| finding.tensor.as_deref().unwrap()).collect::<Vec<_>>(), ["b", "c"]);
    assert!(overlaps.iter().all(|finding| finding.message.contains("\"a\"")), "{overlaps:?}");
}

#[test]
fn an_offset_that_ends_past_2_to_the_64_is_an_error_of_its_own() {
    let mut gguf = base().f32("a", &[64]);
    gguf.tensors[0].offset = Some(0u64.wrapping_sub(64));
    let (findings, error) = judge("m.gguf", &gguf.build());
    assert!(error.is_some());
    assert!(findings.iter().any(|finding| finding.code == "gguf-truncated" && finding.message.contains("2^64")), "{findings:?}");
}
