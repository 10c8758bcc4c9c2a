//! `negate`: −a.

use super::Elementwise;
use crate::Real;

/// −a.
pub struct Negate;

impl Elementwise for Negate {
    const NAME: &'static str = "negate";
    const SUMMARY: &'static str = "−a";
    const ARITY: usize = 1;

    #[inline(always)]
    fn apply<R: Real>([a, ..]: [R; 3]) -> R {
        -a
    }
}
