//! The JSON of the commands, key by key: an unknown key fails, a missing one as well.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn json<T: DeserializeOwned>(args: &[&str]) -> T {
    let output =
        Command::new(env!("CARGO_BIN_EXE_weigh")).current_dir(env!("CARGO_MANIFEST_DIR")).args(args).arg("--json").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let path = if ["types", "formats"].contains(&args[0]) { String::new() } else { format!(",\n  \"path\": \"{}\"", args[1]) };
    assert!(text.trim_start().starts_with(&format!("{{\n  \"schema\": \"weigh.{}.v1\"{path}", args[0])), "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}\n{text}"))
}

macro_rules! shapes {
    ($($name:ident { $($field:ident: $type:ty),* $(,)? })*) => {
        $(#[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code)]
        struct $name { $($field: $type),* })*
    };
}

shapes! {
    Ls { schema: String, path: String, format: String, tensors: Vec<Tensor> }
    Tensor { name: String, dtype: String, shape: Vec<u64>, elements: u64, bytes: u64, file: String, offset: u64 }
    Info {
        schema: String, path: String, format: String, architecture: String, name: String, parameters: u64, active_parameters: u64,
        label: String, bytes: u64, bits_per_weight: f64, files: Vec<File>, dtypes: Vec<DType>, hyperparameters: BTreeMap<String, Value>,
        tokenizer: Tokenizer, license: Option<String>, license_name: Option<String>, license_link: Option<String>,
        file_type: Option<FileType>, memory: Memory,
    }
    FileType { name: String, source: String }
    Memory { weights: u64, per_token: u64, beyond: u64, state: u64, context: u64, total: u64 }
    Fit {
        schema: String, path: String, architecture: String, context: u64, trained_context: Option<u64>, parallel: u64, kv_types: [String; 2],
        weights: Weights, kv_bytes: u64, state_bytes: u64, compute_bytes: Option<u64>, total_bytes: u64, per_token_bytes: u64,
        per_token_bytes_beyond_window: u64, memory: Option<u64>, fits: Option<bool>, max_context: Option<u64>, layers: u64,
        layers_on_device: Option<u64>, device_bytes: Option<u64>, host_bytes: Option<u64>, options: Vec<TypeRow>, notes: Vec<String>,
    }
    Weights { embeddings: u64, layers: u64, output: u64 }
    TypeRow { r#type: String, bytes: u64, total_bytes: u64, fits: Option<bool> }
    File { path: String, bytes: u64, tensors: u64 }
    DType { dtype: String, tensors: u64, elements: u64, bytes: u64 }
    Tokenizer {
        model: String, pre: Option<String>, tokens: u64, bos: Option<u64>, eos: Option<u64>, unk: Option<u64>, pad: Option<u64>,
        chat_template: bool,
    }
    Count {
        schema: String, path: String, parameters: u64, stored_elements: u64, active_parameters: u64, embedding_parameters: u64, bytes: u64,
        bits_per_weight: f64, label: String, by_dtype: Vec<DType>, by_component: Vec<Component>, by_layer: Vec<Layer>,
    }
    Component { component: String, tensors: u64, parameters: u64, bytes: u64 }
    Layer { layer: Option<u64>, tensors: u64, parameters: u64, bytes: u64 }
    Show { schema: String, path: String, name: String, dtype: String, shape: Vec<u64>, slice: String, values: Vec<Vec<f64>> }
    Meta { schema: String, path: String, metadata: Vec<Entry> }
    List { len: u64, values: Vec<Value> }
    Verify { schema: String, path: String, ok: bool, checked: Checked, findings: Vec<Finding> }
    Checked { structure: u64, values: u64, digests: u64 }
    Finding {
        severity: String, code: String, file: Option<String>, offset: Option<u64>, tensor: Option<String>, message: String,
    }
    Types { schema: String, types: Vec<Type>, packings: Vec<Packing> }
    Packing { name: String, bits: u32, scale: String, activations: bool, libraries: Vec<String> }
    Type {
        name: String, class: String, block_elements: u64, block_bytes: u64, bits_per_weight: f64, ggml_id: Option<u32>,
        safetensors: Option<String>, read: bool, written: bool,
    }
    Formats { schema: String, formats: Vec<Format> }
    Format { id: String, extensions: Vec<String>, written: bool, dtypes: Vec<String> }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key: String,
    r#type: String,
    value: Value,
    name: Option<String>,
}

const FOLDER: &str = "fixtures/llama-tiny";
const GGUF: &str = "fixtures/llama-tiny-q8_0.gguf";

/// Reads a tensor of an unsharded safetensors file as the format says: the header's length in 8 bytes, the header, the data, in which
/// offsets count.
fn stored(file: &[u8], name: &str) -> std::ops::Range<usize> {
    let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let entries: Value = serde_json::from_slice(&file[8..8 + header]).unwrap();
    let offset = |end: usize| 8 + header + entries[name]["data_offsets"][end].as_u64().unwrap() as usize;
    offset(0)..offset(1)
}

#[test]
fn ls_gives_absolute_offsets() {
    let read = |tensor: &Tensor| {
        let file = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(&tensor.file)).unwrap();
        (tensor.offset as usize..(tensor.offset + tensor.bytes) as usize, file)
    };
    let list: Ls = json(&["ls", FOLDER]);
    for tensor in &list.tensors {
        let (range, file) = read(tensor);
        assert_eq!(range, stored(&file, &tensor.name), "{}", tensor.name);
    }
    // The norm is BF16 in the folder and F32 in the GGUF: the upper halves of each other, value for value.
    let norm = |list: &Ls, name: &str| {
        let (range, file) = read(list.tensors.iter().find(|tensor| tensor.name == name).unwrap());
        file[range].to_vec()
    };
    let halves = norm(&list, "model.norm.weight");
    let singles: Vec<u8> = halves.chunks(2).flat_map(|half| [0, 0, half[0], half[1]]).collect();
    assert_eq!(norm(&json(&["ls", GGUF]), "output_norm.weight"), singles);
    for path in [FOLDER, GGUF] {
        let list: Ls = json(&["ls", path]);
        assert_eq!(list.tensors.iter().map(|tensor| tensor.elements).sum::<u64>(), json::<Count>(&["count", path]).stored_elements);
    }
}

