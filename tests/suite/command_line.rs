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
fn one_tensor_is_one_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("one.safetensors"), folder.path().join("out.safetensors"));
    file(&path, &[("w", &[2, 2])], None);
    let said = stdout(&["convert", path.to_str().unwrap(), out.to_str().unwrap()]);
    assert!(said.contains(": 1 tensor, "), "{said}");
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
    let rows = stdout(&["meta", path, "--format", "ndjson"]);
    let row: Value = serde_json::from_str(rows.lines().next().unwrap()).unwrap();
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
    assert_eq!(paths, ["fixtures/nothing", "fixtures/llama-tiny", "fixtures/llama-tiny"]);
    let schemas: Vec<_> = lines.iter().map(|line| line["schema"].as_str()).collect();
    assert_eq!(schemas, [Some("weigh.error.v1"), None, Some("weigh.ls.v1")], "an error, a row, the rest");
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

#[test]
fn a_model_in_place_of_a_command_is_described() {
    assert_eq!(stdout(&["fixtures/llama-tiny", "--json"]), stdout(&["info", "fixtures/llama-tiny", "--json"]));
    let error = |args: &[&str]| String::from_utf8(weigh(args).stderr).unwrap();
    assert!(error(&["fixtures/none.gguf"]).contains("cannot open"));
    assert!(error(&["quantize", "a", "b"]).contains("hint: `weigh convert IN OUT.gguf --type Q4_K_M` quantises"));
    assert!(error(&["lss"]).contains("a similar subcommand exists: 'ls'"));
}

#[test]
fn formats_that_a_command_does_not_have_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("x.svg");
    let picture = picture.to_str().unwrap();
    for args in [
        &["report", "fixtures/llama-tiny", "--json"][..],
        &["report", "fixtures/llama-tiny", "--format", "csv"],
        &["man", "--json"],
        &["completions", "bash", "--format", "ndjson"],
        &["hist", "fixtures/llama-tiny", "model.norm.weight", "-o", picture, "--json"],
        &["ls", "fixtures/llama-tiny", "--format", "sarif"],
    ] {
        let output = weigh(args);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{args:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1, "{args:?}");
    }
    assert!(!std::path::Path::new(picture).exists());
}

#[test]
fn findings_are_sarif_for_tools_of_code_review() {
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("a bad.gguf");
    let mut bytes = std::fs::read("fixtures/llama-tiny-q8_0.gguf").unwrap();
    bytes.truncate(bytes.len() - 5000);
    std::fs::write(&bad, bytes).unwrap();
    let output = weigh(&["verify", bad.to_str().unwrap(), "fixtures/none.gguf", "fixtures/llama-tiny", "--format", "sarif"]);
    assert_eq!(output.status.code(), Some(2));
    let log: Value = serde_json::from_slice(&output.stdout).unwrap();
    let run = &log["runs"][0];
    assert_eq!((&log["version"], &run["tool"]["driver"]["name"]), (&json!("2.1.0"), &json!("weigh")));
    let result = &run["results"][0];
    assert_eq!((&result["ruleId"], &result["level"]), (&json!("gguf-truncated"), &json!("error")));
    let rule = &run["tool"]["driver"]["rules"][result["ruleIndex"].as_u64().unwrap() as usize];
    assert_eq!(rule["id"], result["ruleId"]);
    let uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].as_str().unwrap();
    assert!(uri.ends_with("/a%20bad.gguf"), "{uri}");
    let invocation = &run["invocations"][0];
    assert_eq!(invocation["executionSuccessful"], false);
    assert!(invocation["toolExecutionNotifications"][0]["message"]["text"].as_str().unwrap().starts_with("cannot open"));
}

#[test]
fn every_command_has_a_manual_page() {
    let names = stdout(&["man", "--list"]);
    assert!(names.lines().any(|name| name == "meta set") && names.lines().any(|name| name == "convert"), "{names}");
    for name in names.lines() {
        let page = stdout(&[&["man"], name.split(' ').collect::<Vec<_>>().as_slice()].concat());
        assert!(page.contains(".SH SYNOPSIS") && page.contains("Examples:"), "{name}");
        assert!(page.contains(concat!("\"weigh ", env!("CARGO_PKG_VERSION"))), "{name}: its footer names the version");
    }
}

