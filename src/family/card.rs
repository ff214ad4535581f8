//! The front matter of a model card: the YAML between two lines `---` at the start of README.md.
//!
//! Only what describes a model is read: keys at the outermost level whose values are plain, quoted, or a list of such. Whatever else YAML
//! can say (nested maps, block text, anchors) is passed over, so hostile files cost no more than their length.

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

    /// The values of a key: one, or those of its list.
    pub fn list(&self, key: &str) -> Vec<String> {
        self.entries.iter().find(|(own, _)| own == key).map(|(_, values)| values.clone()).unwrap_or_default()
    }

    /// The value of the first of these keys that has one.
    pub fn text(&self, keys: &[&str]) -> Option<String> {
        keys.iter().find_map(|key| self.list(key).into_iter().next())
    }
}

/// Reads the card of a model; one without front matter, or none at all, says nothing.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> Result<Card> {
    Ok(folder::text(path)?.map(|text| parse(&text)).unwrap_or_default())
}

fn parse(text: &str) -> Card {
    // Editors of some systems put a byte order mark first, or spaces behind the line.
    let mut lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines().map(str::trim_end);
    if lines.next() != Some("---") {
        return Card::default();
    }
    let mut card = Card::default();
    // Whether lines that go deeper belong to a value that is passed over.
    let mut nested = false;
    let mut lines = lines.take_while(|line| !["---", "..."].contains(line));
    while let Some(line) = lines.next() {
        let bare = line.trim_start();
        if bare.is_empty() || bare.starts_with('#') {
            continue;
        }
        let indented = line.len() > bare.len();
        if let Some(item) = bare.strip_prefix("- ") {
            if let Some((_, values)) = card.entries.last_mut()
                && !nested
            {
                // An item that is a map describes something that is not of interest here.
                match (key_of(item), scalar(item)) {
                    (None, Some(value)) => values.push(value),
                    _ => nested = true,
                }
            }
        } else if !indented && let Some((key, value)) = key_of(bare) {
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

/// A key at the start of a line, and what follows it.
fn key_of(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(':')?;
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    (plain && (value.is_empty() || value.starts_with(' '))).then_some((key, value))
}

/// The items of a list in brackets, which may go on over further lines. `start`: what follows the bracket.
fn flow_list<'t>(start: &'t str, lines: &mut impl Iterator<Item = &'t str>) -> Vec<String> {
    let mut list = String::new();
    let mut line = start;
    loop {
        let bare = line.split(" #").next().unwrap_or_default();
        let bare = if bare.trim_start().starts_with('#') { "" } else { bare };
        if let Some((last, _)) = bare.split_once(']') {
            list.push_str(last);
            break;
        }
        list.push_str(bare);
        match lines.next() {
            Some(next) => line = next,
            None => break,
        }
    }
    list.split(',').filter_map(scalar).collect()
}

/// A plain or quoted value without its comment; `None` when there is none, or it is null.
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

/// The text between quotes: in single ones a doubled quote is one, in double ones a backslash takes the next character as it is.
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
        // As PyYAML's safe_load reads it.
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
    fn a_card_without_front_matter_says_nothing() {
        assert_eq!(parse("# Title\n---\nlicense: mit\n"), Card::default());
        assert_eq!(parse(""), Card::default());
        assert_eq!(parse("---\n: : :\n- x\n  - - -\n\"\n'"), Card::default());
    }
}
