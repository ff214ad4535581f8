//! Commands that are ended from outside at any moment, by a signal or by SIGKILL: a file is the old one or the new one, whole.
//!
//! Each test tries a few moments; `cargo test --test suite kills -- --ignored` tries a hundred of each.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use weigh::DType;
use weigh::model::{Metadata, Value};
use weigh::ops::edit::{Change, Destination, edit};

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

/// The command strace; where it is not installed, says that what needs it is skipped.
fn strace() -> Option<Command> {
    let found = Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    if !found {
        eprintln!("skipped: strace is not installed");
    }
    found.then(|| Command::new("strace"))
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

/// Ends a conversion between the moment when the lock on names is created and the moment when it is held.
///
/// Needs strace, which keeps the one thread waiting there while the signal arrives.
#[test]
fn a_conversion_ended_while_it_takes_the_lock_on_names_leaves_no_lock() {
    ended_at_the_lock(&["-e", "inject=openat:signal=TERM", "-e", "inject=flock:delay_exit=3000000"]);
}

/// Ends a conversion right after it has removed the lock on names: another run may have made one by then, which must stay.
///
/// Needs strace.
#[test]
fn a_conversion_ended_while_it_gives_the_lock_on_names_back_removes_it_once() {
    ended_at_the_lock(&["-e", "inject=unlink:signal=TERM", "-e", "inject=close:delay_enter=3000000"]);
}

/// Ends a conversion over an old file by what is injected at calls that concern the lock on names.
fn ended_at_the_lock(inject: &[&str]) {
    // On a busy machine the conversion may be done before its signals are looked at: such a run shows nothing.
    const RUNS: u32 = 10;
    let ended = (0..RUNS).find_map(|_| {
        let mut command = strace()?;
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        model(at);
        fs::write(at.join("out.gguf"), "old").unwrap();
        // Absolute paths, by which strace knows the calls.
        let (lock, out) = (at.join(".weigh-namelock"), at.join("out.gguf"));
        command.args(["-f", "-o", "trace", "-P"]).arg(&lock).args(inject).arg(env!("CARGO_BIN_EXE_weigh"));
        command.args(["convert", "--type", "F16", "--keep-names", "--force", "in.safetensors"]).arg(&out);
        let status = command.current_dir(at).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        let trace = fs::read_to_string(at.join("trace")).unwrap();
        fs::remove_file(at.join("trace")).unwrap();
        assert_eq!(trace.matches("unlink").count(), 1, "{trace}");
        assert_eq!(names(at), ["in.safetensors", "out.gguf"]);
        (status.code() == Some(128 + 15)).then_some(())
    });
    assert!(ended.is_some() || strace().is_none(), "no signal came in {RUNS} runs");
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
    let reader = weigh::format::open(path).unwrap();
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
    path.exists().then(|| weigh::format::open(path).ok()).flatten().map(|_| weigh_hash(path))
}

/// Kills conversions over an old set of as many files with the same names, at each renaming in turn: no path opens as a mixture.
///
/// Needs strace, which kills at a call of the system; without it the kill comes at some moment after the first old file has gone.
#[test]
fn a_set_killed_while_it_replaces_an_old_one_is_never_a_mixture() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    model(at);
    std::fs::create_dir(at.join("new")).unwrap();
    let strace_is_there = strace().is_some();
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
                let done = if strace_is_there {
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
                let of = |path: &Path| weigh::format::open(path).ok().map(|reader| reader.model().tensors[0].elem.to_string());
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
        assert!(!strace_is_there || (whole > 1 && refused > 1));
        assert!(names(at).iter().all(|name| !name.starts_with(".weigh-")), "the next run clears what SIGKILL left");
    }
}

/// A model with a header of a few hundred kilobytes, so that there is something to be interrupted.
fn editable(path: &Path) {
    let mut metadata = Metadata::new();
    metadata.insert("general.description", Value::String("d".repeat(400_000))).unwrap();
    metadata.insert("general.name", Value::String("aaaa".into())).unwrap();
    metadata.insert("general.author", Value::String("aaaa".into())).unwrap();
    write("gguf", path, &[tensor("w", DType::F32, &[1000], vec![1; 4000])], &metadata, None);
}

