//! Formats arrays as NumPy 2.4 prints them by default: aligned, 8 digits, 75 columns, nested brackets.

use half::f16;

use crate::codec::Number;
use crate::model::DType;
use crate::ops::show::Block;

/// The maximum number of digits after the point.
const PRECISION: usize = 8;

/// The line width.
const LINE: usize = 75;

/// Formats an array of elements of `dtype`. Types unknown to NumPy are formatted like single precision.
pub fn array(block: &Block, dtype: DType) -> String {
    if block.numbers.is_empty() {
        return "[]".into();
    }
    let cells = cells(block, dtype);
    if block.lengths.is_empty() {
        return cells[0].trim().to_owned();
    }
    let mut out = String::new();
    level(&mut out, &cells, block, 0);
    out
}

/// Writes the sub-array at nesting level `depth`.
fn level(out: &mut String, cells: &[String], block: &Block, depth: usize) {
    let indent = " ".repeat(depth + 1);
    let (length, cut) = (block.lengths[depth], block.cut[depth]);
    let before_dots = |i: usize| cut && i == length / 2;
    out.push('[');
    if depth + 1 == block.lengths.len() {
        // A line is full when the next value and its closing brackets would not fit.
        let room = LINE - (depth + 1);
        let mut column = depth + 1;
        let mut word = |text: &str, first: bool| {
            if !first {
                out.push(' ');
                column += 1;
            }
            if column + text.chars().count() > room && column > depth + 1 {
                out.truncate(out.trim_end_matches(' ').len());
                out.push('\n');
                out.push_str(&indent);
                column = depth + 1;
            }
            out.push_str(text);
            column += text.chars().count();
        };
        for (i, cell) in cells.iter().enumerate() {
            if before_dots(i) {
                word("...", false);
            }
            word(cell, i == 0);
        }
    } else {
        let size = cells.len() / length.max(1);
        let gap = "\n".repeat(block.lengths.len() - depth - 1) + &indent;
        for i in 0..length {
            if before_dots(i) {
                out.push_str(&gap);
                out.push_str("...");
            }
            if i > 0 {
                out.push_str(&gap);
            }
            level(out, &cells[i * size..(i + 1) * size], block, depth + 1);
        }
    }
    out.push(']');
}

/// Formats the values, padded to the same width.
fn cells(block: &Block, dtype: DType) -> Vec<String> {
    let alone = block.lengths.is_empty();
    if block.per_element == 2 {
        let part = |which: usize| block.numbers.iter().skip(which).step_by(2).map(|number| number.as_f64()).collect::<Vec<_>>();
        let (real, imaginary) = (floats(&part(0), Width::Single, false), floats(&part(1), Width::Single, true));
        let join = |(real, imaginary): (&String, &String)| {
            let digits = imaginary.trim_end();
            format!("{real}{digits}j{}", &imaginary[digits.len()..])
        };
        return real.iter().zip(&imaginary).map(join).collect();
    }
    match block.numbers.first() {
        Some(Number::F32(_) | Number::F64(_)) => {
            let width = match dtype {
                DType::F16 => Width::Half,
                DType::F64 => Width::Double,
                _ => Width::Single,
            };
            let values: Vec<f64> = block.numbers.iter().map(|number| number.as_f64()).collect();
            if alone { vec![single(values[0], width)] } else { floats(&values, width, false) }
        }
        Some(Number::Bool(_)) if !alone => {
            let text = |number: &Number| if matches!(number, Number::Bool(true)) { " True" } else { "False" }.to_owned();
            block.numbers.iter().map(text).collect()
        }
        Some(Number::Bool(value)) => vec![if *value { "True" } else { "False" }.to_owned()],
        _ => {
            let texts: Vec<String> = block.numbers.iter().map(|number| number.to_string()).collect();
            let width = texts.iter().map(String::len).max().unwrap_or(0);
            texts.iter().map(|text| format!("{text:>width$}")).collect()
        }
    }
}

/// The precision of the values, which determines how many digits distinguish them.
#[derive(Clone, Copy, PartialEq)]
enum Width {
    Half,
    Single,
    Double,
}

impl Width {
    /// Returns the magnitude from which numbers are written with an exponent.
    fn large(self) -> f64 {
        match self {
            Self::Half => 1e3,
            Self::Single => 1e6,
            Self::Double => 1e8,
        }
    }

    /// Returns the magnitude below which numbers are written with an exponent: 0.0001 in this precision.
    fn small(self) -> f64 {
        match self {
            Self::Half => f16::from_f64(0.0001).to_f64(),
            Self::Single => f64::from(0.0001f32),
            Self::Double => 0.0001,
        }
    }

