//! Checkpoints of PyTorch and arrays of NumPy: the values that the libraries themselves read, and what a hostile file would run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sha2::{Digest, Sha256};

use weigh::base::finding::{Finding, Severity};
use weigh::format::Reader;
use weigh::format::open;

use crate::build::{Pickle, zip};
use crate::judge::{judge, judge_path, refused};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn expected() -> serde_json::Map<String, Value> {
    let text = fs::read_to_string(fixture("pytorch/expected.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap().as_object().unwrap().clone()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn names(reader: &Reader) -> Vec<&str> {
    reader.model().tensors.iter().map(|tensor| tensor.name.as_str()).collect()
}

#[test]
fn every_tensor_has_the_type_shape_and_bytes_that_pytorch_and_numpy_read() {
    let expected = expected();
    assert!(expected.len() > 35);
    for (file, tensors) in expected {
        let reader = open(&fixture("pytorch").join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let tensors = tensors.as_object().unwrap();
        let mut found = names(&reader);
        found.sort_unstable();
        let mut wanted: Vec<&str> = tensors.keys().map(String::as_str).collect();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{file}");
        for tensor in &reader.model().tensors {
            let row = &tensors[&tensor.name];
            assert_eq!(row["dtype"], tensor.elem.to_string(), "{file} {}", tensor.name);
            assert_eq!(row["shape"], Value::from(tensor.shape.clone()), "{file} {}", tensor.name);
            let bytes = reader.bytes(tensor).unwrap();
            assert_eq!(row["sha256"], sha256(&bytes), "{file} {}", tensor.name);
            if bytes.len() > 16 << 10 {
                continue;
            }
            // And piece by piece.
            let pieces: Vec<u8> = (0..bytes.len() as u64)
                .step_by(7)
                .flat_map(|at| reader.bytes_at(tensor, at..(at + 7).min(bytes.len() as u64)).unwrap().into_owned())
                .collect();
            assert_eq!(pieces, *bytes, "{file} {}", tensor.name);
        }
    }
}

#[test]
fn sound_files_have_no_errors_and_are_the_same_by_ranges() {
    for file in expected().keys() {
        let (findings, error) = judge_path(&fixture("pytorch").join(file));
        assert!(error.is_none(), "{file}: {error:?}");
        let errors: Vec<&Finding> = findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
        let code: &[&str] = if file == "torchscript.pt" { &["pt-code"] } else { &[] };
        assert_eq!(errors.iter().map(|finding| finding.code).collect::<Vec<_>>(), code, "{file}: {errors:?}");
    }
}

fn weigh(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_weigh")).current_dir(env!("CARGO_MANIFEST_DIR")).args(args).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn json(args: &[&str]) -> Value {
    let (status, out, error) = weigh(&[args, &["--json"]].concat());
    serde_json::from_str(&out).unwrap_or_else(|_| panic!("{args:?}: {status:?} {error}"))
}

/// The header, whose metadata safetensors writes in any order, and the data of a safetensors file.
fn parts(path: &Path) -> (Value, Vec<u8>) {
    let file = fs::read(path).unwrap();
    let end = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&file[8..end]).unwrap(), file[end..].to_vec())
}

#[test]
fn converted_checkpoints_are_the_files_that_safetensors_writes() {
    let folder = tempfile::tempdir().unwrap();
    for (checkpoint, reference) in [
        ("tied.pt", "tied.safetensors"),
        ("views.pt", "views.safetensors"),
        ("dtypes-plain.pt", "dtypes.safetensors"),
        ("module.pt", "tied.safetensors"),
    ] {
        let out = folder.path().join(checkpoint).with_extension("safetensors");
        let (status, _, error) = weigh(&["convert", &format!("fixtures/pytorch/{checkpoint}"), out.to_str().unwrap()]);
        assert_eq!(status, Some(0), "{error}");
        let (found, wanted) = (open(&out).unwrap(), open(&fixture("pytorch").join(reference)).unwrap());
        // What save_file stores once for each name; save_model, once for those that share memory.
        let tied = checkpoint == "views.pt";
        for tensor in &wanted.model().tensors {
            match found.model().tensor(&tensor.name) {
                Some(own) => {
                    let part = |tensor: &weigh::model::TensorInfo| (tensor.elem, tensor.shape.clone());
                    assert_eq!((part(own), found.bytes(own).unwrap()), (part(tensor), wanted.bytes(tensor).unwrap()), "{checkpoint}");
                }
                None => assert!(tied, "{checkpoint} {}", tensor.name),
            }
        }
        if !tied {
            assert_eq!(parts(&out), parts(&fixture("pytorch").join(reference)), "{checkpoint}");
        }
    }
}

#[test]
fn a_folder_of_sharded_checkpoints_is_the_model_of_its_safetensors() {
    let folder = tempfile::tempdir().unwrap();
    let content = |path: &str| json(&["hash", path, "--content"])["model"].clone();
    let wanted = content("fixtures/llama-tiny");
    assert_eq!(content("fixtures/pytorch/sharded"), wanted);
    assert_eq!(content("fixtures/pytorch/sharded/pytorch_model-00002-of-00002.bin"), wanted);
    assert_eq!(content("fixtures/pytorch/sharded/pytorch_model.bin.index.json"), wanted);
    for out in ["m.gguf", "hf/"] {
        let out = format!("{}/{out}", folder.path().display());
        let (status, _, error) = weigh(&["convert", "fixtures/pytorch/sharded", &out]);
        assert_eq!(status, Some(0), "{error}");
        assert_eq!(content(&out), wanted, "{out}");
    }
    let hf = folder.path().join("hf");
    assert!(hf.join("config.json").is_file() && hf.join("tokenizer.json").is_file() && !hf.join("pytorch_model.bin.index.json").exists());
    let (a, b) = (json(&["count", "fixtures/pytorch/sharded"]), json(&["count", "fixtures/llama-tiny"]));
    assert_eq!(a["parameters"], b["parameters"]);
    let (status, _, _) = weigh(&["diff", "fixtures/pytorch/sharded", "fixtures/llama-tiny", "--tolerance", "0"]);
    assert_eq!(status, Some(0));
}

#[test]
fn safetensors_are_preferred_and_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixture("pytorch/tied.safetensors"), folder.path().join("model.safetensors")).unwrap();
    fs::copy(fixture("pytorch/zip.pt"), folder.path().join("pytorch_model.bin")).unwrap();
    let (status, out, error) = weigh(&["ls", folder.path().to_str().unwrap()]);
    assert_eq!(status, Some(0));
    assert!(
        out.contains("embed.weight") && error.contains("pytorch_model.bin: not read: the safetensors files beside it are taken"),
        "{error}"
    );
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    // Files of a Trainer are no weights.
    fs::copy(fixture("pytorch/zip.pt"), folder.path().join("training_args.bin")).unwrap();
    fs::copy(fixture("pytorch/zip.pt"), folder.path().join("optimizer.pt")).unwrap();
    let (status, out, error) = weigh(&["ls", folder.path().to_str().unwrap()]);
    assert!(status == Some(0) && out.contains("bias"), "{error}");
}

