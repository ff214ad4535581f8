//! `weigh verify`

use std::path::PathBuf;

use crate::base::finding::Severity;
use crate::base::units;
use crate::cli::context::{Context, Outcome, Status};
use crate::ops::verify::{self, Verdict};
use crate::render::{Cell, Column, Report, Section, Tone};

/// Check whether the files are sound
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status 1 means that a finding is an error. The README lists the codes.")]
pub(super) struct Args {
    /// Model: a file, a folder or one part of a set
    #[arg(required = true)]
    path: Vec<PathBuf>,
}

pub(super) fn run(args: &Args, context: &mut Context<'_>) -> Outcome {
    context.each(&args.path, |context, path| {
        let verdict = verify::verify(path)?;
        context.emit(&verdict, path)?;
        Ok(if verdict.ok { Status::Done } else { Status::Found })
    })
}

impl Report for Verdict {
    const ROWS: Option<&'static str> = Some("findings");

    fn sections(&self) -> Vec<Section> {
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
