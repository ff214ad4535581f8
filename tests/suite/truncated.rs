//! Files that are cut short, and sets of which files are missing: half of a download.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use weigh::DType;
use weigh::base::finding::{Finding, Severity};
use weigh::model::Metadata;
use weigh::ops::verify::{Options, verify};

use crate::build::{tensor, write};

fn weigh(args: &[&str], path: &Path) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_weigh")).args(args).arg(path).env("NO_COLOR", "1").env("COLUMNS", "200").output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn findings(path: &Path) -> Vec<Finding> {
    verify(path, &Options { data: true, ..Options::default() }).unwrap().findings
}

/// A model of ten tensors of 1000 bytes, in one file or in three.
fn model(format: &str, split: bool) -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let name = format!("model.{format}");
    let tensors: Vec<_> = (0..10).map(|i| tensor(&format!("t{i}"), DType::I8, &[1000], vec![i + 1; 1000])).collect();
    let files = write(format, &folder.path().join(name), &tensors, &Metadata::new(), split.then_some(4000));
    (folder, files)
}

fn cut(path: &Path, len: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

#[test]
fn a_truncated_file_is_one_finding() {
    for format in ["safetensors", "gguf"] {
        let (_folder, files) = model(format, false);
        let start = weigh::format::open(&files[0]).unwrap().model().tensors[0].offset_bytes;
        // Past the middle of t4: it and the five after it are not whole.
        let len = start + 4 * if format == "gguf" { 1024 } else { 1000 } + 500;
        let whole = start + if format == "gguf" { 9 * 1024 + 1000 } else { 10_000 };
        cut(&files[0], len);
        let found = findings(&files[0]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].severity, found[0].offset), (Severity::Error, Some(len)));
        assert_eq!(found[0].code, if format == "gguf" { "gguf-truncated" } else { "st-truncated" });
        assert_eq!(found[0].tensors, ["t4", "t5", "t6", "t7", "t8", "t9"]);
        let missing = format!("{:.1} kB of {:.1} kB are missing: 6 of 10 tensors", (whole - len) as f64 / 1e3, whole as f64 / 1e3);
        assert_eq!(found[0].message, missing);
        assert_eq!(found[0].hints, ["was the download complete?".into()]);
        // Opening for values refuses with the same words.
        let error = weigh::format::open(&files[0]).unwrap_err();
        assert!(missing.starts_with(error.message()), "{error}");
        assert_eq!(error.hint_text().as_deref(), Some("was the download complete?"));
    }
}

#[test]
fn a_truncated_part_is_one_finding_of_its_own() {
    for format in ["safetensors", "gguf"] {
        let (_folder, files) = model(format, true);
        let second = &files[1];
        cut(second, fs::metadata(second).unwrap().len() - 1500);
        let found = findings(&files[0]);
        assert_eq!(found.len(), 1, "{format}: {found:?}");
        assert_eq!((found[0].file.as_deref(), found[0].tensors.len()), (Some(second.as_path()), 2), "{format}");
        assert!(found[0].message.ends_with("2 of 4 tensors") || found[0].message.ends_with("2 of 3 tensors"), "{found:?}");
    }
}

#[test]
fn a_truncated_header_suggests_an_incomplete_download() {
    for (format, lens) in [("gguf", [6, 20, 30, 60]), ("safetensors", [5, 9, 20, 100])] {
        for len in lens {
            let (_folder, files) = model(format, false);
            cut(&files[0], len);
            let found = findings(&files[0]);
            assert_eq!(found.len(), 1, "{format} {len}: {found:?}");
            assert_eq!(found[0].hints, ["was the download complete?".into()], "{format} {len}: {found:?}");
            let (status, _, stderr) = weigh(&["ls"], &files[0]);
            assert_eq!(status, Some(2));
            assert!(stderr.contains("hint: was the download complete?"), "{format} {len}: {stderr}");
        }
    }
    // What has no name that tells its format.
    let (folder, files) = model("safetensors", false);
    let part = folder.path().join("model.safetensors.part");
    fs::rename(&files[0], &part).unwrap();
    cut(&part, 100);
    assert_eq!(findings(&part)[0].code, "st-header-length");
}

