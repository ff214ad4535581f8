//! Conversions into a bucket: the same files as on disk, visible whole or not at all. The bucket is a server on loopback that speaks the
//! protocol of S3.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use weigh::DType;
use weigh::model::Metadata;

use crate::build::{tensor, write};
use crate::parts::files;
use crate::remote::{Weigh, without_paths};
use crate::server::{Asked, Body, Bucket, Reply, Server};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/llama-tiny");

/// An empty bucket, its folder, and a command that can write to it. `fault` may answer in its place.
struct Case {
    folder: tempfile::TempDir,
    bucket: Bucket,
    server: Server,
    weigh: Weigh,
}

impl Case {
    fn new() -> Self {
        Self::with(|_| None)
    }

    fn with(fault: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bucket = Bucket::new(folder.path());
        let own = bucket.clone();
        let server = Server::start(move |asked| fault(asked).unwrap_or_else(|| own.answer(asked)));
        let weigh = Weigh::bucket(&server);
        Self { folder, bucket, server, weigh }
    }

    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        files(self.folder.path())
    }

    /// What a conversion with these arguments gives on disk.
    fn on_disk(&self, input: &str, out: &str, args: &[&str]) -> BTreeMap<String, Vec<u8>> {
        let at = tempfile::tempdir().unwrap();
        let out = at.path().join(out);
        fs::create_dir_all(out.parent().unwrap()).unwrap();
        self.weigh.json(&[&["convert", input, out.to_str().unwrap()], args].concat());
        files(at.path())
    }

    fn is_empty(&self) -> bool {
        self.files().is_empty() && self.bucket.pending() == 0
    }
}

/// The names and bytes, for a comparison whose failure can be read.
fn equal(found: &BTreeMap<String, Vec<u8>>, wanted: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    wanted.iter().for_each(|(name, bytes)| assert!(found[name] == *bytes, "{name} differs"));
}

