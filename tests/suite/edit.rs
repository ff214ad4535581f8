//! Metadata edited: in its place, by a new file, and refused; the tensors never change.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest, Sha256};
use weigh::Error;
use weigh::model::{Array, Metadata, Value};
use weigh::ops::edit::{Change, Destination, EditReport, edit};
use weigh::ops::hash::{Algorithm, Manifest, Outcome, hash};
use weigh::write::undo;

use crate::build::{self, Gguf};

fn set(path: &Path, given: &str, destination: &Destination) -> Result<EditReport, Error> {
    edit(path, &[build::change(given)], destination)
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
    let reader = weigh::format::open(path).unwrap();
    let known: Vec<_> = reader.model().tensors.iter().filter(|tensor| tensor.len_bytes.is_some()).collect();
    known.iter().map(|tensor| format!("{} {:?} {:?}\n", tensor.name, tensor.shape, reader.bytes(tensor).unwrap())).collect()
}

fn text(path: &Path, key: &str) -> Option<String> {
    weigh::format::open(path).unwrap().model().metadata.get_str(key).map(str::to_owned)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_value_that_fits_is_written_in_place() {
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
fn arrays_that_move_in_the_file_are_reported_with_their_old_values() {
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
    let reader = weigh::format::open(&path).unwrap();
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
    let report = edit(&path, &[Change::Remove("note".into()), build::change("made=string:u32:7")], &Destination::InPlace).unwrap();
    assert!(report.fits);
    assert_eq!(fs::metadata(&path).unwrap().len(), length);
    assert_eq!((text(&path, "made").as_deref(), text(&path, "note")), (Some("u32:7"), None));
    let report = set(&path, &format!("note=string:{}", "y".repeat(500)), &Destination::InPlace).unwrap();
    assert!(!report.fits);
    assert_eq!(values(&path), "w [3] [1, 2, 3]\n");
    assert!(set(&path, "n=u32:7", &Destination::InPlace).is_err(), "safetensors has strings only");
}

#[test]
fn renamed_keys_keep_their_position_and_removed_ones_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("m.gguf"), folder.path().join("out.gguf"));
    fs::write(&path, gguf(3)).unwrap();
    let before = fs::read(&path).unwrap();
    let changes = [Change::Rename("general.name".into(), "general.basename".into()), Change::Remove("test.none".into())];
    let destination = Destination::New { path: out.clone(), force: false };
    let report = edit(&path, &changes, &destination).unwrap();
    assert_eq!(report.changes.len(), 3);
    let reader = weigh::format::open(&out).unwrap();
    let keys: Vec<_> = reader.model().metadata.iter().map(|(key, _)| key.to_owned()).collect();
    assert_eq!(keys, ["general.architecture", "general.basename", "tokenizer.ggml.bos_token_id"]);
    assert_eq!(fs::read(&path).unwrap(), before, "the input is as it was");
    assert!(edit(&path, &changes, &destination).unwrap_err().to_string().contains("already exists"));
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
fn a_string_is_read_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (path, template) = (folder.path().join("m.gguf"), folder.path().join("t.jinja"));
    fs::write(&path, gguf(3)).unwrap();
    fs::write(&template, "{% if x %}\n").unwrap();
    for given in ["tokenizer.chat_template=@t.jinja", "general.description=string:@t.jinja"] {
        let run = weigh(folder.path(), &["meta", "m.gguf", "set", given, "--in-place"]);
        assert_eq!(run.status.code(), Some(0), "{}", said(&run));
        assert_eq!(text(&path, given.split_once('=').unwrap().0).as_deref(), Some("{% if x %}\n"));
    }
    // The type of a new key is asked for, in the words of the command line.
    let run = weigh(folder.path(), &["meta", "m.gguf", "set", "general.new=7", "--in-place"]);
    assert_eq!(run.status.code(), Some(2));
    assert!(said(&run).contains("no type given for the new key general.new\nhint: give its type as KEY=TYPE:VALUE"), "{}", said(&run));
}

#[test]
fn changes_that_would_make_the_file_invalid_are_refused_and_nothing_is_written() {
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
            assert!(error.contains("general.alignment of at most 16777216"), "{error}");
        }
        assert!(!folder.path().join("new").exists());
        set(&path, "general.alignment=u32:32", &Destination::InPlace).unwrap();
        assert!(fs::metadata(&path).unwrap().len() < 200);
    }
    let mut metadata = Metadata::new();
    metadata.set("general.alignment", Value::U32(1 << 31));
    let format = weigh::format::FORMATS.iter().find(|format| format.id == weigh::model::FormatId::Gguf).unwrap();
    assert!(weigh::format::shards::layout(format, &path, &[], &metadata, None).is_err());
}

