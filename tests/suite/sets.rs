//! Models of several files: shards with and without an index, splits, folders, caches and stores.

use std::fs;
use std::path::Path;

use weigh::DType;
use weigh::base::finding::Severity;
use weigh::model::{Metadata, Value};

use crate::build::{Gguf, safetensors, tensor, write};
use crate::judge::judge_path;

/// A file with one tensor of one byte.
fn shard(name: &str) -> Vec<u8> {
    safetensors(&format!(r#"{{"{name}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#), name.as_bytes())
}

fn index(map: &str) -> String {
    format!(r#"{{"metadata":{{"total_size":2}},"weight_map":{map}}}"#)
}

const MAP: &str = r#"{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}"#;

/// A folder with two shards and their index.
fn sharded(folder: &Path, map: &str) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("model-00001-of-00002.safetensors"), shard("a")).unwrap();
    fs::write(folder.join("model-00002-of-00002.safetensors"), shard("b")).unwrap();
    fs::write(folder.join("model.safetensors.index.json"), index(map)).unwrap();
}

fn names(path: &Path) -> Vec<String> {
    let reader = weigh::format::open(path).unwrap_or_else(|error| panic!("{error}"));
    reader.model().tensors.iter().map(|tensor| tensor.name.clone()).collect()
}

fn refused(path: &Path, code: &str) {
    let (findings, error) = judge_path(path);
    let error = error.unwrap_or_else(|| panic!("{code}: opened"));
    assert!(findings.iter().any(|f| f.code == code && f.severity == Severity::Error), "expected {code}, found {error} and {findings:?}");
}

#[test]
fn any_part_of_a_sharded_model_opens_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    sharded(at, MAP);
    fs::write(at.join("config.json"), r#"{"model_type":"x"}"#).unwrap();
    for name in ["", "model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        assert_eq!(names(&at.join(name)), ["a", "b"], "{name}");
        let reader = weigh::format::open(&at.join(name)).unwrap();
        assert_eq!(reader.model().config.as_ref().unwrap()["model_type"], "x");
        assert_eq!(*reader.bytes(&reader.model().tensors[1]).unwrap(), *b"b");
    }
    fs::remove_file(at.join("model.safetensors.index.json")).unwrap();
    assert_eq!(names(at), ["a", "b"]);
    assert_eq!(names(&at.join("model-00002-of-00002.safetensors")), ["a", "b"]);
    fs::remove_file(at.join("model-00001-of-00002.safetensors")).unwrap();
    let (findings, error) = judge_path(&at.join("model-00002-of-00002.safetensors"));
    assert!(error.is_none() && findings.iter().any(|finding| finding.code == "set-incomplete"));
    // A folder is a whole model.
    let (findings, _) = judge_path(at);
    assert!(findings.iter().any(|finding| finding.code == "set-incomplete" && finding.severity == Severity::Error));
    let error = weigh::format::open(at).unwrap_err().to_string();
    assert!(error.contains("model-00001-of-00002.safetensors"), "{error}");
}

#[test]
fn bad_indexes() {
    for (map, code) in [
        (r#"{"a":"../a"}"#, "index-path"),
        (r#"{"a":"/etc/passwd"}"#, "index-path"),
        (r#"{"a":""}"#, "index-path"),
        (r#"{"a":"."}"#, "index-path"),
        (r#"{"a":"sub/../../a"}"#, "index-path"),
        (r#"{"a":"https://example.com/a"}"#, "index-path"),
        (r#"{"a":"\\\\host\\share"}"#, "index-path"),
        (r#"{"a":"a\u0000b"}"#, "index-path"),
        (r#"{"a":"%2e%2e/a"}"#, "set-incomplete"),
        (r#"{"a":"gone.safetensors"}"#, "set-incomplete"),
        (r#"{"a":"link"}"#, "index-path"),
        (r#"{"a":"model.safetensors.index.json"}"#, "st-header-length"),
        (r#"{"a":"pointer"}"#, "file-foreign"),
        (r#"{"a":"empty"}"#, "file-foreign"),
        (r#"{"c":"model-00001-of-00002.safetensors"}"#, "index-missing"),
        (r#"{"a":"model-00002-of-00002.safetensors","b":"model-00001-of-00002.safetensors"}"#, "index-missing"),
        (r#"{"a":"model-00001-of-00002.safetensors","a":"model-00001-of-00002.safetensors"}"#, "index-json"),
        (r#"{"a":"model-00001-of-00002.safetensors","b":"twin"}"#, "index-missing"),
        (r#"{"a":3}"#, "index-json"),
        ("[]", "index-json"),
        ("null", "index-json"),
        ("{", "index-json"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("model");
        sharded(&at, map);
        fs::write(folder.path().join("outside"), shard("a")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("outside"), at.join("link")).unwrap();
        fs::write(at.join("pointer"), "version https://git-lfs.github.com/spec/v1\n").unwrap();
        fs::write(at.join("empty"), "").unwrap();
        fs::write(at.join("twin"), shard("a")).unwrap();
        refused(&at.join("model.safetensors.index.json"), code);
    }
    let folder = tempfile::tempdir().unwrap();
    sharded(folder.path(), r#"{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}"#);
    fs::write(folder.path().join("model-00002-of-00002.safetensors"), shard("a")).unwrap();
    refused(folder.path(), "set-duplicate");
    for text in ["[1]", "{\"metadata\":{}}", "{\"weight_map\":{},\"weight_map\":{}}"] {
        fs::write(folder.path().join("model.safetensors.index.json"), text).unwrap();
        refused(folder.path(), "index-json");
    }
}

#[test]
fn folders_of_one_model() {
    for (file, config) in [
        ("model.safetensors", "config.json"),
        ("whatever.safetensors", "config.json"),
        ("consolidated.safetensors", "params.json"),
        ("adapter_model.safetensors", "adapter_config.json"),
        ("diffusion_pytorch_model.fp16.safetensors", "config.json"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(file), shard("a")).unwrap();
        fs::write(folder.path().join(config), r#"{"x":1}"#).unwrap();
        let reader = weigh::format::open(folder.path()).unwrap();
        assert_eq!(reader.model().config.as_ref().unwrap()["x"], 1, "{file}");
        assert_eq!(reader.model().folder.as_deref(), Some(folder.path()));
        assert_eq!(reader.model().path, folder.path());
    }
}

#[test]
fn a_folder_of_sentence_transformers_with_its_transformer_inside() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("0_Transformer");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("model.safetensors"), shard("a")).unwrap();
    let modules = r#"[{"idx":0,"name":"0","path":"0_Transformer","type":"sentence_transformers.models.Transformer"}]"#;
    fs::write(folder.path().join("modules.json"), modules).unwrap();
    assert_eq!(names(folder.path()), ["a"]);
}

#[test]
fn folders_of_several_models_or_none_list_their_contents() {
    let folder = tempfile::tempdir().unwrap();
    let message = || weigh::format::open(folder.path()).unwrap_err().to_string();
    assert!(message().contains("no safetensors, GGUF or PyTorch files"));
    fs::write(folder.path().join("training_args.bin"), "PK\x03\x04").unwrap();
    assert!(message().contains("no safetensors, GGUF or PyTorch files"));
    fs::write(folder.path().join("x-Q4_0.gguf"), Gguf::default().build()).unwrap();
    assert!(names(folder.path()).is_empty());
    fs::write(folder.path().join("x-Q8_0.gguf"), Gguf::default().build()).unwrap();
    assert!(message().contains("found 2 models: x-Q4_0.gguf, x-Q8_0.gguf"), "{}", message());
}

#[test]
fn a_hugging_face_cache() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("models--org--name");
    let (blobs, snapshot) = (at.join("blobs"), at.join("snapshots/0a1b"));
    for made in [&blobs, &snapshot, &at.join("refs"), &at.join("snapshots/ffff")] {
        fs::create_dir_all(made).unwrap();
    }
    fs::write(at.join("refs/main"), "0a1b").unwrap();
    let files = [
        ("model-00001-of-00002.safetensors", shard("a")),
        ("model-00002-of-00002.safetensors", shard("b")),
        ("model.safetensors.index.json", index(MAP).into_bytes()),
    ];
    for (i, (name, bytes)) in files.into_iter().enumerate() {
        fs::write(blobs.join(i.to_string()), bytes).unwrap();
        std::os::unix::fs::symlink(format!("../../blobs/{i}"), snapshot.join(name)).unwrap();
    }
    assert_eq!(names(&at), ["a", "b"]);
    assert_eq!(names(&snapshot), ["a", "b"]);
    assert_eq!(names(&snapshot.join("model-00002-of-00002.safetensors")), ["a", "b"]);
    fs::write(at.join("refs/main"), "../..").unwrap();
    assert!(weigh::format::open(&at).unwrap_err().to_string().contains("found 2 snapshots"));
}

#[test]
fn an_ollama_store() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let model = at.join("manifests/registry.ollama.ai/library/tiny");
    fs::create_dir_all(&model).unwrap();
    fs::create_dir(at.join("blobs")).unwrap();
    let manifest = |digest: &str| {
        format!(
            r#"{{"schemaVersion":2,"layers":[{{"mediaType":"application/vnd.ollama.image.license","digest":"sha256:00"}},
            {{"mediaType":"application/vnd.ollama.image.model","digest":"{digest}"}}]}}"#
        )
    };
    fs::write(model.join("latest"), manifest("sha256:0123abcd")).unwrap();
    let blob = Gguf::default().f32("a", &[1]).build();
    for name in ["sha256-0123abcd", "sha256:0123abcd"] {
        fs::write(at.join("blobs").join(name), &blob).unwrap();
        for path in [at, &at.join("manifests"), &model, &model.join("latest"), &at.join("blobs").join(name)] {
            assert_eq!(names(path), ["a"], "{}", path.display());
        }
        fs::remove_file(at.join("blobs").join(name)).unwrap();
    }
    assert!(weigh::format::open(at).unwrap_err().to_string().contains("the blob sha256-0123abcd is missing"));
    fs::write(model.join("latest"), manifest("sha256:../../x")).unwrap();
    assert!(weigh::format::open(at).unwrap_err().to_string().contains("expected a digest"));
    fs::write(model.join("8b"), manifest("sha256:0123abcd")).unwrap();
    fs::remove_file(model.join("latest")).unwrap();
    fs::write(model.join("7b"), "{}").unwrap();
    assert!(weigh::format::open(at).unwrap_err().to_string().contains("7b, 8b"));
}

/// Part `no` of 3 of a split model, counted from 0, with one tensor.
fn part(no: u16) -> Gguf {
    let keys = if no == 0 { Gguf::default().key_str("general.architecture", "llama") } else { Gguf::default() };
    let keys = keys.key_u16("split.no", no).key("split.tensors.count", 5, 3i32.to_le_bytes().to_vec()).key_u16("split.count", 3);
    keys.f32(["a", "b", "c"][usize::from(no)], &[8])
}

fn split(folder: &Path, parts: [Gguf; 3]) {
    for (i, part) in parts.into_iter().enumerate() {
        fs::write(folder.join(format!("m-0000{}-of-00003.gguf", i + 1)), part.build()).unwrap();
    }
}

#[test]
fn any_part_of_a_split_opens_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    split(folder.path(), [part(0), part(1), part(2)]);
    for name in ["", "m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"] {
        assert_eq!(names(&folder.path().join(name)), ["a", "b", "c"]);
        assert_eq!(weigh::format::open(&folder.path().join(name)).unwrap().model().metadata.get_str("general.architecture"), Some("llama"));
    }
}

#[test]
fn bad_splits() {
    let with = |no: u16, key: &str, value_type: u32, value: &[u8]| {
        let mut part = part(no);
        part.keys.retain(|(name, ..)| name != key.as_bytes());
        part.key(key, value_type, value.to_vec())
    };
    let u16_key = |no, key, value: u16| with(no, key, 2, &value.to_le_bytes());
    let big = Gguf { endian: weigh::base::bytes::Endian::Big, ..Gguf::default() };
    let big = big.key_u16("split.no", 1).key_u16("split.count", 3).f32("b", &[8]);
    for (case, parts, code) in [
        ("another count", [part(0), u16_key(1, "split.count", 4), part(2)], "split-keys"),
        ("a count that is not in the name", [u16_key(0, "split.count", 4), part(1), part(2)], "split-keys"),
        ("a count of 65535", [u16_key(0, "split.count", u16::MAX), part(1), part(2)], "split-keys"),
        ("a count that is text", [with(0, "split.count", 8, &Gguf::default().text(b"3")), part(1), part(2)], "split-keys"),
        ("a count of 2^63", [with(0, "split.count", 10, &(1u64 << 63).to_le_bytes()), part(1), part(2)], "split-keys"),
        ("a negative number", [with(0, "split.no", 5, &(-1i32).to_le_bytes()), part(1), part(2)], "split-keys"),
        ("a number twice", [part(0), part(1), u16_key(2, "split.no", 1)], "split-keys"),
        ("two parts swapped", [part(0), part(2), part(1)], "split-keys"),
        ("no keys in a part", [part(0), Gguf::default().f32("b", &[8]), part(2)], "split-keys"),
        ("more tensors than there are", [0, 1, 2].map(|no| with(no, "split.tensors.count", 5, &4i32.to_le_bytes())), "split-tensors"),
        ("negative tensors", [with(0, "split.tensors.count", 5, &(-1i32).to_le_bytes()), part(1), part(2)], "split-keys"),
        ("a tensor twice", [part(0), Gguf { tensors: part(0).tensors, ..part(1) }, part(2)], "set-duplicate"),
        ("another architecture", [part(0), part(1).key_str("general.architecture", "bert"), part(2)], "split-conflict"),
        ("another byte order", [part(0), big, part(2)], "split-conflict"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        split(folder.path(), parts);
        let (findings, error) = judge_path(&folder.path().join("m-00001-of-00003.gguf"));
        let error = error.unwrap_or_else(|| panic!("{case}: opened"));
        assert!(findings.iter().any(|f| f.code == code && f.severity == Severity::Error), "{case}: {error}, {findings:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    split(folder.path(), [part(0), part(1), part(2)]);
    let (first, second) = (folder.path().join("m-00001-of-00003.gguf"), folder.path().join("m-00002-of-00003.gguf"));
    fs::write(&second, "").unwrap();
    refused(&first, "file-foreign");
    fs::remove_file(&second).unwrap();
    refused(&first, "split-part");
    fs::rename(&first, folder.path().join("other.gguf")).unwrap();
    refused(&folder.path().join("other.gguf"), "split-keys");
}

#[test]
fn shards_are_written_with_their_index_and_splits_with_their_keys() {
    let folder = tempfile::tempdir().unwrap();
    let tensors: Vec<_> = ["x", "a", "big", "b"]
        .into_iter()
        .zip([4, 4, 100, 8])
        .map(|(name, len)| tensor(name, DType::I8, &[len], vec![7; len as usize]))
        .collect();
    let mut metadata = Metadata::new();
    for (key, value) in [("format", "pt"), ("split.count", "9"), ("other", "x")] {
        metadata.set(key, Value::String(value.into()));
    }
    for (id, name, files) in [
        (
            "safetensors",
            "model.safetensors",
            "model-00001-of-00003.safetensors model-00002-of-00003.safetensors model-00003-of-00003.safetensors model.safetensors.index.json",
        ),
        ("gguf", "x.gguf", "x-00001-of-00003.gguf x-00002-of-00003.gguf x-00003-of-00003.gguf"),
    ] {
        let paths = write(id, &folder.path().join(name), &tensors, &metadata, Some(10));
        let found: Vec<_> = paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(found.join(" "), files);
        for path in &paths {
            let reader = weigh::format::open(path).unwrap();
            let model = reader.model();
            assert_eq!(model.tensors.iter().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>(), ["x", "a", "big", "b"]);
            assert_eq!(model.shards.len(), 3);
            assert_eq!((model.metadata.get_str("format"), model.metadata.get_str("other")), (Some("pt"), Some("x")));
            let (findings, error) = judge_path(path);
            assert!(error.is_none() && findings.is_empty(), "{findings:?}");
        }
    }
    let index = fs::read_to_string(folder.path().join("model.safetensors.index.json")).unwrap();
    assert!(
        index.starts_with("{\n  \"metadata\": {\n    \"total_size\": 116\n  },\n  \"weight_map\": {\n    \"a\": \"model-00001"),
        "{index}"
    );
    let keys = weigh::format::open(&folder.path().join("x-00001-of-00003.gguf")).unwrap();
    let metadata = &keys.model().metadata;
    assert_eq!(metadata.get("split.count"), Some(&Value::U16(3)));
    assert_eq!(metadata.get("split.tensors.count"), Some(&Value::I32(4)));
    // All in one file again.
    let paths = write("gguf", &folder.path().join("one.gguf"), &tensors, metadata, Some(1000));
    let one = weigh::format::open(&paths[0]).unwrap();
    assert!(one.model().metadata.get("split.count").is_none());
}

#[test]
fn links_in_a_cache_and_modules_do_not_lead_out() {
    let folder = tempfile::tempdir().unwrap();
    let link = |to: &Path, at: &Path| std::os::unix::fs::symlink(to, at).unwrap();
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("model.safetensors"), shard("s")).unwrap();
    let error = |at: &Path| weigh::format::open(at).unwrap_err().to_string();

    let cache = folder.path().join("models--org--name");
    for made in ["refs", "snapshots"] {
        fs::create_dir_all(cache.join(made)).unwrap();
    }
    link(&outside, &cache.join("snapshots/0a1b"));
    assert!(error(&cache).contains("snapshots/0a1b: expected a snapshot inside the cache, found a link"), "{}", error(&cache));
    fs::write(cache.join("refs/main"), "0a1b").unwrap();
    assert!(error(&cache).contains("a link that leads out of it"));
    fs::create_dir(cache.join("snapshots/ffff")).unwrap();
    fs::write(cache.join("snapshots/ffff/model.safetensors"), shard("a")).unwrap();
    link(Path::new("ffff"), &cache.join("snapshots/main"));
    fs::write(cache.join("refs/main"), "main").unwrap();
    assert_eq!(names(&cache), ["a"], "a link inside the cache is followed");

    let model = folder.path().join("model");
    fs::create_dir_all(model.join("2_Dense")).unwrap();
    fs::write(model.join("model.safetensors"), shard("a")).unwrap();
    link(&outside, &model.join("1_Dense"));
    link(&outside.join("model.safetensors"), &model.join("2_Dense/model.safetensors"));
    for module in ["1_Dense", "2_Dense"] {
        let list = format!(r#"[{{"path":"","type":"a.Transformer"}},{{"path":"{module}","type":"a.Dense"}}]"#);
        fs::write(model.join("modules.json"), list).unwrap();
        let found = format!("expected the path of a module inside the folder, found {module}, a link that leads out of it");
        assert!(error(&model).contains(&found), "{}", error(&model));
    }
    // The transformer itself.
    fs::remove_file(model.join("model.safetensors")).unwrap();
    fs::write(model.join("modules.json"), r#"[{"path":"1_Dense"}]"#).unwrap();
    assert!(error(&model).contains("no safetensors, GGUF or PyTorch files"), "{}", error(&model));
    // In a cache, the files of a module are links to its blobs.
    let snapshot = cache.join("snapshots/ffff");
    fs::create_dir_all(snapshot.join("1_Dense")).unwrap();
    fs::create_dir(cache.join("blobs")).unwrap();
    fs::write(cache.join("blobs/0"), shard("w")).unwrap();
    link(Path::new("../../../blobs/0"), &snapshot.join("1_Dense/model.safetensors"));
    fs::write(snapshot.join("modules.json"), r#"[{"path":"","type":"a.Transformer"},{"path":"1_Dense","type":"a.Dense"}]"#).unwrap();
    assert_eq!(names(&cache), ["a", "1_Dense.w"]);
}
