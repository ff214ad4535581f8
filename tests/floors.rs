//! The layers of the crate: a module imports only from layers below its own, and no files import each other in a circle.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// The folders under `src/`, from the bottom up.
const LAYERS: [&str; 14] =
    ["base", "model", "source", "codec", "write", "format", "tokenizer", "family", "quant", "view", "ops", "api", "render", "cli"];

/// What `lib.rs` re-exports at the crate root and modules use, and from where.
const REEXPORTS: [(&str, &str); 8] = [
    ("Error", "base"),
    ("ErrorKind", "base"),
    ("Result", "base"),
    ("DType", "model"),
    ("ElemType", "model"),
    ("Model", "api"),
    ("Tensor", "api"),
    ("open", "api"),
];

/// A module's path from the crate root, such as `ops::convert::plan`.
type Module = Vec<String>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

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

/// Every module in a file of its own, with its text.
fn modules() -> BTreeMap<Module, String> {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let mut modules = BTreeMap::new();
    for file in files {
        let inside = file.strip_prefix(root()).unwrap().with_extension("");
        let mut module: Module = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if module.last().is_some_and(|last| last == "mod") {
            module.pop();
        }
        if module != ["lib"] && module != ["main"] {
            modules.insert(module, fs::read_to_string(&file).unwrap());
        }
    }
    modules
}

fn layer(name: &str) -> Option<usize> {
    let name = REEXPORTS.iter().find(|(item, _)| *item == name).map_or(name, |(_, module)| module);
    LAYERS.iter().position(|layer| *layer == name)
}

fn identifier(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
}

/// Reads one path, or a group of paths in braces, that continues `prefix`.
fn expand(text: &str, prefix: &[String], found: &mut Vec<Module>) {
    if let Some(group) = text.strip_prefix('{') {
        let (mut depth, mut start) = (0, 0);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    expand(group[start..at].trim(), prefix, found);
                    start = at + 1;
                }
                _ => {}
            }
            if c == '}' && start == at + 1 {
                return;
            }
        }
        return;
    }
    let name = identifier(text);
    if name.is_empty() {
        return;
    }
    let mut path = prefix.to_vec();
    if name != "self" {
        path.push(name.to_owned());
    }
    match text[name.len()..].strip_prefix("::") {
        Some(rest) => expand(rest, &path, found),
        None => found.push(path),
    }
}

/// The paths that a module's text names from the crate root: those after `crate::`, and those after so many `super::` that they leave the
/// module's folder.
fn imports(module: &[String], text: &str) -> Vec<Module> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        expand(&code[at + "crate::".len()..], &[], &mut found);
    }
    for (at, _) in code.match_indices("super::") {
        if code[..at].ends_with("super::") {
            continue; // a part of the one before
        }
        let mut rest = &code[at..];
        let mut ups = 0;
        while let Some(next) = rest.strip_prefix("super::") {
            (rest, ups) = (next, ups + 1);
        }
        expand(rest, &module[..module.len().saturating_sub(ups)], &mut found);
    }
    found
}

#[test]
fn no_import_runs_upward() {
    let mut checked = 0;
    let mut upward = Vec::new();
    for (module, text) in modules() {
        let own = layer(&module[0]).unwrap_or_else(|| panic!("src/{} is in no layer", module.join("/")));
        for path in imports(&module, &text) {
            checked += 1;
            if path.first().and_then(|first| layer(first)).is_some_and(|other| other > own) {
                upward.push(format!("{} imports {}", module.join("::"), path.join("::")));
            }
        }
    }
    assert!(checked > 1000, "the imports are not being read");
    assert!(upward.is_empty(), "imports that run upward:\n{}", upward.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let modules = modules();
    let target = |path: &[String]| (1..=path.len()).rev().map(|len| path[..len].to_vec()).find(|start| modules.contains_key(start));
    let mut open: BTreeMap<&Module, BTreeSet<Module>> = BTreeMap::new();
    for (module, text) in &modules {
        // Tests may use whatever they like.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        // A folder's own file declares its parts, and they may use what it declares.
        let others = imports(module, code).into_iter().filter_map(|path| target(&path));
        open.insert(module, others.filter(|other| !other.starts_with(module) && !module.starts_with(other)).collect());
    }
    // Takes away the modules that import none of those that are left, until only circles and what leads to them stay.
    loop {
        let free: Vec<&Module> =
            open.iter().filter(|(_, others)| others.iter().all(|other| !open.contains_key(other))).map(|(m, _)| *m).collect();
        if free.is_empty() {
            break;
        }
        for module in free {
            open.remove(module);
        }
    }
    let left: Vec<String> = open.keys().map(|module| module.join("::")).collect();
    assert!(left.is_empty(), "modules in a circle, or that lead to one: {left:?}");
}

#[test]
fn imports_are_found_in_every_spelling() {
    let of = |module: &str, text: &str| -> Vec<String> {
        let module: Module = module.split("::").map(str::to_owned).collect();
        imports(&module, text).iter().map(|path| path.join("::")).collect()
    };
    assert_eq!(of("ops", "use crate::base::{Error, Result};"), ["base::Error", "base::Result"]);
    assert_eq!(of("ops", "use crate::{base::num, model::{DType, Model}, ops};"), ["base::num", "model::DType", "model::Model", "ops"]);
    assert_eq!(of("ops", "use crate::base::num::{self, add};"), ["base::num", "base::num::add"]);
    assert!(of("ops", "/// See [`crate::format::Reader`].").is_empty());
    assert_eq!(of("ops", "    let x = crate::codec::codec(dtype);"), ["codec::codec"]);
    assert_eq!(of("ops::convert::plan", "use super::super::count::Count;"), ["ops::count::Count"]);
    assert_eq!(of("ops", "use super::cli::Args;"), ["cli::Args"]);
    assert_eq!(of("base", "fn f(dtype: crate::DType) {}"), ["DType"]);
    let from: HashMap<&str, &str> = REEXPORTS.into_iter().collect();
    assert_eq!(layer("DType"), layer(from["DType"]));
}

#[test]
fn all_threads_are_those_of_one_pool() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    for file in files.iter().filter(|file| !file.iter().any(|part| part == "threads")) {
        let text = fs::read_to_string(file).unwrap();
        // rayon panics where the system refuses a thread, unless its pool was started with care; and it may be left out.
        for start in ["rayon::", ".par_iter", ".into_par_iter", ".par_chunks", ".par_sort"] {
            assert!(!text.contains(start), "{}: {start}: base::threads starts the pool first", file.display());
        }
    }
}