#[test]
fn a_conversion_into_a_bucket_gives_the_files_of_one_on_disk() {
    for (out, args) in [
        ("out.gguf", &["--type", "Q4_K_M"][..]),
        ("a/b/out.gguf", &["--type", "F16", "--shard-size", "20kB", "--verify"]),
        ("folder/", &["--type", "F16"]),
        ("folder", &["--shard-size", "20kB"]),
    ] {
        let case = Case::new();
        let report = case.weigh.json(&[&["convert", TINY, &format!("s3://models/{out}")], args].concat());
        let listed: Vec<&str> = report["output"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
        assert!(listed.iter().all(|path| case.folder.path().join(path.strip_prefix("s3://models/").unwrap()).is_file()), "{listed:?}");
        equal(&case.files(), &case.on_disk(TINY, out, args));
        assert_eq!(case.bucket.pending(), 0);
        // The index is the last file to appear.
        let completed = |asked: &Asked| asked.method == "POST" && asked.value("uploadId").is_some();
        let seen = case.server.seen();
        let last = seen.iter().rev().find(|seen| completed(&seen.asked)).unwrap();
        assert!(out != "folder" || last.asked.path.ends_with(".index.json"), "{}", last.asked.path);
    }
}

#[test]
fn both_files_of_a_model_with_an_encoder_are_written_into_a_bucket() {
    let case = Case::new();
    let at = tempfile::tempdir().unwrap();
    crate::mmproj::model(at.path());
    let model = at.path().join("model");
    let model = model.to_str().unwrap();
    case.weigh.json(&["convert", model, "s3://models/a/out.gguf", "--mmproj", "s3://models/a/mm.gguf"]);
    let here = |name: &str| at.path().join("a").join(name).to_str().unwrap().to_owned();
    fs::create_dir(at.path().join("a")).unwrap();
    case.weigh.json(&["convert", model, &here("out.gguf"), "--mmproj", &here("mm.gguf")]);
    equal(&case.files(), &["out.gguf", "mm.gguf"].map(|name| (format!("a/{name}"), fs::read(here(name)).unwrap())).into());
    assert_eq!(case.bucket.pending(), 0);
    // And back, from there.
    case.weigh.json(&["convert", "s3://models/a/out.gguf", &here("back/"), "--mmproj", "s3://models/a/mm.gguf"]);
    assert_eq!(case.weigh.json(&["count", &here("back")])["parameters"], case.weigh.json(&["count", model])["parameters"]);
}

/// Google's storage answers the same requests as S3.
#[test]
fn a_bucket_of_google_is_written_and_read() {
    let case = Case::new();
    let account = case.weigh.home.path().join("account.json");
    let url = case.server.url("");
    let text = serde_json::json!({ "gcs_base_url": url.trim_end_matches('/'), "disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": "" });
    fs::write(&account, text.to_string()).unwrap();
    let weigh = Weigh::new().with("GOOGLE_SERVICE_ACCOUNT", account.to_str().unwrap()).with("AWS_ALLOW_HTTP", "true");
    for (out, args) in [("a/out.gguf", &["--type", "Q4_K_M"][..]), ("folder/", &["--type", "F16"]), ("set", &["--shard-size", "20kB"])] {
        weigh.json(&[&["convert", TINY, &format!("gs://models/{out}")], args].concat());
        let at = tempfile::tempdir().unwrap();
        let here = at.path().join(out);
        fs::create_dir_all(here.parent().unwrap()).unwrap();
        weigh.json(&[&["convert", TINY, here.to_str().unwrap()], args].concat());
        for command in ["info", "ls", "stats", "hash"] {
            let (there, here) = (weigh.json(&[command, &format!("gs://models/{out}")]), weigh.json(&[command, here.to_str().unwrap()]));
            assert_eq!(without_paths(there), without_paths(here), "{command} {out}");
        }
        let files = case.files().into_iter().filter(|(name, _)| name.starts_with(out)).collect();
        equal(&files, &crate::parts::files(at.path()));
    }
    assert_eq!(case.bucket.pending(), 0);
    assert!(weigh.error(&["ls", "gs://models/none.gguf"]).contains("the bucket has no such file (404)"));
}

#[test]
fn a_listing_may_give_tags_without_quotes() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = Bucket::new(folder.path());
    let server = Server::start(move |asked| match bucket.answer(asked) {
        Reply { body: Body::Bytes(xml), .. } if xml.starts_with(b"<ListBucketResult>") => {
            Reply::new(200, String::from_utf8(xml).unwrap().replace("&quot;", ""))
        }
        reply => reply,
    });
    let weigh = Weigh::bucket(&server);
    weigh.json(&["convert", TINY, folder.path().join("m").to_str().unwrap(), "--shard-size", "20kB"]);
    assert_eq!(weigh.json(&["count", "s3://models/m"])["parameters"], weigh.json(&["count", TINY])["parameters"]);
}

#[test]
fn a_large_file_is_sent_in_parts() {
    let case = Case::new();
    let input = case.weigh.home.path().join("model.safetensors");
    let bytes: Vec<u8> = (0u32..5 << 20).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    write("safetensors", &input, &[tensor("x", DType::U32, &[5 << 20], bytes)], &Metadata::new(), None);
    case.weigh.json(&["convert", "model.safetensors", "s3://models/copy.safetensors", "--keep-names"]);
    equal(&case.files(), &case.on_disk("model.safetensors", "copy.safetensors", &["--keep-names"]));
    let parts = case.server.seen().iter().filter(|seen| seen.asked.method == "PUT").count();
    assert_eq!(parts, 3, "20 MiB in parts of 8 MiB");
}

