//! Expressions in architecture tables: `hidden_size // num_attention_heads`, `head_dim ?? 64`, `4 * hidden_size`.
//!
//! Numbers, names (with dots), `+ - * /`, `//` (floor division), `==` (1 or 0), parentheses, and `a ?? b`: `b` if `a` is absent. An absent
//! name makes the whole expression absent, up to the next `??`.

use crate::base::{Error, Result, text};

/// Maximum nesting depth of parentheses.
const DEPTH: usize = 32;

/// Evaluates `text` with names resolved by `lookup`; `None` if a name is absent or a division undefined.
///
/// # Errors
/// The text is not an expression.
pub fn eval(text: &str, lookup: &dyn Fn(&str) -> Option<f64>) -> Result<Option<f64>> {
    let mut parser = Parser { text, rest: text, lookup, depth: 0 };
    let value = parser.fallback()?;
    parser.skip_space();
    if parser.rest.is_empty() { Ok(value) } else { Err(parser.error("an operator or the end")) }
}

/// Converts the value of an expression to a non-negative integer.
///
/// # Errors
/// The value is absent, or not a non-negative integer.
pub fn whole(text: &str, value: Option<f64>) -> Result<u64> {
    let text = text::shorten(text);
    let value = value.ok_or_else(|| Error::unsupported(format!("hyperparameters needed for {text} are missing")))?;
    if value.fract() == 0.0 && (0.0..9e15).contains(&value) {
        Ok(value as u64)
    } else {
        Err(Error::unsupported(format!("expected {text} to be a non-negative integer, found {value}")))
    }
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
    lookup: &'a dyn Fn(&str) -> Option<f64>,
    depth: usize,
}

impl Parser<'_> {
    fn error(&self, expected: &str) -> Error {
        let at = self.text.len() - self.rest.len();
        Error::argument(format!("expected {expected} in the expression \"{}\" at character {at}", text::shorten(self.text)))
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn fallback(&mut self) -> Result<Option<f64>> {
        let mut value = self.equality()?;
        while self.take("??") {
            let other = self.equality()?;
            value = value.or(other);
        }
        Ok(value)
    }

    fn equality(&mut self) -> Result<Option<f64>> {
        let value = self.sum()?;
        if self.take("==") {
            let other = self.sum()?;
            return Ok(value.zip(other).map(|(a, b)| f64::from(a == b)));
        }
        Ok(value)
    }

    fn sum(&mut self) -> Result<Option<f64>> {
        let mut value = self.product()?;
        loop {
            if self.take("+") {
                value = value.zip(self.product()?).map(|(a, b)| a + b);
            } else if self.take("-") {
                value = value.zip(self.product()?).map(|(a, b)| a - b);
            } else {
                return Ok(value);
            }
        }
    }

    fn product(&mut self) -> Result<Option<f64>> {
        let mut value = self.atom()?;
        loop {
            if self.take("*") {
                value = value.zip(self.atom()?).map(|(a, b)| a * b);
            } else if self.take("//") {
                value = value.zip(self.atom()?).map(|(a, b)| (a / b).floor());
            } else if self.take("/") {
                value = value.zip(self.atom()?).map(|(a, b)| a / b);
            } else {
                return Ok(value.filter(|value| value.is_finite()));
            }
        }
    }

    fn atom(&mut self) -> Result<Option<f64>> {
        if self.take("(") {
            self.depth += 1;
            if self.depth > DEPTH {
                return Err(self.error("fewer parentheses"));
            }
            let value = self.fallback()?;
            self.depth -= 1;
            return if self.take(")") { Ok(value) } else { Err(self.error("a closing parenthesis")) };
        }
        self.skip_space();
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.')).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        let Some(first) = word.chars().next() else {
            return Err(self.error("a number or a name"));
        };
        let value = if first.is_ascii_digit() { Some(word.parse().map_err(|_| self.error("a number"))?) } else { (self.lookup)(word) };
        self.rest = rest;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Option<f64> {
        eval(text, &|name| match name {
            "d" => Some(64.0),
            "h" => Some(4.0),
            "rope.f" => Some(0.5),
            _ => None,
        })
        .unwrap()
    }

    #[test]
    fn arithmetic_has_the_usual_precedence() {
        assert_eq!(value("d + 2 * h"), Some(72.0));
        assert_eq!(value("(d + 2) * h - 1"), Some(263.0));
        assert_eq!(value("d // (h + 1)"), Some(12.0));
        assert_eq!(value("rope.f * d / h"), Some(8.0));
        assert_eq!(value("1 + (d == 64) * 9"), Some(10.0));
    }

    #[test]
    fn parentheses_are_limited_in_depth_and_not_in_number() {
        let nested = |depth: usize| eval(&format!("{}1{}", "(".repeat(depth), ")".repeat(depth)), &|_| None);
        assert_eq!(nested(DEPTH).unwrap(), Some(1.0));
        assert!(nested(DEPTH + 1).is_err());
        assert_eq!(value(&["(1)"; 3 * DEPTH].join("+")), Some(3.0 * DEPTH as f64));
        let error = eval("1 + )", &|_| None).unwrap_err().to_string();
        assert!(error.contains("at character 4"), "{error}");
    }

    #[test]
    fn absent_names_fall_back() {
        assert_eq!(value("hd ?? d // h"), Some(16.0));
        assert_eq!(value("hd * 2 ?? nothing ?? 7"), Some(7.0));
        assert_eq!(value("hd"), None);
        assert_eq!(value("d / (h - 4)"), None);
    }

    #[test]
    fn invalid_expressions_are_errors() {
        for text in ["", "1 +", "(1", "1 2", "1..2.3", "a $ b", &"(".repeat(100)] {
            assert!(eval(text, &|_| None).is_err(), "{text}");
        }
        assert!(whole("1 / 2", Some(0.5)).is_err());
        assert!(whole("x", None).is_err());
    }
}
