//! `acos`: inverse cosine of a, in radians.

use super::Elementwise;
use crate::Real;

/// Inverse cosine of a, in radians.
///
/// **Numerics.** NaN outside −1 to 1.
pub struct Acos;

impl Elementwise for Acos {
    const NAME: &'static str = "acos";
    const SUMMARY: &'static str = "inverse cosine of a, in radians";
    const ARITY: usize = 1;

    #[inline(always)]
    fn apply<R: Real>([a, ..]: [R; 3]) -> R {
        a.acos()
    }
}
