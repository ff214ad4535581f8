//! Lanes in AVX2 and AVX-512 vectors.

// Unsafe here: instructions that a CPU may lack. Only detection makes a token, every constructor takes one and every vector carries one, so
// that a vector or a token in hand proves that the CPU supports the instructions.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

use super::doubles::x86::{Avx2Doubles, Avx512Doubles};
use super::{Lanes, ROUND};

/// Proof that the CPU supports AVX2, FMA, BMI2 and F16C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx2Token(());

impl Avx2Token {
    /// Returns the token if the CPU supports them.
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }
}

/// Proof that the CPU supports AVX-512 F, BW, DQ and VL, and all that [`Avx2Token`] proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512Token(Avx2Token);

impl Avx512Token {
    /// Returns the token if the CPU supports them.
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        Avx2Token::detect().filter(|_| found).map(Self)
    }
}

impl From<Avx512Token> for Avx2Token {
    #[inline(always)]
    fn from(token: Avx512Token) -> Self {
        token.0
    }
}

macro_rules! operators {
    ($lanes:ident, $($op:ident $method:ident $instruction:ident),*) => {$(
        impl $op for $lanes {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: the lanes hold the proof that the CPU has the instruction.
                Self(unsafe { $instruction(self.0, other.0) }, self.1)
            }
        }
    )*};
}

