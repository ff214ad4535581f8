//! The front matter of a model card: YAML between `---` lines at the start of README.md.
//!
//! Only top-level keys with plain or quoted values, or lists of these, are read. Other YAML (nested maps, block scalars, anchors) is
//! skipped, so that parsing is linear for untrusted files.

use std::path::Path;

use crate::base::Result;
use crate::source::folder;

/// The keys of a model card.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Card {
    entries: Vec<(String, Vec<String>)>,
}

impl Card {
    /// Whether the card has a key.
    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(own, _)| own == key)
    }

    /// Returns the values of a key: a single value, or those of its list.
    pub fn list(&self, key: &str) -> Vec<String> {
        self.entries.iter().find(|(own, _)| own == key).map(|(_, values)| values.clone()).unwrap_or_default()
    }

    /// Returns the value of the first of these keys that is set.
    pub fn text(&self, keys: &[&str]) -> Option<String> {
        keys.iter().find_map(|key| self.list(key).into_iter().next())
    }
}

/// Reads the model card; empty without front matter or file.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> Result<Card> {
    Ok(folder::text(path)?.map(|text| parse(&text)).unwrap_or_default())
}

fn parse(text: &str) -> Card {
    // Some editors insert a byte order mark, or trailing spaces.
    let mut lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines().map(str::trim_end);
    if lines.next() != Some("---") {
        return Card::default();
    }
    let mut card = Card::default();
    // Whether deeper indented lines belong to a skipped value.
    let mut nested = false;
    let mut lines = lines.take_while(|line| !["---", "..."].contains(line));
    while let Some(line) = lines.next() {
        let strip_prefixes = line.trim_start();
        if strip_prefixes.is_empty() || strip_prefixes.starts_with('#') {
            continue;
        }
        let indented = line.len() > strip_prefixes.len();
        if let Some(item) = strip_prefixes.strip_prefix("- ") {
            if let Some((_, values)) = card.entries.last_mut()
                && !nested
            {
                // A map as a list item is not of interest.
                match (key_of(item), scalar(item)) {
                    (None, Some(value)) => values.push(value),
                    _ => nested = true,
                }
            }
        } else if !indented && let Some((key, value)) = key_of(strip_prefixes) {
            let value = value.trim();
            nested = value.starts_with(['|', '>', '{', '&', '*', '!']);
            let values = match value.strip_prefix('[') {
                Some(start) => flow_list(start, &mut lines),
                None if nested => Vec::new(),
                None => scalar(value).into_iter().collect(),
            };
            card.entries.push((key.to_owned(), values));
        } else {
            nested = true;
        }
    }
    card
}

/// Splits a line into key and rest.
fn key_of(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(':')?;
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    (plain && (value.is_empty() || value.starts_with(' '))).then_some((key, value))
}

/// Reads a bracketed list, which may span lines. `start`: the text after the bracket.
fn flow_list<'t>(start: &'t str, lines: &mut impl Iterator<Item = &'t str>) -> Vec<String> {
    let mut list = String::new();
    let mut line = start;
    loop {
        let strip_prefixes = line.split(" #").next().unwrap_or_default();
        let strip_prefixes = if strip_prefixes.trim_start().starts_with('#') { "" } else { strip_prefixes };
        if let Some((last, _)) = strip_prefixes.split_once(']') {
            list.push_str(last);
            break;
        }
        list.push_str(strip_prefixes);
        match lines.next() {
            Some(next) => line = next,
            None => break,
        }
    }
    list.split(',').filter_map(scalar).collect()
}

/// Parses a plain or quoted value without its comment; `None` if empty or null.
fn scalar(text: &str) -> Option<String> {
    let text = text.trim();
    if text.starts_with('#') {
        return None;
    }
    if text.starts_with(['"', '\'']) {
        return quoted(text);
    }
    let text = text.split(" #").next().unwrap_or_default().trim();
    (!text.is_empty() && !["null", "~", "[]"].contains(&text)).then(|| text.to_owned())
}

/// Parses a quoted value: in single quotes a doubled quote is an escape, in double quotes a backslash.
fn quoted(text: &str) -> Option<String> {
    let mut chars = text.chars();
    let quote = chars.next()?;
    let mut value = String::new();
    loop {
        match chars.next()? {
            '\\' if quote == '"' => value.push(chars.next()?),
            c if c == quote && quote == '\'' && chars.as_str().starts_with(quote) => value.extend(chars.next()),
            c if c == quote => return Some(value),
            c => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backslash_is_one_in_single_quotes() {
        assert_eq!(quoted(r"'a\b'").as_deref(), Some(r"a\b"));
        assert_eq!(quoted(r#""a\"b""#).as_deref(), Some(r#"a"b"#));
        assert_eq!(quoted("'it''s'").as_deref(), Some("it's"));
        assert_eq!(quoted("'open"), None);
    }

    #[test]
    fn plain_quoted_and_listed_values_are_read() {
        let card = parse(
            "---\nlicense: apache-2.0 # a comment\nlanguage:\n- en\n- \"no\"\ntags: [a, 'b c']\nbase_model:\n  - org/Model-7B\n\
             widget:\n- text: hello\n  example: x\nmodel-index:\n- name: y\n  results: []\nextra: |\n  tags: no\n  - z\npipeline_tag: text-generation\n\
             url: https://a.b/c\n---\n# Title\nlicense: other\n",
        );
        assert_eq!(card.text(&["license"]).unwrap(), "apache-2.0");
        assert_eq!(card.list("language"), ["en", "no"]);
        assert_eq!(card.list("tags"), ["a", "b c"]);
        assert_eq!(card.list("base_model"), ["org/Model-7B"]);
        assert_eq!(card.list("pipeline_tag"), ["text-generation"]);
        assert_eq!(card.text(&["url"]).unwrap(), "https://a.b/c");
        assert!(card.list("widget").is_empty() && card.list("extra").is_empty());
    }

    #[test]
    fn comments_quotes_and_lists_over_lines_are_as_in_yaml() {
        // Expected values from PyYAML's safe_load.
        let card = parse(
            "\u{feff}--- \nlicense: [mit, 'apache-2.0'] # both\nlicense_name: 'Dev''s licence' # its own\nlicense_link: \"a \\\"b\\\"\" \n\
             tags: [\n  a, # first\n  # none\n  \"b c\"\n]\nempty: # nothing\nlanguage:\n# a comment\n- en # English\n...\nauthor: x\n",
        );
        assert_eq!(card.list("license"), ["mit", "apache-2.0"]);
        assert_eq!(card.text(&["license_name"]).unwrap(), "Dev's licence");
        assert_eq!(card.text(&["license_link"]).unwrap(), "a \"b\"");
        assert_eq!(card.list("tags"), ["a", "b c"]);
        assert_eq!(card.list("language"), ["en"]);
        assert!(card.list("empty").is_empty() && !card.has("author"));
    }

    #[test]
    fn a_card_without_front_matter_is_empty() {
        assert_eq!(parse("# Title\n---\nlicense: mit\n"), Card::default());
        assert_eq!(parse(""), Card::default());
        assert_eq!(parse("---\n: : :\n- x\n  - - -\n\"\n'"), Card::default());
    }
}
