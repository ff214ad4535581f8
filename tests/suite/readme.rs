//! The README says what the program says: its tables of options and codes are written from the program. `WEIGH_UPDATE=1 cargo test readme`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// What is between the line that starts with `<!-- name:` and the next `<!-- end -->`.
fn section<'a>(readme: &'a str, name: &str) -> &'a str {
    let start = readme.find(&format!("<!-- {name}:")).unwrap_or_else(|| panic!("the README has a section {name}"));
    let start = start + readme[start..].find('\n').unwrap() + 1;
    &readme[start..start + readme[start..].find("<!-- end -->").unwrap()]
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "\\<").replace('\n', " ")
}

fn codes() -> String {
    let mut out = String::from("| code | severity | the rule |\n| --- | --- | --- |\n");
    for (code, severity, rule) in weigh::format::codes::CODES {
        writeln!(out, "| `{code}` | {} | {} |", format!("{severity:?}").to_lowercase(), cell(rule)).unwrap();
    }
    out
}

fn options() -> String {
    let mut command = weigh::cli::command();
    command.build();
    let mut out = String::from("| of every command | |\n| --- | --- |\n");
    let row = |out: &mut String, arg: &clap::Arg| {
        let value = arg
            .get_value_names()
            .filter(|_| arg.get_action().takes_values())
            .map_or_else(String::new, |names| names.iter().map(|name| format!(" {name}")).collect());
        let name = match (arg.get_short(), arg.get_long()) {
            (Some(short), Some(long)) => format!("`--{long}{value}`, `-{short}`"),
            (None, Some(long)) => format!("`--{long}{value}`"),
            _ => format!("`{}`", value.trim_start()),
        };
        let values: Vec<String> = arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
        let values = if values.len() < 2 || !arg.get_action().takes_values() { String::new() } else { format!(": {}", values.join(" ")) };
        writeln!(out, "| {name} | {}{values} |", cell(&arg.get_help().map(ToString::to_string).unwrap_or_default())).unwrap();
    };
    for arg in command.get_arguments().filter(|arg| arg.is_global_set() && arg.get_id() != "help") {
        row(&mut out, arg);
    }
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let own = |command: &clap::Command| -> Vec<clap::Arg> {
            let hidden = |arg: &&clap::Arg| !arg.is_global_set() && arg.get_id() != "help" && arg.get_id() != "version";
            command.get_arguments().filter(hidden).cloned().collect()
        };
        writeln!(out, "\n| `weigh {}` | {} |\n| --- | --- |", sub.get_name(), cell(&sub.get_about().unwrap().to_string())).unwrap();
        own(sub).iter().for_each(|arg| row(&mut out, arg));
        for action in sub.get_subcommands().filter(|action| action.get_name() != "help") {
            writeln!(out, "| `{}` | {} |", action.get_name(), cell(&action.get_about().unwrap().to_string())).unwrap();
            own(action).iter().for_each(|arg| row(&mut out, arg));
        }
    }
    out
}

#[test]
fn readme_says_what_the_program_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let old_readme = fs::read_to_string(&path).unwrap();
    let mut readme = old_readme.clone();
    for (name, found) in [("codes", codes()), ("options", options())] {
        if section(&readme, name) == found {
            continue;
        }
        assert!(std::env::var_os("WEIGH_UPDATE").is_some(), "the README's {name} are not the program's: WEIGH_UPDATE=1 cargo test readme");
        let old = section(&readme, name);
        let at = old.as_ptr() as usize - readme.as_ptr() as usize;
        let end = at + old.len();
        readme.replace_range(at..end, &found);
    }
    if readme != old_readme {
        fs::write(&path, readme).unwrap();
    }
}
