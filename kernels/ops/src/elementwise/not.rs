//! `not`: 1 where a is 0, else 0.

use super::Elementwise;
use crate::Real;

/// 1 where a is 0, else 0.
///
/// **Numerics.** Everything but 0 is true, NaN included.
pub struct Not;

impl Elementwise for Not {
    const NAME: &'static str = "not";
    const SUMMARY: &'static str = "1 where a is 0, else 0";
    const ARITY: usize = 1;

    #[inline(always)]
    fn apply<R: Real>([a, ..]: [R; 3]) -> R {
        R::mask(!a.is_true())
    }
}
