//! Vectors of eight double-precision numbers, for accurate sums.

use std::ops::{Add, Mul, Sub};

/// Number of lanes of [`Doubles`].
pub(crate) const EIGHT: usize = 8;

/// Vector of eight double-precision numbers. Lanes are independent.
pub(crate) trait Doubles: Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> {
    /// Proof that the CPU supports the instructions.
    type Token: Copy;

    /// Broadcasts a number to all lanes.
    fn splat(token: Self::Token, value: f64) -> Self;
    /// Loads the first eight numbers of a slice.
    fn load(token: Self::Token, values: &[f64]) -> Self;
    /// Loads and widens the first eight single-precision numbers of a slice.
    fn widen(token: Self::Token, values: &[f32]) -> Self;
    /// Returns the magnitudes.
    fn abs(self) -> Self;
    /// Returns `self > other ? self : other`, which is `other` if either is NaN.
    fn max(self, other: Self) -> Self;
    /// Returns `self * factor + addend`, rounded once.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// Returns the lanes as an array.
    fn lanes(self) -> [f64; EIGHT];

    /// Returns the sum of the lanes, added pairwise.
    #[inline(always)]
    fn total(self) -> f64 {
        let lanes = self.lanes();
        ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]))
    }
}

/// Number that double precision holds exactly.
pub(crate) trait Widen: Copy + PartialEq {
    /// Returns the number in double precision.
    fn wide(self) -> f64;
    /// Loads the first eight numbers of a slice.
    fn eight<D: Doubles>(token: D::Token, values: &[Self]) -> D;
}

impl Widen for f64 {
    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }

    #[inline(always)]
    fn eight<D: Doubles>(token: D::Token, values: &[Self]) -> D {
        D::load(token, values)
    }
}

impl Widen for f32 {
    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn eight<D: Doubles>(token: D::Token, values: &[Self]) -> D {
        D::widen(token, values)
    }
}

/// Single-precision number as stored, little-endian.
impl Widen for [u8; 4] {
    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(f32::from_le_bytes(self))
    }

    #[inline(always)]
    fn eight<D: Doubles>(token: D::Token, values: &[Self]) -> D {
        let mut singles = [0.0; EIGHT];
        for (single, bytes) in singles.iter_mut().zip(&values[..EIGHT]) {
            *single = f32::from_le_bytes(*bytes);
        }
        D::widen(token, &singles)
    }
}

/// Doubles in plain Rust, which the compiler vectorises.
#[derive(Clone, Copy)]
pub(crate) struct PlainDoubles([f64; EIGHT]);

macro_rules! plain {
    ($($op:ident $method:ident $assign:tt),*) => {$(
        impl $op for PlainDoubles {
            type Output = Self;

            #[inline(always)]
            fn $method(mut self, other: Self) -> Self {
                for i in 0..EIGHT {
                    self.0[i] $assign other.0[i];
                }
                self
            }
        }
    )*};
}

plain!(Add add +=, Sub sub -=, Mul mul *=);

impl Doubles for PlainDoubles {
    type Token = ();

    #[inline(always)]
    fn splat((): (), value: f64) -> Self {
        Self([value; EIGHT])
    }

    #[inline(always)]
    fn load((): (), values: &[f64]) -> Self {
        let mut lanes = [0.0; EIGHT];
        lanes.copy_from_slice(&values[..EIGHT]);
        Self(lanes)
    }

    #[inline(always)]
    fn widen((): (), values: &[f32]) -> Self {
        let mut lanes = [0.0; EIGHT];
        for (lane, value) in lanes.iter_mut().zip(&values[..EIGHT]) {
            *lane = f64::from(*value);
        }
        Self(lanes)
    }

    #[inline(always)]
    fn abs(mut self) -> Self {
        for lane in &mut self.0 {
            *lane = lane.abs();
        }
        self
    }

    #[inline(always)]
    fn max(mut self, other: Self) -> Self {
        for i in 0..EIGHT {
            self.0[i] = if self.0[i] > other.0[i] { self.0[i] } else { other.0[i] };
        }
        self
    }

    #[inline(always)]
    fn mul_add(mut self, factor: Self, addend: Self) -> Self {
        for i in 0..EIGHT {
            self.0[i] = self.0[i].mul_add(factor.0[i], addend.0[i]);
        }
        self
    }

