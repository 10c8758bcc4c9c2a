//! Rounding to the numbers that codes and scales can be.

use mixdown_tensor::DType;
use mixdown_tensor::convert::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};

/// The type that a library calculates in: each result of an operation is rounded to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    F32,
    Bf16,
    F16,
}

impl Arithmetic {
    /// That of tensors of this type; wider ones are calculated in f32.
    pub fn of(dtype: DType) -> Self {
        match dtype {
            DType::Bf16 => Self::Bf16,
            DType::F16 => Self::F16,
            _ => Self::F32,
        }
    }

    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::Bf16,
            Self::F16 => DType::F16,
        }
    }

    /// The step from one to the next number, which stands for a scale of zero.
    pub fn epsilon(self) -> f32 {
        match self {
            Self::F32 => f32::EPSILON,
            Self::Bf16 => 1.0 / 128.0,
            Self::F16 => 1.0 / 1024.0,
        }
    }

    #[inline(always)]
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::Bf16 => bf16_to_f32(f32_to_bf16(value)),
            Self::F16 => f16_to_f32(f32_to_f16(value)),
        }
    }

    /// The bytes of a number of this type.
    pub fn push(self, value: f32, out: &mut Vec<u8>) {
        match self {
            Self::F32 => out.extend(value.to_le_bytes()),
            Self::Bf16 => out.extend(f32_to_bf16(value).to_le_bytes()),
            Self::F16 => out.extend(f32_to_f16(value).to_le_bytes()),
        }
    }
}

/// The nearest whole number, ties to even, of one below 2²²; without the sign of a zero. Adding and taking away
/// a number whose steps are one is what all instruction sets have, where rounding itself is a call on some.
#[inline(always)]
pub(super) fn nearest(value: f32) -> f32 {
    const STEPS_OF_ONE: f32 = 12_582_912.0;
    (value + STEPS_OF_ONE) - STEPS_OF_ONE
}

/// The nearest whole number, ties away from zero, of one below 2²²; without the sign of a zero.
#[inline(always)]
pub(super) fn nearest_away(value: f32) -> f32 {
    /// The largest number below a half: with a half itself, what is just below one would be rounded up.
    const BELOW_HALF: f32 = 0.499_999_97;
    (value + BELOW_HALF.copysign(value)) as i32 as f32
}

/// The largest number of E4M3.
pub(super) const E4M3_LARGEST: f32 = 448.0;

/// The E4M3 code nearest to a number from -448 to 448, ties to even. No branches, so that a loop over it is
/// vectorized.
#[inline(always)]
pub(super) fn to_e4m3(value: f32) -> u8 {
    /// 2¹⁴: an f32 of this size has steps of 2⁻⁹, those of the format's subnormal numbers.
    const STEPS: f32 = 16384.0;
    let bits = value.to_bits();
    let sign = (bits >> 24) & 0x80;
    let magnitude = bits & 0x7fff_ffff;
    let odd = (magnitude >> 20) & 1;
    // 20 bits of the mantissa go, and 120 of the exponent's bias.
    let normal = (magnitude + 0x7_ffff + odd).wrapping_sub(120 << 23) >> 20;
    let subnormal = (f32::from_bits(magnitude) + STEPS).to_bits().wrapping_sub(STEPS.to_bits());
    let code = if magnitude < 121 << 23 { subnormal } else { normal };
    (sign | code) as u8
}

/// What an E4M3 code stands for.
#[inline(always)]
pub(super) fn of_e4m3(code: u8) -> f32 {
    // As an f32 with the exponent of 2⁻¹²⁰ too little, which multiplication puts right for subnormals too.
    let magnitude =
        f32::from_bits(u32::from(code & 0x7f) << 20) * f32::from_bits((120 + 127) << 23);
    f32::from_bits(magnitude.to_bits() | u32::from(code & 0x80) << 24)
}