#[test]
fn tensors_of_different_files_share_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in [("bare-4.pkl", "m-00001-of-00003.bin"), ("zip.pt", "m-00003-of-00003.bin")] {
        fs::copy(fixture("pytorch").join(from), folder.path().join(to)).unwrap();
    }
    let other = Pickle::new(2).op(b"}").text("v").tensor("FloatStorage", "0", 6, 0, &[6], &[1]).op(b"s").end();
    fs::write(folder.path().join("m-00002-of-00003.bin"), archive(&other)).unwrap();
    let reader = open(&folder.path().join("m-00001-of-00003.bin")).unwrap();
    assert_eq!(names(&reader).len(), 1 + 3 + expected()["bare-4.pkl"].as_object().unwrap().len());
    assert_eq!(reader.model().checkpoint.as_ref().unwrap().tied, []);
}

#[test]
fn parts_of_a_storage_are_tied_if_they_overlap() {
    // A file from before 1.6 whose storage is named in parts: (key, offset, length).
    let part = |pickle: Pickle, name: &str, from: u32, count: u32| {
        let id = pickle.text(name).global("torch._utils", "_rebuild_tensor_v2").op(b"((").text("storage").global("torch", "FloatStorage");
        let id = id.text("0").text("cpu").number(8).op(b"(").text("v").number(from).number(count).op(b"ttQ").number(0);
        id.op(b"(").number(count).op(b"t(").number(1).op(b"t\x89)tRs")
    };
    let object = part(part(part(Pickle::new(2).op(b"}"), "a", 0, 4), "b", 4, 4), "c", 0, 8).end();
    let head = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    let numbers: Vec<u8> = (0..8).flat_map(|number| (number as f32).to_le_bytes()).collect();
    let keys = Pickle::new(2).op(b"]").text("0").op(b"a").end();
    let file = [head.as_slice(), &object, &keys, &8u64.to_le_bytes(), &numbers].concat();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.pt");
    fs::write(&path, file).unwrap();
    let reader = open(&path).unwrap();
    let tied = &reader.model().checkpoint.as_ref().unwrap().tied;
    assert_eq!(tied.iter().map(|tied| (tied.name.as_str(), tied.to.as_str())).collect::<Vec<_>>(), [("a", "c"), ("b", "c")]);
    assert_eq!(*reader.bytes(reader.model().tensor("b").unwrap()).unwrap(), numbers[16..]);
}

