//! What a command works with: where its results go, and how.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::base::{Error, ErrorKind, text};
use crate::render::{Output, Renderer, Report};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// Exit status 0.
    Done,
    /// Exit status 1: done, and something was found.
    Found,
    /// Exit status 2: it could not be done, and that has been said already.
    Failed,
    /// Another tool's exit status, in a command that stands in for it.
    Other(u8),
}

/// Why a command could not be done.
#[derive(Debug)]
pub(super) enum Failure {
    /// The work failed.
    Weigh(Error),
    /// The results could not be written.
    Output(io::Error),
}

/// What a command comes to.
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

/// The resolved global options and the two streams.
pub(super) struct Context<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    renderer: Renderer,
    quiet: bool,
}

impl<'a> Context<'a> {
    /// What a command works with.
    pub(super) fn new(out: &'a mut dyn Write, err: &'a mut dyn Write, renderer: Renderer, quiet: bool) -> Self {
        Self { out, err, renderer, quiet }
    }

    /// Writes a report on the model at `path` in the format asked for.
    pub(super) fn emit<R: Report>(&mut self, report: &R, path: &Path) -> Outcome {
        self.renderer.write(self.out, report, Some(path))?;
        Ok(Status::Done)
    }

    /// Writes a report on what has been done to the model at `path`. Where it cannot be written, the error says that all the same it is done.
    pub(super) fn emit_done<R: Report>(&mut self, report: &R, path: &Path) -> Outcome {
        let emitted = self.emit(report, path).and_then(|status| {
            self.finish()?;
            Ok(status)
        });
        emitted.map_err(|failure| match failure {
            Failure::Output(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                let message = format!("all is done, but the report on it could not be written: {error}");
                Failure::Weigh(Error::new(ErrorKind::Io, message).in_file(path))
            }
            other => other,
        })
    }

    /// Writes a report that is on no model.
    pub(super) fn emit_table<R: Report>(&mut self, report: &R) -> Outcome {
        self.renderer.write(self.out, report, None)?;
        Ok(Status::Done)
    }

    /// Runs `work` on every path. With several paths one that fails does not keep the others from being done.
    pub(super) fn each(&mut self, paths: &[PathBuf], work: impl Fn(&mut Self, &Path) -> Outcome) -> Outcome {
        if let [path] = paths {
            return work(self, path);
        }
        self.renderer.several();
        let (mut status, mut failed) = (Status::Done, false);
        for path in paths {
            match work(self, path) {
                Ok(Status::Done) => {}
                Ok(Status::Found) => status = Status::Found,
                Ok(Status::Other(other)) if status == Status::Done => status = Status::Other(other),
                Ok(Status::Other(_)) => {}
                Ok(Status::Failed) => failed = true,
                Err(Failure::Weigh(error)) => {
                    self.report_error(&error);
                    failed = true;
                }
                Err(failure @ Failure::Output(_)) => return Err(failure),
            }
        }
        Ok(if failed { Status::Failed } else { status })
    }

    /// Says what went wrong, and what to do about it. What is on its way out is written first, so that the error comes last.
    /// If standard error is closed, the exit status must do.
    pub(super) fn report_error(&mut self, error: &Error) {
        let _ = self.out.flush();
        let _ = writeln!(self.err, "weigh: {error}");
        if let Some(hint) = error.hint_text() {
            let _ = writeln!(self.err, "hint: {hint}");
        }
    }

    /// How results are written.
    pub(super) fn output(&self) -> Output {
        self.renderer.output()
    }

    /// Where results go that have one form only, such as a script of completions.
    pub(super) fn out(&mut self) -> &mut dyn Write {
        self.out
    }

    /// Says something on standard error, unless only results and errors are wanted.
    pub(super) fn warn(&mut self, warning: &str) {
        if !self.quiet {
            let _ = self.out.flush();
            let _ = writeln!(self.err, "weigh: {}", text::escape(warning));
        }
    }

    /// Whether only results and errors are wanted.
    pub(super) fn quiet(&self) -> bool {
        self.quiet
    }

    /// Writes what is still held back.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