#[test]
fn what_is_there_is_replaced_only_if_asked() {
    let case = Case::new();
    let convert = ["convert", TINY, "s3://models/out", "--shard-size"];
    let [small, large] = ["20kB", "1GB"].map(|size| [&convert[..], &[size]].concat());
    case.weigh.json(&small);
    let before = case.files();
    let said = case.weigh.error(&large);
    assert!(said.contains("s3://models/out: the output already exists") && said.contains("--force"), "{said}");
    assert_eq!((case.files(), case.bucket.pending()), (before, 0));
    case.weigh.json(&[&large[..], &["--force"]].concat());
    equal(&case.files(), &case.on_disk(TINY, "out", &["--shard-size", "1GB"]));
    // A single file, and the input itself.
    let gguf = ["convert", TINY, "s3://models/m.gguf"];
    case.weigh.json(&gguf);
    assert!(case.weigh.error(&gguf).contains("s3://models/m.gguf: the output already exists"));
    case.weigh.json(&[&gguf[..], &["--type", "Q8_0", "--force"]].concat());
    assert!(case.files()["m.gguf"] == case.on_disk(TINY, "m.gguf", &["--type", "Q8_0"])["m.gguf"]);
    let same = ["convert", "s3://models/m.gguf", "s3://models/m.gguf", "--force"];
    assert!(case.weigh.error(&same).contains("the output is also an input"));
    let same = ["convert", "s3://models/out", "s3://models/out/", "--force"];
    assert!(case.weigh.error(&same).contains("the output folder is the folder of the input"));
}

/// Writes a model whose second tensor does not fit into F16; the arguments that write it in two shards and an index.
fn two_shards(case: &Case) -> [&'static str; 6] {
    let large = f32::MAX.to_le_bytes().repeat(8192);
    let tensors = [tensor("a", DType::F32, &[8192], vec![0; 4 * 8192]), tensor("b", DType::F32, &[8192], large)];
    write("safetensors", &case.weigh.home.path().join("model.safetensors"), &tensors, &Metadata::new(), None);
    ["convert", "model.safetensors", "s3://models/out", "--keep-names", "--shard-size", "16kB"]
}

#[test]
fn a_failure_at_any_request_leaves_nothing() {
    let writes = {
        let case = Case::new();
        case.weigh.json(&two_shards(&case));
        case.server.seen().iter().filter(|seen| seen.asked.method != "GET").count()
    };
    assert_eq!(writes, 9, "three files, each begun, sent and completed");
    for failing in 0..writes {
        let count = AtomicUsize::new(0);
        let case = Case::with(move |asked| {
            let is_it = asked.method != "GET" && count.fetch_add(1, Ordering::Relaxed) == failing;
            is_it.then(|| Reply::new(403, "<Error><Code>AccessDenied</Code></Error>"))
        });
        let said = case.weigh.error(&two_shards(&case));
        assert!(said.contains("s3://models/out/") && said.contains("the bucket refuses access (403)"), "{said}");
        assert!(case.is_empty(), "request {failing}: {:?}, {} uploads", case.files().keys(), case.bucket.pending());
    }
    // A value that --strict refuses, after the first file is sent.
    let case = Case::new();
    let said = case.weigh.error(&[&two_shards(&case)[..], &["--type", "F16", "--strict"]].concat());
    assert!(said.contains("tensor \"b\""), "{said}");
    assert!(case.is_empty() && case.server.seen().iter().any(|seen| seen.asked.method == "POST"));
}

#[test]
fn a_file_that_appears_meanwhile_is_not_replaced() {
    let done = Arc::new(AtomicBool::new(false));
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("m.gguf");
    let bucket = Bucket::new(folder.path());
    let (own, first) = (bucket.clone(), Arc::clone(&done));
    let server = Server::start(move |asked| {
        if asked.method == "PUT" && !first.swap(true, Ordering::Relaxed) {
            fs::write(&place, "mine").unwrap();
        }
        own.answer(asked)
    });
    let said = Weigh::bucket(&server).error(&["convert", TINY, "s3://models/m.gguf"]);
    assert!(said.contains("the output already exists"), "{said}");
    assert_eq!(fs::read(folder.path().join("m.gguf")).unwrap(), b"mine");
    assert_eq!((files(folder.path()).len(), bucket.pending()), (1, 0));
}

