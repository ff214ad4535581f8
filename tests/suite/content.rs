//! `hash --content`: one hash for one model, in whatever files it is.

use std::fs;
use std::path::{Path, PathBuf};

use weigh::DType;
use weigh::family::tables::Tables;
use weigh::model::Metadata;
use weigh::ops::convert::{Options, Plan, run};
use weigh::ops::hash::{Algorithm, HashReport, hash, hash_content};

use crate::build::{tensor, write};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/llama-tiny")
}

fn content(path: &Path) -> HashReport {
    hash_content(&weigh::format::open(path).unwrap(), &Tables::default(), &[Algorithm::Sha256], true).unwrap().remove(0)
}

fn stored(path: &Path) -> String {
    hash(&weigh::format::open(path).unwrap(), &[Algorithm::Sha256], false).unwrap().remove(0).model
}

fn convert(input: &Path, output: &Path, options: &Options) {
    let reader = weigh::format::open(input).unwrap();
    let plan = Plan::new(&reader, output, options).unwrap();
    run(&reader, &plan, &|_| ()).unwrap();
}

#[test]
fn a_folder_and_its_gguf_have_equal_hashes_both_ways() {
    let at = tempfile::tempdir().unwrap();
    let (gguf, back) = (at.path().join("m.gguf"), at.path().join("back"));
    convert(&folder(), &gguf, &Options::default());
    convert(&gguf, &back, &Options::default());
    let want = content(&folder());
    assert!(want.tensors.iter().any(|tensor| tensor.name == "blk.1.attn_q.weight"));
    assert_eq!(content(&gguf), want);
    assert_eq!(content(&back), want);
    assert_ne!(stored(&gguf), stored(&folder()));
}

#[test]
fn shards_do_not_change_it() {
    let at = tempfile::tempdir().unwrap();
    let (gguf, shards) = (at.path().join("split.gguf"), at.path().join("shards"));
    let small = Options { shard_bytes: Some(50_000), ..Options::default() };
    convert(&folder(), &gguf, &small);
    let first = at.path().join("split-00001-of-00005.gguf");
    convert(&first, &shards, &small);
    assert!(shards.join("model.safetensors.index.json").exists());
    assert_eq!(content(&first), content(&folder()));
    assert_eq!(content(&shards), content(&folder()));
}

#[test]
fn the_hash_depends_on_everything_but_the_order_of_the_file() {
    let at = tempfile::tempdir().unwrap();
    let hash_of = |id: &str, tensors: &[(&str, DType, &[u64], &[u8])]| {
        let path = at.path().join(format!("m.{id}"));
        let tensors: Vec<_> = tensors.iter().map(|(name, dtype, shape, bytes)| tensor(name, *dtype, shape, bytes.to_vec())).collect();
        write(id, &path, &tensors, &Metadata::new(), None);
        let model = content(&path).model;
        fs::remove_file(path).unwrap();
        model
    };
    let a: (&str, DType, &[u64], &[u8]) = ("a", DType::F16, &[2, 1], &[1, 2, 3, 4]);
    let b: (&str, DType, &[u64], &[u8]) = ("b", DType::I8, &[4], &[5, 6, 7, 8]);
    let want = hash_of("gguf", &[a, b]);
    for id in ["gguf", "safetensors"] {
        assert_eq!(hash_of(id, &[a, b]), want);
        assert_eq!(hash_of(id, &[b, a]), want);
        let others: [(&str, DType, &[u64], &[u8]); 4] = [
            ("c", DType::F16, &[2, 1], &[1, 2, 3, 4]),
            ("a", DType::BF16, &[2, 1], &[1, 2, 3, 4]),
            ("a", DType::F16, &[2], &[1, 2, 3, 4]),
            ("a", DType::F16, &[2, 1], &[1, 2, 3, 5]),
        ];
        others.iter().for_each(|other| assert_ne!(hash_of(id, &[*other, b]), want, "{other:?}"));
    }
}

