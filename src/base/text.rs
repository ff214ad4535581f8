//! Makes untrusted text from files, such as names and metadata, safe to display.

use std::borrow::Cow;

use crate::base::limits;

/// Maximum length of a name in an error message, in characters.
const SHOWN_NAME_CHARS: usize = 120;

/// Whether a character can spoof or disturb the display of a terminal, a log or a web page.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180b}'..='\u{180f}'
            | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{3164}' | '\u{ffa0}' // letters without a shape
            | '\u{200b}'..='\u{200f}' // zero width, direction marks
            | '\u{2028}'..='\u{202e}' // line separators, bidirectional overrides
            | '\u{2060}'..='\u{206f}' // invisible operators, isolates
            | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}' // variation selectors
            | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e007f}')
}

/// Escapes control characters, bidirectional overrides and invisible characters in `text`: `\n`, `\u{202e}`.
///
/// Backslashes are not escaped: the result is for people, not for a parser.
pub fn escape(text: &str) -> Cow<'_, str> {
    let plain = text.bytes().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~')); // to the end: vectors do it
    if plain || !text.chars().any(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hostile(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Truncates a long text for display, ending it with an ellipsis.
pub fn shorten(text: &str) -> Cow<'_, str> {
    shorten_to(text, SHOWN_NAME_CHARS)
}

/// Truncates `text` to `chars` characters, the last of them an ellipsis.
pub fn shorten_to(text: &str, chars: usize) -> Cow<'_, str> {
    match text.char_indices().nth(chars) {
        None => Cow::Borrowed(text),
        Some(_) => Cow::Owned(text.chars().take(chars.saturating_sub(1)).chain(['…']).collect()),
    }
}

/// Replaces the middle of `text` by an ellipsis if it has more than `chars` characters, keeping most of the start and some of the end.
pub fn shorten_middle(text: String, chars: usize) -> String {
    if text.len() <= chars || text.char_indices().nth(chars).is_none() {
        return text;
    }
    let tail = chars / 5;
    let from = text.char_indices().rev().nth(tail.saturating_sub(1)).map_or(text.len(), |(at, _)| at);
    let (head, end) = (shorten_to(&text, chars.saturating_sub(tail)), text.get(from..).unwrap_or_default());
    format!("{head}{end}")
}

/// Returns the candidate most similar to `wanted`, if any is similar enough to suggest for a mistyped name.
pub fn closest<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Similarity threshold, from 0 (unrelated) to 1 (equal); tensor names share long prefixes.
    const LEAST_LIKENESS: f64 = 0.85;
    /// Longer texts are not names, and are expensive to compare.
    const MOST_BYTES: usize = 256;
    let sane = |text: &&str| text.len() <= MOST_BYTES && wanted.len() <= MOST_BYTES;
    let scored = candidates.into_iter().take(limits::NAMES_COMPARED).filter(sane).map(|name| (strsim::jaro_winkler(wanted, name), name));
    scored.filter(|(likeness, _)| *likeness >= LEAST_LIKENESS).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_borrowed() {
        assert!(matches!(escape("blk.0.attn_q.weight ü 模"), Cow::Borrowed(_)));
    }

    #[test]
    fn terminal_and_bidi_tricks_are_escaped() {
        assert_eq!(escape("a\u{1b}[2J\u{9b}\r\n\t\u{202e}\u{200b}b"), "a\\u{1b}[2J\\u{9b}\\r\\n\\t\\u{202e}\\u{200b}b");
    }

    #[test]
    fn what_cannot_be_seen_is_escaped() {
        // Default_Ignorable_Code_Point of Unicode 16, and direction controls: one of each run, and both ends of the long ones.
        let invisible = "\u{ad}\u{34f}\u{61c}\u{115f}\u{1160}\u{17b4}\u{17b5}\u{180b}\u{180e}\u{200b}\u{200f}\u{202a}\u{202e}\u{2060}\u{2066}\u{2067}\u{2068}\
            \u{2069}\u{206f}\u{3164}\u{fe00}\u{fe0f}\u{feff}\u{ffa0}\u{fff0}\u{1d173}\u{1d17a}\u{e0001}\u{e0100}\u{e01ef}";
        for c in invisible.chars() {
            assert_eq!(escape(&format!("a{c}b")), format!("a\\u{{{:x}}}b", u32::from(c)));
        }
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        assert_eq!(shorten_to("äöüß", 3), "äö…");
        assert_eq!(shorten_to("äöü", 3), "äöü");
    }

    #[test]
    fn a_mistyped_name_finds_the_right_one() {
        let names = ["blk.0.attn_q.weight", "blk.0.attn_k.weight", "output.weight"];
        assert_eq!(closest("blk.0.atn_q.weight", names), Some("blk.0.attn_q.weight"));
        assert_eq!(closest("zzz", names), None);
    }
}