/// Returns the same command with no signal ignored: a shell's child in the background has SIGINT ignored, and so have its own.
fn with_default_signals(command: &std::process::Command) -> std::process::Command {
    let mut wrapped = std::process::Command::new("env");
    wrapped.arg("--default-signal").arg(command.get_program()).args(command.get_args()).env_clear();
    wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    wrapped.current_dir(command.get_current_dir().unwrap());
    wrapped
}

#[test]
fn a_signal_aborts_the_uploads() {
    for signal in ["TERM", "INT"] {
        let (begun, wait) = mpsc::channel();
        let begun = std::sync::Mutex::new(begun);
        // The third file is never received.
        let count = AtomicUsize::new(0);
        let case = Case::with(move |asked| {
            if asked.method == "PUT" && count.fetch_add(1, Ordering::Relaxed) == 2 {
                begun.lock().unwrap().send(()).unwrap();
                std::thread::sleep(Duration::from_secs(600));
            }
            None
        });
        let convert = case.weigh.command(&["convert", TINY, "s3://models/out", "--shard-size", "20kB"]);
        let mut command = with_default_signals(&convert);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait.recv().unwrap();
        assert!(case.bucket.pending() > 0);
        assert!(std::process::Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap().success());
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(if signal == "TERM" { 143 } else { 130 }));
        assert!(case.is_empty(), "{signal}: {} uploads", case.bucket.pending());
    }
}

#[test]
fn parts_are_written_to_a_bucket_and_joined_there() {
    for (out, args) in [("out/", &["--type", "F16", "--shard-size", "20kB"][..]), ("m.gguf", &["--type", "Q4_K_M", "--shard-size", "20kB"])]
    {
        let case = Case::new();
        let address = format!("s3://models/{out}");
        let part = |part: &str, more: &[&str]| case.weigh.json(&[&["convert", TINY, &address, "--part", part], args, more].concat());
        part("3/3", &[]);
        part("1/3", &[]);
        let said = case.weigh.error(&["convert", "--join", &address]);
        assert!(said.contains("missing: 2/3") && said.contains("run the missing parts again"), "{said}");
        part("2/3", &[]);
        let again = [&["convert", TINY, &address, "--part", "2/3"], args].concat();
        assert!(case.weigh.error(&again).contains("already exists"));
        part("2/3", &["--force"]);
        let other = [&["convert", TINY, &address, "--part", "1/2"], args].concat();
        assert!(case.weigh.error(&other).contains("of another plan"));
        // A part that is damaged is found.
        let (name, bytes) = case.files().into_iter().find(|(name, _)| name.contains("-00002-of-")).unwrap();
        fs::write(case.folder.path().join(&name), &bytes[1..]).unwrap();
        assert!(case.weigh.error(&["convert", "--join", &address]).contains("bytes, as part"));
        fs::write(case.folder.path().join(&name), &bytes).unwrap();
        let joined = case.weigh.json(&["convert", "--join", &address]);
        assert_eq!(joined["parts"], 3);
        equal(&case.files(), &case.on_disk(TINY, out, args));
        assert_eq!(case.bucket.pending(), 0);
        let whole = [&["convert", TINY, &address, "--part", "1/3"], args].concat();
        assert!(case.weigh.error(&whole).contains("a model already exists here"));
    }
}

#[test]
fn other_addresses_cannot_be_written() {
    let case = Case::new();
    let web = case.server.url("m.gguf");
    for (address, what) in [("hf://org/name/m.gguf", "the Hub"), ("hf://org/name", "the Hub"), (web.as_str(), "a web server")] {
        for args in [&["convert", TINY, address][..], &["convert", "--join", address]] {
            let said = case.weigh.error(args);
            assert!(said.starts_with(&format!("weigh: {address}: cannot write to {what}")), "{said}");
        }
    }
    assert!(case.server.seen().is_empty());
}
