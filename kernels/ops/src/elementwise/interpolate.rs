//! `interpolate`: (1 − t)·a + t·b.

use super::Elementwise;
use crate::Real;

/// (1 − t)·a + t·b.
///
/// **Numerics.** At t = 0 the value is a and at t = 1 it is b, for finite a and b. Each operation
/// rounds; none is fused.
pub struct Interpolate;

impl Elementwise for Interpolate {
    const NAME: &'static str = "interpolate";
    const SUMMARY: &'static str = "(1 − t)·a + t·b";
    const ARITY: usize = 3;

    #[inline(always)]
    fn apply<R: Real>([a, b, t]: [R; 3]) -> R {
        (R::ONE - t) * a + t * b
    }
}
