//! A method's formulas over one tensor: their vocabulary, and the graph that they become.

pub(crate) mod check;
pub mod functions;
pub(crate) mod graph;
pub(crate) mod kind;
pub(crate) mod library;
pub(crate) mod linear;
pub(crate) mod lower;
pub(crate) mod named;
