//! A recipe and the indexes of its models become a plan: what is read, computed and written for each tensor.
//!
//! Nothing here reads a file, a clock or the environment: the same recipe and the same indexes give
//! the same plan, byte for byte.

mod bodies;
mod detail;
pub mod explain;
mod families;
mod formulas;
pub mod identity;
mod jobs;
mod models;
mod plan;
mod planning;
mod programs;
mod report;
mod sections;

pub use detail::{Bound, Detail, Resolved};
pub use families::knowledge::{self, Architectures};
pub use formulas::check::check_method;
pub use formulas::functions;
pub use formulas::library::Library;
pub use jobs::quantize;
pub use models::described::{Described, DescribedTensor, described};
pub use models::map;
pub use models::request::{AdapterInput, CheckpointInput, MapInput, ModelSource, Request};
pub use models::tokenizer_file::{TokenizerFile, json_within};
pub use plan::{
    AdapterFiles, Assembled, Counts, Factor, FactsRead, GgufOutput, Group, Job, LayerChange, Leaf,
    LeftOut, LostScalars, MatrixOperand, MatrixStep, Merge, Origin, OutputFiles, Parts, Patch,
    PatchSource, Plan, Product, Rectangle, RowSource, Rows, Side, TensorRef, Treatment, Work,
    treatment_counts,
};
pub use planning::{Outcome, plan};
