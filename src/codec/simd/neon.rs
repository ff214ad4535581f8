//! Lanes in NEON vectors: eight, in two vectors of four. NEON is part of the AArch64 baseline.

// Unsafe here: NEON instructions, and loads and stores through pointers.

use std::arch::aarch64::*;
use std::ops::{Add, Div, Mul, Sub};

use super::{Eight, Lanes, PlainDoubles, ROUND, StepFunction};
use crate::codec::half::{f16_to_f32, f32_to_f16};

/// Wraps instructions that do not access memory.
macro_rules! neon {
    ($work:expr) => {
        // SAFETY: every AArch64 CPU has NEON.
        unsafe { $work }
    };
}

/// Eight lanes.
#[derive(Clone, Copy)]
pub(super) struct Neon(float32x4_t, float32x4_t);

macro_rules! operators {
    ($($op:ident $method:ident $instruction:ident),*) => {$(
        impl $op for Neon {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                neon!(Self($instruction(self.0, other.0), $instruction(self.1, other.1)))
            }
        }
    )*};
}

operators!(Add add vaddq_f32, Sub sub vsubq_f32, Mul mul vmulq_f32, Div div vdivq_f32);

impl Lanes for Neon {
    const COUNT: usize = 8;
    /// Nothing to prove: every AArch64 CPU has NEON.
    type Token = ();
    /// All bits of a lane, or none.
    type Mask = (uint32x4_t, uint32x4_t);
    type Eight = Self;
    /// Left to the compiler, since NEON is enabled everywhere.
    type Doubles = PlainDoubles;

    #[inline(always)]
    fn token(self) {}

    #[inline(always)]
    fn splat((): (), value: f32) -> Self {
        neon!(Self(vdupq_n_f32(value), vdupq_n_f32(value)))
    }

    #[inline(always)]
    fn gather((): (), values: &[f32], stride: usize) -> Self {
        let mut lanes = [0.0; 8];
        let values = &values[..7 * stride + 1];
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = values[i * stride];
        }
        Self::load((), &lanes)
    }

    #[inline(always)]
    fn load((): (), values: &[f32]) -> Self {
        let values: &[f32] = &values[..8];
        // SAFETY: the slice has the eight numbers that are read, from any address.
        unsafe { Self(vld1q_f32(values.as_ptr()), vld1q_f32(values[4..].as_ptr())) }
    }

    #[inline(always)]
    fn store(self, values: &mut [f32]) {
        let (low, high) = values[..8].split_at_mut(4);
        // SAFETY: each half has the four numbers that are written, to any address.
        unsafe {
            vst1q_f32(low.as_mut_ptr(), self.0);
            vst1q_f32(high.as_mut_ptr(), self.1);
        }
    }

    #[inline(always)]
    fn from_bytes((): (), bytes: &[u8]) -> Self {
        let bytes: &[u8] = &bytes[..8];
        // SAFETY: the slice has the eight bytes that are read, from any address.
        let bytes = unsafe { vld1_u8(bytes.as_ptr()) };
        let words = neon!(vmovl_u8(bytes));
        neon!(Self(vcvtq_f32_u32(vmovl_u16(vget_low_u16(words))), vcvtq_f32_u32(vmovl_high_u16(words))))
    }

    #[inline(always)]
    fn from_signed_bytes((): (), bytes: &[u8]) -> Self {
        let bytes: &[u8] = &bytes[..8];
        // SAFETY: as above.
        let bytes = unsafe { vld1_u8(bytes.as_ptr()) };
        let words = neon!(vmovl_s8(vreinterpret_s8_u8(bytes)));
        neon!(Self(vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))), vcvtq_f32_s32(vmovl_high_s16(words))))
    }

    #[inline(always)]
    fn from_f16s((): (), bytes: &[u8]) -> Self {
        let mut lanes = [0.0; 8];
        for (lane, bytes) in lanes.iter_mut().zip(bytes[..16].as_chunks().0) {
            *lane = f16_to_f32(*bytes);
        }
        Self::load((), &lanes)
    }

    #[inline(always)]
    fn store_f16s(self, bytes: &mut [u8]) {
        let mut lanes = [0.0; 8];
        self.store(&mut lanes);
        for (bytes, lane) in bytes[..16].as_chunks_mut().0.iter_mut().zip(lanes) {
            *bytes = f32_to_f16(lane);
        }
    }

    #[inline(always)]
    fn entries((): (), table: &[i8; 16], codes: &[u8; 16]) -> [u8; 16] {
        let mut entries = [0; 16];
        // SAFETY: every AArch64 CPU has NEON, and sixteen bytes are read, and written.
        unsafe { vst1q_u8(entries.as_mut_ptr(), vqtbl1q_u8(vreinterpretq_u8_s8(vld1q_s8(table.as_ptr())), vld1q_u8(codes.as_ptr()))) };
        entries
    }

    #[inline(always)]
    fn store_bytes(self, bytes: &mut [u8]) {
        let bytes: &mut [u8] = &mut bytes[..8];
        let whole = self + Self::splat((), ROUND);
        let words = neon!(vmovn_high_u32(vmovn_u32(vreinterpretq_u32_f32(whole.0)), vreinterpretq_u32_f32(whole.1)));
        // SAFETY: the slice has the eight bytes that are written, to any address.
        unsafe { vst1_u8(bytes.as_mut_ptr(), vmovn_u16(words)) }
    }

    #[inline(always)]
    fn trunc(self) -> Self {
        neon!(Self(vrndq_f32(self.0), vrndq_f32(self.1)))
    }

    #[inline(always)]
    fn nearest(self) -> Self {
        neon!(Self(vrndnq_f32(self.0), vrndnq_f32(self.1)))
    }

    #[inline(always)]
    fn round(self) -> Self {
        neon!(Self(vrndaq_f32(self.0), vrndaq_f32(self.1)))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        neon!(Self(vabsq_f32(self.0), vabsq_f32(self.1)))
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        neon!(Self(vsqrtq_f32(self.0), vsqrtq_f32(self.1)))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // `vmaxq_f32` would give NaN if either operand is NaN.
        Self::select(other.lt(self), self, other)
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self::select(self.lt(other), self, other)
    }

    #[inline(always)]
    fn lt(self, other: Self) -> Self::Mask {
        neon!((vcltq_f32(self.0, other.0), vcltq_f32(self.1, other.1)))
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Self::Mask {
        neon!((vceqq_f32(self.0, other.0), vceqq_f32(self.1, other.1)))
    }

    #[inline(always)]
    fn and(one: Self::Mask, other: Self::Mask) -> Self::Mask {
        neon!((vandq_u32(one.0, other.0), vandq_u32(one.1, other.1)))
    }

    #[inline(always)]
    fn any(mask: Self::Mask) -> bool {
        neon!(vmaxvq_u32(vorrq_u32(mask.0, mask.1))) != 0
    }

    #[inline(always)]
    fn all(mask: Self::Mask) -> bool {
        neon!(vminvq_u32(vandq_u32(mask.0, mask.1))) != 0
    }

    #[inline(always)]
    fn map(self, function: impl Fn(f32) -> f32) -> Self {
        let mut lanes = [0.0; 8];
        self.store(&mut lanes);
        for lane in &mut lanes {
            *lane = function(*lane);
        }
        Self::load((), &lanes)
    }

    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        neon!(Self(vbslq_f32(mask.0, yes.0, no.0), vbslq_f32(mask.1, yes.1, no.1)))
    }
}

