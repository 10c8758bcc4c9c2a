//! `agreeing`: a where it has the sign s.

use super::Elementwise;
use crate::Real;

/// a where it has the sign s, 0 elsewhere: what one expert gives to an elected sign.
///
/// **Parameters.** s is −1, 0 or 1; nothing has the sign 0, and 0 has no sign.
/// **Numerics.** Exact. NaN agrees with nothing.
pub struct Agreeing;

impl Elementwise for Agreeing {
    const NAME: &'static str = "agreeing";
    const SUMMARY: &'static str = "a where it has the sign s, 0 elsewhere";
    const ARITY: usize = 2;

    #[inline(always)]
    fn apply<R: Real>([a, sign, _]: [R; 3]) -> R {
        // The product only changes the sign, or is 0.
        if a * sign > R::ZERO { a } else { R::ZERO }
    }
}
