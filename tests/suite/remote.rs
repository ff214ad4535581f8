//! Models behind addresses: the same answers as from files, few requests, and one line for each failure. The servers are real ones, on
//! loopback; what they were asked for is counted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value as Json;

use crate::build::safetensors;
use crate::server::{self, Asked, Body, Reply, Server};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A command with an environment of its own, and a home without caches and tokens.
pub(crate) struct Weigh {
    pub(crate) home: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Weigh {
    pub(crate) fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), environment: Vec::new() }
    }

    pub(crate) fn hub(server: &Server) -> Self {
        Self::new().with("HF_ENDPOINT", &server.url(""))
    }

    /// The bucket `models` of a server, without signatures.
    pub(crate) fn bucket(server: &Server) -> Self {
        Self::new()
            .with("AWS_ENDPOINT", server.url("").trim_end_matches('/'))
            .with("AWS_ALLOW_HTTP", "true")
            .with("AWS_SKIP_SIGNATURE", "true")
            .with("AWS_REGION", "us-east-1")
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weigh"));
        command.current_dir(self.home.path()).env_clear().env("HOME", self.home.path()).args(args);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// The JSON of a command that succeeds without any message.
    pub(crate) fn json(&self, args: &[&str]) -> Json {
        let out = self.run(&[args, &["--json", "--quiet"]].concat());
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(matches!(out.status.code(), Some(0 | 1)) && said.is_empty(), "{args:?}: {said}");
        serde_json::from_slice(&out.stdout).unwrap()
    }

    /// The message of a command that fails.
    pub(crate) fn error(&self, args: &[&str]) -> String {
        let out = self.run(args);
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.lines().filter(|line| !line.starts_with("hint: ")).count() == 1, "{said}");
        said
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(ROOT).join("fixtures").join(name)
}

/// A Hub with the fixtures: `org/tiny` is a folder, `org/quant` has a GGUF.
fn models() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tiny = folder.path().join("org/tiny");
    fs::create_dir_all(&tiny).unwrap();
    for entry in fs::read_dir(fixture("llama-tiny")).unwrap().flatten() {
        fs::copy(entry.path(), tiny.join(entry.file_name())).unwrap();
    }
    fs::create_dir_all(folder.path().join("org/quant")).unwrap();
    fs::copy(fixture("llama-tiny-q8_0.gguf"), folder.path().join("org/quant/tiny-q8_0.gguf")).unwrap();
    folder
}

