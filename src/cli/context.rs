//! The context of a command: output streams, rendering, warnings and errors.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::base::{Error, ErrorKind, Hint, text, units};
use crate::cli::hints;
use crate::cli::progress::Progress;
use crate::format::Reader;
use crate::model::PackingSummary;
use crate::render::{Output, Renderer, Report, Section};

/// The status of a completed command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// Exit status 0.
    Done,
    /// Exit status 1: success with findings.
    Found,
    /// Exit status 2: an error that is already reported.
    Failed,
    /// Exit status of another tool whose conventions the command follows.
    Other(u8),
}

impl Status {
    /// Returns the status of a command that showed a model's headers: `Found` if a file is truncated.
    pub(super) fn of_headers(reader: &Reader) -> Self {
        if reader.lacks().iter().any(|finding| !finding.tensors.is_empty()) { Self::Found } else { Self::Done }
    }
}

/// The reason a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The work failed.
    Weigh(Error),
    /// The results could not be written.
    Output(io::Error),
}

/// The result of a command.
pub(super) type Outcome = Result<Status, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Weigh(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// The error document for one of several paths (`weigh.error.v1`), in JSON only.
#[derive(Debug, Serialize)]
struct ErrorReport {
    schema: &'static str,
    error: ErrorFacts,
}

/// The parts of an error; those that do not apply are null.
#[derive(Debug, Serialize)]
struct ErrorFacts {
    kind: ErrorKind,
    /// The code of the broken rule, as in `verify`.
    code: Option<&'static str>,
    message: String,
    file: Option<String>,
    tensor: Option<String>,
    offset: Option<u64>,
    hint: Option<String>,
}

impl ErrorReport {
    fn new(error: &Error) -> Self {
        let error = ErrorFacts {
            kind: error.kind(),
            code: error.code(),
            message: error.message().to_owned(),
            file: error.path().map(|path| path.to_string_lossy().into_owned()),
            tensor: error.tensor().map(str::to_owned),
            offset: error.offset(),
            hint: Hint::join(&error.hints(), hints::words),
        };
        Self { schema: "weigh.error.v1", error }
    }
}

impl Report for ErrorReport {
    fn sections(&self) -> Vec<Section<'_>> {
        Vec::new()
    }
}

/// The resolved global options and the two streams.
pub(super) struct Context<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    renderer: Renderer,
    quiet: bool,
    /// The key of a nested checkpoint to take.
    root: Option<String>,
    progress: Arc<Progress>,
}

impl<'a> Context<'a> {
    /// Returns a context that writes to the given streams.
    pub(super) fn new(out: &'a mut dyn Write, err: &'a mut dyn Write, renderer: Renderer, quiet: bool, root: Option<String>) -> Self {
        Self { out, err, renderer, quiet, root, progress: Arc::new(Progress::new(quiet)) }
    }

    /// Writes a report on the model at `path` in the format asked for.
    pub(super) fn emit<R: Report>(&mut self, report: &R, path: &Path) -> Outcome {
        self.progress.hide();
        self.renderer.write(self.out, report, Some(path))?;
        Ok(Status::Done)
    }

    /// Writes a report on completed work on the model at `path`, unless [silent](Self::is_silent). If this fails, the error says that the work
    /// itself is done.
    pub(super) fn emit_done<R: Report>(&mut self, report: &R, path: &Path, written: &Path) -> Outcome {
        if self.is_silent() {
            return Ok(Status::Done);
        }
        let emitted = self.emit(report, path).and_then(|status| {
            self.finish()?;
            Ok(status)
        });
        emitted.map_err(|failure| match failure {
            Failure::Output(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                let message = format!("the work is done, but its report could not be written: {error}");
                Failure::Weigh(Error::new(ErrorKind::Io, message).in_file(written))
            }
            other => other,
        })
    }

    /// Writes a report that does not concern a model.
    pub(super) fn emit_table<R: Report>(&mut self, report: &R) -> Outcome {
        self.renderer.write(self.out, report, None)?;
        Ok(Status::Done)
    }

    /// Opens a model; warns of missing files of its set and of an unreadable config.
    pub(super) fn open(&mut self, path: &Path) -> Result<Reader, Error> {
        let reader = self.open_unwarned(path)?;
        self.warn_of_missing(&reader);
        self.warn_of_config(&reader);
        Ok(reader)
    }

    /// Opens a model without warnings.
    pub(super) fn open_unwarned(&self, path: &Path) -> Result<Reader, Error> {
        self.rooted(crate::format::open(path)?)
    }

    /// Opens two models to compare; the key of a nested checkpoint applies to those that have tensors under it.
    pub(super) fn open_both(&mut self, a: &Path, b: &Path) -> Result<[Reader; 2], Error> {
        let Some(root) = self.root.take() else { return Ok([self.open(a)?, self.open(b)?]) };
        let readers = [self.open(a)?, self.open(b)?];
        let rooted = readers.each_ref().map(|reader| reader.rooted(&root));
        if let [Err(error), Err(_)] = rooted {
            return Err(error);
        }
        let [a, b] = readers;
        let [rooted_a, rooted_b] = rooted;
        Ok([rooted_a.unwrap_or(a), rooted_b.unwrap_or(b)])
    }

    /// Returns the key of a nested checkpoint to take.
    pub(super) fn root(&self) -> Option<&str> {
        self.root.as_deref()
    }

    fn rooted(&self, reader: Reader) -> Result<Reader, Error> {
        match &self.root {
            Some(root) => reader.rooted(root),
            None => Ok(reader),
        }
    }

