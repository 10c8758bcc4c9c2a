//! `sin`: sine of a in radians.

use super::Elementwise;
use crate::Real;

/// Sine of a in radians.
pub struct Sin;

impl Elementwise for Sin {
    const NAME: &'static str = "sin";
    const SUMMARY: &'static str = "sine of a in radians";
    const ARITY: usize = 1;

    #[inline(always)]
    fn apply<R: Real>([a, ..]: [R; 3]) -> R {
        a.sin()
    }
}
