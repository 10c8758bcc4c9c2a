//! Elementwise ops: one file each, with the formula written once for both precisions.
//!
//! `table.rs` lists them and makes [`MapOp`](crate::MapOp) of the list.

use crate::Real;
use crate::table::each_op;

macro_rules! modules {
    ($($module:ident $op:ident,)*) => {
        $(
            mod $module;
            pub use $module::$op;
        )*
    };
}

each_op!(modules);

/// An elementwise op.
///
/// The formula rounds after each operation: a fused multiply-add is another number on some machines
/// and a slow call on others.
pub trait Elementwise {
    /// Its name in expressions.
    const NAME: &'static str;
    /// What it computes, in a few words, with the names of its arguments.
    const SUMMARY: &'static str;
    /// How many arguments it reads, 1 to 3.
    const ARITY: usize;

    /// The formula. Arguments beyond the arity are ignored.
    fn apply<R: Real>(arguments: [R; 3]) -> R;
}

/// A computation that needs the op's formula at compile time: a loop over it.
pub trait Visitor {
    /// What it yields.
    type Output;

    /// Runs with this op.
    fn visit<E: Elementwise>(self) -> Self::Output;
}
