//! Catalogues of many models, read back from their Parquet files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use serde_json::{Value, json};

use crate::remote::Weigh;
use crate::server::{self, Bucket, Server};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn weigh(at: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weigh")).current_dir(at).args(args).output().unwrap()
}

/// Runs a catalogue of `models` to `out`, and returns its report.
fn catalog(at: &Path, more: &[&str]) -> Value {
    let output = weigh(at, &[&["catalog", "models", "-o", "out", "--json"], more].concat());
    assert!(output.status.code().is_some_and(|code| code < 2), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn json_of(at: &Path, args: &[&str]) -> Value {
    let output = weigh(at, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The rows of a table.
fn rows(path: &Path) -> Vec<Value> {
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    reader.get_row_iter(None).unwrap().map(|row| parsed(row.unwrap().get_column_iter())).collect()
}

fn parsed<'f>(fields: impl Iterator<Item = (&'f String, &'f parquet::record::Field)>) -> Value {
    use parquet::record::Field;
    let value = |field: &Field| match field {
        Field::Null => Value::Null,
        Field::Str(text) => json!(text),
        Field::ULong(number) => json!(number),
        Field::Double(number) => json!(number),
        other => panic!("{other}"),
    };
    let fields = fields.map(|(name, field)| match field {
        Field::ListInternal(list) => (name.clone(), list.elements().iter().map(value).collect()),
        field => (name.clone(), value(field)),
    });
    Value::Object(fields.collect())
}

/// The models of the catalogue by path.
fn models(at: &Path) -> BTreeMap<String, Value> {
    rows(&at.join("out/models.parquet")).into_iter().map(|row| (row["path"].as_str().unwrap().to_owned(), row)).collect()
}

fn tables(at: &Path) -> [Vec<u8>; 2] {
    ["models", "tensors"].map(|name| fs::read(at.join(format!("out/{name}.parquet"))).unwrap())
}

/// A plain folder, a cache of Hugging Face with links, a store of Ollama, files by themselves, a loop of links, and a broken file.
fn collection(at: &Path) {
    let fixtures = Path::new(ROOT).join("fixtures");
    let copy = |from: &str, to: &str| {
        let to = at.join("models").join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(fixtures.join(from), to).unwrap();
    };
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        copy(&format!("llama-tiny/{name}"), &format!("plain/{name}"));
        copy(&format!("llama-tiny/{name}"), &format!("hub/models--org--tiny/blobs/blob-of-{name}"));
        let snapshot = at.join("models/hub/models--org--tiny/snapshots/abc");
        fs::create_dir_all(&snapshot).unwrap();
        symlink(format!("../../blobs/blob-of-{name}"), snapshot.join(name)).unwrap();
    }
    fs::write(at.join("models/plain/README.md"), "---\nlicense: mit\nbase_model: org/base\n---\n").unwrap();
    copy("llama-tiny-q8_0.gguf", "two/a.gguf");
    fs::write(at.join("models/two/b.gguf"), "GGUF").unwrap();
    let hex = "0".repeat(64);
    copy("llama-tiny-q8_0.gguf", &format!("ollama/blobs/sha256-{hex}"));
    let manifest = at.join("models/ollama/manifests/registry.ollama.ai/library/tiny");
    fs::create_dir_all(&manifest).unwrap();
    let layer = json!({"mediaType": "application/vnd.ollama.image.model", "digest": format!("sha256:{hex}")});
    fs::write(manifest.join("latest"), json!({"layers": [layer]}).to_string()).unwrap();
    symlink("..", at.join("models/two/loop")).unwrap();
    symlink(at.join("models"), at.join("models/plain/again")).unwrap();
}

const CACHED: &str = "models/hub/models--org--tiny/snapshots/abc";
const OLLAMA: &str = "models/ollama/manifests/registry.ollama.ai/library/tiny/latest";

#[test]
fn every_model_is_a_row_and_every_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    collection(at);
    let report = catalog(at, &[]);
    let found = models(at);
    assert_eq!(found.keys().collect::<Vec<_>>(), [CACHED, OLLAMA, "models/plain", "models/two/a.gguf", "models/two/b.gguf"]);
    assert_eq!(report["schema"], "weigh.catalog.v1");
    assert_eq!((&report["models"], &report["errors"], &report["read"], &report["reused"]), (&json!(5), &json!(1), &json!(5), &json!(0)));
    let broken = &found["models/two/b.gguf"];
    assert_eq!(report["unreadable"], json!([{"path": "models/two/b.gguf", "error": broken["error"]}]));
    assert!(broken["error"].as_str().unwrap().contains("b.gguf") && broken["parameters"].is_null());
    // The facts are those of the other commands.
    let tensors = rows(&at.join("out/tensors.parquet"));
    assert_eq!(report["tensors"], tensors.len());
    for (path, row) in found.iter().filter(|(path, _)| !path.ends_with("b.gguf")) {
        let info = json_of(at, &["info", path]);
        for key in
            ["name", "format", "architecture", "parameters", "active_parameters", "bits_per_weight", "license", "license_name", "bytes"]
        {
            assert_eq!(row[key], info[key], "{path} {key}");
        }
        assert_eq!(row["context"], info["hyperparameters"]["context"], "{path}");
        assert_eq!(row["files"], info["files"].as_array().unwrap().len(), "{path}");
        for (key, column) in [("dtype", "dtypes"), ("tensors", "dtype_tensors"), ("bytes", "dtype_bytes")] {
            let of_info: Vec<_> = info["dtypes"].as_array().unwrap().iter().map(|row| row[key].clone()).collect();
            assert_eq!(row[column], Value::Array(of_info), "{path} {column}");
        }
        assert!(row["error"].is_null() && row["content"].is_null() && row["packing"].is_null(), "{row}");
        let list = json_of(at, &["ls", path]);
        let own: Vec<_> = tensors.iter().filter(|row| row["path"] == **path).collect();
        assert_eq!(own.len(), list["tensors"].as_array().unwrap().len());
        for (row, tensor) in own.iter().zip(list["tensors"].as_array().unwrap()) {
            for key in ["name", "dtype", "shape", "elements", "bytes", "file", "offset"] {
                assert_eq!(row[key], tensor[key], "{path} {key}");
            }
        }
    }
    assert_eq!((&found["models/plain"]["license"], &found["models/plain"]["base_model"]), (&json!("mit"), &json!("org/base")));
    assert_eq!(found[CACHED]["name"], "org/tiny");
    assert_eq!(found["models/two/a.gguf"]["file_type"], "Q8_0");
    assert!(found["models/plain"]["file_type"].is_null());
}

#[test]
fn a_later_run_reads_only_what_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    collection(at);
    fs::remove_file(at.join("models/two/b.gguf")).unwrap();
    let counts = |report: &Value| ["models", "read", "reused", "removed"].map(|key| report[key].as_u64().unwrap());
    assert_eq!(counts(&catalog(at, &[])), [4, 4, 0, 0]);
    let first = tables(at);
    assert_eq!(counts(&catalog(at, &[])), [4, 0, 4, 0]);
    assert!(tables(at) == first, "nothing changed");
    // The content is computed where it is missing, and then kept.
    assert_eq!(counts(&catalog(at, &["--content"])), [4, 4, 0, 0]);
    let with_content = models(at);
    let content = json_of(at, &["hash", "models/plain", "--content"])["model"].clone();
    assert_eq!((&with_content["models/plain"]["content"], &with_content[CACHED]["content"]), (&content, &content));
    assert_eq!(with_content[OLLAMA]["content"], with_content["models/two/a.gguf"]["content"]);
    assert_eq!(counts(&catalog(at, &[])), [4, 0, 4, 0]);
    assert_eq!(models(at), with_content);
    // One changes, one goes, one comes; a broken one is tried again each time.
    fs::write(at.join("models/plain/README.md"), "---\nlicense: apache-2.0\n---\n").unwrap();
    fs::remove_file(at.join("models/two/a.gguf")).unwrap();
    fs::write(at.join("models/two/c.gguf"), "GGUF").unwrap();
    assert_eq!(counts(&catalog(at, &[])), [4, 2, 2, 1]);
    assert_eq!(models(at)["models/plain"]["license"], "apache-2.0");
    assert!(rows(&at.join("out/tensors.parquet")).iter().all(|row| row["path"] != "models/two/a.gguf"));
    assert_eq!(counts(&catalog(at, &[])), [4, 1, 3, 0]);
    fs::copy(Path::new(ROOT).join("fixtures/llama-tiny-q8_0.gguf"), at.join("models/two/c.gguf")).unwrap();
    let report = catalog(at, &[]);
    assert_eq!((counts(&report), &report["errors"]), ([4, 1, 3, 0], &json!(0)));
    // Read anew, all is the same.
    let updated = models(at);
    assert_eq!(counts(&catalog(at, &["--force", "--content"])), [4, 4, 0, 0]);
    let mut anew = models(at);
    assert!(anew.values_mut().all(|row| row["content"].is_string()));
    for path in ["models/plain", "models/two/c.gguf"] {
        assert!(updated[path]["content"].is_null());
        anew.get_mut(path).unwrap()["content"] = Value::Null;
    }
    assert_eq!(anew, updated);
}

