//! Expressions in architecture tables: `hidden_size // num_attention_heads`, `head_dim ?? 64`, `layer_types[bid] == 'full_attention'`.
//!
//! Numbers, texts in single quotes, names (with dots), elements of lists, characters of texts and values of objects (`name[index]`,
//! `name[key].key`), functions (`len sqrt floor ceil min max has index cdf probit`; `where`: the places in a list of what is true; `int`: the
//! number that a text begins with), and in order of precedence: `**`, `* / // %`, `+ -`, `== != < <= > >=`, `not`, `and`, `or`, `a ?? b` (`b` if `a` is
//! absent), `condition ? a : b`. Conditions are 1 or 0. An absent name makes the whole expression absent, up to the next `??`.

use std::borrow::Cow;

use serde_json::{Map, Value as Json};

use crate::base::{Error, Result, text};

/// Maximum nesting depth of parentheses.
const DEPTH: usize = 32;

/// The value of an expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// A number; booleans are 1 and 0.
    Number(f64),
    /// A text.
    Text(Cow<'a, str>),
    /// A list of JSON values.
    List(Cow<'a, [Json]>),
    /// A JSON object.
    Object(Cow<'a, Map<String, Json>>),
}

impl<'a> Value<'a> {
    /// Returns the value of a JSON number, boolean, string or array.
    pub fn from_json(json: &'a Json) -> Option<Self> {
        Some(match json {
            Json::Bool(value) => Self::Number(f64::from(u8::from(*value))),
            Json::Number(number) => Self::Number(number.as_f64()?),
            Json::String(text) => Self::Text(Cow::Borrowed(text)),
            Json::Array(values) => Self::List(Cow::Borrowed(values)),
            Json::Object(values) => Self::Object(Cow::Borrowed(values)),
            Json::Null => return None,
        })
    }

    /// Returns the number, if it is one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// Whether it is a number other than zero.
    pub fn is_true(&self) -> bool {
        self.number().is_some_and(|number| number != 0.0)
    }

    /// Converts it to JSON, integers without a decimal point.
    pub fn into_json(self) -> Json {
        match self {
            Self::Number(value) if value.fract() == 0.0 && value.abs() < 9e15 => Json::from(value as i64),
            Self::Number(value) => Json::from(value),
            Self::Text(text) => Json::from(text.into_owned()),
            Self::List(values) => Json::Array(values.into_owned()),
            Self::Object(values) => Json::Object(values.into_owned()),
        }
    }

    /// Returns the value of an object under this key.
    fn member(&self, key: &str) -> Option<Self> {
        match self {
            Self::Object(Cow::Borrowed(values)) => Self::from_json(values.get(key)?),
            Self::Object(Cow::Owned(values)) => Some(Value::from_json(values.get(key)?)?.into_owned()),
            _ => None,
        }
    }

    /// Returns the element of a list, the character of a text, or the value of an object whose keys are numbers.
    fn element(&self, index: f64) -> Option<Self> {
        let index = (index.fract() == 0.0 && index >= 0.0).then_some(index as usize)?;
        match self {
            Self::Number(_) => None,
            Self::Object(_) => self.member(&index.to_string()),
            Self::Text(text) => Some(Self::Text(text.chars().nth(index)?.to_string().into())),
            Self::List(values) => match values {
                Cow::Borrowed(values) => Self::from_json(values.get(index)?),
                Cow::Owned(values) => Some(Value::from_json(values.get(index)?)?.into_owned()),
            },
        }
    }

    fn into_owned<'b>(self) -> Value<'b> {
        match self {
            Self::Number(number) => Value::Number(number),
            Self::Text(text) => Value::Text(text.into_owned().into()),
            Self::List(values) => Value::List(values.into_owned().into()),
            Self::Object(values) => Value::Object(Cow::Owned(values.into_owned())),
        }
    }

    /// Returns the number of elements of a list, or of characters of a text.
    fn len(&self) -> Option<f64> {
        match self {
            Self::Number(_) => None,
            Self::Text(text) => Some(text.chars().count() as f64),
            Self::List(values) => Some(values.len() as f64),
            Self::Object(values) => Some(values.len() as f64),
        }
    }

    /// Returns the integer that a text begins with.
    fn leading_integer(&self) -> Option<f64> {
        let Self::Text(text) = self else { return None };
        let digits = text.trim_start();
        digits.get(..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len()))?.parse::<u32>().ok().map(f64::from)
    }

    /// Returns the places in a list of what is true.
    fn places(&self) -> Option<Self> {
        let Self::List(values) = self else { return None };
        let is_true = |value: &Json| Value::from_json(value).is_some_and(|value| value.is_true());
        Some(Self::List(values.iter().enumerate().filter(|(_, value)| is_true(value)).map(|(place, _)| Json::from(place)).collect()))
    }

    /// Returns the smallest or largest number of a list.
    fn extreme(&self, choose: fn(f64, f64) -> f64) -> Option<Self> {
        let Self::List(values) = self else { return None };
        let numbers = values.iter().map(|value| Value::from_json(value)?.number()).collect::<Option<Vec<_>>>()?;
        numbers.into_iter().reduce(choose).map(Self::Number)
    }

    /// Returns the place of an element in a list.
    fn index(&self, wanted: &Value<'_>) -> Option<f64> {
        let Self::List(values) = self else { return None };
        values.iter().position(|value| Value::from_json(value).as_ref() == Some(wanted)).map(|place| place as f64)
    }

    /// Whether a list has this element, or a text this part.
    fn has(&self, wanted: &Value<'_>) -> Option<bool> {
        match (self, wanted) {
            (Self::List(values), wanted) => Some(values.iter().any(|value| Value::from_json(value).as_ref() == Some(wanted))),
            (Self::Text(text), Value::Text(part)) => Some(text.contains(&**part)),
            _ => None,
        }
    }
}

/// Evaluates `text` with names resolved by `lookup`; `None` if a name is absent or an operation undefined.
///
/// # Errors
/// The text is not an expression.
pub fn eval<'a>(text: &str, lookup: &dyn Fn(&str) -> Option<Value<'a>>) -> Result<Option<Value<'a>>> {
    let mut parser = Parser { text, rest: text, lookup, depth: 0 };
    let value = parser.choice()?;
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