/// Methods that differ between the two sets in instructions only.
macro_rules! common {
    ($count:literal, $token:ident, $doubles:ident, $splat:ident, $load:ident, $store:ident, $sqrt:ident, $max:ident, $min:ident) => {
        const COUNT: usize = $count;
        type Token = $token;
        type Eight = Avx2;
        type Doubles = $doubles;

        #[inline(always)]
        fn token(self) -> Self::Token {
            self.1
        }

        #[inline(always)]
        fn splat(token: Self::Token, value: f32) -> Self {
            // SAFETY: a token proves that the CPU has the instruction.
            Self(unsafe { $splat(value) }, token)
        }

        #[inline(always)]
        fn gather(token: Self::Token, values: &[f32], stride: usize) -> Self {
            let mut lanes = [0.0; $count];
            let values = &values[..($count - 1) * stride + 1];
            for (i, lane) in lanes.iter_mut().enumerate() {
                *lane = values[i * stride];
            }
            Self::load(token, &lanes)
        }

        #[inline(always)]
        fn load(token: Self::Token, values: &[f32]) -> Self {
            let values: &[f32] = &values[..$count];
            // SAFETY: a token proves that the CPU has the instruction, and the slice has as many numbers as it reads, from any address.
            Self(unsafe { $load(values.as_ptr()) }, token)
        }

        #[inline(always)]
        fn store(self, values: &mut [f32]) {
            let values: &mut [f32] = &mut values[..$count];
            // SAFETY: a token proves that the CPU has the instruction, and the slice has as many numbers as it writes, to any address.
            unsafe { $store(values.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        fn entries(_: Self::Token, table: &[i8; 16], codes: &[u8; 16]) -> [u8; 16] {
            let mut entries = [0; 16];
            // SAFETY: a token proves that the CPU has the instructions, and sixteen bytes are read, and written, from and to any address.
            unsafe {
                let table = _mm_loadu_si128(table.as_ptr().cast());
                let found = _mm_shuffle_epi8(table, _mm_loadu_si128(codes.as_ptr().cast()));
                _mm_storeu_si128(entries.as_mut_ptr().cast(), found);
            }
            entries
        }

        #[inline(always)]
        fn bit_planes(_: Self::Token, bytes: &[u8; 32]) -> [u32; 4] {
            // SAFETY: a token proves that the CPU has the instructions, and thirty-two bytes are read, from any address.
            unsafe {
                let bytes = _mm256_loadu_si256(bytes.as_ptr().cast());
                // Shifting pairs of bytes moves the bit to the top of both.
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
            // The largest number below 0.5, so that the sum reaches the next integer exactly from a half on.
            (self + Self::with_sign(0.5 - f32::EPSILON / 4.0, self)).trunc()
        }

        #[inline(always)]
        fn sqrt(self) -> Self {
            // SAFETY: a token proves that the CPU has the instruction.
            Self(unsafe { $sqrt(self.0) }, self.1)
        }

        #[inline(always)]
        fn max(self, other: Self) -> Self {
            // SAFETY: a token proves that the CPU has the instruction.
            Self(unsafe { $max(self.0, other.0) }, self.1)
        }

        #[inline(always)]
        fn min(self, other: Self) -> Self {
            // SAFETY: a token proves that the CPU has the instruction.
            Self(unsafe { $min(self.0, other.0) }, self.1)
        }

        #[inline(always)]
        fn map(self, function: impl Fn(f32) -> f32) -> Self {
            let mut lanes = [0.0; $count];
            self.store(&mut lanes);
            for lane in &mut lanes {
                *lane = function(*lane);
            }
            Self::load(self.1, &lanes)
        }
    };
}

/// Eight lanes.
#[derive(Clone, Copy)]
pub(super) struct Avx2(pub(super) __m256, pub(super) Avx2Token);

impl Avx2 {
    /// Returns a magnitude with the sign of each number.
    #[inline(always)]
    fn with_sign(size: f32, signs: Self) -> Self {
        // SAFETY: a token proves that the CPU has the instructions.
        Self(unsafe { _mm256_or_ps(_mm256_and_ps(signs.0, _mm256_set1_ps(-0.0)), _mm256_set1_ps(size)) }, signs.1)
    }
}

operators!(Avx2, Add add _mm256_add_ps, Sub sub _mm256_sub_ps, Mul mul _mm256_mul_ps, Div div _mm256_div_ps);

impl Lanes for Avx2 {
    common!(8, Avx2Token, Avx2Doubles, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_sqrt_ps, _mm256_max_ps, _mm256_min_ps);

    /// All bits of a lane, or none.
    type Mask = Self;

    #[inline(always)]
    fn from_bytes(token: Self::Token, bytes: &[u8]) -> Self {
        let bytes: &[u8] = &bytes[..8];
        // SAFETY: a token proves that the CPU has the instructions, and the slice has the eight bytes that are read, from any address.
        Self(unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes.as_ptr().cast()))) }, token)
    }

    #[inline(always)]
    fn from_signed_bytes(token: Self::Token, bytes: &[u8]) -> Self {
        let bytes: &[u8] = &bytes[..8];
        // SAFETY: as above.
        Self(unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes.as_ptr().cast()))) }, token)
    }

    #[inline(always)]
    fn store_bytes(self, bytes: &mut [u8]) {
        let bytes: &mut [u8] = &mut bytes[..8];
        let whole = (self + Self::splat(self.1, ROUND)).0;
        // SAFETY: a token proves that the CPU has the instructions, and the slice has the eight bytes that are written, to any address.
        unsafe {
            let low = _mm256_and_si256(_mm256_castps_si256(whole), _mm256_set1_epi32(0xff));
            let pairs = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256::<1>(low));
            _mm_storel_epi64(bytes.as_mut_ptr().cast(), _mm_packus_epi16(pairs, pairs));
        }
    }

    #[inline(always)]
    fn from_f16s(token: Self::Token, bytes: &[u8]) -> Self {
        let bytes: &[u8] = &bytes[..16];
        // SAFETY: a token proves that the CPU has the instructions, and the slice has the 16 bytes that are read, from any address.
        Self(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(bytes.as_ptr().cast())) }, token)
    }

    #[inline(always)]
    fn store_f16s(self, bytes: &mut [u8]) {
        let bytes: &mut [u8] = &mut bytes[..16];
        // SAFETY: a token proves that the CPU has the instructions, and the slice has the 16 bytes that are written, to any address.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) }
    }

    #[inline(always)]
    fn trunc(self) -> Self {
        // SAFETY: a token proves that the CPU has the instruction.
        Self(unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(self.0) }, self.1)
    }

    #[inline(always)]
    fn nearest(self) -> Self {
        // SAFETY: a token proves that the CPU has the instruction.
        Self(unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) }, self.1)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: a token proves that the CPU has the instruction.
        Self(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) }, self.1)
    }

    #[inline(always)]
    fn lt(self, other: Self) -> Self::Mask {
        // SAFETY: a token proves that the CPU has the instruction.
        Self(unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, other.0) }, self.1)
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Self::Mask {
        // SAFETY: a token proves that the CPU has the instruction.
        Self(unsafe { _mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, other.0) }, self.1)
    }

    #[inline(always)]
    fn and(one: Self::Mask, other: Self::Mask) -> Self::Mask {
        // SAFETY: a token proves that the CPU has the instruction.
        Self(unsafe { _mm256_and_ps(one.0, other.0) }, one.1)
    }

    #[inline(always)]
    fn any(mask: Self::Mask) -> bool {
        // SAFETY: a token proves that the CPU has the instruction.
        unsafe { _mm256_movemask_ps(mask.0) != 0 }
    }

    #[inline(always)]
    fn all(mask: Self::Mask) -> bool {
        // SAFETY: a token proves that the CPU has the instruction.
        unsafe { _mm256_movemask_ps(mask.0) == 0xff }
    }

    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        // SAFETY: a token proves that the CPU has the instruction.
        Self(unsafe { _mm256_blendv_ps(no.0, yes.0, mask.0) }, no.1)
    }
}

