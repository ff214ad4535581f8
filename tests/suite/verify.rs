//! `verify` beyond the structure of files: values, what the architecture asks for, digests; one test for each code.

use std::fs;
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};
use weigh::DType;
use weigh::base::Hint;
use weigh::base::finding::Severity;
use weigh::model::Metadata;
use weigh::ops::edit::{Change, Destination, Editing, edit, edit_with};
use weigh::ops::verify::{Options, verify};

use crate::build::{self, Gguf, tensor, write};

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
fn fixtures_are_valid() {
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
    let start = weigh::format::open(&path).unwrap().model().tensors[0].offset_bytes;
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
fn a_vector_of_zeros_is_found_unless_it_is_a_bias() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let vector = |name: &str, bytes: Vec<u8>| tensor(name, DType::F32, &[4], bytes);
    let tensors = [
        vector("a.bias", vec![0; 16]),
        vector("norm.weight", vec![0; 16]),
        tensor("scale", DType::F32, &[1], vec![0; 4]),
        tensor("table.bias", DType::I8, &[4, 8], vec![0; 32]),
    ];
    write("gguf", &path, &tensors, &Metadata::new(), None);
    let verdict = verify(&path, &Options { data: true, ..Options::default() }).unwrap();
    let found: Vec<_> = verdict.findings.iter().map(|finding| (finding.code, finding.severity, finding.tensor.as_deref())).collect();
    // But a matrix has values whatever it is called.
    assert_eq!(found, ["norm.weight", "table.bias"].map(|name| ("data-zero", Severity::Warning, Some(name))));
}

