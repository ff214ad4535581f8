//! Memory and work are linear in the file, whatever it says; and where the system gives less than it might, weigh makes do.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::build::Gguf;

const WEIGH: &str = env!("CARGO_BIN_EXE_weigh");

/// Runs weigh in a folder with at most so many megabytes of address space.
fn within(megabytes: u64, folder: &Path, arguments: &[&str]) -> Output {
    let script = format!("ulimit -v {}; exec \"$0\" \"$@\"", megabytes << 10);
    let mut run = Command::new("sh");
    run.args(["-c", &script, WEIGH]).args(arguments).current_dir(folder).output().unwrap()
}

/// Runs weigh so, and expects it to succeed.
fn fits(megabytes: u64, folder: &Path, arguments: &[&str]) -> Output {
    let out = within(megabytes, folder, arguments);
    assert!(out.status.success(), "{arguments:?}: {:?} {}", out.status, String::from_utf8_lossy(&out.stderr));
    out
}

/// A GGUF of so many tensors of one value.
fn tensors(count: usize, name: impl Fn(usize) -> String) -> Vec<u8> {
    (0..count).fold(Gguf::default().key_str("general.architecture", "x"), |gguf, i| gguf.f32(&name(i), &[1])).build()
}

#[test]
fn a_report_of_many_layers_is_small() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("m.gguf"), tensors(20_000, |i| format!("blk.{i}.k{i}.weight"))).unwrap();
    // Kinds times layers were 6 GB.
    let page = fits(1024, folder.path(), &["report", "m.gguf"]).stdout;
    let page = String::from_utf8(page).unwrap();
    assert!(page.contains("Only the first 512 of 20,000 layers are shown") && page.contains("Only the first 200 of 20,000 kinds"));
}

#[test]
fn threads_that_cannot_be_started_are_done_without() {
    let folder = tempfile::tempdir().unwrap();
    let small = Gguf::default().key_str("general.architecture", "x").f32("a", &[64]).f32("b", &[3]).build();
    fs::write(folder.path().join("m.gguf"), small).unwrap();
    // A stack takes 2 MB: 200 do not fit.
    let commands: [&[&str]; 7] = [
        &["stats", "m.gguf"],
        &["hash", "m.gguf"],
        &["diff", "m.gguf", "m.gguf"],
        &["report", "m.gguf"],
        &["hist", "m.gguf", "a"],
        &["verify", "--data", "m.gguf"],
        &["convert", "m.gguf", "out.gguf", "--force", "--type", "f16"],
    ];
    for command in commands {
        let out = fits(400, folder.path(), &[command, &["--threads", "200"]].concat());
        assert!(String::from_utf8_lossy(&out.stderr).contains("of 200 threads could be started"), "{command:?}: {out:?}");
    }
}

#[test]
fn no_more_threads_are_started_than_help() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("m.gguf"), tensors(2, |i| i.to_string())).unwrap();
    let run = |more: &[&str]| Command::new(WEIGH).args(["stats", "m.gguf"]).args(more).current_dir(folder.path()).output().unwrap();
    let (few, many) = (run(&[]), run(&["--threads", "100000"]));
    assert_eq!((few.stdout, Some(0)), (many.stdout, many.status.code()));
    assert_eq!(String::from_utf8_lossy(&many.stderr), "weigh: 256 threads instead of 100000: more do not help\n");
    assert!(run(&["--threads", "100000", "--quiet"]).stderr.is_empty());
}
