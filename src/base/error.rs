//! The one error type of the library.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{limits, text};

/// Short for a result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system could not read, write, map or rename.
    Io,
    /// The file breaks a rule of its format.
    Malformed,
    /// The end of the file is missing, or a file that belongs to it.
    Truncated,
    /// The file may be sound, but this build does not know how to handle it.
    Unsupported,
    /// A limit of [`crate::base::limits`] is exceeded.
    Limit,
    /// The caller asked for something that makes no sense.
    Argument,
}

/// Says which file, where in it, what was expected and what was found.
///
/// It prints as one line, with all text from files escaped: `PATH: tensor "NAME": byte 12: expected X, found Y`.
#[derive(Debug, Clone)]
pub struct Error(Box<Details>);

/// Boxed, so that a `Result` stays as small as its value.
#[derive(Debug, Clone)]
struct Details {
    kind: ErrorKind,
    message: String,
    path: Option<PathBuf>,
    tensor: Option<String>,
    offset: Option<u64>,
    hint: Option<String>,
    source: Option<Arc<std::io::Error>>,
}

impl Error {
    /// An error of `kind`; `message` says what was expected and what was found.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Details { kind, message: cut(message), path: None, tensor: None, offset: None, hint: None, source: None }))
    }

    /// Short for [`ErrorKind::Malformed`].
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Malformed, message)
    }

    /// Short for [`ErrorKind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// Short for [`ErrorKind::Limit`].
    pub fn limit(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Limit, message)
    }

    /// Short for [`ErrorKind::Argument`].
    pub fn argument(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Argument, message)
    }

    /// A failed system call on `path`; `doing` is what was tried: `"cannot open"`.
    pub fn io(doing: &str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        let mut error = Self::new(ErrorKind::Io, format!("{doing}: {source}"));
        error.0.path = Some(path.into());
        error.0.source = Some(Arc::new(source));
        error
    }

    /// Names the file, unless a deeper place named it already.
    #[must_use]
    pub fn in_file(mut self, path: &Path) -> Self {
        self.0.path.get_or_insert_with(|| path.to_path_buf());
        self
    }

    /// Names the tensor, unless a deeper place named it already.
    #[must_use]
    pub fn in_tensor(mut self, name: &str) -> Self {
        self.0.tensor.get_or_insert_with(|| name.to_owned());
        self
    }

    /// Gives the absolute offset in the file, in bytes, unless a deeper place gave it already.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint.get_or_insert_with(|| cut(hint));
        self
    }

    /// Says what to do about it, in place of what was said before.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Short for [`ErrorKind::Truncated`].
    pub fn truncated(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Truncated, message)
    }

    /// Says one more thing to do about it.
    #[must_use]
    pub fn hint_also(mut self, hint: &str) -> Self {
        self.0.hint = Some(self.raw_hint().map_or_else(|| hint.to_owned(), |first| format!("{first} {hint}")));
        self
    }

    /// Puts `what` before the message; place and hint stay.
    #[must_use]
    pub fn about(mut self, what: &str) -> Self {
        self.0.message = format!("{what}: {}", self.0.message);
        self
    }

    /// What sort of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What was expected and what was found, without the place.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The file, where one is known.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The tensor, where one is known.
    pub fn tensor(&self) -> Option<&str> {
        self.0.tensor.as_deref()
    }

    /// The absolute offset in the file, in bytes, where one is known.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// What to do about it, where that is known. Escaped as the message is.
    pub fn hint_text(&self) -> Option<String> {
        self.raw_hint().map(|hint| text::escape(hint).into_owned())
    }

    /// What to do about it, as it was given.
    pub(crate) fn raw_hint(&self) -> Option<&str> {
        let by_kind = (self.0.kind == ErrorKind::Truncated).then_some("was the download complete?");
        self.0.hint.as_deref().or(by_kind)
    }

    /// The system's own error, for [`ErrorKind::Io`].
    pub fn io_source(&self) -> Option<&std::io::Error> {
        self.0.source.as_deref()
    }
}

/// A text with its middle out where it is too long: messages quote files.
fn cut(text: impl Into<String>) -> String {
    text::shorten_middle(text.into(), limits::MESSAGE_CHARS)
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
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
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
    fn the_deepest_place_wins() {
        let error = Error::malformed("x").in_file(Path::new("inner")).in_file(Path::new("outer"));
        assert_eq!(error.path(), Some(Path::new("inner")));
    }
}
