//! `sign`: −1, 0 or 1 by the sign of a.

use super::Elementwise;
use crate::Real;

/// −1, 0 or 1 by the sign of a.
///
/// **Numerics.** NaN stays, and so does −0.
pub struct Sign;

impl Elementwise for Sign {
    const NAME: &'static str = "sign";
    const SUMMARY: &'static str = "−1, 0 or 1 by the sign of a";
    const ARITY: usize = 1;

    #[inline(always)]
    fn apply<R: Real>([a, ..]: [R; 3]) -> R {
        if a > R::ZERO {
            R::ONE
        } else if a < R::ZERO {
            -R::ONE
        } else {
            a
        }
    }
}
