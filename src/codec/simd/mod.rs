//! Kernels for the instruction sets of this machine, selected at run time.
//!
//! A [`Kernel`] is written once, generic over [`Lanes`], and compiled for each instruction set. Each lane computes what scalar code would,
//! in the same order, and multiply-add is fused only where a kernel asks for it, so that all instruction sets give the same bits.

// Unsafe here: instructions that a CPU may lack, for which tokens prove support, and loads and stores through pointers.
#![allow(unsafe_code)]

use std::ops::{Add, Div, Mul, Sub};

use super::half::{f16_to_f32, f32_to_f16};

mod doubles;
mod eight;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use doubles::{Doubles, EIGHT, PlainDoubles, Widen};
pub(crate) use eight::{Eight, StepFunction};

/// Vector of single-precision numbers. Lanes are independent.
pub(crate) trait Lanes: Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> {
    /// Number of lanes.
    const COUNT: usize;
    /// Proof that the CPU supports the instructions, made by detection only. Constructors take it and vectors carry it.
    type Token: Copy;
    /// Boolean for each lane.
    type Mask: Copy;
    /// Vector of eight lanes in this instruction set.
    type Eight: Eight<Token: From<Self::Token>>;
    /// Vector of eight doubles in this instruction set.
    type Doubles: Doubles<Token = Self::Token>;

    /// Returns the token that the vector was made with.
    fn token(self) -> Self::Token;
    /// Broadcasts a number to all lanes.
    fn splat(token: Self::Token, value: f32) -> Self;
    /// Loads `values[lane * stride]` into each lane.
    fn gather(token: Self::Token, values: &[f32], stride: usize) -> Self;
    /// Loads the first numbers of a slice.
    fn load(token: Self::Token, values: &[f32]) -> Self;
    /// Stores the lanes at the start of a slice.
    fn store(self, values: &mut [f32]);
    /// Loads the first bytes of a slice as unsigned integers.
    fn from_bytes(token: Self::Token, bytes: &[u8]) -> Self;
    /// Loads the first bytes of a slice as signed integers.
    fn from_signed_bytes(token: Self::Token, bytes: &[u8]) -> Self;
    /// Loads the first little-endian half-precision numbers of a slice. NaN becomes quiet.
    fn from_f16s(token: Self::Token, bytes: &[u8]) -> Self;
    /// Stores the lanes at the start of a slice as half-precision numbers, rounded as `f32_to_f16` does.
    fn store_f16s(self, bytes: &mut [u8]);
    /// Looks up each code, which must be under sixteen, in a table.
    fn entries(token: Self::Token, table: &[i8; 16], codes: &[u8; 16]) -> [u8; 16];
    /// Returns the bit planes of the low four bits: bit `i` of plane `b` is bit `b` of byte `i`.
    #[inline(always)]
    fn bit_planes(_: Self::Token, bytes: &[u8; 32]) -> [u32; 4] {
        let mut planes = [0; 4];
        for (i, byte) in bytes.iter().enumerate() {
            for (bit, plane) in planes.iter_mut().enumerate() {
                *plane |= u32::from(byte >> bit & 1) << i;
            }
        }
        planes
    }
    /// Stores the low byte of each integer of magnitude under 2^22 at the start of a slice; infinity gives zero.
    fn store_bytes(self, bytes: &mut [u8]);
    /// Rounds toward zero.
    fn trunc(self) -> Self;
    /// Rounds to the nearest integer, ties away from zero.
    fn round(self) -> Self;
    /// Returns the magnitudes.
    fn abs(self) -> Self;
    /// Returns the square roots.
    fn sqrt(self) -> Self;
    /// Returns `self > other ? self : other`, which is `other` if either is NaN.
    fn max(self, other: Self) -> Self;
    /// Returns `self < other ? self : other`, which is `other` if either is NaN.
    fn min(self, other: Self) -> Self;
    /// Whether `self < other`.
    fn lt(self, other: Self) -> Self::Mask;
    /// Whether `self == other`.
    fn eq(self, other: Self) -> Self::Mask;
    /// Returns the conjunction of two masks.
    fn and(one: Self::Mask, other: Self::Mask) -> Self::Mask;
    /// Whether any lane is true.
    fn any(mask: Self::Mask) -> bool;
    /// Whether every lane is true.
    fn all(mask: Self::Mask) -> bool;
    /// Applies a function to each lane.
    fn map(self, function: impl Fn(f32) -> f32) -> Self;
    /// Selects `yes` where the mask is true and `no` elsewhere.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;

    /// Rounds to the nearest integer, ties to even, for magnitudes under 2^22. The sign of a zero is unspecified.
    #[inline(always)]
    fn nearest(self) -> Self {
        let magic = Self::splat(self.token(), ROUND);
        (self + magic) - magic
    }

