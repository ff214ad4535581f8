//! Replaces `__metadata__` of a safetensors file while its tensors stay unchanged.

use serde_json::{Map as Object, Value as Json};

use crate::base::bytes::{Cursor, Endian, copy};
use crate::base::{Error, Result, json, limits, num};
use crate::format::EditedHeader;
use crate::format::safetensors::spec::{ALIGNMENT, LENGTH_BYTES, METADATA};
use crate::model::{Metadata, Value};
use crate::source::Prefix;

/// Returns length and header with `metadata` instead of the present one. The header keeps its length if the new one fits.
///
/// # Errors
/// A value is not a string, or the header would be larger than readers accept.
pub(crate) fn edit(file: &mut Prefix, _old: &Metadata, metadata: &Metadata, _force: bool) -> Result<EditedHeader> {
    let malformed = || Error::malformed("the header has changed since it was read");
    let (length, text) = file.parse(|file| {
        let mut cursor = Cursor::from_prefix(file.bytes(), file.len(), Endian::Little);
        let length = cursor.u64("the length of the header");
        let text = length.and_then(|length| Ok((length, copy(cursor.take(length, "the header")?)?)));
        cursor.parsed(text)
    })??;
    let old_bytes = num::add(LENGTH_BYTES, length, "the end of the header")?;
    let mut header: Object<String, Json> = json::from_bytes(text).map_err(|_| malformed())?;
    let had_some = header.contains_key(METADATA);
    if metadata.is_empty() {
        header.shift_remove(METADATA);
    } else {
        let strings = metadata.iter().map(|(key, value)| match value {
            Value::String(text) => Ok((key.to_owned(), Json::from(text.as_str()))),
            value => Err(Error::argument(format!("expected a string for {key} in safetensors, found a value of {}", value.value_type()))),
        });
        let strings = Json::Object(strings.collect::<Result<_>>()?);
        if had_some {
            header.insert(METADATA.to_owned(), strings); // at its old position
        } else {
            header.shift_insert(0, METADATA.to_owned(), strings);
        }
    }
    let mut json = serde_json::to_vec(&header).map_err(|_| malformed())?;
    let padded = (json.len() as u64).next_multiple_of(ALIGNMENT).max(length);
    if padded > limits::SAFETENSORS_HEADER_BYTES {
        let message = format!("expected a header of at most {} bytes, found {padded}", limits::SAFETENSORS_HEADER_BYTES);
        return Err(Error::limit(message));
    }
    json.resize(num::to_usize(padded, "a header")?, b' ');
    Ok(EditedHeader { bytes: [&padded.to_le_bytes(), &json[..]].concat(), old_bytes })
}
