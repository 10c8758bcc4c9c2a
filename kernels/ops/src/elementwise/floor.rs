//! `floor`: a rounded down to a whole number.

use super::Elementwise;
use crate::Real;

/// a rounded down to a whole number.
pub struct Floor;

impl Elementwise for Floor {
    const NAME: &'static str = "floor";
    const SUMMARY: &'static str = "a rounded down to a whole number";
    const ARITY: usize = 1;

    #[inline(always)]
    fn apply<R: Real>([a, ..]: [R; 3]) -> R {
        a.floor()
    }
}
