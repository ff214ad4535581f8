//! Constants shared by readers and writers of GGUF. Source: docs/gguf.md in the ggml repository, and gguf.cpp in llama.cpp.

use crate::base::limits;
use crate::model::Metadata;

/// The magic at the start of every file.
pub const MAGIC: &[u8; 4] = b"GGUF";

/// The newest version, which is the one written.
pub const VERSION: u32 = 3;

/// The default alignment of tensor data in bytes.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// The key of the alignment.
pub const ALIGNMENT_KEY: &str = "general.alignment";

/// The key with the zero-based number of a split file.
pub const SPLIT_NO: &str = "split.no";

/// The key with the number of split files.
pub const SPLIT_COUNT: &str = "split.count";

/// The key with the total number of tensors.
pub const SPLIT_TENSORS: &str = "split.tensors.count";

/// Whether a key describes the split into files, rather than the model.
pub fn is_split_key(key: &str) -> bool {
    [SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS].contains(&key)
}

/// Returns the alignment set in the metadata, or the default.
///
/// # Errors
/// The value is not a u32 or not a power of two.
pub fn alignment(metadata: &Metadata) -> crate::Result<u64> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(crate::model::Value::U32(alignment)) if alignment.is_power_of_two() => Ok((*alignment).into()),
        Some(value) => {
            let found = value.as_f64().map_or_else(|| value.value_type().to_string(), |number| format!("{} {number}", value.value_type()));
            Err(crate::Error::malformed(format!("expected {ALIGNMENT_KEY} to be a u32 and a power of two, found {found}")))
        }
    }
}

/// Returns the alignment set in the metadata, for a file to be written.
///
/// # Errors
/// As for [`alignment`]; or it exceeds [`limits::GGUF_ALIGNMENT`].
pub(crate) fn alignment_to_write(metadata: &Metadata) -> crate::Result<u64> {
    let alignment = alignment(metadata)?;
    if alignment > limits::GGUF_ALIGNMENT {
        let message = format!("expected {ALIGNMENT_KEY} of at most {} in a file to write, found {alignment}", limits::GGUF_ALIGNMENT);
        return Err(crate::Error::argument(message).hint(crate::base::Hint::SetKey { key: ALIGNMENT_KEY, value: "u32:32" }));
    }
    Ok(alignment)
}

/// Maximum length of a tensor name in ggml, in bytes: `GGML_MAX_NAME` in ggml.h, less the NUL.
pub const GGML_NAME_BYTES: usize = 63;