type Operand<'a> = Option<Value<'a>>;

/// Applies an operation to two numbers; absent if either is, or if the result is not finite.
fn both<'a>(a: Operand<'_>, b: Operand<'_>, operation: impl Fn(f64, f64) -> f64) -> Operand<'a> {
    let value = operation(a?.number()?, b?.number()?);
    value.is_finite().then_some(Value::Number(value))
}

fn truth<'a>(value: bool) -> Value<'a> {
    Value::Number(f64::from(u8::from(value)))
}

struct Parser<'t, 'a> {
    text: &'t str,
    rest: &'t str,
    lookup: &'t dyn Fn(&str) -> Option<Value<'a>>,
    depth: usize,
}

impl<'a> Parser<'_, 'a> {
    fn error(&self, expected: &str) -> Error {
        let at = self.text.len() - self.rest.len();
        Error::argument(format!("expected {expected} in the expression \"{}\" at character {at}", text::shorten(self.text)))
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Skips a token. A word must end there.
    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        let is_word = token.ends_with(|c: char| c.is_ascii_alphabetic());
        match self.rest.strip_prefix(token) {
            Some(rest) if !is_word || !rest.starts_with(is_part_of_name) => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn expect(&mut self, token: &str, what: &str) -> Result<()> {
        if self.take(token) { Ok(()) } else { Err(self.error(what)) }
    }

    /// Parses with one more level of nesting.
    fn nested(&mut self) -> Result<Operand<'a>> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(self.error("fewer parentheses"));
        }
        let value = self.choice()?;
        self.depth -= 1;
        Ok(value)
    }

    fn choice(&mut self) -> Result<Operand<'a>> {
        let condition = self.fallback()?;
        // Not the start of `??`.
        if self.take("?") {
            let yes = self.nested()?;
            self.expect(":", "a colon")?;
            let no = self.nested()?;
            return Ok(condition.and_then(|value| value.number()).and_then(|condition| if condition == 0.0 { no } else { yes }));
        }
        Ok(condition)
    }

    fn fallback(&mut self) -> Result<Operand<'a>> {
        let mut value = self.or()?;
        while self.take("??") {
            let other = self.or()?;
            value = value.or(other);
        }
        Ok(value)
    }

    fn or(&mut self) -> Result<Operand<'a>> {
        let mut value = self.and()?;
        while self.take("or") {
            value = both(value, self.and()?, |a, b| f64::from(u8::from(a != 0.0 || b != 0.0)));
        }
        Ok(value)
    }

    fn and(&mut self) -> Result<Operand<'a>> {
        let mut value = self.comparison()?;
        while self.take("and") {
            value = both(value, self.comparison()?, |a, b| f64::from(u8::from(a != 0.0 && b != 0.0)));
        }
        Ok(value)
    }

    fn comparison(&mut self) -> Result<Operand<'a>> {
        if self.take("not") {
            self.depth += 1;
            if self.depth > DEPTH {
                return Err(self.error("fewer negations"));
            }
            let value = self.comparison()?;
            self.depth -= 1;
            return Ok(value.and_then(|value| value.number()).map(|value| truth(value == 0.0)));
        }
        let value = self.sum()?;
        for (token, equal) in [("==", true), ("!=", false)] {
            if self.take(token) {
                let other = self.sum()?;
                return Ok(value.zip(other).map(|(a, b)| truth((a == b) == equal)));
            }
        }
        type Compare = fn(&f64, &f64) -> bool;
        let compare: [(&str, Compare); 4] = [("<=", f64::le), (">=", f64::ge), ("<", f64::lt), (">", f64::gt)];
        for (token, compare) in compare {
            if self.take(token) {
                return Ok(both(value, self.sum()?, |a, b| f64::from(u8::from(compare(&a, &b)))));
            }
        }
        Ok(value)
    }

    fn sum(&mut self) -> Result<Operand<'a>> {
        let mut value = self.product()?;
        loop {
            if self.take("+") {
                value = both(value, self.product()?, |a, b| a + b);
            } else if self.take("-") {
                value = both(value, self.product()?, |a, b| a - b);
            } else {
                return Ok(value);
            }
        }
    }

    fn product(&mut self) -> Result<Operand<'a>> {
        let mut value = self.power()?;
        loop {
            if self.take("*") {
                value = both(value, self.power()?, |a, b| a * b);
            } else if self.take("//") {
                value = both(value, self.power()?, |a, b| (a / b).floor());
            } else if self.take("/") {
                value = both(value, self.power()?, |a, b| a / b);
            } else if self.take("%") {
                value = both(value, self.power()?, f64::rem_euclid);
            } else {
                return Ok(value);
            }
        }
    }

    fn power(&mut self) -> Result<Operand<'a>> {
        let value = self.indexed()?;
        if self.take("**") {
            return Ok(both(value, self.indexed()?, f64::powf));
        }
        Ok(value)
    }

    fn indexed(&mut self) -> Result<Operand<'a>> {
        let mut value = self.atom()?;
        while self.take("[") {
            let index = self.nested()?;
            self.expect("]", "a closing bracket")?;
            value = value.zip(index).and_then(|(value, index)| value.element(index.number()?));
            if let Some(rest) = self.rest.strip_prefix('.') {
                let (key, rest) = rest.split_at(rest.find(|c| !is_part_of_name(c)).unwrap_or(rest.len()));
                self.rest = rest;
                value = value.and_then(|value| key.split('.').try_fold(value, |value, key| value.member(key)));
            }
        }
        Ok(value)
    }

    /// Reads the rest of a key, after a dot, whose parts are in quotes where they have other characters.
    fn quoted_key(&mut self, start: &str) -> Result<Operand<'a>> {
        let mut key = start.to_owned();
        while let Some(rest) = self.rest.strip_prefix('\'').filter(|_| key.ends_with('.')) {
            let (part, rest) = rest.split_once('\'').ok_or_else(|| self.error("a closing quote"))?;
            let (more, rest) = rest.split_at(rest.find(|c| !is_part_of_name(c)).unwrap_or(rest.len()));
            self.rest = rest;
            key.extend([part, more]);
        }
        Ok((self.lookup)(&key))
    }

    fn atom(&mut self) -> Result<Operand<'a>> {
        if self.take("(") {
            let value = self.nested()?;
            self.expect(")", "a closing parenthesis")?;
            return Ok(value);
        }
        if self.take("'") {
            let (text, rest) = self.rest.split_once('\'').ok_or_else(|| self.error("a closing quote"))?;
            self.rest = rest;
            return Ok(Some(Value::Text(text.to_owned().into())));
        }
        self.skip_space();
        let end = self.rest.find(|c| !is_part_of_name(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        let Some(first) = word.chars().next() else {
            return Err(self.error("a number or a name"));
        };
        if first.is_ascii_digit() {
            let number = word.parse().map_err(|_| self.error("a number"))?;
            self.rest = rest;
            return Ok(Some(Value::Number(number)));
        }
        self.rest = rest;
        if word.ends_with('.') {
            return self.quoted_key(word);
        }
        if !self.take("(") {
            return Ok((self.lookup)(word));
        }
        let first = self.nested()?;
        let second = if self.take(",") { Some(self.nested()?) } else { None };
        self.expect(")", "a closing parenthesis")?;
        let number = |value: Operand<'a>, function: fn(f64) -> f64| {
            Some(Value::Number(function(value?.number()?))).filter(|value| value.number().is_some_and(f64::is_finite))
        };
        Ok(match (word, second) {
            ("len", None) => first.and_then(|value| value.len()).map(Value::Number),
            ("int", None) => first.and_then(|value| value.leading_integer()).map(Value::Number),
            ("where", None) => first.and_then(|value| value.places()),
            ("sqrt", None) => number(first, f64::sqrt),
            ("floor", None) => number(first, f64::floor),
            ("ceil", None) => number(first, f64::ceil),
            ("cdf", None) => number(first, normal_cdf),
            ("probit", None) => number(first, probit),
            ("min", Some(second)) => both(first, second, f64::min),
            ("max", Some(second)) => both(first, second, f64::max),
            ("min", None) => first.and_then(|list| list.extreme(f64::min)),
            ("max", None) => first.and_then(|list| list.extreme(f64::max)),
            ("index", Some(second)) => first.zip(second).and_then(|(list, wanted)| list.index(&wanted)).map(Value::Number),
            ("has", Some(second)) => first.zip(second).and_then(|(list, wanted)| list.has(&wanted)).map(truth),
            _ => return Err(self.error(&format!("a known function before this, found {word}"))),
        })
    }
}

