//! The README knows every command, every option and every code of a finding.

use std::fs;
use std::path::Path;

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

#[test]
fn every_code_of_a_finding_is_in_the_table() {
    let readme = readme();
    for (code, severity, _) in weigh::format::codes::CODES {
        let row = format!("| `{code}` | {} | ", format!("{severity:?}").to_lowercase());
        assert!(readme.contains(&row), "a row for {code}");
    }
}

#[test]
fn every_command_and_option_is_in_the_reference() {
    let readme = readme();
    let command = weigh::cli::command();
    for sub in command.get_subcommands() {
        let heading = format!("| `weigh {}` | ", sub.get_name());
        let at = readme.find(&heading).unwrap_or_else(|| panic!("a table for {}", sub.get_name()));
        let table = readme[at..].split("\n\n").next().unwrap();
        for long in sub.get_arguments().filter_map(|arg| arg.get_long()).filter(|long| *long != "help") {
            assert!(table.contains(&format!("`--{long}")), "weigh {} --{long}", sub.get_name());
        }
    }
}