#[test]
fn optimizer_state_averages_and_tied_tensors_are_no_parameters() {
    // Embedding 6 x 4, tied to the head; linear 4 x 4 + 4; batch norm 4 + 4, its running values 4 + 4 and a counter.
    let model = 24 + 20 + 8 + 9;
    for (file, parameters) in
        [("tied.pt", model), ("lightning.ckpt", model), ("ema.pt", model), ("fairseq.pt", model), ("module.pt", model)]
    {
        let count = json(&["count", &format!("fixtures/pytorch/{file}")]);
        assert_eq!(count["parameters"], parameters, "{file}");
    }
    let count = json(&["count", "fixtures/pytorch/lightning.ckpt", "--root", "state_dict"]);
    assert_eq!((&count["parameters"], &count["stored_elements"]), (&Value::from(model), &Value::from(model + 24)));
}

#[test]
fn a_key_chooses_what_is_below_it() {
    let reader = open(&fixture("pytorch/lightning.ckpt")).unwrap();
    let tied = open(&fixture("pytorch/tied.pt")).unwrap();
    let rooted = reader.rooted("state_dict").unwrap();
    assert_eq!(names(&rooted), names(&tied));
    assert_eq!(rooted.model().checkpoint.as_ref().unwrap().tied, tied.model().checkpoint.as_ref().unwrap().tied);
    let verify = |root: &[&str]| json(&[&["verify", "fixtures/pytorch/lightning.ckpt", "--data"], root].concat());
    let structure = |verdict: &Value| (verdict["checked"]["structure"].clone(), verdict["checked"]["values"].clone());
    assert_eq!(structure(&verify(&["--root", "state_dict"])), structure(&json(&["verify", "fixtures/pytorch/tied.pt", "--data"])));
    assert_ne!(structure(&verify(&["--root", "state_dict"])), structure(&verify(&[])));
    assert_eq!(weigh(&["verify", "fixtures/pytorch/lightning.ckpt", "--root", "model"]).0, Some(2));
    let error = reader.rooted("model").unwrap_err();
    assert_eq!(error.message(), "no tensors under model");
    assert!(error.hint_text().unwrap().contains("state_dict"), "{error:?}");
    let diff = json(&["diff", "fixtures/pytorch/tied.pt", "fixtures/pytorch/tied.safetensors"]);
    assert_eq!((diff["only_a"].clone(), diff["only_b"].clone()), (serde_json::json!([]), serde_json::json!([])), "{diff}");
    let (status, _, error) =
        weigh(&["diff", "fixtures/pytorch/lightning.ckpt", "fixtures/pytorch/tied.pt", "--root", "state_dict", "--tolerance", "0"]);
    assert_eq!(status, Some(0), "{error}");
}

#[test]
fn info_says_what_a_checkpoint_is() {
    for (file, kind, container, framework) in [
        ("zip.pt", "state dict", "zip archive", None),
        ("legacy.pt", "state dict", "legacy file", None),
        ("lightning.ckpt", "training checkpoint", "zip archive", Some("PyTorch Lightning 2.5.1")),
        ("deepspeed.pt", "state dict", "zip archive", Some("DeepSpeed 0.17.0")),
        ("fairseq.pt", "training checkpoint", "zip archive", Some("fairseq")),
        ("module.pt", "module", "zip archive", None),
        ("module-legacy.pt", "module", "legacy file", None),
        ("torchscript.pt", "TorchScript module", "zip archive", None),
        ("old.tar.pt", "state dict", "tar archive", None),
        ("bare-4.pkl", "state dict", "pickle", None),
        ("tensor.pt", "tensor", "zip archive", None),
    ] {
        let checkpoint = json(&["info", &format!("fixtures/pytorch/{file}")])["checkpoint"].clone();
        let found = (checkpoint["kind"].as_str(), checkpoint["container"].as_str(), checkpoint["framework"].as_str());
        assert_eq!(found, (Some(kind), Some(container), framework), "{file}");
    }
    let module = json(&["info", "fixtures/pytorch/module.pt"])["checkpoint"].clone();
    assert_eq!(module["opaque"][0]["callable"], "project.models.Net");
    assert_eq!(module["tied"], serde_json::json!([{ "name": "head.weight", "to": "embed.weight" }]));
    let values = json(&["meta", "fixtures/pytorch/lightning.ckpt"]);
    let epoch = values["metadata"].as_array().unwrap().iter().find(|entry| entry["key"] == "epoch").unwrap();
    assert_eq!((&epoch["type"], &epoch["value"]), (&Value::from("i64"), &Value::from(3)));
}