    /// Rounds to the nearest integer, ties to even, and clamps, for magnitudes under 2^22. Larger values and NaN give a bound.
    #[inline(always)]
    fn round_clamped(self, min: Self, max: Self) -> Self {
        self.nearest().max(min).min(max)
    }
}

/// Prefetches the cache line `bytes` after the start of `values`, which may lie past their end. The hardware prefetcher stops at page
/// boundaries.
#[inline(always)]
pub(crate) fn prefetch<T>(values: &[T], bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction changes nothing that a program can see, at any address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().cast::<i8>().wrapping_add(bytes));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, bytes);
}

/// Cache-line size in bytes on most CPUs.
pub(crate) const LINE: usize = 64;

/// Prefetch distance in bytes. Distances from 1,024 to 8,192 perform about the same.
pub(crate) const AHEAD: usize = 4096;

/// 1.5 x 2^23: adding it to a number of magnitude under 2^22 leaves the nearest integer in the low bits of the mantissa.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// Lanes in plain Rust, which the compiler vectorises.
#[derive(Clone, Copy)]
pub(crate) struct Plain<const N: usize>([f32; N]);

macro_rules! lane_by_lane {
    ($($op:ident $method:ident $assign:tt),*) => {$(
        impl<const N: usize> $op for Plain<N> {
            type Output = Self;

            #[inline(always)]
            fn $method(mut self, other: Self) -> Self {
                for i in 0..N {
                    self.0[i] $assign other.0[i];
                }
                self
            }
        }
    )*};
}

lane_by_lane!(Add add +=, Sub sub -=, Mul mul *=, Div div /=);

impl<const N: usize> Lanes for Plain<N> {
    const COUNT: usize = N;
    /// Nothing to prove: plain Rust runs on every CPU.
    type Token = ();
    type Mask = [bool; N];
    type Eight = Plain<8>;
    type Doubles = PlainDoubles;

    #[inline(always)]
    fn token(self) {}

    #[inline(always)]
    fn splat((): (), value: f32) -> Self {
        Self([value; N])
    }

    #[inline(always)]
    fn gather((): (), values: &[f32], stride: usize) -> Self {
        let mut lanes = [0.0; N];
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = values[i * stride];
        }
        Self(lanes)
    }

    #[inline(always)]
    fn load((): (), values: &[f32]) -> Self {
        let mut lanes = [0.0; N];
        lanes.copy_from_slice(&values[..N]);
        Self(lanes)
    }

    #[inline(always)]
    fn store(self, values: &mut [f32]) {
        values[..N].copy_from_slice(&self.0);
    }

    #[inline(always)]
    fn from_bytes((): (), bytes: &[u8]) -> Self {
        let mut lanes = [0.0; N];
        for (lane, byte) in lanes.iter_mut().zip(&bytes[..N]) {
            *lane = f32::from(*byte);
        }
        Self(lanes)
    }

    #[inline(always)]
    fn from_signed_bytes((): (), bytes: &[u8]) -> Self {
        let mut lanes = [0.0; N];
        for (lane, byte) in lanes.iter_mut().zip(&bytes[..N]) {
            *lane = f32::from(*byte as i8);
        }
        Self(lanes)
    }

    #[inline(always)]
    fn from_f16s((): (), bytes: &[u8]) -> Self {
        let mut lanes = [0.0; N];
        for (lane, bytes) in lanes.iter_mut().zip(bytes[..2 * N].as_chunks().0) {
            *lane = f16_to_f32(*bytes);
        }
        Self(lanes)
    }

    #[inline(always)]
    fn store_f16s(self, bytes: &mut [u8]) {
        for (bytes, lane) in bytes[..2 * N].as_chunks_mut().0.iter_mut().zip(self.0) {
            *bytes = f32_to_f16(lane);
        }
    }

    #[inline(always)]
    fn entries((): (), table: &[i8; 16], codes: &[u8; 16]) -> [u8; 16] {
        let mut entries = [0; 16];
        for (entry, code) in entries.iter_mut().zip(codes) {
            *entry = table[usize::from(code & 15)] as u8;
        }
        entries
    }

    #[inline(always)]
    fn store_bytes(self, bytes: &mut [u8]) {
        for (byte, lane) in bytes[..N].iter_mut().zip(self.0) {
            *byte = (lane + ROUND).to_bits() as u8;
        }
    }

    #[inline(always)]
    fn trunc(mut self) -> Self {
        for lane in &mut self.0 {
            *lane = lane.trunc();
        }
        self
    }

    #[inline(always)]
    fn round(mut self) -> Self {
        for lane in &mut self.0 {
            *lane = lane.round();
        }
        self
    }

    #[inline(always)]
    fn abs(mut self) -> Self {
        for lane in &mut self.0 {
            *lane = lane.abs();
        }
        self
    }

    #[inline(always)]
    fn sqrt(mut self) -> Self {
        for lane in &mut self.0 {
            *lane = lane.sqrt();
        }
        self
    }

    #[inline(always)]
    fn max(mut self, other: Self) -> Self {
        for i in 0..N {
            self.0[i] = if self.0[i] > other.0[i] { self.0[i] } else { other.0[i] };
        }
        self
    }

    #[inline(always)]
    fn min(mut self, other: Self) -> Self {
        for i in 0..N {
            self.0[i] = if self.0[i] < other.0[i] { self.0[i] } else { other.0[i] };
        }
        self
    }

    #[inline(always)]
    fn lt(self, other: Self) -> Self::Mask {
        let mut mask = [false; N];
        for (i, lane) in mask.iter_mut().enumerate() {
            *lane = self.0[i] < other.0[i];
        }
        mask
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Self::Mask {
        let mut mask = [false; N];
        for (i, lane) in mask.iter_mut().enumerate() {
            *lane = self.0[i] == other.0[i];
        }
        mask
    }

    #[inline(always)]
    fn and(mut one: Self::Mask, other: Self::Mask) -> Self::Mask {
        for i in 0..N {
            one[i] &= other[i];
        }
        one
    }

    #[inline(always)]
    fn any(mask: Self::Mask) -> bool {
        mask.iter().fold(false, |any, lane| any | lane)
    }

    #[inline(always)]
    fn all(mask: Self::Mask) -> bool {
        mask.iter().fold(true, |all, lane| all & lane)
    }

    #[inline(always)]
    fn map(mut self, function: impl Fn(f32) -> f32) -> Self {
        for lane in &mut self.0 {
            *lane = function(*lane);
        }
        self
    }

    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, mut no: Self) -> Self {
        for (i, lane) in no.0.iter_mut().enumerate() {
            *lane = if mask[i] { yes.0[i] } else { *lane };
        }
        no
    }
}