fn text(path: &Path, key: &str) -> String {
    weigh::format::open(path).unwrap().model().metadata.get_str(key).unwrap().to_owned()
}

/// The changes of a header that are tried: of its values only, and one that it has to grow for.
const EDITS: [&[&str]; 2] = [
    &["meta", "m.gguf", "set", "general.name=bbbb", "--in-place"],
    &["meta", "m.gguf", "set", "general.name=bbbb-but-much-longer-than-any-padding", "--in-place"],
];

/// Looks at a model after an edit of it was ended: it is the old one or the new one, now or once it is recovered. Returns whether it
/// had to be.
fn check_edited(at: &Path, hash: &str, new: &str, what: &str) -> bool {
    let path = at.join("m.gguf");
    let before = fs::read(&path).unwrap();
    let opened = weigh::format::open(&path);
    let refused = opened.as_ref().err().map(ToString::to_string);
    assert!(refused.as_ref().is_none_or(|error| error.contains("was interrupted")), "{what}: {refused:?}");
    assert!(fs::read(&path).unwrap() == before, "{what}: reading writes nothing");
    let found = opened.ok().map(|reader| reader.model().metadata.get_str("general.name").unwrap().to_owned());
    undisturbed(at, &["meta", "m.gguf", "--recover"]);
    assert!(names(at).iter().all(|name| !name.starts_with(".weigh-undo")), "{what}: {:?}", names(at));
    let name = text(&path, "general.name");
    assert!(name == "aaaa" || name == new, "{what}: {name}");
    assert!(found.is_none_or(|found| found == name), "{what}: recovery changes no whole file");
    assert_eq!(text(&path, "general.description").len(), 400_000, "{what}");
    assert_eq!(weigh_hash(&path), hash, "{what}");
    for name in names(at).iter().filter(|name| name.starts_with(".weigh-")) {
        fs::remove_file(at.join(name)).unwrap(); // a temporary file after SIGKILL, which the next run clears if it comes so far
    }
    refused.is_some()
}

/// Ends edits in place at moments spread over their time, by each signal.
fn edits(count: u32) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let path = at.join("m.gguf");
    editable(&path);
    let (hash, original) = (weigh_hash(&path), fs::read(&path).unwrap());
    let (mut torn, mut old) = (0, 0);
    for edit in EDITS {
        let new = edit[3].split_once('=').unwrap().1;
        fs::write(&path, &original).unwrap();
        let whole = undisturbed(at, edit);
        for signal in ["KILL", "INT", "TERM", "HUP"] {
            for moment in moments(count, whole) {
                fs::write(&path, &original).unwrap();
                let mut child = weigh(at, edit);
                std::thread::sleep(moment);
                kill(&child, signal);
                child.wait().unwrap();
                let what = format!("{signal} after {moment:?}");
                let left = names(at);
                assert!(signal == "KILL" || left == ["m.gguf"], "{what}: {left:?}");
                let refused = check_edited(at, &hash, new, &what);
                assert!(signal == "KILL" || !refused, "{what}: neither finished nor undone");
                torn += u32::from(refused);
                old += u32::from(text(&path, "general.name") == "aaaa");
            }
        }
    }
    println!("{old} of {} edits were not made; {torn} were undone", 8 * count);
}

#[test]
fn an_edit_ended_at_any_moment_leaves_the_old_model_or_the_new_one() {
    edits(FEW);
}

#[test]
#[ignore = "takes a while"]
fn a_hundred_edits_ended() {
    edits(MANY);
}

