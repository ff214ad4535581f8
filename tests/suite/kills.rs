//! Commands that are ended from outside at any moment, by a signal or by SIGKILL: a file is the old one or the new one, whole.
//!
//! Each test tries a few moments; `cargo test --test suite kills -- --ignored` tries a hundred of each.

#![allow(clippy::print_stdout)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weigh::DType;
use weigh::model::{Metadata, Value};

use crate::build::{tensor, write};

const FEW: u32 = 5;
const MANY: u32 = 100;

fn weigh(folder: &Path, args: &[&str]) -> Child {
    let mut command = Command::new("env");
    // A shell's child in the background has SIGINT ignored.
    command.args(["--default-signal", env!("CARGO_BIN_EXE_weigh")]).args(args).current_dir(folder);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn kill(child: &Child, signal: &str) {
    // It may have ended.
    let _ = Command::new("kill").args(["-s", signal, &child.id().to_string()]).stderr(Stdio::null()).status().unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Moments all over the time that an undisturbed run takes, in an order that jumps about.
fn moments(count: u32, whole: Duration) -> impl Iterator<Item = Duration> {
    (0..count).map(move |i| whole * (i * 37 % count) / count)
}

fn undisturbed(folder: &Path, args: &[&str]) -> Duration {
    let start = Instant::now();
    assert!(weigh(folder, args).wait().unwrap().success());
    start.elapsed()
}

/// A model of 4 MB, in F32.
fn model(folder: &Path) {
    let mut number = 1u32;
    let mut values = |len: usize| -> Vec<u8> {
        let mut next = || {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (number >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..len).flat_map(|_| next().to_le_bytes()).collect()
    };
    let tensors: Vec<_> = (0..4).map(|i| tensor(&format!("w{i}.weight"), DType::F32, &[256, 1024], values(256 * 1024))).collect();
    write("safetensors", &folder.join("in.safetensors"), &tensors, &Metadata::new(), None);
}

/// Ends conversions over an old file at `count` moments with each signal.
fn conversions(count: u32) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    model(at);
    let args = ["convert", "in.safetensors", "out.gguf", "--type", "Q4_K", "--keep-names", "--force"];
    let whole = undisturbed(at, &args);
    let new = fs::read(at.join("out.gguf")).unwrap();
    let (mut left, mut broken_off) = (0, 0);
    for signal in ["INT", "TERM", "HUP", "KILL"] {
        for moment in moments(count, whole) {
            fs::write(at.join("out.gguf"), "old").unwrap();
            let mut child = weigh(at, &args);
            std::thread::sleep(moment);
            kill(&child, signal);
            let ended = child.wait().unwrap();
            let out = fs::read(at.join("out.gguf")).unwrap();
            assert!(out == b"old" || out == new, "{signal} after {moment:?}: neither the old file nor the new one");
            assert!(!ended.success() || out == new, "{signal} after {moment:?}: done, and nothing there");
            broken_off += u32::from(out == b"old");
            let others = names(at).len() - 2;
            assert!(others == 0 || signal == "KILL", "{signal} after {moment:?}: {:?}", names(at));
            left += others;
            if others > 0 {
                undisturbed(at, &args);
                assert_eq!(names(at), ["in.safetensors", "out.gguf"], "the next run clears what SIGKILL left");
            }
        }
    }
    println!("{broken_off} of {} conversions were broken off; SIGKILL left {left} temporary files, all cleared", 4 * count);
}

#[test]
fn a_conversion_ended_at_any_moment_leaves_the_old_file_or_the_new_one() {
    conversions(FEW);
}

#[test]
#[ignore = "takes a while"]
fn a_hundred_conversions_ended() {
    conversions(MANY);
}

/// Ends conversions into shards with an index: where the index is, everything is.
fn sets(count: u32) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    model(at);
    let args = ["convert", "in.safetensors", "out/model.safetensors", "--type", "F16", "--shard-size", "600kB", "--keep-names"];
    fs::create_dir(at.join("out")).unwrap();
    let whole = undisturbed(at, &args);
    let all = names(&at.join("out"));
    assert_eq!(all.len(), 5);
    let want = weigh_hash(&at.join("out"));
    let mut broken_off = 0;
    for signal in ["TERM", "KILL"] {
        for moment in moments(count, whole) {
            fs::remove_dir_all(at.join("out")).unwrap();
            let mut child = weigh(at, &args);
            std::thread::sleep(moment);
            kill(&child, signal);
            child.wait().unwrap();
            let found = if at.join("out").exists() { names(&at.join("out")) } else { vec![] };
            let here: Vec<_> = found.iter().filter(|name| !name.starts_with(".weigh-")).collect();
            match here.iter().any(|name| name.ends_with("index.json")) {
                true => assert_eq!(weigh_hash(&at.join("out")), want, "{signal} after {moment:?}"),
                false => broken_off += 1,
            }
            assert!(signal == "KILL" || found.is_empty() || found == all, "{signal} after {moment:?}: {found:?}");
            if !at.join("out").exists() {
                fs::create_dir(at.join("out")).unwrap();
            }
        }
    }
    println!("{broken_off} of {} sets were broken off", 2 * count);
}

fn weigh_hash(path: &Path) -> String {
    let reader = weigh::open(path).unwrap();
    weigh::ops::hash::hash(&reader, &[weigh::ops::hash::Algorithm::Xxh64], false).unwrap().remove(0).model
}

#[test]
fn a_set_of_files_ended_at_any_moment_has_no_index_unless_it_is_whole() {
    sets(FEW);
}

#[test]
#[ignore = "takes a while"]
fn a_hundred_sets_ended() {
    sets(MANY);
}

/// The model of a path as one number; none where it does not open.
fn opened(path: &Path) -> Option<String> {
    path.exists().then(|| weigh::open(path).ok()).flatten().map(|_| weigh_hash(path))
}

/// Kills conversions over an old set of as many files with the same names, at each renaming in turn: no path opens as a mixture.
///
/// Needs strace, which kills at a call of the system; without it the kill comes at some moment after the first old file has gone.
#[test]
fn a_set_killed_while_it_replaces_an_old_one_is_never_a_mixture() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    model(at);
    let strace = Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    for (out, probe, gone) in
        [("new/model.safetensors", "new", "new/model.safetensors.index.json"), ("m.gguf", "m-00001-of-00004.gguf", "m-00004-of-00004.gguf")]
    {
        let args = |types: &'static str| {
            ["convert", "in.safetensors", out, "--type", types, "--shard-size", "500kB", "--keep-names", "--force", "--no-quality"]
        };
        // Types of equal size: each part of the one fits the other.
        undisturbed(at, &args("BF16"));
        let paths: Vec<_> = names(at.join(out).parent().unwrap()).into_iter().filter(|name| name.contains("-of-")).collect();
        let paths: Vec<_> = paths.iter().map(|name| at.join(out).with_file_name(name)).chain([at.join(probe), at.join(gone)]).collect();
        let old = opened(&at.join(probe)).unwrap();
        undisturbed(at, &args("F16"));
        let new = opened(&at.join(probe)).unwrap();
        assert_ne!(old, new);
        let (mut whole, mut refused) = (0, 0);
        // Calls of each name are counted by themselves.
        for call in ["rename", "renameat", "renameat2"] {
            for when in 1.. {
                undisturbed(at, &args("BF16"));
                let done = if strace {
                    let inject = format!("inject={call}:signal=KILL:when={when}");
                    let mut command = Command::new("strace");
                    command.args(["-f", "-o", "/dev/null", "-e", &inject, env!("CARGO_BIN_EXE_weigh")]).args(args("F16")).current_dir(at);
                    command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
                } else {
                    let mut child = weigh(at, &args("F16"));
                    while at.join(gone).exists() && child.try_wait().unwrap().is_none() {}
                    std::thread::sleep(Duration::from_micros(20) * when);
                    kill(&child, "KILL");
                    child.wait().unwrap().success() || when > 20
                };
                let put_aside: Vec<_> =
                    names(paths[0].parent().unwrap()).into_iter().filter(|name| name.starts_with(".weigh-old-")).collect();
                match opened(&at.join(probe)) {
                    None => {
                        refused += 1;
                        let kept = |name: &str| put_aside.iter().any(|aside| aside.ends_with(name));
                        let lost = paths.iter().find(|path| !path.exists() && !kept(&path.file_name().unwrap().to_string_lossy()));
                        assert_eq!(lost, None, "killed at {call} {when}");
                    }
                    Some(found) => {
                        assert!(found == old || found == new, "killed at {call} {when}: a mixture");
                        whole += 1;
                    }
                }
                // Files by themselves are each of one model, and so are all that are there together.
                let of = |path: &Path| weigh::open(path).ok().map(|reader| reader.model().tensors[0].elem.to_string());
                let mut types: Vec<_> = paths.iter().filter_map(|path| of(path)).collect();
                types.dedup();
                assert!(types.len() <= 1, "killed at {call} {when}: {types:?}");
                for name in put_aside {
                    fs::remove_file(paths[0].with_file_name(name)).unwrap(); // whoever looks at them does: no run of weigh
                }
                if done {
                    break;
                }
            }
        }
        undisturbed(at, &args("F16"));
        println!("{out}: {whole} kills left a whole set, {refused} too few files");
        assert!(!strace || (whole > 1 && refused > 1));
        assert!(names(at).iter().all(|name| !name.starts_with(".weigh-")), "the next run clears what SIGKILL left");
    }
}

