//! Conversions in parts, on several machines, and their joining.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use weigh::DType;
use weigh::model::Metadata;

use crate::build::{tensor, write};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const FOLDER: &str = "fixtures/llama-tiny";

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weigh"));
    command.current_dir(ROOT).args(args);
    command
}

fn weigh(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn json(args: &[&str]) -> Value {
    let output = weigh(&[args, &["--json"]].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The message of a command that fails.
fn refused(args: &[&str]) -> String {
    let output = weigh(args);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

/// All files below a folder, with their bytes.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => drop(found.insert(path.strip_prefix(folder).unwrap().display().to_string(), fs::read(&path).unwrap())),
            }
        }
    }
    found
}

/// A conversion whose output is split: the arguments before and after the output, and the output in a folder.
const CASES: [(&[&str], &str, &[&str]); 3] = [
    (&["convert", FOLDER], "out/", &["--type", "F16", "--shard-size", "20kB"]),
    (&["convert", FOLDER], "m.gguf", &["--type", "Q4_K_M", "--shard-size", "20kB"]),
    (&["convert", FOLDER], "one.safetensors", &["--shard-size", "1GB", "--keep-names"]),
];

#[test]
fn parts_in_any_order_give_the_bytes_of_one_run() {
    for (input, out, options) in CASES {
        let whole = tempfile::tempdir().unwrap();
        let at = |folder: &Path| folder.join(out).to_str().unwrap().to_owned();
        let run = json(&[input, &[&at(whole.path())], options].concat());
        let want = files(whole.path());
        assert!(want.len() > 4 || out.ends_with("one.safetensors"));
        for count in [1, 2, 7] {
            let folder = tempfile::tempdir().unwrap();
            let out = at(folder.path());
            let mut rows = Vec::new();
            for number in (1..=count).rev() {
                let part = format!("{number}/{count}");
                let args = [input, &[&out], options, &["--part", &part]].concat();
                let planned = json(&[&args, &["--dry-run"][..]].concat());
                let done = json(&args);
                assert_eq!((&done["part"], &done["parts"]), (&number.into(), &count.into()));
                for key in ["plan", "shards", "all_shards", "output", "bytes_out", "manifest"] {
                    assert_eq!(planned[key], done[key], "{key}");
                }
                let written: u64 =
                    done["output"].as_array().unwrap().iter().map(|path| fs::metadata(path.as_str().unwrap()).unwrap().len()).sum();
                assert!(written >= done["bytes_out"].as_u64().unwrap());
                rows.extend(done["tensors"].as_array().unwrap().clone());
            }
            rows.sort_by_key(|row| row["name"].to_string());
            let mut all = run["tensors"].as_array().unwrap().clone();
            all.sort_by_key(|row| row["name"].to_string());
            assert_eq!(rows, all, "each tensor is in one part, with the same error");
            let before = files(folder.path());
            let checked = json(&["convert", "--join", &out, "--dry-run"]);
            assert!(files(folder.path()) == before, "a dry run changes nothing");
            let joined = json(&["convert", "--join", &out]);
            assert_eq!(joined["output"], checked["output"]);
            assert_eq!(joined["bytes_out"], want.values().map(Vec::len).sum::<usize>());
            assert_eq!(joined["schema"], "weigh.join.v1");
            let found = files(folder.path());
            assert_eq!(found.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
            assert!(found == want, "{out}: {count} parts are the bytes of one run");
        }
    }
}

#[test]
fn parts_share_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_str().unwrap();
    let tensors: Vec<_> = (0..12u8)
        .map(|i| tensor(&format!("w{i}"), DType::F32, &[1000 + 1000 * u64::from(i % 3)], vec![i; 4000 + 4000 * usize::from(i % 3)]))
        .collect();
    write("safetensors", &folder.path().join("in.safetensors"), &tensors, &Metadata::new(), None);
    let bytes = |number: u32| {
        let part = format!("{number}/4");
        let args =
            ["convert", &format!("{at}/in.safetensors"), &format!("{at}/out/"), "--keep-names", "--shard-size", "1B", "--part", &part];
        json(&[&args, &["--dry-run"][..]].concat())["bytes_out"].as_u64().unwrap()
    };
    // 4 + 8 + 12 kB in each, and the headers.
    let all: Vec<u64> = (1..=4).map(bytes).collect();
    assert!(all.iter().all(|bytes| (24_000..25_000).contains(bytes)), "{all:?}");
}

