//! Byte order of tensor data: a big-endian GGUF holds the numbers inside each block big-endian.

use crate::model::{Class, DType};

/// So many numbers of so many bytes each, one after the other.
type Fields = &'static [(usize, usize)];

/// The fields of each block type, as bytes of a number and how many numbers, from the declarations of the structs in ggml-common.h.
/// What is declared as bytes keeps its order.
static BLOCKS: &[(DType, Fields)] = &[
    (DType::Q1_0, &[(2, 1), (1, 16)]),
    (DType::Q2_0, &[(2, 1), (1, 16)]),
    (DType::Q4_0, &[(2, 1), (1, 16)]),
    (DType::Q4_1, &[(2, 2), (1, 16)]),
    (DType::Q5_0, &[(2, 1), (1, 4 + 16)]),
    (DType::Q5_1, &[(2, 2), (1, 4 + 16)]),
    (DType::Q8_0, &[(2, 1), (1, 32)]),
    (DType::Q8_1, &[(2, 2), (1, 32)]),
    (DType::Q2_K, &[(1, 16 + 64), (2, 2)]),
    (DType::Q3_K, &[(1, 32 + 64 + 12), (2, 1)]),
    (DType::Q4_K, &[(2, 2), (1, 12 + 128)]),
    (DType::Q5_K, &[(2, 2), (1, 12 + 32 + 128)]),
    (DType::Q6_K, &[(1, 128 + 64 + 16), (2, 1)]),
    (DType::Q8_K, &[(4, 1), (1, 256), (2, 16)]),
    (DType::IQ1_S, &[(2, 1), (1, 32), (2, 8)]),
    (DType::IQ1_M, &[(1, 32 + 16 + 8)]),
    (DType::IQ2_XXS, &[(2, 1), (2, 32)]),
    (DType::IQ2_XS, &[(2, 1), (2, 32), (1, 8)]),
    (DType::IQ2_S, &[(2, 1), (1, 64 + 8 + 8)]),
    (DType::IQ3_XXS, &[(2, 1), (1, 96)]),
    (DType::IQ3_S, &[(2, 1), (1, 64 + 8 + 32 + 4)]),
    (DType::IQ4_NL, &[(2, 1), (1, 16)]),
    (DType::IQ4_XS, &[(2, 2), (1, 4 + 128)]),
    (DType::TQ1_0, &[(1, 48 + 4), (2, 1)]),
    (DType::TQ2_0, &[(1, 64), (2, 1)]),
    (DType::MXFP4, &[(1, 1 + 16)]),
    (DType::NVFP4, &[(1, 4 + 32)]),
];

/// Whole blocks of `dtype` with their numbers turned from one byte order to the other.
pub fn to_little_endian(dtype: DType, bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    swap(dtype, &mut out);
    out
}

/// Turns the numbers in whole blocks of `dtype` from one byte order to the other, whichever they have.
pub fn swap(dtype: DType, bytes: &mut [u8]) {
    let info = dtype.info();
    let width = info.block_bytes as usize;
    match info.class {
        Class::Block => {
            let fields = BLOCKS.iter().find(|(block, _)| *block == dtype).map_or(&[] as Fields, |(_, fields)| fields);
            for block in bytes.chunks_exact_mut(width) {
                swap_fields(fields, block);
            }
        }
        Class::Complex => bytes.chunks_exact_mut(width / 2).for_each(<[u8]>::reverse),
        // Packed floats have no order of bytes.
        Class::Float | Class::Integer | Class::Bool if info.block_elems == 1 => bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse),
        Class::Float | Class::Integer | Class::Bool => {}
    }
}

fn swap_fields(fields: Fields, mut block: &mut [u8]) {
    for &(width, count) in fields {
        let Some((numbers, rest)) = block.split_at_mut_checked(width * count) else { return };
        if width > 1 {
            numbers.chunks_exact_mut(width).for_each(<[u8]>::reverse);
        }
        block = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_every_block_type_add_up() {
        for &dtype in DType::ALL.iter().filter(|dtype| dtype.is_quantised()) {
            let (_, fields) = BLOCKS.iter().find(|(block, _)| *block == dtype).unwrap();
            assert_eq!(fields.iter().map(|(width, count)| width * count).sum::<usize>() as u64, dtype.info().block_bytes, "{dtype}");
        }
    }

    #[test]
    fn swapping_twice_gives_the_same_bytes() {
        for &dtype in DType::ALL {
            let bytes: Vec<u8> = (0..dtype.info().block_bytes * 3).map(|i| (i * 7 + 1) as u8).collect();
            let swapped = to_little_endian(dtype, &bytes);
            assert_eq!(to_little_endian(dtype, &swapped), bytes, "{dtype}");
        }
        assert_eq!(to_little_endian(DType::C64, &[1, 2, 3, 4, 5, 6, 7, 8]), [4, 3, 2, 1, 8, 7, 6, 5]);
        assert_eq!(to_little_endian(DType::Q8_0, &(0..34).collect::<Vec<u8>>())[..4], [1, 0, 2, 3]);
    }
}