#[test]
fn a_folder_and_its_gguf_have_the_same_counts_and_facts() {
    let (a, b): (Count, Count) = (json(&["count", FOLDER]), json(&["count", GGUF]));
    assert_eq!((a.parameters, a.active_parameters, a.embedding_parameters), (94_848, 94_848, 20_800));
    assert_eq!((a.parameters, a.active_parameters, a.embedding_parameters), (b.parameters, b.active_parameters, b.embedding_parameters));
    assert_eq!((a.label.as_str(), a.stored_elements, b.stored_elements), ("94.8K", 94_848, 94_856));
    let components = |count: &Count| {
        let some = count.by_component.iter().filter(|row| row.parameters > 0);
        some.map(|row| (row.component.clone(), row.parameters)).collect::<Vec<_>>()
    };
    assert_eq!(components(&a), components(&b));
    let layers = |count: &Count| count.by_layer.iter().map(|row| (row.layer, row.parameters)).collect::<Vec<_>>();
    assert_eq!(layers(&a), layers(&b));

    let (a, b): (Info, Info) = (json(&["info", FOLDER]), json(&["info", GGUF]));
    assert_eq!((a.architecture.as_str(), a.license.as_deref()), (b.architecture.as_str(), Some("mit")));
    for (name, value) in &b.hyperparameters {
        assert_eq!(a.hyperparameters.get(name), Some(value), "{name}");
    }
    assert_eq!((a.tokenizer.tokens, b.tokenizer.tokens, b.tokenizer.chat_template), (325, 325, true));
}

