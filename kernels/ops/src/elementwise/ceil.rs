//! `ceil`: a rounded up to a whole number.

use super::Elementwise;
use crate::Real;

/// a rounded up to a whole number.
pub struct Ceil;

impl Elementwise for Ceil {
    const NAME: &'static str = "ceil";
    const SUMMARY: &'static str = "a rounded up to a whole number";
    const ARITY: usize = 1;

    #[inline(always)]
    fn apply<R: Real>([a, ..]: [R; 3]) -> R {
        a.ceil()
    }
}
