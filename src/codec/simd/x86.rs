//! Lanes in the vectors of AVX2 and AVX-512.

// What is unsafe here: the instructions. These lanes are only worked on inside code that was compiled for their instruction set and
// entered once the machine was seen to have it: `Level::run` is the one place that names them.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

use super::doubles::x86::{Avx2Doubles, Avx512Doubles};
use super::{Lanes, ROUND};

macro_rules! operators {
    ($lanes:ident, $($op:ident $method:ident $instruction:ident),*) => {$(
        impl $op for $lanes {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: the machine has the instruction, as said above.
                Self(unsafe { $instruction(self.0, other.0) })
            }
        }
    )*};
}

/// What both sets write alike.
macro_rules! common {
    ($count:literal, $doubles:ident, $splat:ident, $load:ident, $store:ident, $sqrt:ident, $max:ident, $min:ident) => {
        const COUNT: usize = $count;
        type Eight = Avx2;
        type Doubles = $doubles;

        #[inline(always)]
        fn splat(value: f32) -> Self {
            // SAFETY: the machine has the instruction.
            Self(unsafe { $splat(value) })
        }

        #[inline(always)]
        fn gather(values: &[f32], stride: usize) -> Self {
            let mut lanes = [0.0; $count];
            let values = &values[..($count - 1) * stride + 1];
            for (i, lane) in lanes.iter_mut().enumerate() {
                *lane = values[i * stride];
            }
            Self::load(&lanes)
        }

        #[inline(always)]
        fn load(values: &[f32]) -> Self {
            let values: &[f32] = &values[..$count];
            // SAFETY: the machine has the instruction, and the slice has as many numbers as it reads, from any address.
            Self(unsafe { $load(values.as_ptr()) })
        }

        #[inline(always)]
        fn store(self, values: &mut [f32]) {
            let values: &mut [f32] = &mut values[..$count];
            // SAFETY: the machine has the instruction, and the slice has as many numbers as it writes, to any address.
            unsafe { $store(values.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        fn entries(table: &[i8; 16], codes: &[u8; 16]) -> [u8; 16] {
            let mut entries = [0; 16];
            // SAFETY: the machine has the instructions, and sixteen bytes are read, and written, from and to any address.
            unsafe {
                let table = _mm_loadu_si128(table.as_ptr().cast());
                let found = _mm_shuffle_epi8(table, _mm_loadu_si128(codes.as_ptr().cast()));
                _mm_storeu_si128(entries.as_mut_ptr().cast(), found);
            }
            entries
        }

        #[inline(always)]
        fn planes(bytes: &[u8; 32]) -> [u32; 4] {
            // SAFETY: the machine has the instructions, and thirty-two bytes are read, from any address.
            unsafe {
                let bytes = _mm256_loadu_si256(bytes.as_ptr().cast());
                // A shift of pairs of bytes brings the bit to the top of both.
                [
                    _mm256_movemask_epi8(_mm256_slli_epi16::<7>(bytes)) as u32,
                    _mm256_movemask_epi8(_mm256_slli_epi16::<6>(bytes)) as u32,
                    _mm256_movemask_epi8(_mm256_slli_epi16::<5>(bytes)) as u32,
                    _mm256_movemask_epi8(_mm256_slli_epi16::<4>(bytes)) as u32,
                ]
            }
        }

        #[inline(always)]
        fn round(self) -> Self {
            // Half of the number before one, so that the sum rounds up just where the number lies at a half or above.
            (self + Self::with_sign(0.5 - f32::EPSILON / 4.0, self)).trunc()
        }

        #[inline(always)]
        fn sqrt(self) -> Self {
            // SAFETY: the machine has the instruction.
            Self(unsafe { $sqrt(self.0) })
        }

        #[inline(always)]
        fn max(self, other: Self) -> Self {
            // SAFETY: the machine has the instruction.
            Self(unsafe { $max(self.0, other.0) })
        }

        #[inline(always)]
        fn min(self, other: Self) -> Self {
            // SAFETY: the machine has the instruction.
            Self(unsafe { $min(self.0, other.0) })
        }

        #[inline(always)]
        fn map(self, function: impl Fn(f32) -> f32) -> Self {
            let mut lanes = [0.0; $count];
            self.store(&mut lanes);
            for lane in &mut lanes {
                *lane = function(*lane);
            }
            Self::load(&lanes)
        }
    };
}

/// Eight lanes.
#[derive(Clone, Copy)]
pub(super) struct Avx2(pub(super) __m256);

impl Avx2 {
    /// A size with the sign of each number.
    #[inline(always)]
    fn with_sign(size: f32, signs: Self) -> Self {
        // SAFETY: the machine has the instructions.
        Self(unsafe { _mm256_or_ps(_mm256_and_ps(signs.0, _mm256_set1_ps(-0.0)), _mm256_set1_ps(size)) })
    }
}

operators!(Avx2, Add add _mm256_add_ps, Sub sub _mm256_sub_ps, Mul mul _mm256_mul_ps, Div div _mm256_div_ps);

impl Lanes for Avx2 {
    common!(8, Avx2Doubles, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_sqrt_ps, _mm256_max_ps, _mm256_min_ps);

    /// All bits of a lane, or none.
    type Mask = __m256;

    #[inline(always)]
    fn from_bytes(bytes: &[u8]) -> Self {
        let bytes: &[u8] = &bytes[..8];
        // SAFETY: the machine has the instructions, and the slice has the eight bytes that are read, from any address.
        Self(unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes.as_ptr().cast()))) })
    }

    #[inline(always)]
    fn from_signed_bytes(bytes: &[u8]) -> Self {
        let bytes: &[u8] = &bytes[..8];
        // SAFETY: as above.
        Self(unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes.as_ptr().cast()))) })
    }

    #[inline(always)]
    fn store_bytes(self, bytes: &mut [u8]) {
        let bytes: &mut [u8] = &mut bytes[..8];
        let whole = (self + Self::splat(ROUND)).0;
        // SAFETY: the machine has the instructions, and the slice has the eight bytes that are written, to any address.
        unsafe {
            let low = _mm256_and_si256(_mm256_castps_si256(whole), _mm256_set1_epi32(0xff));
            let pairs = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256::<1>(low));
            _mm_storel_epi64(bytes.as_mut_ptr().cast(), _mm_packus_epi16(pairs, pairs));
        }
    }

    #[inline(always)]
    fn from_halves(bytes: &[u8]) -> Self {
        let bytes: &[u8] = &bytes[..16];
        // SAFETY: the machine has the instructions, and the slice has the 16 bytes that are read, from any address.
        Self(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(bytes.as_ptr().cast())) })
    }

    #[inline(always)]
    fn store_halves(self, bytes: &mut [u8]) {
        let bytes: &mut [u8] = &mut bytes[..16];
        // SAFETY: the machine has the instructions, and the slice has the 16 bytes that are written, to any address.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) }
    }

    #[inline(always)]
    fn trunc(self) -> Self {
        // SAFETY: the machine has the instruction.
        Self(unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(self.0) })
    }

    #[inline(always)]
    fn nearest(self) -> Self {
        // SAFETY: the machine has the instruction.
        Self(unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: the machine has the instruction.
        Self(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }

    #[inline(always)]
    fn lt(self, other: Self) -> Self::Mask {
        // SAFETY: the machine has the instruction.
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, other.0) }
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Self::Mask {
        // SAFETY: the machine has the instruction.
        unsafe { _mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, other.0) }
    }

    #[inline(always)]
    fn and(one: Self::Mask, other: Self::Mask) -> Self::Mask {
        // SAFETY: the machine has the instruction.
        unsafe { _mm256_and_ps(one, other) }
    }

    #[inline(always)]
    fn any(mask: Self::Mask) -> bool {
        // SAFETY: the machine has the instruction.
        unsafe { _mm256_movemask_ps(mask) != 0 }
    }

    #[inline(always)]
    fn all(mask: Self::Mask) -> bool {
        // SAFETY: the machine has the instruction.
        unsafe { _mm256_movemask_ps(mask) == 0xff }
    }

    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        // SAFETY: the machine has the instruction.
        Self(unsafe { _mm256_blendv_ps(no.0, yes.0, mask) })
    }
}

