//! Code for the machine at hand: the widest vectors that it has are found out at run time.
//!
//! A [`Kernel`] is written once, over [`Lanes`] of any number, and compiled for each instruction set. Every lane does what one
//! number would do, in the same order, and products and sums are rounded together only where a kernel asks for that, so that all
//! sets give the same bits.

// What is unsafe here: instructions that the CPU may lack, of which a token proves that it has them, and loads and stores of vectors.
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

/// Single-precision numbers that are worked on side by side. Lanes do not see each other.
pub(crate) trait Lanes: Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> {
    /// How many.
    const COUNT: usize;
    /// Proof that the CPU has the instructions: making lanes takes one, and lanes keep it.
    type Token: Copy;
    /// A truth value for each lane.
    type Mask: Copy;
    /// Eight lanes in vectors of this instruction set.
    type Eight: Eight<Token: From<Self::Token>>;
    /// Eight doubles in vectors of this instruction set.
    type Doubles: Doubles<Token = Self::Token>;

    /// The token that the lanes were made with.
    fn token(self) -> Self::Token;
    /// The same number in every lane.
    fn splat(token: Self::Token, value: f32) -> Self;
    /// `values[lane * stride]` for each lane.
    fn gather(token: Self::Token, values: &[f32], stride: usize) -> Self;
    /// The first numbers of a slice.
    fn load(token: Self::Token, values: &[f32]) -> Self;
    /// Writes the lanes to the start of a slice.
    fn store(self, values: &mut [f32]);
    /// The first bytes of a slice, as numbers.
    fn from_bytes(token: Self::Token, bytes: &[u8]) -> Self;
    /// The first bytes of a slice, as numbers from -128 to 127.
    fn from_signed_bytes(token: Self::Token, bytes: &[u8]) -> Self;
    /// The first half-precision numbers of a slice, little-endian. A NaN becomes quiet.
    fn from_f16s(token: Self::Token, bytes: &[u8]) -> Self;
    /// Writes the nearest half-precision numbers to the start of a slice, as `f32_to_f16` makes them.
    fn store_f16s(self, bytes: &mut [u8]);
    /// For each code, which must be under sixteen, the entry of a table.
    fn entries(token: Self::Token, table: &[i8; 16], codes: &[u8; 16]) -> [u8; 16];
    /// The lowest four bits of each byte, bit by bit: bit `i` of plane `b` is bit `b` of byte `i`.
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
    /// Writes the low byte of each whole number of a size under 2^22 to the start of a slice; zero for infinity.
    fn store_bytes(self, bytes: &mut [u8]);
    /// The whole part of each number.
    fn trunc(self) -> Self;
    /// The nearest whole number, ties away from zero.
    fn round(self) -> Self;
    /// The size of each number.
    fn abs(self) -> Self;
    /// The square root of each number.
    fn sqrt(self) -> Self;
    /// `self > other ? self : other`: the other, where either is NaN.
    fn max(self, other: Self) -> Self;
    /// `self < other ? self : other`: the other, where either is NaN.
    fn min(self, other: Self) -> Self;
    /// Whether `self < other`.
    fn lt(self, other: Self) -> Self::Mask;
    /// Whether `self == other`.
    fn eq(self, other: Self) -> Self::Mask;
    /// Both.
    fn and(one: Self::Mask, other: Self::Mask) -> Self::Mask;
    /// Whether any lane is true.
    fn any(mask: Self::Mask) -> bool;
    /// Whether every lane is true.
    fn all(mask: Self::Mask) -> bool;
    /// What a function gives for each lane.
    fn map(self, function: impl Fn(f32) -> f32) -> Self;
    /// Each lane from one or the other.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;

    /// The nearest whole number, ties to even, for sizes under 2^22. Of zero the sign may be any.
    #[inline(always)]
    fn nearest(self) -> Self {
        let magic = Self::splat(self.token(), ROUND);
        (self + magic) - magic
    }

    /// The nearest whole number within limits, ties to even, for sizes under 2^22. Others, and NaN, end at a limit.
    #[inline(always)]
    fn round_clamped(self, min: Self, max: Self) -> Self {
        self.nearest().max(min).min(max)
    }
}

/// Asks for the memory so many bytes after the start of some values, which may lie anywhere: it is on its way while they are worked on.
/// Hardware asks by itself, but not beyond the end of a page.
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

/// How much memory a cache line holds, in bytes: on most processors.
pub(crate) const LINE: usize = 64;

/// How far ahead it pays to ask for memory, in bytes: of 1,024 to 8,192, which differ little.
pub(crate) const AHEAD: usize = 4096;

/// Adding this number (1.5 x 2^23) to one of a size under 2^22 leaves its nearest whole number in the low bits of the mantissa.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// Lanes in plain Rust, for the compiler to put into whatever vectors there are.
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
    /// Nothing to prove: every CPU runs plain Rust.
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

/// Work that is compiled for each instruction set. `run` and what it calls must be inlined (`#[inline(always)]`), and so no closure
/// may work on lanes.
pub(crate) trait Kernel {
    /// What comes out.
    type Output;
    /// Does the work.
    fn run<V: Lanes>(self, token: V::Token) -> Self::Output;
}

/// Does the work with the widest vectors of this machine.
pub(crate) fn run<K: Kernel>(kernel: K) -> K::Output {
    level().run(kernel)
}

/// An instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Plain Rust.
    Base,
    /// What every machine of the target has.
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "x86_64")]
    Avx2(x86::Avx2Token),
    #[cfg(target_arch = "x86_64")]
    Avx512(x86::Avx512Token),
}

impl Level {
    /// The sets that this machine has, the best one last.
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

/// The best instruction set of this machine.
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

/// Does the same once on each instruction set of this machine.
#[cfg(any(test, fuzzing))]
pub(crate) fn on_each_level(mut work: impl FnMut(Level)) {
    for level in Level::found() {
        FORCED.set(Some(level));
        work(level);
    }
    FORCED.set(None);
}
