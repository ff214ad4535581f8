//! `verify` beyond the structure of files: values, what the architecture asks for, digests; one test for each code.

use std::fs;
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};
use weigh::DType;
use weigh::base::finding::Severity;
use weigh::model::Metadata;
use weigh::ops::edit::{Change, Destination, edit};
use weigh::ops::verify::{Options, verify};

use crate::build::{Gguf, tensor, write};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A copy of the tiny Llama's folder.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("llama-tiny")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

/// A copy of the tiny Llama in GGUF.
fn gguf() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    fs::copy(fixture("llama-tiny-q8_0.gguf"), &path).unwrap();
    (folder, path)
}

fn codes(path: &Path, options: &Options<'_>) -> Vec<(&'static str, Severity)> {
    verify(path, options).unwrap().findings.iter().map(|finding| (finding.code, finding.severity)).collect()
}

/// The codes that `verify` has for a model, without its values and with them.
fn found(path: &Path) -> (Vec<&'static str>, Vec<&'static str>) {
    let names = |data| codes(path, &Options { data, ..Options::default() }).into_iter().map(|(code, _)| code).collect();
    (names(false), names(true))
}

/// Replaces bytes of a file by as many others; they must be there.
fn patch(path: &Path, old: &str, new: &str) {
    let mut bytes = fs::read(path).unwrap();
    assert_eq!(old.len(), new.len());
    let at = bytes.windows(old.len()).position(|window| window == old.as_bytes()).unwrap();
    bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
    fs::write(path, bytes).unwrap();
}

fn set_config(folder: &Path, key: &str, value: serde_json::Value) {
    let path = folder.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

/// A file of one tensor.
fn single(dtype: DType, shape: &[u64], bytes: Vec<u8>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    write("gguf", &path, &[tensor("w", dtype, shape, bytes)], &Metadata::new(), None);
    (folder, path)
}

fn only_with_data(path: &Path, code: &str) {
    assert_eq!(found(path), (vec![], vec![code]));
}

#[test]
fn fixtures_are_sound() {
    for name in ["llama-tiny", "llama-tiny-q8_0.gguf", "lora/base", "lora/adapter", "packed"] {
        assert_eq!(codes(&fixture(name), &Options { data: true, ..Options::default() }), [], "{name}");
    }
}

#[test]
fn data_nan() {
    let values = [1.0, f32::NAN, 2.0];
    only_with_data(&single(DType::F32, &[3], values.iter().flat_map(|value| value.to_le_bytes()).collect()).1, "data-nan");
}

#[test]
fn data_infinite() {
    only_with_data(&single(DType::BF16, &[2], vec![0x80, 0x3f, 0x80, 0xff]).1, "data-infinite");
}

#[test]
fn data_scale() {
    let mut bytes = vec![1; 34 * 3];
    bytes[34..36].copy_from_slice(&[0, 0x7c]);
    let (_folder, path) = single(DType::Q8_0, &[96], bytes);
    only_with_data(&path, "data-scale");
    let verdict = verify(&path, &Options { data: true, ..Options::default() }).unwrap();
    let start = weigh::open(&path).unwrap().model().tensors[0].offset_bytes;
    assert!(!verdict.ok);
    assert_eq!((verdict.findings[0].offset, verdict.findings[0].tensor.as_deref()), (Some(start + 34), Some("w")));
}

#[test]
fn data_range() {
    let mut bytes = vec![0x11; 66];
    bytes[3] = 0b1100;
    bytes[64..].copy_from_slice(&[0x00, 0x3c]);
    only_with_data(&single(DType::TQ2_0, &[256], bytes).1, "data-range");
}

#[test]
fn data_zero() {
    only_with_data(&single(DType::F16, &[2, 8], vec![0; 32]).1, "data-zero");
}

#[test]
fn a_bias_may_be_zero() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let name = "model.layers.0.self_attn.q_proj.bias";
    write("safetensors", &path, &[tensor(name, DType::F16, &[16], vec![0; 32])], &Metadata::new(), None);
    assert_eq!(codes(&path, &Options { data: true, ..Options::default() }), []);
}

#[test]
fn faults_are_found_past_the_first_piece_that_a_thread_takes() {
    let mut bytes = vec![1; 9 << 20];
    let at = bytes.len() - 6;
    bytes[at..at + 2].copy_from_slice(&[0, 0x7e]);
    let (_folder, path) = single(DType::F16, &[9 << 19], bytes);
    let verdict = verify(&path, &Options { data: true, ..Options::default() }).unwrap();
    let start = weigh::open(&path).unwrap().model().tensors[0].offset_bytes;
    assert_eq!((verdict.findings.len(), verdict.findings[0].offset), (1, Some(start + at as u64)));
}

#[test]
fn arch_missing_and_arch_extra() {
    let folder = folder();
    patch(&folder.path().join("model.safetensors"), "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.uq_proj.weight");
    assert_eq!(found(folder.path()).0, ["arch-missing", "arch-extra"]);
    let (_folder, path) = gguf();
    patch(&path, "blk.1.ffn_up.weight", "blk.1.ffn_uq.weight");
    assert_eq!(found(&path).0, ["arch-missing", "arch-extra"]);
}