    /// Returns the quotient, rounded to this precision.
    fn divide(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Half => f16::from_f64(a / b).to_f64(),
            Self::Single => f64::from(a as f32 / b as f32),
            Self::Double => a / b,
        }
    }

    /// Formats the value as `d.ddde±x` with the fewest digits that distinguish it from its neighbours.
    fn shortest(self, value: f64) -> String {
        match self {
            Self::Half => {
                let wanted = f16::from_f64(value);
                let tells = |text: &String| text.parse().is_ok_and(|back: f32| f16::from_f32(back) == wanted);
                (0..5).map(|digits| format!("{value:.digits$e}")).find(tells).unwrap_or_else(|| format!("{value:e}"))
            }
            Self::Single => format!("{:e}", value as f32),
            Self::Double => format!("{value:e}"),
        }
    }
}

/// Returns the number of digits after the point in the shortest form, with and without an exponent.
fn digits_after_point(value: f64, width: Width) -> (usize, usize) {
    let text = width.shortest(value);
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits = mantissa.split_once('.').map_or(0, |(_, digits)| digits.trim_end_matches('0').len());
    let exponent: i64 = exponent.parse().unwrap_or(0);
    (digits, (digits as i64 - exponent).max(0) as usize)
}

/// Formats a scalar like `str()` of a NumPy scalar.
fn single(value: f64, width: Width) -> String {
    if !value.is_finite() {
        return odd(value);
    }
    let (with_exponent, without) = digits_after_point(value, width);
    let large = if width == Width::Half { width.large() } else { 1e16 };
    if value != 0.0 && !(1e-4..large).contains(&value.abs()) {
        return scientific(value, with_exponent, 2);
    }
    format!("{value:.*}", without.max(1))
}

fn odd(value: f64) -> String {
    if value.is_nan() {
        "nan".into()
    } else if value < 0.0 {
        "-inf".into()
    } else {
        "inf".into()
    }
}

/// Formats as `1.5e-07`: the exponent has a sign and at least `exponent_digits` digits; there is no point without digits after it.
fn scientific(value: f64, digits: usize, exponent_digits: usize) -> String {
    let text = format!("{value:.digits$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{mantissa}e{sign}{exponent:0>exponent_digits$}")
}

/// Formats floating-point values: all with the same number of digits if an exponent is needed, else each shortest, aligned at the point.
fn floats(values: &[f64], width: Width, signed: bool) -> Vec<String> {
    let finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    let sizes = finite.iter().map(|value| value.abs()).filter(|size| *size != 0.0);
    let (least, most) = sizes.fold((f64::INFINITY, 0.0), |(least, most): (f64, f64), size| (least.min(size), most.max(size)));
    let exponent = most > 0.0 && (most >= width.large() || least < width.small() || width.divide(most, least) > 1000.0);
    let sign = |value: f64, text: String| if signed && !text.starts_with('-') && !value.is_nan() { format!("+{text}") } else { text };

    // Parts before and after the point, and the exponent.
    let split = |value: f64| -> (String, String) {
        let text = if exponent {
            let digits = finite.iter().map(|value| digits_after_point(*value, width).0.min(PRECISION)).max().unwrap_or(0);
            let exponent_digits = |value: f64| format!("{value:.digits$e}").rsplit(['e', '-']).next().map_or(2, |text| text.len().max(2));
            let text = scientific(value, digits, finite.iter().map(|value| exponent_digits(*value)).max().unwrap_or(2));
            if digits == 0 { text.replace('e', ".e") } else { text }
        } else {
            let text = format!("{value:.*}", digits_after_point(value, width).1.min(PRECISION));
            if text.contains('.') { text.trim_end_matches('0').to_owned() } else { text + "." }
        };
        let text = sign(value, text);
        let (before, after) = text.split_once('.').unwrap_or((&text, ""));
        (before.to_owned(), after.to_owned())
    };
    let parts: Vec<Option<(String, String)>> = values.iter().map(|value| value.is_finite().then(|| split(*value))).collect();
    let longest = |which: fn(&(String, String)) -> usize| parts.iter().flatten().map(which).max().unwrap_or(0);
    let (mut before, after) = (longest(|(before, _)| before.len()), longest(|(_, after)| after.len()));
    for value in values.iter().filter(|value| !value.is_finite()) {
        before = before.max(sign(*value, odd(*value)).len().saturating_sub(after + 1));
    }
    let fill = |(value, parts): (&f64, &Option<(String, String)>)| match parts {
        Some((left, right)) => format!("{left:>before$}.{right:<after$}"),
        None => format!("{:>1$}", sign(*value, odd(*value)), before + 1 + after),
    };
    values.iter().zip(&parts).map(fill).collect()
}
