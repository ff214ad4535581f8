//! The library's error type.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::hint::Hint;
use crate::base::{limits, text};

/// A result whose error is [`Error`] by default.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The category of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ErrorKind {
    /// A system call failed: read, write, map or rename.
    Io,
    /// The file violates its format.
    Malformed,
    /// The end of the file, or a file of the set, is missing.
    Truncated,
    /// The file may be valid, but this build does not support it.
    Unsupported,
    /// A limit on the size or number of something is exceeded: files are untrusted.
    Limit,
    /// The arguments are invalid.
    Argument,
}

/// An error with file, tensor, byte offset and message.
///
/// Displays as one line, with untrusted text escaped: `PATH: tensor "NAME": byte 12: expected X, found Y`.
#[derive(Debug, Clone)]
pub struct Error(Box<Details>);

/// Boxed to keep `Result` small.
#[derive(Debug, Clone)]
struct Details {
    kind: ErrorKind,
    code: Option<&'static str>,
    message: String,
    path: Option<PathBuf>,
    tensor: Option<String>,
    offset: Option<u64>,
    hints: Vec<Hint>,
    source: Option<Arc<Source>>,
}

/// The underlying error.
type Source = dyn std::error::Error + Send + Sync;

impl Error {
    /// Returns the category.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the message without the location.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the file, if known.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// Returns the tensor, if known.
    pub fn tensor(&self) -> Option<&str> {
        self.0.tensor.as_deref()
    }

    /// Returns the absolute offset in the file, in bytes, if known.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// Returns the code of the violated rule, as in the findings of `verify`, if it has one.
    pub fn code(&self) -> Option<&'static str> {
        self.0.code
    }

    /// Returns the hints.
    pub fn hints(&self) -> Vec<Hint> {
        match (self.0.kind, self.0.hints.is_empty()) {
            (ErrorKind::Truncated, true) => vec!["was the download complete?".into()],
            _ => self.0.hints.clone(),
        }
    }

    /// Returns the hints as one escaped line, in wording that suits any caller.
    pub fn hint_text(&self) -> Option<String> {
        Hint::join(&self.hints(), Hint::to_string)
    }

    /// Whether the underlying error is of type `E`.
    pub fn is_caused_by<E: std::error::Error + 'static>(&self) -> bool {
        self.cause::<E>().is_some()
    }

    /// Returns the underlying error, if it is of type `E`.
    pub(crate) fn cause<E: std::error::Error + 'static>(&self) -> Option<&E> {
        self.0.source.as_deref()?.downcast_ref()
    }

    /// Returns the underlying I/O error, for [`ErrorKind::Io`].
    pub fn io_source(&self) -> Option<&std::io::Error> {
        self.cause()
    }
}