#[test]
fn an_output_matrix_is_missing_where_the_config_does_not_tie_it() {
    let folder = folder();
    set_config(folder.path(), "tie_word_embeddings", false.into());
    let verdict = verify(folder.path(), &Options::default()).unwrap();
    let missing: Vec<_> = verdict.findings.iter().map(|finding| (finding.code, finding.tensor.as_deref())).collect();
    assert_eq!(missing, [("arch-missing", Some("lm_head.weight"))]);
}

#[test]
fn tensors_of_a_whole_layer_are_missing() {
    let folder = folder();
    set_config(folder.path(), "num_hidden_layers", 3.into());
    let (codes, _) = found(folder.path());
    assert_eq!(codes, vec!["arch-missing"; 9]);
}

#[test]
fn arch_shape() {
    let folder = folder();
    set_config(folder.path(), "intermediate_size", 96.into());
    assert_eq!(found(folder.path()).0, vec!["arch-shape"; 6]);
    let (_folder, path) = gguf();
    edit(&path, &[Change::Set("llama.feed_forward_length=u32:96".into())], &Destination::InPlace).unwrap();
    assert_eq!(found(&path).0, vec!["arch-shape"; 6]);
}

#[test]
fn arch_config() {
    let (_folder, path) = gguf();
    edit(&path, &[Change::Remove("llama.block_count".into())], &Destination::InPlace).unwrap();
    assert_eq!(found(&path).0, ["arch-config"]);
}

#[test]
fn arch_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    fs::write(&path, Gguf::default().key_str("general.architecture", "never-heard-of").f32("w", &[3]).build()).unwrap();
    assert_eq!(codes(&path, &Options::default()), [("arch-unknown", Severity::Note)]);
}

#[test]
fn arch_rows() {
    let (_folder, path) = gguf();
    let tokens: Vec<String> = (0..330).map(|i| format!("t{i}")).collect();
    let list = |what: &str, values: serde_json::Value| Change::Set(format!("tokenizer.ggml.{what}={values}"));
    let changes = [list("tokens", tokens.into()), list("token_type", vec![1; 330].into())];
    edit(&path, &changes, &Destination::InPlace).unwrap();
    assert_eq!(found(&path).0, ["arch-rows"]);
}

#[test]
fn arch_tokens() {
    let folder = folder();
    let path = folder.path().join("tokenizer.json");
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    tokenizer["model"]["vocab"]["one too many"] = 325.into();
    fs::write(path, tokenizer.to_string()).unwrap();
    assert_eq!(found(folder.path()).0, ["arch-tokens"]);
}

#[test]
fn arch_tied() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    let reader = weigh::open(&path).unwrap();
    let mut tensors: Vec<_> = reader.model().tensors.iter().map(|t| (t, reader.bytes(t).unwrap().into_owned())).collect();
    let embedding = tensors.iter().find(|(tensor, _)| tensor.name == "model.embed_tokens.weight").unwrap().clone();
    tensors.push(embedding);
    let names = |(i, (t, bytes)): (usize, &(&weigh::model::TensorInfo, Vec<u8>))| {
        let name = if i + 1 == tensors.len() { "lm_head.weight" } else { &t.name };
        tensor(name, t.elem.known().unwrap(), &t.shape, bytes.clone())
    };
    let mut out: Vec<_> = tensors.iter().enumerate().map(names).collect();
    fs::remove_file(&path).unwrap();
    write("safetensors", &path, &out, &Metadata::new(), None);
    assert_eq!(found(folder.path()), (vec![], vec![]), "the same values may be stored twice");
    out.last_mut().unwrap().1[1000] ^= 1;
    fs::remove_file(&path).unwrap();
    write("safetensors", &path, &out, &Metadata::new(), None);
    only_with_data(folder.path(), "arch-tied");
}

/// A small file, and the digests that stores name it by.
fn small() -> (Vec<u8>, String, String) {
    let bytes = Gguf::default().tensor("w", 24, &[3], vec![1, 2, 3]).build();
    let hex = |digest: &[u8]| digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let git = Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(&bytes).finalize();
    let sha256 = hex(&Sha256::digest(&bytes));
    (bytes, sha256, hex(&git))
}

#[test]
fn blob_digest() {
    let (bytes, sha256, git) = small();
    for name in [sha256.clone(), format!("sha256-{sha256}"), git.clone()] {
        let folder = tempfile::tempdir().unwrap();
        let blob = folder.path().join("blobs").join(name);
        let link = folder.path().join("model.gguf");
        fs::create_dir(folder.path().join("blobs")).unwrap();
        fs::write(&blob, &bytes).unwrap();
        std::os::unix::fs::symlink(&blob, &link).unwrap();
        assert_eq!(found(&link), (vec![], vec![]));
        let mut changed = bytes.clone();
        let last = changed.len() - 30;
        changed[last] ^= 1;
        fs::write(&blob, changed).unwrap();
        only_with_data(&link, "blob-digest");
    }
}

