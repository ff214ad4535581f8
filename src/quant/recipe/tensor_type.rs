//! Types by tensor name: `--tensor-type`, `--tensor-type-file`, and the mixes that are written for them.

use std::path::Path;

use regex::Regex;

use crate::base::glob::NamePattern;
use crate::base::{Error, Result};
use crate::model::DType;
use crate::source::place;

/// Characters of regular expressions that occur neither in globs nor in names of tensors.
const REGEX_ONLY: [char; 7] = ['\\', '^', '$', '(', ')', '|', '+'];

/// A pattern of tensor names and a type.
#[derive(Debug, Clone)]
pub struct TensorType {
    text: String,
    glob: Option<NamePattern>,
    /// The pattern as llama-quantize reads it: a regular expression, in lower case, that matches anywhere in the name.
    regex: Option<Regex>,
    /// The type of matching tensors.
    pub dtype: DType,
}

impl TensorType {
    /// Parses `PATTERN=TYPE`: see [`Self::new`].
    ///
    /// # Errors
    /// There is no `=`, or the pattern or type is invalid.
    pub fn parse(text: &str) -> Result<Self> {
        let (pattern, dtype) = text
            .split_once('=')
            .filter(|(pattern, _)| !pattern.is_empty())
            .ok_or_else(|| Error::argument(format!("expected PATTERN=TYPE, found {text}")))?;
        Self::new(pattern, dtype.parse()?)
    }

    /// Reads a file of llama-quantize's `--tensor-type-file`: `PATTERN=TYPE`, separated by spaces or newlines.
    ///
    /// # Errors
    /// The file cannot be read, or a line is invalid.
    pub fn read_file(path: &Path) -> Result<Vec<Self>> {
        let text = place::read_text(path)?;
        let parse =
            |(number, word): (usize, &str)| Self::parse(word).map_err(|error| error.context(&format!("line {}", number + 1)).in_file(path));
        text.lines().enumerate().flat_map(|(number, line)| line.split_whitespace().map(move |word| (number, word))).map(parse).collect()
    }

    /// Returns a rule that assigns this type to tensors matching the pattern: a [`NamePattern`], or a regular expression, as in
    /// llama-quantize.
    ///
    /// # Errors
    /// The pattern is malformed.
    pub fn new(pattern: &str, dtype: DType) -> Result<Self> {
        let regex = Regex::new(&pattern.to_ascii_lowercase());
        if let Err(error) = regex.as_ref()
            && pattern.contains(REGEX_ONLY)
        {
            let reason = error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            return Err(Error::argument(format!("expected a regular expression, found {pattern}: {reason}")));
        }
        let glob = NamePattern::parse(pattern);
        if regex.is_err() {
            glob.as_ref().map_err(Clone::clone)?;
        }
        Ok(Self { text: pattern.to_owned(), glob: glob.ok(), regex: regex.ok().filter(|_| !pattern.is_empty()), dtype })
    }

    /// Returns a rule that assigns this type to the tensor of this name.
    pub fn named(name: impl Into<String>, dtype: DType) -> Self {
        let text = name.into();
        Self { glob: Some(NamePattern::exactly(text.clone())), text, regex: None, dtype }
    }

    /// Whether the pattern matches this tensor name.
    pub fn fits(&self, name: &str) -> bool {
        self.glob.as_ref().is_some_and(|glob| glob.matches(name)) || self.regex.as_ref().is_some_and(|regex| regex.is_match(name))
    }

    /// Checks that the pattern means the same tensors as a glob and as a regular expression, unless one of the two matches nothing.
    ///
    /// # Errors
    /// The two readings match different tensors.
    pub fn check_meaning<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<()> {
        let Self { glob: Some(glob), regex: Some(regex), text, .. } = self else { return Ok(()) };
        let (mut by_glob, mut by_regex, mut by_both) = (0, 0, 0);
        for name in names {
            match (glob.matches(name), regex.is_match(name)) {
                (true, true) => by_both += 1,
                (true, false) => by_glob += 1,
                (false, true) => by_regex += 1,
                (false, false) => {}
            }
        }
        if (by_glob == 0 && by_regex == 0) || by_glob + by_both == 0 || by_regex + by_both == 0 {
            return Ok(());
        }
        let message =
            format!("{text} means {} tensors as a glob and others, {}, as a regular expression", by_glob + by_both, by_regex + by_both);
        Err(Error::argument(message).hint("as a regular expression, end it in $ or escape its dots: \\."))
    }
}

