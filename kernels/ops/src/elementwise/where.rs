//! `where`: a where the condition is true, else b.

use super::Elementwise;
use crate::Real;

/// a where the condition is true, else b.
///
/// **Numerics.** Picks, never multiplies: NaN and infinity in the value not taken do not show.
/// Everything but 0 is true, NaN included.
pub struct Where;

impl Elementwise for Where {
    const NAME: &'static str = "where";
    const SUMMARY: &'static str = "a where the condition is true, else b";
    const ARITY: usize = 3;

    #[inline(always)]
    fn apply<R: Real>([condition, a, b]: [R; 3]) -> R {
        if condition.is_true() { a } else { b }
    }
}
