//! `multiply`: a·b.

use super::Elementwise;
use crate::Real;

/// a·b.
pub struct Multiply;

impl Elementwise for Multiply {
    const NAME: &'static str = "multiply";
    const SUMMARY: &'static str = "a·b";
    const ARITY: usize = 2;

    #[inline(always)]
    fn apply<R: Real>([a, b, _]: [R; 3]) -> R {
        a * b
    }
}