#[test]
fn a_part_without_files_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out/").to_str().unwrap().to_owned();
    let args = |part: &'static str| ["convert", FOLDER, &out, "--shard-size", "1GB", "--part", part].map(str::to_owned);
    let run = |part| weigh(&args(part).iter().map(String::as_str).collect::<Vec<_>>());
    let second = run("2/2");
    assert!(second.status.success());
    let said = String::from_utf8(second.stdout).unwrap();
    assert!(said.contains("part 2/2 has no weight files: the output has 1 weight file"), "{said}");
    assert_eq!(files(folder.path()).into_keys().collect::<Vec<_>>(), ["out/model.part-00002-of-00002.json"]);
    let error = refused(&["convert", "--join", &out]);
    assert!(error.contains("1 of 2 parts are here; missing: 1/2"), "{error}");
    assert!(run("1/2").status.success());
    assert!(weigh(&["convert", "--join", &out]).status.success());
    assert!(weigh::open(&out).is_ok());
}

#[test]
fn a_lost_part_is_named_and_run_again_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out/").to_str().unwrap().to_owned();
    let run = |part: &str, more: &[&str]| {
        weigh(&[&["convert", FOLDER, &out, "--type", "F16", "--shard-size", "20kB", "--part", part], more].concat())
    };
    for part in ["1/3", "2/3", "3/3"] {
        assert!(run(part, &[]).status.success());
    }
    let manifest = folder.path().join("out/model.part-00002-of-00003.json");
    let of_second: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    let shard = folder.path().join("out").join(of_second["files"][0]["name"].as_str().unwrap());
    let good = fs::read(&shard).unwrap();
    let join = || refused(&["convert", "--join", &out]);
    let mut broken = good.clone();
    broken[good.len() - 1] ^= 1;
    for (bytes, message) in [(&good[1..], "bytes, as part 2/3 has written"), (&broken, "expected the bytes that part 2/3 has written")] {
        fs::write(&shard, bytes).unwrap();
        let error = join();
        assert!(error.contains(message) && error.contains("run part 2/3 again") && error.contains("model-000"), "{error}");
    }
    fs::remove_file(&shard).unwrap();
    assert!(join().contains("run part 2/3 again"));
    fs::remove_file(&manifest).unwrap();
    assert!(join().contains("2 of 3 parts are here; missing: 2/3"));
    assert!(!folder.path().join("out/model.safetensors.index.json").exists());
    // Files that a run has left are replaced only if asked for.
    fs::write(&shard, "left").unwrap();
    let others = files(folder.path());
    let again = run("2/3", &[]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("already exists"));
    assert!(run("2/3", &["--force"]).status.success());
    assert_eq!(fs::read(&shard).unwrap(), good);
    let now = files(folder.path());
    assert!(others.iter().all(|(name, bytes)| shard.ends_with(name) || now.get(name) == Some(bytes)), "the other parts are untouched");
    assert!(weigh(&["convert", "--join", &out]).status.success());
    assert!(!manifest.exists());
    // A finished model is not replaced by parts, not even if asked for.
    let error = String::from_utf8(run("2/3", &["--force"]).stderr).unwrap();
    assert!(error.contains("a model already exists here") && error.contains("index.json"), "{error}");
    let error = refused(&["convert", "--join", &out]);
    assert!(error.contains("there are no parts of a conversion here"), "{error}");
}

