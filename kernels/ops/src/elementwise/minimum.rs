//! `minimum`: the smaller of a and b.

use super::Elementwise;
use crate::Real;

/// The smaller of a and b.
///
/// **Numerics.** NaN if either is NaN; −0 is smaller than 0.
pub struct Minimum;

impl Elementwise for Minimum {
    const NAME: &'static str = "minimum";
    const SUMMARY: &'static str = "the smaller of a and b";
    const ARITY: usize = 2;

    #[inline(always)]
    fn apply<R: Real>([a, b, _]: [R; 3]) -> R {
        if a < b {
            a
        } else if a > b {
            b
        } else if a == b && a.is_true() {
            a
        } else {
            // −(−0 − 0) is −0 unless both are 0, and NaN stays.
            -(-a - b)
        }
    }
}