#[test]
fn two_tables_of_different_runs_are_not_mixed() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    collection(at);
    catalog(at, &[]);
    let tensors = fs::read(at.join("out/tensors.parquet")).unwrap();
    fs::remove_file(at.join("models/two/a.gguf")).unwrap();
    catalog(at, &[]);
    let after = tables(at);
    fs::write(at.join("out/tensors.parquet"), tensors).unwrap();
    assert_eq!(catalog(at, &[])["read"], 4, "as if there were no earlier catalogue");
    assert!(tables(at) == after);
}

#[test]
fn files_of_others_are_not_replaced_unasked() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    collection(at);
    catalog(at, &[]);
    let good = tables(at);
    for (name, bytes) in [("models", b"mine".to_vec()), ("tensors", good[1][..good[1].len() - 5].to_vec())] {
        fs::write(at.join(format!("out/{name}.parquet")), &bytes).unwrap();
        let output = weigh(at, &["catalog", "models", "-o", "out"]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(2) && error.contains("expected a table of a catalogue") && error.contains("--force"),
            "{error}"
        );
        assert_eq!(fs::read(at.join(format!("out/{name}.parquet"))).unwrap(), bytes);
        catalog(at, &["--force"]);
        assert!(tables(at) == good);
    }
    let names = |at: &Path| fs::read_dir(at.join("out")).unwrap().count();
    assert_eq!(names(at), 2, "nothing else is left");
    let missing = weigh(at, &["catalog", "none", "-o", "new"]);
    assert!(missing.status.code() == Some(2) && !at.join("new").exists());
}

