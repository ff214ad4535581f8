//! Kernels for weights whose scales are stored in tensors of their own: the extremes of groups, and numbers divided by their scales and
//! rounded.
//!
//! The reference is PyTorch's arithmetic on the CPU: each result is rounded to the type of the weights.

use super::half::{f16_to_f32, f32_to_f16};
use super::plain::{bf16_to_f32, f32_to_bf16};
use super::simd::{self, Kernel, Lanes};
use crate::model::DType;

/// The type to which results of arithmetic are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
}

impl Precision {
    /// Returns the precision of a type; `None` if it is another one.
    pub fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(Self::F32),
            DType::F16 => Some(Self::F16),
            DType::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Returns the type.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Rounds to the nearest number, ties to even.
    #[inline(always)]
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => f16_to_f32(f32_to_f16(value)),
            Self::Bf16 => bf16_to_f32(f32_to_bf16(value)),
        }
    }

    /// Returns the distance from 1 to the next number (`finfo.eps`).
    pub fn epsilon(self) -> f32 {
        1.0 / (1u32 << self.mantissa_bits()) as f32
    }

    /// Returns the smallest positive normal number (`finfo.tiny`).
    pub fn smallest_normal(self) -> f32 {
        if self == Self::F16 { 1.0 / 16384.0 } else { f32::MIN_POSITIVE }
    }

    /// Returns the number of explicit bits of the mantissa.
    pub fn mantissa_bits(self) -> u32 {
        match self {
            Self::F32 => 23,
            Self::F16 => 10,
            Self::Bf16 => 7,
        }
    }
}

/// The numbers that values are rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Numbers {
    /// E4M3 floats.
    E4m3,
    /// E2M1 floats.
    E2m1,
    /// E2M1 floats without a negative zero; of two equally near ones, the smaller.
    E2m1Low,
    /// Signed integers of this many bits, at most eight.
    Signed(u32),
    /// Unsigned integers of this many bits, at most eight.
    Unsigned(u32),
}

/// The scale of a group: `number = value / scale + zero`, or `(value - bias) / scale`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GroupScale {
    /// The divisor.
    pub scale: f32,
    /// The zero point that is added.
    pub zero: f32,
    /// What is subtracted first, and added last when values are restored.
    pub bias: f32,
}

/// Returns the largest magnitude of each group of `width` values, as bits: those of infinity or more if a value is not finite.
pub fn magnitudes(values: &[f32], width: usize, out: &mut Vec<u32>) {
    simd::run(Magnitudes { values, width, out });
}

struct Magnitudes<'a> {
    values: &'a [f32],
    width: usize,
    out: &'a mut Vec<u32>,
}

impl Kernel for Magnitudes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, _: V::Token) {
        for group in self.values.chunks(self.width) {
            let mut largest = 0;
            for value in group {
                largest = largest.max(value.to_bits() & 0x7fff_ffff);
            }
            self.out.push(largest);
        }
    }
}

/// Returns the smallest and the largest value of each group of `width` values; NaN if a value is not finite.
pub fn extremes(values: &[f32], width: usize, out: &mut Vec<(f32, f32)>) {
    simd::run(Extremes { values, width, out });
}

struct Extremes<'a> {
    values: &'a [f32],
    width: usize,
    out: &'a mut Vec<(f32, f32)>,
}

impl Kernel for Extremes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, _: V::Token) {
        // Integers in the order of the numbers, in which -0 is below 0.
        let key = |bits: i32| bits ^ ((bits >> 31) as u32 >> 1) as i32;
        for group in self.values.chunks(self.width) {
            let (mut low, mut high, mut size) = (i32::MAX, i32::MIN, 0);
            for value in group {
                let bits = value.to_bits() as i32;
                low = low.min(key(bits));
                high = high.max(key(bits));
                size = size.max(bits & 0x7fff_ffff);
            }
            let number = |key_of: i32| f32::from_bits(key(key_of) as u32);
            self.out.push(if size < 0x7f80_0000 { (number(low), number(high)) } else { (f32::NAN, f32::NAN) });
        }
    }
}

/// Divides a row by the scales of its groups of `width` values, with results rounded to `precision`, and rounds to `numbers`.
pub fn quantise(numbers: Numbers, precision: Precision, values: &[f32], scales: &[GroupScale], width: usize, out: &mut [f32]) {
    simd::run(Quantise { numbers, precision, values, scales, width, out });
}

