//! `divide_unless_zero`: a / b, or a where b is 0.

use super::Elementwise;
use crate::Real;

/// a / b, or a itself where b is 0: a mean over the experts that take part, of which there may be none.
pub struct DivideUnlessZero;

impl Elementwise for DivideUnlessZero {
    const NAME: &'static str = "divide_unless_zero";
    const SUMMARY: &'static str = "a / b, or a where b is 0";
    const ARITY: usize = 2;

    #[inline(always)]
    fn apply<R: Real>([a, b, _]: [R; 3]) -> R {
        a / if b == R::ZERO { R::ONE } else { b }
    }
}