#[test]
fn headers_of_a_half_download_are_shown_and_values_are_refused() {
    for format in ["safetensors", "gguf"] {
        let (_folder, files) = model(format, false);
        cut(&files[0], fs::metadata(&files[0]).unwrap().len() - 5000);
        for command in ["info", "ls", "count", "meta"] {
            let (status, stdout, stderr) = weigh(&[command], &files[0]);
            assert_eq!(status, Some(1), "{command}: {stderr}");
            assert!(!stdout.is_empty(), "{command}");
            assert!(stderr.contains("are missing: ") && stderr.contains(" of 10 tensors"), "{command}: {stderr}");
        }
        assert!(weigh(&["ls"], &files[0]).1.contains("t9"));
        for command in ["stats", "hash"] {
            let (status, _, stderr) = weigh(&[command], &files[0]);
            assert_eq!(status, Some(2), "{command}");
            assert!(stderr.contains("are missing"), "{command}: {stderr}");
        }
        let (status, stdout, _) = weigh(&["verify"], &files[0]);
        assert_eq!(status, Some(1));
        assert!(
            stdout.contains(
                "not sound: 1 error: structure of 10 tensors in 1 file; values not read (--data reads them); no digest to compare with"
            ),
            "{stdout}"
        );
    }
}

#[test]
fn a_shard_without_its_siblings_says_so_everywhere() {
    for (format, index) in [("safetensors", false), ("safetensors", true), ("gguf", false)] {
        let (folder, files) = model(format, true);
        if !index && format == "safetensors" {
            fs::remove_file(folder.path().join("model.safetensors.index.json")).unwrap();
        }
        let parts: Vec<_> = files.iter().filter(|file| file.extension().is_some_and(|end| end == format)).collect();
        assert_eq!(parts.len(), 3);
        fs::remove_file(parts[1]).unwrap();
        fs::remove_file(parts[2]).unwrap();
        let told = "1 of 3 files of the model is present; missing: model-00002-of-00003";
        for command in ["info", "ls", "count", "meta"] {
            let (status, _, stderr) = weigh(&[command], parts[0]);
            assert_eq!(status, Some(0), "{command}: {stderr}");
            assert!(stderr.contains(told), "{format} {command}: {stderr}");
        }
        for command in ["stats", "hash"] {
            let (status, _, stderr) = weigh(&[command], parts[0]);
            assert_eq!(status, Some(if format == "gguf" || index { 2 } else { 0 }), "{format} {command}: {stderr}");
            assert!(stderr.contains(told), "{format} {command}: {stderr}");
        }
        let (_, stdout, _) = weigh(&["count"], parts[0]);
        assert!(stdout.contains("parameters in the files present"), "{stdout}");
        let count: serde_json::Value = serde_json::from_str(&weigh(&["count", "--json"], parts[0]).1).unwrap();
        assert!(count["incomplete"].as_str().unwrap().contains(told));
        let found = findings(parts[0]);
        assert_eq!(found.len(), 1, "{format}: {found:?}");
        assert_eq!(found[0].severity, Severity::Error);
        assert!(found[0].message.contains(told));
        assert_eq!(weigh(&["verify"], parts[0]).0, Some(1));
    }
}

#[test]
fn the_codes_are_listed() {
    let command = Command::new(env!("CARGO_BIN_EXE_weigh")).args(["verify", "--codes", "--json"]).output().unwrap();
    let found: serde_json::Value = serde_json::from_slice(&command.stdout).unwrap();
    let codes = found["codes"].as_array().unwrap();
    assert_eq!(codes.len(), weigh::format::codes::CODES.len());
    assert!(
        codes.iter().any(|row| row["code"] == "gguf-key-missing"
            && row["severity"] == "error"
            && row["rule"].as_str().unwrap().contains("llama.cpp"))
    );
}

#[test]
fn the_first_files_of_a_folder_are_shown() {
    let (folder, files) = model("safetensors", true);
    fs::remove_file(&files[2]).unwrap();
    let (status, stdout, stderr) = weigh(&["ls"], folder.path());
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stderr.contains("2 of 3 files of the model are present; missing: model-00003-of-00003.safetensors"), "{stderr}");
    assert!(stdout.contains("t0") && !stdout.contains("t9"));
}