/// The lines of Rust code without comments, and without what is tests.
fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.map(|line| line.split(" // ").next().unwrap_or_default())
}

/// The modules that validate text in place, and whose bytes those are: never those of a mapping, which may change between the check and the
/// use. `Cursor::text`, `String::from_utf8` and `json::from_bytes` validate a copy.
const VALIDATE_IN_PLACE: [(&str, &str); 10] = [
    ("format::pytorch::pickle", "copies of lines"),
    ("format::pytorch::tar", "a copy of a header"),
    ("format::zip", "copies of headers"),
    ("model::dtype", "a name of its own"),
    ("model::metadata", "a copy"),
    ("ops::hash::manifest", "a file that was read"),
    ("ops::verify::digests", "a file that was read"),
    ("tokenizer::hf_json", "decoded bytes"),
    ("tokenizer::proto", "a file that was read"),
    ("tokenizer::tiktoken", "a file that was read"),
];

#[test]
fn text_is_validated_on_a_copy() {
    let calls = ["str::from_utf8(", "from_utf8_lossy(", "serde_json::from_slice(", "serde_json::from_reader("];
    let validates = |text: &str| code_lines(text).any(|line| calls.iter().any(|call| line.contains(call)));
    let product = modules().into_iter().filter(|(module, _)| module.iter().all(|part| part != "tests") && *module != ["base", "json"]);
    let found: Vec<String> = product.filter(|(_, text)| validates(text)).map(|(module, _)| module.join("::")).collect();
    assert_eq!(found, VALIDATE_IN_PLACE.map(|(module, _)| module));
}

/// Whether a line names a long option or a command in a text: `--force`, `` `weigh types` ``.
fn speaks_of_the_command_line(line: &str) -> bool {
    let option = line.match_indices("--").any(|(at, _)| {
        let before = line[..at].chars().last();
        let after = line[at + 2..].chars().next();
        before.is_none_or(|c| " `(\"'".contains(c)) && after.is_some_and(|c| c.is_ascii_lowercase())
    });
    option || line.contains("`weigh ") || line.contains("\"weigh ")
}

#[test]
fn only_the_command_line_speaks_of_its_options() {
    let front = ["cli", "render"];
    let mut found = Vec::new();
    let mut looked_at = 0;
    for (module, text) in modules().into_iter().filter(|(module, _)| !front.contains(&module[0].as_str())) {
        for line in code_lines(&text) {
            looked_at += 1;
            if speaks_of_the_command_line(line) {
                found.push(format!("{}: {}", module.join("::"), line.trim()));
            }
        }
    }
    assert!(looked_at > 10_000, "the texts are not being read");
    assert!(
        found.is_empty(),
        "the library has other callers than the command line: hints are kinds, and cli words them:\n{}",
        found.join("\n")
    );
}

#[test]
fn options_and_commands_are_found_in_any_text() {
    for line in [
        "f(\"--force replaces it\")",
        "that goes on with --data\",",
        "(`--all`)",
        "f(\"`weigh types` lists them\")",
        "\"weigh convert OUT\"",
    ] {
        assert!(speaks_of_the_command_line(line), "{line}");
    }
    for line in ["\"a -- b\"", "\"----\"", "\"what weigh knows\"", "\"models--org--name\""] {
        assert!(!speaks_of_the_command_line(line), "{line}");
    }
    let code = "// \"--a\"\nlet x = f(y); // --c\n#[cfg(test)]\nmod tests {\n\"--d\"";
    assert_eq!(code_lines(code).collect::<Vec<_>>(), ["let x = f(y);"]);
}
