//! `and`: 1 where a and b are both true, else 0.

use super::Elementwise;
use crate::Real;

/// 1 where a and b are both true, else 0.
///
/// **Numerics.** Everything but 0 is true, NaN included.
pub struct And;

impl Elementwise for And {
    const NAME: &'static str = "and";
    const SUMMARY: &'static str = "1 where a and b are both true, else 0";
    const ARITY: usize = 2;

    #[inline(always)]
    fn apply<R: Real>([a, b, _]: [R; 3]) -> R {
        R::mask(a.is_true() & b.is_true())
    }
}
