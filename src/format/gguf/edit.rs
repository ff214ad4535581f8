//! Replaces the metadata of a GGUF file while its tensors stay bytewise unchanged.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::base::bytes::{Cursor, Endian, SharedBytes};
use crate::base::finding::{Findings, Severity};
use crate::base::{Error, Hint, Result, num};
use crate::format::EditedHeader;
use crate::format::gguf::read::read_version;
use crate::format::gguf::{check, spec, values, write};
use crate::model::metadata::{read_len, read_string};
use crate::model::{Metadata, Value, ValueType};
use crate::source::Prefix;

/// Returns the header with `metadata` instead of the present keys. Version and tensor table are unchanged.
///
/// # Errors
/// The file is big-endian or version 1; the alignment is invalid, too large, or does not fit the tensor offsets; a split key would change;
/// or a rule is violated that was not violated before.
pub(crate) fn edit(file: &mut Prefix, old: &Metadata, metadata: &Metadata, force: bool) -> Result<EditedHeader> {
    check_change(old, metadata, force)?;
    file.parse(|file| {
        let mut cursor = Cursor::from_prefix(file.bytes(), file.len(), Endian::Little);
        let start = new_start(&mut cursor, file, metadata);
        cursor.parsed(start)
    })?
}

fn new_start(cursor: &mut Cursor<'_>, file: &Prefix, metadata: &Metadata) -> Result<EditedHeader> {
    let version = read_version(cursor).map_err(|(_, error)| error)?;
    if version < 2 || cursor.endian() == Endian::Big {
        return Err(Error::unsupported("expected a little-endian file of version 2 or 3 to edit, found an older or big-endian one")
            .hint(Hint::Convert));
    }
    let tensors = read_len(cursor, true, "the tensor count")?;
    let keys = read_len(cursor, true, "the key count")?;
    let (shared, mut old_alignment) = (file.shared(), spec::DEFAULT_ALIGNMENT);
    for _ in 0..keys {
        let key = read_string(cursor, true, "a metadata key")?;
        let value = step(cursor, &shared)?;
        if let (spec::ALIGNMENT_KEY, Some(alignment)) = (key.as_str(), value.and_then(|value| value.as_u64())) {
            old_alignment = alignment;
        }
    }
    let alignment = spec::alignment_to_write(metadata)?;
    let table = table(cursor, tensors, alignment)?;
    let old_bytes = num::align(cursor.position(), old_alignment, "the start of the data")?;

    let mut bytes = spec::MAGIC.to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend(tensors.to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    write::put_keys(&mut bytes, metadata)?;
    bytes.extend_from_slice(file.bytes().get(table).unwrap_or_default());
    let start = num::align(bytes.len() as u64, alignment, "the start of the data")?;
    bytes.resize(num::to_usize(start, "a header")?, 0);
    // A file without tensors may end right after its header.
    Ok(EditedHeader { bytes, old_bytes: old_bytes.min(file.len()) })
}

/// Refuses changes that add findings of `verify`, and changes of the split keys, which must match the file name.
fn check_change(old: &Metadata, new: &Metadata, force: bool) -> Result<()> {
    if let Some(key) = [spec::SPLIT_NO, spec::SPLIT_COUNT, spec::SPLIT_TENSORS].into_iter().find(|key| old.get(key) != new.get(key)) {
        return Err(Error::argument(format!("{key} cannot be changed: it describes how the model is split")));
    }
    let remarks = |metadata: &Metadata| {
        let mut findings = Findings::collect();
        check::metadata(metadata, Path::new(""), &mut findings);
        check::needed_keys(metadata, Path::new(""), &mut findings);
        findings.into_list()
    };
    if force {
        return Ok(());
    }
    let before = remarks(old);
    match remarks(new).into_iter().find(|remark| remark.severity > Severity::Note && !before.contains(remark)) {
        Some(remark) => Err(Error::argument(remark.message).with_code(remark.code).hint(Hint::ForceChange)),
        None => Ok(()),
    }
}

/// Skips a value and returns it, unless it is an array.
fn step(cursor: &mut Cursor<'_>, file: &Arc<dyn SharedBytes>) -> Result<Option<Value>> {
    let at = cursor.position();
    let tag = cursor.u32("a value's type")?;
    match values::value_type(tag) {
        Some(ValueType::Array) => values::array(cursor, file, true, 0).map(|_| None),
        Some(kind) => Value::read(cursor, kind, true).map(Some),
        None => Err(Error::malformed(format!("expected a value type of 0 to 12, found {tag}")).at(at)),
    }
}

/// Returns the range of the tensor table, checking its offsets against the alignment.
fn table(cursor: &mut Cursor<'_>, tensors: u64, alignment: u64) -> Result<Range<usize>> {
    let start = cursor.position() as usize;
    for _ in 0..tensors {
        let name = read_string(cursor, true, "a tensor's name")?;
        let dims = cursor.u32("a count of dimensions")?;
        cursor.take(u64::from(dims) * 8 + 4, "a tensor's dimensions and type")?;
        let offset = cursor.u64("a tensor's offset")?;
        if !offset.is_multiple_of(alignment) {
            return Err(Error::argument(format!(
                "expected an alignment that the tensor's offset {offset} is a multiple of, found {alignment}"
            ))
            .in_tensor(&name));
        }
    }
    Ok(start..cursor.position() as usize)
}
