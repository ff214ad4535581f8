//! Human-readable numbers: 271M parameters, 253 MB, 262,144 tokens.

use crate::base::{Error, Result};

/// Formats a count with three significant digits and a unit: `271M`, `6.74B`, `46.7B`, `512`.
pub fn label(count: u64) -> String {
    scaled(count, &["", "K", "M", "B", "T", "Q"])
}

/// Formats a size with three significant digits and decimal (SI) units: `253 MB`.
pub fn bytes(bytes: u64) -> String {
    scaled(bytes, &[" B", " kB", " MB", " GB", " TB", " PB"])
}

/// Formats a size with one decimal, for comparisons: `253.1 MB`.
pub fn bytes_with_decimal(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 999.95 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1e3, unit + 1);
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Formats an integer with thousands separators: `262,144`.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Formats a count with its noun, pluralised unless the count is one: `1 tensor`, `2,048 tensors`.
pub fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// Formats a fraction as a percentage with `digits` significant digits, never with an exponent: `0.537%`, `4.7%`, `130%`, `1,250%`.
pub fn percent(share: f64, digits: usize) -> String {
    let percent = share * 100.0;
    if percent.abs() >= 10f64.powi(digits as i32 - 1) && percent.abs() < 1e15 {
        let sign = if percent < 0.0 { "-" } else { "" };
        return format!("{sign}{}%", grouped(percent.abs().round() as u64));
    }
    let text = general(percent, digits);
    match text.split_once("e-").and_then(|(_, exponent)| exponent.parse::<usize>().ok()) {
        Some(exponent) if exponent <= 12 => format!("{percent:.*}%", exponent + digits - 1),
        _ => format!("{text}%"),
    }
}

/// Formats a number like C's `%g`: `digits` significant digits without trailing zeros, and an exponent if it is very large or small.
pub fn general(value: f64, digits: usize) -> String {
    if value == 0.0 || !value.is_finite() {
        return if value.is_nan() { "nan".into() } else { format!("{value}") };
    }
    let digits = digits.max(1);
    let scientific = format!("{:.*e}", digits - 1, value);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if exponent < -4 || exponent >= digits as i32 {
        format!("{}e{exponent}", trim(mantissa))
    } else {
        trim(&format!("{:.*}", (digits as i32 - 1 - exponent).max(0) as usize, value))
    }
}

fn scaled(count: u64, units: &[&str]) -> String {
    let count = u128::from(count);
    let mut scale = 1; // in whole numbers: nothing is rounded before the end
    for (i, unit) in units.iter().enumerate() {
        if i == 0 {
            if count < 1000 {
                return format!("{count}{unit}");
            }
            scale *= 1000;
            continue;
        }
        let last = i + 1 == units.len();
        for decimals in [2usize, 1, 0] {
            let tens = [1, 10, 100][decimals];
            let rounded = (2 * count * tens + scale) / (2 * scale); // half up
            if rounded < 1000 || (last && decimals == 0) {
                let (whole, rest) = (rounded / tens, rounded % tens);
                return if decimals == 0 { format!("{whole}{unit}") } else { format!("{whole}.{rest:0decimals$}{unit}") };
            }
        }
        scale *= 1000;
    }
    count.to_string()
}

/// Reads a size in bytes: `5GB` in powers of 1000, `2GiB` in powers of 1024.
///
/// # Errors
/// It is no such text, or nothing.
pub fn parse_bytes(text: &str) -> Result<u64> {
    const UNITS: [(&str, u64); 12] = [
        ("KIB", 1 << 10),
        ("MIB", 1 << 20),
        ("GIB", 1 << 30),
        ("TIB", 1 << 40),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("K", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("B", 1),
    ];
    let upper = text.trim().to_ascii_uppercase();
    let (number, unit) = UNITS.iter().find_map(|(name, unit)| Some((upper.strip_suffix(name)?, *unit))).unwrap_or((&upper, 1));
    let bytes = match number.trim().parse::<u64>() {
        Ok(whole) => whole.checked_mul(unit),
        Err(_) => {
            number.trim().parse::<f64>().ok().map(|number| number * unit as f64).filter(|bytes| *bytes < 1e18).map(|bytes| bytes as u64)
        }
    };
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| Error::argument(format!("expected a size such as 5GB, found {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_to_a_tenth() {
        for (bytes, text) in
            [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"), (253_113_024, "253.1 MB")]
        {
            assert_eq!(bytes_with_decimal(bytes), text);
        }
        assert_eq!(bytes_with_decimal(u64::MAX), "18.4 EB");
    }

    #[test]
    fn labels_have_three_digits() {
        for (count, expected) in [
            (0, "0"),
            (999, "999"),
            (1000, "1.00K"),
            (1234, "1.23K"),
            (999_949, "1.00M"),
            (999_499, "999K"),
            (999_500, "1.00M"),
            (9_995, "10.0K"),
            (270_896_128, "271M"),
            (6_738_415_616, "6.74B"),
            (46_702_792_704, "46.7B"),
            (u64::MAX, "18447Q"),
        ] {
            assert_eq!(label(count), expected, "{count}");
        }
        assert_eq!(bytes(253_115_648), "253 MB");
        assert_eq!(bytes(12), "12 B");
    }

    #[test]
    fn digits_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(167_772_160), "167,772,160");
    }

    #[test]
    fn percentages_are_as_people_write_them() {
        for (share, expected) in [
            (1.3, "130%"),
            (0.047, "4.7%"),
            (0.00537, "0.54%"),
            (12.5, "1,250%"),
            (0.0, "0%"),
            (0.1, "10%"),
            (-2.0, "-200%"),
            (1.234e-7, "0.000012%"),
        ] {
            assert_eq!(percent(share, 2), expected, "{share}");
        }
        assert_eq!((percent(f64::NAN, 2), counted(1, "row"), counted(2048, "row")), ("nan%".into(), "1 row".into(), "2,048 rows".into()));
    }

    #[test]
    fn general_is_as_in_c() {
        for (value, expected) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.1, "0.1"),
            (4.840_000_1, "4.84"),
            (123_456.0, "1.2346e5"),
            (12_345.0, "12345"),
            (0.000_012_5, "1.25e-5"),
            (-0.000_5, "-0.0005"),
            (99_999.9, "1e5"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(general(value, 5), expected, "{value}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [("5GB", 5_000_000_000), ("2GiB", 2 << 30), ("500mb", 500_000_000), ("1.5 GB", 1_500_000_000), ("4096", 4096)]
        {
            assert_eq!(parse_bytes(text).unwrap(), bytes, "{text}");
        }
        for wrong in ["", "GB", "0", "-1GB", "5XB", "nan", "1e30GB"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }
}