/// The JSON without what names the place.
pub(crate) fn without_paths(mut json: Json) -> Json {
    fn strip(json: &mut Json) {
        match json {
            Json::Object(map) => {
                for key in ["path", "file", "a", "b"] {
                    if map.get(key).is_some_and(Json::is_string) {
                        map.remove(key);
                    }
                }
                map.values_mut().for_each(strip);
            }
            Json::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut json);
    json
}

#[test]
fn every_reading_command_says_of_an_address_what_it_says_of_the_file() {
    let folder = models();
    let server = Server::hub(folder.path());
    let weigh = Weigh::hub(&server);
    let local = folder.path().join("org/tiny").to_str().unwrap().to_owned();
    let gguf = folder.path().join("org/quant/tiny-q8_0.gguf").to_str().unwrap().to_owned();
    for (path, local) in [("hf://org/tiny", &local), ("org/tiny", &local), ("hf://org/quant/tiny-q8_0.gguf", &gguf)] {
        for args in [
            &["info"][..],
            &["ls"],
            &["count"],
            &["stats"],
            &["meta"],
            &["verify", "--data"],
            &["hash"],
            &["hash", "--file"],
            &["convert", "out.gguf", "--type", "Q4_0", "--allow-requantize", "--dry-run"],
        ] {
            let [there, here] = [path, local.as_str()].map(|path| weigh.json(&[&args[..1], &[path], &args[1..]].concat()));
            assert_eq!(without_paths(there), without_paths(here), "{args:?} {path}");
        }
    }
    let tensor = "model.embed_tokens.weight";
    let show = |path: &str| weigh.json(&["show", path, tensor, "--slice", ":2,:3"]);
    assert_eq!(without_paths(show("org/tiny")), without_paths(show(&local)));
    assert_eq!(weigh.json(&["diff", "hf://org/tiny", &local])["identical"], true);
    assert!(server.seen().iter().all(|seen| seen.asked.method == "GET"), "HEAD counts as a download");
}

#[test]
fn an_address_may_be_a_pasted_page() {
    let folder = models();
    let server = Server::hub(folder.path());
    let weigh = Weigh::hub(&server);
    let names = |path: &str| weigh.json(&["ls", path])["tensors"].as_array().unwrap().len();
    let all = names(fixture("llama-tiny").to_str().unwrap());
    for page in
        ["org/tiny", "org/tiny/tree/main", "org/tiny/blob/main/model.safetensors", "org/tiny/resolve/main/model.safetensors?download=true"]
    {
        assert_eq!(names(&server.url(page)), all, "{page}");
    }
    assert_eq!(names("hf://models/org/tiny@main/model.safetensors"), all);
}

#[test]
fn a_conversion_of_an_address_gives_the_bytes_of_one_of_the_file() {
    let folder = models();
    let server = Server::hub(folder.path());
    let weigh = Weigh::hub(&server);
    let local = folder.path().join("org/tiny").to_str().unwrap().to_owned();
    for (out, args) in [("a.gguf", &["--type", "Q8_0"][..]), ("folder/", &["--type", "F16"])] {
        let convert = |path: &str, out: &str| {
            let done = weigh.run(&[&["convert", path, out, "--quiet"], args].concat());
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            let out = weigh.home.path().join(out);
            match out.is_dir() {
                true => server::files_below(&out).into_iter().map(|name| (name.clone(), fs::read(out.join(name)).unwrap())).collect(),
                false => vec![(String::new(), fs::read(out).unwrap())],
            }
        };
        assert_eq!(convert("org/tiny", &format!("there-{out}")), convert(&local, &format!("here-{out}")), "{out}");
    }
}

#[test]
fn parts_of_an_address_and_of_the_same_files_on_disk_are_of_one_plan() {
    let folder = models();
    for name in ["base", "adapter"] {
        let to = folder.path().join("org").join(name);
        fs::create_dir(&to).unwrap();
        for entry in fs::read_dir(fixture("lora").join(name)).unwrap().flatten() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    let server = Server::hub(folder.path());
    let weigh = Weigh::hub(&server);
    let local = folder.path().join("org/tiny").to_str().unwrap().to_owned();
    let options = ["--type", "F16", "--shard-size", "40kB", "--quiet"];
    let convert = |inputs: &[&str], out: &str, more: &[&str]| {
        let done = weigh.run(&[&["convert"], inputs, &[out], &options, more].concat());
        assert!(done.status.success(), "{inputs:?} {more:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let files = |out: &str| {
        let out = weigh.home.path().join(out);
        server::files_below(&out).into_iter().map(|name| (name.clone(), fs::read(out.join(name)).unwrap())).collect::<Vec<_>>()
    };
    ["gguf", "parts-gguf"].iter().for_each(|name| fs::create_dir(weigh.home.path().join(name)).unwrap());
    for (out, address) in [("whole/", "hf://org/tiny"), ("gguf/m.gguf", "org/tiny")] {
        let parts = format!("parts-{out}");
        convert(&[&local], out, &[]);
        convert(&[address], &parts, &["--part", "1/2"]);
        convert(&[&local], &parts, &["--part", "2/2"]);
        assert!(weigh.run(&["convert", "--join", &parts]).status.success());
        let folder = |path: &str| path.split('/').next().unwrap().to_owned();
        assert!(files(&folder(out)) == files(&folder(&parts)) && files(&folder(out)).len() > 2, "{out}");
    }
    let measured = |path: &str, part: &str| {
        let out = weigh.run(&["stats", path, "--part", part, "--json"]);
        let file = weigh.home.path().join(part.replace('/', "-"));
        fs::write(&file, out.stdout).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let [first, second] = [measured("hf://org/tiny", "1/2"), measured(&local, "2/2")];
    let joined = weigh.json(&["stats", "--join", &first, &second]);
    assert_eq!(joined["tensors"], weigh.json(&["stats", &local])["tensors"]);
    // Neither the output nor the list of tensors tells these configs apart.
    convert(&["hf://org/tiny"], "other.gguf", &["--part", "1/2"]);
    let config = folder.path().join("org/tiny/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::remove_file(&config).unwrap();
    fs::write(&config, text.clone() + " ").unwrap();
    let said = weigh.error(&[&["convert", "hf://org/tiny", "other.gguf"], &options[..], &["--part", "2/2"]].concat());
    assert!(said.contains("this is part 1/2 of another plan"), "{said}");
    fs::write(&config, text).unwrap();
    // An adapter counts too, wherever it is.
    let [base, adapter] = ["base", "adapter"].map(|name| folder.path().join("org").join(name).to_str().unwrap().to_owned());
    convert(&["hf://org/base", "hf://org/adapter"], "merged.gguf", &["--keep-names", "--part", "1/2"]);
    convert(&[&base, &adapter], "merged.gguf", &["--keep-names", "--part", "2/2"]);
    let factors = Path::new(&adapter).join("adapter_model.safetensors");
    let mut bytes = fs::read(&factors).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::remove_file(&factors).unwrap();
    fs::write(&factors, bytes).unwrap();
    let again = ["convert", "hf://org/base", "hf://org/adapter", "merged.gguf", "--keep-names", "--force", "--part", "2/2"];
    let said = weigh.error(&[&again, &options[..]].concat());
    assert!(said.contains("this is part 1/2 of another plan"), "{said}");
}

/// A GGUF whose header has long lists, as of a vocabulary.
fn vocabulary_gguf(tokens: u64) -> (Vec<u8>, u64) {
    let sound = crate::build::Gguf::default();
    let mut texts = Vec::new();
    for token in 0..tokens {
        texts.extend(sound.text(format!("token{}", token * 7919 % 100_003).as_bytes()));
    }
    let floats: Vec<u8> = (0..tokens).flat_map(|token| (token as f32).to_le_bytes()).collect();
    let array = |elem, elements: &[u8]| (9, sound.array(elem, tokens, elements));
    let text = |value: &str| (8, sound.text(value.as_bytes()));
    let keys = [
        ("general.architecture", text("llama")),
        ("tokenizer.ggml.model", text("llama")),
        ("tokenizer.ggml.tokens", array(8, &texts)),
        ("tokenizer.ggml.scores", array(6, &floats)),
        ("tokenizer.ggml.token_type", array(5, &floats)),
    ];
    let data = vec![0; 4 << 20];
    let gguf = crate::build::Gguf {
        keys: keys.into_iter().map(|(key, (kind, value))| (key.as_bytes().to_vec(), kind, value)).collect(),
        tensors: vec![crate::build::GgufTensor {
            name: b"token_embd.weight".to_vec(),
            dims: vec![1 << 10, 1 << 10],
            tag: 0,
            offset: None,
            data,
        }],
        ..sound
    };
    let bytes = gguf.build();
    let header = bytes.len() as u64 - (4 << 20);
    (bytes, header)
}

#[test]
fn a_long_header_takes_few_requests_and_little_more_than_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, header) = vocabulary_gguf(100_000);
    fs::write(folder.path().join("m.gguf"), bytes).unwrap();
    let server = Server::of_folder(folder.path());
    let weigh = Weigh::new();
    assert_eq!(weigh.json(&["ls", &server.url("m.gguf")])["tensors"][0]["name"], "token_embd.weight");
    let seen = server.seen();
    let moved: u64 = seen.iter().map(|seen| seen.bytes).sum();
    assert!(seen.len() <= 4, "{} requests", seen.len());
    assert!(moved <= header * 11 / 10, "{moved} bytes for a header of {header}");
}

/// A model of many shards with an index, whose data is a hole: each shard has three matrices of `rows` x 4096 in BF16.
fn sparse_shards(folder: &Path, shards: usize, rows: u64) {
    let mut map = serde_json::Map::new();
    for shard in 1..=shards {
        let file = format!("model-{shard:05}-of-{shards:05}.safetensors");
        let mut tensors = serde_json::Map::new();
        for (i, name) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
            let (name, size, i) = (format!("model.layers.{shard}.self_attn.{name}.weight"), rows * 4096 * 2, i as u64);
            map.insert(name.clone(), file.clone().into());
            tensors.insert(name, serde_json::json!({ "dtype": "BF16", "shape": [rows, 4096], "data_offsets": [i * size, (i + 1) * size] }));
        }
        let header = safetensors(&Json::Object(tensors).to_string(), &[]);
        let len = header.len() as u64 + 3 * rows * 4096 * 2;
        fs::write(folder.join(&file), header).unwrap();
        fs::OpenOptions::new().write(true).open(folder.join(&file)).unwrap().set_len(len).unwrap();
    }
    fs::write(folder.join("model.safetensors.index.json"), serde_json::json!({ "weight_map": map }).to_string()).unwrap();
    fs::write(folder.join("config.json"), r#"{"model_type":"llama"}"#).unwrap();
}

#[test]
fn a_set_of_shards_takes_one_request_a_file_and_rows_take_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("org/large");
    fs::create_dir_all(&model).unwrap();
    sparse_shards(&model, 200, 1 << 15);
    let server = Server::hub(folder.path());
    let weigh = Weigh::hub(&server);
    let listed = weigh.json(&["ls", "org/large"]);
    assert_eq!(listed["tensors"].as_array().unwrap().len(), 600);
    let seen = server.seen();
    // The listing, the index, the config, each shard.
    assert!(seen.len() <= 203, "{} requests", seen.len());
    assert!(seen.iter().map(|seen| seen.bytes).sum::<u64>() < 60 << 20);

    let single = "hf://org/large/model-00003-of-00200.safetensors";
    weigh.json(&["ls", single, "--filter", "layers.3."]);
    let headers = server.seen().len();
    let shown = weigh.json(&["show", single, "model.layers.3.self_attn.k_proj.weight", "--slice", "0:4"]);
    assert_eq!(shown["values"].as_array().unwrap().len(), 4);
    let seen = server.seen();
    assert!(seen.len() <= headers + 3, "{} requests, {headers} of them for the headers", seen.len());
    let data: Vec<_> = seen.iter().filter(|seen| seen.asked.range().is_some_and(|(first, _)| first > 0)).collect();
    assert!(!data.is_empty() && data.iter().map(|seen| seen.bytes).sum::<u64>() < 1 << 20);
}

#[test]
fn streams_read_each_byte_once_and_a_filter_only_what_it_selects() {
    let folder = tempfile::tempdir().unwrap();
    sparse_shards(folder.path(), 2, 1024);
    let server = Server::of_folder(folder.path());
    let weigh = Weigh::new();
    let url = server.url("model-00001-of-00002.safetensors");
    let data = 6 * 1024 * 4096 * 2;
    let moved = |args: &[&str]| {
        server.seen();
        weigh.json(&[args, &["--no-cache"]].concat());
        server.seen().iter().map(|seen| seen.bytes).sum::<u64>()
    };
    let headers = moved(&["ls", &url]);
    for args in [&["stats", &url][..], &["verify", &url, "--data"], &["hash", &url], &["hash", &url, "--file"]] {
        let streamed = moved(args) - headers;
        assert!((data..data + (1 << 20)).contains(&streamed), "{args:?}: {streamed} of {data}");
    }
    let filtered = moved(&["stats", &url, "--filter", "layers.2.self_attn.k_proj.weight"]) - headers;
    assert!((data / 6..data / 6 + (1 << 20)).contains(&filtered), "{filtered} of {data}");
}

/// A model of 22 MB, in which the values change all the time: two matrices, which are received piece by piece, and two small tensors.
fn large_model(folder: &Path) -> PathBuf {
    model_of(folder, &[("BF16", 12 << 20), ("F32", 4096), ("BF16", (9 << 20) + 512), ("F32", 1000)])
}

/// A model with tensors of these sizes.
fn model_of(folder: &Path, sizes: &[(&str, usize)]) -> PathBuf {
    let mut tensors = serde_json::Map::new();
    let mut end = 0;
    for (i, &(dtype, size)) in sizes.iter().enumerate() {
        let shape = if dtype == "BF16" { serde_json::json!([size / 512, 256]) } else { serde_json::json!([size / 4]) };
        tensors.insert(format!("t{i}"), serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [end, end + size] }));
        end += size;
    }
    let data: Vec<u8> = (0..end as u32 / 2).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 18).to_le_bytes()[..2].to_vec()).collect();
    let path = folder.join("large.safetensors");
    fs::write(&path, safetensors(&Json::Object(tensors).to_string(), &data)).unwrap();
    path
}