struct Quantise<'a> {
    numbers: Numbers,
    precision: Precision,
    values: &'a [f32],
    scales: &'a [GroupScale],
    width: usize,
    out: &'a mut [f32],
}

impl Kernel for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, _: V::Token) {
        match self.precision {
            Precision::F32 => self.in_precision(|value| value),
            Precision::F16 => self.in_precision(|value| f16_to_f32(f32_to_f16(value))),
            Precision::Bf16 => self.in_precision(round_bf16),
        }
    }
}

impl Quantise<'_> {
    #[inline(always)]
    fn in_precision(self, round: impl Fn(f32) -> f32 + Copy) {
        match self.numbers {
            Numbers::E4m3 => self.each(move |value, group| e4m3(round(value / group.scale))),
            Numbers::E2m1 => self.each(move |value, group| e2m1(round(value / group.scale))),
            Numbers::E2m1Low => self.each(move |value, group| e2m1_low(round(value / group.scale))),
            Numbers::Signed(bits) => {
                let limit = (1u32 << (bits - 1)) as f32;
                self.each(move |value, group| {
                    let value = round(round(value / group.scale) + group.zero);
                    nearest(clamp(value, -limit, limit - 1.0))
                });
            }
            Numbers::Unsigned(bits) => {
                let limit = ((1u32 << bits) - 1) as f32;
                self.each(move |value, group| clamp(nearest(clamp((value - group.bias) / group.scale, -1e6, 1e6)), 0.0, limit));
            }
        }
    }

    #[inline(always)]
    fn each(self, number: impl Fn(f32, &GroupScale) -> f32) {
        let groups = self.values.chunks(self.width).zip(self.out.chunks_mut(self.width));
        for ((values, out), scale) in groups.zip(self.scales) {
            for (out, value) in out.iter_mut().zip(values) {
                *out = number(*value, scale);
            }
        }
    }
}

/// Rounds a number that is not NaN to BF16.
#[inline(always)]
fn round_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits(bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

#[inline(always)]
fn clamp(value: f32, low: f32, high: f32) -> f32 {
    let value = if value < low { low } else { value };
    if value > high { high } else { value }
}

/// Rounds to the nearest integer, ties to even, for magnitudes under 2^22.
#[inline(always)]
fn nearest(value: f32) -> f32 {
    (value + simd::ROUND) - simd::ROUND
}

#[inline(always)]
fn with_sign_of(magnitude: f32, value: f32) -> f32 {
    f32::from_bits(magnitude.to_bits() | value.to_bits() & 0x8000_0000)
}

/// Rounds to the nearest E4M3, ties to even; larger numbers become the largest.
#[inline(always)]
fn e4m3(value: f32) -> f32 {
    /// The smallest normal number: 2^-6.
    const NORMAL: f32 = 0.015_625;
    /// Adding it rounds to a multiple of 2^-9.
    const SUBNORMAL: f32 = 16_384.0;
    let size = clamp(f32::from_bits(value.to_bits() & 0x7fff_ffff), 0.0, 448.0);
    let bits = size.to_bits();
    let normal = f32::from_bits((bits + 0x7ffff + (bits >> 20 & 1)) & 0xfff0_0000);
    let small = (size + SUBNORMAL) - SUBNORMAL;
    with_sign_of(if size < NORMAL { small } else { normal }, value)
}

/// Rounds to the nearest E4M3.
pub(crate) fn round_e4m3(value: f32) -> f32 {
    e4m3(value)
}

/// Returns the bytes of a half-precision number.
pub(crate) fn half_bytes(value: f32) -> [u8; 2] {
    f32_to_f16(value)
}

/// Returns the value of a half-precision number.
pub(crate) fn half_value(bytes: [u8; 2]) -> f32 {
    f16_to_f32(bytes)
}

/// Rounds to the nearest E2M1, ties to the number with an even mantissa; larger numbers become the largest. Only a negative number that is
/// rounded becomes a negative zero.
#[inline(always)]
fn e2m1(value: f32) -> f32 {
    /// Adding these rounds to a multiple of a half, of 1 and of 2.
    const HALVES: f32 = 4_194_304.0;
    const ONES: f32 = 8_388_608.0;
    const TWOS: f32 = 16_777_216.0;
    let size = clamp(f32::from_bits(value.to_bits() & 0x7fff_ffff), 0.0, 6.0);
    let (halves, ones, twos) = ((size + HALVES) - HALVES, (size + ONES) - ONES, (size + TWOS) - TWOS);
    let number = if size < 2.0 {
        halves
    } else if size < 4.0 {
        ones
    } else {
        twos
    };
    if size > 0.0 { with_sign_of(number, value) } else { 0.0 }
}

/// Rounds to the nearest E2M1, ties to the smaller magnitude; there is no negative zero.
#[inline(always)]
fn e2m1_low(value: f32) -> f32 {
    /// The middle below each number, and the distance from the number before.
    const STEPS: [(f32, f32); 7] = [(0.25, 0.5), (0.75, 0.5), (1.25, 0.5), (1.75, 0.5), (2.5, 1.0), (3.5, 1.0), (5.0, 2.0)];
    let size = f32::from_bits(value.to_bits() & 0x7fff_ffff);
    let mut number = 0.0;
    for (middle, step) in STEPS {
        number += if size > middle { step } else { 0.0 };
    }
    if number > 0.0 { with_sign_of(number, value) } else { 0.0 }
}

/// Computes the values of a row of numbers: `(number - zero) * scale + bias`.
pub fn restore(numbers: &[f32], scales: &[GroupScale], width: usize, out: &mut [f32]) {
    simd::run(Restore { numbers, scales, width, out });
}

struct Restore<'a> {
    numbers: &'a [f32],
    scales: &'a [GroupScale],
    width: usize,
    out: &'a mut [f32],
}