#[test]
fn a_join_that_was_ended_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out/").to_str().unwrap().to_owned();
    for part in ["1/2", "2/2"] {
        assert!(weigh(&["convert", FOLDER, &out, "--shard-size", "50kB", "--part", part]).status.success());
    }
    let parts = files(folder.path());
    assert!(weigh(&["convert", "--join", &out]).status.success());
    let done = files(folder.path());
    // As after the index was written and before the manifests were removed.
    for (name, bytes) in &parts {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    assert!(weigh(&["convert", "--join", &out]).status.success());
    assert!(files(folder.path()) == done);
}

#[test]
fn a_part_of_another_plan_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let text = |path: &str| at.join(path).to_str().unwrap().to_owned();
    // A model with the same names, types and shapes, but another config; and one of another size.
    for name in ["in", "other"] {
        fs::create_dir(at.join(name)).unwrap();
        for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            fs::copy(Path::new(ROOT).join(FOLDER).join(file), at.join(name).join(file)).unwrap();
        }
    }
    let config = fs::read_to_string(at.join("in/config.json")).unwrap();
    fs::write(at.join("other/config.json"), config.replacen('{', "{\"note\": 1,", 1)).unwrap();
    let part = |input: &str, part: &str, more: &[&str]| {
        let (input, out) = (text(input), text("out/"));
        let size = if more.contains(&"--force") { "30kB" } else { "20kB" };
        let args = ["convert", &input, &out, "--shard-size", size, "--part", part];
        weigh(&[&args[..], more].concat())
    };
    assert!(part("in", "1/3", &[]).status.success());
    let of_another = |output: Output| {
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains("this is part 1/3 of another plan"), "{said}");
    };
    of_another(part("in", "2/3", &["--type", "F16"]));
    of_another(part("in", "2/4", &[]));
    of_another(part("other", "2/3", &[]));
    of_another(part("in", "2/3", &["--metadata", "note=str:x"]));
    of_another(part("in", "2/3", &["--force"]));
    // Where no node sees what the others have written, the join finds it.
    assert!(part("in", "2/3", &[]).status.success() && part("in", "3/3", &[]).status.success());
    let here = text("elsewhere/");
    let other = text("other");
    assert!(weigh(&["convert", &other, &here, "--shard-size", "20kB", "--part", "2/3"]).status.success());
    for (name, bytes) in files(&at.join("elsewhere")) {
        fs::write(at.join("out").join(name), bytes).unwrap();
    }
    let error = refused(&["convert", "--join", &text("out/")]);
    assert!(error.contains("part 2/3 is of another plan than part 1/3"), "{error}");
    assert!(!at.join("out/model.safetensors.index.json").exists());
}

#[test]
fn a_finished_model_is_not_replaced_by_parts() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.gguf").to_str().unwrap().to_owned();
    let part = |number: usize, name: &str| {
        let part = format!("{number}/2");
        weigh(&["convert", FOLDER, &out, "--type", name, "--shard-size", "20kB", "--part", &part, "--force"])
    };
    assert!(part(1, "F16").status.success() && part(2, "F16").status.success());
    assert!(weigh(&["convert", "--join", &out]).status.success());
    let done = files(folder.path());
    // Of the same number of files with the same names.
    for name in ["F16", "BF16"] {
        let output = part(2, name);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && error.contains("a model already exists here"), "{error}");
    }
    assert!(files(folder.path()) == done);
    // Nor a model in one file, which readers would find first.
    let one = folder.path().join("one");
    assert!(weigh(&["convert", FOLDER, one.to_str().unwrap()]).status.success());
    let error = refused(&["convert", FOLDER, one.to_str().unwrap(), "--shard-size", "20kB", "--part", "1/2", "--force"]);
    assert!(error.contains("a model already exists here") && error.contains("model.safetensors"), "{error}");
}

