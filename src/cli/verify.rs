//! `weigh verify`

use std::path::{Path, PathBuf};

use crate::base::finding::Severity;
use crate::base::{Result, units};
use crate::cli::context::{Context, Outcome, Status};
use crate::cli::hints;
use crate::cli::sarif::Log;
use crate::family::tables::Tables;
use crate::ops::known::{self, Codes};
use crate::ops::verify::{self, Checked, Options, Verification};
use crate::render::{Cell, Column, Output, Report, Section, Tone};

/// Check the structure, tensors and values of model files
///
/// The structure of every file is always checked, and the tensors are compared with those of the architecture; other checks read all bytes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The exit status is 1 if a finding is an error (with --strict, or a warning). `weigh verify --codes` lists the rules.

Examples:
  weigh verify model.gguf --data
  weigh verify Llama-3.2-1B/ --manifest SHA256SUMS
  weigh verify checkpoint.pt --format sarif > weigh.sarif"
)]
pub(super) struct Args {
    /// Model: a file, a folder or one part of a set
    #[arg(required_unless_present = "codes")]
    path: Vec<PathBuf>,
    /// Read all values: find NaN, infinities, bad scales and zeros, and check the digests of the Hugging Face cache or Ollama
    #[arg(long)]
    data: bool,
    /// Compare with digests written by `weigh hash`, llama-gguf-hash, sha256sum, sha1sum or b3sum
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Load an additional architecture table
    #[arg(long, value_name = "FILE")]
    arch_table: Option<PathBuf>,
    /// Exit with status 1 for warnings too
    #[arg(long)]
    strict: bool,
    /// List the codes of findings with severity and rule
    #[arg(long, conflicts_with_all = ["path", "data", "manifest", "arch_table", "strict"])]
    codes: bool,
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    if args.codes {
        return context.emit_table(&known::codes());
    }
    if context.output() != Output::Sarif {
        return context.each(&args.path, |context, path| {
            let verdict = verify(args, context, path)?;
            context.emit(&verdict, path)?;
            Ok(status(&verdict))
        });
    }
    let mut log = Log::default();
    let outcome = context.each(&args.path, |context, path| {
        let verdict = verify(args, context, path).inspect_err(|error| log.fail(error, path))?;
        verdict.findings.iter().for_each(|finding| log.add(finding, path));
        Ok(status(&verdict))
    });
    serde_json::to_writer_pretty(context.out(), &log.document()).map_err(std::io::Error::from)?;
    writeln!(context.out())?;
    outcome
}

fn status(verdict: &Verification) -> Status {
    if verdict.ok { Status::Done } else { Status::Found }
}

fn verify(args: &Args, context: &mut Context<'_>, path: &Path) -> Result<Verification> {
    let tables = Tables::with_file(args.arch_table.as_deref())?;
    let read = if args.data || args.manifest.is_some() { args.path.as_slice() } else { &[] };
    let progress = context.progress(read);
    let options = Options {
        data: args.data,
        manifest: args.manifest.as_deref(),
        tables,
        progress: Some(&|bytes, total| progress.add(bytes, total)),
        strict: args.strict,
        root: context.root(),
    };
    let mut verdict = verify::verify(path, &options)?;
    verdict.findings.iter_mut().for_each(|finding| finding.word_hints(hints::words));
    context.warn_packing(path, verdict.packing.as_ref());
    Ok(verdict)
}

impl Report for Verification {
    const ROWS: Option<&'static str> = Some("findings");

    fn sections(&self) -> Vec<Section<'_>> {
        let columns = vec![
            Column::text("severity"),
            Column::text("code"),
            Column::name("file").optional(),
            Column::number("offset"),
            Column::sentence("tensor"),
            Column::sentence("message"),
        ];
        let rows = self.findings.iter().map(|finding| {
            vec![
                severity(finding.severity),
                Cell::text(finding.code),
                Cell::maybe(finding.file.as_ref(), |file| Cell::text(file.to_string_lossy().into_owned())),
                Cell::maybe(finding.offset, Cell::count),
                Cell::maybe(finding.tensor.clone(), Cell::text),
                Cell::text(finding.message.clone()),
            ]
        });
        let mut sections = vec![Section::table("findings", columns).rows(rows)];
        if self.findings.is_empty() {
            sections[0].audience = crate::render::Audience::Scripts;
        }
        sections.push(Section::prose(verdict(self)));
        sections
    }
}

/// Formats the verdict with what was checked and what was not.
fn verdict(found: &Verification) -> String {
    let severities = [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Note, "note")];
    let counts = severities.map(|(severity, name)| (found.findings.iter().filter(|finding| finding.severity == severity).count(), name));
    let counts: Vec<String> = counts.iter().filter(|(count, _)| *count > 0).map(|(count, name)| plural(*count as u64, name)).collect();
    let sound = if found.ok { "ok" } else { "not sound" };
    let sound = if counts.is_empty() { sound.to_owned() } else { format!("{sound}: {}", counts.join(", ")) };
    let Checked { structure, values, digests, recorded, bytes } = found.checked;
    let mut checked = match (structure, found.files) {
        (0, 0) => return sound,
        (tensors, files) => format!("structure of {} in {}", plural(tensors, "tensor"), plural(files as u64, "file")),
    };
    checked += &match values {
        0 => "; values not read (--data reads them)".to_owned(),
        tensors => format!("; values of {} read ({})", plural(tensors, "tensor"), units::bytes(bytes)),
    };
    checked += &match (digests, recorded) {
        (0, 0) => "; no digest to compare with".to_owned(),
        (0, recorded) => format!("; {} not compared (--data compares them)", plural(recorded, "digest")),
        (digests, _) => format!("; {} compared", plural(digests, "digest")),
    };
    format!("{sound}: {checked}")
}

fn plural(count: u64, what: &str) -> String {
    format!("{} {what}{}", units::grouped(count), if count == 1 { "" } else { "s" })
}

impl Report for Codes {
    const ROWS: Option<&'static str> = Some("codes");

    fn sections(&self) -> Vec<Section<'_>> {
        let columns = vec![Column::text("code"), Column::text("severity"), Column::sentence("rule")];
        let rows = self.codes.iter().map(|row| vec![Cell::text(row.code), severity(row.severity), Cell::text(row.rule)]);
        vec![Section::table("codes", columns).rows(rows)]
    }
}

fn severity(severity: Severity) -> Cell<'static> {
    let (name, tone) = match severity {
        Severity::Note => ("note", Tone::Faint),
        Severity::Warning => ("warning", Tone::Caution),
        Severity::Error => ("error", Tone::Bad),
    };
    Cell::text(name).tone(tone)
}