#[test]
fn one_bit_of_any_tensor_changes_it() {
    let at = tempfile::tempdir().unwrap();
    let path = at.path().join("m.gguf");
    convert(&folder(), &path, &Options::default());
    let (want, good) = (content(&path), fs::read(&path).unwrap());
    let tensors = weigh::format::open(&path).unwrap().model().tensors.clone();
    for tensor in &tensors {
        let mut bytes = good.clone();
        bytes[(tensor.offset_bytes + tensor.len_bytes.unwrap() - 1) as usize] ^= 1;
        fs::write(&path, bytes).unwrap();
        let found = content(&path);
        assert_ne!(found.model, want.model);
        let changed: Vec<_> = found.tensors.iter().zip(&want.tensors).filter(|(a, b)| a != b).map(|(a, _)| &a.name).collect();
        assert_eq!(changed, [&tensor.name]);
    }
}

#[test]
fn lines_say_that_they_are_of_content_and_are_checked_across_formats() {
    let at = tempfile::tempdir().unwrap();
    convert(&folder(), &at.path().join("m.gguf"), &Options::default());
    let weigh = |args: &[&str]| {
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_weigh")).args(args).current_dir(at.path()).output().unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap())
    };
    let folder = folder();
    let (status, lines) = weigh(&["hash", "--content", folder.to_str().unwrap()]);
    assert_eq!(status, Some(0));
    assert!(lines.lines().all(|line| line.starts_with("content-sha256  ")), "{lines}");
    fs::write(at.path().join("manifest"), lines).unwrap();
    let (status, said) = weigh(&["hash", "m.gguf", "--content", "--check", "manifest"]);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(weigh(&["verify", "m.gguf", "--manifest", "manifest"]).0, Some(0));
    assert_eq!(weigh(&["hash", "m.gguf", "--content", "--algorithm", "uuid"]).0, Some(2));
}

