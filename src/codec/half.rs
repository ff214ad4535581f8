//! Conversions between half precision (IEEE binary16) and single precision, in plain Rust.

/// Converts a little-endian half-precision number. Exact; a NaN keeps its payload and becomes quiet.
#[inline(always)]
pub(super) fn f16_to_f32(bytes: [u8; 2]) -> f32 {
    const EXPONENT: u32 = 0x7c00 << 13;
    const REBIAS: u32 = (127 - 15) << 23;
    let bits = u32::from(u16::from_le_bytes(bytes));
    let size = (bits & 0x7fff) << 13;
    let value = match size & EXPONENT {
        // Subnormal: use the mantissa as that of a number with the smallest normal exponent, then subtract that power of two.
        0 => (f32::from_bits(size + REBIAS + (1 << 23)) - f32::from_bits(REBIAS + (1 << 23))).to_bits(),
        EXPONENT => (size + 2 * REBIAS) | if size > EXPONENT { 1 << 22 } else { 0 },
        _ => size + REBIAS,
    };
    f32::from_bits(value | (bits & 0x8000) << 16)
}

/// Rounds to the nearest half-precision number, ties to even, in little-endian bytes. Values beyond the largest finite half become
/// infinite; a NaN keeps its sign and the upper bits of its payload and becomes quiet.
#[inline(always)]
pub(super) fn f32_to_f16(value: f32) -> [u8; 2] {
    /// 2^16: larger values are infinite or NaN. Values between the largest finite half and this one round up to infinity.
    const LARGE: u32 = (127 + 16) << 23;
    /// Smallest normal half: 2^-14.
    const NORMAL: u32 = (127 - 14) << 23;
    /// Adding this to a subnormal half leaves its rounded mantissa in the low bits.
    const SHIFT: u32 = (127 - 14 + 13) << 23;
    let bits = value.to_bits();
    let size = bits & 0x7fff_ffff;
    let rounded = if size >= LARGE {
        if value.is_nan() { 0x7e00 | (size >> 13 & 0x3ff) } else { 0x7c00 }
    } else if size < NORMAL {
        (f32::from_bits(size) + f32::from_bits(SHIFT)).to_bits() - SHIFT
    } else {
        (size - ((127 - 15) << 23) + 0xfff + (size >> 13 & 1)) >> 13
    };
    (rounded as u16 | (bits >> 16) as u16 & 0x8000).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::half::f16;

    #[test]
    fn halves_are_rounded_to_nearest() {
        // Every half, the midpoints between neighbours, the values next to a midpoint, and pseudo-random bits.
        let halves = (0..=0x7c00u16).flat_map(|bits| {
            let value = f16::from_bits(bits).to_f32_const();
            let middle = if bits < 0x7bff { (value + f16::from_bits(bits + 1).to_f32_const()) / 2.0 } else { 65520.0 };
            [value, middle, f32::from_bits(middle.to_bits() + 1), f32::from_bits(middle.to_bits() - 1)]
        });
        let others = (0..100_000u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761)));
        for value in halves.chain(others).flat_map(|value| [value, -value]) {
            assert_eq!(u16::from_le_bytes(f32_to_f16(value)), f16::from_f32_const(value).to_bits(), "{value:e}");
        }
    }

    #[test]
    fn halves_are_exact() {
        for bits in 0..=u16::MAX {
            let (value, expected) = (f16_to_f32(bits.to_le_bytes()), f16::from_bits(bits).to_f32_const());
            assert!(value.to_bits() == expected.to_bits() || (value.is_nan() && expected.is_nan()), "{bits:#06x}");
        }
    }
}
