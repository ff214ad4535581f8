//! Grids of the IQ types: the vectors of 8 (or 4) values that a grid index can select.

/// Values of the levels in IQ2 blocks, in units of the scale (ggml-common.h: `iq2xs_grid`).
const IQ2_LEVELS: [i8; 4] = [8, 25, 43, 0];
/// Values of the levels in IQ1 blocks before the shift by an eighth (`iq1s_grid`).
const IQ1_LEVELS: [i8; 4] = [-1, 0, 1, 0];
/// Values of the levels in IQ3_XXS blocks (`iq3xxs_grid`).
const IQ3_XXS_LEVELS: [i8; 8] = [4, 12, 20, 28, 36, 44, 52, 62];
/// Values of the levels in IQ3_S blocks (`iq3s_grid`).
const IQ3_S_LEVELS: [i8; 8] = [1, 3, 5, 7, 9, 11, 13, 15];

/// Points as codes: levels, packed from the lowest bits up.
pub(super) static IQ1_CODES: [u16; 2048] = codes(include_bytes!("../grids/iq1.bin"));
pub(super) static IQ2_XXS_CODES: [u16; 256] = codes(include_bytes!("../grids/iq2_xxs.bin"));
pub(super) static IQ2_XS_CODES: [u16; 512] = codes(include_bytes!("../grids/iq2_xs.bin"));
pub(super) static IQ2_S_CODES: [u16; 1024] = codes(include_bytes!("../grids/iq2_s.bin"));
pub(super) static IQ3_XXS_CODES: [u16; 256] = codes(include_bytes!("../grids/iq3_xxs.bin"));
pub(super) static IQ3_S_CODES: [u16; 512] = codes(include_bytes!("../grids/iq3_s.bin"));

/// Points as decoders use them: values of the coordinates.
pub(super) static IQ1: [[i8; 8]; 2048] = points(&IQ1_CODES, &IQ1_LEVELS);
pub(super) static IQ2_XXS: [[i8; 8]; 256] = points(&IQ2_XXS_CODES, &IQ2_LEVELS);
pub(super) static IQ2_XS: [[i8; 8]; 512] = points(&IQ2_XS_CODES, &IQ2_LEVELS);
pub(super) static IQ2_S: [[i8; 8]; 1024] = points(&IQ2_S_CODES, &IQ2_LEVELS);
pub(super) static IQ3_XXS: [[i8; 4]; 256] = points(&IQ3_XXS_CODES, &IQ3_XXS_LEVELS);
pub(super) static IQ3_S: [[i8; 4]; 512] = points(&IQ3_S_CODES, &IQ3_S_LEVELS);

const fn codes<const N: usize>(file: &[u8]) -> [u16; N] {
    assert!(file.len() == 2 * N, "a grid file must hold every point of its grid");
    let mut codes = [0; N];
    let mut i = 0;
    while i < N {
        codes[i] = u16::from_le_bytes([file[2 * i], file[2 * i + 1]]);
        i += 1;
    }
    codes
}

const fn points<const N: usize, const DIM: usize, const LEVELS: usize>(codes: &[u16; N], levels: &[i8; LEVELS]) -> [[i8; DIM]; N] {
    let bits = LEVELS.trailing_zeros();
    let mut points = [[0; DIM]; N];
    let mut i = 0;
    while i < N {
        let mut j = 0;
        while j < DIM {
            points[i][j] = levels[codes[i] as usize >> (bits as usize * j) & (LEVELS - 1)];
            j += 1;
        }
        i += 1;
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_unique_and_in_order() {
        for codes in [&IQ1_CODES[..], &IQ2_XXS_CODES, &IQ2_XS_CODES, &IQ2_S_CODES, &IQ3_XXS_CODES, &IQ3_S_CODES] {
            assert!(codes.is_sorted_by(|a, b| a < b));
        }
    }

    #[test]
    fn two_bit_grids_use_three_levels() {
        for &code in IQ1_CODES.iter().chain(&IQ2_XXS_CODES).chain(&IQ2_XS_CODES).chain(&IQ2_S_CODES) {
            assert!((0..8).all(|j| code >> (2 * j) & 3 < 3), "{code:#x}");
        }
        assert!(IQ3_XXS_CODES.iter().chain(&IQ3_S_CODES).all(|&code| code < 1 << 12));
    }
}
