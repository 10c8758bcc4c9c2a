//! `clamp`: x, but at least low and at most high.

use super::Elementwise;
use crate::Real;

/// x, but at least low and at most high.
///
/// **Numerics.** NaN stays; a bound that is NaN does not bind. Where low exceeds high, the result
/// is high.
pub struct Clamp;

impl Elementwise for Clamp {
    const NAME: &'static str = "clamp";
    const SUMMARY: &'static str = "x, but at least low and at most high";
    const ARITY: usize = 3;

    #[inline(always)]
    fn apply<R: Real>([x, low, high]: [R; 3]) -> R {
        let raised = if x < low { low } else { x };
        if raised > high { high } else { raised }
    }
}
