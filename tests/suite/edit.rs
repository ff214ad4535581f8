//! Metadata edited: in its place, by a new file, and refused; the tensors never change.

use std::fs;
use std::path::Path;

use weigh::Error;
use weigh::model::{Array, Metadata, Value};
use weigh::ops::edit::{Change, Destination, EditReport, edit};
use weigh::ops::hash::{Algorithm, Manifest, Outcome, hash};

use crate::build::{self, Gguf};

fn set(path: &Path, given: &str, destination: &Destination) -> Result<EditReport, Error> {
    edit(path, &[Change::Set(given.to_owned())], destination)
}

/// A file of each version that can be edited, with a hole in the tensor table's order, an unknown type and an empty array.
fn gguf(version: u32) -> Vec<u8> {
    let file = Gguf { version, ..Gguf::default() };
    let none = file.array(7, 0, &[]);
    file.key_str("general.architecture", "llama")
        .key_str("general.name", "old name")
        .key("test.none", 9, none)
        .key_u32("tokenizer.ggml.bos_token_id", 1)
        .f32("b", &[4, 2])
        .tensor("unknown", 99, &[8], vec![7; 32])
        .f32("a", &[3])
        .build()
}

fn values(path: &Path) -> String {
    let reader = weigh::open(path).unwrap();
    let known: Vec<_> = reader.model().tensors.iter().filter(|tensor| tensor.len_bytes.is_some()).collect();
    known.iter().map(|tensor| format!("{} {:?} {:?}\n", tensor.name, tensor.shape, reader.bytes(tensor).unwrap())).collect()
}

fn text(path: &Path, key: &str) -> Option<String> {
    weigh::open(path).unwrap().model().metadata.get_str(key).map(str::to_owned)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_value_that_fits_is_written_in_its_place() {
    for version in [2, 3] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        fs::write(&path, gguf(version)).unwrap();
        let (before, tensors) = (fs::read(&path).unwrap(), values(&path));
        let report = set(&path, "general.name=new name", &Destination::InPlace).unwrap();
        assert!(report.fits && report.bytes_written < before.len() as u64);
        let after = fs::read(&path).unwrap();
        assert_eq!(after.len(), before.len());
        assert_eq!(after.iter().zip(&before).filter(|(a, b)| a != b).count(), 3, "o, l, d and nothing else");
        assert_eq!((text(&path, "general.name").as_deref(), values(&path)), (Some("new name"), tensors));
        assert_eq!(names(folder.path()), ["m.gguf"]);
    }
}

#[test]
fn arrays_that_move_in_their_file_are_told_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let file = Gguf::default();
    let numbers = file.array(4, 3, &[1u32, 2, 3].map(u32::to_le_bytes).concat());
    fs::write(&path, file.key_str("general.name", "x").key("test.moved.away", 9, numbers).f32("t", &[4]).build()).unwrap();
    let report = edit(&path, &[Change::Rename("test.moved.away".into(), "moved".into())], &Destination::InPlace).unwrap();
    assert!(report.fits);
    let told = report.changes.iter().flat_map(|change| [&change.old, &change.new]).flatten();
    let told: Vec<_> = told.map(|value| value.as_array().unwrap().values().unwrap()).collect();
    assert_eq!(told, vec![[1, 2, 3].map(Value::U32).to_vec(); 2]);
}

#[test]
fn a_longer_value_moves_the_data_and_changes_none_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    fs::write(&path, gguf(2)).unwrap();
    let tensors = values(&path);
    let long = "x".repeat(1000);
    let report = set(&path, &format!("general.name={long}"), &Destination::InPlace).unwrap();
    assert!(!report.fits);
    assert_eq!((text(&path, "general.name").unwrap(), values(&path)), (long, tensors));
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes[4], 2, "the version stays");
    let reader = weigh::open(&path).unwrap();
    let none = reader.model().metadata.get("test.none").unwrap().as_array().unwrap();
    assert_eq!((none.elem(), none.len()), (weigh::model::ValueType::Bool, 0));
    assert!(reader.model().tensor("unknown").is_some());
}

#[test]
fn safetensors_metadata_uses_its_padding_and_keeps_the_rest_of_the_header() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let header = r#"{"__metadata__":{"format":"pt","note":"a long note that can go"},"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
    fs::write(&path, build::safetensors(header, &[1, 2, 3])).unwrap();
    let length = fs::metadata(&path).unwrap().len();
    let report = edit(&path, &[Change::Remove("note".into()), Change::Set("made=string:u32:7".into())], &Destination::InPlace).unwrap();
    assert!(report.fits);
    assert_eq!(fs::metadata(&path).unwrap().len(), length);
    assert_eq!((text(&path, "made").as_deref(), text(&path, "note")), (Some("u32:7"), None));
    let report = set(&path, &format!("note=string:{}", "y".repeat(500)), &Destination::InPlace).unwrap();
    assert!(!report.fits);
    assert_eq!(values(&path), "w [3] [1, 2, 3]\n");
    assert!(set(&path, "n=u32:7", &Destination::InPlace).is_err(), "safetensors has strings only");
}

