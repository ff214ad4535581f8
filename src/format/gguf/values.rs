//! GGUF metadata values; arrays are skipped and stay in the file.

use std::sync::Arc;

use crate::base::bytes::{Cursor, SharedBytes};
use crate::base::{Error, Result, limits};
use crate::model::metadata::{read_array_head, read_len};
use crate::model::{Array, ValueType};

/// Returns the value type with this type number.
pub(crate) fn value_type(tag: u32) -> Option<ValueType> {
    ValueType::ALL.get(usize::try_from(tag).ok()?).copied()
}

/// Skips an array at the cursor, validating its extent, and returns a handle to its range of `file`. If it extends beyond the prefix, asks
/// for `after` more bytes an element, for arrays that are likely to follow.
pub(crate) fn array(cursor: &mut Cursor<'_>, file: &Arc<dyn SharedBytes>, wide: bool, after: u64) -> Result<Array> {
    let (elem, len) = read_array_head(cursor, wide)?;
    let start = cursor.position() as usize;
    step_over(cursor, elem, len, wide, 1).inspect_err(|_| cursor.need_more(len.saturating_mul(after)))?;
    Ok(Array::in_file(elem, len, Arc::clone(file), start..cursor.position() as usize, cursor.endian(), wide))
}

/// Skips `len` values of type `elem` at nesting level `depth`.
fn step_over(cursor: &mut Cursor<'_>, elem: ValueType, len: u64, wide: bool, depth: usize) -> Result<()> {
    const WHAT: &str = "an array's values";
    if let Some(width) = elem.fixed_bytes() {
        // The array head was checked: the product does not exceed the remaining bytes.
        cursor.take(len.saturating_mul(width), WHAT)?;
        return Ok(());
    }
    if elem == ValueType::String {
        return skip_strings(cursor, len, wide);
    }
    for _ in 0..len {
        if depth >= limits::GGUF_ARRAY_DEPTH {
            let message = format!("expected arrays nested at most {} deep, found more", limits::GGUF_ARRAY_DEPTH);
            return Err(Error::limit(message).at(cursor.position()));
        }
        let (elem, len) = read_array_head(cursor, wide)?;
        step_over(cursor, elem, len, wide, depth + 1)?;
    }
    Ok(())
}

/// Skips `len` strings. If some lie beyond the prefix, estimates their length from the others.
fn skip_strings(cursor: &mut Cursor<'_>, len: u64, wide: bool) -> Result<()> {
    let start = cursor.position();
    let first = if wide { cursor.skip_strings(len) } else { 0 };
    for i in first..len {
        let string = read_len(cursor, wide, "a string's length").and_then(|len| cursor.take(len, "a string of an array"));
        if let Err(error) = string {
            let stepped_over = cursor.position() - start;
            let least = if wide { 8 } else { 4 };
            let each = stepped_over.checked_div(i).unwrap_or(least);
            cursor.need_more((len - i - 1).saturating_mul(each));
            return Err(error);
        }
    }
    Ok(())
}
