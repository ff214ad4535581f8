//! The header of an `.npy` file: magic, version, length, and a Python dictionary as text.
//!
//! Source: `numpy/lib/_format_impl.py` of NumPy 2.

use crate::base::text::shorten;
use crate::base::{Error, Result, limits};
use crate::source::Source;

/// The first bytes.
pub(crate) const MAGIC: &[u8] = b"\x93NUMPY";

/// The most bytes of a header; NumPy itself refuses more than 10,000 characters by default.
const MOST: u64 = 64 << 10;

/// The header of an array.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) descr: String,
    pub(crate) fortran: bool,
    pub(crate) shape: Vec<u64>,
    /// Offset of the data.
    pub(crate) data: u64,
}

/// Reads the header at byte `start` of a source, before byte `end`.
///
/// # Errors
/// It is malformed.
pub(crate) fn read(source: &dyn Source, start: u64, end: u64) -> Result<Header> {
    let end = end.min(source.len());
    let have = end.saturating_sub(start);
    let first = source.read(start..start + have.min(4 << 10))?;
    let wrong = |found: String| Error::malformed(format!("expected the header of a NumPy array, found {found}")).at(start);
    let (len, begin) = match first.get(..12) {
        Some(&[0x93, b'N', b'U', b'M', b'P', b'Y', 1, 0, a, b, ..]) => (u64::from(u16::from_le_bytes([a, b])), 10),
        Some(&[0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, 0, a, b, c, d]) => (u64::from(u32::from_le_bytes([a, b, c, d])), 12),
        Some(&[0x93, b'N', b'U', b'M', b'P', b'Y', major, minor, ..]) => return Err(wrong(format!("version {major}.{minor}"))),
        _ => return Err(wrong("other bytes".to_owned())),
    };
    if len > MOST || begin + len > have {
        return Err(wrong(format!("a length of {len} bytes")));
    }
    let text = source.read(start + begin..start + begin + len)?.into_owned();
    let text = String::from_utf8(text).map_err(|_| wrong("text that is not UTF-8".to_owned()))?;
    let (descr, fortran, shape) = parse(&text).ok_or_else(|| wrong(shorten(text.trim()).into_owned()))?;
    if shape.len() > limits::TENSOR_DIMS {
        return Err(Error::limit(format!("expected at most {} dimensions, found {}", limits::TENSOR_DIMS, shape.len())).at(start));
    }
    Ok(Header { descr, fortran, shape, data: start + begin + len })
}

/// Parses the dictionary: `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
fn parse(text: &str) -> Option<(String, bool, Vec<u64>)> {
    let mut rest = text.trim().strip_prefix('{')?;
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    loop {
        rest = rest.trim_start().trim_start_matches(',').trim_start();
        if let Some(after) = rest.strip_prefix('}') {
            return after.trim().is_empty().then_some((descr?, fortran?, shape?));
        }
        let (key, after) = quoted(rest)?;
        rest = after.trim_start().strip_prefix(':')?.trim_start();
        match key {
            "descr" if descr.is_none() => {
                // A list describes a structure.
                let (value, after) = match quoted(rest) {
                    Some((value, after)) => (value.to_owned(), after),
                    None => {
                        let end = rest.strip_prefix('[')?.find("]")? + 2;
                        (shorten(rest.get(..end)?).into_owned(), rest.get(end..)?)
                    }
                };
                (descr, rest) = (Some(value), after);
            }
            "fortran_order" if fortran.is_none() => {
                let (value, after) = match rest.strip_prefix("True") {
                    Some(after) => (true, after),
                    None => (false, rest.strip_prefix("False")?),
                };
                (fortran, rest) = (Some(value), after);
            }
            "shape" if shape.is_none() => {
                let (inner, after) = rest.strip_prefix('(')?.split_once(')')?;
                let dims = inner.split(',').map(|dim| dim.trim().trim_end_matches('L')).filter(|dim| !dim.is_empty());
                (shape, rest) = (Some(dims.map(|dim| dim.parse().ok()).collect::<Option<Vec<u64>>>()?), after);
            }
            _ => return None,
        }
    }
}

fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    text.get(1..)?.split_once(quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dictionaries_are_parsed_as_numpy_writes_them() {
        let parsed = |text: &str| parse(text);
        let expected = Some(("<f4".to_owned(), false, vec![2, 3]));
        assert_eq!(parsed("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   \n"), expected);
        assert_eq!(parsed("{\"shape\":(2,3L),\"fortran_order\":False,\"descr\":\"<f4\"}"), expected);
        assert_eq!(parsed("{'descr': '|b1', 'fortran_order': True, 'shape': (), }"), Some(("|b1".to_owned(), true, vec![])));
        assert_eq!(parsed("{'descr': '|b1', 'fortran_order': True, 'shape': (5,), }").map(|found| found.2), Some(vec![5]));
        for wrong in [
            "",
            "{",
            "{}",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': ()}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
            "{'x': 1}",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
