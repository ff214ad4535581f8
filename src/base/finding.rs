//! What is wrong with a file: one rule broken is one finding. Opening stops at the first; `verify` goes on where that is safe.

use std::path::PathBuf;

use serde::Serialize;

use crate::base::{Error, Hint, Result};

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; the file is sound.
    Note,
    /// The file can be used, but something about it is unusual, wasteful or risky.
    Warning,
    /// The file breaks a rule of its format.
    Error,
}

/// One broken rule, or one thing worth knowing.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A stable name for the rule: `st-overlap`, `gguf-alignment`. The table of codes is in the README.
    pub code: &'static str,
    /// The file that it is in.
    pub file: Option<PathBuf>,
    /// Where in the file, in bytes from its start.
    pub offset: Option<u64>,
    /// The tensor that it is about.
    pub tensor: Option<String>,
    /// What was expected and what was found.
    pub message: String,
    /// What to do about it, where that is known.
    #[serde(skip)]
    pub hints: Vec<Hint>,
    /// The tensors that it is about, where they are many: those of which bytes are missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<String>,
}

impl Finding {
    /// The finding that an error amounts to.
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

    /// Moves what to do about it into the message, in the words of the caller.
    pub fn word_hints(&mut self, words: impl Fn(&Hint) -> String) {
        if let Some(hint) = Hint::join(&std::mem::take(&mut self.hints), words) {
            self.message = format!("{}; {hint}", self.message);
        }
    }
}

/// Where readers put what they find. One parser serves opening and verifying: the sink decides whether it goes on.
#[derive(Debug, Default)]
pub struct Findings {
    mode: Mode,
    list: Vec<Finding>,
}

/// How far reading goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Mode {
    /// The first error ends it; notes and warnings are not kept.
    #[default]
    Stop,
    /// As `Stop`, but what is not here (the end of a file, files of a set) is only kept: the headers are wanted, not the values.
    Headers,
    /// Everything is kept.
    Collect,
}

impl Findings {
    /// For opening: the first error ends the reading, and notes and warnings are not kept.
    pub fn stop_at_first() -> Self {
        Self::default()
    }

    /// For opening a model of which only the headers are wanted: that bytes or files are missing is kept, and ends nothing.
    pub fn headers() -> Self {
        Self { mode: Mode::Headers, list: Vec::new() }
    }

    /// For verifying: everything is kept.
    pub fn collect() -> Self {
        Self { mode: Mode::Collect, list: Vec::new() }
    }

    /// An empty sink of the same kind, for a part of the work that is done beside others.
    pub fn another(&self) -> Self {
        Self { mode: self.mode, list: Vec::new() }
    }

    /// Takes over what was found in a part of the work.
    pub fn append(&mut self, part: Self) {
        self.list.extend(part.list);
    }

    /// Forgets what was found after the first `len` findings.
    pub fn truncate(&mut self, len: usize) {
        self.list.truncate(len);
    }

    /// Whether findings are kept, so that checks too dear for opening are worth their time.
    pub fn collects(&self) -> bool {
        self.mode == Mode::Collect
    }

    /// Whether a model of which bytes or files are missing can be opened all the same.
    pub fn allows_missing(&self) -> bool {
        self.mode != Mode::Stop
    }

    /// A broken rule, after which the reading can go on safely.
    ///
    /// # Errors
    /// The error itself, when this sink stops at the first.
    pub fn error(&mut self, code: &'static str, error: Error) -> Result<()> {
        if !self.collects() {
            return Err(error.with_code(code));
        }
        self.list.push(Finding::from_error(code, &error));
        Ok(())
    }

    /// A broken rule that keeps nobody from opening the model: kept when this sink collects.
    pub fn note_error(&mut self, code: &'static str, error: &Error) {
        if self.collects() {
            self.list.push(Finding::from_error(code, error));
        }
    }

    /// A broken rule, after which the reading cannot go on: hands the error back either way, once it is noted.
    pub fn fatal(&mut self, code: &'static str, error: Error) -> Error {
        if self.collects() {
            self.list.push(Finding::from_error(code, &error));
        }
        error.with_code(code)
    }

    /// Bytes of these tensors are missing, or files of the model: kept unless the values are wanted.
    ///
    /// # Errors
    /// The error itself, when this sink stops at the first.
    pub fn missing(&mut self, code: &'static str, error: Error, tensors: Vec<String>) -> Result<()> {
        if !self.allows_missing() {
            return Err(error.with_code(code));
        }
        self.list.push(Finding { tensors, ..Finding::from_error(code, &error) });
        Ok(())
    }

    /// Files of the model are missing, or not read; those that are can be used by themselves: kept in any case.
    pub fn incomplete(&mut self, severity: Severity, code: &'static str, error: &Error) {
        self.list.push(Finding { severity, ..Finding::from_error(code, error) });
    }

    /// Something that breaks no rule; `error` carries the place and the message.
    pub fn remark(&mut self, severity: Severity, code: &'static str, error: Error) {
        self.remark_of(severity, code, error, Vec::new());
    }

    /// As [`Findings::remark`], of these tensors.
    pub fn remark_of(&mut self, severity: Severity, code: &'static str, error: Error, tensors: Vec<String>) {
        if self.collects() {
            self.list.push(Finding { severity, tensors, ..Finding::from_error(code, &error) });
        }
    }

    /// How many broken rules were found so far.
    pub fn errors(&self) -> usize {
        self.list.iter().filter(|finding| finding.severity == Severity::Error).count()
    }

    /// What was found, in the order of finding.
    pub fn into_list(self) -> Vec<Finding> {
        self.list
    }

    /// What was found so far.
    pub fn list(&self) -> &[Finding] {
        &self.list
    }
}
