//! Encoders of pictures and sounds in a GGUF of their own: both files from a folder, and the folder from both files.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value as Json, json};
use weigh::DType;
use weigh::model::Metadata;

use crate::build::{tensor, write};

fn weigh(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weigh")).current_dir(folder).args(args).output().unwrap()
}

fn done(folder: &Path, args: &[&str]) -> Json {
    let out = weigh(folder, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap_or_default()
}

fn refused(folder: &Path, args: &[&str]) -> String {
    let out = weigh(folder, args);
    assert_eq!(out.status.code(), Some(2), "{args:?}");
    String::from_utf8(out.stderr).unwrap()
}

/// Writes a small SmolVLM with the tokenizer of a Llama, in a folder `model`.
pub(crate) fn model(at: &Path) {
    const TOKENS: u64 = 326;
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let golden = fs::read(fixtures.join("arch/smolvlm-vision-mmproj.json")).unwrap();
    let mut golden: Json = serde_json::from_slice(&golden).unwrap();
    golden["config"]["text_config"]["vocab_size"] = json!(TOKENS);
    let tensors: Vec<_> = golden["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .map(|(i, row)| {
            let shape = row[2].as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap());
            let shape: Vec<u64> = shape.map(|dim| if dim == 48 { TOKENS } else { dim }).collect();
            let count = shape.iter().product::<u64>() as usize;
            // Small numbers, all exact in F16 too.
            let bytes = (0..count).flat_map(|j| [0, 0x3c + ((i + j) % 4) as u8]).collect();
            tensor(row[0].as_str().unwrap(), DType::BF16, &shape, bytes)
        })
        .collect();
    let folder = at.join("model");
    fs::create_dir(&folder).unwrap();
    write("safetensors", &folder.join("model.safetensors"), &tensors, &Metadata::new(), None);
    fs::write(folder.join("config.json"), golden["config"].to_string()).unwrap();
    fs::write(folder.join("preprocessor_config.json"), golden["preprocessor"].to_string()).unwrap();
    fs::copy(fixtures.join("llama-tiny/tokenizer_config.json"), folder.join("tokenizer_config.json")).unwrap();
    let mut tokenizer: Json = serde_json::from_slice(&fs::read(fixtures.join("llama-tiny/tokenizer.json")).unwrap()).unwrap();
    let mut image = tokenizer["added_tokens"][0].clone();
    (image["id"], image["content"]) = (json!(TOKENS - 1), json!("<image>"));
    tokenizer["added_tokens"].as_array_mut().unwrap().push(image);
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

#[test]
fn a_folder_becomes_two_files_and_comes_back_from_them() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    model(at);
    let planned = done(at, &["convert", "model", "out.gguf", "--mmproj", "mm.gguf", "--dry-run", "--json"]);
    assert_eq!((&planned["dry_run"], &planned["mmproj"]["dry_run"]), (&json!(true), &json!(true)));
    assert!(!at.join("out.gguf").exists() && !at.join("mm.gguf").exists());
    let report = done(at, &["convert", "model", "out.gguf", "--mmproj", "mm.gguf", "--json"]);
    assert_eq!(report["tensors"].as_array().unwrap().len(), 21);
    assert_eq!(report["mmproj"]["tensors"].as_array().unwrap().len(), 54);
    // Either file alone has the same bytes.
    done(at, &["convert", "model", "alone.gguf", "--mmproj"]);
    done(at, &["convert", "model", "--mmproj", "alone2.gguf"]);
    let read = |name: &str| fs::read(at.join(name)).unwrap();
    assert!(read("mm.gguf") == read("alone.gguf") && read("mm.gguf") == read("alone2.gguf"));
    done(at, &["convert", "out.gguf", "back/", "--mmproj", "mm.gguf"]);
    let (hash, again) = (done(at, &["hash", "model", "--json"]), done(at, &["hash", "back", "--json"]));
    let sorted = |hash: &Json| {
        let mut rows: Vec<String> =
            hash["tensors"].as_array().unwrap().iter().map(|row| format!("{} {}", row["name"], row["hashes"])).collect();
        rows.sort();
        rows
    };
    assert_eq!(sorted(&hash), sorted(&again));
    let config: Json = serde_json::from_slice(&read("back/config.json")).unwrap();
    assert_eq!(config["architectures"], json!(["SmolVLMForConditionalGeneration"]));
    assert_eq!(config["image_token_id"], 325, "its place in the vocabulary");
    assert_eq!((&config["vision_config"]["patch_size"], &config["text_config"]["model_type"]), (&json!(4), &json!("llama")));
}