#[test]
fn the_plan_depends_on_the_importance_matrix_and_not_on_where_things_are() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let plan = |input: &Path, out: &str, more: &[&str]| {
        let (input, out) = (input.to_str().unwrap().to_owned(), at.join(out).to_str().unwrap().to_owned());
        let args = ["convert", &input, &out, "--shard-size", "20kB", "--part", "1/2", "--dry-run"];
        json(&[&args[..], more].concat())["plan"].as_str().unwrap().to_owned()
    };
    let original = Path::new(ROOT).join(FOLDER);
    let copy = at.join("copy");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(&original).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    let same = plan(&original, "a/", &[]);
    assert_eq!(same, plan(&copy, "b/", &["--verify", "--no-quality"]));
    let matrix = |name: &str, value: f32| {
        let path = at.join(name);
        let values: Vec<u8> = std::iter::repeat_n(value.to_le_bytes(), 64).flatten().collect();
        let tensors = [
            tensor("blk.0.attn_q.weight.in_sum2", DType::F32, &[1, 64], values),
            tensor("blk.0.attn_q.weight.counts", DType::F32, &[1, 1], 1f32.to_le_bytes().to_vec()),
        ];
        let mut metadata = Metadata::new();
        metadata.insert("general.type", weigh::model::Value::String("imatrix".into())).unwrap();
        write("gguf", &path, &tensors, &metadata, None);
        path.to_str().unwrap().to_owned()
    };
    let of = |matrix: &str| plan(&original, "m.gguf", &["--type", "Q4_0", "--imatrix", matrix]);
    let (one, two) = (matrix("one.gguf", 1.0), matrix("two.gguf", 2.0));
    // The file's name is recorded in the output.
    fs::create_dir(at.join("x")).unwrap();
    fs::copy(&two, at.join("x/one.gguf")).unwrap();
    assert_ne!(of(&one), of(at.join("x/one.gguf").to_str().unwrap()));
}

#[test]
fn what_a_part_cannot_do_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out/").to_str().unwrap().to_owned();
    let error = refused(&["convert", FOLDER, &out, "--part", "1/2"]);
    assert!(error.contains("must be split") && error.contains("--shard-size"), "{error}");
    for wrong in ["0/2", "3/2", "2", "1/20000"] {
        assert!(refused(&["convert", FOLDER, &out, "--shard-size", "1MB", "--part", wrong]).contains("expected a part"));
    }
    let error = refused(&["convert", FOLDER, &out, "--shard-size", "1MB", "--part", "1/2", "--mmproj", &format!("{out}x.gguf")]);
    assert!(error.contains("not two outputs"), "{error}");
    assert!(refused(&["convert", "--join", &out]).contains("there are no parts of a conversion here"));
    assert!(refused(&["convert", "--join", &out, "--type", "F16"]).contains("cannot be used with"));
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_manifest_of_a_stranger_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let out = at.join("out").to_str().unwrap().to_owned();
    assert!(weigh(&["convert", FOLDER, &format!("{out}/"), "--shard-size", "1GB", "--part", "1/1"]).status.success());
    let path = at.join("out/model.part-00001-of-00001.json");
    let manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (pointer, value, message) in [
        ("/files/0/name", Value::from("../../etc/passwd"), "expected a name inside the folder"),
        ("/files/0/name", Value::from("/etc/passwd"), "expected a name inside the folder"),
        ("/files/0/bytes", Value::from(-1), "expected the manifest of a part"),
        ("/files/0/name", Value::from("gone"), "cannot open"),
        ("/files", Value::Null, "expected the manifest of a part"),
        ("/schema", Value::from("weigh.part.v2"), "expected a manifest of weigh.part.v1"),
        ("/parts", Value::from(0), "expected a part from 1/N"),
        ("/parts", Value::from(2), "expected the part that the file is named after"),
    ] {
        let mut changed = manifest.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        fs::write(&path, changed.to_string()).unwrap();
        let error = refused(&["convert", "--join", &out]);
        assert!(error.contains(message), "{pointer}: {error}");
    }
    fs::write(&path, "[".repeat(100_000)).unwrap();
    assert!(refused(&["convert", "--join", &out]).contains("expected the manifest of a part"));
}

