//! The command line as a whole: hostile text on every output, pipes that close, several models, mixtures of experts, scripts for shells.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn weigh(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weigh"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("COLUMNS").args(args);
    command.output().unwrap()
}

fn stdout(args: &[&str]) -> String {
    let output = weigh(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A safetensors file of zeros: names with shapes.
fn file(path: &Path, tensors: &[(&str, &[u64])], metadata: Option<(&str, &str)>) {
    let mut header = serde_json::Map::new();
    if let Some((key, value)) = metadata {
        header.insert("__metadata__".into(), json!({key: value}));
    }
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += shape.iter().product::<u64>();
        header.insert((*name).into(), json!({"dtype": "U8", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + end as usize, 0);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn hostile_text_reaches_people_escaped_and_scripts_exact() {
    const NAME: &str = "=1+1\u{1b}[2J\u{202e}|<img src=x>`\r\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    file(&path, &[(NAME, &[2, 2])], Some((NAME, NAME)));
    let path = path.to_str().unwrap();
    for command in
        [&["ls", path][..], &["ls", path, "--tree"], &["meta", path], &["meta", path, "get", NAME], &["show", path, NAME], &["count", path]]
    {
        for format in ["table", "csv", "markdown"] {
            let text = stdout(&[command, &["--format", format]].concat());
            let raw = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!text.contains(raw), "{command:?} {format}: {text:?}");
            assert!(format != "markdown" || !text.contains("<img") || text.contains("\\<img") || text.starts_with("```"), "{text}");
            assert!(format != "csv" || !text.lines().any(|line| line.starts_with('=')), "{text}");
        }
    }
    let list: Value = serde_json::from_str(&stdout(&["ls", path, "--json"])).unwrap();
    assert_eq!(list["tensors"][0]["name"], NAME);
    let row: Value = serde_json::from_str(&stdout(&["meta", path, "--format", "ndjson"])).unwrap();
    assert_eq!((&row["key"], &row["value"]), (&json!(NAME), &json!(NAME)));
    // An error says the name, on one line.
    let error = String::from_utf8(weigh(&["show", path, "\u{1b}x\n"]).stderr).unwrap();
    assert_eq!((error.lines().count(), error.contains('\u{1b}')), (2, false), "{error:?}");
}

#[test]
fn a_closed_pipe_is_not_a_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_weigh"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["ls", "fixtures/llama-tiny"]);
    let output = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else { return };
    let mut command = Command::new(env!("CARGO_BIN_EXE_weigh"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["ls", "fixtures/llama-tiny"]);
    let output = command.stdout(full).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("weigh: cannot write the output: "));
}

#[test]
fn several_models_are_distinguished_and_one_failure_does_not_stop_the_rest() {
    let output = weigh(&["ls", "fixtures/nothing", "fixtures/llama-tiny", "--format", "ndjson", "--limit", "1"]);
    assert_eq!(output.status.code(), Some(2));
    let lines: Vec<Value> = serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect::<Result<_, _>>().unwrap();
    let paths: Vec<_> = lines.iter().map(|line| line["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["fixtures/nothing", "fixtures/llama-tiny"]);
    assert_eq!((&lines[0]["schema"], &lines[1]["schema"]), (&json!("weigh.error.v1"), &Value::Null));
    assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1);
}

#[test]
fn active_parameters_count_only_the_experts_used_per_token() {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors: Vec<(String, Vec<u64>)> = vec![
        ("model.embed_tokens.weight".into(), vec![32, 4]),
        ("lm_head.weight".into(), vec![32, 4]),
        ("model.norm.weight".into(), vec![4]),
        ("model.layers.0.self_attn.q_proj.weight".into(), vec![4, 4]),
        ("model.layers.0.block_sparse_moe.gate.weight".into(), vec![8, 4]),
    ];
    for expert in 0..8 {
        for part in ["w1", "w2", "w3"] {
            tensors.push((format!("model.layers.0.block_sparse_moe.experts.{expert}.{part}.weight"), vec![14, 4]));
        }
    }
    let tensors: Vec<(&str, &[u64])> = tensors.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
    file(&folder.path().join("model.safetensors"), &tensors, None);
    let path = folder.path().to_str().unwrap();
    let count = |config: Value| -> Value {
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        serde_json::from_str(&stdout(&["count", path, "--json"])).unwrap()
    };
    let (shared, expert) = (128 + 128 + 4 + 16 + 32, 3 * 14 * 4);
    let found = count(json!({"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}));
    assert_eq!((&found["parameters"], &found["active_parameters"]), (&json!(shared + 8 * expert), &json!(shared + 2 * expert)));
    // Tied: the output matrix counts once; how many experts are used is not said.
    let found = count(json!({"model_type": "mixtral", "tie_word_embeddings": true}));
    assert_eq!((&found["parameters"], &found["active_parameters"]), (&json!(shared - 128 + 8 * expert), &Value::Null));
    // All of them, more than there are, and more than none.
    let active = |of: u64, used: u64| {
        count(json!({"model_type": "mixtral", "num_local_experts": of, "num_experts_per_tok": used}))["active_parameters"].clone()
    };
    assert_eq!(active(8, 8), json!(shared + 8 * expert));
    assert_eq!((active(8, 9), active(0, 0)), (Value::Null, Value::Null));
}

#[test]
fn an_output_matrix_is_tied_only_if_it_has_the_shape_of_the_embeddings() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), r#"{"model_type": "llama", "tie_word_embeddings": true}"#).unwrap();
    for (vocabulary, parameters) in [(32, 128 + 128), (31, 124 + 128 + 128)] {
        let tensors: [(&str, &[u64]); 3] = [
            ("model.embed_tokens.weight", &[vocabulary, 4]),
            ("lm_head.weight", &[32, 4]),
            ("model.layers.0.mlp.up_proj.weight", &[32, 4]),
        ];
        file(&folder.path().join("model.safetensors"), &tensors, None);
        let found: Value = serde_json::from_str(&stdout(&["count", folder.path().to_str().unwrap(), "--json"])).unwrap();
        assert_eq!(found["parameters"], parameters, "{vocabulary}");
    }
    file(&folder.path().join("model.safetensors"), &[("x", &[0])], None);
    let found: Value = serde_json::from_str(&stdout(&["count", folder.path().to_str().unwrap(), "--json"])).unwrap();
    assert_eq!((&found["parameters"], &found["bits_per_weight"]), (&json!(0), &Value::Null));
}

#[test]
fn packagers_get_completions_and_manual_pages() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(stdout(&["completions", shell]).contains("filter"), "{shell}");
    }
    assert!(stdout(&["man"]).contains(".TH weigh 1"));
    assert!(stdout(&["man", "ls"]).contains("tree"));
}

#[test]
fn the_licence_is_the_one_that_was_published() {
    let at = tempfile::tempdir().unwrap();
    let folder = at.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    file(&folder.join("model.safetensors"), &[("a", &[4])], None);
    let line = |path: &std::path::Path| {
        let text = stdout(&["info", path.to_str().unwrap()]);
        text.lines().find_map(|line| line.strip_prefix("licence")).unwrap().trim().to_owned()
    };
    let keys = |path: &std::path::Path| -> [Value; 3] {
        let found: Value = serde_json::from_str(&stdout(&["info", path.to_str().unwrap(), "--json"])).unwrap();
        ["license", "license_name", "license_link"].map(|key| found[key].clone())
    };
    assert_eq!(line(&folder), "not stated");
    const LINK: &str = "https://llama.meta.com/license";
    for (card, expected, words) in [
        ("license: \"apache-2.0\" # a comment", [json!("apache-2.0"), Value::Null, Value::Null], "apache-2.0"),
        ("license:\n- mit\n- apache-2.0", [json!("mit, apache-2.0"), Value::Null, Value::Null], "mit, apache-2.0"),
        (
            "license: other\nlicense_name: Llama 2 Community\nlicense_link: https://llama.meta.com/license",
            [json!("other"), json!("Llama 2 Community"), json!(LINK)],
            "Llama 2 Community (other), https://llama.meta.com/license",
        ),
        ("tags: [license]\nother:\n  license: mit", [Value::Null, Value::Null, Value::Null], "not stated"),
    ] {
        std::fs::write(folder.join("README.md"), format!("---\n{card}\n---\n# Title\nlicense: no\n")).unwrap();
        assert_eq!((keys(&folder), line(&folder).as_str()), (expected, words), "{card}");
    }

    let gguf = at.path().join("m.gguf");
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/llama-tiny-q8_0.gguf"), &gguf).unwrap();
    for (key, value) in [("license", "other"), ("license.name", "Llama 2 Community"), ("license.link", LINK)] {
        let pair = format!("general.{key}=string:{value}");
        assert!(weigh(&["meta", gguf.to_str().unwrap(), "set", &pair, "--in-place"]).status.success());
    }
    assert_eq!(keys(&gguf), [json!("other"), json!("Llama 2 Community"), json!(LINK)]);
    assert_eq!(line(&gguf), format!("Llama 2 Community (other), {LINK}"));
}