#[test]
fn tensors_without_readable_values_are_named() {
    for (file, name, others) in [
        ("sparse-csc.pt", "csc", &["dense"][..]),
        ("meta.pt", "meta", &["dense"]),
        ("sparse-unread.pt", "batched", &["twice", "dense"]),
        ("conjugate.pt", "conjugate", &["dense"]),
        ("negative.pt", "negative", &["dense"]),
    ] {
        let reader = open(&fixture("pytorch").join(file)).unwrap();
        let mut found = names(&reader);
        found.sort_unstable_by_key(|name| others.iter().position(|other| other == name));
        assert_eq!(found, others);
        let unread = &reader.model().checkpoint.as_ref().unwrap().unread;
        assert_eq!(unread.len(), 1);
        assert_eq!(unread[0].name, name);
    }
    // Whether an element is present twice is known when it is read.
    let reader = open(&fixture("pytorch/sparse-unread.pt")).unwrap();
    let error = reader.bytes(reader.model().tensor("twice").unwrap()).unwrap_err();
    assert!(error.message().contains("not coalesced"), "{error}");
}

/// A state dict with a tensor `w` of six numbers in storage 0, and what `more` adds in front of the end.
fn state(more: &[u8]) -> Vec<u8> {
    Pickle::new(2)
        .global("collections", "OrderedDict")
        .op(b")R")
        .text("w")
        .tensor("FloatStorage", "0", 6, 0, &[2, 3], &[3, 1])
        .op(b"s")
        .raw(more)
        .end()
}

fn archive(pickle: &[u8]) -> Vec<u8> {
    zip(&[("archive/data.pkl", pickle), ("archive/byteorder", b"little"), ("archive/data/0", &[0; 24]), ("archive/version", b"3\n")])
}

fn errors(file: &[u8]) -> Vec<(&'static str, Severity, Option<u64>, String)> {
    let (findings, _) = judge("m.pt", file);
    findings.into_iter().map(|finding| (finding.code, finding.severity, finding.offset, finding.message)).collect()
}

#[test]
fn a_harmful_checkpoint_opens_and_what_it_would_run_is_named_with_place_and_arguments() {
    let harm = Pickle::bare().text("x").global("posix", "system").op(b"(").text("echo harm").op(b"tRs").into_bytes();
    let file = archive(&state(&harm));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.pt");
    fs::write(&path, &file).unwrap();
    let reader = open(&path).unwrap();
    assert_eq!(names(&reader), ["w"]);
    assert_eq!(reader.model().checkpoint.as_ref().unwrap().opaque[0].callable, "posix.system");
    let at = file.windows(14).position(|window| window == b"cposix\nsystem\n").unwrap() as u64;
    let message = "loading it with pickle would call posix.system('echo harm')".to_owned();
    assert_eq!(errors(&file), [("pickle-import", Severity::Error, Some(at), message)]);
    let (status, out, _) = weigh(&["verify", path.to_str().unwrap()]);
    assert!(status == Some(1) && out.contains("posix.system('echo harm')"), "{out}");
}

