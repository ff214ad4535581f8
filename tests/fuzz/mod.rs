//! What is fuzzed: each target takes any bytes, and panics where weigh does not keep a promise.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

mod commands;
mod convert;
mod decode;
mod edit;
mod imatrix;
mod models;
mod open;
mod peer;
mod pytorch;
mod round_trip;
mod sets;
mod undo;

pub use commands::COMMANDS;
pub use convert::CONVERT_PLAN;
pub use decode::{DECODE, ENCODE};
pub use edit::EDIT;
pub use imatrix::IMATRIX;
pub use models::{FOLDER, TOKENIZER};
pub use open::{OPEN_GGUF, OPEN_SAFETENSORS};
pub use peer::SAFETENSORS_CRATE;
pub use pytorch::{ARCHIVE, PICKLE};
pub use round_trip::ROUND_TRIP;
pub use sets::OPEN_INDEX;
pub use undo::UNDO;

/// A target.
pub struct Target {
    /// Its name: that of its binary and of its folder of seeds.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(data: &[u8]),
    /// Inputs to start from, which reach most of the code.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    OPEN_SAFETENSORS,
    OPEN_GGUF,
    OPEN_INDEX,
    DECODE,
    ENCODE,
    TOKENIZER,
    FOLDER,
    ROUND_TRIP,
    IMATRIX,
    CONVERT_PLAN,
    EDIT,
    COMMANDS,
    SAFETENSORS_CRATE,
    UNDO,
    PICKLE,
    ARCHIVE,
];

impl Target {
    /// Writes the seeds into the folder that `WEIGH_SEEDS` names, if it names one.
    pub fn write_seeds(&self) {
        let Some(folder) = std::env::var_os("WEIGH_SEEDS").map(PathBuf::from) else { return };
        fs::create_dir_all(&folder).expect("a folder for seeds");
        for (number, seed) in (self.seeds)().into_iter().enumerate() {
            fs::write(folder.join(format!("seed-{number:03}")), seed).expect("room for a seed");
        }
    }
}

/// A folder of this thread, that takes one input after the other: making thousands of folders costs more than reading them.
fn folder() -> PathBuf {
    thread_local! {
        static FOLDER: tempfile::TempDir = tempfile::tempdir().expect("a folder to write in");
    }
    FOLDER.with(|folder| folder.path().to_path_buf())
}

/// The input as a file of this name in `folder`.
fn file(folder: &Path, name: &str, data: &[u8]) -> PathBuf {
    let path = folder.join(name);
    // Emptying the file first would cost more.
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).expect("a file to write");
    file.write_all(data).expect("room for the input");
    file.set_len(data.len() as u64).expect("room for the input");
    path
}

/// A folder of `fixtures/`, or a file in it.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|above| above.join("fixtures").join(name))
        .find(|path| path.exists())
        .expect("a fixture")
}

/// What is in the files of `fixtures/` of this ending, as far as they are short.
fn fixtures(ending: &str) -> Vec<Vec<u8>> {
    const SHORT: u64 = 64 << 10;
    let mut folders = vec![fixture("")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the fixtures") {
            let path = entry.expect("the fixtures").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) && fs::metadata(&path).is_ok_and(|file| file.len() <= SHORT) {
                found.push(path);
            }
        }
    }
    found.sort();
    found.into_iter().map(|path| fs::read(path).expect("a fixture")).collect()
}