/// Sixteen lanes.
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

impl Avx512 {
    /// A size with the sign of each number.
    #[inline(always)]
    fn with_sign(size: f32, signs: Self) -> Self {
        // SAFETY: the machine has the instructions.
        Self(unsafe { _mm512_or_ps(_mm512_and_ps(signs.0, _mm512_set1_ps(-0.0)), _mm512_set1_ps(size)) })
    }
}

operators!(Avx512, Add add _mm512_add_ps, Sub sub _mm512_sub_ps, Mul mul _mm512_mul_ps, Div div _mm512_div_ps);

impl Lanes for Avx512 {
    common!(16, Avx512Doubles, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_sqrt_ps, _mm512_max_ps, _mm512_min_ps);

    /// A bit a lane.
    type Mask = __mmask16;

    #[inline(always)]
    fn from_bytes(bytes: &[u8]) -> Self {
        let bytes: &[u8] = &bytes[..16];
        // SAFETY: the machine has the instructions, and the slice has the sixteen bytes that are read, from any address.
        Self(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()))) })
    }

    #[inline(always)]
    fn from_signed_bytes(bytes: &[u8]) -> Self {
        let bytes: &[u8] = &bytes[..16];
        // SAFETY: as above.
        Self(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()))) })
    }

    #[inline(always)]
    fn store_bytes(self, bytes: &mut [u8]) {
        let bytes: &mut [u8] = &mut bytes[..16];
        let whole = (self + Self::splat(ROUND)).0;
        // SAFETY: the machine has the instructions, and the slice has the sixteen bytes that are written, to any address.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_castps_si512(whole))) }
    }

    #[inline(always)]
    fn from_halves(bytes: &[u8]) -> Self {
        let bytes: &[u8] = &bytes[..32];
        // SAFETY: the machine has the instructions, and the slice has the 32 bytes that are read, from any address.
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().cast())) })
    }

    #[inline(always)]
    fn store_halves(self, bytes: &mut [u8]) {
        let bytes: &mut [u8] = &mut bytes[..32];
        // SAFETY: the machine has the instructions, and the slice has the 32 bytes that are written, to any address.
        unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) }
    }

    #[inline(always)]
    fn trunc(self) -> Self {
        // SAFETY: the machine has the instruction.
        Self(unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(self.0) })
    }

    #[inline(always)]
    fn nearest(self) -> Self {
        // SAFETY: the machine has the instruction.
        Self(unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: the machine has the instruction.
        Self(unsafe { _mm512_abs_ps(self.0) })
    }

    #[inline(always)]
    fn lt(self, other: Self) -> Self::Mask {
        // SAFETY: the machine has the instruction.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0) }
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Self::Mask {
        // SAFETY: the machine has the instruction.
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0) }
    }

    #[inline(always)]
    fn and(one: Self::Mask, other: Self::Mask) -> Self::Mask {
        one & other
    }

    #[inline(always)]
    fn any(mask: Self::Mask) -> bool {
        mask != 0
    }

    #[inline(always)]
    fn all(mask: Self::Mask) -> bool {
        mask == !0
    }

    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        // SAFETY: the machine has the instruction.
        Self(unsafe { _mm512_mask_blend_ps(mask, no.0, yes.0) })
    }
}
