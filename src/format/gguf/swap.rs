//! Byte order of tensor data: a big-endian GGUF holds the numbers inside each block big-endian.

use crate::model::DType;

/// Whole blocks of `dtype` with their numbers turned from big-endian to little-endian.
pub fn to_little_endian(dtype: DType, bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let width = dtype.info().block_bytes as usize;
    for number in out.chunks_exact_mut(width) {
        number.reverse();
    }
    out
}