/// Returns, for each lane's entry, the indices of its four bytes in a table of single-precision numbers.
#[inline(always)]
fn bytes_of_entries(entries: uint32x4_t) -> uint8x16_t {
    neon!(vreinterpretq_u8_u32(vmlaq_n_u32(vdupq_n_u32(0x0302_0100), entries, 0x0404_0404)))
}

impl Eight for Neon {
    type Codes = (uint32x4_t, uint32x4_t);

    #[inline(always)]
    fn codes((): (), codes: &[u16; 8]) -> Self::Codes {
        // SAFETY: eight numbers of 16 bits are read.
        let codes = unsafe { vld1q_u16(codes.as_ptr()) };
        neon!((vmovl_u16(vget_low_u16(codes)), vmovl_high_u16(codes)))
    }

    #[inline(always)]
    fn lookup(self, codes: Self::Codes, shift: usize) -> Self {
        neon!({
            let table = uint8x16x2_t(vreinterpretq_u8_f32(self.0), vreinterpretq_u8_f32(self.1));
            let (shift, three_bits) = (vdupq_n_s32(-(shift as i32)), vdupq_n_u32(7));
            let low = bytes_of_entries(vandq_u32(vshlq_u32(codes.0, shift), three_bits));
            let high = bytes_of_entries(vandq_u32(vshlq_u32(codes.1, shift), three_bits));
            Self(vreinterpretq_f32_u8(vqtbl2q_u8(table, low)), vreinterpretq_f32_u8(vqtbl2q_u8(table, high)))
        })
    }

    #[inline(always)]
    fn on_step(self, StepFunction { starts, values }: &StepFunction) -> Self {
        // A true lane is -1, so each start above the value takes one from the index of the last step.
        let mut step = neon!((vdupq_n_u32(15), vdupq_n_u32(15)));
        for start in starts {
            let below = self.lt(Self::splat((), *start));
            step = neon!((vaddq_u32(step.0, below.0), vaddq_u32(step.1, below.1)));
        }
        let (a, b) = (Self::load((), &values[..8]), Self::load((), &values[8..]));
        neon!({
            let bytes = |numbers| vreinterpretq_u8_f32(numbers);
            let table = uint8x16x4_t(bytes(a.0), bytes(a.1), bytes(b.0), bytes(b.1));
            let (low, high) = (bytes_of_entries(step.0), bytes_of_entries(step.1));
            Self(vreinterpretq_f32_u8(vqtbl4q_u8(table, low)), vreinterpretq_f32_u8(vqtbl4q_u8(table, high)))
        })
    }

    #[inline(always)]
    fn reduce_min(self) -> f32 {
        neon!(vminvq_f32(vminq_f32(self.0, self.1)))
    }

    #[inline(always)]
    fn first(mask: Self::Mask) -> usize {
        // Narrow to eight bits per lane: the first lane has the lowest bits.
        let lanes = neon!(vget_lane_u64::<0>(vreinterpret_u64_u8(vmovn_u16(vmovn_high_u32(vmovn_u32(mask.0), mask.1)))));
        lanes.trailing_zeros() as usize / 8
    }
}