/// Kills changes of a header in its place: whoever opens the file next finds the old value or the new one, and the same tensors.
fn edits(count: u32) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let path = at.join("m.gguf");
    let mut metadata = Metadata::new();
    // A header of a few hundred kilobytes: there is something to be interrupted.
    metadata.insert("general.description", Value::String("d".repeat(400_000))).unwrap();
    metadata.insert("general.name", Value::String("aaaa".into())).unwrap();
    write("gguf", &path, &[tensor("w", DType::F32, &[1000], vec![1; 4000])], &metadata, None);
    let hash = weigh_hash(&path);
    let start = |value: char| {
        let given = format!("general.name={}", value.to_string().repeat(4));
        weigh(at, &["meta", "m.gguf", "set", &given, "--in-place"])
    };
    let started = Instant::now();
    assert!(start('b').wait().unwrap().success());
    let whole = started.elapsed();
    let (mut old, mut undone) = ('b', 0);
    for (i, moment) in moments(count, whole).enumerate() {
        let new = if i % 2 == 0 { 'c' } else { 'd' };
        let mut child = start(new);
        std::thread::sleep(moment);
        kill(&child, "KILL");
        child.wait().unwrap();
        undone += u32::from(names(at).iter().any(|name| name.starts_with(".weigh-undo")));
        let reader = weigh::open(&path).unwrap();
        let found = reader.model().metadata.get_str("general.name").unwrap().to_owned();
        assert!([old, new].iter().any(|value| found == value.to_string().repeat(4)), "after {moment:?}: {found}");
        assert_eq!(reader.model().metadata.get_str("general.description").unwrap(), "d".repeat(400_000));
        assert_eq!(weigh_hash(&path), hash);
        assert!(names(at).iter().all(|name| !name.starts_with(".weigh-undo")), "the copy goes with the opening");
        old = found.chars().next().unwrap();
    }
    assert!(start('e').wait().unwrap().success());
    assert_eq!(names(at), ["m.gguf"]);
    println!("{undone} of {count} changes were undone at the next opening");
}

#[test]
fn a_header_changed_in_its_place_and_killed_is_the_old_one_or_the_new_one() {
    edits(FEW);
}

#[test]
#[ignore = "takes a while"]
fn a_hundred_changes_of_a_header_killed() {
    edits(MANY);
}
