//! What a command works with: where its results go, and how.

use std::io::{self, Write};
use std::path::Path;

use crate::base::{Error, text};
use crate::render::{Renderer, Report};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Exit status 0.
    Done,
    /// Exit status 1: done, and something was found.
    Found,
}

/// Why a command could not be done.
#[derive(Debug)]
pub enum Failure {
    /// The work failed.
    Weigh(Error),
    /// The results could not be written.
    Output(io::Error),
}

/// What a command comes to.
pub type Outcome = Result<Status, Failure>;

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
pub struct Context<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    renderer: Renderer,
    quiet: bool,
}

impl<'a> Context<'a> {
    /// What a command works with.
    pub fn new(out: &'a mut dyn Write, err: &'a mut dyn Write, renderer: Renderer, quiet: bool) -> Self {
        Self { out, err, renderer, quiet }
    }

    /// Writes a report in the format asked for.
    pub fn emit<R: Report>(&mut self, report: &R, path: Option<&Path>) -> Result<(), Failure> {
        Ok(self.renderer.write(self.out, report, path)?)
    }

    /// Where results go that have one form only, such as a script of completions.
    pub fn out(&mut self) -> &mut dyn Write {
        self.out
    }

    /// Says something on standard error, unless that is not wanted. If it is closed, nobody wants to know.
    pub fn warn(&mut self, warning: &str) {
        if !self.quiet {
            let _ = self.out.flush();
            let _ = writeln!(self.err, "weigh: {}", text::escape(warning));
        }
    }

    /// Writes what is still held back.
    pub fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