#[test]
fn arrays_are_cut_unless_they_are_asked_for_in_full() {
    for (full, shown) in [(false, 8), (true, 325)] {
        let mut args = vec!["meta", GGUF, "get", "tokenizer.ggml.tokens"];
        args.extend(full.then_some("--full"));
        let meta: Meta = json(&args);
        let entry = &meta.metadata[0];
        assert_eq!((entry.key.as_str(), entry.r#type.as_str()), ("tokenizer.ggml.tokens", "array"));
        let mut value = entry.value.clone();
        assert_eq!(value.as_object_mut().unwrap().remove("type").unwrap(), "string");
        let list: List = serde_json::from_value(value).unwrap();
        assert_eq!((list.len, list.values.len()), (325, shown));
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Failed {
    schema: String,
    path: String,
    error: ErrorFacts,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct ErrorFacts {
    kind: String,
    code: Option<String>,
    message: String,
    file: Option<String>,
    tensor: Option<String>,
    offset: Option<u64>,
    hint: Option<String>,
}

#[test]
fn every_path_has_a_document_even_where_it_cannot_be_opened() {
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_weigh")).current_dir(env!("CARGO_MANIFEST_DIR")).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    const NONE: &str = "fixtures/none.gguf";
    for command in ["info", "ls", "count", "stats", "verify", "hash"] {
        let (status, text) = run(&[command, GGUF, NONE, FOLDER, "--json"]);
        let documents: Vec<Value> = serde_json::Deserializer::from_str(&text).into_iter().collect::<Result<_, _>>().unwrap();
        assert_eq!(
            documents.iter().map(|document| document["path"].as_str().unwrap()).collect::<Vec<_>>(),
            [GGUF, NONE, FOLDER],
            "{command}"
        );
        assert_eq!(status, Some(2), "{command}");
        for document in documents {
            let keys: Vec<&String> = document.as_object().unwrap().keys().collect();
            assert_eq!(keys[..2], ["schema", "path"], "{command}");
            if document["path"] == NONE {
                let failed: Failed = serde_json::from_value(document).unwrap();
                assert_eq!((failed.schema.as_str(), failed.error.kind.as_str()), ("weigh.error.v1", "io"), "{command}");
                assert!(failed.error.message.starts_with("cannot open"), "{}", failed.error.message);
            }
        }
        let (_, text) = run(&[command, GGUF, NONE, "--format", "ndjson"]);
        let last: Failed = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(last.path, NONE);
    }
    // A line that is a whole report has the path in the same place.
    let (_, text) = run(&["count", GGUF, "--format", "ndjson"]);
    assert!(text.starts_with(&format!("{{\"schema\":\"weigh.count.v1\",\"path\":\"{GGUF}\",")), "{text}");
    // One path that cannot be opened is an error and no document.
    assert_eq!(run(&["info", NONE, "--json"]), (Some(2), String::new()));
}

#[test]
fn the_other_commands_name_their_model_too() {
    for args in [
        &["hist", GGUF, "output_norm.weight"][..],
        &["stats", GGUF, "--by", "model"],
        &["stats", GGUF, "--filter", "output_norm", "--per-row"],
        &["diff", GGUF, FOLDER, "--quick"],
        &["hash", GGUF, "--no-layer"],
    ] {
        let document: Value = json(args);
        assert_eq!(document["path"], GGUF, "{args:?}");
    }
    let edited = Command::new(env!("CARGO_BIN_EXE_weigh"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["meta", GGUF, "set", "general.name=x", "--dry-run", "--json"])
        .output()
        .unwrap();
    let edited: Value = serde_json::from_slice(&edited.stdout).unwrap();
    assert_eq!((&edited["schema"], &edited["path"]), (&"weigh.meta-edit.v1".into(), &GGUF.into()));
}

#[test]
fn other_reports_have_their_keys() {
    let shown: Show = json(&["show", GGUF, "token_embd.weight", "--slice=:2,:3"]);
    assert_eq!((shown.values.len(), shown.values[0].len(), shown.slice.as_str()), (2, 3, "0:2,0:3"));
    let named: Meta = json(&["meta", GGUF, "get", "general.file_type"]);
    assert_eq!(named.metadata[0].name.as_deref(), Some("Q8_0"));
    let fit: Fit = json(&["fit", GGUF, "--type", "Q4_0", "--memory", "1GB"]);
    assert_eq!((fit.options[0].r#type.as_str(), fit.fits), ("Q4_0", Some(true)));
    let verdict: Verify = json(&["verify", GGUF]);
    assert!(verdict.ok);
    assert!(json::<Types>(&["types"]).types.len() > 40);
    assert!(json::<Formats>(&["formats"]).formats.len() >= 2);
}