#[test]
fn one_catalogue_is_written_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    collection(at);
    catalog(at, &[]);
    let good = tables(at);
    let lock = File::create(at.join("out/.weigh-catalog")).unwrap();
    lock.lock().unwrap();
    let output = weigh(at, &["catalog", "models", "-o", "out"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && error.contains("another run is writing here"), "{error}");
    assert!(tables(at) == good);
    drop(lock);
    // A lock that a killed run has left holds nothing.
    catalog(at, &[]);
    assert!(!at.join("out/.weigh-catalog").exists());
    // At the same time, each is whole or refused.
    let runs: Vec<_> = (0..4)
        .map(|_| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_weigh"));
            command.current_dir(at).args(["catalog", "models", "-o", "out", "--quiet", "--force"]);
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
        })
        .collect();
    let statuses: Vec<_> = runs.into_iter().map(|mut run| run.wait().unwrap().code()).collect();
    assert!(statuses.contains(&Some(1)) && statuses.iter().all(|status| [Some(1), Some(2)].contains(status)), "{statuses:?}");
    assert!(tables(at) == good);
}

#[test]
fn what_may_not_be_read_is_a_row_with_its_error() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(at.join("models/closed")).unwrap();
    fs::create_dir(at.join("out")).unwrap();
    fs::write(at.join("models/closed/a.gguf"), "GGUF").unwrap();
    fs::write(at.join("models/b.gguf"), "GGUF").unwrap();
    symlink("nowhere", at.join("models/c.gguf")).unwrap();
    symlink("self.gguf", at.join("models/self.gguf")).unwrap();
    for (name, mode) in [("models/closed", 0), ("models/b.gguf", 0), ("out", 0o777)] {
        fs::set_permissions(at.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let user_may = fs::read_dir(at.join("models/closed")).is_ok();
    // The superuser may read everything: another user has to be asked.
    let binary = at.join("weigh");
    fs::copy(env!("CARGO_BIN_EXE_weigh"), &binary).unwrap();
    let mut command = match user_may {
        false => Command::new(&binary),
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--clear-groups"]).arg(&binary);
            command
        }
    };
    let output = command.current_dir(at).args(["catalog", "models", "-o", "out", "--json"]).output();
    let Ok(output) = output else { return };
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let found = models(at);
    let error = |path: &str| found[path]["error"].as_str().unwrap();
    assert_eq!(found.len(), 4);
    assert!(error("models/closed").contains("cannot list") && error("models/closed").contains("denied"));
    assert!(error("models/b.gguf").contains("denied"));
    assert!(error("models/c.gguf").contains("No such file"));
    assert!(error("models/self.gguf").contains("cannot open"));
    fs::set_permissions(at.join("models/closed"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_folder_of_a_hundred_thousand_files_is_looked_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir_all(at.join("models")).unwrap();
    for i in 0..100_000 {
        File::create(at.join(format!("models/{i}.txt"))).unwrap();
    }
    fs::copy(Path::new(ROOT).join("fixtures/llama-tiny-q8_0.gguf"), at.join("models/a.gguf")).unwrap();
    let report = catalog(at, &[]);
    assert_eq!((&report["models"], &report["errors"]), (&json!(1), &json!(0)));
}

#[test]
fn tables_are_written_in_groups_of_rows() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("models")).unwrap();
    // 40,000 tensors: more than a group.
    let tensors: Vec<_> = (0..20_000).map(|i| crate::build::tensor(&format!("w{i}"), weigh::DType::U8, &[1], vec![1])).collect();
    for name in ["a", "b"] {
        crate::build::write("safetensors", &at.join(format!("models/{name}.safetensors")), &tensors, &weigh::model::Metadata::new(), None);
    }
    catalog(at, &[]);
    let path = at.join("out/tensors.parquet");
    let groups = SerializedFileReader::new(File::open(&path).unwrap()).unwrap().metadata().num_row_groups();
    assert_eq!((groups, rows(&path).len()), (2, 40_000));
    let first = tables(at);
    assert_eq!(catalog(at, &[])["reused"], 2);
    assert!(tables(at) == first);
}