#[test]
fn hashes_change_with_a_weight_but_not_with_the_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    fs::write(&path, Gguf::default().key_str("general.name", "x").f32("a", &[40]).f32("b", &[3]).build()).unwrap();
    let report = || hash(&weigh::format::open(&path).unwrap(), &[Algorithm::Sha256, Algorithm::Xxh64], true).unwrap();
    let first = report();
    let lines: String = first.iter().map(|report| format!("{}  {}  {}\n", report.algorithm, report.model, path.display())).collect();
    let manifest = Manifest::parse(&format!("{lines}sha256  {}  elsewhere/m.gguf:b\n", first[0].tensors[1].hash)).unwrap();
    set(&path, "general.name=a much longer name than before", &Destination::InPlace).unwrap();
    let mut second = report();
    assert_eq!(manifest.judge(&path, &mut second[0]), Outcome::Success);
    assert_eq!(manifest.judge(Path::new("other.gguf"), &mut second[0]), Outcome::MissingEntry);
    let mut bytes = fs::read(&path).unwrap();
    let last = weigh::format::open(&path).unwrap().model().tensor("a").unwrap().offset_bytes as usize;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(manifest.judge(&path, &mut report()[1]), Outcome::Failure);
}

fn weigh(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weigh")).current_dir(folder).args(args).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Every command that only reads, on `m.gguf`.
const READERS: [&[&str]; 13] = [
    &["info", "m.gguf"],
    &["ls", "m.gguf"],
    &["count", "m.gguf"],
    &["stats", "m.gguf"],
    &["show", "m.gguf", "a"],
    &["meta", "m.gguf"],
    &["meta", "m.gguf", "get", "general.name"],
    &["hist", "m.gguf", "a"],
    &["diff", "m.gguf", "m.gguf"],
    &["report", "m.gguf", "-o", "report.html"],
    &["verify", "m.gguf"],
    &["hash", "m.gguf"],
    &["convert", "m.gguf", "out.gguf", "--keep-names"],
];

/// A model, and what changing its name in place would write.
fn changed_start(path: &Path) -> (Vec<u8>, Vec<u8>) {
    fs::write(path, Gguf::default().key_str("general.name", "old name").f32("a", &[40]).build()).unwrap();
    let old = fs::read(path).unwrap();
    let new = path.with_extension("new");
    set(path, "general.name=new name", &Destination::New { path: new.clone(), force: true }).unwrap();
    let bytes = fs::read(&new).unwrap();
    fs::remove_file(new).unwrap();
    let start = old.len() - 160;
    (old[..start].to_vec(), bytes[..start].to_vec())
}

fn undo_copy(path: &Path) -> PathBuf {
    undo::copy_path(path, &fs::metadata(path).unwrap())
}

/// Puts an undo copy beside the file, as an edit leaves it that is killed.
fn leave_copy(path: &Path, old: &[u8], new: &[u8]) -> Vec<u8> {
    let packed = undo::pack(&fs::metadata(path).unwrap(), old, new);
    fs::write(undo_copy(path), &packed).unwrap();
    fs::set_permissions(undo_copy(path), fs::Permissions::from_mode(0o600)).unwrap();
    packed
}

/// A copy as anybody could forge it for version 0.1, which believed it.
fn forged(file_bytes: u64, old: &[u8]) -> Vec<u8> {
    [&b"weigh-u1"[..], &file_bytes.to_le_bytes(), &Sha256::digest(old), old].concat()
}

#[test]
fn no_command_that_reads_writes_into_a_model_whatever_lies_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let (old, new) = changed_start(&path);
    let before = fs::read(&path).unwrap();
    let theirs = [b"PWNED", &old[5..]].concat();
    let length = before.len() as u64;
    for copy in [forged(length, &theirs), forged(length, &new), undo::pack(&fs::metadata(&path).unwrap(), &theirs, &old)] {
        fs::write(undo_copy(&path), &copy).unwrap();
        for reader in READERS {
            let run = weigh(folder.path(), reader);
            assert!(run.status.success(), "{reader:?}: {}", said(&run));
            assert_eq!(fs::read(&path).unwrap(), before, "{reader:?}");
            assert_eq!(fs::read(undo_copy(&path)).unwrap(), copy, "{reader:?}");
        }
        for made in ["out.gguf", "report.html"] {
            fs::remove_file(folder.path().join(made)).unwrap();
        }
    }
    // Files that are no models have no undo copies.
    let notes = folder.path().join("notes.txt");
    fs::write(&notes, "my own text").unwrap();
    fs::write(undo_copy(&notes), forged(11, b"PWNED")).unwrap();
    assert_eq!(weigh(folder.path(), &["info", "notes.txt"]).status.code(), Some(2));
    assert_eq!(fs::read(&notes).unwrap(), b"my own text");
}

