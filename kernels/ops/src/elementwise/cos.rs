//! `cos`: cosine of a in radians.

use super::Elementwise;
use crate::Real;

/// Cosine of a in radians.
pub struct Cos;

impl Elementwise for Cos {
    const NAME: &'static str = "cos";
    const SUMMARY: &'static str = "cosine of a in radians";
    const ARITY: usize = 1;

    #[inline(always)]
    fn apply<R: Real>([a, ..]: [R; 3]) -> R {
        a.cos()
    }
}