/// A file of three tensors of ones, of which bytes in `zeros`, counted from the start of the data, are zero.
fn with_hole(zeros: std::ops::Range<usize>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    // 200,000 bytes each, which is a multiple of the alignment.
    let tensors = ["a", "b", "c"].map(|name| tensor(name, DType::I8, &[500, 400], vec![1; 200_000]));
    write("gguf", &path, &tensors, &Metadata::new(), None);
    let start = weigh::format::open(&path).unwrap().model().tensors[0].offset_bytes as usize;
    let mut bytes = fs::read(&path).unwrap();
    bytes[start..][zeros].fill(0);
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

#[test]
fn data_zero_run() {
    let look = |zeros: std::ops::Range<usize>| {
        let (_folder, path) = with_hole(zeros);
        let start = weigh::format::open(&path).unwrap().model().tensors[0].offset_bytes;
        let verdict = verify(&path, &Options { data: true, ..Options::default() }).unwrap();
        assert!(verdict.ok, "a warning");
        verdict
            .findings
            .into_iter()
            .map(|found| (found.code, found.offset.unwrap() - start, found.tensors, found.message))
            .collect::<Vec<_>>()
    };
    let of = |found: &[(&'static str, u64, Vec<String>, String)]| {
        found.iter().map(|(code, offset, tensors, _)| (*code, *offset, tensors.join(" "))).collect::<Vec<_>>()
    };
    // 64 KiB to the byte, and a byte less of other rows than whole ones.
    assert_eq!(of(&look(1_001..1_001 + 65_536)), [("data-zero-run", 1_001, String::new())]);
    assert_eq!(of(&look(1_001..1_001 + 20_000)), []);
    // The first and the last row that are whole, of rows of 400 bytes: 64 of them, and 63.
    let rows = look(801..800 + 400 * 66);
    assert_eq!(of(&rows), [("data-zero-run", 801, String::new())]);
    assert!(rows[0].3.contains("rows 3 to 67 of 500"), "{}", rows[0].3);
    assert_eq!(of(&look(1_200..1_200 + 400 * 64)), [("data-zero-run", 1_200, String::new())]);
    assert_eq!(of(&look(1_200..1_200 + 400 * 63)), []);
    // Over the ends of tensors: one run, and the tensor that it holds whole is not told again.
    let run = look(150_000..450_000);
    assert_eq!(of(&run), [("data-zero-run", 150_000, "a b c".to_owned())]);
    assert!(run[0].3.contains("300,000 zero bytes, in 3 tensors"), "{}", run[0].3);
    // Short parts of two tensors make a long run.
    assert_eq!(of(&look(165_000..235_000)), [("data-zero-run", 165_000, "a b".to_owned())]);
    // A tensor by itself.
    assert_eq!(of(&look(200_000..400_000)), [("data-zero", 200_000, String::new())]);
}

#[test]
fn a_run_of_zeros_is_found_across_chunks() {
    let mut bytes = vec![1; 9 << 20];
    bytes[(4 << 20) - 40_000..(4 << 20) + 40_000].fill(0);
    let (_folder, path) = single(DType::I8, &[9 << 20], bytes);
    let verdict = verify(&path, &Options { data: true, ..Options::default() }).unwrap();
    let start = weigh::format::open(&path).unwrap().model().tensors[0].offset_bytes;
    let found: Vec<_> = verdict.findings.iter().map(|finding| (finding.code, finding.offset.unwrap() - start)).collect();
    assert_eq!(found, [("data-zero-run", (4 << 20) - 40_000)]);
    assert!(verdict.findings[0].message.contains("80,000 zero bytes"));
}

#[test]
fn the_report_says_what_was_checked() {
    let checked = |path: &Path, data| {
        let found = verify(path, &Options { data, ..Options::default() }).unwrap().checked;
        (found.structure, found.values, found.digests)
    };
    assert_eq!(checked(&fixture("llama-tiny"), false), (20, 0, 0));
    assert_eq!(checked(&fixture("llama-tiny"), true), (20, 20, 0));
    // A type that nobody knows has no values to read.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    fs::write(&path, Gguf::default().f32("a", &[8]).tensor("b", 99, &[8], vec![1; 32]).build()).unwrap();
    assert_eq!(checked(&path, true), (2, 1, 0));
}

#[test]
fn strict_makes_a_warning_an_error_and_a_note_none() {
    let ok = |path: &Path, strict| verify(path, &Options { strict, ..Options::default() }).unwrap().ok;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    fs::write(&path, Gguf::default().f32(&"x".repeat(64), &[3]).build()).unwrap();
    assert_eq!((ok(&path, false), ok(&path, true)), (true, false));
    fs::write(&path, Gguf::default().key_str("general.architecture", "never-heard-of").f32("w", &[3]).build()).unwrap();
    assert_eq!((ok(&path, false), ok(&path, true)), (true, true));
}

#[test]
fn a_file_that_is_no_model_is_a_finding() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("page.gguf", &b"<!DOCTYPE html><html>"[..]),
        ("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
        ("empty.gguf", b""),
        ("archive.gguf", b"\x1f\x8b\x08"),
        ("notes.txt", b"nothing of the kind"),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        assert_eq!(codes(&path, &Options::default()), [("file-foreign", Severity::Error)], "{name}");
    }
    assert!(verify(&folder.path().join("nothing"), &Options::default()).is_err());
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
fn invalid_values_are_found_beyond_the_first_chunk() {
    let mut bytes = vec![1; 9 << 20];
    let at = bytes.len() - 6;
    bytes[at..at + 2].copy_from_slice(&[0, 0x7e]);
    let (_folder, path) = single(DType::F16, &[9 << 19], bytes);
    let verdict = verify(&path, &Options { data: true, ..Options::default() }).unwrap();
    let start = weigh::format::open(&path).unwrap().model().tensors[0].offset_bytes;
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
    edit(&path, &[build::change("llama.feed_forward_length=u32:96")], &Destination::InPlace).unwrap();
    assert_eq!(found(&path).0, vec!["arch-shape"; 6]);
}

#[test]
fn arch_config() {
    let (_folder, path) = gguf();
    // What a file without token embeddings lacks, llama.cpp does not ask for.
    patch(&path, "token_embd.weight", "token_embe.weight");
    edit_with(
        &path,
        &[Change::Remove("llama.block_count".into())],
        &Destination::InPlace,
        Editing { force: true, waiting: &mut |_| (), progress: None },
    )
    .unwrap();
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
    let list = |what: &str, values: serde_json::Value| Change::SetText(format!("tokenizer.ggml.{what}"), values.to_string());
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
    let reader = weigh::format::open(&path).unwrap();
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
    // The values count, not the bytes: the output matrix in single precision.
    let (_, bytes) = out.last().unwrap();
    let elem = out.last().unwrap().0.elem.known().unwrap();
    let mut values = vec![0.0f32; bytes.len() / elem.info().block_bytes as usize];
    (weigh::codec::codec(elem).unwrap().decode)(&tensors.last().unwrap().1, &mut values);
    let shape = out.last().unwrap().0.shape.clone();
    for differs in [false, true] {
        values[100] += f32::from(u8::from(differs));
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        *out.last_mut().unwrap() = tensor("lm_head.weight", DType::F32, &shape, bytes);
        fs::remove_file(&path).unwrap();
        write("safetensors", &path, &out, &Metadata::new(), None);
        assert_eq!(found(folder.path()).1, if differs { vec!["arch-tied"] } else { vec![] });
    }
}

#[test]
fn arch_tied_of_a_family_that_has_no_output_matrix_of_its_own() {
    // Gemma 2, with an lm_head.weight that differs from the embeddings in one byte; what transformers and llama.cpp load is the embeddings.
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture("gemma2-other-head").join(name), folder.path().join(name)).unwrap();
    }
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
fn every_digest_that_was_compared_is_counted() {
    let (bytes, sha256, _) = small();
    let folder = tempfile::tempdir().unwrap();
    let (path, manifest) = (folder.path().join("model.gguf"), folder.path().join("SHA256SUMS"));
    let records = folder.path().join(".cache/huggingface/download");
    fs::create_dir_all(&records).unwrap();
    fs::write(&path, &bytes).unwrap();
    fs::write(records.join("model.gguf.metadata"), format!("{}\n{sha256}\n1.5\n", "0".repeat(40))).unwrap();
    fs::write(&manifest, format!("{sha256}  model.gguf\n")).unwrap();
    for (data, listed, count) in [(false, false, 0), (true, false, 1), (false, true, 1), (true, true, 2)] {
        let options = Options { data, manifest: listed.then_some(manifest.as_path()), ..Options::default() };
        assert_eq!(verify(&path, &options).unwrap().checked.digests, count, "values {data}, manifest {listed}");
    }
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
    assert!(check(&format!("{wrong}  other.gguf\n")).unwrap_err().to_string().contains("no line matches this model"));
    assert!(check("nothing of the kind\n").is_err());
    let hash = weigh::ops::hash::hash(&weigh::format::open(&path).unwrap(), &[weigh::ops::hash::Algorithm::Xxh64], true).unwrap();
    let model = &hash[0].model;
    assert_eq!(check(&format!("xxh64  {model}  model.gguf:w\nxxh64  {model}  model.gguf\n")).unwrap(), none);
    assert_eq!(check(&format!("xxh64  {model}  model.gguf\nxxh64  {model}  model.gguf:v\n")).unwrap(), ["manifest-entry"]);
    assert_eq!(check("xxh64  0000000000000000  model.gguf\n").unwrap(), ["manifest-digest"]);
    assert!(check("xxh64  0000000000000000  other.gguf\n").unwrap_err().to_string().contains("the manifest has no lines for this model"));
}

#[test]
fn a_manifest_covers_companion_files_too() {
    let folder = folder();
    let line = |name: &str| {
        let hex: String = Sha256::digest(fs::read(folder.path().join(name)).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{hex}  {name}\n")
    };
    let manifest = folder.path().join("SHA256SUMS");
    let weights = line("model.safetensors");
    let check = |lines: String| {
        fs::write(&manifest, lines).unwrap();
        let verdict = verify(folder.path(), &Options { manifest: Some(&manifest), ..Options::default() }).unwrap();
        (verdict.findings.iter().map(|finding| finding.code).collect::<Vec<_>>(), verdict.checked.digests)
    };
    assert_eq!(check(weights.clone() + &line("config.json")), (vec![], 2));
    assert_eq!(check(format!("{weights}{}  config.json\n", "0".repeat(64))), (vec!["manifest-digest"], 2));
    // What is not there is of no concern.
    assert_eq!(check(format!("{weights}{}  nothing.json\n", "0".repeat(64))), (vec![], 1));
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
    assert!(error.contains("no line matches this model by name or by digest: the manifest lists published.gguf"), "{error}");
    let names = |count: usize| (0..count).map(|i| format!("{other}  {i}.gguf\n")).collect::<String>();
    let listed = |count| check(&names(count)).unwrap_err().to_string();
    assert!(listed(3).contains("the manifest lists 0.gguf, 1.gguf, 2.gguf") && !listed(3).contains("..."), "{}", listed(3));
    assert!(listed(4).contains("the manifest lists 0.gguf, 1.gguf, 2.gguf, ..."), "{}", listed(4));
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

/// The keys of the tiny Llama, changed one at a time. llama.cpp (of 2026) loads the file as it is, and refuses it after every one of these
/// changes: "key not found in model", "has wrong type", "cannot find tokenizer", "has wrong array length".
#[test]
fn keys_that_llama_cpp_needs_and_their_types() {
    let refused = |change: &Change| {
        let (_folder, path) = gguf();
        let error = edit(&path, std::slice::from_ref(change), &Destination::InPlace).unwrap_err();
        assert_eq!(error.hints(), [Hint::ForceChange], "{error}");
        assert!(error.code().is_some_and(|code| code.starts_with("gguf-")), "{error:?}");
        edit_with(
            &path,
            std::slice::from_ref(change),
            &Destination::InPlace,
            Editing { force: true, waiting: &mut |_| (), progress: None },
        )
        .unwrap();
        codes(&path, &Options::default())
            .into_iter()
            .filter(|(_, severity)| *severity == Severity::Error)
            .map(|(code, _)| code)
            .collect::<Vec<_>>()
    };
    for key in [
        "general.architecture",
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
        "tokenizer.ggml.model",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.merges",
    ] {
        assert_eq!(refused(&Change::Remove(key.into())), ["gguf-key-missing"], "{key}");
    }
    for given in [
        "general.architecture=u32:1",
        "general.name=f32:1",
        "general.file_type=u64:7",
        "llama.block_count=i32:2",
        "llama.context_length=string:abc",
        "llama.embedding_length=u64:64",
        "llama.feed_forward_length=u32[]:[1]",
        "llama.attention.head_count=f32:4",
        "llama.attention.head_count_kv=u16:2",
        "llama.attention.key_length=string:a",
        "llama.attention.layer_norm_rms_epsilon=f64:0.1",
        "llama.rope.freq_base=u32:10000",
        "llama.vocab_size=f32:1",
        "tokenizer.ggml.model=u32:1",
        "tokenizer.ggml.pre=bool:true",
        "tokenizer.ggml.tokens=u32[]:[1,2]",
        "tokenizer.ggml.token_type=f32[]:[1]",
        "tokenizer.ggml.merges=string:a",
        "tokenizer.ggml.bos_token_id=i32:1",
        "tokenizer.ggml.add_bos_token=u32:1",
    ] {
        assert!(refused(&build::change(given)).contains(&"gguf-key-type"), "{given}");
    }
    // And these it takes.
    for (change, warned) in [
        (Change::Remove("general.name".into()), None),
        (Change::Remove("llama.rope.freq_base".into()), None),
        (Change::Remove("tokenizer.ggml.pre".into()), None),
        (Change::Remove("tokenizer.ggml.token_type".into()), None),
        (build::change("llama.attention.head_count_kv=u32[]:[2,2]"), None),
        (build::change("llama.feed_forward_length=i32[]:[128,128]"), None),
        (build::change("general.size_label=u32:1"), Some("gguf-key-type")),
        (build::change("tokenizer.chat_template=u32:1"), Some("gguf-key-type")),
    ] {
        let (_folder, path) = gguf();
        edit_with(
            &path,
            std::slice::from_ref(&change),
            &Destination::InPlace,
            Editing { force: true, waiting: &mut |_| (), progress: None },
        )
        .unwrap();
        let found = codes(&path, &Options::default());
        let keys: Vec<_> = found.iter().filter(|(code, _)| code.starts_with("gguf-key")).map(|(code, _)| *code).collect();
        assert_eq!(keys, warned.into_iter().collect::<Vec<_>>(), "{change:?}");
        assert!(found.iter().all(|(_, severity)| *severity < Severity::Error), "{change:?}: {found:?}");
    }
}

#[test]
fn what_is_no_model_of_its_own_needs_no_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let missing = |gguf: Gguf| {
        fs::write(&path, gguf.build()).unwrap();
        codes(&path, &Options::default())
            .into_iter()
            .filter(|(code, _)| *code == "gguf-key-missing")
            .map(|(_, severity)| severity)
            .collect::<Vec<_>>()
    };
    let with = |gguf: Gguf| gguf.f32("token_embd.weight", &[8, 4]);
    assert_eq!(missing(with(Gguf::default())), [Severity::Error]);
    for kind in ["adapter", "imatrix", "mmproj"] {
        assert_eq!(missing(with(Gguf::default().key_str("general.type", kind))), [], "{kind}");
    }
    assert_eq!(missing(with(Gguf::default().key_str("general.architecture", "clip"))), []);
    // A vocabulary, or tensors of something else.
    assert_eq!(missing(Gguf::default().key_str("general.architecture", "llama")), []);
    assert_eq!(missing(Gguf::default().f32("w", &[8])), []);
    // A model of a converter that was given no tokenizer: only a warning for that.
    let bare = |arch: &str| {
        ["context_length", "embedding_length", "block_count"]
            .iter()
            .fold(Gguf::default().key_str("general.architecture", arch), |gguf, key| gguf.key_u32(&format!("{arch}.{key}"), 1))
    };
    assert_eq!(missing(with(bare("never-heard-of"))), [Severity::Warning]);
    assert_eq!(missing(with(bare("never-heard-of").key_str("tokenizer.ggml.model", "none"))), []);
    assert_eq!(missing(with(bare("never-heard-of").key_str("tokenizer.ggml.model", "gpt2"))), [Severity::Error; 2], "tokens and merges");
}
