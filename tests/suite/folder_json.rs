//! The JSON beside the weights: with a byte order mark, with Python's constants, and broken.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const CONFIG: &str = "config.json";

fn weigh(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weigh")).args(args).output().unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A copy of a fixture's folder, each file changed by `change`.
fn copy(of: &str, into: &Path, change: impl Fn(&str, Vec<u8>) -> Vec<u8>) -> PathBuf {
    let folder = into.join("llama");
    fs::create_dir_all(&folder).unwrap();
    for entry in fs::read_dir(fixture(of)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        fs::write(folder.join(name), change(name, fs::read(&path).unwrap())).unwrap();
    }
    folder
}

fn with_config(into: &Path, config: &str) -> PathBuf {
    copy("llama-tiny", into, |name, bytes| if name == CONFIG { config.as_bytes().to_vec() } else { bytes })
}

fn config() -> String {
    fs::read_to_string(fixture("llama-tiny").join(CONFIG)).unwrap()
}

/// `rest` in front of the closing brace of the config.
fn with_end(rest: &str) -> String {
    format!("{}{rest}\n}}", config().trim_end().strip_suffix('}').unwrap().trim_end())
}

#[test]
fn a_byte_order_mark_changes_nothing() {
    let at = tempfile::tempdir().unwrap();
    let plain = copy("llama-tiny", &at.path().join("plain"), |_, bytes| bytes);
    let mark = |name: &str, bytes: Vec<u8>| match name.ends_with(".safetensors") {
        true => bytes,
        false => ["\u{feff}".as_bytes(), &bytes].concat(),
    };
    let marked = copy("llama-tiny", &at.path().join("marked"), mark);
    let written = |folder: &Path| {
        let out = folder.join("out.gguf");
        let done = weigh(&["convert", folder.to_str().unwrap(), out.to_str().unwrap(), "--metadata", "general.name=string:x"]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        fs::read(out).unwrap()
    };
    assert!(written(&plain) == written(&marked));
    for command in ["info", "count", "verify"] {
        let output = weigh(&[command, marked.to_str().unwrap(), "--json"]);
        assert!(output.stderr.is_empty(), "{command}");
        let text = |output: Output, folder: &Path| String::from_utf8(output.stdout).unwrap().replace(folder.to_str().unwrap(), "");
        let expected = weigh(&[command, plain.to_str().unwrap(), "--json"]);
        assert_eq!(text(output, &marked), text(expected, &plain), "{command}");
    }
}

#[test]
fn an_index_and_an_adapter_may_have_a_byte_order_mark_as_well() {
    let at = tempfile::tempdir().unwrap();
    let mark = |path: &Path| fs::write(path, ["\u{feff}".as_bytes(), &fs::read(path).unwrap()].concat()).unwrap();
    let plain = fixture("llama-tiny");
    let sharded = at.path().join("sharded");
    let done = weigh(&["convert", plain.to_str().unwrap(), &format!("{}/", sharded.display()), "--shard-size", "100KB"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let index = sharded.join("model.safetensors.index.json");
    mark(&index);
    let tensors = |path: &Path| weigh::format::open(path).unwrap().model().tensors.len();
    assert_eq!(tensors(&index), tensors(&plain));
    assert_eq!(tensors(&sharded), tensors(&plain));
    let other = sharded.join("weights.json"); // told by its content
    fs::rename(&index, &other).unwrap();
    assert_eq!(tensors(&other), tensors(&plain));

    let adapter = copy("lora/adapter", at.path(), |_, bytes| bytes);
    mark(&adapter.join("adapter_config.json"));
    let model = weigh::format::open(&adapter).unwrap().model().clone();
    assert!(model.config_error.is_none() && model.config.is_some_and(|config| config.get("peft_type").is_some()));
}

#[test]
fn every_command_that_needs_a_broken_config_says_so_and_where() {
    let lines = with_end(",").lines().count();
    let cases = [
        (with_end(","), format!("expected JSON, found: trailing comma at line {lines} column 1")),
        (config().replacen(':', "", 1), "expected JSON, found: expected `:` at line".to_owned()),
        ("[1]".to_owned(), "expected a JSON object, found [1]".to_owned()),
        (String::new(), "expected JSON, found: EOF".to_owned()),
    ];
    for (config, message) in cases {
        let at = tempfile::tempdir().unwrap();
        let folder = with_config(at.path(), &config);
        let folder = folder.to_str().unwrap();
        let page = at.path().join("page.html");
        let message = format!("{folder}/config.json: {message}");
        for (args, status) in [
            (&["info"][..], 0),
            (&["count"], 0),
            (&["stats", "--by", "layer"], 0),
            (&["diff", folder], 0),
            (&["hist", "model.norm.weight"], 0),
            (&["hash", "--content"], 0),
            (&["report", "--output", page.to_str().unwrap()], 0),
            (&["verify"], 1),
        ] {
            let output = weigh(&[&[args[0], folder], &args[1..]].concat());
            assert_eq!(output.status.code(), Some(status), "{args:?}");
            let said = if args[0] == "verify" { &output.stdout } else { &output.stderr };
            let said = String::from_utf8_lossy(said);
            if args[0] == "verify" {
                assert!(said.contains("config-json") && said.contains("error") && !said.contains("ok:"), "{said}");
            } else {
                assert!(said.contains(&message), "{args:?}: {said}");
            }
        }
        let quiet = weigh(&["info", folder, "--quiet"]);
        assert!(quiet.status.success() && quiet.stderr.is_empty());
    }
}

#[test]
fn a_broken_config_is_no_reason_to_convert_under_other_names() {
    let at = tempfile::tempdir().unwrap();
    let folder = with_config(at.path(), &with_end(","));
    for (name, more) in [("out.gguf", &[][..]), ("out.safetensors", &[]), ("out/", &["--type", "F16"]), ("dry.gguf", &["--dry-run"])] {
        let out = at.path().join(name);
        let output = weigh(&[&["convert", folder.to_str().unwrap(), out.to_str().unwrap()], more].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(said.contains("hint: --keep-names"), "{said}");
        assert_eq!(said.matches("config.json: expected JSON").count(), 1, "{said}");
        assert!(!out.exists());
    }
    let out = at.path().join("kept.gguf");
    let output = weigh(&["convert", folder.to_str().unwrap(), out.to_str().unwrap(), "--keep-names"]);
    assert!(output.status.success());
    assert!(weigh::format::open(&out).unwrap().model().tensor("model.norm.weight").is_some());
}

#[test]
fn a_config_that_names_no_architecture_is_not_reported_as_missing() {
    let at = tempfile::tempdir().unwrap();
    let folder = with_config(at.path(), "{\"hidden_size\": 64}");
    let output = weigh(&["convert", folder.to_str().unwrap(), at.path().join("out.gguf").to_str().unwrap(), "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let remark = &report["remarks"][0];
    assert_eq!(remark["name"], CONFIG);
    assert!(remark["message"].as_str().unwrap().starts_with("names no architecture"), "{remark}");
}

#[test]
fn infinity_and_nan_are_read_as_python_reads_them() {
    let at = tempfile::tempdir().unwrap();
    let folder = with_config(at.path(), &with_end(",\n\"time_step_limit\": [0.0, Infinity], \"low\": -Infinity, \"scale\": NaN"));
    let model = weigh::format::open(&folder).unwrap().model().clone();
    let config = model.config.unwrap();
    assert_eq!(config["time_step_limit"], serde_json::json!([0.0, {"__float__": "Infinity"}]));
    let output = weigh(&["convert", folder.to_str().unwrap(), at.path().join("out.gguf").to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // A config that is written anew keeps them in the spelling that every version of transformers reads.
    let out = at.path().join("half");
    let output = weigh(&["convert", folder.to_str().unwrap(), &format!("{}/", out.display()), "--type", "F16"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let written = fs::read_to_string(out.join(CONFIG)).unwrap();
    assert!(written.contains("float16") && written.contains("\"low\": -Infinity") && !written.contains("__float__"), "{written}");
}

#[test]
fn losses_and_synthesized_parts_of_a_folder_are_reported() {
    let at = tempfile::tempdir().unwrap();
    let folder = copy("llama-tiny", at.path(), |name, bytes| match name {
        "generation_config.json" => b"{\"top_k\": 3,}".to_vec(),
        "tokenizer.json" => {
            let mut json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            let vocab = json["model"]["vocab"].as_object_mut().unwrap();
            vocab.retain(|_, id| ![300, 301, 303].contains(&id.as_u64().unwrap()));
            json.to_string().into_bytes()
        }
        _ => bytes,
    });
    let output = weigh(&["convert", folder.to_str().unwrap(), at.path().join("out.gguf").to_str().unwrap(), "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // llama.cpp's converter writes [PADn] of type unused for such ids (`get_vocab_base`).
    let row = serde_json::json!([{
        "name": "tokenizer.ggml.tokens",
        "message": "3 tokens are synthesized for embedding rows without a token: [PAD300] ... [PAD303]",
    }]);
    assert_eq!((&report["synthesized"], &report["made_up"]), (&row, &row));
    let lost = report["dropped"].as_array().unwrap().iter().find(|row| row["name"] == "generation_config.json").unwrap();
    assert!(lost["message"].as_str().unwrap().contains("trailing comma at line 1 column 13"), "{lost}");
    let output = weigh(&["convert", folder.to_str().unwrap(), at.path().join("again.gguf").to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("[PAD300] ... [PAD303]"));
    let reader = weigh::format::open(&at.path().join("out.gguf")).unwrap();
    let tokens = reader.model().metadata.get("tokenizer.ggml.tokens").unwrap().as_array().unwrap().values().unwrap();
    assert_eq!(tokens[303].as_str(), Some("[PAD303]"));
}

#[test]
fn a_mistyped_type_finds_the_right_one() {
    let model = fixture("llama-tiny");
    let said = |args: &[&str]| {
        let output = weigh(&[&["convert", model.to_str().unwrap(), "never.gguf", "--dry-run"], args].concat());
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    for (name, meant) in
        [("Q4KM", "Q4_K_M"), ("q4-k-m", "Q4_K_M"), ("iq4xs", "IQ4_XS"), ("Q4_K_N", "Q4_K?"), ("f-16", "F16"), ("BF61", "BF16")]
    {
        let text = said(&["--type", name]);
        assert!(text.contains(&format!("hint: did you mean {meant}")), "{name}: {text}");
    }
    assert!(said(&["--type", "huge"]).contains("`weigh types` lists the types"));
    assert!(said(&["--tensor-type", "attn_q=q8"]).contains("hint: did you mean Q8_"));
    let text = String::from_utf8(weigh(&["convert"]).stderr).unwrap();
    assert!(text.contains("usage: weigh convert [OPTIONS] <IN> [ADAPTER]... <OUT>"), "{text}");
    let text = String::from_utf8(weigh(&["convert", "one"]).stderr).unwrap();
    assert!(text.contains("required arguments were not provided: <OUT>..."), "{text}");
}