impl Kernel for Restore<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, _: V::Token) {
        let groups = self.numbers.chunks(self.width).zip(self.out.chunks_mut(self.width));
        for ((numbers, out), group) in groups.zip(self.scales) {
            for (out, number) in out.iter_mut().zip(numbers) {
                *out = (number - group.zero) * group.scale + group.bias;
            }
        }
    }
}

/// Stores E4M3 numbers as bytes.
pub fn store_e4m3(numbers: &[f32], bytes: &mut [u8]) {
    simd::run(StoreE4m3 { numbers, bytes });
}

struct StoreE4m3<'a> {
    numbers: &'a [f32],
    bytes: &'a mut [u8],
}

impl Kernel for StoreE4m3<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, _: V::Token) {
        for (byte, number) in self.bytes.iter_mut().zip(self.numbers) {
            *byte = e4m3_code(*number);
        }
    }
}

/// Returns the code of an E4M3 number.
#[inline(always)]
pub(crate) fn e4m3_code(number: f32) -> u8 {
    /// Adding it to a subnormal number leaves its code in the low bits.
    const SUBNORMAL: f32 = 16_384.0;
    let bits = number.to_bits();
    let size = bits & 0x7fff_ffff;
    let normal = (size >> 20).wrapping_sub(120 << 3);
    let small = (f32::from_bits(size) + SUBNORMAL).to_bits() & 7;
    (if size < 121 << 23 { small } else { normal }) as u8 | (bits >> 24 & 0x80) as u8
}

/// Stores E2M1 numbers as nibbles, the first of two in the low one.
pub fn store_e2m1(numbers: &[f32], bytes: &mut [u8]) {
    simd::run(StoreE2m1 { numbers, bytes });
}

struct StoreE2m1<'a> {
    numbers: &'a [f32],
    bytes: &'a mut [u8],
}

impl Kernel for StoreE2m1<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, _: V::Token) {
        let code = |number: f32| {
            let bits = number.to_bits();
            let size = bits & 0x7fff_ffff;
            // 0.5 is the only subnormal number; from 1 on, the exponent and the first bit of the mantissa.
            let small = u32::from(size >= 126 << 23);
            let normal = (size >> 22).wrapping_sub(126 << 1);
            (if size < 127 << 23 { small } else { normal }) | bits >> 28 & 8
        };
        for (byte, pair) in self.bytes.iter_mut().zip(self.numbers.as_chunks::<2>().0) {
            *byte = (code(pair[0]) | code(pair[1]) << 4) as u8;
        }
    }
}

/// Stores signed bytes.
pub fn store_bytes(numbers: &[f32], bytes: &mut [u8]) {
    for (byte, number) in bytes.iter_mut().zip(numbers) {
        *byte = (number + simd::ROUND).to_bits() as u8;
    }
}

