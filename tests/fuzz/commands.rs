//! Any model under any command that only reads: it ends with a status, and terminals get no control characters.

use super::round_trip::{made, seeds};
use super::{Target, file, folder};

/// The first byte picks the command, the second its output, the rest is a model as `round_trip` has it.
pub const COMMANDS: Target = Target { name: "commands", run, seeds: command_seeds };

const COMMANDS_OF: &[&[&str]] = &[
    &["info"],
    &["ls"],
    &["ls", "--tree"],
    &["count"],
    &["meta"],
    &["meta", "--full"],
    &["verify"],
    &["show", "a"],
    &["hash", "--algorithm", "xxh64"],
    &["stats"],
    &["stats", "--by", "layer"],
    &["hist", "a"],
    &["convert", "out.gguf", "--dry-run"],
    &["convert", "out.safetensors", "--dry-run", "--keep-names"],
    &["report"],
];
const OUTPUTS: [&[&str]; 5] = [&[], &["--json"], &["--format", "ndjson"], &["--format", "csv"], &["--format", "markdown"]];

fn run(data: &[u8]) {
    let [command, output, rest @ ..] = data else { return };
    let Some(bytes) = made(rest) else { return };
    let path = file(&folder(), "model", &bytes);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let command = COMMANDS_OF[usize::from(*command) % COMMANDS_OF.len()];
    let output = OUTPUTS[usize::from(*output) % OUTPUTS.len()];
    let args = ["weigh", command[0]].into_iter().chain([path.to_str().expect("a plain path")]);
    let _ = weigh::cli::run(args.chain(command[1..].iter().copied()).chain(output.iter().copied()), &mut out, &mut err);
    assert!(!err.starts_with(b"error:"), "{command:?} {output:?}: {}", String::from_utf8_lossy(&err)); // its own arguments are right
    for text in [&out, &err] {
        let text = std::str::from_utf8(text).expect("the output is text");
        if let Some(bad) = text.chars().find(|c| c.is_control() && *c != '\n') {
            panic!("{command:?} wrote {bad:?} to the terminal");
        }
    }
    if output == ["--json"] && command[0] != "report" && !out.is_empty() {
        for line in serde_json::Deserializer::from_slice(&out).into_iter::<serde_json::Value>() {
            line.expect("the output is JSON");
        }
    }
}

fn command_seeds() -> Vec<Vec<u8>> {
    (0u8..)
        .zip(seeds())
        .flat_map(|(i, model)| (0..3u8).map(move |j| [vec![i.wrapping_mul(3).wrapping_add(j), i.wrapping_add(j)], model.clone()].concat()))
        .collect()
}