#[test]
fn the_hash_follows_its_definition() {
    use sha2::{Digest, Sha256};
    // Name, type and dimensions (each as its length in 64 bits and its bytes; no ones at the front), and the values.
    let by_hand = |name: &str, dtype: &str, dims: &str, bytes: &[u8]| {
        let mut hasher = Sha256::new();
        for text in [name, dtype, dims] {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text);
        }
        hasher.update(bytes);
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let at = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..24).collect();
    for (shape, dims) in [(&[1, 1, 3, 2][..], "3x2"), (&[1, 6], "6"), (&[3, 1, 2], "3x1x2"), (&[6, 1], "6x1")] {
        let path = at.path().join("m.safetensors");
        write("safetensors", &path, &[tensor("a", DType::F32, shape, bytes.clone())], &Metadata::new(), None);
        let found = content(&path);
        let expected = by_hand("a", "F32", dims, &bytes);
        assert_eq!(found.tensors[0].hash, expected, "{shape:?}");
        let model: String = Sha256::digest(&expected).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found.model, model);
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn digests_of_whole_files_are_those_of_sha256sum() {
    use sha2::{Digest, Sha256};
    let at = tempfile::tempdir().unwrap();
    let tensors = ["a", "b"].map(|name| tensor(name, DType::U8, &[4], name.repeat(4).into_bytes()));
    write("safetensors", &at.path().join("model.safetensors"), &tensors, &Metadata::new(), Some(4));
    let weigh = |args: &[&str]| {
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_weigh")).args(args).current_dir(at.path()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (out.status.code(), text(out.stdout), text(out.stderr))
    };
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let digest =
        |name: &str| Sha256::digest(fs::read(at.path().join(name)).unwrap()).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let expected: String = shards.iter().map(|name| format!("{}  ./{name}\n", digest(name))).collect();
    let (status, lines, note) = weigh(&["hash", "--file", shards[1]]);
    assert_eq!((status, lines.as_str(), note.as_str()), (Some(0), expected.as_str(), ""), "the whole model, whatever part is named");

    let (_, json, _) = weigh(&["hash", "--file", shards[0], "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let bytes = fs::metadata(at.path().join(shards[0])).unwrap().len();
    let first = serde_json::json!({"file": format!("./{}", shards[0]), "bytes": bytes, "hash": digest(shards[0])});
    assert_eq!((&json["schema"], &json["path"], &json["files"][0]), (&"weigh.hash.v1".into(), &shards[0].into(), &first));

    // The lines are those that verify takes; and hash --check says so, of lines that it does not take.
    fs::write(at.path().join("SHA256SUMS"), &lines).unwrap();
    assert_eq!(weigh(&["verify", shards[0], "--manifest", "SHA256SUMS"]).0, Some(0));
    let (status, _, error) = weigh(&["hash", shards[0], "--check", "SHA256SUMS"]);
    assert!(status == Some(4) && error.contains("verify --manifest"), "{error}");

    // Without --file they are of tensors, which is said; a manifest on standard output holds nothing of that.
    let (_, of_tensors, note) = weigh(&["hash", shards[0], "--no-tensors"]);
    assert!(of_tensors.starts_with("sha256    ") && of_tensors.lines().count() == 1, "{of_tensors}");
    assert!(!of_tensors.contains(&digest(shards[0])) && note.contains("hashes of the tensors, not of the files"), "{note}");
    assert_eq!(weigh(&["hash", shards[0], "--quiet"]).2, "");
    assert_eq!(weigh(&["hash", shards[0], "--file", "--algorithm", "xxh64"]).0, Some(2));

    // Half a download has a digest too.
    fs::write(at.path().join("half.gguf"), b"GGUF").unwrap();
    let (status, lines, note) = weigh(&["hash", "--file", "half.gguf"]);
    assert_eq!((status, lines), (Some(0), format!("{}  half.gguf\n", digest("half.gguf"))));
    assert!(note.contains("only this file is hashed"), "{note}");
}

#[test]
fn progress_adds_up_to_what_is_hashed() {
    use std::sync::atomic::{AtomicU64, Ordering};

    use weigh::ops::hash::{self, hash_files, hashes};

    let path = folder().join("../llama-tiny-q8_0.gguf");
    let manifest = tempfile::NamedTempFile::new().unwrap();
    let digest = hash_files(&path, &[], &|_, _| ()).unwrap().0[0].files[0].hash.clone();
    fs::write(&manifest, format!("{digest}  llama-tiny-q8_0.gguf\n")).unwrap();
    // 94,528 weights in blocks of 32 and 34 bytes, and 328 in four bytes each.
    let (tensors, file) = (94_528 / 32 * 34 + 328 * 4, fs::metadata(&path).unwrap().len());
    let adds_up = |expected: u64, work: &dyn Fn(weigh::ops::Progress<'_>)| {
        let (done, total) = (AtomicU64::new(0), AtomicU64::new(0));
        work(&|bytes, of| {
            done.fetch_add(bytes, Ordering::Relaxed);
            total.store(of, Ordering::Relaxed);
        });
        assert_eq!((done.into_inner(), total.into_inner()), (expected, expected));
    };
    let reader = weigh::format::open(&path).unwrap();
    for (each, content, times) in [(true, false, 2), (false, false, 1), (true, true, 1)] {
        adds_up(tensors * times, &|progress| {
            let options = hash::Options { tensors: each, content, progress: Some(progress), ..hash::Options::default() };
            hashes(&reader, &path, &options).unwrap();
        });
    }
    adds_up(file, &|progress| drop(hash_files(&path, &[], progress).unwrap()));
    adds_up(tensors + file, &|progress| {
        let options = weigh::ops::verify::Options {
            data: true,
            manifest: Some(manifest.path()),
            progress: Some(progress),
            ..weigh::ops::verify::Options::default()
        };
        assert!(weigh::ops::verify::verify(&path, &options).unwrap().ok);
    });
}
