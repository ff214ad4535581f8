//! User-supplied patterns of tensor names.

use globset::{GlobBuilder, GlobMatcher};

use crate::base::{Error, Result};

/// A pattern of tensor names: a glob, which matches the whole name, a plain substring, or a whole name.
#[derive(Debug, Clone)]
pub struct NamePattern {
    text: String,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Glob(GlobMatcher),
    Substring,
    Whole,
}

impl NamePattern {
    /// Parses a pattern. With any of `*?[{` it is a glob, in which `*` also matches `/`; otherwise it matches as a substring, as in
    /// llama-quantize.
    ///
    /// # Errors
    /// The pattern is empty, or a malformed glob.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::argument("expected a pattern of tensor names, found an empty one"));
        }
        let kind = if text.contains(['*', '?', '[', '{']) {
            let glob = GlobBuilder::new(text).literal_separator(false).build();
            let glob = glob.map_err(|error| Error::argument(format!("expected a glob, found {text}: {}", error.kind())))?;
            Kind::Glob(glob.compile_matcher())
        } else {
            Kind::Substring
        };
        Ok(Self { text: text.to_owned(), kind })
    }

    /// Returns the pattern that matches this name alone, whatever characters it has.
    pub fn exactly(name: impl Into<String>) -> Self {
        Self { text: name.into(), kind: Kind::Whole }
    }

    /// Whether the pattern matches this tensor name.
    pub fn matches(&self, name: &str) -> bool {
        match &self.kind {
            Kind::Glob(glob) => glob.is_match(name),
            Kind::Substring => name.contains(&self.text),
            Kind::Whole => name == self.text,
        }
    }

    /// Returns the pattern as given.
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_pattern_is_a_substring_and_a_glob_matches_the_whole_name() {
        for (pattern, name, expected) in [
            ("attn_q", "blk.0.attn_q.weight", true),
            ("attn_q", "blk.0.attn_k.weight", false),
            ("attn_q*", "blk.0.attn_q.weight", false),
            ("*attn_q*", "blk.0.attn_q.weight", true),
            ("blk.?.attn_[qk].weight", "blk.0.attn_k.weight", true),
            ("blk.{1,2}.*", "blk.2.a/b", true),
            (".10.", "blk.1.a", false),
        ] {
            assert_eq!(NamePattern::parse(pattern).unwrap().matches(name), expected, "{pattern} {name}");
        }
        assert!(NamePattern::parse("[").is_err() && NamePattern::parse("").is_err());
    }

    #[test]
    fn a_name_matches_itself_alone() {
        for name in ["blk.1.a", "a[0]{b}*?", "x\\y", "1"] {
            let only = NamePattern::exactly(name);
            assert!(only.matches(name), "{name}");
            assert!(!only.matches(&format!("{name}0")) && !only.matches(&format!("0{name}")), "{name}");
        }
    }
}
