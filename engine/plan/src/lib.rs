//! A recipe and the indexes of its models become a plan: what is read, computed and written for each tensor.
//!
//! Nothing here reads a file, a clock or the environment: the same recipe and the same indexes give
//! the same plan, byte for byte.

mod plan;

pub use plan::{
    Group, Job, Leaf, LeftOut, Merge, Origin, Plan, RowSource, Rows, TensorRef, Work,
};