#[test]
fn a_tensor_whose_storage_would_run_something_is_left_out() {
    let inner = Pickle::bare()
        .text("x")
        .global("torch._utils", "_rebuild_tensor_v2")
        .op(b"(")
        .global("os", "system")
        .op(b")RK\0)))tRs")
        .into_bytes();
    let class = Pickle::bare().text("x").global("torch._utils", "_rebuild_tensor_v2").op(b"((").text("storage").global("os", "system");
    let class = class.text("0").text("cpu").number(6).op(b"tQK\0)))tRs").into_bytes();
    for more in [inner, class] {
        let file = archive(&state(&more));
        assert_eq!(
            errors(&file).iter().map(|(code, severity, ..)| (*code, *severity)).collect::<Vec<_>>()[..1],
            [("pickle-import", Severity::Error)]
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.pt");
        fs::write(&path, &file).unwrap();
        let reader = open(&path).unwrap();
        assert_eq!(names(&reader), ["w"]);
        assert_eq!(reader.model().checkpoint.as_ref().unwrap().unread[0].name, "x");
    }
}

#[test]
fn every_way_to_name_and_call_is_seen() {
    let call = |opcodes: &[u8]| [b"\x80\x02".as_slice(), opcodes, b"."].concat();
    for (case, pickle, severity, shown) in [
        ("reduce", call(b"cos\nsystem\n(X\x01\0\0\0xtR"), Severity::Error, "os.system('x')"),
        ("new object", call(b"csubprocess\nPopen\n(X\x01\0\0\0xt\x81"), Severity::Error, "subprocess.Popen('x')"),
        ("new object with keywords", call(b"csubprocess\nPopen\n)}\x92"), Severity::Error, "subprocess.Popen({})"),
        ("instance", call(b"(X\x01\0\0\0xios\nsystem\n"), Severity::Error, "os.system('x')"),
        ("object", call(b"(cos\nsystem\nX\x01\0\0\0xo"), Severity::Error, "os.system('x')"),
        ("stack", call(b"\x8c\x02os\x8c\x06system\x93)R"), Severity::Error, "os.system()"),
        ("dotted", call(b"X\x05\0\0\0torchX\x17\0\0\0serialization.os.system\x93)R"), Severity::Error, "torch.serialization.os.system()"),
        ("protocol 0", b"cos\nsystem\n(S'x'\ntR.".to_vec(), Severity::Error, "os.system('x')"),
        ("import alone", call(b"cos\nenviron\n"), Severity::Error, "import os.environ"),
        ("extension", call(b"\x82\x07"), Severity::Error, "import Python's extension registry.7"),
        ("unknown", call(b"cmy.module\nClass\n)R"), Severity::Warning, "my.module.Class(), which is not known to be harmless"),
        ("bytes", call(b"(B\x16\0\0\0\x80\x02cos\nsystem\n(U\x02hitR.l"), Severity::Error, "os.system('hi')"),
    ] {
        for file in [archive(&pickle), pickle] {
            let found = errors(&file);
            let import = found.iter().find(|(code, ..)| *code == "pickle-import").unwrap_or_else(|| panic!("{case}: {found:?}"));
            assert!(import.1 == severity && import.3.contains(shown), "{case}: {import:?}");
        }
    }
}

#[test]
fn pickles_behind_and_beside_the_first_are_found() {
    let harm = b"\x80\x02cos\nsystem\n)R.";
    let behind = archive(&[state(b"").as_slice(), harm].concat());
    let codes = |file: &[u8]| errors(file).into_iter().map(|(code, severity, ..)| (code, severity)).collect::<Vec<_>>();
    assert_eq!(codes(&behind), [("pickle-trailing", Severity::Error), ("pickle-import", Severity::Error)]);
    // Numbers that happen to be opcodes: one of the extension registry, and the end.
    let mut numbers = [0; 24];
    numbers[..3].copy_from_slice(b"\x82\x2c.");
    assert_eq!(codes(&zip(&[("archive/data.pkl", &state(b"")), ("archive/data/0", &numbers)])), []);
    let zeros = archive(&[state(b"").as_slice(), &[0; 9]].concat());
    assert_eq!(codes(&zeros), [("pickle-trailing", Severity::Warning)]);
    let entries: [(&str, &[u8]); 3] = [("archive/data.pkl", &state(b"")), ("archive/data/0", &[0; 24]), ("archive/other", harm)];
    assert_eq!(codes(&zip(&entries)), [("pickle-nested", Severity::Warning), ("pickle-import", Severity::Error)]);
    // Whatever the name: a storage, a pickle of TorchScript, and the other data.pkl of another folder.
    for (name, warned) in [("archive/data/1", true), ("archive/constants.pkl", false), ("other/data.pkl", true), ("x.npy", true)] {
        let entries: [(&str, &[u8]); 3] = [("archive/data.pkl", &state(b"")), ("archive/data/0", &[0; 24]), (name, harm)];
        let wanted = [("pickle-nested", Severity::Warning), ("pickle-import", Severity::Error)];
        assert_eq!(codes(&zip(&entries)), wanted[usize::from(!warned)..], "{name}");
    }
    // Both of two entries of one name.
    let entries: [(&str, &[u8]); 3] = [("archive/data.pkl", &state(b"")), ("archive/data/0", &[0; 24]), ("archive/data.pkl", harm)];
    let found = errors(&zip(&entries));
    assert_eq!(found.iter().map(|(code, ..)| *code).collect::<Vec<_>>(), ["zip-duplicate", "pickle-nested", "pickle-import"]);
    assert!(found[2].3.contains("os.system"), "{found:?}");
    // Without a data.pkl, nothing opens; what is there is told.
    assert_eq!(
        codes(&zip(&[("archive/other", harm)])),
        [("pickle-nested", Severity::Warning), ("pickle-import", Severity::Error), ("pt-record", Severity::Error)]
    );
    let entries: [(&str, &[u8]); 3] = [("a/data.pkl", &state(b"")), ("a/data/0", &[0; 24]), ("a/code/__torch__.py", b"class M")];
    assert_eq!(codes(&zip(&entries)), [("pt-code", Severity::Error)]);
}

#[test]
fn a_damaged_file_names_what_loading_it_would_run_before_the_damage() {
    let harm = b"\x80\x02cos\nsystem\n(X\x02\0\0\0hitR";
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    let lying = Pickle::new(2).op(b"}").text("w").tensor("FloatStorage", "7", 6, 0, &[6], &[1]).op(b"s").raw(&harm[2..]).op(b"0").end();
    let first = [harm.as_slice(), b"0", &magic[2..]].concat();
    let legacy = fs::read(fixture("pytorch/legacy.pt")).unwrap();
    for (case, file) in [
        ("cut", harm.to_vec()),
        ("unknown opcode", [harm.as_slice(), b"\xff."].concat()),
        ("archive", archive(harm)),
        ("storage that is missing", archive(&lying)),
        ("entry that is cut", zip(&[("a/data.pkl", &state(b"")), ("a/data/0", &[0; 24]), ("a/x", harm)])),
        ("legacy, cut behind the first pickles", [magic.as_slice(), b"\x80\x02M\xe9\x03.", harm, b"."].concat()),
        ("legacy, before the magic number", [&first, &legacy[magic.len()..]].concat()),
        ("bytes", [b"\x80\x02(B".as_slice(), &(harm.len() as u32).to_le_bytes(), harm, b"l."].concat()),
        ("behind the pickle", [state(b"").as_slice(), harm].concat()),
    ] {
        let found = errors(&file);
        let import = |(code, severity, _, message): &&(&str, Severity, Option<u64>, String)| {
            *code == "pickle-import" && *severity == Severity::Error && message.contains("os.system('hi')")
        };
        assert_eq!(found.iter().filter(import).count(), 1, "{case}: {found:?}");
    }
}

#[test]
fn damaged_archives_are_refused_or_reported() {
    let sound = archive(&state(b""));
    assert_eq!(errors(&sound), []);
    let find = |what: &[u8]| sound.windows(what.len()).position(|window| window == what).unwrap();
    let changed = |at: usize, bytes: &[u8]| {
        let mut file = sound.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    refused("m.pt", "no end", &sound[..sound.len() - 22], "zip-directory");
    refused("m.pt", "count", &changed(sound.len() - 12, &[9, 0]), "zip-directory");
    let central = find(b"PK\x01\x02");
    refused("m.pt", "local header outside", &changed(central + 42, &[0xff, 0xff, 0xff, 0x7f]), "zip-directory");
    refused("m.pt", "encrypted", &changed(central + 8, &[1, 0]), "zip-entry");
    refused("m.pt", "size", &changed(central + 20, &[0xff; 3]), "zip-directory");
    let entries: [(&str, &[u8]); 3] = [("a/data.pkl", &state(b"")), ("a/data/0", &[0; 24]), ("a/data.pkl", b"\x80\x02).")];
    refused("m.pt", "twice", &zip(&entries), "zip-duplicate");
    refused("m.pt", "no pickle", &zip(&[("a/x", b"1")]), "pt-record");
    for (case, file, code) in [
        ("another name", changed(find(b"archive/version"), b"archive/versiom"), "zip-header"),
        ("another method", changed(8, &[8, 0]), "zip-header"),
        ("crc", changed(14, &[1, 2, 3, 4]), "zip-header"),
    ] {
        let found = errors(&file);
        assert!(found.iter().any(|(found, severity, ..)| (*found, *severity) == (code, Severity::Error)), "{case}: {found:?}");
    }
    let entries: [(&str, &[u8]); 3] = [("a/data.pkl", &state(b"")), ("a/data/0", &[0; 24]), ("../../x", b"1")];
    assert_eq!(errors(&zip(&entries))[0].0, "zip-path");
    let entries: [(&str, &[u8]); 3] = [("a/data.pkl", &state(b"")), ("a/data/0", &[0; 24]), ("a/byteorder", b"middle")];
    refused("m.pt", "byte order", &zip(&entries), "pt-record");
    // A storage that was changed: its checksum is compared with --data.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.pt");
    let data = find(b"archive/data/0") + 14;
    fs::write(&path, changed(data, &[0, 0, 128, 63])).unwrap();
    let verdict = json(&["verify", path.to_str().unwrap(), "--data"]);
    assert_eq!(verdict["findings"][0]["code"], "zip-crc", "{verdict}");
    assert_eq!(weigh(&["verify", path.to_str().unwrap()]).0, Some(0));
    // The same of deflated ones, of PyTorch and of NumPy: the checksum in both headers is another.
    for (file, entry) in [("deflated.pt", "views/data/1"), ("compressed.npz", "f4.npy")] {
        let mut file = fs::read(fixture("pytorch").join(file)).unwrap();
        // The last place of the name is in the directory, behind a header of 46 bytes.
        let central = file.windows(entry.len()).rposition(|window| window == entry.as_bytes()).unwrap() - 46;
        let local = u32::from_le_bytes(file[central + 42..central + 46].try_into().unwrap()) as usize;
        file[central + 16] ^= 1;
        file[local + 14] ^= 1;
        fs::write(&path, file).unwrap();
        assert_eq!(weigh(&["verify", path.to_str().unwrap()]).0, Some(0));
        let verdict = json(&["verify", path.to_str().unwrap(), "--data"]);
        let crc: Vec<&Value> = verdict["findings"].as_array().unwrap().iter().filter(|finding| finding["code"] == "zip-crc").collect();
        assert!(crc.len() == 1 && verdict["ok"] == false, "{verdict}");
    }
}

#[test]
fn storages_and_views_that_lie_are_refused() {
    let with = |class: &str, key: &str, len: u32, offset: u32, shape: &[u32], strides: &[u32]| {
        archive(&Pickle::new(2).op(b"}").text("w").tensor(class, key, len, offset, shape, strides).op(b"s").end())
    };
    for (case, file, code) in [
        ("missing", with("FloatStorage", "7", 6, 0, &[6], &[1]), "pt-storage"),
        ("path", with("FloatStorage", "../../../etc/passwd", 6, 0, &[6], &[1]), "pt-storage"),
        ("length", with("FloatStorage", "0", 7, 0, &[6], &[1]), "pt-storage"),
        ("class", with("system", "0", 6, 0, &[6], &[1]), "pt-storage"),
        ("too long", with("FloatStorage", "0", 6, 0, &[7], &[1]), "pt-tensor"),
        ("stride", with("FloatStorage", "0", 6, 0, &[2, 3], &[4, 1]), "pt-tensor"),
        ("rank", with("FloatStorage", "0", 6, 0, &[2, 3], &[1]), "pt-tensor"),
        ("offset", with("FloatStorage", "0", 6, 6, &[1], &[1]), "pt-tensor"),
        ("negative", with("FloatStorage", "0", 6, 0, &[u32::MAX], &[0]), "pt-tensor"),
        ("overflow", with("FloatStorage", "0", 6, 0, &[1 << 30, 1 << 30, 1 << 30], &[0, 0, 0]), "pt-tensor"),
    ] {
        refused("m.pt", case, &file, code);
    }
}

#[test]
fn malformed_pickles_are_refused() {
    for (case, pickle) in [
        ("empty", b"".to_vec()),
        ("cut in an opcode", b"\x80\x02X\x05\0\0\0ab".to_vec()),
        ("no end", b"\x80\x02}".to_vec()),
        ("opcode", b"\x80\x02\xff.".to_vec()),
        ("protocol", b"\x80\x09}.".to_vec()),
        ("nothing to call", b"\x80\x02R.".to_vec()),
        ("no mark", b"\x80\x02}t.".to_vec()),
        ("below a mark", b"\x80\x02}(R.".to_vec()),
        ("memo", b"\x80\x02h\x63.".to_vec()),
        ("length", [b"\x80\x04\x8d".as_slice(), &(1u64 << 63).to_le_bytes(), b"."].concat()),
        ("frame", [b"\x80\x04\x95".as_slice(), &(1u64 << 63).to_le_bytes(), b"}."].concat()),
        ("append to a number", b"\x80\x02K\x01K\x02a.".to_vec()),
        ("items of a list", b"\x80\x02]K\x01K\x02s.".to_vec()),
        ("arguments", b"\x80\x02cos\nsystem\nK\x01R.".to_vec()),
        ("names", b"\x80\x04K\x01K\x02\x93.".to_vec()),
        ("odd items", b"\x80\x02}(K\x01u.".to_vec()),
        ("number", b"Ix\n.".to_vec()),
        ("line", b"Sx\n.".to_vec()),
    ] {
        refused("m.pt", case, &archive(&pickle), "pickle-malformed");
        if pickle.starts_with(b"\x80") {
            refused("m.pt", case, &pickle, "pickle-malformed");
        }
    }
}

#[test]
fn bombs_end_at_a_limit() {
    // Nested lists; tuples of shared tuples; a memo of any index; ever more values.
    let nested = [b"\x80\x02".as_slice(), &b"]".repeat(100_000), &b"a".repeat(99_999), b"."].concat();
    let mut laughs = b"\x80\x02)\x85q\0".to_vec();
    (0..60u8).for_each(|_| laughs.extend(b"h\0h\0h\0h\0h\0h\0h\0h\0h\0h\0"));
    let mut laughs = b"\x80\x02K\x01".to_vec();
    for level in 0..60u8 {
        laughs.extend([b'q', level]);
        laughs.extend([b"(".as_slice(), &[b'h', level].repeat(10), b"t"].concat());
    }
    laughs.push(b'.');
    let many = [b"\x80\x02(".as_slice(), &b"]".repeat(3 << 20), b"l."].concat();
    for (case, pickle) in [("nested", nested), ("laughs", laughs), ("many", many)] {
        let (findings, error) = judge("m.pkl", &pickle);
        let error = error.unwrap_or_else(|| panic!("{case}"));
        assert_eq!(error.kind(), weigh::ErrorKind::Limit, "{case}: {error}");
        assert!(findings.iter().any(|finding| finding.code == "pickle-malformed"), "{case}: {findings:?}");
    }
    let far = [b"\x80\x02}r".as_slice(), &u32::MAX.to_le_bytes(), b"."].concat();
    assert!(judge("m.pkl", &far).1.is_none());
}

#[test]
fn a_cycle_ends() {
    // A dictionary that holds itself, and a tensor.
    let pickle = Pickle::new(2).op(b"}q\0").text("self").op(b"h\0s").text("w").tensor("FloatStorage", "0", 6, 0, &[6], &[1]).op(b"s").end();
    let (findings, error) = judge("m.pt", &archive(&pickle));
    assert!(error.is_none() && findings.is_empty(), "{error:?} {findings:?}");
}

#[test]
fn equal_names_are_told_apart_and_equal_keys_are_one() {
    let tensor = |pickle: Pickle| pickle.tensor("FloatStorage", "0", 6, 0, &[6], &[1]);
    let part = |pickle: Pickle| pickle.tensor("FloatStorage", "0", 6, 1, &[2], &[1]);
    let inner = tensor(Pickle::new(2).op(b"}").text("a.b")).op(b"s").text("a").op(b"}").text("b");
    let pickle = part(inner).op(b"ss").text("c");
    let pickle = part(tensor(pickle).op(b"s").text("c")).op(b"s").end();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.pt");
    fs::write(&path, archive(&pickle)).unwrap();
    let reader = open(&path).unwrap();
    let mut found: Vec<(&str, u64)> = reader.model().tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape[0])).collect();
    found.sort_unstable();
    assert_eq!(found, [("a.b", 6), ("a.b~2", 2), ("c", 2)]);
}

