//! Scalar conversions among bf16, f16, f32 and f64: the reference for all vector code.
//!
//! Widening is exact and leaves NaN as they are. Narrowing rounds once, to nearest, ties to even, and
//! makes every NaN the one that is quiet, positive and without payload: which of two NaN a sum keeps,
//! and the sign of a new one, differ between processors, and must not show in files.
//!
//! Everything is branch-free integer arithmetic or a single floating-point operation, so that a loop
//! over any of these functions is vectorized for whatever instructions the caller is compiled for.
//! Half-precision instructions are left alone on purpose: not all vector units have them.

/// Bits of an f32 without the sign.
const F32_MAGNITUDE: u32 = 0x7fff_ffff;
/// An f32 infinity; larger magnitudes are NaN.
const F32_INFINITY: u32 = 0x7f80_0000;

/// Widens a bf16. Exact.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Rounds to bf16. Finite values beyond the largest bf16 by half a step or more become infinite.
#[inline(always)]
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    // Half a step less one, and one more where the last bit kept is odd: ties go to even.
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    // Rounding a NaN could carry into the sign or clear all of its payload.
    let nan = bits & F32_MAGNITUDE > F32_INFINITY;
    if nan { 0x7fc0 } else { (rounded >> 16) as u16 }
}

/// Widens an f16. Exact.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    /// 2⁻¹⁴, the smallest normal f16, and the exponent of all subnormal ones.
    const SMALLEST_NORMAL: u32 = 113 << 23;
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    // The exponents differ in bias by 112.
    let normal = (magnitude << 13) + (112 << 23);
    // Infinities and NaN have the largest exponent in both formats, 31 and 255: 112 more again.
    let special = normal + (112 << 23);
    // The mantissa under the exponent of 2⁻¹⁴ is the number plus 2⁻¹⁴. Shifting it into place and
    // multiplying would pass through an f32 subnormal, which costs a hundred cycles.
    let subnormal =
        f32::from_bits(SMALLEST_NORMAL + (magnitude << 13)) - f32::from_bits(SMALLEST_NORMAL);
    let finite = if magnitude < 0x0400 { subnormal.to_bits() } else { normal };
    let chosen = if magnitude >= 0x7c00 { special } else { finite };
    f32::from_bits(sign | chosen)
}

/// Rounds to f16. Values beyond the largest f16 by half a step or more become infinite.
#[inline(always)]
pub fn f32_to_f16(value: f32) -> u16 {
    /// 0.5: added to a number below 2⁻¹⁴, it leaves the last bit of the sum at 2⁻²⁴, the step of f16
    /// subnormals, so that the addition rounds.
    const HALF: u32 = 0x3f00_0000;
    /// 2¹⁶, from which on every finite value rounds to infinity.
    const TOO_LARGE: u32 = 143 << 23;
    let bits = value.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let magnitude = bits & F32_MAGNITUDE;
    let odd = (magnitude >> 13) & 1;
    // The carry of a rounded mantissa runs into the exponent, up to infinity, as it should.
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0x0fff + odd) >> 13;
    let sum = f32::from_bits(magnitude) + f32::from_bits(HALF);
    let subnormal = sum.to_bits().wrapping_sub(HALF);
    let finite = if magnitude < 113 << 23 { subnormal } else { normal };
    let chosen = if magnitude >= TOO_LARGE { 0x7c00 } else { finite };
    if magnitude > F32_INFINITY { 0x7e00 } else { (sign | chosen) as u16 }
}

/// Widens an f32. Exact.
#[inline(always)]
pub fn f32_to_f64(value: f32) -> f64 {
    value.into()
}

/// Rounds to f32.
#[inline(always)]
pub fn f64_to_f32(value: f64) -> f32 {
    canonical_f32(value as f32)
}

/// Makes every NaN the same.
#[inline(always)]
pub fn canonical_f32(value: f32) -> f32 {
    if value.is_nan() { f32::from_bits(0x7fc0_0000) } else { value }
}

