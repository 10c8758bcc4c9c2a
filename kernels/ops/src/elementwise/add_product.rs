//! `add_product`: a + b·c.

use super::Elementwise;
use crate::Real;

/// a + b·c, in one instruction of a block program: what the plan makes of a sum of products.
///
/// **Numerics.** The product is rounded, then the sum: the same bits as two ops, and never a fused
/// multiply-add.
pub struct AddProduct;

impl Elementwise for AddProduct {
    const NAME: &'static str = "add_product";
    const SUMMARY: &'static str = "a + b·c";
    const ARITY: usize = 3;

    #[inline(always)]
    fn apply<R: Real>([a, b, c]: [R; 3]) -> R {
        a + b * c
    }
}
