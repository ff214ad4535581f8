//! The JSON of the commands against the JSON Schemas of docs/schemas, which every document names.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use boon::{Compiler, Schemas};
use serde_json::Value;

const FOLDER: &str = "fixtures/llama-tiny";
const GGUF: &str = "fixtures/llama-tiny-q8_0.gguf";
const OTHER: &str = "fixtures/gemma2-other-head";

fn weigh(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weigh")).current_dir(env!("CARGO_MANIFEST_DIR")).args(args).output().unwrap()
}

fn documents(args: &[&str]) -> Vec<Value> {
    let output = weigh(&[args, &["--json"]].concat());
    let documents: Result<Vec<_>, _> = serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect();
    let documents = documents.unwrap_or_else(|error| panic!("{args:?}: {error}"));
    assert!(!documents.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    documents
}

#[test]
fn every_document_is_as_its_schema_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas");
    let out = tempfile::tempdir().unwrap();
    let at = |name: &str| out.path().join(name).to_str().unwrap().to_owned();
    let (gguf, quantised, shards, parts, tables) = (at("a.gguf"), at("b.gguf"), at("shards/"), at("parts/"), at("tables"));
    let (sized, packed) = (at("sized.gguf"), at("packed/"));
    let (edited, cut, shard, manifest) = (at("edited.gguf"), at("cut.gguf"), at("shards/model-00001-of-00002.safetensors"), at("manifest"));
    let bytes = std::fs::read(GGUF).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() - 5000]).unwrap();
    std::fs::write(&edited, &bytes).unwrap();
    std::fs::write(&manifest, weigh(&["hash", GGUF]).stdout).unwrap();

    let mut commands: Vec<Vec<&str>> = Vec::new();
    for model in [FOLDER, GGUF, OTHER, "fixtures/quants.safetensors"] {
        for command in ["info", "ls", "count", "stats", "meta", "verify", "verify --data", "hash", "hash --file", "hash --content"] {
            let mut words = command.split(' ');
            commands.push(words.next().into_iter().chain([model]).chain(words).collect());
        }
    }
    commands.extend([
        vec!["fit", GGUF],
        vec!["fit", FOLDER, "--all-types", "--memory", "1GB"],
        vec!["fit", FOLDER, "--engine", "vllm", "--memory", "8GB"],
        vec!["fit", GGUF, "--layers-on-gpu", "1"],
        vec!["show", GGUF, "token_embd.weight", "--slice=:2,:4"],
        vec!["hist", GGUF, "token_embd.weight"],
        vec!["meta", GGUF, "set", "general.name=x", "--dry-run"],
        vec!["diff", FOLDER, GGUF],
        vec!["diff", FOLDER, FOLDER],
        vec!["diff", FOLDER, OTHER],
        vec!["stats", FOLDER, "--part", "1/2"],
        vec!["info", GGUF, "fixtures/none.gguf"],
        vec!["types"],
        vec!["types", "--file-types"],
        vec!["formats"],
        vec!["archs"],
        vec!["verify", "--codes"],
        vec!["convert", FOLDER, &gguf],
        vec!["convert", FOLDER, &quantised, "--type", "Q4_K_M"],
        vec!["convert", FOLDER, &shards, "--shard-size", "100kB"],
        vec!["convert", FOLDER, &parts, "--shard-size", "100kB", "--part", "2/2"],
        vec!["convert", FOLDER, &parts, "--shard-size", "100kB", "--part", "1/2"],
        vec!["convert", "--join", &parts],
        vec!["convert", FOLDER, "--compare", "Q4_K_M,Q8_0"],
        vec!["convert", FOLDER, &sized, "--target-bpw", "6"],
        vec!["convert", FOLDER, &packed, "--type", "FP8"],
        vec!["info", &packed],
        vec!["diff", &packed, &packed],
        vec!["show", &packed, "model.layers.0.mlp.up_proj.weight", "--slice=0,:4"],
        vec![
            "meta",
            &edited,
            "set",
            "general.version=1.0",
            "general.author=a",
            "general.url=https://u",
            "general.finetune=chat",
            "--in-place",
        ],
        vec!["meta", &edited, "set", "new=u32[]:[1,2]", "general.name=b", "--dry-run"],
        vec!["meta", &edited, "--recover"],
        vec!["info", &edited],
        vec!["info", &cut],
        vec!["verify", &cut],
        vec!["stats", GGUF, "--filter", "blk.0.attn_q.weight", "--per-row"],
        vec!["stats", FOLDER, "--by", "layer"],
        vec!["hash", GGUF, "--check", &manifest],
        vec!["convert", FOLDER, &gguf, "--force", "--type", "IQ2_XXS", "--dry-run"],
    ]);
    if cfg!(feature = "catalog") {
        commands.push(vec!["catalog", FOLDER, "-o", &tables]);
    }

    let mut seen = BTreeSet::new();
    let incomplete: &[&str] = &["count", "info", "ls", "verify"];
    commands.extend(incomplete.iter().map(|command| vec![*command, &shard]));
    for command in commands {
        if command.contains(&shard.as_str()) {
            let _ = std::fs::remove_file(at("shards/model-00002-of-00002.safetensors"));
            let _ = std::fs::remove_file(at("shards/model.safetensors.index.json"));
        }
        for document in documents(&command) {
            let name = document["schema"].as_str().unwrap_or_else(|| panic!("{command:?}: no schema")).to_owned();
            let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
            let index = compiler.compile(folder.join(format!("{name}.json")).to_str().unwrap(), &mut schemas);
            let index = index.unwrap_or_else(|error| panic!("{name}: {error}"));
            if let Err(error) = schemas.validate(&document, index) {
                panic!("{command:?}: {error:#}");
            }
            seen.insert(format!("{name}.json"));
        }
    }
    let written: BTreeSet<_> = folder.read_dir().unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    let unseen: Vec<_> = written.difference(&seen).filter(|name| cfg!(feature = "catalog") || !name.contains("catalog")).collect();
    assert!(unseen.is_empty(), "no document of {unseen:?}");
}
