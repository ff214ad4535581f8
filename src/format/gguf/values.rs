//! Metadata values of GGUF: arrays are stepped over and stay in the file.

use std::sync::Arc;

use crate::base::bytes::Cursor;
use crate::base::{Error, Result, limits};
use crate::model::metadata::{read_array_head, read_len};
use crate::model::{Array, ValueType};
use crate::source::mmap::Map;

/// The value type of this number.
pub(crate) fn value_type(tag: u32) -> Option<ValueType> {
    ValueType::ALL.get(usize::try_from(tag).ok()?).copied()
}

/// Steps over an array that starts at the cursor, checking that it is whole, and gives a handle on it.
pub(crate) fn array(cursor: &mut Cursor<'_>, map: &Arc<Map>, wide: bool) -> Result<Array> {
    let (elem, len) = read_array_head(cursor, wide)?;
    let start = cursor.position() as usize;
    step_over(cursor, elem, len, wide, 1)?;
    Ok(Array::in_file(elem, len, map.clone(), start..cursor.position() as usize, cursor.endian(), wide))
}

/// Steps over `len` values of type `elem`, `depth` levels deep.
fn step_over(cursor: &mut Cursor<'_>, elem: ValueType, len: u64, wide: bool, depth: usize) -> Result<()> {
    const WHAT: &str = "an array's values";
    if let Some(width) = elem.fixed_bytes() {
        // The head was checked: the product is at most what is left.
        cursor.take(len.saturating_mul(width), WHAT)?;
        return Ok(());
    }
    for _ in 0..len {
        if elem == ValueType::Array {
            if depth >= limits::GGUF_ARRAY_DEPTH {
                let message = format!("expected arrays nested at most {} deep, found more", limits::GGUF_ARRAY_DEPTH);
                return Err(Error::limit(message).at(cursor.position()));
            }
            let (elem, len) = read_array_head(cursor, wide)?;
            step_over(cursor, elem, len, wide, depth + 1)?;
        } else {
            let len = read_len(cursor, wide, "a string's length")?;
            cursor.take(len, "a string of an array")?;
        }
    }
    Ok(())
}