/// The numbers of E2M1 by code without the sign.
pub(super) const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// The E2M1 code nearest to a number, ties to even; beyond 6 it is that of 6.
#[inline(always)]
pub(super) fn to_e2m1(value: f32) -> u8 {
    let magnitude = value.abs();
    let above = |least: bool| u8::from(least);
    let code = above(magnitude > 0.25)
        + above(magnitude >= 0.75)
        + above(magnitude > 1.25)
        + above(magnitude >= 1.75)
        + above(magnitude > 2.5)
        + above(magnitude >= 3.5)
        + above(magnitude > 5.0);
    code | (value.to_bits() >> 28) as u8 & 8
}

/// What an E2M1 code stands for.
#[inline(always)]
pub(super) fn of_e2m1(code: u8) -> f32 {
    let magnitude = E2M1[usize::from(code & 7)];
    if code & 8 == 0 { magnitude } else { -magnitude }
}

/// Adds codes of so many bits as one stream, lowest bits first, up to a whole count of `word` bytes.
pub(super) fn pack(codes: impl Iterator<Item = u8>, bits: u32, word: usize, out: &mut Vec<u8>) {
    let start = out.len();
    let (mut held, mut count) = (0_u32, 0);
    for code in codes {
        held |= u32::from(code) << count;
        count += bits;
        while count >= 8 {
            out.push(held as u8);
            held >>= 8;
            count -= 8;
        }
    }
    if count > 0 {
        out.push(held as u8);
    }
    let used = out.len() - start;
    out.resize(start + used.next_multiple_of(word), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_those_of_the_standard_library() {
        let near_ties = (-600..=600).flat_map(|half: i32| {
            let bits = (half as f32 / 2.0).to_bits();
            [bits.wrapping_sub(1), bits, bits + 1].map(f32::from_bits)
        });
        let others = (0..200_000).map(|at| (at as f32 - 100_000.0) * 0.003_7);
        for value in near_ties.chain(others).filter(|value| value.abs() < 4e6) {
            assert_eq!(nearest(value), value.round_ties_even(), "{value}");
            assert_eq!(nearest_away(value), value.round(), "{value}");
        }
    }

    /// Every code stands for a number that has this code, and between two the nearest is taken.
    #[test]
    fn codes_are_the_nearest() {
        for code in (0..=0x7e_u8).chain(0x80..=0xfe) {
            assert_eq!(to_e4m3(of_e4m3(code)), code);
        }
        for code in 0..0x7e_u8 {
            let (low, high) = (of_e4m3(code), of_e4m3(code + 1));
            let middle = (low + high) / 2.0;
            let even = code + (code & 1);
            assert_eq!(to_e4m3(middle), even, "{middle}");
            assert_eq!(to_e4m3(middle.next_down()), code);
            assert_eq!(to_e4m3(-middle.next_up()), 0x80 | (code + 1));
        }
        assert_eq!(of_e4m3(0x7e), 448.0);
        assert_eq!(of_e4m3(0x01), 2_f32.powi(-9));
        for code in 0..7_u8 {
            let middle = (E2M1[usize::from(code)] + E2M1[usize::from(code) + 1]) / 2.0;
            assert_eq!(to_e2m1(middle), code + (code & 1), "{middle}");
            assert_eq!(to_e2m1(-middle.next_up()), 8 | (code + 1));
            assert_eq!(to_e2m1(of_e2m1(code | 8)), code | 8);
        }
        assert_eq!(to_e2m1(-0.0), 8);
    }

    #[test]
    fn a_stream_of_bits_ends_with_a_whole_word() {
        let mut out = vec![7];
        pack([1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3].into_iter(), 3, 4, &mut out);
        let stream = [1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3_u64];
        let bits = stream.iter().rev().fold(0_u64, |all, code| all << 3 | code);
        assert_eq!(out[1..], bits.to_le_bytes());
        let mut out = Vec::new();
        pack([0xf, 0x1].into_iter(), 4, 4, &mut out);
        assert_eq!(out, [0x1f, 0, 0, 0]);
    }
}
