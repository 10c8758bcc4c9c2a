//! `subtract`: a − b.

use super::Elementwise;
use crate::Real;

/// a − b.
pub struct Subtract;

impl Elementwise for Subtract {
    const NAME: &'static str = "subtract";
    const SUMMARY: &'static str = "a − b";
    const ARITY: usize = 2;

    #[inline(always)]
    fn apply<R: Real>([a, b, _]: [R; 3]) -> R {
        a - b
    }
}