#[test]
fn a_killed_part_leaves_nothing_that_joins_and_is_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut number = 1u32;
    let mut next = || {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((number >> 8) as f32 / (1 << 24) as f32 - 0.5).to_le_bytes()
    };
    let tensors: Vec<_> =
        (0..4).map(|i| tensor(&format!("w{i}.weight"), DType::F32, &[256, 1024], (0..256 * 1024).flat_map(|_| next()).collect())).collect();
    write("safetensors", &at.join("in.safetensors"), &tensors, &Metadata::new(), None);
    let text = |name: &str| at.join(name).to_str().unwrap().to_owned();
    let (input, out) = (text("in.safetensors"), text("m.gguf"));
    let args = |part: &'static str| {
        ["convert", &input, &out, "--type", "Q4_K", "--keep-names", "--shard-size", "100kB", "--force", "--part", part].map(str::to_owned)
    };
    let spawn = |part| {
        let mut command = command(&[]);
        command.args(args(part)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let start = std::time::Instant::now();
    assert!(spawn("1/2").wait().unwrap().success());
    let whole = start.elapsed();
    for i in 0..5 {
        let mut child = spawn("2/2");
        std::thread::sleep(whole * i / 5);
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        let manifest = at.join("m.part-00002-of-00002.json");
        if manifest.exists() {
            assert!(weigh(&["convert", "--join", &out, "--dry-run"]).status.success(), "with its manifest a part is whole");
            fs::remove_file(&manifest).unwrap();
        } else {
            assert!(!ended.success());
            assert!(refused(&["convert", "--join", &out]).contains("missing: 2/2"));
        }
    }
    assert!(spawn("2/2").wait().unwrap().success());
    assert!(weigh(&["convert", "--join", &out]).status.success());
    let single = text("single.gguf");
    assert!(weigh(&["convert", &input, &single, "--type", "Q4_K", "--keep-names", "--shard-size", "100kB"]).status.success());
    let found = files(at);
    let of = |stem: &str| found.iter().filter_map(|(name, bytes)| Some((name.strip_prefix(stem)?.to_owned(), bytes))).collect::<Vec<_>>();
    assert_eq!(of("m-").len(), 4);
    assert!(of("m-") == of("single-"), "the bytes of one run");
    // Old files that a killed run had put aside stay: they may be all that is left of the old output.
    let stays = |name: &str| !name.starts_with('.') || name.starts_with(".weigh-old-");
    assert!(found.keys().all(|name| stays(name) && !name.contains("part-0000")), "{:?}", found.keys());
}

#[test]
fn parts_of_one_output_run_at_the_same_time() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out/").to_str().unwrap().to_owned();
    let parts: Vec<_> = (1..=4)
        .map(|number| {
            let part = format!("{number}/4");
            let mut command = command(&["convert", FOLDER, &out, "--type", "F16", "--shard-size", "20kB", "--part", &part]);
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for part in parts {
        let output = part.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(weigh(&["convert", "--join", &out]).status.success());
    assert!(weigh::open(&out).is_ok());
}

#[test]
fn the_library_writes_parts_and_joins_them() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    let model = weigh::open(Path::new(ROOT).join(FOLDER)).unwrap();
    for number in [2, 1] {
        let options = weigh::ConvertOptions::new().file_type("Q8_0").shard_bytes(20_000).part(number, 2);
        let report = model.convert(&out, &options).unwrap();
        assert_eq!(report.part.unwrap().part, weigh::report::convert::Part::new(number, 2).unwrap());
    }
    let joined = weigh::join(&out).unwrap();
    assert!(joined.output.len() > 2 && joined.parts == 2);
    let whole = folder.path().join("whole.gguf");
    model.convert(&whole, &weigh::ConvertOptions::new().file_type("Q8_0")).unwrap();
    let names = |path: &Path| weigh::open(path).unwrap().tensors().map(|tensor| tensor.name().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&joined.output[0]), names(&whole));
    assert!(model.convert(&out, &weigh::ConvertOptions::new().shard_bytes(1).part(3, 2)).is_err());
}