/// The model alone: nothing is beside it.
fn alone(asked: &Asked, path: &Path) -> Reply {
    if asked.path.ends_with("/m.safetensors") { Reply::file(asked, path) } else { Reply::new(404, "") }
}

/// Whether a large part of a file is asked for.
fn is_large(asked: &Asked) -> bool {
    asked.range().is_some_and(|(first, last)| last - first > 1 << 20)
}

#[test]
fn what_is_received_piece_by_piece_is_what_the_file_has() {
    let folder = tempfile::tempdir().unwrap();
    let file = large_model(folder.path());
    let server = Server::of_folder(folder.path());
    let (weigh, url) = (Weigh::new(), server.url("large.safetensors"));
    for args in [&["stats"][..], &["hash"], &["hash", "--file"], &["verify", "--data"], &["diff"]] {
        for threads in ["1", "2", "7"] {
            let both = if args == ["diff"] { vec![file.to_str().unwrap()] } else { vec![] };
            let of = |path| weigh.json(&[args, &[path], &both[..], &["--threads", threads]].concat());
            let here = without_paths(of(file.to_str().unwrap()));
            server.seen();
            assert_eq!(without_paths(of(&url)), here, "{args:?} {threads}");
            // Small tensors may be read twice, but are received once.
            let seen = server.seen();
            assert!(seen.iter().any(|seen| is_large(&seen.asked)) && seen.len() < 20, "{args:?} {threads}: {} requests", seen.len());
            let (moved, len) = (seen.iter().map(|seen| seen.bytes).sum::<u64>(), fs::metadata(&file).unwrap().len());
            assert!(moved < len + (1 << 18), "{args:?} {threads}: {moved} of {len} bytes");
        }
    }
}

