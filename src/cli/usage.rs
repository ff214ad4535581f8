//! Mistakes in the arguments: worded like all other errors, with a hint for what other tools call a command.

use std::ffi::OsString;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Names of commands in other tools, and what does it here.
static ELSEWHERE: &[(&str, &str)] = &[
    ("inspect", "`weigh info MODEL` describes a model, `weigh ls MODEL` lists its tensors"),
    ("describe", "`weigh info MODEL` describes a model"),
    ("show-info", "`weigh info MODEL` describes a model"),
    ("open", "`weigh info MODEL` describes a model"),
    ("summary", "`weigh info MODEL` describes a model"),
    ("dump", "`weigh ls MODEL` lists the tensors, `weigh meta MODEL` the metadata, `weigh show MODEL TENSOR` values"),
    ("list", "`weigh ls MODEL` lists the tensors"),
    ("tensors", "`weigh ls MODEL` lists the tensors"),
    ("tree", "`weigh ls MODEL --tree` collapses identical layers"),
    ("params", "`weigh count MODEL` counts the parameters"),
    ("size", "`weigh count MODEL` counts the parameters, `weigh fit MODEL` the memory"),
    ("memory", "`weigh fit MODEL` shows the memory that a model needs"),
    ("vram", "`weigh fit MODEL` shows the memory that a model needs"),
    ("metadata", "`weigh meta MODEL` lists the metadata"),
    ("edit", "`weigh meta MODEL set KEY=VALUE` edits the metadata"),
    ("cat", "`weigh show MODEL TENSOR` prints values"),
    ("print", "`weigh show MODEL TENSOR` prints values"),
    ("histogram", "`weigh hist MODEL TENSOR` draws a histogram"),
    ("compare", "`weigh diff A B` compares two models"),
    ("check", "`weigh verify MODEL` checks a model"),
    ("validate", "`weigh verify MODEL` checks a model"),
    ("scan", "`weigh verify MODEL` checks a model; for a PyTorch checkpoint, it lists the code that loading it would run"),
    ("checksum", "`weigh hash MODEL` hashes tensors, with --file whole files"),
    ("quantize", "`weigh convert IN OUT.gguf --type Q4_K_M` quantises"),
    ("quantise", "`weigh convert IN OUT.gguf --type Q4_K_M` quantises"),
    ("merge", "`weigh convert BASE ADAPTER OUT` merges an adapter; sharded models need no merging"),
    ("split", "`weigh convert IN OUT --shard-size 5GB` splits a model"),
    ("gguf-split", "`weigh convert IN OUT --shard-size 5GB` splits a model"),
    ("export", "`weigh convert IN OUT` converts between formats"),
    ("download", "`hf download ORG/NAME` downloads a model; weigh reads it remotely: `weigh info ORG/NAME`"),
];

/// Returns the arguments with `info` before a model that stands where a command should.
pub(super) fn with_info(arguments: &[OsString], error: &clap::Error) -> Option<Vec<OsString>> {
    let name = unknown_command(error)?;
    let path = Path::new(name);
    if !(name.contains('/') || path.extension().is_some() || path.exists()) {
        return None;
    }
    let at = arguments.iter().skip(1).position(|argument| argument == name)? + 1;
    let mut arguments = arguments.to_vec();
    arguments.insert(at, "info".into());
    Some(arguments)
}

fn unknown_command(error: &clap::Error) -> Option<&str> {
    match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(name)) if error.kind() == ErrorKind::InvalidSubcommand => Some(name),
        _ => None,
    }
}

/// Returns the error as one line and its hint as another.
pub(super) fn message(error: &clap::Error) -> (String, String) {
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n").map(|paragraph| paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" "));
    let what = paragraphs.next().unwrap_or_default();
    let what = what.strip_prefix("error: ").unwrap_or(&what).trim().to_owned();
    if let Some((_, elsewhere)) = unknown_command(error).and_then(|name| ELSEWHERE.iter().find(|(known, _)| *known == name)) {
        return (what, (*elsewhere).to_owned());
    }
    let mut hints = Vec::new();
    for paragraph in paragraphs {
        if let Some(usage) = paragraph.strip_prefix("Usage: ") {
            hints.push(format!("usage: {usage}"));
        } else if paragraph.starts_with("tip: ") {
            hints.extend(paragraph.split("tip: ").map(|tip| tip.trim().to_owned()).filter(|tip| !tip.is_empty()));
        } else if paragraph.starts_with("For more information") {
            hints.push("--help says more".to_owned());
        }
    }
    (what, hints.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_tools_call_a_command_is_none_of_ours() {
        for (name, hint) in ELSEWHERE {
            let mut command = crate::cli::command();
            command.build();
            assert!(command.find_subcommand(name).is_none(), "{name}");
            for named in hint.split('`').filter_map(|part| part.strip_prefix("weigh ")) {
                let first = named.split(' ').next().unwrap();
                assert!(command.find_subcommand(first).is_some(), "{hint}");
            }
        }
    }
}