#[test]
fn renamed_keys_stay_in_their_place_and_removed_ones_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("m.gguf"), folder.path().join("out.gguf"));
    fs::write(&path, gguf(3)).unwrap();
    let before = fs::read(&path).unwrap();
    let changes = [Change::Rename("general.name".into(), "general.basename".into()), Change::Remove("test.none".into())];
    let destination = Destination::New { path: out.clone(), force: false };
    let report = edit(&path, &changes, &destination).unwrap();
    assert_eq!(report.changes.len(), 3);
    let reader = weigh::open(&out).unwrap();
    let keys: Vec<_> = reader.model().metadata.iter().map(|(key, _)| key.to_owned()).collect();
    assert_eq!(keys, ["general.architecture", "general.basename", "tokenizer.ggml.bos_token_id"]);
    assert_eq!(fs::read(&path).unwrap(), before, "the input is as it was");
    assert!(edit(&path, &changes, &destination).unwrap_err().to_string().contains("expected a new file"));
    assert!(edit(&path, &changes, &Destination::New { path: path.clone(), force: true }).is_err(), "the output is the input");
}

#[test]
fn a_dry_run_says_what_would_change_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    fs::write(&path, gguf(3)).unwrap();
    let before = fs::read(&path).unwrap();
    let report = set(&path, "general.tags=string[]:[\"a\",\"b\"]", &Destination::DryRun).unwrap();
    assert_eq!(report.changes[0].new, Some(Value::Array(Array::strings(["a", "b"]))));
    assert_eq!(report.output, None);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_text_comes_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (path, template) = (folder.path().join("m.gguf"), folder.path().join("t.jinja"));
    fs::write(&path, gguf(3)).unwrap();
    fs::write(&template, "{% if x %}\n").unwrap();
    set(&path, &format!("tokenizer.chat_template=@{}", template.display()), &Destination::InPlace).unwrap();
    assert_eq!(text(&path, "tokenizer.chat_template").as_deref(), Some("{% if x %}\n"));
}

#[test]
fn what_would_make_the_file_unsound_is_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let tokens = Gguf::default();
    let list = tokens.array(8, 2, &[tokens.text(b"a"), tokens.text(b"b")].concat());
    fs::write(&path, tokens.key("tokenizer.ggml.tokens", 9, list).key_u16("split.no", 0).f32("a", &[3]).f32("b", &[3]).build()).unwrap();
    let before = fs::read(&path).unwrap();
    for given in [
        "general.alignment=u32:48",
        "general.alignment=u64:32",
        "general.alignment=u32:64",
        "general.architecture=u32:1",
        "tokenizer.ggml.eos_token_id=u32:2",
        "tokenizer.ggml.scores=f32[]:[1.0]",
        "split.no=u16:1",
        "general.new=untyped",
        "=u32:1",
    ] {
        assert!(set(&path, given, &Destination::InPlace).is_err(), "{given}");
    }
    for change in [Change::Remove("general.nam".into()), Change::Rename("split.no".into(), "x".into())] {
        assert!(edit(&path, &[change], &Destination::InPlace).is_err());
    }
    assert_eq!(fs::read(&path).unwrap(), before);
    assert!(set(&path, "tokenizer.ggml.eos_token_id=u32:1", &Destination::InPlace).is_ok());
}

#[test]
fn an_alignment_that_would_make_gigabytes_of_padding_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    // Without tensors, and with the first of them at 0, any power of two fits.
    for file in [Gguf::default().key_u32("general.alignment", 1 << 30), Gguf::default().key_u32("general.alignment", 1 << 25)] {
        fs::write(&path, file.build()).unwrap();
        for destination in [Destination::DryRun, Destination::New { path: folder.path().join("new"), force: true }] {
            let error = set(&path, "general.name=string:x", &destination).unwrap_err().to_string();
            assert!(error.contains("general.alignment to be at most 16777216"), "{error}");
        }
        assert!(!folder.path().join("new").exists());
        set(&path, "general.alignment=u32:32", &Destination::InPlace).unwrap();
        assert!(fs::metadata(&path).unwrap().len() < 200);
    }
    let mut metadata = Metadata::new();
    metadata.set("general.alignment", Value::U32(1 << 31));
    let format = weigh::format::FORMATS.iter().find(|format| format.id == "gguf").unwrap();
    assert!(weigh::format::shards::layout(format, &path, &[], &metadata, None).is_err());
}

#[test]
fn hashes_stay_when_the_metadata_changes_and_tell_when_a_weight_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    fs::write(&path, Gguf::default().key_str("general.name", "x").f32("a", &[40]).f32("b", &[3]).build()).unwrap();
    let report = || hash(&weigh::open(&path).unwrap(), &[Algorithm::Sha256, Algorithm::Xxh64], true).unwrap();
    let first = report();
    let lines: String = first.iter().map(|report| format!("{}  {}  {}\n", report.algorithm, report.model, path.display())).collect();
    let manifest = Manifest::parse(&format!("{lines}sha256  {}  elsewhere/m.gguf:b\n", first[0].tensors[1].hash)).unwrap();
    set(&path, "general.name=a much longer name than before", &Destination::InPlace).unwrap();
    let mut second = report();
    assert_eq!(manifest.judge(&path, &mut second[0]), Outcome::Success);
    assert_eq!(manifest.judge(Path::new("other.gguf"), &mut second[0]), Outcome::MissingEntry);
    let mut bytes = fs::read(&path).unwrap();
    let last = weigh::open(&path).unwrap().model().tensor("a").unwrap().offset_bytes as usize;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(manifest.judge(&path, &mut report()[1]), Outcome::Failure);
}
