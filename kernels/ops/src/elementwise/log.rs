//! `log`: natural logarithm of a.

use super::Elementwise;
use crate::Real;

/// Natural logarithm of a.
///
/// **Numerics.** −∞ at 0, NaN below.
pub struct Log;

impl Elementwise for Log {
    const NAME: &'static str = "log";
    const SUMMARY: &'static str = "natural logarithm of a";
    const ARITY: usize = 1;

    #[inline(always)]
    fn apply<R: Real>([a, ..]: [R; 3]) -> R {
        a.log()
    }
}
