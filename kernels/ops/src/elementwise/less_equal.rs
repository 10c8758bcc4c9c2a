//! `less_equal`: 1 where a ≤ b, else 0.

use super::Elementwise;
use crate::Real;

/// 1 where a ≤ b, else 0.
///
/// **Numerics.** 0 where either is NaN.
pub struct LessEqual;

impl Elementwise for LessEqual {
    const NAME: &'static str = "less_equal";
    const SUMMARY: &'static str = "1 where a ≤ b, else 0";
    const ARITY: usize = 2;

    #[inline(always)]
    fn apply<R: Real>([a, b, _]: [R; 3]) -> R {
        R::mask(a <= b)
    }
}