#[test]
fn a_conversion_asks_once_for_what_one_thread_converts() {
    let folder = tempfile::tempdir().unwrap();
    // Chunks of rows do not divide the first tensor; those after it are asked for together.
    let sizes: Vec<(&str, usize)> = [("BF16", (17 << 20) + 512)].into_iter().chain([("BF16", 3 << 19), ("F32", 1000)].repeat(8)).collect();
    let file = model_of(folder.path(), &sizes);
    let server = Server::of_folder(folder.path());
    let (weigh, url) = (Weigh::new(), server.url("large.safetensors"));
    let len = fs::metadata(&file).unwrap().len();
    for target in ["F16", "BF16"] {
        let [here, there] = ["here", "there"].map(|name| folder.path().join(format!("{name}.safetensors")));
        let convert = |path: &str, out: &Path, threads| {
            weigh.json(&["convert", path, out.to_str().unwrap(), "--type", target, "--force", "--threads", threads])
        };
        convert(file.to_str().unwrap(), &here, "2");
        for threads in ["1", "2", "7"] {
            server.seen();
            convert(&url, &there, threads);
            assert!(fs::read(&here).unwrap() == fs::read(&there).unwrap(), "{target} {threads}");
            let seen = server.seen();
            let moved = seen.iter().map(|seen| seen.bytes).sum::<u64>();
            assert!(moved < len + (1 << 18), "{target} {threads}: {moved} of {len} bytes");
            // In blocks of 8 MB, or of 2 MB for seven threads.
            let blocks = len.div_ceil(if threads == "7" { 2 << 20 } else { 8 << 20 }) as usize;
            let large = seen.iter().filter(|seen| is_large(&seen.asked)).count();
            assert!((blocks..blocks + 4).contains(&large), "{target} {threads}: {large} requests for {blocks} blocks");
        }
    }
}