#[test]
fn a_torn_model_is_refused_by_every_command_until_it_is_recovered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let (old, new) = changed_start(&path);
    let whole = fs::read(&path).unwrap();
    let copy = leave_copy(&path, &old, &new);
    let torn = [weigh::source::torn::MARKER, &new[8..40], &whole[40..]].concat();
    fs::write(&path, &torn).unwrap();
    for reader in READERS.iter().chain([&["meta", "m.gguf", "set", "general.name=x", "--in-place"][..]].iter()) {
        let run = weigh(folder.path(), reader);
        let said = said(&run);
        assert_eq!(run.status.code(), Some(2), "{reader:?}: {said}");
        assert!(said.contains("weigh: m.gguf: a change of its metadata was interrupted"), "{reader:?}: {said}");
        assert!(said.contains("hint: `weigh meta m.gguf --recover`") && said.lines().count() == 2, "{reader:?}: {said}");
        assert_eq!((fs::read(&path).unwrap(), fs::read(undo_copy(&path)).unwrap()), (torn.clone(), copy.clone()), "{reader:?}");
    }
    let recover = || {
        let run = weigh(folder.path(), &["meta", "m.gguf", "--recover", "--json"]);
        assert!(run.status.success(), "{}", said(&run));
        let report: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
        report["recovery"].as_str().unwrap().to_owned()
    };
    assert_eq!(recover(), "undone");
    assert_eq!((fs::read(&path).unwrap(), names(folder.path())), (whole, vec!["m.gguf".to_owned()]));
    assert_eq!(recover(), "nothing");
    // Killed when all was written but the removal of the copy.
    fs::write(&path, [&new, &torn[new.len()..]].concat()).unwrap();
    leave_copy(&path, &old, &new);
    assert_eq!(text(&path, "general.name").as_deref(), Some("new name"));
    assert_eq!(recover(), "finished");
    assert_eq!((text(&path, "general.name").as_deref(), names(folder.path()).len()), (Some("new name"), 1));
}

#[test]
fn the_undo_copy_of_a_deleted_model_does_not_affect_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    // Other models with the old one's number on the disk: of another length, and of the same.
    for name in ["another", "by tools"] {
        let (old, new) = changed_start(&path);
        leave_copy(&path, &old, &new);
        let copy = undo_copy(&path);
        fs::write(&path, Gguf::default().key_str("general.name", name).f32("a", &[40]).build()).unwrap();
        let before = fs::read(&path).unwrap();
        assert_eq!(text(&path, "general.name").as_deref(), Some(name));
        let run = weigh(folder.path(), &["meta", "m.gguf", "--recover"]);
        assert_eq!(run.status.code(), Some(2));
        assert!(said(&run).contains("cannot be used as its undo copy") && said(&run).contains("hint: remove the copy"), "{}", said(&run));
        assert_eq!(fs::read(&path).unwrap(), before);
        let change = format!("general.name={}", "x".repeat(name.len()));
        let run = weigh(folder.path(), &["meta", "m.gguf", "set", &change, "--in-place"]);
        assert!(run.status.success() && said(&run).contains("a new file replaces it"), "{}", said(&run));
        assert_eq!(text(&path, "general.name"), Some("x".repeat(name.len())));
        fs::remove_file(copy).expect("it is left alone");
    }
}

#[test]
fn a_file_with_hard_links_is_replaced_and_a_note_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let [path, other] = ["m.gguf", "other/m.gguf"].map(|name| folder.path().join(name));
    fs::create_dir(folder.path().join("other")).unwrap();
    for change in ["general.name=new name".to_owned(), format!("general.name={}", "x".repeat(500))] {
        let _ = fs::remove_file(&path);
        let _ = fs::remove_file(&other);
        fs::write(&path, gguf(3)).unwrap();
        fs::hard_link(&path, &other).unwrap();
        let dry = set(&path, &change, &Destination::DryRun).unwrap();
        let run = weigh(folder.path(), &["meta", "m.gguf", "set", &change, "--in-place", "--json"]);
        assert!(
            run.status.success() && said(&run).contains("the old file remains under its other names (hard links: 1)"),
            "{}",
            said(&run)
        );
        let report: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
        assert_eq!(
            (report["bytes_written"].as_u64(), report["notes"].as_array().unwrap().len()),
            (Some(dry.bytes_written), 1 + usize::from(dry.fits))
        );
        assert_eq!(text(&path, "general.name").as_deref(), change.split('=').nth(1));
        assert_eq!(fs::read(&other).unwrap(), gguf(3));
    }
}

#[test]
fn a_new_file_has_the_mode_and_owner_of_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let long = format!("general.name={}", "x".repeat(500));
    for mode in [0o600, 0o640, 0o664] {
        for change in ["general.name=new name", &long] {
            fs::write(&path, gguf(3)).unwrap();
            // Only root can give files away; for others, it stays theirs.
            let _ = std::os::unix::fs::chown(&path, Some(65_533), Some(65_532));
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let before = fs::metadata(&path).unwrap();
            let run = weigh(folder.path(), &["meta", "m.gguf", "set", change, "--in-place"]);
            assert!(run.status.success() && !said(&run).contains("could not be kept"), "{}", said(&run));
            let after = fs::metadata(&path).unwrap();
            assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()), "{change}");
            assert!(after.modified().unwrap() > before.modified().unwrap());
            fs::remove_file(&path).unwrap();
        }
    }
    fs::write(&path, gguf(3)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let new = folder.path().join("new.gguf");
    set(&path, "general.name=new name", &Destination::New { path: new.clone(), force: false }).unwrap();
    assert_eq!(fs::metadata(new).unwrap().mode() & 0o777, 0o600);
}
