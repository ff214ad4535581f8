//! `weigh verify`

use std::path::PathBuf;

use crate::arch::table::{Table, Tables};
use crate::base::finding::Severity;
use crate::base::units;
use crate::cli::context::{Context, Outcome, Status};
use crate::cli::progress::Progress;
use crate::ops::verify::{self, Options, Verdict};
use crate::render::{Cell, Column, Report, Section, Tone};

/// Check whether the files are sound
///
/// The structure of every file, and whether the tensors are those of the architecture, are always checked; the rest needs all bytes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status 1 means that a finding is an error. The README lists the codes.

Examples:
  weigh verify model.gguf --data
  weigh verify Llama-3.2-1B/ --manifest SHA256SUMS")]
pub(super) struct Args {
    /// Model: a file, a folder or one part of a set
    #[arg(required = true)]
    path: Vec<PathBuf>,
    /// Read all values: NaN, infinities, broken scales, digests of the Hugging Face cache or of Ollama
    #[arg(long)]
    data: bool,
    /// Compare with digests: lines of `weigh hash`, llama-gguf-hash, sha256sum, sha1sum or b3sum
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// A table of one more architecture
    #[arg(long, value_name = "FILE")]
    arch_table: Option<PathBuf>,
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    context.each(&args.path, |context, path| {
        let own = args.arch_table.as_deref().map(Table::read).transpose()?;
        let progress = Progress::new(0, context.quiet());
        let options = Options {
            data: args.data,
            manifest: args.manifest.as_deref(),
            tables: Tables::with(own.into_iter().collect()),
            progress: Some(&|bytes, total| progress.add_of(bytes, total)),
        };
        let verdict = verify::verify(path, &options);
        progress.finish();
        let verdict = verdict?;
        context.warn_packing(path, verdict.packing.as_ref());
        context.emit(&verdict, path)?;
        Ok(if verdict.ok { Status::Done } else { Status::Found })
    })
}

impl Report for Verdict {
    const ROWS: Option<&'static str> = Some("findings");

    fn sections(&self) -> Vec<Section<'_>> {
        let columns = vec![
            Column::text("severity"),
            Column::text("code"),
            Column::name("file").optional(),
            Column::number("offset"),
            Column::name("tensor"),
            Column::value("message"),
        ];
        let rows = self.findings.iter().map(|finding| {
            let (severity, tone) = match finding.severity {
                Severity::Note => ("note", Tone::Faint),
                Severity::Warning => ("warning", Tone::Caution),
                Severity::Error => ("error", Tone::Bad),
            };
            vec![
                Cell::text(severity).tone(tone),
                Cell::text(finding.code),
                Cell::maybe(finding.file.as_ref(), |file| Cell::text(file.to_string_lossy().into_owned())),
                Cell::maybe(finding.offset, Cell::count),
                Cell::maybe(finding.tensor.clone(), Cell::text),
                Cell::text(finding.message.clone()),
            ]
        });
        let checked = format!("{} in {}", plural(self.tensors, "tensor"), plural(self.files, "file"));
        let errors = self.findings.iter().filter(|finding| finding.severity == Severity::Error).count();
        let verdict = match (self.ok, self.findings.len()) {
            (true, 0) => format!("ok: {checked}"),
            (true, remarks) => format!("ok: {checked}, {}", plural(remarks, "remark")),
            (false, _) => format!("not sound: {}", plural(errors, "error")),
        };
        let mut sections = vec![Section::table("findings", columns).rows(rows)];
        if self.findings.is_empty() {
            sections[0].audience = crate::render::Audience::Scripts;
        }
        sections.push(Section::text(verdict));
        sections
    }
}

fn plural(count: usize, what: &str) -> String {
    format!("{} {what}{}", units::grouped(count as u64), if count == 1 { "" } else { "s" })
}
