//! What operations exist: their formulas, the block programs made of them, and what a backend must do.
//!
//! Nothing here has heard of YAML, files or models.
//!
//! * [`MapOp`] is an elementwise op; one file per op in `elementwise/`, listed in `table.rs`.
//! * [`Program`] is a fused chain of ops over one tensor, in passes.
//! * [`Selection`](selection::Selection) finds the k-th largest magnitude by counting.
//! * [`MatrixOp`](matrix::MatrixOp) is what needs a whole matrix at once.
//! * [`Account`](account::Account) takes what determines a result, for digests and for people.
//! * [`Backend`] runs the passes of a program over pieces of a tensor.

pub mod account;
pub mod backend;
pub mod descent;
pub mod elementwise;
pub mod matrix;
pub mod program;
pub mod random;
pub mod real;
pub mod selection;
mod table;

pub use backend::{
    Backend, Call, Input, LowRank, NonFinite, Output, Partial, Place, Placement, Precision, Sides,
    Worker,
};
pub use program::{Instruction, Operand, Pass, Program, Reduction, ScalarStep};
pub use real::Real;
pub use table::MapOp;