#[test]
fn a_body_that_ends_early_is_continued_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let file = large_model(folder.path());
    // Each large part ends in the middle, until what is left is small.
    let path = file.clone();
    let server = Server::start(move |asked| match (alone(asked, &path), asked.range()) {
        (reply, Some((first, last))) if is_large(asked) => Reply { cut: Some((last - first) / 2), ..reply },
        (reply, _) => reply,
    });
    let weigh = Weigh::new();
    let of = |path: &str| without_paths(weigh.json(&["stats", path, "--filter", "t2", "--threads", "1"]));
    let there = of(&server.url("m.safetensors"));
    let asked: Vec<(u64, u64)> = server.seen().iter().filter_map(|seen| seen.asked.range()).filter(|range| range.0 > 1 << 20).collect();
    assert!(asked.len() > 2, "{asked:?}");
    let continued = asked.windows(2).filter(|two| two[1].1 == two[0].1 && two[1].0 == two[0].0 + (two[0].1 - two[0].0) / 2);
    assert!(continued.count() > 1, "{asked:?}");
    assert_eq!(there, of(file.to_str().unwrap()));

    let path = file.clone();
    let server = Server::start(move |asked| Reply { cut: is_large(asked).then_some(10), ..alone(asked, &path) });
    let said = weigh.error(&["stats", &server.url("m.safetensors"), "--threads", "1", "--filter", "t0"]);
    assert!(said.contains("the answer ended after 10 of"), "{said}");
    assert!(said.contains("/m.safetensors"), "{said}");
    // One attempt and four more; the next block has been asked for too.
    assert!((5..=6).contains(&server.seen().iter().filter(|seen| is_large(&seen.asked)).count()));

    let path = file.clone();
    let server = Server::start(move |asked| {
        std::thread::sleep(if is_large(asked) { Duration::from_secs(1) } else { Duration::ZERO });
        alone(asked, &path)
    });
    let weigh = Weigh::new().with("HF_HUB_DOWNLOAD_TIMEOUT", "0.1");
    let said = weigh.error(&["hash", &server.url("m.safetensors"), "--file"]);
    assert!(said.contains("no answer from 127.0.0.1 within 0.1 seconds"), "{said}");
}

#[test]
fn a_model_is_read_on_a_thread_of_another_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let file = large_model(folder.path());
    let server = Server::of_folder(folder.path());
    let hash = |path: &str| weigh::open(path).unwrap().hash(&weigh::HashOptions::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let there = runtime.block_on(async { hash(&server.url("large.safetensors")) });
    assert_eq!(
        without_paths(serde_json::to_value(there).unwrap()),
        without_paths(serde_json::to_value(hash(file.to_str().unwrap())).unwrap())
    );
    assert!(server.seen().iter().any(|seen| is_large(&seen.asked)));
}

#[test]
fn splits_and_numbered_shards_are_found_where_nothing_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    sparse_shards(folder.path(), 3, 16);
    fs::remove_file(folder.path().join("model.safetensors.index.json")).unwrap();
    let weigh = Weigh::new();
    let gguf = fixture("llama-tiny-q8_0.gguf").to_str().unwrap().to_owned();
    let split = folder.path().join("s.gguf").to_str().unwrap().to_owned();
    assert!(weigh.run(&["convert", &gguf, &split, "--shard-size", "40KB", "--quiet"]).status.success());
    let parts = server::files_below(folder.path()).into_iter().filter(|name| name.starts_with("s-")).collect::<Vec<_>>();
    assert!(parts.len() > 1);
    let server = Server::of_folder(folder.path());
    for name in ["model-00002-of-00003.safetensors", &parts[1]] {
        let here = folder.path().join(name).to_str().unwrap().to_owned();
        assert_eq!(without_paths(weigh.json(&["ls", &server.url(name)])), without_paths(weigh.json(&["ls", &here])), "{name}");
    }
}