// For this package only.
#[doc(hidden)]
impl Error {
    /// Returns an error of `kind`; parse errors are worded "expected X, found Y".
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Details {
            kind,
            code: None,
            message: text::shorten_middle(message.into(), limits::MESSAGE_CHARS),
            path: None,
            tensor: None,
            offset: None,
            hints: Vec::new(),
            source: None,
        }))
    }

    /// Returns an [`ErrorKind::Malformed`] error.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Malformed, message)
    }

    /// Returns an [`ErrorKind::Unsupported`] error.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// Returns an [`ErrorKind::Limit`] error.
    pub fn limit(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Limit, message)
    }

    /// Returns an [`ErrorKind::Argument`] error.
    pub fn argument(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Argument, message)
    }

    /// Returns the error of a failed system call on `path`; `doing` is the attempted action: `"cannot open"`.
    pub fn io(doing: &str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        let mut error = Self::new(ErrorKind::Io, format!("{doing}: {source}")).caused_by(source);
        error.0.path = Some(path.into());
        error
    }

    /// Sets the file, unless it is already set.
    #[must_use]
    pub fn in_file(mut self, path: &Path) -> Self {
        self.0.path.get_or_insert_with(|| path.to_path_buf());
        self
    }

    /// Sets the tensor, unless it is already set.
    #[must_use]
    pub fn in_tensor(mut self, name: &str) -> Self {
        self.0.tensor.get_or_insert_with(|| name.to_owned());
        self
    }

    /// Sets the absolute offset in the file, in bytes, unless it is already set.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// Keeps the underlying error of another library, which the message quotes.
    #[must_use]
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// Sets the code of the violated rule, as in findings, unless it is already set.
    #[must_use]
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.0.code.get_or_insert(code);
        self
    }

    /// Sets the hint, unless there already is one.
    #[must_use]
    pub fn hint(self, hint: impl Into<Hint>) -> Self {
        if self.0.hints.is_empty() { self.with_hint(hint) } else { self }
    }

    /// Sets the hint, replacing earlier ones.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Hint>) -> Self {
        self.0.hints = vec![hint.into()];
        self
    }

    /// Returns an [`ErrorKind::Truncated`] error.
    pub fn truncated(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Truncated, message)
    }

    /// Adds a hint.
    #[must_use]
    pub fn add_hint(mut self, hint: impl Into<Hint>) -> Self {
        self.0.hints = self.hints().into_iter().chain([hint.into()]).collect();
        self
    }

    /// Prefixes the message with `what`; location and hints stay.
    #[must_use]
    pub fn context(mut self, what: &str) -> Self {
        self.0.message = format!("{what}: {}", self.0.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.0.path {
            write!(f, "{}: ", text::escape(&path.to_string_lossy()))?;
        }
        if let Some(tensor) = &self.0.tensor {
            write!(f, "tensor \"{}\": ", text::escape(&text::shorten(tensor)))?;
        }
        if let Some(offset) = self.0.offset {
            write!(f, "byte {offset}: ")?;
        }
        f.write_str(&text::escape(&self.0.message))
    }
}

impl std::error::Error for Error {
    /// Returns what caused the underlying error, which the message quotes: a chain of errors says each thing once.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref()?.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_with_the_place_first_and_hostile_text_escaped() {
        let error = Error::malformed("expected 4 bytes, found 3").at(12).in_tensor("a\n\u{1b}[31m").in_file(Path::new("m.gguf"));
        assert_eq!(error.to_string(), "m.gguf: tensor \"a\\n\\u{1b}[31m\": byte 12: expected 4 bytes, found 3");
    }

    #[test]
    fn what_a_message_quotes_may_be_of_any_length() {
        let error = Error::malformed(format!("expected x, found {}: at the end", "y".repeat(1 << 20))).hint("z".repeat(1 << 20));
        assert_eq!((error.message().chars().count(), error.hint_text().unwrap().chars().count()), (1000, 1000));
        assert!(error.message().starts_with("expected x, found yy") && error.message().ends_with("yy: at the end"), "{error}");
    }

    #[test]
    fn the_error_of_another_library_is_kept() {
        let json = serde_json::from_str::<u8>("x").unwrap_err();
        let error = Error::malformed(format!("expected JSON, found: {json}")).caused_by(json).context("a");
        assert!(error.is_caused_by::<serde_json::Error>() && error.io_source().is_none());
        let io = Error::io("cannot open", "a", std::io::ErrorKind::NotFound.into());
        assert!(io.io_source().is_some());
        // A chain of errors says each thing once: both messages quote what caused them.
        assert!([&error, &io].iter().all(|error| std::error::Error::source(error).is_none()));
    }

    #[test]
    fn the_first_hint_and_code_stay_and_hints_can_be_added() {
        let error = Error::truncated("x").add_hint(Hint::KeepNames).hint(Hint::Split).with_code("a").with_code("b");
        assert_eq!(error.hints(), ["was the download complete?".into(), Hint::KeepNames]);
        assert_eq!(error.code(), Some("a"));
        assert_eq!(error.with_hint(Hint::Split).hints(), [Hint::Split]);
    }

    #[test]
    fn the_deepest_place_wins() {
        let error = Error::malformed("x").in_file(Path::new("inner")).in_file(Path::new("outer"));
        assert_eq!(error.path(), Some(Path::new("inner")));
    }
}
