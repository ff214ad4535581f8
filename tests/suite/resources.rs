//! Memory and work are linear in the file, whatever it says; and where the system gives less than it might, weigh makes do.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::build::{Gguf, safetensors};

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
fn fewer_threads_do_if_some_cannot_be_started() {
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
fn no_more_threads_are_started_than_are_useful() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("m.gguf"), tensors(2, |i| i.to_string())).unwrap();
    let run = |more: &[&str]| Command::new(WEIGH).args(["stats", "m.gguf"]).args(more).current_dir(folder.path()).output().unwrap();
    let (few, many) = (run(&[]), run(&["--threads", "100000"]));
    assert_eq!((few.stdout, Some(0)), (many.stdout, many.status.code()));
    assert_eq!(String::from_utf8_lossy(&many.stderr), "weigh: 256 threads instead of 100000: more would not help\n");
    assert!(run(&["--threads", "100000", "--quiet"]).stderr.is_empty());
}

#[test]
fn a_table_of_many_rows_and_deep_short_names_is_read_in_linear_work() {
    let folder = tempfile::tempdir().unwrap();
    // Comparing each row with every other would take hours.
    let rows: String = (0..100_000).map(|i| format!("[[keys]]\ngguf = 'k{i}'\nhf = 'k{i}'\n")).collect();
    let names = "let = { layers = 'a', a = 'b+b+b+b+b+b+b+b', b = 'a+a+a+a+a+a+a+a+c+c+c', c = 'a+b+c+c+c+c' }\n";
    let table = format!("name = 'x'\nextends = 'llama'\ngguf = 'llama'\nclasses = ['LlamaForCausalLM']\n{names}{rows}");
    fs::write(folder.path().join("t.toml"), table).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/llama-tiny");
    let out = within(8192, folder.path(), &["convert", model.to_str().unwrap(), "m.gguf", "--arch-table", "t.toml"]);
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(2) && error.contains("hyperparameters needed for layers"), "{error}");
}

#[test]
fn errors_are_short_whatever_they_quote() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let long = "x".repeat(1 << 20);
    fs::write(path("line.toml"), format!("name = {long}")).unwrap();
    fs::write(
        path("expression.toml"),
        format!(
            "name = 'x'\nextends = 'llama'\nclasses = ['LlamaForCausalLM']\nlet.layers = '1'\n[[keys]]\ngguf = 'k'\nvalue = '{long} $'"
        ),
    )
    .unwrap();
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

#[test]
fn a_long_array_is_shown_in_full_in_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = Gguf::default();
    let array = gguf.array(0, 4 << 20, &vec![200; 4 << 20]);
    fs::write(folder.path().join("m.gguf"), gguf.key("x", 9, array).build()).unwrap();
    // Values one by one took 300 MB and more.
    for (megabytes, more) in [(100, "json"), (160, "ndjson"), (210, "table"), (210, "csv"), (210, "markdown")] {
        let run = format!("ulimit -v {}; \"$0\" meta m.gguf --full --format {more} | wc -c", megabytes << 10);
        let out = Command::new("sh").args(["-c", &run, WEIGH]).current_dir(folder.path()).output().unwrap();
        let bytes: u64 = String::from_utf8(out.stdout).unwrap().trim().parse().unwrap();
        assert!(bytes > 16 << 20, "{more}: {bytes} bytes, {}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn many_tensors_are_measured_in_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    // 2.6 kB each, and as much for what is worth saying of each, were more than 260 MB.
    fs::write(folder.path().join("m.gguf"), tensors(50_000, |i| i.to_string())).unwrap();
    let out = fits(200, folder.path(), &["stats", "m.gguf", "--threads", "1"]);
    assert_eq!(out.stdout.iter().filter(|byte| **byte == b'\n').count(), 100_007);
}

#[test]
fn more_shards_than_files_may_be_open_are_read() {
    const SHARDS: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    let name = |i: usize| format!("model-{i:05}-of-{SHARDS:05}.safetensors");
    for i in 1..=SHARDS {
        let header = format!(r#"{{"t{i}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#);
        fs::write(folder.path().join(name(i)), safetensors(&header, &[1])).unwrap();
    }
    let map: serde_json::Map<_, _> = (1..=SHARDS).map(|i| (format!("t{i}"), name(i).into())).collect();
    fs::write(folder.path().join("model.safetensors.index.json"), serde_json::json!({ "weight_map": map }).to_string()).unwrap();
    let script = "ulimit -n 64; exec \"$0\" count . --json";
    let run = Command::new("sh").args(["-c", script, WEIGH]).current_dir(folder.path()).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn names_that_look_alike_keep_their_own_hashes() {
    let folder = tempfile::tempdir().unwrap();
    let header = r#"{"a\nb":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a\\nb":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
    fs::write(folder.path().join("m.safetensors"), safetensors(header, &[1, 2])).unwrap();
    let run = |arguments: &[&str]| Command::new(WEIGH).args(arguments).current_dir(folder.path()).output().unwrap();
    let manifest = String::from_utf8(run(&["hash", "m.safetensors"]).stdout).unwrap();
    let names: Vec<&str> = manifest.lines().filter_map(|line| line.rsplit("  ").next()).collect();
    assert_eq!(names, [r"m.safetensors:a\nb", r"m.safetensors:a\\nb", "m.safetensors"]);
    fs::write(folder.path().join("manifest"), &manifest).unwrap();
    assert!(run(&["hash", "m.safetensors", "--check", "manifest"]).status.success());
}