#[test]
fn the_encoder_stays_f16_where_the_text_model_is_quantised() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    model(at);
    done(at, &["convert", "model", "out.gguf", "--mmproj", "mm.gguf", "--type", "Q4_K_M"]);
    let types = |file: &str| {
        let info = done(at, &["info", file, "--json"]);
        let mut types: Vec<String> =
            info["dtypes"].as_array().unwrap().iter().map(|row| row["dtype"].as_str().unwrap().to_owned()).collect();
        types.sort();
        types
    };
    assert_eq!(types("mm.gguf"), ["F16", "F32"]);
    assert!(!types("out.gguf").contains(&"F16".to_owned()) || types("out.gguf").len() > 2);
}

#[test]
fn what_has_no_encoder_or_another_is_refused() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    model(at);
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/llama-tiny");
    let error = refused(at, &["convert", tiny, "out.gguf", "--mmproj", "mm.gguf"]);
    assert!(error.contains("no table for a vision or audio encoder"), "{error}");
    assert!(!at.join("out.gguf").exists());
    done(at, &["convert", "model", "out.gguf", "--mmproj", "mm.gguf"]);
    done(at, &["convert", "mm.gguf", "other.gguf", "--keep-names", "--metadata", "clip.projector_type=string:gemma3"]);
    let error = refused(at, &["convert", "out.gguf", "back/", "--mmproj", "other.gguf"]);
    assert!(error.contains("expected an encoder that goes with llama, found gemma3"), "{error}");
    let error = refused(at, &["convert", "out.gguf", "back/", "--mmproj", "out.gguf"]);
    assert!(error.contains("expected the GGUF of an encoder"), "{error}");
    assert!(!at.join("back").exists());
}

#[test]
fn an_encoder_is_told_counted_and_verified() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    model(at);
    done(at, &["convert", "model", "out.gguf", "--mmproj", "mm.gguf"]);
    let info = done(at, &["info", "mm.gguf", "--json"]);
    let known = &info["hyperparameters"];
    let expected = json!({
        "projector_type": "idefics3", "vision_layers": 3, "vision_width": 16, "vision_feed_forward": 24, "vision_heads": 2, "image_size": 16,
        "patch_size": 4, "projection": 32
    });
    assert_eq!(known, &expected);
    let text = String::from_utf8(weigh(at, &["info", "mm.gguf"]).stdout).unwrap();
    assert!(text.contains("3 layers, width 16, feed-forward 24, 2 heads, pictures of 16, patches of 4"), "{text}");
    // A layer has 4 norm vectors, 4 square matrices, 2 of 24 rows or columns, and their biases; beside them patches, positions and a norm.
    let vision = 3 * (4 * 16 + 4 * (16 * 16 + 16) + 2 * 24 * 16 + 24 + 16) + (16 * 3 * 4 * 4 + 16) + 16 * 16 + 2 * 16;
    let counted = |path: &str| {
        let count = done(at, &["count", path, "--json"]);
        let rows = count["by_component"].as_array().unwrap().clone();
        rows.into_iter().map(|row| (row["component"].as_str().unwrap().to_owned(), row["parameters"].as_u64().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(counted("mm.gguf"), [("vision".to_owned(), vision), ("projector".to_owned(), 32 * 64)]);
    let whole = counted("model");
    assert!(whole.contains(&("vision".to_owned(), vision)) && whole.contains(&("projector".to_owned(), 32 * 64)), "{whole:?}");
    for path in ["mm.gguf", "model", "out.gguf"] {
        let verify = done(at, &["verify", path, "--json"]);
        assert_eq!(verify["findings"], json!([]), "{path}");
    }
}

#[test]
fn a_tensor_that_an_encoder_lacks_is_named() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    model(at);
    let path = at.join("model/model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let name = b"model.vision_model.post_layernorm.bias";
    let place = bytes.windows(name.len()).position(|window| window == name).unwrap();
    let mut changed = bytes;
    changed[place + name.len() - 4..place + name.len()].copy_from_slice(b"bits");
    fs::write(&path, changed).unwrap();
    let out = weigh(at, &["verify", "model", "--json"]);
    let verify: Json = serde_json::from_slice(&out.stdout).unwrap();
    let found: Vec<_> = verify["findings"].as_array().unwrap().iter().map(|row| (row["code"].clone(), row["tensor"].clone())).collect();
    let expected = [
        (json!("arch-missing"), json!("model.vision_model.post_layernorm.bias")),
        (json!("arch-extra"), json!("model.vision_model.post_layernorm.bits")),
    ];
    assert_eq!(found, expected);
}