    #[inline(always)]
    fn lanes(self) -> [f64; EIGHT] {
        self.0
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::*;
    use std::ops::{Add, Mul, Sub};

    use super::super::x86::{Avx2Token, Avx512Token};
    use super::{Doubles, EIGHT};

    /// Eight doubles in two AVX2 vectors.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2Doubles(__m256d, __m256d, Avx2Token);

    /// Eight doubles in one AVX-512 vector.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512Doubles(__m512d, Avx512Token);

    macro_rules! operators {
        ($($op:ident $method:ident $avx2:ident $avx512:ident),*) => {$(
            impl $op for Avx2Doubles {
                type Output = Self;

                #[inline(always)]
                fn $method(self, other: Self) -> Self {
                    // SAFETY: the token proves that the CPU has the instruction.
                    unsafe { Self($avx2(self.0, other.0), $avx2(self.1, other.1), self.2) }
                }
            }

            impl $op for Avx512Doubles {
                type Output = Self;

                #[inline(always)]
                fn $method(self, other: Self) -> Self {
                    // SAFETY: as above.
                    Self(unsafe { $avx512(self.0, other.0) }, self.1)
                }
            }
        )*};
    }

    operators!(
        Add add _mm256_add_pd _mm512_add_pd,
        Sub sub _mm256_sub_pd _mm512_sub_pd,
        Mul mul _mm256_mul_pd _mm512_mul_pd
    );

    impl Doubles for Avx2Doubles {
        type Token = Avx2Token;

        #[inline(always)]
        fn splat(token: Self::Token, value: f64) -> Self {
            // SAFETY: the token proves that the CPU has the instruction.
            unsafe { Self(_mm256_set1_pd(value), _mm256_set1_pd(value), token) }
        }

        #[inline(always)]
        fn load(token: Self::Token, values: &[f64]) -> Self {
            let values: &[f64] = &values[..EIGHT];
            // SAFETY: a token proves that the CPU has the instruction, and the slice has the eight numbers that are read, from any address.
            unsafe { Self(_mm256_loadu_pd(values.as_ptr()), _mm256_loadu_pd(values[4..].as_ptr()), token) }
        }

        #[inline(always)]
        fn widen(token: Self::Token, values: &[f32]) -> Self {
            let values: &[f32] = &values[..EIGHT];
            // SAFETY: as above.
            unsafe { Self(_mm256_cvtps_pd(_mm_loadu_ps(values.as_ptr())), _mm256_cvtps_pd(_mm_loadu_ps(values[4..].as_ptr())), token) }
        }

        #[inline(always)]
        fn abs(self) -> Self {
            // SAFETY: a token proves that the CPU has the instructions.
            unsafe {
                let sign = _mm256_set1_pd(-0.0);
                Self(_mm256_andnot_pd(sign, self.0), _mm256_andnot_pd(sign, self.1), self.2)
            }
        }

        #[inline(always)]
        fn max(self, other: Self) -> Self {
            // SAFETY: a token proves that the CPU has the instruction.
            unsafe { Self(_mm256_max_pd(self.0, other.0), _mm256_max_pd(self.1, other.1), self.2) }
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            // SAFETY: as above.
            unsafe { Self(_mm256_fmadd_pd(self.0, factor.0, addend.0), _mm256_fmadd_pd(self.1, factor.1, addend.1), self.2) }
        }

        #[inline(always)]
        fn lanes(self) -> [f64; EIGHT] {
            let mut lanes = [0.0; EIGHT];
            // SAFETY: a token proves that the CPU has the instruction, and eight numbers fit, at any address.
            unsafe {
                _mm256_storeu_pd(lanes.as_mut_ptr(), self.0);
                _mm256_storeu_pd(lanes[4..].as_mut_ptr(), self.1);
            }
            lanes
        }
    }

    impl Doubles for Avx512Doubles {
        type Token = Avx512Token;

        #[inline(always)]
        fn splat(token: Self::Token, value: f64) -> Self {
            // SAFETY: the token proves that the CPU has the instruction.
            Self(unsafe { _mm512_set1_pd(value) }, token)
        }

        #[inline(always)]
        fn load(token: Self::Token, values: &[f64]) -> Self {
            let values: &[f64] = &values[..EIGHT];
            // SAFETY: a token proves that the CPU has the instruction, and the slice has the eight numbers that are read, from any address.
            Self(unsafe { _mm512_loadu_pd(values.as_ptr()) }, token)
        }

        #[inline(always)]
        fn widen(token: Self::Token, values: &[f32]) -> Self {
            let values: &[f32] = &values[..EIGHT];
            // SAFETY: as above.
            Self(unsafe { _mm512_cvtps_pd(_mm256_loadu_ps(values.as_ptr())) }, token)
        }

        #[inline(always)]
        fn abs(self) -> Self {
            // SAFETY: a token proves that the CPU has the instruction.
            Self(unsafe { _mm512_abs_pd(self.0) }, self.1)
        }

        #[inline(always)]
        fn max(self, other: Self) -> Self {
            // SAFETY: a token proves that the CPU has the instruction.
            Self(unsafe { _mm512_max_pd(self.0, other.0) }, self.1)
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_fmadd_pd(self.0, factor.0, addend.0) }, self.1)
        }

        #[inline(always)]
        fn lanes(self) -> [f64; EIGHT] {
            let mut lanes = [0.0; EIGHT];
            // SAFETY: a token proves that the CPU has the instruction, and eight numbers fit, at any address.
            unsafe { _mm512_storeu_pd(lanes.as_mut_ptr(), self.0) }
            lanes
        }
    }
}
