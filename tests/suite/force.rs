//! What `convert --force` replaces and removes: what the plan names, never an input, nothing else.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value as Json;
use weigh::DType;
use weigh::model::{Metadata, Value};

use crate::build::{tensor, write};

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn weigh(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weigh")).args(args).current_dir(folder).output().unwrap()
}

/// A model of four tensors of 4 kB.
fn model(path: &Path, shard_bytes: Option<u64>) {
    let tensors: Vec<_> = (0..4).map(|i| tensor(&format!("w{i}"), DType::F32, &[1024], vec![i; 4096])).collect();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let format = if path.extension().unwrap() == "gguf" { "gguf" } else { "safetensors" };
    write(format, path, &tensors, &Metadata::new(), shard_bytes);
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs a conversion dry and for real; gives the files that either says go, which must be the same.
fn removed(folder: &Path, args: &[&str]) -> Vec<String> {
    let list = |more: &[&str]| -> Vec<String> {
        let run = weigh(folder, &[&["convert"], args, &["--keep-names", "--force", "--json"], more].concat());
        assert!(run.status.success(), "{}", text(&run.stderr));
        let report: Json = serde_json::from_slice(&run.stdout).unwrap();
        report["removed"].as_array().unwrap().iter().map(|path| path.as_str().unwrap().to_owned()).collect()
    };
    let before = names(folder);
    let planned = list(&["--dry-run"]);
    assert_eq!(names(folder), before);
    assert!(planned.iter().all(|path| folder.join(path).exists()));
    assert_eq!(list(&[]), planned);
    assert!(planned.iter().all(|path| fs::symlink_metadata(folder.join(path)).is_err()));
    planned
}

/// Refuses the conversion, dry and for real, and changes nothing in `folder`.
fn refused(folder: &Path, args: &[&str]) {
    let all = || -> Vec<_> { names(folder).into_iter().filter_map(|name| Some((fs::read(folder.join(&name)).ok()?, name))).collect() };
    let before = all();
    for more in [&["--dry-run"][..], &[]] {
        let run = weigh(folder, &[&["convert"], args, &["--keep-names", "--force"], more].concat());
        let said = text(&run.stderr);
        assert_eq!(run.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains("is also an input") || said.contains("the output folder is the folder of the input"), "{args:?}: {said}");
        assert_eq!(all(), before, "{args:?}");
    }
}

const OTHERS: [&str; 6] = [
    "model_backup.safetensors",
    "model.fp16.safetensors",
    "modelcard-weights.safetensors",
    "model.bak",
    "model-lora.safetensors",
    "a-00001-of-00002.safetensors",
];

#[test]
fn only_files_of_the_same_set_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    model(&at.join("in.safetensors"), None);
    model(&at.join("out/model.safetensors"), Some(4096));
    // One more that the index lists, one with numbers that it does not, and what it may not name.
    let index = at.join("out/model.safetensors.index.json");
    let mut parsed: Json = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    for (name, file) in [
        ("x", "extra.safetensors"),
        ("y", "../in.safetensors"),
        ("z", "sub/w.safetensors"),
        ("v", "config.json"),
        ("u", "gone.safetensors"),
    ] {
        parsed["weight_map"][name] = file.into();
    }
    fs::write(&index, parsed.to_string()).unwrap();
    fs::create_dir(at.join("out/sub")).unwrap();
    for name in ["extra.safetensors", "model-00001-of-00009.safetensors", "sub/w.safetensors", "config.json"].iter().chain(&OTHERS) {
        fs::write(at.join("out").join(name), "x").unwrap();
    }
    let gone = removed(at, &["in.safetensors", "out"]);
    let parts = (1..=4).map(|no| format!("out/model-{no:05}-of-00004.safetensors"));
    let mut wanted: Vec<String> = parts.chain(["out/extra.safetensors".into(), "out/model-00001-of-00009.safetensors".into()]).collect();
    wanted.sort();
    wanted.push("out/model.safetensors.index.json".into());
    assert_eq!(gone, wanted, "the index last");
    let mut left: Vec<_> =
        OTHERS.iter().map(|name| (*name).to_owned()).chain(["config.json", "model.safetensors", "sub"].map(str::to_owned)).collect();
    left.sort();
    assert_eq!(names(&at.join("out")), left);
    assert!(at.join("out/sub/w.safetensors").exists() && at.join("in.safetensors").exists());
    // The other way: what was one file becomes several.
    assert_eq!(removed(at, &["in.safetensors", "out", "--shard-size", "9kB"]), ["out/model.safetensors"]);
    // The same once more replaces each by its name.
    assert!(removed(at, &["in.safetensors", "out", "--shard-size", "9kB", "--type", "BF16"]).len() <= 3);
    assert!(OTHERS.iter().all(|name| at.join("out").join(name).exists()));
}