    /// Opens a model by its headers; warns of missing parts and of an unreadable config.
    pub(super) fn open_headers(&mut self, path: &Path) -> Result<Reader, Error> {
        let reader = self.rooted(crate::format::open_headers(path)?)?;
        self.warn_of_missing(&reader);
        self.warn_of_config(&reader);
        Ok(reader)
    }

    /// Warns of an unreadable config.
    pub(super) fn warn_of_config(&mut self, reader: &Reader) {
        if let Some(error) = reader.model().config_error.as_ref().filter(|_| !self.quiet) {
            self.report_error(error);
        }
    }

    /// Warns of missing files of a set, of truncated ones, and of others in the folder that were not read.
    pub(super) fn warn_of_missing(&mut self, reader: &Reader) {
        if let Some(other) = &reader.model().passed_over {
            self.warn(&format!("{}: not read: the safetensors files beside it are taken", other.display()));
        }
        for finding in reader.lacks() {
            let mut finding = finding.clone();
            finding.word_hints(hints::words);
            let file = finding.file.as_deref().unwrap_or(&reader.model().path);
            self.warn(&format!("{}: {}", file.display(), finding.message));
        }
    }

    /// Runs `work` on every path. With several paths, an error does not stop the others; in JSON it gets its own document (in ndjson, its own
    /// line), so that every path has one.
    pub(super) fn each(&mut self, paths: &[PathBuf], mut work: impl FnMut(&mut Self, &Path) -> Outcome) -> Outcome {
        if let [path] = paths {
            return work(self, path);
        }
        self.renderer.several();
        let (mut status, mut failed) = (Status::Done, false);
        for path in paths {
            let outcome = work(self, path);
            self.progress.next();
            match outcome {
                Ok(Status::Done) => {}
                Ok(Status::Found) => status = Status::Found,
                Ok(Status::Other(other)) if status == Status::Done => status = Status::Other(other),
                Ok(Status::Other(_)) => {}
                Ok(Status::Failed) => failed = true,
                Err(Failure::Weigh(error)) => {
                    self.report_error(&error);
                    if matches!(self.output(), Output::Json | Output::Ndjson) {
                        self.renderer.write(self.out, &ErrorReport::new(&error), Some(path))?;
                    }
                    failed = true;
                }
                Err(failure @ Failure::Output(_)) => return Err(failure),
            }
        }
        Ok(if failed { Status::Failed } else { status })
    }

    /// Reports an error with its hints. Pending output is flushed first, so that the error comes last. If standard error is closed, only
    /// the exit status remains.
    pub(super) fn report_error(&mut self, error: &Error) {
        self.progress.hide();
        let _ = self.out.flush();
        let _ = writeln!(self.err, "weigh: {error}");
        if let Some(hint) = Hint::join(&error.hints(), hints::words) {
            let _ = writeln!(self.err, "hint: {hint}");
        }
    }

    /// Says that a file was written, unless quiet.
    pub(super) fn wrote(&mut self, path: &Path, bytes: usize) -> Outcome {
        self.progress.hide();
        if !self.quiet {
            writeln!(self.out, "wrote {}: {}", text::escape(&path.to_string_lossy()), units::bytes(bytes as u64))?;
        }
        Ok(Status::Done)
    }

    /// Returns the output format.
    pub(super) fn output(&self) -> Output {
        self.renderer.output()
    }

    /// Returns the stream for results with a fixed format, such as completion scripts.
    pub(super) fn out(&mut self) -> &mut dyn Write {
        self.progress.hide();
        self.out
    }

    /// Writes a warning to standard error, unless quiet.
    pub(super) fn warn(&mut self, warning: &str) {
        if !self.quiet {
            self.progress.hide();
            let _ = self.out.flush();
            let _ = writeln!(self.err, "weigh: {}", text::escape(warning));
        }
    }

    /// Reports an error as a warning, with its hints, unless quiet.
    pub(super) fn warn_of(&mut self, error: &Error) {
        if !self.quiet {
            self.report_error(error);
        }
    }

    /// Warns of packed weights that cannot be unpacked.
    pub(super) fn warn_packing(&mut self, path: &Path, packing: Option<&PackingSummary>) {
        if let Some(warning) = packing.and_then(PackingSummary::warning) {
            self.warn(&format!("{}: {warning}", path.display()));
        }
    }

    /// Returns the progress of the command on all of `paths`, started now at the latest.
    pub(super) fn progress(&self, paths: &[PathBuf]) -> Arc<Progress> {
        self.progress.start(|| paths.iter().filter(|_| paths.len() > 1).map(|path| size(path)).collect());
        Arc::clone(&self.progress)
    }

    /// Returns the progress of a command that counts `unit` instead of bytes, started now at the latest.
    #[cfg(feature = "catalog")]
    pub(super) fn progress_in(&self, unit: &'static str) -> Arc<Progress> {
        self.progress.count(unit);
        self.progress(&[])
    }

    /// Whether nothing is said of what was written: results for people only.
    pub(super) fn is_silent(&self) -> bool {
        self.quiet && self.output() == Output::Table
    }

    /// Flushes the output.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Returns the size of a model's tensors, as far as it is known.
fn size(path: &Path) -> u64 {
    let Ok(reader) = crate::format::open_headers(path) else { return 0 };
    reader.model().tensors.iter().filter_map(|tensor| tensor.len_bytes).fold(0, u64::saturating_add)
}
