//! Any text as what names other files: an index, a manifest, a part of a split. What is opened stays inside the folder.

use std::fs;
use std::path::PathBuf;

use super::open::check;
use super::{Target, file, folder};
use crate::build::{Gguf, safetensors};

/// The first byte picks a set; the rest is the file that the others go by.
pub const OPEN_INDEX: Target = Target { name: "open_index", run, seeds };

/// A folder, the file in it that is replaced, and the path that is opened.
const SETS: &[(&str, &str, &str)] = &[
    ("shards", "model.safetensors.index.json", "model.safetensors.index.json"),
    ("shards", "model.safetensors.index.json", "a.safetensors"),
    ("numbered", "m-00002-of-00002.safetensors", "m-00001-of-00002.safetensors"),
    ("split", "m-00002-of-00002.gguf", "m-00001-of-00002.gguf"),
    ("split-first", "m-00001-of-00002.gguf", ""),
    ("store", "manifests/r/n/m/latest", ""),
    ("cache", "refs/main", ""),
    ("modules", "modules.json", ""),
];

fn run(data: &[u8]) {
    let Some((pick, content)) = data.split_first() else { return };
    let (set, name, path) = SETS[usize::from(*pick) % SETS.len()];
    let folder = made(set);
    file(&folder, name, content);
    let path = folder.join(path);
    if let Ok(reader) = weigh::format::open(&path) {
        for shard in &reader.model().shards {
            let real = fs::canonicalize(&shard.path).expect("it was opened");
            assert!(real.starts_with(&folder), "outside of the folder: {}", shard.path.display());
        }
    }
    check(&path);
}

/// The folder of a set, made when it is first asked for.
fn made(set: &str) -> PathBuf {
    let folder = folder().join(set);
    if folder.is_dir() {
        return folder;
    }
    let tensor = |name: &str| safetensors(&format!(r#"{{"{name}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#), &[0]);
    let files = match set {
        "shards" => vec![("a.safetensors", tensor("a")), ("sub/b.safetensors", tensor("b"))],
        "numbered" => vec![("m-00001-of-00002.safetensors", tensor("a"))],
        "split" => vec![("m-00001-of-00002.gguf", part(0))],
        "split-first" => vec![("m-00002-of-00002.gguf", part(1))],
        "store" => vec![("blobs/sha256-ab", part(0)), ("blobs/sha256-cd", Gguf::default().build()), ("manifests/r/n/m/latest", vec![])],
        "cache" => {
            vec![("snapshots/ab/model.safetensors", tensor("a")), ("snapshots/cd/model.safetensors", tensor("a")), ("refs/main", vec![])]
        }
        _ => vec![("0_Transformer/model.safetensors", tensor("a"))],
    };
    // What must never be opened.
    file(&super::folder(), "outside.safetensors", &tensor("a"));
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("a file in a folder")).expect("a folder to write in");
        fs::write(path, bytes).expect("room for a file");
    }
    folder
}

fn part(no: u16) -> Vec<u8> {
    let gguf = Gguf::default().key_u16("split.no", no).key_u16("split.count", 2).key_u32("split.tensors.count", 2);
    gguf.f32(["a", "b"][usize::from(no)], &[1]).build()
}

fn seeds() -> Vec<Vec<u8>> {
    let index = r#"{"metadata":{"total_size":2},"weight_map":{"a":"a.safetensors","b":"sub/b.safetensors"}}"#;
    let outside = r#"{"weight_map":{"a":"../outside.safetensors","b":"/etc/passwd"}}"#;
    let manifest = r#"{"layers":[{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:ab"}]}"#;
    let numbered = safetensors(r#"{"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, &[0]);
    let contents: [(u8, &[u8]); 10] = [
        (0, index.as_bytes()),
        (1, index.as_bytes()),
        (0, outside.as_bytes()),
        (2, &numbered),
        (3, &part(1)),
        (4, &part(0)),
        (5, manifest.as_bytes()),
        (6, b"ab\n"),
        (7, br#"[{"idx":0,"path":"0_Transformer"},{"path":"../outside"}]"#),
        (3, &Gguf::default().build()),
    ];
    contents.iter().map(|(set, content)| [&[*set], *content].concat()).collect()
}