#[test]
fn the_file_types_are_those_of_the_recipes_and_their_sizes_those_of_a_plan() {
    let list: Value = serde_json::from_str(&stdout(&["types", "--file-types", "--json"])).unwrap();
    let rows = list["file_types"].as_array().unwrap();
    let names: std::collections::BTreeSet<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    let known: std::collections::BTreeSet<_> = weigh::quant::recipe::FILE_TYPES.iter().map(|known| known.name).collect();
    assert_eq!(names, known);

    // Llama 3.1 8B, by its headers.
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256, "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "tie_word_embeddings": false});
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let mut shapes = vec![
        ("model.embed_tokens".to_owned(), vec![128_256, 4096]),
        ("lm_head".into(), vec![128_256, 4096]),
        ("model.norm".into(), vec![4096]),
    ];
    for layer in 0..32 {
        for (name, shape) in [
            ("input_layernorm", vec![4096]),
            ("post_attention_layernorm", vec![4096]),
            ("self_attn.q_proj", vec![4096, 4096]),
            ("self_attn.k_proj", vec![1024, 4096]),
            ("self_attn.v_proj", vec![1024, 4096]),
            ("self_attn.o_proj", vec![4096, 4096]),
            ("mlp.gate_proj", vec![14336, 4096]),
            ("mlp.up_proj", vec![14336, 4096]),
            ("mlp.down_proj", vec![4096, 14336]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}"), shape));
        }
    }
    let (mut header, mut end) = (serde_json::Map::new(), 0u64);
    for (name, shape) in &shapes {
        let start = end;
        end += 2 * shape.iter().product::<u64>();
        header.insert(format!("{name}.weight"), json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::Object(header).to_string();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(8 + header.len() as u64 + end).unwrap();

    let fit: Value = serde_json::from_str(&stdout(&["fit", folder.path().to_str().unwrap(), "--all-types", "--json"])).unwrap();
    for option in fit["options"].as_array().unwrap() {
        let row = rows.iter().find(|row| row["name"] == option["type"]).unwrap();
        let bits = option["bytes"].as_f64().unwrap() * 8.0 / (end as f64 / 2.0);
        assert!((bits - row["bits_per_weight"].as_f64().unwrap()).abs() < 0.011, "{}: {bits}", option["type"]);
    }
}

#[test]
fn a_mistyped_file_name_has_a_suggestion() {
    let error = |args: &[&str]| String::from_utf8(weigh(args).stderr).unwrap();
    let near = error(&["info", "fixtures/llama-tiny-q8_O.gguf"]);
    assert!(near.contains("hint: did you mean fixtures/llama-tiny-q8_0.gguf?"), "{near}");
    assert!(error(&["info", "-"]).contains("hint: a model is read from a file"));
    assert_eq!(error(&["info", "fixtures/zzzz"]).lines().count(), 1);
    let threads = error(&["info", "fixtures/llama-tiny", "--threads", "0"]);
    assert!(threads.contains("expected a whole number, 1 or more"), "{threads}");
}

#[test]
fn quiet_says_nothing_of_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (gguf, edited, page) = (at("a.gguf"), at("b.gguf"), at("c.html"));
    for args in [
        &["convert", "fixtures/llama-tiny", &gguf, "--type", "Q8_0"][..],
        &["meta", &gguf, "set", "general.name=x", "-o", &edited],
        &["report", &gguf, "-o", &page],
    ] {
        let output = weigh(&[args, &["--quiet"]].concat());
        assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
    // What was asked for is no report of success.
    assert!(!weigh(&["convert", "fixtures/llama-tiny", &gguf, "--dry-run", "--force", "--quiet"]).stdout.is_empty());
    assert!(!weigh(&["convert", "fixtures/llama-tiny", &gguf, "--force", "--quiet", "--json"]).stdout.is_empty());
}

#[test]
fn a_mistyped_folder_is_not_created() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut commands = vec![
        vec!["convert", "fixtures/llama-tiny", "no/a.gguf"],
        vec!["convert", "fixtures/llama-tiny", "no/such/"],
        vec!["convert", "fixtures/llama-tiny", "a.gguf", "--target-bpw", "6", "--save-mix", "no/mix"],
        vec!["meta", "fixtures/llama-tiny-q8_0.gguf", "set", "general.name=x", "-o", "no/a.gguf"],
        vec!["report", "fixtures/llama-tiny", "-o", "no/a.html"],
    ];
    if cfg!(feature = "catalog") {
        commands.push(vec!["catalog", "fixtures/llama-tiny", "-o", "no/such"]);
    }
    for command in commands {
        let paths: Vec<String> =
            command.iter().map(|word| if word.starts_with("no/") || *word == "a.gguf" { at(word) } else { (*word).into() }).collect();
        let output = weigh(&paths.iter().map(String::as_str).collect::<Vec<_>>());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && error.contains("no: the output folder does not exist"), "{command:?}: {error}");
        assert_eq!(folder.path().read_dir().unwrap().count(), 0, "{command:?}");
    }
    let created = at("new");
    assert!(weigh(&["convert", "fixtures/llama-tiny", &format!("{created}/")]).status.success());
    assert!(Path::new(&created).join("model.safetensors").is_file());
}

#[test]
fn info_shows_what_a_model_says_of_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let path = path.to_str().unwrap();
    let keys = ["general.version=1.2", "general.finetune=Instruct", "general.description=two\nlines", "general.organization=Org"];
    stdout(&[&["meta", "fixtures/llama-tiny-q8_0.gguf", "set"][..], &keys, &["-o", path]].concat());
    let text = stdout(&["info", path]);
    for line in ["version       1.2", "fine-tune     Instruct", "author        Org", "tokenizer     BPE (gpt2), 325 tokens"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    // 15 matrices of 94,528 weights, 34 bytes for 32 of them, and 328 in F32: 101,748 bytes for 94,848 parameters; 8 weights are computed.
    assert!(text.contains("size          110 kB: tensors 102 kB, 8.582 bits per weight\nnot counted   8 of computed tables\n"), "{text}");
    assert!(text.contains("RoPE base 500,000"), "{text}");
    let json: Value = serde_json::from_str(&stdout(&["info", path, "--json"])).unwrap();
    assert_eq!((&json["version"], &json["finetune"], &json["authors"]), (&json!("1.2"), &json!("Instruct"), &json!(["Org"])));
}