#[test]
fn a_token_goes_to_its_host_and_not_beyond_a_redirect() {
    let folder = models();
    let files = folder.path().to_path_buf();
    let other = Server::start(move |asked| Reply::file(asked, &files.join("org/quant/tiny-q8_0.gguf")));
    let elsewhere = other.url("x?Signature=hidden");
    let hub = Server::start(move |_| Reply::redirect(elsewhere.clone()).with("x-linked-etag", "\"abc\""));
    let weigh = Weigh::hub(&hub).with("HF_TOKEN", "hf_secret");
    weigh.json(&["stats", "hf://org/quant/tiny-q8_0.gguf"]);
    assert!(hub.seen().iter().all(|seen| seen.asked.header("authorization") == Some("Bearer hf_secret")));
    let seen = other.seen();
    assert!(!seen.is_empty() && seen.iter().all(|seen| seen.asked.header("authorization").is_none()));
    // The token of a login; and none for a host that is not the Hub.
    let stored = Weigh::new().with("HF_ENDPOINT", &hub.url("")).with("HF_HOME", weigh.home.path().to_str().unwrap());
    fs::write(weigh.home.path().join("token"), "hf_stored\n").unwrap();
    stored.json(&["ls", "hf://org/quant/tiny-q8_0.gguf"]);
    assert_eq!(hub.seen()[0].asked.header("authorization"), Some("Bearer hf_stored"));
    weigh.json(&["ls", &other.url("m.gguf")]);
    assert!(other.seen().iter().all(|seen| seen.asked.header("authorization").is_none()));
    // Credentials of a URL are sent, and not shown.
    let with_password = other.url("m.gguf?key=hidden").replace("http://", "http://me:hidden@");
    let shown = weigh.json(&["ls", &with_password]);
    assert_eq!(other.seen()[0].asked.header("authorization"), Some("Basic bWU6aGlkZGVu"));
    assert!(!shown.to_string().contains("hidden"), "{shown}");
}

#[test]
fn each_refusal_is_one_line_that_names_no_secret() {
    let cases = [
        (Reply::new(401, ""), "asks who is reading (401)", "HF_TOKEN"),
        (Reply::new(401, "").with("x-error-code", "RepoNotFound"), "no such model, or it is private (401)", "HF_TOKEN"),
        (Reply::new(403, "").with("x-error-code", "GatedRepo"), "access to the model has to be asked for (403)", "org/name"),
        (Reply::new(403, ""), "refuses access (403)", ""),
        (Reply::new(404, "").with("x-error-code", "EntryNotFound"), "no such file (404)", ""),
        (Reply::new(404, "").with("x-error-code", "RevisionNotFound"), "no such revision (404)", ""),
        (Reply::new(404, "x".repeat(100_000)), "no such file (404)", ""),
        (Reply::new(416, "").with("content-range", "bytes */10"), "expected 65536 bytes of the file, found 10 (416)", ""),
        (Reply::new(429, "").with("retry-after", "86400"), "too many requests (429)", "later"),
        (Reply::new(418, ""), "did not send the file (418)", ""),
        (Reply::new(200, "x".repeat(100)).with("content-encoding", "gzip"), "found them compressed", ""),
        (Reply::redirect("file:///etc/passwd"), "expected a redirect to https, found one to file", ""),
        (Reply::new(206, "x").with("content-range", "bytes 5-5/100"), "expected bytes 0..65536 of the file, found bytes 5..6", ""),
        (Reply::new(206, "x").with("content-range", "bytes 0-0/*"), "expected the range and the length of the file", ""),
        (Reply { body: Body::Endless, ..Reply::new(200, "") }, "does not say how long the file is", ""),
    ];
    for (reply, message, hint) in cases {
        let server = Server::start(move |_| reply.clone());
        let weigh = Weigh::hub(&server).with("HF_TOKEN", "hf_hidden");
        let said = weigh.error(&["ls", "hf://org/name/m.gguf"]);
        assert!(said.contains(message) && said.contains(hint) && !said.contains("hidden"), "{message}: {said}");
        assert!(said.starts_with("weigh: hf://org/name/m.gguf: "), "{said}");
        let said = weigh.error(&["ls", &server.url("m.gguf?sig=hidden").replace("http://", "http://me:hidden@")]);
        assert!(!said.contains("hidden"), "{said}");
    }
}

#[test]
fn failures_that_pass_are_retried_and_others_end() {
    let folder = models();
    let file = folder.path().join("org/quant/tiny-q8_0.gguf");
    // Two failures, then the file: a busy server, a closed connection, a body that ends early.
    let cut = |asked: &Asked, file: &Path| Reply { cut: Some(10), ..Reply::file(asked, file) };
    type Fault = Arc<dyn Fn(&Asked, &Path) -> Reply + Send + Sync>;
    let faults: [Fault; 3] =
        [Arc::new(|_, _| Reply::new(503, "")), Arc::new(|_, _| Reply::new(429, "").with("retry-after", "0")), Arc::new(cut)];
    for fault in faults {
        let (count, file) = (AtomicUsize::new(0), file.clone());
        let server = Server::start(move |asked| match count.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => fault(asked, &file),
            _ => Reply::file(asked, &file),
        });
        Weigh::new().json(&["ls", &server.url("m.gguf")]);
        assert!(server.seen().len() >= 3);
    }
    let server = Server::start(move |asked| cut(asked, &file));
    let said = Weigh::new().error(&["ls", &server.url("m.gguf")]);
    assert!(said.contains("the answer ended after 10 of"), "{said}");
    assert_eq!(server.seen().len(), 5, "one attempt and four more");
    let server = Server::start(|_| Reply::redirect("/again"));
    let said = Weigh::new().error(&["ls", &server.url("m.gguf")]);
    assert!(said.contains("more than 5 redirects"), "{said}");
    assert_eq!(server.seen().len(), 6);
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    let server = Server::start_at("127.0.0.1:0", Duration::from_secs(600), |_| Reply::new(200, ""));
    let weigh = Weigh::new().with("HF_HUB_DOWNLOAD_TIMEOUT", "0.1");
    assert!(weigh.error(&["ls", &server.url("m.gguf")]).contains("no answer from 127.0.0.1 within 0.1 seconds"));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(weigh.error(&["ls", &format!("http://{closed}/m.gguf")]).contains("cannot connect to 127.0.0.1: "));
}