#[test]
fn removed_files_are_listed_for_people() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    model(&at.join("in.safetensors"), None);
    model(&at.join("out/model.safetensors"), Some(4096));
    let args = ["convert", "in.safetensors", "out", "--keep-names", "--force"];
    let dry = text(&weigh(at, &[&args[..], &["--dry-run"]].concat()).stdout);
    let done = text(&weigh(at, &args).stdout);
    for (said, title) in [(dry, "Stale files that would be removed"), (done, "Stale files removed")] {
        assert!(said.contains(title) && said.contains("out/model-00003-of-00004.safetensors") && said.contains("index.json"), "{said}");
    }
}

#[test]
fn a_single_file_replaces_a_set_of_the_same_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    model(&at.join("in.safetensors"), None);
    model(&at.join("m.safetensors"), Some(9000));
    model(&at.join("other.safetensors"), Some(9000));
    let wanted = ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors", "m.safetensors.index.json"];
    assert_eq!(removed(at, &["in.safetensors", "m.safetensors"]), wanted);
    assert!(at.join("other.safetensors.index.json").exists() && at.join("other-00002-of-00002.safetensors").exists());
    // Nobody who opens m.gguf looks for files with numbers; who opens one of those needs all of them, of one count.
    model(&at.join("m.gguf"), Some(9000));
    assert!(removed(at, &["in.safetensors", "m.gguf"]).is_empty());
    let split = removed(at, &["in.safetensors", "m.gguf", "--shard-size", "5kB"]);
    assert_eq!(split, ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "m.gguf"]);
}

#[test]
fn without_force_nothing_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    model(&at.join("in.safetensors"), None);
    model(&at.join("m.safetensors"), Some(9000));
    assert!(weigh(at, &["convert", "in.safetensors", "m.safetensors", "--keep-names"]).status.success());
    assert_eq!(names(at).len(), 5, "{:?}", names(at));
}

#[test]
fn an_input_is_neither_replaced_nor_removed() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    // A folder of links to shards that lie where the output goes; hard links.
    model(&at.join("real/model.safetensors"), Some(4096));
    model(&at.join("one.safetensors"), None);
    for (name, hard) in [("soft", false), ("hard", true)] {
        fs::create_dir(at.join(name)).unwrap();
        for file in names(&at.join("real")) {
            let (from, to) = (at.join("real").join(&file), at.join(name).join(&file));
            if hard { fs::hard_link(from, to).unwrap() } else { std::os::unix::fs::symlink(from, to).unwrap() }
        }
        if !hard {
            fs::remove_file(at.join("soft/model.safetensors.index.json")).unwrap(); // its shards must not be links out of its folder
        }
        refused(&at.join("real"), &[&format!("../{name}"), "."]);
        refused(&at.join("real"), &[&format!("../{name}"), ".", "--shard-size", "4kB"]);
        refused(&at.join("real"), &[&format!("../{name}"), "model.safetensors", "--shard-size", "9kB"]);
    }
    // The index that the shards were found by.
    refused(&at.join("real"), &["model-00001-of-00004.safetensors", "model.safetensors", "--shard-size", "9kB"]);
    std::os::unix::fs::symlink("real", at.join("link")).unwrap();
    refused(&at.join("real"), &["../link", "."]);
}

