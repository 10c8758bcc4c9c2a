//! `sqrt`: square root of a.

use super::Elementwise;
use crate::Real;

/// Square root of a.
///
/// **Numerics.** NaN below 0.
pub struct Sqrt;

impl Elementwise for Sqrt {
    const NAME: &'static str = "sqrt";
    const SUMMARY: &'static str = "square root of a";
    const ARITY: usize = 1;

    #[inline(always)]
    fn apply<R: Real>([a, ..]: [R; 3]) -> R {
        a.sqrt()
    }
}
