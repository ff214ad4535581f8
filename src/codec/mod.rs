//! Bytes to numbers and back: one file a family of types, one row a type in [`CODECS`].
//!
//! The reference is plain IEEE single precision in the order of ggml's C source, with no fused multiply-add, on every CPU.

use crate::model::DType;

/// How the values of a type are read and written. A function takes whole blocks, and an encoder whole rows.
#[derive(Debug)]
pub struct Codec {
    /// The type.
    pub dtype: DType,
    /// Decodes blocks: `bytes.len() / block_bytes * block_elems == values.len()`.
    pub decode: fn(bytes: &[u8], values: &mut [f32]),
    /// Encodes one row, with importance weights (one a column) if there are any.
    pub encode: Option<Encode>,
}

/// Encodes one row of values into whole blocks; the importance weights, if any, are as many as the values.
pub type Encode = fn(values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]);

/// Every type whose values this build reads.
pub static CODECS: &[Codec] = &[];

/// The codec of a type.
pub fn codec(dtype: DType) -> Option<&'static Codec> {
    CODECS.iter().find(|codec| codec.dtype == dtype)
}
