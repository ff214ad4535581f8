//! Lists the architecture tables, so that a family is one file, and the names in them and what they extend, so that none is searched for when
//! the program runs.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs, io};

/// The keys by which a table is found: what it calls its architecture, and what a config without a name has. They stand at its start.
const NAMES: [&str; 4] = ["classes", "model_types", "gguf", "params"];

fn main() -> io::Result<()> {
    let folder = Path::new(&env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("src/family/tables");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.sort();
    let (mut tables, mut named, mut parents) = (String::new(), String::new(), String::new());
    for (number, file) in files.iter().enumerate() {
        let name = file.file_stem().unwrap_or_default();
        let text = fs::read_to_string(file)?;
        let _ = writeln!(tables, "    ({name:?}, include_str!({file:?})),");
        for (key, word) in names(&text) {
            let _ = writeln!(named, "    ({key:?}, {word:?}, {number}),");
        }
        let parent = text.lines().find_map(|line| line.strip_prefix("extends = \"")?.split('"').next());
        let of_family = parent.filter(|parent| !parent.starts_with('_'));
        let parent = of_family.and_then(|parent| files.iter().position(|file| file.file_stem().is_some_and(|name| name == parent)));
        let _ = writeln!(parents, "    {parent:?},");
    }
    let code = format!(
        "/// The embedded tables: name and text. Names starting with `_` are base tables.\n\
         static EMBEDDED: &[(&str, &str)] = &[\n{tables}];\n\n\
         /// What the tables are found by: the key, the name, and the number of its table.\n\
         static NAMED: &[(&str, &str, usize)] = &[\n{named}];\n\n\
         /// The number of the table of a family that each table extends.\n\
         static PARENTS: &[Option<usize>] = &[\n{parents}];\n"
    );
    fs::write(Path::new(&env::var_os("OUT_DIR").unwrap_or_default()).join("tables.rs"), code)
}

/// Returns the names in a table, each with its key: a string, or a list over one line or several.
fn names(text: &str) -> Vec<(&'static str, &str)> {
    let mut found = Vec::new();
    let mut listing = None;
    for line in text.lines().take_while(|line| !["keys = [", "tensors = [", "["].iter().any(|rest| line.starts_with(rest))) {
        let own = |key: &&str| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(" = "));
        if let Some(key) = listing.or_else(|| NAMES.into_iter().find(own)) {
            found.extend(line.split('"').skip(1).step_by(2).map(|name| (key, name)));
            listing = Some(key).filter(|_| !line.ends_with([']', '"']));
        }
    }
    found
}