/// The tables, with paths relative to `at`, and without the stamps.
fn facts(folder: &Path, at: &str) -> [Vec<String>; 2] {
    ["models", "tensors"].map(|name| {
        let plain = |mut row: Value| {
            row.as_object_mut().unwrap().remove("stamp");
            row.to_string().replace(at, "")
        };
        rows(&folder.join(format!("out/{name}.parquet"))).into_iter().map(plain).collect()
    })
}

#[test]
fn models_at_addresses_are_rows_like_those_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let fixtures = Path::new(ROOT).join("fixtures");
    let models = at.join("models");
    fs::create_dir_all(models.join("org/tiny")).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(fixtures.join("llama-tiny").join(name), models.join("org/tiny").join(name)).unwrap();
    }
    fs::write(models.join("org/tiny/README.md"), "---\nlicense: mit\nbase_model: org/base\n---\n").unwrap();
    fs::create_dir_all(models.join("org/quant")).unwrap();
    fs::copy(fixtures.join("llama-tiny-q8_0.gguf"), models.join("org/quant/a.gguf")).unwrap();
    fs::write(models.join("org/quant/broken.gguf"), "GGUF").unwrap();
    let bucket = Bucket::new(&models);
    let served = models.clone();
    let server = Server::start(move |asked| match asked.path.starts_with("/models") {
        true => bucket.answer(asked),
        false => server::hub(asked, &served),
    });
    let weigh = Weigh::bucket(&server).with("HF_ENDPOINT", &server.url(""));
    let run = |paths: &[&str]| {
        let out = at.join("out");
        let output = weigh.run(&[&["catalog"], paths, &["-o", out.to_str().unwrap(), "--json", "--no-cache"]].concat());
        assert_eq!(output.status.code(), Some(1), "one is broken: {}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        (report["read"].as_u64().unwrap(), report["reused"].as_u64().unwrap())
    };
    let local = format!("{}/org/", models.display());
    assert_eq!(run(&[&models.display().to_string()]), (3, 0));
    let on_disk = facts(at, &local);
    fs::remove_dir_all(at.join("out")).unwrap();
    for (paths, prefix) in [(&["s3://models"][..], "s3://models/org/"), (&["org/tiny", "hf://org/quant"], "hf://org/")] {
        assert_eq!(run(paths), (3, 0));
        assert_eq!(facts(at, prefix), on_disk, "{prefix}");
        server.seen();
        // What could not be read is tried again.
        assert_eq!(run(paths), (1, 2));
        let asked_for = |name: &str| server.seen().iter().any(|seen| seen.asked.path.ends_with(name));
        assert!(!asked_for("safetensors"));
        let config = models.join("org/tiny/config.json");
        let text = fs::read_to_string(&config).unwrap() + "\n";
        fs::write(&config, text).unwrap();
        assert_eq!(run(paths), (2, 1));
        assert_eq!(facts(at, prefix), on_disk, "{prefix}");
        fs::remove_dir_all(at.join("out")).unwrap();
    }
    let said = weigh.error(&["catalog", "s3://models/none", "-o", "out"]);
    assert!(said.contains("s3://models/none: the bucket has no such file (404)"), "{said}");
    let said = weigh.error(&["catalog", models.to_str().unwrap(), "-o", "s3://models/out"]);
    assert!(said.contains("a catalogue is written to a folder on disk"), "{said}");
}
