//! What readers and writers of GGUF share. Source: docs/gguf.md in the ggml repository, and gguf.cpp in llama.cpp.

use crate::base::limits;
use crate::model::Metadata;

/// The first four bytes of every file.
pub const MAGIC: &[u8; 4] = b"GGUF";

/// The newest version, which is what is written.
pub const VERSION: u32 = 3;

/// The alignment of tensor data where no key gives one, in bytes.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// The key that gives the alignment.
pub const ALIGNMENT_KEY: &str = "general.alignment";

/// The key of a split file that numbers it, from 0.
pub const SPLIT_NO: &str = "split.no";

/// The key of a split file that counts the files.
pub const SPLIT_COUNT: &str = "split.count";

/// The key of a split file that counts the tensors of all files.
pub const SPLIT_TENSORS: &str = "split.tensors.count";

/// Whether a key says how a model is split into files: it is about the files, not about the model.
pub fn is_split_key(key: &str) -> bool {
    [SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS].contains(&key)
}

/// The alignment that the metadata asks for.
///
/// # Errors
/// The key is there, and its value is not a u32 and a power of two.
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

/// The alignment that the metadata asks for of a file that is to be written.
///
/// # Errors
/// As [`alignment`]; or it is beyond [`limits::GGUF_ALIGNMENT`].
pub(crate) fn alignment_to_write(metadata: &Metadata) -> crate::Result<u64> {
    let alignment = alignment(metadata)?;
    if alignment > limits::GGUF_ALIGNMENT {
        let message = format!("expected {ALIGNMENT_KEY} to be at most {} in a file to write, found {alignment}", limits::GGUF_ALIGNMENT);
        return Err(crate::Error::argument(message).hint(crate::base::Hint::SetKey { key: ALIGNMENT_KEY, value: "u32:32" }));
    }
    Ok(alignment)
}

/// The most bytes of a tensor's name that ggml takes: `GGML_MAX_NAME` in ggml.h, less the NUL.
pub const GGML_NAME_BYTES: usize = 63;
