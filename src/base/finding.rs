//! Problems in a file: each violated rule is one finding. Opening stops at the first; `verify` goes on where that is safe.

use std::path::PathBuf;

use serde::Serialize;

use crate::base::{Error, Hint, Result};

/// The severity of a [`Finding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; the file is valid.
    Note,
    /// The file is usable, but something about it is unusual, wasteful or risky.
    Warning,
    /// The file violates its format.
    Error,
}

/// A violated rule, or a remark.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The severity.
    pub severity: Severity,
    /// Stable code of the rule: `st-overlap`, `gguf-alignment`. docs/findings.md lists the codes.
    pub code: &'static str,
    /// The affected file.
    pub file: Option<PathBuf>,
    /// Offset in the file, in bytes.
    pub offset: Option<u64>,
    /// The affected tensor.
    pub tensor: Option<String>,
    /// The message, usually "expected X, found Y".
    pub message: String,
    /// Hints on how to resolve it.
    #[serde(skip)]
    pub hints: Vec<Hint>,
    /// The affected tensors, if there are several: those whose bytes are missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<String>,
}

impl Finding {
    /// Converts an error to a finding.
    #[doc(hidden)]
    pub fn from_error(code: &'static str, error: &Error) -> Self {
        Self {
            severity: Severity::Error,
            code,
            file: error.path().map(PathBuf::from),
            offset: error.offset(),
            tensor: error.tensor().map(str::to_owned),
            message: error.message().to_owned(),
            hints: error.hints(),
            tensors: Vec::new(),
        }
    }

    /// Moves the hints into the message, in the caller's wording.
    #[doc(hidden)]
    pub fn word_hints(&mut self, words: impl Fn(&Hint) -> String) {
        if let Some(hint) = Hint::join(&std::mem::take(&mut self.hints), words) {
            self.message = format!("{}; {hint}", self.message);
        }
    }
}

/// A sink for findings. One parser serves opening and verifying: the sink decides whether reading continues.
#[derive(Debug, Default)]
pub struct Findings {
    mode: Mode,
    list: Vec<Finding>,
}

/// The amount collected before reading stops.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Mode {
    /// The first error stops reading; notes and warnings are discarded.
    #[default]
    Stop,
    /// Like `Stop`, but missing data (truncated or absent files) is recorded without failing: only the headers are needed.
    Headers,
    /// Everything is collected.
    Collect,
}

impl Findings {
    /// Returns a sink for opening: the first error stops reading, and notes and warnings are discarded.
    pub fn stop_at_first() -> Self {
        Self::default()
    }

    /// Returns a sink for reading headers only: missing bytes or files are recorded without failing.
    pub fn headers() -> Self {
        Self { mode: Mode::Headers, list: Vec::new() }
    }

    /// Returns a sink for verifying: everything is collected.
    pub fn collect() -> Self {
        Self { mode: Mode::Collect, list: Vec::new() }
    }

    /// Returns an empty sink of the same mode, for work in parallel.
    pub fn new_like(&self) -> Self {
        Self { mode: self.mode, list: Vec::new() }
    }

    /// Appends the findings of a part of the work.
    pub fn append(&mut self, part: Self) {
        self.list.extend(part.list);
    }

    /// Moves the offsets of all findings, which are of a part of a file, to where the part is.
    pub fn shift(&mut self, by: u64) {
        self.list.iter_mut().for_each(|finding| finding.offset = finding.offset.map(|offset| offset.saturating_add(by)));
    }

    /// Keeps the first `len` findings.
    pub fn truncate(&mut self, len: usize) {
        self.list.truncate(len);
    }

    /// Whether everything is collected, so that checks too expensive for opening should run.
    pub fn collects(&self) -> bool {
        self.mode == Mode::Collect
    }

    /// Whether a model with missing bytes or files can be opened.
    pub fn allows_missing(&self) -> bool {
        self.mode != Mode::Stop
    }

    /// Reports a violated rule that does not prevent reading on.
    ///
    /// # Errors
    /// Returns the error itself if this sink stops at the first.
    pub fn error(&mut self, code: &'static str, error: Error) -> Result<()> {
        if !self.collects() {
            return Err(error.with_code(code));
        }
        self.list.push(Finding::from_error(code, &error));
        Ok(())
    }

    /// Records a violated rule that does not prevent opening the model, if this sink collects.
    pub fn note_error(&mut self, code: &'static str, error: &Error) {
        if self.collects() {
            self.list.push(Finding::from_error(code, error));
        }
    }

    /// Reports a violated rule that prevents reading on: records the error if this sink collects, and returns it.
    pub fn fatal(&mut self, code: &'static str, error: Error) -> Error {
        if self.collects() {
            self.list.push(Finding::from_error(code, &error));
        }
        error.with_code(code)
    }

    /// Reports missing bytes of these tensors, or missing files of the model; an error only if the values are needed.
    ///
    /// # Errors
    /// Returns the error itself if this sink stops at the first.
    pub fn missing(&mut self, code: &'static str, error: Error, tensors: Vec<String>) -> Result<()> {
        if !self.allows_missing() {
            return Err(error.with_code(code));
        }
        self.list.push(Finding { tensors, ..Finding::from_error(code, &error) });
        Ok(())
    }

    /// Records in any mode that files of the model are missing or were not read, while the others remain usable.
    pub fn incomplete(&mut self, severity: Severity, code: &'static str, error: &Error) {
        self.list.push(Finding { severity, ..Finding::from_error(code, error) });
    }

    /// Reports something that violates no rule; `error` carries location and message.
    pub fn remark(&mut self, severity: Severity, code: &'static str, error: Error) {
        self.remark_tensors(severity, code, error, Vec::new());
    }

    /// Like [`Findings::remark`], for these tensors.
    pub fn remark_tensors(&mut self, severity: Severity, code: &'static str, error: Error, tensors: Vec<String>) {
        if self.collects() {
            self.list.push(Finding { severity, tensors, ..Finding::from_error(code, &error) });
        }
    }

    /// Returns the number of errors so far.
    pub fn errors(&self) -> usize {
        self.list.iter().filter(|finding| finding.severity == Severity::Error).count()
    }

    /// Returns the findings in order.
    pub fn into_list(self) -> Vec<Finding> {
        self.list
    }

    /// Returns the findings so far.
    pub fn list(&self) -> &[Finding] {
        &self.list
    }
}
