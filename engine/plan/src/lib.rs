//! A recipe and the indexes of its models become a plan: what is read, computed and written for each tensor.
//!
//! Nothing here reads a file, a clock or the environment: the same recipe and the same indexes give
//! the same plan, byte for byte.

mod adapter;
mod alike;
mod assembled;
mod beside;
mod check;
mod compile;
mod configs;
pub mod explain;
mod finish;
pub mod functions;
mod fuse;
mod graph;
pub mod identity;
mod kind;
pub mod knowledge;
mod lacking;
mod layer;
mod library;
mod like;
mod linear;
mod lower;
pub mod map;
mod mapped;
mod matrices;
mod module_names;
mod modules;
mod pair;
mod parameters;
mod plan;
pub mod quantize;
mod report;
mod resolve;
mod rules;
mod tensor_class;
mod tokenizer;
mod treatment;
mod view;
mod vocabulary;

pub use assembled::{Assembled, Patch, PatchSource};
pub use check::check_method;
pub use knowledge::Architectures;
pub use library::Library;
pub use pair::Detail;
pub use parameters::{Bound, Resolved};
pub use plan::{
    AdapterFiles, Factor, FactsRead, Group, Job, LayerChange, Leaf, LeftOut, LostScalars,
    MatrixOperand, MatrixStep, Merge, Origin, OutputFiles, Parts, Plan, Product, Rectangle,
    RowSource, Rows, Side, TensorRef, Work,
};
pub use resolve::{
    AdapterInput, CheckpointInput, MapInput, ModelSource, Outcome, Request, compile,
};
pub use treatment::{Counts, Treatment, counts as treatment_counts};