#[test]
fn a_folder_mounted_twice_is_the_same_folder() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    model(&at.join("in/model.safetensors"), Some(4096));
    fs::create_dir(at.join("b")).unwrap();
    let before = names(&at.join("in"));
    let script = "unshare -rm true 2>/dev/null || exit 77
        exec unshare -rm sh -c 'mount --bind in b && \"$0\" convert in b/ --force --keep-names --type F16' \"$0\"";
    let run = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_weigh")]).current_dir(at).output().unwrap();
    if run.status.code() != Some(77) {
        assert_eq!(run.status.code(), Some(2), "{}", text(&run.stderr));
        assert!(text(&run.stderr).contains("the output folder is the folder of the input"));
    }
    assert_eq!(names(&at.join("in")), before);
}

#[test]
fn companion_files_are_inputs_too() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    for (from, to) in [("llama-tiny", "hf"), ("lora/base", "base"), ("lora/adapter", "adapter")] {
        fs::create_dir(at.join(to)).unwrap();
        for name in names(&fixtures.join(from)) {
            fs::copy(fixtures.join(from).join(&name), at.join(to).join(name)).unwrap();
        }
    }
    // Config, tokenizer and card under the names of outputs.
    for name in ["config.json", "tokenizer.json", "README.md"] {
        fs::hard_link(at.join("hf").join(name), at.join("out.gguf")).unwrap();
        let run = weigh(at, &["convert", "hf", "out.gguf", "--force"]);
        assert!(run.status.code() == Some(2) && text(&run.stderr).contains(name), "{}", text(&run.stderr));
        assert_eq!(fs::read(at.join("out.gguf")).unwrap(), fs::read(at.join("hf").join(name)).unwrap());
        fs::remove_file(at.join("out.gguf")).unwrap();
    }
    for out in ["adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter/"] {
        let run = weigh(at, &["convert", "base", "adapter", out, "--force", "--to", "safetensors"]);
        let taken = out == "adapter/"; // its own config.json and model.safetensors, beside the adapter's files
        assert_eq!(run.status.success(), taken, "{out}: {}", text(&run.stderr));
        for name in ["adapter_model.safetensors", "adapter_config.json"] {
            assert_eq!(fs::read(at.join("adapter").join(name)).unwrap(), fs::read(fixtures.join("lora/adapter").join(name)).unwrap());
        }
    }
    // An importance matrix, and a table.
    model(&at.join("in.safetensors"), None);
    let mut matrix = Metadata::new();
    matrix.insert("general.type", Value::String("imatrix".into())).unwrap();
    let entry = |name: &str| tensor(name, DType::F32, &[1, 4], vec![0; 16]);
    write(
        "gguf",
        &at.join("matrix.gguf"),
        &[entry("a.in_sum2"), tensor("a.counts", DType::F32, &[1, 1], 1f32.to_le_bytes().to_vec())],
        &matrix,
        None,
    );
    fs::write(at.join("table.gguf"), "").unwrap();
    for (option, file) in [("--imatrix", "matrix.gguf"), ("--arch-table", "table.gguf")] {
        let before = fs::read(at.join(file)).unwrap();
        let run = weigh(at, &["convert", "in.safetensors", file, "--force", "--keep-names", option, file]);
        assert!(run.status.code() == Some(2) && text(&run.stderr).contains("is also an input"), "{}", text(&run.stderr));
        assert_eq!(fs::read(at.join(file)).unwrap(), before);
    }
}

