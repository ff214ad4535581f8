//! Byte order of tensor data: a big-endian GGUF stores the numbers inside each block big-endian.

use crate::model::DType;

/// Returns whole blocks of `dtype` with the bytes of their numbers swapped.
pub fn to_little_endian(dtype: DType, bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    swap(dtype, &mut out);
    out
}

/// Swaps the bytes of the numbers in whole blocks of `dtype`.
pub fn swap(dtype: DType, bytes: &mut [u8]) {
    let info = dtype.info();
    if let [field] = info.fields {
        return swap_numbers(field.width, bytes);
    }
    for mut block in bytes.chunks_exact_mut(info.block_bytes as usize) {
        for field in info.fields {
            let Some((numbers, rest)) = block.split_at_mut_checked(field.bytes()) else { return };
            swap_numbers(field.width, numbers);
            block = rest;
        }
    }
}

fn swap_numbers(width: usize, numbers: &mut [u8]) {
    if width > 1 {
        numbers.chunks_exact_mut(width).for_each(<[u8]>::reverse);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swapping_twice_gives_the_same_bytes() {
        for &dtype in DType::ALL {
            let bytes: Vec<u8> = (0..dtype.info().block_bytes * 3).map(|i| (i * 7 + 1) as u8).collect();
            let swapped = to_little_endian(dtype, &bytes);
            assert_eq!(to_little_endian(dtype, &swapped), bytes, "{dtype}");
        }
        // The numbers of the structs in ggml-common.h that are wider than a byte: where they start, and how wide they are.
        let halves = |range: std::ops::Range<usize>| range.step_by(2).map(|at| (at, 2)).collect::<Vec<_>>();
        for (dtype, wide) in [
            (DType::Q4_0, halves(0..2)),
            (DType::Q4_1, halves(0..4)),
            (DType::Q5_1, halves(0..4)),
            (DType::Q8_1, halves(0..4)),
            (DType::Q2_K, halves(80..84)),
            (DType::Q3_K, halves(108..110)),
            (DType::Q4_K, halves(0..4)),
            (DType::Q5_K, halves(0..4)),
            (DType::Q6_K, halves(208..210)),
            (DType::Q8_K, [vec![(0, 4)], halves(260..292)].concat()),
            (DType::IQ1_S, [halves(0..2), halves(34..50)].concat()),
            (DType::IQ1_M, vec![]),
            (DType::IQ2_XXS, halves(0..66)),
            (DType::IQ2_XS, halves(0..66)),
            (DType::IQ2_S, halves(0..2)),
            (DType::IQ3_S, halves(0..2)),
            (DType::IQ4_XS, halves(0..4)),
            (DType::TQ1_0, halves(52..54)),
            (DType::TQ2_0, halves(64..66)),
            (DType::MXFP4, vec![]),
            (DType::NVFP4, vec![]),
            (DType::F64, vec![(0, 8)]),
            (DType::BF16, halves(0..2)),
            (DType::F6_E3M2, vec![]),
        ] {
            let mut expected: Vec<u8> = (0..dtype.info().block_bytes).map(|i| (i % 251) as u8).collect();
            let swapped = to_little_endian(dtype, &expected);
            wide.iter().for_each(|&(at, width)| expected[at..at + width].reverse());
            assert_eq!(swapped, expected, "{dtype}");
        }
        assert_eq!(to_little_endian(DType::C64, &[1, 2, 3, 4, 5, 6, 7, 8]), [4, 3, 2, 1, 8, 7, 6, 5]);
        assert_eq!(to_little_endian(DType::Q8_0, &(0..34).collect::<Vec<u8>>())[..4], [1, 0, 2, 3]);
    }
}