/// Sixteen lanes.
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512, Avx512Token);

impl Avx512 {
    /// Returns a magnitude with the sign of each number.
    #[inline(always)]
    fn with_sign(size: f32, signs: Self) -> Self {
        // SAFETY: a token proves that the CPU has the instructions.
        Self(unsafe { _mm512_or_ps(_mm512_and_ps(signs.0, _mm512_set1_ps(-0.0)), _mm512_set1_ps(size)) }, signs.1)
    }
}

operators!(Avx512, Add add _mm512_add_ps, Sub sub _mm512_sub_ps, Mul mul _mm512_mul_ps, Div div _mm512_div_ps);

impl Lanes for Avx512 {
    common!(
        16,
        Avx512Token,
        Avx512Doubles,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_sqrt_ps,
        _mm512_max_ps,
        _mm512_min_ps
    );

    /// One bit per lane.
    type Mask = __mmask16;

    #[inline(always)]
    fn from_bytes(token: Self::Token, bytes: &[u8]) -> Self {
        let bytes: &[u8] = &bytes[..16];
        // SAFETY: a token proves that the CPU has the instructions, and the slice has the sixteen bytes that are read, from any address.
        Self(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()))) }, token)
    }

    #[inline(always)]
    fn from_signed_bytes(token: Self::Token, bytes: &[u8]) -> Self {
        let bytes: &[u8] = &bytes[..16];
        // SAFETY: as above.
        Self(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()))) }, token)
    }

    #[inline(always)]
    fn store_bytes(self, bytes: &mut [u8]) {
        let bytes: &mut [u8] = &mut bytes[..16];
        let whole = (self + Self::splat(self.1, ROUND)).0;
        // SAFETY: a token proves that the CPU has the instructions, and the slice has the sixteen bytes that are written, to any address.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_castps_si512(whole))) }
    }

    #[inline(always)]
    fn from_f16s(token: Self::Token, bytes: &[u8]) -> Self {
        let bytes: &[u8] = &bytes[..32];
        // SAFETY: a token proves that the CPU has the instructions, and the slice has the 32 bytes that are read, from any address.
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().cast())) }, token)
    }

    #[inline(always)]
    fn store_f16s(self, bytes: &mut [u8]) {
        let bytes: &mut [u8] = &mut bytes[..32];
        // SAFETY: a token proves that the CPU has the instructions, and the slice has the 32 bytes that are written, to any address.
        unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) }
    }

    #[inline(always)]
    fn trunc(self) -> Self {
        // SAFETY: a token proves that the CPU has the instruction.
        Self(unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(self.0) }, self.1)
    }

    #[inline(always)]
    fn nearest(self) -> Self {
        // SAFETY: a token proves that the CPU has the instruction.
        Self(unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) }, self.1)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: a token proves that the CPU has the instruction.
        Self(unsafe { _mm512_abs_ps(self.0) }, self.1)
    }

    #[inline(always)]
    fn lt(self, other: Self) -> Self::Mask {
        // SAFETY: a token proves that the CPU has the instruction.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0) }
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Self::Mask {
        // SAFETY: a token proves that the CPU has the instruction.
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
        // SAFETY: a token proves that the CPU has the instruction.
        Self(unsafe { _mm512_mask_blend_ps(mask, no.0, yes.0) }, no.1)
    }
}