/// Makes every NaN the same.
#[inline(always)]
pub fn canonical_f64(value: f64) -> f64 {
    if value.is_nan() { f64::from_bits(0x7ff8_0000_0000_0000) } else { value }
}

/// Rounds to f32 such that a second rounding, to a type of at most 22 bits, gives what rounding
/// once would: toward zero, with the last bit set where anything was lost ("to odd").
#[inline(always)]
fn f64_to_f32_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let back = f64::from(nearest);
    let bits = nearest.to_bits();
    let away = u32::from(back.abs() > value.abs());
    let inexact = u32::from(back != value);
    f32::from_bits((bits - away) | inexact)
}

/// Rounds to bf16, once.
#[inline(always)]
pub fn f64_to_bf16(value: f64) -> u16 {
    f32_to_bf16(f64_to_f32_odd(value))
}

/// Rounds to f16, once.
#[inline(always)]
pub fn f64_to_f16(value: f64) -> u16 {
    f32_to_f16(f64_to_f32_odd(value))
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use proptest::prelude::*;

    use super::*;

    /// Each exponent and sign with mantissas around every rounding decision of both narrow types.
    fn edges() -> impl Iterator<Item = f32> {
        let tails = [0_u32, 1, 0x0fff, 0x1000, 0x1001, 0x1fff, 0x7fff, 0x8000, 0x8001, 0xffff];
        let heads = [0_u32, 0x2000, 0x4000, 0x1_0000, 0x2_0000, 0x40_0000, 0x7e_0000, 0x7f_0000];
        (0..512_u32).flat_map(move |exponent| {
            heads.into_iter().flat_map(move |head| {
                tails.into_iter().map(move |tail| f32::from_bits(exponent << 23 | head | tail))
            })
        })
    }

    fn check_narrowing(value: f32) {
        let (as_bf16, as_f16) = match value.is_nan() {
            true => (0x7fc0, 0x7e00),
            false => (bf16::from_f32(value).to_bits(), f16::from_f32(value).to_bits()),
        };
        assert_eq!(f32_to_bf16(value), as_bf16, "bf16 of {value:e}");
        assert_eq!(f32_to_f16(value), as_f16, "f16 of {value:e}");
    }

    #[test]
    fn every_pattern_widens_as_the_oracle_says() {
        let check = |ours: f32, oracle: f32, bits: u16| {
            let same = ours.to_bits() == oracle.to_bits() || ours.is_nan() && oracle.is_nan();
            assert!(same, "{bits:04x}: {ours:e} {oracle:e}");
        };
        for bits in 0..=u16::MAX {
            check(bf16_to_f32(bits), bf16::from_bits(bits).to_f32(), bits);
            check(f16_to_f32(bits), f16::from_bits(bits).to_f32(), bits);
        }
        // NaN keep sign and payload.
        assert_eq!(bf16_to_f32(0xff81).to_bits(), 0xff81_0000);
        assert_eq!(f16_to_f32(0xfc01).to_bits(), 0xff80_2000);
    }

    #[test]
    fn every_pattern_comes_back() {
        for bits in 0..=u16::MAX {
            let as_bf16 = if bits & 0x7fff > 0x7f80 { 0x7fc0 } else { bits };
            assert_eq!(f32_to_bf16(bf16_to_f32(bits)), as_bf16);
            assert_eq!(f64_to_bf16(bf16_to_f32(bits).into()), as_bf16);
            let as_f16 = if bits & 0x7fff > 0x7c00 { 0x7e00 } else { bits };
            assert_eq!(f32_to_f16(f16_to_f32(bits)), as_f16);
            assert_eq!(f64_to_f16(f16_to_f32(bits).into()), as_f16);
        }
    }

    #[test]
    fn edges_narrow_as_the_oracle_says() {
        edges().for_each(check_narrowing);
    }

    #[test]
    fn every_nan_becomes_the_same() {
        for bits in [0x7f80_0001, 0xff80_0001, 0x7fff_ffff, 0xffff_ffff, 0xffc0_0000] {
            let value = f32::from_bits(bits);
            assert_eq!((f32_to_bf16(value), f32_to_f16(value)), (0x7fc0, 0x7e00));
            let wide = f64::from(value);
            assert_eq!((f64_to_bf16(wide), f64_to_f16(wide)), (0x7fc0, 0x7e00));
            assert_eq!(canonical_f32(value).to_bits(), 0x7fc0_0000);
            assert_eq!(f64_to_f32(wide).to_bits(), 0x7fc0_0000);
            assert_eq!(canonical_f64(wide).to_bits(), 0x7ff8_0000_0000_0000);
        }
        assert_eq!(canonical_f32(-0.0).to_bits(), 1 << 31);
        assert_eq!(canonical_f64(f64::NEG_INFINITY), f64::NEG_INFINITY);
    }

    /// Rounds through the midpoints between neighbors, which f64 holds exactly.
    fn nearest(value: f64, widen: fn(u16) -> f32, infinity: u16) -> u16 {
        let magnitude = value.abs();
        let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
        let wide = |bits: u16| {
            // The step above the largest finite number would be as large as the one below it.
            let top = f64::from(widen(infinity - 1));
            let step = top - f64::from(widen(infinity - 2));
            if bits == infinity { top + step } else { f64::from(widen(bits)) }
        };
        let below =
            (0..infinity).collect::<Vec<_>>().partition_point(|b| wide(*b) <= magnitude) - 1;
        let below = below as u16;
        let middle = (wide(below) + wide(below + 1)) / 2.0;
        let up = magnitude > middle || (magnitude == middle && below & 1 == 1);
        sign | (below + u16::from(up))
    }

    fn check_once(value: f64) {
        assert_eq!(f64_to_bf16(value), nearest(value, bf16_to_f32, 0x7f80), "bf16 of {value:e}");
        assert_eq!(f64_to_f16(value), nearest(value, f16_to_f32, 0x7c00), "f16 of {value:e}");
    }

    #[test]
    fn f64_rounds_once() {
        // Just off a midpoint, by less than f32 can tell: rounding twice goes wrong.
        for base in [1.0 + 2_f64.powi(-8), 1.0 + 3.0 * 2_f64.powi(-8), 1.0 + 2_f64.powi(-11)] {
            for nudge in [-1.0, 0.0, 1.0] {
                for scale in [1.0, 2_f64.powi(-10), -2_f64.powi(7)] {
                    check_once((base + nudge * 2_f64.powi(-40)) * scale);
                }
            }
        }
        // Subnormals, the largest, beyond, and nothing.
        let extremes = [0.0, -0.0, 5e-324, 1e-46, 2e-41, 3e-8, 8.9e-8, 65504.0, 65519.9999999999];
        extremes.into_iter().for_each(check_once);
        [65520.0, 3.39e38, -3.4e38, 1e300, f64::MAX].into_iter().for_each(check_once);
        assert_eq!(f64_to_bf16(f64::INFINITY), 0x7f80);
        assert_eq!(f64_to_f16(f64::NEG_INFINITY), 0xfc00);
    }

    proptest! {
        #[test]
        fn any_f32_narrows_as_the_oracle_says(values in prop::collection::vec(any::<u32>(), 4096)) {
            values.into_iter().map(f32::from_bits).for_each(check_narrowing);
        }

        #[test]
        fn any_f64_rounds_once(mantissa in 1.0..2.0_f64, exponent in -160_i32..140) {
            check_once(mantissa * 2_f64.powi(exponent));
            // With few bits set, ties are common.
            check_once((mantissa * 4096.0).floor() * 2_f64.powi(exponent));
        }
    }
}
