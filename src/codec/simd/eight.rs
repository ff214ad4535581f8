//! Vectors of eight lanes that also serve as lookup tables of eight entries.

use super::{Lanes, Plain};

/// Vector of eight lanes, which can also be a table of eight numbers.
pub(crate) trait Eight: Lanes {
    /// Integers of up to 16 bits, one per lane.
    type Codes: Copy;

    /// Loads a code for each lane.
    fn codes(token: Self::Token, codes: &[u16; 8]) -> Self::Codes;
    /// Looks up, for each lane, the entry of this table that bits `shift..shift + 3` of its code select.
    fn lookup(self, codes: Self::Codes, shift: usize) -> Self;
    /// Evaluates the step function in each lane. NaN is on the last step.
    fn on_step(self, steps: &StepFunction) -> Self;
    /// Returns the smallest lane; no lane may be NaN.
    fn reduce_min(self) -> f32;
    /// Returns the index of the first true lane, or 8.
    fn first(mask: Self::Mask) -> usize;
}

/// Step function with sixteen steps.
#[derive(Debug)]
pub(crate) struct StepFunction {
    /// Start of each step but the first, ascending.
    pub(crate) starts: [f32; 15],
    /// Value of each step.
    pub(crate) values: [f32; 16],
}

impl Eight for Plain<8> {
    type Codes = [u16; 8];

    #[inline(always)]
    fn codes(_: Self::Token, codes: &[u16; 8]) -> Self::Codes {
        *codes
    }

    #[inline(always)]
    fn lookup(self, codes: Self::Codes, shift: usize) -> Self {
        Self(codes.map(|code| self.0[usize::from(code >> shift) & 7]))
    }

    #[inline(always)]
    fn on_step(self, steps: &StepFunction) -> Self {
        Self(self.0.map(|x| steps.values[15 - steps.starts.iter().map(|&start| usize::from(x < start)).sum::<usize>()]))
    }

    #[inline(always)]
    fn reduce_min(self) -> f32 {
        self.0.into_iter().fold(f32::INFINITY, f32::min)
    }

    #[inline(always)]
    fn first(mask: Self::Mask) -> usize {
        mask.iter().position(|&lane| lane).unwrap_or(8)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::x86::Avx2;
    use super::{Eight, StepFunction};

    // As in `x86.rs`: lanes and tokens prove that the CPU supports the instructions.
    impl Eight for Avx2 {
        type Codes = __m256i;

        #[inline(always)]
        fn codes(_: Self::Token, codes: &[u16; 8]) -> Self::Codes {
            // SAFETY: a token proves that the CPU has the instructions, and eight numbers of 16 bits are read.
            unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(codes.as_ptr().cast())) }
        }

        #[inline(always)]
        fn lookup(self, codes: Self::Codes, shift: usize) -> Self {
            // SAFETY: a token proves that the CPU has the instructions. The permutation looks at three bits of each lane.
            Self(unsafe { _mm256_permutevar8x32_ps(self.0, _mm256_srl_epi32(codes, _mm_cvtsi32_si128(shift as i32))) }, self.1)
        }

        #[inline(always)]
        fn on_step(self, StepFunction { starts: s, values }: &StepFunction) -> Self {
            let [third, fourth] = [[s[1], s[5], s[9], s[13], s[1], s[5], s[9], s[13]], [s[0], s[2], s[4], s[6], s[8], s[10], s[12], s[14]]];
            // SAFETY: a token proves that the CPU has the instructions, and each load is of eight numbers.
            // Binary search for the step, one bit of its index at a time; a comparison sets all bits of a lane or none.
            let values = unsafe {
                let not_below = |start| _mm256_castps_si256(_mm256_cmp_ps::<_CMP_NLT_UQ>(self.0, start));
                let append = |number, bit| _mm256_sub_epi32(_mm256_add_epi32(number, number), bit);
                let eighth = not_below(_mm256_set1_ps(s[7]));
                let upper = _mm256_castsi256_ps(eighth);
                let bit = not_below(_mm256_blendv_ps(_mm256_set1_ps(s[3]), _mm256_set1_ps(s[11]), upper));
                let number = append(_mm256_sub_epi32(_mm256_setzero_si256(), eighth), bit);
                let bit = not_below(_mm256_permutevar8x32_ps(_mm256_loadu_ps(third.as_ptr()), number));
                let number = append(number, bit);
                let bit = not_below(_mm256_permutevar8x32_ps(_mm256_loadu_ps(fourth.as_ptr()), number));
                let number = append(number, bit);
                let low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(values.as_ptr()), number);
                let high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(values[8..].as_ptr()), number);
                _mm256_blendv_ps(low, high, upper)
            };
            Self(values, self.1)
        }

        #[inline(always)]
        fn reduce_min(self) -> f32 {
            // SAFETY: a token proves that the CPU has the instructions.
            unsafe {
                let four = _mm_min_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
                let two = _mm_min_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)))
            }
        }

        #[inline(always)]
        fn first(mask: Self::Mask) -> usize {
            // SAFETY: a token proves that the CPU has the instruction.
            let mask = unsafe { _mm256_movemask_ps(mask.0) };
            (mask | 0x100).trailing_zeros() as usize
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Kernel, Lanes, on_each_level, run};
    use super::{Eight, StepFunction};

    struct LookUp;

    impl Kernel for LookUp {
        type Output = Vec<u32>;

        #[inline(always)]
        fn run<V: Lanes>(self, token: V::Token) -> Self::Output {
            let token = token.into();
            let steps = StepFunction { starts: std::array::from_fn(|i| i as f32 * 1.5 - 10.0), values: std::array::from_fn(|i| i as f32) };
            let mut found = Vec::new();
            let mut keep = |lanes: V::Eight| {
                let mut out = [0.0; 8];
                lanes.store(&mut out);
                found.extend(out.map(f32::to_bits));
            };
            let table = V::Eight::load(token, &[0.5, -1.0, 2.0, f32::INFINITY, 4.0, 5.0, -0.0, 7.0]);
            let codes = V::Eight::codes(token, &[0, 1, 0x1234, 0xffff, 0x8000, 511, 42, 0x0ff0]);
            for shift in 0..14 {
                keep(table.lookup(codes, shift));
            }
            for start in steps.starts {
                let values = [start, start.next_down(), start.next_up(), -start, 0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
                keep(V::Eight::load(token, &values).on_step(&steps));
            }
            let lanes = V::Eight::load(token, &[3.0, 2.0, -1.0, 8.0, -1.0, 9.0, f32::INFINITY, 0.0]);
            keep(V::Eight::splat(token, lanes.reduce_min()));
            for value in [-1.0, 3.0, 0.0, 17.0] {
                keep(V::Eight::splat(token, V::Eight::first(lanes.eq(V::Eight::splat(token, value))) as f32));
            }
            found
        }
    }

    #[test]
    fn lookups_agree_on_every_instruction_set() {
        let mut all = Vec::new();
        on_each_level(|_| all.push(run(LookUp)));
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(all[0][0..3], [0.5f32, -1.0, 4.0].map(f32::to_bits));
        assert_eq!(f32::from_bits(all[0][14 * 8 + 5]), 15.0, "a NaN is on the last step");
    }
}
