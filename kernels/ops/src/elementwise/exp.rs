//! `exp`: e to the power a.

use super::Elementwise;
use crate::Real;

/// e to the power a.
pub struct Exp;

impl Elementwise for Exp {
    const NAME: &'static str = "exp";
    const SUMMARY: &'static str = "e to the power a";
    const ARITY: usize = 1;

    #[inline(always)]
    fn apply<R: Real>([a, ..]: [R; 3]) -> R {
        a.exp()
    }
}