/// Work that is compiled for each instruction set. `run` and everything it calls must be `#[inline(always)]`, so closures must not work on
/// lanes.
pub(crate) trait Kernel {
    /// Result of the kernel.
    type Output;
    /// Runs the kernel with vectors of one instruction set.
    fn run<V: Lanes>(self, token: V::Token) -> Self::Output;
}

/// Runs a kernel with the widest vectors of this machine.
pub(crate) fn run<K: Kernel>(kernel: K) -> K::Output {
    level().run(kernel)
}

/// Instruction set, with the proof that this machine has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Plain Rust.
    Base,
    /// Baseline of AArch64.
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "x86_64")]
    Avx2(x86::Avx2Token),
    #[cfg(target_arch = "x86_64")]
    Avx512(x86::Avx512Token),
}

impl Level {
    /// Returns the instruction sets of this machine, the widest last.
    fn found() -> impl Iterator<Item = Self> {
        [
            Some(Self::Base),
            #[cfg(target_arch = "aarch64")]
            Some(Self::Neon),
            #[cfg(target_arch = "x86_64")]
            x86::Avx2Token::detect().map(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            x86::Avx512Token::detect().map(Self::Avx512),
        ]
        .into_iter()
        .flatten()
    }

    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,bmi2,f16c")]
        fn avx2<K: Kernel>(kernel: K, token: x86::Avx2Token) -> K::Output {
            kernel.run::<x86::Avx2>(token)
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi2")]
        fn avx512<K: Kernel>(kernel: K, token: x86::Avx512Token) -> K::Output {
            kernel.run::<x86::Avx512>(token)
        }

        match self {
            Self::Base => kernel.run::<Plain<4>>(()),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => kernel.run::<neon::Neon>(()),
            // SAFETY: the token proves that the CPU has the instructions.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(token) => unsafe { avx2(kernel, token) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(token) => unsafe { avx512(kernel, token) },
        }
    }
}

/// Returns the widest instruction set of this machine.
fn level() -> Level {
    #[cfg(any(test, fuzzing))]
    if let Some(level) = FORCED.get() {
        return level;
    }
    static BEST: std::sync::OnceLock<Level> = std::sync::OnceLock::new();
    *BEST.get_or_init(|| Level::found().last().unwrap_or(Level::Base))
}

#[cfg(any(test, fuzzing))]
thread_local! {
    static FORCED: std::cell::Cell<Option<Level>> = const { std::cell::Cell::new(None) };
}

/// Runs a function once on each instruction set of this machine.
#[cfg(any(test, fuzzing))]
pub(crate) fn on_each_level(mut work: impl FnMut(Level)) {
    for level in Level::found() {
        FORCED.set(Some(level));
        work(level);
    }
    FORCED.set(None);
}
