//! Checked arithmetic on untrusted counts.

use crate::base::{Error, Result};

/// Returns the number of elements of a shape. The empty shape is a scalar: 1.
pub fn elements(shape: &[u64]) -> Result<u64> {
    // A zero dimension makes the product zero, but the other dimensions must still be valid.
    shape
        .iter()
        .try_fold(1u64, |product, &dim| product.checked_mul(dim))
        .ok_or_else(|| Error::malformed(format!("expected a shape of at most 2^64 elements, found {}", show_shape(shape))))
}

/// Formats a shape for a message; an untrusted one may have thousands of dimensions.
pub fn show_shape(shape: &[u64]) -> String {
    const SHOWN_DIMS: usize = 8;
    let shown: Vec<String> = shape.iter().take(SHOWN_DIMS).map(u64::to_string).collect();
    let rest = if shape.len() > SHOWN_DIMS { format!(", ... {} in all", shape.len()) } else { String::new() };
    format!("[{}{rest}]", shown.join(", "))
}

/// Returns `a + b`, or an error that names `what`.
pub fn add(a: u64, b: u64, what: &str) -> Result<u64> {
    a.checked_add(b).ok_or_else(|| Error::malformed(format!("expected {what} below 2^64, found {a} + {b}")))
}

/// Returns `a * b`, or an error that names `what`.
pub fn mul(a: u64, b: u64, what: &str) -> Result<u64> {
    a.checked_mul(b).ok_or_else(|| Error::malformed(format!("expected {what} below 2^64, found {a} x {b}")))
}

/// Rounds `value` up to a multiple of `alignment`.
pub fn align(value: u64, alignment: u64, what: &str) -> Result<u64> {
    match value.checked_next_multiple_of(alignment) {
        Some(aligned) => Ok(aligned),
        None => Err(Error::malformed(format!("expected {what} to align to {alignment}, found {value}"))),
    }
}

/// Converts `value` to a `usize`.
pub fn to_usize(value: u64, what: &str) -> Result<usize> {
    usize::try_from(value).map_err(|_| Error::limit(format!("expected {what} that this machine can address, found {value}")))
}

/// Drops dimensions of size 1, which formats may or may not store.
pub fn squeezed(shape: &[u64]) -> Vec<u64> {
    shape.iter().copied().filter(|&dim| dim != 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_that_wrap_are_errors() {
        assert_eq!(elements(&[]).unwrap(), 1);
        assert_eq!(elements(&[2, 3]).unwrap(), 6);
        assert_eq!(elements(&[0, 5]).unwrap(), 0);
        assert!(elements(&[1 << 32, 1 << 32]).is_err());
    }

    #[test]
    fn aligning_near_the_end_of_u64_is_an_error() {
        assert_eq!(align(33, 32, "x").unwrap(), 64);
        assert!(align(u64::MAX - 3, 32, "x").is_err());
        assert!(align(5, 0, "x").is_err());
    }
}
