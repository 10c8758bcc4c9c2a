//! The arithmetic that lets one formula serve f32 and f64.
//!
//! What IEEE 754 rounds correctly comes from the processor; the rest from `libm`, so that bits do not
//! depend on the machine's C library.

use std::fmt::Debug;
use std::ops::{Add, Div, Mul, Neg, Sub};

use crate::Precision;
use crate::selection::Keys;

/// f32 or f64.
pub trait Real:
    Copy
    + Debug
    + Default
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + 'static
{
    /// Which of the two it is.
    const PRECISION: Precision;
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;

    /// Magnitude bits.
    type Key: Key;

    /// Rounds to nearest, ties to even.
    fn from_f64(value: f64) -> Self;
    /// Widens.
    fn from_f32(value: f32) -> Self;
    /// Widens.
    fn to_f64(self) -> f64;

    /// The bits of |x|, which order like the numbers. All NaN have the same key, one above that of
    /// infinity.
    fn key(self) -> Self::Key;
    /// The same numbers, if they are f32: for code that exists for those alone.
    fn singles(numbers: &[Self]) -> Option<&[f32]>;
    /// Whether it is neither NaN nor an infinity.
    fn is_finite(self) -> bool;

    /// |x|.
    fn abs(self) -> Self;
    /// The next whole number toward −∞.
    fn floor(self) -> Self;
    /// The next whole number toward +∞.
    fn ceil(self) -> Self;
    /// √x.
    fn sqrt(self) -> Self;
    /// eˣ.
    fn exp(self) -> Self;
    /// The natural logarithm.
    fn log(self) -> Self;
    /// xʸ.
    fn power(self, exponent: Self) -> Self;
    /// Sine of radians.
    fn sin(self) -> Self;
    /// Cosine of radians.
    fn cos(self) -> Self;
    /// Inverse cosine, in radians.
    fn acos(self) -> Self;

    /// 1 for true, 0 for false: how masks are held.
    #[inline(always)]
    fn mask(condition: bool) -> Self {
        if condition { Self::ONE } else { Self::ZERO }
    }

    /// Whether a mask is true: everything but 0, NaN included.
    #[inline(always)]
    fn is_true(self) -> bool {
        self != Self::ZERO
    }
}

/// u32 or u64: magnitude bits as they are compared and collected.
pub trait Key: Copy + Debug + Default + Ord + Send + Sync + 'static {
    /// Narrows a key of a selection; those beyond the type become its largest.
    fn narrow(key: u64) -> Self;
    /// Widens.
    fn widen(self) -> u64;
    /// A list as a selection takes it.
    fn list(keys: &[Self]) -> Keys;
    /// The same keys, if they are of 32 bits: for code that exists for those alone.
    fn singles(keys: &mut [Self]) -> Option<&mut [u32]>;
}

impl Key for u32 {
    #[inline(always)]
    fn narrow(key: u64) -> Self {
        u32::try_from(key).unwrap_or(u32::MAX)
    }
    #[inline(always)]
    fn widen(self) -> u64 {
        self.into()
    }
    fn list(keys: &[Self]) -> Keys {
        Keys::Single(keys.to_vec())
    }
    fn singles(keys: &mut [Self]) -> Option<&mut [u32]> {
        Some(keys)
    }
}

impl Key for u64 {
    #[inline(always)]
    fn narrow(key: u64) -> Self {
        key
    }
    #[inline(always)]
    fn widen(self) -> u64 {
        self
    }
    fn list(keys: &[Self]) -> Keys {
        Keys::Double(keys.to_vec())
    }
    fn singles(_: &mut [Self]) -> Option<&mut [u32]> {
        None
    }
}

macro_rules! real {
    ($real:ident, $precision:ident, $key:ident, $singles:expr,
     $exp:ident, $log:ident, $pow:ident, $sin:ident, $cos:ident, $acos:ident) => {
        impl Real for $real {
            const PRECISION: Precision = Precision::$precision;
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            type Key = $key;

            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as Self
            }
            #[inline(always)]
            fn from_f32(value: f32) -> Self {
                value.into()
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self.into()
            }
            #[inline(always)]
            fn key(self) -> $key {
                let magnitude = self.to_bits() & ($key::MAX >> 1);
                magnitude.min(Self::INFINITY.to_bits() + 1)
            }
            #[inline(always)]
            fn singles(numbers: &[Self]) -> Option<&[f32]> {
                $singles(numbers)
            }
            #[inline(always)]
            fn is_finite(self) -> bool {
                self.is_finite()
            }
            #[inline(always)]
            fn abs(self) -> Self {
                self.abs()
            }
            #[inline(always)]
            fn floor(self) -> Self {
                self.floor()
            }
            #[inline(always)]
            fn ceil(self) -> Self {
                self.ceil()
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                self.sqrt()
            }
            #[inline(always)]
            fn exp(self) -> Self {
                libm::$exp(self)
            }
            #[inline(always)]
            fn log(self) -> Self {
                libm::$log(self)
            }
            #[inline(always)]
            fn power(self, exponent: Self) -> Self {
                libm::$pow(self, exponent)
            }
            #[inline(always)]
            fn sin(self) -> Self {
                libm::$sin(self)
            }
            #[inline(always)]
            fn cos(self) -> Self {
                libm::$cos(self)
            }
            #[inline(always)]
            fn acos(self) -> Self {
                libm::$acos(self)
            }
        }
    };
}

real!(f32, Single, u32, Some, expf, logf, powf, sinf, cosf, acosf);
real!(f64, Double, u64, |_| None, exp, log, pow, sin, cos, acos);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_like_magnitudes() {
        let rising = [0.0, 1e-45, f32::MIN_POSITIVE, 1.0, -1.5, f32::MAX, f32::NEG_INFINITY];
        assert!(rising.windows(2).all(|pair| Real::key(pair[0]) < Real::key(pair[1])));
        assert_eq!(Real::key(-0.0_f64), 0);
    }

    #[test]
    fn all_nan_have_the_same_key() {
        let patterns = [0x7f80_0001, 0x7fc0_0000, 0xffff_ffff_u32];
        let keys = patterns.map(|bits| Real::key(f32::from_bits(bits)));
        assert_eq!(keys, [0x7f80_0001; 3]);
        assert!(Real::key(f64::NAN) > Real::key(f64::INFINITY));
    }
}
