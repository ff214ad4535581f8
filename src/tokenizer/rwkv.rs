//! RWKV's World vocabulary: a text file with a Python literal per token.
//!
//! A GGUF has the bytes of a token as Python's `repr` shows them, without quotes.

use super::vocabulary::{Token, TokenType};
use super::{Build, keys, setting, vocabulary_size};
use crate::base::{Error, Result};
use crate::model::Value;

/// The file name.
pub(super) const FILE: &str = "rwkv_vocab_v20230424.txt";

/// The vocabulary size if the config has none.
const SIZE: u64 = 65536;

/// llama.cpp's built-in chat template.
const TEMPLATE: &str = "rwkv-world";

impl Build<'_> {
    pub(super) fn rwkv(&mut self) -> Result<()> {
        let in_file = |error: Error| error.in_file(&self.folder.file(FILE));
        let text = self.folder.text(FILE)?.ok_or_else(|| self.missing(&[FILE]))?;
        let size = vocabulary_size(setting(self.config, "vocab_size").unwrap_or(SIZE), self.folder)?;
        let token = |text: String, token_type| Token { text, score: 0.0, token_type };
        let mut tokens = vec![token("<s>".to_owned(), TokenType::Control)];
        for (number, line) in text.lines().enumerate() {
            let bytes = bytes_of(line).ok_or_else(|| {
                in_file(Error::malformed(format!("line {}: expected an id, a Python literal of a token, and its length", number + 1)))
            })?;
            tokens.push(token(shown(&bytes), TokenType::Normal));
        }
        if tokens.len() > size {
            let found = tokens.len();
            return Err(in_file(Error::malformed(format!("expected at most {size} tokens, as config.json says, found {found}"))));
        }
        tokens.extend((tokens.len()..size).map(Token::padding));
        self.out.set(keys::MODEL, Value::String("rwkv".to_owned()));
        self.vocabulary(tokens, false);
        self.special(None)?;
        if self.out.get(keys::CHAT_TEMPLATE).is_none() {
            self.out.set(keys::CHAT_TEMPLATE, Value::String(TEMPLATE.to_owned()));
        }
        Ok(())
    }
}

/// Returns the bytes of a line's token: `257 'text' 4`, `129 b'\x80' 1`.
fn bytes_of(line: &str) -> Option<Vec<u8>> {
    let (id, rest) = line.split_once(' ')?;
    let (literal, len) = rest.rsplit_once(' ')?;
    id.parse::<u64>().ok()?;
    let bytes = literal_bytes(literal.trim())?;
    (len.trim().parse() == Ok(bytes.len())).then_some(bytes)
}

/// Evaluates a Python literal of a string, in UTF-8, or of bytes.
fn literal_bytes(literal: &str) -> Option<Vec<u8>> {
    let (is_bytes, quoted) = match literal.strip_prefix('b') {
        Some(quoted) => (true, quoted),
        None => (false, literal),
    };
    let quote = quoted.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    let body = quoted.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut bytes = Vec::new();
    let mut chars = body.chars();
    let push = |bytes: &mut Vec<u8>, c: char| bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
    while let Some(c) = chars.next() {
        if c != '\\' {
            push(&mut bytes, c);
            continue;
        }
        let escape = chars.next()?;
        let digits = match escape {
            'x' => 2,
            'u' if !is_bytes => 4,
            'U' if !is_bytes => 8,
            _ => 0,
        };
        if digits > 0 {
            let digits: String = chars.by_ref().take(digits).collect();
            let number = u32::from_str_radix(&digits, 16).ok()?;
            match is_bytes {
                true => bytes.push(u8::try_from(number).ok()?),
                false => push(&mut bytes, char::from_u32(number)?),
            }
            continue;
        }
        bytes.push(match escape {
            'n' => b'\n',
            't' => b'\t',
            'r' => b'\r',
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'v' => 11,
            '0' => 0,
            '\\' | '\'' | '"' => escape as u8,
            _ => return None,
        });
    }
    Some(bytes)
}

/// Formats bytes as Python's `repr` does, without the quotes.
fn shown(bytes: &[u8]) -> String {
    let quote = if bytes.contains(&b'\'') && !bytes.contains(&b'"') { b'"' } else { b'\'' };
    let mut text = String::new();
    for &byte in bytes {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'\r' => text.push_str("\\r"),
            _ if byte == quote => text.extend(['\\', char::from(byte)]),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
}

/// Returns the lines of the file for the tokens of a GGUF; `None` if one is no token of this kind.
pub(super) fn file(tokens: &[Token]) -> Option<String> {
    let mut text = String::new();
    for (id, token) in tokens.iter().enumerate().skip(1).filter(|(id, token)| !token.is_padding(*id)) {
        // Only tokens with double quotes escape single ones.
        let quote = if token.text.contains('\'') && !token.text.contains('"') { '"' } else { '\'' };
        let literal = format!("b{quote}{}{quote}", token.text);
        let bytes = literal_bytes(&literal)?;
        text.push_str(&format!("{id} {literal} {}\n", bytes.len()));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_those_of_python() {
        // Lines of the published file's form, and what Python's `repr` shows of their bytes.
        for (line, expected) in [
            (r"1 '\x00' 1", r"\x00"),
            (r"129 b'\x80' 1", r"\x80"),
            (r"11 '\n' 1", r"\n"),
            (r#"35 '"' 1"#, "\""),
            (r#"40 "'" 1"#, "'"),
            (r"93 '\\' 1", r"\\"),
            (r"257 '\t\t' 2", r"\t\t"),
            ("300 ' a b' 4", " a b"),
            ("5000 'é' 2", r"\xc3\xa9"),
            (r"5001 '\u4e2d' 3", r"\xe4\xb8\xad"),
            (r#"5002 '"\'' 2"#, r#""\'"#),
        ] {
            let bytes = bytes_of(line).unwrap();
            assert_eq!(shown(&bytes), expected, "{line}");
            let tokens = [Token::padding(0), Token { text: expected.to_owned(), score: 0.0, token_type: TokenType::Normal }];
            assert_eq!(bytes_of(file(&tokens).unwrap().trim_end()), Some(bytes), "{line}");
        }
        for bad in ["", "1", "1 'a'", "1 'a' 2", "x 'a' 1", "1 a 1", r"1 '\q' 1", r"1 '\' 1", r"1 b'\u0041' 1", "1 'a\" 1"] {
            assert_eq!(bytes_of(bad), None, "{bad}");
        }
    }
}
