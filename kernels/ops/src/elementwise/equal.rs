//! `equal`: 1 where a = b, else 0.

use super::Elementwise;
use crate::Real;

/// 1 where a = b, else 0.
///
/// **Numerics.** NaN equals nothing; 0 equals −0.
pub struct Equal;

impl Elementwise for Equal {
    const NAME: &'static str = "equal";
    const SUMMARY: &'static str = "1 where a = b, else 0";
    const ARITY: usize = 2;

    #[inline(always)]
    fn apply<R: Real>([a, b, _]: [R; 3]) -> R {
        R::mask(a == b)
    }
}