#[test]
fn a_server_without_ranges_gives_short_headers_only() {
    let folder = models();
    let file = folder.path().join("org/quant/tiny-q8_0.gguf");
    let server = Server::start(move |asked| {
        let mut whole = asked.clone();
        whole.headers.remove("range");
        Reply::file(&whole, &file)
    });
    let weigh = Weigh::new();
    weigh.json(&["ls", &server.url("m.gguf")]);
    let said = weigh.error(&["stats", &server.url("m.gguf")]);
    assert!(said.contains("does not send parts of files") && said.contains("download the file"), "{said}");
}

#[test]
fn a_change_between_two_ranges_is_an_error() {
    let (folder, large) = (models(), tempfile::tempdir().unwrap());
    let files = [folder.path().join("org/quant/tiny-q8_0.gguf"), large_model(large.path())];
    for (name, file) in ["etag", "last-modified", "content-range"].into_iter().flat_map(|name| files.iter().map(move |file| (name, file))) {
        let file = file.clone();
        let server = Server::start(move |asked| {
            let mut reply = alone(asked, &file);
            let later = asked.range().is_some_and(|(first, _)| first > 0);
            if name == "last-modified" {
                reply.headers.retain(|(own, _)| own != "etag");
            }
            if let Some((_, value)) = reply.headers.iter_mut().find(|(own, _)| later && own == name) {
                *value = match name {
                    "etag" => "\"other\"".to_owned(),
                    "content-range" => value.replace('/', "/9"),
                    _ => "Fri, 02 Jan 2026 00:00:00 GMT".to_owned(),
                };
            }
            reply
        });
        let said = Weigh::new().error(&["stats", &server.url("m.safetensors")]);
        assert!(said.contains("changed while it was read"), "{name}: {said}");
    }
}

#[test]
fn a_hostile_listing_names_no_file_outside_and_has_an_end() {
    let entry = |path: &str| serde_json::json!({ "type": "file", "path": path, "size": 4, "oid": "x" });
    let list = serde_json::json!([entry("../../etc/model.safetensors"), entry("/model.safetensors"), entry("a/../model.safetensors")]);
    let server = Server::start(move |_| Reply::new(200, list.to_string()));
    assert!(Weigh::hub(&server).error(&["ls", "org/name"]).contains("no safetensors, GGUF or PyTorch files"));
    let server = Server::start(|asked| Reply::new(200, "[]").with("link", format!("<{}?next>; rel=\"next\"", asked.path)));
    assert!(Weigh::hub(&server).error(&["ls", "org/name"]).contains("at most 100 pages"));
    let server = Server::start(|_| Reply { body: Body::Endless, ..Reply::new(200, "") });
    assert!(Weigh::hub(&server).error(&["ls", "org/name"]).contains("expected an answer of at most 16777216 bytes"));
    for bad in ["{", "[1]", "[{\"type\":\"file\"}]"] {
        let server = Server::start(move |_| Reply::new(200, bad));
        assert!(Weigh::hub(&server).error(&["ls", "org/name"]).contains("expected the Hub's list of files"), "{bad}");
    }
    // Pages of another host are not asked for.
    let folder = models();
    let other = Server::of_folder(folder.path());
    let next = format!("<{}>; rel=\"next\"", other.url("next"));
    let tiny = folder.path().to_path_buf();
    let server = Server::start(move |asked| server::hub(asked, &tiny).with("link", next.clone()));
    Weigh::hub(&server).json(&["ls", "org/tiny"]);
    assert!(other.seen().is_empty());
}

#[test]
fn the_cache_of_the_hub_comes_first_if_it_has_the_whole_model() {
    let folder = models();
    let server = Server::hub(folder.path());
    let weigh = Weigh::hub(&server);
    let cache = weigh.home.path().join(".cache/huggingface/hub/models--org--tiny");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let snapshot = cache.join("snapshots").join(commit);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(cache.join("refs")).unwrap();
    fs::write(cache.join("refs/main"), commit).unwrap();
    fs::copy(fixture("llama-tiny/config.json"), snapshot.join("config.json")).unwrap();
    let offline = |weigh: &Weigh, args: &[&str]| weigh.command(args).env("HF_HUB_OFFLINE", "1").output().unwrap();
    let said = String::from_utf8(offline(&weigh, &["ls", "org/tiny"]).stderr).unwrap();
    assert!(said.contains("HF_HUB_OFFLINE is set"), "{said}");
    weigh.json(&["ls", "org/tiny"]);
    assert!(!server.seen().is_empty(), "the cache has the config only");
    fs::copy(fixture("llama-tiny/model.safetensors"), snapshot.join("model.safetensors")).unwrap();
    for path in ["org/tiny", "hf://org/tiny", "hf://org/tiny@main", &format!("hf://org/tiny@{commit}/model.safetensors")] {
        assert!(offline(&weigh, &["ls", path]).status.success(), "{path}");
        weigh.json(&["ls", path]);
        assert!(server.seen().is_empty(), "{path}");
    }
    let elsewhere = Weigh::new().with("HF_HUB_CACHE", cache.parent().unwrap().to_str().unwrap());
    assert!(offline(&elsewhere, &["ls", "org/tiny"]).status.success());
}