/// Packs unsigned numbers of `bits` bits (at most eight) from the lowest bit up, over the borders of bytes. `center` is added first.
pub fn store_bits(bits: u32, center: f32, numbers: &[f32], bytes: &mut [u8]) {
    let code = |number: f32| u64::from((number + center + simd::ROUND).to_bits() & 0xff);
    // Eight numbers take as many bytes as one has bits.
    for (numbers, bytes) in numbers.chunks(8).zip(bytes.chunks_mut(bits as usize)) {
        let mut packed = 0;
        for (i, number) in numbers.iter().enumerate() {
            packed |= code(*number) << (bits * i as u32);
        }
        let len = bytes.len();
        bytes.copy_from_slice(&packed.to_le_bytes()[..len]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::codec;

    /// Values of every kind: the codes, their neighbours, the middles between them.
    fn values(dtype: DType) -> Vec<f32> {
        let mut codes = vec![0.0; 256];
        let bytes: Vec<u8> = (0..=255).collect();
        let info = dtype.info();
        let count = 256 / info.block_bytes as usize * info.block_elems as usize;
        codes.resize(count, 0.0);
        (codec(dtype).unwrap().decode)(&bytes, &mut codes);
        codes.retain(|value| value.is_finite());
        let mut sorted = codes.clone();
        sorted.sort_by(f32::total_cmp);
        let middles: Vec<f32> = sorted.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
        let all: Vec<f32> = codes.into_iter().chain(middles).collect();
        let near = |value: &f32| [value.next_down(), *value, value.next_up()];
        all.iter().flat_map(near).chain([1e-30, -1e-30, 0.0, -0.0, 1e9, -1e9]).collect()
    }

    #[test]
    fn small_floats_are_those_of_their_types() {
        for (numbers, dtype, store) in
            [(Numbers::E4m3, DType::F8_E4M3, store_e4m3 as fn(&[f32], &mut [u8])), (Numbers::E2m1, DType::F4, store_e2m1)]
        {
            let mut values = values(dtype);
            // Of E2M1, a negative zero becomes zero.
            values.retain(|value| numbers == Numbers::E4m3 || value.to_bits() != (-0f32).to_bits());
            if values.len() % 2 == 1 {
                values.push(0.0);
            }
            let scales = [GroupScale { scale: 1.0, ..GroupScale::default() }];
            simd::on_each_level(|level| {
                let mut rounded = vec![0.0; values.len()];
                quantise(numbers, Precision::F32, &values, &scales, values.len(), &mut rounded);
                let len = dtype.bytes_for(values.len() as u64).unwrap() as usize;
                let (mut found, mut expected) = (vec![0; len], vec![0; len]);
                store(&rounded, &mut found);
                codec(dtype).unwrap().encode.unwrap()(&values, None, &mut expected);
                assert_eq!(found, expected, "{dtype} {level:?}");
            });
        }
    }

    #[test]
    fn extremes_are_those_of_each_group() {
        let values = [1.0, -2.0, -0.0, 0.0, 3.0, -7.5, f32::NAN, 1.0, f32::NEG_INFINITY];
        let (mut sizes, mut pairs) = (Vec::new(), Vec::new());
        magnitudes(&values, 2, &mut sizes);
        extremes(&values, 2, &mut pairs);
        assert_eq!(sizes[..3], [2f32, 0.0, 7.5].map(f32::to_bits));
        assert!(sizes[3] > f32::INFINITY.to_bits() && sizes[4] == f32::INFINITY.to_bits());
        assert_eq!(pairs[..3], [(-2.0, 1.0), (-0.0, 0.0), (-7.5, 3.0)]);
        assert!(pairs[3].0.is_nan() && pairs[4].1.is_nan());
    }

    #[test]
    fn bits_cross_the_borders_of_bytes() {
        for bits in 2..=8u32 {
            let numbers: Vec<f32> = (0..19).map(|i| ((i * 37 + 11) % (1 << bits)) as f32).collect();
            let mut bytes = vec![0; (19 * bits as usize).div_ceil(8)];
            store_bits(bits, 0.0, &numbers, &mut bytes);
            for (i, number) in numbers.iter().enumerate() {
                let bit = |at: usize| u32::from(bytes[at / 8] >> (at % 8) & 1);
                let found = (0..bits as usize).map(|at| bit(i * bits as usize + at) << at).sum::<u32>();
                assert_eq!(found as f32, *number, "{bits} bits, number {i}");
            }
        }
    }
}