#[test]
fn blob_digest_of_a_download_into_a_folder() {
    let (bytes, sha256, _) = small();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let records = folder.path().join(".cache/huggingface/download");
    fs::create_dir_all(&records).unwrap();
    fs::write(&path, &bytes).unwrap();
    fs::write(records.join("model.gguf.metadata"), format!("{}\n{sha256}\n1.5\n", "0".repeat(40))).unwrap();
    assert_eq!(found(&path), (vec![], vec![]));
    fs::write(records.join("model.gguf.metadata"), format!("{0}\n{0}{0}\n1.5\n", "0".repeat(32))).unwrap();
    only_with_data(&path, "blob-digest");
}

#[test]
fn manifest_digest_and_manifest_entry() {
    let (bytes, sha256, _) = small();
    let folder = tempfile::tempdir().unwrap();
    let (path, manifest) = (folder.path().join("model.gguf"), folder.path().join("SHA256SUMS"));
    fs::write(&path, &bytes).unwrap();
    let wrong = "0".repeat(64);
    let check = |lines: &str| {
        fs::write(&manifest, lines).unwrap();
        verify(&path, &Options { manifest: Some(&manifest), ..Options::default() })
            .map(|verdict| verdict.findings.iter().map(|finding| finding.code).collect::<Vec<_>>())
    };
    let none: [&str; 0] = [];
    assert_eq!(check(&format!("{sha256}  model.gguf\n{wrong}  other.gguf\n")).unwrap(), none);
    assert_eq!(check(&format!("SHA256 (model.gguf) = {sha256}\n")).unwrap(), none);
    assert_eq!(check(&format!("{wrong} *model.gguf\n")).unwrap(), ["manifest-digest"]);
    assert!(check(&format!("{wrong}  other.gguf\n")).unwrap_err().to_string().contains("of this model"));
    assert!(check("nothing of the kind\n").is_err());
    let hash = weigh::ops::hash::hash(&weigh::open(&path).unwrap(), &[weigh::ops::hash::Algorithm::Xxh64], true).unwrap();
    let model = &hash[0].model;
    assert_eq!(check(&format!("xxh64  {model}  model.gguf:w\nxxh64  {model}  model.gguf\n")).unwrap(), none);
    assert_eq!(check(&format!("xxh64  {model}  model.gguf\nxxh64  {model}  model.gguf:v\n")).unwrap(), ["manifest-entry"]);
    assert_eq!(check("xxh64  0000000000000000  model.gguf\n").unwrap(), ["manifest-digest"]);
}

#[test]
fn a_manifest_finds_a_renamed_file_by_its_digest() {
    let (bytes, sha256, _) = small();
    let folder = tempfile::tempdir().unwrap();
    let (path, manifest) = (folder.path().join("renamed.gguf"), folder.path().join("SHA256SUMS"));
    fs::write(&path, &bytes).unwrap();
    let other = "0".repeat(64);
    let check = |lines: &str| {
        fs::write(&manifest, lines).unwrap();
        verify(&path, &Options { manifest: Some(&manifest), ..Options::default() })
    };
    for lines in [format!("{sha256}  published.gguf\n"), format!("{other}  other.gguf\nSHA256 (published.gguf) = {sha256}\n")] {
        let verdict = check(&lines).unwrap();
        assert_eq!((verdict.ok, verdict.findings.len()), (true, 1));
        let finding = &verdict.findings[0];
        assert_eq!((finding.code, finding.severity), ("manifest-name", Severity::Note));
        assert!(finding.message.contains("published.gguf"), "{}", finding.message);
    }
    let error = check(&format!("{other}  published.gguf\n")).unwrap_err().to_string();
    assert!(error.contains("neither by name nor by digest: it lists published.gguf"), "{error}");
    // The name counts before the digest: a file of the right name and another content is not sound.
    assert!(!check(&format!("{other}  renamed.gguf\n{sha256}  published.gguf\n")).unwrap().ok);
}

#[test]
fn a_manifest_of_shards_lists_every_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let tensors = ["a", "b"].map(|name| tensor(name, DType::U8, &[4], name.repeat(4).into_bytes()));
    let files = write("safetensors", &path, &tensors, &Metadata::new(), Some(4));
    let line = |path: &Path| {
        let hex: String = Sha256::digest(fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{hex}  ./{}\n", path.file_name().unwrap().to_str().unwrap())
    };
    let manifest = folder.path().join("SHA256SUMS");
    let shards: Vec<_> = files.iter().filter(|path| path.extension().is_some_and(|end| end == "safetensors")).collect();
    fs::write(&manifest, shards.iter().map(|path| line(path)).collect::<String>()).unwrap();
    let check = || codes(folder.path(), &Options { manifest: Some(&manifest), ..Options::default() });
    assert_eq!((shards.len(), check()), (2, vec![]));
    fs::write(&manifest, line(shards[0])).unwrap();
    assert_eq!(check(), [("manifest-entry", Severity::Warning)]);
}