#[test]
fn a_path_that_looks_local_is_not_asked_for() {
    let server = Server::start(|_| Reply::new(404, ""));
    let weigh = Weigh::hub(&server);
    fs::create_dir(weigh.home.path().join("models")).unwrap();
    for path in ["models/llama", "org/name.gguf", "./org/name", "a/b/c", "name"] {
        let said = weigh.error(&["ls", path]);
        assert!(said.contains("cannot open: No such file"), "{said}");
    }
    assert!(server.seen().is_empty());
    fs::create_dir_all(weigh.home.path().join("org")).unwrap();
    fs::copy(fixture("llama-tiny-q8_0.gguf"), weigh.home.path().join("org/name")).unwrap();
    weigh.json(&["ls", "org/name"]);
    assert!(server.seen().is_empty(), "a file of that name comes first");
}

#[test]
fn headers_are_cached_by_tag() {
    let folder = models();
    let server = Server::hub(folder.path());
    let weigh = Weigh::hub(&server);
    let count = |args: &[&str]| {
        server.seen();
        let json = weigh.json(args);
        (json, server.seen().len())
    };
    let (first, requests) = count(&["ls", "org/tiny"]);
    assert!(requests > 1);
    let cache = weigh.home.path().join(".cache/weigh");
    let files: Vec<PathBuf> = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty());
    for file in &files {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(count(&["ls", "org/tiny"]), (first.clone(), 1), "the listing only");
    assert_eq!(count(&["ls", "org/tiny", "--no-cache"]), (first.clone(), requests));
    // What is damaged is fetched again.
    for file in &files {
        fs::write(file, "damaged").unwrap();
    }
    assert_eq!(count(&["ls", "org/tiny"]), (first.clone(), requests));
    // A changed file has another tag.
    let model = folder.path().join("org/tiny/model.safetensors");
    let longer = safetensors(r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, &[0; 4]);
    fs::remove_file(&model).unwrap();
    fs::write(&model, longer).unwrap();
    assert_eq!(weigh.json(&["ls", "org/tiny"])["tensors"][0]["name"], "x");
    // A web server is asked whether it is still the same.
    let plain = Server::of_folder(folder.path());
    let url = plain.url("org/quant/tiny-q8_0.gguf");
    let first = weigh.json(&["ls", &url]);
    plain.seen();
    assert_eq!(weigh.json(&["ls", &url]), first);
    let seen = plain.seen();
    assert_eq!((seen.len(), seen[0].status, seen[0].bytes), (1, 304, 0));
}

#[test]
fn a_bucket_is_read_by_range() {
    let folder = models();
    let bucket = server::Bucket::new(folder.path());
    let server = Server::start(move |asked| bucket.answer(asked));
    let weigh = Weigh::bucket(&server);
    let local = |path: &str| folder.path().join(path).to_str().unwrap().to_owned();
    for (path, here) in [("s3://models/org/tiny", "org/tiny"), ("s3://models/org/quant/tiny-q8_0.gguf", "org/quant/tiny-q8_0.gguf")] {
        for command in ["info", "ls", "stats"] {
            let (there, here) = (weigh.json(&[command, path]), weigh.json(&[command, &local(here)]));
            assert_eq!(without_paths(there), without_paths(here), "{command} {path}");
        }
    }
    assert!(server.seen().iter().all(|seen| seen.asked.method == "GET" && seen.asked.header("authorization").is_none()));
    assert!(weigh.error(&["ls", "s3://models/none.gguf"]).contains("the bucket has no such file (404)"));
    assert!(weigh.error(&["ls", "s3://models/nothing"]).contains("s3://models/nothing: "));
    // Signed with the credentials of the environment, which no message shows.
    let refusing = Server::start(|_| Reply::new(403, "<Error><Code>AccessDenied</Code></Error>"));
    let signed = Weigh::new()
        .with("AWS_ENDPOINT", refusing.url("").trim_end_matches('/'))
        .with("AWS_ALLOW_HTTP", "true")
        .with("AWS_ACCESS_KEY_ID", "key")
        .with("AWS_SECRET_ACCESS_KEY", "hidden");
    let said = signed.error(&["ls", "s3://models/m.gguf"]);
    assert!(said.contains("the bucket refuses access (403)") && !said.contains("hidden"), "{said}");
    assert!(refusing.seen()[0].asked.header("authorization").is_some_and(|value| value.starts_with("AWS4-HMAC-SHA256")));
}
