//! `abs`: |a|.

use super::Elementwise;
use crate::Real;

/// |a|
pub struct Abs;

impl Elementwise for Abs {
    const NAME: &'static str = "abs";
    const SUMMARY: &'static str = "|a|";
    const ARITY: usize = 1;

    #[inline(always)]
    fn apply<R: Real>([a, ..]: [R; 3]) -> R {
        a.abs()
    }
}