/// Kills edits in place before each of the calls that write, sync, rename and remove; and tells them to end there.
///
/// Needs strace; the test of moments does without.
#[test]
fn an_edit_ended_at_each_system_call_leaves_the_old_model_or_the_new_one() {
    if strace().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let path = at.join("m.gguf");
    editable(&path);
    let (hash, original) = (weigh_hash(&path), fs::read(&path).unwrap());
    let (mut ended, mut torn) = (0, 0);
    for edit in EDITS {
        let new = edit[3].split_once('=').unwrap().1;
        for signal in ["KILL", "INT"] {
            for call in
                ["write", "pwrite64", "fsync", "fdatasync", "utimensat", "fchown", "fchmod", "rename", "renameat2", "linkat", "unlink"]
            {
                for when in 1.. {
                    fs::write(&path, &original).unwrap();
                    let inject = format!("inject={call}:signal={signal}:when={when}");
                    let mut command = Command::new("strace");
                    command.args(["-f", "-o", "/dev/null", "-e", &inject, env!("CARGO_BIN_EXE_weigh")]).args(edit).current_dir(at);
                    let done = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success();
                    let what = format!("{signal} at {call} {when}");
                    let refused = check_edited(at, &hash, new, &what);
                    assert!(signal == "KILL" || !refused, "{what}: neither finished nor undone");
                    torn += u32::from(refused);
                    ended += u32::from(!done);
                    if done {
                        break;
                    }
                }
            }
        }
    }
    println!("{ended} edits were ended, {torn} left a model that had to be recovered");
    assert!(torn > 3);
}

/// What an edit makes is private from the first moment where the model is, and what it removes stays removed after a power cut.
///
/// Needs strace.
#[test]
fn an_edit_makes_no_file_that_others_can_read_and_syncs_the_removal_of_its_copy() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let path = at.join("m.gguf");
    for edit in EDITS {
        let _ = fs::remove_file(&path);
        editable(&path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let Some(mut command) = strace() else { return };
        command.args([
            "-f",
            "-o",
            "trace",
            "-e",
            "trace=openat,fsync,unlink,rename,renameat2,linkat,fchmod,chmod",
            env!("CARGO_BIN_EXE_weigh"),
        ]);
        let status = command.args(edit).current_dir(at).stdout(Stdio::null()).status().unwrap();
        assert!(status.success());
        let trace = fs::read_to_string(at.join("trace")).unwrap();
        let made: Vec<_> = trace.lines().filter(|line| line.contains("O_CREAT")).collect();
        assert!(!made.is_empty() && made.iter().all(|line| line.contains(", 0600)")), "{made:?}");
        assert!(trace.lines().filter(|line| line.contains("chmod(")).all(|line| line.contains("600)")), "{trace}");
        let last = |what: &str| trace.lines().collect::<Vec<_>>().iter().rposition(|line| line.contains(what));
        assert!(last("fsync(") > last("unlink(") && last("fsync(") > last("rename"), "{trace}");
    }
}

/// A file is on the disk before it has its name, and its name before the command ends.
///
/// Needs strace.
#[test]
fn a_conversion_syncs_its_file_before_the_name_and_the_folder_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().canonicalize().unwrap();
    write("safetensors", &at.join("in.safetensors"), &[tensor("w", DType::F32, &[2], vec![0; 8])], &Metadata::new(), None);
    fs::create_dir(at.join("out")).unwrap();
    for force in [&[][..], &["--force"]] {
        let Some(mut command) = strace() else { return };
        command.args(["-f", "-y", "-o", "trace", "-e", "trace=fsync,rename,renameat,renameat2,link,linkat", env!("CARGO_BIN_EXE_weigh")]);
        command.args(["convert", "in.safetensors", "out/out.gguf", "--keep-names"]).args(force);
        let status = command.current_dir(&at).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(status.success());
        let trace = fs::read_to_string(at.join("trace")).unwrap();
        let lines: Vec<_> = trace.lines().collect();
        let last = |what: &str| lines.iter().rposition(|line| line.contains(what)).unwrap_or_else(|| panic!("no {what} in {trace}"));
        let named = last("out.gguf\"");
        let file =
            lines.iter().position(|line| line.contains(&format!("<{}/.weigh-", at.join("out").display())) && line.contains("fsync("));
        assert!(file.is_some_and(|file| file < named), "{trace}");
        assert!(last(&format!("<{}>", at.join("out").display())) > named, "{trace}");
    }
}

