//! What the commands print. Each file in tests/golden lists commands with their output; `WEIGH_UPDATE=1 cargo test golden` rewrites them.
//!
//! `$ weigh ...` is a command, `! ` a line on standard error, `? N` an exit status other than 0. Commands of one file run one after the
//! other in a folder of its own, where `fixtures` is the project's: what one writes, the next can read.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Splits a command line at spaces, outside single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words
}

fn run(line: &str, folder: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weigh"));
    command.current_dir(folder).env_remove("COLUMNS").env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
    let mut words = words(line).into_iter();
    for word in words.by_ref() {
        match word.split_once('=') {
            Some((name, value)) => command.env(name, value),
            None => break, // `weigh`
        };
    }
    let output = command.args(words).output().unwrap();
    let mut text = String::from_utf8(output.stdout).unwrap();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for line in String::from_utf8(output.stderr).unwrap().lines() {
        writeln!(text, "! {line}").unwrap();
    }
    match output.status.code() {
        Some(0) => {}
        code => writeln!(text, "? {}", code.unwrap()).unwrap(),
    }
    text
}

#[test]
fn commands_print_what_they_printed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let update = std::env::var_os("WEIGH_UPDATE").is_some();
    let mut different = Vec::new();
    let mut files: Vec<_> = fs::read_dir(root.join("tests/golden")).unwrap().collect();
    files.sort_by_key(|file| file.as_ref().unwrap().path());
    for file in files {
        let path = file.unwrap().path();
        let expected = fs::read_to_string(&path).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(root.join("fixtures"), folder.path().join("fixtures")).unwrap();
        let mut found = String::new();
        for line in expected.lines().filter_map(|line| line.strip_prefix("$ ")) {
            write!(found, "{}$ {line}\n{}", if found.is_empty() { "" } else { "\n" }, run(line, folder.path())).unwrap();
        }
        if update {
            fs::write(&path, found).unwrap();
        } else if found != expected {
            let at = found.lines().zip(expected.lines()).position(|(a, b)| a != b);
            let at = at.unwrap_or_else(|| found.lines().count().min(expected.lines().count()));
            let line = |text: &str| text.lines().nth(at).unwrap_or("(the end)").to_owned();
            different.push(format!("{}:{}\n  expected {}\n  found    {}", path.display(), at + 1, line(&expected), line(&found)));
        }
    }
    assert!(different.is_empty(), "WEIGH_UPDATE=1 accepts what is new:\n{}", different.join("\n"));
}
