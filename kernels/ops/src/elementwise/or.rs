//! `or`: 1 where a or b is true, else 0.

use super::Elementwise;
use crate::Real;

/// 1 where a or b is true, else 0.
///
/// **Numerics.** Everything but 0 is true, NaN included.
pub struct Or;

impl Elementwise for Or {
    const NAME: &'static str = "or";
    const SUMMARY: &'static str = "1 where a or b is true, else 0";
    const ARITY: usize = 2;

    #[inline(always)]
    fn apply<R: Real>([a, b, _]: [R; 3]) -> R {
        R::mask(a.is_true() | b.is_true())
    }
}