/// Starts edits of one model at once: all of them arrive, one after the other.
///
/// The test holds the lock until each says that it waits, so that all have opened the model before the first one writes.
fn edits_at_once(rounds: u32) {
    let long = format!("general.author={}", "b".repeat(500));
    let added = "general.tags=string[]:[\"x\"]".to_owned();
    let fits = "general.author=bbbb".to_owned();
    for round in 0..rounds {
        let second = [&fits, &long, &added][round as usize % 3];
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let path = at.join("m.gguf");
        editable(&path);
        let hash = weigh_hash(&path);
        let gate = fs::File::open(&path).unwrap();
        gate.lock().unwrap();
        let start = |change: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_weigh"));
            command.args(["meta", "m.gguf", "set", change, "--in-place"]).current_dir(at);
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let mut children = ["general.name=bbbb", second, "general.version=string:1"].map(start);
        for child in &mut children {
            let mut line = String::new();
            BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
            assert!(line.contains("waiting for another edit"), "{line}");
        }
        drop(gate);
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        let reader = weigh::format::open(&path).unwrap();
        let value = |key: &str| reader.model().metadata.get(key).map(|value| format!("{value:?}"));
        let (key, wanted) = second.split_once('=').unwrap();
        assert_eq!((text(&path, "general.name").as_str(), text(&path, "general.version").as_str()), ("bbbb", "1"));
        assert!(value(key).is_some_and(|found| wanted.starts_with("string[]") || found.contains(wanted)), "{key}: {:?}", value(key));
        assert_eq!(weigh_hash(&path), hash);
        assert_eq!(names(at), ["m.gguf"]);
    }
}

#[test]
fn concurrent_edits_all_take_effect() {
    edits_at_once(3);
}

#[test]
#[ignore = "takes a while"]
fn a_hundred_edits_at_once() {
    edits_at_once(MANY);
}

/// Edits a model over and over while others read it: each reader sees one state of it, whole.
fn edits_beside_readers(count: u32) {
    const LENGTH: usize = 30_000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let text = |c: char, length: usize| Value::String(c.to_string().repeat(length));
    let mut metadata = Metadata::new();
    metadata.insert("first", text('a', LENGTH)).unwrap();
    metadata.insert("last", text('a', LENGTH)).unwrap();
    write("gguf", &path, &[tensor("w", DType::F32, &[1000], vec![1; 4000])], &metadata, None);
    let hash = weigh_hash(&path);
    let done = AtomicBool::new(false);
    let states = std::thread::scope(|scope| {
        let read = || {
            let mut seen = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                let reader = weigh::format::open(&path).unwrap();
                let [first, last] = ["first", "last"].map(|key| reader.model().metadata.get_str(key).unwrap().to_owned());
                assert!(first == last, "a mixture of two states");
                assert!(first.bytes().all(|byte| byte == first.as_bytes()[0]), "a mixture of two states");
                seen.insert((first.as_bytes()[0], first.len()));
            }
            seen
        };
        let readers = [scope.spawn(read), scope.spawn(read)];
        for round in 0..count {
            let c = char::from(b'b' + (round % 20) as u8);
            // Every eighth grows or shrinks the header.
            let length = LENGTH + 100 * (round as usize / 8 % 2);
            let change = |key: &str| Change::Set(key.to_owned(), Value::String(c.to_string().repeat(length)));
            edit(&path, &[change("first"), change("last")], &Destination::InPlace).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        readers.map(|reader| reader.join().unwrap().len()).iter().sum::<usize>()
    });
    assert_eq!(weigh_hash(&path), hash);
    println!("{states} states were seen in {count} edits");
}

#[test]
fn readers_during_edits_see_one_state_of_the_model() {
    edits_beside_readers(60);
}

#[test]
#[ignore = "takes a while"]
fn readers_beside_thousands_of_edits() {
    edits_beside_readers(5000);
}

#[test]
#[ignore = "waits for ten seconds"]
fn an_edit_does_not_wait_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    editable(&path);
    let other = fs::File::open(&path).unwrap();
    other.lock_shared().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_weigh"));
    let run = command.args(EDITS[0]).current_dir(folder.path()).output().unwrap();
    let said = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.code() == Some(2) && said.contains("waiting for") && said.contains("locked by another program"), "{said}");
    assert_eq!(text(&path, "general.name"), "aaaa");
}
