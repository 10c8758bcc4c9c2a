//! `power`: a to the power b.

use super::Elementwise;
use crate::Real;

/// a to the power b.
///
/// **Numerics.** By the rules of IEEE 754: x⁰ and 1ʸ are 1, even for NaN.
pub struct Power;

impl Elementwise for Power {
    const NAME: &'static str = "power";
    const SUMMARY: &'static str = "a to the power b";
    const ARITY: usize = 2;

    #[inline(always)]
    fn apply<R: Real>([a, b, _]: [R; 3]) -> R {
        a.power(b)
    }
}
