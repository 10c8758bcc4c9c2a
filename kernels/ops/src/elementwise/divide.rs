//! `divide`: a / b.

use super::Elementwise;
use crate::Real;

/// a / b.
///
/// **Numerics.** By the rules of IEEE 754: a / 0 is an infinity, 0 / 0 is NaN.
pub struct Divide;

impl Elementwise for Divide {
    const NAME: &'static str = "divide";
    const SUMMARY: &'static str = "a / b";
    const ARITY: usize = 2;

    #[inline(always)]
    fn apply<R: Real>([a, b, _]: [R; 3]) -> R {
        a / b
    }
}
