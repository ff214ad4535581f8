//! What is wrong with a file: one rule broken is one finding. Opening stops at the first; `verify` goes on where that is safe.

use std::path::PathBuf;

use serde::Serialize;

use crate::base::{Error, Result};

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
        }
    }
}

/// Where readers put what they find. One parser serves opening and verifying: the sink decides whether it goes on.
#[derive(Debug, Default)]
pub struct Findings {
    collect: bool,
    list: Vec<Finding>,
}

impl Findings {
    /// For opening: the first error ends the reading, and notes and warnings are not kept.
    pub fn stop_at_first() -> Self {
        Self::default()
    }

    /// For verifying: everything is kept.
    pub fn collect() -> Self {
        Self { collect: true, list: Vec::new() }
    }

    /// An empty sink of the same kind, for a part of the work that is done beside others.
    pub fn another(&self) -> Self {
        Self { collect: self.collect, list: Vec::new() }
    }

    /// Takes over what was found in a part of the work.
    pub fn append(&mut self, part: Self) {
        self.list.extend(part.list);
    }

    /// Whether findings are kept, so that checks too dear for opening are worth their time.
    pub fn collects(&self) -> bool {
        self.collect
    }

    /// A broken rule, after which the reading can go on safely.
    ///
    /// # Errors
    /// The error itself, when this sink stops at the first.
    pub fn error(&mut self, code: &'static str, error: Error) -> Result<()> {
        if !self.collect {
            return Err(error);
        }
        self.list.push(Finding::from_error(code, &error));
        Ok(())
    }

    /// A broken rule that keeps nobody from opening the model: kept when this sink collects.
    pub fn note_error(&mut self, code: &'static str, error: &Error) {
        if self.collect {
            self.list.push(Finding::from_error(code, error));
        }
    }

    /// A broken rule, after which the reading cannot go on: hands the error back either way, once it is noted.
    pub fn fatal(&mut self, code: &'static str, error: Error) -> Error {
        if self.collect {
            self.list.push(Finding::from_error(code, &error));
        }
        error
    }

    /// Something that breaks no rule; `error` carries the place and the message.
    pub fn remark(&mut self, severity: Severity, code: &'static str, error: Error) {
        if self.collect {
            self.list.push(Finding { severity, ..Finding::from_error(code, &error) });
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
