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

#[test]
fn a_table_of_many_rows_and_deep_short_names_is_read_in_linear_work() {
    let folder = tempfile::tempdir().unwrap();
    // Comparing each row with every other would take hours.
    let rows: String = (0..400_000).map(|i| format!("[[keys]]\ngguf = 'k{i}'\nhf = 'k{i}'\n")).collect();
    let names = "let = { layers = 'a', a = 'b+b+b+b+b+b+b+b', b = 'a+a+a+a+a+a+a+a+c+c+c', c = 'a+b+c+c+c+c' }\n";
    let table = format!("name = 'x'\nextends = 'llama'\ngguf = 'llama'\nclasses = ['LlamaForCausalLM']\n{names}{rows}");
    fs::write(folder.path().join("t.toml"), table).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/llama-tiny");
    let out = within(8192, folder.path(), &["convert", model.to_str().unwrap(), "m.gguf", "--arch-table", "t.toml"]);
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(2) && error.contains("expected hyperparameters that give layers"), "{error}");
}

#[test]
fn errors_are_short_whatever_they_quote() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let long = "x".repeat(1 << 20);
    fs::write(path("line.toml"), format!("name = {long}")).unwrap();
    fs::write(path("expression.toml"), format!("name = 'x'\nextends = 'llama'\nclasses = ['LlamaForCausalLM']\nlet.layers = '1'\n[[keys]]\ngguf = 'k'\nvalue = '{long} $'")).unwrap();
    fs::write(path("extends.toml"), format!("extends = '{long}'")).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/llama-tiny");
    for table in ["line.toml", "expression.toml", "extends.toml"] {
        let out = within(4096, folder.path(), &["convert", model.to_str().unwrap(), "m.gguf", "--arch-table", table]);
        assert_eq!(out.status.code(), Some(2), "{table}");
        assert!(out.stderr.len() < 1500, "{table}: {} bytes", out.stderr.len());
    }
    for entry in fs::read_dir(&model).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), path(entry.file_name().to_str().unwrap())).unwrap();
    }
    let text = fs::read_to_string(path("tokenizer.json")).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&text).unwrap();
    tokenizer["pre_tokenizer"] = serde_json::json!({"type": "Split", "pattern": {"Regex": long}, "behavior": "Isolated", "invert": false});
    fs::write(path("tokenizer.json"), tokenizer.to_string()).unwrap();
    let out = within(4096, folder.path(), &["convert", ".", "m.gguf"]);
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(2) && error.contains("pre-tokenizer") && error.len() < 1500, "{} bytes: {error:.300}", error.len());
}
