//! The floors of the house: a module imports only from floors below it (or its own).

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up. A file's floor is that of the first folder under `src/`.
const FLOORS: [&str; 8] = ["base", "model", "codec", "format", "arch", "ops", "render", "cli"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| *floor == module)
}

/// The first segments of all `crate::` paths in a line: `use crate::{base::x, model::y}` has two.
fn imports(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    if line.trim_start().starts_with("//") {
        return found;
    }
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        let names = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut start) = (0, true);
            for (i, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => start = true,
                    c if start && c.is_alphabetic() => {
                        found.push(&group[i..i + names(&group[i..])]);
                        start = false;
                    }
                    _ => {}
                }
            }
        } else {
            found.push(&rest[..names(rest)]);
        }
    }
    found
}

#[test]
fn no_import_runs_upward() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut checked = 0;
    let mut upward = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&root).unwrap();
        let Some(own) = inside.components().next().and_then(|first| floor_of(first.as_os_str().to_str().unwrap())) else {
            assert!(["lib.rs", "main.rs"].contains(&inside.to_str().unwrap()), "{} is on no floor", inside.display());
            continue;
        };
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            for module in imports(line) {
                checked += 1;
                if floor_of(module).is_some_and(|other| other > own) {
                    upward.push(format!("{}:{}: {}", inside.display(), number + 1, line.trim()));
                }
            }
        }
    }
    assert!(checked > 10, "the imports are not being read");
    assert!(upward.is_empty(), "imports that run upward:\n{}", upward.join("\n"));
}

#[test]
fn imports_are_told_from_every_spelling() {
    assert_eq!(imports("use crate::base::{Error, Result};"), ["base"]);
    assert_eq!(imports("use crate::{base::num, model::{DType, Model}, ops};"), ["base", "model", "ops"]);
    assert!(imports("/// See [`crate::format::Reader`].").is_empty());
    assert_eq!(imports("    let x = crate::codec::codec(dtype);"), ["codec"]);
}

#[test]
fn all_threads_are_those_of_one_pool() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in files.iter().filter(|file| !file.ends_with("base/threads.rs")) {
        let text = fs::read_to_string(file).unwrap();
        // rayon panics where the system refuses a thread, unless its pool was started with care.
        for start in [".par_iter", ".into_par_iter", ".par_chunks", "rayon::join", "rayon::scope", "rayon::spawn"] {
            assert!(!text.contains(start), "{}: {start}: `threads::par` starts the pool first", file.display());
        }
        for start in [".par_sort", "rayon::broadcast"] {
            assert!(!text.contains(start) || text.contains("ready();"), "{}: {start} without `threads::ready`", file.display());
        }
    }
}