/// Returns a mix as llama-quantize's `--tensor-type-file` takes it: each name as a regular expression of the whole name, and its type.
pub fn mix_text<'n>(types: impl Iterator<Item = (&'n str, DType)>) -> String {
    types.map(|(name, dtype)| format!("^{}$={}\n", regex::escape(name), dtype.name().to_ascii_lowercase())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 5] =
        ["blk.1.attn_q.weight", "blk.1.attn_k.weight", "blk.12.attn_q.weight", "blk.2.ffn_up_exps.weight", "output.weight"];

    fn matched(pattern: &str) -> Vec<usize> {
        let rule = TensorType::new(pattern, DType::Q8_0).unwrap();
        (0..NAMES.len()).filter(|&i| rule.fits(NAMES[i])).collect()
    }

    #[test]
    fn patterns_match_as_in_llama_quantize() {
        // std::regex_search of the pattern in lower case.
        for (pattern, expected) in [
            ("attn_q", &[0, 2][..]),
            ("ATTN_K", &[1]),
            (r"\.(\d*[13579])\.attn_k", &[1]),
            (r"blk\.(1|2)\.", &[0, 1, 3]),
            ("^output", &[4]),
            ("blk.1.", &[0, 1, 2]),
            ("ffn_.*_exps", &[3]),
            (r"^blk\.1\.attn_q\.weight$", &[0]),
            ("[qk].weight", &[0, 1, 2]),
            ("attn.q", &[0, 2]),
        ] {
            assert_eq!(matched(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn globs_match_the_whole_name() {
        for (pattern, expected) in [("*", &[0, 1, 2, 3, 4][..]), ("*attn_q*", &[0, 2]), ("blk.?.attn_[qk].weight", &[0, 1])] {
            assert_eq!(matched(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn a_pattern_with_two_meanings_is_refused() {
        let check = |pattern: &str| TensorType::new(pattern, DType::Q8_0).unwrap().check_meaning(NAMES.into_iter());
        for pattern in ["attn_q", "*", "blk.?.attn_[qk].weight", "ffn_.*", r"blk\.1\."] {
            check(pattern).unwrap();
        }
        // As a glob blk.12 as well; as a regular expression any number of ones. And a point is any character.
        for pattern in ["blk.1*.attn_[qk].weight", "blk.1.*attn_q.weight"] {
            check(pattern).unwrap_err();
        }
        let error = check("blk.1*.w*").unwrap_err();
        assert!(error.message().contains("blk.1*.w* means 3 tensors as a glob"), "{error}");
    }

    #[test]
    fn malformed_patterns_say_why() {
        let error = |text: &str| TensorType::parse(text).unwrap_err().to_string();
        assert!(
            error("attn_(?!v)=Q8_0").contains("expected a regular expression, found attn_(?!v): look-around"),
            "{}",
            error("attn_(?!v)=Q8_0")
        );
        assert!(error("a[=Q8_0").contains("expected a glob"));
        assert!(error("=Q8_0").contains("expected PATTERN=TYPE"));
    }

    #[test]
    fn a_mix_is_read_as_it_was_written() {
        let text = mix_text([("blk.0.attn_q.weight", DType::Q4_K), ("a+b", DType::F16)].into_iter());
        assert_eq!(text, "^blk\\.0\\.attn_q\\.weight$=q4_k\n^a\\+b$=f16\n");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mix.txt");
        std::fs::write(&path, &text).unwrap();
        let rules = TensorType::read_file(&path).unwrap();
        assert!(rules[0].fits("blk.0.attn_q.weight") && !rules[0].fits("blk.0xattn_q.weight") && rules[1].fits("a+b"));
        std::fs::write(&path, "attn_q=q8_0 attn_k=q4_0\n\nffn_up=q9_9\n").unwrap();
        let error = TensorType::read_file(&path).unwrap_err().to_string();
        assert!(error.contains("mix.txt") && error.contains("line 3"), "{error}");
    }
}
