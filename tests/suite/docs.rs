//! The pages of docs/ that are printed from the program, and the links between all pages. `WEIGH_UPDATE=1 cargo test docs` rewrites the former.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compares a page with what the program says, or rewrites it.
fn check(name: &str, text: &str) {
    let path = root().join("docs").join(name);
    if std::env::var_os("WEIGH_UPDATE").is_some() {
        fs::write(&path, text).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), text, "WEIGH_UPDATE=1 rewrites docs/{name}");
}

fn rows(page: &mut String, command: &clap::Command, global: bool) {
    for arg in command.get_arguments().filter(|arg| arg.is_global_set() == global && !arg.is_hide_set()) {
        if ["help", "version"].contains(&arg.get_id().as_str()) {
            continue;
        }
        let value = match arg.get_value_names() {
            Some([name, ..]) if arg.get_action().takes_values() => format!("{}{name}", if arg.get_long().is_some() { " " } else { "" }),
            _ => String::new(),
        };
        let name = match (arg.get_long(), arg.get_short()) {
            (Some(long), Some(short)) => format!("`--{long}{value}`, `-{short}`"),
            (Some(long), None) => format!("`--{long}{value}`"),
            _ => format!("`{value}`"),
        };
        let name = name.replace('|', "\\|");
        let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|");
        let values: Vec<_> =
            arg.get_possible_values().iter().filter(|value| !value.is_hide_set()).map(|value| format!("`{}`", value.get_name())).collect();
        if !values.is_empty() && arg.get_action().takes_values() {
            write!(help, ": {}", values.join(" ")).unwrap();
        }
        writeln!(page, "| {name} | {help} |").unwrap();
    }
}

fn table(page: &mut String, command: &clap::Command, name: &str) {
    writeln!(page, "\n## {name}\n\n{}\n", command.get_about().map(ToString::to_string).unwrap_or_default()).unwrap();
    if command.get_arguments().any(|arg| !arg.is_global_set() && arg.get_id() != "help") {
        page.push_str("| | |\n| --- | --- |\n");
        rows(page, command, false);
    }
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        table(page, sub, &format!("{name} {}", sub.get_name()));
    }
}

#[test]
fn the_page_of_options_is_what_the_program_has() {
    let command = weigh::cli::command();
    let mut page = String::from(
        "# Every option\n\nPrinted from the program, as `weigh COMMAND --help` is.\n\n## Every command\n\n| | |\n| --- | --- |\n",
    );
    rows(&mut page, &command, true);
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        table(&mut page, sub, &format!("weigh {}", sub.get_name()));
    }
    check("options.md", &page);
}

#[test]
fn the_page_of_findings_is_what_the_program_has() {
    let mut page = String::from(
        "# Codes of findings\n\n`weigh verify` gives every broken rule a stable code. An error means that the file breaks its format; warnings and notes \
         leave it usable.\n`weigh verify --codes` prints this list.\n\n| code | severity | the rule |\n| --- | --- | --- |\n",
    );
    for (code, severity, rule) in weigh::format::codes::CODES {
        writeln!(page, "| `{code}` | {} | {rule} |", format!("{severity:?}").to_lowercase()).unwrap();
    }
    check("findings.md", &page);
}

#[test]
fn the_page_of_types_is_what_the_program_has() {
    let mut page = String::from(
        "# Types\n\n## File types\n\nThe mixes of llama-quantize, as `convert --type` takes them and `weigh types --file-types` lists them. Bits per weight \
         are those of Llama 3.1 8B.\n\n| name | general.file_type | mostly | bits per weight | for |\n| --- | ---: | --- | ---: | --- |\n",
    );
    for row in weigh::ops::known::file_types().file_types {
        writeln!(page, "| `{}` | {} | {} | {} | {} |", row.name, row.number, row.base, row.bits_per_weight, row.purpose).unwrap();
    }
    page.push_str(
        "\n## Element types\n\nAs `weigh types` lists them.\n\n| name | class | block | bytes | bits per weight | ggml | safetensors | read | written |\n\
         | --- | --- | ---: | ---: | ---: | ---: | --- | --- | --- |\n",
    );
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    for row in weigh::ops::known::types().types {
        let ggml = row.ggml_id.map(|id| id.to_string()).unwrap_or_default();
        let (bits, safetensors) = (row.bits_per_weight, row.safetensors.unwrap_or_default());
        let (elements, bytes) = (row.block_elements, row.block_bytes);
        let (read, written) = (yes(row.read), yes(row.written));
        writeln!(page, "| `{}` | {} | {elements} | {bytes} | {bits} | {ggml} | {safetensors} | {read} | {written} |", row.name, row.class)
            .unwrap();
    }
    check("types.md", &page);
}

#[test]
fn the_page_of_architectures_is_what_the_program_has() {
    let archs = weigh::ops::known::archs(&weigh::family::tables::Tables::with_file(None).unwrap()).unwrap().archs;
    let mut names: Vec<_> = archs.iter().map(|row| row.gguf.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let classes: std::collections::BTreeSet<_> = archs.iter().flat_map(|row| &row.classes).collect();
    let mut page = format!(
        "# Architectures\n\nWhat `convert` translates between Hugging Face and GGUF, and `info`, `count`, `verify` and `fit` know: {} architectures, {} \
         classes. `weigh archs` prints this list; `--arch-table FILE` adds to it. References are the \
         small models made by llama.cpp's converter with which a table and those of its encoders have been compared; `--json` names them.\n\n| table | GGUF | classes | back to a folder | mmproj | references |\n\
         | --- | --- | --- | --- | --- | ---: |\n",
        names.len(),
        classes.len()
    );
    for row in &archs {
        let back = if row.both_ways { "yes" } else { "no" };
        let (classes, mmproj, references) = (row.classes.join(" "), row.mmproj.join(" "), row.references.len());
        writeln!(page, "| {} | {} | {classes} | {back} | {mmproj} | {references} |", row.name, row.gguf).unwrap();
    }
    check("architectures.md", &page);
}

/// The Markdown pages that are read by people.
fn pages() -> Vec<PathBuf> {
    let in_docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> = in_docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    pages.extend(["README.md", "CONTRIBUTING.md", "SECURITY.md", "BENCHMARKS.md", "CHANGELOG.md"].map(|name| root().join(name)));
    pages
}

#[test]
fn links_between_pages_lead_somewhere() {
    let link = regex::Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let heading = |page: &str| -> Vec<String> {
        let titles = page.lines().filter_map(|line| line.strip_prefix('#')).map(|line| line.trim_start_matches('#').trim().to_lowercase());
        titles
            .map(|title| title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>().replace(' ', "-"))
            .collect()
    };
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for target in link.captures_iter(&text).map(|found| found[1].to_owned()).filter(|target| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').map_or((target.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let file = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            // The published crate is without the Python module, which is a package of its own.
            if target.starts_with("python/") && !root().join("python").exists() {
                continue;
            }
            assert!(file.exists(), "{}: {target}", page.display());
            if let Some(anchor) = anchor {
                assert!(heading(&fs::read_to_string(&file).unwrap()).iter().any(|title| title == anchor), "{}: {target}", page.display());
            }
        }
    }
}

#[test]
fn the_readme_is_short_and_leads_to_every_page() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.len() < 12_000, "{} bytes", readme.len());
    for page in pages().iter().filter(|page| page.parent() == Some(&root().join("docs"))) {
        let name = format!("docs/{}", page.file_name().unwrap().to_str().unwrap());
        assert!(readme.contains(&format!("({name})")), "{name}");
    }
}
