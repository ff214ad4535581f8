//! Options and output streams that cannot be used as given: an error that says so, never a silent guess.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const MODEL: &str = "fixtures/llama-tiny";

fn weigh(arguments: &[&str], out: impl Into<Stdio>) -> Output {
    let mut run = Command::new(env!("CARGO_BIN_EXE_weigh"));
    run.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).stdout(out).stderr(Stdio::piped());
    run.spawn().unwrap().wait_with_output().unwrap()
}

/// What an error says.
fn refused(arguments: &[&str]) -> String {
    let out = weigh(arguments, Stdio::piped());
    assert_eq!(out.status.code(), Some(2), "{arguments:?}");
    String::from_utf8(out.stderr).unwrap()
}

#[test]
fn limits_of_values_are_numbers() {
    for option in ["--threshold", "--outlier"] {
        for value in ["nan", "inf", "-1", "1e400"] {
            let error = refused(&["stats", MODEL, option, value]);
            assert!(error.contains("finite number, 0 or more"), "{option} {value}: {error}");
        }
    }
    assert!(refused(&["diff", MODEL, MODEL, "--tolerance", "nan"]).contains("finite number"));
}

#[test]
fn arguments_are_quoted_without_tricks() {
    for argument in ["--\u{2066}a\u{2069}", "\u{1b}[2J\u{202e}", "--threads=\u{9b}31m"] {
        let error = refused(&["ls", MODEL, argument]);
        assert!(!error.chars().any(|c| (c.is_control() && c != '\n') || "\u{2066}\u{2069}\u{202e}".contains(c)), "{error:?}");
    }
}

#[test]
fn a_missing_table_is_an_error_even_if_unused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (gguf, out) = (path("m.gguf"), path("n.gguf"));
    assert!(weigh(&["convert", MODEL, &gguf], Stdio::null()).status.success());
    for arguments in [["convert", &gguf, &out, "--type", "F16"], ["convert", MODEL, &out, "--keep-names", "--strict"]] {
        let error = refused(&[&arguments[..], &["--arch-table", &path("none.toml")]].concat());
        assert!(error.contains("none.toml: cannot open"), "{error}");
        assert!(!Path::new(&out).exists());
    }
}

#[test]
fn no_tensors_are_listed_where_none_are_asked_for() {
    let out = weigh(&["ls", MODEL, "--limit", "0"], Stdio::piped());
    assert_eq!((out.status.code(), String::from_utf8(out.stderr).unwrap().as_str()), (Some(0), ""));
    let error = String::from_utf8(weigh(&["ls", MODEL, "--filter", "nothing.*"], Stdio::piped()).stderr).unwrap();
    assert!(error.contains("no tensor matches 'nothing.*'"), "{error}");
}

#[test]
fn a_number_that_a_type_cannot_hold_does_not_become_infinite() {
    for value in ["f32:1e39", "f64:-1e400", "f32[]:[1, 1e39]"] {
        let error = refused(&["convert", MODEL, "/nonexistent/m.gguf", "--metadata", &format!("k={value}")]);
        assert!(error.contains("e+39") || error.contains("1e39") || error.contains("e400"), "{error}");
        assert!(error.contains("expected a number that f") || error.contains("expected a JSON list"), "{error}");
    }
}

#[test]
fn results_that_cannot_be_written_are_a_failure_of_every_command() {
    let full = || OpenOptions::new().write(true).open("/dev/full");
    let Ok(_) = full() else { return };
    for arguments in [&["help"][..], &["--version"], &["--help"], &["help", "ls"], &["man"], &["types"], &["completions", "bash"]] {
        let out = weigh(arguments, full().unwrap());
        let error = String::from_utf8(out.stderr).unwrap();
        assert_eq!((out.status.code(), error.lines().count()), (Some(2), 1), "{arguments:?}: {error}");
        assert!(error.starts_with("weigh: cannot write the output: "), "{arguments:?}: {error}");
    }
}

#[test]
fn finished_work_stays_if_its_report_cannot_be_written() {
    let Ok(full) = OpenOptions::new().write(true).open("/dev/full") else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.gguf");
    let said = weigh(&["convert", MODEL, out.to_str().unwrap()], full);
    let error = String::from_utf8(said.stderr).unwrap();
    assert_eq!(said.status.code(), Some(2));
    assert!(error.contains("m.gguf: the work is done, but its report could not be written"), "{error}");
    assert!(weigh(&["verify", out.to_str().unwrap()], Stdio::null()).status.success());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn options_may_stand_between_the_paths_of_a_conversion() {
    let out = weigh(&["convert", MODEL, "--type", "F16", "absent.gguf", "--dry-run"], Stdio::piped());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(refused(&["convert", MODEL]).contains("<OUT>..."));
}

#[test]
fn layers_that_predict_further_tokens_are_told_apart_where_there_are_any() {
    let convert = |input: &str, options: &[&str]| refused(&[&["convert", input, "never.gguf", "--dry-run"], options].concat());
    for option in ["--mtp", "--no-mtp"] {
        let error = convert(MODEL, &[option]);
        assert!(error.contains("the multi-token prediction layers of llama cannot be selected"), "{option}: {error}");
        let error = convert("fixtures/llama-tiny-q8_0.gguf", &[option]);
        assert!(error.contains("in conversions from a Hugging Face model to GGUF"), "{option}: {error}");
    }
    assert!(convert(MODEL, &["--mtp", "--no-mtp"]).contains("cannot be used with"));
}