#[test]
fn the_base_that_an_adapter_names_is_an_input() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lora");
    for (from, to) in [("base", "base"), ("for-gguf", "adapter")] {
        fs::create_dir(at.join(to)).unwrap();
        for name in names(&fixtures.join(from)) {
            fs::copy(fixtures.join(from).join(&name), at.join(to).join(name)).unwrap();
        }
    }
    let adapter = at.join("adapter/adapter_config.json");
    let config = fs::read_to_string(&adapter).unwrap();
    assert!(config.contains("tiny/base"));
    fs::write(&adapter, config.replace("tiny/base", "base")).unwrap();
    let read = fs::read(at.join("base/config.json")).unwrap();
    for more in [&["--dry-run"][..], &[]] {
        let run = weigh(at, &[&["convert", "adapter", "base/config.json", "--to", "gguf", "--force"], more].concat());
        assert!(run.status.code() == Some(2) && text(&run.stderr).contains("is also an input"), "{}", text(&run.stderr));
        assert_eq!(fs::read(at.join("base/config.json")).unwrap(), read);
    }
    assert!(weigh(at, &["convert", "adapter", "out.gguf"]).status.success(), "the base is found by its name");
}

/// A folder of sentence-transformers: a transformer in `inner`, and a dense layer beside it.
fn sentence_transformers(path: &Path, inner: &str) {
    model(&path.join(inner).join("model.safetensors"), None);
    let dense = tensor("linear.weight", DType::F32, &[4, 4], vec![0; 64]);
    fs::create_dir(path.join("2_Dense")).unwrap();
    write("safetensors", &path.join("2_Dense/model.safetensors"), &[dense], &Metadata::new(), None);
    let list = serde_json::json!([{ "path": inner, "type": "a.Transformer" }, { "path": "2_Dense", "type": "a.Dense" }]);
    fs::write(path.join("modules.json"), list.to_string()).unwrap();
}

#[test]
fn modules_of_an_older_model_are_not_joined_to_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    model(&at.join("in.safetensors"), None);
    sentence_transformers(&at.join("out"), "");
    let tensors = |path: &str| weigh::format::open(&at.join(path)).unwrap().model().tensors.len();
    assert_eq!(tensors("out"), 5, "four of the transformer, one of the dense layer");
    // A file is what it is named: the list is that of the folder.
    assert!(removed(at, &["in.safetensors", "out/model.safetensors"]).is_empty());
    assert_eq!(tensors("out"), 5);
    assert_eq!(removed(at, &["in.safetensors", "out"]), ["out/modules.json"]);
    assert_eq!((tensors("out"), names(&at.join("out"))), (4, vec!["2_Dense".to_owned(), "model.safetensors".to_owned()]));
    // A new list replaces the old one.
    sentence_transformers(&at.join("modules"), "");
    fs::write(at.join("modules/config.json"), "{}").unwrap();
    assert!(removed(at, &["modules", "out"]).is_empty());
    assert!(removed(at, &["modules", "out"]).is_empty());
    assert_eq!(tensors("out"), 5);
    // Shards of the older model: the index leaves first.
    model(&at.join("out/model.safetensors"), Some(9000));
    let gone = removed(at, &["in.safetensors", "out"]);
    assert_eq!((gone[0].as_str(), gone[3].as_str()), ("out/modules.json", "out/model.safetensors.index.json"), "{gone:?}");
    // The list in the folder above the transformer is read with it.
    sentence_transformers(&at.join("whole"), "0_Transformer");
    refused(&at.join("whole"), &["0_Transformer", "."]);
}

#[test]
fn licences_are_copied_from_folder_to_folder() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    model(&at.join("in/model.safetensors"), None);
    for name in ["LICENSE", "NOTICE", "config.json", "README.md", "LICENSE.bak", ".hidden.json"] {
        fs::write(at.join("in").join(name), if name == "config.json" { "{}" } else { name }).unwrap();
    }
    assert!(weigh(at, &["convert", "in", "out/", "--keep-names"]).status.success());
    assert_eq!(names(&at.join("out")), ["LICENSE", "NOTICE", "README.md", "config.json", "model.safetensors"]);
    assert_eq!(fs::read(at.join("out/LICENSE")).unwrap(), b"LICENSE");
}
