//! `maximum`: the larger of a and b.

use super::Elementwise;
use crate::Real;

/// The larger of a and b.
///
/// **Numerics.** NaN if either is NaN; 0 is larger than −0.
pub struct Maximum;

impl Elementwise for Maximum {
    const NAME: &'static str = "maximum";
    const SUMMARY: &'static str = "the larger of a and b";
    const ARITY: usize = 2;

    #[inline(always)]
    fn apply<R: Real>([a, b, _]: [R; 3]) -> R {
        if a > b {
            a
        } else if a < b {
            b
        } else if a == b && a.is_true() {
            a
        } else {
            // 0 + −0 is 0, and NaN stays.
            a + b
        }
    }
}