#[test]
fn a_legacy_file_that_is_cut_lists_its_tensors() {
    let whole = fs::read(fixture("pytorch/legacy.pt")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.pt");
    fs::write(&path, &whole[..whole.len() - 4]).unwrap();
    let (findings, error) = judge_path(&path);
    assert_eq!(error.unwrap().kind(), weigh::ErrorKind::Truncated);
    assert!(findings.iter().any(|finding| finding.code == "pt-truncated"), "{findings:?}");
    let (status, out, _) = weigh(&["ls", path.to_str().unwrap()]);
    assert!(status == Some(1) && out.contains("weight"), "{out}");
}

#[test]
fn damaged_arrays_are_refused() {
    let npy =
        |header: &str, data: &[u8]| [b"\x93NUMPY\x01\0".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes(), data].concat();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n";
    assert!(judge("a.npy", &npy(header, &[0; 8])).1.is_none());
    for (case, file, code) in [
        ("data", npy(header, &[0; 7]), "npy-size"),
        ("shape", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551615, 2), }", &[0; 8]), "npy-size"),
        ("header", npy("{'descr': '<f4'}", &[0; 8]), "npy-header"),
        ("version", [b"\x93NUMPY\x09\0".as_slice(), &[0; 20]].concat(), "npy-header"),
        ("length", [b"\x93NUMPY\x01\0\xff\xff".as_slice(), &[32; 20]].concat(), "npy-header"),
    ] {
        refused("a.npy", case, &file, code);
    }
    // Texts and objects are told and left out.
    let (findings, error) = judge("a.npy", &npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"\x80\x03K\x01."));
    assert!(error.is_none() && findings[0].code == "npy-dtype", "{findings:?}");
}