/// The standard normal distribution function, by its Taylor series.
fn normal_cdf(x: f64) -> f64 {
    if x.abs() > 8.0 {
        return f64::from(u8::from(x > 0.0));
    }
    let (mut term, mut sum, mut last, mut n) = (x, x, f64::NAN, 1.0);
    while sum != last {
        n += 2.0;
        term *= x * x / n;
        (last, sum) = (sum, sum + term);
    }
    0.5 + sum * normal_density(x)
}

fn normal_density(x: f64) -> f64 {
    (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

/// The inverse of [`normal_cdf`] with the steps of `torch.distributions.Normal.icdf` in single precision; the lowest and highest number, which
/// are infinite in single precision, for 0 and 1.
fn probit(p: f64) -> f64 {
    let twice = 2.0 * p as f32 - 1.0;
    if twice.abs() >= 1.0 {
        return if twice < 0.0 { f64::MIN } else { f64::MAX };
    }
    let p = (1.0 + f64::from(twice)) / 2.0;
    // Newton's method, which converges from the middle.
    let x = (0..64).fold(0.0, |x, _| x - (normal_cdf(x) - p) / normal_density(x));
    f64::from((x / std::f64::consts::SQRT_2) as f32 * std::f32::consts::SQRT_2)
}

fn is_part_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.'
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(text: &str) -> Option<f64> {
        let kinds = json!(["mamba", "attention", "mamba", 4]);
        let Value::List(kinds) = Value::from_json(&kinds).unwrap() else { unreachable!() };
        let list = || Value::List(kinds.clone().into_owned().into());
        let found = eval(text, &|name| match name {
            "d" => Some(Value::Number(64.0)),
            "h" => Some(Value::Number(4.0)),
            "rope.f" => Some(Value::Number(0.5)),
            "kinds" => Some(list()),
            "flags" => Some(Value::List(vec![json!(false), json!(1), json!(true)].into())),
            "pattern" => Some(Value::Text("M*E".into())),
            "layers" => Some(Value::from_json(&json!({ "5": { "head": { "size": 16 } } })).unwrap().into_owned()),
            "layers.clip-l-14.heads" => Some(Value::Number(12.0)),
            "sizes" => Some(Value::List(vec![json!(2), json!(8), json!(5)].into())),
            _ => None,
        });
        found.unwrap().and_then(|value| value.number())
    }

    #[test]
    fn arithmetic_has_the_usual_precedence() {
        assert_eq!(value("d + 2 * h"), Some(72.0));
        assert_eq!(value("(d + 2) * h - 1"), Some(263.0));
        assert_eq!(value("d // (h + 1)"), Some(12.0));
        assert_eq!(value("rope.f * d / h"), Some(8.0));
        assert_eq!(value("1 + (d == 64) * 9"), Some(10.0));
        assert_eq!(value("2 * h ** 2 + d % 10"), Some(36.0));
        assert_eq!(value("h < 4 or h >= 4 and not h == 5"), Some(1.0));
        assert_eq!(value("h > 4 or d <= 63"), Some(0.0));
        assert_eq!(value("layers.'clip-l-14'.heads - 2 * h"), Some(4.0));
        assert_eq!(value("order"), None, "a name that begins like an operator");
        assert_eq!(value("nothing ?? h != 4 ? 1 : 2 + 1"), Some(3.0));
    }

    #[test]
    fn lists_texts_and_functions() {
        assert_eq!(value("kinds[1] == 'attention'"), Some(1.0));
        assert_eq!(value("kinds[1 - 1] == 'attention'"), Some(0.0));
        assert_eq!(value("kinds[3] + 1"), Some(5.0));
        assert_eq!(value("kinds[4] ?? 7"), Some(7.0));
        assert_eq!(value("pattern[1] == '*'"), Some(1.0));
        assert_eq!(value("len(kinds) + len(pattern)"), Some(7.0));
        assert_eq!(value("has(kinds, 'mamba') + has(kinds, 4) + has(pattern, 'E') + has(kinds, 'x')"), Some(3.0));
        assert_eq!(value("sqrt(d) + floor(rope.f) + ceil(rope.f) + min(d, h) + max(d, h)"), Some(77.0));
        assert_eq!(value("where(flags)[1] + len(where(flags)) + len(where(kinds))"), Some(5.0));
        assert_eq!(value("index(kinds, 'attention') + index(kinds, 4)"), Some(4.0));
        assert_eq!(value("index(kinds, 'x') ?? len(kinds)"), Some(4.0));
        assert_eq!(value("max(sizes) - min(sizes)"), Some(6.0));
        assert_eq!((value("max(kinds)"), value("min(d)"), value("index(d, d)")), (None, None, None));
        assert_eq!((value("int(' 31,4') + 1"), value("int('x1')"), value("int(h)")), (Some(32.0), None, None));
        assert_eq!(value("kinds + 1"), None);
        assert_eq!(value("h['x']"), None);
        assert_eq!(value("layers[5].head.size + 1"), Some(17.0));
        assert_eq!(value("len(layers[5].sizes) ?? layers[4].head.size ?? layers[5].size ?? len(layers)"), Some(1.0));
        for text in ["kinds[1", "'open", "sine(d)", "len(kinds", "len(d, h)", "h ? 1"] {
            assert!(eval(text, &|_| None).is_err(), "{text}");
        }
    }

    /// `torch.distributions.Normal(0, 1)`: icdf of single-precision numbers, and cdf.
    #[test]
    fn the_normal_distribution_goes_both_ways() {
        for (p, x) in [("0.95", 1.644_853_5_f32), ("0.5", 0.0), ("0.1", -1.281_551_6)] {
            let found = value(&format!("probit({p})")).unwrap() as f32;
            assert!((found - x).abs() <= 2.0 * f32::EPSILON, "{p}: {found}");
            let back = value(&format!("cdf(probit({p}))")).unwrap() as f32;
            assert!((back - p.parse::<f32>().unwrap()).abs() <= f32::EPSILON, "{p}: {back}");
        }
        assert_eq!(value("probit(0)").unwrap() as f32, f32::NEG_INFINITY);
        assert_eq!(value("cdf(9) - cdf(0 - 9)"), Some(1.0));
    }

    #[test]
    fn parentheses_are_limited_in_depth_and_not_in_number() {
        let nested = |depth: usize| eval(&format!("{}1{}", "(".repeat(depth), ")".repeat(depth)), &|_| None);
        assert_eq!(nested(DEPTH).unwrap(), Some(Value::Number(1.0)));
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
